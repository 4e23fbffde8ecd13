"""Which commit a result came from, as git itself tells it."""

import subprocess
from pathlib import Path

import pytest

from ham_core.commit import commit


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one committed file, part.py."""
    (tmp_path / "part.py").write_text("1\n")
    (tmp_path / "installed.py").write_text("1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "part.py")
    git(tmp_path, "-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "-qm", "first")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_tracked_file_has_the_commit_of_its_checkout(checkout):
    assert commit(checkout / "part.py") == git(checkout, "rev-parse", "HEAD")


def test_changed_files_are_told(checkout):
    (checkout / "part.py").write_text("2\n")
    assert commit(checkout / "part.py") == git(checkout, "rev-parse", "HEAD") + "-dirty"


def test_an_installed_file_has_none_although_it_lies_in_a_checkout(checkout):
    assert commit(checkout / "installed.py") is None


def test_without_a_checkout_or_without_git_there_is_none(tmp_path, checkout, monkeypatch):
    (tmp_path.parent / "elsewhere.py").write_text("1\n")
    assert commit(tmp_path.parent / "elsewhere.py") is None
    monkeypatch.setenv("PATH", "")
    assert commit(checkout / "part.py") is None
