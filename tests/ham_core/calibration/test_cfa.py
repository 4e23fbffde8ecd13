"""CFA: its constants by hand, and the cases in which it is its base."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ham_core.calibration.base import Factors, Observed
from ham_core.calibration.cfa import Cfa
from ham_core.classlog import ClassLog
from ham_core.training import EpochResult, Training
from tests.builders import dataset, same_weights, trial


def trained(one: Any) -> tuple[Training, list[EpochResult]]:
    training = Training(one, dataset(one))
    return training, list(training)


def timeless(result: EpochResult) -> dict[str, float]:
    return {name: value for name, value in result.metrics.items() if not name.startswith("time/")}


@pytest.fixture(scope="module")
def at() -> tuple[Training, list[EpochResult]]:
    return trained(trial("at"))


def observed(robust: torch.Tensor | None) -> Observed:
    return Observed(
        0, torch.ones(3), robust, None, lambda steps: pytest.fail("asked"), lambda: pytest.fail("asked")
    )


def test_cfa_adds_its_constants_to_the_class_accuracies():
    """λ1 = 0.5 and λ2 = 0.3 on r = (0.2, 0.7): margins 0.7, 1.2 and betas 0.5, 1.0."""
    state = {"robust": torch.tensor([0.2, 0.7])}
    factors = Cfa(margin=0.5, regularization=0.3).factors(state)
    torch.testing.assert_close(factors.margin, torch.tensor([0.7, 1.2]))
    torch.testing.assert_close(factors.beta, torch.tensor([0.5, 1.0]))
    assert Cfa(margin=None, regularization=None).factors(state).margin is None


def test_cfa_on_three_classes_scales_nothing_but_radius_and_beta():
    """r = (0, 0.25, 1), λ1 = λ2 = 0.5: both factors (0.5, 0.75, 1.5); the step α stays."""
    state = Cfa().renew({}, observed(torch.tensor([0.0, 0.25, 1.0])))
    factors = Cfa().factors(state)
    expected = torch.tensor([0.5, 0.75, 1.5])
    torch.testing.assert_close(factors.margin, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(factors.beta, expected, atol=1e-6, rtol=0)
    assert factors.weight is None and factors.natural is None and not factors.per_batch
    assert Cfa().attack_step(expected, 0.01, 0.1) == 0.01


def test_one_part_of_cfa_works_without_the_other():
    state = {"robust": torch.tensor([0.2, 0.7])}
    only_margin, only_beta = Cfa(regularization=None).factors(state), Cfa(margin=None).factors(state)
    assert only_margin.margin is not None and only_margin.beta is None
    assert only_beta.margin is None and only_beta.beta is not None


def test_before_any_accuracy_is_known_cfa_is_plain():
    assert Cfa().renew({}, observed(None)) == {}
    assert Cfa().factors({}) == Factors()
    known = {"robust": torch.tensor([0.2])}
    assert Cfa().renew(known, observed(None)) is known


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_cfa_without_its_parts_is_its_base(objective):
    nothing = {"name": "cfa", "margin": None, "regularization": None, "start_epoch": 0}
    assert same_weights(
        trained(trial(objective, method={"calibration": nothing}))[0].model,
        trained(trial(objective))[0].model,
    )


def test_a_constant_class_margin_is_one_common_epsilon(at):
    """CCM with λ1 = 0 and every class fully robust has r_c = 1, so ε_c = ε; r_c is made constant by ε = 0, and so is ε."""
    calibration = {"name": "cfa", "margin": 0.0, "regularization": None, "start_epoch": 0}
    settings: dict[str, Any] = {"epsilon": 0.0}
    calibrated = trained(trial("at", method={"calibration": calibration}, **settings))[0]
    assert same_weights(calibrated.model, trained(trial("at", **settings))[0].model)


def test_equal_class_accuracies_give_one_common_radius(monkeypatch):
    """r_c = 1/4 for all and λ1 = 1/2 of ε = 1/4: from the second epoch on as one radius of 3/16 with the same step."""
    monkeypatch.setattr(ClassLog, "robust_shares", lambda *_: torch.full((10,), 0.25))
    calibration = {"name": "cfa", "margin": 0.5, "regularization": None, "start_epoch": 0}
    one = trial("at", method={"calibration": calibration}, epsilon=0.25, attack={"step": 0.05})
    calibrated = Training(one, dataset(one))
    next(iter(calibrated))
    smaller = trial("at", epsilon=3 / 16, attack={"step": 0.05})
    plain = Training(smaller, dataset(smaller))
    plain.restore(copy.deepcopy(calibrated.state()) | {"fingerprint": plain.state()["fingerprint"]})
    list(calibrated), list(plain)
    assert calibrated.epoch == plain.epoch == 2
    assert same_weights(calibrated.model, plain.model)


def test_calibration_uses_the_class_accuracies_of_the_epoch_before(at):
    calibration = {"name": "cfa", "margin": 0.5, "start_epoch": 1}
    training, results = trained(trial("at", method={"calibration": calibration}))
    assert timeless(results[0]) == timeless(at[1][0])
    assert timeless(results[1]) != timeless(at[1][1])
    shares = [results[1].metrics[f"train/robust/0{c}_{c}"] for c in range(10)]
    torch.testing.assert_close(training.robust, torch.tensor(shares))


@pytest.mark.parametrize(
    ("key", "default", "allowed", "refused"),
    [
        ("margin", 0.5, [None, 0], [-0.01]),
        ("regularization", 0.5, [None, 0], [-0.01]),
        ("start_epoch", 10, [0], [-1]),
    ],
)
def test_its_parameters_have_their_defaults_and_ranges(key, default, allowed, refused):
    assert getattr(Cfa(), key) == default
    for value in allowed:
        assert getattr(Cfa(**{key: value}), key) == value
    for value in refused:
        with pytest.raises(ValidationError):
            Cfa(**{key: value})
