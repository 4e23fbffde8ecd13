"""What the store says about its sweeps: which trials run, are done, have failed and why, and what comes next. Light.

The driver of a sweep leaves STORE/sweeps/<name>.json behind: the plan it started with, and who failed. The rest is read from
the trial folders, so it is true whether or not a driver is alive.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ham_core import ownership
from ham_core.errors import RequestError, known
from ham_core.folder import TrialFolder, read_json, write_json
from ham_core.protocol import identity_of_evaluation
from orchestration.estimate import kind_of, remaining
from orchestration.search import front
from orchestration.store import Store
from orchestration.sweep import plan_records
from orchestration.tracking import run_name

if TYPE_CHECKING:
    from orchestration.search import Point
    from orchestration.sweep import Sweep

STATES = ("running", "done", "stopped", "failed", "partial", "missing")


def remember(sweep: Sweep, store: Store, failures: Mapping[str, str], points: Sequence[Point] = ()) -> None:
    """Write down what a sweep is about to run, or how it ended. `points`: of its search."""
    (store.path / "sweeps").mkdir(parents=True, exist_ok=True)
    trials = [
        record
        | {
            "name": run_name(one),
            "epochs": one.trial.epochs,
            "evaluations": [
                identity_of_evaluation(one.fingerprint, one.trial, wanted) for wanted in one.evaluations
            ],
            "failure": failures.get(one.fingerprint, ""),
            "kind": kind_of(one.trial.model_dump(mode="json")),
        }
        for record, one in zip(plan_records(sweep), sweep.trials, strict=True)
    ]
    searched: dict[str, Any] = {}
    if sweep.search is not None:
        searched["search"] = {"points": sweep.search.points, "goal": list(sweep.search.goal)}
        searched["points"] = [point.record() for point in points]
    write_json(
        store.path / "sweeps" / f"{sweep.name}.json",
        searched
        | {
            "name": sweep.name,
            "time": time.time(),
            "source": sweep.source,
            "profile": sweep.profile,
            "sets": list(sweep.sets),
            "text": sweep.text,
            "trials": trials,
        },
    )
    store.share(store.path / "sweeps" / f"{sweep.name}.json")


def status(store: Store, name: str | None = None) -> dict[str, Any]:
    """{"store", "sweeps": [{"name", "counts", "left", "trials": [...]}, ...], "others"}: the one started last first."""
    recorded = recorded_sweeps(store)
    if name is not None:
        recorded_sweep(store, name)
    members = {trial["fingerprint"] for one in recorded for trial in one["trials"]}
    return {
        "store": str(store.path),
        "sweeps": [_sweep(store, one) for one in recorded if name in (None, one["name"])],
        "others": len(set(store.trials()) - members),
    }


def recorded_sweeps(store: Store) -> list[dict[str, Any]]:
    """What the drivers of this store's sweeps left behind, the sweep that was started last first."""
    found = [read_json(path) for path in (store.path / "sweeps").glob("*.json")]
    return sorted((one for one in found if one), key=lambda one: float(one["time"]), reverse=True)


def recorded_sweep(store: Store, name: str) -> dict[str, Any]:
    """The same of one sweep."""
    found = {str(one["name"]): one for one in recorded_sweeps(store)}
    if name not in found:
        raise RequestError(f"{store.path}: no sweep '{name}' was started here; {known(name, found)}")
    return found[name]


def _sweep(store: Store, recorded: dict[str, Any]) -> dict[str, Any]:
    trials = [_trial(store, one, recorded["name"]) for one in recorded["trials"]]
    untrained = [
        one
        for one, trial in zip(recorded["trials"], trials, strict=True)
        if trial["status"] != "done" and not store.folder(one["fingerprint"]).is_done()
    ]
    wanted = {need for one in untrained for need in one.get("needs", ())}
    for one, trial in zip(recorded["trials"], trials, strict=True):
        if (
            not one["grids"]
            and trial["status"] in ("partial", "missing")
            and one["fingerprint"] not in wanted
        ):
            trial["status"] = "done"  # what uses it is trained, so nobody trains it any more
    counts = Counter(one["status"] for one in trials)
    return {
        "name": recorded["name"],
        "counts": {state: counts[state] for state in STATES},
        "left": remaining(recorded["trials"], trials, store),
        "trials": trials,
    } | _searched(recorded)


def _searched(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """{"search": {"points", "proposed", "goal", "best"}} of a sweep that searches, as its driver last wrote it down."""
    if "search" not in recorded:
        return {}
    search, points = recorded["search"], recorded["points"]
    return {
        "search": search | {"proposed": len(points), "best": front(points, search["goal"])},
    }


def _trial(store: Store, planned: dict[str, Any], sweep: str) -> dict[str, Any]:
    folder = store.folder(planned["fingerprint"])
    state = state_of(folder, planned, sweep)
    done = planned["epochs"] if state == "done" else folder.epochs_done()  # its journal was found whole
    return {
        "fingerprint": planned["fingerprint"],
        "row": planned["name"],
        "status": state,
        "epoch": done,
        "epochs": planned["epochs"],
        "failure": planned["failure"] if state == "failed" else "",
    }


def state_of(folder: TrialFolder, planned: Mapping[str, Any], sweep: str = "") -> str:
    """One of STATES; `planned`: the trial as a driver wrote it down; `stopped`: early, by the sweep of that name."""
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
    label = folder.stopped()
    if label is not None and label["sweep"] == sweep:
        return "stopped"
    return "partial" if folder.is_done() or folder.epochs_done() else "missing"


def is_running(folder: TrialFolder) -> bool:
    """Whether a process holds the trial's lock and shows life, or another machine its lease."""
    return ownership.is_at_work(folder.path) or folder.is_held_elsewhere()
