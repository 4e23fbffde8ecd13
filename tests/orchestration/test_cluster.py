"""A sweep on two Ray nodes, by `ham sweep --address HOST:PORT`: both work, and one of them can be lost."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.arena import Arena, node_of
from tests.faults.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]

EPOCH = re.compile(r"epoch (\d+)/\d+ +(.+?) {2,}robust")


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    """A store and a cluster of two nodes with a CPU each, besides a head that only directs."""
    made = Arena(tmp_path, epochs=24, seeds=1)
    made.start_cluster()
    yield made
    made.close()


def test_both_nodes_train_and_the_loss_of_one_costs_at_most_the_current_epoch(arena: Arena) -> None:
    running = arena.sweep()
    wait_until(lambda: len(nodes_at_work(arena)) == 2, 90, "a trial on each of the two nodes")
    wait_until(
        lambda: min(epochs(lock) for lock in arena.workers().values()) >= 2, 60, "epochs on both nodes"
    )
    rooms = nodes_at_work(arena)
    assert set(rooms) == set(arena.nodes)
    lost = arena.nodes[0]
    before = {lock: lock.with_name("journal.jsonl").read_bytes() for lock in rooms[lost]}
    arena.remove_node(lost)
    assert running.wait(200) == 0, arena.said()
    assert set(arena.nodes) == set(rooms) - {lost}
    assert "tries again" in arena.said()

    for lock, text in before.items():
        assert lock.with_name("journal.jsonl").read_bytes().startswith(text), "an epoch was trained again"
    for records in arena.journals().values():
        assert [record["epoch"] for record in records] == list(range(24))
    # An epoch that is trained is told. None is told twice, so only one that was not finished was trained twice.
    told = Counter(EPOCH.findall(arena.said()))
    assert len(told) >= 4 * 24 - len(before)
    assert set(told.values()) == {1}
    runs, gaps = arena.record()
    assert sorted(runs) == [("FINISHED", "sweep"), *[("FINISHED", "trial")] * 4]
    assert gaps == []


def nodes_at_work(arena: Arena) -> dict[object, list[Path]]:
    """node -> locks of the trials that its workers hold now."""
    found: dict[object, list[Path]] = {}
    for pid, lock in arena.workers().items():
        node = node_of(pid, arena.nodes)
        if node is not None:
            found.setdefault(node, []).append(lock)
    return found


def epochs(lock: Path) -> int:
    """How many the trial's journal holds."""
    journal = lock.with_name("journal.jsonl")
    return len(journal.read_bytes().splitlines()) if journal.exists() else 0
