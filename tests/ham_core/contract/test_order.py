"""The order of a batch is no information: what parts say about its examples moves with them."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from ham_core import adversary
from ham_core.adversary import Streams, craft
from ham_core.mining.base import Kept
from ham_core.randomness import generator
from tests.builders import Linear
from tests.ham_core.contract.helpers import Case, cases

ROWS, CLASSES = 30, 10
objectives = pytest.mark.parametrize("case", [case for case in cases() if case.kind == "objectives"], ids=str)
attacked = pytest.mark.parametrize(
    "case",
    # random choices are drawn per place in the batch
    [
        one
        for one in cases()
        if one.kind in ("objectives", "mining") and one.settings.get("choose") != "random"
    ],
    ids=str,
)


@objectives
def test_losses_move_with_their_examples(case):
    objective = case.trial().method.objective
    draw = generator(0, "logits")
    clean, adv = torch.randn(2, ROWS, CLASSES, generator=draw)
    y, order = torch.arange(ROWS) % 7, torch.randperm(ROWS, generator=draw)  # classes 7 to 9 are missing
    x = torch.rand(ROWS, 1, 4, 4, generator=draw)

    def extra(rows: torch.Tensor) -> dict[str, torch.Tensor]:
        images, values = objective.points(x[rows], x[rows], {}, lambda _: adv[rows])
        return values | {name: clean[rows].flip(1) for name in images}

    everyone = torch.arange(ROWS)
    ours = objective.loss(clean[order], adv[order], y[order], extra=extra(order))
    theirs = objective.loss(clean, adv, y, extra=extra(everyone))[order]
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    ours = objective.ascend(clean[order], adv[order], y[order])
    torch.testing.assert_close(ours, objective.ascend(clean, adv, y)[order], rtol=1e-6, atol=1e-6)


def attack(case: Case, rows: torch.Tensor) -> Kept:
    """The rows of one batch, attacked in this order on a linear network; no noise at the start."""
    draw = generator(0, "images")
    x, y = torch.rand(ROWS, 1, 8, 8, generator=draw), torch.arange(ROWS) % 7
    model = Linear(torch.randn(CLASSES, 64, generator=draw) / 4)
    return craft(
        model,
        x[rows],
        y[rows],
        case.trial(),
        epoch=0,
        streams=Streams(generator(0, "noise"), generator(0, "mining")),
        passes=Counter(),
        counts=torch.full((CLASSES,), 12),
        first=x[rows],
    ).kept


@attacked
def test_the_attack_and_what_mining_keeps_move_with_their_examples(case, monkeypatch):
    monkeypatch.setattr(
        adversary, "gaussian", lambda x, *_: torch.zeros_like(x)
    )  # FAT's noise, drawn per place
    order = torch.randperm(ROWS, generator=generator(0, "order"))
    plain, moved = attack(case, torch.arange(ROWS)), attack(case, order)
    back = order[moved.rows].argsort()
    assert torch.equal(order[moved.rows][back], plain.rows)
    torch.testing.assert_close(moved.adv[back], plain.adv)
    assert torch.equal(moved.y[back], plain.y) and torch.equal(moved.x[back], plain.x)
    for name, mark in plain.marks.items():
        torch.testing.assert_close(moved.marks[name][back], mark)
    assert (plain.weights is None) == (moved.weights is None)
    if plain.weights is not None and moved.weights is not None:
        torch.testing.assert_close(moved.weights[back], plain.weights, rtol=1e-5, atol=1e-6)
