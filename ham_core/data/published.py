"""A published data set: archives with a checksum, fetched once, and decoded once into a tensor file.

The data set's identity is the checksum of what was published and, where pixels are resized, how. So a plan needs no download.
Archives are read as they are: nothing is unpacked to disk (STL-10's unlabelled images would take 2.8 GB), and no code in a
pickle runs. The tests hold every reader equal to torchvision's on the same bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from ham_core.data import tensorfile
from ham_core.data.download import Archive, NotFetched, download
from ham_core.data.places import alone, cache_folder
from ham_core.data.source import Facts, Progress, Tensors
from ham_core.errors import RequestError


class Published(ABC):
    """What the published data sets share. A subclass names its archives, states its facts and reads its pixels."""

    name: str
    page: str  # where people find it
    archives: tuple[Archive, ...]
    folder: str = ""  # below the cache folder; default: the name
    treatment: str = ""  # what is done to the pixels beyond reading them, as a word of the identity
    without: str = ""  # what else can be done where it cannot be had, added to that sentence

    @abstractmethod
    def facts(self) -> Facts:
        """Light: constants and paths."""

    @abstractmethod
    def read(self, progress: Progress | None) -> Tensors:
        """The pixels of the archives, which are there and whole."""

    @property
    def identity(self) -> str:
        """The published checksums and the treatment, for example `c58f3010...`, or `e793b78c...-crop64`."""
        return "-".join(
            [archive.md5 for archive in self.archives] + ([self.treatment] if self.treatment else [])
        )

    def digest(self, part: str) -> str:
        """The identity of the `train` or `test` images."""
        return f"md5:{self.identity}-{part}"

    def place(self, archive: Archive) -> Path:
        """Where the archive is kept, and where a file brought by hand belongs."""
        return cache_folder() / (self.folder or self.name) / archive.name

    @property
    def source(self) -> str:
        """Where the pixels come from, for people: the archive, or the folder of several."""
        places = [self.place(archive) for archive in self.archives]
        return str(places[0] if len(places) == 1 else places[0].parent)

    @property
    def tensor_file(self) -> Path:
        return cache_folder() / "tensors" / f"{self.name}-{self.identity}.pt"

    def present(self) -> bool:
        return self.tensor_file.is_file() or all(self.place(archive).is_file() for archive in self.archives)

    def ensure(self, progress: Progress | None = None) -> None:
        if not self.tensor_file.is_file():
            with alone(self.tensor_file, progress):
                if not self.tensor_file.is_file():  # made while we waited
                    self._convert(progress)

    def load(self, progress: Progress | None = None) -> Tensors:
        self.ensure(progress)
        try:
            return tensorfile.read(self.tensor_file)
        except RequestError:  # a damaged cache: make it again from the archives
            with alone(self.tensor_file, progress):
                self._convert(progress)
            return tensorfile.read(self.tensor_file)

    def problems(self, progress: Progress | None = None) -> list[str]:
        """A sentence for each file on this machine that is not what it should be, and one where there is none."""
        found = []
        for archive in self.archives:
            if self.place(archive).is_file():
                if progress:
                    progress(f"comparing the checksum of {archive.name}", 0, 0)
                found += self._damage(archive)
            elif not self.tensor_file.is_file():
                found.append(
                    f"data: {self.name} is not on this machine: there is no {self.place(archive)}; "
                    f"run `ham data fetch {self.name}`, or put {archive.name} (md5 {archive.md5}) from {self.page} there"
                )
        if self.tensor_file.is_file():
            found += tensorfile.damage(self.tensor_file)
        return found

    def _convert(self, progress: Progress | None) -> None:
        for archive in self.archives:
            place = self.place(archive)
            with alone(place, progress):  # several data sets can share one archive
                if not place.is_file():
                    self._fetch(archive, place, progress)
            damage = self._damage(archive)
            if damage:
                raise RequestError(damage)
        try:
            tensors = self.read(progress)
        except RequestError:
            raise
        except Exception as error:  # decoders raise many kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RequestError(f"data: {self.source} cannot be read as {self.name} ({reason})") from error
        tensorfile.write(self.tensor_file, tensors, self.facts())

    def _fetch(self, archive: Archive, place: Path, progress: Progress | None) -> None:
        try:
            download(archive, place, progress)
        except (NotFetched, OSError) as error:
            also = f", or {self.without}" if self.without else ""
            raise RequestError(
                f"data: {self.name} is not on this machine and cannot be downloaded ({error}); "
                f"put {archive.name} (md5 {archive.md5}) from {self.page} at {place}{also}"
            ) from error

    def _damage(self, archive: Archive) -> list[str]:
        place = self.place(archive)
        fault = archive.fault(place)
        if fault is None:
            return []
        return [
            f"data: {place} is {fault}; delete it and run `ham data fetch {self.name}`, or get it again from {self.page}"
        ]


def of_archive(path: Path, wanted: tuple[str, ...], found: dict[str, bytes]) -> dict[str, bytes]:
    """`found`, if it holds every wanted member of the archive; else RequestError with those that are missing."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise RequestError(f"data: {path} does not hold {', '.join(missing)}")
    return found


def same_classes(path: Path, written: list[str], known: tuple[str, ...]) -> None:
    """RequestError where the archive's own list of classes is not the one that we number labels by."""
    if tuple(written) != known:
        raise RequestError(
            f"data: {path} lists the classes {', '.join(written[:5])}, ...; expected {', '.join(known[:5])}, ..."
        )
