"""Damage to files, as disks, kills and people do it: shared by the tests that fuzz the store."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LONG = int(os.environ.get("HAM_FUZZ", "1"))  # that many times as many cases
SEED = int(os.environ.get("HAM_FUZZ_SEED", "0"))  # of the places that are damaged


class Damage(NamedTuple):
    """`content`: what the file holds afterwards, None: it is gone."""

    name: str
    content: bytes | None

    def do(self, path: Path) -> None:
        """Damage the file. It may be a second name of another one, which stays whole."""
        path.unlink()
        if self.content is not None:
            path.write_bytes(self.content)


def damages(whole: bytes, chance: random.Random, flips: int = 6) -> Iterator[Damage]:
    """Gone, emptied, zeroed, cut at several places, and so many times bytes changed at random places."""
    yield Damage("gone", None)
    yield Damage("empty", b"")
    if not whole:
        return
    yield Damage("zeros", bytes(len(whole)))
    for length in {1, len(whole) // 3, len(whole) - 1, chance.randrange(len(whole))}:
        yield Damage(f"cut at {length}", whole[:length])
    for _ in range(flips):
        content = bytearray(whole)
        places = [chance.randrange(len(whole)) for _ in range(chance.choice((1, 1, 1, 2, 8)))]
        for place in places:
            content[place] ^= chance.randrange(1, 256)
        yield Damage(f"flipped at {places}", bytes(content))
