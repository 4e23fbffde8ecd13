"""FAAL: the worst class weights against a general solver, their optimality conditions, and that r = 0 is the base."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from ham_core.objectives.faal import Faal, class_margins, worst_weights
from ham_core.parts import build
from tests.builders import trial
from tests.ham_core.objectives.helpers import equal_runs, equal_when_broken, trained

CASES = [
    ([0.3, -0.2, -1.5], 0.5),
    ([-4.0, -3.0, -3.0, 0.0], 0.5),
    ([-2.0, -1.0, 0.5, 0.4, 3.0], 0.05),
    ([1e-3, 2e-3, 0.0], 0.2),
    ([50.0, -70.0], 0.1),
]


def divergence(w: torch.Tensor) -> float:
    """KL(U ‖ w)."""
    return float((1 / len(w) * torch.log(1 / len(w) / w)).sum())


@pytest.mark.parametrize(("a", "radius"), CASES)
def test_the_weights_are_those_of_a_general_solver(a, radius):
    """SLSQP on max a·w subject to Σ w = 1 and KL(U ‖ w) ≤ r."""
    scale, size = max(map(abs, a)), len(a)
    found = minimize(
        lambda w: -np.dot(a, w) / scale,
        np.full(size, 1 / size),
        bounds=[(1e-9, 1)] * size,
        constraints=[
            {"type": "eq", "fun": lambda w: w.sum() - 1},
            {"type": "ineq", "fun": lambda w: radius + np.log(size * w).mean()},
        ],
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.success
    w = worst_weights(torch.tensor(a, dtype=torch.float64), radius)
    np.testing.assert_allclose(w.numpy(), found.x, atol=1e-5)


@pytest.mark.parametrize(
    ("a", "radius"), [*CASES, ([0.0, 1.0], 3.0), ([0.0] * 99 + [1.0], 1e-4), ([1.0] * 9 + [0.0], 2.0)]
)
def test_the_weights_meet_the_optimality_conditions(a, radius):
    """On the boundary, KL(U ‖ w) = r; and stationary, a_c = μ - κ/(C w_c): 1/w_c is linear in a_c and falls."""
    a = torch.tensor(a, dtype=torch.float64)
    w = worst_weights(a, radius)
    assert float(w.sum()) == pytest.approx(1, abs=1e-12) and bool((w > 0).all())
    assert divergence(w) == pytest.approx(radius, rel=1e-8)
    slopes = [
        float((1 / w[i] - 1 / w[j]) / (a[i] - a[j]))
        for i in range(len(a))
        for j in range(i)
        if float(a[i] - a[j])
    ]
    assert max(slopes) < 0
    assert max(slopes) == pytest.approx(min(slopes), rel=1e-6)


def test_two_classes_by_hand():
    """C = 2: KL(U ‖ w) = -½ log(4 w_1 w_2) = r, so w_1 w_2 = e^{-2r}/4. r = ½ log(4/3): w_1 w_2 = 3/16, w = (3/4, 1/4)."""
    w = worst_weights(torch.tensor([2.0, -1.0], dtype=torch.float64), 0.5 * math.log(4 / 3))
    torch.testing.assert_close(w, torch.tensor([0.75, 0.25], dtype=torch.float64), atol=1e-9, rtol=0)


def test_with_radius_zero_or_equal_margins_the_weights_are_uniform():
    w = worst_weights(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), 0.0)
    assert torch.equal(w, torch.full((3,), 1 / 3, dtype=torch.float64))
    w = worst_weights(torch.tensor([-0.7, -0.7, -0.7, -0.7], dtype=torch.float64), 0.5)
    torch.testing.assert_close(w, torch.full((4,), 0.25, dtype=torch.float64), atol=1e-12, rtol=0)


def test_extreme_radii_give_finite_weights():
    a = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    for radius in (1e-9, 30.0, 1e4):
        w = worst_weights(a, radius)
        assert bool(w.isfinite().all()) and float(w.sum()) == pytest.approx(1, abs=1e-12)
        assert divergence(w.clamp_min(1e-300)) <= radius * (1 + 1e-5)
    assert worst_weights(a, 1e-9).sub(1 / 3).abs().max() < 1e-4
    assert float(worst_weights(a, 30.0)[2]) == pytest.approx(1, abs=1e-6)


def test_class_margins_are_sums_over_the_batch_and_zero_for_an_absent_class():
    """p(x') = (½,¼,¼), (.2,.6,.2), (.1,.1,.8), labels 0, 0, 1: m = ¼-½, .6-.2, .8-.1; a = -.25 + .4 = .15, .7, and 0."""
    p = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]])
    a = class_margins(p.log(), torch.tensor([0, 0, 1]))
    torch.testing.assert_close(a, torch.tensor([0.15, 0.7, 0.0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_faal_multiplies_the_bases_losses_by_c_times_the_class_weight():
    """p(x') = (¼,¾), (½,½), (⅕,⅘), y = 0, 1, 1: m = ½, 0, -⅗; a = (½, -⅗). r = ½ log(4/3): w = (¾, ¼), so C w = 1.5, .5, .5.

    CE = log 4, log 2, log 5/4.
    """
    adv = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [0.0, math.log(4.0)]])
    y = torch.tensor([0, 1, 1])
    ce = torch.tensor([math.log(4), math.log(2), math.log(5 / 4)])
    factors = torch.tensor([1.5, 0.5, 0.5])
    objective = Faal(radius=0.5 * math.log(4 / 3))
    torch.testing.assert_close(objective.loss(None, adv, y), factors * ce, atol=1e-6, rtol=0)
    natural = torch.tensor([2.0, 1.0, 0.5])
    torch.testing.assert_close(
        objective.loss(None, adv, y, natural=natural), factors * natural * ce, atol=1e-6, rtol=0
    )
    assert Faal().radius == 0.5


def test_no_gradient_flows_through_the_weights():
    adv = torch.tensor([[0.0, 1.0, 0.3], [0.4, 0.0, -1.0], [0.0, 0.5, 2.0]]).requires_grad_()
    y = torch.tensor([0, 1, 2])
    Faal().loss(None, adv, y).sum().backward()
    w = worst_weights(class_margins(adv.detach(), y), 0.5).float()
    expected = 3 * w[y][:, None] * (adv.detach().softmax(1) - torch.eye(3)[y])
    torch.testing.assert_close(adv.grad, expected, atol=1e-6, rtol=0)


def test_the_hardest_class_of_the_batch_counts_most():
    adv = torch.tensor([[3.0, 0.0], [0.5, 0.0]])
    plain = build("objectives", "at").loss(None, adv, torch.tensor([0, 1]))
    for radius in (0.5, 1.0):
        found = Faal(radius=radius).loss(None, adv, torch.tensor([0, 1])) / plain
        assert found[0] < 1 < found[1]
    assert torch.equal(Faal(radius=0.0).loss(None, adv, torch.tensor([0, 1])), plain)


@pytest.mark.parametrize("base", ["at", "trades", "mart", {"name": "fat", "tau": 1}])
def test_faal_with_radius_zero_is_its_base(base):
    assert equal_runs(trial({"name": "faal", "base": base, "radius": 0.0}), trial(base))


def test_faal_costs_no_pass_and_trains_where_classes_are_missing():
    """Batches of 8 images of 10 classes. K = 4: K gradients, K + 1 forwards, one weight gradient per image."""
    training, results = trained(trial("faal", batch_size=8))
    n = len(training.dataset.train)
    for result in results:
        assert result.metrics["train/passes/input_gradient"] == 4 * n
        assert result.metrics["train/passes/forward"] == 5 * n
        assert result.metrics["train/passes/weight_gradient"] == n
        assert math.isfinite(result.metrics["train/loss"])


def test_a_broken_faal_ends_as_the_unbroken_one():
    assert equal_when_broken(trial({"name": "faal", "base": {"name": "awp", "base": "trades"}}), 1)


@pytest.mark.parametrize("allowed", [{"radius": 0.0}])
def test_the_ends_of_the_ranges_are_allowed(allowed):
    assert Faal(**allowed)


@pytest.mark.parametrize("refused", [{"radius": -0.1}])
def test_values_beyond_the_ranges_are_refused(refused):
    with pytest.raises(ValueError, match="should be"):
        Faal(**refused)
