"""The sweep of the demo really shows what it is for."""

from __future__ import annotations

import pytest

from ham_core.training import Training, load_data
from orchestration.sweep import load_sweep


@pytest.mark.slow
def test_hams_phase_of_the_demo_sees_enough_hard_examples() -> None:
    """At 8/255 these images leave no hard examples after some epochs; the sweep's radius must."""
    sweep = load_sweep("sweeps/digits.yaml", sets=["seeds=0", "grid.methods.method=[ham-official]"])
    (trial,) = [one.trial for one in sweep.trials if one.row == "ham-official"]
    assert trial.epsilon == 0.2
    assert trial.attack.step == 0.05
    start = trial.method.mining.start_epoch
    assert 0 < start < trial.epochs / 2
    metrics = [result.metrics for result in Training(trial, load_data(trial))]
    shares = [one["train/hard_share/all"] for one in metrics[start:]]
    assert len(shares) == trial.epochs - start
    assert min(shares) > 0.1
    assert metrics[-1]["val/clean/avg"] > 0.9
    assert metrics[-1]["val/pgd10/avg"] > 0.5
