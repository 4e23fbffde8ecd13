"""Data sets by name: what a plan knows of them, without importing anything heavy."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from ham_core.config import Data
from ham_core.data import Facts, Tensors, describe, facts, index, load, names
from ham_core.errors import RequestError

NAMES = (
    "cifar10", "cifar100", "digits", "imagenette128", "imagenette32", "imagenette64", "stl10", "svhn", "tiny-imagenet",
)  # fmt: skip


class Stripes:
    """A data set of somebody else's package."""

    def facts(self) -> Facts:
        return Facts(name="stripes", label="stripes", classes=("up", "down"), shape=(1, 4, 4), train_digest="s1",
                     test_digest="s2", crop=0, flip=False, validation=0.5, source="made up", images=(4, 2))  # fmt: skip

    def present(self) -> bool:
        return True

    def ensure(self, progress: object = None) -> None:
        pass

    def load(self, progress: object = None) -> Tensors:
        images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 4, 4).clone()
        return Tensors(images, torch.tensor([0, 1, 0, 1]), images[:2], torch.tensor([0, 1]))


@pytest.fixture
def stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("stripes", "stripes_package:Stripes", "ham_sweeps.data")
    monkeypatch.setattr(index, "entry_points", lambda group: [point] if group == "ham_sweeps.data" else [])
    monkeypatch.setattr(index, "_places", index._places.__wrapped__)
    module = type(sys)("stripes_package")
    module.Stripes = Stripes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stripes_package", module)


def test_facts_of_every_named_data_set_import_nothing_heavy() -> None:
    code = (
        "import sys; from ham_core.data import describe, ensure, facts, load, names; describe(); "
        "import ham_core.models; ham_core.models.names(); "
        "print([m for m in ('torch', 'numpy', 'sklearn', 'torchvision', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(RequestError) as refused:
        facts("cifar")
    assert len(refused.value.problems) == 1
    assert "'cifar'" in str(refused.value)
    assert f"known: {', '.join(NAMES)} (did you mean cifar10?)" in str(refused.value)


@pytest.mark.parametrize(("name", "folder"), [(None, None), ("digits", "somewhere")])
def test_exactly_one_of_name_and_folder_is_given(name: str | None, folder: str | None) -> None:
    with pytest.raises(RequestError, match="either a name or a folder"):
        facts(name, folder)


def test_the_identity_of_cifar10_is_its_published_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAM_DATA", str(tmp_path))
    told = facts("cifar10")
    assert "c58f30108f718f92721af3b95e74349a" in told.train_digest
    assert told.train_digest != told.test_digest
    assert (told.shape, told.crop, told.flip, told.validation) == ((3, 32, 32), 4, True, 0.02)
    assert told.classes[3] == "cat"


def test_a_label_changes_the_label_only() -> None:
    plain, named = facts("digits"), facts("digits", label="my digits")
    assert named.label == "my digits"
    assert named.train_digest == plain.train_digest


def test_no_other_data_set_takes_the_label_of_a_published_one() -> None:
    with pytest.raises(RequestError, match="name of a published data set"):
        facts("digits", label="cifar10")
    assert facts("digits", label="digits").label == "digits"
    with pytest.raises(RequestError, match=r"data\.label"):
        facts("digits", label=" ")


def test_the_size_of_a_named_data_set_cannot_be_chosen() -> None:
    assert facts("digits", size=8).shape == (1, 8, 8)
    with pytest.raises(RequestError, match=r"data\.size: 32 .* 8x8"):
        facts("digits", size=32)


def test_describe_gives_one_row_per_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAM_DATA", str(tmp_path))
    rows = {row["name"]: row for row in describe()}
    assert sorted(rows) == names() == list(NAMES)
    assert rows["digits"]["present"]
    assert not rows["cifar10"]["present"]
    assert rows["cifar10"]["place"] == str(tmp_path / "cifar10" / "cifar-10-python.tar.gz")
    assert rows["digits"]["images"] == 1797


@pytest.mark.usefixtures("stripes")
def test_a_data_set_of_another_package_joins_by_its_entry_point() -> None:
    assert names() == sorted([*NAMES, "stripes"])
    data = load("stripes", validation=0.5, split_seed=0)
    assert data.classes == ("up", "down")
    assert (len(data.train), len(data.validation), len(data.test)) == (2, 2, 2)


def test_a_data_set_whose_package_is_broken_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_places", lambda: {"gone": "no_such_package:Gone"})
    with pytest.raises(RequestError, match="'gone' cannot be imported from no_such_package:Gone"):
        facts("gone")


def test_missing_scikit_learn_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ham_core.data.digits.find_spec", lambda name: None)
    with pytest.raises(RequestError, match="scikit-learn, which is not installed"):
        load("digits", validation=0.1, split_seed=0)


def test_counts_of_the_shipped_digits_are_those_of_the_labels():
    source = index.find("digits")
    assert source.facts().train_counts == tuple(source.load().train_labels.bincount().tolist())


def test_a_class_with_one_picture_is_named_before_it_is_all_held_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HAM_DATA", str(tmp_path / "cache"))
    for part in ("train", "test"):
        for name, count in (("cat", 4), ("dog", 1)):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in range(count):
                (tmp_path / "photos" / part / name / f"{i}.png").write_bytes(b"not opened")
    folder = str(tmp_path / "photos")
    held = Data(label="photos", folder=folder, size=8, train_digest="", test_digest="", validation=0.1)
    (sentence,) = index.split_problems([held, held], light=True)
    assert "holds out all 1 training images of class 'dog'" in sentence
    assert index.split_problems([held.model_copy(update={"validation": 0.0})]) == []
