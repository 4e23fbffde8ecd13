"""Where downloaded and decoded pixels are kept between runs, and how files appear there: whole, and made by one process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from ham_core.data.source import Progress
from ham_core.errors import RequestError


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


@contextmanager
def alone(path: Path, progress: Progress | None = None) -> Iterator[None]:
    """One process at a time makes `path`; the others wait, and find it made. The system frees the lock of a process that dies.

    A file system without locks lets several work at once; `written` still leaves one whole file.
    """
    folder = cache_folder() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / f"{path.name}.lock", "a")  # noqa: SIM115  # closed below
    except OSError as error:
        raise RequestError(
            f"data: cannot write to {folder} ({error.strerror or error}); set HAM_DATA to a folder with space"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress:
                progress(f"waiting for the process that makes {path.name}", 0, 0)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        yield
