"""A sweep that is killed again and again ends in exactly the tables of one that was left alone.

Short form: one kill of each kind within one sweep. Long form, `make faults KILLS=20 SEED=1`: so many of each kind, and mixed.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Sequence

import pytest

from tests.faults.arena import Arena
from tests.faults.conftest import KILLS, SEED, survived
from tests.faults.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600 + 120 * KILLS)]

SCENARIOS = {
    "mixed": ("strand", "worker", "driver", "node", "worker", "server"),
    "driver": ("driver",),
    "worker": ("worker",),
    "node": ("node", "node", "node", "strand"),
    "server": ("server",),
}


@pytest.mark.parametrize("scenario", SCENARIOS if KILLS else ["mixed"])
def test_a_sweep_that_is_killed_at_random_moments_gives_the_same_tables(
    scenario: str, unbroken: Arena, new_arena: Callable[[], Arena]
) -> None:
    kinds = SCENARIOS[scenario]
    wanted = KILLS or len(kinds)
    dice = random.Random(f"{SEED} {scenario}")
    print(f"seed {SEED}: HAM_SEED={SEED} repeats the choices, not the clock")
    killed, stores = 0, 0
    while killed < wanted:
        arena = new_arena()
        if {"node", "strand"} & set(kinds):
            arena.start_cluster()
        if "server" in kinds:
            arena.start_server()
        killed += torment(arena, [kinds[i % len(kinds)] for i in range(killed, wanted)], dice)
        stores += 1
        arena.check(unbroken)
        if arena.cluster is not None:
            arena.cluster.shutdown()
            arena.cluster = None
        wait_until(lambda gone=arena: not gone.strays(), 120, f"the end of {arena.strays()}")
    survived.append(f"seed {SEED}, {scenario}: {killed} kills tried, {killed} survived, in {stores} sweeps")


def torment(arena: Arena, kinds: Sequence[str], dice: random.Random) -> int:
    """Start the sweep, kill something at random moments, start it again where it ended -> kills until it was complete."""
    actions = {
        "driver": arena.kill_driver,
        "worker": arena.kill_worker,
        "node": arena.kill_node,
        "strand": arena.strand_worker,
        "server": arena.kill_server,
    }
    killed, running = 0, arena.sweep()
    while killed < len(kinds):
        moment(arena, running, dice)
        if running.poll() == 0:
            break
        if running.poll() is not None:
            # A trial that loses three workers fails with its reason; the record may lack what a dead server missed.
            assert running.returncode == 1, arena.said()
            running = arena.sweep()
            continue
        kind = kinds[killed]
        done = actions[kind](running, dice)
        killed += done
        print(
            f"{time.monotonic():.1f}  {kind}: {'killed' if done else 'nothing to kill'} at epoch {arena.epochs_done()}"
        )
        if kind == "driver" and done:
            running = arena.sweep()
        arena.wake_sleepers()
    while running.poll() is None:
        arena.wake_sleepers()
        time.sleep(0.2)
    last = arena.sweep()
    while last.poll() is None:
        arena.wake_sleepers()
        time.sleep(0.2)
    assert last.returncode == 0, arena.said()
    arena.wake_sleepers()
    assert not arena.sleepers
    return killed


def moment(arena: Arena, running: subprocess.Popen[bytes], dice: random.Random) -> None:
    """A third of the moments are anywhere, also while Ray starts; the others are in the middle of the work."""
    if dice.random() < 1 / 3:
        deadline, epochs = time.monotonic() + dice.uniform(0, 12), 10**9
    else:
        deadline, epochs = time.monotonic() + 60, arena.epochs_done() + dice.randint(1, 8)
    while running.poll() is None and time.monotonic() < deadline and arena.epochs_done() < epochs:
        arena.wake_sleepers()
        time.sleep(0.02)
    time.sleep(dice.uniform(0, 0.2))
