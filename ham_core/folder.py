"""The folder of one trial: everything that is known about it, safe against being killed at any moment.

    trial.json             resolved settings                       written first
    weights/<name>.pt      best, best_sum, best_worst, last, and the same of each average (best_ema)
    checkpoint.pt          model, optimiser, averages, calibration, best scores, records of all epochs: enough for a bit-exact
                           continuation, and for a new journal
    checkpoint.previous.pt the one of the epoch before, while the trial trains
    journal.jsonl          one fsynced JSON line per epoch, appended after the checkpoint of that epoch
    done.json              training is complete                     written last
    stopped.json           a sweep stopped the training early; removed when it goes on
    evaluations/<fingerprint>.{json,npz}   one attack on one set of weights, with its per-image predictions
    lock, .taking          whose turn it is to write (ham_core.ownership)

Every file but the journal appears by atomic rename; a torn last line of the journal is dropped. Reads need no torch.
A trial store is a folder of such folders, named by fingerprint.

Damage shows: JSON and tensors have a checksum (ham_core/seals.py), an evaluation's record has the
size and SHA-256 of its arrays. Who only looks (plans, status) reads small files and compares the sizes of large ones; who
uses a file reads all of its checksums. What then goes on is ham_core/recovery.py.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ham_core import ownership
from ham_core.config import Trial, fingerprint
from ham_core.errors import RequestError
from ham_core.protocol import split_weights
from ham_core.seals import is_sealed, is_whole, opened, sealed, write_tensors

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a system says where there is no room for a file
DIGEST = re.compile(rb'"arrays_sha256": "([0-9a-f]{64})"')
ARRAYS = re.compile(rb'"arrays_bytes": (\d+),\s+"arrays_sha256"')


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
        path = self.path / "trial.json"
        found = read_json(path)
        if found is None:
            return None
        if not isinstance(found.get("trial"), dict):
            raise RequestError(damaged(path))
        named = found.get("fingerprint", self.path.name)
        if named != self.path.name and _is_fingerprint(self.path.name):
            raise RequestError(
                f"{path}: describes the trial {str(named)[:10]}..., not the one the folder is named after; it was changed, or "
                f"made by another version; delete the folder {self.path} to train this trial again"
            )
        return dict(found["trial"])

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
        """One record per epoch, in order, each epoch once. A torn last line is not a record.

        RequestError: the training is complete, so that nothing can be torn, and lines are missing or damaged.
        """
        records, _ = _records(self._journal)
        finished = self._finished()
        if finished is not None and len(records) != finished.get("epochs"):
            raise RequestError(self._lost(len(records), finished))
        return records

    def epochs_done(self) -> int:
        """How many epochs are recorded, up to the first damaged line."""
        return len(_records(self._journal)[0])

    def append(self, record: dict[str, Any]) -> None:
        """Add the record of the next epoch, fsynced; an epoch that is recorded already stays as it is."""
        records, good_bytes = _records(self._journal)
        if record["epoch"] < len(records):
            return
        line = sealed(record)
        with _room_for(self._journal), open(self._journal, "ab") as file:
            ownership.check(self._journal)
            file.truncate(good_bytes)
            try:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):  # half a line would be dropped by the next reader, too
                    file.truncate(good_bytes)
                raise

    def rewrite_journal(self, records: Iterable[dict[str, Any]]) -> bool:
        """Let the journal hold exactly these records -> whether it did not."""
        content = b"".join(map(sealed, records))
        if self._journal.exists() and self._journal.read_bytes() == content:
            return False
        write_atomically(self._journal, lambda file: file.write(content))
        return True

    @property
    def _journal(self) -> Path:
        return self.path / "journal.jsonl"

    # training state ------------------------------------------------------------------------------------------------

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint. The one before stays beside it, under another name and without being written again."""
        save_tensors(self.path / "checkpoint.pt", state, keep=self.path / "checkpoint.previous.pt")

    def checkpoints(self) -> list[Path]:
        """The files of kept training states, the last epoch's first."""
        names = ("checkpoint.pt", "checkpoint.previous.pt")
        return [path for path in (self.path / name for name in names) if path.exists()]

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
            raise RequestError(
                f"{path}: these weights were not kept; kept: {kept}; where they are needed, delete the folder {self.path} to "
                "train this trial again"
            )
        return load_tensors(path, device)

    def weight_names(self) -> list[str]:
        """Names of the weights that are kept."""
        return sorted(path.stem for path in (self.path / "weights").glob("*.pt"))

    def weights_file(self, name: str) -> Path:
        """The file of these weights, which need not exist."""
        return self.path / "weights" / f"{name}.pt"

    def bytes_of(self, name: str) -> int | None:
        """Bytes of a file by its name inside the folder; None where there is none."""
        path = self.path / name
        return path.stat().st_size if path.exists() else None

    def finish(self, record: dict[str, Any]) -> None:
        """Mark the training as complete. The record also gets the journal's size, which tells cheaply that it is whole."""
        (self.path / "checkpoint.previous.pt").unlink(missing_ok=True)
        size = {"journal_bytes": self._journal.stat().st_size} if self._journal.exists() else {}
        write_json(self.path / "done.json", {**record, **size})

    def is_done(self) -> bool:
        """Whether the training is complete. A damaged mark is none: the last checkpoint says the same."""
        return self._finished() is not None

    def _finished(self) -> dict[str, Any] | None:
        try:
            return read_json(self.path / "done.json")
        except RequestError:
            return None

    def prune(self, rules: Collection[str]) -> None:
        """Of a finished training keep the weights by these rules, and no checkpoint. What goes is written down first."""
        ownership.check(self.path / "done.json")
        done = self._finished() or {}
        gone = [name for name in self.weight_names() if split_weights(name)[0] not in rules]
        if gone:
            self.finish(done | {"pruned": sorted({*done.get("pruned", ()), *gone})})
        for path in [self.path / "checkpoint.pt", *(self.path / "weights" / f"{name}.pt" for name in gone)]:
            path.unlink(missing_ok=True)

    def pruned(self) -> frozenset[str]:
        """Names of weights that a finished training once had."""
        return frozenset((self._finished() or {}).get("pruned", ()))

    def stop(self, record: dict[str, Any]) -> None:
        """Label the training as stopped early: {"epoch": epochs done, "epochs": of so many, "rule", "sweep"}."""
        write_json(self.path / "stopped.json", record)

    def stopped(self) -> dict[str, Any] | None:
        """The label of an early stop, or None. It holds only as long as nothing was trained after it."""
        path = self.path / "stopped.json"
        try:
            record = opened(path.read_bytes())
            holds = record["epoch"] == self.epochs_done() and not self.is_done()
            return {key: record[key] for key in ("epoch", "epochs", "rule", "sweep")} if holds else None
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, RecursionError):
            raise RequestError(
                f"{path}: is damaged; delete this file, and the next sweep that asks for the trial goes on with it"
            ) from None

    def go_on(self) -> None:
        """Training continues: no longer stopped."""
        (self.path / "stopped.json").unlink(missing_ok=True)

    def reopen(self) -> None:
        """Forget all training results: the trial starts again from epoch 0. Evaluations of the old weights go too."""
        ownership.check(self.path / "trial.json")
        for path in [self.path / "done.json", *self.checkpoints(), self._journal, self.path / "stopped.json"]:
            path.unlink(missing_ok=True)
        for path in [*(self.path / "weights").glob("*.pt"), *(self.path / "evaluations").glob("*")]:
            path.unlink()

    def problems(self) -> list[str]:
        """Damage of a trained trial that nothing can mend, one sentence each. An unfinished one goes on, or begins again."""
        if not self.is_done():
            return []
        broken = [unreadable(path) for path in self.damaged_weights(self.weight_names())]
        return broken + ([] if self.journal_is_kept_twice() else self.lost_epochs(thorough=True))

    def damaged_weights(self, names: Iterable[str]) -> list[Path]:
        """Files of these weights that are not there, or not whole. Reads them to their end."""
        paths = [self.path / "weights" / f"{name}.pt" for name in names]
        return [path for path in paths if not is_whole(path)]

    def journal_is_kept_twice(self) -> bool:
        """Whether there is a checkpoint from which the journal can be written again."""
        return (self.path / "checkpoint.pt").exists()

    def lost_epochs(self, *, thorough: bool = False) -> list[str]:
        """A sentence where the training is marked complete and the journal does not hold all of its epochs.

        Without `thorough` a journal of the size that it had at the end is believed.
        """
        finished = self._finished()
        if finished is None:
            return []
        if not thorough and finished.get("journal_bytes", -1) == _size(self._journal):
            return []
        recorded = self.epochs_done()
        return [] if recorded == finished.get("epochs") else [self._lost(recorded, finished)]

    def _lost(self, recorded: int, finished: dict[str, Any]) -> str:
        what = f"{self._journal}: holds {recorded} of {finished.get('epochs')} epochs although the training is marked complete"
        if self.journal_is_kept_twice():
            return f"{what}; delete this file, and the next ham sweep writes it again from the checkpoint beside it"
        return f"{what}; delete the folder {self.path} to train this trial again, or copy the file from where it was made"

    # evaluations ---------------------------------------------------------------------------------------------------

    def save_evaluation(self, identity: str, record: dict[str, Any], arrays: dict[str, Any]) -> None:
        """Per-image arrays first, then the record that makes them count, with their size and SHA-256."""
        import numpy as np

        folder = self.path / "evaluations"
        folder.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        content = buffer.getvalue()
        digest = hashlib.sha256(content).hexdigest()
        write_atomically(folder / f"{identity}.npz", lambda file: file.write(content))
        write_json(
            folder / f"{identity}.json",
            {**record, "arrays_bytes": len(content), "arrays_sha256": digest},
        )

    def has_evaluation(self, identity: str) -> bool:
        """Whether this evaluation is complete: its record whole, its arrays of the recorded size. Cheap, for plans."""
        path = self.path / "evaluations" / f"{identity}.json"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return False
        if is_sealed(content):
            size = ARRAYS.search(content)
            return size is None or int(size[1]) == _size(path.with_suffix(".npz"))
        try:
            opened(content)  # of an earlier version, or damaged
        except ValueError:
            return False
        return True

    def digest_of_arrays(self, identity: str) -> str:
        """SHA-256 of an evaluation's predictions as its record has it, "" where it has none. Cheap: reads no array."""
        try:
            found = DIGEST.search((self.path / "evaluations" / f"{identity}.json").read_bytes())
        except FileNotFoundError:
            return ""
        return found[1].decode() if found else ""

    def is_damaged(self, identity: str) -> bool:
        """Whether something of this evaluation is there that is not whole: it is to be made again."""
        return (self.path / "evaluations" / f"{identity}.json").exists() and not self.has_evaluation(identity)

    def drop_evaluation(self, identity: str) -> None:
        """Forget an evaluation."""
        for suffix in ("json", "npz"):
            (self.path / "evaluations" / f"{identity}.{suffix}").unlink(missing_ok=True)

    def evaluations(self, *, skip_damaged: bool = False) -> list[dict[str, Any]]:
        """All complete evaluations. RequestError where one is damaged, unless those are left out."""
        found = []
        for path in sorted((self.path / "evaluations").glob("*.json")):
            if not self.has_evaluation(path.stem):
                if not skip_damaged:
                    raise RequestError(damaged(path))
                continue
            record = read_json(path)
            found += [] if record is None else [record]
        return found

    def predictions(self, identity: str) -> dict[str, Any]:
        """The per-image arrays of an evaluation: label, prediction, clean, confidence, clean_confidence, each (N,), and what
        the attack adds (evaluation.Seen.parts)."""
        import numpy as np

        path = self.path / "evaluations" / f"{identity}.npz"
        record = read_json(path.with_suffix(".json")) or {}
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise RequestError(damaged(path)) from None
        if record.get("arrays_sha256", digest := hashlib.sha256(content).hexdigest()) != digest:
            raise RequestError(damaged(path))
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return {key: arrays[key] for key in arrays.files}
        except Exception as error:  # NumPy reports damage as zip, value, key or end-of-file errors
            raise RequestError(damaged(path)) from error

    # ownership -----------------------------------------------------------------------------------------------------

    def is_held_elsewhere(self) -> bool:
        """Whether a machine that does not see this folder's lock works on the trial: never, for a folder that all share."""
        return False

    def lock(self, wait_seconds: float = 60.0) -> contextlib.AbstractContextManager[None]:
        """Exclusive right to write. It is free when its holder dies, however it dies. BusyError: not in time.

        What a writer that was killed had begun to write is cleaned away.
        """
        return ownership.own(self.path, wait_seconds)


def stop_text(record: dict[str, Any]) -> str:
    """`stopped by asha after 6 of 12 epochs`."""
    return f"stopped by {record['rule']} after {record['epoch']} of {record['epochs']} epochs"


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any], *, keep: Path | None = None) -> None:
    """`path` is either what it was or complete, whatever happens in between. `keep`: the name of what it was.

    RequestError: no room for it. TakenOver: another process owns the trial now. What was there before stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with _room_for(path), open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        ownership.check(path)
        if keep is not None and path.exists():
            _keep(path, keep)
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


def _keep(path: Path, name: Path) -> None:
    """Give a file a second name, which it keeps when another file takes the first."""
    link = name.with_name(f".{name.name}.{os.getpid()}")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links: for a moment only the second name is there
        os.replace(path, name)
    else:
        os.replace(link, name)


@contextlib.contextmanager
def _room_for(path: Path) -> Iterator[None]:
    """A full disk as one sentence that names the place."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise RequestError(
            f"{path}: cannot be written ({error.strerror}); make room in {path.parent} and run the same command again, "
            "which continues"
        ) from error


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


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON object with its checksum, readable by people."""
    content = sealed(value, lines=True)
    write_atomically(path, lambda file: file.write(content))


def read_json(path: Path) -> dict[str, Any] | None:
    """The object, or None where there is no such file. RequestError: it is damaged."""
    try:
        return opened(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        raise RequestError(damaged(path)) from None


def save_tensors(path: Path, state: dict[str, Any], *, keep: Path | None = None) -> None:
    """A file of tensors and plain values. `keep`: the name under which the file that was there stays."""
    write_atomically(path, lambda file: write_tensors(state, file), keep=keep)


def load_tensors(path: Path, device: str = "cpu") -> dict[str, Any]:
    """Tensors and plain values only; nothing in the file is executed.

    RequestError: it is not there, or damaged. torch itself would not notice a changed number, so the checksum is compared.
    """
    import torch

    if not is_whole(path):
        raise RequestError(unreadable(path))
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch reports damage as pickle, zip, runtime, key or end-of-file errors
        raise RequestError(unreadable(path)) from error
    return state


def unreadable(path: Path) -> str:
    """The sentence about a damaged file of tensors."""
    return f"{path}: cannot be read as a checkpoint; delete the folder {_trial_folder(path)} to train this trial again"


def damaged(path: Path) -> str:
    """The sentence about any other damaged file of the store."""
    what = f"{path}: is damaged (no valid JSON, or not what was written)"
    if path.suffix == ".npz":
        what = f"{path}: is damaged or gone"
    if path.parent.name == "sweeps":
        return f"{what}; delete it and start the sweep once more with ham sweep, which writes it again"
    if path.parent.name == "evaluations":
        record = path.with_suffix(".json")
        return (
            f"{what}; delete {record} and run ham sweep, or the same command again: where it is asked for, the attack "
            "runs again"
        )
    return f"{what}; delete the folder {path.parent} to start it again"


def _trial_folder(path: Path) -> Path:
    return path.parent.parent if path.parent.name == "weights" else path.parent


def _is_fingerprint(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", name) is not None


def _size(path: Path) -> int | None:
    """Bytes; None where there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


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
            record = opened(line)
        except (ValueError, RecursionError):
            break
        if not line.endswith(b"\n") or record.get("epoch") != len(records):
            break
        records.append(record)
        good += len(line)
    return records, good
