"""One MLflow run per trial for ever, rebuilt from the trial folder at any time."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ham_core.commit import commit
from ham_core.config import fingerprint
from ham_core.errors import RequestError
from ham_core.folder import TrialFolder
from ham_core.metrics import summarize
from ham_core.protocol import Evaluation
from ham_core.run import run_trial
from orchestration import tracking
from orchestration.sealed_runs import seal_of
from orchestration.sweep import load_sweep
from orchestration.tracking import Single, Tracker
from tests.builders import trial
from tests.predictions import miss_one_more

EVALUATIONS = tuple(
    Evaluation.model_validate({"weights": weights, "attack": attack})
    for weights in ("best", "last")
    for attack in ("clean", "pgd2")
)
ONE = trial()
JOB = Single(ONE, fingerprint(ONE), EVALUATIONS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one complete trial and no record of it."""
    store = tmp_path_factory.mktemp("trained")
    list(run_trial(ONE, TrialFolder.of(store, ONE), EVALUATIONS, device="cpu"))
    return store


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs: making one takes seconds."""
    store = tmp_path_factory.mktemp("database")
    Tracker(tracking.default_uri(store), store)
    connection = sqlite3.connect(store / "mlflow.db")
    assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    return store / "mlflow.db"


@pytest.fixture
def store(trained: Path, empty_database: Path, tmp_path: Path) -> Path:
    """A store of its own for a test."""
    place = tmp_path / "store"
    shutil.copytree(trained, place)
    shutil.copy(empty_database, place / "mlflow.db")
    return place


def open_tracker(store: Path) -> Tracker:
    return Tracker(tracking.default_uri(store), store)


def folder_of(store: Path) -> TrialFolder:
    return TrialFolder.of(store, ONE)


def only_run(store: Path) -> Any:
    """The one active trial run of the database."""
    client = tracking.client_of(tracking.default_uri(store))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments, "tags.kind = 'trial'")
    return run


def points(store: Path) -> list[tuple[str, int]]:
    """(metric, step) of every stored point."""
    connection = sqlite3.connect(store / "mlflow.db")
    found = connection.execute("select run_uuid || key, step from metrics order by 1, 2").fetchall()
    connection.close()
    return found


def artifact(store: Path, name: str) -> Any:
    (path,) = (store / "artifacts").glob(f"*/*/artifacts/{name}")
    return json.loads(path.read_text()) if name.endswith(".json") else path


def test_a_complete_trial_becomes_one_finished_run_with_all_it_knows(store: Path) -> None:
    open_tracker(store).sync(JOB, folder_of(store))
    run = only_run(store)
    assert run.info.status == "FINISHED"
    assert run.data.tags["fingerprint"] == fingerprint(ONE)
    assert run.data.tags["data"] == "digits"
    assert "torch" in json.loads(run.data.tags["versions"])
    assert run.data.tags.get(tracking.COMMIT) == commit()  # None where the tests run outside a checkout
    assert run.data.params["method.objective.name"] == "at"
    assert run.data.params["epsilon"] == "0.2"
    assert run.data.params["data.label"] == "digits"
    assert run.data.metrics["time/evaluate_s"] > 0
    assert run.data.metrics["test/images/03_3"] == 6
    assert artifact(store, "trial.yaml").stat().st_size > 0


def test_logged_accuracies_equal_those_of_the_stored_predictions(store: Path) -> None:
    open_tracker(store).sync(JOB, folder_of(store))
    metrics = only_run(store).data.metrics
    for record in folder_of(store).evaluations():
        arrays = folder_of(store).predictions(record["fingerprint"])
        expected = summarize(arrays["label"], arrays["prediction"] == arrays["label"], record["classes"])
        prefix = f"{record['weights']}/{record['attack_name']}"
        assert {key: metrics[f"{prefix}/{key}"] for key in expected} == expected


def test_the_class_wise_table_and_the_confusion_matrices_are_artifacts(store: Path) -> None:
    open_tracker(store).sync(JOB, folder_of(store))
    table = artifact(store, "classwise.json")
    assert table["columns"] == ["class", "images", "best/clean", "best/pgd2", "last/clean", "last/pgd2"]
    assert [row[0] for row in table["data"]] == [f"{c:02d}_{c}" for c in range(10)]
    metrics = only_run(store).data.metrics
    assert table["data"][3][3] == metrics["best/pgd2/03_3"]
    confusion = artifact(store, "confusion_best_pgd2.json")
    assert [sum(row[1:]) for row in confusion["data"]] == [6] * 10
    assert artifact(store, "confusion_best_pgd2.png").read_bytes()[:4] == b"\x89PNG"


def test_every_epoch_is_logged_once_however_often_it_is_synced(store: Path) -> None:
    tracker = open_tracker(store)
    journal = folder_of(store).path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    done = folder_of(store).path / "done.json"
    kept = done.read_bytes()
    done.unlink()
    journal.write_bytes(lines[0])
    tracker.sync(JOB, folder_of(store), "RUNNING")
    assert only_run(store).info.status == "RUNNING"
    journal.write_bytes(b"".join(lines))
    done.write_bytes(kept)
    for each in (tracker, open_tracker(store), open_tracker(store)):
        each.sync(JOB, folder_of(store))
    found = points(store)
    assert len(found) == len(set(found))
    history = tracking.read_history(tracking.default_uri(store), [only_run(store).info.run_id], "train/loss")
    assert list(history["epoch"]) == [0, 1]


def test_a_crash_between_logging_and_noting_it_repeats_no_point(store: Path) -> None:
    open_tracker(store).sync(JOB, folder_of(store))
    before = points(store)
    client = tracking.client_of(tracking.default_uri(store))
    client.delete_tag(only_run(store).info.run_id, "synced")
    open_tracker(store).sync(JOB, folder_of(store))
    assert points(store) == before


def test_a_second_sync_of_a_finished_trial_asks_mlflow_nothing(store: Path) -> None:
    tracker = open_tracker(store)
    tracker.sync(JOB, folder_of(store))
    tracker._client = None  # type: ignore[assignment]
    tracker.sync(JOB, folder_of(store))


def test_a_later_evaluation_is_added_to_the_same_run(store: Path) -> None:
    tracker = open_tracker(store)
    tracker.sync(JOB, folder_of(store))
    more = Evaluation.model_validate({"weights": "best", "attack": "cw2"})
    list(run_trial(ONE, folder_of(store), [more], device="cpu"))
    open_tracker(store).sync(JOB, folder_of(store))
    metrics = only_run(store).data.metrics
    assert 0 <= metrics["best/cw2/worst"] <= 1
    assert len(points(store)) == len(set(points(store)))


def test_an_attack_that_ran_again_with_other_predictions_is_logged_again(store: Path) -> None:
    open_tracker(store).sync(JOB, folder_of(store))
    tags = only_run(store).data.tags
    before = miss_one_more(folder_of(store), "best", "pgd2")
    tracker = open_tracker(store)
    tracker.sync(JOB, folder_of(store))
    run = only_run(store)
    (now,) = (
        one["metrics"] for one in folder_of(store).evaluations() if one["metrics"].keys() == before.keys()
    )
    assert now != before
    assert {key: run.data.metrics[key] for key in now} == now
    assert (
        run.data.tags["seal"] == seal_of(fingerprint(ONE), run.data.metrics, run.data.params) != tags["seal"]
    )
    assert len(points(store)) == len(set(points(store)))
    table = artifact(store, "classwise.json")
    column = table["columns"].index("best/pgd2")
    assert [row[column] for row in table["data"]] == [now[f"best/pgd2/{row[0]}"] for row in table["data"]]
    tracker._client = None  # type: ignore[assignment]
    tracker.sync(JOB, folder_of(store))  # asks MLflow nothing


def test_a_run_of_an_earlier_version_learns_which_predictions_it_has(store: Path) -> None:
    open_tracker(store).sync(JOB, folder_of(store))
    before, run = points(store), only_run(store)
    synced = json.loads(run.data.tags["synced"])
    synced["evaluations"] = {key: entry[:2] for key, entry in synced["evaluations"].items()}
    client = tracking.client_of(tracking.default_uri(store))
    client.set_tag(run.info.run_id, "synced", json.dumps(synced))
    open_tracker(store).sync(JOB, folder_of(store))
    assert only_run(store).data.tags["synced"] == run.data.tags["synced"]
    assert points(store) == before


def test_a_training_that_was_begun_anew_gets_a_new_run(store: Path) -> None:
    open_tracker(store).sync(JOB, folder_of(store))
    first = only_run(store).info.run_id
    folder_of(store).reopen()
    list(run_trial(ONE, folder_of(store), EVALUATIONS, device="cpu"))
    open_tracker(store).sync(JOB, folder_of(store))
    assert only_run(store).info.run_id != first


def test_a_training_begun_anew_is_noticed_where_its_journal_has_the_same_length(store: Path) -> None:
    open_tracker(store).sync(JOB, folder_of(store))
    first = only_run(store).info.run_id
    journal = folder_of(store).path / "journal.jsonl"
    records = folder_of(store).journal()
    later = [record | {"timestamp": record["timestamp"] + 1} for record in records]
    text = "".join(json.dumps(record) + "\n" for record in later)
    before = journal.stat().st_size
    journal.write_text(text + "\n" * (before - len(text)), encoding="utf-8")
    assert journal.stat().st_size == before
    open_tracker(store).sync(JOB, folder_of(store))
    assert only_run(store).info.run_id != first


def test_a_failure_carries_its_reason_until_the_trial_succeeds(store: Path) -> None:
    tracker = open_tracker(store)
    done = folder_of(store).path / "done.json"
    kept = done.read_bytes()
    done.unlink()
    tracker.sync(JOB, folder_of(store), "FAILED", "the training loss is nan")
    assert only_run(store).info.status == "FAILED"
    assert only_run(store).data.tags["failure"] == "the training loss is nan"
    done.write_bytes(kept)
    tracker.sync(JOB, folder_of(store))
    assert only_run(store).info.status == "FINISHED"
    assert "failure" not in only_run(store).data.tags


def test_a_run_that_is_only_added_to_keeps_its_status_and_its_reason(store: Path) -> None:
    tracker = open_tracker(store)
    tracker.sync(JOB, folder_of(store), "FAILED", "the training loss is nan")
    more = Evaluation.model_validate({"weights": "best", "attack": "pgd3"})
    tracker.sync(Single(ONE, fingerprint(ONE), (more,)), folder_of(store))
    assert only_run(store).info.status == "FAILED"
    assert only_run(store).data.tags["failure"] == "the training loss is nan"


def test_a_trial_that_was_never_started_has_no_run(store: Path) -> None:
    other = trial(seed=9)
    tracker = open_tracker(store)
    tracker.sync(Single(other, fingerprint(other)), TrialFolder.of(store, other))
    client = tracking.client_of(tracking.default_uri(store))
    assert client.search_runs([e.experiment_id for e in client.search_experiments()]) == []


def test_a_sweep_is_one_parent_and_its_members_are_exactly_what_is_planned(
    store: Path, write_sweep: Callable[..., Path]
) -> None:
    uri = tracking.default_uri(store)
    sweep = load_sweep(write_sweep())
    for planned in sweep.trials[:2]:
        list(
            run_trial(
                planned.trial, TrialFolder.of(store, planned.fingerprint), planned.evaluations, device="cpu"
            )
        )
    for _ in range(2):
        tracker = open_tracker(store)
        tracker.open_sweep(sweep)
        for planned in sweep.trials:
            tracker.sync(planned, TrialFolder.of(store, planned.fingerprint))
        tracker.close_sweep("FINISHED")
    (found,) = tracking.read_sweeps(uri)
    assert [one.fingerprint for one in found.planned] == [one.fingerprint for one in sweep.trials]
    assert found.planned[0].grids == ("methods",)
    runs = tracking.read_trials(uri, "tiny")
    assert {run.fingerprint for run in runs} == {one.fingerprint for one in sweep.trials[:2]}
    assert {run.tags["mlflow.parentRunId"] for run in runs} == {found.run_id}
    assert runs[0].tags["mlflow.runName"] == "at seed=0"
    parent = tracking.client_of(uri).get_run(found.run_id)
    assert parent.data.metrics["best/pgd2/avg"] == max(run.metrics["best/pgd2/avg"] for run in runs)

    fewer = load_sweep(write_sweep(), sets=["seeds=1"])
    open_tracker(store).open_sweep(fewer)
    assert [run.fingerprint for run in tracking.read_trials(uri, "tiny")] == [sweep.trials[1].fingerprint]


def test_a_trial_of_two_sweeps_stays_one_run(store: Path, write_sweep: Callable[..., Path]) -> None:
    for name in ("first", "second"):
        sweep = load_sweep(write_sweep(name), sets=["seeds=0"])
        planned = sweep.trials[0]
        tracker = open_tracker(store)
        tracker.open_sweep(sweep)
        list(
            run_trial(
                planned.trial, TrialFolder.of(store, planned.fingerprint), planned.evaluations, device="cpu"
            )
        )
        tracker.sync(planned, TrialFolder.of(store, planned.fingerprint))
    assert {"sweep.first", "sweep.second"} <= set(only_run(store).data.tags)
    assert [found.name for found in tracking.read_sweeps(tracking.default_uri(store))] == ["second", "first"]


def test_numbers_that_are_none_are_left_out(store: Path) -> None:
    tracker = open_tracker(store)
    tracker.sync(JOB, folder_of(store))
    run_id = only_run(store).info.run_id
    before = len(points(store))
    tracker._log(run_id, [("a", math.nan, 0, 0), ("b", math.inf, 0, 0), ("c", 1.0, 0, 0)])
    assert len(points(store)) == before + 1


@pytest.mark.parametrize(
    ("name", "key"), [("best/pgd20/03_cat", "best/pgd20/03_cat"), ("a (b), c=d%", "a _b__ c_d_")]
)
def test_metric_names_hold_only_what_mlflow_takes(name: str, key: str) -> None:
    assert tracking.metric_key(name) == key


def test_artifacts_of_any_database_lie_in_the_store(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow itself would put them into the folder in which the command was typed."""
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite+pysqlite:///{store / 'other.db'}"
    Tracker(uri, store).sync(JOB, folder_of(store))
    (run,) = tracking.client_of(uri).search_runs(["1"])
    assert run.info.artifact_uri.startswith((store / "artifacts").as_uri())
    assert not (tmp_path / "mlruns").exists()


def test_a_database_whose_driver_is_not_installed_is_a_sentence() -> None:
    with pytest.raises(RequestError, match="needs the Python package pymysql, which is not installed"):
        tracking.client_of("mysql+pymysql://nobody@127.0.0.1:1/none")


def test_reading_where_nothing_was_recorded_gives_nothing(tmp_path: Path) -> None:
    uri = tracking.default_uri(tmp_path / "none")
    assert tracking.read_sweeps(uri) == []
    assert tracking.read_trials(uri, "tiny") == []
    assert not (tmp_path / "none").exists()


# trials that start from others -----------------------------------------------------------------------------------


def test_another_trial_is_one_parameter() -> None:
    other = trial("trades", epochs=1)
    one = trial(start_from={"trial": other, "weights": "last"})
    found = tracking.params_of(one)
    mine = {key: value for key, value in found.items() if key.startswith("start_from")}
    assert mine == {"start_from.trial": fingerprint(other), "start_from.weights": "last"}
    assert found["method.objective.name"] == "at"
    assert found["helper"] is None
    assert tracking.params_of(trial(helper={"trial": other}))["helper.trial"] == fingerprint(other)
    plain = tracking.params_of(ONE)
    assert found.keys() - mine.keys() == plain.keys() - {"start_from"}


def test_a_single_trial_knows_what_it_needs_and_may_have_a_name() -> None:
    other = trial("trades", epochs=1)
    one = trial(start_from={"trial": other, "weights": "last"})
    assert Single(one, fingerprint(one)).needs == (fingerprint(other),)
    assert JOB.needs == ()
    assert (JOB.row, Single(ONE, "x", name="at (start of y)").row) == ("at", "at (start of y)")


def test_plans_of_earlier_versions_have_no_needs() -> None:
    entry = {"fingerprint": "f", "label": "l", "title": "t", "grids": [], "values": {}, "seed": 0, "row": "r"}
    assert tracking._planned(entry).needs == ()
    assert tracking._planned({**entry, "needs": ["a"]}).needs == ("a",)
