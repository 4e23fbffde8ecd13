"""A sweep as one file: what goes in comes out, and what is damaged or foreign is refused before anything is taken."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ham_core.errors import RequestError
from orchestration import tracking
from orchestration.archive import read_archive, write_archive
from orchestration.status import recorded_sweep, status
from orchestration.store import Store
from tests.orchestration.keeping import ham, started

Write = Callable[..., Path]
SEED = ("seeds=0",)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """A store with a finished sweep of two trials, and its archive."""
    from tests.orchestration.conftest import SWEEP

    place = tmp_path_factory.mktemp("kept")
    path = place / "tiny.yaml"
    path.write_text(SWEEP, encoding="utf-8")
    store, _ = started(path, place / "s", sets=SEED)
    path.unlink()  # the archive needs it no more
    write_archive(store, "tiny", place / "tiny.tar.gz")
    return store, place / "tiny.tar.gz"


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]


def packed(path: Path, files: dict[str, bytes], honest: bool = True) -> Path:
    """An archive of these files; `honest`: its manifest has their digests."""
    if honest:
        digests = {
            name: hashlib.sha256(content).hexdigest()
            for name, content in files.items()
            if name != "manifest.json"
        }
        manifest = json.loads(files["manifest.json"]) | {"files": digests}
        files = files | {"manifest.json": json.dumps(manifest).encode()}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_an_imported_sweep_is_done_and_equal_file_by_file(kept: tuple[Store, Path], tmp_path: Path) -> None:
    store, archive = kept
    other = Store(tmp_path / "other")
    _, taken = read_archive(other, archive)
    assert taken == dict.fromkeys(store.trials(), "imported")
    assert status(other)["sweeps"][0]["counts"]["done"] == 2
    assert recorded_sweep(other, "tiny") == recorded_sweep(store, "tiny")
    for identity in store.trials():
        ours, theirs = store.folder(identity), other.folder(identity)
        assert theirs.journal() == ours.journal()
        assert theirs.evaluations() == ours.evaluations()
        assert not (theirs.path / "checkpoint.pt").exists()
        assert theirs.weight_names() == []
    assert not list(other.path.glob(".import-*"))


def test_weights_are_taken_along_by_name_or_all(kept: tuple[Store, Path], tmp_path: Path) -> None:
    store, _ = kept
    folder = store.folder(store.trials()[0])
    for weights, expected in ((["best"], ["best"]), (["all"], folder.weight_names())):
        write_archive(store, "tiny", tmp_path / "file.tar.gz", weights)
        other = Store(tmp_path / weights[0])
        read_archive(other, tmp_path / "file.tar.gz")
        taken = other.folder(folder.path.name)
        assert taken.weight_names() == expected
        assert (taken.path / "weights" / "best.pt").read_bytes() == (
            folder.path / "weights" / "best.pt"
        ).read_bytes()
    with pytest.raises(RequestError) as error:
        write_archive(store, "tiny", tmp_path / "file.tar.gz", ["best_seat"])
    assert "no trial of the sweep keeps 'best_seat'; known: all, best" in str(error.value)


def test_the_same_trials_are_the_same_bytes(kept: tuple[Store, Path], tmp_path: Path) -> None:
    store, archive = kept
    write_archive(store, "tiny", tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == archive.read_bytes()


def test_every_damage_is_refused_and_nothing_is_taken(kept: tuple[Store, Path], tmp_path: Path) -> None:
    """Truncated at each tenth of its length, emptied, and a byte flipped in 40 places."""
    whole = kept[1].read_bytes()
    broken = [whole[: len(whole) * tenth // 10] for tenth in range(10)]
    for place in range(20, len(whole) - 20, len(whole) // 40):
        broken.append(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
    for number, content in enumerate(broken):
        path, store = tmp_path / "broken.tar.gz", Store(tmp_path / f"s{number}")
        path.write_bytes(content)
        with pytest.raises(RequestError) as error:
            read_archive(store, path)
        assert str(path) in str(error.value)
        assert store.trials() == []
        assert not (store.path / "sweeps").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../outside.txt",
        "/tmp-outside.txt",
        "trials/../../outside.txt",
        f"trials/{'a' * 64}/../../x",
        f"trials/{'a' * 64}/checkpoint.pt",
        f"trials/{'a' * 64}/weights/../best.pt",
        "trials/abc/trial.json",
    ],
)
def test_names_that_are_no_file_of_a_sweep_are_refused(
    kept: tuple[Store, Path], tmp_path: Path, name: str
) -> None:
    archive = packed(tmp_path / "strange.tar.gz", contents(kept[1]) | {name: b"x"})
    with pytest.raises(RequestError) as error:
        read_archive(Store(tmp_path / "inner" / "s"), archive)
    assert f"names '{name}', which is no file of a sweep" in str(error.value)
    assert not list(tmp_path.rglob("*outside*"))


def test_a_file_that_the_manifest_does_not_name_is_refused(kept: tuple[Store, Path], tmp_path: Path) -> None:
    archive = packed(tmp_path / "more.tar.gz", contents(kept[1]) | {"trials/x": b"x"}, honest=False)
    with pytest.raises(RequestError, match="holds 'trials/x'"):
        read_archive(Store(tmp_path / "s"), archive)


def test_links_are_refused(kept: tuple[Store, Path], tmp_path: Path) -> None:
    files, path = contents(kept[1]), tmp_path / "link.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            if name == "sweep.json":
                entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, "../../secret", 0
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(RequestError, match=r"holds 'sweep\.json'"):
        read_archive(Store(tmp_path / "s"), path)


def test_a_lost_or_changed_file_is_named(kept: tuple[Store, Path], tmp_path: Path) -> None:
    files = contents(kept[1])
    journal = next(name for name in files if name.endswith("journal.jsonl"))
    without = {name: content for name, content in files.items() if name != journal}
    for changed, sentence in (
        (without, f"lacks '{journal}'"),
        (files | {journal: files[journal] + b" "}, f"'{journal}' is damaged"),
    ):
        archive = packed(tmp_path / "changed.tar.gz", changed, honest=False)
        with pytest.raises(RequestError) as error:
            read_archive(Store(tmp_path / "s"), archive)
        assert sentence in str(error.value)


def test_foreign_files_and_later_formats_are_refused(kept: tuple[Store, Path], tmp_path: Path) -> None:
    store, files = Store(tmp_path / "s"), contents(kept[1])
    manifest = json.loads(files["manifest.json"])
    later = files | {"manifest.json": json.dumps(manifest | {"version": 2}).encode()}
    nameless = files | {"sweep.json": json.dumps({"name": "../x"}).encode()}
    planless = files | {"sweep.json": json.dumps({"name": "tiny", "trials": [{}]}).encode()}
    cases = {
        "has format 2": packed(tmp_path / "later.tar.gz", later),
        "'../x' cannot be a sweep's name": packed(tmp_path / "nameless.tar.gz", nameless),
        "is no record of a sweep": packed(tmp_path / "planless.tar.gz", planless),
        "(no manifest.json)": packed(tmp_path / "other.tar.gz", {"a": b""}, honest=False),
        "no such file": tmp_path / "absent.tar.gz",
    }
    text = tmp_path / "text.tar.gz"
    text.write_bytes(gzip.compress(b"only text"))
    for sentence, path in {**cases, "cannot be read as an exported sweep": text}.items():
        with pytest.raises(RequestError) as error:
            read_archive(store, path)
        assert sentence in str(error.value)
    assert store.trials() == []


def test_importing_twice_changes_nothing_and_another_plan_of_that_name_is_refused(
    kept: tuple[Store, Path], write_sweep: Write, tmp_path: Path
) -> None:
    store = Store(tmp_path / "s")
    read_archive(store, kept[1])
    assert set(read_archive(store, kept[1])[1].values()) == {"is here already"}
    other, _ = started(write_sweep(), tmp_path / "t", sets=("seeds=1",), trained=lambda name: False)
    with pytest.raises(RequestError, match="has another sweep of the name 'tiny'"):
        read_archive(other, kept[1])
    assert other.trials() == []


def test_trials_that_are_not_trained_are_left_out_and_named(write_sweep: Write, tmp_path: Path) -> None:
    store, _ = started(write_sweep(), tmp_path / "s", sets=SEED, trained=lambda name: name == "at seed=0")
    written = write_archive(store, "tiny", tmp_path / "file.tar.gz")
    assert (written.trials, written.left_out) == (1, ("trades seed=0",))
    none, _ = started(write_sweep(), tmp_path / "t", sets=SEED, trained=lambda name: False)
    with pytest.raises(RequestError, match="no trial of it is trained yet"):
        write_archive(none, "tiny", tmp_path / "file.tar.gz")


# the commands ------------------------------------------------------------------------------------------------------


def test_export_and_import_of_a_sweep_reach_mlflow(kept: tuple[Store, Path], tmp_path: Path) -> None:
    store, _ = kept
    code, out, _ = ham("export", "--sweep", "tiny", "--out", tmp_path / "file.tar.gz", "--store", store.path)
    assert (code, "2 trials of sweep 'tiny'" in out) == (0, True)
    code, out, err = ham("import", tmp_path / "file.tar.gz", "--store", tmp_path / "new")
    assert (code, err) == (0, "")
    assert "at seed=0  imported" in out
    runs = tracking.read_trials(tracking.default_uri(tmp_path / "new"), "tiny")
    assert {(run.fingerprint, run.status) for run in runs} == {(one, "FINISHED") for one in store.trials()}


def test_export_wants_a_trial_or_a_sweep(kept: tuple[Store, Path], tmp_path: Path) -> None:
    store, _ = kept
    for words in ((), ("abc", "--sweep", "tiny")):
        code, _, err = ham("export", *words, "--store", store.path)
        assert (code, "give a trial by the beginning of its fingerprint, or --sweep NAME" in err) == (2, True)
    code, _, err = ham("export", "--sweep", "tyny", "--store", store.path)
    assert (code, "no sweep 'tyny' was started here; known: tiny" in err) == (2, True)
    code, _, err = ham("export", "--sweep", "tiny", "--out", tmp_path, "--store", store.path)
    assert (code, "is a folder; name a file" in err) == (2, True)
