"""OUT/manifest.json: what every file of a report was made of, so that a second build with nothing new writes nothing.

    targets   "digits/ham-main": per form (md, tex, csv, png, pdf, svg, html) the digest of its inputs, its files' SHA-256
    inputs    digest -> spec, published files, trials, protocols, what else was read, program; what the target waits for
    trials    digest -> the trials of a grid: fingerprint -> name, state, digest of plan, run, seals, metrics and settings

Inputs and trials stand under their own digest, so targets share them. A file is up to date when its inputs have the digest
that is noted and its bytes are those that were written; everything else is written again. The manifest itself is written
last: after a kill it tells of too few files, never of too many.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ham_core.config import digest_of
from ham_core.errors import RequestError
from reports.collect import Material, Trial
from reports.published import FOLDER as PUBLISHED
from reports.published import load_papers
from reports.spec import Spec
from reports.tables import name_of

if TYPE_CHECKING:
    from reports.predictions import Predictions

NAME = "manifest.json"
LAYOUT = 1
LIBRARIES = ("jinja2", "matplotlib", "numpy", "scipy", "statsmodels")  # whose version can change a file
SHOWN = 6  # names in a sentence
NOT_RUN = "not run"  # the state of a trial without a run
Ask = tuple[str, ...]  # ("history", key) or ("predictions", fingerprint, weights, attack)
Trials = dict[str, list[str]]  # fingerprint -> [name, state, digest]


# inputs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """What a target is made of: `parts` as noted in the manifest, `trials` behind their digest."""

    parts: Mapping[str, Any]
    trials: Trials = field(default_factory=dict)

    @functools.cached_property
    def digest(self) -> str:
        """Equal inputs have equal digests."""
        return digest_of(dict(self.parts))


class Watched:
    """A sweep's material that notes what is read of it besides runs: series, and predictions of single images."""

    def __init__(self, source: Material) -> None:
        self.asked: set[Ask] = set()
        self._source = source

    @property
    def material(self) -> Material:
        """The same material, watched."""
        predictions = None if self._source.predictions is None else self._predictions
        return replace(self._source, history=self._history, predictions=predictions)

    def _history(self, key: str) -> Mapping[str, Sequence[tuple[int, float]]]:
        self.asked.add(("history", key))
        return self._source.history(key)

    def _predictions(self, trial: Trial, weights: str, attack: str) -> Predictions | None:
        assert self._source.predictions is not None
        self.asked.add(("predictions", trial.fingerprint, weights, attack))
        return self._source.predictions(trial, weights, attack)


def inputs_of(spec: Spec | None, source: Material, trials: Sequence[Trial], asked: Iterable[Ask]) -> Inputs:
    """What a table or figure of these trials is made of. `asked`: what it read besides runs when it was built."""
    trials = [*trials, *source.models]
    states = {trial.fingerprint: [name_of(trial), trial.state, trial.digest] for trial in trials}
    papers = sorted({reference.paper for reference in spec.published}) if spec is not None else []
    parts = {
        "spec": digest_of(spec.model_dump(mode="json") if spec is not None else None),
        "published": {paper: _published()[paper] for paper in papers},
        "trials": digest_of(list(states.items())),
        "protocols": sorted({trial.protocol.text for trial in trials if trial.protocol is not None}),
        "judged": digest_of([source.protocol, *(one.model_dump(mode="json") for one in source.judged)]),
        "store": source.predictions is not None,
        "read": {json.dumps(ask): _digest_of_answer(ask, source, trials) for ask in sorted(asked)},
        "program": program(),
    }
    return Inputs(parts, states)


def asks_of(parts: Mapping[str, Any]) -> list[Ask]:
    """What a target read when it had these inputs."""
    return [tuple(json.loads(words)) for words in parts.get("read", {})]


def _digest_of_answer(ask: Ask, source: Material, trials: Sequence[Trial]) -> str:
    if ask[0] == "history":
        return _digest_of_series(source, ask[1], trials)
    return _digest_of_predictions(source, trials, *ask[1:])


def _digest_of_series(source: Material, key: str, trials: Sequence[Trial]) -> str:
    """Of the points of those trials whose seals, which are inputs anyway, do not cover them."""
    unsealed = [
        trial.fingerprint
        for trial in trials
        if trial.run is not None and trial.finished and not trial.run.has_sealed_series
    ]
    found = source.history(key) if unsealed else {}
    return digest_of([[one, [list(point) for point in found.get(one, ())]] for one in unsealed])


def _digest_of_predictions(
    source: Material, trials: Sequence[Trial], fingerprint: str, weights: str, attack: str
) -> str:
    """Of the arrays; of the sentence where they are damaged, which the figure then waits with."""
    trial = next((trial for trial in trials if trial.fingerprint == fingerprint), None)
    if trial is None or source.predictions is None:
        return "none"
    try:
        found = source.predictions(trial, weights, attack)
    except RequestError as error:
        return digest_of(error.problems)
    if found is None:
        return "none"
    digest = hashlib.sha256()
    for name, value in vars(found).items():
        digest.update(f"{name} ".encode())
        digest.update(value.tobytes() if hasattr(value, "tobytes") else repr(value).encode())
    return digest.hexdigest()


@functools.cache
def _published() -> dict[str, str]:
    """Digest of each published source."""
    return {key: digest_of(paper.model_dump(mode="json")) for key, paper in load_papers(PUBLISHED).items()}


@functools.cache
def program() -> dict[str, str]:
    """What turns numbers into files: our code by its digest, libraries by their version."""
    import ham_core.statistics

    root = Path(__file__).parent
    code = [path for path in root.rglob("*") if path.suffix in (".py", ".j2", ".css", ".js")]
    digest = hashlib.sha256()
    for path in sorted(code, key=lambda path: path.relative_to(root).as_posix()):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(Path(ham_core.statistics.__file__).read_bytes())
    return {"reports": digest.hexdigest(), **{name: _version(name) for name in LIBRARIES}}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


# the file ------------------------------------------------------------------------------------------------------------


class Manifest:
    """What is noted of the files below a folder. Without a readable file: nothing."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.targets: dict[
            str, dict[str, Any]
        ] = {}  # target -> form -> {"inputs": digest, "files": {path: SHA-256}}
        self.inputs: dict[str, dict[str, Any]] = {}
        self.trials: dict[str, Trials] = {}
        try:
            noted = json.loads((out / NAME).read_bytes())
            if noted["layout"] == LAYOUT:
                self.targets, self.inputs, self.trials = noted["targets"], noted["inputs"], noted["trials"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass  # everything is built anew

    def noted(self, target: str, form: str) -> dict[str, Any]:
        """The inputs behind a form of a target; {} where it was never built."""
        entry = self.targets.get(target, {}).get(form)
        return self.inputs.get(entry["inputs"], {}) if entry else {}

    def asked(self, target: str) -> set[Ask]:
        """What a target read when it was last built."""
        return {ask for form in self.targets.get(target, {}) for ask in asks_of(self.noted(target, form))}

    def files(self, target: str, form: str) -> dict[str, str]:
        """{path below the folder: SHA-256} of a form of a target."""
        found: dict[str, str] = self.targets.get(target, {}).get(form, {}).get("files", {})
        return found

    def why(self, target: str, form: str, inputs: Inputs) -> list[str]:
        """Why a form of a target is to be written, a sentence each; [] where it is up to date."""
        entry = self.targets.get(target, {}).get(form)
        if entry is None:
            return [f"not built yet as {form}"]
        reasons = []
        if entry["inputs"] != inputs.digest:
            old = self.inputs.get(entry["inputs"], {})
            reasons += _differences(old, inputs, self.trials.get(old.get("trials", ""), {}))
        for path, digest in entry["files"].items():
            found = digest_of_file(self.out / path)
            if found is None:
                reasons.append(f"{path} is gone")
            elif found != digest:
                reasons.append(f"{path} is not what was written: it was edited, or a build was killed")
        return reasons

    def note(
        self, target: str, form: str, inputs: Inputs, files: Mapping[str, str], waiting: Sequence[str]
    ) -> None:
        """A form of a target was made. `waiting`: what it waits for, which follows from its inputs."""
        self.targets.setdefault(target, {})[form] = {"inputs": inputs.digest, "files": dict(files)}
        self.inputs[inputs.digest] = {**inputs.parts, "waiting": list(waiting)}
        if inputs.trials:
            self.trials[inputs.parts["trials"]] = inputs.trials

    def forget(self, target: str) -> None:
        """The target is no more. Its files go where they are still what was written."""
        for form in self.targets.pop(target, {}).values():
            for path, digest in form["files"].items():
                self.remove(path, digest)

    def remove(self, path: str, digest: str) -> None:
        """Delete a file that a build wrote and nobody has changed since."""
        if digest_of_file(self.out / path) == digest:
            (self.out / path).unlink()

    def save(self) -> bool:
        """Write what is still referred to -> whether that is anything new."""
        used = {entry["inputs"] for forms in self.targets.values() for entry in forms.values()}
        inputs = {digest: self.inputs[digest] for digest in sorted(used & self.inputs.keys())}
        states = {entry["trials"] for entry in inputs.values() if "trials" in entry}
        content = {
            "layout": LAYOUT,
            "targets": {target: self.targets[target] for target in sorted(self.targets)},
            "inputs": inputs,
            "trials": {digest: self.trials[digest] for digest in sorted(states & self.trials.keys())},
        }
        return write(
            self.out / NAME, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode()
        )


def _differences(old: Mapping[str, Any], new: Inputs, before: Trials) -> list[str]:
    """A sentence per input that is not what it was."""
    if not old:
        return ["the manifest lacks its inputs"]
    reasons = []
    for part, words in (
        ("spec", "its spec changed"),
        ("judged", "the protocols that it is judged under changed"),
        ("store", "the trial store is known now, or is no more"),
        ("page", "what it says besides tables and figures changed"),
    ):
        if old.get(part) != new.parts.get(part):
            reasons.append(words)
    for part, words in (
        ("published", "published values changed"),
        ("items", "shown tables and figures changed"),
    ):
        reasons += _listed(words, _changed(old.get(part, {}), new.parts.get(part, {})))
    read = _changed(old.get("read", {}), new.parts.get("read", {}))
    if old.get("trials") != new.parts.get("trials"):
        reasons += _runs(before, new.trials)
    else:
        reasons += _listed("other values were read", [" ".join(map(_short, json.loads(ask))) for ask in read])
    if old.get("protocols") != new.parts.get("protocols"):
        reasons.append("the protocols of its trials changed")
    mine, theirs = new.parts.get("program", {}), old.get("program", {})
    for name in _changed(theirs, mine):
        if name == "reports":
            reasons.append("the program that writes reports is another version")
        else:
            reasons.append(f"{name} {theirs.get(name, 'none')} -> {mine.get(name, 'none')}")
    return reasons or ["its inputs changed"]


def _runs(before: Trials, now: Trials) -> list[str]:
    """Which runs were added, removed and changed, by the names of their trials."""
    found: dict[str, list[str]] = {}
    for fingerprint in {**before, **now}:
        old, new = before.get(fingerprint), now.get(fingerprint)
        if old == new:
            continue
        name, was, state = (new or old or [""])[0], old[1] if old else "", new[1] if new else ""
        if new is None:
            found.setdefault("trials no longer planned", []).append(name)
        elif state == NOT_RUN:
            words = "runs removed" if old else "trials planned anew, not run"
            found.setdefault(words, []).append(name)
        elif was in ("", NOT_RUN):
            found.setdefault("runs added", []).append(name)
        else:
            how = f"{was} -> {state}" if was != state else "other numbers, settings or run"
            found.setdefault("runs changed", []).append(f"{name} ({how})")
    reasons = [reason for words, names in found.items() for reason in _listed(words, names)]
    return reasons or ["the order of its trials changed"]


def _short(word: str) -> str:
    """A fingerprint by its beginning."""
    return word[:10] if re.fullmatch(r"[0-9a-f]{64}", word) else word


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [key for key in {**new, **old} if old.get(key) != new.get(key)]


def _listed(words: str, names: Sequence[str]) -> list[str]:
    """`runs added: at seed 0, at seed 1 and 4 more`; [] without names."""
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{words}: {', '.join(names[:SHOWN])}{more}"]


# files ---------------------------------------------------------------------------------------------------------------


def digest_of_file(path: Path) -> str | None:
    """SHA-256 of its content; None where there is no such file."""
    try:
        return digest_of_bytes(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None


def digest_of_bytes(content: bytes) -> str:
    """SHA-256, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def write(path: Path, content: bytes) -> bool:
    """Write by rename, so that a reader never sees half a file -> whether the file was another one before."""
    if digest_of_file(path) == digest_of_bytes(content):
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    os.replace(beside, path)
    return True


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """One build of a folder at a time. What a killed one had begun to write is cleaned away."""
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for pattern in (".*.new", "*/.*.new", "*/figures/.*.new"):
            for path in out.glob(pattern):
                path.unlink()
        yield
    finally:
        os.close(descriptor)
