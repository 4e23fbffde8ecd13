"""How many trials share a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ham_core.folder import read_json
from orchestration.packing import FILE, MOST, USUAL_SHARE, kind_of, share_of, shares
from orchestration.store import Store
from tests.builders import trial

GIB = 1024**3


@pytest.mark.parametrize(
    ("used", "total", "share"),
    [(10, 80, 1 / 7), (10, 88, 1 / 8), (1, 80, 1 / MOST), (30, 80, 1 / 2), (50, 80, 1), (90, 80, 1)],
)
def test_as_many_share_a_gpu_as_fit_with_a_tenth_to_spare(used: int, total: int, share: float) -> None:
    assert share_of(used * GIB, total * GIB) == share


def entry(identity: str, **settings: Any) -> dict[str, Any]:
    return {"fingerprint": identity, "trial": trial(**settings).model_dump(mode="json")}


class Measured:
    """Stands for the GPU: what it answers, and what it was asked."""

    def __init__(self, *answers: tuple[int, int] | None) -> None:
        self.answers, self.asked = list(answers), list[str]()

    def __call__(self, entries: Sequence[dict[str, Any]]) -> list[tuple[int, int] | None]:
        self.asked += [one["fingerprint"] for one in entries]
        return self.answers[: len(entries)]


def test_one_of_each_kind_is_measured_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    entries = [entry("a", seed=0), entry("b", seed=1, epochs=9), entry("c", batch_size=32)]
    measured = Measured((4 * GIB, 10 * GIB), (1 * GIB, 10 * GIB))
    found = shares(entries, "H100", store, measured)
    assert sorted(measured.asked) == ["a", "c"]
    by_order = dict(zip(measured.asked, measured.answers, strict=True))
    assert found == {
        "a": share_of(*by_order["a"]),
        "b": share_of(*by_order["a"]),
        "c": share_of(*by_order["c"]),
    }
    again = Measured()
    assert shares(entries, "H100", store, again) == found
    assert again.asked == []
    other = Measured(None, None)
    assert set(shares(entries, "T4", store, other).values()) == {USUAL_SHARE}, "another GPU, and no answer"
    assert len(other.asked) == 2
    assert len(read_json(tmp_path / FILE)) == 2, "no answer is not written down"


def test_damaged_measurements_are_taken_again(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{", encoding="utf-8")
    measured = Measured((GIB, 2 * GIB))
    assert shares([entry("a")], "H100", Store(tmp_path), measured) == {"a": 1.0}
    assert measured.asked == ["a"]


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "trades"},
        {"objective": {"name": "awp", "base": "trades"}},
        {"mining": {"name": "ham", "early_drop_step": 1}},
        {"method": {"calibration": "cfa"}},
        {"method": {"averaging": "none"}},
        {"precision": "bf16"},
        {"model": {"name": "small_cnn", "width": 1.0}},
    ],
)
def test_what_changes_the_memory_is_another_kind(settings: dict[str, Any]) -> None:
    assert kind_of(trial(**settings).model_dump(mode="json")) != kind_of(trial().model_dump(mode="json"))
