"""digits: 1,797 handwritten digits of 8x8 pixels, real data that ships inside scikit-learn (`load_digits`).

E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998. Pixel counts 0..16 become round(255 v / 16).
Test split: of each class, every image whose index within the class is 3 modulo 4.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ham_core.data.source import Facts, Progress, Tensors
from ham_core.errors import RequestError

if TYPE_CHECKING:
    import numpy as np

TRAIN_DIGEST = "e903ca980a4f58cd106126b03cbf67a47f5f4f9fd92512d6487af937a95862cb"
TEST_DIGEST = "ac70f8bb0c7d0c08e2345b46e4156d7d5e4d8298a5851cbb03c75f17851a6428"
COLUMNS = 65  # of scikit-learn's file: 8x8 pixels and the class
TRAIN_COUNTS = (134, 137, 133, 138, 136, 137, 136, 135, 131, 135)


class Digits:
    """The embedded default: no download, ten classes, trained in seconds on a CPU."""

    def facts(self) -> Facts:
        return Facts(
            name="digits",
            label="digits",
            classes=tuple("0123456789"),
            shape=(1, 8, 8),
            train_digest=TRAIN_DIGEST,
            test_digest=TEST_DIGEST,
            crop=1,
            flip=False,
            validation=0.1,
            source="scikit-learn, sklearn.datasets.load_digits",
            images=(1352, 445),
            train_counts=TRAIN_COUNTS,
        )

    def present(self) -> bool:
        return _package() is not None

    def ensure(self, progress: Progress | None = None) -> None:
        self.place()

    def place(self) -> Path:
        """The file with the images. RequestError: there is no scikit-learn."""
        package = _package()
        if package is None:
            raise RequestError(
                "data: the images of 'digits' come with scikit-learn, which is not installed; "
                "pip install scikit-learn, or give a folder or a .pt file of images"
            )
        return package / "datasets" / "data" / "digits.csv.gz"

    def load(self, progress: Progress | None = None) -> Tensors:
        import numpy as np
        import torch

        table = _table(self.place())
        images = np.rint(table[:, :64].reshape(-1, 1, 8, 8) * 255 / 16).astype(np.uint8)
        labels = table[:, 64].astype(np.int64)
        within = np.zeros_like(labels)  # index of each image within its class
        for c in range(10):
            within[labels == c] = np.arange((labels == c).sum())
        test = within % 4 == 3
        for part, recorded in ((~test, TRAIN_DIGEST), (test, TEST_DIGEST)):
            if _digest(images[part], labels[part]) != recorded:
                raise RequestError(
                    "data: scikit-learn's digits differ from the images that 'digits' names "
                    f"(expected sha256 {recorded[:12]}); install an unchanged scikit-learn"
                )
        return Tensors(
            *(torch.from_numpy(a) for a in (images[~test], labels[~test], images[test], labels[test]))
        )


def _package() -> Path | None:
    """Where scikit-learn lies. Importing it costs a second and pandas, and its function only reads that one file."""
    found = find_spec("sklearn")
    return None if found is None or found.origin is None else Path(found.origin).parent


def _table(path: Path) -> np.ndarray:
    """(N,65) numbers: 64 pixel counts, then the class. RequestError: this is no such file."""
    import numpy as np

    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.array([line.split(",") for line in file], dtype=np.float64)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _unreadable(path, str(error)) from None
    if table.ndim != 2 or table.shape[1] != COLUMNS:
        raise _unreadable(path, f"not {COLUMNS} numbers a line")
    return table


def _unreadable(path: Path, reason: str) -> RequestError:
    return RequestError(
        f"data: scikit-learn's digits cannot be read from {path} ({reason}); install scikit-learn again"
    )


def _digest(images: object, labels: object) -> str:
    """sha256 over uint8 images (N,1,8,8) and little-endian int64 labels (N,)."""
    import numpy as np

    pixels = np.ascontiguousarray(images, dtype=np.uint8).tobytes()
    return hashlib.sha256(pixels + np.ascontiguousarray(labels, dtype="<i8").tobytes()).hexdigest()
