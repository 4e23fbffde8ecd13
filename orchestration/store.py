"""The trial store on disk: one folder per fingerprint below STORE/trials, the embedded tracking database beside it.

STORE/trials/<fingerprint>/   everything known about a trial (ham_core.folder)
STORE/mlflow.db, artifacts/   the record people look at (orchestration.tracking)
STORE/ray/                    scratch of a running sweep, disposable

One on object storage is the same with a mirror as its folder (orchestration.remote); what it does more are methods here.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ham_core.config import Trial, fingerprint
from ham_core.errors import RequestError, known
from ham_core.folder import TrialFolder, save_tensors, unwritable
from ham_core.prefix import FOLDER as PREFIXES
from ham_core.protocol import canonical_weights

if TYPE_CHECKING:
    from ham_core.run import Event

INCOMING = ".incoming-"  # + fingerprint: a copy that is not complete yet


class Store:
    """A trial store. It need not exist yet."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().resolve()
        nearest = next(one for one in (self.path, *self.path.parents) if one.exists())
        if not nearest.is_dir():
            raise RequestError(f"--store: {nearest} is a file; name a folder, for example --store outputs")
        self.address = str(self.path)  # what another process on another machine opens

    def folder(self, identity: str) -> TrialFolder:
        """The folder of a trial by its full fingerprint; it need not exist."""
        return TrialFolder.of(self.path, identity)

    # What a store on object storage does more than a folder that all machines share (orchestration.remote) -----------

    def pull(self) -> bool:
        """See what other machines have done -> whether there is anything."""
        return self.path.is_dir()

    def refresh(self, identity: str) -> None:
        """The same of one trial."""

    def published(
        self, trial: Trial, events: Iterable[Event], prefixes: Mapping[int, str]
    ) -> Iterator[Event]:
        """The events of run_trial, each when other machines can see what it tells of. `prefixes`: those of run_trial."""
        yield from events

    def share(self, path: Path) -> None:
        """Let other machines see a file of the store that belongs to no trial."""

    def remove(self, path: Path) -> None:
        """Delete a file or folder of the store."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def prefixes(self) -> dict[str, int]:
        """{name: bytes} of the shared beginnings (ham_core.prefix)."""
        return {path.stem: path.stat().st_size for path in (self.path / PREFIXES).glob("*.pt")}

    def unwritable(self) -> str:
        """Why nothing can be written, or "" where it can."""
        return unwritable(self.path)

    # ---------------------------------------------------------------------------------------------------------------

    def trials(self) -> list[str]:
        """Fingerprints of all trials that were ever started, sorted."""
        return sorted(path.parent.name for path in self._places() if not path.parent.name.startswith("."))

    def _places(self) -> Iterator[Path]:
        return (self.path / "trials").glob("*/trial.json")

    def find(self, prefix: str) -> TrialFolder:
        """A trial by the first letters of its fingerprint."""
        found = [one for one in self.trials() if one.startswith(prefix.lower())]
        if len(found) == 1 and prefix:
            return self.folder(found[0])
        if not found:
            short = [one[:10] for one in self.trials()]
            raise RequestError(
                f"{self.path}: no trial's fingerprint begins with '{prefix}'; {known(prefix, short)}"
            )
        several = ", ".join(one[: len(prefix) + 6] for one in found[:8])
        raise RequestError(
            f"'{prefix}' is the beginning of {len(found)} fingerprints: {several}; write more letters"
        )

    def import_trials(self, source: str | Path) -> dict[str, str]:
        """Take over a store, or one trial folder, that another machine left behind -> {fingerprint: what happened}.

        Everything is checked before anything is copied; each trial appears in one step.
        """
        folders = trial_folders(Path(source).expanduser())
        problems = [sentence for folder in folders for sentence in damage(folder)]
        if problems:
            raise RequestError(problems)
        return {
            name: self._take(folder, name) for folder in folders for name in [fingerprint(folder.trial())]
        }

    def _take(self, source: TrialFolder, identity: str) -> str:
        """Copy one trial, unless what is here is at least as far."""
        target = self.folder(identity)
        if target.path.exists() and target.path.resolve() == source.path.resolve():
            return "is here already"
        if (target.path / "trial.json").exists():
            return self._merge(source, target)
        temporary = target.path.with_name(INCOMING + identity)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source.path, temporary, ignore=shutil.ignore_patterns("lock", ".*"))
        shutil.rmtree(target.path, ignore_errors=True)  # at most an empty folder with a lock
        os.replace(temporary, target.path)
        return "imported"

    def _merge(self, source: TrialFolder, target: TrialFolder) -> str:
        ours, theirs = progress(target), progress(source)
        with target.lock():
            if theirs > ours:
                temporary = target.path.with_name(INCOMING + target.path.name)
                shutil.rmtree(temporary, ignore_errors=True)
                shutil.copytree(source.path, temporary, ignore=shutil.ignore_patterns("lock", ".*"))
                shutil.rmtree(target.path)
                os.replace(temporary, target.path)
                return f"replaced ({ours[1]} epochs here, {theirs[1]} there)"
            if not (source.is_done() and target.is_done()):
                return "is here already"
            return self._add_evaluations(source, target)

    def _add_evaluations(self, source: TrialFolder, target: TrialFolder) -> str:
        """The evaluations of a trial that both sides have trained. They count only for the same weights."""
        added = 0
        if source.journal() == target.journal():
            for record in source.evaluations():
                if not target.has_evaluation(record["fingerprint"]):
                    target.save_evaluation(
                        record["fingerprint"], record, source.predictions(record["fingerprint"])
                    )
                    added += 1
        return f"is here already; {added} evaluations added" if added else "is here already"

    def export_weights(self, identity: str, weights: str, target: str | Path) -> Path:
        """Write kept weights as a plain state dict, for `model.load_state_dict(torch.load(path))`."""
        state = self.find(identity).weights(canonical_weights(weights))
        path = Path(target)
        if path.is_dir():
            raise RequestError(
                f"--out: {path} is a folder; name a file, for example --out {path / 'model.pt'}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {key: value.contiguous().clone() for key, value in state.items()}
        save_tensors(path, plain)
        return path


def store_at(address: str) -> Store:
    """The store in a folder, or at a URL (`s3://bucket/outputs`)."""
    if "://" not in address:
        if re.match(r"[a-z0-9]+:/", address):
            raise RequestError(
                f"--store: {address} is neither a folder nor a URL; write for example s3://bucket/outputs"
            )
        return Store(address)
    from orchestration.remote import RemoteStore

    return RemoteStore(address)


def trial_folders(source: Path) -> list[TrialFolder]:
    """The trials of a store, of a folder of trials, or one trial folder."""
    if (source / "trial.json").exists():
        return [TrialFolder(source)]
    for place in (source / "trials", source):
        found = sorted(
            path.parent for path in place.glob("*/trial.json") if not path.parent.name.startswith(".")
        )
        if found:
            return [TrialFolder(path) for path in found]
    reason = "holds no trials" if source.exists() else "does not exist"
    raise RequestError(
        f"{source}: {reason}; name the OUT folder of `python -m ham_core train`, or one of its trials"
    )


def damage(folder: TrialFolder) -> list[str]:
    """Why this trial cannot be taken over, one sentence each."""
    try:
        recorded: Any = folder.trial()
        broken = list(dict.fromkeys([*folder.problems(), *folder.lost_epochs(thorough=True)]))
        for record in folder.evaluations():
            folder.predictions(record["fingerprint"])
    except RequestError as error:
        return list(error.problems)
    except Exception as error:  # a file that was changed by hand can fail in any way
        return [
            f"{folder.path}: cannot be read ({_first_line(error)}); copy the folder again from where it was made"
        ]
    if fingerprint(recorded) != folder.path.name:
        broken.append(
            f"{folder.path}: trial.json describes the trial {fingerprint(recorded)[:10]}..., not the one the folder is named "
            "after; it was changed, or made by another version"
        )
    return broken


def progress(folder: TrialFolder) -> tuple[bool, int]:
    """(complete, epochs recorded): how far a trial is."""
    return folder.is_done(), folder.epochs_done()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
