"""What measured numbers depend on, an argument type, and where numbers are kept: what the benchmarks share."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ham_core.processor import processor

if TYPE_CHECKING:
    import torch


def about(*packages: str) -> dict[str, Any]:
    """Processor, its cores, how busy they were at the start, and versions of Python, torch and these packages."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", *packages)},
    }


def on(device: torch.device) -> dict[str, Any]:
    """The same for a computation on one device: PyTorch's threads, and the GPU with its libraries."""
    import torch

    found = about() | {"threads": torch.get_num_threads()}
    if device.type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
        found |= {"cudnn": torch.backends.cudnn.version()}
    return found


def said_of(machine: dict[str, Any]) -> str:
    """The same as a line."""
    return "  ".join(f"{key} {value}" for key, value in machine.items())


def bounded(kind: Callable[[str], float], low: float, high: float = float("inf")) -> Callable[[str], Any]:
    """An argparse type: a number from low to high."""

    def number(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low} to {high}")
        return value

    return number


def ask_for_json(parser: argparse.ArgumentParser, what: str = "every measured second") -> None:
    """Add `--json FILE`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"write {what} there")


def keep(path: Path | None, report: dict[str, Any]) -> None:
    """Write all that was measured to the file that `--json` names, if any."""
    if path is not None:
        path.write_text(json.dumps(report, indent=1, default=str) + "\n", encoding="utf-8")
