"""Fast-AT: one step, and the end of the training when it collapses."""

from __future__ import annotations

import math

import pytest
import torch

from ham_core.objectives.at import AT
from ham_core.objectives.fast_at import FastAT
from ham_core.training import Training
from tests.builders import dataset, trial
from tests.ham_core.objectives.helpers import equal_runs, equal_when_broken, reached, trained, walk


def test_fast_at_is_the_cross_entropy_on_the_adversarial_example():
    """p_y(x') = 1/4, 1/2, 1/5, so the losses are log 4, log 2, log 5."""
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [math.log(4.0), 0.0]])
    losses = FastAT().loss(None, logits, torch.tensor([0, 0, 1]))
    expected = torch.tensor([math.log(4), math.log(2), math.log(5)])
    torch.testing.assert_close(losses, expected, atol=1e-6, rtol=0)


def test_the_attack_is_one_step_of_its_own_size_from_a_uniform_start():
    one = trial("fast_at", epsilon=0.1, attack={"steps": 9, "step": 0.01, "start": "zero"})
    assert (one.attack.steps, one.attack.start) == (1, "uniform")
    assert one.attack.step == pytest.approx(0.125)
    assert trial({"name": "fast_at", "step": 2.0}, epsilon=0.1).attack.step == pytest.approx(0.2)
    assert trial("fast_at", epsilon=0.9).attack.step == 1.0


def test_the_step_goes_from_the_random_start_and_ends_in_the_ball():
    """ε = 0.6, one pixel at 0.7: x^0 = 0.7 + U(-0.6, 0.6) clipped to [0.1, 1]; x' = max(x^0 - 0.3, 0.1) for step 0.5 ε."""
    found, _ = walk({"name": "fast_at", "step": 0.5}, [0.7, 0.7, 0.7])
    unit = torch.rand(3, 1, 1, 1, generator=torch.Generator().manual_seed(1)).flatten()
    start = (0.7 + 0.6 * (2 * unit - 1)).clamp(0.1, 1.0)
    torch.testing.assert_close(reached(found), (start - 0.3).clamp_min(0.1), atol=1e-6, rtol=0)


def test_fast_at_without_its_probe_is_at_with_that_attack():
    settings = {"steps": 1, "step": 1.25 * 0.2, "start": "uniform"}
    assert equal_runs(trial({"name": "fast_at", "probe": 0}), trial("at", attack=settings))


def test_fast_at_costs_two_forward_passes():
    training, results = trained(trial("fast_at"))
    n = len(training.dataset.train)
    for result in results:
        assert result.metrics["train/passes/input_gradient"] == n
        assert result.metrics["train/passes/forward"] == 2 * n
        assert result.metrics["train/passes/weight_gradient"] == n
        assert 0 <= result.metrics["train/probe"] <= 1
        assert result.metrics["train/collapsed"] == 0


def test_a_collapse_is_a_fall_by_more_than_the_largest():
    objective = FastAT(largest_fall=0.25)
    assert objective.collapsed(0.75, 0.49)
    assert not objective.collapsed(0.75, 0.5)
    assert not objective.collapsed(0.25, 0.75)
    assert FastAT().collapsed(0.5, 0.29) and not FastAT().collapsed(0.5, 0.31)
    assert (FastAT().probe_steps(), FastAT(probe=0).probe_steps(), AT().probe_steps()) == (5, 0, 0)


def test_after_a_collapse_the_training_ends_and_the_epoch_before_is_the_last(monkeypatch):
    one = trial("fast_at", epochs=5)
    healthy = trial("fast_at", epochs=2)
    _, expected = trained(healthy)
    seen = []

    def collapsed(self, before, now):
        seen.append((before, now))
        return len(seen) == 2

    monkeypatch.setattr(FastAT, "collapsed", collapsed)
    training = Training(one, dataset(one))
    results = list(training)
    assert [result.epoch for result in results] == [0, 1, 2]
    assert training.finished and [result.metrics["train/collapsed"] for result in results] == [0, 0, 1]
    assert seen[1][0] == pytest.approx(results[1].metrics["train/probe"])
    assert "last" not in results[0].kept and "last" not in results[1].kept
    last, before = results[2].kept["last"], expected[1].kept["last"]
    assert all(torch.equal(last[name], before[name]) for name in before)
    assert list(training) == []


@pytest.mark.parametrize("after", [1, 2])
def test_a_broken_fast_at_ends_as_the_unbroken_one(after):
    assert equal_when_broken(trial("fast_at", epochs=3), after)


def test_a_collapse_right_after_a_restart_goes_back_to_the_saved_weights(monkeypatch):
    """The probe and the weights of the epoch before are part of the state."""
    one = trial("fast_at", epochs=3)
    first = Training(one, dataset(one))
    next(iter(first))
    state, weights = first.state(), {key: value.clone() for key, value in first.model.state_dict().items()}
    monkeypatch.setattr(FastAT, "collapsed", lambda *_: True)
    resumed = Training(one, dataset(one))
    resumed.restore(state)
    (result,) = list(resumed)
    assert result.epoch == 1 and result.metrics["train/collapsed"] == 1
    assert all(torch.equal(result.kept["last"][name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    "allowed", [{"step": 0.0}, {"largest_fall": 0.0}, {"largest_fall": 1.0}, {"probe": 0}, {"probe": 1000}]
)
def test_the_ends_of_the_ranges_are_allowed(allowed):
    assert FastAT(**allowed)


@pytest.mark.parametrize(
    "refused", [{"step": -0.1}, {"largest_fall": -0.1}, {"largest_fall": 1.1}, {"probe": -1}, {"probe": 1001}]
)
def test_values_beyond_the_ranges_are_refused(refused):
    with pytest.raises(ValueError, match="should be"):
        FastAT(**refused)
