"""Data sets by name, and folders of class folders by path. Light: planning imports this.

Adding a data set is one new file and one line in INDEX. Other people's packages join through the entry-point group
`ham_sweeps.data`; the value is a `Source`, or a class or function without arguments that returns one.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ham_core.data.places import cache_folder
from ham_core.data.source import Facts, Source
from ham_core.errors import RequestError, known
from ham_core.plugins import entry_points

if TYPE_CHECKING:
    from ham_core.config import Data

INDEX = {
    "cifar10": "ham_core.data.cifar10:Cifar10",
    "cifar100": "ham_core.data.cifar100:Cifar100",
    "digits": "ham_core.data.digits:Digits",
    "imagenette32": "ham_core.data.imagenette:Imagenette32",
    "imagenette64": "ham_core.data.imagenette:Imagenette64",
    "imagenette128": "ham_core.data.imagenette:Imagenette128",
    "stl10": "ham_core.data.stl10:Stl10",
    "svhn": "ham_core.data.svhn:Svhn",
    "tiny-imagenet": "ham_core.data.tiny_imagenet:TinyImagenet",
}

__all__ = ["Facts", "describe", "facts", "find", "held_out_count", "names", "split_problems"]


@cache
def _places() -> dict[str, str]:
    """name -> `module:attribute` of every data set, ours and those of installed packages."""
    theirs = {point.name: point.value for point in entry_points(group="ham_sweeps.data")}
    return {**theirs, **INDEX}


def names() -> list[str]:
    """All data sets that can be asked for by name."""
    return sorted(_places())


def find(name: str | None = None, folder: str | None = None, size: int | None = None) -> Source:
    """The data set behind a name or a path. `size` (pixels) is the side to which a folder's pictures are resized."""
    if (name is None) == (folder is None):
        raise RequestError(
            f"data: give either a name or a folder, not {'both' if name else 'neither'}; {known('', names())}"
        )
    if folder is not None:
        return _by_path(folder, size)
    if name not in _places():
        raise RequestError(
            f"unknown data set {name!r}; {known(name, names())}; "
            "a folder with train/<class>/ and test/<class>/ is given by its path"
        )
    module, _, attribute = _places()[str(name)].partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:  # another package's entry point
        raise RequestError(
            f"data set {name!r} cannot be imported from {module}:{attribute} ({error})"
        ) from error
    source: Source = found() if isinstance(found, type) or not hasattr(found, "facts") else found
    height, width = source.facts().shape[1:]
    if size is not None and (size, size) != (height, width):
        raise RequestError(
            f"data.size: {size} cannot be chosen for {name!r}, whose images are {height}x{width}; "
            "leave size out, or give a folder"
        )
    return source


def _by_path(folder: str, size: int | None) -> Source:
    if size is not None and size < 1:
        raise RequestError(f"data.size: {size} is no number of pixels; allowed: 1 or more, for example 32")
    if Path(folder).suffix == ".pt":
        from ham_core.data.tensorfile import TensorFile

        return TensorFile(folder, size)
    from ham_core.data.folder import Folder

    return Folder(folder, size)


def facts(
    name: str | None = None, folder: str | None = None, size: int | None = None, label: str | None = None
) -> Facts:
    """What is known of a data set before its pixels are read; RequestError with a sentence where it cannot be used."""
    if folder is None or name is not None:
        return relabelled(find(name, folder, size).facts(), label, name)
    return relabelled(_facts_by_path(folder, size, _stamp(Path(folder).expanduser())), label, name)


@lru_cache
def _facts_by_path(folder: str, size: int | None, stamp: tuple[int, ...]) -> Facts:
    """One look at a folder serves every trial of a plan; listing 60,000 pictures takes 0.4 s."""
    return _by_path(folder, size).facts()


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes when a picture is added, removed or renamed, or when the cache moves. A picture overwritten in place while
    a plan is made shows when it is loaded: `load` always looks at every file."""
    try:
        inner = [path / part for part in ("train", "test")]
        inner += [p for part in inner if part.is_dir() for p in sorted(part.iterdir())]
        return (hash(cache_folder()), *(p.stat().st_mtime_ns for p in [path, *inner] if p.exists()))
    except OSError:
        return ()  # the listing that follows says what cannot be read


def relabelled(found: Facts, label: str | None, name: str | None) -> Facts:
    """The facts under another label; no other data set can take the label of a published one."""
    if label is None or label == found.label:
        return found
    if not 0 < len(label.strip()) <= 200:  # it names an MLflow experiment and stands in tables
        raise RequestError(
            f"data.label: {label[:30]!r} has {len(label.strip())} letters; allowed: 1 to 200, for example 'photos'"
        )
    if label in names() and label != name:
        raise RequestError(
            f"data.label: {label!r} is the name of a published data set and {found.source} is not it; "
            f"choose another, for example '{label} (copy)'"
        )
    return replace(found, label=label)


def held_out_count(wanted: float, images: int) -> int:
    """How many of a class's images are held out: ceil(wanted * images) for a share below 1, else `wanted` itself."""
    if wanted >= 1:
        return int(wanted)
    return math.ceil(round(wanted * images, 9))  # 0.07 * 100 is 7.000000000000001 as a float


def split_problems(wanted: Iterable[Data], *, light: bool = False) -> list[str]:
    """A sentence for each of these settings that would leave a class without training images.

    `light`: only where the number of images per class is known without reading labels.
    """
    distinct = {
        (one.name, one.folder, one.size if one.folder else None, one.train_limit, one.validation)
        for one in wanted
    }
    problems = []
    for name, folder, size, limit, wanted_out in sorted(distinct, key=str):
        told = facts(name, folder, size)
        counts = told.train_counts
        if counts is None and not light:
            counts = tuple(find(name, folder, size).load().train_labels.bincount().tolist())
        if counts is None or wanted_out == 0:
            continue
        most = max(counts) if limit is None else math.ceil(limit / len(told.classes))
        for title, present in zip(
            told.classes, counts, strict=False
        ):  # the loading says what labels are wrong
            kept = min(present, most)
            if held_out_count(wanted_out, kept) >= kept:
                cause = "" if limit is None or kept == present else f" that data.train_limit: {limit} keeps"
                remedy = "a larger data.train_limit" if cause else "more images"
                problems.append(
                    f"data.validation: {wanted_out:g} of {told.source} holds out all {kept} training images of class "
                    f"'{title}'{cause}; choose a smaller one or {remedy}"
                )
                break
    return problems


def describe() -> list[dict[str, Any]]:
    """One row per data set for `ham data`: name, label, classes, shape, images, present, place."""
    rows = []
    for name in names():
        source = find(name)
        told = source.facts()
        rows.append(
            {
                "name": name,
                "label": told.label,
                "classes": list(told.classes),
                "shape": list(told.shape),
                "images": sum(told.images),
                "present": source.present(),
                "place": told.source,
            }
        )
    return rows
