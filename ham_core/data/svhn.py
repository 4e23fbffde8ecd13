"""svhn: street view house numbers, 99,289 cropped digits of 32x32 pixels. Netzer et al., NIPS workshop 2011.

The `train` and `test` files; the easier half million of `extra` is not used, as in HAM's code. Neither split is balanced: the
test set holds 5,099 ones and 1,595 nines. Flipped in training although digits are not symmetric, since HAM's code does.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ham_core.data.download import Archive
from ham_core.data.published import Published
from ham_core.data.source import Facts, Progress, Tensors
from ham_core.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

TRAIN_COUNTS = (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659)


class Svhn(Published):
    """The two published files of cropped digits."""

    name = "svhn"
    page = "http://ufldl.stanford.edu/housenumbers/"
    archives = (
        Archive(
            "http://ufldl.stanford.edu/housenumbers/train_32x32.mat",
            md5="e26dedcc434d2e4c54c9b2d4a06d8373",
            size=182_040_794,
        ),
        Archive(
            "http://ufldl.stanford.edu/housenumbers/test_32x32.mat",
            md5="eb5a983be6a315427106f1b164d9cef3",
            size=64_275_384,
        ),
    )

    def facts(self) -> Facts:
        train, test = self.archives
        return Facts(
            name="svhn",
            label="svhn",
            classes=tuple("0123456789"),
            shape=(3, 32, 32),
            train_digest=f"md5:{train.md5}",
            test_digest=f"md5:{test.md5}",
            crop=4,
            flip=True,
            validation=0.02,
            source=self.source,
            images=(73_257, 26_032),
            train_counts=TRAIN_COUNTS,
        )

    def read(self, progress: Progress | None) -> Tensors:
        if find_spec("scipy") is None:
            raise RequestError(
                "data: the files of svhn are read with SciPy, which is not installed; pip install scipy"
            )
        parts: list[Tensor] = []
        for archive in self.archives:
            parts += read_mat(self.place(archive))
            if progress:
                progress("reading svhn", len(parts) // 2, len(self.archives))
        return Tensors(*parts)


def read_mat(path: Path) -> tuple[Tensor, Tensor]:
    """X (32,32,3,N) uint8 -> (N,3,32,32); y (N,1) in 1..10, where 10 stands for the digit 0, -> int64 (N,)."""
    import numpy as np
    import torch
    from scipy.io import loadmat

    found = loadmat(path, variable_names=["X", "y"])
    missing = [key for key in ("X", "y") if key not in found]
    if missing:
        raise RequestError(f"data: {path} does not hold {', '.join(missing)}")
    images = np.ascontiguousarray(found["X"].transpose(3, 2, 0, 1))
    labels = found["y"].astype(np.int64).reshape(-1) % 10
    return torch.from_numpy(images), torch.from_numpy(labels)
