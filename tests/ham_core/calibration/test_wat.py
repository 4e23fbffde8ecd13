"""WAT: costs and weights by hand, when they are renewed, and η = 0."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ham_core.adversary import Crafted
from ham_core.calibration.base import Observed
from ham_core.calibration.wat import Wat
from ham_core.held_out import held_out_losses
from ham_core.mining.base import Kept
from ham_core.training import Training
from tests.builders import dataset, trial

SUMS, NUMBERS = torch.tensor([2.0, 6.0, 0.0]), torch.tensor([2, 3, 0])


def observed(epoch: int = 1, sums: torch.Tensor = SUMS, numbers: torch.Tensor = NUMBERS) -> Observed:
    return Observed(epoch, numbers, None, None, lambda steps: pytest.fail("asked"), lambda: (sums, numbers))


def near(found: torch.Tensor | None, *expected: float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0)


def test_costs_and_weights_of_three_classes():
    """Sums (2, 6, 0) over (2, 3, 0) images: means 1, 2; overall 8/5, also the cost of the class without images.

    η = 1/2: exp(.5, 1, .8, .8) = 1.6487213, 2.7182818, 2.2255409 (twice), sum 8.8180850; w = 3 times their shares
    = .5609113, .9247864, .7571511, .7571511. Official factors w_c + w_3, consistent w_c + w_3 / 3.
    """
    wat = Wat(eta=0.5)
    state = wat.renew(wat.initial(3), observed())
    near(state["costs"], 1, 2, 1.6, 1.6)
    near(state["weights"], 0.5609113, 0.9247864, 0.7571511, 0.7571511)
    near(wat.factors(state).weight, 1.3180624, 1.6819375, 1.5143022)
    near(Wat(eta=0.5, form="consistent").factors(state).weight, 0.8132950, 1.1771701, 1.0095348)
    factors = wat.factors(state)
    assert factors.margin is None and factors.natural is None and factors.beta is None


def test_costs_are_summed_over_the_epochs():
    """A second epoch with the same costs: (2, 4, 3.2, 3.2), as with twice η after the first."""
    wat = Wat(eta=0.5)
    twice = wat.renew(wat.renew(wat.initial(3), observed()), observed(2))
    near(twice["costs"], 2, 4, 3.2, 3.2)
    torch.testing.assert_close(
        twice["weights"], Wat(eta=1.0).renew(wat.initial(3), observed())["weights"], atol=1e-6, rtol=0
    )


def test_the_first_epoch_has_the_codes_weights_or_those_of_uniform_hedge():
    """C = 3: official w = 1, so every loss counts 2; consistent w = 3/4, so 3/4 + 1/4 = 1."""
    assert torch.equal(Wat().initial(3)["weights"], torch.ones(4))
    assert torch.equal(Wat().factors(Wat().initial(3)).weight, torch.full((3,), 2.0))
    consistent = Wat(form="consistent")
    near(consistent.initial(3)["weights"], 0.75, 0.75, 0.75, 0.75)
    near(consistent.factors(consistent.initial(3)).weight, 1, 1, 1)
    assert torch.equal(Wat().initial(3)["costs"], torch.zeros(4))


def test_a_class_with_one_held_out_image_has_that_images_loss_as_its_cost():
    """Losses 5 and 1 of one image each: costs 5, 1 and the mean 3."""
    wat = Wat()
    near(wat.renew(wat.initial(2), observed(1, torch.tensor([5.0, 1.0]), torch.ones(2)))["costs"], 5, 1, 3)


def test_nothing_is_known_before_the_first_epoch():
    state = Wat().initial(3)
    assert Wat().renew(state, observed(0)) is state
    assert Wat().renew(state, observed(1)) is not state


def test_wat_with_eta_zero_weighs_every_class_alike():
    """2C/(C+1) = 1.5 for three classes from the second epoch on, or 1 in the consistent form, which is plain TRADES."""
    for form, expected in (("official", 1.5), ("consistent", 1.0)):
        wat = Wat(eta=0.0, form=form)
        near(wat.factors(wat.renew(wat.initial(3), observed())).weight, expected, expected, expected)


def test_a_training_with_eta_zero_has_two_times_c_over_c_plus_one_of_the_base_loss():
    one = trial("trades", method={"calibration": {"name": "wat", "eta": 0.0}})
    training = Training(one, dataset(one))
    list(training)
    torch.testing.assert_close(training.factors.weight, torch.full((10,), 20 / 11))


def loss(weights: torch.Tensor | None, form: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(L, per-sample ℓ, labels) of TRADES on three images with these C+1 weights."""
    one = trial("trades", method={"calibration": {"name": "wat", "form": form}})
    training = Training(one, dataset(one))
    images, y = training.dataset.train.images[:3] / 255, torch.tensor([0, 1, 1])
    adv = (images + 0.1).clamp(0, 1)
    if weights is not None:
        training.factors = training.calibration.factors({"weights": weights})
    found, _, _ = training._loss(Crafted(Kept(images, y, adv, torch.arange(3)), {}, []), adv, Counter())
    clean, logits = training.model(images), training.model(adv)
    return found, training.objective.loss(clean, logits, y), y


def test_the_loss_is_that_of_the_class_experts_and_the_average_expert():
    """L = (1/n) Σ w_{y_i} ℓ_i + w_C (1/n) Σ ℓ_i; the consistent form has w_C / C."""
    weights = torch.rand(11)
    for form, share in (("official", 1.0), ("consistent", 0.1)):
        found, losses, y = loss(weights, form)
        expected = (weights[y] * losses).mean() + share * weights[10] * losses.mean()
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("start_epoch", "epochs"), [(0, [1, 2]), (2, [2])])
def test_wat_looks_at_the_held_out_images_before_every_calibrated_epoch_but_the_first(
    monkeypatch, start_epoch, epochs
):
    asked = []

    def watched(*arguments: Any, epoch: int) -> Any:
        asked.append(epoch)
        return held_out_losses(*arguments, epoch=epoch)

    monkeypatch.setattr("ham_core.training.held_out_losses", watched)
    one = trial("trades", method={"calibration": {"name": "wat", "start_epoch": start_epoch}}, epochs=3)
    list(Training(one, dataset(one)))
    assert asked == epochs


def losses_of(training: Training) -> tuple[torch.Tensor, torch.Tensor]:
    """What a calibration of this training would learn before the next epoch."""
    return held_out_losses(training.model, training.trial, training.dataset, training._ask_helper, epoch=1)


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_held_out_losses_are_class_sums_in_evaluation_mode_and_change_nothing(objective):
    """Without an attack x' = x: AT's loss is CE(f(x), y), and so is that of TRADES, whose divergence is 0."""
    one = trial(objective, epochs=1, attack={"steps": 0, "start": "zero", "mode": "train"}, batch_size=8)
    training = Training(one, dataset(one))
    list(training)
    before = {name: values.clone() for name, values in training.model.state_dict().items()}
    sums, numbers = losses_of(training)
    assert all(torch.equal(before[name], values) for name, values in training.model.state_dict().items())
    assert training.model.training
    images = training.dataset.validation
    training.model.eval()
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(
            training.model(images.images / 255), images.labels, reduction="none"
        )
    assert len(images) > 8 and torch.equal(numbers, torch.bincount(images.labels, minlength=10))
    expected = torch.stack([losses[images.labels == c].sum() for c in range(10)])
    torch.testing.assert_close(sums, expected)


def test_held_out_losses_are_taken_under_the_objectives_own_attack():
    one = trial("at", epochs=1)
    training = Training(one, dataset(one))
    list(training)
    still = trial("at", epochs=1, epsilon=0.0)
    plain = Training(still, dataset(still))
    plain.model.load_state_dict(training.model.state_dict())
    assert bool((losses_of(training)[0] > losses_of(plain)[0]).all())
    assert torch.equal(losses_of(training)[0], losses_of(training)[0])


@pytest.mark.parametrize(
    ("key", "default", "allowed", "refused"),
    [
        ("eta", 0.1, [0], [-0.01]),
        ("form", "official", ["consistent"], ["paper"]),
        ("start_epoch", 0, [3], [-1]),
    ],
)
def test_its_parameters_have_their_defaults_and_ranges(key, default, allowed, refused):
    assert getattr(Wat(), key) == default
    for value in allowed:
        assert getattr(Wat(**{key: value}), key) == value
    for value in refused:
        with pytest.raises(ValidationError):
            Wat(**{key: value})


def test_wat_says_what_it_needs():
    assert Wat.needs_validation and Wat.needs == ("held-out images",)
