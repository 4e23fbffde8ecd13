"""Eight processes log to one tracking database, and to one tracking server, at the same time: every value, once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.finished import finish, write_sweep
from ham_core.folder import TrialFolder
from orchestration import tracking
from orchestration.sweep import Sweep, load_sweep
from tests.commands import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # eight processes import MLflow

PROCESSES = 8
Point = tuple[str, str, int, float]  # fingerprint, metric, step, value

# What each of them does: wait for the others, then log its trials, twice over and first half done, as a sweep would.
LOGGER = f"""
import sys, time
from pathlib import Path
from ham_core.folder import TrialFolder
from orchestration.sweep import load_sweep
from orchestration.tracking import Tracker

uri, store, sweep, gate, every, number = sys.argv[1:]
sweep = load_sweep(sweep)
mine = sweep.trials[int(number) % int(every) :: int(every)]
Path(gate, number).touch()
while len(list(Path(gate).iterdir())) < {PROCESSES}:
    time.sleep(0.005)
tracker = Tracker(uri, store)
tracker.open_sweep(sweep)
for status in ("RUNNING", None):
    for planned in mine:
        tracker.sync(planned, TrialFolder.of(store, planned.fingerprint), status)
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    return load_sweep(write_sweep(tmp_path_factory.mktemp("sweep") / "many.yaml", 16, seeds=2, epochs=3))


@pytest.fixture(scope="module")
def store(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen finished trials and no record of them."""
    place = tmp_path_factory.mktemp("store")
    finish(sweep, place)
    return place


def log_at_once(uri: str, store: Path, sweep: Sweep, gate: Path, *, shared: bool) -> None:
    """Eight loggers, each with two trials of its own, or (`shared`) each two with the same four. None may fail."""
    gate.mkdir()
    every = PROCESSES // 2 if shared else PROCESSES
    loggers = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", LOGGER, uri, str(store), sweep.source, str(gate)),
                *(str(every), str(number)),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    try:
        said = [logger.communicate(timeout=300)[1] for logger in loggers]
    finally:
        for logger in loggers:
            logger.kill()
    for logger, text in zip(loggers, said, strict=True):
        assert logger.returncode == 0, text
        assert "database is locked" not in text, text


def expected(store: Path, sweep: Sweep) -> Counter[Point]:
    """Every point of every trial as it stands in the folders."""
    points: Counter[Point] = Counter()
    for planned in sweep.trials:
        folder, identity = TrialFolder.of(store, planned.fingerprint), planned.fingerprint
        records, last = folder.evaluations(), planned.trial.epochs - 1
        for record in folder.journal():
            points.update(
                (identity, tracking.metric_key(key), record["epoch"], value)
                for key, value in record["metrics"].items()
            )
        for record in records:
            points.update(
                (identity, tracking.metric_key(key), last, value) for key, value in record["metrics"].items()
            )
        images = {f"test/images/{key}": float(n) for record in records for key, n in record["images"].items()}
        points.update((identity, tracking.metric_key(key), last, value) for key, value in images.items())
        points[identity, "time/evaluate_s", len(records), sum(one["seconds"] for one in records)] += 1
    return points


def logged(database: Path) -> Counter[Point]:
    """Every stored point of every active trial run, with the fingerprint that the run carries."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "select tags.value, metrics.key, metrics.step, metrics.value from metrics "
            "join runs on runs.run_uuid = metrics.run_uuid and runs.lifecycle_stage = 'active' "
            "join tags on tags.run_uuid = metrics.run_uuid and tags.key = 'fingerprint'"
        )
        return Counter((identity, key, int(step), value) for identity, key, step, value in rows)


def runs(database: Path) -> Counter[tuple[str, str]]:
    """(fingerprint, status) of every active trial run."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return Counter(
            connection.execute(
                "select tags.value, runs.status from runs join tags on tags.run_uuid = runs.run_uuid "
                "and tags.key = 'fingerprint' where runs.lifecycle_stage = 'active'"
            ).fetchall()
        )


def check(database: Path, store: Path, sweep: Sweep) -> None:
    """None lost, none doubled, one finished run per trial, one parent."""
    wanted, found = expected(store, sweep), logged(database)
    assert len(wanted) > 16 * 100
    assert found - wanted == Counter()
    assert wanted - found == Counter()
    assert runs(database) == Counter({(one.fingerprint, "FINISHED"): 1 for one in sweep.trials})
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("select count(*) from tags where key = 'sweep'").fetchone() == (1,)
        assert connection.execute("select count(*) from experiments where name = 'digits'").fetchone() == (1,)


@pytest.mark.parametrize("shared", [False, True], ids=["trials of its own", "the same trials"])
def test_eight_processes_make_and_fill_one_database(
    shared: bool, sweep: Sweep, store: Path, tmp_path: Path
) -> None:
    database = tmp_path / "mlflow.db"
    log_at_once(f"sqlite:///{database}", store, sweep, tmp_path / "gate", shared=shared)
    check(database, store, sweep)


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """A real tracking server on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
            *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 90
        while not _answers(address):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_eight_processes_fill_one_tracking_server(sweep: Sweep, store: Path, tmp_path: Path) -> None:
    with server(tmp_path) as address:
        log_at_once(address, store, sweep, tmp_path / "gate", shared=False)
    check(tmp_path / "mlflow.db", store, sweep)


def test_eight_processes_log_the_same_trials_to_one_tracking_server(
    sweep: Sweep, store: Path, tmp_path: Path
) -> None:
    with server(tmp_path) as address:
        log_at_once(address, store, sweep, tmp_path / "gate", shared=True)
    check(tmp_path / "mlflow.db", store, sweep)
