"""Stores of many finished trials without days of training: one trial is trained, the others get its results.

The first trial of a sweep is trained and evaluated for real. Every other one gets a folder written by the same code, with
its own settings and fingerprints and the first one's epochs, weights and predictions; large files are links to the first
one's. What planning and the record look at is thus what a sweep leaves behind; the numbers in it mean nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from unittest import mock

from ham_core.folder import TrialFolder
from ham_core.protocol import Evaluation, identity_of_evaluation
from orchestration.sweep import Planned, Sweep

# A trial on digits that trains in seconds. POINTS learning rates for each method, SEEDS seeds.
SWEEP = """\
trial:
  data: {{name: digits, train_limit: 200, test_limit: 60}}
  model: {{name: small_cnn, width: 0.25}}
  epsilon: 0.2
  attack: {{steps: 4, mode: eval}}
  epochs: {epochs}
  batch_size: 64
  selection.steps: 2
grid:
  many:
    method: [at, trades, ham-official, ham-paper]
    optimizer.lr: {rates}
seeds: {seeds}
evaluate: [clean, pgd2]
"""
METHODS = 4


def write_sweep(path: Path, trials: int, *, seeds: int = 5, epochs: int = 12) -> Path:
    """A sweep of so many trials; a multiple of 4 methods times `seeds`."""
    rates = [round(0.001 * (index + 1), 3) for index in range(trials // (METHODS * seeds))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        SWEEP.format(epochs=epochs, rates=rates, seeds=list(range(seeds))),
        encoding="utf-8",
    )
    return path


def finish(sweep: Sweep, store: str | Path, *, missing: Collection[str] = ()) -> None:
    """Make every trial of the sweep a finished one, but for the fingerprints in `missing`. The first is trained."""
    from ham_core.run import run_trial

    first, *others = sweep.trials
    model = TrialFolder.of(store, first.fingerprint)
    list(run_trial(first.trial, model, first.evaluations, device="cpu"))
    results = {
        (record["weights"], record["attack_name"]): (record, model.predictions(record["fingerprint"]))
        for record in model.evaluations()
    }
    with _without_fsync():
        for planned in others:
            if planned.fingerprint in missing:
                continue
            folder = TrialFolder.of(store, planned.fingerprint)
            _copy(model, folder, planned)
            for evaluation in planned.evaluations:
                record, arrays = results[evaluation.weights, evaluation.attack.key]
                identity = _identity(planned, evaluation)
                mine = {**record, "fingerprint": identity, "trial": planned.fingerprint}
                folder.save_evaluation(identity, mine, arrays)


def _identity(planned: Planned, evaluation: Evaluation) -> str:
    return identity_of_evaluation(planned.fingerprint, planned.trial, evaluation)


def _copy(model: TrialFolder, folder: TrialFolder, planned: Planned) -> None:
    """Settings of its own, everything else as the model has it."""
    folder.create(planned.trial)
    (folder.path / "weights").mkdir(exist_ok=True)
    for source in [*model.path.glob("*.pt"), *model.path.glob("weights/*.pt")]:
        os.link(source, folder.path / source.relative_to(model.path))
    for name in ("journal.jsonl", "done.json", "lock"):
        shutil.copyfile(model.path / name, folder.path / name)


@contextlib.contextmanager
def _without_fsync() -> Iterator[None]:
    """Such a store may be lost with the power: waiting for the disk 100,000 times would take most of the time."""
    with mock.patch("os.fsync", return_value=None):
        yield
