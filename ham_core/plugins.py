"""What installed packages add to ours: entry points of the groups `ham_sweeps.*`.

Asking for one group reads the entry points of every installed package, some 20 ms of them, and we ask for seven groups; so
they are read once per process.
"""

from __future__ import annotations

import importlib.metadata
from functools import cache
from importlib.metadata import EntryPoints
from typing import Any


def entry_points(group: str) -> EntryPoints:
    """The entry points of one group."""
    found: EntryPoints = _all().select(group=group)
    return found


@cache
def _all() -> Any:  # what this is called changed with Python 3.12; both can select
    return importlib.metadata.entry_points()
