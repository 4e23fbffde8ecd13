"""cifar10: 60,000 pictures of 32x32 pixels in ten classes. A. Krizhevsky, Learning Multiple Layers of Features, 2009.

The published archive is fetched once, its checksum compared, and its pixels kept in a tensor file. The data set's identity is
that checksum, so a plan needs no download.
"""

from __future__ import annotations

import hashlib
import pickle
import socket
import tarfile
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from ham_core.data import tensorfile
from ham_core.data.places import cache_folder
from ham_core.data.source import Facts, Progress, Tensors
from ham_core.errors import RequestError

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE = "cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3d95e74349a"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PATIENCE = 15  # seconds to wait for a connection, and for each block of it


class Cifar10:
    """The published archive, in its standard split."""

    def facts(self) -> Facts:
        return Facts(
            name="cifar10",
            label="cifar10",
            classes=CLASSES,
            shape=(3, 32, 32),
            train_digest=f"md5:{MD5}-train",
            test_digest=f"md5:{MD5}-test",
            crop=4,
            flip=True,
            validation=0.02,
            source=str(self.archive),
            images=(50_000, 10_000),
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2471, 0.2435, 0.2616),
            train_counts=(5_000,) * len(CLASSES),
        )

    @property
    def archive(self) -> Path:
        return cache_folder() / "cifar10" / ARCHIVE

    @property
    def tensor_file(self) -> Path:
        return cache_folder() / "tensors" / f"cifar10-{MD5}.pt"

    def present(self) -> bool:
        return self.tensor_file.is_file() or self.archive.is_file()

    def ensure(self, progress: Progress | None = None) -> None:
        if not self.tensor_file.is_file():
            self._convert(progress)

    def load(self, progress: Progress | None = None) -> Tensors:
        self.ensure(progress)
        try:
            return tensorfile.read(self.tensor_file)
        except RequestError:  # a damaged cache: make it again from the archive
            self._convert(progress)
            return tensorfile.read(self.tensor_file)

    def _convert(self, progress: Progress | None) -> None:
        if not self.archive.is_file():
            download(self.archive)
        found = _md5(self.archive)
        if found != MD5:
            raise RequestError(
                f"data: {self.archive} is damaged or another file (md5 {found}, expected {MD5}); "
                f"delete it and download it again from {PAGE}"
            )
        tensorfile.write(self.tensor_file, read_archive(self.archive, progress), self.facts())


def download(archive: Path) -> None:
    """Fetch the archive with torchvision, which shows its progress and compares the checksum; one RequestError otherwise.

    torchvision waits for ever for a silent network and leaves half a file behind when it is stopped. So the address is tried
    first, every wait is limited, and the archive is moved into its place only when it is complete.
    """
    reason = _unreachable()
    if reason is None and find_spec("torchvision") is None:
        reason = "torchvision, which downloads it, is not installed"
    if reason is None:
        from torchvision.datasets.utils import download_url

        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archive.parent) as folder, _limited_waits():
            try:
                download_url(URL, folder, ARCHIVE, MD5)
                (Path(folder) / ARCHIVE).replace(archive)
                return
            except (OSError, RuntimeError) as error:
                reason = str(error)
    raise RequestError(
        f"data: cifar10 is not on this machine and cannot be downloaded ({reason}); put {ARCHIVE} from {PAGE} "
        f"at {archive}, or train on a folder with train/<class>/*.png and test/<class>/*.png by "
        "--set data=FOLDER (make sweep-cifar10 DATA=FOLDER)"
    )


def _unreachable() -> str | None:
    """Why the address cannot be reached, or None. Looking up a host name knows no time limit, hence the thread."""
    answer: list[str | None] = [f"no answer within {PATIENCE} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(URL, method="HEAD"), timeout=PATIENCE):
                answer[0] = None
        except OSError as error:  # URLError, timeouts, refused connections, HTTP errors
            answer[0] = str(getattr(error, "reason", None) or error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answer[0]


@contextmanager
def _limited_waits() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_archive(archive: Path, progress: Progress | None = None) -> Tensors:
    """The archive's pixels: five training batches in order, then the test batch."""
    import numpy as np
    import torch

    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    batches: dict[str, dict[str, Any]] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            stream = tar.extractfile(member) if name in names else None
            if stream is not None:
                batches[name] = _Batch(stream).load()
                if progress:
                    progress("reading cifar10", len(batches), len(names))

    def gather(some: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        images = np.concatenate([np.asarray(batches[n]["data"], dtype=np.uint8) for n in some]).reshape(
            -1, 3, 32, 32
        )
        labels = np.concatenate([np.asarray(batches[n]["labels"], dtype=np.int64) for n in some])
        return torch.from_numpy(images), torch.from_numpy(labels)

    return Tensors(*gather(names[:-1]), *gather(names[-1:]))


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


def _md5(path: Path) -> str:
    """MD5 as a checksum, as published; not for security."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
