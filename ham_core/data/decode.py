"""From PNG and JPEG files to uint8 tensors, with Pillow or, where it is missing, torchvision.io."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ham_core.data.source import Progress, Tensors
from ham_core.data.tree import PARTS, Tree, in_threads
from ham_core.errors import RequestError

Decoder = Callable[[Path | bytes, int, bool], Tensor]
A = TypeVar("A")


def decode(tree: Tree, size: int, progress: Progress | None = None) -> Tensors:
    """The pictures of a folder as RGB of size x size; those of another size are resized, and their aspect is not kept."""
    parts: list[Tensor] = []
    done, total = 0, sum(len(tree.pictures[part]) for part in PARTS)
    problems: list[str] = []

    def told(what: str, here: int, _: int) -> None:
        if progress:
            progress(what, done + here, total)

    for part in PARTS:
        pictures = tree.pictures[part]
        images, broken = decode_all(pictures, lambda one: tree.root / one[1], size, progress=told)
        problems += [
            f"data: cannot decode the picture {tree.root / path} ({reason}); replace or remove it"
            for (_, path), reason in broken
        ]
        done += len(pictures)
        parts += [images, torch.tensor([c for c, _ in pictures])]
    if problems:
        raise RequestError(sorted(problems))
    return Tensors(*parts)


def decode_all(
    pictures: Sequence[A],
    content: Callable[[A], Path | bytes],
    size: int,
    *,
    keep_aspect: bool = False,
    progress: Progress | None = None,
) -> tuple[Tensor, list[tuple[A, str]]]:
    """uint8 (N,3,size,size) in the order of `pictures`, and those that cannot be decoded, each with the reason.

    content: where a picture is, or its bytes; asked in several threads at once.
    """
    decoder = find_decoder()
    images = torch.zeros(len(pictures), 3, size, size, dtype=torch.uint8)
    broken: list[tuple[A, str]] = []

    def read(chunk: Sequence[tuple[Tensor, A]]) -> int:
        for image, picture in chunk:
            try:
                image.copy_(decoder(content(picture), size, keep_aspect))
            except Exception as error:  # decoders raise many kinds for a damaged picture
                broken.append((picture, (str(error).strip().splitlines() or [type(error).__name__])[0]))
        return len(chunk)

    done = 0
    for count in in_threads(read, list(zip(images, pictures, strict=True))):
        done += count
        if progress:
            progress("decoding pictures", done, len(pictures))
    return images, broken


def find_decoder() -> Decoder:
    """The decoder of this machine."""
    if find_spec("PIL") is not None:
        return with_pillow
    if find_spec("torchvision") is not None:
        return with_torchvision
    raise RequestError(
        "data: pictures need Pillow or torchvision, and neither is installed; pip install pillow, "
        "or decode them elsewhere and give the .pt file"
    )


def with_pillow(picture: Path | bytes, size: int, keep_aspect: bool = False) -> Tensor:
    """The picture as RGB, uint8 (3,size,size). One of that size keeps its pixels, others are resized bilinearly with
    antialiasing: squashed, or with `keep_aspect` to a shorter side of `size`, and then cut to the square in the middle."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as opened:
        rgb = opened.convert("RGB")
    width, height = resized(*rgb.size, size) if keep_aspect else (size, size)
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)  # Pillow always antialiases
    left, top = middle(width, size), middle(height, size)
    return torch.from_numpy(np.array(rgb.crop((left, top, left + size, top + size)))).permute(2, 0, 1)


def with_torchvision(picture: Path | bytes, size: int, keep_aspect: bool = False) -> Tensor:
    """The same without Pillow; resized pixels can differ from Pillow's by rounding."""
    import torch.nn.functional as F
    from torchvision.io import ImageReadMode, decode_image

    stored = (
        torch.frombuffer(bytearray(picture), dtype=torch.uint8)
        if isinstance(picture, bytes)
        else str(picture)
    )
    image: Tensor = decode_image(stored, mode=ImageReadMode.RGB)
    height, width = image.shape[1:]
    wide, tall = resized(width, height, size) if keep_aspect else (size, size)
    if (width, height) != (wide, tall):
        smooth = F.interpolate(image[None].float(), (tall, wide), mode="bilinear", antialias=True)
        image = smooth[0].round().clamp(0, 255).to(torch.uint8)
    left, top = middle(wide, size), middle(tall, size)
    return image[:, top : top + size, left : left + size]


def resized(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height, in that order, of the picture whose shorter side becomes `size`; the longer side is rounded down."""
    longer = int(size * max(width, height) / min(width, height))
    return (size, longer) if width <= height else (longer, size)


def middle(length: int, size: int) -> int:
    """Where the middle `size` pixels of a line begin."""
    return round((length - size) / 2)
