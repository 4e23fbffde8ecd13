"""Every published data set from a miniature of its archive: pixels, labels, identity, and what is said of a bad file."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as theirs
from torchvision import transforms

from ham_core.data import check, decode, download, ensure, facts, imagenette, index, load, tiny_imagenet
from ham_core.data.published import Published
from ham_core.data.split import Dataset
from ham_core.errors import RequestError
from tests import miniatures
from tests.miniatures import NAMES, imagenette_files, make, pixels, published, tiny_files

NOWHERE = "http://127.0.0.1:9/"  # a port that refuses


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and the true checksums again afterwards."""
    monkeypatch.setenv("HAM_DATA", str(tmp_path / "cache"))
    for name in NAMES:
        kind = type(published(name))
        monkeypatch.setattr(kind, "archives", kind.archives)
    return tmp_path / "cache"


def whole(name: str) -> Dataset:
    return load(name, validation=0, split_seed=0)


def photo(contents: bytes) -> Image.Image:
    return Image.open(io.BytesIO(contents)).convert("RGB")


def planes(picture: Image.Image) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(picture).transpose(2, 0, 1)


# what is read ------------------------------------------------------------------------------------------------------


def test_cifar10_is_its_batches_in_order() -> None:
    make("cifar10")
    data = whole("cifar10")
    expected = np.concatenate([pixels(i, 10, 3072) for i in range(1, 6)]).reshape(50, 3, 32, 32)
    assert np.array_equal(data.train.images.numpy(), expected)
    assert np.array_equal(data.test.images.numpy(), pixels(6, 10, 3072).reshape(10, 3, 32, 32))
    assert data.train.labels.tolist() == list(range(10)) * 5


def test_cifar100_has_the_fine_labels() -> None:
    make("cifar100")
    data = whole("cifar100")
    assert np.array_equal(data.train.images.numpy(), pixels(1, 200, 3072).reshape(200, 3, 32, 32))
    assert np.array_equal(data.test.images.numpy(), pixels(2, 100, 3072).reshape(100, 3, 32, 32))
    assert data.train.labels.tolist() == list(range(99, -1, -1)) * 2
    assert data.classes[:2] + data.classes[-1:] == ("apple", "aquarium_fish", "worm")


def test_svhn_puts_the_last_axis_first_and_calls_ten_zero() -> None:
    make("svhn")
    data = whole("svhn")
    x = pixels(1, 32, 32, 3, 24)
    assert data.train.images.shape == (24, 3, 32, 32)
    assert data.train.images[5, 2, 30, 7] == x[30, 7, 2, 5]
    assert np.array_equal(data.train.images[23].numpy(), x[..., 23].transpose(2, 0, 1))
    assert data.train.labels.tolist()[:12] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert data.test.labels.bincount().tolist() == [1, 3, 1, 1, 1, 1, 1, 1, 1, 1]  # not balanced


def test_stl10_is_written_column_by_column_and_counts_labels_from_one() -> None:
    make("stl10")
    data = whole("stl10")
    written = pixels(1, 20, 3, 96, 96)
    assert data.train.images[4, 1, 10, 20] == written[4, 1, 20, 10]
    assert np.array_equal(data.test.images.numpy(), pixels(2, 10, 3, 96, 96).transpose(0, 1, 3, 2))
    assert data.train.labels.tolist() == list(range(10)) * 2
    assert data.test.labels.tolist() == list(range(9, -1, -1))


def test_imagenette32_squashes_as_hams_code_does() -> None:
    make("imagenette32")
    data, files = whole("imagenette32"), imagenette_files()
    order = sorted(name for name in files if name.startswith("train/"))
    squash = transforms.Resize((32, 32))
    expected = np.stack([planes(squash(photo(files[name]))) for name in order])
    assert np.array_equal(data.train.images.numpy(), expected)
    assert data.train.labels.tolist() == [c for c in range(10) for _ in range(2)]
    assert data.test.labels.tolist() == list(range(10))


@pytest.mark.parametrize("size", [64, 128])
def test_imagenette_keeps_the_aspect_as_torchvisions_resize_and_center_crop(size: int) -> None:
    make(f"imagenette{size}")
    data, files = whole(f"imagenette{size}"), imagenette_files()
    order = sorted(name for name in files if name.startswith("train/"))
    middle = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size)])
    expected = np.stack([planes(middle(photo(files[name]))) for name in order])
    assert np.array_equal(data.train.images.numpy(), expected)
    assert len({photo(files[name]).size for name in order}) > 10  # the photos differ in shape


def test_tiny_imagenet_takes_val_as_its_test_set_labelled_by_the_annotations() -> None:
    make("tiny-imagenet")
    data, files = whole("tiny-imagenet"), tiny_files()
    order = sorted(name for name in files if name.startswith("train/") and name.endswith(".JPEG"))
    assert order[0].endswith("_10.JPEG")
    assert np.array_equal(data.train.images.numpy(), np.stack([planes(photo(files[name])) for name in order]))
    assert data.train.labels.tolist() == [c for c in range(200) for _ in range(2)]
    assert data.test.labels.tolist() == list(range(200))
    assert np.array_equal(data.test.images[7].numpy(), planes(photo(files["val/images/val_192.JPEG"])))


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision")
def test_without_pillow_torchvision_decodes_the_photos_of_an_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    make("imagenette64")
    monkeypatch.setattr(decode, "find_spec", lambda name: None if name == "PIL" else name)
    without = whole("imagenette64").train.images.int()
    files = imagenette_files()
    name = sorted(name for name in files if name.startswith("train/"))[3]
    expected = decode.with_pillow(files[name], 64, True).int()
    assert int((without[3] - expected).abs().max()) <= 2


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [((160, 213), 64, (64, 85)), ((213, 160), 64, (85, 64)), ((160, 160), 128, (128, 128)), ((50, 75), 100, (100, 150))],
)  # fmt: skip
def test_the_shorter_side_is_resized_and_the_longer_rounded_down(
    shape: tuple[int, int], size: int, expected: tuple[int, int]
) -> None:
    """160 x 213 to 64: 64 * 213 / 160 = 85.2, so 85. The middle 64 of 85 begin at round(10.5) = 10, Python's even rounding."""
    assert decode.resized(*shape, size) == expected
    assert decode.middle(85, 64) == 10
    assert decode.middle(64, 64) == 0


# torchvision -------------------------------------------------------------------------------------------------------


def test_addresses_and_checksums_are_torchvisions() -> None:
    def told(name: str) -> list[tuple[str, str]]:
        return [(archive.url, archive.md5) for archive in published(name).archives]

    assert told("cifar10") == [(theirs.CIFAR10.url, theirs.CIFAR10.tgz_md5)]
    assert told("cifar100") == [(theirs.CIFAR100.url, theirs.CIFAR100.tgz_md5)]
    assert told("stl10") == [(theirs.STL10.url, theirs.STL10.tgz_md5)]
    splits = [theirs.SVHN.split_list[part] for part in ("train", "test")]
    assert told("svhn") == [(url, checksum) for url, _, checksum in splits]
    for size in (32, 64, 128):
        assert told(f"imagenette{size}") == [theirs.Imagenette._ARCHIVES["160px"]]
    assert imagenette.WNIDS == {wnid: names[0] for wnid, names in theirs.Imagenette._WNID_TO_CLASS.items()}


def test_the_names_of_tiny_imagenet_are_imagenets_in_the_order_of_its_numbers() -> None:
    from torchvision.models._meta import _IMAGENET_CATEGORIES as imagenet

    assert list(tiny_imagenet.WNIDS) == sorted(tiny_imagenet.WNIDS)
    last = -1
    for name in tiny_imagenet.WNIDS.values():  # ImageNet's classes are in the order of their numbers, too
        last = imagenet.index(name, last + 1)
    assert (len(tiny_imagenet.WNIDS), last) == (200, imagenet.index("acorn"))


def unpacked(source: Published, tmp_path: Path) -> Path:
    with tarfile.open(source.place(source.archives[0])) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    return tmp_path / "unpacked"


def same(part: object, images: np.ndarray, labels: object) -> bool:  # type: ignore[type-arg]
    return np.array_equal(part.images.numpy(), images) and part.labels.tolist() == list(labels)  # type: ignore[attr-defined, call-overload]


@pytest.mark.parametrize(("name", "reader"), [("cifar10", theirs.CIFAR10), ("cifar100", theirs.CIFAR100)])
def test_cifar_is_read_as_torchvision_reads_it(
    name: str, reader: type[theirs.CIFAR10], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, data = unpacked(make(name), tmp_path), whole(name)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: Path(path).is_file())
    for train, part in ((True, data.train), (False, data.test)):
        other = reader(root, train=train)
        assert same(part, other.data.transpose(0, 3, 1, 2), other.targets)
        assert tuple(other.classes) == data.classes


def test_svhn_is_read_as_torchvision_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    source, data = make("svhn"), whole("svhn")
    monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda path, md5: Path(path).is_file())
    for split, part in (("train", data.train), ("test", data.test)):
        other = theirs.SVHN(source.place(source.archives[0]).parent, split=split)
        assert same(part, other.data, other.labels)


def test_stl10_is_read_as_torchvision_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, data = unpacked(make("stl10"), tmp_path), whole("stl10")
    monkeypatch.setattr("torchvision.datasets.stl10.check_integrity", lambda path, md5: Path(path).is_file())
    for split, part in (("train", data.train), ("test", data.test)):
        other = theirs.STL10(root, split=split)
        assert same(part, other.data, other.labels)
        assert tuple(other.classes) == data.classes


def test_imagenette_is_read_as_torchvision_reads_it(tmp_path: Path) -> None:
    root, data = unpacked(make("imagenette64"), tmp_path), whole("imagenette64")
    middle = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(64)])
    for split, part in (("train", data.train), ("val", data.test)):
        other = theirs.Imagenette(root, split=split, size="160px", transform=middle)
        assert same(part, np.stack([planes(image) for image, _ in other]), [label for _, label in other])
        assert tuple(names[0] for names in other.classes) == data.classes


# identity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_knows_a_published_data_set_without_its_archive(name: str, cache: Path) -> None:
    told = facts(name)
    source = published(name)
    assert all(archive.md5 in told.train_digest + told.test_digest for archive in source.archives)
    assert told.train_digest != told.test_digest
    assert sum(told.train_counts or ()) == told.images[0]
    assert len(told.train_counts or ()) == len(told.classes) == len(set(told.classes))
    assert told.crop == told.shape[1] // 8
    assert told.flip
    assert told.label == name
    assert not source.present()
    assert not cache.exists()


def test_no_two_data_sets_share_an_identity_or_a_cache() -> None:
    identities = [digest for name in NAMES for digest in (facts(name).train_digest, facts(name).test_digest)]
    assert len(set(identities)) == 2 * len(NAMES)
    assert len({published(name).tensor_file for name in NAMES}) == len(NAMES)


def test_the_identity_of_each_data_set_is_fixed() -> None:
    """Fingerprints of trained trials are made of these."""
    assert facts("cifar10").train_digest == "md5:c58f30108f718f92721af3b95e74349a-train"
    assert facts("imagenette64").test_digest == "md5:e793b78cc4c9e9a4ccc0c1155377a412-middle64-test"
    assert facts("imagenette32").train_digest == "md5:e793b78cc4c9e9a4ccc0c1155377a412-squashed32-train"
    assert facts("svhn").train_digest == "md5:e26dedcc434d2e4c54c9b2d4a06d8373"
    assert facts("tiny-imagenet").train_digest == "md5:90528d7ca1a48142e341f4ef8d21d0de-train"


# caching -----------------------------------------------------------------------------------------------------------


def test_the_imagenettes_share_one_archive() -> None:
    places = {
        published(f"imagenette{size}").place(published("imagenette32").archives[0]) for size in (32, 64, 128)
    }
    assert len(places) == 1


@pytest.mark.parametrize("name", NAMES)
def test_decoded_pixels_are_enough_from_then_on(name: str) -> None:
    source = make(name)
    first = whole(name)
    assert (first.facts.label, first.facts.shape) == (name, tuple(first.train.images.shape[1:]))
    for archive in source.archives:
        source.place(archive).unlink()
    assert source.present()
    again = whole(name)
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.test.labels, again.test.labels)
    assert check(name) == []


def test_two_processes_that_ask_at_once_build_the_cache_once(cache: Path) -> None:
    make("tiny-imagenet")
    code = (
        "from tests import miniatures; miniatures.accept('tiny-imagenet');"
        "from ham_core.data import load;"
        "data = load('tiny-imagenet', validation=0, split_seed=0, progress=lambda *told: print(*told));"
        "print('images', len(data.train))"
    )
    several = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.getcwd()},
        )
        for _ in range(3)
    ]
    outputs = [process.communicate()[0] for process in several]
    assert [process.returncode for process in several] == [0, 0, 0]
    assert sum("decoding pictures" in text for text in outputs) == 1
    assert all("images 400" in text for text in outputs)
    assert [path.suffix for path in (cache / "tensors").iterdir()] == [".pt"]


def test_who_waits_for_another_process_is_told_so() -> None:
    source = make("cifar10")
    code = (
        "import time; from ham_core.data.places import alone; from pathlib import Path\n"
        f"with alone(Path({str(source.tensor_file)!r})): print('held', flush=True); time.sleep(1)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    told: list[str] = []
    ensure("cifar10", progress=lambda what, done, total: told.append(what))
    assert told[0] == f"waiting for the process that makes {source.tensor_file.name}"
    assert holder.wait() == 0


def test_a_damaged_cache_is_made_again() -> None:
    source = make("cifar10")
    first = whole("cifar10").train.images.clone()
    contents = source.tensor_file.read_bytes()
    source.tensor_file.unlink()
    source.tensor_file.write_bytes(contents[:1000])
    assert torch.equal(whole("cifar10").train.images, first)


# bad files ---------------------------------------------------------------------------------------------------------


def unreachable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(published(name))
    moved = tuple(
        download.Archive(NOWHERE + archive.name, archive.md5, archive.size) for archive in kind.archives
    )
    monkeypatch.setattr(kind, "archives", moved)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_its_place_and_checksum(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(name)
    unreachable(name, monkeypatch)
    gone = source.archives[-1]
    source.place(gone).unlink()
    with pytest.raises(RequestError) as refused:
        ensure(name)
    (found,) = check(name)
    for sentence in (str(refused.value), found):
        assert "\n" not in sentence
        for part in (name, str(source.place(gone)), gone.name, gone.md5, source.page):
            assert part in sentence
    assert f"ham data fetch {name}" in found
    assert "refused" in str(refused.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_cut_short_is_named(name: str) -> None:
    source = make(name)
    place = source.place(source.archives[-1])
    size = place.stat().st_size
    place.write_bytes(place.read_bytes()[: size // 2])
    with pytest.raises(RequestError) as refused:
        ensure(name)
    assert check(name) == list(refused.value.problems)
    assert f"{place} is cut short: {size // 2:,} of {size:,} bytes" in str(refused.value)
    assert not source.tensor_file.exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_file_with_one_altered_byte_is_named(name: str) -> None:
    source = make(name)
    place = source.place(source.archives[0])
    contents = bytearray(place.read_bytes())
    contents[len(contents) // 2] ^= 1
    place.write_bytes(contents)
    with pytest.raises(RequestError) as refused:
        ensure(name)
    assert check(name) == list(refused.value.problems)
    assert f"{place} is altered or another file" in str(refused.value)
    for part in (miniatures.md5(place), source.archives[0].md5, source.page):
        assert part in str(refused.value)
    assert not source.tensor_file.exists()


def test_both_files_of_svhn_are_judged_at_once() -> None:
    source = make("svhn")
    for archive in source.archives:
        source.place(archive).write_bytes(b"another file")
    assert len(check("svhn")) == 2


def test_an_altered_byte_of_the_decoded_pixels_is_found_by_a_check() -> None:
    source = make("cifar10")
    ensure("cifar10")
    assert check("cifar10") == []
    contents = bytearray(source.tensor_file.read_bytes())
    contents[len(contents) // 2] ^= 1
    source.tensor_file.write_bytes(contents)
    (found,) = check("cifar10")
    assert str(source.tensor_file) in found
    assert "checksum" in found


def rewritten(name: str, drop: str = "", replaced: dict[str, bytes] | None = None) -> Published:
    """The miniature without the members that end in `drop`, or with others in their place; its checksum is accepted."""
    source = make(name)
    place = source.place(source.archives[0])
    with tarfile.open(place) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
    changes = replaced or {}
    with tarfile.open(place, "w:gz") as tar:
        for member, contents in files.items():
            if not (drop and member.endswith(drop)):
                miniatures.add(tar, member, changes.get(member.rpartition("/")[2], contents))
    miniatures.accept(name)
    return source


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("cifar10", "data_batch_3"),
        ("cifar100", "meta"),
        ("stl10", "test_y.bin"),
        ("stl10", "class_names.txt"),
    ],
)
def test_a_member_that_an_archive_lacks_is_named(name: str, member: str) -> None:
    source = rewritten(name, drop=f"/{member}")
    with pytest.raises(RequestError, match=f"does not hold {member}") as refused:
        ensure(name)
    assert str(source.place(source.archives[0])) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "member", "contents"),
    [
        ("cifar10", "batches.meta", miniatures.python2({"label_names": ["a", "b"]})),
        ("cifar100", "meta", miniatures.python2({"fine_label_names": ["a", "b"]})),
        ("stl10", "class_names.txt", b"a\nb\n"),
    ],
)
def test_an_archive_with_other_classes_is_refused(name: str, member: str, contents: bytes) -> None:
    rewritten(name, replaced={member: contents})
    with pytest.raises(RequestError, match=r"lists the classes a, b, \.\.\.; expected"):
        ensure(name)


def test_a_class_folder_that_imagenette_lacks_is_said() -> None:
    rewritten("imagenette32", drop="n01440764_040.JPEG")
    with pytest.raises(RequestError, match="lists the classes n02102040"):
        ensure("imagenette32")


def test_a_photo_that_cannot_be_decoded_is_named() -> None:
    rewritten("imagenette64", replaced={"n02979186_10026.JPEG": b"no photo"})
    with pytest.raises(
        RequestError, match=r"cannot decode the photo train/n02979186/n02979186_10026\.JPEG in"
    ):
        ensure("imagenette64")


@pytest.mark.parametrize(
    ("without", "sentence"),
    [
        ("val/val_annotations.txt", "does not hold val/val_annotations.txt"),
        ("val/images/val_7.JPEG", "does not hold the photo val_7.JPEG, which its val_annotations.txt names"),
    ],
)
def test_what_tiny_imagenet_lacks_is_named(without: str, sentence: str) -> None:
    source = make("tiny-imagenet")
    miniatures.write_tiny(source.place(source.archives[0]), without)
    miniatures.accept("tiny-imagenet")
    with pytest.raises(RequestError, match=sentence):
        ensure("tiny-imagenet")


def test_a_broken_photo_of_tiny_imagenet_is_named() -> None:
    source = make("tiny-imagenet")
    place, files = source.place(source.archives[0]), dict(tiny_files())
    files["train/n01443537/images/n01443537_2.JPEG"] = b"no photo"
    with zipfile.ZipFile(place, "w") as archive:
        for name, contents in files.items():
            archive.writestr(f"tiny-imagenet-200/{name}", contents)
    miniatures.accept("tiny-imagenet")
    with pytest.raises(RequestError, match=r"cannot decode the photo .*n01443537_2\.JPEG"):
        ensure("tiny-imagenet")


def test_a_mat_file_without_labels_is_named() -> None:
    from scipy.io import savemat

    source = make("svhn")
    savemat(source.place(source.archives[1]), {"X": pixels(1, 32, 32, 3, 2)})
    miniatures.accept("svhn")
    with pytest.raises(RequestError, match=r"test_32x32.mat does not hold y"):
        ensure("svhn")


@pytest.mark.parametrize("name", ["cifar10", "svhn", "stl10", "tiny-imagenet", "imagenette128"])
def test_what_is_no_archive_at_all_is_a_sentence(name: str) -> None:
    source = make(name)
    source.place(source.archives[0]).write_bytes(b"not an archive")
    miniatures.accept(name)
    with pytest.raises(RequestError, match=f"cannot be read as {name}"):
        ensure(name)


def test_svhn_without_scipy_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    make("svhn")
    monkeypatch.setattr("ham_core.data.svhn.find_spec", lambda name: None)
    with pytest.raises(RequestError, match="SciPy, which is not installed"):
        ensure("svhn")


def test_checking_what_is_nowhere_fetches_nothing(cache: Path) -> None:
    (found,) = check("stl10")
    assert "not on this machine" in found
    assert not cache.exists()


def test_a_data_set_without_files_of_its_own_is_checked_by_loading_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert check("digits") == []
    monkeypatch.setattr("ham_core.data.digits.TEST_DIGEST", "0" * 64)
    (found,) = check("digits")
    assert "differ" in found


def test_every_published_data_set_has_a_miniature() -> None:
    assert {name for name in index.names() if isinstance(index.find(name), Published)} == set(NAMES)
