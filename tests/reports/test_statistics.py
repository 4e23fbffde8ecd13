"""Mean and interval of a cell against hand computation and statsmodels."""

import math

import pytest
from statsmodels.stats.proportion import proportion_confint

from reports.statistics import student_t, wilson


def test_three_values_give_the_hand_computed_mean_and_t_interval():
    """1, 2, 3: s = 1; t(2) has the closed quantile (2p - 1) sqrt(2 / (4p(1 - p))) = 0.95 sqrt(2 / 0.0975) = 4.302653."""
    estimate = student_t([1.0, 2.0, 3.0])
    assert estimate.mean == 2.0
    assert estimate.half == pytest.approx(0.95 * math.sqrt(2 / 0.0975) / math.sqrt(3), abs=1e-9)
    assert (estimate.n, estimate.kind) == (3, "t")


def test_two_values_use_the_cauchy_quantile():
    """n = 2: t(1, 0.975) = tan(0.475 π) = 12.7062; s/√2 = |a - b| / 2."""
    assert student_t([0.4, 0.5]).half == pytest.approx(math.tan(0.475 * math.pi) * 0.05, abs=1e-9)


def test_one_value_has_no_interval_over_seeds():
    assert student_t([0.5]).low is None


def test_equal_values_have_an_interval_of_width_zero():
    assert student_t([0.25, 0.25, 0.25]).half == 0


def test_no_values_are_an_error():
    with pytest.raises(ValueError, match="no values"):
        student_t([])


@pytest.mark.parametrize(("hits", "images"), [(0, 100), (26, 100), (100, 100), (263, 1000)])
def test_wilson_equals_statsmodels(hits: int, images: int):
    low, high = proportion_confint(hits, images, alpha=0.05, method="wilson")
    estimate = wilson(hits / images, images)
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))
    assert (estimate.n, estimate.kind) == (1, "wilson")


def test_wilson_equals_its_closed_form():
    """(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)."""
    p, n, z = 0.3, 50, 1.959963984540054
    centre, root = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    estimate = wilson(p, n)
    assert estimate.low == pytest.approx((centre - root) / (1 + z * z / n), abs=1e-12)
    assert estimate.high == pytest.approx((centre + root) / (1 + z * z / n), abs=1e-12)
