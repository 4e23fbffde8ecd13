"""Whether MLflow still holds what was written. SQLite notices a damaged page, not a changed number: tags of the run do.

    seal              SHA-256 over the run's latest metrics, its parameters and its fingerprint, when it was complete
    seal.series.0 ..  for each series of the journal, sorted by name: CRC-32 of its name and of its points, 8 hex digits each
    seal.plan         on a sweep's run: SHA-256 of its plan

A run that has none was recorded by an earlier version, or is being written. Light: knows no MLflow.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ham_core.config import digest_of
from ham_core.errors import RequestError

SEAL, SERIES, PLAN_SEAL = "seal", "seal.series.", "seal.plan"
OPEN = ""  # the value of `seal` while a run is written
CHUNK = 4800  # letters of one tag; MLflow takes 8,000


def seal_of(fingerprint: str, metrics: Mapping[str, float], params: Mapping[str, str]) -> str:
    """The seal of a complete run. Numbers count to their last bit; those that are not finite, databases change."""
    finite = {key: float(value).hex() for key, value in metrics.items() if math.isfinite(value)}
    return digest_of({"fingerprint": fingerprint, "metrics": finite, "params": dict(params)})


def seal_of_plan(text: str) -> str:
    """The seal of a sweep's plan, the text of its artifact."""
    return hashlib.sha256(text.encode()).hexdigest()


def series_tags(records: Iterable[Mapping[str, Any]], name: Callable[[str], str]) -> dict[str, str]:
    """Tags for the series of a journal. `name`: a metric's key in MLflow."""
    points: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for key, value in record["metrics"].items():
            if math.isfinite(value):
                points.setdefault(name(key), []).append((record["epoch"], value))
    text = "".join(f"{_crc(key.encode())}{_checksum(points[key])}" for key in sorted(points))
    return {f"{SERIES}{first // CHUNK}": text[first : first + CHUNK] for first in range(0, len(text), CHUNK)}


def is_series(tags: Mapping[str, str], key: str, points: Sequence[tuple[int, float]]) -> bool:
    """Whether these (epoch, value) points are those that were logged under the key. True where nothing is known of it."""
    chunks = sorted((one for one in tags if one.startswith(SERIES)), key=lambda one: int(one[len(SERIES) :]))
    text, name = "".join(tags[one] for one in chunks), _crc(key.encode())
    at = text.find(name)
    while at % 16 and at >= 0:  # part of another name or checksum
        at = text.find(name, at + 1)
    return at < 0 or text[at + 8 : at + 16] == _checksum(points)


def _checksum(points: Iterable[tuple[int, float]]) -> str:
    return _crc(b"".join(struct.pack("<qd", epoch, value) for epoch, value in points))


def _crc(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"


# sentences -----------------------------------------------------------------------------------------------------------


def damaged(uri: str, what: str) -> RequestError:
    """The sentence about a record that is not what was written."""
    file = database_file(uri)
    if file is None:
        return RequestError(
            f"{uri}: {what}; delete the run, or its experiment, in MLflow, then run ham sync, which writes it again from the "
            "trials"
        )
    return RequestError(
        f"{file}: is damaged ({what}); move {file.name} away, and {file.name}-wal and {file.name}-shm where they are, then "
        "run ham sync, which writes it again from the trials"
    )


def database_file(uri: str) -> Path | None:
    """The file behind an SQLite address, None for servers and other databases."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def corruption(uri: str, error: Exception) -> str:
    """The sentence about an SQLite database that is none any more; "" for every other trouble with MLflow."""
    text, file = str(error), database_file(uri)
    if file is None or not any(words in text for words in ("malformed", "is not a database")):
        return ""
    return str(damaged(uri, (text.strip().splitlines() or [""])[0][:150]))


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """What a damaged SQLite database makes MLflow raise, as the sentence. A server's troubles are not ours to judge."""
    file = database_file(uri)
    try:
        yield
    except RequestError:
        raise
    except Exception as error:  # a changed byte can end in any error of MLflow, of its database, or of ours
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if file is None or not file.exists() or "locked" in first or "full" in first:
            raise
        raise damaged(uri, f"{type(error).__name__}: {first[:150]}") from error
