"""cifar10 without the real archive: a small one of the same form, and a machine without network."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import pickle
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ham_core.data import cifar10, ensure, load
from ham_core.data.cifar10 import Cifar10, read_archive
from ham_core.errors import RequestError

NAMES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


def write_archive(path: Path) -> dict[str, np.ndarray]:
    """Six batches of ten images, one per class, in the archive's form; returns the pixels (10, 3072) by batch."""
    pixels = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for i, name in reversed(list(enumerate(NAMES))):  # the order in the archive does not matter
            pixels[name] = np.random.default_rng(i).integers(0, 256, (10, 3072), dtype=np.uint8)
            batch = {
                "data": pixels[name],
                "labels": list(range(10)),
                "batch_label": "x",
                "filenames": ["y"] * 10,
            }
            add(tar, f"cifar-10-batches-py/{name}", pickle.dumps(batch, protocol=2))
    return pixels


def add(tar: tarfile.TarFile, name: str, contents: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(contents)
    tar.addfile(member, io.BytesIO(contents))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HAM_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/cifar-10-python.tar.gz"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which its cifar-10-python.tar.gz is served."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    ) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
        server.shutdown()


def test_the_archive_is_read_in_its_standard_order(tmp_path: Path) -> None:
    pixels = write_archive(tmp_path / "a.tar.gz")
    tensors = read_archive(tmp_path / "a.tar.gz")
    expected = np.concatenate([pixels[name] for name in NAMES[:5]]).reshape(50, 3, 32, 32)
    assert np.array_equal(tensors.train_images.numpy(), expected)
    assert np.array_equal(tensors.test_images.numpy().reshape(10, -1), pixels["test_batch"])
    assert tensors.train_labels.tolist() == list(range(10)) * 5


def test_batches_written_by_python_2_are_read(tmp_path: Path) -> None:
    """The form of the published archive: byte strings for keys, pixels and the array's type."""
    old = (
        b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04"
        b"(K\x01K\x01K\x04\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89U\x04\x00\x7f\x80\xfftbU\x06labelsq\x07]q\x08K\x06au."
    )
    batch = cifar10._Batch(io.BytesIO(old)).load()
    assert batch["data"].tolist() == [[0, 127, 128, 255]]
    assert batch["data"].dtype == np.uint8
    assert batch["labels"] == [6]


def test_an_archive_that_would_run_code_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        add(
            tar,
            "cifar-10-batches-py/data_batch_1",
            b"cos\nmkdir\n(S'" + str(tmp_path / "harm").encode() + b"'\ntR.",
        )
    with pytest.raises(pickle.UnpicklingError, match="mkdir is not expected"):
        read_archive(tmp_path / "a.tar.gz")
    assert not (tmp_path / "harm").exists()


def test_an_archive_put_there_by_hand_is_used_without_network(
    monkeypatch: pytest.MonkeyPatch, closed_port: str
) -> None:
    write_archive(Cifar10().archive)
    monkeypatch.setattr(cifar10, "MD5", md5(Cifar10().archive))
    monkeypatch.setattr(cifar10, "URL", closed_port)
    data = load("cifar10", validation=0.2, split_seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 10, 10)
    assert data.mean == (0.4914, 0.4822, 0.4465)
    Cifar10().archive.unlink()  # the decoded pixels are enough from now on
    assert Cifar10().present()
    assert torch.equal(load("cifar10", validation=0.2, split_seed=0).train.images, data.train.images)
    copy = load(
        folder=str(Cifar10().tensor_file), validation=0.2, split_seed=0
    )  # and they are the same data set
    assert (copy.mean, copy.facts.label, copy.facts.train_digest) == (
        data.mean,
        "cifar10",
        data.facts.train_digest,
    )


def test_a_damaged_archive_is_named_with_its_checksum() -> None:
    write_archive(Cifar10().archive)
    with pytest.raises(RequestError) as refused:
        ensure("cifar10")
    for part in (str(Cifar10().archive), md5(Cifar10().archive), "c58f30108f718f92721af3d95e74349a"):
        assert part in str(refused.value)


def test_without_data_and_network_one_sentence_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, closed_port: str
) -> None:
    monkeypatch.setattr(cifar10, "URL", closed_port)
    start = time.monotonic()
    with pytest.raises(RequestError) as refused:
        ensure("cifar10")
    assert time.monotonic() - start < 5
    assert len(refused.value.problems) == 1
    assert "\n" not in str(refused.value)
    for part in (
        "refused",
        str(Cifar10().archive),
        cifar10.PAGE,
        "--set data=FOLDER",
        "make sweep-cifar10 DATA=FOLDER",
    ):
        assert part in str(refused.value)


def test_a_silent_network_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts the connection, never answers
        monkeypatch.setattr(cifar10, "URL", f"http://127.0.0.1:{silent.getsockname()[1]}/x")
        start = time.monotonic()
        with pytest.raises(RequestError, match="cannot be downloaded"):
            ensure("cifar10")
    assert time.monotonic() - start < 3


def test_the_archive_is_downloaded_once(monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str]) -> None:
    folder, url = served
    write_archive(folder / cifar10.ARCHIVE)
    monkeypatch.setattr(cifar10, "MD5", md5(folder / cifar10.ARCHIVE))
    monkeypatch.setattr(cifar10, "URL", url)
    ensure("cifar10")
    (folder / cifar10.ARCHIVE).unlink()
    ensure("cifar10")
    assert len(load("cifar10", validation=0.0, split_seed=0).train) == 50
    assert [p.name for p in Cifar10().archive.parent.iterdir()] == [cifar10.ARCHIVE]
    assert socket.getdefaulttimeout() is None


def test_a_download_with_another_checksum_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str]
) -> None:
    folder, url = served
    write_archive(folder / cifar10.ARCHIVE)
    monkeypatch.setattr(cifar10, "URL", url)
    with pytest.raises(RequestError, match="corrupted"):
        ensure("cifar10")
    assert not list(Cifar10().archive.parent.iterdir())


def test_without_torchvision_the_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, served: tuple[Path, str]
) -> None:
    folder, url = served
    write_archive(folder / cifar10.ARCHIVE)
    monkeypatch.setattr(cifar10, "URL", url)
    monkeypatch.setattr(cifar10, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="torchvision, which downloads it, is not installed"):
        ensure("cifar10")
