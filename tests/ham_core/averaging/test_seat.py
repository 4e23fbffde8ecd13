"""SEAT: its rate, its beginning at the initial weights, and BatchNorm's statistics."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from ham_core.averaging.seat import Seat
from ham_core.network import average_of
from ham_core.training import Training
from tests.builders import dataset, same_weights, trial


def test_the_rate_rises_to_the_decay():
    """a_0 = 1/10, a_1 = 2/11, a_90 = 91/100; (t+1)/(t+10) passes .999 at t = 8990."""
    assert [Seat().rate(t) for t in (0, 1, 90)] == [0.1, 2 / 11, 0.91]
    assert Seat().rate(8989) < 0.999 and Seat().rate(8991) == 0.999
    assert Seat(decay=0.15).rate(1) == 0.15


def test_the_average_begins_at_the_initial_weights():
    """θ = 1, 3, 14: θ̄_1 = .1 · 1 + .9 · 3 = 2.8, θ̄_2 = 2/11 · 2.8 + 9/11 · 14 = 11.9636364."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    average = average_of(model, Seat())
    for value, expected in ((3.0, 2.8), (14.0, 11.9636364)):
        torch.nn.init.constant_(model.weight, value)
        average.update_parameters(model)
        assert average.module.weight.item() == pytest.approx(expected, abs=1e-6)


def test_batchnorm_statistics_are_averaged_at_the_same_rate_and_counters_copied():
    """Running mean 0, then 5: .1 · 0 + .9 · 5 = 4.5; running variance 1, then 3: 2.8."""
    model = torch.nn.BatchNorm1d(1)
    average = average_of(model, Seat())
    model.running_mean.fill_(5.0)
    model.running_var.fill_(3.0)
    model.num_batches_tracked.fill_(17)
    average.update_parameters(model)
    assert average.module.running_mean.item() == pytest.approx(4.5, abs=1e-6)
    assert average.module.running_var.item() == pytest.approx(2.8, abs=1e-6)
    assert average.module.num_batches_tracked.item() == 17


def test_seat_watches_every_step_and_never_changes_the_training():
    one = trial("at", method={"averaging": "seat"}, epochs=1)
    training, plain = Training(one, dataset(one)), Training(trial("at", epochs=1), dataset(one))
    (result,) = list(training)
    list(plain)
    batches = -(-len(training.dataset.train) // one.batch_size)
    assert int(training.averages["seat"].n_averaged) == 1 + batches  # the initial weights count as one
    assert same_weights(training.model, plain.model)
    assert not same_weights(training.averages["seat"].module, training.model)
    assert {"best_seat", "last_seat"} <= set(result.kept)


def test_seat_with_decay_zero_is_the_weights():
    one = trial("at", method={"averaging": {"name": "seat", "decay": 0.0}}, epochs=1)
    training = Training(one, dataset(one))
    list(training)
    assert same_weights(training.averages["seat"].module, training.model)


@pytest.mark.parametrize(
    ("key", "default", "allowed", "refused"),
    [
        ("decay", 0.999, [0, 0.99], [-0.01, 1]),
        ("every", "step", ["epoch"], ["batch"]),
        ("start_epoch", 0, [3], [-1]),
    ],
)
def test_its_parameters_have_their_defaults_and_ranges(key, default, allowed, refused):
    assert getattr(Seat(), key) == default
    for value in allowed:
        assert getattr(Seat(**{key: value}), key) == value
    for value in refused:
        with pytest.raises(ValidationError):
            Seat(**{key: value})
