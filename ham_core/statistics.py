"""Class-wise statistics of per-image results: the public way to ask "which class, how sure, and is it a difference?".

Notation: N images, C classes, label (N,) in {0..C-1}, correct (N,) bool; n_c images and h_c correct ones of class c,
a_c = h_c / n_c. A class without images has no rate (NaN) and takes no part.

    worst(k)    mean of the ⌈k C⌉ smallest a_c;  k → 0: the worst class alone
    std         sqrt( (1/C) Σ_c (a_c - ā)² ),  ā = (1/C) Σ_c a_c        gap = max_c a_c - min_c a_c
    Wilson      the score interval of one rate h/n        (Wilson, JASA 1927)
    bootstrap   percentiles of a statistic over images drawn again, with replacement, n_c of each class: then h*_c is
                binomial (n_c, a_c), so no image is drawn     (Efron and Tibshirani 1993, ch. 13)
    bias        E[ min_c â_c ] - min_c a_c  for â_c binomial with rate a_c: the worst class of a finite test set looks worse
                than it is; P(min > t) = Π_c P(â_c > t), so the expectation is a finite sum and exact
    true worst  [min_c l_c, min_c u_c], an interval for min_c a_c itself, not for the class that looks worst: Clopper-Pearson's
                l_c at level 1 - α/2 (to lie above min a, l of the true worst class must lie above its rate) and u_c at
                (1 - α/2)^{1/C} (to lie below min a, any of C independent ones must), so together at least γ = 1 - α, ties
                included. Wilson's interval of the class that looks worst covers 79 % for ten equal classes of 1,000 images
    McNemar     of two models on the same images, b right only under the first, c only under the second: under "equally good"
                b is binomial (b + c, 1/2); exact and two-sided      (McNemar, Psychometrika 1947)
    seeds       m ± t_{n-1,(1+γ)/2} s / √n

Rates are fractions in [0, 1]. The metrics that are stored with every evaluation are those of ham_core/metrics.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from ham_core.metrics import class_shares

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.95
RESAMPLES = 10_000

Statistic = Callable[["np.ndarray"], "np.ndarray"]  # rates (..., C) -> (...), as `worst`, `std` and `gap` are


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval; low = high = NaN where n is too small for one."""

    estimate: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half the width."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class PerClass:
    """Counts and rates of every class, each (C,)."""

    images: np.ndarray
    hits: np.ndarray
    rates: np.ndarray

    @property
    def avg(self) -> float:
        """Σ_c h_c / Σ_c n_c: over images, so classes count by their size. NaN without images."""
        images = int(self.images.sum())
        return int(self.hits.sum()) / images if images else math.nan


def per_class(label: np.ndarray, correct: np.ndarray, classes: int) -> PerClass:
    """label (N,), correct (N,) bool or 0 and 1 -> counts and rates of each class. ValueError: they do not fit each other."""
    import numpy as np

    label, correct = _results(classes, label, correct)
    rates, images = class_shares(label, correct, classes)
    return PerClass(images, np.bincount(label[correct], minlength=classes), rates)


def _results(classes: int, label: np.ndarray, *correct: np.ndarray) -> list[np.ndarray]:
    """The labels, and each model's results as bool: 0 and 1 would choose images 0 and 1. ValueError as of `per_class`."""
    import numpy as np

    label = np.asarray(label)
    if any(len(one) != len(label) for one in correct):
        found = " and ".join(str(len(one)) for one in correct)
        raise ValueError(f"{len(label)} labels, {found} results; one of each per image")
    if len(label) and not 0 <= label.min() <= label.max() < classes:
        raise ValueError(f"labels from {label.min()} to {label.max()}; {classes} classes are numbered from 0")
    return [label.astype(np.int64), *(np.asarray(one, dtype=bool) for one in correct)]


# over classes: rates (..., C) -> (...) ---------------------------------------------------------------------------------


def worst(rates: np.ndarray, share: float = 0.0) -> np.ndarray:
    """Mean of the ⌈share · C⌉ smallest rates, at least one: 0 the worst class, 0.2 the worst fifth, 1 the plain mean."""
    import numpy as np

    ordered = np.sort(_known(rates), axis=-1)
    # 0.2 · 15 is a little above 3 in floating point, and the worst fifth of 15 classes are 3.
    few = max(1, math.ceil(round(share * ordered.shape[-1], 9)))
    return ordered[..., :few].mean(-1)


def std(rates: np.ndarray) -> np.ndarray:
    """Standard deviation over classes, population form."""
    return _known(rates).std(-1)


def gap(rates: np.ndarray) -> np.ndarray:
    """Best class minus worst class."""
    known = _known(rates)
    return known.max(-1) - known.min(-1)


def _known(rates: np.ndarray) -> np.ndarray:
    """Without the classes that have no images; one NaN where none has any."""
    import numpy as np

    known = ~np.isnan(rates).reshape(-1, rates.shape[-1]).any(0)
    return rates[..., known] if known.any() else rates[..., :1]


# how sure --------------------------------------------------------------------------------------------------------------


def wilson(hits: int, images: int, level: float = LEVEL) -> Interval:
    """One rate h/n; NaN for n = 0. ValueError: more hits than images, or fewer than none."""
    from statsmodels.stats.proportion import proportion_confint

    if not 0 <= hits <= images:
        raise ValueError(f"{hits} of {images} images are no share")
    if images == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    low, high = proportion_confint(hits, images, alpha=1 - level, method="wilson")
    rate = hits / images  # 10 of 10 end at 0.9999999999999999 there, by rounding
    return Interval(rate, min(float(low), rate), max(float(high), rate), images)


def wilson_low(hits: np.ndarray, images: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """The lower ends of the intervals of several rates, each (C,); every class has images."""
    import numpy as np
    from statsmodels.stats.proportion import proportion_confint

    return np.asarray(proportion_confint(hits, images, alpha=1 - level, method="wilson")[0])


def worst_interval(counts: PerClass, level: float = LEVEL) -> Interval:
    """The smallest rate, with a simultaneous interval for the true minimum over classes; n: images of that class."""
    import numpy as np
    from statsmodels.stats.proportion import proportion_confint

    kept = counts.images > 0
    if not kept.any():
        return Interval(math.nan, math.nan, math.nan, 0)
    hits, images = counts.hits[kept], counts.images[kept]
    tail = (1 - level) / 2
    each = 1 - (1 - tail) ** (1 / len(hits))  # Šidák: all C upper ends hold together at level 1 - tail
    low = proportion_confint(hits, images, alpha=2 * tail, method="beta")[0]
    high = proportion_confint(hits, images, alpha=2 * each, method="beta")[1]
    seen = int(np.argmin(hits / images))
    return Interval(
        float(hits[seen] / images[seen]), float(np.min(low)), float(np.min(high)), int(images[seen])
    )


def bootstrap(
    counts: PerClass,
    statistic: Statistic,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The percentile interval of a statistic over classes, for example `worst` or `lambda rates: worst(rates, 0.2)`.

    For the worst class it is biased downwards as the estimate is; see `bias_of_worst`.
    """
    import numpy as np

    kept = counts.images > 0
    if not kept.any():
        return Interval(math.nan, math.nan, math.nan, 0)
    images, rates = counts.images[kept], counts.rates[kept]
    drawn = np.random.default_rng(seed).binomial(images, rates, size=(resamples, len(rates))) / images
    low, high = np.quantile(statistic(drawn), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(rates)), float(low), float(high), int(images.sum()))


def bias_of_worst(counts: PerClass) -> float:
    """E[min_c â_c] - min_c a_c if the rates seen were the true ones, at most 0. Subtract it for the bootstrap's correction.

    E[min] = Σ_j (v_j - v_{j-1}) Π_c P(â_c ≥ v_j) over the values 0 = v_0 < v_1 < ... that any â_c can take.
    """
    import numpy as np
    from scipy.stats import binom

    kept = counts.images > 0
    if not kept.any():
        return math.nan
    images, rates = counts.images[kept], counts.rates[kept]
    values = np.unique(np.concatenate([np.arange(n + 1) / n for n in np.unique(images)]))
    # â_c ≥ v means at least ⌈v n_c⌉ hits; the rounding undoes that of k / n · n.
    least = np.ceil(np.round(values[1:, None] * images, 9))
    all_reach = binom.sf(least - 1, images, rates).prod(1)
    return float((np.diff(values) * all_reach).sum() - rates.min())


# is it a difference ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    """Two models on the same images of one class: right only under the first, only under the second, and the p-values.

    `adjusted` holds for all classes together (Holm, Scandinavian J. of Statistics 1979).
    """

    images: int
    only_first: int
    only_second: int
    p: float
    adjusted: float


def mcnemar(label: np.ndarray, first: np.ndarray, second: np.ndarray, classes: int) -> list[Paired]:
    """Per class: label (N,), first and second (N,) bool, whether each model is right on the same images in the same order.

    A class without images has p = 1 and is none of those that Holm's correction counts.
    """
    import numpy as np
    from statsmodels.stats.contingency_tables import mcnemar as exact
    from statsmodels.stats.multitest import multipletests

    label, first, second = _results(classes, label, first, second)
    images, only_first, only_second = (
        np.bincount(label[chosen], minlength=classes)
        for chosen in (np.ones(len(label), bool), first & ~second, second & ~first)
    )
    p = [
        float(exact([[0, b], [c, 0]], exact=True).pvalue) if b + c else 1.0
        for b, c in zip(only_first, only_second, strict=True)
    ]
    adjusted = np.ones(classes)
    if images.any():
        adjusted[images > 0] = multipletests(np.array(p)[images > 0], method="holm")[1]
    return [
        Paired(int(n), int(b), int(c), value, float(holm))
        for n, b, c, value, holm in zip(images, only_first, only_second, p, adjusted, strict=True)
    ]


def over_seeds(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Mean of n seeds and its t interval."""
    n = len(values)
    if n == 0:
        raise ValueError("no values")
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = _student(level, n - 1) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


@cache
def _student(level: float, freedom: int) -> float:
    """t_{freedom, (1+level)/2}; a report asks for the same few thousands of times.

    By what scipy.stats.t.ppf itself calls, without the second that importing scipy.stats takes.
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))
