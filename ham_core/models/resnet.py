"""ResNet-18 in its CIFAR form. He et al. 2016, arXiv:1512.03385; 3x3 stem, no max-pooling.

Layer names are those of public CIFAR checkpoints (conv1, bn1, layer1.0.conv1, layer2.0.shortcut.0, linear).
11,173,962 parameters at width 1 with 3 channels and 10 classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ham_core.models.layers import convolution
from ham_core.models.sizes import scaled


class Block(nn.Module):
    """relu( BN conv relu BN conv x + shortcut(x) )."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs, 3)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()  # the identity where the shape stays
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)).add_(self.shortcut(x)), inplace=True)


class ResNet18(nn.Module):
    """Stem, four layers of two blocks (the last three halve H and W), global average pooling, a linear layer."""

    def __init__(self, width: float, classes: int, channels: int, normalize: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        a, b, c, d = (scaled(n, width) for n in (64, 128, 256, 512))
        self.conv1 = convolution(channels, a, 3)
        self.bn1 = nn.BatchNorm2d(a)
        self.layer1 = nn.Sequential(Block(a, a, 1), Block(a, a, 1))
        self.layer2 = nn.Sequential(Block(a, b, 2), Block(b, b, 1))
        self.layer3 = nn.Sequential(Block(b, c, 2), Block(c, c, 1))
        self.layer4 = nn.Sequential(Block(c, d, 2), Block(d, d, 1))
        self.linear = nn.Linear(d, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x (B,C,H,W) in [0,1] -> logits (B,K)."""
        out = F.relu(self.bn1(self.conv1(self.normalize(x))), inplace=True)
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        logits: Tensor = self.linear(out.mean((2, 3)))
        return logits
