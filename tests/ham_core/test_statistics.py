"""Class-wise statistics against values worked out by hand, and against simulation where they are expectations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from ham_core.metrics import summarize
from ham_core.statistics import (
    Interval,
    PerClass,
    bias_of_worst,
    bootstrap,
    gap,
    mcnemar,
    over_seeds,
    per_class,
    std,
    wilson,
    worst,
    worst_interval,
)

LABEL = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
CORRECT = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 1], dtype=bool)


def counted(*hits_of: tuple[int, int]):
    """Classes by (hits, images)."""
    label = np.concatenate([np.full(n, c) for c, (_, n) in enumerate(hits_of)])
    correct = np.concatenate([np.arange(n) < hits for hits, n in hits_of])
    return per_class(label, correct, len(hits_of))


def test_counts_and_rates_of_every_class():
    found = per_class(LABEL, CORRECT, 4)
    assert found.images.tolist() == [4, 2, 4, 0] and found.hits.tolist() == [3, 1, 1, 0]
    assert found.rates[:3].tolist() == [0.75, 0.5, 0.25] and math.isnan(found.rates[3])
    assert found.avg == 0.5


def test_the_worst_share_of_classes_is_the_mean_of_the_smallest_rates():
    """Of 0.1, 0.2, ..., 1.0: the worst class 0.1; the worst 20 % (0.1 + 0.2) / 2; 21 % are three classes, 0.2; all 0.55."""
    rates = np.arange(10, 0, -1) / 10
    assert worst(rates) == 0.1
    assert worst(rates, 0.2) == pytest.approx(0.15)
    assert worst(rates, 0.21) == pytest.approx(0.2)
    assert worst(rates, 1.0) == pytest.approx(0.55)
    fifteen = np.arange(1, 16) / 15
    assert worst(fifteen, 0.2) == pytest.approx(
        2 / 15
    )  # three classes, though 0.2 · 15 > 3 in floating point


def test_standard_deviation_and_gap_over_classes():
    """0.75, 0.5, 0.25: mean 0.5, squares 0.0625, 0, 0.0625 over three; gap 0.5."""
    rates = np.array([0.75, 0.5, 0.25])
    assert std(rates) == pytest.approx(math.sqrt(0.125 / 3), abs=1e-12) and gap(rates) == 0.5


def test_a_class_without_images_takes_no_part():
    rates = np.array([0.75, np.nan, 0.5, 0.25])
    assert worst(rates) == 0.25 and gap(rates) == 0.5 and std(rates) == std(np.array([0.75, 0.5, 0.25]))


def test_they_are_those_of_the_stored_metrics_and_work_on_many_rows_at_once():
    stored = summarize(LABEL, CORRECT, ["a", "b", "c"])
    rates = per_class(LABEL, CORRECT, 3).rates
    assert (stored["worst"], stored["std"], stored["gap"]) == (worst(rates), std(rates), gap(rates))
    assert stored["worst20"] == worst(rates, 0.2)
    rows = np.stack([rates, rates[::-1], 1 - rates])
    for statistic in (worst, std, gap):
        assert statistic(rows).tolist() == [statistic(row) for row in rows]


def test_wilson_interval_of_a_worked_example():
    """h = 8 of n = 10, z = 1.959964: (h + z²/2 ± z √(h(n-h)/n + z²/4)) / (n + z²) = 0.4901625, 0.9433178."""
    found = wilson(8, 10)
    assert (found.estimate, found.n) == (0.8, 10)
    z = 1.959963984540054
    middle, spread = (8 + z * z / 2) / (10 + z * z), z * math.sqrt(8 * 2 / 10 + z * z / 4) / (10 + z * z)
    assert found.low == pytest.approx(middle - spread, abs=1e-9) == pytest.approx(0.4901625, abs=1e-6)
    assert found.high == pytest.approx(middle + spread, abs=1e-9) == pytest.approx(0.9433178, abs=1e-6)
    assert found.half == pytest.approx(spread)
    assert wilson(8, 10, 0.99).half > found.half
    assert math.isnan(wilson(0, 0).low) and wilson(0, 0).n == 0


@pytest.mark.parametrize("images", [1, 2, 3, 10, 37, 1000])
def test_wilson_is_scipys_and_holds_its_rate_also_where_nothing_or_everything_is_right(images):
    for hits in {0, 1, images // 2, images}:
        found, theirs = wilson(hits, images), binomtest(hits, images).proportion_ci(0.95, "wilson")
        assert [found.low, found.high] == pytest.approx([theirs.low, theirs.high], abs=1e-9)
        assert 0 <= found.low <= found.estimate <= found.high <= 1
    assert wilson(0, images).low == 0 and wilson(images, images).high == 1


def test_results_of_0_and_1_are_results_and_no_positions():
    label, first, second = np.array([0, 1, 1]), np.array([1, 0, 0]), np.array([0, 1, 0])
    assert per_class(label, first, 2).hits.tolist() == [1, 0]
    assert per_class([0, 1, 1], [True, False, True], 2).rates.tolist() == [1, 0.5]
    found = [(one.only_first, one.only_second) for one in mcnemar(label, first, second, 2)]
    assert found == [(1, 0), (0, 1)]


def test_more_hits_than_images_are_refused():
    for hits in (3, -1):
        with pytest.raises(ValueError, match=f"{hits} of 2 images are no share"):
            wilson(hits, 2)


def test_labels_outside_the_classes_are_refused():
    for label in ([0, 2], [-1, 0]):
        with pytest.raises(ValueError, match=r"labels from -?\d to \d; 2 classes are numbered from 0"):
            per_class(np.array(label), np.array([True, True]), 2)


@pytest.mark.filterwarnings("error")
def test_without_any_image_there_is_no_number_and_no_warning():
    nothing = np.array([], dtype=bool)
    counts = per_class(np.array([], dtype=int), nothing, 3)
    assert math.isnan(counts.avg) and math.isnan(bootstrap(counts, worst).low)
    assert math.isnan(bias_of_worst(counts))
    assert all(math.isnan(statistic(counts.rates)) for statistic in (worst, std, gap))
    assert [one.adjusted for one in mcnemar(np.array([], dtype=int), nothing, nothing, 3)] == [1, 1, 1]


def test_bootstrap_of_one_class_is_the_binomial_interval():
    """One class of 100 with 60 right: the percentiles of a binomial(100, 0.6), which are 52 and 68 at 90 %."""
    from scipy.stats import binom

    for level, ends in ((0.9, [52, 68]), (0.5, [57, 63])):
        found = bootstrap(counted((60, 100)), worst, level=level)
        assert found.estimate == 0.6 and found.n == 100
        assert binom.ppf([(1 - level) / 2, (1 + level) / 2], 100, 0.6).tolist() == ends
        assert [found.low, found.high] == pytest.approx([end / 100 for end in ends])


def test_bootstrap_equals_that_over_drawn_images():
    """Images drawn one by one, within their class, give the same interval of the gap, up to chance."""
    counts = counted((45, 50), (20, 40), (5, 10), (0, 0))
    found = bootstrap(counts, gap)
    generator = np.random.default_rng(1)
    classes = [np.arange(n) < h for h, n in ((45, 50), (20, 40), (5, 10))]
    drawn = [gap(np.array([generator.choice(one, len(one)).mean() for one in classes])) for _ in range(3000)]
    np.testing.assert_allclose([found.low, found.high], np.quantile(drawn, [0.025, 0.975]), atol=0.025)
    assert found.estimate == pytest.approx(0.4) and found.n == 100
    assert bootstrap(counts, gap) == found != bootstrap(counts, gap, seed=1)
    few = bootstrap(counts, gap, resamples=10)
    assert few.low != found.low


def test_the_bias_of_a_worst_class_worked_out_by_hand():
    """Two classes of n = 2 images each, one right: â is 0, 1/2, 1 with 1/4, 1/2, 1/4.

    P(min ≥ 1/2) = (3/4)² = 9/16, P(min ≥ 1) = 1/16, so E[min] = (9/16 + 1/16) / 2 = 5/16 and the bias is 5/16 - 8/16.
    """
    assert bias_of_worst(counted((1, 2), (1, 2))) == pytest.approx(-3 / 16, abs=1e-12)
    assert bias_of_worst(counted((1, 2), (1, 2), (0, 0))) == pytest.approx(-3 / 16, abs=1e-12)


def test_a_single_class_and_a_certain_one_have_no_bias():
    assert bias_of_worst(counted((30, 100))) == pytest.approx(0, abs=1e-12)
    assert bias_of_worst(counted((0, 10), (10, 10))) == pytest.approx(0, abs=1e-12)
    assert bias_of_worst(counted((1, 2), (1, 2), (0, 1))) == pytest.approx(
        0, abs=1e-12
    )  # one image counts, too


def test_the_bias_of_unequal_classes_is_that_of_a_simulation():
    counts = counted((15, 30), (20, 37), (6, 11), (50, 90))
    drawn = np.random.default_rng(0).binomial(counts.images, counts.rates, (200_000, 4)) / counts.images
    assert bias_of_worst(counts) == pytest.approx(drawn.min(1).mean() - counts.rates.min(), abs=5e-4)
    assert bias_of_worst(counts) < -0.03


def test_mcnemar_counts_the_images_on_which_two_models_differ():
    """Class 0: right only under the first 6, only under the second 1: p = 2 (C(7,0) + C(7,1)) / 2⁷ = 16/128.

    Class 1: 1 and 1: p = 1. Class 2: no difference: p = 1. Holm: 3 · 0.125, then at least that.
    """
    label = np.repeat([0, 1, 2], [10, 4, 3])
    first = np.array([1] * 6 + [0] + [1, 1, 0] + [1, 0, 1, 0] + [1, 0, 1], dtype=bool)
    second = np.array([0] * 6 + [1] + [1, 1, 0] + [0, 1, 1, 0] + [1, 0, 1], dtype=bool)
    found = mcnemar(label, first, second, 3)
    assert [(one.images, one.only_first, one.only_second) for one in found] == [
        (10, 6, 1),
        (4, 1, 1),
        (3, 0, 0),
    ]
    assert [one.p for one in found] == pytest.approx([0.125, 1, 1], abs=1e-12)
    assert [one.adjusted for one in found] == pytest.approx([0.375, 1, 1], abs=1e-12)
    swapped = mcnemar(label, second, first, 3)
    assert [one.p for one in swapped] == [one.p for one in found] and swapped[0].only_second == 6


def test_mcnemar_is_the_binomial_test_and_a_class_without_images_takes_no_part():
    """Classes of 1, 5 and 20 images, right under the first alone: p = 1, 2/2⁵, 2/2²⁰. Holm counts three classes, not four."""
    label, right = np.repeat([0, 1, 3], [1, 5, 20]), np.ones(26, bool)
    found = mcnemar(label, right, ~right, 4)
    assert [one.p for one in found] == [
        pytest.approx(binomtest(n, n).pvalue if n else 1.0, rel=1e-12) for n in (1, 5, 0, 20)
    ]
    assert [one.adjusted for one in found] == pytest.approx([1, 2 * 0.0625, 1, 3 * 2 / 2**20], rel=1e-12)


def test_mcnemar_refuses_results_of_different_images():
    with pytest.raises(ValueError, match="3 labels, 2 and 3 results"):
        mcnemar(np.zeros(3, int), np.ones(2, bool), np.ones(3, bool), 1)


def test_mean_and_t_interval_over_seeds():
    """1, 2, 3: mean 2, s = 1, t_{2, 0.975} = 4.302653, so ± 4.302653 / √3 = 2.484138."""
    found = over_seeds([1.0, 2.0, 3.0])
    assert (found.estimate, found.n) == (2.0, 3)
    assert found.half == pytest.approx(2.484138, abs=1e-6)
    assert found.high - found.estimate == pytest.approx(found.estimate - found.low)
    assert over_seeds([1.0, 2.0, 3.0], 0.5).half == pytest.approx(0.8164966 / math.sqrt(3), abs=1e-6)


def test_one_seed_has_no_interval_and_none_no_mean():
    one = over_seeds([0.4])
    assert one.estimate == 0.4 and one.n == 1 and math.isnan(one.low) and math.isnan(one.high)
    with pytest.raises(ValueError, match="no values"):
        over_seeds([])
    assert Interval(0.5, 0.4, 0.7, 3).half == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("rates", "images"),
    [
        pytest.param([0.3] * 10, 1000, id="ten equal classes"),
        pytest.param([0.05] * 10, 200, id="few right"),
        pytest.param([0.2, 0.2] + [0.5] * 8, 1000, id="two tied"),
        pytest.param([0.2] + [0.6] * 9, 1000, id="one alone"),
        pytest.param([0.9] * 5 + [1.0] * 5, 50, id="nearly all right"),
        pytest.param([0.1] * 100, 100, id="a hundred classes"),
        pytest.param([0.3, 0.31, 0.32, 0.35], [1700, 500, 90, 300], id="unbalanced"),
    ],
)
def test_the_interval_of_the_worst_class_covers_the_true_minimum(rates, images):
    """At least 94 % of 1,500 drawn test sets; Wilson's of the class that looks worst does not where classes are equal."""
    truth = np.array(rates)
    counts = np.broadcast_to(images, truth.shape)
    random = np.random.default_rng(5)
    covered = alone = 0
    for _ in range(1500):
        hits = random.binomial(counts, truth)
        found = worst_interval(PerClass(counts, hits, hits / counts))
        covered += found.low <= truth.min() <= found.high
        seen = int(np.argmin(hits / counts))
        wilsons = wilson(int(hits[seen]), int(counts[seen]))
        alone += wilsons.low <= truth.min() <= wilsons.high
    assert covered >= 0.94 * 1500
    if rates == [0.3] * 10:
        assert alone < 0.85 * 1500


def test_the_interval_of_the_worst_class_is_clopper_pearsons_for_one_class_and_wider_for_more():
    from scipy.stats import beta

    one = worst_interval(PerClass(np.array([100]), np.array([26]), np.array([0.26])))
    assert (one.estimate, one.n) == (0.26, 100)
    assert one.low == pytest.approx(beta.ppf(0.025, 26, 75)) and one.high == pytest.approx(
        beta.ppf(0.975, 27, 74)
    )
    two = worst_interval(PerClass(np.array([100, 100]), np.array([26, 90]), np.array([0.26, 0.9])))
    assert two.low == one.low and two.high == pytest.approx(beta.ppf(0.975**0.5, 27, 74))
    none = worst_interval(PerClass(np.array([0]), np.array([0]), np.array([math.nan])))
    assert math.isnan(none.estimate) and none.n == 0
    empty = worst_interval(PerClass(np.array([100, 0]), np.array([26, 0]), np.array([0.26, math.nan])))
    assert empty == one
