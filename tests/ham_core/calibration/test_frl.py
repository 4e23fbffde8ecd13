"""FRL: multipliers, weights and radii by hand; with both rates zero it is its base."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ham_core.adversary import Streams, craft
from ham_core.calibration.base import Observed
from ham_core.calibration.frl import Frl, class_weights, violation
from ham_core.held_out import held_out_accuracies
from ham_core.training import Training
from tests.builders import Linear, dataset, same_weights, trial

CLEAN = torch.tensor([0.9, 0.6, 0.75])
ROBUST = torch.tensor([0.5, 0.1, 0.45])


def observed(epoch: int = 0, clean: torch.Tensor = CLEAN, robust: torch.Tensor = ROBUST) -> Observed:
    def accuracies(steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        assert steps == 20
        return clean, robust

    return Observed(epoch, torch.ones(3), None, None, accuracies, lambda: pytest.fail("asked"))


def near(found: torch.Tensor | None, *expected: float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0)


def test_violations_and_multipliers_of_three_classes():
    """Clean (.9, .6, .75), robust (.5, .1, .45); all bounds .07, r1 = .05, r2 = .2.

    e = (.1, .4, .25), ē = .25: g⁰ = (-.22, .08, -.07).  b = (.4, .5, .3), b̄ = .4: g¹ = (-.07, .03, -.17).
    λ⁰ = .05 g⁰ above 0 = (0, .004, 0);  λ¹ = .1 g¹ above 0 = (0, .003, 0);  λ² = .2 g¹ = (-.014, .006, -.034).
    C w = 1 + 3λ - Σλ: natural (.996, 1.008, .996), beta (.997, 1.006, .997).
    exp(2λ²) = (.9724, 1.0120723, .934): radii (.98, 1.0120723, .98).
    """
    frl = Frl()
    state = frl.renew(frl.initial(3), observed())
    near(violation(1 - CLEAN, 0.07), -0.22, 0.08, -0.07)
    near(violation(CLEAN - ROBUST, 0.07), -0.07, 0.03, -0.17)
    near(state["natural"], 0, 0.004, 0)
    near(state["boundary"], 0, 0.003, 0)
    near(state["radius"], -0.014, 0.006, -0.034)
    factors = frl.factors(state)
    near(factors.natural, 0.996, 1.008, 0.996)
    near(factors.beta, 0.997, 1.006, 0.997)
    near(factors.margin, 0.98, 1.0120723, 0.98)
    assert factors.per_batch and factors.weight is None


def test_multipliers_are_kept_across_epochs():
    """The same violations twice: λ⁰ = (0, .008, 0), λ¹ = (0, .006, 0), λ² = (-.028, .012, -.068)."""
    frl = Frl()
    state = frl.renew(frl.renew(frl.initial(3), observed()), observed(1))
    near(state["natural"], 0, 0.008, 0)
    near(state["boundary"], 0, 0.006, 0)
    near(state["radius"], -0.028, 0.012, -0.068)


def test_the_two_bounds_belong_to_clean_and_boundary_error():
    """δ0 = .1 and δ1 = 0: λ⁰ = .05 (.15 - .1) = .0025 and λ¹ = .1 (.1) = .01 for class 1, λ² = .2 (0, .1, -.1)."""
    frl = Frl(natural_bound=0.1, boundary_bound=0.0)
    state = frl.renew(frl.initial(3), observed())
    near(state["natural"], 0, 0.0025, 0)
    near(state["boundary"], 0, 0.01, 0)
    near(state["radius"], 0, 0.02, -0.02)


def test_multipliers_are_clamped_at_zero_and_their_sum_at_the_limit():
    """(-.1, .3, .6) -> (0, .3, .6) with the sum .9 -> times .5/.9 = (0, 1/6, 1/3); a sum of .4 stays as it is."""
    frl = Frl()
    near(frl.limited(torch.tensor([-0.1, 0.3, 0.6])), 0, 1 / 6, 1 / 3)
    within = torch.tensor([0.0, 0.1, 0.3])
    assert torch.equal(frl.limited(within), within)
    near(Frl(limit=0.2).limited(within), 0, 0.05, 0.15)


def test_class_weights_sum_to_one():
    """λ = (.1, 0, .4): w = 1/3 + λ - 1/6 = (.2667, .1667, .5667); three times that is (.8, .5, 1.7)."""
    weights = class_weights(torch.tensor([0.1, 0.0, 0.4]))
    near(weights, 0.8, 0.5, 1.7)
    assert (weights / 3).sum().item() == pytest.approx(1)


def test_radii_are_clamped_on_both_sides():
    state = {
        "natural": torch.zeros(3),
        "boundary": torch.zeros(3),
        "radius": torch.tensor([-1.0, 0.0, 1.0]),
    }
    near(Frl().factors(state).margin, 0.98, 1, 3)
    near(Frl(lowest=0.5, highest=2.5).factors(state).margin, 0.5, 1, 2.5)
    near(Frl(lowest=0.01, highest=9).factors(state).margin, 0.1353353, 1, 7.3890561)


def test_reweighting_alone_keeps_the_radius_and_the_step():
    frl = Frl(remargin=False)
    factors = frl.factors(frl.renew(frl.initial(3), observed()))
    assert factors.margin is None
    near(factors.natural, 0.996, 1.008, 0.996)
    assert frl.attack_step(torch.tensor([1.0]), 0.01, 0.2) == 0.01


@pytest.mark.parametrize(
    ("start_epoch", "epoch", "share"), [(0, 39, 1), (0, 40, 0.5), (0, 79, 0.5), (0, 80, 0.25), (5, 44, 1)]
)
def test_the_rate_of_the_weights_halves_every_40_calibrated_epochs(start_epoch, epoch, share):
    frl = Frl(start_epoch=start_epoch)
    state = frl.renew(frl.initial(3), observed(epoch))
    near(state["natural"], 0, share * 0.004, 0)
    near(state["boundary"], 0, share * 0.003, 0)
    near(state["radius"], -0.014, 0.006, -0.034)


def test_a_class_without_held_out_images_is_taken_to_be_at_the_mean():
    """Class 2 unknown: ē = .25 of (.1, .4), so g⁰ = (-.22, .08, -.07) as if its error were .25."""
    gap = torch.tensor([0.1, 0.4, float("nan")])
    near(violation(gap, 0.07), -0.22, 0.08, -0.07)
    frl = Frl()
    unknown = [
        values.masked_fill(torch.tensor([False, False, True]), float("nan")) for values in (CLEAN, ROBUST)
    ]
    state = frl.renew(frl.initial(3), observed(0, *unknown))
    assert all(bool(values.isfinite().all()) for values in state.values())


def moved(frl: dict[str, Any], steps: int) -> torch.Tensor:
    """|x' - x| of two samples with radii ε = .2 and 2 ε under a linear network, from x itself."""
    one = trial("at", method={"calibration": frl}, attack={"steps": steps, "start": "zero", "step": 0.01})
    weight = torch.cat([torch.ones(1, 64), -torch.ones(9, 64)])
    x, y = torch.full((2, 1, 8, 8), 0.5), torch.tensor([0, 1])
    crafted = craft(
        Linear(weight),
        x,
        y,
        one,
        epoch=0,
        streams=Streams(torch.Generator(), torch.Generator()),
        passes=Counter(),
        margin=torch.tensor([1.0, 2.0]),
    )
    return (crafted.kept.adv - x).abs().amax((1, 2, 3))


def test_remargin_takes_one_step_size_for_the_batch_and_a_radius_per_class():
    """max ε_i = .4, so α = .1 for both; three steps reach min(.3, ε_i) = (.2, .3)."""
    near(moved({"name": "frl"}, 1), 0.1, 0.1)
    near(moved({"name": "frl"}, 3), 0.2, 0.3)
    near(moved({"name": "frl", "remargin": False}, 1), 0.01, 0.01)
    assert Frl().attack_step(torch.tensor([0.98, 1.5]), 0.01, 0.2).item() == pytest.approx(0.075)


@pytest.mark.parametrize("remargin", [True, False])
@pytest.mark.parametrize("objective", ["trades", "at"])
def test_frl_with_both_rates_zero_is_its_base(objective, remargin):
    calibration = {"name": "frl", "rate": 0.0, "margin_rate": 0.0, "remargin": remargin, "steps": 1}
    one = trial(objective, method={"calibration": calibration})
    calibrated, plain = Training(one, dataset(one)), Training(trial(objective), dataset(one))
    results, expected = list(calibrated), list(plain)
    assert torch.equal(calibrated.factors.natural, torch.ones(10))
    assert same_weights(calibrated.model, plain.model)
    assert results[-1].metrics["train/loss"] == expected[-1].metrics["train/loss"]


@pytest.mark.parametrize(("start_epoch", "epochs"), [(0, [0, 1]), (1, [1])])
def test_frl_looks_at_the_held_out_images_before_every_calibrated_epoch(monkeypatch, start_epoch, epochs):
    asked = []

    def watched(model: Any, one: Any, images: Any, steps: int, *, epoch: int) -> Any:
        asked.append((epoch, steps))
        return held_out_accuracies(model, one, images, steps, epoch=epoch)

    monkeypatch.setattr("ham_core.training.held_out_accuracies", watched)
    one = trial("trades", method={"calibration": {"name": "frl", "steps": 3, "start_epoch": start_epoch}})
    list(Training(one, dataset(one)))
    assert asked == [(epoch, 3) for epoch in epochs]


def test_accuracies_on_held_out_images_count_what_is_right_clean_and_under_attack():
    one = trial("at")
    training = Training(one, dataset(one))
    list(training)
    clean, robust = held_out_accuracies(training.model, one, training.dataset, 3, epoch=2)
    images = training.dataset.validation
    training.model.eval()
    right = training.model(images.images / 255).argmax(1) == images.labels
    per_class = torch.stack([right[images.labels == c].float().mean() for c in range(10)])
    torch.testing.assert_close(clean, per_class)
    assert bool((robust <= clean).all()) and bool((robust < clean).any())
    assert torch.equal(held_out_accuracies(training.model, one, training.dataset, 0, epoch=2)[0], clean)


@pytest.mark.parametrize(
    ("key", "default", "allowed", "refused"),
    [
        ("remargin", True, [False], ["maybe"]),
        ("natural_bound", 0.07, [0, 1], [-0.01, 1.01]),
        ("boundary_bound", 0.07, [0, 1], [-0.01, 1.01]),
        ("rate", 0.05, [0], [-0.01]),
        ("margin_rate", 0.2, [0], [-0.01]),
        ("limit", 0.5, [0, 0.99], [-0.01, 1]),
        ("lowest", 0.98, [0.01, 1], [0, 1.01]),
        ("highest", 3.0, [1], [0.99]),
        ("halve_every", 40, [1], [0]),
        ("steps", 20, [0, 1000], [-1, 1001]),
        ("start_epoch", 0, [3], [-1]),
    ],
)
def test_its_parameters_have_their_defaults_and_ranges(key, default, allowed, refused):
    assert getattr(Frl(), key) == default
    for value in allowed:
        assert getattr(Frl(**{key: value}), key) == value
    for value in refused:
        with pytest.raises(ValidationError):
            Frl(**{key: value})


def test_frl_says_what_it_needs():
    assert Frl.needs_validation and Frl.needs == ("held-out images", "a robust trial to start from")
