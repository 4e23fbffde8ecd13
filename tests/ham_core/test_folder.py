"""The folder of a trial: atomic, append-only, honest about damage."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ham_core.config import fingerprint
from ham_core.errors import RequestError
from ham_core.folder import TrialFolder, unwritable, write_atomically
from tests.builders import trial


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    one = trial("at")
    made = TrialFolder.of(tmp_path, one)
    made.create(one)
    return made


def record(epoch: int) -> dict[str, object]:
    return {"epoch": epoch, "metrics": {"train/loss": 1.0 / (epoch + 1)}}


def test_a_folder_is_named_by_its_trial_and_gives_it_back(folder):
    assert folder.path.name == fingerprint(trial("at"))
    assert folder.trial() == trial("at")
    assert TrialFolder(folder.path.parent / "0").settings() is None


def test_the_journal_has_every_epoch_once(folder):
    for epoch in (0, 1, 1, 0, 2):
        folder.append(record(epoch))
    assert folder.journal() == [record(0), record(1), record(2)]
    assert folder.epochs_done() == 3


@pytest.mark.parametrize("torn", [b'{"epoch": 2, "met', b'{"epoch": 2}', b"\x00\x00\n", b'{"epoch": 7}\n'])
def test_a_torn_last_line_is_dropped_and_written_over(folder, torn):
    folder.append(record(0))
    folder.append(record(1))
    with open(folder.path / "journal.jsonl", "ab") as file:
        file.write(torn)
    assert folder.journal() == [record(0), record(1)]
    folder.append(record(2))
    lines = (folder.path / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2]


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "value"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text"])
def test_a_damaged_checkpoint_is_one_sentence_that_names_file_and_remedy(folder, damage):
    folder.save_checkpoint({"model": {"w": torch.arange(10_000.0)}})
    path = folder.path / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes(
        {"truncate": content[:-300], "flip": content, "empty": b"", "text": b"no tensors"}[damage]
    )
    with pytest.raises(RequestError) as caught:
        folder.checkpoint()
    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}: cannot be read") and f"delete the folder {folder.path}" in problem


def test_checkpoints_that_would_run_code_are_refused(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": Evil()}, folder.path / "checkpoint.pt")
    with pytest.raises(RequestError):
        folder.checkpoint()
    assert not (tmp_path / "ran").exists()


def test_asking_for_weights_that_were_not_kept_lists_those_that_were(folder):
    folder.save_weights("best", {"w": torch.zeros(1)})
    with pytest.raises(RequestError, match=r"best_ema\.pt: these weights were not kept; kept: best"):
        folder.weights("best_ema")


def test_an_evaluation_counts_only_when_its_record_is_written(folder):
    arrays = {"label": np.arange(3), "prediction": np.array([0, 1, 1])}
    folder.save_evaluation("abc", {"metrics": {"best/clean/avg": 2 / 3}}, arrays)
    assert folder.has_evaluation("abc") and folder.evaluations()[0]["metrics"] == {"best/clean/avg": 2 / 3}
    assert folder.predictions("abc")["prediction"].tolist() == [0, 1, 1]
    (folder.path / "evaluations" / "abc.json").unlink()
    assert not folder.has_evaluation("abc") and folder.evaluations() == []


def _hold(path: str, ready: object) -> None:
    with TrialFolder(path).lock():
        ready.set()  # type: ignore[attr-defined]
        time.sleep(60)


def test_only_one_process_writes_and_a_killed_holder_frees_the_lock(folder):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(str(folder.path), ready))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(RequestError, match="another process has been training this trial"), folder.lock(0.3):
        pass
    holder.kill()
    holder.join()
    with folder.lock(5):
        pass


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "taken", lambda file: file.write(b"x"))
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_weights_with_a_changed_byte_are_refused(folder):
    folder.save_weights("best", {"w": torch.arange(1000.0)})
    path = folder.path / "weights" / "best.pt"
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(1000.0).numpy().tobytes()) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(RequestError, match="cannot be read as a checkpoint"):
        folder.weights("best")


@pytest.mark.parametrize("content", [None, b"garbage\n"])
def test_a_finished_trial_whose_journal_is_lost_says_so(folder, content):
    for epoch in (0, 1):
        folder.append(record(epoch))
    folder.finish({"epochs": 2})
    assert folder.problems() == []
    journal = folder.path / "journal.jsonl"
    journal.unlink()
    if content is not None:
        journal.write_bytes(content)
    (sentence,) = folder.problems()
    assert f"{journal}: holds 0 of 2 epochs although the training is marked complete" in sentence


def test_a_place_is_tried_before_it_is_written(tmp_path):
    (tmp_path / "file").touch()
    assert unwritable(tmp_path / "new" / "store") == ""
    assert unwritable(tmp_path / "file") == unwritable(tmp_path / "file" / "store") == "Not a directory"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
