"""What the store says about its sweeps: which trials run, are done, have failed and why, and what comes next. Light.

The driver of a sweep leaves STORE/sweeps/<name>.json behind: the plan it started with, and who failed. The rest is read from
the trial folders, so it is true whether or not a driver is alive.
"""

from __future__ import annotations

import fcntl
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ham_core.errors import RequestError, known
from ham_core.folder import TrialFolder, read_json, write_json
from ham_core.protocol import evaluation_fingerprint
from orchestration.store import Store
from orchestration.sweep import plan_records
from orchestration.tracking import run_name

if TYPE_CHECKING:
    from orchestration.sweep import Sweep

STATES = ("running", "done", "failed", "partial", "missing")


def remember(sweep: Sweep, store: Store, failures: Mapping[str, str]) -> None:
    """Write down what a sweep is about to run, or how it ended."""
    (store.path / "sweeps").mkdir(parents=True, exist_ok=True)
    trials = [
        record
        | {
            "name": run_name(one),
            "epochs": one.trial.epochs,
            "evaluations": [evaluation_fingerprint(one.trial, wanted) for wanted in one.evaluations],
            "failure": failures.get(one.fingerprint, ""),
        }
        for record, one in zip(plan_records(sweep), sweep.trials, strict=True)
    ]
    write_json(
        store.path / "sweeps" / f"{sweep.name}.json",
        {"name": sweep.name, "time": time.time(), "trials": trials},
    )


def status(store: Store, name: str | None = None) -> dict[str, Any]:
    """{"store", "sweeps": [{"name", "counts", "trials": [...]}, ...], "others"}: the sweep that was started last first."""
    found = [read_json(path) for path in (store.path / "sweeps").glob("*.json")]
    recorded = sorted((one for one in found if one), key=lambda one: one["time"], reverse=True)
    names = [one["name"] for one in recorded]
    if name is not None and name not in names:
        raise RequestError(f"{store.path}: no sweep '{name}' was started here; {known(name, names)}")
    members = {trial["fingerprint"] for one in recorded for trial in one["trials"]}
    return {
        "store": str(store.path),
        "sweeps": [_sweep(store, one) for one in recorded if name in (None, one["name"])],
        "others": len(set(store.trials()) - members),
    }


def _sweep(store: Store, recorded: dict[str, Any]) -> dict[str, Any]:
    trials = [_trial(store, one) for one in recorded["trials"]]
    untrained = [one for one in recorded["trials"] if not store.folder(one["fingerprint"]).is_done()]
    wanted = {need for one in untrained for need in one.get("needs", ())}
    for one, trial in zip(recorded["trials"], trials, strict=True):
        if (
            not one["grids"]
            and trial["status"] in ("partial", "missing")
            and one["fingerprint"] not in wanted
        ):
            trial["status"] = "done"  # what uses it is trained, so nobody trains it any more
    counts = Counter(one["status"] for one in trials)
    return {"name": recorded["name"], "counts": {state: counts[state] for state in STATES}, "trials": trials}


def _trial(store: Store, planned: dict[str, Any]) -> dict[str, Any]:
    folder = store.folder(planned["fingerprint"])
    state, done = _state(folder, planned), folder.epochs_done()
    return {
        "fingerprint": planned["fingerprint"],
        "row": planned["name"],
        "status": state,
        "epoch": done,
        "epochs": planned["epochs"],
        "failure": planned["failure"] if state == "failed" else "",
    }


def _state(folder: TrialFolder, planned: dict[str, Any]) -> str:
    if (
        folder.is_done()
        and not folder.lost_epochs()
        and all(folder.has_evaluation(one) for one in planned["evaluations"])
    ):
        return "done"
    if is_running(folder):
        return "running"
    if planned["failure"]:
        return "failed"
    return "partial" if folder.is_done() or folder.epochs_done() else "missing"


def is_running(folder: TrialFolder) -> bool:
    """Whether a process on this machine holds the trial's lock."""
    try:
        with open(folder.path / "lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
