"""TRADES: its two terms by hand, its gradients, its degenerate case."""

from __future__ import annotations

import math

import torch

from ham_core.objectives.at import AT
from ham_core.objectives.base import kl
from ham_core.objectives.trades import Trades

CLEAN = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [0.0, math.log(4.0)]])
ADV = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [math.log(4.0), 0.0]])
LABEL = torch.tensor([0, 0, 1])
NATURAL = torch.tensor([math.log(2), math.log(4 / 3), math.log(5 / 4)])
DIVERGENCE = torch.tensor(
    [
        0.5 * math.log(2) + 0.5 * math.log(2 / 3),
        0.75 * math.log(1.5) + 0.25 * math.log(0.5),
        0.6 * math.log(4),
    ]
)


def test_trades_adds_beta_times_the_divergence_from_clean_to_adversarial():
    """p(x) = (1/2,1/2), (3/4,1/4), (1/5,4/5); p(x') = (1/4,3/4), (1/2,1/2), (4/5,1/5).

    KL(p‖p') = ½log2 + ½log(2/3);  ¾log(3/2) + ¼log(1/2);  ⅕log(1/4) + ⅘log4 = ⅗ log 4.  CE = log 2, log 4/3, log 5/4.
    """
    torch.testing.assert_close(kl(CLEAN, ADV), DIVERGENCE, atol=1e-6, rtol=0)
    torch.testing.assert_close(Trades().ascend(CLEAN, ADV, LABEL), DIVERGENCE, atol=1e-6, rtol=0)
    torch.testing.assert_close(Trades().loss(CLEAN, ADV, LABEL), NATURAL + 6 * DIVERGENCE, atol=1e-6, rtol=0)
    per_class = torch.tensor([0.5, 1.0, 2.0])
    torch.testing.assert_close(
        Trades(beta=2.0).loss(CLEAN, ADV, LABEL, beta=per_class),
        NATURAL + 2 * per_class * DIVERGENCE,
        atol=1e-6,
        rtol=0,
    )
    torch.testing.assert_close(
        Trades(beta=2.0, scaled=True).loss(CLEAN, ADV, LABEL),
        (NATURAL + 2 * DIVERGENCE) / 3,
        atol=1e-6,
        rtol=0,
    )


def test_class_weights_multiply_the_cross_entropy_alone():
    natural = torch.tensor([1.0, 2.0, 0.5])
    torch.testing.assert_close(
        Trades(beta=2.0).loss(CLEAN, ADV, LABEL, natural=natural),
        natural * NATURAL + 2 * DIVERGENCE,
        atol=1e-6,
        rtol=0,
    )


def test_trades_with_beta_zero_is_cross_entropy_on_the_clean_image():
    assert torch.equal(Trades(beta=0.0).loss(CLEAN, ADV, LABEL), AT().loss(None, CLEAN, LABEL))


def test_trades_gradients_flow_through_both_arguments():
    clean, adv = CLEAN.clone().requires_grad_(), ADV.clone().requires_grad_()
    Trades(beta=1.0).loss(clean, adv, LABEL).sum().backward()
    p, q = CLEAN.softmax(1), ADV.softmax(1)
    onehot = torch.eye(2)[LABEL]
    log_ratio = (p / q).log()
    expected_clean = p - onehot + p * (log_ratio - (p * log_ratio).sum(1, keepdim=True))
    torch.testing.assert_close(clean.grad, expected_clean, atol=1e-6, rtol=0)
    torch.testing.assert_close(adv.grad, q - p, atol=1e-6, rtol=0)


def test_trades_attack_starts_from_small_gaussian_noise_and_reads_the_clean_logits():
    assert (Trades.start, Trades.attack_needs_clean, Trades.loss_needs_clean) == ("gaussian", True, True)
