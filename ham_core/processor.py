"""The processor by its own name: recorded beside results, never part of an identity. Kinds of processors round bf16 apart."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

INFORMATION = Path("/proc/cpuinfo")  # on Linux


@cache
def processor() -> str:
    """Its name where the system tells it, else its architecture."""
    lines = INFORMATION.read_text(encoding="utf-8").splitlines() if INFORMATION.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
