"""Decoded pixels in one file: the cache of folders and archives, and a data set that needs no picture decoder.

    {train_images, test_images: uint8 (N,C,H,W); train_labels, test_labels: int64 (N,);
     classes: list of names; train_digest, test_digest, label: strings;
     mean, std: channel statistics, published or of all training images, lists of floats; in earlier versions also None}

written by torch.save. A plan needs only the names and shapes, so `header` reads them without torch, and without pixels.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ham_core.data.places import written
from ham_core.data.source import Facts, Progress, Tensors
from ham_core.errors import RequestError
from ham_core.seals import is_whole, write_tensors

TEXTS = ("train_digest", "test_digest", "label")


class TensorFile:
    """A data set given by the path of such a file."""

    def __init__(self, path: str | Path, size: int | None = None) -> None:
        self.path = Path(path).expanduser().resolve()
        self.size = size

    @cached_property
    def _facts(self) -> Facts:
        return self._checked(header(self.path))

    def facts(self) -> Facts:
        return self._facts

    def present(self) -> bool:
        return self.path.is_file()

    def ensure(self, progress: Progress | None = None) -> None:
        self.facts()

    def load(self, progress: Progress | None = None) -> Tensors:
        self.facts()
        return read(self.path)

    def problems(self, progress: Progress | None = None) -> list[str]:
        """A sentence if the file is damaged."""
        return damage(self.path) if self.present() else []

    def _checked(self, told: dict[str, Any]) -> Facts:
        wrong = [key for key in TEXTS if not isinstance(told.get(key), str)]
        wrong += [
            key
            for key, dimensions in zip(Tensors._fields, (4, 1, 4, 1), strict=True)
            if not isinstance(told.get(key), tuple) or len(told[key]) != dimensions
        ]
        if not isinstance(told.get("classes"), list | tuple):
            wrong.append("classes")
        if wrong:
            raise RequestError(
                f"data: {self.path} lacks, or has in another form, {', '.join(wrong)}; a .pt file of images "
                f"holds classes, {', '.join(TEXTS)}, {', '.join(Tensors._fields)}"
            )
        train, _, test, _ = (told[key] for key in Tensors._fields)
        if train[1:] != test[1:] or (self.size is not None and train[2:] != (self.size, self.size)):
            asked = f"; data.size asks for {self.size}" if self.size is not None else ""
            raise RequestError(
                f"data: {self.path} holds training images of {'x'.join(map(str, train[1:]))} and test images "
                f"of {'x'.join(map(str, test[1:]))} (C, H, W){asked}; all must agree"
            )
        return Facts(
            name="folder",
            label=told["label"],
            classes=tuple(map(str, told["classes"])),
            shape=train[1:],
            train_digest=told["train_digest"],
            test_digest=told["test_digest"],
            crop=max(1, train[2] // 8),
            flip=True,
            validation=0.02,
            source=str(self.path),
            images=(train[0], test[0]),
            mean=tuple(told["mean"]) if told.get("mean") else None,
            std=tuple(told["std"]) if told.get("std") else None,
        )


def write(path: Path, tensors: Tensors, facts: Facts) -> None:
    """One step from absent to complete, so that two trials at once cannot see half a file.

    Channel statistics that were not published are counted here, once: of 50,000 images they take as long as all other loading.
    """
    from ham_core.data.split import statistics

    if facts.mean is None or facts.std is None:
        mean, std = statistics(tensors.train_images)
        facts = replace(facts, mean=mean, std=std)
    contents = {
        **tensors._asdict(),
        "classes": list(facts.classes),
        **{key: getattr(facts, key) for key in TEXTS},
        **{key: list(getattr(facts, key)) for key in ("mean", "std")},
    }
    try:
        with written(path) as temporary, open(temporary, "wb") as file:
            write_tensors(contents, file)
    except OSError as error:
        raise RequestError(
            f"data: cannot write the decoded images to {path} ({error.strerror or error}); "
            "set HAM_DATA to a folder with space"
        ) from error


def with_statistics(facts: Facts, path: Path) -> Facts:
    """The facts with the channel statistics of the file, which is whole; unchanged where they are known, or it has none."""
    told = header(path) if facts.mean is None or facts.std is None else {}
    if not told.get("mean") or not told.get("std"):
        return facts
    return replace(facts, mean=tuple(told["mean"]), std=tuple(told["std"]))


def read(path: Path) -> Tensors:
    """The pixels, mapped from the file rather than copied: processes on one machine share them.

    Its checksums are compared first, at about 1 GB/s: a changed pixel would train another model under the same fingerprint.
    """
    import torch

    found = damage(path)
    if found:
        raise RequestError(found)
    try:
        contents = torch.load(path, weights_only=True, mmap=True)
        tensors = Tensors(*(contents[key] for key in Tensors._fields))
        kinds = [t.dtype for t in tensors]
    except Exception as error:  # torch raises many kinds for a damaged file
        raise _unreadable(path, error) from error
    if kinds != [torch.uint8, torch.int64] * 2:
        raise RequestError(
            f"data: {path} holds {', '.join(map(str, kinds))}; images must be uint8 and labels int64"
        )
    return tensors


def damage(path: Path) -> list[str]:
    """A sentence if the file is cut short, or a byte of it has changed since it was written: its own checksums say so."""
    if is_whole(path):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except Exception as error:  # damaged headers ask for what zipfile cannot do, in many ways
        return list(_unreadable(path, error).problems)
    reason = f"the checksum {'is' if member is None else f'of its {member} is'} wrong"
    return list(_unreadable(path, ValueError(reason)).problems)


def header(path: Path) -> dict[str, Any]:
    """What the file says, with each tensor replaced by its shape. Light: no torch, no pixels, and no code of the file runs."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            told = _Shapes(
                io.BytesIO(archive.read(pickled))
            ).load()  # read to its end, so its checksum is right
    except FileNotFoundError:
        raise RequestError(
            f"data: there is no file {path}; give a .pt file of images, or a folder of class folders"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise _unreadable(path, error) from error
    return dict(told) if isinstance(told, dict) else {}


class _Shapes(pickle.Unpickler):
    """Reads the index of a torch.save archive; knows tensors, as shapes, and plain values only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, *rest: tuple(shape)
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name.endswith("Storage"):
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is not expected in a file of images")

    def persistent_load(self, pid: Any) -> None:
        return None  # the storage of a tensor; its pixels stay on disk


def _unreadable(path: Path, error: Exception) -> RequestError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return RequestError(
        f"data: {path} is no readable .pt file of images ({reason}); "
        "delete it and make it again from the pictures"
    )
