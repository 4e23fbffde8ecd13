"""Named data sets and any folder of class folders, as uint8 tensors on the device. Light until `load` is called.

`index.facts` describes a data set for planning, `ensure` fetches or converts it once, `load` gives a trial its splits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ham_core.data.index import describe, facts, find, names, relabelled, split_problems
from ham_core.data.places import cache_folder
from ham_core.data.source import Facts, Progress, Source, Tensors
from ham_core.errors import RequestError

if TYPE_CHECKING:
    import torch

    from ham_core.data.split import Dataset

__all__ = [
    "Facts",
    "Progress",
    "Source",
    "Tensors",
    "cache_folder",
    "check",
    "describe",
    "ensure",
    "facts",
    "find",
    "load",
    "names",
    "split_problems",
]


def ensure(
    name: str | None = None,
    folder: str | None = None,
    size: int | None = None,
    *,
    progress: Progress | None = None,
) -> None:
    """Download or decode what is missing, once, before any trial starts; RequestError where that is impossible."""
    find(name, folder, size).ensure(progress)


def check(
    name: str | None = None,
    folder: str | None = None,
    size: int | None = None,
    *,
    progress: Progress | None = None,
) -> list[str]:
    """A sentence for each thing wrong with what is on this machine: files, checksums, pictures, pixels. Fetches nothing."""
    from ham_core.data.split import divide

    source = find(name, folder, size)
    look = getattr(source, "problems", None)  # data sets of other packages can lack it
    found: list[str] = look(progress) if look else []
    if not found:
        try:
            divide(source.load(progress), source.facts(), validation=0, split_seed=0)
        except RequestError as error:
            found = list(error.problems)
    return found


def load(
    name: str | None = None,
    folder: str | None = None,
    size: int | None = None,
    label: str | None = None,
    *,
    device: str | torch.device = "cpu",
    validation: float,
    split_seed: int,
    train_limit: int | None = None,
    test_limit: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The splits of a trial: images uint8 (N,C,H,W), labels int64 (N,), on `device`.

    train_limit and test_limit keep the first ceil(limit / C) images of each of the C classes. Then ceil(validation * n_c)
    images of each class c are held out, or from 1 on `validation` images, chosen by `split_seed`; the rest stays in its
    original order.
    """
    from ham_core.data.split import divide
    from ham_core.data.tensorfile import with_statistics

    source = find(name, folder, size)
    told = relabelled(source.facts(), label, name)
    tensors = source.load(progress)
    decoded = getattr(source, "tensor_file", None)  # of those that decode pictures once
    return divide(
        tensors,
        told if decoded is None else with_statistics(told, decoded),
        validation=validation,
        split_seed=split_seed,
        train_limit=train_limit,
        test_limit=test_limit,
        device=device,
    )
