"""Where downloaded and decoded pixels are kept between runs, and how files appear there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def cache_folder() -> Path:
    """The folder named by HAM_DATA, else ~/.cache/ham-sweeps. Safe to delete: everything in it can be made again."""
    chosen = os.environ.get("HAM_DATA")
    return Path(chosen).expanduser().resolve() if chosen else Path.home() / ".cache" / "ham-sweeps"


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` in one step if nothing went wrong, so nobody sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(
        f"{path.name}.{uuid4().hex}.part"
    )  # not mkstemp: colleagues may share the folder
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
