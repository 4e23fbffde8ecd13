"""From all pixels of a data set to the three splits of a trial."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ham_core.data.index import held_out_count
from ham_core.data.source import Facts, Tensors
from ham_core.errors import RequestError


@dataclass(frozen=True)
class Split:
    """images uint8 (N,C,H,W) and labels int64 (N,), on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor, device: str | torch.device) -> Split:
        """The images at `index`, in that order; all of them without a copy."""
        everything = torch.equal(index, torch.arange(len(self)))
        images, labels = self.images, self.labels
        if not everything:  # index_select copies whole pictures: six times as fast as images[index]
            images, labels = images.index_select(0, index), labels.index_select(0, index)
        return Split(images.to(device), labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """What a trial sees. mean and std are per channel, pixels in [0,1], of all training images before any split."""

    train: Split
    validation: Split
    test: Split
    facts: Facts
    mean: tuple[float, ...]
    std: tuple[float, ...]
    held_out: str = ""  # sha256 over which of the data set's training images are held out, as int64, little-endian, rising

    @property
    def classes(self) -> tuple[str, ...]:
        return self.facts.classes


def first_per_class(labels: Tensor, limit: int | None) -> Tensor:
    """Indices, in original order, of the first ceil(limit / C) images of each of the C classes; None: all."""
    if limit is None:
        return torch.arange(len(labels))
    classes = labels.unique()
    count = math.ceil(limit / len(classes))
    return torch.cat([(labels == c).nonzero().flatten()[:count] for c in classes]).sort().values


def held_out(labels: Tensor, wanted: float, seed: int) -> Tensor:
    """A mask (N,): of each class c with n_c images, ceil(wanted * n_c), or from 1 on `wanted`, chosen by `seed` alone."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    if wanted == 0:
        return mask
    generator = np.random.default_rng(seed)
    for c in labels.unique():
        members = (labels == c).nonzero().flatten()
        count = held_out_count(wanted, len(members))
        if count >= len(members):
            raise RequestError(
                f"data.validation: {wanted:g} holds out all {len(members)} training images of class {int(c)}; "
                "choose a smaller share or number, or more images"
            )
        mask[members[torch.from_numpy(generator.permutation(len(members))[:count])]] = True
    return mask


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and (population) standard deviation per channel of uint8 (N,C,H,W), as pixels in [0,1].

    Counted in integers, so the result depends neither on the order nor on the number of threads. A channel without
    any contrast gets the standard deviation 1/255, so that dividing by it stays possible.
    """
    mean, std = [], []
    for c in range(images.shape[1]):
        counts = torch.zeros(256, dtype=torch.int64)  # how often each pixel value occurs in the channel
        for chunk in images[:, c].split(1024):
            counts += torch.bincount(chunk.flatten(), minlength=256)
        total = int(counts.sum())
        first = sum(v * n for v, n in enumerate(counts.tolist()))
        second = sum(v * v * n for v, n in enumerate(counts.tolist()))
        mean.append(first / total / 255)
        std.append(max(math.sqrt(second * total - first * first) / total, 1) / 255)
    return tuple(mean), tuple(std)


def divide(
    tensors: Tensors,
    facts: Facts,
    *,
    validation: float,
    split_seed: int,
    train_limit: int | None = None,
    test_limit: int | None = None,
    device: str | torch.device = "cpu",
) -> Dataset:
    """Limits first, then the held-out split; what remains keeps its order. torch's global generator is not touched."""
    if not (0 <= validation < 1 or (validation >= 1 and validation == int(validation))):
        raise RequestError(
            f"data.validation: {validation} is neither a share of each class, from 0 up to, but not including, 1, "
            "nor a whole number of images per class"
        )
    for key, limit in (("train_limit", train_limit), ("test_limit", test_limit)):
        if limit is not None and limit < 1:
            raise RequestError(
                f"data.{key}: {limit} leaves no image; allowed: 1 or more, or leave it out for all"
            )
    _check(tensors, facts)
    train = Split(tensors.train_images, tensors.train_labels)
    test = Split(tensors.test_images, tensors.test_labels)
    mean, std = (
        statistics(train.images) if facts.mean is None or facts.std is None else (facts.mean, facts.std)
    )
    kept = first_per_class(train.labels, train_limit)
    out = held_out(train.labels[kept], validation, split_seed)
    return Dataset(
        train=train.take(kept[~out], device),
        validation=train.take(kept[out], device),
        test=test.take(first_per_class(test.labels, test_limit), device),
        facts=facts,
        mean=mean,
        std=std,
        held_out=hashlib.sha256(kept[out].numpy().astype("<i8").tobytes()).hexdigest(),
    )


def _check(tensors: Tensors, facts: Facts) -> None:
    """RequestError where the pixels are not what the facts promise; other people's data sets come this way too."""
    problems = []
    for part in ("train", "test"):
        images, labels = getattr(tensors, f"{part}_images"), getattr(tensors, f"{part}_labels")
        if images.dtype != torch.uint8 or tuple(images.shape) != (len(labels), *facts.shape):
            problems.append(
                f"data: the {part} images of {facts.label!r} are {images.dtype} {tuple(images.shape)}; "
                f"expected torch.uint8 {(len(labels), *facts.shape)}"
            )
        present = labels.unique().tolist()
        if labels.dtype != torch.int64 or present != list(range(len(facts.classes))):
            problems.append(
                f"data: the {part} labels of {facts.label!r} are {labels.dtype} with the values {present[:20]}; "
                f"expected torch.int64 with all of 0..{len(facts.classes) - 1}"
            )
    if problems:
        raise RequestError(problems)
