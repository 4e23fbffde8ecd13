"""Finite losses, gradients and weights: for extreme logits, in fp32 and in bf16."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch

from ham_core.adversary import Streams, craft
from ham_core.calibration.base import Observed
from ham_core.randomness import generator
from ham_core.training import Training
from tests.builders import Linear
from tests.ham_core.contract.helpers import cases, finite, images

CLASSES = 4
objectives = pytest.mark.parametrize("case", [case for case in cases() if case.kind == "objectives"], ids=str)
minings = pytest.mark.parametrize("case", [case for case in cases() if case.kind == "mining"], ids=str)
calibrations = pytest.mark.parametrize(
    "case", [case for case in cases() if case.kind == "calibration"], ids=str
)
every_case = pytest.mark.parametrize("case", cases(), ids=str)


def extreme_rows() -> torch.Tensor:
    """Logits (n,C): all alike, one class ±30 beyond the others, and a pair far above the rest."""
    rows = [torch.zeros(CLASSES)]
    for c, height in product(range(CLASSES), (30.0, -30.0)):
        rows.append(torch.zeros(CLASSES).index_fill(0, torch.tensor(c), height))
    rows.append(torch.tensor([30.0, 30.0, -30.0, -30.0]))
    return torch.stack(rows)


def all_combinations(
    objective: Any, *, rounded: bool
) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, Any]]:
    """Every extreme clean row against every extreme adversarial row and every label: leaves (n,C), y (n,), extra."""
    rows = extreme_rows()
    picks = torch.tensor(list(product(range(len(rows)), range(len(rows)), range(CLASSES))))
    if rounded:
        rows = rows.bfloat16().float()
    x = torch.zeros(len(picks), 1, 2, 2)
    leaves = {"clean": rows[picks[:, 0]], "adv": rows[picks[:, 1]]}
    images, values = objective.points(x, x + 0.1, {}, lambda seen: rows[picks[: len(seen), 1]])
    leaves |= {name: rows[picks[:, number % 2]] for number, name in enumerate(images)}
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    return leaves, picks[:, 2], values


@objectives
@pytest.mark.parametrize("rounded", [False, True], ids=["fp32", "bf16"])
def test_losses_and_gradients_are_finite_for_extreme_logits(case, rounded):
    objective = case.trial().method.objective
    leaves, y, values = all_combinations(objective, rounded=rounded)
    n = len(y)
    extra = values | {name: leaf for name, leaf in leaves.items() if name not in ("clean", "adv")}
    for natural, beta in ((None, None), (torch.linspace(0, 3, n), torch.linspace(0, 3, n))):
        losses = objective.loss(leaves["clean"], leaves["adv"], y, natural=natural, beta=beta, extra=extra)
        climbed = objective.ascend(leaves["clean"].detach(), leaves["adv"], y)
        assert losses.shape == climbed.shape == (n,)
        assert losses.dtype == torch.float32
        assert finite(losses) and finite(climbed)
        for total in (losses.mean(), climbed.sum()):
            gradients = torch.autograd.grad(
                total, list(leaves.values()), allow_unused=True, retain_graph=True
            )
            assert finite([gradient for gradient in gradients if gradient is not None])
            assert any(gradient is not None and bool(gradient.any()) for gradient in gradients)


@objectives
def test_losses_are_never_negative(case):
    objective = case.trial().method.objective
    leaves, y, values = all_combinations(objective, rounded=False)
    extra = values | {name: leaf for name, leaf in leaves.items() if name not in ("clean", "adv")}
    assert (
        objective.loss(leaves["clean"], leaves["adv"], y, extra=extra).min() > -1e-3
    )  # MART's guards reach 1e-4


@minings
@pytest.mark.parametrize("height", [30.0, -30.0])
def test_mining_weights_are_finite_for_extreme_logits(case, height):
    one = case.trial()
    weight = torch.zeros(10, 64)
    weight[:, ::10] = height
    weight[3, 5] = 30.0
    x, y = torch.rand(24, 1, 8, 8, generator=generator(0, "x")), torch.arange(24) % 10
    streams = Streams(generator(0, "noise"), generator(0, "mining"))
    counts = torch.full((10,), 20)
    kept = craft(Linear(weight), x, y, one, epoch=0, streams=streams, passes=Counter(), counts=counts).kept
    assert kept.weights is None or (finite(kept.weights) and bool((kept.weights >= 0).all()))
    logits = 30 * torch.nn.functional.one_hot((y + 1) % 10, 10).float()
    further = one.method.mining.weigh_trained(logits, y)
    assert further is None or (finite(further) and bool((further >= 0).all()))


@calibrations
@pytest.mark.parametrize("accuracy", [0.0, 1.0])
@pytest.mark.parametrize("loss", [0.0, 1e6])
def test_class_factors_stay_finite_where_nothing_or_everything_is_right(case, accuracy, loss):
    calibration = case.trial().method.calibration
    state = calibration.initial(CLASSES)
    for epoch in range(4):
        observed = Observed(
            epoch,
            torch.tensor([5, 5, 1, 0]),
            torch.full((CLASSES,), accuracy),
            torch.eye(CLASSES) if accuracy else torch.eye(CLASSES).flip(0),
            lambda steps: (torch.ones(CLASSES), torch.tensor([accuracy, accuracy, accuracy, torch.nan])),
            lambda: (torch.tensor([loss, 0.0, 0.0, 0.0]), torch.tensor([5, 5, 1, 0])),
        )
        state = calibration.renew(state, observed)
        factors = calibration.factors(state)
        y = torch.tensor([0, 1, 1, 2])
        for which in ("margin", "weight", "natural", "beta"):
            values = factors.of(which, y)
            assert values is None or (finite(values) and bool((values >= 0).all())), which
        margin = factors.of("margin", y)
        if margin is not None:
            step = torch.as_tensor(calibration.attack_step(margin, 0.05, 0.2))
            assert finite(step) and bool((step >= 0).all())
    assert finite(state)


@every_case
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_trainings_end_with_finite_losses_and_weights(case, precision):
    one = case.trial(epochs=2, precision=precision)
    training = Training(one, images())
    for result in training:
        assert all(map(finite, map(torch.tensor, result.metrics.values())))
        assert finite(result.kept)
    assert finite(training.state()["model"])
    assert result.metrics["train/loss"] > 0
