"""Other people's models in MLflow and in tables: a run per model and radius, a row like a trial's. Real MLflow on SQLite."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import reports
from ham_core.errors import RequestError
from ham_core.folder import TrialFolder
from ham_core.run import run_trial
from orchestration import models, tracking
from orchestration.cli import app
from orchestration.cli.reporting import _trials_view
from orchestration.sealed_runs import SEAL, seal_of
from orchestration.sweep import load_sweep
from tests.commands import start

SWEEP = """\
trial:
  data: {name: digits, train_limit: 400, test_limit: 60}
  model: {name: small_cnn, width: 0.5}
  epsilon: 0.2
  attack: {steps: 1, mode: eval}
  epochs: 4
  batch_size: 32
  selection.steps: 1
grid:
  methods:
    method: [at]
seeds: [0, 1]
evaluate: [clean, pgd20]
"""


def ham(*arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command in this process."""
    outcome = CliRunner().invoke(app, list(arguments))
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.exit_code, outcome.stdout, outcome.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of a recorded sweep, `store`, and the last weights of its first trial as theirs.pt."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(SWEEP, encoding="utf-8")
    sweep = load_sweep(folder / "tiny.yaml")
    store = folder / "store"
    tracker = tracking.Tracker(tracking.default_uri(store), store)
    tracker.open_sweep(sweep)
    for one in sweep.trials:
        place = TrialFolder.of(store, one.fingerprint)
        list(run_trial(one.trial, place, one.evaluations, device="cpu"))
        tracker.sync(one, place)
    tracker.close_sweep("FINISHED")
    first = TrialFolder.of(store, sweep.trials[0].fingerprint)
    state = {f"module.{key}": one for key, one in first.weights("last").items()}
    torch.save({"state_dict": state}, folder / "theirs.pt")
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    """The same folder for one test. Artifacts go where its database says, which is below the first one."""
    shutil.copytree(trained, tmp_path / "place")
    return tmp_path / "place"


def words(place: Path, *more: str, attack: str = "clean,pgd20", epsilon: str = "0.2") -> tuple[str, ...]:
    """The arguments of ham evaluate for theirs.pt."""
    reading = ("--checkpoint", str(place / "theirs.pt"), "--model", "small_cnn", "--width", "0.5")
    how = ("--data", "digits", "--images", "60", "--epsilon", epsilon, "--attack", attack)
    return ("evaluate", *reading, *how, "--store", str(place / "store"), *more)


def judge(place: Path, *more: str, **how: str) -> list[dict[str, Any]]:
    """Its rows."""
    code, out, err = ham(*words(place, *more, "--json", **how))
    assert code == 0, err
    return list(json.loads(out)["evaluations"])


def uri(place: Path) -> str:
    return tracking.default_uri(place / "store")


def runs(place: Path) -> list[tracking.Run]:
    return tracking.read_trials(uri(place), "models")


def dump(place: Path) -> list[str]:
    """All that the database holds."""
    with sqlite3.connect(place / "store" / "mlflow.db") as connection:
        return sorted(connection.iterdump())


def table(place: Path, name: str, sweep: str) -> dict[tuple[str, str], dict[str, str]]:
    """{(row, column): line of the CSV} of a table that `ham report` writes."""
    text = (place / "out" / sweep / f"{name}.csv").read_text()
    return {(line["row"], line["column"]): line for line in csv.DictReader(io.StringIO(text))}


def report(place: Path) -> Any:
    return reports.build(reports.Request(uri=uri(place), out=place / "out", formats=("md", "csv")))


# the run -------------------------------------------------------------------------------------------------------------


def test_a_judged_model_is_one_finished_run_with_all_that_is_known_of_it(place: Path) -> None:
    clean, pgd = judge(place)
    (run,) = runs(place)
    assert (run.status, run.experiment) == ("FINISHED", "digits")
    assert run.tags["kind"] == "model"
    assert run.tags["foreign"] == clean["trial"]
    assert run.tags["mlflow.runName"] == run.tags["title"] == "theirs"
    for row in (clean, pgd):
        assert row["metrics"].items() <= run.metrics.items()
    assert run.metrics["file/pgd20/03_3"] == pgd["metrics"]["file/pgd20/03_3"]
    assert run.metrics["test/images/03_3"] == 6
    told = json.loads((place / "store" / "foreign" / clean["trial"] / "model.json").read_text())
    assert run.params["file"] == "theirs.pt"
    assert run.params["file_sha256"] == told["model"]["file"]
    assert run.params["data.test_digest"] == told["model"]["test_digest"]
    assert json.loads(run.params["probe"]) == told["probe"]
    expected = {
        "model": "small_cnn",
        "width": "0.5",
        "epsilon": "0.2",
        "precision": "fp32",
    }
    expected |= {"data.label": "digits", "data.test_limit": "60"}
    assert expected.items() <= run.params.items()
    assert json.loads(run.params["normalisation"]) == told["model"]["normalisation"]
    assert run.tags[SEAL] == seal_of(run.fingerprint, run.metrics, run.params)


def test_its_class_wise_table_and_confusions_are_artifacts(place: Path) -> None:
    judge(place)
    (run,) = runs(place)
    found = tracking.client_of(uri(place)).list_artifacts(run.run_id)
    assert {"classwise.json", "confusion_file_pgd20.json", "confusion_file_pgd20.png"} <= {
        one.path for one in found
    }


def test_judging_again_changes_nothing(place: Path) -> None:
    judge(place)
    before = dump(place)
    judge(place)
    assert dump(place) == before


def test_another_attack_later_fills_the_same_run(place: Path) -> None:
    judge(place, attack="clean")
    (first,) = runs(place)
    (pgd,) = judge(place, attack="pgd20")
    (run,) = runs(place)
    assert run.run_id == first.run_id
    assert first.metrics.items() - run.metrics.items() == {
        ("time/evaluate_s", first.metrics["time/evaluate_s"])
    }
    assert pgd["metrics"].items() <= run.metrics.items()
    assert run.tags[SEAL] == seal_of(run.fingerprint, run.metrics, run.params)


def test_a_crash_between_logging_and_noting_it_repeats_no_point(place: Path) -> None:
    judge(place)
    (run,) = runs(place)
    points = "select * from metrics order by 1, 2, 3, 4"
    with sqlite3.connect(place / "store" / "mlflow.db") as connection:
        before = connection.execute(points).fetchall()
    tracking.client_of(uri(place)).delete_tag(run.run_id, "synced")
    judge(place)
    with sqlite3.connect(place / "store" / "mlflow.db") as connection:
        assert connection.execute(points).fetchall() == before


def test_another_radius_is_another_run_of_the_same_model(place: Path) -> None:
    first = judge(place, attack="pgd20")
    second = judge(place, attack="pgd20", epsilon="0.1")
    assert first[0]["trial"] == second[0]["trial"]
    assert first[0]["metrics"] != second[0]["metrics"]
    found = {run.params["epsilon"]: run for run in runs(place)}
    assert found.keys() == {"0.1", "0.2"}
    for rows, epsilon in ((first, "0.2"), (second, "0.1")):
        assert rows[0]["metrics"].items() <= found[epsilon].metrics.items()


def test_two_processes_that_judge_one_model_write_one_whole_run(place: Path) -> None:
    both = [start(place, *words(place, attack=attack)) for attack in ("clean,pgd3", "fgsm,cw3")]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    (run,) = runs(place)
    assert {f"file/{name}/worst" for name in ("clean", "pgd3", "fgsm", "cw3")} <= run.metrics.keys()
    assert run.tags[SEAL] == seal_of(run.fingerprint, run.metrics, run.params)


def test_a_number_that_was_changed_in_the_database_is_found(place: Path) -> None:
    judge(place)
    with sqlite3.connect(place / "store" / "mlflow.db") as connection:
        changed = connection.execute("update latest_metrics set value = 0.5 where key = 'file/pgd20/00_0'")
        assert changed.rowcount == 1
    with pytest.raises(RequestError, match=r"is damaged \(model [0-9a-f]{10}, run .* other numbers"):
        report(place)


def test_sync_writes_a_lost_record_again(place: Path) -> None:
    judge(place, "--name", "Theirs", "--sweep", "tiny")
    (before,) = runs(place)
    for file in (place / "store").glob("mlflow.db*"):
        file.unlink()
    code, out, err = ham("sync", "--store", str(place / "store"))
    assert code == 0, err
    assert "models: 1 judged" in out
    (after,) = runs(place)
    assert (after.metrics, after.params) == (before.metrics, before.params)
    assert (after.tags["title"], "sweep.tiny" in after.tags) == ("Theirs", True)


def test_a_title_may_be_given_later_and_stays(place: Path) -> None:
    judge(place)
    judge(place, "--name", "Theirs")
    judge(place)
    (run,) = runs(place)
    assert run.tags["title"] == run.tags["mlflow.runName"] == "Theirs"


def test_models_are_no_trials_to_other_commands(place: Path) -> None:
    store = ("--store", str(place / "store"))
    commands = [("status", *store, "--json"), ("plan", str(place / "tiny.yaml"), *store, "--json")]
    before = [ham(*command) for command in commands]
    judge(place)
    assert [ham(*command) for command in commands] == before
    assert [one.fingerprint for one in tracking.read_trials(uri(place), "tiny")]
    assert not {run.fingerprint for run in runs(place)} & {
        r.fingerprint for r in tracking.read_trials(uri(place), "tiny")
    }
    assert [one.name for one in tracking.read_sweeps(uri(place))] == ["tiny", "models"]


def test_starting_the_sweep_again_leaves_the_model_in_its_tables(place: Path) -> None:
    judge(place, "--sweep", "tiny")
    tracking.Tracker(uri(place), place / "store").open_sweep(load_sweep(place / "tiny.yaml"))
    assert len(tracking.read_trials(uri(place), "tiny")) == 2
    assert [run.tags["title"] for run in tracking.read_models(uri(place), "tiny")] == ["theirs"]


def test_the_ui_opens_with_the_models_where_nothing_else_is(place: Path) -> None:
    shutil.rmtree(place / "store")
    judge(place)
    assert "kind%3D%27model%27" in _trials_view(uri(place))


# tables --------------------------------------------------------------------------------------------------------------


def test_without_any_sweep_the_models_have_a_table(place: Path) -> None:
    shutil.rmtree(place / "store")
    _, pgd = judge(place)
    built = report(place)
    cells = table(place, "models", "models")
    cell = cells["theirs", "PGD-20 worst"]
    assert float(cell["mean"]) == pytest.approx(100 * pgd["metrics"]["file/pgd20/worst"])
    assert (cell["n"], cell["interval"]) == ("1", "worst")
    assert cell["protocol"].startswith("digits, 60 test images, ε = 0.2, test digest ")
    waits = "theirs: waits for the evaluation autoattack, which ham evaluate makes"
    assert cells["theirs", "AutoAttack worst"]["waits_for"] == waits
    assert f"models/models: {waits}" in built.waiting
    assert "| theirs " in built.shown
    assert "n = 1: each row is one file of weights." in built.shown
    assert "is not recorded here" in built.shown


def test_a_model_is_a_row_at_the_end_of_the_sweeps_tables(place: Path) -> None:
    judge(place, "--name", "Theirs", "--sweep", "tiny")
    built = report(place)
    first = tracking.read_trials(uri(place), "tiny")[0]
    for name in ("ham-main", "ham-main-last"):
        cells = table(place, name, "tiny")
        assert list(dict.fromkeys(row for row, _ in cells)) == ["AT", "Theirs"]
        found = cells["Theirs", "PGD-20 worst"]
        assert float(found["mean"]) == pytest.approx(100 * first.metrics["last/pgd20/worst"])
        assert found["n"] == found["expected"] == "1"
        assert cells["AT", "PGD-20 worst"]["n"] == "2"
        text = (place / "out" / "tiny" / f"{name}.md").read_text()
        assert "Weights from theirs.pt; how they were trained and selected is not recorded here." in text
        assert "n = 2 seeds (planned seeds: 0, 1)" in text
        assert (
            f"tiny/{name}: Theirs: waits for the evaluation cw20, which ham evaluate makes" in built.waiting
        )
    assert ("Theirs", "PGD-20 worst") in table(place, "models", "models")
    assert not [
        sentence for sentence in built.waiting if "'models'" in sentence or sentence.startswith("models: ")
    ]


def test_tables_of_what_training_costs_have_no_such_rows(place: Path) -> None:
    judge(place, "--sweep", "tiny")
    report(place)
    assert {row for row, _ in table(place, "passes", "tiny")} == {"AT"}


@pytest.mark.parametrize(
    ("more", "epsilon", "why"),
    [
        ((), "0.1", "its radius is 0.1, the table's 0.2"),
        (("--images", "80"), "0.2", "its number of test images is 80, the table's 60"),
    ],
)
def test_a_model_of_another_protocol_is_no_row_and_the_reason_is_said(
    place: Path, more: tuple[str, ...], epsilon: str, why: str
) -> None:
    report(place)
    before = (place / "out" / "tiny" / "ham-main.md").read_bytes()
    judge(place, "--sweep", str(place / "tiny.yaml"), *more, epsilon=epsilon)
    built = report(place)
    assert (place / "out" / "tiny" / "ham-main.md").read_bytes() == before
    assert f"tiny/ham-main: theirs: is no row, since {why}" in built.waiting
    assert ("theirs", "PGD-20 worst") in table(place, "models", "models")


def test_a_model_that_is_not_placed_leaves_the_sweeps_tables_alone(place: Path) -> None:
    report(place)
    before = {path.name: path.read_bytes() for path in (place / "out" / "tiny").glob("*.*")}
    judge(place)
    report(place)
    assert {path.name: path.read_bytes() for path in (place / "out" / "tiny").glob("*.*")} == before


def test_explain_says_what_stands_behind_such_a_row(place: Path) -> None:
    _, pgd = judge(place, "--name", "Theirs", "--sweep", "tiny")
    for name in ("ham-main-last", "models"):
        code, out, err = ham(
            "explain", name, "theirs", "PGD-20 worst", "--store", str(place / "store"), "--json"
        )
        assert code == 0, err
        answer = json.loads(out)
        assert answer["values"] == [pytest.approx(100 * pgd["metrics"]["file/pgd20/worst"])]
        assert (answer["n"], answer["seeds"]) == (1, [])
        (run,) = answer["runs"]
        assert (run["run_id"], run["checkpoint"], run["seed"]) == (runs(place)[0].run_id, "theirs.pt", None)
        assert answer["selection"].startswith("Weights from theirs.pt; how they were trained")


def test_two_models_of_one_title_are_two_rows(place: Path) -> None:
    judge(place, "--sweep", "tiny")
    state = torch.load(place / "theirs.pt", weights_only=True)
    state["state_dict"] = {key: one * 1.001 for key, one in state["state_dict"].items()}
    torch.save(state, place / "theirs.pt")
    judge(place, "--sweep", "tiny")
    report(place)
    titles = {f"theirs ({run.tags['model'][:6]})" for run in runs(place)}
    assert len(titles) == 2
    assert {row for row, _ in table(place, "models", "models")} == titles
    assert {row for row, _ in table(place, "ham-main", "tiny")} == {"AT", *titles}


# words ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            ("--sweep", "tinny"),
            "no sweep 'tinny' is recorded, in whose tables the model could stand; known: tiny",
        ),
        (("--name", " "), "--name is empty"),
        (("--threat", "L2"), "--threat belongs to --model robustbench:NAME"),
        (("--device", "gpu"), "--device: unknown 'gpu'; known: auto, cpu, cuda"),
        (("--curve",), "leave out --attack"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_attacked(
    place: Path, more: tuple[str, ...], sentence: str
) -> None:
    code, out, err = ham(*words(place, *more))
    assert (code, out) == (2, "")
    assert sentence in err
    assert not (place / "store" / "foreign").exists()


def test_flags_of_models_are_refused_for_trials(place: Path) -> None:
    code, _, err = ham(
        "evaluate", "--sweep", str(place / "tiny.yaml"), "--name", "x", "--store", str(place / "store")
    )
    assert (code, "belong to --checkpoint FILE" in err) == (2, True)


def test_no_sweep_may_be_called_models(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(SWEEP, encoding="utf-8")
    with pytest.raises(RequestError, match="'models' is what tables call the models of other people"):
        load_sweep(tmp_path / "models.yaml")


def test_a_table_of_models_where_none_is_recorded_says_how_to_get_one(place: Path) -> None:
    with pytest.raises(
        RequestError, match="no model of other people is recorded; judge one with ham evaluate"
    ):
        reports.build(reports.Request(uri=uri(place), out=place / "out", names=["models"]))


def test_where_mlflow_cannot_be_written_the_evaluation_stays_and_the_command_fails(place: Path) -> None:
    (place / "store" / "mlflow.db").write_bytes(b"no database" * 100)
    code, out, err = ham(*words(place))
    assert code == 1
    assert "is damaged" in err
    assert "pgd20" in out
    assert len(list((place / "store" / "foreign").glob("*/evaluations/*.npz"))) == 2


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("model_best.pth.tar", "model_best.pth"),
        ("robustbench:Wong2020Fast", "Wong2020Fast"),
        ("my.models:net", "my.models:net"),
    ],
)
def test_titles_are_names_without_endings(name: str, title: str) -> None:
    assert models.title_of(name) == title


def test_folders_of_earlier_versions_are_recorded_when_they_are_asked_for_again(place: Path) -> None:
    """Their model.json says nothing of the data set's label."""
    (folder,) = {row["trial"] for row in judge(place)}
    file = place / "store" / "foreign" / folder / "model.json"
    from ham_core.folder import read_json, write_json

    seen = read_json(file) or {}
    write_json(file, {key: value for key, value in seen.items() if key not in ("data", "time")})
    assert models.judged(place / "store") == []
    judge(place)
    assert [one.title for one in models.judged(place / "store")] == ["theirs"]
    assert (read_json(file) or {})["probe"] == seen["probe"]
