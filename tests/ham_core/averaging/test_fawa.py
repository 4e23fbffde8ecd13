"""FAWA: which epochs enter the average, the first one, and the guard where none does."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ham_core.averaging.fawa import Fawa
from ham_core.objectives.fast_at import FastAT
from ham_core.training import Training
from tests.builders import dataset, same_weights, trial


def with_worst(monkeypatch: pytest.MonkeyPatch, worst: Sequence[float], prefix: str = "val") -> None:
    """Epochs whose worst class has these robust accuracies on the images judged as `prefix`."""
    epochs: Iterator[float] = iter(worst)

    def judged(
        _model: Any, _images: Any, _trial: Any, _classes: Any, name: str
    ) -> tuple[dict[str, float], Any]:
        return {"avg": 0.5, "worst": next(epochs) if name == prefix else 1.0}, {}

    monkeypatch.setattr("ham_core.training.judge", judged)


def training_with(epochs: int, **settings: Any) -> Training:
    fawa = {"name": "fawa", "start_epoch": 0} | settings
    one = trial("at", method={"averaging": fawa}, epochs=epochs)
    return Training(one, dataset(one))


def test_an_epoch_is_accepted_from_the_threshold_on():
    assert [Fawa().accepts(worst) for worst in (0.0, 0.19, 0.2, 0.21)] == [False, False, True, True]
    assert Fawa(threshold=0.24).accepts(0.2) is False


def test_the_rate_is_the_decay_whatever_the_epoch():
    assert [Fawa().rate(updates) for updates in (0, 1, 50)] == [0.85, 0.85, 0.85]
    assert Fawa(decay=0.88).rate(3) == 0.88


def test_the_average_is_over_accepted_epochs_and_the_first_of_them_is_copied(monkeypatch):
    """Worst classes .1, .3, .1, .2: θ̄ = θ_1 after epoch 1, stays at epoch 2, and .85 θ_1 + .15 θ_3 at epoch 3."""
    with_worst(monkeypatch, [0.1, 0.3, 0.1, 0.2])
    training = training_with(4)
    weights, averages, accepted = [], [], []
    for result in training:
        weights.append(copy.deepcopy(training.model))
        averages.append(copy.deepcopy(training.averages["fawa"].module))
        accepted.append(result.metrics["train/accepted/fawa"])
        assert ("best_fawa" in result.kept) == (result.epoch == 1)
    assert accepted == [0, 1, 1, 2]
    assert same_weights(averages[1], weights[1]) and same_weights(averages[2], weights[1])
    for mean, old, new in zip(
        averages[3].parameters(), weights[1].parameters(), weights[3].parameters(), strict=True
    ):
        torch.testing.assert_close(mean, 0.85 * old + 0.15 * new)


def test_epochs_before_the_start_do_not_enter(monkeypatch):
    with_worst(monkeypatch, [0.9, 0.9, 0.9])
    training = training_with(3, start_epoch=2)
    assert [result.metrics.get("train/accepted/fawa") for result in training] == [None, None, 1]
    assert same_weights(training.averages["fawa"].module, training.model)


def test_where_no_epoch_passes_the_last_weights_stand_in_and_the_count_says_so():
    training = training_with(2, threshold=1.0)
    results = list(training)
    assert [result.metrics["train/accepted/fawa"] for result in results] == [0, 0]
    assert not any(name.endswith("_fawa") for name in results[0].kept)
    assert {"best_fawa", "last_fawa"} <= set(results[1].kept)
    assert same_weights(training.averages["fawa"].module, training.model)


def test_a_training_that_ends_early_with_nothing_accepted_keeps_the_weights_of_the_epoch_before(monkeypatch):
    """Fast-AT's collapse in epoch 1 of 3: last is epoch 0, and so is last_fawa, which no epoch has entered."""
    monkeypatch.setattr(FastAT, "collapsed", lambda *_: True)
    fawa = {"name": "fawa", "start_epoch": 0, "threshold": 1.0}
    one = trial("fast_at", method={"averaging": fawa}, epochs=3, attack={"steps": 1})
    training = Training(one, dataset(one))
    first = copy.deepcopy(next(iter(training)) and training.model.state_dict())
    (result,) = list(training)
    assert result.epoch == 1 and training.finished
    for name in ("last", "last_fawa"):
        assert all(torch.equal(result.kept[name][key], first[key]) for key in first)


def test_fawa_that_accepts_every_epoch_is_the_average_per_epoch():
    averages = [
        {"name": "fawa", "threshold": 0.0, "decay": 0.6, "start_epoch": 0},
        {"name": "ema", "every": "epoch", "decay": 0.6, "warmup": False},
    ]
    one = trial("at", method={"averaging": averages}, epochs=3)
    training = Training(one, dataset(one))
    list(training)
    assert same_weights(training.averages["fawa"].module, training.averages["ema"].module)


def test_the_worst_class_is_judged_on_held_out_images_also_where_the_test_set_selects(monkeypatch):
    with_worst(monkeypatch, [0.1, 0.9], prefix="held_out")
    fawa = {"name": "fawa", "start_epoch": 0}
    one = trial("at", method={"averaging": fawa}, selection={"on": "test", "steps": 2})
    assert [result.metrics["train/accepted/fawa"] for result in Training(one, dataset(one))] == [0, 1]


def test_fawa_without_held_out_images_is_refused():
    settings: dict[str, Any] = {"selection": {"on": "test", "steps": 2}, "data": {"validation": 0.0}}
    with pytest.raises(ValidationError, match="fawa looks at held-out images"):
        trial("at", method={"averaging": "fawa"}, **settings)


@pytest.mark.parametrize(
    ("key", "default", "allowed", "refused"),
    [
        ("decay", 0.85, [0, 0.99], [-0.01, 1]),
        ("threshold", 0.2, [0, 1], [-0.01, 1.01]),
        ("every", "epoch", ["epoch"], ["step"]),
        ("start_epoch", 50, [0], [-1]),
    ],
)
def test_its_parameters_have_their_defaults_and_ranges(key, default, allowed, refused):
    assert getattr(Fawa(), key) == default
    for value in allowed:
        assert getattr(Fawa(**{key: value}), key) == value
    for value in refused:
        with pytest.raises(ValidationError):
            Fawa(**{key: value})
