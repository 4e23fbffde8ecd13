"""Downloads from a server on this machine: whole, continued, broken, altered, silent."""

from __future__ import annotations

import hashlib
import http.server
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ham_core.data import download as room
from ham_core.data.download import Archive, NotFetched, download

CONTENTS = bytes(range(256)) * 4000  # 1,024,000 bytes


class Server(http.server.ThreadingHTTPServer):
    """Serves one file. `cut`: bytes after which it hangs up, one per request; `ranges`: whether it can send a rest."""

    def __init__(self, contents: bytes = CONTENTS) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents, self.ranges, self.pause = contents, True, 0.0
        self.from_zero = False
        self.cut: list[int] = []
        self.asked: list[str | None] = []

    @property
    def archive(self) -> Archive:
        url = f"http://127.0.0.1:{self.server_port}/images.tar.gz"
        return Archive(url, hashlib.md5(CONTENTS).hexdigest(), len(CONTENTS))


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        contents, start = self.server.contents, 0
        if wanted and self.server.ranges:
            start = 0 if self.server.from_zero else int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
            if start >= len(contents):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(contents)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(contents) - 1}/{len(contents)}")
        else:
            self.send_response(200)
        rest = contents[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        for at in range(0, len(rest), 64_000):
            if self.server.cut and at >= self.server.cut[0]:
                self.server.cut.pop(0)
                return
            self.wfile.write(rest[at : at + 64_000])
            time.sleep(self.server.pause)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one:
        threading.Thread(target=one.serve_forever, args=(0.02,), daemon=True).start()
        yield one
        one.shutdown()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "images.tar.gz"


def part_of(place: Path) -> Path:
    place.parent.mkdir(exist_ok=True)
    return place.with_name(f"{place.name}.part")


def test_a_file_arrives_whole_with_its_progress(server: Server, place: Path) -> None:
    told: list[tuple[str, int, int]] = []
    download(server.archive, place, lambda *one: told.append(one))
    assert place.read_bytes() == CONTENTS
    assert [path.name for path in place.parent.iterdir()] == ["images.tar.gz"]
    assert told[-1] == ("downloading images.tar.gz", len(CONTENTS), len(CONTENTS))
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})
    assert server.asked == [None]
    assert socket.getdefaulttimeout() is None


def test_a_broken_connection_is_continued_where_it_broke(server: Server, place: Path) -> None:
    server.cut = [128_000, 256_000]
    download(server.archive, place)
    assert place.read_bytes() == CONTENTS
    assert server.asked == [None, "bytes=128000-", "bytes=384000-"]


def test_a_later_try_continues_what_an_earlier_one_left(server: Server, place: Path) -> None:
    part_of(place).write_bytes(CONTENTS[:700_000])
    told: list[int] = []
    download(server.archive, place, lambda what, done, total: told.append(done))
    assert place.read_bytes() == CONTENTS
    assert server.asked == ["bytes=700000-"]
    assert told[0] > 700_000


def test_a_killed_download_is_continued(server: Server, place: Path) -> None:
    server.pause = 0.05
    archive = server.archive
    code = (
        "from pathlib import Path; from ham_core.data.download import Archive, download;"
        f"download(Archive({archive.url!r}, {archive.md5!r}), Path({str(place)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 20
    while not (part_of(place).exists() and part_of(place).stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    came = part_of(place).stat().st_size
    assert 0 < came < len(CONTENTS)
    server.pause = 0.0
    download(archive, place)
    assert place.read_bytes() == CONTENTS
    assert server.asked[-1] == f"bytes={came}-"


def test_a_server_that_cannot_send_a_rest_sends_everything_again(server: Server, place: Path) -> None:
    server.ranges = False
    part_of(place).write_bytes(CONTENTS[:700_000])
    download(server.archive, place)
    assert place.read_bytes() == CONTENTS
    assert server.asked == ["bytes=700000-"]


def test_a_rest_that_begins_elsewhere_is_not_appended(server: Server, place: Path) -> None:
    server.from_zero = True
    part_of(place).write_bytes(CONTENTS[:700_000])
    download(server.archive, place)
    assert place.read_bytes() == CONTENTS
    assert server.asked == ["bytes=700000-"]


def test_all_bytes_of_an_earlier_try_are_recognised(server: Server, place: Path) -> None:
    part_of(place).write_bytes(CONTENTS)
    download(server.archive, place)
    assert place.read_bytes() == CONTENTS
    assert server.asked == [f"bytes={len(CONTENTS)}-"]


@pytest.mark.parametrize("left", [b"x" * 700_000, b"x" * 2_000_000])
def test_what_an_earlier_try_left_of_another_file_is_thrown_away(
    server: Server, place: Path, left: bytes
) -> None:
    part_of(place).write_bytes(left)
    download(server.archive, place)
    assert place.read_bytes() == CONTENTS
    assert server.asked == [f"bytes={len(left)}-", None]


def test_another_file_at_the_address_is_named_and_leaves_nothing(server: Server, place: Path) -> None:
    server.contents = CONTENTS[:-1] + b"x"
    with pytest.raises(NotFetched) as refused:
        download(server.archive, place)
    for part in (
        server.archive.url,
        hashlib.md5(server.contents).hexdigest(),
        server.archive.md5,
        "another file",
    ):
        assert part in str(refused.value)
    assert list(place.parent.iterdir()) == []


def test_a_server_that_always_hangs_up_ends_the_download_and_keeps_what_came(
    server: Server, place: Path
) -> None:
    server.cut = [128_000, 0, 0]
    with pytest.raises(NotFetched, match="128,000 bytes that came are kept, and the same command continues"):
        download(server.archive, place)
    assert part_of(place).read_bytes() == CONTENTS[:128_000]
    assert not place.exists()
    server.cut = []
    download(server.archive, place)
    assert place.read_bytes() == CONTENTS


def test_an_address_without_the_file_is_said(tmp_path: Path) -> None:
    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as one:
        threading.Thread(target=one.serve_forever, args=(0.02,), daemon=True).start()
        with pytest.raises(NotFetched, match="Not Found"):
            download(Archive(f"http://127.0.0.1:{one.server_port}/x", "0"), tmp_path / "x")
        one.shutdown()


def test_a_closed_port_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(NotFetched, match="refused"):
        download(Archive(f"http://127.0.0.1:{port}/x", "0"), tmp_path / "x")
    assert time.monotonic() - start < 5


def test_a_silent_network_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(room, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts the connection, never answers
        start = time.monotonic()
        with pytest.raises(NotFetched):
            download(Archive(f"http://127.0.0.1:{silent.getsockname()[1]}/x", "0"), tmp_path / "x")
    assert time.monotonic() - start < 3


def test_a_connection_that_falls_silent_is_waited_for_only_so_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(room, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer_once() -> None:
            connection, _ = listening.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n0123456789")
            time.sleep(10)

        threading.Thread(target=answer_once, daemon=True).start()
        start = time.monotonic()
        with pytest.raises(NotFetched):
            download(Archive(f"http://127.0.0.1:{listening.getsockname()[1]}/x", "0"), tmp_path / "x")
    assert time.monotonic() - start < 5


def test_a_name_server_that_never_answers_is_waited_for_only_so_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(room, "PATIENCE", 0.2)
    monkeypatch.setattr(room.urllib.request, "urlopen", lambda *args, **options: time.sleep(5))
    start = time.monotonic()
    with pytest.raises(NotFetched, match=r"no answer within 0\.2 s"):
        download(Archive("http://127.0.0.1/x", "0"), tmp_path / "x")
    assert time.monotonic() - start < 3


def test_a_file_is_judged_by_its_checksum_and_its_size(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    right = hashlib.md5(b"abc").hexdigest()
    assert Archive("u/x", right, 3).fault(path) is None
    assert "cut short: 3 of 1,000 bytes" in str(Archive("u/x", "0", 1000).fault(path))
    assert "altered or another file: 3 bytes" in str(Archive("u/x", "0", 3).fault(path))
    assert f"altered or another file: 3 bytes, md5 {right}, expected 0" == Archive("u/x", "0").fault(path)
