"""PreActResNet-18 in its CIFAR form. He et al. 2016, arXiv:1603.05027; form and layer names of locuslab/robust-overfitting.

With a final BatchNorm and ReLU before pooling, as there; the older kuangliu/pytorch-cifar form lacks them. Other people's
files (ham_core/foreign.py) also come in that form, and with shortcuts that convolve x instead of relu BN x.
11,172,170 parameters at width 1 with 3 channels and 10 classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ham_core.models.layers import convolution
from ham_core.models.sizes import scaled


class Block(nn.Module):
    """a = relu BN x;  conv relu BN conv a + shortcut, where the shortcut is x, or a 1x1 convolution of a (`raw`: of x)."""

    raw = False

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = convolution(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs, 3)
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(convolution(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x), inplace=True)
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(x if self.raw else active)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active)), inplace=True))
        return out.add_(shortcut)


class PreActResNet18(nn.Module):
    """Stem, four layers of two blocks (the last three halve H and W), BN, ReLU, global average pooling, linear layer."""

    def __init__(self, width: float, classes: int, channels: int, normalize: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        a, b, c, d = (scaled(n, width) for n in (64, 128, 256, 512))
        self.conv1 = convolution(channels, a, 3)
        self.layer1 = nn.Sequential(Block(a, a, 1), Block(a, a, 1))
        self.layer2 = nn.Sequential(Block(a, b, 2), Block(b, b, 1))
        self.layer3 = nn.Sequential(Block(b, c, 2), Block(c, c, 1))
        self.layer4 = nn.Sequential(Block(c, d, 2), Block(d, d, 1))
        self.bn: nn.Module | None = nn.BatchNorm2d(d)
        self.linear = nn.Linear(d, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x (B,C,H,W) in [0,1] -> logits (B,K)."""
        out = self.conv1(self.normalize(x))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        if self.bn is not None:
            out = F.relu(self.bn(out), inplace=True)
        logits: Tensor = self.linear(out.mean((2, 3)))
        return logits
