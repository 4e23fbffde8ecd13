"""Whole objects below a URL: put, get, list, delete, and nothing else. The only place that knows fsspec.

Any protocol that fsspec knows will do (s3, gs, abfs, file, ...). All that is asked of the storage is that a listing or reading
which begins after a put has returned sees what was put. Amazon S3, Google Cloud Storage and Azure Blob Storage promise that.
No rename, no append, no conditional put.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ham_core.errors import RequestError, known

AT_ONCE = 16  # requests that wait for the storage side by side
PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
}
TIMES = (
    "LastModified",
    "mtime",
    "last_modified",
    "updated",
    "created",
)  # the same thing, as protocols call it


@dataclass(frozen=True)
class Info:
    """What a listing says of an object: its bytes, and when it was put, in seconds by the storage's clock."""

    bytes: int
    put: float


class Objects:
    """The objects below a URL, by their names relative to it. RequestError: it cannot be reached at all."""

    def __init__(self, url: str) -> None:
        self.files, self.root = _opened(url)
        self.url = url.rstrip("/")
        from fsspec.asyn import AsyncFileSystem

        self.is_flat = getattr(type(self.files), "_find", AsyncFileSystem._find) is not AsyncFileSystem._find

    def list(self, below: str) -> dict[str, Info]:
        """{name: info} of all objects whose names begin with `below`/. Never remembered from before."""
        self.files.invalidate_cache()
        found = self._found(f"{self.root}/{below}")
        return {
            name.removeprefix(f"{self.root}/"): Info(int(info["size"] or 0), self._put_at(name, info))
            for name, info in found.items()
        }

    def _found(self, path: str) -> dict[str, Any]:
        """All objects below a path: in few requests, where the storage can; else folder by folder."""
        if self.is_flat:
            return dict(self.files.find(path, detail=True))
        # fsspec's own walk takes a folder that cannot be read for an empty one, and this is about what was lost.
        try:
            entries = self.files.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        found: dict[str, Any] = {}
        for entry in entries:
            found |= self._found(entry["name"]) if entry["type"] == "directory" else {entry["name"]: entry}
        return found

    def read(self, name: str) -> bytes:
        """The content. FileNotFoundError where there is no such object."""
        content: bytes = self.files.cat_file(f"{self.root}/{name}")
        return content

    def write(self, name: str, content: bytes) -> None:
        """Put an object."""
        self._put(name, lambda path: self.files.pipe_file(path, content))

    def upload(self, path: Path, name: str) -> None:
        """Put a file."""
        self._put(name, lambda target: self.files.put_file(str(path), target))

    def download(self, name: str, path: Path, scratch: Path) -> None:
        """Get an object as a file, which appears whole. `scratch`: a folder beside it. FileNotFoundError as above."""
        temporary = scratch / uuid.uuid4().hex
        try:
            self.files.get_file(f"{self.root}/{name}", str(temporary))
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are gone already are fine."""
        side_by_side(self._delete, names)

    def _delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.files.rm_file(f"{self.root}/{name}")

    def _put(self, name: str, put: Callable[[str], None]) -> None:
        path = f"{self.root}/{name}"
        try:
            put(path)
        except FileNotFoundError:  # a storage with folders
            self.files.makedirs(path.rpartition("/")[0], exist_ok=True)
            put(path)

    def _put_at(self, name: str, info: Mapping[str, Any]) -> float:
        value = next((info[key] for key in TIMES if info.get(key) is not None), None)
        if value is None:
            value = self.files.modified(name)
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        return value.timestamp() if isinstance(value, datetime) else float(value)


def side_by_side(action: Callable[[str], Any], names: Iterable[str]) -> None:
    """Do the same for every name, several at a time. The first exception is raised when all have ended."""
    waiting = list(names)
    if len(waiting) < 2:
        for name in waiting:
            action(name)
        return
    with ThreadPoolExecutor(min(AT_ONCE, len(waiting))) as pool:
        for future in [pool.submit(action, name) for name in waiting]:
            future.result()


def _opened(url: str) -> tuple[Any, str]:
    import fsspec

    protocol, _, rest = url.partition("://")
    if protocol not in fsspec.available_protocols():
        raise RequestError(
            f"--store: {url} has an unknown protocol; {known(protocol, (*PACKAGES, 'file'))}; or name a folder"
        )
    if not rest.strip("/"):
        raise RequestError(f"--store: {url} names no place; write for example {protocol}://bucket/outputs")
    try:
        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        package = PACKAGES.get(protocol, "")
        advice = f"pip install {package}" if package else str(error)
        raise RequestError(
            f"--store: {url} needs a package that is not installed; {advice}, on every machine of the sweep"
        ) from None
    except Exception as error:  # every protocol has its own ways to fail
        raise RequestError(unreachable(url, error)) from error
    return files, str(root).rstrip("/")


def unreachable(url: str, error: Exception) -> str:
    """The sentence about a storage that does not answer, or refuses."""
    return f"--store: {url} cannot be used ({why(error)}); check the name, the credentials and the network"


def why(error: Exception) -> str:
    """The first line of what it says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
