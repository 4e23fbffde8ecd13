"""What is shown when a trial begins."""

from __future__ import annotations

import io

import pytest

from orchestration.live import Lines


@pytest.mark.parametrize(
    ("done", "status", "words"),
    [
        (0, "training", "starts"),
        (2, "training", "continues at epoch 2"),
        (3, "evaluating", "is evaluated"),
    ],
)
def test_a_trial_begins_where_its_folder_stands(done: int, status: str, words: str) -> None:
    stream = io.StringIO()
    shown = Lines({"a": ("at seed=0", 3, done)}, stream)
    shown.started("a")
    assert shown.lines["a"].status == status
    assert stream.getvalue().split(maxsplit=1)[1].startswith(f"{words}  ")
