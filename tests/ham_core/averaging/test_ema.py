"""EMA: its formula by hand, and the decay at which it is θ."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from ham_core.averaging.ema import Ema
from ham_core.network import average_of
from ham_core.training import Training
from tests.builders import dataset, same_weights, trial


def test_an_average_with_decay_zero_is_the_weights_and_never_changes_them():
    averages = [
        {"name": "ema", "decay": 0.0, "warmup": False},
        {"name": "ema", "label": "slow", "decay": 0.9},
    ]
    one = trial("at", method={"averaging": averages})
    training, plain = Training(one, dataset(one)), Training(trial("at"), dataset(one))
    list(training), list(plain)
    assert same_weights(training.model, plain.model)
    assert same_weights(training.averages["ema"].module, training.model)
    assert not same_weights(training.averages["slow"].module, training.model)


def test_the_moving_average_has_its_formula():
    """Two updates from w0 with a_1 = min(decay, 2/11): w̄ = a w0 + (1 - a) w1."""
    model = torch.nn.Linear(1, 1, bias=False)
    average = average_of(model, Ema(decay=0.9))
    for value in (3.0, 14.0):
        torch.nn.init.constant_(model.weight, value)
        average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(2 / 11 * 3 + 9 / 11 * 14, abs=1e-6)
    assert [Ema(decay=0.5).rate(t) for t in (0, 1, 100)] == [0.1, 2 / 11, 0.5]
    assert Ema(decay=0.85, warmup=False).rate(0) == 0.85


def test_the_first_update_copies_the_weights():
    model = torch.nn.Linear(1, 1, bias=False)
    average = average_of(model, Ema())
    torch.nn.init.constant_(model.weight, 7.0)
    average.update_parameters(model)
    assert average.module.weight.item() == 7.0


@pytest.mark.parametrize(
    ("key", "default", "allowed", "refused"),
    [
        ("decay", 0.995, [0, 0.99], [-0.01, 1]),
        ("warmup", True, [False], ["maybe"]),
        ("every", "step", ["epoch"], ["batch"]),
        ("start_epoch", 0, [3], [-1]),
        ("label", None, ["slow2"], ["Slow", "a_b", ""]),
    ],
)
def test_its_parameters_have_their_defaults_and_ranges(key, default, allowed, refused):
    assert getattr(Ema(), key) == default
    for value in allowed:
        assert getattr(Ema(**{key: value}), key) == value
    for value in refused:
        with pytest.raises(ValidationError):
            Ema(**{key: value})
