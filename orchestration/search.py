"""A search: which settings are tried next, what became of those that were tried, and the journal that remembers them.

Optuna proposes, through Ray Tune's OptunaSearch; a proposed point becomes trials by the same road as a point of a grid. What
Optuna is told of a point is the mean score over its seeds (ham_core.scores), from the held-out images at the selected epoch.

    STORE/sweeps/<name>.search.jsonl    a line per proposal, with its checksum, fsynced before any of its trials starts

Every proposal is made anew from all finished points before it and a random seed of its own, derived from the search's seed and
its number. So nothing but the journal and the trial folders is needed to go on after a kill, and where one point is finished
before the next is proposed, the proposals are the same each time. Lines of another space, or of other settings besides it,
stay in the file and are passed over.
"""

from __future__ import annotations

import fcntl
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ham_core.errors import RequestError
from ham_core.prefix import Prefixes
from ham_core.scores import Score, selected_score, selection_images, watched_metric
from ham_core.seals import is_sealed, opened, sealed
from orchestration.space import Proposal, Range, Search
from orchestration.sweep import joined, load_sweep, only_point, with_points

if TYPE_CHECKING:
    from ham_core.config import Trial
    from orchestration.plan import Step
    from orchestration.store import Store
    from orchestration.sweep import Sweep

State = Literal["complete", "stopped", "failed", "open"]


@dataclass(frozen=True)
class Point:
    """A proposal and what became of it: `complete` (all its trials are trained), `stopped` (some were stopped early),
    `failed`, or `open`. `worst`, `avg`: the mean scores over its seeds, NaN where it has none.
    """

    number: int
    values: Mapping[str, Any]
    fingerprints: tuple[str, ...]
    state: State
    worst: float = math.nan
    avg: float = math.nan
    problem: str = ""  # why it can be no trial

    def record(self) -> dict[str, Any]:
        """As JSON; None stands for no score."""
        scores = {goal: _or_none(getattr(self, goal)) for goal in ("worst", "avg")}
        return {
            "number": self.number,
            "values": dict(self.values),
            "fingerprints": list(self.fingerprints),
            "state": self.state,
            "problem": self.problem,
            **scores,
        }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


# the journal -------------------------------------------------------------------------------------------------------


def journal_file(store: Store, name: str) -> Path:
    """Where a sweep's proposals are written down."""
    return store.path / "sweeps" / f"{name}.search.jsonl"


def load(path_or_name: str, store: Store, profile: str | None, sets: Sequence[str]) -> Sweep:
    """A sweep as `load_sweep` reads it, with what its search has proposed in this store."""
    return resumed(load_sweep(path_or_name, profile=profile, sets=sets), store)


def resumed(sweep: Sweep, store: Store) -> Sweep:
    """The sweep with the proposals of its journal, at most as many as it asks for."""
    found = proposals(sweep, store)
    return with_points(sweep, found) if found else sweep


def proposals(sweep: Sweep, store: Store) -> list[Proposal]:
    """The journal's proposals that belong to this search, in order."""
    search = sweep.search
    if search is None:
        return []
    mine = _marks(sweep)
    lines, _ = _lines(journal_file(store, sweep.name))
    written = [line for line in lines if line["search"] == mine][: search.points]
    return [Proposal(number, line["values"], line["problem"]) for number, line in enumerate(written)]


def _marks(sweep: Sweep) -> str:
    """What tells the proposals of this search from others in the same journal."""
    assert sweep.search is not None
    return f"{sweep.search.digest[:16]}-{sweep.base[:16]}"


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """(the lines, bytes of the good beginning). A torn last line is none; RequestError: another line is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    lines: list[dict[str, Any]] = []
    good = 0
    for number, piece in enumerate(content.splitlines(keepends=True), 1):
        if not piece.endswith(b"\n"):
            break
        try:
            line = opened(piece) if is_sealed(piece) else {}
            lines.append({key: line[key] for key in ("search", "values", "problem", "fingerprints")})
        except (ValueError, KeyError, RecursionError):
            raise RequestError(
                f"{path}:{number}: is damaged; delete this line, then run ham sweep, which makes up for its point"
            ) from None
        good += len(piece)
    return lines, good


def _append(path: Path, line: Mapping[str, Any]) -> None:
    _, good = _lines(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.truncate(good)
        file.write(sealed(line))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time proposes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# what became of them -----------------------------------------------------------------------------------------------


class Scores:
    """Scores of trials, each read from its journal once it is trained or stopped."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._images: dict[str, dict[str, int]] = {}
        self._known: dict[tuple[str, int], Score] = {}

    def images(self, trial: Trial) -> dict[str, int]:
        """Selection images of each class; the data set is read once."""
        kind = f"{trial.data.model_dump_json()} {trial.selection.on}"
        if kind not in self._images:
            self._images[kind] = selection_images(trial)
        return self._images[kind]

    def of(self, trial: Trial, identity: str) -> Score | None:
        """The score at the best epoch so far; None before the first epoch."""
        journal = self.store.folder(identity).journal()
        if not journal:
            return None
        key = (identity, len(journal))
        if key not in self._known:
            self._known[key] = selected_score(journal, watched_metric(trial), self.images(trial))
        return self._known[key]


def points_of(
    sweep: Sweep, store: Store, failures: Mapping[str, str], scores: Scores | None = None
) -> list[Point]:
    """Every proposal of the sweep's search, and how it stands. `failures`: {fingerprint: reason}."""
    scores = scores or Scores(store)
    trials = {planned.fingerprint: planned.trial for planned in sweep.trials}
    return [_point(proposal, trials, sweep, store, failures, scores) for proposal in sweep.points]


def _point(
    proposal: Proposal,
    trials: Mapping[str, Trial],
    sweep: Sweep,
    store: Store,
    failures: Mapping[str, str],
    scores: Scores,
) -> Point:
    identities = proposal.fingerprints
    point = Point(proposal.number, proposal.values, identities, "open", problem=proposal.problem)
    if proposal.problem or any(one in failures for one in identities):
        return replace(point, state="failed")
    folders = [store.folder(one) for one in identities]
    stopped = [is_stopped(sweep, store, one) for one in identities]
    if not all(folder.is_done() or early for folder, early in zip(folders, stopped, strict=True)):
        return point
    found = [score for one in identities if (score := scores.of(trials[one], one)) is not None]
    if len(found) < len(identities):
        return point
    worst, avg = (
        math.fsum(getattr(score, goal) for score in found) / len(found) for goal in ("worst", "avg")
    )
    return replace(point, state="stopped" if any(stopped) else "complete", worst=worst, avg=avg)


def is_stopped(sweep: Sweep, store: Store, identity: str) -> bool:
    """Whether this sweep stopped the trial early. Where it has no `stop` any more, the trial is merely half done."""
    if sweep.stop is None:
        return False
    label = store.folder(identity).stopped()
    return label is not None and label["sweep"] == sweep.name


def front(points: Sequence[Mapping[str, Any]], goals: Sequence[str]) -> list[dict[str, Any]]:
    """The complete points, as records, that no other one beats, by the first goal; of a single goal the best one.

    A point beats another one if it is nowhere worse and somewhere better.
    """
    complete = [dict(point) for point in points if point["state"] == "complete"]

    def beaten(one: Mapping[str, Any]) -> bool:
        return any(
            all(other[goal] >= one[goal] for goal in goals) and any(other[goal] > one[goal] for goal in goals)
            for other in complete
        )

    found = sorted(
        (one for one in complete if not beaten(one)),
        key=lambda one: [*(-one[goal] for goal in (*goals, "worst", "avg")), one["number"]],
    )
    return found if len(goals) > 1 else found[:1]


# what comes next ---------------------------------------------------------------------------------------------------


def propose(search: Search, number: int, history: Sequence[Point]) -> dict[str, Any]:
    """The values of the number-th point. `history`: the points before it, in order; open ones have no score yet."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    goals = list(search.goal)
    told = [_told(search, point.values) for point in history]
    kind = optuna.samplers.RandomSampler if search.by == "random" else optuna.samplers.TPESampler
    sampler = kind(seed=derived(search.seed, number))
    searcher = OptunaSearch(
        _distributions(search),
        metric=goals,
        mode=["max"] * len(goals),
        points_to_evaluate=told,
        sampler=sampler,
    )
    for point in history:
        searcher.suggest(str(point.number))
        if point.state == "failed":
            searcher.on_trial_complete(str(point.number), error=True)
        elif point.state != "open":
            searcher.on_trial_complete(str(point.number), _heard(point, goals))
    proposed = searcher.suggest(f"next {number}")
    return {key: _value(entry, proposed[key]) for key, entry in search.space.items()}


def _heard(point: Point, goals: Sequence[str]) -> dict[str, float]:
    """The scores that Optuna hears of a point."""
    if goals == ["worst"]:
        return {"worst": Score(point.worst, point.avg).rank}
    return {goal: getattr(point, goal) for goal in goals}


def derived(seed: int, number: int) -> int:
    """The seed of the number-th proposal."""
    import numpy as np

    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def _distributions(search: Search) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for key, entry in search.space.items():
        if not isinstance(entry, Range):
            # by number: Optuna takes plain values only, and holds 1, 1.0 and true to be the same
            found[key] = CategoricalDistribution(range(len(entry)))
            continue
        low, high = entry.ends
        if entry.whole and entry.step is not None:
            found[key] = IntDistribution(int(low), int(high), step=int(entry.step))
        else:
            found[key] = FloatDistribution(low, high, log=entry.log, step=entry.step)
    return found


def _told(search: Search, values: Mapping[str, Any]) -> dict[str, Any]:
    """A point as Optuna knows it."""
    return {
        key: values[key] if isinstance(entry, Range) else search.choice(key, values[key])
        for key, entry in search.space.items()
    }


def _value(entry: tuple[Any, ...] | Range, proposed: Any) -> Any:
    return proposed if isinstance(entry, Range) else entry[proposed]


class Proposer:
    """Hands out the trials of a search, point after point. `sweep` grows with them."""

    def __init__(self, sweep: Sweep, store: Store) -> None:
        assert sweep.search is not None
        self.search: Search = sweep.search
        self.sweep, self.store = sweep, store
        self.scores = Scores(store)

    @cached_property
    def shares_beginnings(self) -> bool:
        """Whether points to come can go on from first epochs that others have trained (ham_core.prefix).

        They cannot where those epochs depend on a number that is hardly ever the same twice.
        """
        first = self.search.samples()[0]
        fixed = _beginning(self.sweep, first)
        free = {
            key: one for key, one in self.search.space.items() if isinstance(one, Range) and one.step is None
        }
        return all(_beginning(self.sweep, first | {key: one.high}) == fixed for key, one in free.items())

    def points(self, failures: Mapping[str, str]) -> list[Point]:
        """All points so far."""
        return points_of(self.sweep, self.store, failures, self.scores)

    def more(self, failures: Mapping[str, str]) -> list[Step]:
        """What is left of the next point that needs any training; nothing where all points have been proposed."""
        from orchestration.plan import plan

        known = {planned.fingerprint for planned in self.sweep.trials}
        while len(self.sweep.points) < self.search.points:
            added = self._next(failures)
            new = replace(added, trials=tuple(one for one in added.trials if one.fingerprint not in known))
            steps = list(plan(new, self.store.path).todo)
            self.sweep = joined(self.sweep, added)
            if steps:
                return steps
        return []

    def _next(self, failures: Mapping[str, str]) -> Sweep:
        """The next proposal, as a sweep of its own: another process's, where one has made it, else a new one."""
        path = journal_file(self.store, self.sweep.name)
        number = len(self.sweep.points)
        with _alone(path):
            written = proposals(self.sweep, self.store)
            if len(written) > number:
                return _expanded(self.sweep, written[number])
            values = propose(self.search, number, self.points(failures))
            added = _expanded(self.sweep, Proposal(number, values))
            (point,) = added.points
            _append(
                path,
                {
                    "number": number,
                    "values": values,
                    "problem": point.problem,
                    "fingerprints": list(point.fingerprints),
                    "search": _marks(self.sweep),
                },
            )
            self.store.share(path)
            return added


def _expanded(sweep: Sweep, proposal: Proposal) -> Sweep:
    """One point of the sweep alone; one that can be no trial has none, and says why."""
    try:
        return only_point(sweep, proposal)
    except RequestError as error:
        return replace(sweep, trials=(), points=(replace(proposal, problem=error.problems[0]),))


def _beginning(sweep: Sweep, values: Mapping[str, Any]) -> str:
    """What the first epochs of a point's trials depend on."""
    return Prefixes(only_point(sweep, Proposal(0, values)).trials[-1].trial).base


def marks_of(points: Sequence[Point]) -> dict[str, tuple[int, float, float]]:
    """{fingerprint: (number of its first point, scores of that point)} of the trials that belong to scored points."""
    found: dict[str, tuple[int, float, float]] = {}
    for point in points:
        if point.state in ("complete", "stopped"):
            for identity in point.fingerprints:
                found.setdefault(identity, (point.number, point.worst, point.avg))
    return found
