"""Small archives, laid out byte for byte as the published ones: same names, members, encodings and label conventions."""

from __future__ import annotations

import functools
import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ham_core.data import cifar100, imagenette, index, stl10, tiny_imagenet
from ham_core.data.cifar10 import CLASSES
from ham_core.data.published import Published

NAMES = (
    "cifar10",
    "cifar100",
    "imagenette32",
    "imagenette64",
    "imagenette128",
    "stl10",
    "svhn",
    "tiny-imagenet",
)


def published(name: str) -> Published:
    source = index.find(name)
    assert isinstance(source, Published)
    return source


def make(name: str) -> Published:
    """Write the miniature of a data set where its archives belong, and take its checksums for the published ones."""
    source = published(name)
    for archive in source.archives:
        source.place(archive).parent.mkdir(parents=True, exist_ok=True)
    WRITERS[source.folder or source.name](*(source.place(archive) for archive in source.archives))
    accept(name)
    return source


def accept(name: str) -> None:
    """From now on the archives that lie there are the published ones, in this process."""
    source = published(name)
    places = [source.place(archive) for archive in source.archives]
    type(source).archives = tuple(
        replace(archive, md5=md5(place), size=place.stat().st_size)
        for archive, place in zip(source.archives, places, strict=True)
    )


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def pixels(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# CIFAR -------------------------------------------------------------------------------------------------------------


class Python2(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Pickles as Python 2 did, protocol 2: text and bytes are both byte strings."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)

    def save_text(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        short = len(data) < 256
        self.write((b"U" + bytes([len(data)]) if short else b"T" + len(data).to_bytes(4, "little")) + data)
        self.memoize(text)

    dispatch = {**pickle._Pickler.dispatch, str: save_text, bytes: save_text}  # type: ignore[attr-defined]


def python2(value: Any) -> bytes:
    stream = io.BytesIO()
    Python2(stream).dump(value)
    return stream.getvalue().replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )  # as NumPy 1 was laid out


def add(tar: tarfile.TarFile, name: str, contents: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(contents)
    tar.addfile(member, io.BytesIO(contents))


def write_tar(path: Path, folder: str, members: Iterable[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        top = tarfile.TarInfo(folder)
        top.type = tarfile.DIRTYPE
        tar.addfile(top)
        for name, contents in members:
            add(tar, f"{folder}/{name}", contents)


def write_cifar10(path: Path) -> None:
    """Five training batches of ten pictures, one per class, and a test batch; pixels(i, 10, 3072) of batch i, test: 6."""
    members = [
        ("batches.meta", python2({"num_cases_per_batch": 10, "label_names": list(CLASSES), "num_vis": 3072}))
    ]
    for i, name in ((4, "data_batch_4"), (6, "test_batch"), *((i, f"data_batch_{i}") for i in (3, 2, 5, 1))):
        batch = {
            "batch_label": f"training batch {i} of 5",
            "labels": list(range(10)),
            "data": pixels(i, 10, 3072),
            "filenames": [f"{i}_{k}.png" for k in range(10)],
        }
        members.append((name, python2(batch)))
    write_tar(path, "cifar-10-batches-py", [*members, ("readme.html", b"<html>")])


def write_cifar100(path: Path) -> None:
    """Two training pictures and one test picture of each class, last class first:
    pixels(1, 200, 3072), pixels(2, 100, 3072)."""
    members = []
    for seed, name, rounds in ((2, "test", 1), (1, "train", 2)):
        fine = list(range(99, -1, -1)) * rounds
        batch = {
            "filenames": [f"{k}.png" for k in range(len(fine))],
            "batch_label": f"{name}ing batch 1 of 1",
            "fine_labels": fine,
            "coarse_labels": [c // 5 for c in fine],
            "data": pixels(seed, len(fine), 3072),
        }
        members.append((name, python2(batch)))
    names = {
        "fine_label_names": list(cifar100.CLASSES),
        "coarse_label_names": [f"group {k}" for k in range(20)],
    }
    write_tar(path, "cifar-100-python", [("file.txt~", b""), ("meta", python2(names)), *members])


# SVHN, STL-10 ------------------------------------------------------------------------------------------------------


def write_svhn(train: Path, test: Path) -> None:
    """MATLAB 5 files: X (32,32,3,N), y (N,1) in 1..10, 10 for the digit 0; unbalanced. pixels(1 or 2, 32, 32, 3, N)."""
    from scipy.io import savemat

    for seed, path, labels in (
        (1, train, [10, *range(1, 11), 1, 1, 5, *range(1, 11)]),
        (2, test, [*range(10, 0, -1), 1, 1]),
    ):
        x = pixels(seed, 32, 32, 3, len(labels))
        savemat(path, {"X": x, "y": np.array(labels, dtype=np.uint8)[:, None]}, do_compression=True)


def write_stl10(path: Path) -> None:
    """Two training pictures and one test picture of each class: pixels(1, 20, 3, 96, 96) and pixels(2, 10, 3, 96, 96), each
    channel column by column."""
    labels = np.arange(1, 11, dtype=np.uint8)
    files = {
        "test_X.bin": pixels(2, 10, 3, 96, 96).tobytes(),
        "test_y.bin": labels[::-1].tobytes(),
        "train_X.bin": pixels(1, 20, 3, 96, 96).tobytes(),
        "train_y.bin": np.tile(labels, 2).tobytes(),
        "unlabeled_X.bin": pixels(3, 1, 3, 96, 96).tobytes(),
        "class_names.txt": ("\n".join(stl10.CLASSES) + "\n").encode(),
        "fold_indices.txt": b"0 1 2\n" * 10,
    }
    write_tar(path, "stl10_binary", files.items())


# ImageNette, Tiny-ImageNet -----------------------------------------------------------------------------------------


def jpeg(seed: int, size: tuple[int, int], mode: str = "RGB") -> bytes:
    """A smooth random picture, as JPEG."""
    coarse = Image.fromarray(pixels(seed, 6, 5, 3)).resize(size, Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    coarse.convert(mode).save(stream, format="JPEG", quality=90)
    return stream.getvalue()


@functools.cache
def imagenette_files() -> dict[str, bytes]:
    """Two training photos and one val photo of each class, of various shapes, the shorter side 160; one grey, one CMYK."""
    files = {}
    for c, wnid in enumerate(imagenette.WNIDS):
        wide, tall = (160 + 13 * c, 160) if c % 2 else (160, 160 + 21 * c)
        files[f"train/{wnid}/ILSVRC2012_val_0000{c}.JPEG"] = jpeg(
            3 * c, (wide, tall), "L" if c == 4 else "RGB"
        )
        files[f"train/{wnid}/{wnid}_10026.JPEG"] = jpeg(3 * c + 1, (tall, wide), "CMYK" if c == 7 else "RGB")
        files[f"val/{wnid}/{wnid}_{c}40.JPEG"] = jpeg(3 * c + 2, (wide, tall))
    return files


def write_imagenette(path: Path) -> None:
    files = imagenette_files()
    shuffled = [*reversed(files.items()), ("noisy_imagenette.csv", b"path,noisy_labels_0\n")]
    write_tar(path, "imagenette2-160", shuffled)


@functools.cache
def tiny_files() -> dict[str, bytes]:
    """Two training photos and one val photo of each of the 200 classes; one is grey. Val photos are numbered backwards."""
    wnids = list(tiny_imagenet.WNIDS)
    files, lines = {}, []
    for c, wnid in enumerate(wnids):
        for i in (10, 2):
            files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(
                1000 * i + c, (64, 64), "L" if c == i == 10 else "RGB"
            )
        files[f"train/{wnid}/{wnid}_boxes.txt"] = f"{wnid}_2.JPEG\t0\t10\t63\t58\n".encode()
        files[f"val/images/val_{199 - c}.JPEG"] = jpeg(5000 + c, (64, 64))
        lines.append(f"val_{199 - c}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    files["val/val_annotations.txt"] = "".join(reversed(lines)).encode()
    files["test/images/test_0.JPEG"] = jpeg(1, (64, 64))
    files["wnids.txt"] = "\n".join(reversed(wnids)).encode()
    files["words.txt"] = "".join(f"{wnid}\t{name}\n" for wnid, name in tiny_imagenet.WNIDS.items()).encode()
    return files


def write_tiny(path: Path, without: str = "") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for folder in ("", "train/", "val/", "val/images/", "test/"):
            archive.writestr(f"tiny-imagenet-200/{folder}", b"")
        for name, contents in reversed(tiny_files().items()):
            if name != without:
                archive.writestr(f"tiny-imagenet-200/{name}", contents)


WRITERS: dict[str, Callable[..., None]] = {
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "imagenette": write_imagenette,
    "stl10": write_stl10,
    "svhn": write_svhn,
    "tiny-imagenet": write_tiny,
}
