"""The CIFAR reader: batches as Python 2 wrote them, nothing that runs code, and what to do without network."""

from __future__ import annotations

import functools
import http.server
import io
import pickle
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ham_core.data import cifar10, ensure, load
from ham_core.data.cifar10 import CLASSES, TRAIN, Cifar10, read_batches
from ham_core.errors import RequestError
from tests import miniatures


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HAM_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(Cifar10, "archives", Cifar10.archives)
    return tmp_path / "cache"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """A folder that is served, with the miniature archive in it; its address and checksum are the published ones."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    file = folder / Cifar10.archives[0].name
    miniatures.write_cifar10(file)
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    ) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{file.name}"
        Cifar10.archives = (
            replace(Cifar10.archives[0], url=address, md5=miniatures.md5(file), size=file.stat().st_size),
        )
        yield file
        server.shutdown()


def test_batches_written_by_python_2_are_read() -> None:
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
    path, harm = tmp_path / "a.tar.gz", tmp_path / "harm"
    with tarfile.open(path, "w:gz") as tar:
        miniatures.add(
            tar, "cifar-10-batches-py/data_batch_1", b"cos\nmkdir\n(S'" + str(harm).encode() + b"'\ntR."
        )
    with pytest.raises(pickle.UnpicklingError, match="mkdir is not expected"):
        read_batches(path, TRAIN, "test_batch", "batches.meta", CLASSES, "", None)
    assert not harm.exists()


def test_published_statistics_and_the_tensor_file_of_it_are_the_same_data_set() -> None:
    source = miniatures.make("cifar10")
    data = load("cifar10", validation=0.2, split_seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (40, 10, 10)
    assert data.mean == (0.4914, 0.4822, 0.4465)
    copy = load(folder=str(source.tensor_file), validation=0.2, split_seed=0)
    assert (copy.mean, copy.facts.label, copy.facts.train_digest) == (
        data.mean,
        "cifar10",
        data.facts.train_digest,
    )


def test_without_data_and_network_one_sentence_says_what_to_do() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/cifar-10-python.tar.gz"
    Cifar10.archives = (replace(Cifar10.archives[0], url=address),)
    start = time.monotonic()
    with pytest.raises(RequestError) as refused:
        ensure("cifar10")
    assert time.monotonic() - start < 5
    assert len(refused.value.problems) == 1
    assert "\n" not in str(refused.value)
    for part in (
        "refused",
        str(Cifar10().place(Cifar10.archives[0])),
        "c58f30108f718f92721af3b95e74349a",
        Cifar10.page,
        "--set data=FOLDER",
        "make sweep-cifar10 DATA=FOLDER",
    ):
        assert part in str(refused.value)


def test_the_archive_is_downloaded_once(served: Path) -> None:
    ensure("cifar10")
    served.unlink()
    ensure("cifar10")
    assert len(load("cifar10", validation=0.0, split_seed=0).train) == 50
    assert [p.name for p in Cifar10().place(Cifar10.archives[0]).parent.iterdir()] == [
        Cifar10.archives[0].name
    ]


def test_a_download_with_another_checksum_leaves_nothing_behind(served: Path) -> None:
    served.write_bytes(b"a page that says sorry")
    with pytest.raises(RequestError, match="sends is cut short: 22 of"):
        ensure("cifar10")
    assert not list(Cifar10().place(Cifar10.archives[0]).parent.iterdir())
