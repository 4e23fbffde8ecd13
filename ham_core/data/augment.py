"""Random crop and horizontal flip of a whole batch at once, on its device.

Each image is padded by `crop` pixels on every side, flipped or not, and cut back to H x W at a random offset. The cut is one
gather of image rows: row y of the result is W consecutive pixels of the padded image, wherever they start.
128 images of 3x32x32: 0.34 ms on one CPU thread.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Padding = Literal["zeros", "reflect"]


def to_float(images: Tensor) -> Tensor:
    """uint8 (B,C,H,W) -> float32 in [0,1]."""
    return images.to(torch.float32).div_(255)


def augment(
    images: Tensor, *, crop: int, flip: bool, generator: torch.Generator, padding: Padding = "zeros"
) -> Tensor:
    """uint8 (B,C,H,W) -> float32 (B,C,H,W) in [0,1], randomly shifted and flipped.

    crop: padding in pixels; offsets are uniform on 0..2*crop, apart for rows and columns. flip: with probability 1/2.
    generator: on the CPU, the only source of chance; so every device sees the same pictures. Nothing is drawn for crop=0
    and for flip=False. Both at once are exactly `to_float`.
    """
    if crop == 0 and not flip:
        return to_float(images)
    batch = len(images)
    zeros = torch.zeros(batch, dtype=torch.int64)
    top, left = torch.randint(0, 2 * crop + 1, (2, batch), generator=generator) if crop else (zeros, zeros)
    flipped = torch.randint(0, 2, (batch,), generator=generator) if flip else zeros
    return to_float(shift(images, top, left, flipped, crop=crop, padding=padding))


def shift(
    images: Tensor, top: Tensor, left: Tensor, flipped: Tensor, *, crop: int, padding: Padding = "zeros"
) -> Tensor:
    """The deterministic half: result[i] = padded[i], mirrored if flipped[i], [:, top_i : top_i + H, left_i : left_i + W].

    images (B,C,H,W) of any type; top, left in 0..2*crop and flipped in {0, 1}: int64 (B,), on the CPU.
    """
    batch, channels, height, width = images.shape
    padded = _pad(images, crop, padding)
    tall, wide = padded.shape[2:]
    sheet = torch.cat([padded, padded.flip(3)]).flatten()  # pixels of all images, then of all mirrored images
    plane = tall * wide
    corner = (torch.arange(batch) + batch * flipped) * channels * plane + top * wide + left
    corner = corner.to(images.device, non_blocking=True)
    channel = plane * torch.arange(channels, device=images.device)[:, None]
    rows = (
        corner[:, None, None] + channel + wide * torch.arange(height, device=images.device)
    )  # where each row starts
    return sheet.unfold(0, width, 1).index_select(0, rows.flatten()).view(images.shape)


def _pad(images: Tensor, crop: int, padding: Padding) -> Tensor:
    """(B,C,H,W) -> (B,C,H+2*crop,W+2*crop)."""
    if padding == "zeros":
        return F.pad(images, (crop,) * 4)
    height, width = images.shape[2:]
    if padding != "reflect" or crop >= min(height, width):
        raise ValueError(
            f"padding {padding!r} by {crop}: known are zeros, and reflect by less than the {height}x{width} image"
        )
    return images[:, :, _mirrored(height, crop, images.device)][
        :, :, :, _mirrored(width, crop, images.device)
    ]


def _mirrored(length: int, crop: int, device: torch.device) -> Tensor:
    """Indices of a line continued by reflection: 2 1 | 0 1 2 3 | 2 1 for length 4 and crop 2."""
    position = torch.arange(-crop, length + crop, device=device).abs()
    return torch.where(position < length, position, 2 * (length - 1) - position)
