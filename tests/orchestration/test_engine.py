"""Places on GPUs that Ray only counts: how many trials run at once, what they see, and what running out of memory does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestration.engine import is_out_of_memory, places

# A driver with a Ray of its own. Its workers write down what they see before they do what workers do.
DRIVER = """
import json, os, sys, time
from pathlib import Path
import ray
from rich.console import Console
from orchestration import engine, runner, tracking
from orchestration.store import Store
from orchestration.sweep import load_sweep

sweep, store, notes, together, poor, share = json.loads(sys.argv[1])
original, notes = engine.work, Path(notes)

def work(config):
    import ham_core.run
    import torch
    job = config["job"]
    note = {
        "trial": job["fingerprint"],
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "ids": ray.get_gpu_ids(),
        "resources": ray.get_runtime_context().get_assigned_resources(),
        "begun": time.time(),
    }
    name = notes / f"{time.time_ns()}.json"
    name.write_text(json.dumps(note))
    deadline = time.time() + 90
    while len(list(notes.glob("*.json"))) < together and time.time() < deadline:
        time.sleep(0.1)
    through, once = ham_core.run.run_trial, notes / "poor"
    if job["fingerprint"] == poor and not once.exists():
        once.touch()
        def run_trial(*arguments, **options):
            yield next(through(*arguments, **options))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        ham_core.run.run_trial = run_trial
    try:
        original(config)
    finally:
        ham_core.run.run_trial = through
        name.write_text(json.dumps(note | {"ended": time.time()}))

engine.work = work
runner.graphics_cards = lambda: 2
ray.init(address="local", num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="critical",
         object_store_memory=100 * 1024**2)
outcome = runner.run_sweep(
    load_sweep(sweep), Store(store), tracking.default_uri(store),
    resources=runner.Resources(gpus_per_trial=share), console=Console(stderr=True),
)
print(json.dumps({"exit": outcome.exit_code, "done": outcome.done, "failed": outcome.failed}))
"""


@pytest.fixture
def drive(write_sweep: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[Any, list[Any], str]]:
    """drive(together, poor, share) -> (outcome, notes of the workers in order, what was shown)."""

    def run(together: int, poor: str = "", share: float | None = 0.5) -> tuple[Any, list[Any], str]:
        notes = tmp_path / "notes"
        notes.mkdir()
        given = [str(write_sweep()), str(tmp_path / "store"), str(notes), together, poor, share]
        found = subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps(given)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=300,
        )
        assert found.returncode == 0, found.stderr
        told = [json.loads(path.read_text()) for path in sorted(notes.glob("*.json"))]
        return json.loads(found.stdout.splitlines()[-1]), told, found.stderr

    return run


@pytest.mark.ray
@pytest.mark.slow
def test_four_trials_share_two_gpus_and_each_sees_one(drive: Callable[..., Any]) -> None:
    outcome, notes, _ = drive(together=4)
    assert (outcome["exit"], len(outcome["done"])) == (0, 4)
    assert sorted(note["visible"] for note in notes) == ["0", "0", "1", "1"]
    assert [note["ids"] for note in notes] == [[int(note["visible"])] for note in notes]
    assert max(note["begun"] for note in notes) < min(note["ended"] for note in notes), "all four at once"


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_that_runs_out_of_memory_is_tried_again_alone_and_finishes(
    drive: Callable[..., Any], write_sweep: Callable[..., Path]
) -> None:
    from orchestration.sweep import load_sweep

    poor = load_sweep(write_sweep()).trials[1].fingerprint
    outcome, notes, shown = drive(together=4, poor=poor)
    assert (outcome["exit"], len(outcome["done"]), outcome["failed"]) == (0, 4, {})
    first, second = [note for note in notes if note["trial"] == poor]
    assert (first["resources"]["GPU"], second["resources"]["GPU"]) == (0.5, 1.0)
    others = [note for note in notes if note["trial"] != poor]
    assert second["begun"] > max(note["ended"] for note in others), "nothing else runs beside it"
    assert "CUDA out of memory" in shown
    assert "alone" in shown


@pytest.mark.ray
@pytest.mark.slow
def test_where_nothing_can_be_measured_four_trials_share_a_gpu(drive: Callable[..., Any]) -> None:
    """These GPUs are only counted, so that the measuring trial finds none."""
    outcome, notes, _ = drive(together=4, share=None)
    assert (outcome["exit"], len(notes)) == (0, 4)
    assert {note["resources"]["GPU"] for note in notes} == {0.25}


@pytest.mark.parametrize(
    ("machines", "cpus", "gpus", "count"),
    [
        ([(2, 0)], 1, 0, 2),
        ([(5, 0), (3, 0)], 2, 0, 3),
        ([(8, 2)], 1, 0.5, 4),
        ([(3, 2)], 1, 0.5, 3),
        ([(8, 2)], 1, 0.4, 4),
        ([(64, 3)], 1, 1 / 7, 21),
        ([(8, 4), (8, 0)], 1, 2, 2),
        ([], 1, 0, 0),
    ],
)
def test_places_are_counted_per_machine_and_gpu(
    machines: list[tuple[float, float]], cpus: float, gpus: float, count: int
) -> None:
    assert places(machines, cpus, gpus) == count


def test_running_out_of_memory_is_told_from_other_errors() -> None:
    import torch

    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
