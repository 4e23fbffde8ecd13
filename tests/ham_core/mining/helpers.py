"""Attacks with given logits, and attacks on a linear network, for the tests of mining."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ham_core.adversary import Streams, craft
from ham_core.config import Trial
from ham_core.mining.base import Trajectory
from ham_core.training import Training
from tests.builders import Linear, dataset

Rows = list[list[float]]
Attacked = tuple[Linear, Tensor, Tensor]  # network, x (n,1,8,8), y (n,)


def seen(path: list[Rows], clean: Rows, y: list[int], epoch: int = 0, steps: int | None = None) -> Trajectory:
    """A trajectory whose logits are given: path[:-1] at z^0.., path[-1] at the end. The batch is twice as large."""
    *earlier, last = [torch.tensor(logits) for logits in path]
    found = Trajectory(
        predict=lambda images: images,
        x=torch.tensor(clean),
        y=torch.tensor(y),
        adv=last,
        epoch=epoch,
        batch=2 * len(y),
        generator=torch.Generator().manual_seed(0),
        rows=torch.arange(len(y)),
        steps=len(earlier) if steps is None else steps,
    )
    found.path = earlier
    return found


def example(epoch: int = 0) -> Trajectory:
    """Three images, two classes, label 0. Logit jumps (L1): sample 0: 1, 3; sample 1: 2, 0; sample 2: 0, 0."""
    return seen(
        path=[
            [[2.0, 0.0], [0.0, 1.0], [0.0, 2.0]],
            [[1.0, 0.0], [0.0, 3.0], [0.0, 2.0]],
            [[0.0, 2.0], [0.0, 3.0], [0.0, 2.0]],
        ],
        clean=[[6.0, 0.0], [0.0, 1.0], [1.0, 2.0]],
        y=[0, 0, 0],
        epoch=epoch,
    )


def still(logits: Rows, y: list[int] | None = None) -> Trajectory:
    """A trajectory that stands at these logits, of label 0 where no other is given; the clean ones are 100 higher."""
    clean = [[100 + value for value in row] for row in logits]
    return seen([logits], clean, [0] * len(logits) if y is None else y)


def close(found: Tensor | None, expected: list[float]) -> None:
    """Equal to 1e-6."""
    assert found is not None
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def crafted(
    one: Trial, model: nn.Module, x: Tensor, y: Tensor, epoch: int = 0, counts: Tensor | None = None
) -> tuple[Any, Counter[str]]:
    """(what is trained on, with flags and left; passes) of one attack; equal trials draw equal noise."""
    passes: Counter[str] = Counter()
    streams = Streams(torch.Generator().manual_seed(0), torch.Generator().manual_seed(1))
    found = craft(model, x, y, one, epoch=epoch, streams=streams, passes=passes, counts=counts)
    return SimpleNamespace(**vars(found.kept), flags=found.flags, left=found.left), passes


def fifty() -> Attacked:
    """A linear network of three classes, 50 images and their labels."""
    generator = torch.Generator().manual_seed(4)
    model = Linear(0.6 * torch.randn(3, 64, generator=generator))
    x = torch.rand(50, 1, 8, 8, generator=generator)
    return model, x, torch.arange(50) % 3


def always_two() -> Linear:
    """A network that is sure of class 2, whatever it sees."""
    return Linear(fifty()[0].weight.detach(), torch.tensor([0.0, 0.0, 1e4]))


def ham(step: int, **settings: Any) -> dict[str, Any]:
    """HAM with m = `step` from the first epoch on."""
    return {"name": "ham", "early_drop_step": step, "start_epoch": 0, **settings}


def trained(one: Trial) -> nn.Module:
    """The network after the trial's epochs."""
    training = Training(one, dataset(one))
    for _ in training:
        pass
    return training.model
