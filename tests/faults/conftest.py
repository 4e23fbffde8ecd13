"""How often and with which dice: HAM_KILLS and HAM_SEED, which `make faults KILLS=20 SEED=1` sets."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.arena import Arena

KILLS = int(os.environ.get("HAM_KILLS") or 0)  # 0: the short form, one of each kind
SEED = int(os.environ.get("HAM_SEED") or time.time_ns() % 1_000_000)
EPOCHS, SEEDS = (60, 2) if KILLS else (24, 1)

survived: list[str] = []  # a line per scenario, printed at the end


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Arena:
    """The same sweep, left alone."""
    arena = Arena(tmp_path_factory.mktemp("unbroken"), EPOCHS, SEEDS)
    assert arena.sweep().wait(300) == 0, arena.said()
    assert arena.record()[1] == []
    return arena


@pytest.fixture
def new_arena(tmp_path: Path) -> Iterator[Callable[[], Arena]]:
    """new_arena() -> an empty store; all that runs in it ends with the test."""
    made: list[Arena] = []

    def make() -> Arena:
        made.append(Arena(tmp_path / str(len(made)), EPOCHS, SEEDS))
        return made[-1]

    yield make
    for arena in made:
        arena.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Kills tried and survived."""
    for line in survived:
        terminalreporter.write_line(f"faults: {line}")
