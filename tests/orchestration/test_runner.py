"""Running what is missing, with real Ray: resources, failures, and a record that may be away."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ham_core.errors import RequestError
from orchestration import runner, tracking
from orchestration.plan import examine
from orchestration.runner import Resources, run_sweep, waits_of
from orchestration.status import remember, status
from orchestration.store import Store
from orchestration.sweep import Sweep, load_sweep
from orchestration.tracking import Tracker

STARTING = """\
method: [at]
    start_from: {method: trades, weights: last}
    start_from.optimizer.lr: 0.1
    optimizer.lr: [0.01, 0.001]"""
ONE_TRIAL = ["seeds=0", "grid.methods.method=[at]"]


def run(sweep: Sweep, store: Path, console: Console, **resources: Any) -> runner.Outcome:
    return run_sweep(
        sweep, Store(store), tracking.default_uri(store), resources=Resources(**resources), console=console
    )


def printed(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_runs")
class TestWithRay:
    def test_a_trial_that_fails_gives_its_reason_while_the_others_finish(
        self,
        write_sweep: Callable[..., Path],
        tmp_path: Path,
        console: Console,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        path = write_sweep(
            replaced={"method: [at, trades]": "method: [at]\n    optimizer.lr: [0.1, 1.0e+30]"}
        )
        sweep = load_sweep(path, sets=["seeds=0"])
        outcome = run(sweep, tmp_path / "store", console)
        assert outcome.exit_code == 1
        assert len(outcome.done) == 1
        ((name, reason),) = outcome.failed.items()
        assert "lr=1e+30" in name
        assert "loss" in reason
        runs = tracking.read_trials(tracking.default_uri(tmp_path / "store"), "tiny")
        assert sorted(run.status for run in runs) == ["FAILED", "FINISHED"]
        assert [run.tags["failure"] for run in runs if run.status == "FAILED"] == [reason]
        (told,) = status(Store(tmp_path / "store"))["sweeps"]
        assert [one["failure"] for one in told["trials"] if one["status"] == "failed"] == [reason]
        assert "failed" in printed(console)
        assert capfd.readouterr() == ("", ""), "Ray printed something"

    def test_a_killed_worker_is_replaced_and_the_trial_continues(
        self, write_sweep: Callable[..., Path], tmp_path: Path, console: Console
    ) -> None:
        sweep = load_sweep(write_sweep(), sets=[*ONE_TRIAL, "epochs=30"])
        store = Store(tmp_path / "store")
        folder = store.folder(sweep.trials[0].fingerprint)
        killer = threading.Thread(target=kill_the_worker, args=(folder.path,))
        killer.start()
        outcome = run(sweep, store.path, console)
        killer.join()
        assert outcome.exit_code == 0
        assert [record["epoch"] for record in folder.journal()] == list(range(30))
        assert "tries again" in printed(console)
        (record,) = tracking.read_trials(tracking.default_uri(store.path), "tiny")
        assert record.status == "FINISHED"

    def test_a_tracking_server_that_is_down_never_stops_the_training(
        self,
        write_sweep: Callable[..., Path],
        tmp_path: Path,
        console: Console,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        sweep = load_sweep(write_sweep(), sets=ONE_TRIAL)

        def refuse(*arguments: Any, **options: Any) -> None:
            raise ConnectionError("connection refused")

        with monkeypatch.context() as broken:
            broken.setattr(Tracker, "sync", refuse)
            outcome = run(sweep, tmp_path / "store", console)
        assert len(outcome.done) == 1
        assert outcome.exit_code == 1
        assert "connection refused" in outcome.tracking
        assert printed(console).count("does not answer") == 1

        again = run(sweep, tmp_path / "store", console)
        assert (again.exit_code, again.done, again.reused) == (0, [], 1)
        (record,) = tracking.read_trials(tracking.default_uri(tmp_path / "store"), "tiny")
        assert record.status == "FINISHED"
        assert (
            len(
                tracking.read_history(tracking.default_uri(tmp_path / "store"), [record.run_id], "train/loss")
            )
            == 2
        )

    def test_starts_are_trained_once_and_before_those_that_need_them(
        self, write_sweep: Callable[..., Path], tmp_path: Path, console: Console
    ) -> None:
        path = write_sweep(replaced={"method: [at, trades]": STARTING})
        sweep, store = load_sweep(path), Store(tmp_path / "store")
        assert len(sweep.trials) == 6, "two seeds of two trials, and a start per seed"
        outcome = run(sweep, store.path, console)
        assert (outcome.exit_code, len(outcome.done)) == (0, 6)
        assert len(store.trials()) == 6
        for one in sweep.trials:
            for need in one.needs:
                trained = (store.folder(need).path / "done.json").stat().st_mtime
                assert trained <= store.folder(one.fingerprint).journal()[0]["timestamp"]
        runs = {
            one.fingerprint: one for one in tracking.read_trials(tracking.default_uri(store.path), "tiny")
        }
        assert {one.status for one in runs.values()} == {"FINISHED"}
        user = next(one for one in sweep.trials if one.needs)
        params = runs[user.fingerprint].params
        assert params["start_from.trial"] == user.needs[0]
        (recorded,) = tracking.read_sweeps(tracking.default_uri(store.path))
        assert [one.needs for one in recorded.planned] == [one.needs for one in sweep.trials]
        again = run(sweep, store.path, console)
        assert (again.done, again.reused) == ([], 6)

    def test_a_trial_whose_start_fails_is_not_started_and_says_why(
        self, write_sweep: Callable[..., Path], tmp_path: Path, console: Console
    ) -> None:
        wild = STARTING.replace("optimizer.lr: 0.1", "optimizer.lr: 1.0e+30")
        path = write_sweep(replaced={"method: [at, trades]": wild})
        sweep, store = load_sweep(path, sets=["seeds=0"]), Store(tmp_path / "store")
        outcome = run(sweep, store.path, console)
        assert (outcome.exit_code, outcome.done, len(outcome.failed)) == (1, [], 3)
        start = outcome.failed["trades (start of at lr=0.01) seed=0"]
        assert "loss" in start
        for row in ("at lr=0.01 seed=0", "at lr=0.001 seed=0"):
            assert outcome.failed[row] == f"its start trades (start of at lr=0.01) seed=0 failed: {start}"
        assert not any(store.folder(one.fingerprint).epochs_done() for one in sweep.trials if one.needs)
        runs = tracking.read_trials(tracking.default_uri(store.path), "tiny")
        assert [one.status for one in runs] == ["FAILED"] * 3
        (told,) = status(store)["sweeps"]
        assert told["counts"]["failed"] == 3

    def test_more_gpus_than_ray_has_are_refused(
        self,
        write_sweep: Callable[..., Path],
        tmp_path: Path,
        console: Console,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(runner, "graphics_cards", lambda: 4)  # the machine has them, this Ray does not
        with pytest.raises(RequestError, match=r"asks for 1 CPUs and 1 GPUs, but Ray has 2 CPUs and 0 GPUs"):
            run(load_sweep(write_sweep(), sets=ONE_TRIAL), tmp_path / "store", console, gpus_per_trial=1)


def kill_the_worker(folder: Path) -> None:
    """Kill -9 whoever holds the trial's lock, after its third epoch."""
    while (
        not (folder / "journal.jsonl").exists()
        or len((folder / "journal.jsonl").read_bytes().splitlines()) < 3
    ):
        time.sleep(0.05)
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            opened = {os.readlink(link) for link in (process / "fd").iterdir()}
        except OSError:
            continue
        if str(folder / "lock") in opened:
            os.kill(int(process.name), signal.SIGKILL)


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        ({"threads": 0}, "--threads: 0 is too few"),
        ({"threads": 10_000}, "--threads: 10000 threads per trial, but this machine has"),
        ({"gpus_per_trial": 1.5}, "--gpus-per-trial: 1.5 is no share of a GPU"),
        ({"gpus_per_trial": 64}, "--gpus-per-trial: 64 per trial, but this machine has"),
        ({"concurrent": 0}, "--concurrent: 0 is too few"),
    ],
)
def test_impossible_requests_are_refused_before_anything_starts(
    resources: dict[str, Any],
    sentence: str,
    write_sweep: Callable[..., Path],
    tmp_path: Path,
    console: Console,
) -> None:
    with pytest.raises(RequestError) as caught:
        run(load_sweep(write_sweep()), tmp_path / "store", console, **resources)
    assert sentence in caught.value.problems[0]
    assert not (tmp_path / "store").exists()


def test_unreadable_weights_are_named_before_anything_starts(
    write_sweep: Callable[..., Path], tmp_path: Path, console: Console
) -> None:
    sweep = load_sweep(write_sweep())
    folder = Store(tmp_path / "store").folder(sweep.trials[0].fingerprint)
    finish(Store(tmp_path / "store"), sweep.trials[0])
    (folder.path / "weights").mkdir()
    (folder.path / "weights" / "best.pt").write_bytes(b"no weights")
    with pytest.raises(RequestError) as caught:
        run(sweep, tmp_path / "store", console)
    assert caught.value.problems[0].startswith(f"{folder.path / 'weights' / 'best.pt'}: cannot be read")
    assert not (tmp_path / "store" / "mlflow.db").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1", "host:port"])
def test_an_address_without_ray_is_refused_before_anything_is_written(
    address: str, write_sweep: Callable[..., Path], tmp_path: Path, console: Console
) -> None:
    with pytest.raises(RequestError, match="--address"):
        run(load_sweep(write_sweep()), tmp_path / "store", console, address=address)
    assert not (tmp_path / "store").exists()


# trials that start from others -----------------------------------------------------------------------------------


def test_only_trials_that_are_trained_themselves_wait(
    write_sweep: Callable[..., Path], tmp_path: Path
) -> None:
    sweep = load_sweep(write_sweep(replaced={"method: [at, trades]": STARTING}), sets=["seeds=0"])
    store = Store(tmp_path / "store")
    start, *users = sweep.trials
    waits = {start.fingerprint: ()} | {one.fingerprint: (start.fingerprint,) for one in users}
    assert waits_of([examine(one, store.path) for one in sweep.trials]) == waits
    finish(store, users[0])
    assert waits_of([examine(one, store.path) for one in sweep.trials])[users[0].fingerprint] == ()
    finish(store, start)
    assert set(waits_of([examine(one, store.path) for one in sweep.trials]).values()) == {()}


def finish(store: Store, planned: Any) -> None:
    """A trained trial, as far as planning looks."""
    folder = store.folder(planned.fingerprint)
    folder.create(planned.trial)
    for epoch in range(planned.trial.epochs):
        folder.append({"epoch": epoch, "metrics": {}})
    folder.finish({"epochs": planned.trial.epochs})


def test_a_damaged_start_is_named_before_anything_starts(
    write_sweep: Callable[..., Path], tmp_path: Path, console: Console
) -> None:
    sweep = load_sweep(write_sweep(replaced={"method: [at, trades]": STARTING}), sets=["seeds=0"])
    store = Store(tmp_path / "store")
    finish(store, sweep.trials[0])
    weights = store.folder(sweep.trials[0].fingerprint).path / "weights"
    weights.mkdir()
    (weights / "last.pt").write_bytes(b"no weights")
    with pytest.raises(RequestError) as caught:
        run(sweep, store.path, console)
    assert caught.value.problems[0].startswith(f"{weights / 'last.pt'}: cannot be read")


def test_status_counts_a_start_that_nobody_needs_any_more_as_done(
    write_sweep: Callable[..., Path], tmp_path: Path
) -> None:
    sweep = load_sweep(write_sweep(replaced={"method: [at, trades]": STARTING}), sets=["seeds=0"])
    store = Store(tmp_path / "store")
    remember(sweep, store, {})
    assert status(store)["sweeps"][0]["counts"]["missing"] == 3
    for one in sweep.trials[1:]:
        finish(store, one)
    found = status(store)["sweeps"][0]["trials"]
    assert [one["status"] for one in found] == ["done", "partial", "partial"], "evaluations are missing"
