"""The folder of one trial: everything that is known about it, safe against being killed at any moment.

    trial.json             resolved settings                       written first
    weights/<name>.pt      best, best_sum, best_worst, last, and the same of each average (best_ema)
    checkpoint.pt          model, optimiser, averages, calibration, best scores: enough for a bit-exact continuation
    journal.jsonl          one fsynced JSON line per epoch, appended after the checkpoint of that epoch
    done.json              training is complete                     written last
    evaluations/<fingerprint>.{json,npz}   one attack on one set of weights, with its per-image predictions
    lock                   held by the one process that may write

Every file but the journal appears by atomic rename; a torn last line of the journal is dropped. Reads need no torch.
A trial store is a folder of such folders, named by fingerprint.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

from ham_core.config import Trial, fingerprint
from ham_core.errors import BusyError, RequestError
from ham_core.protocol import split_weights


class TrialFolder:
    """One trial on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def of(cls, store: str | Path, trial: Trial | str) -> TrialFolder:
        """The place of a trial (or fingerprint) in a store."""
        return cls(Path(store) / "trials" / (trial if isinstance(trial, str) else fingerprint(trial)))

    # settings ------------------------------------------------------------------------------------------------------

    def create(self, trial: Trial) -> None:
        """Make the folder and record the resolved settings."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(
            self.path / "trial.json",
            {"fingerprint": fingerprint(trial), "trial": trial.model_dump(mode="json")},
        )

    def settings(self) -> dict[str, Any] | None:
        """The recorded settings, or None where the trial was never started."""
        found = read_json(self.path / "trial.json")
        return None if found is None else dict(found["trial"])

    def trial(self) -> Trial:
        """The recorded trial."""
        settings = self.settings()
        if settings is None:
            raise RequestError(
                f"{self.path}: holds no trial (no trial.json); name a folder below STORE/trials"
            )
        return Trial.model_validate(settings)

    def kept_averages(self) -> list[dict[str, Any]]:
        """The averages that this trial's training keeps."""
        settings = self.settings()
        return [] if settings is None else list(settings["method"]["averaging"])

    # journal -------------------------------------------------------------------------------------------------------

    def journal(self) -> list[dict[str, Any]]:
        """One record per epoch, in order, each epoch once. A torn last line is not a record."""
        return _records(self.path / "journal.jsonl")[0]

    def epochs_done(self) -> int:
        """How many epochs are recorded."""
        return len(self.journal())

    def append(self, record: dict[str, Any]) -> None:
        """Add the record of the next epoch, fsynced; an epoch that is recorded already stays as it is."""
        path = self.path / "journal.jsonl"
        records, good_bytes = _records(path)
        if record["epoch"] < len(records):
            return
        with open(path, "ab") as file:
            file.truncate(good_bytes)
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    # training state ------------------------------------------------------------------------------------------------

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        save_tensors(self.path / "checkpoint.pt", state)

    def checkpoint(self, device: str = "cpu") -> dict[str, Any] | None:
        """The last checkpoint, or None."""
        path = self.path / "checkpoint.pt"
        return load_tensors(path, device) if path.exists() else None

    def save_weights(self, name: str, state: dict[str, Any]) -> None:
        """Replace the weights kept under a name."""
        (self.path / "weights").mkdir(exist_ok=True)
        save_tensors(self.path / "weights" / f"{name}.pt", state)

    def weights(self, name: str, device: str = "cpu") -> dict[str, Any]:
        """A state dict by name."""
        path = self.path / "weights" / f"{name}.pt"
        if not path.exists():
            kept = ", ".join(self.weight_names()) or "none yet"
            raise RequestError(f"{path}: these weights were not kept; kept: {kept}")
        if not _is_whole(path):  # torch itself would not notice a changed number
            raise RequestError(unreadable(path))
        return load_tensors(path, device)

    def weight_names(self) -> list[str]:
        """Names of the weights that are kept."""
        return sorted(path.stem for path in (self.path / "weights").glob("*.pt"))

    def finish(self, record: dict[str, Any]) -> None:
        """Mark the training as complete."""
        write_json(self.path / "done.json", record)

    def is_done(self) -> bool:
        """Whether the training is complete."""
        return (self.path / "done.json").exists()

    def prune(self, rules: Collection[str]) -> None:
        """Of a finished training keep the weights by these rules, and no checkpoint. What goes is written down first."""
        done = read_json(self.path / "done.json") or {}
        gone = [name for name in self.weight_names() if split_weights(name)[0] not in rules]
        if gone:
            self.finish(done | {"pruned": sorted({*done.get("pruned", ()), *gone})})
        for path in [self.path / "checkpoint.pt", *(self.path / "weights" / f"{name}.pt" for name in gone)]:
            path.unlink(missing_ok=True)

    def pruned(self) -> frozenset[str]:
        """Names of weights that a finished training once had."""
        return frozenset((read_json(self.path / "done.json") or {}).get("pruned", ()))

    def reopen(self) -> None:
        """Forget all training results: the trial starts again from epoch 0. Evaluations of the old weights go too."""
        for path in [self.path / "done.json", self.path / "checkpoint.pt", self.path / "journal.jsonl"]:
            path.unlink(missing_ok=True)
        for path in [*(self.path / "weights").glob("*.pt"), *(self.path / "evaluations").glob("*")]:
            path.unlink()

    def problems(self) -> list[str]:
        """Files that a continuation would need and that cannot be read, or lack epochs, one sentence each."""
        needed = [*(self.path / "weights").glob("*.pt")]
        if not self.is_done():
            needed += [path for path in [self.path / "checkpoint.pt"] if path.exists()]
        broken = [unreadable(path) for path in sorted(needed) if not _is_whole(path)]
        return broken + self.lost_epochs()

    def lost_epochs(self) -> list[str]:
        """A sentence where the training is marked complete and the journal does not hold all of its epochs."""
        try:
            finished = read_json(self.path / "done.json")
        except RequestError as error:
            return list(error.problems)
        if finished is None:
            return []
        recorded, epochs = self.epochs_done(), finished.get("epochs") if isinstance(finished, dict) else None
        if recorded == epochs:
            return []
        return [
            f"{self.path / 'journal.jsonl'}: holds {recorded} of {epochs} epochs although the training is marked "
            f"complete; delete the folder {self.path} to train this trial again, or copy the file from where it "
            "was made"
        ]

    # evaluations ---------------------------------------------------------------------------------------------------

    def save_evaluation(self, identity: str, record: dict[str, Any], arrays: dict[str, Any]) -> None:
        """Per-image arrays first, then the record that makes them count."""
        import numpy as np

        folder = self.path / "evaluations"
        folder.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(folder / f"{identity}.npz", lambda file: file.write(buffer.getvalue()))
        write_json(folder / f"{identity}.json", record)

    def has_evaluation(self, identity: str) -> bool:
        """Whether this evaluation is complete."""
        return (self.path / "evaluations" / f"{identity}.json").exists()

    def evaluations(self) -> list[dict[str, Any]]:
        """All complete evaluations."""
        found = [read_json(path) for path in sorted((self.path / "evaluations").glob("*.json"))]
        return [record for record in found if record is not None]

    def predictions(self, identity: str) -> dict[str, Any]:
        """The per-image arrays of an evaluation: label, prediction, clean, confidence, clean_confidence, each (N,)."""
        import numpy as np

        with np.load(self.path / "evaluations" / f"{identity}.npz", allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    # ownership -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self, wait_seconds: float = 60.0) -> Iterator[None]:
        """Exclusive right to write. The system releases it when the holder dies, however it dies. BusyError: not in time."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / "lock", "a") as file:
            deadline = time.monotonic() + wait_seconds
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise BusyError(
                            f"{self.path}: another process has been training this trial for {wait_seconds:.0f} s; "
                            "wait for it, or stop it and run the same command again"
                        ) from None
                    time.sleep(0.2)
            yield


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """`path` is either what it was or complete, whatever happens in between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(path: str | Path) -> str:
    """Why nothing can be written below this folder, which need not exist; "" where it can. Leaves nothing behind."""
    place = Path(path).expanduser().absolute()
    try:
        # A trial, not the permission bits: those say nothing of /proc, a full disk or a read-only mount.
        nearest = next(one for one in (place, *place.parents) if one.exists())
        with tempfile.TemporaryDirectory(prefix=".write-", dir=nearest):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def write_json(path: Path, value: Any) -> None:
    """JSON, readable by people."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> Any | None:
    """The value, or None where there is no such file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise RequestError(
            f"{path}: is damaged (no valid JSON); delete the folder {path.parent} to start it again"
        ) from None


def save_tensors(path: Path, state: dict[str, Any]) -> None:
    """A file of tensors and plain values."""
    import torch

    write_atomically(path, lambda file: torch.save(state, file))


def load_tensors(path: Path, device: str = "cpu") -> dict[str, Any]:
    """Tensors and plain values only; nothing in the file is executed."""
    import torch

    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch reports damage as pickle, zip, runtime, key or end-of-file errors
        raise RequestError(unreadable(path)) from error
    return state


def unreadable(path: Path) -> str:
    """The sentence about a damaged file of tensors."""
    return f"{path}: cannot be read as a checkpoint; delete the folder {_trial_folder(path)} to train this trial again"


def _trial_folder(path: Path) -> Path:
    return path.parent.parent if path.parent.name == "weights" else path.parent


def _is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError):
        return False


def _records(path: Path) -> tuple[list[dict[str, Any]], int]:
    """(records of epochs 0, 1, ... without gap, length in bytes of the good beginning of the file)."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    records: list[dict[str, Any]] = []
    good = 0
    for line in content.splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or record.get("epoch") != len(records):
            break
        records.append(record)
        good += len(line)
    return records, good
