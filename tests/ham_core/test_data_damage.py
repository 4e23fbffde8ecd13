"""Decoded pixels and remembered digests, damaged: made again, or a sentence. Never other pixels under the same fingerprint."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from ham_core.data import facts, load
from ham_core.data.folder import Folder
from ham_core.data.source import Tensors
from ham_core.data.tensorfile import TensorFile
from ham_core.errors import RequestError
from tests.damage import LONG, SEED, damages
from tests.ham_core.test_data_folder import picture


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes; 4 training and 2 test pictures each, 6x6, PNG. The cache is empty."""
    monkeypatch.setenv("HAM_DATA", str(tmp_path / "cache"))
    for c, name in enumerate(("cat", "dog")):
        for i in range(6):
            part = "train" if i < 4 else "test"
            picture(tmp_path / "photos" / part / name / f"{i}.png", 10 * c + i)
    return tmp_path / "photos"


def same(first: Tensors, second: Tensors) -> bool:
    return all(torch.equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))


def test_damaged_pixels_of_a_folder_are_decoded_again(photos: Path) -> None:
    source = Folder(photos, 6)
    whole = Tensors(*(one.clone() for one in source.load()))
    path = source.tensor_file
    content = path.read_bytes()
    for damage in damages(content, random.Random(SEED), 40 * LONG):
        path.touch()
        damage.do(path)
        assert same(Folder(photos, 6).load(), whole), f"seed {SEED}, {damage.name}"
        path.write_bytes(content)


def test_a_damaged_file_of_images_is_the_same_images_or_a_sentence(photos: Path, tmp_path: Path) -> None:
    source = Folder(photos, 6)
    whole = Tensors(*(one.clone() for one in source.load()))
    content, path, told = source.tensor_file.read_bytes(), tmp_path / "copy.pt", source.facts()
    refused = 0
    for damage in damages(content, random.Random(SEED), 80 * LONG):
        path.touch()
        damage.do(path)
        given = TensorFile(path)
        try:
            seen, tensors = given.facts(), given.load()
        except RequestError as error:
            refused += str(path) in str(error)
            continue
        assert same(tensors, whole), f"seed {SEED}, {damage.name}"
        assert (seen.train_digest, seen.classes) == (told.train_digest, told.classes)
    assert refused > 40


def test_a_damaged_digest_is_no_other_data_set(photos: Path, tmp_path: Path) -> None:
    """A flipped digit would give every trial on these pictures another fingerprint."""
    told = Folder(photos, 6).facts()
    (path,) = (tmp_path / "cache" / "digests").iterdir()
    content = path.read_bytes()
    for damage in damages(content, random.Random(SEED), 60 * LONG):
        path.touch()
        damage.do(path)
        assert Folder(photos, 6).facts() == told, f"seed {SEED}, {damage.name}"
    path.write_bytes(content)
    assert facts(folder=str(photos), size=6) == told
    assert len(load(folder=str(photos), size=6, validation=0.0, split_seed=0).train) == 8
