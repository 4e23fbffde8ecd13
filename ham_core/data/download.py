"""Fetching one published file: with progress, limited waits, and from where an earlier try stopped.

What has arrived lies beside the file's place as `NAME.part`, until it is complete and its checksum is the published one.
The next try asks the server for the rest (HTTP Range); a server that cannot do that sends everything again.

Differs from torchvision's `download_url`: that starts anew each time, and waits for ever for a silent network.
"""

from __future__ import annotations

import hashlib
import http.client
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ham_core.data.source import Progress

PATIENCE = 15  # seconds to wait for a connection, and for each block of it
BLOCK = 1 << 18  # bytes


@dataclass(frozen=True)
class Archive:
    """A published file: where it is, and what it must be."""

    url: str
    md5: str
    size: int | None = (
        None  # bytes, where it is known for sure; tells a file that is cut short from another file
    )

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    def fault(self, path: Path) -> str | None:
        """What is wrong with the file at `path`, in words; None: it is the published one."""
        found = md5(path)
        if found == self.md5:
            return None
        size = path.stat().st_size
        short = self.size is not None and size < self.size
        kind = (
            f"cut short: {size:,} of {self.size:,} bytes"
            if short
            else f"altered or another file: {size:,} bytes"
        )
        return f"{kind}, md5 {found}, expected {self.md5}"


class NotFetched(Exception):
    """Why a file could not be fetched, in words."""


def download(archive: Archive, place: Path, progress: Progress | None = None) -> None:
    """Fetch `archive` to `place`, which appears when it is complete. NotFetched says why it is not."""
    part = place.with_name(f"{place.name}.part")
    place.parent.mkdir(parents=True, exist_ok=True)
    continued = _size(part) > 0
    _receive_all(archive, part, progress)
    fault = archive.fault(part)
    if fault and continued:  # what an earlier try left was not the beginning of this file
        part.unlink()
        _receive_all(archive, part, progress)
        fault = archive.fault(part)
    if fault:
        part.unlink()
        raise NotFetched(f"what {archive.url} sends is {fault}")
    part.replace(place)


def _receive_all(archive: Archive, part: Path, progress: Progress | None) -> None:
    """Ask again for the rest as long as each try brings something."""
    while True:
        before = _size(part)
        try:
            _receive(archive, part, progress)
            return
        except (
            OSError,
            http.client.HTTPException,
        ) as error:  # URLError, time-outs, refused and broken connections
            if _size(part) > before:
                continue
            kept = (
                f"; the {before:,} bytes that came are kept, and the same command continues" if before else ""
            )
            raise NotFetched(f"{getattr(error, 'reason', None) or error}{kept}") from error


def _receive(archive: Archive, part: Path, progress: Progress | None) -> None:
    """Add to `part` what the server sends from there on. OSError where the connection breaks."""
    have = _size(part)
    headers = {"User-Agent": "ham-sweeps"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = _answer(urllib.request.Request(archive.url, headers=headers))
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            error.close()
            return  # nothing lies beyond what we have: all of it, which the checksum judges
        raise
    with response:
        continues = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        done = have if response.status == http.HTTPStatus.PARTIAL_CONTENT and continues else 0
        total = done + int(response.headers.get("Content-Length") or 0)
        with part.open("ab" if done else "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                done += len(block)
                if progress:
                    progress(f"downloading {archive.name}", done, max(total, done))
    if done < total:
        raise OSError(f"the connection broke after {done:,} of {total:,} bytes")


def _answer(request: urllib.request.Request) -> Any:
    """The opened response. Looking up a host name knows no time limit, hence the thread."""
    answer: list[Any] = [TimeoutError(f"no answer within {PATIENCE} s")]

    def ask() -> None:
        try:
            answer[0] = urllib.request.urlopen(request, timeout=PATIENCE)
        except Exception as error:  # raised below, in the thread that waits
            answer[0] = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    found = answer[0]
    if isinstance(found, Exception):
        raise found
    return found


def md5(path: Path) -> str:
    """MD5 as a checksum, as published; not for security."""
    with path.open("rb") as stream:
        return _md5_of(stream)


def _md5_of(stream: IO[bytes]) -> str:
    return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()  # type: ignore[arg-type]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
