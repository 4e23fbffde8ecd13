"""What a sweep still needs: each trial against its folder in the store. Reads files, imports nothing heavy.

Trials come after those that they start from or ask. A trial that no grid asks for is trained only as long as one that needs
it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ham_core.data.index import facts, split_problems
from ham_core.errors import RequestError
from ham_core.folder import TrialFolder, stop_text
from ham_core.prefix import has_prefix, shared_prefixes
from ham_core.protocol import Evaluation, class_problem, identity_of_evaluation
from ham_core.starts import fitted
from orchestration.sweep import Planned, Sweep

Status = Literal["done", "stopped", "partial", "missing"]


@dataclass(frozen=True, eq=False)
class Step:
    """One trial: how far it is, why, and what remains.

    `retrains`: what is there is of no use, training starts again. `prefixes`: the beginnings that it shares, {epochs: name}
    (ham_core.prefix). `adopted`: how many of its epochs another trial trains for it, or has trained.
    """

    planned: Planned
    status: Status
    why: str
    epochs_left: int
    evaluations_left: tuple[Evaluation, ...]
    retrains: bool = False
    prefixes: Mapping[int, str] = field(default_factory=dict)
    adopted: int = 0

    @property
    def epochs_done(self) -> int:
        """Epochs that need not be trained again."""
        return self.planned.trial.epochs - self.epochs_left

    def to_json(self, origins: bool = False) -> dict[str, Any]:
        """One entry of `ham plan --json`."""
        planned = self.planned
        entry: dict[str, Any] = {
            "fingerprint": planned.fingerprint,
            "status": self.status,
            "why": self.why,
            "label": planned.label,
            "row": planned.row,
            "seed": planned.seed,
            "grids": list(planned.grids),
            "values": dict(planned.values),
            "needs": list(planned.needs),
            "epochs_left": self.epochs_left,
            "epochs_adopted": self.adopted,
            "evaluations_left": [evaluation.name for evaluation in self.evaluations_left],
        }
        return entry | ({"origins": planned.origins} if origins else {})


@dataclass(frozen=True, eq=False)
class Plan:
    """A sweep against a store."""

    sweep: Sweep
    steps: tuple[Step, ...]

    @property
    def summary(self) -> dict[str, int]:
        """How many trials there are, and how many of each status."""
        counts = Counter(step.status for step in self.steps)
        return {
            "trials": len(self.steps),
            "done": counts["done"],
            "stopped": counts["stopped"],
            "partial": counts["partial"],
            "missing": counts["missing"],
        }

    @property
    def epochs(self) -> dict[str, int]:
        """Epochs to be trained: `left`, and `unshared`, what it would be if no trial took its beginning from another one."""
        unshared = sum(step.epochs_left for step in self.steps)
        return {"left": unshared - sum(step.adopted for step in self.steps), "unshared": unshared}

    @property
    def todo(self) -> tuple[Step, ...]:
        """The trials for which something remains, in order."""
        return tuple(step for step in self.steps if step.status not in ("done", "stopped"))

    def to_json(self, origins: bool = False) -> dict[str, Any]:
        """What `ham plan --json` prints."""
        search, proposed = self.sweep.search, len(self.sweep.points)
        return {
            "sweep": self.sweep.name,
            "profile": self.sweep.profile,
            "trials": [step.to_json(origins) for step in self.steps],
            "summary": self.summary,
            "epochs": self.epochs,
        } | ({} if search is None else {"search": {"points": search.points, "proposed": proposed}})


def plan(sweep: Sweep, store: str | Path) -> Plan:
    """Compare every trial of the sweep with its folder in the store, which need not exist.

    RequestError: damaged folders, splits that leave a class without training images, attacks that need more classes.
    """
    steps: list[Step] = []
    problems: list[str] = []
    needed = {need for planned in sweep.trials for need in planned.needs}
    for planned in sweep.trials:
        try:
            step = examine(planned, store)
            steps.append(step if planned.fingerprint in needed else _unless_stopped(step, sweep, store))
        except RequestError as error:
            problems += error.problems
    problems += split_problems((step.planned.trial.data for step in steps if step.epochs_left), light=True)
    problems += _class_problems(steps)
    if problems:
        raise RequestError(problems)
    return Plan(sweep, tuple(_with_sharing(_in_order(steps), store)))


def _class_problems(steps: Sequence[Step]) -> list[str]:
    """A sentence for each attack that would fail after the training, for want of classes."""
    wanted = {
        (data.name, data.folder, data.size if data.folder else None, one.attack.kind): one.attack.key
        for step in steps
        for data in (step.planned.trial.data,)
        for one in step.evaluations_left
    }
    problems = []
    for (name, folder, size, kind), key in sorted(wanted.items(), key=str):
        told = facts(name, folder, size)
        problem = class_problem(kind, len(told.classes))
        if problem:
            problems.append(f"evaluate: {key} on {told.source}: {problem}")
    return problems


def _unless_stopped(step: Step, sweep: Sweep, store: str | Path) -> Step:
    """The step, without anything to do where this sweep has stopped the trial early. Without `stop` it goes on."""
    if sweep.stop is None or step.status != "partial" or step.retrains:
        return step
    label = TrialFolder.of(store, step.planned.fingerprint).stopped()
    if label is None or label["sweep"] != sweep.name:
        return step
    return Step(step.planned, "stopped", stop_text(label), 0, ())


def _in_order(steps: Sequence[Step]) -> list[Step]:
    """The steps, without training what nobody needs any more, and with words on what waits for what."""
    wanted: set[str] = set()
    found: list[Step] = []
    for step in reversed(steps):  # those that need come after what they need
        planned = step.planned
        if planned.must_keep is not None and step.status != "done" and planned.fingerprint not in wanted:
            step = Step(planned, "done", "no longer needed: what uses it is trained", 0, ())
        wanted |= set(planned.needs) if step.epochs_left else set()
        found.append(step)
    found.reverse()
    left = {step.planned.fingerprint: step.planned.row for step in found if step.epochs_left}
    return [_with_waiting(step, [left[one] for one in step.planned.needs if one in left]) for step in found]


def _with_waiting(step: Step, rows: Sequence[str]) -> Step:
    if not step.epochs_left or not rows:
        return step
    return replace(step, why=f"{step.why}; waits for {' and '.join(rows)}")


def sharing(
    steps: Sequence[Step], store: str | Path, *, for_others: bool = False
) -> dict[str, dict[int, str]]:
    """The beginnings that these trials share with each other, or that the store has: {fingerprint: {epochs: name}}.

    `for_others`: all that they could share with trials that are still to come.
    """
    training = {
        step.planned.fingerprint: (step.planned.trial, step.epochs_done) for step in steps if step.epochs_left
    }
    return shared_prefixes(training, lambda name: for_others or has_prefix(store, name))


def _with_sharing(steps: Sequence[Step], store: str | Path) -> list[Step]:
    """The steps, each with what it shares; who trains it is decided as the dispatcher does: what is begun comes first."""
    prefixes = sharing(steps, store)
    trainers: dict[str, str] = {}  # name of a beginning -> the trial that trains it
    found = {step.planned.fingerprint: step for step in steps}
    for step in sorted(steps, key=lambda step: step.epochs_done == 0):
        mine = prefixes.get(step.planned.fingerprint, {})
        if not mine:
            continue
        adopted, words = 0, ""
        for epochs, name in mine.items():
            trainer = trainers.get(name, "the store" if has_prefix(store, name) else "")
            if trainer and not step.epochs_done:
                adopted, words = epochs, f"; first {epochs} epochs from {trainer}"
        trainers |= {name: step.planned.row for name in mine.values() if name not in trainers}
        found[step.planned.fingerprint] = replace(step, prefixes=mine, adopted=adopted, why=step.why + words)
    return [found[step.planned.fingerprint] for step in steps]


def examine(planned: Planned, store: str | Path) -> Step:
    """How far one trial is. One that is only needed keeps what its folder keeps, and what is asked of it."""
    folder = TrialFolder.of(store, planned.fingerprint)
    if planned.must_keep is not None:
        kept = folder.kept_averages() if folder.settings() is not None else None
        planned = replace(planned, trial=fitted(planned.trial, planned.must_keep, kept))
    epochs, evaluations = planned.trial.epochs, planned.evaluations
    if not (folder.path / "trial.json").exists():
        return Step(planned, "missing", "no folder in the store", epochs, evaluations)
    lost = folder.lost_epochs()
    if lost and not folder.journal_is_kept_twice():
        raise RequestError(lost)
    absent = _absent_average(planned, folder)
    trained = folder.is_done()
    done = epochs if trained else folder.epochs_done()  # a long journal takes long to read
    if absent is not None and done:
        return Step(
            planned, "partial", f"average '{absent}' was not kept, trains again", epochs, evaluations, True
        )
    if not trained:
        return Step(planned, "partial", f"{done} of {epochs} epochs trained", epochs - done, evaluations)
    left = tuple(one for one in evaluations if not _has(folder, planned, one))
    gone = sorted(folder.pruned() & {one.weights for one in left}) if left else []
    if gone:
        why = f"weights {' and '.join(gone)} were not kept, trains again"
        return Step(planned, "partial", why, epochs, evaluations, True)
    if lost:
        return Step(planned, "partial", "trained; its journal is damaged, the checkpoint has it too", 0, left)
    if left:
        several = f" and {len(left) - 1} more" if len(left) > 1 else ""
        identity = identity_of_evaluation(planned.fingerprint, planned.trial, left[0])
        state = "damaged, runs again" if folder.is_damaged(identity) else "missing"
        return Step(planned, "partial", f"trained; evaluation {left[0].name}{several} {state}", 0, left)
    return Step(planned, "done", "complete", 0, ())


def _has(folder: TrialFolder, planned: Planned, evaluation: Evaluation) -> bool:
    return folder.has_evaluation(identity_of_evaluation(planned.fingerprint, planned.trial, evaluation))


def _absent_average(planned: Planned, folder: TrialFolder) -> str | None:
    """An average that the sweep asks for and the folder's training does not keep in the same way."""
    kept: Sequence[Mapping[str, Any]] = folder.kept_averages()
    for average in planned.trial.method.averaging:
        if average.model_dump(mode="json") not in kept:
            return str(average.key)
    return None
