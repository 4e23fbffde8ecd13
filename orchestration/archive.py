"""A sweep as one file: its record and its trained trials, to be kept or taken to another store. Light.

    FILE.tar.gz    manifest.json                       {"version", "sweep", "files": {name: SHA-256}}
                   sweep.json                          what the driver left behind: plan, file, profile, settings
                   trials/<fingerprint>/...            settings, journal, evaluations with their per-image predictions;
                                                       weights by name where asked for; no checkpoints

The same store gives the same bytes. Reading it checks every name and every digest before anything is written to the store.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ham_core.errors import RequestError, known
from ham_core.folder import TrialFolder, unwritable, write_atomically, write_json
from orchestration.started import refuse_without_file
from orchestration.status import recorded_sweep, recorded_sweeps
from orchestration.store import Store

VERSION = 1
ALL = "all"
MANIFEST, RECORD = "manifest.json", "sweep.json"
TRIAL_FILE = re.compile(
    r"trials/[0-9a-f]{64}/"
    r"(trial\.json|journal\.jsonl|done\.json|evaluations/[0-9a-f]{64}\.(json|npz)|weights/[\w-]+\.pt)"
)


@dataclass(frozen=True)
class Written:
    """What went into an archive. `left_out`: names of trials that are not trained to their end."""

    path: Path
    bytes: int
    trials: int
    left_out: tuple[str, ...]


def write_archive(store: Store, name: str, target: Path, weights: Sequence[str] = ()) -> Written:
    """Write a started sweep with its trained trials. `weights`: names of those to take along, or `all`."""
    recorded = recorded_sweep(store, name)
    refuse_without_file(recorded)
    if target.is_dir():
        raise RequestError(
            f"--out: {target} is a folder; name a file, for example --out {target / f'{name}.tar.gz'}"
        )
    trained, left_out = [], []
    for trial in recorded["trials"]:
        folder = store.folder(trial["fingerprint"])
        if folder.is_done() and not folder.lost_epochs():
            trained.append(folder)
        elif trial["grids"] or folder.settings() is not None:
            left_out.append(str(trial["name"]))
    if not trained:
        raise RequestError(f"sweep '{name}': no trial of it is trained yet, so there is nothing to export")
    _refuse_absent(trained, weights)
    files = [
        (f"trials/{one.path.name}/{inside}", path) for one in trained for inside, path in _files(one, weights)
    ]
    record = json.dumps(recorded, indent=1).encode()
    digests = {RECORD: hashlib.sha256(record).hexdigest()} | {key: _digest(path) for key, path in files}
    manifest = json.dumps({"version": VERSION, "sweep": name, "files": digests}, indent=1).encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda file: _pack(file, [(MANIFEST, manifest), (RECORD, record)], files))
    return Written(target, target.stat().st_size, len(trained), tuple(left_out))


def _refuse_absent(folders: Sequence[TrialFolder], weights: Sequence[str]) -> None:
    kept = {name for folder in folders for name in folder.weight_names()}
    absent = [name for name in weights if name != ALL and name not in kept]
    if absent:
        raise RequestError(
            [
                f"--weights: no trial of the sweep keeps '{name}'; {known(name, {*kept, ALL})}"
                for name in absent
            ]
        )


def _files(folder: TrialFolder, weights: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """(name inside the trial's folder, path) of what is taken along."""
    for name in ("trial.json", "journal.jsonl", "done.json"):
        yield name, folder.path / name
    for record in folder.evaluations():  # an array without its record is no evaluation
        for suffix in ("json", "npz"):
            name = f"evaluations/{record['fingerprint']}.{suffix}"
            yield name, folder.path / name
    for name in folder.weight_names():
        if ALL in weights or name in weights:
            yield f"weights/{name}.pt", folder.weights_file(name)


def _pack(file: IO[bytes], texts: Sequence[tuple[str, bytes]], files: Sequence[tuple[str, Path]]) -> None:
    """Without times and owners, so that the same trials are the same bytes."""
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, content in texts:
            archive.addfile(_entry(name, len(content)), io.BytesIO(content))
        for name, path in files:
            with open(path, "rb") as source:
                archive.addfile(_entry(name, path.stat().st_size), source)


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# reading -----------------------------------------------------------------------------------------------------------


def read_archive(store: Store, source: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Take a sweep into the store -> (its record, {fingerprint: what happened}). RequestError before anything is changed."""
    reason = unwritable(store.path)
    if reason:
        raise RequestError(f"--store: {store.path} cannot be written ({reason}); name another folder")
    store.path.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=".import-", dir=store.path))
    try:
        _unpack(source, place)
        recorded = _record(json.loads((place / RECORD).read_bytes()), source)
        _refuse_other_plan(store, recorded)
        if not (place / "trials").is_dir():
            raise RequestError(f"{source}: holds no trained trial, only a plan; nothing was taken")
        taken = store.import_trials(place)
    except RequestError as error:  # the folder it was unpacked to will be gone
        raise RequestError([one.replace(f"{place}/", f"{source}: ") for one in error.problems]) from None
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if recorded["name"] not in {one["name"] for one in recorded_sweeps(store)}:
        (store.path / "sweeps").mkdir(exist_ok=True)
        path = store.path / "sweeps" / f"{recorded['name']}.json"
        write_json(path, recorded)
        store.share(path)
    return recorded, taken


@contextlib.contextmanager
def unpacked(source: Path) -> Iterator[tuple[dict[str, Any], Store]]:
    """A sweep's record and its trials in a store that is gone afterwards, to be read only. RequestError as above."""
    with tempfile.TemporaryDirectory(prefix="ham-") as place:
        store = Store(place)
        recorded, _ = read_archive(store, source)
        yield recorded, store


def _unpack(source: Path, place: Path) -> None:
    """Write the archive's files below `place`; every name is one of ours, every content is the one that was written."""
    try:
        with tarfile.open(source, "r:gz") as archive:
            manifest = _manifest(archive, source)
            for entry in archive:
                if entry.name == MANIFEST:
                    continue
                content = archive.extractfile(entry) if entry.isreg() else None
                if content is None or entry.name not in manifest:
                    raise RequestError(
                        f"{source}: holds '{entry.name}', which is no file of a sweep; nothing was taken"
                    )
                path = place / entry.name
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "wb") as file:
                    shutil.copyfileobj(content, file)
                if _digest(path) != manifest.pop(entry.name):
                    raise RequestError(
                        f"{source}: '{entry.name}' is damaged; copy the file again, nothing was taken"
                    )
    except FileNotFoundError:
        raise RequestError(f"{source}: no such file") from None
    except (
        tarfile.TarError,
        EOFError,
        zlib.error,
        gzip.BadGzipFile,
        ValueError,
        KeyError,
        TypeError,
    ) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError(
            f"{source}: cannot be read as an exported sweep ({why}); copy the file again, nothing was taken"
        ) from None
    if manifest:
        raise RequestError(f"{source}: lacks '{min(manifest)}'; copy the file again, nothing was taken")


def _manifest(archive: tarfile.TarFile, source: Path) -> dict[str, str]:
    """{name: SHA-256} of all other files; it comes first."""
    first = archive.next()
    content = archive.extractfile(first) if first is not None and first.name == MANIFEST else None
    if content is None:
        raise RequestError(f"{source}: is no sweep that ham export wrote (no {MANIFEST}); nothing was taken")
    manifest = json.loads(content.read())
    if manifest["version"] != VERSION:
        raise RequestError(
            f"{source}: has format {manifest['version']}, this version of ham reads format {VERSION}; nothing was taken"
        )
    files: dict[str, str] = manifest["files"]
    strange = [name for name in files if name != RECORD and not TRIAL_FILE.fullmatch(name)]
    if strange or RECORD not in files:
        raise RequestError(
            f"{source}: names '{strange[0]}', which is no file of a sweep; nothing was taken"
            if strange
            else f"{source}: lacks {RECORD}; nothing was taken"
        )
    return dict(files)


def _record(found: Any, source: Path) -> dict[str, Any]:
    """The driver's record, with everything that is read of it later."""
    name = found.get("name") if isinstance(found, dict) else None
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):  # it becomes a file's name
        raise RequestError(f"{source}: '{name}' cannot be a sweep's name; nothing was taken")
    keys = {"fingerprint", "name", "row", "grids", "seed", "epochs", "evaluations", "failure"}
    trials = found.get("trials")
    whole = {"time", "source", "profile", "sets", "text"} <= set(found)
    if not whole or not isinstance(trials, list) or not all(keys <= set(one) for one in trials):
        raise RequestError(f"{source}: {RECORD} is no record of a sweep; nothing was taken")
    return dict(found)


def _refuse_other_plan(store: Store, recorded: dict[str, Any]) -> None:
    """A sweep's name stands for one plan."""
    name = recorded["name"]
    for here in recorded_sweeps(store):
        if here["name"] == name and _plan(here) != _plan(recorded):
            raise RequestError(
                f"{store.path}: has another sweep of the name '{name}'; import into a store of its own, for example "
                "--store imported"
            )


def _plan(recorded: dict[str, Any]) -> set[str]:
    return {trial["fingerprint"] for trial in recorded["trials"]}
