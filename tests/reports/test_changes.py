"""What differs between two reports; and that a number depends on exactly the runs and images that it is computed from."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ham_core.errors import RequestError
from ham_core.folder import TrialFolder
from orchestration import tracking
from reports.builder import write
from reports.changes import Changes, between, in_one_line, markdown, read, rows_of
from reports.spec import load_specs
from tests.commands import ham
from tests.predictions import miss_one_more
from tests.reports.conftest import Store, attacks

SPECS = [load_specs()[name] for name in ("ham-main", "passes")]


def report(store: Store, folder: Path, specs: Sequence = SPECS) -> Path:
    write([store.material()], specs, folder, formats=("csv",))
    return folder


def cells(found: Sequence[Changes]) -> set[tuple[str, str, str]]:
    """(table, row, column) of each changed cell."""
    return {(one.table, change.row, change.column) for one in found for change in one.cells}


def test_two_reports_of_the_same_runs_do_not_differ(digits: Store, tmp_path: Path) -> None:
    old, new = report(digits, tmp_path / "old"), report(digits, tmp_path / "new")
    assert between(read(old), read(new)) == []
    assert in_one_line([], old) == f"nothing changed against {old}"


def test_a_changed_metric_is_old_new_and_their_difference(digits: Store, tmp_path: Path) -> None:
    old = report(digits, tmp_path / "old")
    runs = list(digits.runs)
    (place,) = (p for p, run in enumerate(runs) if run.metrics.get("best/pgd20/worst") == 0.46)
    runs[place] = replace(runs[place], metrics={**runs[place].metrics, "best/pgd20/worst": 0.49})
    found = between(read(old), read(report(replace(digits, runs=runs), tmp_path / "new")))
    assert cells(found) == {("digits/ham-main", "AT", "PGD-20 worst")}
    ((row, column, before, after, difference),) = rows_of(found[0])
    assert (row, column, difference) == ("AT", "PGD-20 worst", "+1")
    assert before.startswith("43.0 ± ") and after.startswith("44.0 ± ")
    assert in_one_line(found, old) == f"1 cell of 1 table differs; against {old}"
    text = markdown(found, old)
    assert f"| AT | PGD-20 worst | {before} | {after} | +1 |" in text


def test_cells_that_only_lost_their_place_are_told_apart(store: Store, tmp_path: Path) -> None:
    for label, worst in (("at", 0.5), ("trades", 0.4), ("mart", 0.3)):
        store.add(label, 0, attacks((0.9, 0.8, 0.7), (0.9, 0.8, worst)))
    old = report(store, tmp_path / "old")
    runs = [*store.runs[:2], replace(store.runs[2], metrics=attacks((0.9, 0.8, 0.7), (0.9, 0.8, 0.6)))]
    found = between(read(old), read(report(replace(store, runs=runs), tmp_path / "new")))
    assert {row for _, row, _ in cells(found)} == {"mart"}
    assert {change.row for change in found[0].ranks} == {"at", "trades"}
    assert "at, PGD-20 worst (best -> second)" in markdown(found, old)


def test_added_and_removed_rows_and_tables(digits: Store, tmp_path: Path) -> None:
    old = report(digits, tmp_path / "old", SPECS[:1])
    digits.add("mart", 0, attacks((0.9, 0.8, 0.7), (0.6, 0.5, 0.4)), title="MART")
    new = report(digits, tmp_path / "new")
    found = {one.table: one for one in between(read(old), read(new))}
    assert found["digits/passes"].whole == "added"
    assert {change.row for change in found["digits/ham-main"].cells} == {"MART"}
    assert all(change.old is None for change in found["digits/ham-main"].cells)
    back = {one.table: one for one in between(read(new), read(old))}
    assert back["digits/passes"].whole == "removed"
    assert all(row[3] == "-" for row in rows_of(back["digits/ham-main"]))


def test_what_cannot_be_compared_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is no folder; name the folder of an earlier report"):
        read(tmp_path / "none")
    with pytest.raises(RequestError, match="no tables as CSV"):
        read(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/ham-main.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(RequestError, match=r"ham-main.csv: is no table of this version"):
        read(tmp_path)


# from an image to a cell ---------------------------------------------------------------------------------------------

SWEEP = """\
title: Two methods, two seeds
trial:
  data: {name: digits, train_limit: 400, test_limit: 60}
  model: {name: small_cnn, width: 0.5}
  epsilon: 0.05
  attack: {steps: 3, mode: eval}
  epochs: 8
  batch_size: 64
  selection.steps: 2
grid:
  methods: {method: [at, ham-official]}
seeds: [0, 1]
evaluate: [clean, pgd20, cw20]
"""


def run(folder: Path, *words: str) -> str:
    code, out, err = ham(folder, *words, "--store", "store")
    assert code == 0, err
    return out


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(400)
def test_a_prediction_moves_the_cells_computed_from_it_and_a_lost_run_empties_its_own(tmp_path: Path) -> None:
    """One trained sweep, changed step by step; each report is compared with the one before by `ham report --against`."""
    (tmp_path / "small.yaml").write_text(SWEEP, encoding="utf-8")
    run(tmp_path, "sweep", "small.yaml")
    run(tmp_path, "report", "--out", "a", "--format", "csv,md")
    uri = tracking.default_uri(tmp_path / "store")
    trials = {(one.tags["method"], one.params["seed"]): one for one in tracking.read_trials(uri, "small")}

    # one image of AT's seed 0, under PGD-20 with the best weights, is not classified correctly any more
    folder = TrialFolder.of(tmp_path / "store", trials["at", "0"].fingerprint)
    before = miss_one_more(folder, "best", "pgd20")
    (record,) = (one for one in folder.evaluations() if one["metrics"].keys() == before.keys())
    moved = {key for key, value in record["metrics"].items() if value != before[key]}
    assert {"best/pgd20/avg", "best/pgd20/std"} <= moved
    assert len([key for key in moved if re.search(r"/\d\d_", key)]) == 1, "of the classes, its own"
    run(tmp_path, "sync")
    out = run(tmp_path, "report", "--out", "b", "--against", "a")
    found = between(read(tmp_path / "a"), read(tmp_path / "b"))
    expected = {
        (f"small/{path.stem}", line["row"], line["column"])
        for path in (tmp_path / "b" / "small").glob("*.csv")
        if path.name != "trials.csv"
        for line in table(path)
        if line["metric"] in moved and (line["row"] == "AT") != (path.stem == "ham-differences")
    }  # AT is what the others are compared with there
    assert cells(found) == expected != set()
    assert f"{len(expected)} cells of 2 tables differ" in out
    said = (tmp_path / "b/changes.md").read_text(encoding="utf-8")
    assert f"{len(expected)} cells of 2 tables differ" in said
    numbers = {
        (line["label"], line["seed"], line["metric"]): line["value"]
        for line in table(tmp_path / "a/small/trials.csv")
    }
    others = {
        (line["label"], line["seed"], line["metric"])
        for line in table(tmp_path / "b/small/trials.csv")
        if numbers[line["label"], line["seed"], line["metric"]] != line["value"]
    }
    assert others == {("at", "0", metric) for metric in moved}

    # the runs of HAM are deleted in MLflow, one after the other
    client = tracking.client_of(uri)
    for seed, folders in (("1", ("b", "c")), ("0", ("c", "d"))):
        client.delete_run(trials["ham-official", seed].run_id)
        old, new = (tmp_path / name for name in folders)
        run(tmp_path, "report", "--out", new.name, "--against", old.name, "--format", "csv")
        found = between(read(old), read(new))
        assert cells(found) == {
            (f"small/{path.stem}", line["row"], line["column"])
            for path in (new / "small").glob("*.csv")
            if path.name != "trials.csv"
            for line in table(path)
            if line["row"].startswith("HAM")
        }
        left = [change.new for one in found for change in one.cells if change.new is not None]
        waits = "waits for seed 1 (not run)" if seed == "1" else "waits for seeds 0, 1 (not run)"
        assert {cell["n"] for cell in left} == {"1" if seed == "1" else "0"}
        assert all(cell["waits_for"].endswith(waits) for cell in left)
        assert all(bool(cell["text"]) == (seed == "1") for cell in left)

    # what was deleted is written again from the trials
    run(tmp_path, "sync")
    out = run(tmp_path, "report", "--out", "e", "--against", "b", "--format", "csv")
    assert "nothing changed against b" in out
    assert "up to date" in run(tmp_path, "report", "--out", "e", "--format", "csv")

    # who edits predictions by hand is told that they do not count, and what to type
    path = folder.path / "evaluations" / f"{record['fingerprint']}.npz"
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {"prediction": arrays["label"]})
    code, _, err = ham(tmp_path, "sync", "--store", "store")
    assert code == 1
    assert f"{path}: is not what was written (edited, or damaged), so at seed 0 counts as half done" in err
    assert "to attack it again: ham sweep small.yaml --store" in err
