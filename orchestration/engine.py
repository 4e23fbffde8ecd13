"""The only place that knows Ray: starts it, runs jobs as Tune trials, passes on what happens. Imported when work starts.

Ray's own state is disposable. A trial continues from its folder, so a retry, another sweep and a bare machine do the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune

RETRIES = 2
OBJECT_STORE = 200 * 1024**2  # bytes; results travel through the trial folders, not through Ray


class Listener(Protocol):
    """What is told of a running sweep. `identity` is a trial's fingerprint."""

    def started(self, identity: str) -> None: ...
    def reported(self, identity: str, result: dict[str, Any]) -> None: ...
    def retried(self, identity: str, reason: str) -> None: ...
    def ended(self, identity: str, failure: str) -> None: ...


def work(config: dict[str, Any]) -> None:
    """One trial in a worker process: train (where the job says so) and evaluate what its folder lacks, report every event.

    What another attempt cannot change (a request that is wrong, a training that diverged) is reported, not raised.
    """
    from ham_core.config import Trial
    from ham_core.errors import RequestError
    from ham_core.folder import TrialFolder
    from ham_core.protocol import Evaluation
    from ham_core.run import Event, run_trial
    from ham_core.training import DivergedError
    from orchestration.runner import told_of

    job = config["job"]
    trial = Trial.model_validate(job["trial"])
    evaluations = [Evaluation.model_validate(one) for one in job["evaluations"]]
    folder = TrialFolder.of(job["store"], job["fingerprint"])
    try:
        events = run_trial(
            trial, folder, evaluations, device=job["device"], threads=job["threads"], train=job["train"]
        )
        for event in events:
            tune.report(told_of(event, job["watched"]))
        tune.report(told_of(Event("complete"), ""))
    except (RequestError, DivergedError) as error:
        tune.report(told_of(Event("failed"), "") | {"reason": last_line(str(error))})


def last_line(text: str) -> str:
    """The line of a traceback that says what went wrong."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"


class Relay(tune.Callback):
    """Hands Tune's hooks to a listener. No exception escapes: it would end the sweep."""

    def __init__(self, listener: Listener) -> None:
        self.listener: Listener | None = listener
        self.errors: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        return {"listener": None, "errors": []}  # pickled into Tune's state, which nobody restores

    def _tell(self, hook: str, *arguments: Any) -> None:
        if self.listener is not None:
            try:
                getattr(self.listener, hook)(*arguments)
            except Exception as error:  # whatever it is, training is worth more
                self.errors.append(f"{type(error).__name__}: {error}")

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell("started", identity_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any
    ) -> None:
        self._tell("reported", identity_of(trial), dict(result))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell("retried", identity_of(trial), reason_of(trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell("ended", identity_of(trial), "")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell("ended", identity_of(trial), reason_of(trial))


def identity_of(trial: Any) -> str:
    """The fingerprint in a Tune trial's configuration."""
    return str(trial.config["job"]["fingerprint"])


def reason_of(trial: Any) -> str:
    """The last line of the error of a Tune trial."""
    try:
        return last_line(Path(trial.error_file).read_text(encoding="utf-8", errors="replace"))
    except (OSError, TypeError):
        return "the worker ended without a reason; it may have been killed or have run out of memory"


@contextlib.contextmanager
def cluster(address: str | None, cpus: int) -> Iterator[dict[str, float]]:
    """A Ray with its resources: the one that runs in this process, the cluster at `address`, or a local one of our own."""
    quiet()
    if ray.is_initialized():
        yield ray.cluster_resources()
        return
    options: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    if address is None:
        options |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
        options |= {"object_store_memory": OBJECT_STORE}
    else:
        options["address"] = address
    ray.init(**options)
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def quiet() -> None:
    """Tune and Ray print nothing: our own display says what happens."""
    for name in ("ray", "ray.tune", "ray.train", "ray._private"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def run(
    jobs: Sequence[dict[str, Any]], listener: Listener, *, scratch: Path, concurrent: int | None
) -> list[str]:
    """Run every job with its resources (`cpu`, `gpu`) -> problems of the listener. Ctrl-C ends it early and in order."""
    scratch = scratch / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    relay = Relay(listener)
    request = {"cpu": jobs[0]["threads"], "gpu": jobs[0]["gpu"]}
    tuner = tune.Tuner(
        tune.with_resources(work, request),
        param_space={"job": tune.grid_search(list(jobs))},
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            max_concurrent_trials=concurrent,
            trial_dirname_creator=_short_name,
            trial_name_creator=_short_name,
        ),
        run_config=tune.RunConfig(
            name=scratch.name,
            storage_path=str(scratch.parent),
            verbose=0,
            callbacks=[relay],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )
    try:
        with _termination_as_interrupt():
            tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # another sweep is using it
            scratch.parent.rmdir()
    return relay.errors


def _short_name(trial: Any) -> str:
    return identity_of(trial)[:16]


@contextlib.contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """A scheduler's SIGTERM ends the sweep as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
