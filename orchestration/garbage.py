"""What could be deleted from a store, and deleting it. Nothing that a started sweep still needs is ever named. Light.

    checkpoints   of trained and evaluated trials that no trial goes on from: a new value in a grid may go on from it too
    weights       of such trials, by name, that were attacked by no evaluation and that no trial starts from or asks
    prefixes      first epochs that trials share (ham_core.prefix), where no started sweep has trials left to train
    folders       trials of no started sweep (trained alone or taken over): go only where they are asked for by this word
    temporary     what a killed process was about to write, older than an hour

A trial is unfinished as long as `ham status` does not call it done; all that an unfinished trial needs stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ham_core.config import STATE, fingerprint
from ham_core.errors import RequestError, known
from ham_core.folder import TrialFolder
from ham_core.prefix import prefix_file
from ham_core.starts import sources_of
from orchestration.disk import used
from orchestration.status import is_running, recorded_sweeps, state_of
from orchestration.store import Store

KINDS = ("checkpoints", "weights", "prefixes", "folders", "temporary")
STRAY_AFTER = 3600.0  # seconds: a file that is being written now is younger


@dataclass(frozen=True)
class Item:
    """Something that could go. `trial`: the fingerprint of the trial it belongs to, or ""."""

    kind: str
    path: Path
    bytes: int
    trial: str
    why: str


def listed(store: Store) -> list[Item]:
    """Everything that could go now, largest kinds first by the order of KINDS."""
    needs = _Needs(store)
    found = [item for identity in store.trials() for item in _of_trial(store, identity, needs)]
    found += [*_prefixes(store, needs), *_temporary(store)]
    return sorted(found, key=lambda item: (KINDS.index(item.kind), str(item.path)))


def check_kinds(kinds: Sequence[str]) -> None:
    """RequestError where a word is none of KINDS."""
    if not set(kinds) <= set(KINDS) or not kinds:
        wrong = [word for word in kinds if word not in KINDS] or [""]
        raise RequestError([f"--only: unknown word '{word}'; {known(word, KINDS)}" for word in wrong])


def delete(store: Store, items: Iterable[Item], kinds: Iterable[str]) -> list[Item]:
    """Delete the items of these kinds -> those that are gone. What has become needed since it was listed stays."""
    chosen = set(kinds)
    wanted: dict[str, list[Item]] = {}
    for item in items:
        if item.kind in chosen:
            wanted.setdefault(item.trial, []).append(item)
    gone = [item for item in wanted.pop("", []) if _remove(store, item.path)]
    for identity, mine in wanted.items():
        folder = store.folder(identity)
        try:
            with folder.lock(wait_seconds=0.0):
                # Somebody may have started it, or a sweep that needs it, in the meantime.
                still = {item.path for item in _of_trial(store, identity, _Needs(store), held=True)}
                gone += [item for item in mine if item.path in still and _remove(store, item.path)]
        except RequestError:
            continue  # it is being trained
    return gone


def _remove(store: Store, path: Path) -> bool:
    store.remove(path)
    return True


class _Needs:
    """What the trials of a store and of its started sweeps need of each other.

    `members`: trials of started sweeps, with those that they start from; `held`: trials of which all must stay, because they
    are unfinished or an unfinished trial uses them; `weights`: {trial: names} that some trial, finished or not, began with.
    """

    def __init__(self, store: Store) -> None:
        self.members: set[str] = set()
        self.held: set[str] = set()
        self.weights: dict[str, set[str]] = {}
        for sweep in recorded_sweeps(store):
            for trial in sweep["trials"]:
                needs = trial.get("needs", ())
                self.members |= {trial["fingerprint"], *needs}
                if state_of(store.folder(trial["fingerprint"]), trial) != "done":
                    self.held |= {trial["fingerprint"], *needs}
        for identity in store.trials():
            folder = store.folder(identity)
            for other, weights in _starts(folder):
                self.weights.setdefault(other, set()).add(weights)
                if identity in self.members:
                    self.members.add(other)
                if not folder.is_done():
                    self.held.add(other)


def _starts(folder: TrialFolder) -> list[tuple[str, str]]:
    """(fingerprint, weights) of the trials that a recorded trial starts from or asks, and of those that these do."""
    settings = folder.settings() or {}
    if not settings.get("start_from") and not settings.get("helper"):
        return []
    try:
        waiting, found = [folder.trial()], []
    except ValueError:  # pydantic's errors are
        raise RequestError(
            f"{folder.path / 'trial.json'}: cannot be read as a trial of this version, so it is unknown what it needs; move "
            "the folder away or delete it, then run ham gc again"
        ) from None
    while waiting:
        for _, start in sources_of(waiting.pop()):
            found.append((fingerprint(start.trial), start.weights))
            waiting.append(start.trial)
    return found


def _of_trial(store: Store, identity: str, needs: _Needs, held: bool = False) -> Iterator[Item]:
    """What could go of one trial. `held`: we hold its lock ourselves."""
    folder = store.folder(identity)
    if (not held and is_running(folder)) or identity in needs.held:
        return
    if identity not in needs.members and identity not in needs.weights:
        yield Item(
            "folders", folder.path, size_of(folder.path), identity, "no started sweep has or needs this trial"
        )
    if not folder.is_done() or folder.lost_epochs():
        return
    size, begun_with = folder.bytes_of("checkpoint.pt"), needs.weights.get(identity, set())
    if size is not None and STATE not in begun_with:
        yield Item(
            "checkpoints",
            folder.path / "checkpoint.pt",
            size,
            identity,
            "trained, and no trial goes on from it",
        )
    yield from _weights(folder, identity, begun_with)


def _weights(folder: TrialFolder, identity: str, begun_with: set[str]) -> Iterator[Item]:
    attacked = {str(record["weights"]) for record in folder.evaluations()}
    if not attacked or STATE in begun_with:
        return  # nobody has said yet which are of interest; a state goes with all of its weights
    for name in folder.weight_names():
        if name not in attacked | begun_with:
            path, size = folder.path / "weights" / f"{name}.pt", folder.bytes_of(f"weights/{name}.pt") or 0
            yield Item("weights", path, size, identity, "no evaluation attacked and no trial uses these")


def _prefixes(store: Store, needs: _Needs) -> Iterator[Item]:
    """All or none: which trial takes which is known to a plan alone."""
    if not needs.held:
        for name, size in sorted(store.prefixes().items()):
            path = prefix_file(store.path, name)
            yield Item("prefixes", path, size, "", "no started sweep has trials left to train")


def _temporary(store: Store) -> Iterator[Item]:
    """Files and folders that only a process which was killed can have left."""
    now = time.time()
    patterns = (
        "trials/.incoming-*",
        ".import-*",
        "sweeps/.*.json.*",
        "prefixes/.*",
        "trials/*/.*",
        "trials/*/weights/.*",
        "trials/*/evaluations/.*",
    )
    for pattern in patterns:
        for path in store.path.glob(pattern):
            if path.parts[-2].startswith(".incoming-"):
                continue  # the folder around it is named already
            if now - path.stat().st_mtime > STRAY_AFTER:
                yield Item("temporary", path, size_of(path), "", "left behind by a process that was killed")


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return used(path) if path.is_dir() else path.stat().st_size
