"""The interface of an average, and what every average keeps: its state."""

from __future__ import annotations

import io

import torch

from ham_core.averaging.base import Averaging
from ham_core.averaging.ema import Ema
from ham_core.training import EpochResult, Training
from tests.builders import dataset, same_weights, trial


class Half(Averaging):
    name = "half"
    source = "a test"

    def rate(self, updates: int) -> float:
        return 0.5


def timeless(result: EpochResult) -> dict[str, float]:
    return {name: value for name, value in result.metrics.items() if not name.startswith("time/")}


def test_an_average_is_kept_under_its_label_or_its_name():
    assert Half().key == "half"
    assert Half(label="slow").key == "slow"


def test_an_average_takes_every_step_and_every_epoch_unless_it_says_otherwise():
    assert Half().accepts(0.0) is True
    assert Half().every == "step" and Half().start_epoch == 0


def test_averages_broken_after_any_epoch_continue_bit_for_bit():
    averages = [
        "ema",
        {"name": "ema", "label": "epochs", "every": "epoch", "start_epoch": 1},
        "seat",
        {"name": "fawa", "threshold": 0.0, "start_epoch": 0},
        {"name": "fawa", "label": "never", "threshold": 1.0, "start_epoch": 0},
    ]
    one = trial("at", method={"averaging": averages}, epochs=3)
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
    assert [sorted(result.kept) for result in results] == [sorted(result.kept) for result in expected]
    assert broken.accepted == unbroken.accepted
    assert (broken.accepted["fawa"], broken.accepted["never"]) == (3, 0)
    for key, average in unbroken.averages.items():
        assert same_weights(average.module, broken.averages[key].module)
        assert torch.equal(average.n_averaged, broken.averages[key].n_averaged)


def test_an_average_begins_with_a_copy_at_its_start_epoch():
    averages = [{"name": "ema", "every": "epoch", "decay": 0.5, "warmup": False, "start_epoch": 1}]
    one = trial("at", method={"averaging": averages}, epochs=3)
    training = Training(one, dataset(one))
    results = iter(training)
    assert not any(name.endswith("_ema") for name in next(results).kept)
    assert int(training.averages["ema"].n_averaged) == 0
    assert "best_ema" in next(results).kept
    assert same_weights(training.averages["ema"].module, training.model)
    next(results)
    assert not same_weights(training.averages["ema"].module, training.model)


def test_an_average_per_step_and_one_per_epoch_count_their_own_moments():
    averages = [Ema(decay=0.5), Ema(label="epochs", every="epoch", decay=0.5)]
    one = trial("at", method={"averaging": averages})
    training = Training(one, dataset(one))
    list(training)
    batches = -(-len(training.dataset.train) // one.batch_size)
    assert int(training.averages["ema"].n_averaged) == 2 * batches
    assert int(training.averages["epochs"].n_averaged) == 2
