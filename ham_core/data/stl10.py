"""stl10: 13,000 labelled pictures of 96x96 pixels in ten classes. Coates, Lee and Ng, AISTATS 2011.

All 5,000 training images, 500 per class; the ten folds and the unlabelled images are not used.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from ham_core.data.download import Archive
from ham_core.data.published import Published, of_archive, same_classes
from ham_core.data.source import Facts, Progress, Tensors

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
FILES = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin")
NAMES = "class_names.txt"


class Stl10(Published):
    """The published binary archive, in its standard split."""

    name = "stl10"
    page = "https://cs.stanford.edu/~acoates/stl10/"
    archives = (
        Archive(
            "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
            md5="91f7769df0f17e558f3565bffb0c7dfb",
            size=2_640_397_119,
        ),
    )

    def facts(self) -> Facts:
        return Facts(
            name="stl10",
            label="stl10",
            classes=CLASSES,
            shape=(3, 96, 96),
            train_digest=self.digest("train"),
            test_digest=self.digest("test"),
            crop=12,
            flip=True,
            validation=0.1,
            source=self.source,
            images=(5_000, 8_000),
            train_counts=(500,) * len(CLASSES),
        )

    def read(self, progress: Progress | None) -> Tensors:
        """A picture is 3 x 96 x 96 bytes, each channel column by column; a label is one byte, 1..10."""
        import numpy as np
        import torch

        path, wanted = self.place(self.archives[0]), (*FILES, NAMES)
        found: dict[str, bytes] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                name = Path(member.name).name
                stream = tar.extractfile(member) if name in wanted else None
                if stream is not None:
                    found[name] = stream.read()
                    if progress:
                        progress("reading stl10", len(found), len(wanted))
                if len(found) == len(wanted):
                    break  # the rest of the 2.6 GB is unlabelled
        of_archive(path, wanted, found)
        same_classes(path, found[NAMES].decode().split(), CLASSES)
        parts = []
        for images, labels in (FILES[:2], FILES[2:]):
            pixels = np.frombuffer(found[images], dtype=np.uint8).reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)
            numbers = np.frombuffer(found[labels], dtype=np.uint8).astype(np.int64) - 1
            parts += [torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(numbers)]
        return Tensors(*parts)
