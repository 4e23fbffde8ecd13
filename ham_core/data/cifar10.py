"""cifar10: 60,000 pictures of 32x32 pixels in ten classes. A. Krizhevsky, Learning Multiple Layers of Features, 2009."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path
from typing import IO, Any

from ham_core.data.download import Archive
from ham_core.data.published import Published, of_archive, same_classes
from ham_core.data.source import Facts, Progress, Tensors

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))


class Cifar10(Published):
    """The published archive, in its standard split."""

    name = "cifar10"
    page = "https://www.cs.toronto.edu/~kriz/cifar.html"
    archives = (
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
            size=170_498_071,
        ),
    )
    without = (
        "train on a folder with train/<class>/*.png and test/<class>/*.png by --set data=FOLDER "
        "(make sweep-cifar10 DATA=FOLDER)"
    )

    def facts(self) -> Facts:
        return Facts(
            name="cifar10",
            label="cifar10",
            classes=CLASSES,
            shape=(3, 32, 32),
            train_digest=self.digest("train"),
            test_digest=self.digest("test"),
            crop=4,
            flip=True,
            validation=0.02,
            source=self.source,
            images=(50_000, 10_000),
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2471, 0.2435, 0.2616),
            train_counts=(5_000,) * len(CLASSES),
        )

    def read(self, progress: Progress | None) -> Tensors:
        return read_batches(
            self.place(self.archives[0]), TRAIN, "test_batch", "batches.meta", CLASSES, "", progress
        )


def read_batches(
    path: Path,
    train: tuple[str, ...],
    test: str,
    meta: str,
    classes: tuple[str, ...],
    kind: str,
    progress: Progress | None,
) -> Tensors:
    """The pixels of a CIFAR archive: the training batches in order, then the test batch.

    kind: "" for `labels` and `label_names`, "fine_" for `fine_labels` and `fine_label_names`. A row of `data` is one picture,
    (3,32,32), uint8.
    """
    import numpy as np
    import torch

    wanted = (*train, test, meta)
    found: dict[str, Any] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            name = Path(member.name).name
            stream = tar.extractfile(member) if name in wanted else None
            if stream is not None:
                found[name] = _Batch(stream).load()
                if progress:
                    progress(f"reading {path.name}", len(found), len(wanted))
    of_archive(path, wanted, found)
    same_classes(path, found[meta][f"{kind}label_names"], classes)

    def gather(*some: str) -> tuple[torch.Tensor, torch.Tensor]:
        images = [np.asarray(found[name]["data"], dtype=np.uint8) for name in some]
        labels = [np.asarray(found[name][f"{kind}labels"], dtype=np.int64) for name in some]
        return torch.from_numpy(np.concatenate(images).reshape(-1, 3, 32, 32)), torch.from_numpy(
            np.concatenate(labels)
        )

    return Tensors(*gather(*train), *gather(test))


class _Batch(pickle.Unpickler):
    """Reads a pickled batch: plain values and NumPy arrays, nothing that could run code of the file."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream, encoding="latin1")  # written by Python 2

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np

        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]  # its module was renamed in NumPy 2
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes in Python 2's form
            import codecs

            return codecs.encode
        raise pickle.UnpicklingError(f"{module}.{name} is not expected in an archive of images")
