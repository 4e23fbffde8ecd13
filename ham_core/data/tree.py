"""A folder of class folders: which pictures there are, and the digests of their content.

    FOLDER/train/<class>/*    FOLDER/test/<class>/*    PNG or JPEG; hidden files and Thumbs.db are ignored.

Classes are numbered in the order of their names, pictures in the order of their file names: the order in which training sees
them. A digest covers exactly that, class numbers and file contents in order, and no name, place or time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ham_core.data.places import cache_folder, written
from ham_core.data.source import Progress
from ham_core.errors import RequestError
from ham_core.seals import opened, sealed

PARTS = ("train", "test")
JPEG = frozenset({".jpg", ".jpeg"})
PICTURES = JPEG | {".png"}
CHUNK = 500  # pictures per task of the thread pool

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Tree:
    """The pictures of each part: (class index, path relative to root), in order; and what shows whether they changed."""

    root: Path
    classes: tuple[str, ...]
    pictures: dict[str, list[tuple[int, str]]]
    manifest: str  # sha256 over place, name, size and times of every file

    @property
    def jpeg(self) -> bool:
        """Whether all pictures are JPEG."""
        return all(_suffix(path) in JPEG for part in PARTS for _, path in self.pictures[part])


def scan(folder: str | Path) -> Tree:
    """List the pictures without opening them; RequestError with all that is wrong with the folder."""
    root = Path(folder).expanduser().resolve()
    layout = "pictures lie in FOLDER/train/<class>/ and FOLDER/test/<class>/"
    if not root.is_dir():
        raise RequestError(f"data: there is no folder {root}; {layout}")
    absent = [part for part in PARTS if not (root / part).is_dir()]
    if absent:
        raise RequestError(f"data: {root} has no folder {' and no folder '.join(absent)}; {layout}")
    manifest = hashlib.sha256(os.fsencode(root))
    stray: list[str] = []
    try:
        found = {part: _list(root, part, manifest, stray) for part in PARTS}
    except OSError as error:
        raise RequestError(f"data: cannot list {error.filename} ({error.strerror})") from error
    problems = _problems(root, found, stray)
    if problems:
        raise RequestError(problems)
    classes = tuple(sorted(found["train"]))
    pictures = {
        part: [(c, path) for c, name in enumerate(classes) for path in found[part][name]] for part in PARTS
    }
    return Tree(root, classes, pictures, manifest.hexdigest())


def _list(root: Path, part: str, manifest: hashlib._Hash, stray: list[str]) -> dict[str, list[str]]:
    """class name -> paths of its pictures. Adds each to the manifest, and whatever is no picture to `stray`."""
    found: dict[str, list[str]] = {}
    for folder in _visible(root / part):
        if not folder.is_dir():
            stray.append(folder.path)
            continue
        found[folder.name] = []
        known: list[str] = []  # hashed at once: one call per picture takes as long as looking at it
        for picture in _visible(folder.path):
            if _suffix(picture.name) not in PICTURES or not picture.is_file():
                stray.append(picture.path)
                continue
            path, status = f"{part}/{folder.name}/{picture.name}", picture.stat()
            # The change time too: a copy that keeps the modification time is still another file.
            known.append(f"\0{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}")
            found[folder.name].append(path)
        manifest.update(os.fsencode("".join(known)))
    return found


def _problems(root: Path, found: dict[str, dict[str, list[str]]], stray: list[str]) -> list[str]:
    """A sentence for each thing that keeps the pictures from being a data set."""
    problems = [
        f"data: the class folder {root / part / name} holds no picture; allowed: .png, .jpg, .jpeg"
        for part in PARTS
        for name, paths in found[part].items()
        if not paths
    ]
    if stray:
        more = f" and {len(stray) - 3} more" if len(stray) > 3 else ""
        problems.append(
            f"data: {', '.join(stray[:3])}{more}: no PNG or JPEG file in a class folder; move it out of {root}"
        )
    for part, other in (PARTS, PARTS[::-1]):
        only = sorted(set(found[part]) - set(found[other]))
        if only:
            problems.append(
                f"data: {root} has classes in {part}/ that {other}/ lacks: {', '.join(only)}; "
                "both need the same class folders"
            )
    if not problems and len(found["train"]) < 2:
        number = len(found["train"])
        problems.append(f"data: {root}/train has {number} class folders; a classifier needs at least 2")
    return problems


def content_digests(tree: Tree, progress: Progress | None = None) -> dict[str, str]:
    """sha256 of each part's class numbers and file contents. Reads every file once; then remembered until one changes."""
    memory = cache_folder() / "digests" / f"{tree.manifest}.json"
    try:
        remembered = opened(memory.read_bytes())
        return {part: str(remembered[part]) for part in PARTS}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # first time, or damaged: hash again
    total = sum(len(tree.pictures[part]) for part in PARTS)
    done = 0
    digests: dict[str, str] = {}

    def hashed(chunk: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        return [(c, _hash(tree.root / path)) for c, path in chunk]

    for part in PARTS:
        whole = hashlib.sha256()
        for hashes in in_threads(hashed, tree.pictures[part]):
            for c, content in hashes:
                whole.update(f"{c} {content}\n".encode())
            done += len(hashes)
            if progress:
                progress("hashing pictures", done, total)
        digests[part] = whole.hexdigest()
    try:
        with written(memory) as temporary:
            temporary.write_bytes(sealed(digests))
    except OSError:
        pass  # a cache that cannot be written costs time, nothing else
    return digests


def in_threads(work: Callable[[Sequence[B]], A], pictures: Sequence[B]) -> Iterator[A]:
    """work(chunk) of all pictures, in order; threads suffice because reading and decoding release Python's lock."""
    chunks = [pictures[i : i + CHUNK] for i in range(0, len(pictures), CHUNK)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(work, chunks)


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise RequestError(f"data: cannot read {path} ({error.strerror})") from error


def _suffix(path: str) -> str:
    """`.png` of `a/b.PNG`; a tenth of the time of os.path, which counts for 60,000 names."""
    _, dot, end = path.rpartition(".")
    return dot + end.lower()


def _visible(folder: str | Path) -> list[os.DirEntry[str]]:
    """The entries that a person put there, in the order of their names."""
    with os.scandir(folder) as entries:
        return sorted(
            (
                e
                for e in entries
                if not e.name.startswith(".") and e.name.lower() not in {"thumbs.db", "desktop.ini"}
            ),
            key=lambda e: e.name,
        )
