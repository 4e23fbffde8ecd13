"""What the models share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """(x - mean) / std per channel. Buffers, so that a saved model carries the statistics it was trained with."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def first_layer(mean: Sequence[float] | None, std: Sequence[float] | None, normalize: bool) -> nn.Module:
    """The normalisation of a model, or the identity."""
    if not normalize:
        return nn.Identity()
    if mean is None or std is None:
        raise ValueError("normalize=True needs the channel statistics: give mean and std")
    return Normalize(mean, std)


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps H and W at stride 1, without the bias that the BatchNorm behind it would cancel."""
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
