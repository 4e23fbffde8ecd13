"""`ham sweep` as a person runs it: from a YAML file to MLflow, twice, extended, killed, interrupted. Real Ray, real MLflow."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ham_core.folder import TrialFolder
from ham_core.metrics import summarize
from orchestration import tracking
from tests.commands import ham, start

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]

SWEEP = """\
title: Four small trials
trial:
  data: {name: digits, train_limit: 200, test_limit: 60}
  model: {name: small_cnn, width: 0.5}
  epsilon: 0.2
  attack: {steps: 3, mode: eval}
  epochs: 12
  batch_size: 64
  selection.steps: 2
grid:
  methods: {method: [at, ham-official]}
seeds: [0, 1]
evaluate: [clean, pgd2]
"""


def journals(store: Path) -> dict[str, int]:
    """fingerprint -> recorded epochs."""
    found = (store / "trials").glob("*/journal.jsonl")
    return {path.parent.name: len(path.read_bytes().splitlines()) for path in found}


def results(store: Path) -> dict[str, Any]:
    """fingerprint -> (status, metrics without seconds, params) of every trial run; each trial has one."""
    runs = tracking.read_trials(tracking.default_uri(store), "small")
    assert len({run.fingerprint for run in runs}) == len(runs)
    return {
        run.fingerprint: (
            run.status,
            {key: value for key, value in run.metrics.items() if not key.startswith("time/")},
            run.params,
        )
        for run in runs
    }


def repeated_points(store: Path) -> list[Any]:
    """Metrics that have two points at one step."""
    connection = sqlite3.connect(store / "mlflow.db")
    query = "select run_uuid, key, step, count(*) from metrics group by 1, 2, 3 having count(*) > 1"
    found = connection.execute(query).fetchall()
    connection.close()
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.yaml and the store of an unbroken sweep."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SWEEP, encoding="utf-8")
    code, out, err = ham(folder, "sweep", "small.yaml", "--store", "store")
    assert code == 0, err
    assert "small: 4 trained, 0 reused, 0 failed" in out
    assert "ham report --store store" in out
    assert "epoch 12/12" in err
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The finished folder, to be changed. Its record is made anew, because it names its artifacts by their old place."""
    shutil.copytree(finished, tmp_path / "copy")
    for path in (tmp_path / "copy" / "store").glob("mlflow.db*"):
        path.unlink()
    return tmp_path / "copy"


def test_a_sweep_ends_in_one_finished_nested_run_per_trial(finished: Path) -> None:
    store = finished / "store"
    (sweep,) = tracking.read_sweeps(tracking.default_uri(store))
    runs = tracking.read_trials(tracking.default_uri(store), "small")
    assert sorted(run.fingerprint for run in runs) == sorted(one.fingerprint for one in sweep.planned)
    assert {run.status for run in runs} == {"FINISHED"}
    assert {run.tags["mlflow.parentRunId"] for run in runs} == {sweep.run_id}
    assert {run.experiment for run in runs} == {"digits"}
    assert {run.tags["protocol"] for run in runs} == {"standard"}
    assert repeated_points(store) == []


def test_recorded_epochs_and_accuracies_are_those_of_the_trial_folders(finished: Path) -> None:
    store = finished / "store"
    for run in tracking.read_trials(tracking.default_uri(store), "small"):
        folder = TrialFolder.of(store, run.fingerprint)
        history = tracking.read_history(tracking.default_uri(store), [run.run_id], "val/pgd2/worst")
        journal = folder.journal()
        assert list(history["epoch"]) == list(range(12))
        assert list(history["value"]) == [record["metrics"]["val/pgd2/worst"] for record in journal]
        for record in folder.evaluations():
            arrays = folder.predictions(record["fingerprint"])
            expected = summarize(arrays["label"], arrays["prediction"] == arrays["label"], record["classes"])
            prefix = f"{record['weights']}/{record['attack_name']}"
            assert {key: run.metrics[f"{prefix}/{key}"] for key in expected} == expected


def test_a_second_sweep_trains_nothing_and_is_quick(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "store" / "trials").rglob("*")}
    started = time.perf_counter()
    code, out, _ = ham(finished, "sweep", "small.yaml", "--store", "store")
    seconds = time.perf_counter() - started
    assert code == 0
    assert "small: 0 trained, 4 reused, 0 failed" in out
    assert {path: path.stat().st_mtime_ns for path in (finished / "store" / "trials").rglob("*")} == before
    assert seconds < 20, "10 s on a quiet machine"


def test_one_more_grid_value_trains_only_the_new_trials(copied: Path) -> None:
    longer = SWEEP.replace("[at, ham-official]", "[at, ham-official, trades]")
    (copied / "small.yaml").write_text(longer, encoding="utf-8")
    code, out, _ = ham(copied, "plan", "small.yaml", "--store", "store", "--json")
    assert code == 0
    statuses = [one["status"] for one in json.loads(out)["trials"]]
    assert sorted(statuses) == ["done"] * 4 + ["missing"] * 2
    before = {path: path.stat().st_mtime_ns for path in (copied / "store" / "trials").glob("*/journal.jsonl")}
    code, out, err = ham(copied, "sweep", "small.yaml", "--store", "store")
    assert code == 0, err
    assert "small: 2 trained, 4 reused, 0 failed" in out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(results(copied / "store")) == 6


def test_killed_and_interrupted_sweeps_continue_to_exactly_the_same_results(
    finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "small.yaml").write_text(SWEEP, encoding="utf-8")
    store = tmp_path / "store"
    command = ("sweep", "small.yaml", "--store", "store")

    process = start(tmp_path, *command)
    wait_for_epochs(process, store, 3)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    killed_at = journals(store)
    assert 0 < sum(killed_at.values()) < 48

    process = start(tmp_path, *command)
    wait_for_epochs(process, store, sum(killed_at.values()) + 3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: Ray's own processes get it too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in out
    assert "Traceback" not in err
    assert {status for status, _, _ in results(store).values()} <= {"KILLED", "FINISHED"}
    code, out, _ = ham(tmp_path, "status", "--store", "store", "--json")
    assert code == 0
    assert {one["status"] for one in json.loads(out)["sweeps"][0]["trials"]} <= {"done", "partial", "missing"}

    code, out, err = ham(tmp_path, *command)
    assert code == 0, err
    assert results(store) == results(finished / "store")
    assert {status for status, _, _ in results(store).values()} == {"FINISHED"}
    assert set(journals(store).values()) == {12}
    assert repeated_points(store) == []


def wait_for_epochs(process: subprocess.Popen[str], store: Path, epochs: int) -> None:
    """Until the sweep has recorded that many epochs."""
    deadline = time.monotonic() + 90
    while sum(journals(store).values()) < epochs:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_every_problem_of_a_wrong_request_is_a_sentence(tmp_path: Path) -> None:
    wrong = SWEEP.replace("[at, ham-official]", "[at, ham-oficial]").replace(
        "batch_size: 64", "batch_sise: 64"
    )
    (tmp_path / "wrong.yaml").write_text(wrong.replace("seeds: [0, 1]", "seeds: [0, 0]"), encoding="utf-8")
    code, out, err = ham(tmp_path, "sweep", "wrong.yaml")
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert len(err.splitlines()) == 3
    for words in (
        "wrong.yaml:11",
        "'ham-oficial'",
        "did you mean ham-official?",
        "'batch_sise'",
        "seed 0 is given twice",
    ):
        assert words in err
    assert not (tmp_path / "outputs").exists()


def test_report_of_a_finished_sweep_names_the_page_and_the_ui(finished: Path, tmp_path: Path) -> None:
    code, out, err = ham(finished, "report", "--store", "store", "--out", str(tmp_path / "out"))
    assert code == 0, err
    assert "HTML report:" in out
    assert "ham ui --store store" in out
    assert (tmp_path / "out" / "index.html").exists()
