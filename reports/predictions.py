"""Per-image predictions of a trial, read from the trial store: what was predicted of each test image, and how confidently.

The tracking database holds class-wise numbers; what needs single images (confusion, confidence) reads them here. An evaluation
counts only if its average is the run's, so that a figure never shows other predictions than the table beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from reports.collect import Trial

SAME = 1e-9  # two averages that are this close are the same number


@dataclass(frozen=True)
class Predictions:
    """One attack on one set of weights. Arrays are of the same N test images in the same order."""

    classes: tuple[str, ...]
    label: np.ndarray  # (N,) true class
    clean: np.ndarray  # (N,) class predicted on the clean image
    prediction: np.ndarray  # (N,) class predicted under the attack
    clean_confidence: np.ndarray  # (N,) p_y on the clean image
    confidence: np.ndarray  # (N,) p_y on the last attacked image
    clean_top: np.ndarray | None = (
        None  # (N,) max_c p_c on the clean image; None in evaluations of earlier versions
    )
    top: np.ndarray | None = None  # (N,) max_c p_c on the last attacked image


def stored_predictions(store: Path, trial: Trial, weights: str, attack: str) -> Predictions | None:
    """Of a finished trial, with those weights (`best`), under that attack (`pgd20`); None where the store has none.

    RequestError: the evaluation is damaged.
    """
    from ham_core.folder import TrialFolder

    average = trial.metric(f"{weights}/{attack}/avg")
    folder = TrialFolder.of(store, trial.fingerprint)
    if average is None or not folder.path.is_dir():
        return None
    for record in folder.evaluations(skip_damaged=True):
        named = (record.get("weights"), record.get("attack_name")) == (weights, attack)
        own = record.get("metrics", {}).get(f"{weights}/{attack}/avg")
        if named and own is not None and math.isclose(own, average, abs_tol=SAME):
            return _of(folder.predictions(record["fingerprint"]), record)
    return None


def _of(arrays: dict[str, Any], record: dict[str, Any]) -> Predictions:
    return Predictions(
        tuple(record["classes"]),
        arrays["label"],
        arrays["clean"],
        arrays["prediction"],
        arrays["clean_confidence"],
        arrays["confidence"],
        arrays.get("clean_top"),
        arrays.get("top"),
    )
