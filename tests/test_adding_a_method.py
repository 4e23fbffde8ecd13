"""The walk-through of docs/adding-a-method.md, done word for word in a copy of the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"\*\*(?P<step>\d)\. [^`]*`(?P<path>[^`]+)`.*?```python\n(?P<text>.*?)```", re.DOTALL)


def steps() -> list[tuple[str, str]]:
    """(path, text) of the walk-through's numbered steps."""
    document = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    return [(found["path"], found["text"]) for found in BLOCK.finditer(document)]


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree in which the three steps were taken."""
    (part, text), (index, line), (test, promises) = steps()
    place = tmp_path_factory.mktemp("extended")
    for room in ("ham_core", "orchestration", "sweeps", "tests"):
        shutil.copytree(ROOT / room, place / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    assert not (place / part).exists() and not (place / test).exists()
    (place / part).write_text(text, encoding="utf-8")
    (place / test).write_text(promises, encoding="utf-8")
    before = (place / index).read_text(encoding="utf-8")
    assert before.count("\n}\n") == 1
    (place / index).write_text(before.replace("\n}\n", f"\n{line}}}\n"), encoding="utf-8")
    return place


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(place)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


def test_the_walk_through_has_a_file_an_index_line_and_a_test() -> None:
    paths = [path for path, _ in steps()]
    assert paths == [
        "ham_core/mining/mail.py",
        "ham_core/mining/__init__.py",
        "tests/ham_core/mining/test_mail.py",
    ]
    assert steps()[1][1].count("\n") == 1


@pytest.mark.slow
def test_the_new_part_passes_its_test_and_the_contract_suite(extended: Path) -> None:
    own = run(extended, "-m", "pytest", "-q", "tests/ham_core/mining/test_mail.py")
    assert own.returncode == 0, own.stdout
    assert "2 passed" in own.stdout
    contract = run(extended, "-m", "pytest", "-q", "tests/ham_core/contract", "-k", "mail")
    assert contract.returncode == 0, contract.stdout
    assert int(re.search(r"(\d+) passed", contract.stdout)[1]) >= 5


def test_the_new_part_is_listed_and_composes(extended: Path) -> None:
    listed = run(extended, "-m", "orchestration.cli", "methods", "mail")
    assert listed.returncode == 0, listed.stderr
    assert "slope" in listed.stdout and "arXiv:2106.07904" in listed.stdout
    sweep = extended / "mine.yaml"
    sweep.write_text(
        "trial: {data: digits, method.mining: mail}\ngrid:\n  method: [at, trades]\n", encoding="utf-8"
    )
    planned = run(extended, "-m", "orchestration.cli", "plan", "mine.yaml")
    assert planned.returncode == 0, planned.stderr
    assert "trades+mail" in planned.stdout
