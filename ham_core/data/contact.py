"""A picture to look at: the first training images of each class, one row per class. Needs Pillow, not matplotlib."""

from __future__ import annotations

from pathlib import Path

from ham_core.data.places import written
from ham_core.data.source import Facts, Tensors
from ham_core.errors import RequestError

SIDE = 48  # pixels; smaller images are enlarged by a whole factor to at least this
ROWS = 50  # classes below each other; more go into further blocks on the right
GAP = 4
NAME = 150  # pixels for the name of a class


def write_sheet(path: Path, tensors: Tensors, facts: Facts, per_class: int = 10) -> None:
    """Write `path` (PNG): for each class its number and name, then its first `per_class` training images."""
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise RequestError("ham data show needs Pillow, which is not installed; pip install pillow") from None

    channels, height, width = facts.shape
    factor = max(1, -(-SIDE // min(height, width)))
    tall, wide = factor * height + GAP, factor * width + GAP
    classes = len(facts.classes)
    rows, blocks = min(ROWS, classes), -(-classes // ROWS)
    block = NAME + per_class * wide
    sheet = Image.new("RGB", (blocks * block + GAP, rows * tall + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for c, name in enumerate(facts.classes):
        left, top = c // ROWS * block + GAP, c % ROWS * tall + GAP
        draw.text((left, top + tall // 2 - 8), f"{c} {name}"[:24], fill="black")
        members = (tensors.train_labels == c).nonzero().flatten()[:per_class]
        for i, index in enumerate(members.tolist()):
            pixels = (
                tensors.train_images[index].expand(3, -1, -1)
                if channels == 1
                else tensors.train_images[index, :3]
            )
            picture = Image.fromarray(pixels.permute(1, 2, 0).numpy().copy())
            large = picture.resize((factor * width, factor * height), Image.Resampling.NEAREST)
            sheet.paste(large, (left + NAME + i * wide, top))
    try:
        with written(path) as temporary:
            sheet.save(temporary, format="PNG")
    except OSError as error:
        raise RequestError(f"--out: cannot write {path} ({error.strerror or error})") from error
