"""What the tests of several objectives share: an attack in one pixel, a path of given answers, an interrupted training."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from ham_core.adversary import Crafted, Streams, craft
from ham_core.config import Trial
from ham_core.mining.base import Trajectory
from ham_core.objectives.base import Objective
from ham_core.training import EpochResult, Training
from tests.builders import Linear, dataset, same_weights, trial

EDGE = 0.25  # images of one pixel; class 0 lies above


def one_pixel() -> Linear:
    """f(x) = (x - 0.25, 0), so that every attack on class 0 walks down by its step."""
    return Linear(torch.tensor([[1.0], [0.0]]), torch.tensor([-EDGE, 0.0]))


def walk(
    objective: Any, pixels: list[float], mining: Any = None, first: float | None = None, **attack: Any
) -> tuple[Crafted, Counter[str]]:
    """Attack one-pixel images of class 0 with steps of 0.1, K = 6, ε = 0.6, from the image or so far (`first`) beside it."""
    settings = {"steps": 6, "step": 0.1, "start": "zero", "mode": "eval"} | attack
    one = trial(objective, mining, epsilon=0.6, attack=settings)
    streams = Streams(torch.Generator().manual_seed(1), torch.Generator().manual_seed(2))
    passes: Counter[str] = Counter()
    x = torch.tensor(pixels).reshape(-1, 1, 1, 1)
    y = torch.zeros(len(pixels), dtype=torch.long)
    begin = None if first is None else x + first
    return craft(one_pixel(), x, y, one, epoch=0, streams=streams, passes=passes, first=begin), passes


def reached(found: Crafted) -> Tensor:
    """Pixels of x'."""
    return found.kept.adv.flatten()


def path(objective: Objective, answers: list[str], epoch: int = 0) -> tuple[Trajectory, list[list[bool]]]:
    """Tell the objective of iterates that are right (.) or wrong (x), one text per iterate with a sign per row.

    x^k is an image of the value k everywhere; every row is followed to the end. -> (what was seen, rows that go on at each).
    """
    n = len(answers[0])
    y = torch.zeros(n, dtype=torch.long)
    images = torch.zeros(n, 1, 2, 2)
    generator = torch.Generator()
    seen = Trajectory(lambda x: x, images, y, images, epoch, n, generator, torch.arange(n))
    going = []
    for k, signs in enumerate(answers):
        seen.move(torch.full_like(images, float(k)))
        logits = torch.tensor([[1.0, 0.0] if sign == "." else [0.0, 1.0] for sign in signs])
        on = objective.follow(seen, logits)
        assert on is not None
        going.append(on.tolist())
    return seen, going


def trained(one: Trial, **others: Any) -> tuple[Training, list[EpochResult]]:
    """A training to its end."""
    training = Training(one, dataset(one), **others)
    return training, list(training)


def timeless(result: EpochResult) -> dict[str, float]:
    """Metrics that do not tell the time."""
    return {name: value for name, value in result.metrics.items() if not name.startswith("time/")}


def equal_runs(one: Trial, other: Trial) -> bool:
    """Whether two trials end in the same weights, bit for bit, with the same losses and passes."""
    (first, results), (second, others) = trained(one), trained(other)
    same = [timeless(result) for result in results] == [timeless(result) for result in others]
    return same and same_weights(first.model, second.model)


def equal_when_broken(one: Trial, after: int) -> bool:
    """Whether a training that is saved after so many epochs and continued from the file ends as the unbroken one."""
    unbroken, expected = trained(one)
    broken = Training(one, dataset(one))
    epochs = iter(broken)
    results = [next(epochs) for _ in range(after)]
    file = io.BytesIO()
    torch.save(broken.state(), file)
    file.seek(0)
    resumed = Training(one, dataset(one))
    resumed.restore(torch.load(file, weights_only=True))
    results += list(resumed)
    same = [timeless(result) for result in results] == [timeless(result) for result in expected]
    return same and same_weights(unbroken.model, resumed.model)
