"""One trained model under several protocols: evaluated once where they agree, a table each, deviations named. Real MLflow."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ham_core.errors import RequestError
from ham_core.evaluation import attack_images
from ham_core.folder import TrialFolder
from ham_core.metrics import summarize
from ham_core.network import build_model
from ham_core.protocol import EvaluationAttack
from ham_core.randomness import derived_seed
from ham_core.run import run_trial
from ham_core.training import load_data
from orchestration import disk, tracking
from orchestration.cli import app
from orchestration.plan import plan
from orchestration.sweep import Sweep, load_sweep

SWEEP = """\
trial:
  data: {name: digits, train_limit: 200, test_limit: 60}
  model: {name: small_cnn, width: 0.5, normalize: false}
  epsilon: 8/255
  attack: {steps: 2, mode: eval}
  epochs: 3
  batch_size: 64
  selection.steps: 2
grid:
  methods: {method: [at]}
seeds: [0]
"""
JUDGE = "judge: [standard, ham-paper, cfa-paper]\n"
HELD_OUT = "Selected on held-out images, where {} selects on the test images."
NO_STATISTICS = (
    "The network takes pixels as they are, where that of cfa-paper normalises its input by the data set's statistics "
    "(model.normalize: true)."
)


def ham(*arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command in this process."""
    outcome = CliRunner().invoke(app, list(arguments))
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.exit_code, outcome.stdout, outcome.stderr


def write(folder: Path, text: str, name: str = "small") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


Train = Callable[[Path], Sweep]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """train(path of a sweep) -> the sweep, its trials trained and evaluated here, and recorded in `store` beside it."""
    blank = tmp_path_factory.mktemp("blank")
    tracking.Tracker(tracking.default_uri(blank), blank)  # making a database takes seconds
    with contextlib.closing(sqlite3.connect(blank / "mlflow.db")) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")

    def run(path: Path) -> Sweep:
        sweep, store = load_sweep(path), path.parent / "store"
        store.mkdir(exist_ok=True)
        if not (store / "mlflow.db").exists():
            shutil.copy(blank / "mlflow.db", store / "mlflow.db")
        tracker = tracking.Tracker(tracking.default_uri(store), store)
        tracker.open_sweep(sweep)
        for one in sweep.trials:
            folder = TrialFolder.of(store, one.trial)
            keep = disk.kept_rules(one.evaluations)
            list(run_trial(one.trial, folder, one.evaluations, device="cpu", keep=keep))
            tracker.sync(one, folder)
        tracker.close_sweep("FINISHED")
        return sweep

    return run


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, train: Train) -> Path:
    """small.yaml, judged under three protocols, and its store."""
    folder = tmp_path_factory.mktemp("judged")
    train(write(folder, SWEEP + JUDGE))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, train: Train) -> Path:
    """The same sweep under its own protocol alone."""
    folder = tmp_path_factory.mktemp("plain")
    train(write(folder, SWEEP))
    return folder


def copied(folder: Path, target: Path, train: Train) -> Path:
    """A copy to be changed, recorded anew, because a record names its artifacts by their old place."""
    shutil.copytree(folder, target)
    for path in (target / "store").glob("mlflow.db*"):
        path.unlink()
    train(target / "small.yaml")
    return target


@pytest.fixture
def place(plain: Path, tmp_path: Path, train: Train) -> Path:
    """A copy of the sweep under its own protocol."""
    return copied(plain, tmp_path / "copy", train)


def report(folder: Path, *flags: str) -> tuple[dict[str, list[dict[str, str]]], str]:
    """({protocol's name or "": rows of ham-main.csv}, ham-main.md)."""
    out = folder / f"out{len(list(folder.glob('out*')))}"
    code, _, err = ham(
        "report",
        "--store",
        str(folder / "store"),
        "--out",
        str(out),
        "--format",
        "md,csv",
        "--partial",
        *flags,
    )
    assert code == 0, err
    found: dict[str, list[dict[str, str]]] = {}
    for row in csv.DictReader((out / "small" / "ham-main.csv").open(encoding="utf-8")):
        under = row["protocol"].partition("judged under ")[2].partition(":")[0]
        found.setdefault(under, []).append(row)
    return found, (out / "small" / "ham-main.md").read_text(encoding="utf-8")


def attack(trial: Any, folder: TrialFolder, weights: str, name: str, epsilon: float) -> dict[str, float]:
    """The statistics of an attack that is run here and now."""
    dataset = load_data(trial, torch.device("cpu"))
    model = build_model(trial, dataset, torch.device("cpu"))
    model.load_state_dict(folder.weights(weights))
    seed = derived_seed(trial.seed, "evaluation")
    how = EvaluationAttack.model_validate(name)
    seen = attack_images(model, dataset.test, how, epsilon=epsilon, seed=seed)
    labels = dataset.test.labels.numpy()
    return summarize(labels, np.asarray(seen.prediction) == labels, dataset.classes)


@pytest.mark.parametrize(
    ("protocol", "weights", "epsilon"),
    [("standard", "best", 8 / 255), ("ham-paper", "best", 0.031), ("cfa-paper", "best_sum", 8 / 255)],
)
def test_a_table_under_a_protocol_holds_what_its_weights_and_radius_give(
    judged: Path, protocol: str, weights: str, epsilon: float
) -> None:
    (one,) = load_sweep(judged / "small.yaml").trials
    tables, _ = report(judged)
    assert list(tables) == ["standard", "ham-paper", "cfa-paper"]
    folder = TrialFolder.of(judged / "store", one.trial)
    for name, group in (("clean", "Clean"), ("pgd20", "PGD-20"), ("cw20", "CW-20")):
        found = attack(one.trial, folder, weights, name, epsilon)
        for statistic, title in (("avg", "average"), ("worst", "worst"), ("std", "std")):
            (row,) = [row for row in tables[protocol] if row["column"] == f"{group} {title}"]
            assert float(row["mean"]) == pytest.approx(100 * found[statistic], abs=1e-9)
            assert row["waits_for"] == ""


def test_attacks_at_the_radius_of_the_trial_are_run_once_for_all_protocols(judged: Path) -> None:
    (one,) = load_sweep(judged / "small.yaml").trials
    records = TrialFolder.of(judged / "store", one.trial).evaluations()
    attacks = ["clean", "pgd20", "cw20"]
    expected = {f"{weights}/{name}" for weights in ("best", "last", "best_sum") for name in attacks}
    expected |= {f"{weights}/{name}_eps0_031" for weights in ("best", "last") for name in ("pgd20", "cw20")}
    assert sorted(f"{one['weights']}/{one['attack_name']}" for one in records) == sorted(expected)


def test_what_a_table_deviates_in_stands_below_it(judged: Path) -> None:
    tables, text = report(judged)
    own, ham_paper, cfa_paper = text.split("### ")[1:]
    assert own.startswith("Robust fairness of each method, best checkpoint, judged under standard (1)\n")
    assert "where standard" not in own
    rule = "'best' is the epoch with the highest average robust accuracy on the test images"
    assert f"judged under ham-paper: {rule}" in ham_paper
    assert "attacks at ε = 0.031" in ham_paper
    assert f"† {HELD_OUT.format('ham-paper')}" in ham_paper
    assert "‡ Trained and selected at ε = 8/255, where ham-paper has 0.031." in ham_paper
    assert f"† {HELD_OUT.format('cfa-paper')}" in cfa_paper
    assert f"‡ {NO_STATISTICS}" in cfa_paper
    assert "Trained and selected" not in cfa_paper
    assert {row["protocol"][-2:] for row in tables["ham-paper"]} == {"†‡"}


def test_a_report_and_an_explanation_can_be_of_one_protocol(judged: Path) -> None:
    tables, _ = report(judged, "--protocol", "cfa-paper,ham-paper")
    assert list(tables) == ["ham-paper", "cfa-paper"]
    words = ("explain", "ham-main", "at", "PGD-20 worst", "--store", str(judged / "store"), "--json")
    code, out, err = ham(*words, "--protocol", "cfa-paper")
    assert code == 0, err
    found = json.loads(out)
    (row,) = [row for row in tables["cfa-paper"] if row["column"] == "PGD-20 worst"]
    assert (found["judged_under"], found["metric"]) == ("cfa-paper", "best_sum/pgd20/worst")
    assert found["mean"] == pytest.approx(float(row["mean"]), abs=1e-9)
    assert "highest sum" in found["selection"]
    assert Path(found["runs"][0]["checkpoint"]).name == "best_sum.pt"
    assert Path(found["runs"][0]["checkpoint"]).exists()
    assert [HELD_OUT.format("cfa-paper"), NO_STATISTICS] == found["footnotes"][:2]
    assert json.loads(ham(*words)[1])["judged_under"] == "standard"
    asked = (
        "explain",
        "ham-main",
        "at",
        "best/pgd20_eps0_031/worst",
        "--store",
        str(judged / "store"),
        "--json",
    )
    assert json.loads(ham(*asked)[1])["judged_under"] == "ham-paper"

    code, _, err = ham("report", "--store", str(judged / "store"), "--protocol", "cfa")
    assert code == 2
    assert err.startswith("--protocol: no sweep is judged under 'cfa'; known: cfa-paper, ham-paper, standard")


def test_a_sweep_under_its_own_protocol_alone_is_told_as_before(plain: Path, judged: Path) -> None:
    (one,) = load_sweep(plain / "small.yaml").trials
    (other,) = load_sweep(judged / "small.yaml").trials
    assert one.fingerprint == other.fingerprint
    tables, text = report(plain)
    assert list(tables) == [""]
    assert "judged" not in text
    assert tables[""][0]["protocol"].endswith("selected on the validation split, by PGD-2, protocol standard")
    _, same = report(plain, "--protocol", "standard")
    assert same == text


def test_evaluate_judges_a_trained_sweep_and_its_tables_follow(place: Path, train: Train) -> None:
    flags = ("--store", str(place / "store"))
    words = ("evaluate", "--sweep", str(place / "small.yaml"), "--protocol", "ham-paper", *flags)
    code, out, err = ham(*words, "--json")
    assert code == 0, err
    rows = json.loads(out)["evaluations"]
    assert {row["protocol"] for row in rows} == {"ham-paper"}
    assert sorted(f"{row['weights']}/{row['attack_name']}" for row in rows) == sorted(
        f"{weights}/{name}"
        for weights in ("best", "last")
        for name in ("clean", "pgd20_eps0_031", "cw20_eps0_031")
    )
    sentences = [
        "selected on held-out images, where ham-paper selects on the test images",
        "trained and selected at ε = 8/255, where ham-paper has 0.031",
    ]
    assert rows[0]["deviations"] == sentences
    assert [f"deviates from ham-paper: {sentence}: at seed=0" for sentence in sentences] == err.splitlines()[
        :2
    ]
    tables, _ = report(place)
    assert list(tables) == ["standard", "ham-paper"]
    assert all(row["waits_for"] == "" for rows in tables.values() for row in rows)

    before = {path: path.stat().st_mtime_ns for path in (place / "store" / "trials").rglob("*.npz")}
    assert ham(*words)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in (place / "store" / "trials").rglob("*.npz")} == before

    train(place / "small.yaml")  # the file says nothing of it, and the tables stay
    assert list(report(place)[0]) == ["standard", "ham-paper"]


def test_weights_that_were_not_kept_are_said_with_what_to_do(place: Path) -> None:
    flags = ("--store", str(place / "store"))
    code, _, err = ham("evaluate", "--sweep", str(place / "small.yaml"), "--protocol", "cfa-paper", *flags)
    assert code == 2
    assert err.startswith("at seed=0: weights 'best_sum' were not kept; kept: best, ")
    assert "name them under weights: or judge: in the sweep and run ham sweep" in err
    path = write(place, SWEEP + JUDGE)
    (step,) = plan(load_sweep(path), place / "store").steps
    assert (step.status, step.retrains) == ("partial", True)
    assert step.why == "weights best_sum were not kept, trains again"


def test_a_trial_alone_is_judged_with_other_attacks_at_the_radius_of_the_protocol(place: Path) -> None:
    (one,) = load_sweep(place / "small.yaml").trials
    words = ("evaluate", one.fingerprint, "--protocol", "ham-paper", "--attack", "pgd3", "--json")
    code, out, err = ham(*words, "--store", str(place / "store"))
    assert code == 0, err
    rows = json.loads(out)["evaluations"]
    assert [(row["weights"], row["attack_name"]) for row in rows] == [
        ("best", "pgd3_eps0_031"),
        ("last", "pgd3_eps0_031"),
    ]
    for row in rows:
        folder = TrialFolder.of(place / "store", one.trial)
        found = attack(one.trial, folder, row["weights"], "pgd3", 0.031)
        assert row["metrics"][f"{row['weights']}/pgd3_eps0_031/avg"] == found["avg"]


def test_a_sweep_that_is_judged_no_longer_loses_its_tables(
    judged: Path, tmp_path: Path, train: Train
) -> None:
    place = copied(judged, tmp_path / "copy", train)
    assert list(report(place)[0]) == ["standard", "ham-paper", "cfa-paper"]
    train(write(place, SWEEP + "judge: ham-paper\n"))
    assert list(report(place)[0]) == ["standard", "ham-paper"]
    train(write(place, SWEEP))
    assert list(report(place)[0]) == [""]


def test_a_protocol_in_the_record_that_cannot_be_read_is_damage(
    judged: Path, tmp_path: Path, train: Train
) -> None:
    place = copied(judged, tmp_path / "copy", train)
    with contextlib.closing(sqlite3.connect(place / "store" / "mlflow.db")) as connection:
        changed = connection.execute("update tags set value = '{}' where key = 'judge.ham-paper'")
        assert changed.rowcount == 1
        connection.commit()
    code, _, err = ham("report", "--store", str(place / "store"), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "has a protocol that cannot be read" in err
    assert "run ham sync" in err


def test_a_protocol_of_ones_own_trains_judges_and_has_a_table(tmp_path: Path, train: Train) -> None:
    own = "protocol: {name: mine, extends: cfa-paper, epsilon: 4/255, attacks: [clean, pgd2]}\n"
    text = (SWEEP + own + "judge: [mine, standard]\n").replace("  epsilon: 8/255\n", "")
    (one,) = train(write(tmp_path, text)).trials
    assert (one.trial.epsilon, one.trial.selection.on) == (4 / 255, "test")
    names = {evaluation.name for evaluation in one.evaluations}
    own_names = {"best_sum/clean", "best_sum/pgd2", "last/clean", "last/pgd2"}
    assert names == own_names | {f"{w}/{a}" for w in ("best", "last") for a in ("clean", "pgd20", "cw20")}
    tables, text = report(tmp_path)
    assert list(tables) == ["mine", "standard"]
    empty = [row["column"] for row in tables["mine"] if not row["text"] and row["n"]]
    assert empty == [
        f"{group} {word}" for group in ("PGD-20", "CW-20") for word in ("average", "worst", "std")
    ]
    assert "mine has no attack pgd20." in text
    assert all(row["waits_for"] == "" for row in tables["mine"])
    assert "Selected on the test images, where standard selects on held-out images." in text


def test_a_file_with_a_protocol_is_copied_into_the_record(tmp_path: Path) -> None:
    from orchestration.sweep import parse_sweep

    (tmp_path / "strict.yaml").write_text("epsilon: 4/255\nattacks: [clean, pgd50]\n", encoding="utf-8")
    path = write(tmp_path, SWEEP + "judge: [strict.yaml, ham-paper]\n")
    sweep = load_sweep(path)
    assert [one.name for one in sweep.judged] == ["standard", "strict", "ham-paper"]
    (tmp_path / "strict.yaml").unlink()
    again = parse_sweep(sweep.text, sweep.source, sets=sweep.sets)
    assert again.judged == sweep.judged
    assert again.trials[0].evaluations == sweep.trials[0].evaluations
    with pytest.raises(RequestError, match=r"small.yaml:12: protocol strict.yaml: no such file"):
        load_sweep(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "judge: [ham]\n",
            "12: unknown protocol 'ham'; known: cfa-paper, ham-paper, standard (did you mean ham-paper?)",
        ),
        ("judge: []\n", "12: judge is empty; write for example judge: [ham-paper, cfa-paper]"),
        ("judge: [ham-paper, ham-paper]\n", "12: judge: protocol 'ham-paper' is given twice; keep one"),
        ("judge:\n  - {extends: standard}\n", "13: a protocol of your own needs a name"),
        (
            "judge:\n  - {name: standard}\n",
            "13: protocol 'standard' comes with the package and stays as it is",
        ),
        ("protocol:\n  name: mine\n  extends: stand\n", "14: protocol: extends is 'stand'; known: "),
        ("protocol:\n  name: mine\n  epsilom: 1\n", "14: unknown key 'epsilom' in protocol; known: "),
        ("protocol:\n  name: mine\n  epsilon: x\n", "14: protocol: epsilon: 'x' is no number"),
        ("protocol:\n  name: mine\n  epsilon: 8\n", "12: protocol: epsilon: 8 is too much; allowed: 0 to 1"),
        (
            "protocol:\n  name: mine\n  rule: bets\n",
            "14: protocol: rule is 'bets'; allowed: best, best_sum, ",
        ),
        (
            "protocol:\n  name: mine\n  on: train\n",
            "14: protocol: on is 'train'; allowed: validation or test",
        ),
        ("protocol:\n  name: mine\n  norm: l2\n", "12: protocol: norm: l2 needs a radius of its own"),
        (
            "protocol:\n  name: mine\n  normalisation: yes\n",
            "14: protocol: normalisation is true; allowed: any, data or none",
        ),
        ("protocol:\n  name: mine\n  weights: [bets]\n", "14: protocol: weights: unknown weights 'bets'"),
        (
            "protocol:\n  name: mine\n  attacks:\n    - pgdx\n",
            "15: protocol: attacks[0]: unknown attack 'pgdx'",
        ),
        ("protocol:\n  name: mine\n  attacks: []\n", "14: protocol: attacks is []"),
        (
            "protocol:\n  name: mine\n  attacks: [pgd2, pgd2]\n",
            "14: protocol: attacks: two attacks are called 'pgd2'",
        ),
        (
            "judge:\n  - {name: mine, attacks: [{name: pgd20, step: 0.001}]}\n",
            "12: judge: the attack 'pgd20' of protocol 'mine' is another one than what has this name already",
        ),
        (
            "protocol: {name: mine}\njudge: [{name: mine, epsilon: 0.1}]\n",
            "13: judge: 'mine' is the name of the sweep's own protocol too; rename one of them",
        ),
    ],
)
def test_a_wrong_protocol_is_a_sentence_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_sweep(write(tmp_path, SWEEP + text))
    (found,) = caught.value.problems
    assert found.startswith(f"{tmp_path}/small.yaml:{sentence}")


def test_a_wrong_file_of_a_protocol_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("title: x\nattacks: [pgd]\n", encoding="utf-8")
    with pytest.raises(RequestError) as caught:
        load_sweep(write(tmp_path, SWEEP + "protocol: mine.yaml\n"))
    (found,) = caught.value.problems
    assert found.startswith(f"{tmp_path}/mine.yaml:2: protocol: attacks[0]: 'pgd' needs its number")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--protocol", "ham"), "--protocol: unknown protocol 'ham'; known: cfa-paper, ham-paper, standard"),
        (("--protocol", ","), "--protocol: no protocol given"),
        (("--protocol", "none.yaml"), "--protocol: protocol none.yaml: no such file"),
        (("--protocol", "ham-paper", "--weights", "last"), "leave --weights out"),
        (("--protocol", "ham-paper", "--curve"), "leave --curve out"),
        (("--protocol", "ham-paper", "--attack", "pgdx"), "unknown attack 'pgdx'"),
    ],
)
def test_evaluate_refuses_protocols_that_it_cannot_follow(
    plain: Path, flags: tuple[str, ...], sentence: str
) -> None:
    (one,) = load_sweep(plain / "small.yaml").trials
    code, out, err = ham("evaluate", one.fingerprint, *flags, "--store", str(plain / "store"))
    assert (code, out) == (2, "")
    assert sentence in err


def test_a_profile_may_judge_otherwise(tmp_path: Path) -> None:
    text = SWEEP + "judge: [ham-paper]\nprofiles:\n  quick: {judge: [cfa-paper]}\n"
    path = write(tmp_path, text)

    def names(**flags: Any) -> list[str]:
        return [one.name for one in load_sweep(path, **flags).judged]

    assert names() == ["standard", "ham-paper"]
    assert names(profile="quick") == ["standard", "cfa-paper"]
    assert names(sets=["judge=standard"]) == ["standard"]


def test_the_attacks_of_the_file_are_those_of_the_sweeps_own_protocol_alone(tmp_path: Path) -> None:
    sweep = load_sweep(
        write(tmp_path, SWEEP + "evaluate: [pgd3]\nweights: [last]\njudge: [ham-paper, standard]\n")
    )
    ham_paper, own = sweep.judged
    assert ([one.key for one in own.attacks], own.weights) == (["pgd3"], ("best", "last"))
    assert [one.key for one in ham_paper.attacks] == ["clean", "pgd20", "cw20"]
    names = {one.name for one in sweep.trials[0].evaluations}
    assert {name for name in names if "pgd3" in name} == {"best/pgd3", "last/pgd3"}
