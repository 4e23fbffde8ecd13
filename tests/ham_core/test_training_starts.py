"""Training from another trial's weights or state, in memory; class rates where mining lets examples go; moving rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ham_core.config import Trial, fingerprint
from ham_core.folder import TrialFolder
from ham_core.run import run_trial
from ham_core.training import EpochResult, Training, train
from tests.builders import dataset, trial

HAM: dict[str, Any] = {"name": "ham", "early_drop_step": 2}


def start(other: Trial, weights: str) -> dict[str, Any]:
    return {"trial": other.model_dump(mode="json"), "weights": weights}


def timeless(result: EpochResult) -> dict[str, float]:
    return {name: value for name, value in result.metrics.items() if not name.startswith("time/")}


def kept(results: list[EpochResult]) -> dict[str, dict[str, torch.Tensor]]:
    found: dict[str, dict[str, torch.Tensor]] = {}
    for result in results:
        found |= result.kept
    return found


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_fine_tuning_begins_with_exactly_the_kept_weights_of_the_other_trial():
    other = trial("trades", epochs=2)
    best = kept(list(train(other, dataset(other))))["best"]
    one = trial("at", epochs=1, optimizer={"lr": 1e-30}, start_from=start(other, "best"))
    (result,) = list(train(one, dataset(one)))
    parameters = dict(Training(one, dataset(one)).model.named_parameters())
    assert all(torch.equal(result.kept["last"][name], best[name]) for name in parameters)


def test_a_training_that_goes_on_from_the_state_of_its_warm_up_equals_one_that_trained_it_itself():
    alone = trial("at", HAM | {"start_epoch": 2}, epochs=4)
    expected = list(train(alone, dataset(alone)))
    warm_up = trial("at", epochs=2)
    shared = trial("at", HAM | {"start_epoch": 0}, epochs=4, start_from=start(warm_up, "state"))
    found = list(train(shared, dataset(shared)))
    assert [result.epoch for result in found] == [2, 3]
    assert [timeless(result) for result in found] == [timeless(result) for result in expected[2:]]
    assert equal(kept(found)["last"], kept(expected)["last"])
    assert fingerprint(shared) != fingerprint(alone)


def test_a_chain_of_starts_is_trained_from_its_beginning():
    first = trial("trades", epochs=1)
    second = trial("at", epochs=1, start_from=start(first, "last"))
    third = trial("at", epochs=1, seed=3, optimizer={"lr": 1e-30}, start_from=start(second, "last"))
    (result,) = list(train(third, dataset(third)))
    expected = kept(list(train(second, dataset(second))))["last"]
    parameters = dict(Training(third, dataset(third)).model.named_parameters())
    assert all(torch.equal(result.kept["last"][name], expected[name]) for name in parameters)


def test_killed_in_the_middle_of_the_take_over_the_same_call_continues(tmp_path: Path, monkeypatch):
    warm_up = trial("at", epochs=2)
    one = trial("at", epochs=4, start_from=start(warm_up, "state"))
    real = TrialFolder.append

    def ran(which: Trial) -> TrialFolder:
        folder = TrialFolder.of(tmp_path, which)
        list(run_trial(which, folder))
        return folder

    def dies(self: TrialFolder, record: dict[str, Any]) -> None:
        if self.path.name == fingerprint(one) and record["epoch"] == 1:
            raise KeyboardInterrupt
        real(self, record)

    ran(warm_up)
    monkeypatch.setattr(TrialFolder, "append", dies)
    with pytest.raises(KeyboardInterrupt):
        ran(one)
    monkeypatch.setattr(TrialFolder, "append", real)
    folder = ran(one)
    assert [record["epoch"] for record in folder.journal()] == [0, 1, 2, 3]
    assert equal(folder.weights("last"), ran(trial("at", epochs=4)).weights("last"))


def test_class_rates_count_the_easy_examples_that_mining_lets_go_as_right():
    """HAM drops who is still right at step m: of N images at least the N - |H| easy ones are right."""
    one = trial("at", HAM | {"start_epoch": 0}, epochs=1, optimizer={"lr": 1e-30})
    training = Training(one, dataset(one))
    (result,) = list(training)
    n = len(training.dataset.train)
    hard = result.metrics["train/hard_share/all"] * n
    right = result.metrics["train/robust/all"] * n
    assert 0 < hard < n
    assert right == pytest.approx(round(right)) and n - hard - 1e-6 <= right <= n


def test_an_interpolated_learning_rate_moves_with_every_step():
    one = trial(
        "at",
        epochs=2,
        optimizer={"lr": 1.0, "momentum": 0.0},
        schedule={"shape": "linear", "milestones": [0, 2], "factors": [0.0, 0.2]},
    )
    training = Training(one, dataset(one))
    seen: list[float] = []
    real = training.optimizer.step

    def step() -> None:
        seen.append(training.optimizer.param_groups[0]["lr"])
        real()

    training.optimizer.step = step  # type: ignore[method-assign]
    list(training)
    batches = -(-len(training.dataset.train) // one.batch_size)
    assert seen == pytest.approx([0.1 * step / batches for step in range(2 * batches)])
