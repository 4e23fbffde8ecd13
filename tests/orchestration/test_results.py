"""Stored results as rows, doubts as lines, and the images of a curve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ham_core.protocol import evaluation_fingerprint
from orchestration.curve import spread
from orchestration.results import SHOWN, doubtful, results_of
from orchestration.store import Store
from orchestration.sweep import load_sweep


def row(name: str, *doubts: str) -> dict[str, Any]:
    return {"name": name, "weights": "best", "attack_name": "pgd2", "doubts": list(doubts)}


def test_a_doubtful_evaluation_is_one_line_and_a_sound_one_none() -> None:
    rows = [row("at seed=0"), row("at seed=1", "pgd-gap: wide"), row("at seed=2", "nan: one", "range: two")]
    assert doubtful(rows) == [
        "doubtful: at seed=1, best, pgd2: pgd-gap: wide",
        "doubtful: at seed=2, best, pgd2: nan: one | range: two",
    ]
    assert doubtful([]) == []


def test_of_many_doubtful_evaluations_the_rest_is_counted() -> None:
    rows = [row(f"at seed={seed}", "nan: one") for seed in range(SHOWN + 3)]
    assert len(doubtful(rows[:SHOWN])) == SHOWN
    lines = doubtful(rows)
    assert lines[:SHOWN] == doubtful(rows[:SHOWN])
    assert lines[SHOWN:] == ["doubtful: 3 more evaluations; `ham evaluate --json` has the doubts of all"]


def test_results_are_those_that_were_asked_for_with_their_doubts(
    write_sweep: Callable[..., Path], tmp_path: Path
) -> None:
    (job,) = load_sweep(write_sweep(), sets=["seeds=0", "grid.methods.method=[at]"]).trials
    folder = Store(tmp_path / "store").folder(job.fingerprint)
    folder.create(job.trial)
    found = {one.name: evaluation_fingerprint(job.trial, one) for one in job.evaluations}
    stored = [("last/pgd2", {"doubts": ["nan: one"]}), ("best/pgd2", {"doubts": []}), ("best/clean", {})]
    for name, more in stored:
        weights, attack = name.split("/")
        record = {"fingerprint": found[name], "weights": weights, "attack_name": attack, "metrics": {name: 1}}
        folder.save_evaluation(found[name], record | {"seconds": 2.0, "device": "cpu"} | more, {})
    folder.save_evaluation("0" * 64, {"fingerprint": "0" * 64}, {})
    rows = results_of([job], Store(tmp_path / "store"))
    assert [(one["weights"], one["attack_name"]) for one in rows] == [
        ("best", "clean"),
        ("best", "pgd2"),
        ("last", "pgd2"),
    ]
    assert rows[2] == {
        "trial": job.fingerprint,
        "name": "at seed=0",
        "weights": "last",
        "attack_name": "pgd2",
        "metrics": {"last/pgd2": 1},
        "seconds": 2.0,
        "fingerprint": found["last/pgd2"],
        "doubts": ["nan: one"],
    }
    assert [one["doubts"] for one in rows[:2]] == [[], []], "a record of an early version has no doubts"


def test_images_of_a_curve_are_spread_over_all() -> None:
    assert spread(10, 4).tolist() == [0, 2, 5, 7]
    assert spread(3, 500).tolist() == [0, 1, 2]
    assert len(set(spread(10_000, 500).tolist())) == 500
