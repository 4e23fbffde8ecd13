"""A file system for fsspec that is no more than an object storage: whole objects, put, get, listed and deleted.

`bucket:///some/folder` keeps its objects in that folder. What no object storage has raises: renaming, appending, writing
into an object, folders. `before_put` lets tests look, wait or fail at every put; BUCKET_LOG names a file that lists the puts.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

SCHEME = "bucket://"


class Bucket(LocalFileSystem):
    protocol = "bucket"
    before_put: Callable[[str], None] = staticmethod(lambda path: None)

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return LocalFileSystem._strip_protocol(str(path).removeprefix(SCHEME))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self._put(self._strip_protocol(path), value)

    def put_file(self, lpath: str, rpath: str, callback: Any = None, **options: Any) -> None:
        self._put(self._strip_protocol(rpath), Path(lpath).read_bytes())

    def get_file(self, rpath: str, lpath: str, callback: Any = None, **options: Any) -> None:
        Path(lpath).write_bytes(Path(self._strip_protocol(rpath)).read_bytes())

    def _put(self, path: str, content: bytes) -> None:
        type(self).before_put(path)
        hidden = Path("/", *Path(path).parts[1:3], f".put-{uuid.uuid4().hex}")
        hidden.write_bytes(content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(hidden, path)
        if "BUCKET_LOG" in os.environ:
            with open(os.environ["BUCKET_LOG"], "a") as log:
                log.write(f"{path}\n")

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            raise NotImplementedError(f"an object cannot be opened for '{mode}'")
        return super()._open(path, mode=mode, **options)

    def _refuse(self, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError("object storage cannot do this")

    mv = mv_file = rename = move = touch = mkdir = makedirs = mkdirs = rmdir = cp_file = copy = link = (
        symlink
    ) = _refuse
