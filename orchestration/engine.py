"""The only place that knows Ray: starts it, runs jobs as Tune trials, passes on what happens. Imported when work starts.

Tune asks the dispatcher for the next job whenever a place is free (`Suggester`), runs it in a worker (`work`) and says what
came of it (`Relay`). Ray's own state is disposable: a trial continues from its folder, so another attempt, another sweep and
a bare machine do the same.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import AuthenticationError
from ray.tune.search import Searcher

from ham_core.errors import BusyError, RequestError
from orchestration.dispatch import Dispatcher, Ending
from orchestration.stopping import Stopper

OBJECT_STORE = 200 * 1024**2  # bytes; results travel through the trial folders, not through Ray
PATIENCE = 5.0  # seconds that a worker waits for a trial which another process has
RECOUNTED = 2.0  # seconds after which a cluster's machines are counted again
ENDINGS: dict[str, Ending] = {"complete": "complete", "failed": "failed", "busy": "busy", "memory": "memory"}
LOST = "the worker ended without a reason; it may have been killed or have run out of memory"


# in a worker -------------------------------------------------------------------------------------------------------


def work(config: dict[str, Any]) -> None:
    """One trial in a worker process: train (where the job says so) and evaluate what its folder lacks, report every event.

    What another attempt in the same place cannot change (a request that is wrong, a training that diverged, memory that is
    not there) is reported, not raised.
    """
    from ham_core.config import Trial
    from ham_core.protocol import Evaluation
    from ham_core.run import Event, run_trial
    from ham_core.training import DivergedError
    from orchestration.runner import told_of
    from orchestration.store import store_at

    job = config["job"]
    trial = Trial.model_validate(job["trial"])
    evaluations = [Evaluation.model_validate(one) for one in job["evaluations"]]
    prefixes = {int(epochs): name for epochs, name in job["prefixes"].items()}
    try:
        store = store_at(job["store"])
        events = run_trial(
            trial,
            store.folder(job["fingerprint"]),
            evaluations,
            device=job["device"],
            threads=job["threads"],
            train=job["train"],
            prefixes=prefixes,
            patience=PATIENCE,
            keep=job["keep"],
        )
        for event in store.published(trial, events, prefixes):
            tune.report(told_of(event, job["watched"]))
        tune.report(told_of(Event("complete"), ""))
    except BusyError as error:
        tune.report(told_of(Event("busy"), "") | {"reason": str(error)})
    except (RequestError, DivergedError) as error:
        tune.report(told_of(Event("failed"), "") | {"reason": last_line(str(error))})
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        tune.report(told_of(Event("memory"), "") | {"reason": f"out of memory: {last_line(str(error))}"})


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's or the machine's memory did not suffice; torch reports the latter as a plain RuntimeError."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def last_line(text: str) -> str:
    """The line of a traceback that says what went wrong."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"


# between Tune and the dispatcher -----------------------------------------------------------------------------------


class Suggester(Searcher):
    """What Tune asks for the next trial."""

    def __init__(self, dispatcher: Dispatcher, slots: Callable[[], int]) -> None:
        super().__init__()
        self.dispatcher: Dispatcher | None = dispatcher
        self.slots: Callable[[], int] | None = slots
        self.finished = False

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The configuration of a trial that may start now; FINISHED where nothing runs and nothing can start."""
        dispatcher, slots = self.dispatcher, self.slots
        if dispatcher is None or slots is None:
            return str(Searcher.FINISHED)
        entry = dispatcher.next(slots())
        if entry is not None:
            return {"job": entry}
        if dispatcher.running:
            return None
        self.finished = True  # what still waits is in other hands; the runner looks again
        return str(Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The relay has told the dispatcher."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what is left to do is read from the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"dispatcher": None, "slots": None}  # Tune pickles it; nobody restores it


class Relay(tune.Callback):
    """Hands Tune's hooks to the dispatcher. No exception escapes: it would end the sweep."""

    def __init__(self, dispatcher: Dispatcher, stopper: Stopper | None = None) -> None:
        self.dispatcher: Dispatcher | None = dispatcher
        self.stopper = stopper
        self.errors: list[str] = []
        # Tune's trial id -> the event after which its worker has nothing to do
        self.last: dict[str, dict[str, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"dispatcher": None, "stopper": None, "errors": [], "last": {}}

    def _tell(self, hook: str, *arguments: Any) -> None:
        if self.dispatcher is not None:
            try:
                getattr(self.dispatcher, hook)(*arguments)
            except Exception as error:  # whatever it is, training is worth more
                self.errors.append(f"{type(error).__name__}: {error}")

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell("started", identity_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any
    ) -> None:
        if result.get("kind") in ENDINGS:
            self.last[trial.trial_id] = dict(result)
        else:
            self._tell("reported", identity_of(trial), dict(result))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        last = self.last.pop(trial.trial_id, None)
        if last is not None:
            self._tell("ended", identity_of(trial), ENDINGS[last["kind"]], str(last["reason"]))
        elif self.stopper is not None and trial.trial_id in self.stopper.stopped:
            self._tell("ended", identity_of(trial), "stopped", self.stopper.stop.by)
        # else an interrupt has ended it

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reason = reason_of(trial)
        killed = "OutOfMemoryError" in reason or "low on memory" in reason  # by Ray, before the system
        self._tell("ended", identity_of(trial), "memory" if killed else "lost", reason)


def identity_of(trial: Any) -> str:
    """The fingerprint in a Tune trial's configuration."""
    return str(trial.config["job"]["fingerprint"])


def reason_of(trial: Any) -> str:
    """The last line of the error of a Tune trial."""
    try:
        return last_line(Path(trial.error_file).read_text(encoding="utf-8", errors="replace"))
    except (OSError, TypeError):
        return LOST


# machines ----------------------------------------------------------------------------------------------------------


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
    try:
        ray.init(**options)
    except (ConnectionError, AuthenticationError) as error:
        raise RequestError(
            f"--address: the Ray at {address} does not let this process in ({last_line(str(error))[:200]}); give it the "
            "cluster's token: RAY_AUTH_TOKEN_PATH=FILE ham ..., see docs/scaling.md"
        ) from None
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def quiet() -> None:
    """Tune and Ray print nothing: our own display says what happens."""
    for name in ("ray", "ray.tune", "ray.train", "ray._private"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def machines() -> list[tuple[float, float]]:
    """(CPUs, GPUs) of every machine that is up."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive]


def places(machines: list[tuple[float, float]], cpus: float, gpus: float) -> int:
    """How many trials that ask for so much run at once; a share of a GPU is of one GPU."""
    found = 0
    for have_cpus, have_gpus in machines:
        fit = math.floor(have_cpus / cpus)
        if 0 < gpus < 1:
            fit = min(fit, math.floor(have_gpus) * math.floor(1 / gpus + 1e-9))
        elif gpus:
            fit = min(fit, math.floor(have_gpus / gpus))
        found += fit
    return found


def request(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What a job asks of Ray. One that runs alone has a GPU, or where it has none all CPUs of a machine, to itself."""
    job = config["job"]
    cpus, gpus = job["threads"], job["gpu"]
    if job["alone"] and gpus:
        gpus = max(1, gpus)
    elif job["alone"]:
        cpus = max(job["threads"], max(have for have, _ in machines()))
    return tune.PlacementGroupFactory([{"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}])


def kinds_of_gpu() -> str:
    """The GPUs of the machines by name, as Ray found them; "" where it knows no names."""
    marks = (name for node in ray.nodes() if node["Alive"] for name in node["Resources"])
    return ", ".join(
        sorted({name.removeprefix("accelerator_type:") for name in marks if "accelerator" in name})
    )


def measure(entries: Sequence[dict[str, Any]]) -> list[tuple[int, int] | None]:
    """(bytes needed, bytes of the GPU) of each job, measured side by side, each with a GPU of its own; None: not to be had."""
    remote = ray.remote(num_cpus=1, num_gpus=1, max_calls=1)(_memory_needed)
    found = []
    for answer in [remote.remote(entry) for entry in entries]:
        try:
            found.append(ray.get(answer))
        except ray.exceptions.RayError:  # the job itself will say what is wrong, with an attempt of its own
            found.append(None)
    return found


def _memory_needed(job: dict[str, Any]) -> tuple[int, int] | None:
    from ham_core.config import Trial
    from ham_core.network import usable
    from ham_core.probe import memory_needed

    return memory_needed(Trial.model_validate(job["trial"]), usable(job["device"]))


# the sweep ---------------------------------------------------------------------------------------------------------


def run(
    dispatcher: Dispatcher, *, scratch: Path, concurrent: int | None, stopper: Stopper | None = None
) -> tuple[bool, list[str]]:
    """Run jobs until none is left that could start -> (False: interrupted, problems of the dispatcher).

    Ctrl-C ends it early and in order. `stopper` ends trials that do badly.
    """
    threads = min(one["threads"] for one in dispatcher.entries.values())
    gpu = min(one["gpu"] for one in dispatcher.entries.values())  # Ray itself lets larger ones wait
    scratch = scratch / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    relay = Relay(dispatcher, stopper)
    counted = _Counted(lambda: min(places(machines(), threads, gpu), concurrent or 1_000_000))
    suggester = Suggester(dispatcher, counted)
    # Workers start side by side; the dispatcher counts places.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "64"
    tuner = tune.Tuner(
        tune.with_resources(work, request),
        tune_config=tune.TuneConfig(
            search_alg=suggester,
            scheduler=stopper,
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=_short_name,
            trial_name_creator=_short_name,
        ),
        run_config=tune.RunConfig(
            name=scratch.name, storage_path=str(scratch.parent), verbose=0, callbacks=[relay]
        ),
    )
    try:
        with _termination_as_interrupt():
            tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # another sweep is using it
            scratch.parent.rmdir()
    return suggester.finished, relay.errors + ([] if stopper is None else stopper.errors)


class _Counted:
    """A count that is taken anew now and then: machines come and go."""

    def __init__(self, count: Callable[[], int]) -> None:
        self.count, self.value, self.taken = count, 0, -math.inf

    def __call__(self) -> int:
        if time.monotonic() > self.taken + RECOUNTED:
            self.value, self.taken = self.count(), time.monotonic()
        return self.value


def _short_name(trial: Any) -> str:
    return f"{identity_of(trial)[:16]}-{trial.trial_id}"


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
