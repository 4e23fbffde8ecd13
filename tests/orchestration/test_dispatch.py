"""Which job is next, against real trial folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ham_core.prefix import prefix_file
from ham_core.protocol import evaluation_fingerprint
from orchestration import dispatch
from orchestration.dispatch import RETRIES, Dispatcher
from orchestration.plan import examine, sharing
from orchestration.runner import entry, is_complete, waits_of
from orchestration.store import Store
from orchestration.sweep import Planned, load_sweep
from orchestration.tracking import run_name

GRID = """\
method: ham-official
    method.mining.start_epoch: 1
    method.mining.early_drop_step: [1, 2]"""
FIRST, SECOND = "ham-official early_drop_step=1 seed=0", "ham-official early_drop_step=2 seed=0"


class Listener:
    """Writes down what it is told."""

    def __init__(self, trials: dict[str, Planned]) -> None:
        self.jobs, self.failed = trials, dict[str, str]()
        self.told: list[tuple[str, ...]] = []

    def started(self, identity: str) -> None:
        self.told.append(("started", identity))

    def reported(self, identity: str, result: dict[str, Any]) -> None:
        self.told.append((str(result["kind"]), identity))

    def retried(self, identity: str, reason: str) -> None:
        self.told.append(("retried", identity, reason))

    def ended(self, identity: str, failure: str) -> None:
        if failure:
            self.failed[identity] = failure
        self.told.append(("ended", identity, failure))

    def stopped(self, identity: str, rule: str) -> None:
        self.told.append(("stopped", identity, rule))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "PATIENCE", 0.0)


@pytest.fixture
def begin(write_sweep: Callable[..., Path], tmp_path: Path) -> Callable[..., Dispatcher]:
    """begin(grid, sets...) -> a dispatcher of all trials of a sweep of two epochs."""

    def make(methods: str = "method: [at, trades]", *sets: str) -> Dispatcher:
        sweep = load_sweep(
            write_sweep(replaced={"method: [at, trades]": methods}), sets=sets or ["seeds=[0, 1]"]
        )
        store = Store(tmp_path / "store")
        steps = [examine(one, store.path) for one in sweep.trials]
        shared = sharing(steps, store.path)
        return Dispatcher(
            {
                one.fingerprint: entry(one, store, 1, 0.0, shared.get(one.fingerprint, {}))
                for one in sweep.trials
            },
            waits_of(steps),
            store,
            Listener({one.fingerprint: one for one in sweep.trials}),
            is_complete=lambda job: is_complete(job, store),
        )

    return make


def row(dispatcher: Dispatcher, given: dict[str, Any] | None) -> str | None:
    return None if given is None else run_name(dispatcher.listener.jobs[given["fingerprint"]])


def all_next(dispatcher: Dispatcher, slots: int = 100) -> list[str | None]:
    return [row(dispatcher, one) for one in iter(lambda: dispatcher.next(slots), None)]


def identity_of(dispatcher: Dispatcher, name: str) -> str:
    return next(key for key, job in dispatcher.listener.jobs.items() if run_name(job) == name)  # type: ignore[attr-defined]


def finish(dispatcher: Dispatcher, name: str) -> None:
    identity = identity_of(dispatcher, name)
    write_epochs(dispatcher, name, 2)
    dispatcher.store.folder(identity).finish({"epochs": 2})


def write_epochs(dispatcher: Dispatcher, name: str, count: int) -> None:
    identity = identity_of(dispatcher, name)
    folder = dispatcher.store.folder(identity)
    folder.create(dispatcher.listener.jobs[identity].trial)
    for epoch in range(count):
        folder.append({"epoch": epoch, "metrics": {}})


def test_jobs_come_in_the_order_of_the_plan_as_long_as_there_are_places(
    begin: Callable[..., Dispatcher],
) -> None:
    jobs = begin()
    assert all_next(jobs, slots=3) == ["at seed=0", "at seed=1", "trades seed=0"]
    jobs.ended(identity_of(jobs, "at seed=1"), "complete")
    assert all_next(jobs, slots=3) == ["trades seed=1"]
    assert not jobs.is_over
    for name in ("at seed=0", "trades seed=0", "trades seed=1"):
        jobs.ended(identity_of(jobs, name), "complete")
    assert jobs.is_over
    assert all_next(jobs) == []


def test_what_is_begun_comes_first(begin: Callable[..., Dispatcher]) -> None:
    write_epochs(begin(), "trades seed=1", 1)
    assert all_next(begin())[0] == "trades seed=1"


def test_a_job_waits_for_its_start_and_not_for_others(begin: Callable[..., Dispatcher]) -> None:
    jobs = begin("method: [at]\n    start_from: {method: trades, weights: last}", "seeds=[0, 1]")
    assert all_next(jobs) == ["trades (start of at) seed=0", "trades (start of at) seed=1"]
    finish(jobs, "trades (start of at) seed=1")
    jobs.ended(identity_of(jobs, "trades (start of at) seed=1"), "complete")
    assert all_next(jobs) == ["at seed=1"], "while the other start still runs"


def test_a_job_whose_start_failed_has_failed(begin: Callable[..., Dispatcher]) -> None:
    jobs = begin("method: [at]\n    start_from: {method: trades, weights: last}", "seeds=0")
    assert all_next(jobs) == ["trades (start of at) seed=0"]
    jobs.ended(identity_of(jobs, "trades (start of at) seed=0"), "failed", "no images")
    assert all_next(jobs) == []
    assert jobs.is_over
    told = jobs.listener.failed[identity_of(jobs, "at seed=0")]
    assert told == "its start trades (start of at) seed=0 failed: no images"


# shared beginnings ---------------------------------------------------------------------------------------------------


def test_a_job_waits_while_another_one_trains_its_beginning(begin: Callable[..., Dispatcher]) -> None:
    jobs = begin(GRID)
    assert all_next(jobs) == [FIRST, FIRST.replace("=0", "=1")]
    identity = identity_of(jobs, FIRST)
    (name,) = jobs.entries[identity]["prefixes"].values()
    path = prefix_file(jobs.store.path, name)
    path.parent.mkdir(parents=True)
    path.touch()
    assert all_next(jobs) == [SECOND], "long before the first has trained all of its epochs"


def test_where_nobody_trains_the_beginning_the_first_of_them_does(begin: Callable[..., Dispatcher]) -> None:
    jobs = begin(GRID, "seeds=0")
    assert all_next(jobs) == [FIRST]
    jobs.reported(identity_of(jobs, FIRST), {"kind": "epoch", "epoch": 0})
    assert all_next(jobs) == [SECOND], "the other has passed it and left nothing behind"


def test_a_failure_of_the_one_that_trains_it_sets_the_others_free(begin: Callable[..., Dispatcher]) -> None:
    jobs = begin(GRID, "seeds=0")
    assert all_next(jobs) == [FIRST]
    jobs.ended(identity_of(jobs, FIRST), "failed", "diverged")
    assert all_next(jobs) == [SECOND]


def test_a_job_that_is_stopped_early_sets_those_free_that_wait_for_its_beginning(
    begin: Callable[..., Dispatcher],
) -> None:
    jobs = begin(GRID, "seeds=0")
    assert all_next(jobs) == [FIRST]
    jobs.ended(identity_of(jobs, FIRST), "stopped", "asha")
    assert jobs.listener.told[-1] == ("stopped", identity_of(jobs, FIRST), "asha")  # type: ignore[attr-defined]
    assert all_next(jobs) == [SECOND]
    jobs.ended(identity_of(jobs, SECOND), "complete")
    assert jobs.is_over
    assert jobs.listener.failed == {}


def test_more_jobs_are_asked_for_when_none_waits_and_a_place_is_free(
    begin: Callable[..., Dispatcher],
) -> None:
    jobs = begin()
    entries, rest = dict(jobs.entries), list(jobs.waiting)
    asked: list[int] = []

    def more() -> tuple[dict[str, Any], dict[str, tuple[str, ...]]]:
        asked.append(len(jobs.running))
        taken = [rest.pop()] if rest else []
        return {one: entries[one] for one in taken}, dict.fromkeys(taken, ())

    jobs.entries, jobs.waiting, jobs._more = {}, [], more
    first = jobs.next(1)
    assert row(jobs, first) == "trades seed=1"
    assert jobs.next(1) is None
    assert asked == [0], "not while every place is taken"
    assert row(jobs, jobs.next(2)) == "trades seed=0"
    jobs.ended(str(first and first["fingerprint"]), "complete")
    assert all_next(jobs) == ["at seed=1", "at seed=0"]


def test_no_more_jobs_are_asked_for_while_one_waits(begin: Callable[..., Dispatcher]) -> None:
    jobs = begin(GRID, "seeds=0")
    jobs._more = lambda: pytest.fail("asked, although the second one waits for a beginning")
    assert all_next(jobs) == [FIRST]


# other processes -----------------------------------------------------------------------------------------------------


@pytest.fixture
def locked(begin: Callable[..., Dispatcher]) -> Iterator[Dispatcher]:
    """`at seed=0` is in the hands of another sweep."""
    jobs = begin()
    with jobs.store.folder(identity_of(jobs, "at seed=0")).lock():
        yield jobs


def test_a_trial_that_another_sweep_trains_waits(locked: Dispatcher) -> None:
    assert all_next(locked) == ["at seed=1", "trades seed=0", "trades seed=1"]
    assert locked.next(100) is None
    assert not locked.is_over


def test_what_another_sweep_has_completed_is_taken(begin: Callable[..., Dispatcher], tmp_path: Path) -> None:
    jobs = begin("method: [at]", "seeds=0")
    identity = identity_of(jobs, "at seed=0")
    finish(jobs, "at seed=0")
    for one in jobs.listener.jobs[identity].evaluations:
        key = evaluation_fingerprint(jobs.listener.jobs[identity].trial, one)
        jobs.store.folder(identity).save_evaluation(key, {"fingerprint": key}, {})
    assert jobs.next(100) is None
    assert jobs.is_over
    assert jobs.listener.told == [("ended", identity, "")]  # type: ignore[attr-defined]


def test_a_trial_that_was_taken_away_at_the_last_moment_waits_again(begin: Callable[..., Dispatcher]) -> None:
    jobs = begin("method: [at]", "seeds=0")
    assert all_next(jobs) == ["at seed=0"]
    jobs.ended(identity_of(jobs, "at seed=0"), "busy", "another process has it")
    assert all_next(jobs) == ["at seed=0"]
    assert jobs.listener.told == []  # type: ignore[attr-defined]


def test_nothing_starts_beside_a_trial_that_runs_alone(begin: Callable[..., Dispatcher]) -> None:
    jobs = begin("method: [at, trades]", "seeds=0")
    with jobs.store.folder(identity_of(jobs, "trades seed=0")).lock():
        assert all_next(jobs) == ["at seed=0"]
        jobs.ended(identity_of(jobs, "at seed=0"), "memory", "out of memory")
        assert all_next(jobs) == ["at seed=0"]
    assert all_next(jobs) == [], "the other one is free, and there is a place"
    jobs.ended(identity_of(jobs, "at seed=0"), "complete")
    assert all_next(jobs) == ["trades seed=0"]


# losses --------------------------------------------------------------------------------------------------------------


def lose(jobs: Dispatcher, name: str = "at seed=0") -> bool:
    """The worker is lost -> whether the trial is tried again."""
    jobs.ended(identity_of(jobs, name), "lost", "killed")
    return name in all_next(jobs)


def test_a_trial_that_gains_nothing_is_given_up_after_its_retries(begin: Callable[..., Dispatcher]) -> None:
    jobs = begin("method: [at]", "seeds=0")
    all_next(jobs)
    assert [lose(jobs) for _ in range(RETRIES + 1)] == [True] * RETRIES + [False]
    assert jobs.listener.failed == {identity_of(jobs, "at seed=0"): "killed"}


def test_a_trial_that_gets_further_between_losses_is_never_given_up(begin: Callable[..., Dispatcher]) -> None:
    jobs = begin("method: [at]", "seeds=0", "epochs=9")
    all_next(jobs)
    for count in range(1, 9):
        write_epochs(jobs, "at seed=0", count)
        assert lose(jobs)
        assert lose(jobs), "one more loss in the same epoch"


def test_out_of_memory_is_tried_again_alone_and_once(begin: Callable[..., Dispatcher]) -> None:
    jobs = begin()
    assert len(all_next(jobs, slots=2)) == 2
    jobs.ended(identity_of(jobs, "at seed=0"), "memory", "out of memory")
    assert all_next(jobs, slots=2) == ["trades seed=0"], "others run, so it cannot be alone"
    jobs.ended(identity_of(jobs, "trades seed=0"), "complete")
    jobs.ended(identity_of(jobs, "at seed=1"), "complete")
    rest = [jobs.next(2)]
    assert row(jobs, rest[0]) == "trades seed=1"
    jobs.ended(identity_of(jobs, "trades seed=1"), "complete")
    given = jobs.next(2)
    assert row(jobs, given) == "at seed=0"
    assert given is not None and given["alone"] is True
    assert jobs.next(2) is None
    jobs.ended(identity_of(jobs, "at seed=0"), "memory", "out of memory")
    assert "although it ran alone" in jobs.listener.failed[identity_of(jobs, "at seed=0")]
