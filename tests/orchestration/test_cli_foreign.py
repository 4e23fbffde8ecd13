"""ham evaluate --checkpoint FILE --model NAME: weights that a trial exported are judged as the trial was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ham_core.folder import TrialFolder
from orchestration.cli import app
from orchestration.store import Store

SETS = [
    word
    for setting in (
        "model.name=small_cnn", "model.width=0.5", "epsilon=0.2", "attack.steps=1", "attack.mode=eval", "epochs=4",
        "data.train_limit=600", "data.test_limit=60", "selection.steps=1", "batch_size=32",
    )
    for word in ("--set", setting)
]  # fmt: skip


def ham(*arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command in this process."""
    outcome = CliRunner().invoke(app, list(arguments))
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.exit_code, outcome.stdout, outcome.stderr


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(a store with one trained and judged trial, its weights as a file in DataParallel's layout)."""
    place = tmp_path_factory.mktemp("foreign")
    store, out = place / "store", place / "their model.pt"
    method = ("--method", "standard", *SETS, "--attack", "clean,pgd3", "--weights", "last")
    code, _, err = ham("train", *method, "--store", str(store))
    assert code == 0, err
    (identity,) = Store(store).trials()
    assert ham("export", identity, "--weights", "last", "--out", str(out), "--store", str(store))[0] == 0
    state = {f"module.{key}": one for key, one in torch.load(out, weights_only=True).items()}
    torch.save({"state_dict": state}, out)
    return store, out


def arguments(file: Path, store: Path, *more: str) -> tuple[str, ...]:
    reading = ("--checkpoint", str(file), "--model", "small_cnn", "--width", "0.5")
    images = ("--data", "digits", "--images", "60", "--epsilon", "0.2")
    return ("evaluate", *reading, *images, "--attack", "clean,pgd3", "--store", str(store), *more)


def test_exported_weights_get_the_predictions_of_their_trial(
    exported: tuple[Path, Path], tmp_path: Path
) -> None:
    store, file = exported
    code, out, err = ham(*arguments(file, tmp_path / "new", "--json"))
    assert code == 0, err
    rows = json.loads(out)["evaluations"]
    assert [row["attack_name"] for row in rows] == ["clean", "pgd3"]
    assert {row["name"] for row in rows} == {"their model.pt"}
    (identity,) = Store(store).trials()
    trial = Store(store).folder(identity)
    theirs = {one["attack_name"]: trial.predictions(one["fingerprint"]) for one in trial.evaluations()}
    for row in rows:
        ours = TrialFolder(tmp_path / "new" / "foreign" / row["trial"]).predictions(row["fingerprint"])
        for key in ("label", "clean", "prediction"):
            assert np.array_equal(ours[key], theirs[row["attack_name"]][key])
        assert row["metrics"][f"file/{row['attack_name']}/avg"] == np.mean(
            ours["prediction"] == ours["label"]
        )
    assert rows[1]["epsilon"] == 0.2
    assert Store(tmp_path / "new").trials() == []


def test_a_table_is_printed(exported: tuple[Path, Path], tmp_path: Path) -> None:
    code, out, err = ham(*arguments(exported[1], tmp_path))
    assert code == 0, err
    rows = [line.split() for line in out.splitlines()[1:]]
    assert [row[2:4] for row in rows] == [
        ["file", "clean"],
        ["file", "pgd3"],
    ]  # behind the two words of its name


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--checkpoint", "m.pt", "--data", "digits"), "--model is missing"),
        (("--model", "resnet18"), "--data is missing"),
        (("--model", "resnet18", "--data", "digits"), "--checkpoint is missing"),
        (("--model", "resnet18", "--data", "digits", "--attack", "pdg20"), "unknown attack 'pdg20'"),
        (("--model", "resnet18", "--data", "digits", "--epsilon", "8/0"), "--epsilon: '8/0' is no number"),
        (("--model", "resnet18", "--data", "digits", "--epsilon", "8"), "--epsilon: 8 is no radius"),
        (("3fa4b2", "--model", "resnet18"), "leave trials, --profile and --set out"),
        (("3fa4b2", "--data", "digits"), "belong to --checkpoint FILE --model NAME"),
        (("--checkpoint", "no.pt", "--model", "resnet18", "--data", "digits"), "no.pt: cannot be read"),
    ],
)
def test_what_cannot_be_judged_is_a_sentence(words: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    code, out, err = ham("evaluate", *words, "--store", str(tmp_path / "store"))
    assert (code, out) == (2, "")
    assert sentence in err


def test_doubts_are_said_beside_the_table(tmp_path: Path) -> None:
    """A scripted model whose outputs are probabilities."""
    from ham_core.data import load

    x = load("digits", validation=0, split_seed=0).train
    pixels, labels = x.images.flatten(1).float() / 255, x.labels
    means = torch.stack([pixels[labels == c].mean(0) for c in range(10)])  # f(x) = m_c x - |m_c|²/2
    linear = torch.nn.Linear(64, 10)
    linear.load_state_dict({"weight": means, "bias": -means.square().sum(1) / 2})
    model = torch.nn.Sequential(torch.nn.Flatten(), linear, torch.nn.Softmax(1))
    torch.jit.save(torch.jit.script(model), str(tmp_path / "model.ts"))
    words = ("--checkpoint", str(tmp_path / "model.ts"), "--model", "torchscript", "--data", "digits")
    code, _, err = ham("evaluate", *words, "--attack", "clean", "--store", str(tmp_path / "store"))
    assert code == 0, err
    said = "doubtful: model.ts, file, clean: probabilities: the outputs are not negative and sum to 1"
    assert said in err


MASKED = """
import torch
from tests.judged import linear


class Rounded(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = linear()

    def forward(self, x):
        return self.inner((x > 0.5).float())


def sound():
    return linear()
"""


def test_the_curve_of_a_model_and_its_doubts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear model falls to nothing; one that sees black and white alone gives PGD no gradient, and stands at radius 1."""
    (tmp_path / "somebodys_masked.py").write_text(MASKED, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    store = ("--data", "digits", "--epsilon", "0.25", "--curve", "--store", str(tmp_path / "store"))
    code, out, err = ham("evaluate", "--model", "somebodys_masked:sound", *store, "--json")
    assert (code, err) == (0, "")
    (row,) = json.loads(out)["curves"]
    assert (row["name"], row["weights"], row["images"]) == ("somebodys_masked:sound", "file", 445)
    assert [point["epsilon"] for point in row["curve"]] == [0.25, 0.5, 1.0] and row["doubts"] == []
    code, out, err = ham("evaluate", "--model", "somebodys_masked:Rounded", *store, "--images", "100")
    assert code == 0 and "epsilon-curve: " in err and "stand under PGD with radius 1" in err
    assert [line.split()[1:3] for line in out.splitlines()[1:]] == [
        ["file", radius] for radius in ("0.25", "0.5", "1")
    ]
    assert not (tmp_path / "store").exists()
    code, out, err = ham("evaluate", "--model", "somebodys_masked:sound", *store, "--attack", "pgd2")
    assert (code, out) == (2, "") and "leave out --attack" in err


def test_another_entry_is_chosen_by_weights(exported: tuple[Path, Path], tmp_path: Path) -> None:
    state = torch.load(exported[1], weights_only=True)["state_dict"]
    file = tmp_path / "two.pt"
    torch.save({"ema": state, "epoch": 3}, file)
    code, _, err = ham(*arguments(file, tmp_path))
    assert (code, "another entry is chosen by --weights NAME" in err) == (2, True)
    code, _, err = ham(*arguments(file, tmp_path, "--weights", "ema"))
    assert code == 0, err
