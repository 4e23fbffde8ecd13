"""BAT: its four terms by hand, and the two points that it reads off one path."""

from __future__ import annotations

import math

import pytest
import torch

from ham_core.objectives.bat import Bat, from_uniform
from tests.builders import trial
from tests.ham_core.objectives.helpers import equal_when_broken, path, reached, trained, walk

CLEAN = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [0.0, math.log(4.0)]])
ADV = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [math.log(4.0), 0.0]])
LAST_CLEAN = torch.tensor([[math.log(2.0), 0.0], [0.0, 0.0], [0.0, math.log(4.0)]])
LABEL = torch.tensor([0, 0, 1])
MAIN = torch.tensor([math.log(3 / 2), math.log(2), math.log(5 / 4)])
DIVERGENCE = torch.tensor(
    [
        0.5 * math.log(2) + 0.5 * math.log(2 / 3),
        0.75 * math.log(1.5) + 0.25 * math.log(0.5),
        0.6 * math.log(4),
    ]
)
UNIFORM_LAST_CLEAN = torch.tensor(
    [2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3), 0.0, 0.2 * math.log(0.4) + 0.8 * math.log(1.6)]
)
UNIFORM_ADV = torch.tensor(
    [0.25 * math.log(0.5) + 0.75 * math.log(1.5), 0.0, 0.8 * math.log(1.6) + 0.2 * math.log(0.4)]
)


def last_clean(found):
    """Pixels of x_a."""
    points, values = Bat().points(found.kept.x, found.kept.adv, found.kept.marks, lambda x: x)
    assert list(points) == ["last_clean"] and values == {}
    return points["last_clean"].flatten()


def test_bat_is_cross_entropy_divergence_and_two_divergences_from_uniform():
    """p(x_a) = (2/3,1/3), (1/2,1/2), (1/5,4/5), y = 0, 0, 1: CE = log 3/2, log 2, log 5/4.  KL(p(x)‖p(x_b)) as in TRADES.

    KL(p‖U) = Σ p log 2p: ⅔log(4/3) + ⅓log(2/3), 0, ⅕log(2/5) + ⅘log(8/5) at x_a;
    p(x_b) = (¼,¾), (½,½), (⅘,⅕): ¼log(1/2) + ¾log(3/2), 0, ⅘log(8/5) + ⅕log(2/5) at x_b.
    """
    extra = {"last_clean": LAST_CLEAN}
    both = UNIFORM_LAST_CLEAN + UNIFORM_ADV
    loss = Bat().loss(CLEAN, ADV, LABEL, extra=extra)
    torch.testing.assert_close(loss, MAIN + 6 * DIVERGENCE + both, atol=1e-6, rtol=0)
    natural, beta = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([0.0, 1.0, 3.0])
    loss = Bat(beta=2.0).loss(CLEAN, ADV, LABEL, natural=natural, beta=beta, extra=extra)
    torch.testing.assert_close(loss, natural * MAIN + 2 * beta * DIVERGENCE + both, atol=1e-6, rtol=0)


def test_the_divergence_from_uniform_is_log_c_minus_the_entropy():
    """p = (½,¼,¼): log 3 - (½ log 2 + ½ log 4) = log 3 - 1.5 log 2; uniform: 0; certain: log 3."""
    logits = torch.tensor([[math.log(2.0), 0.0, 0.0], [5.0, 5.0, 5.0], [300.0, 0.0, 0.0]])
    expected = torch.tensor([math.log(3) - 1.5 * math.log(2), 0.0, math.log(3)])
    torch.testing.assert_close(from_uniform(logits), expected, atol=1e-6, rtol=0)


def test_the_attack_ascends_the_divergence_from_a_small_gaussian_start():
    torch.testing.assert_close(Bat().ascend(CLEAN, ADV, LABEL), DIVERGENCE, atol=1e-6, rtol=0)
    assert (Bat.start, Bat.attack_needs_clean, Bat.loss_needs_clean) == ("gaussian", True, True)


def test_the_last_clean_point_is_before_the_crossing_and_the_first_adversarial_one_a_step_past_it():
    """Steps of 0.1 from x - 0.01, boundary 0.25, K = 6. 0.5 and 0.3 are found beyond it at 0.19: x_a = 0.29, x_b = 0.09. 0.2
    starts beyond it: x_a = x^0 = 0.19, x_b = 0.09. 1.0 never gets there: both are x^K = 0.4, the edge of the ball.
    """
    found, passes = walk("bat", [0.5, 0.3, 0.2, 1.0], first=-0.01)
    torch.testing.assert_close(last_clean(found), torch.tensor([0.29, 0.29, 0.19, 0.4]), atol=1e-6, rtol=0)
    torch.testing.assert_close(reached(found), torch.tensor([0.09, 0.09, 0.09, 0.4]), atol=1e-6, rtol=0)
    assert (
        passes["input_gradient"] == 5 + 3 + 2 + 6
    )  # as many iterates were looked at, of the last of which no step was taken


def test_the_path_is_split_at_its_first_misclassified_iterate():
    """x^k has the value k. Row 0 never crosses: x_a = x'. Row 1 crosses at x^2: x_a = x^1. Row 2 is wrong at x^0: x_a = x^0.
    Row 3 crosses at x^1, is right again at x^2, and x_a stays x^0.
    """
    seen, going = path(Bat(), ["..x.", "...x", ".x..", ".x.x"])
    assert going == [
        [True, True, True, True],
        [True, True, True, True],
        [True, True, True, True],
        [True, False, True, False],
    ]
    adv = torch.full_like(seen.adv, 9.0)
    points, _ = Bat().points(seen.x, adv, seen.marks, lambda x: x)
    assert points["last_clean"][:, 0, 0, 0].tolist() == [9.0, 1.0, 0.0, 0.0]


def test_without_a_step_both_points_are_the_start():
    """K = 0: no iterate was looked at."""
    found, _ = walk("bat", [0.5, 0.2], steps=0)
    assert torch.equal(last_clean(found), reached(found))


def test_what_is_noted_survives_the_early_drop_of_ham():
    """m = 1 on a path of which one row is wrong from the start: it is hard, used up its step, and stays."""
    mining = {"name": "ham", "early_drop_step": 1, "start_epoch": 0}
    found, _ = walk("bat", [0.1, 0.9], mining)
    assert found.kept.rows.tolist() == [0]
    torch.testing.assert_close(last_clean(found), torch.tensor([0.1]))


def test_easy_examples_that_left_before_the_first_step_have_one_point_and_the_others_keep_their_two():
    """m = 0: 0.9 leaves at its start 0.89 and comes back as that; 0.2 starts beyond the boundary, and takes its step."""
    mining = {"name": "ham", "early_drop_step": 0, "start_epoch": 0, "easy_high": 1.0}
    found, _ = walk("bat", [0.9, 0.2], mining, first=-0.01)
    assert found.kept.rows.tolist() == [0, 1]
    torch.testing.assert_close(last_clean(found), torch.tensor([0.89, 0.19]), atol=1e-6, rtol=0)
    torch.testing.assert_close(reached(found), torch.tensor([0.89, 0.09]), atol=1e-6, rtol=0)


def test_bat_costs_three_training_passes_and_no_more_steps_than_its_attack():
    """K = 4: at most K gradients; forwards: one per gradient, the clean batch for the attack, and x, x_a, x_b."""
    training, results = trained(trial("bat"))
    n = len(training.dataset.train)
    for result in results:
        gradients = result.metrics["train/passes/input_gradient"]
        assert 0 < gradients < 4 * n
        assert result.metrics["train/passes/forward"] == gradients + 4 * n
        assert result.metrics["train/passes/weight_gradient"] == 3 * n
        assert math.isfinite(result.metrics["train/loss"])


@pytest.mark.parametrize("mining", [None, {"name": "ham", "early_drop_step": 2, "start_epoch": 0}])
def test_a_broken_bat_ends_as_the_unbroken_one(mining):
    assert equal_when_broken(trial("bat", mining), 1)


@pytest.mark.parametrize("allowed", [{"beta": 0.0}])
def test_the_ends_of_the_ranges_are_allowed(allowed):
    assert Bat(**allowed)


@pytest.mark.parametrize("refused", [{"beta": -0.1}])
def test_values_beyond_the_ranges_are_refused(refused):
    with pytest.raises(ValueError, match="should be"):
        Bat(**refused)
