"""Stopping early: what the rules are told, which trials they may end, and what becomes of those everywhere."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.tune.schedulers import TrialScheduler
from rich.console import Console

from ham_core.errors import RequestError
from ham_core.folder import TrialFolder
from ham_core.run import run_trial
from ham_core.scores import selection_images
from orchestration import tracking
from orchestration.engine import Relay
from orchestration.plan import plan
from orchestration.runner import Outcome, Resources, run_sweep
from orchestration.search import points_of
from orchestration.space import Proposal, Stop
from orchestration.status import remember, status
from orchestration.stopping import Stopper
from orchestration.store import Store
from orchestration.sweep import Planned, Sweep, load_sweep, with_points
from reports.builder import materials, write
from reports.spec import load_specs
from tests.orchestration.keeping import ham

SWEEP = """\
trial:
  data: {name: digits, train_limit: 200, test_limit: 60}
  model: {name: small_cnn, width: 0.5}
  epsilon: 0.2
  method: at
  attack: {steps: 2, mode: eval}
  epochs: 8
  batch_size: 64
  selection.steps: 2
grid:
  rates:
    optimizer.lr: [0.4, 0.00001, 0.00002]
seeds: 0
evaluate: clean
weights: best
stop: {by: asha, grace: 4, reduction: 2}
"""
SPEC = """\
# Which rate is best?
# ham report rates
title: The rates
caption: Of a few rates.
trials: {grid: rates}
rows: {by: optimizer.lr, title: Rate}
columns:
  - {group: Clean, title: average, metric: best/clean/avg}
"""


def load(path: Path, *sets: str) -> Sweep:
    (path / "rates.yaml").write_text(SWEEP, encoding="utf-8")
    return load_sweep(path / "rates.yaml", sets=sets)


def train(store: Store, planned: Planned, accuracies: list[float]) -> None:
    """A journal in which all classes have these accuracies, epoch by epoch."""
    folder = store.folder(planned.fingerprint)
    folder.create(planned.trial)
    for value in accuracies:
        epoch = folder.epochs_done()
        metrics = {f"val/pgd2/{key}": value for key in selection_images(planned.trial)}
        folder.append({"epoch": epoch, "timestamp": 1.0, "metrics": metrics | {"val/pgd2/avg": value}})


def ask(stopper: Stopper, planned: Planned, kind: str = "epoch") -> bool:
    """Whether the trial is ended after its last epoch."""
    told = SimpleNamespace(
        trial_id=f"tune-{planned.fingerprint[:6]}", config={"job": {"fingerprint": planned.fingerprint}}
    )
    return stopper.on_trial_result(None, told, {"kind": kind}) == TrialScheduler.STOP


@pytest.fixture
def place(tmp_path: Path) -> tuple[Store, tuple[Planned, ...]]:
    """A store, and six trials of eight epochs."""
    rates = "grid.rates.optimizer.lr=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]"
    return Store(tmp_path / "store"), load(tmp_path, rates).trials


def begin(store: Store, trials: tuple[Planned, ...], **stop: Any) -> Stopper:
    rule = Stop.model_validate({"by": "asha", "grace": 2, "reduction": 2} | stop)
    return Stopper(rule, store, {one.fingerprint: one for one in trials}, trials)


# the rules -----------------------------------------------------------------------------------------------------------


def test_asha_ends_what_is_below_the_best_half_at_a_rung_and_only_there(place: Any) -> None:
    store, trials = place
    stopper = begin(store, trials)
    train(store, trials[0], [0.5])
    assert not ask(stopper, trials[0])
    train(store, trials[0], [0.5])
    assert not ask(stopper, trials[0]), "the first at a rung has nothing to be compared with"
    train(store, trials[1], [0.1])
    assert not ask(stopper, trials[1]), "within its grace"
    train(store, trials[1], [0.1])
    assert ask(stopper, trials[1])
    assert stopper.stopped == {f"tune-{trials[1].fingerprint[:6]}"}
    train(store, trials[2], [0.1, 0.6])
    assert not ask(stopper, trials[2])
    assert stopper.errors == []


def test_the_worst_class_decides_and_not_the_mean(place: Any) -> None:
    store, trials = place
    stopper = begin(store, trials)
    train(store, trials[0], [0.5, 0.5])
    assert not ask(stopper, trials[0])
    folder, keys = store.folder(trials[1].fingerprint), list(selection_images(trials[1].trial))
    folder.create(trials[1].trial)
    uneven = {f"val/pgd2/{key}": 0.0 if key == keys[3] else 0.9 for key in keys} | {"val/pgd2/avg": 0.81}
    for epoch in range(2):
        folder.append({"epoch": epoch, "timestamp": 1.0, "metrics": uneven})
    assert ask(stopper, trials[1]), "its mean is much higher"


def test_what_earlier_runs_have_trained_and_what_was_taken_over_is_known(place: Any) -> None:
    store, trials = place
    train(store, trials[0], [0.5] * 8)
    train(store, trials[1], [0.3, 0.3, 0.3])
    stopper = begin(store, trials)
    train(store, trials[1], [0.3])
    assert ask(stopper, trials[1]), "against the trial of the earlier run, at epoch 4"
    fresh = begin(store, trials)
    train(store, trials[3], [0.6, 0.6, 0.6])
    assert not ask(fresh, trials[3]), "three epochs at once: it stands at the first rung as it stood there"


def test_the_median_rule_ends_what_is_below_the_median_of_the_others(place: Any) -> None:
    store, trials = place
    stopper = begin(store, trials, by="median")
    for index, value in enumerate((0.3, 0.4, 0.5)):
        train(store, trials[index], [value] * 3)
        assert not ask(stopper, trials[index]), "fewer than three others"
    train(store, trials[3], [0.1])
    assert not ask(stopper, trials[3]), "within its grace"
    train(store, trials[3], [0.1, 0.1])
    assert ask(stopper, trials[3])
    train(store, trials[4], [0.1, 0.45, 0.45])
    assert not ask(stopper, trials[4])


@pytest.mark.parametrize("by", ["asha", "median"])
def test_a_trial_that_has_its_last_epoch_is_not_ended_and_events_that_are_no_epochs_end_nothing(
    place: Any, by: str
) -> None:
    store, trials = place
    stopper = begin(store, trials, by=by, grace=8)
    for index in range(4):
        train(store, trials[index], [0.5] * 8)
        assert not ask(stopper, trials[index])
    train(store, trials[4], [0.1] * 8)
    assert not ask(stopper, trials[4])
    other = begin(store, trials, by=by)
    train(store, trials[5], [0.0, 0.0])
    assert not ask(other, trials[5], "trained")
    assert not ask(other, trials[5], "evaluated")
    assert ask(other, trials[5])


def test_a_trial_that_another_one_starts_from_is_not_ended(tmp_path: Path) -> None:
    start = {"method: at": "method: at\n  start_from: {method: trades, weights: last}"}
    text = SWEEP.replace(*next(iter(start.items())))
    (tmp_path / "starting.yaml").write_text(text, encoding="utf-8")
    trials = load_sweep(tmp_path / "starting.yaml").trials
    assert not trials[0].grids
    store = Store(tmp_path / "store")
    stopper = begin(store, trials)
    train(store, trials[1], [0.5, 0.5])
    assert not ask(stopper, trials[1])
    train(store, trials[0], [0.1, 0.1])
    assert not ask(stopper, trials[0])


def test_what_cannot_be_judged_goes_on_and_is_told(place: Any) -> None:
    store, trials = place
    stopper = begin(store, trials)
    folder = store.folder(trials[0].fingerprint)
    folder.create(trials[0].trial)
    folder.append({"epoch": 0, "timestamp": 1.0, "metrics": {}})
    assert not ask(stopper, trials[0])
    assert "val/pgd2" in stopper.errors[0] or "ValueError" in stopper.errors[0]


def test_an_interrupt_is_no_early_stop() -> None:
    """Both end a Tune trial without a last word of its worker."""
    told: list[tuple[Any, ...]] = []
    dispatcher: Any = SimpleNamespace(ended=lambda *words: told.append(words))
    stopper: Any = SimpleNamespace(stopped={"one"}, stop=SimpleNamespace(by="asha"))
    relay = Relay(dispatcher, stopper)
    trials = {
        name: SimpleNamespace(trial_id=name, config={"job": {"fingerprint": name * 2}})
        for name in ("one", "two")
    }
    for trial in trials.values():
        relay.on_trial_complete(0, [], trial)
    assert told == [("oneone", "stopped", "asha")]


# what becomes of a stopped trial -------------------------------------------------------------------------------------


def test_a_stopped_trial_is_stopped_for_its_own_sweep_and_half_done_for_others(tmp_path: Path) -> None:
    store, sweep = Store(tmp_path / "store"), load(tmp_path)
    train(store, sweep.trials[0], [0.5] * 4)
    folder = store.folder(sweep.trials[0].fingerprint)
    folder.stop({"epoch": 4, "epochs": 8, "rule": "asha", "sweep": "rates"})
    step = plan(sweep, store.path).steps[0]
    assert (step.status, step.why, step.epochs_left) == ("stopped", "stopped by asha after 4 of 8 epochs", 0)
    assert plan(sweep, store.path).summary == {
        "trials": 3,
        "done": 0,
        "stopped": 1,
        "partial": 0,
        "missing": 2,
    }
    assert [one.planned.fingerprint for one in plan(sweep, store.path).todo] == [
        one.fingerprint for one in sweep.trials[1:]
    ]
    without = plan(load(tmp_path, "stop=none"), store.path).steps[0]
    assert (without.status, without.epochs_left) == ("partial", 4)
    (tmp_path / "other.yaml").write_text(SWEEP, encoding="utf-8")
    other = plan(load_sweep(tmp_path / "other.yaml"), store.path).steps[0]
    assert (other.status, other.why) == ("partial", "4 of 8 epochs trained")
    remember(sweep, store, {})
    (told,) = status(store)["sweeps"]
    assert told["counts"]["stopped"] == 1
    assert told["left"]["epochs"] == 16


def test_a_stopped_point_of_a_search_counts_with_what_it_reached_and_is_not_among_the_best(
    tmp_path: Path,
) -> None:
    text = SWEEP[: SWEEP.index("grid:")] + SWEEP[SWEEP.index("seeds:") :]
    (tmp_path / "rates.yaml").write_text(
        text + "search: {points: 2, space: {optimizer.lr: [0.1, 0.2]}}\n", encoding="utf-8"
    )
    sweep = with_points(
        load_sweep(tmp_path / "rates.yaml"),
        [Proposal(number, {"optimizer.lr": rate}) for number, rate in enumerate((0.1, 0.2))],
    )
    store = Store(tmp_path / "store")
    train(store, sweep.trials[0], [0.9] * 4)
    store.folder(sweep.trials[0].fingerprint).stop(
        {"epoch": 4, "epochs": 8, "rule": "asha", "sweep": "rates"}
    )
    train(store, sweep.trials[1], [0.9] * 4)
    stopped, still_open = points_of(sweep, store, {})
    assert (stopped.state, stopped.avg, still_open.state) == ("stopped", 0.9, "open")


# with Ray ------------------------------------------------------------------------------------------------------------


def run(sweep: Sweep, store: Store) -> tuple[Outcome, str]:
    console = Console(file=io.StringIO(), width=200)
    uri = tracking.default_uri(store.path)
    outcome = run_sweep(sweep, store, uri, resources=Resources(concurrent=1), console=console)
    return outcome, console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, ray_runs: Any) -> tuple[Path, Store, Outcome, str]:
    """A grid of a good rate and two hopeless ones, run once."""
    path = tmp_path_factory.mktemp("stopping")
    store = Store(path / "store")
    return path, store, *run(load(path), store)


@pytest.mark.ray
@pytest.mark.slow
class TestWithRay:
    """In this order: the last one goes on with what was stopped."""

    def test_the_hopeless_are_stopped_and_the_winner_is_trained_to_its_end(self, swept: Any) -> None:
        path, store, outcome, shown = swept
        best, *hopeless = load(path).trials
        assert (outcome.exit_code, outcome.done, outcome.stopped) == (0, [best.fingerprint], 2)
        assert "stopped early" in shown
        for planned in hopeless:
            folder = store.folder(planned.fingerprint)
            assert folder.stopped() == {"epoch": 4, "epochs": 8, "rule": "asha", "sweep": "rates"}
            assert folder.epochs_done() == 4
            assert folder.evaluations() == []

    def test_the_record_says_so(self, swept: Any) -> None:
        store = swept[1]
        runs = tracking.read_trials(tracking.default_uri(store.path), "rates")
        assert sorted(run.status for run in runs) == ["FINISHED", "KILLED", "KILLED"]
        assert [run.tags.get("stopped") for run in runs if run.status == "KILLED"] == [
            "stopped by asha after 4 of 8 epochs"
        ] * 2

    def test_the_commands_say_so(self, swept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        path, store, _, _ = swept
        monkeypatch.chdir(path)
        _, out, _ = ham("plan", "rates.yaml", "--store", store.path)
        assert out.count("stopped by asha after 4 of 8 epochs") == 2
        assert "3 trials: 1 done, 0 half done, 0 missing, 2 stopped early; 0 epochs left" in out
        _, out, _ = ham("status", "rates", "--store", store.path)
        assert "rates: 3 trials: 1 done, 2 stopped" in out

    def test_they_stay_out_of_every_table(self, swept: Any, tmp_path: Path) -> None:
        store = swept[1]
        (tmp_path / "rates.yaml").write_text(SPEC, encoding="utf-8")
        specs = list(load_specs(tmp_path).values())
        sources = materials(tracking.default_uri(store.path))
        built = write(sources, specs, tmp_path / "out")
        with open(tmp_path / "out" / "rates" / "rates.csv", newline="") as file:
            cells = {row["row"]: (row["n"], row["mean"], row["waits_for"]) for row in csv.DictReader(file)}
        for rate in ("1e-05", "2e-05"):
            words = f"{rate}: waits for seed 0 (stopped by asha after 4 of 8 epochs)"
            assert cells[rate] == ("0", "", words)
            assert f"rates/rates: {words}" in built.waiting
        assert cells["0.4"][0] == "1" and float(cells["0.4"][1]) > 0
        rows = (tmp_path / "out" / "rates" / "trials.csv").read_text().splitlines()[1:]
        assert rows and all('""optimizer.lr"": 0.4' in row for row in rows)
        with pytest.raises(RequestError) as caught:
            write(sources, specs, tmp_path / "strict", strict=True, named=True)
        assert "2 missing" in str(caught.value)

    def test_the_same_sweep_leaves_them_and_one_without_stop_trains_them_to_the_end_bit_for_bit(
        self, swept: Any, tmp_path: Path
    ) -> None:
        path, store, _, _ = swept
        before = {file: file.read_bytes() for file in store.path.glob("trials/*/journal.jsonl")}
        again, _ = run(load(path), store)
        assert (again.exit_code, again.done, again.reused, again.stopped) == (0, [], 1, 2)
        assert {file: file.read_bytes() for file in store.path.glob("trials/*/journal.jsonl")} == before

        to_the_end, _ = run(load(path, "stop=none"), store)
        assert (to_the_end.exit_code, len(to_the_end.done), to_the_end.stopped) == (0, 2, 0)
        runs = tracking.read_trials(tracking.default_uri(store.path), "rates")
        assert [(run.status, "stopped" in run.tags) for run in runs] == [("FINISHED", False)] * 3
        planned = load(path).trials[1]
        alone = TrialFolder.of(tmp_path / "alone", planned.trial)
        list(run_trial(planned.trial, alone))
        went_on = store.folder(planned.fingerprint)
        assert not (went_on.path / "stopped.json").exists()
        assert [metrics_of(one) for one in went_on.journal()] == [metrics_of(one) for one in alone.journal()]
        ours, theirs = went_on.weights("last"), alone.weights("last")
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def metrics_of(record: Mapping[str, Any]) -> dict[str, float]:
    """What does not depend on the clock."""
    return {key: value for key, value in record["metrics"].items() if not key.startswith("time/")}
