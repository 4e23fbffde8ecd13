"""A folder of class folders, and the tensor file it becomes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ham_core.data import decode, ensure, facts, find, load, split, tree
from ham_core.data.folder import Folder
from ham_core.errors import RequestError

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision")


def picture(path: Path, value: int, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> np.ndarray:
    """A random picture, the same for the same value; PNG keeps its pixels exactly."""
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    pixels = np.random.default_rng(value).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HAM_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes; 4 training and 2 test pictures each, 6x6, PNG."""
    root = tmp_path / "photos"
    for c, name in enumerate(("cat", "dog")):
        for i in range(4):
            picture(root / "train" / name / f"{i}.png", 10 * c + i)
        for i in range(2):
            picture(root / "test" / name / f"{i}.png", 100 + 10 * c + i)
    return root


def digests(root: Path, size: int = 6) -> tuple[str, str]:
    told = Folder(root, size).facts()
    return told.train_digest, told.test_digest


def test_pixels_labels_and_classes_are_those_of_the_pictures(photos: Path) -> None:
    data = load(folder=str(photos), size=6, validation=0.0, split_seed=0)
    expected = (
        np.random.default_rng(12).integers(0, 256, (6, 6, 3), dtype=np.uint8).transpose(2, 0, 1)
    )  # dog 2
    assert np.array_equal(data.train.images[6].numpy(), expected)
    assert data.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.classes == ("cat", "dog")
    assert (data.train.images.dtype, data.train.labels.dtype) == (torch.uint8, torch.int64)


def test_the_facts_of_a_folder(photos: Path) -> None:
    told = facts(folder=str(photos))
    assert (told.label, told.shape, told.images) == ("photos (folder)", (3, 32, 32), (8, 4))
    assert (told.crop, told.flip, told.validation) == (4, True, 0.02)
    assert told.source == str(photos)
    assert facts(folder=str(photos), label="my photos").label == "my photos"


def test_a_folder_of_jpeg_files_says_so_in_its_label(photos: Path) -> None:
    for path in photos.rglob("*.png"):
        Image.open(path).save(path.with_suffix(".JPEG"))
        path.unlink()
    assert facts(folder=str(photos)).label == "photos (jpeg copy)"


@pytest.mark.parametrize("read", [decode.with_pillow, decode.with_torchvision])
def test_pictures_are_resized_as_pillow_does_with_antialiasing(read: decode.Decoder, tmp_path: Path) -> None:
    pixels = picture(tmp_path / "x.png", 0, size=(20, 12))
    expected = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BILINEAR)).transpose(
        2, 0, 1
    )
    got = read(tmp_path / "x.png", 8).numpy().astype(int)
    assert np.abs(got - expected).max() <= (0 if read is decode.with_pillow else 1)
    assert np.array_equal(read(tmp_path / "x.png", 12).shape, (3, 12, 12))


@pytest.mark.parametrize("read", [decode.with_pillow, decode.with_torchvision])
@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_grey_and_transparent_pictures_become_rgb(read: decode.Decoder, mode: str, tmp_path: Path) -> None:
    pixels = picture(tmp_path / "x.png", 0, mode=mode)
    expected = np.repeat(pixels[None], 3, 0) if mode == "L" else pixels[:, :, :3].transpose(2, 0, 1)
    assert np.array_equal(read(tmp_path / "x.png", 6).numpy(), expected)


def test_torchvision_decodes_where_pillow_is_missing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "find_spec", lambda name: None if name == "PIL" else name)
    assert decode.find_decoder() is decode.with_torchvision
    data = load(folder=str(photos), size=6, validation=0.0, split_seed=0)
    expected = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8).transpose(2, 0, 1)
    assert np.array_equal(data.train.images[0].numpy(), expected)


def test_no_decoder_at_all_is_a_sentence(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="Pillow or torchvision"):
        ensure(folder=str(photos))


def test_the_digest_covers_content_order_and_size_but_no_name_place_or_time(
    photos: Path, tmp_path: Path
) -> None:
    train, test = digests(photos)
    other = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(photos, other)
    for path in sorted((other / "train" / "cat").iterdir(), reverse=True):
        path.rename(path.with_name(f"renamed {path.name}"))
    os.utime(other / "train" / "dog" / "0.png", (1, 1))
    assert digests(other) == (train, test)
    assert digests(photos, size=7)[0] != train
    (other / "train" / "cat" / "renamed 0.png").rename(
        other / "train" / "cat" / "z.png"
    )  # now last: another order
    assert digests(other)[0] != train
    assert digests(other)[1] == test


def test_training_and_test_digests_stand_apart_and_class_names_belong_to_the_test(photos: Path) -> None:
    train, test = digests(photos)
    for part in ("train", "test"):
        (photos / part / "cat").rename(photos / part / "bat")  # the same place in the order
    assert digests(photos)[0] == train
    assert digests(photos)[1] != test
    picture(photos / "test" / "bat" / "0.png", 999)
    assert digests(photos)[0] == train
    (photos / "train" / "bat" / "3.png").rename(photos / "train" / "dog" / "-.png")
    assert digests(photos)[0] != train


def test_files_are_hashed_once_until_one_changes(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = tree._hash
    monkeypatch.setattr(tree, "_hash", lambda path: read.append(path.name) or original(path))  # type: ignore[func-returns-value]
    first = digests(photos)
    assert len(read) == 12
    assert digests(photos) == first
    assert len(read) == 12
    picture(photos / "train" / "cat" / "0.png", 77)
    assert digests(photos) != first
    assert len(read) == 24


def test_a_plan_lists_a_folder_once_and_notices_added_and_removed_pictures(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[object] = []
    original = tree.scan
    monkeypatch.setattr("ham_core.data.folder.scan", lambda folder: listed.append(folder) or original(folder))  # type: ignore[func-returns-value]
    first = [facts(folder=str(photos), label=label) for label in ("a", "b", "c")]
    assert len(listed) == 1
    assert len({told.train_digest for told in first}) == 1
    picture(photos / "train" / "cat" / "9.png", 9)
    assert facts(folder=str(photos)).images == (9, 4)
    (photos / "train" / "cat" / "9.png").unlink()
    assert facts(folder=str(photos)).train_digest == first[0].train_digest


def test_progress_counts_the_pictures_of_both_parts_together(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "CHUNK", 3)
    shown: list[tuple[str, int, int]] = []
    ensure(folder=str(photos), size=6, progress=lambda *args: shown.append(args))
    assert shown == [("decoding pictures", done, 12) for done in (3, 6, 8, 11, 12)]


def test_pictures_are_decoded_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, int, int]] = []
    first = load(
        folder=str(photos), size=6, validation=0.0, split_seed=0, progress=lambda *args: shown.append(args)
    )
    assert shown[-1] == ("decoding pictures", 12, 12)
    monkeypatch.setattr(decode, "decode", None)
    again = load(folder=str(photos), size=6, validation=0.0, split_seed=0)
    assert torch.equal(first.train.images, again.train.images)


def test_a_damaged_cache_is_made_again(photos: Path) -> None:
    first = load(folder=str(photos), size=6, validation=0.0, split_seed=0)
    file = Folder(photos, 6).tensor_file
    whole = file.read_bytes()
    file.unlink()  # `first` still maps the old one
    file.write_bytes(whole[:500])
    again = load(folder=str(photos), size=6, validation=0.0, split_seed=0)
    assert torch.equal(first.train.images, again.train.images)


def test_two_conversions_at_once_leave_one_complete_file(photos: Path, cache: Path) -> None:
    code = f"from ham_core.data import ensure; ensure(folder={str(photos)!r})"
    both = [subprocess.Popen([sys.executable, "-c", code], env=os.environ) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(list((cache / "tensors").iterdir())) == 1
    assert len(load(folder=str(photos), validation=0.0, split_seed=0).train) == 8


def test_the_tensor_file_is_itself_the_same_data_set(photos: Path, tmp_path: Path) -> None:
    ensure(folder=str(photos), size=6)
    copy = shutil.copy(Folder(photos, 6).tensor_file, tmp_path / "images.pt")
    told, pictures = facts(folder=str(copy)), facts(folder=str(photos), size=6)
    for key in (
        "label",
        "classes",
        "shape",
        "train_digest",
        "test_digest",
        "crop",
        "flip",
        "validation",
        "images",
    ):
        assert getattr(told, key) == getattr(pictures, key)
    shutil.rmtree(photos)
    assert len(load(folder=str(copy), validation=0.25, split_seed=0).validation) == 2
    assert facts(folder=str(copy), size=6, label="x").label == "x"
    with pytest.raises(RequestError, match=r"3x6x6.*data\.size asks for 32"):
        facts(folder=str(copy), size=32)


def test_the_header_of_a_tensor_file_is_read_without_torch(photos: Path) -> None:
    ensure(folder=str(photos))
    file = str(Folder(photos).tensor_file)
    code = (
        f"import sys; from ham_core.data import facts; facts(folder={file!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"train_images": Harm()}, tmp_path / "x.pt")
    with pytest.raises(RequestError, match="mkdir is not expected"):
        facts(folder=str(tmp_path / "x.pt"))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (None, "there is no file"),
        (b"not a zip file", "no readable .pt file"),
        ({"classes": ["a"]}, "train_images"),
    ],
)
def test_a_file_of_another_kind_is_a_sentence(tmp_path: Path, contents: object, expected: str) -> None:
    file = tmp_path / "x.pt"
    if isinstance(contents, bytes):
        file.write_bytes(contents)
    elif contents is not None:
        torch.save(contents, file)
    with pytest.raises(RequestError, match=expected) as refused:
        facts(folder=str(file))
    assert str(file) in str(refused.value)


def test_a_tensor_file_with_pixels_of_another_type_is_a_sentence(photos: Path, tmp_path: Path) -> None:
    ensure(folder=str(photos), size=6)
    contents = torch.load(Folder(photos, 6).tensor_file)
    torch.save({**contents, "train_images": contents["train_images"].float()}, tmp_path / "x.pt")
    with pytest.raises(RequestError, match="images must be uint8"):
        load(folder=str(tmp_path / "x.pt"), validation=0.1, split_seed=0)


def test_hidden_files_are_ignored(photos: Path) -> None:
    before = digests(photos)
    for name in (".DS_Store", "train/.DS_Store", "train/cat/.hidden.png", "test/dog/Thumbs.db", "readme.txt"):
        (photos / name).write_text("x")
    (photos / "train" / ".ipynb_checkpoints").mkdir()
    assert digests(photos) == before


def test_a_missing_folder_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"no folder {tmp_path}/nowhere"):
        facts(folder=str(tmp_path / "nowhere"))


def test_a_folder_without_train_and_test_is_a_sentence(photos: Path) -> None:
    shutil.rmtree(photos / "test")
    with pytest.raises(RequestError, match="has no folder test;"):
        facts(folder=str(photos))
    with pytest.raises(RequestError, match="has no folder train and no folder test;"):
        facts(folder=str(photos / "train"))


def test_everything_wrong_with_a_folder_is_said_at_once(photos: Path) -> None:
    (photos / "train" / "bird").mkdir()
    (photos / "train" / "cat" / "notes.txt").write_text("x")
    (photos / "test" / "cat" / "more").mkdir()
    picture(photos / "test" / "eel" / "0.png", 0)
    with pytest.raises(RequestError) as refused:
        facts(folder=str(photos))
    empty, stray, only_train, only_test = refused.value.problems
    assert str(photos / "train" / "bird") in empty
    assert str(photos / "train" / "cat" / "notes.txt") in stray
    assert str(photos / "test" / "cat" / "more") in stray
    assert "train/ that test/ lacks: bird" in only_train
    assert "test/ that train/ lacks: eel" in only_test


def test_a_single_class_is_a_sentence(photos: Path) -> None:
    for part in ("train", "test"):
        shutil.rmtree(photos / part / "dog")
    with pytest.raises(RequestError, match="at least 2"):
        facts(folder=str(photos))


def test_every_corrupted_picture_is_named(photos: Path, cache: Path) -> None:
    whole = (photos / "train" / "dog" / "3.png").read_bytes()
    (photos / "train" / "dog" / "3.png").write_bytes(whole[: len(whole) // 2])
    (photos / "test" / "cat" / "0.png").write_text("no picture")
    with pytest.raises(RequestError) as refused:
        ensure(folder=str(photos))
    assert [any(str(photos / p) in text for text in refused.value.problems)
            for p in ("train/dog/3.png", "test/cat/0.png")] == [True, True]  # fmt: skip
    assert len(refused.value.problems) == 2
    assert not list(cache.glob("tensors/*"))


def test_a_cache_that_cannot_be_written_is_a_sentence(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HAM_DATA", str(tmp_path / "file" / "below"))
    assert digests(photos)  # planning goes on
    with pytest.raises(RequestError, match="set HAM_DATA"):
        ensure(folder=str(photos))


@pytest.mark.parametrize("size", [0, -3])
def test_a_size_without_pixels_is_a_sentence(photos: Path, size: int) -> None:
    with pytest.raises(RequestError, match=r"data\.size"):
        find(folder=str(photos), size=size)


def test_channel_statistics_are_counted_once_when_pictures_are_decoded(photos: Path, monkeypatch) -> None:
    first = load(folder=str(photos), size=6, validation=0.25, split_seed=0)
    assert (first.mean, first.std) == split.statistics(Folder(photos, 6).load().train_images)

    def again(images: torch.Tensor) -> None:
        raise AssertionError("counted again")

    monkeypatch.setattr(split, "statistics", again)
    second = load(folder=str(photos), size=6, validation=0.25, split_seed=0)
    assert (second.mean, second.std) == (first.mean, first.std)


def test_a_cache_of_an_earlier_version_has_no_channel_statistics_and_they_are_counted(photos: Path) -> None:
    first = load(folder=str(photos), size=6, validation=0.0, split_seed=0)
    path = Folder(photos, 6).tensor_file
    contents = torch.load(path, weights_only=True) | {"mean": None, "std": None}
    torch.save(contents, path)
    second = load(folder=str(photos), size=6, validation=0.0, split_seed=0)
    assert (second.mean, second.std) == (first.mean, first.std)
