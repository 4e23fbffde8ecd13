"""How many numbers a network's state dict holds, without building it: planning imports no torch.

Of a convolution i -> o with a k x k window i·o·k², of a BatchNorm over o channels 4·o (weight, bias, mean, variance).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise


def scaled(channels: int, width: float) -> int:
    """The number of channels of a layer at a width; at least one."""
    return max(1, round(channels * width))


def numbers_in(name: str, width: float, classes: int, channels: int) -> int | None:
    """Parameters and BatchNorm statistics of a model of ours; None for models of other packages."""
    count = COUNTS.get(name)
    return None if count is None else count(width, classes, channels)


def _batch_norm(channels: int) -> int:
    return 4 * channels


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _small_cnn(width: float, classes: int, channels: int) -> int:
    sizes = [channels, *(scaled(n, width) for n in (16, 32, 64))]
    blocks = sum(9 * a * b + _batch_norm(b) for a, b in pairwise(sizes))
    return blocks + _linear(sizes[-1], classes)


def _resnet18(width: float, classes: int, channels: int) -> int:
    def block(a: int, b: int) -> int:
        shortcut = 0 if a == b else a * b + _batch_norm(b)
        return 9 * a * b + 9 * b * b + 2 * _batch_norm(b) + shortcut

    return _stages(block, width, classes, channels) + _batch_norm(scaled(64, width))


def _preact_resnet18(width: float, classes: int, channels: int) -> int:
    return _stages(_preact_block, width, classes, channels) + _batch_norm(scaled(512, width))


def _preact_block(a: int, b: int) -> int:
    return _batch_norm(a) + 9 * a * b + _batch_norm(b) + 9 * b * b + (0 if a == b else a * b)


def _stages(block: Callable[[int, int], int], width: float, classes: int, channels: int) -> int:
    """Stem, four layers of two blocks, and the linear layer; a stride halves the image where the channels double."""
    sizes = [scaled(n, width) for n in (64, 64, 128, 256, 512)]
    layers = sum(block(a, b) + block(b, b) for a, b in pairwise(sizes))
    # At widths so small that two layers round to the same channels the stride still asks for a shortcut: a few numbers more.
    return 9 * channels * sizes[0] + layers + _linear(sizes[-1], classes)


def _wide_resnet(depth: int) -> Callable[[float, int, int], int]:
    def count(width: float, classes: int, channels: int) -> int:
        sizes: Sequence[int] = [16, *(scaled(n, width) for n in (160, 320, 640))]
        blocks = (depth - 4) // 6
        groups = sum(_preact_block(a, b) + (blocks - 1) * _preact_block(b, b) for a, b in pairwise(sizes))
        return 9 * channels * 16 + groups + _batch_norm(sizes[-1]) + _linear(sizes[-1], classes)

    return count


COUNTS: dict[str, Callable[[float, int, int], int]] = {
    "preact_resnet18": _preact_resnet18,
    "resnet18": _resnet18,
    "small_cnn": _small_cnn,
    "wrn28_10": _wide_resnet(28),
    "wrn34_10": _wide_resnet(34),
}
