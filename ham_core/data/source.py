"""What every data set says about itself, and what it must be able to do. Light: planning imports this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[str, int, int], None]
"""progress(what, done, total) while something slow happens, for example ("decoding", 1200, 60000); total 0: nobody knows."""


@dataclass(frozen=True)
class Facts:
    """Everything a plan needs to know of a data set, known without decoding a pixel."""

    name: str
    label: str  # for people; also the name of the MLflow experiment
    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # C, H, W
    train_digest: str  # identity of the training pixels and labels: part of a trial's fingerprint
    test_digest: (
        str  # identity of the test pixels, labels and class names: part of an evaluation's fingerprint
    )
    crop: int  # default padding of the random crop, pixels
    flip: bool  # default of the random horizontal flip
    validation: float  # default of data.validation: the share of each class that is held out
    source: str  # where the pixels are
    images: tuple[int, int]  # number of training and of test images
    mean: tuple[float, ...] | None = None  # published channel statistics, pixels in [0,1];
    std: tuple[float, ...] | None = None  # None: computed from the training images
    train_counts: tuple[int, ...] | None = None  # training images of each class; None: in the labels only


class Tensors(NamedTuple):
    """All pixels of a data set: images uint8 (N,C,H,W), labels int64 (N,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


class Source(Protocol):
    """A data set. Its module imports no torch, NumPy or scikit-learn at the top; `load` may.

    It may also have `problems(progress) -> list[str]`: a sentence for each file of it that is missing or damaged.
    """

    def facts(self) -> Facts:
        """Light: file system and hashes only. RequestError where the data set cannot be described."""

    def present(self) -> bool:
        """Whether `load` needs neither network nor conversion."""

    def ensure(self, progress: Progress | None = None) -> None:
        """Fetch or convert what is missing, once, before any trial starts. RequestError where that is impossible."""

    def load(self, progress: Progress | None = None) -> Tensors:
        """The pixels, on the CPU."""
