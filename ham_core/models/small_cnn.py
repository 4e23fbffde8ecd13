"""small_cnn: three convolutions, for digits and for studies on a CPU. 8x8x1 to 64x64x3; 24,058 parameters on digits."""

from __future__ import annotations

from torch import Tensor, nn

from ham_core.models.layers import convolution
from ham_core.models.sizes import scaled


class SmallCNN(nn.Module):
    """Three blocks of 3x3 convolution, BatchNorm, ReLU (strides 1, 2, 2), global average pooling, a linear layer."""

    def __init__(self, width: float, classes: int, channels: int, normalize: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        sizes = [channels, scaled(16, width), scaled(32, width), scaled(64, width)]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(convolution(a, b, 3, stride), nn.BatchNorm2d(b), nn.ReLU(inplace=True))
                for a, b, stride in zip(sizes[:-1], sizes[1:], (1, 2, 2), strict=True)
            )
        )
        self.linear = nn.Linear(sizes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """x (B,C,H,W) in [0,1] -> logits (B,K)."""
        features: Tensor = self.blocks(self.normalize(x))
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits
