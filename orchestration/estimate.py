"""What the missing trials will cost, from the seconds that trained ones with the same model took. Light."""

from __future__ import annotations

import statistics
from typing import Any

from ham_core.errors import RequestError
from orchestration.plan import Plan
from orchestration.store import Store

MOST = 200  # trained trials that are looked at: more do not sharpen a median

Kind = tuple[Any, ...]


def estimate(plan: Plan, store: Store) -> dict[str, Any]:
    """{"epochs_left", "seconds" (None: nothing to go by), "measured_on"}: of training, one trial after the other.

    Seconds per epoch: the median over trials with the same network, images and batch; with the same objective, if any.
    """
    left = [
        (step.planned.trial.model_dump(mode="json"), step.epochs_left)
        for step in plan.steps
        if step.epochs_left
    ]
    epochs = sum(count for _, count in left)
    measured = _measured(store) if left else []
    total = 0.0
    for settings, count in left:
        alike = [seconds for other, seconds in measured if _kind(other)[1:] == _kind(settings)[1:]]
        same = [seconds for other, seconds in measured if _kind(other) == _kind(settings)]
        if not alike:
            return {"epochs_left": epochs, "seconds": None, "measured_on": 0}
        total += count * statistics.median(same or alike)
    return {"epochs_left": epochs, "seconds": total if left else 0.0, "measured_on": len(measured)}


def _measured(store: Store) -> list[tuple[dict[str, Any], float]]:
    """(settings, seconds per epoch) of trained trials."""
    found = []
    for identity in store.trials()[:MOST]:
        folder = store.folder(identity)
        try:
            settings, journal = folder.settings(), folder.journal() if folder.is_done() else []
        except RequestError:
            continue  # a damaged folder tells nothing
        seconds = [
            record["metrics"].get("time/train_s", 0.0) + record["metrics"].get("time/validate_s", 0.0)
            for record in journal
        ]
        if settings is not None and seconds:
            found.append((settings, statistics.fmean(seconds)))
    return found


def _kind(settings: dict[str, Any]) -> Kind:
    data = settings["data"]
    return (
        settings["method"]["objective"]["name"],
        settings["model"]["name"],
        settings["model"]["width"],
        settings["batch_size"],
        data["train_digest"],
        data["train_limit"],
    )
