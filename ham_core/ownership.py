"""Who may write a trial's folder: one process at a time, and never one that lost it, however late it wakes up.

    lock       open and flocked by the holder, who touches it every BEAT seconds. Its inode is the generation
    .taking    flocked for the moment in which a lock is replaced, so that two takers do not replace each other

The system frees the flock of a process that died. It does not free that of one that is stopped, hangs, or lives on a machine
that nobody reaches. Who finds a lock without a beat for DEAD seconds, by the file system's own clock, and watches it for
another WATCH seconds (a machine that has just woken up shows life first), puts a new file in its place, and only then looks
at the folder. The old holder cannot write any more:

    whole files   it prepares a temporary file, checks the generation, renames. A rename before the replacement is seen by the
                  taker. After it the check fails; where the check came before and the rename comes after, the taker has
                  deleted the temporary file, and the rename fails
    the journal   it opens, checks, appends. The taker goes on in a copy, so a late append ends in a file without a name
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from ham_core.errors import BusyError

BEAT = 1.0  # seconds between two signs of life
WATCH = 3.0  # seconds for which a waiting process must have seen none itself
DEAD = 30.0  # seconds without one after which a holder has lost its right
POLL = 0.2  # seconds between two tries to get the lock
LOCK = "lock"
TAKING = ".taking"
FRESH = ".lock."  # + random letters: a lock that is about to replace another
JOURNAL = "journal.jsonl"

_held: dict[str, int] = {}  # absolute folder -> descriptor of its lock, for what this process owns


class TakenOver(BusyError):
    """Another process has taken the trial over. What this one had in hand is lost to it, nothing else is."""


@contextlib.contextmanager
def own(folder: Path, wait_seconds: float, dead_seconds: float = DEAD) -> Iterator[None]:
    """Exclusive right to write below `folder`. BusyError: another process kept it for `wait_seconds`.

    Freed when the process dies, however it dies; taken from one that shows no life for `dead_seconds`.
    """
    lock = _acquire(folder, wait_seconds, dead_seconds)
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(lock, over), daemon=True, name="ham-lock")
    key = os.path.abspath(folder)
    try:
        _clear(folder)
        _held[key] = lock
        heart.start()
        yield
    finally:
        over.set()
        if heart.is_alive():
            heart.join()
        _held.pop(key, None)
        os.close(lock)


def check(path: Path) -> None:
    """Whether this process may still write this file. TakenOver: it owned the trial's folder and lost it.

    Says nothing of folders that it never owned: not everything that writes works on a trial.
    """
    for folder in Path(os.path.abspath(path)).parents[
        :2
    ]:  # a trial's folder holds files and folders of files
        lock = _held.get(str(folder))
        if lock is not None and not _is_current(lock, folder / LOCK):
            raise TakenOver(
                f"{folder}: another process has taken this trial over, because this one showed no life for {DEAD:.0f} s; "
                "run the same command again to go on from what that one has done"
            )


def is_at_work(folder: Path, dead_seconds: float = DEAD) -> bool:
    """Whether a process holds the lock and shows life. Writes nothing; a clock that is off errs in when, not in what."""
    try:
        with open(folder / LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        with contextlib.suppress(FileNotFoundError):
            return time.time() - os.stat(folder / LOCK).st_mtime <= dead_seconds
    return False


def _acquire(folder: Path, wait_seconds: float, dead_seconds: float) -> int:
    """The descriptor of the lock that is ours now."""
    started = time.monotonic()
    sign, seen = (0, 0), started
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.utime(lock)
            if _is_current(lock, folder / LOCK):
                return lock
            os.close(lock)  # replaced meanwhile: try the new one
            continue
        except BlockingIOError:
            found = _sign(os.fstat(lock))
            os.close(lock)
        now = time.monotonic()
        if found != sign:
            sign, seen = found, now
        elif now - seen > WATCH and _age(folder, sign) > dead_seconds:
            taken = _take(folder, sign)
            if taken is not None:
                return taken
        if now - started > wait_seconds:
            raise BusyError(
                f"{folder}: another process has been training this trial for {wait_seconds:.0f} s; "
                "wait for it, or stop it and run the same command again"
            )
        time.sleep(POLL)


def _take(folder: Path, sign: tuple[int, int]) -> int | None:
    """A new generation of the lock in place of one without life; None where that has changed meanwhile."""
    with open(folder / TAKING, "a") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if _sign(os.stat(folder / LOCK)) != sign:
            return None
        for left in folder.glob(f"{FRESH}*"):
            left.unlink()
        fresh = folder / f"{FRESH}{uuid.uuid4().hex}"
        lock = os.open(fresh, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.replace(fresh, folder / LOCK)
    _clear(folder)
    with contextlib.suppress(FileNotFoundError):
        copy = folder / f".{JOURNAL}.{uuid.uuid4().hex}"
        with open(copy, "wb") as target:
            target.write((folder / JOURNAL).read_bytes())
            target.flush()
            os.fsync(target.fileno())
        os.replace(copy, folder / JOURNAL)
    return lock


def _age(folder: Path, sign: tuple[int, int]) -> float:
    """Seconds since the last sign of life, by the clock of the file system that stamps both."""
    with open(folder / TAKING, "a") as probe:
        os.utime(probe.fileno())
        return (os.fstat(probe.fileno()).st_mtime_ns - sign[1]) / 1e9


def _clear(folder: Path) -> None:
    """Delete the temporary files of earlier holders; those of a take-over belong to who holds the guard."""
    for place in (folder, folder / "weights", folder / "evaluations"):
        for path in place.glob(".*"):
            if path.name != TAKING and not path.name.startswith(FRESH) and path.is_file():
                path.unlink(missing_ok=True)


def _sign(found: os.stat_result) -> tuple[int, int]:
    """Changes with every beat and every generation."""
    return found.st_ino, found.st_mtime_ns


def _is_current(lock: int, path: Path) -> bool:
    """Whether an open file is the one that stands at `path`."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(path))
    except FileNotFoundError:
        return False


def _beat(lock: int, over: threading.Event) -> None:
    """Show life until it is over. A file system that does not take it will not take results either."""
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(lock)
