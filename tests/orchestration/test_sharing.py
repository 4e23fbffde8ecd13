"""Beginnings that trials share: what the plan says, and what a real sweep trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from ham_core.config import fingerprint
from ham_core.folder import TrialFolder
from ham_core.run import run_trial
from orchestration import tracking
from orchestration.plan import plan
from orchestration.runner import run_sweep
from orchestration.store import Store
from orchestration.sweep import Sweep, load_sweep

TWELVE = """\
method: ham-official
    method.mining.early_drop_step: [1, 2]
    method.mining.weight.function: [tanh, sigmoid]
    method.mining.weight.parameter: [-1, 1, 2]"""


@pytest.fixture
def twelve(write_sweep: Callable[..., Path]) -> Callable[..., Sweep]:
    """A grid of twelve settings of HAM, warm-up 49 of 120 epochs, at another length where one is given."""
    path = write_sweep(
        replaced={
            "method: [at, trades]": TWELVE,
            "  epochs: 2\n": "",
            "seeds: [0, 1]": "seeds: 0",
            "evaluate: [clean, pgd2]": "evaluate: clean\nweights: last",
        }
    )

    def load(*sets: str) -> Sweep:
        return load_sweep(path, sets=sets)

    return load


def test_a_grid_of_twelve_needs_at_most_63_percent_of_the_epochs(
    twelve: Callable[..., Sweep], tmp_path: Path
) -> None:
    found = plan(twelve(), tmp_path)
    assert len(found.steps) == 12
    assert found.epochs == {"left": 49 + 12 * 71, "unshared": 12 * 120}
    assert found.epochs["left"] <= 0.63 * found.epochs["unshared"]
    assert [step.adopted for step in found.steps] == [0] + [49] * 11
    assert found.steps[1].why.endswith(f"; first 49 epochs from {found.steps[0].planned.row}")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_runs")
def test_a_sweep_trains_a_shared_beginning_once_and_nothing_else_changes(
    twelve: Callable[..., Sweep], tmp_path: Path, console: Console
) -> None:
    sweep, store = twelve("epochs=12"), Store(tmp_path / "store")
    outcome = run_sweep(sweep, store, tracking.default_uri(store.path), console=console)
    assert (outcome.exit_code, len(outcome.done)) == (0, 12)
    folders = [store.folder(one.fingerprint) for one in sweep.trials]
    counted = sum("trained_by" not in record for folder in folders for record in folder.journal())
    assert counted == 5 + 12 * 7
    assert counted <= 0.63 * 12 * 12
    assert all([record["epoch"] for record in folder.journal()] == list(range(12)) for folder in folders)

    unshared = sweep.trials[-1].trial
    alone = TrialFolder.of(tmp_path / "alone", unshared)
    for _ in run_trial(unshared, alone):
        pass
    shared = store.folder(fingerprint(unshared))
    assert "trained_by" in shared.journal()[0]
    assert {"best", "last"} <= set(shared.weight_names()), "what a finished trial keeps"
    for name in shared.weight_names():
        ours, theirs = shared.weights(name), alone.weights(name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name

    more = twelve("epochs=12", "grid.method.mining.weight.parameter=[-1, 1, 2, 3]")
    added = plan(more, store.path)
    assert added.epochs == {"left": 4 * 7, "unshared": 4 * 12}, "the beginning is kept for settings to come"
