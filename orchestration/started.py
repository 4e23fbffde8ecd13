"""Sweeps that were started: expanded again from what their drivers left behind in the store. Light."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ham_core.errors import RequestError
from ham_core.folder import write_json
from orchestration.space import Proposal
from orchestration.status import recorded_sweeps
from orchestration.store import Store
from orchestration.sweep import Sweep, parse_sweep


def expanded(recorded: Mapping[str, Any]) -> Sweep:
    """The sweep as it was started, from the recorded text of its file, its profile and its `--set`s.

    RequestError where that cannot be read any more, or asks for other trials: other images, or another version.
    """
    name = recorded["name"]
    refuse_without_file(recorded)
    points = [Proposal(one["number"], one["values"], one["problem"]) for one in recorded.get("points", ())]
    sweep = parse_sweep(
        recorded["text"],
        recorded["source"],
        profile=recorded["profile"],
        sets=recorded["sets"],
        points=points,
    )
    now = {one.fingerprint for one in sweep.trials}
    before = {one["fingerprint"] for one in recorded["trials"]}
    if now != before:
        raise RequestError(
            f"sweep '{name}': {len(before - now)} of the {len(before)} trials that it was started with are others now, "
            "since its images or this program's version changed; start it once more with ham sweep"
        )
    return sweep


def refuse_without_file(recorded: Mapping[str, Any]) -> None:
    """RequestError where the record holds only a plan."""
    if not recorded.get("text"):
        raise RequestError(
            f"sweep '{recorded['name']}' was started by an earlier version, which kept no copy of its file; start it once "
            "more with ham sweep"
        )


def command_of(recorded: Mapping[str, Any]) -> list[str]:
    """The words that start the sweep from its file."""
    words = ["ham", "sweep", str(recorded.get("source", recorded["name"]))]
    words += ["--profile", recorded["profile"]] if recorded.get("profile") else []
    return words + [word for text in recorded.get("sets", ()) for word in ("--set", text)]


def failures(store: Store, name: str | None = None) -> dict[str, dict[str, str]]:
    """{sweep: {name of a trial: why it failed}} of the sweeps in which some trial failed, newest first."""
    found = {
        str(one["name"]): {trial["name"]: trial["failure"] for trial in one["trials"] if trial["failure"]}
        for one in recorded_sweeps(store)
        if name in (None, one["name"])
    }
    return {sweep: failed for sweep, failed in found.items() if failed}


def forget_failures(store: Store, recorded: Mapping[str, Any]) -> None:
    """Write the sweep's record again without them: its trials count as half done or missing."""
    trials = [trial | {"failure": ""} for trial in recorded["trials"]]
    path = store.path / "sweeps" / f"{recorded['name']}.json"
    write_json(path, dict(recorded) | {"trials": trials})
    store.share(path)
