"""JSON that says of itself whether it is whole. A last key `checksum` covers every byte before it.

    {"epoch": 3, "metrics": {...}, "checksum": "9f2c61d0a4b7e835"}

The checksum is the beginning of the SHA-256 of the text without it, so that nothing need be parsed to know that nothing has
changed. Files of earlier versions have none and are taken as they are. A damaged checksum does not pass for a missing one: an
object without checksum that ends in a key with a text as its value is refused, and no trial of an earlier version has such.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

KEY = "checksum"
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
