"""WRN-28-10 and WRN-34-10. Zagoruyko and Komodakis, BMVC 2016, arXiv:1605.07146; layer names of yaodongyu/TRADES @6e8e11b.

Differs from `width` elsewhere: the stem keeps its 16 channels, so that width k/10 is the published WRN-d-k.
36,479,194 and 46,160,474 parameters at width 1 with 3 channels and 10 classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ham_core.models.layers import convolution
from ham_core.models.sizes import scaled

STEM = 16  # channels


class Block(nn.Module):
    """a = relu BN x;  conv relu BN conv a + shortcut, where the shortcut is x, or a 1x1 convolution of a."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = convolution(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs, 3)
        # By channels alone, as published: the first group has stride 1 and needs none at widening factor 1.
        self.convShortcut = None if inputs == outputs else convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x), inplace=True)
        shortcut: Tensor = x if self.convShortcut is None else self.convShortcut(active)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active)), inplace=True))
        return out.add_(shortcut)


class Group(nn.Module):
    """Blocks of one width; the first changes the shape. A module of its own for the sake of the name `layer`."""

    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        rest = (Block(outputs, outputs, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(Block(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """Stem, three groups of (depth - 4)/6 blocks (the last two halve H and W), BN, ReLU, global average pooling, linear."""

    def __init__(self, depth: int, width: float, classes: int, channels: int, normalize: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        blocks = (depth - 4) // 6
        a, b, c = (scaled(n, width) for n in (160, 320, 640))
        self.conv1 = convolution(channels, STEM, 3)
        self.block1 = Group(blocks, STEM, a, 1)
        self.block2 = Group(blocks, a, b, 2)
        self.block3 = Group(blocks, b, c, 2)
        self.bn1 = nn.BatchNorm2d(c)
        self.fc = nn.Linear(c, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (B,C,H,W) in [0,1] -> logits (B,K)."""
        out = self.block3(self.block2(self.block1(self.conv1(self.normalize(x)))))
        logits: Tensor = self.fc(F.relu(self.bn1(out), inplace=True).mean((2, 3)))
        return logits


def wrn28_10(width: float, classes: int, channels: int, normalize: nn.Module) -> WideResNet:
    """28 layers, widening factor 10 · width."""
    return WideResNet(28, width, classes, channels, normalize)


def wrn34_10(width: float, classes: int, channels: int, normalize: nn.Module) -> WideResNet:
    """34 layers, widening factor 10 · width."""
    return WideResNet(34, width, classes, channels, normalize)
