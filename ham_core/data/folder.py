"""Any folder of class folders as a data set: `train/<class>/*` and `test/<class>/*`, PNG or JPEG, resized to size x size."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cached_property
from pathlib import Path

from ham_core.data import tensorfile
from ham_core.data.places import alone, cache_folder
from ham_core.data.source import Facts, Progress, Tensors
from ham_core.data.tree import Tree, content_digests, scan
from ham_core.errors import RequestError

SIZE = 32  # pixels; the CIFAR models' input


class Folder:
    """Pictures are decoded once, into a tensor file named by their digest."""

    def __init__(self, folder: str | Path, size: int | None = None) -> None:
        self.folder = folder
        self.size = SIZE if size is None else size

    @cached_property
    def tree(self) -> Tree:
        return scan(self.folder)

    @cached_property
    def _facts(self) -> Facts:
        content = content_digests(self.tree)
        train = _sha256(f"folder of class folders, RGB, {self.size}x{self.size}", content["train"])
        test = _sha256(
            f"folder of class folders, RGB, {self.size}x{self.size}", content["test"], *self.tree.classes
        )
        counts = Counter(c for c, _ in self.tree.pictures["train"])
        name = self.tree.root.name or "pictures"
        return Facts(
            name="folder",
            label=f"{name} (jpeg copy)" if self.tree.jpeg else f"{name} (folder)",
            classes=self.tree.classes,
            shape=(3, self.size, self.size),
            train_digest=train,
            test_digest=test,
            crop=max(1, self.size // 8),
            flip=True,
            validation=0.02,
            source=str(self.tree.root),
            images=(len(self.tree.pictures["train"]), len(self.tree.pictures["test"])),
            train_counts=tuple(counts[c] for c in range(len(self.tree.classes))),
        )

    def facts(self) -> Facts:
        return self._facts

    @property
    def tensor_file(self) -> Path:
        """Where the decoded pixels are; this file is itself a data set (`data: THIS.pt`) for a machine without decoder."""
        told = self.facts()
        return (
            cache_folder() / "tensors" / f"{_sha256(told.train_digest, told.test_digest)[:32]}-{self.size}.pt"
        )

    def present(self) -> bool:
        return self.tensor_file.is_file()

    def ensure(self, progress: Progress | None = None) -> None:
        if not self.present():
            with alone(self.tensor_file, progress):
                if not self.present():  # made while we waited
                    self._convert(progress)

    def load(self, progress: Progress | None = None) -> Tensors:
        self.ensure(progress)
        try:
            return tensorfile.read(self.tensor_file)
        except RequestError:  # a damaged cache: the pictures are still there
            with alone(self.tensor_file, progress):
                self._convert(progress)
            return tensorfile.read(self.tensor_file)

    def problems(self, progress: Progress | None = None) -> list[str]:
        """A sentence for each picture that cannot be decoded, and for decoded pixels that are damaged."""
        try:
            self.ensure(progress)
        except RequestError as error:
            return list(error.problems)
        return tensorfile.damage(self.tensor_file)

    def _convert(self, progress: Progress | None) -> None:
        from ham_core.data.decode import decode

        tensorfile.write(self.tensor_file, decode(self.tree, self.size, progress), self.facts())


def _sha256(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
