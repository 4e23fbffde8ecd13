"""What the missing trials will cost, from the seconds that trained ones with the same model took. Light."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ham_core.errors import RequestError
from ham_core.folder import TrialFolder
from orchestration.store import Store

if TYPE_CHECKING:
    from orchestration.plan import Plan

MOST = 200  # trained trials that are looked at: more do not sharpen a median

Kind = tuple[Any, ...]


def estimate(plan: Plan, store: Store) -> dict[str, Any]:
    """{"epochs_left", "seconds" (None: nothing to go by), "measured_on"}: of training, one trial after the other.

    Seconds per epoch: the median over trials with the same network, images and batch; with the same objective, if any.
    """
    left = [
        (kind_of(step.planned.trial.model_dump(mode="json")), step.epochs_left - step.adopted)
        for step in plan.steps
        if step.epochs_left
    ]
    epochs = sum(count for _, count in left)
    measured = _measured(store) if left else []
    typical = {kind: _typical(kind, measured) for kind in dict.fromkeys(kind for kind, _ in left)}
    total = 0.0
    for kind, count in left:
        seconds = typical[kind]
        if seconds is None:
            return {"epochs_left": epochs, "seconds": None, "measured_on": 0}
        total += count * seconds
    return {"epochs_left": epochs, "seconds": total if left else 0.0, "measured_on": len(measured)}


def remaining(
    recorded: Sequence[Mapping[str, Any]], trials: Sequence[Mapping[str, Any]], store: Store
) -> dict[str, Any]:
    """{"epochs", "seconds" (None: nothing to go by), "at_once"}: the training that is left of a started sweep.

    `recorded`: its trials as the driver wrote them down; `trials`: the same as `ham status` finds them. Seconds per epoch:
    those of the trial's own epochs, else the median of trained trials like it. As many as run now run at once until the end.
    """
    at_once = max(1, sum(one["status"] == "running" for one in trials))
    left = [
        (tuple(told["kind"]) if "kind" in told else None, one["fingerprint"], one["epochs"] - one["epoch"])
        for told, one in zip(recorded, trials, strict=True)
        if one["status"] in ("running", "partial", "missing") and one["epochs"] > one["epoch"]
    ]
    epochs = sum(count for _, _, count in left)
    trained = _measured(store) if left else []
    typical = {kind: _typical(kind, trained) for kind in dict.fromkeys(kind for kind, _, _ in left)}
    costs = []
    for kind, identity, count in left:
        seconds = seconds_per_epoch(store.folder(identity)) or typical[kind]
        if seconds is None:
            return {"epochs": epochs, "seconds": None, "at_once": at_once}
        costs.append(count * seconds)
    return {"epochs": epochs, "seconds": max([sum(costs) / at_once, *costs], default=0.0), "at_once": at_once}


def _typical(kind: Kind | None, trained: Sequence[tuple[Kind, float]]) -> float | None:
    """The median over trained trials of this kind, or of the same with another objective."""
    if kind is None:  # written down by an earlier version
        return None
    same = [seconds for other, seconds in trained if other == kind]
    alike = [seconds for other, seconds in trained if other[1:] == kind[1:]]
    return statistics.median(same or alike) if alike else None


def seconds_per_epoch(folder: TrialFolder) -> float | None:
    """The mean over the recorded epochs, training and validation together; None before the first."""
    seconds = [
        record["metrics"].get("time/train_s", 0.0) + record["metrics"].get("time/validate_s", 0.0)
        for record in folder.journal()
    ]
    return statistics.fmean(seconds) if seconds else None


def _measured(store: Store) -> list[tuple[Kind, float]]:
    """(kind, seconds per epoch) of trained trials."""
    found = []
    for identity in store.trials()[:MOST]:
        folder = store.folder(identity)
        try:
            settings, seconds = folder.settings(), seconds_per_epoch(folder) if folder.is_done() else None
        except RequestError:
            continue  # a damaged folder tells nothing
        if settings is not None and seconds is not None:
            found.append((kind_of(settings), seconds))
    return found


def kind_of(settings: dict[str, Any]) -> Kind:
    """What seconds per epoch depend on: objective, network, batch, images."""
    data = settings["data"]
    return (
        settings["method"]["objective"]["name"],
        settings["model"]["name"],
        settings["model"]["width"],
        settings["batch_size"],
        data["train_digest"],
        data["train_limit"],
    )
