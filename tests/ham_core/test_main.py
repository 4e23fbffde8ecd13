"""`python -m ham_core`: trials on a bare machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ham_core.__main__ import main
from ham_core.folder import TrialFolder

TRIAL = """\
method: {method}
data: {{name: digits, train_limit: 200, test_limit: 60}}
model: {{name: small_cnn, width: 0.5}}
epsilon: 0.2
attack: {{steps: 3, mode: eval}}
epochs: 2
batch_size: 64
selection.steps: 2
"""


def write(folder: Path, method: str = "at") -> str:
    path = folder / f"{method}.yaml"
    path.write_text(TRIAL.format(method=method), encoding="utf-8")
    return str(path)


def trained(out: Path) -> list[TrialFolder]:
    """The trials of OUT, each complete."""
    folders = [TrialFolder(path) for path in sorted((out / "trials").iterdir())]
    assert all(folder.is_done() for folder in folders)
    return folders


def without_seconds(folder: TrialFolder) -> list[dict[str, float]]:
    """The journal's metrics that two runs must share."""
    return [
        {key: value for key, value in record["metrics"].items() if not key.startswith("time/")}
        for record in folder.journal()
    ]


def test_a_trial_is_trained_and_evaluated_with_a_line_per_event(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["train", write(tmp_path), "--out", str(out), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "epoch 2/2  robust" in printed
    assert "trained:" in printed
    (folder,) = trained(out)
    assert (
        main(["evaluate", str(out), "--attack", "clean,pgd2", "--weights", "best,last", "--device", "cpu"])
        == 0
    )
    assert {f"{one['weights']}/{one['attack_name']}" for one in folder.evaluations()} == {
        "best/clean", "best/pgd2", "last/clean", "last/pgd2",
    }  # fmt: skip
    assert "last/pgd2  " in capsys.readouterr().out


def test_doing_it_again_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", write(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(arguments) == 0
    assert "epoch" not in capsys.readouterr().out


def test_a_call_that_ran_out_of_minutes_is_continued_to_the_same_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    assert main(["train", path, "--out", str(tmp_path / "whole"), "--device", "cpu"]) == 0
    arguments = ["train", path, "--out", str(tmp_path / "parts"), "--device", "cpu", "--minutes", "60"]
    late = iter([False, True])  # in time before the first epoch, too late after it
    with monkeypatch.context() as clock:
        clock.setattr("ham_core.run._late", lambda deadline: next(late))
        assert main(arguments) == 0
    assert "stopped at epoch 1/2; the same command continues" in capsys.readouterr().out
    assert main(arguments) == 0
    (whole,), (parts,) = trained(tmp_path / "whole"), trained(tmp_path / "parts")
    assert without_seconds(whole) == without_seconds(parts)
    for name in whole.weight_names():
        first, second = whole.weights(name), parts.weights(name)
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_trials_that_no_time_is_left_for_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", write(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*arguments, "--minutes", "1e-9"]) == 0
    assert "waits at epoch 0/2; the same command continues" in capsys.readouterr().out


@pytest.mark.slow
def test_several_trials_run_at_once_in_processes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    paths = [write(tmp_path, "at"), write(tmp_path, "trades")]
    command = [
        sys.executable,
        "-m",
        "ham_core",
        "train",
        *paths,
        "--out",
        str(out),
        "--jobs",
        "2",
        "--device",
        "cpu",
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert run.returncode == 0, run.stderr
    assert len(trained(out)) == 2
    assert {"at", "trades"} <= {line.split()[1] for line in run.stdout.splitlines()}


def test_a_trial_that_fails_leaves_the_others_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = tmp_path / "wild.yaml"
    wild.write_text(TRIAL.format(method="at") + "optimizer.lr: 1.0e+30\n", encoding="utf-8")
    out = tmp_path / "out"
    assert main(["train", str(wild), write(tmp_path), "--out", str(out), "--device", "cpu"]) == 1
    assert "failed: " in capsys.readouterr().out
    assert len(list((out / "trials").glob("*/done.json"))) == 1


def test_settings_and_images_can_be_changed_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [
        "train",
        write(tmp_path),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--set",
        "epochs=1",
        "--set",
        "seed=3",
    ]
    assert main(arguments) == 0
    (folder,) = trained(out)
    assert (folder.trial().epochs, folder.trial().seed) == (1, 3)
    assert main([*arguments, "--data", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "nosuch.yaml", "--out", "o"], "nosuch.yaml: cannot be read"),
        (["train", "{trial}", "--out", "o", "--jobs", "0"], "--jobs: 0 is too few"),
        (["train", "{trial}", "--out", "o", "--threads", "100000"], "--threads: 100000 is not possible here"),
        (["train", "{trial}", "--out", "o", "--minutes", "0"], "--minutes: 0 is no time"),
        (["train", "{trial}", "--out", "o", "--set", "epoch=3"], "unknown key 'epoch'"),
        (["evaluate", "nosuch"], "nosuch: holds no trials"),
        (["evaluate", "{out}", "--attack", "pdg20"], "unknown attack 'pdg20'"),
        (
            ["evaluate", "{out}", "--weights", "best_seat"],
            "weights 'best_seat' were not kept; kept: best, best_ema",
        ),
    ],
)
def test_wrong_requests_end_with_sentences_and_2(
    arguments: list[str],
    sentence: str,
    out_with_a_trial: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trial = write(tmp_path)
    assert main([word.format(trial=trial, out=out_with_a_trial) for word in arguments]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.out == ""


@pytest.fixture(scope="module")
def out_with_a_trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT with one trained trial."""
    folder = tmp_path_factory.mktemp("main")
    assert main(["train", write(folder), "--out", str(folder / "out"), "--device", "cpu"]) == 0
    return folder / "out"


def test_wrong_places_and_splits_end_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", write(tmp_path), "--out", "/proc/x"]) == 2
    assert capsys.readouterr().err.startswith("--out: /proc/x cannot be written")
    out = tmp_path / "out"
    assert main(["train", write(tmp_path), "--out", str(out), "--set", "data.train_limit=5"]) == 2
    assert "data.train_limit: 5" in capsys.readouterr().err
    assert not out.exists()


# trials that start from others -----------------------------------------------------------------------------------


def write_tuned(folder: Path, epochs: int = 1, more: str = "") -> str:
    path = folder / "tuned.yaml"
    start = f"start_from: {{method: trades, epochs: {epochs}{more}}}\n"
    path.write_text(TRIAL.format(method="at") + start, encoding="utf-8")
    return str(path)


def test_a_trial_is_trained_after_the_one_that_it_starts_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["train", write_tuned(tmp_path), "--out", str(out), "--device", "cpu"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.index("trades (start of at seed=0)  trained") < printed.index("at seed=0  epoch 1/2")
    assert len(trained(out)) == 2
    assert main(arguments) == 0
    assert "epoch" not in capsys.readouterr().out
    for folder in trained(out):
        if folder.trial().start_from is None:
            shutil.rmtree(folder.path)
    assert main(arguments) == 0
    assert len(trained(out)) == 1, "what is trained needs its start no more"


def test_a_trial_waits_where_no_time_is_left_for_its_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", write_tuned(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*arguments, "--minutes", "1e-9"]) == 0
    printed = capsys.readouterr().out
    assert "trades (start of at seed=0)  waits at epoch 0/1; the same command continues" in printed
    assert "at seed=0  waits for its start trades (start of at seed=0); the same command continues" in printed


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_trial_whose_start_fails_has_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], jobs: str
) -> None:
    out = tmp_path / "out"
    paths = [write_tuned(tmp_path, 1, ", optimizer.lr: 1.0e+30"), write(tmp_path, "at")]
    assert main(["train", *paths, "--out", str(out), "--device", "cpu", "--jobs", jobs]) == 1
    printed = capsys.readouterr().out
    assert "at seed=0  failed: its start trades (start of at seed=0) failed" in printed
    assert len(list((out / "trials").glob("*/done.json"))) == 1


@pytest.mark.slow
def test_several_jobs_wait_for_their_starts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    paths = [write_tuned(tmp_path), write(tmp_path, "at")]
    assert main(["train", *paths, "--out", str(out), "--device", "cpu", "--jobs", "2"]) == 0
    assert len(trained(out)) == 3
