"""The commit of this program's checkout: recorded beside results, never part of an identity."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

SECONDS = 10  # a checkout on a slow network disk does not hold up a training


@cache
def commit(file: Path = Path(__file__)) -> str | None:
    """40 hex digits of the commit that `file` is part of, `-dirty` behind them where tracked files differ from it.

    None where git does not know the file: in an installed package, also one whose environment lies in another checkout.
    """
    known = _git(file, "ls-files", "--error-unmatch", file.name)
    head = _git(file, "rev-parse", "HEAD") if known else None
    if not head:
        return None
    changed = _git(file, "status", "--porcelain", "--untracked-files=no")
    return f"{head}-dirty" if changed else head


def _git(file: Path, *arguments: str) -> str | None:
    """What git says in the file's folder; None where it has nothing to say or is not there."""
    command = ["git", "-C", str(file.parent), *arguments]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None
