"""From PNG and JPEG files to uint8 tensors, with Pillow or, where it is missing, torchvision.io."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ham_core.data.source import Progress, Tensors
from ham_core.data.tree import PARTS, Tree, in_threads
from ham_core.errors import RequestError

Decoder = Callable[[Path, int], Tensor]


def decode(tree: Tree, size: int, progress: Progress | None = None) -> Tensors:
    """All pictures as RGB of size x size; pictures of that size keep their pixels, others are resized bilinearly with
    antialiasing (their aspect ratio is not kept). RequestError names the pictures that cannot be read."""
    decoder = find_decoder()
    total = sum(len(tree.pictures[part]) for part in PARTS)
    done = 0
    broken: list[str] = []

    def read(chunk: Sequence[tuple[int, str]]) -> Tensor:
        images = torch.zeros(len(chunk), 3, size, size, dtype=torch.uint8)
        for image, (_, path) in zip(images, chunk, strict=True):
            try:
                image.copy_(decoder(tree.root / path, size))
            except Exception as error:  # decoders raise many kinds for a damaged picture
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                broken.append(
                    f"data: cannot decode the picture {tree.root / path} ({reason}); replace or remove it"
                )
        return images

    parts: list[Tensor] = []
    for part in PARTS:
        chunks = []
        for images in in_threads(read, tree.pictures[part]):
            chunks.append(images)
            done += len(images)
            if progress:
                progress("decoding pictures", done, total)
        parts += [torch.cat(chunks), torch.tensor([c for c, _ in tree.pictures[part]])]
    if broken:
        raise RequestError(sorted(broken))
    return Tensors(*parts)


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


def with_pillow(path: Path, size: int) -> Tensor:
    """The picture as uint8 (3,size,size)."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)  # Pillow always antialiases
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def with_torchvision(path: Path, size: int) -> Tensor:
    """The same without Pillow; resized pixels can differ from Pillow's by rounding."""
    import torch.nn.functional as F
    from torchvision.io import ImageReadMode, decode_image

    image: Tensor = decode_image(str(path), mode=ImageReadMode.RGB)
    if image.shape[1:] == (size, size):
        return image
    resized = F.interpolate(image[None].float(), (size, size), mode="bilinear", antialias=True)
    return resized[0].round().clamp(0, 255).to(torch.uint8)
