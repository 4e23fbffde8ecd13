"""How good a trial is by its own journal: what a search climbs and what early stopping compares.

Notation: a trial's selection images have n_c images of class c, of which h_c are right under the selection attack.

    worst   min_c low(h_c, n_c),   low: the lower end of the Wilson interval (ham_core.statistics)
    avg     Σ_c h_c / Σ_c n_c

The lower end, because the worst of C small classes is mostly bad luck: with few images it says less, and claims less. The
test set takes no part unless the trial selects on it (`selection.on: test`), which every report marks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ham_core.config import Trial
from ham_core.metrics import class_keys
from ham_core.protocol import EvaluationAttack

TIE = 1e-6  # of the average: decides where the worst class is equal, as it is at 0 while a training begins


@dataclass(frozen=True)
class Score:
    """Fractions in [0, 1], to be maximised."""

    worst: float
    avg: float

    @property
    def rank(self) -> float:
        """What two trials are compared by: the worst class, and the average where it is equal."""
        return self.worst + TIE * self.avg


def watched_metric(trial: Trial) -> str:
    """The accuracy that is watched while a trial trains: robust, on the selection images."""
    return f"val/{EvaluationAttack(kind='pgd', steps=trial.selection.steps).key}"


def selection_images(trial: Trial) -> dict[str, int]:
    """Class (`03_cat`) -> n_c. Reads the data set."""
    import numpy as np

    from ham_core.training import load_data

    dataset = load_data(trial)
    images = dataset.test if trial.selection.on == "test" else dataset.validation
    counts = np.bincount(images.labels.numpy(), minlength=len(dataset.classes))
    return dict(zip(class_keys(dataset.classes), map(int, counts), strict=True))


def score_of(metrics: Mapping[str, float], watched: str, images: Mapping[str, int]) -> Score:
    """The score of one epoch. `watched`: as `watched_metric` gives it; a class without images takes no part."""
    import numpy as np

    from ham_core.statistics import wilson_low

    present = [key for key, count in images.items() if count and f"{watched}/{key}" in metrics]
    counts = np.array([images[key] for key in present])
    hits = np.rint([metrics[f"{watched}/{key}"] * images[key] for key in present])
    return Score(float(wilson_low(hits, counts).min()), float(metrics[f"{watched}/avg"]))


def selected_score(journal: Sequence[Mapping[str, Any]], watched: str, images: Mapping[str, int]) -> Score:
    """The score at the epoch whose weights are `best`: the highest average, the first of equals. At least one record."""
    best = max(journal, key=lambda record: record["metrics"][f"{watched}/avg"])
    return score_of(best["metrics"], watched, images)
