"""Each objective against values derived by hand, and the contract that every objective keeps."""

from __future__ import annotations

import math

import pytest
import torch

from ham_core.objectives.at import AT
from ham_core.objectives.base import kl
from ham_core.objectives.trades import Trades
from ham_core.parts import build, find, index

CLEAN = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [0.0, math.log(4.0)]])
ADV = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [math.log(4.0), 0.0]])
LABEL = torch.tensor([0, 0, 1])


def test_at_is_the_cross_entropy_on_the_adversarial_example():
    """p_y(x') = 1/4, 1/2, 1/5, so the losses are log 4, log 2, log 5."""
    expected = torch.tensor([math.log(4), math.log(2), math.log(5)])
    torch.testing.assert_close(AT().loss(None, ADV, LABEL), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(AT().ascend(None, ADV, LABEL), expected, atol=1e-6, rtol=0)


def test_trades_adds_beta_times_the_divergence_from_clean_to_adversarial():
    """p(x) = (1/2,1/2), (3/4,1/4), (1/5,4/5); p(x') = (1/4,3/4), (1/2,1/2), (4/5,1/5).

    KL(p‖p') = ½log2 + ½log(2/3);  ¾log(3/2) + ¼log(1/2);  ⅕log(1/4) + ⅘log4 = ⅗ log 4.  CE = log 2, log 4/3, log 5/4.
    """
    divergence = torch.tensor(
        [
            0.5 * math.log(2) + 0.5 * math.log(2 / 3),
            0.75 * math.log(1.5) + 0.25 * math.log(0.5),
            0.6 * math.log(4),
        ]
    )
    natural = torch.tensor([math.log(2), math.log(4 / 3), math.log(5 / 4)])
    torch.testing.assert_close(kl(CLEAN, ADV), divergence, atol=1e-6, rtol=0)
    torch.testing.assert_close(Trades().ascend(CLEAN, ADV, LABEL), divergence, atol=1e-6, rtol=0)
    torch.testing.assert_close(Trades().loss(CLEAN, ADV, LABEL), natural + 6 * divergence, atol=1e-6, rtol=0)
    per_class = torch.tensor([0.5, 1.0, 2.0])
    torch.testing.assert_close(
        Trades(beta=2.0).loss(CLEAN, ADV, LABEL, per_class),
        natural + 2 * per_class * divergence,
        atol=1e-6,
        rtol=0,
    )
    torch.testing.assert_close(
        Trades(beta=2.0, scaled=True).loss(CLEAN, ADV, LABEL),
        (natural + 2 * divergence) / 3,
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


@pytest.mark.parametrize("name", sorted(index("objectives")))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_objective_has_finite_losses_and_gradients(name, dtype):
    objective = build("objectives", name)
    generator = torch.Generator().manual_seed(0)
    clean = (30 * torch.randn(8, 5, generator=generator)).to(dtype).requires_grad_()
    adv = (30 * torch.randn(8, 5, generator=generator)).to(dtype).requires_grad_()
    y = torch.arange(8) % 5
    losses = objective.loss(clean, adv, y, torch.ones(8, dtype=dtype))
    assert losses.shape == (8,) and bool(losses.isfinite().all())
    losses.sum().backward()
    assert bool(adv.grad.isfinite().all())
    ascended = objective.ascend(clean.detach(), adv, y)
    assert ascended.shape == (8,) and bool(ascended.isfinite().all())


@pytest.mark.parametrize("name", sorted(index("objectives")))
def test_every_objective_says_where_it_comes_from_and_where_its_attack_begins(name):
    part = find("objectives", name)
    assert part.name == name and len(part.source) > 10
    assert part.start in ("uniform", "gaussian", "zero")
    assert not part.loss_needs_clean or part().loss_needs_clean
