"""Stopping early: one of Tune's rules, asked after every epoch about the lower bound of the worst class (ham_core.scores).

The mean would let a method go on that gives the weakest class up, so it is not what is compared. What the rule is told comes
from the trials' journals. So it also knows the epochs of trials that an earlier run of the sweep has trained or stopped, and
those that a trial took over from another one; only a new epoch stops a trial. A trial that another one starts from or asks,
and one that has no epoch left, is never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from ham_core.scores import score_of, watched_metric
from orchestration.search import Scores

if TYPE_CHECKING:
    from orchestration.space import Stop
    from orchestration.store import Store
    from orchestration.tracking import Job

METRIC, TIME = "score", "epoch"


@dataclass(frozen=True)
class _Seen:
    """A trial as a rule knows it: by its fingerprint, whatever attempt it is."""

    trial_id: str


def rule_of(stop: Stop, epochs: int) -> TrialScheduler:
    """Tune's scheduler. `epochs`: of the longest trial."""
    names: dict[str, Any] = {"time_attr": TIME, "metric": METRIC, "mode": "max"}
    grace = min(stop.grace, epochs)
    if stop.by == "median":
        # No time slice ever ends: the rule would pause trials where it knows too little, and ours cannot be paused.
        return MedianStoppingRule(**names, grace_period=grace, min_time_slice=math.inf)
    return ASHAScheduler(
        **names, grace_period=grace, max_t=epochs, reduction_factor=stop.reduction, stop_last_trials=False
    )


class Stopper(FIFOScheduler):
    """What Tune asks whether a trial goes on. `jobs`: all that may run, {fingerprint: job}; more may come.

    `stopped`: Tune's ids of the trials that it ended; `errors`: what went wrong, for which no trial is stopped.
    """

    def __init__(self, stop: Stop, store: Store, jobs: Mapping[str, Job], sweep: Sequence[Job] = ()) -> None:
        """Tell the rule what the store knows of the sweep's trials, before any of them runs."""
        super().__init__()
        self.stop, self.store, self.jobs = stop, store, jobs
        self.scores = Scores(store)
        self.stopped: set[str] = set()
        self.errors: list[str] = []
        self._told: dict[str, int] = {}  # fingerprint -> epochs that the rule knows
        everything = [*sweep, *jobs.values()]
        self._rule = rule_of(stop, max(one.trial.epochs for one in everything))
        for job in everything:
            self._tell(job, judged=False)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP or CONTINUE."""
        if result.get("kind") != "epoch":
            return str(TrialScheduler.CONTINUE)
        try:
            ends = self._tell(self.jobs[str(trial.config["job"]["fingerprint"])], judged=True)
        except Exception as error:  # whatever it is, training is worth more
            self.errors.append(f"{type(error).__name__}: {error}")
            return str(TrialScheduler.CONTINUE)
        if ends:
            self.stopped.add(trial.trial_id)
        return str(TrialScheduler.STOP if ends else TrialScheduler.CONTINUE)

    def _may_end(self, job: Job, epochs: int) -> bool:
        needed = any(job.fingerprint in other.needs for other in self.jobs.values())
        return epochs < job.trial.epochs and not needed

    def _tell(self, job: Job, *, judged: bool) -> bool:
        """Tell the rule all epochs that it does not know yet -> whether the last one ends the trial, if it is `judged`."""
        seen, identity = _Seen(job.fingerprint), job.fingerprint
        if identity not in self._told:
            self._told[identity] = 0
            self._rule.on_trial_add(None, seen)
        if judged:
            self.store.refresh(identity)
        journal = self.store.folder(identity).journal()
        news = journal[self._told[identity] :]
        self._told[identity] = len(journal)
        ends = False
        for record in news:
            score = score_of(record["metrics"], watched_metric(job.trial), self.scores.images(job.trial))
            told = {TIME: record["epoch"] + 1, METRIC: score.rank}
            if judged and record is news[-1] and self._may_end(job, len(journal)):
                ends = self._rule.on_trial_result(None, seen, told) == TrialScheduler.STOP
            else:
                self._note(seen, told)
        return ends

    def _note(self, seen: _Seen, told: dict[str, float]) -> None:
        """An epoch that others are compared with, and that does not end its own trial."""
        if isinstance(self._rule, MedianStoppingRule):
            self._rule.on_trial_complete(
                None, seen, told
            )  # takes it down and no more; a trial is judged once
        else:
            self._rule.on_trial_result(None, seen, told)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it; nobody restores it
