"""Trials whose first epochs are the same: which they are, and the state they go on from.

Mining and calibration do nothing before their `start_epoch`. Until then HAM is plain AT, and two settings of HAM are each
other: what one of them has trained is what the other would train, bit for bit on the same machine and thread count.

    prefix_of(trial, k)   names the state after k epochs: equal names, equal states
    forks(trial)          the k > 0 at which a part of the trial becomes active

A prefix holds everything that a trial needs to go on from there: the training state, the journal and the kept weights.
It lies in STORE/prefixes/<name>.pt, can be made again at any time, and without it a trial trains these epochs itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ham_core.config import Trial, canonical, digest_of

FOLDER = "prefixes"
LATE = ("mining", "calibration")  # the parts of a method that may begin later than the training


def forks(trial: Trial) -> tuple[int, ...]:
    """After how many epochs the trial begins to differ from one without its late parts, ascending."""
    starts = (
        part.start_epoch for part in (trial.method.mining, trial.method.calibration) if part is not None
    )
    return tuple(sorted({start for start in starts if 0 < start < trial.epochs}))


def prefix_of(trial: Trial, epochs: int) -> str:
    """The name (64 hex digits) of the trial's state after `epochs` epochs."""
    return Prefixes(trial).name(epochs)


class Prefixes:
    """The names of one trial's prefixes; its settings are brought into canonical form once."""

    def __init__(self, trial: Trial) -> None:
        form = canonical(trial)
        self._parts = {word: form["method"].pop(word, None) for word in LATE}
        self._starts = {
            word: part.start_epoch for word in LATE if (part := getattr(trial.method, word)) is not None
        }
        self._averages = [(one.start_epoch, one.model_dump(mode="json")) for one in trial.method.averaging]
        # An average that asks for held-out images has them judged in each epoch where the test set selects.
        judged = trial.selection.on == "test" and any(one.needs_validation for one in trial.method.averaging)
        self.base = digest_of({"trial": form, "judges_held_out": judged})

    def name(self, epochs: int) -> str:
        """The prefix of so many epochs: what is not active by then is not in its name."""
        active = {word: self._parts[word] for word, start in self._starts.items() if start < epochs}
        averages = [form for start, form in self._averages if start < epochs]
        return digest_of({"base": self.base, "epochs": epochs, "active": active, "averages": averages})


def shared_prefixes(
    trials: Mapping[str, tuple[Trial, int]], exists: Callable[[str], bool] = lambda name: False
) -> dict[str, dict[int, str]]:
    """{fingerprint: (trial, epochs done)} of trials in training -> {fingerprint: {k: name}} of what at least two can share.

    What `exists` already is of use to a single one. Only prefixes that a trial has not passed yet, and only at epochs at
    which some trial's late part begins.
    """
    prefixes = {key: Prefixes(trial) for key, (trial, _) in trials.items()}
    cuts: dict[str, set[int]] = {}
    for key, (trial, _) in trials.items():
        cuts.setdefault(prefixes[key].base, set()).update(forks(trial))
    members: dict[str, list[tuple[str, int]]] = {}
    for key, (trial, done) in trials.items():
        for cut in cuts[prefixes[key].base]:
            if done < cut < trial.epochs:
                members.setdefault(prefixes[key].name(cut), []).append((key, cut))
    found: dict[str, dict[int, str]] = {}
    for name, sharing in members.items():
        for key, cut in sharing if len(sharing) > 1 or exists(name) else []:
            found.setdefault(key, {})[cut] = name
    return {key: dict(sorted(points.items())) for key, points in found.items()}


def has_prefix(store: str | Path, name: str) -> bool:
    """Whether a store has a prefix, or the object storage that it mirrors does."""
    return prefix_file(store, name).exists() or mark_of(store, name).exists()


def mark_of(store: str | Path, name: str) -> Path:
    """An empty file in a mirror of object storage: this prefix is there (orchestration.remote)."""
    return prefix_file(store, name).with_suffix(".away")


def prefix_file(store: str | Path, name: str) -> Path:
    """Where a store keeps a prefix."""
    return Path(store) / FOLDER / f"{name}.pt"
