"""Processes as Linux shows them in /proc: which belong to a test, which hold a file, which listen where."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

MARK = "HAM_FAULT_TEST"  # an environment variable that every process of a test inherits, Ray's too


def alive() -> list[int]:
    """Every process but zombies, which are only waiting to be counted, and this one."""
    return [pid for pid in _all() if pid != os.getpid() and _state(pid) not in ("Z", "X", "")]


def belonging(mark: str, folder: Path) -> dict[int, str]:
    """pid -> command line of every process that was started with this mark, or works in this folder.

    Who gives itself another name, as Ray's agents do, may overwrite what /proc shows of its environment.
    """
    word, found = f"{MARK}={mark}".encode(), {}
    for pid in alive():
        if word in environment(pid) or _folder(pid) == os.path.realpath(folder):
            found[pid] = command_line(pid)
    return found


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


def _folder(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return ""


@dataclass(frozen=True)
class Door:
    """A TCP socket that listens: `address` as text, `::` and `0.0.0.0` are every interface."""

    pid: int
    address: str
    port: int


def doors(pids: Iterable[int]) -> list[Door]:
    """Every TCP socket on which these processes listen, IPv4 and IPv6."""
    listening: dict[str, tuple[str, int]] = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":  # LISTEN
                address, _, port = words[1].partition(":")
                listening[f"socket:[{words[9]}]"] = (_address(address), int(port, 16))
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    opened = os.readlink(link)
                    if opened in listening:
                        found.append(Door(pid, *listening[opened]))
    return found


def _address(text: str) -> str:
    """/proc writes an address as little-endian words in hexadecimal."""
    words = [bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(words)))
