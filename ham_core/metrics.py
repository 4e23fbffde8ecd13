"""From per-image correctness to every class-wise number, and THE names of all metrics.

Notation: N images, C classes, label (N,) in {0..C-1}, correct (N,) bool; a_c = share of correct images of class c.

    avg      = (1/N) Σ_i correct_i        over images, so classes count by their size
    worst    = min_c a_c
    worst20  = mean of the ⌈C/5⌉ smallest a_c   (CFA, Tiny-ImageNet table)
    std      = sqrt( (1/C) Σ_c (a_c - ā)² )     population form, ā = (1/C) Σ_c a_c
    gap      = max_c a_c - min_c a_c

Accuracies are fractions in [0, 1]. A class without images has no accuracy and takes no part.
Names are `<weights>/<attack>/<statistic>`, for example `best/pgd20/worst` or `last_ema/clean/03_cat`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

STATISTICS = ("avg", "worst", "worst20", "std", "gap")
SIZE_BINS = 20  # of adversarial step sizes, `train/step_size/share_07`
LARGEST_SIZE = 2.0  # of ‖p - p'‖_1


def class_key(index: int, classes: Sequence[str]) -> str:
    """`03_cat`: sorts by class, keeps the name readable, and holds only characters that MLflow takes."""
    width = max(2, len(str(len(classes) - 1)))
    return f"{index:0{width}d}_{re.sub(r'[^A-Za-z0-9_.-]', '_', classes[index])}"


def class_keys(classes: Sequence[str]) -> list[str]:
    """`class_key` of every class, in order."""
    return [class_key(index, classes) for index in range(len(classes))]


def size_edges() -> list[float]:
    """Edges of the bins of step sizes, 2 (j/20)²: fine where most are, as a single step moves a prediction little."""
    return [LARGEST_SIZE * (index / SIZE_BINS) ** 2 for index in range(SIZE_BINS + 1)]


def metric_name(weights: str, attack: str, statistic: str) -> str:
    """`best/pgd20/worst`."""
    return f"{weights}/{attack}/{statistic}"


def class_shares(labels: np.ndarray, flags: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Per class: (share of images whose flag is set, number of images). The share of an empty class is NaN."""
    import numpy as np

    counts = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels, weights=flags.astype(np.float64), minlength=classes)
    return np.divide(hits, counts, out=np.full(classes, math.nan), where=counts > 0), counts


def summarize(labels: np.ndarray, correct: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """All statistics of one attack: {avg, worst, worst20, std, gap, 00_first_class, ...}."""
    import numpy as np

    shares, counts = class_shares(labels, correct, len(classes))
    seen = np.sort(shares[counts > 0])
    if not len(seen):
        return {}
    few = math.ceil(len(seen) / 5)
    result = {
        "avg": float(np.mean(correct.astype(np.float64))),
        "worst": float(seen[0]),
        "worst20": float(np.mean(seen[:few])),
        "std": float(np.std(seen)),
        "gap": float(seen[-1] - seen[0]),
    }
    return result | {
        key: float(share) for key, share, n in zip(class_keys(classes), shares, counts, strict=True) if n
    }


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) counts: row = true class, column = predicted class."""
    import numpy as np

    return np.bincount(labels * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def under_all(label: np.ndarray, *predictions: np.ndarray) -> np.ndarray:
    """(N,) bool: right under every one of these attacks, their union. Each (N,), of the same images in the same order."""
    import numpy as np

    return np.logical_and.reduce([prediction == label for prediction in predictions])
