"""One writer per trial: a stopped one loses its right, and what it does after it wakes up reaches no file."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ham_core import folder as folders
from ham_core import ownership
from ham_core.errors import BusyError
from ham_core.folder import TrialFolder, write_atomically
from ham_core.ownership import TakenOver, own
from ham_core.seals import sealed

ROOT = Path(__file__).resolve().parents[2]
SOON = 0.4  # seconds after which these tests declare a holder dead


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch for tenths of a second what the product watches for seconds."""
    monkeypatch.setattr(ownership, "WATCH", 0.3)


# Owns a folder, says so, and writes epoch after epoch of `journal.jsonl` and a whole file until it may not.
HOLDER = """
import sys, time
from pathlib import Path
from ham_core import ownership
from ham_core.folder import TrialFolder, write_json
ownership.BEAT = 0.05
place = Path(sys.argv[1])
with ownership.own(place, 0):
    try:
        for epoch in range(100_000):
            write_json(place / "state.json", {"epoch": epoch, "by": "first"})
            TrialFolder(place).append({"epoch": epoch, "by": "first"})
            print(epoch, flush=True)
    except ownership.TakenOver as error:
        print("taken over:", error, flush=True)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that owns `tmp_path`/trial and has written some epochs."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "trial")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while process.stdout.readline() != "3\n":
        assert process.poll() is None
    yield process
    process.kill()
    process.communicate()


def test_who_shows_life_keeps_the_lock_however_long_another_waits(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    with (
        pytest.raises(BusyError, match="another process has been training this trial for 2 s"),
        own(tmp_path / "trial", 2, SOON),
    ):
        pass


def test_the_lock_of_a_killed_holder_is_free_at_once(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    with own(tmp_path / "trial", 0):
        pass


def test_a_stopped_holder_loses_the_trial_and_writes_nothing_when_it_wakes_up(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    place = tmp_path / "trial"
    os.kill(holder.pid, signal.SIGSTOP)
    started = time.monotonic()
    with own(place, 20, SOON):
        assert SOON < time.monotonic() - started < 10
        ours = TrialFolder(place)
        done = ours.epochs_done()
        assert done >= 3, "what it had written before stays"
        for epoch in range(done, done + 3):
            ours.append({"epoch": epoch, "by": "second"})
        folders.write_json(place / "state.json", {"by": "second"})
        os.kill(holder.pid, signal.SIGCONT)
        out, _ = holder.communicate(timeout=20)
        assert "taken over:" in out and str(place) in out
        assert [record["epoch"] for record in ours.journal()] == list(range(done + 3))
        assert [record.get("by") for record in ours.journal()[done:]] == ["second"] * 3
        assert folders.read_json(place / "state.json") == {"by": "second"}
        ours.append({"epoch": done + 3, "by": "second"})
    left = sorted(path.name for path in place.iterdir())
    assert left == [".taking", "journal.jsonl", "lock", "state.json"]


@pytest.mark.parametrize("moment", ["before the check", "after the check"])
def test_a_rename_that_a_take_over_overtakes_fails(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two moments at which a writer can be stopped with a finished temporary file in hand."""
    place, check = tmp_path / "trial", ownership.check

    def overtaken(path: Path) -> None:
        if moment == "after the check":
            check(path)
        taken(place)
        if moment == "before the check":
            check(path)

    with own(place, 0):
        write_atomically(place / "state", lambda file: file.write(b"old"))
        monkeypatch.setattr(ownership, "check", overtaken)
        with pytest.raises(TakenOver if moment == "before the check" else FileNotFoundError):
            write_atomically(place / "state", lambda file: file.write(b"late"))
    assert (place / "state").read_bytes() == b"old"


def test_a_late_line_never_reaches_the_journal_that_the_taker_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, check = tmp_path / "trial", ownership.check
    folder = TrialFolder(place)

    def overtaken(path: Path) -> None:
        check(path)
        monkeypatch.setattr(ownership, "check", check)
        taken(place)
        with open(place / "journal.jsonl", "ab") as journal:
            for epoch in (1, 2):
                journal.write(sealed({"epoch": epoch, "by": "second"}))

    with own(place, 0):
        folder.append({"epoch": 0, "by": "first"})
        monkeypatch.setattr(ownership, "check", overtaken)
        folder.append({"epoch": 1, "by": "first"})
    assert [record["by"] for record in folder.journal()] == ["first", "second", "second"]


def taken(place: Path) -> None:
    """What another process does when it sees no life: here from the same one, past the open lock."""
    lock = ownership._take(place, ownership._sign(os.stat(place / "lock")))
    assert lock is not None
    os.close(lock)


def test_a_sign_of_life_in_the_last_moment_keeps_the_lock(tmp_path: Path) -> None:
    with own(tmp_path, 0):
        seen = ownership._sign(os.stat(tmp_path / "lock"))
        os.utime(tmp_path / "lock")
        assert ownership._take(tmp_path, seen) is None
        ownership.check(tmp_path / "anything")


def test_a_new_holder_of_a_dead_ones_lock_is_not_taken_for_the_dead_one(tmp_path: Path) -> None:
    with own(tmp_path, 0):
        seen = ownership._sign(os.stat(tmp_path / "lock"))
    time.sleep(0.05)
    with own(tmp_path, 0):
        assert ownership._take(tmp_path, seen) is None


def test_a_lock_that_is_replaced_while_it_is_opened_is_left_for_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock
    (tmp_path / "other").touch()

    def late(descriptor: int, operation: int) -> None:
        if (tmp_path / "other").exists():
            os.replace(tmp_path / "other", tmp_path / "lock")
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with own(tmp_path, 0):
        ownership.check(tmp_path / "anything")


def test_old_is_not_dead_what_shows_life_while_it_is_watched_keeps_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that slept for an hour: its clock has gone on, its processes have not."""
    monkeypatch.setattr(ownership, "BEAT", 0.1)
    monkeypatch.setattr(ownership, "WATCH", 1.0)
    with own(tmp_path, 0):
        os.utime(tmp_path / "lock", (time.time() - 3600, time.time() - 3600))
        with pytest.raises(BusyError), own(tmp_path, 2):
            pass
        ownership.check(tmp_path / "anything")


def test_at_work_is_who_holds_the_lock_and_shows_life(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    place = tmp_path / "trial"
    assert ownership.is_at_work(place)
    os.kill(holder.pid, signal.SIGSTOP)
    time.sleep(SOON + 0.1)
    assert ownership.is_at_work(place)
    assert not ownership.is_at_work(place, SOON)
    holder.kill()
    holder.wait()
    assert not ownership.is_at_work(place)
    assert not ownership.is_at_work(tmp_path / "nowhere")


def test_leftovers_of_killed_writers_are_cleared_by_the_next_holder(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    for name in (".checkpoint.pt.1234", "weights/.best.pt.99", "weights/best.pt"):
        (tmp_path / name).touch()
    with own(tmp_path, 0):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["best.pt", "lock", "weights"]


def test_two_that_wait_for_a_dead_holder_do_not_take_it_from_each_other(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "BEAT", 0.05)
    os.kill(holder.pid, signal.SIGSTOP)
    inside, most, errors = [0], [0], []
    guard = threading.Lock()

    def work(step: Callable[[], None]) -> None:
        try:
            with own(tmp_path / "trial", 20, SOON):
                with guard:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(0.3)
                step()
                with guard:
                    inside[0] -= 1
        except Exception as error:  # a thread's exception would be lost
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=(lambda: ownership.check(tmp_path / "trial" / "state.json"),))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert most == [1]
