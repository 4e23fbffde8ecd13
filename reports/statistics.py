"""Mean and interval of a cell: ham_core/statistics.py's, with what is printed beside them.

    n >= 2 seeds    m ± t_{n-1, (1+γ)/2} · s / √n,  s the sample standard deviation (n - 1 below the root)
    n = 1 seed      Wilson's score interval of the one proportion over its test images
                    of a worst class: a simultaneous interval for the true minimum over classes, ham_core/statistics.py

γ = 0.95. The first says how far another set of seeds may lie; the second knows nothing of seeds, only that the test set is
finite, so the two are marked apart wherever they are printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ham_core.statistics import LEVEL, PerClass, over_seeds, worst_interval
from ham_core.statistics import wilson as proportion

__all__ = ["LEVEL", "Estimate", "paired_p", "student_t", "wilson"]


@dataclass(frozen=True)
class Estimate:
    """Mean over n values and its interval; low = high = None where there is none."""

    mean: float
    low: float | None
    high: float | None
    n: int
    kind: Literal["t", "wilson", "worst", "none"]

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def scaled(self, factor: float) -> Estimate:
        """In another unit, for example percent."""
        low = None if self.low is None else self.low * factor
        high = None if self.high is None else self.high * factor
        return Estimate(self.mean * factor, low, high, self.n, self.kind)


def student_t(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean of n values with its t interval; without an interval for n = 1."""
    found = over_seeds(values, level)
    if found.n == 1:
        return Estimate(found.estimate, None, None, 1, "none")
    return Estimate(found.estimate, found.low, found.high, found.n, "t")


def wilson(share: float, images: int, level: float = LEVEL) -> Estimate:
    """One proportion of `images` test images, Wilson's score interval. `share` · `images` is a count up to rounding."""
    found = proportion(round(share * images), images, level)
    return Estimate(share, found.low, found.high, 1, "wilson")


def worst(shares: Sequence[float], images: Sequence[int], level: float = LEVEL) -> Estimate:
    """The smallest of several classes' proportions with a simultaneous interval for the true minimum."""
    import numpy as np

    counts, rates = np.asarray(images), np.asarray(shares, dtype=float)
    found = worst_interval(PerClass(counts, np.round(rates * counts).astype(int), rates), level)
    return Estimate(min(shares), found.low, found.high, 1, "worst")


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p of the paired t test, t = d̄ √n / s_d with n - 1 degrees of freedom, n >= 2; it is below 1 - γ exactly where
    `student_t`'s interval leaves 0 out. Differences that are all the same have no spread: p is 1 where they are 0, else 0."""
    from scipy.stats import ttest_1samp

    if len(set(differences)) == 1:
        return 1.0 if differences[0] == 0 else 0.0
    return float(ttest_1samp(differences, 0.0).pvalue)
