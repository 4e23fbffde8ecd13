"""Bytes that a sweep takes on disk: what its trials keep when they are done, and what they need while they train.

    weights file      4 bytes per number of the state dict
    while training    weights by every rule and of every average, and a checkpoint (network, momentum, averages) three times:
                      the last one, the one before, and the next while it is written
    when done         weights by the rules that are kept, and the evaluations

An estimate: within some percent for weights; the record of an epoch and of an image are typical sizes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ham_core.data.index import facts
from ham_core.errors import RequestError
from ham_core.models.sizes import numbers_in
from ham_core.prefix import prefix_file
from ham_core.protocol import RULES, split_weights

if TYPE_CHECKING:
    from ham_core.config import Trial
    from ham_core.protocol import Evaluation
    from orchestration.plan import Plan, Step

EPOCH = 30_000  # bytes of an epoch's metrics, in the journal and in MLflow
RECORD = 2_000_000  # bytes of an empty tracking database and a sweep's plan
IMAGE = 16  # bytes of an image's predictions in an evaluation, compressed
ALWAYS_KEPT = frozenset({"best", "last"})  # rules


@dataclass(frozen=True)
class Footprint:
    """Bytes of one trial: when it is done, at most while it trains, and of its first epochs where others share them."""

    done: int
    training: int
    prefix: int


def kept_rules(evaluations: Iterable[Evaluation]) -> frozenset[str]:
    """By which rules a finished trial keeps its weights: best, last, and what is evaluated; of θ and of each average."""
    return ALWAYS_KEPT | {split_weights(one.weights)[0] for one in evaluations}


def footprint(trial: Trial, evaluations: Sequence[Evaluation], rules: Collection[str]) -> Footprint | None:
    """The bytes of a trial that keeps weights by these rules; None for a network of another package."""
    try:
        found = facts(trial.data.name, trial.data.folder, trial.data.size, trial.data.label)
    except RequestError:
        return None
    numbers = numbers_in(trial.model.name, trial.model.width, len(found.classes), found.shape[0])
    if numbers is None:
        return None
    file, sets = 4 * numbers, 1 + len(trial.method.averaging)
    records = EPOCH * trial.epochs
    predictions = IMAGE * len(evaluations) * min(found.images[1], trial.data.test_limit or found.images[1])
    checkpoint = file * (1 + sets)
    return Footprint(
        done=records + predictions + file * sets * len(rules),
        training=records + 3 * checkpoint + file * sets * len(RULES),
        prefix=checkpoint + file * sets * (len(RULES) - 1),  # without `last`
    )


def estimate_bytes(plan: Plan, at_once: int = 1) -> int | None:
    """What the trials that are left will add to the store; None where a network's size is not known."""
    total, training, shared = 0, [0], set[str]()
    for step in plan.todo:
        found = footprint_of(step)
        if found is None:
            return None
        if step.epochs_left:
            total += found.done
            training.append(found.training - found.done)
        for name in step.prefixes.values():
            total += 0 if name in shared else found.prefix
            shared.add(name)
    return total + at_once * max(training) + (RECORD if plan.todo else 0)


def footprint_of(step: Step) -> Footprint | None:
    """The same of a step of a plan."""
    evaluations = step.planned.evaluations
    return footprint(step.planned.trial, evaluations, kept_rules(evaluations))


def used(path: Path) -> int:
    """Bytes of all files below a folder; those that vanish meanwhile do not count."""
    total = 0
    for file in path.rglob("*"):
        try:
            total += file.lstat().st_size if not file.is_dir() else 0
        except OSError:
            continue
    return total


def size_in_words(count: float) -> str:
    """`1.4 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def bytes_in(text: str) -> int:
    """`50GB`, `1.5 TB` or a plain number of bytes -> bytes; RequestError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(|k|M|G|T)B?\s*", text, re.IGNORECASE)
    if found is None or not float(found[1]):
        raise RequestError(f"--disk: '{text}' is no size; write for example --disk 50GB, or 800MB")
    return int(float(found[1]) * 1000 ** ("", "k", "m", "g", "t").index(found[2].lower()))


class Budget:
    """How many bytes a store may have. A trial starts only if it and those that run would stay within them.

    footprints: {fingerprint: bytes of a trial while it trains}.
    """

    def __init__(self, store: Path, limit: int, footprints: Mapping[str, int]) -> None:
        self.store, self.limit, self.footprints = store, limit, dict(footprints)
        self._taken: int | None = None

    def admits(self, identity: str, running: Collection[str]) -> bool:
        """Whether there is room for one more."""
        if self._taken is None:
            now = used(self.store) - sum(used(self._folder(one)) for one in running)
            self._taken = now + sum(self.footprints.get(one, 0) for one in running)
        return self._taken - used(self._folder(identity)) + self.footprints.get(identity, 0) <= self.limit

    def recount(self) -> None:
        """What runs has changed, or what is there."""
        self._taken = None

    def _folder(self, identity: str) -> Path:
        return self.store / "trials" / identity

    def drop(self, names: Iterable[str]) -> bool:
        """Delete shared beginnings -> whether there were any."""
        paths = [path for name in names if (path := prefix_file(self.store, name)).exists()]
        for path in paths:
            path.unlink(missing_ok=True)
        self.recount()
        return bool(paths)

    def sentence(self) -> str:
        """Why a trial cannot start."""
        return (
            f"no room: the store has {size_in_words(used(self.store))} of its {size_in_words(self.limit)}; raise "
            "--disk, or make room with ham gc --delete"
        )
