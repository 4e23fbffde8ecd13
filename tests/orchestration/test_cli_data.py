"""`ham data`: what there is, fetching from a server on this machine, checking, and looking at the images."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from ham_core.data import contact
from ham_core.data.source import Facts
from orchestration.cli import app, datasets
from tests import miniatures
from tests.miniatures import NAMES, published


def ham(*arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command in this process. An exception is a traceback: it fails the test."""
    outcome = CliRunner().invoke(app, list(arguments))
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.exit_code, outcome.stdout, outcome.stderr


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HAM_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        kind = type(published(name))
        monkeypatch.setattr(kind, "archives", kind.archives)
    return tmp_path / "cache"


@pytest.fixture
def served(cache: Path) -> Iterator[None]:
    """The miniatures of svhn on a server; nothing in the cache."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    source = miniatures.make("svhn")
    folder = source.place(source.archives[0]).parent.rename(cache.parent / "web")
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    ) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        type(source).archives = tuple(
            replace(one, url=f"http://127.0.0.1:{server.server_port}/{one.name}") for one in source.archives
        )
        yield
        server.shutdown()


def test_the_list_says_what_is_on_this_machine() -> None:
    miniatures.make("stl10")
    code, out, _ = ham("data", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert set(NAMES) < set(rows)
    assert rows["stl10"]["present"]
    assert not rows["svhn"]["present"]
    assert (len(rows["cifar100"]["classes"]), rows["tiny-imagenet"]["shape"]) == (100, [3, 64, 64])
    code, out, _ = ham("data", "list")
    (line,) = [line for line in out.splitlines() if line.startswith("svhn")]
    assert line.split()[1:5] == ["10", "3x32x32", "99289", "no"]


@pytest.mark.usefixtures("served")
def test_fetching_shows_progress_on_stderr_and_the_facts_on_stdout() -> None:
    code, out, err = ham("data", "fetch", "svhn", "--json")
    assert code == 0
    for line in (
        "downloading train_32x32.mat: 100 %",
        "downloading test_32x32.mat: 100 %",
        "reading svhn: 100 %",
    ):
        assert line in err.splitlines()
    answer = json.loads(out)
    assert answer["present"]
    assert answer["train_digest"] == f"md5:{published('svhn').archives[0].md5}"
    assert published("svhn").tensor_file.is_file()
    assert ham("data", "check", "svhn")[0] == 0


def test_fetching_without_network_says_where_a_file_brought_by_hand_belongs() -> None:
    kind = type(published("svhn"))
    kind.archives = tuple(replace(one, url=f"http://127.0.0.1:9/{one.name}") for one in kind.archives)
    code, out, err = ham("data", "fetch", "svhn")
    assert (code, out) == (2, "")
    (sentence,) = err.splitlines()
    for part in (str(published("svhn").place(kind.archives[0])), kind.archives[0].md5, kind.page):
        assert part in sentence


def test_a_check_names_every_bad_file_and_ends_with_2() -> None:
    source = miniatures.make("svhn")
    assert ham("data", "check", "svhn")[0] == 0
    places = [source.place(archive) for archive in source.archives]
    places[0].write_bytes(b"x")
    source.tensor_file.write_bytes(source.tensor_file.read_bytes()[:5000])
    code, out, err = ham("data", "check", "svhn")
    assert (code, out) == (2, "")
    problems = [line for line in err.splitlines() if line.startswith("data: ")]
    assert len(problems) == 2
    assert str(places[0]) in problems[0]
    assert str(source.tensor_file) in problems[1]


def test_a_check_of_what_is_not_there_ends_with_2() -> None:
    code, _, err = ham("data", "check", "cifar100")
    assert code == 2
    assert "run `ham data fetch cifar100`" in err


def test_show_writes_the_first_images_of_each_class(tmp_path: Path) -> None:
    """Digits are 8x8: enlarged six times to 48, a gap of 4, names 150 pixels wide."""
    code, out, _ = ham("data", "show", "digits", "--per-class", "3")
    assert (code, out) == (0, "digits-images.png\n")
    sheet = np.asarray(Image.open(tmp_path / "digits-images.png"))
    assert sheet.shape == (10 * 52 + 4, 150 + 3 * 52 + 4, 3)
    bunch = load_digits()
    second = bunch.images[bunch.target == 7][1]  # images 0, 1 and 2 of a class are in the training set
    top, left = 7 * 52 + 4, 4 + 150 + 52
    shown = sheet[top : top + 48 : 6, left : left + 48 : 6]
    expected = np.rint(second * 255 / 16).astype(np.uint8)
    assert all(np.array_equal(shown[..., channel], expected) for channel in range(3))
    assert (sheet[top : top + 48, left + 48 : left + 52] == 255).all()
    assert (sheet[: 52 * 10, 4:150] < 128).any()  # the names


def test_show_of_many_classes_goes_on_in_blocks_to_the_right(tmp_path: Path) -> None:
    miniatures.make("tiny-imagenet")
    code, out, _ = ham(
        "data", "show", "tiny-imagenet", "--per-class", "2", "--out", "sheets/tiny.png", "--json"
    )
    assert code == 0
    assert json.loads(out) == {"name": "tiny-imagenet", "picture": "sheets/tiny.png"}
    with Image.open(tmp_path / "sheets" / "tiny.png") as sheet:
        assert sheet.size == (4 * (150 + 2 * 68) + 4, 50 * 68 + 4)
        grey = miniatures.tiny_files()["train/n01784675/images/n01784675_10.JPEG"]  # class 10, the grey one
        first = sheet.crop((4 + 150, 10 * 68 + 4, 4 + 150 + 64, 10 * 68 + 68))
    (tmp_path / "x.jpg").write_bytes(grey)
    assert np.array_equal(np.asarray(first), np.asarray(Image.open(tmp_path / "x.jpg").convert("RGB")))


def test_show_of_a_folder_is_named_by_its_label(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            (tmp_path / "photos" / part / name / "x.jpg").write_bytes(miniatures.jpeg(1, (20, 30)))
    code, out, _ = ham("data", "show", str(tmp_path / "photos"))
    assert (code, out) == (0, "photos (jpeg copy)-images.png\n")


def test_a_picture_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = ham("data", "show", "digits", "--out", str(tmp_path / "file" / "x.png"))
    assert code == 2
    assert "--out: cannot write" in err


def test_lines_tell_every_tenth_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = datasets.lines()
    for done in range(0, 101, 5):
        progress("reading", done, 100)
    progress("waiting", 0, 0)
    progress("waiting", 0, 0)
    told = capsys.readouterr().err.splitlines()
    assert told == [*(f"reading: {tenth} %" for tenth in range(0, 101, 10)), "waiting"]


def test_names_and_images_of_each_class_have_their_place() -> None:
    told = Facts(name="a", label="a", classes=tuple("abc"), shape=(3, 100, 100), train_digest="", test_digest="", crop=0,
                 flip=False, validation=0, source="", images=(3, 0))  # fmt: skip
    import torch

    from ham_core.data import Tensors

    images = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 100, 100).contiguous()
    path = Path("sheet.png")
    contact.write_sheet(
        path, Tensors(images, torch.tensor([2, 0, 1]), images, torch.tensor([0, 1, 2])), told, 1
    )
    sheet = np.asarray(Image.open(path))
    assert [int(sheet[c * 104 + 54, 200, 0]) for c in range(3)] == [1, 2, 0]  # not enlarged: 100 is enough
