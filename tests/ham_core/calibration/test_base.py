"""The interface of a calibration, and what every calibration keeps: its state, and classes that are small or missing."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ham_core.calibration.base import Calibration, Factors, Observed
from ham_core.data.split import Dataset, Split
from ham_core.training import EpochResult, Training
from tests.builders import dataset, same_weights, trial

# One setting per calibration whose factors move away from 1 within three short epochs.
LIVELY: dict[str, dict[str, Any]] = {
    "cfa": {"start_epoch": 1},
    "frl": {"rate": 0.5, "steps": 2, "natural_bound": 0.0, "boundary_bound": 0.0},
    "dafa": {"start_epoch": 1},
    "wat": {"eta": 1.0},
    "cfol": {"eta": 0.01},
}


class Plain(Calibration):
    name = "plain"
    source = "a test"

    def factors(self, state):
        return Factors()


def timeless(result: EpochResult) -> dict[str, float]:
    return {name: value for name, value in result.metrics.items() if not name.startswith("time/")}


def unbalanced(whole: Dataset) -> Dataset:
    """Class 0 keeps one training and one held-out image, class 1 none at all."""

    def thinned(split: Split) -> Split:
        keep = (split.labels > 1).nonzero().squeeze(1)
        index = torch.cat([(split.labels == 0).nonzero()[0], keep])
        return Split(split.images[index], split.labels[index])

    return replace(whole, train=thinned(whole.train), validation=thinned(whole.validation))


def test_factors_are_looked_up_by_label_and_are_one_where_there_are_none():
    y = torch.tensor([2, 0, 2])
    factors = Factors(margin=torch.tensor([0.5, 1.0, 3.0]))
    assert torch.equal(factors.of("margin", y), torch.tensor([3.0, 0.5, 3.0]))
    assert factors.of("weight", y) is None


def test_factors_per_batch_are_divided_by_their_mean_over_the_batch():
    """Values (1, 3) at labels (0, 1, 1) are (1, 3, 3) with the mean 7/3: (3, 9, 9)/7 for natural and beta only."""
    values, y = torch.tensor([1.0, 3.0]), torch.tensor([0, 1, 1])
    factors = Factors(margin=values, weight=values, natural=values, beta=values, per_batch=True)
    for which in ("natural", "beta"):
        torch.testing.assert_close(factors.of(which, y), torch.tensor([3.0, 9.0, 9.0]) / 7, atol=1e-6, rtol=0)
    for which in ("margin", "weight"):
        assert torch.equal(factors.of(which, y), torch.tensor([1.0, 3.0, 3.0]))
    assert torch.equal(replace(factors, per_batch=False).of("beta", y), torch.tensor([1.0, 3.0, 3.0]))


def test_a_calibration_that_says_nothing_learns_nothing_and_changes_nothing():
    plain, state = Plain(), {"kept": torch.ones(2)}
    nothing = Observed(
        0, torch.ones(2), None, None, lambda steps: pytest.fail("asked"), lambda: pytest.fail("asked")
    )
    assert plain.initial(2) == {}
    assert plain.renew(state, nothing) is state
    assert plain.attack_step(torch.tensor([2.0]), 0.1, 0.4) == 0.1
    assert plain.steps_again() is False
    assert plain.observe(state, torch.tensor([0]), torch.tensor([True])) is state
    with pytest.raises(TypeError, match="plain draws no batches"):
        plain.draw(state, torch.tensor([0]), 1, torch.Generator())


@pytest.mark.parametrize("name", LIVELY)
def test_a_training_broken_after_any_epoch_continues_bit_for_bit(name):
    one = trial("trades", method={"calibration": {"name": name} | LIVELY[name]}, epochs=3)
    unbroken = Training(one, dataset(one))
    expected = list(unbroken)
    broken, results = Training(one, dataset(one)), []
    while not broken.finished:
        results.append(next(iter(broken)))
        file = io.BytesIO()
        torch.save(broken.state(), file)
        file.seek(0)
        broken = Training(one, dataset(one))
        broken.restore(torch.load(file, weights_only=True))
    assert [timeless(result) for result in results] == [timeless(result) for result in expected]
    assert same_weights(unbroken.model, broken.model)
    assert unbroken.learnt and unbroken.learnt.keys() == broken.learnt.keys()
    assert all(torch.equal(unbroken.learnt[key], broken.learnt[key]) for key in unbroken.learnt)


@pytest.mark.parametrize("name", LIVELY)
def test_it_changes_the_training(name):
    one = trial("trades", method={"calibration": {"name": name} | LIVELY[name]})
    calibrated, plain = Training(one, dataset(one)), Training(trial("trades"), dataset(one))
    list(calibrated), list(plain)
    assert not same_weights(calibrated.model, plain.model)


@pytest.mark.parametrize("name", LIVELY)
def test_classes_with_one_image_or_none_leave_factors_and_rates_finite(name):
    one = trial("trades", method={"calibration": {"name": name} | LIVELY[name]}, epochs=3)
    training = Training(one, unbalanced(dataset(one)))
    results = list(training)
    assert training.counts[:2].tolist() == [1, 0]
    seen = [training.factors.margin, training.factors.weight, training.factors.natural, training.factors.beta]
    for values in [*seen, training.robust, *training.learnt.values()]:
        assert values is None or bool(values.isfinite().all())
        assert values is None or values is training.learnt.get("radius") or bool((values >= 0).all())
    assert "train/robust/00_0" in results[0].metrics or name == "cfol"  # CFOL may not draw it
    assert all("train/robust/01_1" not in result.metrics for result in results)
    assert all(bool(parameter.isfinite().all()) for parameter in training.model.parameters())


@pytest.mark.parametrize("name", ["frl", "wat"])
def test_a_calibration_that_looks_at_held_out_images_is_refused_where_there_are_none(name):
    settings: dict[str, Any] = {"selection": {"on": "test", "steps": 2}, "data": {"validation": 0.0}}
    with pytest.raises(ValidationError, match=f"{name} looks at held-out images"):
        trial("trades", method={"calibration": name}, **settings)
