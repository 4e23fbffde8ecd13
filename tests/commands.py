"""`ham ARGUMENTS` as a person types it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`ham ARGUMENTS` in a folder, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "orchestration.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ham(folder: Path, *arguments: str, timeout: float = 280) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `ham ARGUMENTS`, which may take so many seconds."""
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err
