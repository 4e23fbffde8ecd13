"""One trial of an exported sweep, trained once more: what was recorded, which trial, and how far the numbers agree. Light.

    recorded r, again a, both fractions      difference d = 100 (a - r) points

With a tolerance of T > 0 points every statistic of every evaluation must have |d| <= T. With T = 0 everything that is no time
must be equal: these, every number of every epoch, and what is stored per image. The same settings give the same bits on the
same kind of machine with the same versions and threads; what differs of these is told.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ham_core.config import NUMERICS_VERSION, Trial, fingerprint
from ham_core.data.index import facts
from ham_core.errors import RequestError, known
from ham_core.folder import TrialFolder, read_json
from ham_core.metrics import STATISTICS
from ham_core.protocol import Evaluation, EvaluationAttack, evaluation_fingerprint
from ham_core.starts import sources_of
from orchestration.archive import unpacked
from orchestration.store import Store

ROUNDING = 1e-9  # points: a fraction may be summed in another order
TIMES = "time/"  # how metrics begin that belong to one machine
NAMED = 8  # differences that the last sentence names
LISTED = 40  # trials that a sentence lists


@dataclass(frozen=True)
class Recorded:
    """A trained trial of an archive. `done`: what was written down at its end; `records`, `arrays`: by evaluations'
    fingerprints. `left_out`: names of evaluations that the trial's settings do not ask for: other test images, or another
    version of the program."""

    fingerprint: str
    name: str
    row: str
    trial: Trial
    done: Mapping[str, Any]
    journal: Sequence[Mapping[str, Any]]
    evaluations: tuple[Evaluation, ...]
    records: Mapping[str, Mapping[str, Any]]
    arrays: Mapping[str, Mapping[str, Any]]
    left_out: tuple[str, ...]
    drawn: tuple[int, int] | None  # (number that draws it, of so many trials); None: it was asked for


# the archive -------------------------------------------------------------------------------------------------------


def read_recorded(source: Path, word: str | None, draw: int | None) -> Recorded:
    """The trial of an exported sweep that `word` means (beginning of a fingerprint, or a row), or one that is drawn.

    RequestError: no such archive or trial, or nothing was evaluated.
    """
    with unpacked(source) as (sweep, store):
        trained = [one for one in sweep["trials"] if store.folder(one["fingerprint"]).is_done()]
        if word is not None:
            chosen, drawn = _meant(source, word, trained, sweep["trials"]), None
        else:
            attacked = [one for one in trained if store.folder(one["fingerprint"]).evaluations()]
            chosen, drawn = _drawn(source, attacked, draw)
        folder = store.folder(chosen["fingerprint"])
        found = _read(source, folder, chosen, drawn)
    if not found.evaluations:
        why = "nothing of it was evaluated"
        if found.left_out:
            why = f"it was evaluated on other test images, or by another version of ham ({', '.join(found.left_out)})"
        raise RequestError(
            f"{source}: {found.name}: {why}, so there is nothing to compare; name another trial"
        )
    return found


def _meant(
    source: Path, word: str, trained: Sequence[Mapping[str, Any]], planned: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any]:
    def matches(trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        exact = [one for one in trials if word and word in (one["name"], one["row"])]
        return exact or [one for one in trials if word and one["fingerprint"].startswith(word.lower())]

    found = matches(trained)
    if len(found) == 1:
        return found[0]
    names = [str(one["name"]) for one in trained][:LISTED]
    if found:
        several = "; ".join(f"{one['fingerprint'][:10]}  {one['name']}" for one in found[:NAMED])
        raise RequestError(
            f"{source}: '{word}' means {len(found)} trials: {several}; write more letters of a fingerprint, or the seed"
        )
    if matches(planned):
        raise RequestError(
            f"{source}: '{word}' is planned but not trained in this file; known: {', '.join(sorted(names))}"
        )
    raise RequestError(f"{source}: holds no trial '{word}'; {known(word, names)}")


def _drawn(
    source: Path, trials: Sequence[Mapping[str, Any]], draw: int | None
) -> tuple[Mapping[str, Any], tuple[int, int]]:
    """One of the trials, each as likely as any other; the same number draws the same one of the same file."""
    if not trials:
        raise RequestError(f"{source}: no trial of it was evaluated, so there is nothing to compare")
    number = random.SystemRandom().randrange(10**6) if draw is None else draw
    ordered = sorted(trials, key=lambda one: str(one["fingerprint"]))
    # random() is the one method whose values Python promises to keep.
    return ordered[int(random.Random(number).random() * len(ordered))], (number, len(ordered))


def _read(
    source: Path, folder: TrialFolder, planned: Mapping[str, Any], drawn: tuple[int, int] | None
) -> Recorded:
    trial, name, left_out = folder.trial(), str(planned["name"]), []
    evaluations: list[Evaluation] = []
    records: dict[str, Mapping[str, Any]] = {}
    for record in folder.evaluations():
        try:
            attack = EvaluationAttack.model_validate(record["attack"])
            evaluation = Evaluation(weights=record["weights"], attack=attack)
            numbers = {str(key): float(value) for key, value in record["metrics"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):  # pydantic's are ValueErrors
            raise RequestError(
                f"{source}: an evaluation of {name} cannot be read ({record.get('fingerprint')}); export the sweep again"
            ) from None
        identity = evaluation_fingerprint(trial, evaluation)
        if identity != record["fingerprint"]:
            left_out.append(evaluation.name)
            continue
        evaluations.append(evaluation)
        records[identity] = {**record, "metrics": numbers}
    return Recorded(
        fingerprint=folder.path.name,
        name=name,
        row=str(planned["row"]),
        trial=trial,
        done=_end_of(folder),
        journal=folder.journal(),
        evaluations=tuple(sorted(evaluations, key=lambda one: one.name)),
        records=records,
        arrays={identity: folder.predictions(identity) for identity in records},
        left_out=tuple(sorted(left_out)),
        drawn=drawn,
    )


# its images --------------------------------------------------------------------------------------------------------


def with_images(trial: Trial, folder: str | None) -> Trial:
    """The trial, and those that it starts from or asks, with the recorded folder (or file) of images at another place.

    None: where it was. RequestError: the images are not there, or are not those that were recorded. Reads no pixel.
    """
    if folder is not None:
        if trial.data.folder is None:
            raise RequestError(
                f"--set data={folder}: the trial was trained on {trial.data.name}, which is found by its name; leave it out "
                "(HAM_DATA says where data sets are kept)"
            )
        settings = trial.model_dump(mode="json")
        _move(settings, trial.data.folder, str(Path(folder).expanduser().resolve()))
        trial = Trial.model_validate(settings)
    problems = list(dict.fromkeys(_other_images(trial)))
    if problems:
        raise RequestError(problems)
    return trial


def _move(settings: dict[str, Any], before: str, now: str) -> None:
    """Another folder in a trial's settings, and in those of the other trials that have the same."""
    if settings["data"]["folder"] == before:
        settings["data"]["folder"] = now
    for word in ("start_from", "helper"):
        if settings[word] is not None:
            _move(settings[word]["trial"], before, now)


def _other_images(trial: Trial) -> Iterator[str]:
    """Sentences about images that are not there, or are others."""
    data = trial.data
    advice = "; give the place of the recorded images with --set data=FOLDER" if data.folder else ""
    try:
        found = facts(data.name, data.folder, data.size, data.label)
    except RequestError as error:
        yield from (f"{problem}{advice}" for problem in error.problems)
        return
    for which, here, recorded in (
        ("training", found.train_digest, data.train_digest),
        ("test", found.test_digest, data.test_digest),
    ):
        if here != recorded:
            yield (
                f"{found.source}: has other {which} images (SHA-256 {here[:10]}...) than the trial was recorded with "
                f"({recorded[:10]}...){advice}"
            )
    for _, start in sources_of(trial):
        yield from _other_images(start.trial)


# comparing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """A recorded number and the same one again. `again` None: there is none."""

    name: str
    recorded: float
    again: float | None

    @property
    def points(self) -> float | None:
        """The difference in percentage points, of fractions."""
        return None if self.again is None else 100 * (self.again - self.recorded)

    def is_within(self, tolerance: float) -> bool:
        """Whether two fractions differ by at most so many points."""
        return self.points is not None and abs(self.points) <= tolerance + ROUNDING


@dataclass(frozen=True)
class Images:
    """What one evaluation stored per image. `differ`: images with another prediction, under attack or clean;
    `confidence`: the largest difference of a confidence."""

    name: str
    images: int
    differ: int
    confidence: float


@dataclass(frozen=True)
class Comparison:
    """All of a trial against all of it trained again. `statistics`: of its evaluations, which are fractions; `epochs`: of its
    journal; `same`, `other`: what results depend on besides the settings, {word: (recorded, again)}."""

    statistics: Sequence[Number]
    images: Sequence[Images]
    epochs: Sequence[Number]
    tolerance: float
    same: Mapping[str, str] = field(default_factory=dict)
    other: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def judged(self) -> int:
        """How many numbers the verdict is about."""
        return len(self.statistics) + (0 if self.tolerance else len(self.epochs))

    @property
    def wrong(self) -> list[str]:
        """The names of those that differ by too much."""
        far = [one.name for one in self.statistics if not one.is_within(self.tolerance)]
        return far if self.tolerance else far + [one.name for one in self.changed_epochs]

    @property
    def changed_epochs(self) -> list[Number]:
        """Numbers of the journal that are others now, by epoch."""
        return [one for one in self.epochs if one.again != one.recorded]

    @property
    def is_reproduced(self) -> bool:
        """The verdict."""
        return not self.wrong and (
            self.tolerance > 0 or not any(one.differ or one.confidence for one in self.images)
        )

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        images, differ = (sum(getattr(one, word) for one in self.images) for word in ("images", "differ"))
        points = f"{self.tolerance:g} points"
        if self.is_reproduced:
            more = "" if self.tolerance else f", and all {images} predictions are the same"
            return f"reproduced: all {self.judged} numbers within {points}{more}"
        found = []
        if self.wrong:
            several = f" and {len(self.wrong) - NAMED} more" if len(self.wrong) > NAMED else ""
            named = ", ".join(self.wrong[:NAMED])
            found.append(
                f"{len(self.wrong)} of {self.judged} numbers differ by more than {points}: {named}{several}"
            )
        if not self.tolerance and differ:
            found.append(f"{differ} of {images} predictions differ")
        confidence = max((one.confidence for one in self.images), default=0.0)
        if not self.tolerance and confidence:
            found.append(f"confidences differ by up to {confidence:.1e}")
        return f"not reproduced: {'; '.join(found)}"

    def to_json(self) -> dict[str, Any]:
        """What `ham reproduce --json` prints of it. Of the journal only what differs."""
        return {
            "reproduced": self.is_reproduced,
            "sentence": self.sentence,
            "tolerance": self.tolerance,
            "statistics": [asdict(one) | {"points": one.points} for one in self.statistics],
            "images": [asdict(one) for one in self.images],
            "epochs": {"numbers": len(self.epochs), "differ": [asdict(one) for one in self.changed_epochs]},
            "same": dict(self.same),
            "other": {key: {"recorded": ours, "again": now} for key, (ours, now) in self.other.items()},
        }


def compare(recorded: Recorded, folder: TrialFolder, tolerance: float = 0.0) -> Comparison:
    """A recorded trial against the folder in which it was trained and evaluated again."""
    evaluated = {one["fingerprint"]: one for one in folder.evaluations()}
    statistics, images, again = [], [], []
    for evaluation in recorded.evaluations:
        identity = evaluation_fingerprint(recorded.trial, evaluation)
        again.append(evaluated[identity])
        statistics += _numbers(recorded.records[identity]["metrics"], evaluated[identity]["metrics"])
        images.append(_images(evaluation.name, recorded.arrays[identity], folder.predictions(identity)))
    epochs: list[Number] = []
    journal = folder.journal()
    for record in recorded.journal:
        there = journal[record["epoch"]]["metrics"] if record["epoch"] < len(journal) else {}
        epochs += _numbers(record["metrics"], there, f"epoch {record['epoch'] + 1} ")
    ours = _circumstances([recorded.done, *recorded.records.values()], recorded.trial)
    now = _circumstances([_end_of(folder), *again], recorded.trial)
    return Comparison(
        statistics,
        images,
        epochs,
        tolerance,
        same={word: text for word, text in ours.items() if now.get(word) == text},
        other={word: (text, now.get(word, "-")) for word, text in ours.items() if now.get(word) != text},
    )


def _numbers(recorded: Mapping[str, float], again: Mapping[str, float], before: str = "") -> list[Number]:
    return [
        Number(f"{before}{name}", value, again.get(name))
        for name, value in recorded.items()
        if not name.startswith(TIMES)
    ]


def _images(name: str, recorded: Mapping[str, Any], again: Mapping[str, Any]) -> Images:
    """Of arrays with the images along the first axis. One that is not there again, or has another shape, differs wholly."""
    import numpy as np

    count = max((len(array) for array in recorded.values()), default=0)
    differ, confidence = np.zeros(count, dtype=bool), 0.0
    for key, ours in recorded.items():
        now = again.get(key)
        if now is None or now.shape != ours.shape:
            differ[:] = True
        elif ours.dtype.kind == "f":
            confidence = max(confidence, float(np.abs(now - ours).max(initial=0.0)))
        else:
            differ |= (ours != now).reshape(count, -1).any(axis=1)
    return Images(name, count, int(differ.sum()), confidence)


def _end_of(folder: TrialFolder) -> Mapping[str, Any]:
    """What was written down when the training was complete."""
    return read_json(folder.path / "done.json") or {}


def _circumstances(records: Sequence[Mapping[str, Any]], trial: Trial) -> dict[str, str]:
    """{word: value} of what results depend on besides the settings, of a training and its evaluations; several values where
    they were made on several machines. The fingerprint is the same, so the numerics version and the precision are."""
    found: dict[str, set[str]] = {}
    for record in records:
        told = {word: record.get(word) for word in ("device", "processor", "threads", "commit")}
        told["held-out images"] = record.get("held_out")
        for word, value in (record.get("versions", {}) | told).items():
            if value is not None:
                found.setdefault(word, set()).add(str(value))
    fixed = {"numerics version": str(NUMERICS_VERSION), "precision": trial.precision}
    return fixed | {word: " and ".join(sorted(values)) for word, values in found.items()}


def shown(comparison: Comparison) -> list[tuple[Number, str]]:
    """The rows of a table, each with a note: of an evaluation all statistics, and of its classes the one that differs most."""
    attacks: dict[str, list[Number]] = {}
    for one in comparison.statistics:
        attacks.setdefault(one.name.rpartition("/")[0], []).append(one)
    rows: list[tuple[Number, str]] = []
    for numbers in attacks.values():
        classes = [one for one in numbers if one.name.rpartition("/")[2] not in STATISTICS]
        rows += [(one, "") for one in numbers if one not in classes]
        if classes:
            most = max(classes, key=lambda one: math.inf if one.points is None else abs(one.points))
            rows.append((most, f"largest difference of {len(classes)} classes"))
    return rows


def needed_before(trial: Trial, store: Store) -> list[str]:
    """Fingerprints of trials that this one uses and the store has trained already: they are not trained again."""
    found: list[str] = []
    for _, start in sources_of(trial):
        identity = fingerprint(start.trial)
        found += [identity] if store.folder(identity).is_done() else needed_before(start.trial, store)
    return list(dict.fromkeys(found))
