"""`ham ...`: help, answers for people and for machines, and how wrong requests end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import orchestration.cli
from ham_core.config import fingerprint
from orchestration import tracking
from orchestration.cli import app
from orchestration.store import Store

COMMANDS = (
    "sweep", "plan", "status", "train", "evaluate", "import", "export", "report", "explain", "ui", "methods", "data", "bench",
    "logs", "retry", "sync", "gc", "reproduce",
)  # fmt: skip
SMALL = [
    "model.name=small_cnn", "model.width=0.5", "epsilon=0.2", "attack.steps=2", "attack.mode=eval", "epochs=2",
    "data.train_limit=200", "data.test_limit=60", "selection.steps=2", "batch_size=64",
]  # fmt: skip
SETS = [word for setting in SMALL for word in ("--set", setting)]


def ham(*arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command in this process. An exception is a traceback: it fails the test."""
    outcome = CliRunner().invoke(app, list(arguments))
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.exit_code, outcome.stdout, outcome.stderr


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one trial, trained by `ham train`."""
    place = tmp_path_factory.mktemp("cli") / "store"
    attacks = ("--attack", "clean,pgd2", "--weights", "best")
    code, out, err = ham("train", "--method", "at", *SETS, *attacks, "--store", str(place))
    assert code == 0, err
    assert "best" in out
    assert "%" in out
    assert "epoch 2/2" in err
    return place


def only(store: Path) -> str:
    (identity,) = Store(store).trials()
    return identity


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_an_example(command: str) -> None:
    code, out, _ = ham(command, "--help")
    assert code == 0
    assert re.search(rf"Example:\s+ham {command}", out)


def test_help_lists_every_command() -> None:
    code, out, _ = ham("--help")
    assert code == 0
    assert all(re.search(rf"^  {command}\b", out, re.MULTILINE) for command in COMMANDS)


def test_version_is_printed() -> None:
    assert re.fullmatch(r"ham-sweeps \d+\.\d+\.\d+\n", ham("--version")[1])


def test_the_module_is_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "orchestration.cli", "--version"], capture_output=True, text=True
    )
    assert run.stdout.startswith("ham-sweeps ")


# train, evaluate, export, import -----------------------------------------------------------------------------------


def test_a_trial_trained_alone_is_in_the_store_and_in_mlflow(store: Path) -> None:
    folder = Store(store).folder(only(store))
    assert folder.is_done()
    assert folder.epochs_done() == 2
    client = tracking.client_of(tracking.default_uri(store))
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()], "tags.kind = 'trial'")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "at seed=0"


def test_training_it_again_does_nothing(store: Path) -> None:
    journal = Store(store).folder(only(store)).path / "journal.jsonl"
    before = journal.stat().st_mtime_ns
    code, _, err = ham(
        "train", "--method", "at", *SETS, "--attack", "clean", "--weights", "best", "--store", str(store)
    )
    assert code == 0
    assert "epoch" not in err
    assert journal.stat().st_mtime_ns == before


def test_a_recorded_trial_yaml_trains_the_same_trial(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "trial.yaml"
    trial = Store(store).folder(only(store)).trial()
    path.write_text(tracking.trial_yaml(trial), encoding="utf-8")
    from ham_core.resolve import load_trial

    assert fingerprint(load_trial(str(path)).trial) == only(store)


def test_a_trial_belongs_to_a_sweep_that_asks_for_the_same(
    store: Path, write_sweep: Callable[..., Path]
) -> None:
    path = write_sweep(replaced={"seeds: [0, 1]": "seeds: 0", "[at, trades]": "[at]"})
    code, out, _ = ham("plan", str(path), "--store", str(store), "--json")
    assert code == 0
    (entry,) = json.loads(out)["trials"]
    assert entry["fingerprint"] == only(store)
    assert (entry["status"], entry["why"]) == ("partial", "trained; evaluation last/clean and 1 more missing")


def test_evaluate_runs_what_is_missing_and_prints_only_json(store: Path) -> None:
    arguments = (
        "evaluate",
        only(store)[:8],
        "--attack",
        "cw2,clean",
        "--weights",
        "best",
        "--store",
        str(store),
        "--json",
    )
    for _ in range(2):
        code, out, _ = ham(*arguments)
        assert code == 0
        rows = json.loads(out)["evaluations"]
        assert [row["attack_name"] for row in rows] == ["clean", "cw2"]
        assert 0 <= rows[1]["metrics"]["best/cw2/worst"] <= rows[0]["metrics"]["best/clean/worst"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("zz",), "no trial's fingerprint begins with 'zz'"),
        ((), "give trials by the beginning of their fingerprint, or --sweep FILE"),
        (("{trial}", "--attack", "pdg20"), "unknown attack 'pdg20'"),
        (("{trial}", "--weights", "best_seat"), "weights 'best_seat' were not kept; kept: best, best_ema"),
    ],
)
def test_evaluate_refuses_what_it_cannot_do(store: Path, arguments: tuple[str, ...], sentence: str) -> None:
    words = [word.format(trial=only(store)) for word in arguments]
    code, out, err = ham("evaluate", *words, "--store", str(store))
    assert (code, out) == (2, "")
    assert sentence in err


def test_exported_weights_and_imported_trials(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pt"
    code, printed, _ = ham(
        "export", only(store)[:8], "--weights", "best", "--out", str(out), "--store", str(store)
    )
    assert code == 0
    assert out.exists()
    assert "small_cnn (width 0.5)" in printed
    code, printed, _ = ham("import", str(store), "--store", str(tmp_path / "other"))
    assert code == 0
    assert "imported" in printed
    client = tracking.client_of(tracking.default_uri(tmp_path / "other"))
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()], "tags.kind = 'trial'")
    assert (run.info.status, run.data.tags["fingerprint"]) == ("FINISHED", only(store))


# plan, status ------------------------------------------------------------------------------------------------------


def test_plan_says_what_is_missing_and_what_it_will_cost(
    store: Path, write_sweep: Callable[..., Path]
) -> None:
    code, out, _ = ham("plan", str(write_sweep()), "--store", str(store), "--json")
    assert code == 0
    answer = json.loads(out)
    assert sorted(one["status"] for one in answer["trials"]) == ["missing", "missing", "missing", "partial"]
    assert answer["estimate"]["epochs_left"] == 6
    assert answer["estimate"]["seconds"] > 0
    code, out, _ = ham("plan", str(write_sweep()), "--store", str(store))
    assert "4 trials: 0 done, 1 half done, 3 missing; 6 epochs left" in out


def test_plan_can_say_where_each_value_came_from(tmp_path: Path, write_sweep: Callable[..., Path]) -> None:
    code, out, _ = ham(
        "plan", str(write_sweep()), "--origins", "--set", "epochs=3", "--store", str(tmp_path / "s")
    )
    assert code == 0
    assert re.search(r"^epochs +--set", out, re.MULTILINE)
    assert re.search(r"^epsilon +\S*tiny.yaml:4", out, re.MULTILINE)
    assert not (tmp_path / "s").exists()


def test_status_of_an_empty_store_says_how_to_begin(tmp_path: Path) -> None:
    code, out, _ = ham("status", "--store", str(tmp_path / "none"))
    assert code == 0
    assert "begin with: ham sweep" in out


def test_status_of_an_unknown_sweep_is_refused(store: Path) -> None:
    code, _, err = ham("status", "nosuch", "--store", str(store))
    assert code == 2
    assert "no sweep 'nosuch' was started here" in err


# lists -------------------------------------------------------------------------------------------------------------


def test_methods_names_every_preset_and_part_with_its_parameters() -> None:
    code, out, _ = ham("methods", "--json")
    assert code == 0
    answer = json.loads(out)
    assert {"at", "trades", "ham-official", "ham-paper"} <= {one["name"] for one in answer["presets"]}
    parts = {(one["kind"], one["name"]): one for one in answer["parts"]}
    beta = parts["objectives", "trades"]["parameters"]["beta"]
    assert (beta["default"], beta["allowed"], beta["type"]) == (6.0, {"minimum": 0}, "number")
    assert parts["mining", "ham"]["parameters"]["early_drop_step"]["meaning"]
    code, out, _ = ham("methods")
    assert "early_drop_step" in out


def test_data_lists_the_named_sets_and_checks_a_folder(tmp_path: Path) -> None:
    code, out, _ = ham("data")
    assert code == 0
    assert "digits" in out
    code, out, _ = ham("data", "check", "digits", "--json")
    assert json.loads(out)["classes"] == [str(digit) for digit in range(10)]
    code, _, err = ham("data", "check", str(tmp_path))
    assert code == 2
    assert str(tmp_path) in err


# wrong requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("sweep", "nosuch.yaml"), "no such sweep"),
        (("plan", "digits", "--profile", "smok"), "did you mean smoke?"),
        (("plan", "digits", "--set", "epochs"), "write --set key=value"),
        (("sweep", "digits", "--threads", "100000"), "--threads: 100000 threads per trial"),
        (("sweep", "digits", "--tracking-uri", "./mlruns"), "is no address of an MLflow server or database"),
        (("train",), "give a TRIAL.yaml, or --method PRESET"),
        (("train", "--method", "hamm"), "unknown method 'hamm'"),
        (("train", "nosuch.yaml"), "nosuch.yaml: cannot be read: no such file"),
        (("report", "--format", "pdf"), "unknown format 'pdf'"),
        (("report", "--tables", "--format", "md,html"), "html does not go with --tables"),
        (("report", "--mlflow-url", "javascript:x", "--tracking-uri", "sqlite:///x.db"), "is no web address"),
        (("report",), "does not exist; run `ham sweep"),
        (("ui",), "does not exist; run `ham sweep"),
        (("export", "ab"), "does not exist"),
        (("import", "nosuch"), "nosuch: does not exist"),
        (("data", "burn"), "unknown word 'burn'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_requests_end_with_sentences_and_2(
    arguments: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = ham(*arguments)
    assert code == 2
    assert out == ""
    assert sentence in err
    assert "Traceback" not in err
    assert not (tmp_path / "outputs").exists()


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = ham("status", "--store", str(tmp_path / "file"))
    assert code == 2
    assert "is a file" in err


def test_an_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestration.plan.plan", interrupt)
    code, _, err = ham("plan", "digits", "--store", str(tmp_path))
    assert code == 130
    assert "the same command continues" in err


def test_telemetry_is_off_before_any_library_is_imported() -> None:
    assert orchestration.cli.QUIET["RAY_USAGE_STATS_ENABLED"] == "0"
    assert orchestration.cli.QUIET["MLFLOW_DISABLE_TELEMETRY"] == "true"


# places and records that cannot be used ----------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("sweep", "digits"), ("train", "--method", "at", *SETS)])
@pytest.mark.parametrize("place", ["/proc/x", "/dev/null/x"])
def test_a_store_that_cannot_be_written_is_refused(command: tuple[str, ...], place: str) -> None:
    code, _, err = ham(*command, "--store", place)
    assert code == 2
    assert err.startswith("--store: ")


def test_outputs_that_cannot_be_written_are_refused(store: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in ("/proc/x", str(tmp_path / "file")):
        code, _, err = ham("report", "--store", str(store), "--out", out)
        assert (code, err.startswith(f"--out: {out} cannot be written")) == (2, True)
    code, _, err = ham("export", only(store), "--store", str(store), "--out", "/proc/x/model.pt")
    assert (code, "Traceback" in err) == (2, False)


@pytest.mark.parametrize("command", [("report",), ("explain", "ham-main", "AT", "clean")])
def test_a_damaged_record_is_one_sentence(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database " * 1000)
    code, _, err = ham(*command, "--store", str(tmp_path))
    assert code == 2
    last = err.splitlines()[-1]
    assert last.startswith(f"{tmp_path / 'mlflow.db'}: is damaged")
    assert "ham sync" in last


@pytest.mark.parametrize("flag", [("--set", "epochs=2"), ("--profile", "smoke")])
def test_settings_of_a_sweep_are_refused_for_single_trials(store: Path, flag: tuple[str, str]) -> None:
    code, _, err = ham("evaluate", only(store), *flag, "--store", str(store))
    assert (code, flag[0] in err) == (2, True)


def test_an_attack_given_twice_counts_once() -> None:
    from orchestration.cli.trials import evaluations

    assert [one.name for one in evaluations("pgd2,pgd2", "best")] == ["best/pgd2"]


def test_checking_a_folder_opens_every_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAM_DATA", str(tmp_path / "cache"))
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            (tmp_path / "photos" / part / name / "x.png").write_text("no picture")
    code, _, err = ham("data", "check", str(tmp_path / "photos"))
    assert code == 2
    assert err.count("cannot decode the picture") == 4


# trials that start from others -----------------------------------------------------------------------------------


def test_a_trial_is_trained_after_its_start_and_both_are_recorded(tmp_path: Path) -> None:
    place = tmp_path / "store"
    sets = [*SETS, "--set", "start_from={method: trades, epochs: 1}", "--set", "data.train_limit=100"]
    arguments = (
        "train",
        "--method",
        "at",
        *sets,
        "--attack",
        "clean",
        "--weights",
        "best",
        "--store",
        str(place),
    )
    code, out, err = ham(*arguments)
    assert code == 0, err
    assert err.index("trades (start of at) seed=0") < err.index("epoch 1/2")
    assert out.count("%") == 2, "only the trial that was asked for is shown"
    identities = Store(place).trials()
    assert len(identities) == 2
    found = {one: Store(place).folder(one) for one in identities}
    user = next(one for one, folder in found.items() if folder.trial().start_from is not None)
    assert found[user].epochs_done() == 2
    assert {len(folder.evaluations()) for folder in found.values()} == {0, 1}
    client = tracking.client_of(tracking.default_uri(place))
    runs = client.search_runs(
        [one.experiment_id for one in client.search_experiments()], "tags.kind = 'trial'"
    )
    assert {run.info.run_name for run in runs} == {"trades (start of at) seed=0", "at seed=0"}
    assert {run.info.status for run in runs} == {"FINISHED"}

    path = tmp_path / "trial.yaml"
    path.write_text(tracking.trial_yaml(found[user].trial()), encoding="utf-8")
    from ham_core.resolve import load_trial

    assert fingerprint(load_trial(str(path)).trial) == user

    code, out, _ = ham("import", str(place), "--store", str(tmp_path / "other"))
    assert (code, out.count("imported")) == (0, 2)
    again = ham(*arguments[:-1], str(tmp_path / "other"))
    assert again[0] == 0
    assert "epoch" not in again[2]


def test_a_trial_whose_start_fails_ends_with_1(tmp_path: Path) -> None:
    start = "start_from={method: trades, epochs: 1, optimizer.lr: 1.0e+30}"
    arguments = ("--attack", "clean", "--weights", "best", "--store", str(tmp_path / "store"))
    code, _, err = ham("train", "--method", "at", *SETS, "--set", start, *arguments)
    assert code == 1
    assert "failed: at seed=0: its start trades (start of at) seed=0 failed: the training loss is" in err


def test_the_plan_shows_what_waits_for_what(tmp_path: Path, write_sweep: Callable[..., Path]) -> None:
    path = write_sweep(replaced={"[at, trades]": "[at]\n    start_from: [{method: trades, epochs: 1}]"})
    code, out, _ = ham("plan", str(path), "--store", str(tmp_path / "store"), "--set", "seeds=0")
    lines = out.splitlines()
    assert code == 0
    assert "trades (start of at start_from=trades) seed=0" in lines[2]
    assert "at start_from=trades seed=0" in lines[3]
    assert lines[3].endswith("waits for trades (start of at start_from=trades)")
    assert "2 trials: 0 done, 0 half done, 2 missing; 3 epochs left" in out
    code, out, _ = ham("plan", str(path), "--store", str(tmp_path / "store"), "--set", "seeds=0", "--origins")
    assert re.search(r"start_from\.trial\.epochs +.*tiny\.yaml:\d+", out)


def test_only_what_a_grid_asks_for_is_evaluated(store: Path, write_sweep: Callable[..., Path]) -> None:
    """The store's AT serves as a start here."""
    path = write_sweep(replaced={"[at, trades]": "[at]\n    start_from: [at]", "seeds: [0, 1]": "seeds: 0"})
    code, out, _ = ham("plan", str(path), "--store", str(store), "--json")
    start, user = json.loads(out)["trials"]
    assert (start["fingerprint"], start["status"]) == (only(store), "done")
    assert (user["status"], user["needs"]) == ("missing", [only(store)])
    code, _, err = ham(
        "evaluate", "--sweep", str(path), "--attack", "pgd3", "--weights", "best", "--store", str(store)
    )
    assert (code, err.count("not trained yet: at start_from=at seed=0;")) == (2, 1)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("start_from=tradez", "--set start_from=tradez: start_from: unknown method 'tradez'"),
        ("start_from.epochs=3", "--set start_from.epochs=3: start_from: no method"),
        ("start_from={weights: state}", "start_from.epochs is missing: after how many of the 200 epochs"),
    ],
)
def test_a_wrong_start_ends_with_2(setting: str, sentence: str, tmp_path: Path) -> None:
    code, out, err = ham("train", "--method", "at", "--set", setting, "--store", str(tmp_path / "store"))
    assert (code, out) == (2, "")
    assert sentence in err


# benchmarks ----------------------------------------------------------------------------------------------------------


def test_bench_lists_every_benchmark_with_what_it_measures():
    code, out, _ = ham("bench", "list")
    names = {line.split()[0] for line in out.splitlines()[1:]}
    root = Path(__file__).resolve().parents[2]
    scripts = {path.stem for path in (root / "benchmarks").glob("*.py") if "def main(" in path.read_text()}
    assert code == 0 and names == scripts and {"steps", "startup", "autoattack"} <= names
    assert all(len(line.split()) > 4 for line in out.splitlines()[1:])


def test_bench_without_a_name_is_that_of_the_training_step_and_passes_options_on(capfd):
    """The help of a script, which a process of its own prints."""
    for words, script in (((), "steps"), (("startup",), "startup")):
        assert ham("bench", *words, "--", "--help")[0] == 0
        assert f"usage: benchmarks/{script}.py" in capfd.readouterr().out


def test_an_unknown_benchmark_names_the_known_ones():
    code, _, complaint = ham("bench", "startip")
    assert code == 2 and "did you mean startup" in complaint
