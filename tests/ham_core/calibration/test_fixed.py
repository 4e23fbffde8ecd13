"""One training margin for all classes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ham_core.calibration.fixed import Fixed
from ham_core.training import Training
from tests.builders import dataset, same_weights, trial


def test_the_margin_is_the_same_multiple_for_every_class():
    fixed = Fixed(margin=0.25)
    factors = fixed.factors(fixed.initial(3))
    assert factors.by_class() == {"margin": [0.25, 0.25, 0.25]}


def test_a_margin_of_one_is_plain_training_and_one_of_a_half_is_training_with_half_the_radius():
    """α is the same in all, so that only the radius differs."""

    def trained(margin: float | None, epsilon: float) -> Training:
        calibration = None if margin is None else {"name": "fixed", "margin": margin}
        one = trial(method={"calibration": calibration}, epsilon=epsilon, attack={"step": 0.05})
        training = Training(one, dataset(one))
        for _ in training:
            pass
        return training

    assert same_weights(trained(1.0, 0.2).model, trained(None, 0.2).model)
    half = trained(0.5, 0.2).model
    assert same_weights(half, trained(None, 0.1).model)
    assert not same_weights(half, trained(None, 0.2).model)


def test_a_negative_margin_is_refused():
    with pytest.raises(ValidationError):
        Fixed(margin=-0.1)
