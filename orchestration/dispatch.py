"""Which job of a sweep comes next, and what becomes of one that ended. Knows the trial folders, and nothing of Ray.

A job waits
    for the trials that it needs (`start_from`, `helper`),
    while another one trains a beginning that it can go on from (ham_core.prefix),
    while another process works on the same trial: two sweeps may share trials, and each is trained by one of them.
Where nothing waits any more, a search is asked for more jobs.
What is begun comes first, then the order of the plan. A worker that is lost, with its node or without, costs an attempt; a
trial that got further than at its last loss has all its attempts again. One that ran out of memory is tried once more, alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ham_core.prefix import has_prefix, prefix_file
from orchestration.status import is_running
from orchestration.store import Store
from orchestration.tracking import run_name

if TYPE_CHECKING:
    from orchestration.disk import Budget
    from orchestration.tracking import Job

RETRIES = 2  # further attempts after a worker was lost, without an epoch gained in between
PATIENCE = 1.0  # seconds between two looks at jobs none of which could start
ALONE_FAILED = (
    "ran out of memory although it ran alone; lower batch_size or model.width, or use a larger machine"
)
Ending = Literal["complete", "failed", "busy", "memory", "lost", "stopped"]
More = Callable[
    [], tuple[Mapping[str, dict[str, Any]], Mapping[str, Sequence[str]]]
]  # (entries, waits), empty: no more


class Listener(Protocol):
    """What is told of a running sweep. `identity` is a trial's fingerprint."""

    failed: dict[str, str]

    @property
    def jobs(self) -> Mapping[str, Job]: ...

    def started(self, identity: str) -> None: ...
    def reported(self, identity: str, result: dict[str, Any]) -> None: ...
    def retried(self, identity: str, reason: str) -> None: ...
    def ended(self, identity: str, failure: str) -> None: ...
    def stopped(self, identity: str, rule: str) -> None: ...


class Dispatcher:
    """The jobs that are left, and those that run.

    entries: {fingerprint: what a worker is told}, in the order of the plan. waits: what each job needs trained before it.
    more: asked for further ones when a place is free and no job waits.
    """

    def __init__(
        self,
        entries: Mapping[str, dict[str, Any]],
        waits: Mapping[str, Sequence[str]],
        store: Store,
        listener: Listener,
        *,
        is_complete: Callable[[Job], bool],
        budget: Budget | None = None,
        more: More | None = None,
    ) -> None:
        self.entries, self.waits = dict(entries), dict(waits)
        self.store, self.listener = store, listener
        self._is_complete, self.budget, self._more = is_complete, budget, more
        self.epochs = {identity: store.folder(identity).epochs_done() for identity in entries}
        self.waiting = sorted(entries, key=lambda identity: self.epochs[identity] == 0)
        self.running: set[str] = set()
        self.lonely: set[str] = set()  # ran out of memory once
        self._attempts: dict[str, tuple[int, int]] = {}  # losses, and the epochs done at the last one
        self._looked = 0.0
        self._full: dict[str, str] = {}  # jobs for which there was no room at the last look, and why

    # what is next --------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether every job has ended."""
        return not self.waiting and not self.running

    def next(self, slots: int) -> dict[str, Any] | None:
        """The entry of a job that may start now, if `slots` jobs may run at once; it counts as running from here on."""
        if len(self.running) >= slots or self.running & self.lonely:
            return None
        if time.monotonic() < self._looked + PATIENCE:
            return None
        self._full = {}
        for identity in list(self.waiting):
            if self._can_start(identity):
                self.waiting.remove(identity)
                self.running.add(identity)
                self._recount()
                return self.entries[identity] | {"alone": identity in self.lonely}
        if not self.waiting and self._add():
            return self.next(slots)
        self._looked = time.monotonic()
        if self._full and not self.running and not self._drop_beginnings():
            for identity in sorted(self._full):
                self.waiting.remove(identity)
                self.listener.ended(identity, self._full[identity])
            self._full = {}
        return None

    def _drop_beginnings(self) -> bool:
        """Make room: shared beginnings that nobody here can take any more go first, then all of them."""
        if self.budget is None:
            return False
        wanted = {
            name
            for identity in self.waiting
            for name in self.entries[identity]["prefixes"].values()
            if not self.epochs[identity]
        }
        every = {path.stem for path in prefix_file(self.store.path, "x").parent.glob("*.pt")}
        self._looked = 0.0
        return self.budget.drop(every - wanted) or self.budget.drop(every)

    def _recount(self) -> None:
        if self.budget is not None:
            self.budget.recount()

    def _add(self) -> bool:
        """Take on further jobs, if there are any."""
        entries, waits = self._more() if self._more is not None else ({}, {})
        self.entries |= entries
        self.waits |= waits
        self.epochs |= {identity: self.store.folder(identity).epochs_done() for identity in entries}
        self.waiting += entries
        return bool(entries)

    def _can_start(self, identity: str) -> bool:
        """Whether nothing keeps the job back; one that has come to its end without us leaves the queue."""
        if identity in self.lonely and self.running:
            return False
        if not has_what_it_needs(identity, self.waits, self.listener, self.store):
            if identity in self.listener.failed:
                self.waiting.remove(identity)
            return False
        if self._is_prepared(identity):
            return False
        if is_running(self.store.folder(identity)):
            return False
        self.store.refresh(identity)
        if self._is_foreign_now(identity) and self._is_complete(self.listener.jobs[identity]):
            self.waiting.remove(identity)
            self.listener.ended(identity, "")
            return False
        if self.budget is not None and not self.budget.admits(identity, self.running):
            self._full[identity] = self.budget.sentence()
            return False
        return True

    def _is_foreign_now(self, identity: str) -> bool:
        """Whether another process has worked on the trial since this sweep began."""
        folder = self.store.folder(identity)
        return folder.is_done() or folder.epochs_done() != self.epochs[identity]

    def _is_prepared(self, identity: str) -> bool:
        """Whether a running job is about to leave a beginning behind that this one would otherwise train itself."""
        for epochs, name in self.entries[identity]["prefixes"].items():
            if self.epochs[identity] >= epochs or has_prefix(self.store.path, name):
                continue
            for other in self.running:
                if self.entries[other]["prefixes"].get(epochs) == name and self.epochs[other] < epochs:
                    return True
        return False

    # what happened -------------------------------------------------------------------------------------------------

    def started(self, identity: str) -> None:
        """A worker takes the trial."""
        self.listener.started(identity)

    def reported(self, identity: str, result: dict[str, Any]) -> None:
        """An event of run_trial."""
        self.store.refresh(identity)
        if result.get("kind") == "epoch":
            self.epochs[identity] = int(result["epoch"]) + 1
            self._looked = 0.0
        self.listener.reported(identity, result)

    def ended(self, identity: str, ending: Ending, reason: str = "") -> None:
        """A worker is done with the trial, or gone."""
        if identity not in self.running:
            return
        self.running.remove(identity)
        self.store.refresh(identity)
        self._recount()
        self._looked = 0.0
        if ending == "busy":
            self.waiting.append(identity)
        elif ending == "stopped":
            self.listener.stopped(identity, reason)
        elif ending == "memory" and identity not in self.lonely:
            self.lonely.add(identity)
            self._again(identity, f"{reason}; it is tried once more, alone")
        elif ending == "memory":
            self.listener.ended(identity, ALONE_FAILED)
        elif ending == "lost" and self._may_try_again(identity):
            self._again(identity, reason)
        else:
            self.listener.ended(identity, "" if ending == "complete" else reason)

    def _may_try_again(self, identity: str) -> bool:
        losses, before = self._attempts.get(identity, (0, -1))
        now = self.store.folder(identity).epochs_done()
        losses = 1 if now > before else losses + 1
        self._attempts[identity] = losses, now
        return losses <= RETRIES

    def _again(self, identity: str, reason: str) -> None:
        self.epochs[identity] = self.store.folder(identity).epochs_done()
        self.waiting.append(identity)
        self.listener.retried(identity, reason)


def has_what_it_needs(
    identity: str, waits: Mapping[str, Sequence[str]], listener: Listener, store: Store
) -> bool:
    """Whether all is trained that a job waits for. Where something of it failed, the job has failed."""
    missing = [need for need in waits[identity] if not store.folder(need).is_done()]
    for need in missing:
        if need in listener.failed:
            name = run_name(listener.jobs[need])
            listener.ended(identity, f"its start {name} failed: {listener.failed[need]}")
            return False
    return not missing
