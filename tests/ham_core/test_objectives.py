"""The contract that every objective keeps; its values are in the file of its own name under `objectives/`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ham_core.objectives.base import Objective
from ham_core.parts import build, find, index
from tests.builders import Linear

NAMES = sorted(index("objectives"))


def extra_of(objective: Objective, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Random logits for the further images that the loss of eight examples of five classes reads, and its further values."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(8, 1, 2, 2, generator=generator)
    helper = Linear(torch.randn(5, 4, generator=generator))
    points, values = objective.points(images, images, {}, helper)
    logits = {name: 30 * torch.randn(8, 5, generator=generator) for name in points}
    return values | {name: each.to(dtype).requires_grad_() for name, each in logits.items()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_objective_has_finite_losses_and_gradients(name, dtype):
    objective: Any = build("objectives", name)
    generator = torch.Generator().manual_seed(0)
    clean = (30 * torch.randn(8, 5, generator=generator)).to(dtype).requires_grad_()
    adv = (30 * torch.randn(8, 5, generator=generator)).to(dtype).requires_grad_()
    y = torch.arange(8) % 5
    extra = extra_of(objective, dtype)
    losses = objective.loss(clean, adv, y, beta=torch.ones(8, dtype=dtype), extra=extra)
    assert losses.shape == (8,) and bool(losses.isfinite().all())
    losses.sum().backward()
    assert bool(adv.grad.isfinite().all())
    assert clean.grad is None or bool(clean.grad.isfinite().all())
    assert all(bool(each.grad.isfinite().all()) for each in extra.values() if each.requires_grad)
    ascended = objective.ascend(clean.detach(), adv, y)
    assert ascended.shape == (8,) and bool(ascended.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_every_objective_keeps_finite_where_a_probability_underflows(name):
    """Logits 300 apart: in fp32 the smaller probabilities are exactly 0 and the larger exactly 1."""
    objective: Any = build("objectives", name)
    clean = (300 * torch.eye(5))[torch.arange(8) % 5].requires_grad_()
    adv = (300 * torch.eye(5))[torch.arange(1, 9) % 5].requires_grad_()
    extra = extra_of(objective, torch.float32)
    for y in (torch.arange(8) % 5, torch.arange(1, 9) % 5):
        losses = objective.loss(clean, adv, y, extra=extra)
        assert bool(losses.isfinite().all())
        grads = torch.autograd.grad(losses.sum(), [clean, adv], allow_unused=True)
        assert all(grad is None or bool(grad.isfinite().all()) for grad in grads)


@pytest.mark.parametrize("name", NAMES)
def test_every_objective_says_where_it_comes_from_and_where_its_attack_begins(name):
    part: Any = find("objectives", name)
    objective: Any = build("objectives", name)
    assert part.name == name and len(part.source) > 10
    assert objective.root.start in ("uniform", "gaussian", "zero")
    fixed = objective.attack_settings(0.1)
    assert set(fixed) <= {"steps", "step", "start"}
    assert math.isfinite(objective.jitter()) and objective.passes_per_batch() >= 1


@pytest.mark.parametrize("name", NAMES)
def test_an_objective_reads_the_clean_logits_exactly_where_it_says_so(name):
    """A clean forward pass that is not read is not paid for, and one that is read is asked for."""
    objective: Any = build("objectives", name)
    logits, y = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 5
    extra = extra_of(objective, torch.float32)
    for needed, read in (
        (objective.root.attack_needs_clean, lambda clean: objective.ascend(clean, logits, y)),
        (objective.root.loss_needs_clean, lambda clean: objective.loss(clean, logits, y, extra=extra)),
    ):
        if needed:
            with pytest.raises((AssertionError, AttributeError)):
                read(None)
        else:
            assert torch.equal(read(None), read(logits))
