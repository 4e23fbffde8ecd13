"""Small trials, data and models that tests share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ham_core.config import Trial
from ham_core.data import load
from ham_core.data.split import Dataset


def trial(objective: Any = "at", mining: Any = None, **settings: Any) -> Trial:
    """A trial on digits that trains in a second: tiny network, 200 images, 2 epochs, 4 attack steps, eval-mode attack."""
    method = {"objective": objective, "mining": mining} | settings.pop("method", {})
    attack = {"steps": 4, "mode": "eval"} | settings.pop("attack", {})
    data = {"name": "digits", "train_limit": 200, "test_limit": 60} | settings.pop("data", {})
    small: dict[str, Any] = {
        "method": method,
        "attack": attack,
        "data": data,
        "model": {"name": "small_cnn", "width": 0.5},
        "epsilon": 0.2,
        "epochs": 2,
        "batch_size": 64,
        "selection": {"steps": 2},
    }
    return Trial.model_validate(small | settings)


def dataset(one: Trial) -> Dataset:
    """The images of a trial made by `trial`."""
    return load(
        one.data.name,
        validation=one.data.validation,
        split_seed=one.data.split_seed,
        train_limit=one.data.train_limit,
        test_limit=one.data.test_limit,
    )


class Linear(nn.Module):
    """f(x) = W x + b on flattened pixels, so that attacks have a closed form."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(len(weight)) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    """Whether two networks are equal bit for bit, buffers included."""
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
