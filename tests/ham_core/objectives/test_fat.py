"""FAT: where each example stops, what it costs, and that τ = K is its base."""

from __future__ import annotations

import pytest
import torch

from ham_core.objectives.fat import Fat
from ham_core.parts import build
from tests.builders import trial
from tests.ham_core.objectives.helpers import equal_runs, path, reached, trained, walk

PIXELS = [0.5, 0.3, 0.2, 1.0]  # cross 0.25 after 3 steps, after 1, at once, never


def fat(**settings):
    return {"name": "fat", "noise": 0.0} | settings


@pytest.mark.parametrize(
    ("tau", "expected"),
    [(0, [0.2, 0.2, 0.2, 0.4]), (1, [0.1, 0.1, 0.1, 0.4]), (2, [0.0, 0.0, 0.0, 0.4])],
)
def test_an_example_stops_tau_steps_past_the_boundary(tau, expected):
    """Steps of 0.1 down from (0.5, 0.3, 0.2, 1.0), class 0 above 0.25, K = 6: the first misclassified iterates are 0.2."""
    found, _ = walk(fat(tau=tau), PIXELS)
    torch.testing.assert_close(reached(found), torch.tensor(expected), atol=1e-6, rtol=0)


def test_an_example_that_has_stopped_costs_no_further_pass():
    """τ = 0: gradients at 4, 2, 1 and 6 iterates, the last of each where it is found to be wrong. τ = 6: at all 6 of 4."""
    assert walk(fat(tau=0), PIXELS)[1]["input_gradient"] == 4 + 2 + 1 + 6
    assert walk(fat(tau=6), PIXELS)[1]["input_gradient"] == 24


def test_the_friendly_counter_falls_at_misclassified_iterates_and_only_there_may_a_row_stop():
    """τ = 1. Row 0 is right throughout; row 1 is wrong at x^1 alone, which takes its counter to 0, and goes on; row 2 is wrong
    at x^0 and x^2, where it stops; row 3 at x^0 and x^1.
    """
    _, going = path(Fat(tau=1), ["..xx", ".x.x", "..xx", "...."])
    assert going == [
        [True, True, True, True],
        [True, True, True, False],
        [True, True, False, False],
        [True, True, False, False],
    ]


def test_the_cfa_counter_stops_a_row_as_soon_as_it_is_zero_right_or_wrong():
    """τ = 1. Row 1 is wrong at x^1, steps, and stops at x^2 although it is right there."""
    _, going = path(Fat(tau=1, rule="cfa"), ["..xx", ".x.x", "..xx", "...."])
    assert going == [
        [True, True, True, True],
        [True, True, False, False],
        [True, False, False, False],
        [True, False, False, False],
    ]


def test_cfa_with_tau_zero_does_not_attack_and_the_friendly_rule_does():
    still, passes = walk(fat(tau=0, rule="cfa"), PIXELS)
    assert torch.equal(still.kept.adv, still.kept.x)
    assert passes["input_gradient"] == len(PIXELS)
    friendly, _ = walk(fat(tau=0), PIXELS)
    assert not torch.equal(friendly.kept.adv, friendly.kept.x)


@pytest.mark.parametrize("rule", ["friendly", "cfa"])
def test_on_a_straight_path_both_rules_reach_the_same(rule):
    found, _ = walk(fat(tau=2, rule=rule), PIXELS)
    torch.testing.assert_close(reached(found), torch.tensor([0.0, 0.0, 0.0, 0.4]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("rule", ["friendly", "cfa"])
def test_the_counter_survives_the_early_drop_of_ham(rule):
    """m = 2, τ = 1: at x^2 the rows are 0.3, 0.1, 0.1, 0.8, so the second and third are hard. Both have used up their counter
    and stay at 0.1; with a new one they would go on to 0.
    """
    found, _ = walk(fat(tau=1, rule=rule), PIXELS, {"name": "ham", "early_drop_step": 2, "start_epoch": 0})
    assert found.kept.rows.tolist() == [1, 2]
    torch.testing.assert_close(reached(found), torch.tensor([0.1, 0.1]), atol=1e-6, rtol=0)


def test_every_step_is_followed_by_noise_before_the_projection():
    """K = 1 from 0.5 and 0.9, ω = 0.2: x' = x - 0.1 + ω N with the draws of the noise stream, clipped to [0, 1]."""
    found, _ = walk({"name": "fat", "noise": 0.2}, [0.5, 0.9], steps=1)
    drawn = torch.randn(2, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    expected = (torch.tensor([0.4, 0.8]) + 0.2 * drawn.flatten()).clamp(0, 1)
    torch.testing.assert_close(reached(found), expected, atol=1e-6, rtol=0)
    assert (Fat().jitter(), Fat().tau, Fat().rule) == (0.001, 3, "friendly")


def test_tau_follows_its_schedule_and_is_zero_before_it():
    schedule = [{"start_epoch": 1, "value": 1}, {"start_epoch": 3, "value": 2}]
    objective = build("objectives", {"name": "fat", "tau": schedule})
    for epoch, steps in ((0, 0), (1, 1), (2, 1), (3, 2), (9, 2)):
        _, going = path(objective, ["x"] * 4, epoch)
        assert [row for (row,) in going] == [True] * steps + [False] * (4 - steps)


@pytest.mark.parametrize("tau", [-1, [{"start_epoch": 0, "value": -1}], [{"start_epoch": 0, "value": 0.5}]])
def test_tau_is_a_whole_number_from_zero_on(tau):
    with pytest.raises(ValueError, match="whole number from 0 on"):
        Fat(tau=tau)


@pytest.mark.parametrize("base", ["at", "trades", "mart"])
@pytest.mark.parametrize("rule", ["friendly", "cfa"])
def test_fat_with_tau_as_large_as_the_attack_and_no_noise_is_its_base(base, rule):
    assert equal_runs(trial(fat(base=base, tau=4, rule=rule)), trial(base))


def test_fat_asks_its_base_for_loss_attack_and_start():
    objective = build("objectives", {"name": "fat", "base": {"name": "trades", "beta": 2.0}})
    clean, adv, y = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([0, 1, 2])
    assert torch.equal(objective.loss(clean, adv, y), objective.base.loss(clean, adv, y))
    assert torch.equal(objective.ascend(clean, adv, y), objective.base.ascend(clean, adv, y))
    assert objective.root is objective.base
    assert trial({"name": "fat", "base": "trades"}).attack.start == "gaussian"
    assert trial("fat").attack.start == "uniform"


def test_a_row_goes_on_only_where_the_base_lets_it():
    """BAT stops one step past the crossing; FAT with τ = 3 around it would let the row go on for two steps more.

    With τ = 0 it is FAT that stops, at the crossing itself.
    """
    objective = build("objectives", {"name": "fat", "base": "bat", "tau": 3})
    _, going = path(objective, ["x"] * 5)
    assert [row for (row,) in going] == [True, False, False, False, False]
    objective = build("objectives", {"name": "fat", "base": "bat", "tau": 0})
    _, going = path(objective, ["x"] * 5)
    assert going == [[False]] * 5


def test_fat_does_not_stand_around_fat():
    with pytest.raises(ValueError, match="fat stands around another fat"):
        build("objectives", {"name": "fat", "base": {"name": "awp", "base": "fat"}})


def test_fat_trains_with_fewer_passes_than_its_base():
    training, results = trained(trial({"name": "fat", "tau": 0}))
    n = len(training.dataset.train)
    for result in results:
        assert result.metrics["train/passes/input_gradient"] < 4 * n
        assert result.metrics["train/passes/weight_gradient"] == n


@pytest.mark.parametrize("allowed", [{"noise": 0.0}, {"tau": 0}])
def test_the_ends_of_the_ranges_are_allowed(allowed):
    assert Fat(**allowed)


@pytest.mark.parametrize("refused", [{"noise": -0.1}])
def test_values_beyond_the_ranges_are_refused(refused):
    with pytest.raises(ValueError, match="should be"):
        Fat(**refused)
