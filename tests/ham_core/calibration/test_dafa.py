"""DAFA: weights by hand, the intended attack and the official quirk; with λ = 0 it is its base."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ham_core.adversary import Streams, craft
from ham_core.calibration.base import Factors, Observed
from ham_core.calibration.dafa import Dafa, distance_weights
from ham_core.training import Training
from tests.builders import Linear, dataset, same_weights, trial

CONFUSION = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.05, 0.15, 0.8]])


def observed(confusion: torch.Tensor | None) -> Observed:
    return Observed(
        70, torch.ones(3), None, confusion, lambda steps: pytest.fail("asked"), lambda: pytest.fail("asked")
    )


def near(found: torch.Tensor | None, *expected: float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0)


def test_weights_of_three_classes():
    """s_ii = (.6, .5, .8), so class 1 is the hardest and class 2 the easiest.

    W_0 = 1 - s_10 s_00 + s_02 s_22 = 1 - .12 + .08 = .96
    W_1 = 1 + s_10 s_00 + s_12 s_22 = 1 + .12 + .24 = 1.36
    W_2 = 1 - s_02 s_22 - s_12 s_22 = 1 - .08 - .24 = .68        sum 3; with λ = 1/2: .98, 1.18, .84.
    """
    near(distance_weights(CONFUSION, 1.0), 0.96, 1.36, 0.68)
    near(distance_weights(CONFUSION, 0.5), 0.98, 1.18, 0.84)


def test_weights_are_on_radius_step_and_main_term_but_not_on_the_regularisation():
    dafa = Dafa()
    factors = dafa.factors(dafa.renew({}, observed(CONFUSION)))
    near(factors.margin, 0.96, 1.36, 0.68)
    assert factors.natural is factors.margin and not factors.per_batch
    assert factors.beta is None and factors.weight is None
    near(dafa.attack_step(torch.tensor([0.5, 2.0]), 0.1, 0.9), 0.05, 0.2)


def test_weights_sum_to_the_number_of_classes():
    confusion = torch.randn(7, 7).mul(2).softmax(1)
    assert confusion.diagonal().unique().numel() == 7
    weights = distance_weights(confusion, 0.7)
    assert bool((weights > 0).all())
    assert weights.sum().item() == pytest.approx(7, abs=1e-5)


def test_of_two_equally_robust_classes_both_give():
    """Not s_ii < s_jj either way: W = 1 - .3 · .7 = .79 for both, which the sum C does not hold for."""
    near(distance_weights(torch.tensor([[0.7, 0.3], [0.3, 0.7]]), 1.0), 0.79, 0.79)


def test_a_weight_that_would_fall_below_zero_is_zero():
    """λ = 10: W = (1 - 1.2 + .8, 1 + 1.2 + 2.4, 1 - .8 - 2.4) = (.6, 4.6, -2.2)."""
    near(distance_weights(CONFUSION, 10.0), 0.6, 4.6, 0)


def test_a_class_without_images_takes_and_gives_nothing_but_what_others_see_in_it():
    """Class 1 missing, s_1 = (0, 1, 0): W_0 = 1 + .2 · 1 = 1.2, W_1 = .8; class 2 never says 1: W_2 = 1."""
    confusion = torch.tensor([[0.8, 0.2, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.9]])
    near(distance_weights(confusion, 1.0), 1.2, 0.8, 1)


def test_weights_are_computed_once():
    dafa = Dafa()
    state = dafa.renew({}, observed(CONFUSION))
    assert dafa.renew(state, observed(CONFUSION.flip(0))) is state


def test_without_predictions_dafa_stays_plain():
    assert Dafa().renew({}, observed(None)) == {}
    assert Dafa().factors({}) == Factors()


def moved(dafa: dict[str, Any], steps: int) -> torch.Tensor:
    """|x' - x| with W = (.5, 2), ε = .2, α = .05, under a linear network, from x itself."""
    one = trial(
        "at",
        method={"calibration": dafa},
        attack={"steps": steps, "start": "zero", "step": 0.05},
        epsilon=0.2,
    )
    x, y = torch.full((2, 1, 8, 8), 0.5), torch.tensor([0, 1])
    crafted = craft(
        Linear(torch.cat([torch.ones(1, 64), -torch.ones(9, 64)])),
        x,
        y,
        one,
        epoch=0,
        streams=Streams(torch.Generator(), torch.Generator()),
        passes=Counter(),
        margin=torch.tensor([0.5, 2.0]),
    )
    return (crafted.kept.adv - x).abs().amax((1, 2, 3))


def test_the_intended_attack_scales_step_and_radius_by_class():
    """Steps .025 and .1; after many the radii .1 and .4."""
    near(moved({"name": "dafa"}, 1), 0.025, 0.1)
    near(moved({"name": "dafa"}, 30), 0.1, 0.4)


def test_the_official_attack_steps_again_within_the_plain_radius():
    """Steps (W + 1) α = .075 and .15; after many min(ε, W ε + α) = min(.2, .15) and min(.2, .45)."""
    official = {"name": "dafa", "official_pgd": True}
    near(moved(official, 1), 0.075, 0.15)
    near(moved(official, 30), 0.15, 0.2)


@pytest.mark.parametrize("objective", ["trades", "at"])
def test_dafa_with_strength_zero_is_its_base(objective):
    calibration = {"name": "dafa", "strength": 0.0, "start_epoch": 1}
    one, base = trial(objective, method={"calibration": calibration}, epochs=3), trial(objective, epochs=3)
    calibrated, plain = Training(one, dataset(one)), Training(base, dataset(base))
    results, expected = list(calibrated), list(plain)
    assert torch.equal(calibrated.factors.margin, torch.ones(10))
    assert same_weights(calibrated.model, plain.model)
    assert results[-1].metrics["train/loss"] == expected[-1].metrics["train/loss"]


@pytest.mark.parametrize("start_epoch", [0, 1])
def test_the_weights_come_from_the_last_epoch_of_the_warm_up(start_epoch):
    """With `start_epoch` 0 nothing is known before the first epoch either, so it is plain and the second is not."""
    one = trial("trades", method={"calibration": {"name": "dafa", "start_epoch": start_epoch}}, epochs=3)
    calibrated, plain = Training(one, dataset(one)), Training(trial("trades"), dataset(one))
    next(iter(calibrated)), next(iter(plain))
    assert same_weights(calibrated.model, plain.model)
    assert calibrated.factors == Factors() and calibrated.learnt == {}
    weights = distance_weights(calibrated.confusion, 1.0)
    for _ in calibrated:
        assert torch.equal(calibrated.factors.natural, weights)
    assert not torch.equal(distance_weights(calibrated.confusion, 1.0), weights)


def test_the_confusion_is_the_mean_prediction_on_adversarial_examples():
    one = trial("at", method={"calibration": {"name": "dafa", "start_epoch": 9}}, epochs=1)
    training = Training(one, dataset(one))
    (result,) = list(training)
    assert training.confusion.shape == (10, 10)
    torch.testing.assert_close(training.confusion.sum(1), torch.ones(10))
    assert "train/loss" in result.metrics


@pytest.mark.parametrize(
    ("key", "default", "allowed", "refused"),
    [
        ("strength", 1.0, [0, 1.5], [-0.01]),
        ("official_pgd", False, [True], ["maybe"]),
        ("start_epoch", 70, [0], [-1]),
    ],
)
def test_its_parameters_have_their_defaults_and_ranges(key, default, allowed, refused):
    assert getattr(Dafa(), key) == default
    for value in allowed:
        assert getattr(Dafa(**{key: value}), key) == value
    for value in refused:
        with pytest.raises(ValidationError):
            Dafa(**{key: value})
