"""A trial store on object storage, `--store s3://bucket/outputs`: the truth in objects, a mirror of it on every machine.

    states/<trial>/<generation>.<number>.<token>.json     what the trial's folder holds (orchestration.states)
    trials/<trial>/<name>.<generation>.<number>.<token>   a file of the folder; never changed once it is put
    trials/<trial>/journal/<epoch>.<...>                  one line of the journal; of a finished trial journal/whole.<...>
    prefixes/<name>.pt                                    first epochs that trials share (ham_core.prefix)
    sweeps/<name>.json, stops/<trial>.json                what drivers leave behind: plans, labels of early stops
    leases/                                               who trains what now (orchestration.lease)

A trial is what its last state says: the one with the greatest generation and number. A state is put after all objects that it
names, so a reader at any moment sees the folder as it was after some epoch, and a writer that is killed leaves objects that
nobody names. What a state names is deleted only after a newer state was put; a reader that finds it gone looks again.

The mirror is an ordinary store, and what works on folders works on it. It is a cache, safe to delete while nothing runs.
Small files come before a plan is made, tensors when they are used. What a machine has trained and could not put before it
died is trained again: at most one epoch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ham_core.config import Trial, fingerprint
from ham_core.data.places import cache_folder
from ham_core.errors import BusyError, RequestError
from ham_core.folder import TrialFolder, unwritable, write_atomically
from ham_core.prefix import FOLDER as PREFIXES
from ham_core.prefix import mark_of, prefix_file
from ham_core.starts import sources_of
from orchestration.lease import STATES, Lease, held, take
from orchestration.objects import Objects, side_by_side, unreachable, why
from orchestration.states import (
    CHECKPOINT,
    DONE,
    JOURNAL,
    LABEL,
    Note,
    State,
    files_in,
    in_order,
    is_tensors,
    stat_of,
)
from orchestration.store import Store

if TYPE_CHECKING:
    from ham_core.run import Event

NOTES = ".mirror"  # below the mirror: notes on what it holds, and files on their way to it
TRIALS, SWEEPS, STOPS = "trials", "sweeps", "stops"
LOOKS = 8  # times that a reader begins again because the state that it read was replaced
FRESH = 1.0  # seconds for which a look at all leases is good


class RemoteStore(Store):
    """A store at a URL. Its `path` is the mirror."""

    def __init__(self, url: str) -> None:
        self.objects = Objects(url)
        super().__init__(mirror_of(self.objects.url))
        self.address = self.objects.url
        self.notes = self.path / NOTES
        for place in (self.notes / TRIALS, self.path / SWEEPS):
            place.mkdir(parents=True, exist_ok=True)
        self.machine = _name_of_machine(self.notes / "machine")
        self.sessions: dict[str, Session] = {}  # trials that this process may write now
        self._held: set[str] = set()
        self._looked = -FRESH

    def folder(self, identity: str) -> MirrorFolder:
        """The mirror of a trial's folder."""
        return MirrorFolder(self, identity)

    # looking -------------------------------------------------------------------------------------------------------

    def pull(self) -> bool:
        """Bring the mirror up to date, without tensors -> whether there is anything. RequestError: the storage fails."""
        try:
            heads: dict[str, str] = {}
            for name in sorted(self.objects.list(STATES)):
                heads[name.split("/")[1]] = name
            here = {path.parent.name for path in self._places()}
            changed = [one for one, name in heads.items() if self.noted(one).state.name != name]
            side_by_side(self._refresh, [*changed, *(here - set(heads))])
            sweeps = self._pull_whole(SWEEPS, lambda name: self.path / name)
            self._pull_whole(STOPS, lambda name: self.path / TRIALS / Path(name).stem / LABEL)
            self._mark_prefixes()
        except RequestError:
            raise
        except Exception as error:  # every protocol has its own ways to fail
            raise RequestError(unreachable(self.address, error)) from error
        return bool(heads or sweeps)

    def refresh(self, identity: str) -> None:
        """The same of one trial. Where the storage fails the mirror stays as it is: training is worth more than a look."""
        with contextlib.suppress(Exception):
            self._refresh(identity)

    def _refresh(self, identity: str) -> None:
        """While this machine trains the trial, its mirror is newer than the objects and is left alone."""
        with contextlib.suppress(BusyError), TrialFolder.of(self.path, identity).lock(0.0):
            self.settle(identity, tensors=False)

    def is_held_elsewhere(self, identity: str) -> bool:
        """Whether another machine trains the trial, as of FRESH seconds ago."""
        if time.monotonic() > self._looked + FRESH:
            with contextlib.suppress(Exception):  # a lease is asked for before anything is written
                self._held = held(self.objects, self.machine)
            self._looked = time.monotonic()
        return identity in self._held

    def prefixes(self) -> dict[str, int]:
        """{name: bytes} of the shared beginnings."""
        return {Path(name).stem: info.bytes for name, info in self.objects.list(PREFIXES).items()}

    def _pull_whole(self, place: str, here: Callable[[str], Path]) -> bool:
        """Bring the objects of a place that have changed, each to a path in a folder that exists -> whether there are any."""
        path, before = self.notes / f"{place}.json", {}
        with contextlib.suppress(OSError, ValueError):
            before = json.loads(path.read_bytes())
        now = {name: [info.bytes, info.put] for name, info in self.objects.list(place).items()}
        for name in now:
            known = before.get(name) == now[name] and here(name).exists()
            if not known and here(name).parent.is_dir():
                self.objects.download(name, here(name), self.notes)
        for gone in set(before) - set(now):
            here(gone).unlink(missing_ok=True)
        write_atomically(path, lambda file: file.write(json.dumps(now).encode()))
        return bool(now)

    def _mark_prefixes(self) -> None:
        marks = {mark_of(self.path, name) for name in self.prefixes()}
        for gone in set((self.path / PREFIXES).glob(mark_of(self.path, "*").name)) - marks:
            gone.unlink(missing_ok=True)
        for mark in marks:
            mark.parent.mkdir(exist_ok=True)
            mark.touch()

    # working -------------------------------------------------------------------------------------------------------

    def published(
        self, trial: Trial, events: Iterable[Event], prefixes: Mapping[int, str]
    ) -> Iterator[Event]:
        """The events of run_trial, each after what it tells of was put. BusyError: another machine has taken the trial."""
        identity = fingerprint(trial)
        self._prepare(trial, prefixes)
        for event in events:
            if identity in self.sessions:
                self.sessions[identity].publish()
            for name in prefixes.values():
                if prefix_file(self.path, name).exists() and not mark_of(self.path, name).exists():
                    self.share(prefix_file(self.path, name))
                    mark_of(self.path, name).touch()
            yield event

    def _prepare(self, trial: Trial, prefixes: Mapping[int, str]) -> None:
        """Bring what the training of a trial begins with: the longest shared beginning, and other trials' weights."""
        if not self.head(fingerprint(trial)).journal:
            for _, name in sorted(prefixes.items(), reverse=True):
                path = prefix_file(self.path, name)
                with contextlib.suppress(FileNotFoundError):
                    if not path.exists():
                        self.objects.download(f"{PREFIXES}/{name}.pt", path, self.notes)
                        mark_of(self.path, name).touch()
                    break
        for _, start in sources_of(trial):
            source = self.folder(fingerprint(start.trial))
            self._refresh(source.path.name)
            names = source.weight_names() if start.continues else [start.weights]
            for name in [*(f"weights/{one}.pt" for one in names), *([CHECKPOINT] if start.continues else [])]:
                self.fetch(source.path.name, name)

    def share(self, path: Path) -> None:
        """Put a file of the mirror that belongs to no trial."""
        self.objects.upload(path, path.relative_to(self.path).as_posix())

    def remove(self, path: Path) -> None:
        """Delete a file, or the folder of a trial, here and there. Of a trial its lock is ours."""
        super().remove(path)
        room, *rest = path.relative_to(self.path).parts
        if room == PREFIXES:
            mark_of(self.path, path.stem).unlink(missing_ok=True)
            self.objects.delete([f"{PREFIXES}/{path.name}"])
        elif room == TRIALS and rest[0] in self.sessions:
            self.sessions[rest[0]].forget("/".join(rest[1:]))

    def unwritable(self) -> str:
        """Why nothing can be put, or "" where something can."""
        name = f"{NOTES}/{uuid.uuid4().hex}"
        try:
            self.objects.write(name, b"")
            self.objects.delete([name])
        except Exception as error:  # every protocol has its own ways to fail
            return why(error)
        return unwritable(self.path)

    def _take(self, source: TrialFolder, identity: str) -> str:
        with self.folder(identity).lock():
            return super()._take(source, identity)

    # from objects to files -----------------------------------------------------------------------------------------

    def head(self, identity: str) -> State:
        """The last state of a trial; an empty one where it was never begun."""
        for name in sorted(self.objects.list(f"{STATES}/{identity}"), reverse=True):
            with contextlib.suppress(
                FileNotFoundError, ValueError
            ):  # replaced meanwhile; or half there, in plain files
                return State.read(name, self.objects.read(name))
        return State()

    def noted(self, identity: str) -> Note:
        """What the mirror holds of a trial."""
        return Note.read(self.note_file(identity))

    def note_file(self, identity: str) -> Path:
        """Where that is remembered."""
        return self.notes / TRIALS / f"{identity}.json"

    def settle(self, identity: str, *, tensors: bool) -> Note:
        """Make the mirror of a trial what its last state says; tensors only where asked for. Its lock is the caller's."""
        for _ in range(LOOKS):
            with contextlib.suppress(FileNotFoundError):
                return self._settle(identity, self.head(identity), tensors)
        raise BusyError(
            f"{self.address}: the trial {identity[:10]} changes faster than it can be read; try again"
        )

    def _settle(self, identity: str, state: State, tensors: bool) -> Note:
        folder, before = self.path / TRIALS / identity, self.noted(identity)
        present = files_in(folder)
        good = {name for name in present & set(state.files) if before.has(folder, name, state.files[name][0])}
        note = Note(state, {name: before.files[name] for name in good})
        replaced = {name for name in state.files if not is_tensors(name)}  # in one step, when they come
        for name in reversed(in_order(present - good - replaced)):
            (folder / name).unlink(missing_ok=True)
        wanted = {name for name in state.files if tensors or not is_tensors(name)} - good
        for name in in_order({*wanted, JOURNAL}):
            if name == JOURNAL:
                self._bring_journal(folder, before, note)
            else:
                self.bring(folder, name, note)
        note.write(self.note_file(identity))
        return note

    def bring(self, folder: Path, name: str, note: Note) -> None:
        """Bring a file of a noted state, and note it. FileNotFoundError: the object is gone, or not whole."""
        target, size = note.state.files[name]
        self.objects.download(target, folder / name, self.notes)
        found = stat_of(folder / name) or (0, 0)
        if found[0] != size:
            raise FileNotFoundError(f"{target}: has {found[0]} of {size} bytes")
        note.files[name] = (target, *found)

    def _bring_journal(self, folder: Path, before: Note, note: Note) -> None:
        path, wanted = folder / JOURNAL, note.state.journal
        have = before.state.journal if before.journal is not None and stat_of(path) == before.journal else ()
        if wanted[: len(have)] != have:
            have = ()
        if not wanted:
            path.unlink(missing_ok=True)
        elif wanted != have:
            lines = (path.read_bytes() if have else b"") + b"".join(
                map(self.objects.read, wanted[len(have) :])
            )
            write_atomically(path, lambda file: file.write(lines))
        note.journal = stat_of(path)

    def fetch(self, identity: str, name: str) -> None:
        """Bring one file of a trial, if its state has it and the mirror lacks it. Needs no lock: it appears in one step."""
        session, folder = self.sessions.get(identity), self.path / TRIALS / identity
        if session is not None:
            session.fetch(name)
            return
        for _ in range(LOOKS):
            state, before = self.head(identity), self.noted(identity)
            if name not in state.files or before.has(folder, name, state.files[name][0]):
                return
            note = Note(state)
            with contextlib.suppress(FileNotFoundError):
                self.bring(folder, name, note)
                before.files |= note.files
                before.write(self.note_file(identity))
                return
        raise BusyError(
            f"{self.address}: the trial {identity[:10]} changes faster than it can be read; try again"
        )


class MirrorFolder(TrialFolder):
    """The mirror of a trial's folder. Its lock is the folder's and the trial's lease; tensors come when they are used."""

    def __init__(self, store: RemoteStore, identity: str) -> None:
        super().__init__(store.path / TRIALS / identity)
        self.store, self.identity = store, identity

    @contextlib.contextmanager
    def lock(self, wait_seconds: float = 60.0) -> Iterator[None]:
        """Exclusive right to write, among all machines. What was written is put at the end. BusyError: late, or lost."""
        if self.identity in self.store.sessions:  # we have it
            yield
            return
        with super().lock(wait_seconds):
            lease = take(self.store.objects, self.identity, self.store.machine, wait_seconds)
            try:
                session = Session(self.store, self.identity, lease)
                self.store.sessions[self.identity] = session
                yield
                session.publish(last=True)
            finally:
                self.store.sessions.pop(self.identity, None)
                lease.release()

    def is_held_elsewhere(self) -> bool:
        """Whether another machine has the lease."""
        return self.store.is_held_elsewhere(self.identity)

    def bytes_of(self, name: str) -> int | None:
        """Bytes of a file, here or there."""
        return self._state().files.get(name, ("", None))[1]

    def weight_names(self) -> list[str]:
        """Names of the weights that are kept, here or there."""
        session = self.store.sessions.get(self.identity)
        names = self._state().files if session is None else session.away
        there = {Path(name).stem for name in names if name.startswith("weights/")}
        return sorted(there if session is None else there | set(super().weight_names()))

    def weights(self, name: str, device: str = "cpu") -> dict[str, Any]:
        """A state dict by name."""
        self.weights_file(name)
        return super().weights(name, device)

    def weights_file(self, name: str) -> Path:
        """The file of these weights, brought here."""
        self.store.fetch(self.identity, f"weights/{name}.pt")
        return super().weights_file(name)

    def problems(self) -> list[str]:
        """Those of the files that are here."""
        return TrialFolder(self.path).problems()

    def prune(self, rules: Collection[str]) -> None:
        """The same of files that are not here."""
        super().prune(rules)
        session, gone = self.store.sessions[self.identity], self.pruned()
        for name in [CHECKPOINT, *(f"weights/{one}.pt" for one in gone)]:
            session.forget(name)

    def stop(self, record: dict[str, Any]) -> None:
        """Label the training as stopped early; its worker may still have the lease. The label says at which epoch it holds."""
        super().stop(record)
        self.store.objects.upload(self.path / LABEL, f"{STOPS}/{self.identity}.json")

    def go_on(self) -> None:
        """Training continues: no longer stopped."""
        if (self.path / LABEL).exists():
            self.store.objects.delete([f"{STOPS}/{self.identity}.json"])
        super().go_on()

    def reopen(self) -> None:
        """The same of files that are not here."""
        self.go_on()
        super().reopen()
        self.store.sessions[self.identity].away.clear()

    def _state(self) -> State:
        return self.store.noted(self.identity).state


class Session:
    """A trial that this process may write, from taking its lease to releasing it."""

    def __init__(self, store: RemoteStore, identity: str, lease: Lease) -> None:
        self.store, self.identity, self.lease = store, identity, lease
        self.folder = store.path / TRIALS / identity
        self.note = store.settle(identity, tensors=False)
        if not TrialFolder(self.folder).is_done():
            self.note = store.settle(identity, tensors=True)
        self.away = set(self.note.state.files) - set(self.note.files)  # not here, and still part of the trial
        self.number = 0
        self.removed = False
        self._journal = self._read_journal()  # what the state's journal is

    def publish(self, *, last: bool = False) -> None:
        """Put what has changed, and then the state that says so. BusyError: another machine has taken the trial over.

        last: a finished trial's journal becomes one object, and what a killed writer left behind is deleted.
        """
        if self.removed:
            self._delete()
            return
        present, state = files_in(self.folder) - self.away, self.note.state
        if "trial.json" not in present:
            return
        journal = self._read_journal()
        changed = {
            name
            for name in present
            if name not in state.files or not self.note.has(self.folder, name, state.files[name][0])
        }
        joined = last and len(state.journal) > 1 and DONE in present
        if (
            not changed
            and present | self.away == set(state.files)
            and journal == self._journal
            and not joined
        ):
            if last and self.number:
                self._tidy()
            return
        self.lease.check()
        self.number += 1
        mark = f"{self.lease.generation:08d}.{self.number:08d}.{uuid.uuid4().hex[:8]}"
        files, notes = self._upload(changed, mark)
        kept = {name: entry for name, entry in state.files.items() if name in (present | self.away) - changed}
        lines = self._put_lines(journal, mark, joined)
        now = State(f"{STATES}/{self.identity}/{mark}.json", kept | files, lines)
        self.lease.check()
        self.store.objects.write(now.name, now.content())
        here = {name: entry for name, entry in self.note.files.items() if name in kept}
        self.note, self._journal = Note(now, here | notes, stat_of(self.folder / JOURNAL)), journal
        self.note.write(self.store.note_file(self.identity))
        self.lease.check()  # else what the one before named may be named by the one who has it now
        older = set(self.store.objects.list(f"{STATES}/{self.identity}")) - {now.name}
        self.store.objects.delete([*older, *(state.objects - now.objects)])
        if last:
            self._tidy()

    def fetch(self, name: str) -> None:
        """Bring a file of the trial that is not here yet."""
        if name in self.away:
            self.store.bring(self.folder, name, self.note)
            self.away.discard(name)

    def forget(self, name: str) -> None:
        """A file is no part of the trial any more; "" for the whole trial."""
        self.away.discard(name)
        self.removed = self.removed or not name

    def _upload(
        self, changed: set[str], mark: str
    ) -> tuple[dict[str, tuple[str, int]], dict[str, tuple[str, int, int]]]:
        """Put files -> what the state says of them, and what the note does."""
        notes = {}
        for name in changed:
            notes[name] = (
                f"{TRIALS}/{self.identity}/{name}.{mark}",
                *(stat_of(self.folder / name) or (0, 0)),
            )
        side_by_side(lambda name: self.store.objects.upload(self.folder / name, notes[name][0]), changed)
        return {name: (target, size) for name, (target, size, _) in notes.items()}, notes

    def _put_lines(self, journal: bytes, mark: str, joined: bool) -> tuple[str, ...]:
        """Put the lines that are new, each on its own, or all of them in one object -> the objects that make the journal."""
        place, before = f"{TRIALS}/{self.identity}/journal", self.note.state.journal
        old = self._journal if journal.startswith(self._journal) else b""
        if joined:
            self.store.objects.write(f"{place}/whole.{mark}", journal)
            return (f"{place}/whole.{mark}",)
        lines, first = journal[len(old) :].splitlines(keepends=True), old.count(b"\n")
        names = [f"{place}/{first + n:06d}.{mark}" for n in range(len(lines))]
        for name, line in zip(names, lines, strict=True):
            self.store.objects.write(name, line)
        return (*(before if old else ()), *names)

    def _read_journal(self) -> bytes:
        """Its whole lines."""
        try:
            content = (self.folder / JOURNAL).read_bytes()
        except FileNotFoundError:
            return b""
        return content[: content.rfind(b"\n") + 1]

    def _tidy(self) -> None:
        """Delete objects of the trial that its state does not name."""
        found = set(self.store.objects.list(f"{TRIALS}/{self.identity}"))
        self.lease.check()  # after the listing: so none of them was put by one who has it now
        self.store.objects.delete(found - self.note.state.objects)

    def _delete(self) -> None:
        """Delete the trial."""
        self.lease.check()
        for place in (STATES, TRIALS):
            self.store.objects.delete(self.store.objects.list(f"{place}/{self.identity}"))
        self.store.objects.delete([f"{STOPS}/{self.identity}.json"])
        self.store.note_file(self.identity).unlink(missing_ok=True)


def mirror_of(url: str) -> Path:
    """Where this machine keeps its mirror of a store: below HAM_CACHE, or where data sets are cached."""
    chosen = os.environ.get("HAM_CACHE")
    place = Path(chosen).expanduser().resolve() if chosen else cache_folder()
    digest = hashlib.sha256(f"{platform.node()} {url}".encode()).hexdigest()[
        :12
    ]  # a home may be shared by machines
    name = re.sub(r"\W+", "-", url.rpartition("/")[2]) or "store"
    return place / "stores" / f"{name}-{digest}"


def _name_of_machine(path: Path) -> str:
    """Eight hex digits that stand for this mirror in leases."""
    fresh = path.with_name(uuid.uuid4().hex)
    if not path.exists():
        fresh.write_text(fresh.name[:8])
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)  # whole, and by one process
        fresh.unlink()
    return path.read_text()
