"""Small sweeps on digits that train in a second, and one Ray for all tests of this folder."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

SWEEP = """\
trial:
  data: {name: digits, train_limit: 200, test_limit: 60}
  model: {name: small_cnn, width: 0.5}
  epsilon: 0.2
  attack: {steps: 2, mode: eval}
  epochs: 2
  batch_size: 64
  selection.steps: 2
grid:
  methods:
    method: [at, trades]
seeds: [0, 1]
evaluate: [clean, pgd2]
"""


@pytest.fixture
def write_sweep(tmp_path: Path) -> Callable[..., Path]:
    """write_sweep(old="new", ...) -> tiny.yaml with these words replaced."""

    def write(name: str = "tiny", replaced: dict[str, str] | None = None) -> Path:
        text = SWEEP
        for old, new in (replaced or {}).items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def console() -> Console:
    """A console that is no terminal; what was printed is `console.file.getvalue()`."""
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="session")
def ray_runs() -> Iterator[dict[str, Any]]:
    """A local Ray with two CPUs, shared by all tests: sweeps find it running and leave it running."""
    from orchestration import engine

    with engine.cluster(None, 2) as available:
        yield available
