"""imagenette32, imagenette64, imagenette128: 13,394 photos in ten easy classes of ImageNet (J. Howard, fastai, 2019).

From the published copy of 160 pixels (shorter side), `imagenette2-160.tgz`; its `val` folder is the test set.
imagenette32 squashes every photo to 32x32, as HAM's released code does; the others keep the aspect: the shorter side is
resized to 64 or 128 and the middle square kept, as torchvision's Resize and CenterCrop do. Bilinear with antialiasing.
"""

from __future__ import annotations

import tarfile
from pathlib import PurePosixPath

from ham_core.data.download import Archive
from ham_core.data.published import Published, same_classes
from ham_core.data.source import Facts, Progress, Tensors
from ham_core.errors import RequestError

WNIDS = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
TRAIN_COUNTS = (963, 955, 993, 858, 941, 956, 961, 931, 951, 960)


class Imagenette32(Published):
    """As HAM's released code sees it: squashed to 32x32."""

    name = "imagenette32"
    page = "https://github.com/fastai/imagenette"
    archives = (
        Archive(
            "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz",
            md5="e793b78cc4c9e9a4ccc0c1155377a412",
        ),
    )
    folder = "imagenette"
    size = 32
    keep_aspect = False
    treatment = "squashed32"

    def facts(self) -> Facts:
        return Facts(
            name=self.name,
            label=self.name,
            classes=tuple(WNIDS.values()),
            shape=(3, self.size, self.size),
            train_digest=self.digest("train"),
            test_digest=self.digest("test"),
            crop=self.size // 8,
            flip=True,
            validation=0.05,
            source=self.source,
            images=(9_469, 3_925),
            train_counts=TRAIN_COUNTS,
        )

    def read(self, progress: Progress | None) -> Tensors:
        """Photos in the order of their class and file name, whatever their order in the archive."""
        import torch

        from ham_core.data.decode import decode_all

        path = self.place(self.archives[0])
        photos: dict[str, dict[tuple[str, str], bytes]] = {"train": {}, "val": {}}
        with tarfile.open(path) as tar:
            for member in tar:
                *_, part, wnid, file = ("", "", *PurePosixPath(member.name).parts)
                stream = tar.extractfile(member) if part in photos and file.endswith(".JPEG") else None
                if stream is not None:
                    photos[part][wnid, file] = stream.read()
        found = []
        for part, content in photos.items():
            same_classes(path, sorted({wnid for wnid, _ in content}), tuple(WNIDS))
            order = sorted(content)
            images, broken = decode_all(
                order, content.__getitem__, self.size, keep_aspect=self.keep_aspect, progress=progress
            )
            if broken:
                raise RequestError(
                    [
                        f"data: cannot decode the photo {part}/{wnid}/{file} in {path} ({reason}); get the archive again"
                        for (wnid, file), reason in broken
                    ]
                )
            numbers = list(WNIDS)
            found += [images, torch.tensor([numbers.index(wnid) for wnid, _ in order])]
        return Tensors(*found)


class Imagenette64(Imagenette32):
    """The middle square, 64x64."""

    name = "imagenette64"
    size = 64
    keep_aspect = True
    treatment = "middle64"


class Imagenette128(Imagenette32):
    """The middle square, 128x128."""

    name = "imagenette128"
    size = 128
    keep_aspect = True
    treatment = "middle128"
