"""Processes as Linux shows them in /proc: which belong to a test, which hold a file, which listen where."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

MARK = "HAM_FAULT_TEST"  # an environment variable that every process of a test inherits, Ray's too


def alive() -> list[int]:
    """Every process but zombies, which are only waiting to be counted, and this one."""
    return [pid for pid in _all() if pid != os.getpid() and _state(pid) not in ("Z", "X", "")]


def marked(mark: str) -> dict[int, str]:
    """pid -> command line of every process that was started with this mark."""
    word = f"{MARK}={mark}".encode()
    return {pid: command_line(pid) for pid in alive() if word in environment(pid)}


def environment(pid: int) -> list[bytes]:
    """NAME=VALUE of a process as it was started; empty where it has gone."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def command_line(pid: int) -> str:
    """Of a process, or what it calls itself: `ray::IDLE`."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def holders(pattern: str, folder: Path) -> dict[int, Path]:
    """pid -> the file that it holds open, of those that `folder.glob(pattern)` finds now."""
    files = {os.path.realpath(path): path for path in folder.glob(pattern)}
    found: dict[int, Path] = {}
    for pid in alive():
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    opened = os.readlink(link)
                    if opened in files:
                        found[pid] = files[opened]
    return found


def send(pid: int, number: signal.Signals) -> bool:
    """A signal -> whether there was somebody to get it."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def end(pids: Iterable[int]) -> None:
    """Kill what a test has left."""
    for pid in pids:
        send(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll. AssertionError, naming what was waited for, after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)


def _all() -> list[int]:
    return [int(place.name) for place in Path("/proc").iterdir() if place.name.isdigit()]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return ""
