"""logs, retry, sync, and how long the rest of a sweep takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ham_core.errors import RequestError
from ham_core.folder import TrialFolder, read_json, write_json
from orchestration import runner, tracking
from orchestration.disk import size_in_words
from orchestration.estimate import remaining, seconds_per_epoch
from orchestration.started import command_of, expanded
from orchestration.status import recorded_sweep, status
from orchestration.store import Store
from tests.orchestration.keeping import ONE, ham, started

Write = Callable[..., Path]


def journal(folder: TrialFolder, seconds: list[float]) -> None:
    """One epoch per number: half of it training, half validation."""
    folder.path.mkdir(parents=True)
    for epoch, one in enumerate(seconds):
        metrics = {"time/train_s": one / 2, "time/validate_s": one / 2}
        folder.append({"epoch": epoch, "timestamp": 0.0, "metrics": metrics})


# the rest of a sweep -----------------------------------------------------------------------------------------------


def trial(name: str, state: str, epoch: int) -> dict[str, Any]:
    return {"fingerprint": name, "status": state, "epoch": epoch, "epochs": 10}


def test_what_is_left_is_measured_on_the_trials_own_epochs(tmp_path: Path) -> None:
    """By hand: a has 8 epochs of (1 + 3)/2 = 2 s left, b 9 of 5 s: 61 s, 30.5 s two at once, but b alone takes 45 s."""
    store = Store(tmp_path)
    journal(store.folder("a"), [1.0, 3.0])
    journal(store.folder("b"), [5.0])
    kinds = [{"kind": ["at"]}, {"kind": ["at"]}]
    trials = [trial("a", "running", 2), trial("b", "running", 1)]
    assert seconds_per_epoch(store.folder("a")) == 2.0
    assert seconds_per_epoch(store.folder("c")) is None
    assert remaining(kinds, trials, store) == {"epochs": 17, "seconds": 45.0, "at_once": 2}
    trials[1]["status"] = "partial"
    assert remaining(kinds, trials, store) == {"epochs": 17, "seconds": 61.0, "at_once": 1}


def test_done_and_failed_trials_are_not_left(tmp_path: Path) -> None:
    store = Store(tmp_path)
    journal(store.folder("a"), [1.0])
    trials = [trial("a", "failed", 1), trial("b", "done", 10)]
    assert remaining([{}, {}], trials, store) == {"epochs": 0, "seconds": 0.0, "at_once": 1}
    assert remaining([{}], [trial("c", "missing", 0)], store) == {"epochs": 10, "seconds": None, "at_once": 1}


def test_missing_trials_cost_what_trained_ones_of_their_kind_took(write_sweep: Write, tmp_path: Path) -> None:
    store, sweep = started(write_sweep(), tmp_path / "s", trained=lambda name: "seed=0" in name)
    per_epoch = {one.label: seconds_per_epoch(store.folder(one.fingerprint)) for one in sweep.trials[::2]}
    left = status(store)["sweeps"][0]["left"]
    assert left["epochs"] == 4
    assert left["seconds"] == pytest.approx(sum(2 * (one or 0) for one in per_epoch.values()))
    assert len(per_epoch) == 2
    code, out, _ = ham("status", "--store", store.path)
    assert code == 0
    assert "left     4 epochs, about " in out


def test_status_says_that_nothing_is_measured_yet(write_sweep: Write, tmp_path: Path) -> None:
    store, _ = started(write_sweep(), tmp_path / "s", trained=lambda name: False)
    _, out, _ = ham("status", "--store", store.path)
    assert "8 epochs of training; how long they take is known after the first of their kind" in out


# sweeps as they were started ---------------------------------------------------------------------------------------


def test_a_started_sweep_expands_again_from_its_record(write_sweep: Write, tmp_path: Path) -> None:
    path = write_sweep()
    store, sweep = started(path, tmp_path / "s", sets=("seeds=[3]",), trained=lambda name: False)
    path.unlink()
    recorded = recorded_sweep(store, "tiny")
    again = expanded(recorded)
    assert [one.fingerprint for one in again.trials] == [one.fingerprint for one in sweep.trials]
    assert (again.name, again.source, again.sets) == ("tiny", str(path), ("seeds=[3]",))
    assert command_of(recorded) == ["ham", "sweep", str(path), "--set", "seeds=[3]"]
    assert command_of(recorded | {"profile": "smoke"})[3:5] == ["--profile", "smoke"]


def test_a_profile_is_kept_with_the_sweep(write_sweep: Write, tmp_path: Path) -> None:
    from orchestration.status import remember
    from orchestration.sweep import load_sweep

    sweep, store = load_sweep(write_sweep(), profile="smoke"), Store(tmp_path / "s")
    remember(sweep, store, {})
    again = expanded(recorded_sweep(store, "tiny-smoke"))
    assert (again.name, again.profile) == ("tiny-smoke", "smoke")


def test_a_sweep_that_means_other_trials_now_is_refused(write_sweep: Write, tmp_path: Path) -> None:
    store, _ = started(write_sweep(), tmp_path / "s", trained=lambda name: False)
    recorded = recorded_sweep(store, "tiny")
    other = dict(recorded, text=recorded["text"].replace("epochs: 2", "epochs: 3"))
    with pytest.raises(RequestError, match="4 of the 4 trials that it was started with are others now"):
        expanded(other)
    with pytest.raises(RequestError, match="kept no copy of its file"):
        expanded({key: value for key, value in recorded.items() if key != "text"})


# logs --------------------------------------------------------------------------------------------------------------


def test_logs_are_a_line_per_epoch_and_per_evaluation(write_sweep: Write, tmp_path: Path) -> None:
    store, sweep = started(write_sweep(), tmp_path / "s", sets=ONE)
    code, out, _ = ham("logs", "at seed=0", "--store", store.path)
    folder = store.folder(sweep.trials[0].fingerprint)
    record = folder.journal()[1]
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == f"{sweep.trials[0].fingerprint[:10]}  at seed=0"
    assert f"epoch 2/2  loss {record['metrics']['train/loss']:.4f}  val/pgd2 " in lines[2]
    assert f"{100 * record['metrics']['val/pgd2/avg']:.1f} % avg" in lines[2]
    assert f"{100 * record['metrics']['val/pgd2/worst']:.1f} % worst" in lines[2]
    assert "trained" in lines
    assert sum(line.startswith("evaluated ") for line in lines) == 4
    answer = json.loads(ham("logs", sweep.trials[0].fingerprint[:8], "--store", store.path, "--json")[1])
    assert answer["epochs"] == folder.journal()
    assert answer["done"] is True


def test_logs_of_a_failed_and_of_a_trial_that_never_began(write_sweep: Write, tmp_path: Path) -> None:
    store, sweep = started(
        write_sweep(),
        tmp_path / "s",
        sets=("seeds=0",),
        trained=lambda name: False,
        failed={"at seed=0": "NaN loss"},
    )
    store.folder(sweep.trials[0].fingerprint).create(sweep.trials[0].trial)
    assert ham("logs", "at", "--store", store.path)[1].splitlines()[-1] == "failed: NaN loss"
    code, _, err = ham("logs", "trades", "--store", store.path)
    assert (code, "was never started" in err) == (2, True)


# retry -------------------------------------------------------------------------------------------------------------


def test_retry_runs_the_sweep_as_it_was_started(
    write_sweep: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sweep()
    store, sweep = started(
        path, tmp_path / "s", trained=lambda name: False, failed={"at seed=1": "out of memory"}
    )
    path.unlink()
    seen: list[Any] = []

    def run(asked: Any, place: Store, uri: str, **options: Any) -> runner.Outcome:
        seen.append(([one.fingerprint for one in asked.trials], place.path, uri, options["resources"]))
        return runner.Outcome(done=["x"], failed={"at seed=1": "again"})

    monkeypatch.setattr(runner, "run_sweep", run)
    code, out, err = ham("retry", "--failed", "--store", store.path, "--threads", "2", "--concurrent", "1")
    assert code == 1
    assert "tiny: at seed=1: had failed: out of memory" in out
    assert "failed: at seed=1: again" in err
    resources = runner.Resources(threads=2, concurrent=1)
    expected = [one.fingerprint for one in sweep.trials]
    assert seen == [(expected, store.path, tracking.default_uri(store.path), resources)]


def test_forgetting_runs_nothing_and_names_the_command(
    write_sweep: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sweep()
    store, _ = started(
        path, tmp_path / "s", trained=lambda name: False, failed={"at seed=1": "out of memory"}
    )
    before = recorded_sweep(store, "tiny")
    monkeypatch.setattr(runner, "run_sweep", None)  # calling it would be a traceback
    code, out, _ = ham("retry", "--failed", "tiny", "--forget", "--store", store.path)
    assert code == 0
    assert f"1 failures forgotten; next: ham sweep {path}" in out
    assert status(store)["sweeps"][0]["counts"]["failed"] == 0
    after = recorded_sweep(store, "tiny")
    assert {**after, "trials": None} == {**before, "trials": None}
    assert ham("retry", "--failed", "tiny", "--store", store.path)[1] == "no trial failed\n"


def test_retry_wants_to_know_what(write_sweep: Write, tmp_path: Path) -> None:
    store, _ = started(write_sweep(), tmp_path / "s", trained=lambda name: False, failed={"at seed=1": "x"})
    assert ham("retry", "--store", store.path)[0] == 2
    code, _, err = ham("retry", "--failed", "tyny", "--store", store.path)
    assert (code, "known: tiny" in err) == (2, True)


# sync --------------------------------------------------------------------------------------------------------------


def recorded(store: Store, sweep: str = "tiny") -> dict[str, tuple[str, str, dict[str, float]]]:
    """{fingerprint: (name, status, metrics)} of the runs of a sweep."""
    runs = tracking.read_trials(tracking.default_uri(store.path), sweep)
    return {run.fingerprint: (run.tags["mlflow.runName"], run.status, run.metrics) for run in runs}


def test_a_lost_database_is_written_anew_from_the_journals(write_sweep: Write, tmp_path: Path) -> None:
    path = write_sweep()
    store, sweep = started(
        path, tmp_path / "s", trained=lambda name: name == "at seed=0", failed={"trades seed=0": "NaN"}
    )
    path.unlink()
    code, out, err = ham("sync", "--store", store.path)
    assert (code, out, err) == (0, "tiny: 4 trials, 1 complete\n", "")
    first = recorded(store)
    shutil.rmtree(store.path / "artifacts")
    (store.path / "mlflow.db").unlink()
    assert ham("sync", "tiny", "--store", store.path)[0] == 0
    assert recorded(store) == first
    done, failed = (one.fingerprint for one in sweep.trials if one.seed == 0)
    assert {key: value[:2] for key, value in first.items()} == {
        done: ("at seed=0", "FINISHED"),
        failed: ("trades seed=0", "FAILED"),
    }
    record = store.folder(done).journal()[-1]
    assert first[done][2]["train/loss"] == record["metrics"]["train/loss"]
    (known,) = tracking.read_sweeps(tracking.default_uri(store.path))
    assert [one.fingerprint for one in known.planned] == [one.fingerprint for one in sweep.trials]


def test_trials_of_no_sweep_are_recorded_too(write_sweep: Write, tmp_path: Path) -> None:
    store, sweep = started(write_sweep(), tmp_path / "s", sets=ONE)
    (store.path / "sweeps" / "tiny.json").unlink()
    code, out, _ = ham("sync", "--store", store.path)
    assert (code, out) == (0, "1 trials of no started sweep\n")
    client = tracking.client_of(tracking.default_uri(store.path))
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert (run.data.tags["fingerprint"], run.info.status) == (sweep.trials[0].fingerprint, "FINISHED")
    (store.folder(sweep.trials[0].fingerprint).path / "trial.json").write_text('{"trial": {"epochs": "x"}}')
    code, _, err = ham("sync", "--store", store.path)
    assert (code, "cannot be read as a trial of this version; left out" in err) == (1, True)


def test_sync_leaves_the_record_to_a_sweep_that_runs(write_sweep: Write, tmp_path: Path) -> None:
    store, sweep = started(write_sweep(), tmp_path / "s", sets=ONE)
    with store.folder(sweep.trials[0].fingerprint).lock():
        code, _, err = ham("sync", "--store", store.path)
    assert (code, "1 trials are being trained" in err) == (2, True)
    assert not (store.path / "mlflow.db").exists()


def test_sync_says_which_sweep_cannot_be_recorded(write_sweep: Write, tmp_path: Path) -> None:
    store, _ = started(write_sweep(), tmp_path / "s", sets=ONE)
    path = store.path / "sweeps" / "tiny.json"
    old = read_json(path)
    assert old is not None
    write_json(path, {key: value for key, value in old.items() if key != "text"})
    code, _, err = ham("sync", "--store", store.path)
    assert (code, "sweep 'tiny' was started by an earlier version" in err) == (1, True)


def test_sizes_in_words() -> None:
    assert [size_in_words(n) for n in (0, 999, 1000, 1_450_000, 10**9, 2 * 10**12)] == [
        "0 bytes", "999 bytes", "1.0 kB", "1.4 MB", "1.0 GB", "2.0 TB"
    ]  # fmt: skip
