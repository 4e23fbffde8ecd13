"""The docs' pictures of the report show the page as it is now."""

from __future__ import annotations

import pytest

from tests.pictures import FOLDER, NAMES, ROOT, digest, written_digest


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_of_the_report_was_taken_of_this_page(name: str) -> None:
    assert written_digest(FOLDER / f"{name}.png") == digest(), "the page has changed: run make pictures"


def test_every_picture_is_shown_somewhere_and_every_one_that_is_shown_is_there() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    for picture in FOLDER.glob("*.png"):
        assert any(f"pictures/{picture.name})" in text for text in texts), picture.name
