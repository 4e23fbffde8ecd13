"""Who may train a trial of a store on object storage: one machine at a time, without conditional puts and without clocks.

    leases/<trial>/<generation>.<token>.<machine>.asks      somebody would like to
    leases/<trial>/<generation>.<token>.<machine>.holds     somebody does; put again every BEAT seconds

Who asks puts an object of its own, then lists. If nobody else's is there that is alive, it holds. Of two that ask at once, the
one whose put ends later sees the other, so never both are alone; the one with the greater name withdraws. Alive is whose
object is at most TTL seconds older than the one just put, both by the storage's clock: those of machines do not matter.
One machine's processes are kept apart by the lock of the trial's folder, which the system frees when they die: a lease of
the same machine that is found under this lock is a dead one's, and counts for nothing at once.

A holder may be stopped for minutes and wake up after it was taken for dead. So a lease has a generation, greater than all
before it (leases and states, orchestration.remote), and names of states begin with it: what an earlier holder still puts is
never looked at once the later one has put something. A holder asks `check` before and after it puts a state, and stops with
BusyError.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from ham_core.errors import BusyError
from orchestration.objects import Info, Objects

TTL = 60.0  # seconds without a sign of life after which a holder counts as dead
BEAT = 15.0  # seconds between two signs of life
LOOKS = 10  # times that one who asks first looks whether the others have withdrawn
POLL = 0.2  # seconds between two looks
LEASES, STATES = "leases", "states"
ASKS, HOLDS = "asks", "holds"


@dataclass(frozen=True, order=True)
class Mark:
    """The name of an object below leases/<trial>, in parts."""

    generation: int
    token: str
    machine: str
    word: str

    def __str__(self) -> str:
        return f"{self.generation:08d}.{self.token}.{self.machine}.{self.word}"


class Lease:
    """The right to write states of a trial, held by this process."""

    def __init__(self, objects: Objects, trial: str, mark: Mark) -> None:
        self.objects, self.trial, self.mark = objects, trial, mark
        self._lost = ""
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True, name="ham-lease")
        self._heart.start()

    @property
    def generation(self) -> int:
        """Greater than that of every holder before."""
        return self.mark.generation

    def check(self) -> None:
        """BusyError: another machine has taken the trial over."""
        if not self._lost:
            holders = [one for one in marks(self.objects, self.trial) if one.word == HOLDS]
            if _highest(self.objects, self.trial, holders) > self.generation:
                self._lost = (
                    f"{self.objects.url}: another machine has taken the trial {self.trial[:10]} over, because this one "
                    f"showed no life for {TTL:.0f} s; run the same command again to go on from what that one has done"
                )
        if self._lost:
            raise BusyError(self._lost)

    def release(self) -> None:
        """Let others have it."""
        self._over.set()
        self._heart.join()
        with contextlib.suppress(Exception):  # it runs out by itself
            self.objects.delete([_name(self.trial, self.mark)])

    def _beat(self) -> None:
        """Show life until it is over. A storage that does not take this will not take results either."""
        while not self._over.wait(BEAT):
            with contextlib.suppress(Exception):
                self.check()
                self.objects.write(_name(self.trial, self.mark), b"")
            if self._lost:
                return


def take(objects: Objects, trial: str, machine: str, wait_seconds: float) -> Lease:
    """The lease of a trial. BusyError: another machine holds it, and lives, for so long.

    The caller has the lock of this machine's folder of the trial.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        lease = _try(objects, trial, machine)
        if lease is not None:
            return lease
        if time.monotonic() > deadline:
            raise BusyError(
                f"{objects.url}: another machine has been training the trial {trial[:10]} for {wait_seconds:.0f} s; "
                "wait for it, or stop it and run the same command again"
            )
        time.sleep(random.uniform(POLL, 5 * POLL))


def _try(objects: Objects, trial: str, machine: str) -> Lease | None:
    mine = Mark(1 + _highest(objects, trial, marks(objects, trial)), uuid.uuid4().hex[:12], machine, ASKS)
    holds = Mark(mine.generation, mine.token, machine, HOLDS)
    lease = None
    try:
        objects.write(_name(trial, mine), b"")
        if _is_alone(objects, trial, mine):
            others = [one for one in marks(objects, trial) if one != mine]
            if _highest(objects, trial, others) < mine.generation:  # else it rose meanwhile: once more
                objects.write(_name(trial, holds), b"")
                objects.delete(_name(trial, one) for one in others if one.word == HOLDS)  # dead ones
                lease = Lease(objects, trial, holds)
    finally:
        objects.delete([_name(trial, mine)])
    return lease


def _is_alone(objects: Objects, trial: str, mine: Mark) -> bool:
    """Whether nobody alive stands in the way, or those that do withdraw soon."""
    for _ in range(LOOKS):
        found = marks(objects, trial)
        if mine not in found:
            return False
        now = found[mine].put
        alive = [one for one, info in found.items() if one.machine != mine.machine and now - info.put <= TTL]
        if not alive:
            return True
        if min(alive) < mine or any(one.word == HOLDS for one in alive):
            return False
        time.sleep(POLL)
    return False


def marks(objects: Objects, trial: str) -> dict[Mark, Info]:
    """Everything below leases/<trial>."""
    return {_mark(name): info for name, info in objects.list(f"{LEASES}/{trial}").items()}


def held(objects: Objects, but: str) -> set[str]:
    """The trials that other machines than `but` hold now, by this machine's clock: good enough to be shown and to wait for."""
    now = time.time()
    found = objects.list(LEASES).items()
    alive = [name for name, info in found if now - info.put <= TTL]
    return {
        name.split("/")[1] for name in alive if (mark := _mark(name)).word == HOLDS and mark.machine != but
    }


def state_generation(name: str) -> int:
    """The generation in the name of a state, `states/<trial>/<generation>.<number>.<token>.json`."""
    return int(name.rpartition("/")[2].partition(".")[0])


def _highest(objects: Objects, trial: str, found: Iterable[Mark]) -> int:
    """The greatest generation of these marks and of all states; 0 where there are none. `found` was listed first."""
    states = objects.list(f"{STATES}/{trial}")
    return max([0, *(one.generation for one in found), *map(state_generation, states)])


def _name(trial: str, mark: Mark) -> str:
    return f"{LEASES}/{trial}/{mark}"


def _mark(name: str) -> Mark:
    generation, token, machine, word = name.rpartition("/")[2].split(".")
    return Mark(int(generation), token, machine, word)
