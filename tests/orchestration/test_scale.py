"""What is done per trial by plans, status and a sweep that finds nothing to do: the same at 25 trials as at 100.

Counted and not timed, so that a busy machine changes nothing; `python -m benchmarks.planning` has the seconds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from benchmarks.finished import finish, write_sweep
from ham_core import presets
from orchestration import estimate, tracking
from orchestration import sweep as sweeps
from orchestration.cli import planning
from orchestration.plan import plan
from orchestration.runner import run_sweep
from orchestration.status import remember, status
from orchestration.store import Store
from orchestration.sweep import Sweep, load_sweep
from tests.commands import ROOT
from tests.orchestration.keeping import ham

FEW, MANY = 20, 80
Swept = tuple[Sweep, Store]

# events of files -----------------------------------------------------------------------------------------------------

_watched: list[Callable[[str, str], None]] = []


def _hook(name: str, arguments: tuple[Any, ...]) -> None:
    if _watched and name in ("open", "os.scandir"):
        _watched[-1](name, str(arguments[0]))


sys.addaudithook(_hook)  # stays until the process ends, and does nothing where nobody watches


@contextlib.contextmanager
def opened_below(store: Store) -> Iterator[Counter[str]]:
    """How often each kind of file of the trial folders is opened: {"trial.json": 20, ...}."""
    found: Counter[str] = Counter()
    trials = str(store.path / "trials")

    def note(event: str, path: str) -> None:
        if event == "open" and path.startswith(trials):
            found[Path(path).name if "evaluations" not in path else "evaluation"] += 1

    with watched(note):
        yield found


@contextlib.contextmanager
def watched(note: Callable[[str, str], None]) -> Iterator[None]:
    """`note` is told of every file that is opened, and every folder that is listed."""
    _watched.append(note)
    try:
        yield
    finally:
        _watched.pop()


@contextlib.contextmanager
def statements() -> Iterator[list[str]]:
    """The SQL that MLflow sends."""
    found: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if not statement.lower().startswith("pragma"):
            found.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(Engine, "before_cursor_execute", note)


# stores --------------------------------------------------------------------------------------------------------------


def made(folder: Path, trials: int) -> Swept:
    """A store in which all of a sweep's trials are finished."""
    path = write_sweep(folder / "many.yaml", trials, epochs=4)
    text = path.read_text().replace("[clean, pgd2]", "[clean]") + "weights: [last]\n"
    path.write_text(text)
    sweep, store = load_sweep(path), Store(folder / "store")
    finish(sweep, store.path)
    remember(sweep, store, {})
    return sweep, store


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    return made(tmp_path_factory.mktemp("few"), FEW)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    return made(tmp_path_factory.mktemp("many"), MANY)


@pytest.fixture(scope="module")
def recorded(few: Swept, many: Swept) -> tuple[Swept, Swept]:
    """Both, with a complete record."""
    for sweep, store in (few, many):
        tracker = tracking.Tracker(tracking.default_uri(store.path), store.path)
        tracker.open_sweep(sweep)
        for planned in sweep.trials:
            tracker.sync(planned, store.folder(planned.fingerprint))
        tracker.close_sweep("FINISHED")
    return few, many


# expansion -----------------------------------------------------------------------------------------------------------


def test_seeds_share_the_reading_of_their_settings_and_presets_are_listed_once(tmp_path: Path) -> None:
    """80 trials are 16 points: 16 times are layers laid over each other, and the presets' folder is listed per preset."""
    path = write_sweep(tmp_path / "many.yaml", MANY)
    listed = Counter[str]()
    presets.load_preset.cache_clear()
    with (
        mock.patch.object(sweeps, "resolve", wraps=sweeps.resolve) as resolved,
        watched(lambda event, path: listed.update([path] if event == "os.scandir" else [])),
    ):
        sweep = load_sweep(path)
    assert len(sweep.trials) == MANY
    assert resolved.call_count == MANY // 5
    assert 1 <= listed[str(presets.FOLDER)] <= 4


# plans and status ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "look",
    [lambda sweep, store: plan(sweep, store.path), lambda sweep, store: status(store)],
    ids=["plan", "status"],
)
def test_a_trial_costs_the_same_number_of_files_in_a_large_store(
    look: Callable[[Sweep, Store], Any], few: Swept, many: Swept
) -> None:
    counts = []
    for sweep, store in (few, many):
        with opened_below(store) as found:
            look(sweep, store)
        assert found
        counts.append({name: number / len(sweep.trials) for name, number in found.items()})
    assert counts[0] == counts[1]
    assert counts[0].get("journal.jsonl", 0) <= 1
    assert sum(counts[0].values()) <= 12
    assert not {name for name in counts[0] if name.endswith((".pt", ".npz"))}


def test_what_is_missing_is_estimated_once_per_kind_of_training(many: Swept, tmp_path: Path) -> None:
    """Four methods are four objectives at most, however many trials are missing."""
    sweep, store = many
    elsewhere = plan(sweep, tmp_path)
    with mock.patch.object(estimate.statistics, "median", wraps=estimate.statistics.median) as median:
        cost = estimate.estimate(elsewhere, store)
    assert cost["seconds"] > 0
    assert median.call_count <= 4


def test_a_large_plan_lists_what_needs_something_and_counts_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "ALL_ROWS", 10)
    monkeypatch.setattr(planning, "MOST_ROWS", 6)
    path = write_sweep(tmp_path / "many.yaml", FEW)
    sweep, store = load_sweep(path), tmp_path / "store"
    begun, *others = sweep.trials[:8]
    finish(sweep, store, missing={one.fingerprint for one in others} - {sweep.trials[0].fingerprint})
    folder = Store(store).folder(begun.fingerprint)
    for name in ("done.json", "journal.jsonl"):
        (folder.path / name).unlink()
    code, out, err = ham("plan", path, "--store", store)
    assert code == 0, err
    rows = [line for line in out.splitlines() if line.startswith(("done", "partial", "missing"))]
    assert [row.split()[0] for row in rows] == ["partial"] + ["missing"] * 5
    assert "not listed: 2 more that need something and 12 that are done; --all lists every trial" in out
    assert f"{FEW} trials: 12 done, 1 half done, 7 missing" in out
    _, everything, _ = ham("plan", path, "--store", store, "--all")
    assert sum(line.startswith(("done", "partial", "missing")) for line in everything.splitlines()) == FEW
    assert "not listed" not in everything
    monkeypatch.setattr(planning, "ALL_ROWS", FEW)
    assert ham("plan", path, "--store", store)[1] == everything


# a sweep that finds nothing to do ------------------------------------------------------------------------------------


def test_a_sweep_with_nothing_to_do_asks_mlflow_the_same_few_questions_of_a_large_store(
    recorded: tuple[Swept, Swept], console: Any
) -> None:
    counts = []
    for sweep, store in recorded:
        with statements() as sent:
            outcome = run_sweep(sweep, store, tracking.default_uri(store.path), console=console)
        assert (outcome.reused, outcome.exit_code) == (len(sweep.trials), 0)
        counts.append(len(sent))
    assert counts[0] == counts[1] < 120


def test_a_sweep_with_nothing_to_do_builds_no_objects_of_the_values_in_the_record(
    recorded: tuple[Swept, Swept], console: Any
) -> None:
    """A trial has 100 of them and more; MLflow's own search would build one of each. Those of the sweep's parent are few."""
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam

    counts = []
    for sweep, store in recorded:
        built: list[Any] = []
        for kind in (SqlLatestMetric, SqlParam):
            event.listen(kind, "load", lambda one, context, built=built: built.append(one))
        run_sweep(sweep, store, tracking.default_uri(store.path), console=console)
        counts.append(len(built))
    assert counts[0] == counts[1] < FEW


@pytest.mark.slow
def test_a_sweep_with_nothing_to_do_imports_neither_ray_nor_torch(recorded: tuple[Swept, Swept]) -> None:
    sweep, store = recorded[0]
    script = (
        "import sys; from orchestration.cli import app\n"
        "try: app()\n"
        "except SystemExit as end: print(end.code)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, "sweep", sweep.source, "--store", str(store.path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    *_, code, modules = run.stdout.splitlines()
    assert code == "0", run.stderr
    assert "mlflow" in modules.split()
    assert not {"ray", "torch"} & set(modules.split())


def test_a_sweep_with_nothing_to_do_writes_a_lost_record_again(
    recorded: tuple[Swept, Swept], tmp_path: Path, console: Any
) -> None:
    sweep, full = recorded[0]
    store = Store(shutil.copytree(full.path, tmp_path / "store"))
    uri = tracking.default_uri(store.path)
    run_sweep(sweep, store, uri, console=console)
    before = {run.fingerprint: (run.status, run.metrics) for run in tracking.read_trials(uri, sweep.name)}
    lost = tracking.read_trials(uri, sweep.name)[3]
    tracking.client_of(uri).delete_run(lost.run_id)
    run_sweep(sweep, store, uri, console=console)
    after = {run.fingerprint: (run.status, run.metrics) for run in tracking.read_trials(uri, sweep.name)}
    assert after == before
    assert len(after) == FEW


def test_the_highest_accuracies_are_the_same_read_from_the_database_as_from_the_runs(
    recorded: tuple[Swept, Swept],
) -> None:
    sweep, store = recorded[1]
    uri = tracking.default_uri(store.path)
    runs = tracking.read_trials(uri, sweep.name)
    assert len(runs) == MANY
    from_runs = tracking._best(item for run in runs for item in run.metrics.items())
    ids = [run.run_id for run in runs]
    assert from_runs == tracking._best(tracking._accuracies_of_runs(tracking.client_of(uri), ids))
    assert set(from_runs) == {"last/clean/avg", "last/clean/worst"}
