"""MART: its terms by hand, its constants, its gradients, its cost."""

from __future__ import annotations

import math

import pytest
import torch

from ham_core.objectives.base import best_other
from ham_core.objectives.mart import Mart
from ham_core.training import Training
from tests.builders import dataset, trial

P = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64)
Q = torch.tensor([[0.25, 0.5, 0.25], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]], dtype=torch.float64)
LABEL = torch.tensor([0, 1, 2])
BOOSTED = torch.tensor(
    [
        -math.log(0.25) - math.log(1.0001 - 0.5),
        -math.log(0.3) - math.log(1.0001 - 0.6),
        -math.log(0.6) - math.log(1.0001 - 0.2),
    ],
    dtype=torch.float64,
)
REGULAR = torch.tensor(
    [
        (0.5 * math.log(2) - 0.25 * math.log(2)) * 0.5000001,
        (0.2 * math.log(1 / 3) + 0.6 * math.log(2) + 0.2 * math.log(2)) * 0.4000001,
        (0.2 * math.log(0.5) + 0.8 * math.log(4 / 3)) * 0.2000001,
    ],
    dtype=torch.float64,
)


def test_mart_is_boosted_cross_entropy_plus_a_divergence_that_counts_where_the_image_is_doubted():
    """p(x) = (½,¼,¼), (.2,.6,.2), (.1,.1,.8); p(x') = (¼,½,¼), (.6,.3,.1), (.2,.2,.6); y = 0, 1, 2, so p_y(x) = ½, .6, .8.

    BCE = -log p_y(x') - log(1.0001 - best other): others ½, .6, .2.
    KL(p‖p') = ½log2 + ¼log½ + 0;  .2log(1/3) + .6log2 + .2log2;  2·.1log½ + .8log(4/3).  Doubt 1.0000001 - p_y = ½, .4, .2.
    """
    loss = Mart().loss(P.log(), Q.log(), LABEL)
    torch.testing.assert_close(loss, BOOSTED + 5 * REGULAR, atol=1e-9, rtol=0)
    torch.testing.assert_close(Mart(beta=0.0).loss(P.log(), Q.log(), LABEL), BOOSTED, atol=1e-9, rtol=0)


def test_class_factors_multiply_the_main_term_and_the_weight_of_the_divergence():
    natural = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
    beta = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    loss = Mart(beta=2.0).loss(P.log(), Q.log(), LABEL, natural=natural, beta=beta)
    torch.testing.assert_close(loss, natural * BOOSTED + 2 * beta * REGULAR, atol=1e-9, rtol=0)


def test_the_codes_constants_bound_the_logarithms():
    """p'= (0, 1) against y = 0 and p = (1, 0): -log(1.0001 - 1 + 1e-12) = -log 1e-4 to 1e-8; KL = -log(1e-12) times 1e-7."""
    clean = torch.tensor([[800.0, 0.0]], dtype=torch.float64)
    adv = torch.tensor([[0.0, 800.0]], dtype=torch.float64)
    loss = Mart(beta=1e7).loss(clean, adv, torch.tensor([0]))
    boosted = 800 - math.log(1.0001 - 1 + 1e-12)
    divergence = -math.log(1e-12) * (1.0000001 - 1) * 1e7
    assert loss.item() == pytest.approx(boosted + divergence, abs=1e-9)


def test_the_best_other_class_is_never_the_own_one():
    assert best_other(Q, LABEL).tolist() == [0.5, 0.6, 0.2]


def test_gradients_flow_through_the_clean_prediction_and_its_doubt():
    """Central differences in double precision, in every logit of both images."""
    clean, adv = P.log().requires_grad_(), Q.log().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: Mart().loss(a, b, LABEL), (clean, adv))
    Mart().loss(clean, adv, LABEL).sum().backward()
    assert bool((clean.grad.abs().sum(1) > 1e-3).all())


def test_the_attack_ascends_the_plain_cross_entropy_from_small_gaussian_noise():
    torch.testing.assert_close(Mart().ascend(None, Q.log(), LABEL), -Q.log()[range(3), range(3)])
    assert (Mart.start, Mart.attack_needs_clean) == ("gaussian", False)


def test_mart_costs_one_forward_and_one_backward_pass_more_than_at():
    """K = 4: K gradients; K + 2 forwards; 2 weight gradients per image."""
    one = trial("mart")
    training = Training(one, dataset(one))
    n = len(training.dataset.train)
    for result in training:
        assert result.metrics["train/passes/input_gradient"] == 4 * n
        assert result.metrics["train/passes/forward"] == 6 * n
        assert result.metrics["train/passes/weight_gradient"] == 2 * n
        assert result.metrics["train/loss"] > 0


@pytest.mark.parametrize("allowed", [{"beta": 0.0}])
def test_the_ends_of_the_ranges_are_allowed(allowed):
    assert Mart(**allowed)


@pytest.mark.parametrize("refused", [{"beta": -0.1}])
def test_values_beyond_the_ranges_are_refused(refused):
    with pytest.raises(ValueError, match="should be"):
        Mart(**refused)
