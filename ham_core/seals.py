"""Files that say of themselves whether they are whole.

JSON: a last key `checksum` covers every byte before it.

    {"epoch": 3, "metrics": {...}, "checksum": "9f2c61d0a4b7e835"}

The checksum is the beginning of the SHA-256 of the text without it, so that nothing need be parsed to know that nothing has
changed. Files of earlier versions have none and are taken as they are. A damaged checksum does not pass for a missing one: an
object without checksum that ends in a key with a text as its value is refused, and no trial of an earlier version has such.

Tensors: the comment of torch's zip file is `sha256:` and 64 hex digits, over every byte before them; all readers of the format
pass over it. The format's own checksums cover the numbers, but not the words that say where they are: one changed bit of those
("this is a folder"), and torch returns memory that it never filled. Files of earlier versions have only these checksums.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

KEY = "checksum"
MARK = b"sha256:"
LENGTH = len(MARK) + 64  # bytes of the comment
END_OF_ZIP = (
    b"PK\5\6"  # begins the last 22 bytes of a zip file without comment; its length, 0, is the last two
)
_END = re.compile(rb',(?: |\n )"checksum": "([0-9a-f]{16})"(\n?\}\n)\Z')


def sealed(value: Mapping[str, Any], *, lines: bool = False) -> bytes:
    """A JSON object with its checksum, on one line, or on several (`lines`) for people. Its own key of that name is left out.

    ValueError: a number that is not finite.
    """
    plain = {key: one for key, one in value.items() if key != KEY}
    text = json.dumps(plain, indent=1 if lines else None, allow_nan=False).encode() + b"\n"
    if not plain:
        return text
    end = b"\n}\n" if lines else b"}\n"
    body = text.removesuffix(end)
    return body + (b",\n " if lines else b", ") + b'"checksum": "' + _checksum(body, end) + b'"' + end


def is_sealed(content: bytes) -> bool | None:
    """Whether nothing of the text has changed; None where that is not known, because it has no checksum or another form."""
    found = _END.search(content[-64:])
    if found is None:
        return None
    start = len(content) - len(found[0])
    return _checksum(content[:start], found[2]) == found[1]


def opened(content: bytes) -> dict[str, Any]:
    """The object without its checksum. ValueError: the text is no JSON object, or not what was written."""
    whole = is_sealed(content)
    if whole is False:
        raise ValueError("the checksum is wrong")
    value = json.loads(content)
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    if whole is None and value and isinstance(value[list(value)[-1]], str):
        raise ValueError("the checksum is damaged")
    value.pop(KEY, None)
    return value


def _checksum(body: bytes, end: bytes) -> bytes:
    """16 hex digits over all bytes but those of the checksum itself."""
    return hashlib.sha256(body + end).hexdigest()[:16].encode()


# tensors -------------------------------------------------------------------------------------------------------------


def write_tensors(state: Mapping[str, Any], file: IO[bytes]) -> None:
    """torch.save with the digest as the file's comment. The file is at its beginning. OSError: what writing to it raised."""
    import torch

    sink = _Sink(file)
    torch.save(state, cast("IO[bytes]", sink))  # it only writes
    sink.finish()


class _Sink:
    """A file for torch, whose writer in C++ would make an error of its own out of a full disk: it is told afterwards."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.held = b""  # the last two bytes: in the end the length of the comment, which changes
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.error is None:
            try:
                self.file.write(view)
            except OSError as error:
                self.error = error
        if len(view) > 1:
            self.digest.update(self.held)
            self.digest.update(view[:-2])
            self.held = bytes(view[-2:])
        else:
            self.digest.update((self.held + view)[:-2])
            self.held = (self.held + view)[-2:]
        return len(view)

    def flush(self) -> None:
        pass

    def finish(self) -> None:
        """Append the comment. Raises what writing raised."""
        if self.error is not None:
            raise self.error
        length = LENGTH.to_bytes(2, "little")
        self.digest.update(length)
        self.file.seek(-2, 2)
        self.file.write(length + MARK + self.digest.hexdigest().encode())


def is_whole(path: Path) -> bool:
    """Whether a zip file (.pt, .npz) is there and nothing of it has changed. Reads it to its end, at about 1 GB/s."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LENGTH))
            end = file.read()
            if end.startswith(MARK):
                file.seek(0)
                return MARK + _digest(file, size - LENGTH) == end
        if end[-22:-18] != END_OF_ZIP or end[-2:] != bytes(2):
            return False  # a damaged comment does not pass for none
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # damaged headers ask for what zipfile cannot do, in many ways
        return False


def _digest(file: IO[bytes], length: int) -> bytes:
    """64 hex digits over so many bytes."""
    digest = hashlib.sha256()
    while length > 0 and (piece := file.read(min(length, 1 << 20))):
        digest.update(piece)
        length -= len(piece)
    return digest.hexdigest().encode()
