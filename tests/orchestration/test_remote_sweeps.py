"""`ham sweep --store URL` as a person types it: real Ray, and object storage that can do no more than hold objects.

Every machine is a folder for mirrors (HAM_CACHE) and a driver with a Ray of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.objects import Objects
from tests.orchestration.conftest import SWEEP

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
SITE = """
import fsspec
fsspec.register_implementation("bucket", "tests.objectstore.Bucket", clobber=True)
from orchestration import lease
lease.TTL, lease.BEAT = 6.0, 1.5
"""
SHARED = {  # two settings of HAM share their first four epochs, and a trial starts from another one
    "method: [at, trades]": """method: [ham-official]
    method.mining.early_drop_step: [1, 2]
  started:
    method: [at]
    start_from: {method: trades, weights: last}
    start_from.optimizer.lr: 0.1""",
    "  epochs: 2\n": "  epochs: 10\n",
    "seeds: [0, 1]": "seeds: [0]",
}


class World:
    """A bucket, and machines that have nothing else in common."""

    def __init__(self, place: Path) -> None:
        self.place, self.sweep, text = place, place / "tiny.yaml", SWEEP
        for old, new in SHARED.items():
            text = text.replace(old, new)
        self.sweep.write_text(text)
        self.url = f"bucket://{place}/objects"
        (place / "site").mkdir()
        (place / "site" / "sitecustomize.py").write_text(SITE)
        self.log = place / "puts"
        self.started: list[subprocess.Popen[str]] = []

    def start(self, machine: str, *arguments: str) -> subprocess.Popen[str]:
        """`ham ARGUMENTS` on a machine, in a process group of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestration.cli", *arguments],
            cwd=self.place,
            env={
                **os.environ,
                "PYTHONPATH": f"{self.place / 'site'}{os.pathsep}{ROOT}",
                "HAM_CACHE": str(self.place / machine),
                "BUCKET_LOG": str(self.log),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def ham(self, machine: str, *arguments: str) -> str:
        """What a command prints that must succeed."""
        process = self.start(machine, *arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return out

    def tables(self, machine: str, store: str) -> dict[str, bytes]:
        """The report's files but those about cost, which hold seconds, and the manifest, which names runs."""
        out = f"report-{machine}"
        self.ham(machine, "report", "--store", store, "--out", out, "--format", "md,tex,csv")
        found = [
            path
            for path in (self.place / out).rglob("*.*")
            if "cost" not in path.name and path.name != "manifest.json"
        ]
        return {path.name: path.read_bytes() for path in found}

    def epochs(self) -> Counter[tuple[str, str]]:
        """(trial, epoch) -> how often its line was put on its own."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        parts = [line.split("/objects/")[1].split("/") for line in lines if "/journal/0" in line]
        return Counter((part[1], part[3].split(".")[0]) for part in parts)

    def close(self) -> None:
        """End what is left."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, bytes]]:
    """The tables of the same sweep with its store in a folder."""
    made = World(tmp_path_factory.mktemp("local"))
    made.ham("here", "sweep", str(made.sweep), "--store", "store")
    yield made.tables("here", "store")
    made.close()


def test_a_sweep_on_object_storage_gives_the_tables_of_one_in_a_folder(
    world: World, expected: dict[str, bytes]
) -> None:
    assert any(name.endswith(".md") for name in expected)
    out = world.ham("first", "sweep", str(world.sweep), "--store", world.url)
    assert "4 trained, 0 reused, 0 failed" in out
    assert f"--store {world.url}" in out
    assert world.tables("first", world.url) == expected
    assert set(world.epochs().values()) == {1}, "each epoch was put once"

    assert "4 trials: 4 done" in world.ham("second", "plan", str(world.sweep), "--store", world.url)
    assert "0 trained, 4 reused" in world.ham("second", "sweep", str(world.sweep), "--store", world.url)
    assert world.tables("second", world.url) == expected, "a new machine writes its record from the journals"
    assert "4 done" in world.ham("third", "status", "--store", world.url)
    other = world.url.replace("/objects", "/other/objects")
    world.ham("third", "export", "--sweep", "tiny", "--weights", "best", "--store", world.url)
    world.ham("fourth", "import", "tiny.tar.gz", "--store", other)
    assert world.tables("fourth", other) == expected
    trial = next(iter(Objects(world.url.replace("bucket", "file")).list("states"))).split("/")[1]
    attack = ("evaluate", trial[:10], "--attack", "pgd3", "--weights", "last")
    assert "pgd3" in world.ham("third", *attack, "--store", world.url)
    world.ham("third", "sync", "--store", world.url)
    assert "done" in world.ham("third", "explain", trial[:10], "--store", world.url)
    assert "deleted" in world.ham("third", "gc", "--delete", "--store", world.url)


def test_a_driver_that_is_killed_is_replaced_by_another_machine(
    world: World, expected: dict[str, bytes]
) -> None:
    killed = world.start("first", "sweep", str(world.sweep), "--store", world.url)
    deadline = time.monotonic() + 120
    while sum(world.epochs().values()) < 7:
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    out = world.ham("second", "sweep", str(world.sweep), "--store", world.url)
    assert "0 failed" in out
    assert world.tables("second", world.url) == expected
    again = [key for key, count in world.epochs().items() if count > 1]
    assert len(again) <= 4, f"at most the current epoch of each trial is trained again: {again}"
    assert not Objects(world.url.replace("bucket", "file")).list("leases")


def test_two_drivers_on_two_machines_train_each_trial_once(world: World) -> None:
    both = [
        world.start(name, "sweep", str(world.sweep), "--store", world.url) for name in ("first", "second")
    ]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert set(world.epochs().values()) == {1}
    assert len(world.epochs()) == 4 * 10
    assert world.tables("first", world.url) == world.tables("second", world.url)
