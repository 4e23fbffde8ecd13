"""Free-AT: the perturbation that is carried from step to step."""

from __future__ import annotations

import math

import pytest
import torch

from ham_core.objectives.free_at import FreeAT
from ham_core.training import Training
from tests.builders import dataset, same_weights, trial
from tests.ham_core.objectives.helpers import equal_runs, equal_when_broken, trained


def images(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(-1, 1, 1, 1)


def test_free_at_is_the_cross_entropy_on_the_adversarial_example():
    """p_y(x') = 1/4, 1/2, 1/5, so the losses are log 4, log 2, log 5."""
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [math.log(4.0), 0.0]])
    losses = FreeAT().loss(None, logits, torch.tensor([0, 0, 1]))
    expected = torch.tensor([math.log(4), math.log(2), math.log(5)])
    torch.testing.assert_close(losses, expected, atol=1e-6, rtol=0)


def test_delta_is_zero_at_first_moves_by_the_sign_and_stays_in_the_ball():
    """ε = 0.25, gradients +, -, 0: δ = (0.25, -0.25, 0). Then +, +, -: 0.5 is clipped to 0.25; 0; -0.25."""
    objective, memory = FreeAT(), {}
    x, rows, epsilon = images(0.5, 0.5, 0.5), torch.arange(3), torch.full((3,), 0.25)
    assert torch.equal(objective.carried(memory, x), x)
    objective.remember(memory, rows, images(3.0, -0.1, 0.0), epsilon)
    assert memory["delta"].flatten().tolist() == [0.25, -0.25, 0.0]
    assert torch.equal(objective.carried(memory, x), images(0.75, 0.25, 0.5))
    objective.remember(memory, rows, images(1.0, 1.0, -1.0), epsilon)
    assert memory["delta"].flatten().tolist() == [0.25, 0.0, -0.25]
    objective.remember(memory, rows, images(-1.0, -1.0, -1.0), epsilon)
    assert memory["delta"].flatten().tolist() == [0.0, -0.25, -0.25]


def test_the_image_with_its_delta_is_clipped_to_the_pixel_range():
    memory = {"delta": images(0.25, -0.25)}
    assert torch.equal(FreeAT().carried(memory, images(0.9, 0.1)), images(1.0, 0.0))
    assert torch.equal(memory["delta"], images(0.25, -0.25))


def test_each_row_has_its_own_radius_and_rows_that_were_not_trained_on_keep_their_delta():
    memory = {"delta": images(0.0, 0.125, 0.0, 0.0)}
    FreeAT().remember(memory, torch.tensor([3, 0]), images(1.0, -1.0), torch.tensor([0.5, 0.25]))
    assert memory["delta"].flatten().tolist() == [-0.25, 0.125, 0.0, 0.5]


def test_a_smaller_batch_uses_the_first_rows_and_a_larger_one_makes_delta_grow():
    objective, memory = FreeAT(), {"delta": images(0.125, 0.25)}
    assert torch.equal(objective.carried(memory, images(0.5)), images(0.625))
    assert len(memory["delta"]) == 2
    assert torch.equal(objective.carried(memory, images(0.5, 0.5, 0.5)), images(0.625, 0.75, 0.5))
    assert torch.equal(memory["delta"], images(0.125, 0.25, 0.0))


def test_a_state_taken_before_a_step_keeps_its_delta():
    memory = {"delta": images(0.0)}
    before = dict(memory)
    FreeAT().remember(memory, torch.tensor([0]), images(1.0), torch.tensor([0.5]))
    assert before["delta"].item() == 0.0 and memory["delta"].item() == 0.5


def test_every_replay_is_a_step_with_one_forward_and_one_backward_pass():
    """3 replays of n images: 3n forwards and weight gradients, no input gradient but the one that comes with them."""
    one = trial({"name": "free_at", "replays": 3})
    assert (one.attack.steps, one.attack.start) == (0, "zero")
    training, results = trained(one)
    n = len(training.dataset.train)
    for result in results:
        assert result.metrics["train/passes/input_gradient"] == 0
        assert result.metrics["train/passes/forward"] == 3 * n
        assert result.metrics["train/passes/weight_gradient"] == 3 * n
    delta = training.memory["delta"]
    assert len(delta) == one.batch_size and 0 < float(delta.abs().max()) <= float(torch.tensor(0.2))
    assert FreeAT().passes_per_batch() == 8


def test_the_second_replay_trains_on_the_first_ones_signed_gradient(monkeypatch):
    seen = []
    original = Training._loss

    def watched(self, crafted, adv, passes):
        loss, logits, weights = original(self, crafted, adv, passes)
        seen.append((crafted.kept.x, adv, torch.autograd.grad(loss, adv, retain_graph=True)[0].sign()))
        return loss, logits, weights

    monkeypatch.setattr(Training, "_loss", watched)
    trained(trial({"name": "free_at", "replays": 2}, epochs=1))
    (x, first, sign), (again, second, _) = seen[:2]
    assert torch.equal(x, again) and torch.equal(first, x)
    torch.testing.assert_close(second.detach(), (x + 0.2 * sign).clamp(0, 1), atol=1e-6, rtol=0)


def test_free_at_with_one_replay_and_no_radius_is_standard_training():
    assert equal_runs(trial({"name": "free_at", "replays": 1}, epsilon=0.0), trial("standard", epsilon=0.0))


@pytest.mark.parametrize("after", [1, 2])
def test_a_broken_free_at_ends_as_the_unbroken_one(after):
    assert equal_when_broken(trial({"name": "free_at", "replays": 2}, epochs=3), after)


def test_delta_is_part_of_the_state():
    """Continued without it, the training ends elsewhere."""
    one = trial({"name": "free_at", "replays": 2})
    unbroken, _ = trained(one)
    broken = Training(one, dataset(one))
    next(iter(broken))
    forgetful = Training(one, dataset(one))
    forgetful.restore(broken.state() | {"memory": {}})
    list(forgetful)
    assert not same_weights(unbroken.model, forgetful.model)


@pytest.mark.parametrize("allowed", [{"replays": 1}, {"replays": 1000}])
def test_the_ends_of_the_ranges_are_allowed(allowed):
    assert FreeAT(**allowed)


@pytest.mark.parametrize("refused", [{"replays": 0}, {"replays": 1001}])
def test_values_beyond_the_ranges_are_refused(refused):
    with pytest.raises(ValueError, match="should be"):
        FreeAT(**refused)
