"""Runs what a sweep is missing, and nothing else. Ray works (`engine`), the trial folders remember, MLflow records.

After any interruption the same call continues: what is done is read from the store, and MLflow is completed from the store.
"""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ham_core.config import Trial
from ham_core.errors import RequestError
from ham_core.scores import watched_metric
from ham_core.starts import with_needed
from orchestration import disk, packing
from orchestration.dispatch import Dispatcher, has_what_it_needs
from orchestration.plan import examine, plan, sharing
from orchestration.sealed_runs import corruption
from orchestration.search import Proposer, front, is_stopped, marks_of, points_of, resumed
from orchestration.status import remember
from orchestration.store import Store
from orchestration.tracking import run_name

if TYPE_CHECKING:
    from rich.console import Console

    from ham_core.run import Event
    from orchestration.live import Display
    from orchestration.plan import Step
    from orchestration.search import Point
    from orchestration.sweep import Planned, Sweep
    from orchestration.tracking import Job, Status, Tracker

REACH = 5.0  # seconds to wait for the machine of --address
LOOK = 1.0  # seconds between two looks at trials that other processes have
PAUSE = 30.0  # seconds after which a tracking server that did not answer is tried again


@dataclass(frozen=True)
class Resources:
    """What a trial gets (`gpus_per_trial` None: as its memory asks for), and how many run at once (None: as many as fit)."""

    threads: int = 1
    gpus_per_trial: float | None = None
    concurrent: int | None = None
    address: str | None = None
    disk: int | None = None  # bytes that the store may have
    keep_all: bool = False  # also weights and checkpoints that a finished trial does not need


@dataclass
class Outcome:
    """How a sweep ended. `failed`: {row text: reason}; `tracking`: why MLflow is incomplete, if it is.

    `stopped`: how many trials a rule has ended early, now or before; `best`: the best points of the search, as records.
    """

    done: list[str] = field(default_factory=list)
    reused: int = 0
    stopped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    best: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False
    tracking: str = ""

    @property
    def exit_code(self) -> int:
        """0 done, 1 some trial failed or the record is incomplete, 130 interrupted."""
        return 130 if self.interrupted else 1 if self.failed or self.tracking else 0


def run_sweep(
    sweep: Sweep,
    store: Store,
    uri: str,
    *,
    resources: Resources = Resources(),
    console: Console,
) -> Outcome:
    """Train and evaluate what is missing, and bring MLflow up to date. RequestError before anything has started."""
    sweep = resumed(sweep, store)
    made = plan(sweep, store.path)
    jobs = [step.planned for step in made.todo]
    outcome = Outcome(reused=made.summary["done"])
    proposer = Proposer(sweep, store) if sweep.search is not None else None
    if proposer is not None and not jobs:  # the first point is looked at before anything starts
        jobs = [step.planned for step in proposer.more({})]
    check(jobs, store, resources)
    recorder = Recorder(
        uri, store, sweep.trials, sweep, warn=lambda sentence: console.print(sentence, markup=False)
    )
    recorder.grow(proposer)
    if jobs:
        _run(jobs, store, recorder, resources, console, outcome, proposer)
        recorder.grow(proposer)
    sweep = recorder.sweep or sweep
    outcome.stopped = sum(is_stopped(sweep, store, one.fingerprint) for one in sweep.trials)
    if sweep.search is not None:
        records = [point.record() for point in recorder.points]
        outcome.best = front(records, sweep.search.goal)
    recorder.finish(interrupted=outcome.interrupted)
    outcome.tracking = recorder.problem
    return outcome


def run_evaluations(
    jobs: Sequence[Job], store: Store, uri: str, *, resources: Resources = Resources(), console: Console
) -> Outcome:
    """Evaluate trained trials: several as Ray tasks, a single one in this process. Nothing is trained.

    A run in MLflow stays what it was when an attack fails or is interrupted: the trial is as trained as before.
    """
    problems = _impossible(resources)
    if problems:
        raise RequestError(problems)
    waiting = [job for job in jobs if not is_complete(job, store)]
    if len(waiting) < 2 and (resources.address is None or not waiting):
        device = "cpu" if resources.gpus_per_trial == 0 else "auto"
        return run_here(
            jobs, store, uri, threads=resources.threads, device=device, console=console, train=False
        )
    check(waiting, store, resources)
    outcome = Outcome(reused=len(jobs) - len(waiting))
    recorder = Recorder(
        uri, store, jobs, warn=lambda sentence: console.print(sentence, markup=False), trains=False
    )
    _run(waiting, store, recorder, resources, console, outcome)
    recorder.finish(interrupted=outcome.interrupted)
    outcome.tracking = recorder.problem
    return outcome


def is_complete(job: Job, store: Store) -> bool:
    """Whether the store holds the trial's weights, its averages, and all its evaluations."""
    return examine(cast("Planned", job), store.path).status == "done"  # it reads what every Job has


# before anything starts --------------------------------------------------------------------------------------------


def check(jobs: Sequence[Job], store: Store, resources: Resources) -> None:
    """Everything that can be known to be wrong before a trial starts, all at once."""
    problems = _impossible(resources)
    reason = store.unwritable()
    if reason:
        problems.append(
            f"--store: {store.address} cannot be written ({reason}); name a folder in which you may write, "
            "for example --store outputs"
        )
    if jobs and resources.address is not None:
        problems += _unreachable(resources.address)
    for identity in dict.fromkeys(one for job in jobs for one in (job.fingerprint, *job.needs)):
        problems += store.folder(identity).problems()
    for name, folder, size in sorted({_place(planned.trial) for planned in jobs}, key=str):
        problems += _absent(name, folder, size)
    if not problems:
        from ham_core import data

        problems += data.split_problems(
            job.trial.data for job in jobs if not store.folder(job.fingerprint).is_done()
        )
    if problems:
        raise RequestError(problems)


def _impossible(resources: Resources) -> list[str]:
    problems = []
    if resources.threads < 1:
        problems.append(f"--threads: {resources.threads} is too few; give 1 or more")
    if resources.concurrent is not None and resources.concurrent < 1:
        problems.append(f"--concurrent: {resources.concurrent} is too few; give 1 or more, or leave it out")
    share = resources.gpus_per_trial
    if share is not None and (share < 0 or (share > 1 and share != int(share))):
        problems.append(f"--gpus-per-trial: {share} is no share of a GPU; give 0 to 1, or a whole number")
    if resources.address is None:
        if resources.threads > processors():
            problems.append(
                f"--threads: {resources.threads} threads per trial, but this machine has {processors()} processors; "
                f"give {processors()} or fewer"
            )
        if share and share > graphics_cards():
            problems.append(
                f"--gpus-per-trial: {share:g} per trial, but this machine has {graphics_cards()} GPUs; "
                "give less, or leave it out to train on the CPU"
            )
    return problems


def _unreachable(address: str) -> list[str]:
    """Ray itself would try for minutes. `auto` and the addresses with a scheme are found in other ways."""
    if address in ("auto", "local") or "://" in address:
        return []
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        return [f"--address: '{address}' is no HOST:PORT; write for example --address 10.0.0.1:6379"]
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        return [
            f"--address: no Ray answers at {address} ({why}); start one there with `ray start --head`, "
            "or leave --address out to use this machine"
        ]
    return []


def processors() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def graphics_cards() -> int:
    """NVIDIA GPUs that this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _place(trial: Trial) -> tuple[str | None, str | None, int | None]:
    data = trial.data
    return data.name, data.folder, data.size if data.folder else None


def _absent(name: str | None, folder: str | None, size: int | None) -> list[str]:
    """Fetch or convert a data set once, for all trials."""
    from ham_core import data

    try:
        data.ensure(name, folder, size)
    except RequestError as error:
        return list(error.problems)
    return []


# while it runs -----------------------------------------------------------------------------------------------------


def _run(
    jobs: Sequence[Job],
    store: Store,
    recorder: Recorder,
    resources: Resources,
    console: Console,
    outcome: Outcome,
    proposer: Proposer | None = None,
) -> None:
    from orchestration import engine, live
    from orchestration.stopping import Stopper

    jobs, sweep = list(jobs), recorder.sweep
    told = lines_of(jobs, store)
    with engine.cluster(resources.address, processors()) as available:
        gpu = _share(resources, available)
        steps = [examine(cast("Planned", job), store.path) for job in jobs]
        for_others = proposer is not None and proposer.shares_beginnings
        prefixes = sharing(steps, store.path, for_others=for_others) if recorder.trains else {}
        entries = entries_of(
            jobs, store, resources, gpu, prefixes, train=recorder.trains, measure=engine.measure
        )
        budget = _budget(jobs, store, resources)
        recorder.begin()
        with live.display(told, console) as shown:
            listener = Listener({job.fingerprint: job for job in jobs}, recorder, shown)

            def more() -> tuple[dict[str, dict[str, Any]], dict[str, tuple[str, ...]]]:
                """The jobs of the search's next point."""
                assert proposer is not None
                try:
                    steps = proposer.more(listener.failed)
                except RequestError as error:  # what runs is worth more than what it would be told
                    outcome.failed["the search"] = " ".join(error.problems)
                    return {}, {}
                if not steps:
                    return {}, {}
                new = [step.planned for step in steps]
                jobs.extend(new)
                listener.jobs.update({job.fingerprint: job for job in new})
                shown.add(lines_of(new, store))
                recorder.failures = listener.failed
                recorder.grow(proposer)
                if budget is not None:
                    budget.footprints |= _footprints(new)
                shared = sharing(steps, store.path, for_others=for_others)
                added = entries_of(
                    new, store, resources, gpu, shared, measure=lambda some: [None] * len(some)
                )
                return added, {
                    job.fingerprint: tuple(need for need in job.needs if not store.folder(need).is_done())
                    for job in new
                }

            stopper = None
            if sweep is not None and sweep.stop is not None:
                stopper = Stopper(sweep.stop, store, listener.jobs, sweep.trials)
            dispatcher = Dispatcher(
                entries,
                waits_of(steps),
                store,
                listener,
                is_complete=lambda job: (
                    is_complete(job, store)
                    or (sweep is not None and is_stopped(sweep, store, job.fingerprint))
                ),
                budget=budget,
                more=None if proposer is None else more,
            )
            finished, problems = True, list[str]()
            try:
                while finished and not dispatcher.is_over:
                    finished, missed = engine.run(
                        dispatcher,
                        scratch=store.path / "ray",
                        concurrent=resources.concurrent,
                        stopper=stopper,
                    )
                    problems += missed
                    if finished and not dispatcher.is_over:
                        time.sleep(LOOK)  # other processes have what is left
            except KeyboardInterrupt:
                finished = False
            for problem in problems[:1]:
                shown.warn(
                    f"the display or the record missed an event ({problem}); it is completed at the end"
                )
    store.pull()
    by_fingerprint = {job.fingerprint: job for job in jobs}
    outcome.failed |= {run_name(by_fingerprint[key]): reason for key, reason in listener.failed.items()}
    recorder.failures = listener.failed
    outcome.done = [job.fingerprint for job in jobs if is_complete(job, store)]
    outcome.interrupted = not finished


def _budget(jobs: Sequence[Job], store: Store, resources: Resources) -> disk.Budget | None:
    return None if resources.disk is None else disk.Budget(store.path, resources.disk, _footprints(jobs))


def _footprints(jobs: Sequence[Job]) -> dict[str, int]:
    """{fingerprint: bytes of a trial while it trains}, as far as they are known."""
    found = {
        job.fingerprint: disk.footprint(job.trial, job.evaluations, disk.kept_rules(job.evaluations))
        for job in jobs
    }
    return {identity: one.training for identity, one in found.items() if one is not None}


def waits_of(steps: Sequence[Step]) -> dict[str, tuple[str, ...]]:
    """Fingerprint of each job -> those of the jobs that must be trained before it and are not yet."""
    left = {step.planned.fingerprint: step.epochs_left > 0 for step in steps}
    return {
        step.planned.fingerprint: tuple(need for need in step.planned.needs if left.get(need))
        if step.epochs_left
        else ()
        for step in steps
    }


def lines_of(jobs: Sequence[Job], store: Store) -> dict[str, tuple[str, int, int]]:
    """What a display needs to know of each trial: its name, its epochs, and those that are done."""
    return {
        job.fingerprint: (run_name(job), job.trial.epochs, store.folder(job.fingerprint).epochs_done())
        for job in jobs
    }


def _share(resources: Resources, available: dict[str, float]) -> float:
    """The GPU share of a trial; RequestError where the machines cannot give what is asked for."""
    gpus, cpus = available.get("GPU", 0.0), available.get("CPU", 0.0)
    share = resources.gpus_per_trial
    if share is None:
        share = packing.USUAL_SHARE if gpus else 0.0
    if share > gpus or resources.threads > cpus:
        raise RequestError(
            f"a trial asks for {resources.threads} CPUs and {share:g} GPUs, but Ray has {cpus:g} CPUs and {gpus:g} GPUs; "
            "lower --threads or --gpus-per-trial, or add machines"
        )
    return share


def entries_of(
    jobs: Sequence[Job],
    store: Store,
    resources: Resources,
    gpu: float,
    prefixes: Mapping[str, Mapping[int, str]],
    *,
    train: bool = True,
    measure: packing.Measure,
) -> dict[str, dict[str, Any]]:
    """{fingerprint: what a worker is told}. `gpu`: a trial's share; where it is left to us, `measure` says what it needs.

    A measure that answers None does not wait for GPUs that are at work.
    """
    from orchestration import engine

    # All that a trial leaves stays where another one is about to use it.
    needed = {need for job in jobs for need in job.needs}
    entries = {
        job.fingerprint: entry(
            job,
            store,
            resources.threads,
            gpu,
            prefixes.get(job.fingerprint, {}),
            train=train,
            keep=None
            if resources.keep_all or job.fingerprint in needed
            else disk.kept_rules(job.evaluations),
        )
        for job in jobs
    }
    if gpu and resources.gpus_per_trial is None:
        asked = packing.shares(list(entries.values()), engine.kinds_of_gpu(), store, measure)
        entries = {identity: one | {"gpu": asked[identity]} for identity, one in entries.items()}
    return entries


def entry(
    job: Job,
    store: Store,
    threads: int,
    gpu: float,
    prefixes: Mapping[int, str],
    *,
    train: bool = True,
    keep: frozenset[str] | None = None,
) -> dict[str, Any]:
    """A job as plain data, for a worker on any machine that sees the store. `prefixes`, `keep`: those of run_trial."""
    trial = job.trial.model_dump(mode="json")
    if trial["data"]["folder"]:  # a worker starts somewhere else
        trial["data"]["folder"] = str(Path(trial["data"]["folder"]).expanduser().resolve())
    return {
        "fingerprint": job.fingerprint,
        "trial": trial,
        "train": train,
        "keep": None if keep is None else sorted(keep),
        "prefixes": dict(prefixes),
        "evaluations": [one.model_dump(mode="json") for one in job.evaluations],
        "store": store.address,
        "threads": threads,
        "gpu": gpu,
        "device": "auto" if gpu else "cpu",
        "watched": watched_metric(job.trial),
    }


class Listener:
    """Tells the display and the record what Ray tells us, and remembers who failed.

    `at_once`: whether a trial's run is opened when it starts, else with its first epoch.
    """

    def __init__(
        self, jobs: dict[str, Job], recorder: Recorder, shown: Display, *, at_once: bool = True
    ) -> None:
        self.jobs, self.recorder, self.shown, self.at_once = jobs, recorder, shown, at_once
        self.failed: dict[str, str] = {}
        recorder.warn = shown.warn

    def started(self, identity: str) -> None:
        """A worker takes the trial."""
        self.shown.started(identity)
        if self.at_once:
            self.recorder.sync(self.jobs[identity], "RUNNING")

    def reported(self, identity: str, result: dict[str, Any]) -> None:
        """An event of run_trial, or the reason for which it gave up."""
        if result.get("kind") == "failed":
            self.failed[identity] = str(result["reason"])
            return
        self.shown.reported(identity, result)
        if result.get("kind") in ("epoch", "evaluated"):
            self.recorder.sync(self.jobs[identity], "RUNNING")

    def retried(self, identity: str, reason: str) -> None:
        """It failed and goes to the end of the queue."""
        self.shown.retried(identity, reason)

    def ended(self, identity: str, failure: str) -> None:
        """It is over."""
        if failure:
            self.failed[identity] = failure
        reason = self.failed.get(identity, "")
        self.shown.ended(identity, reason)
        self.recorder.sync(self.jobs[identity], "FAILED" if reason else None, reason)

    def stopped(self, identity: str, rule: str) -> None:
        """A rule has ended it early; its folder says so from here on."""
        job, sweep = self.jobs[identity], self.recorder.sweep
        folder = self.recorder.store.folder(identity)
        label = {"epoch": folder.epochs_done(), "epochs": job.trial.epochs}
        folder.stop(label | {"rule": rule, "sweep": sweep.name if sweep is not None else ""})
        self.shown.stopped(identity)
        self.recorder.sync(job, "KILLED")


# the record --------------------------------------------------------------------------------------------------------


class Recorder:
    """MLflow behind a wall: while trials run, a tracking failure warns once and is made up for at the end.

    `trains`: whether the trials' runs begin and end with this work. Otherwise only what is new of them is logged.
    """

    def __init__(
        self,
        uri: str,
        store: Store,
        jobs: Sequence[Job],
        sweep: Sweep | None = None,
        *,
        warn: Callable[[str], None],
        trains: bool = True,
    ) -> None:
        self.uri, self.store, self.jobs, self.sweep, self.warn = uri, store, jobs, sweep, warn
        self.trains = trains
        self.points: list[Point] = []  # of the sweep's search
        self.failures: dict[str, str] = {}
        self.problem = ""  # why the record is incomplete at the end
        self._tracker: Tracker | None = None
        self._warned = False
        self._silent_until = 0.0

    def begin(self) -> None:
        """The sweep's parent run is there before the first trial starts, if the tracking server answers."""
        self._guarded(lambda tracker: None)

    def grow(self, proposer: Proposer | None) -> None:
        """Write down how the sweep stands, with what its search has proposed, in the store and in MLflow's plan."""
        grown = self.sweep
        if proposer is not None:
            grown, self.points = proposer.sweep, proposer.points(self.failures)
        if grown is None:
            return
        remember(grown, self.store, self.failures, self.points)
        if grown is not self.sweep:
            self.sweep, self.jobs = grown, grown.trials
            if self._tracker is not None:
                self._guarded(lambda tracker: tracker.open_sweep(grown))

    def sync(self, job: Job, status: Status | None, failure: str = "") -> None:
        """Log what is new of one trial."""
        folder = self.store.folder(job.fingerprint)
        if not self.trains:
            status, failure = None, ""
        self._guarded(lambda tracker: tracker.sync(job, folder, status, failure))

    def finish(self, *, interrupted: bool) -> None:
        """Bring every run up to date from the trial folders; this is also what repairs the record after a crash."""
        try:
            tracker = self._opened()
            for job in self.jobs:
                tracker.sync(job, self.store.folder(job.fingerprint), *self._end_of(job))
            if self.sweep is not None:
                for identity, (number, worst, avg) in marks_of(self._points()).items():
                    scores = {"worst": worst, "avg": avg}
                    tracker.mark(self.store.folder(identity), self.sweep.name, number, scores)
                tracker.close_sweep("KILLED" if interrupted else "FAILED" if self.failures else "FINISHED")
        except RequestError as error:  # a damaged file of a trial
            self.problem = " ".join(error.problems)
        except Exception as error:  # anything a database, a server or a file system can raise
            self.problem = corruption(self.uri, error) or (
                f"MLflow at {self.uri} could not be brought up to date ({_sentence(error)}); nothing is lost, "
                "the same command completes it when it answers again"
            )

    def _points(self) -> list[Point]:
        """The points of the sweep's search as they stand in the store."""
        if self.points or self.sweep is None:
            return self.points
        return points_of(self.sweep, self.store, self.failures)

    def _end_of(self, job: Job) -> tuple[Status | None, str]:
        """What the folder cannot tell about how a trial ended. Nobody works on it any more."""
        if not self.trains:
            return None, ""
        if job.fingerprint in self.failures:
            return "FAILED", self.failures[job.fingerprint]
        begun = (self.store.folder(job.fingerprint).path / "trial.json").exists()
        return ("KILLED" if begun and not is_complete(job, self.store) else None), ""

    def _opened(self) -> Tracker:
        from orchestration.tracking import Tracker

        if self._tracker is None:
            tracker = Tracker(self.uri, self.store.path)
            if self.sweep is not None:
                tracker.open_sweep(self.sweep)
            self._tracker = tracker
        return self._tracker

    def _guarded(self, action: Callable[[Tracker], None]) -> None:
        if time.monotonic() < self._silent_until:
            return
        try:
            action(self._opened())
        except Exception as error:  # as above
            self._silent_until = time.monotonic() + PAUSE
            if not self._warned:
                self._warned = True
                self.warn(
                    f"MLflow at {self.uri} does not answer ({_sentence(error)}); training goes on, the record follows"
                )


# one trial, without Ray --------------------------------------------------------------------------------------------


def run_here(
    jobs: Sequence[Job],
    store: Store,
    uri: str,
    *,
    threads: int = 1,
    device: str = "auto",
    console: Console,
    train: bool = True,
) -> Outcome:
    """Train and evaluate what these trials, and those that they need, are missing in this process, one after the other.

    Without `train` trials are evaluated only, and one that is not trained fails.
    """
    from orchestration import live

    asked, outcome = jobs, Outcome(reused=sum(is_complete(job, store) for job in jobs))
    jobs = _with_needed(asked, store) if train else list(asked)
    check(jobs, store, Resources(threads=threads))
    told = lines_of(jobs, store)
    waiting = [job for job in jobs if not is_complete(job, store)]
    recorder = Recorder(
        uri, store, jobs, warn=lambda sentence: console.print(sentence, markup=False), trains=train
    )
    with live.display(told, console) as shown:
        # MLflow takes seconds to import and to make its database, and here the training would wait for it.
        listener = Listener({job.fingerprint: job for job in jobs}, recorder, shown, at_once=False)
        steps = [examine(cast("Planned", job), store.path) for job in jobs]
        waits, prefixes = waits_of(steps), sharing(steps, store.path)
        try:
            for job in waiting:
                if has_what_it_needs(job.fingerprint, waits, listener, store):
                    shared = prefixes.get(job.fingerprint, {})
                    _run_here(job, store, listener, threads, device, train, shared)
                    outcome.done += [job.fingerprint] if job.fingerprint not in listener.failed else []
        except KeyboardInterrupt:
            outcome.interrupted = True
    recorder.failures = listener.failed
    outcome.failed = {
        run_name(job): listener.failed[job.fingerprint] for job in jobs if job.fingerprint in listener.failed
    }
    recorder.finish(interrupted=outcome.interrupted)
    outcome.tracking = recorder.problem
    return outcome


def _with_needed(jobs: Sequence[Job], store: Store) -> list[Job]:
    """The jobs, each after the trials that it still needs."""
    from orchestration.tracking import Single

    asked = {job.fingerprint: job for job in jobs}
    trials = with_needed({key: (job.trial, job.row) for key, job in asked.items()}, store.path)
    found: list[Job] = []
    for identity, (trial, row) in trials.items():
        job = asked.get(identity) or Single(trial, identity, name=row)
        found.append(job if job.trial == trial else replace(cast("Single", job), trial=trial))
    return found


def _run_here(
    job: Job,
    store: Store,
    listener: Listener,
    threads: int,
    device: str,
    train: bool,
    prefixes: Mapping[int, str],
) -> None:
    from ham_core.run import run_trial
    from ham_core.training import DivergedError

    listener.started(job.fingerprint)
    folder = store.folder(job.fingerprint)
    watched, failure = watched_metric(job.trial), ""
    try:
        events = run_trial(
            job.trial,
            folder,
            job.evaluations,
            device=device,
            threads=threads,
            train=train,
            prefixes=prefixes,
        )
        for event in store.published(job.trial, events, prefixes):
            listener.reported(job.fingerprint, told_of(event, watched))
    except (RequestError, DivergedError) as error:
        failure = str(error)
    listener.ended(job.fingerprint, failure)


def told_of(event: Event, watched: str) -> dict[str, Any]:
    """An event of run_trial as a flat line for displays; it always has every key."""
    metrics = event.metrics or {}
    prefix = event.name if event.kind == "evaluated" else watched
    numbers = {word: metrics.get(f"{prefix}/{word}", math.nan) for word in ("avg", "worst")}
    return {"kind": event.kind, "epoch": event.epoch, "name": event.name, "reason": "", **numbers}


def _sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
