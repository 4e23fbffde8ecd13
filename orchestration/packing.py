"""How many trials share a GPU, from the memory that a short training of each kind was measured to need (ham_core.probe).

STORE/memory.json keeps what was measured, per kind of trial and kind of GPU: it is measured once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ham_core.config import digest_of
from ham_core.errors import RequestError
from ham_core.folder import read_json, write_json
from orchestration.store import Store

USUAL_SHARE = 0.25  # of a GPU, where nothing could be measured: four small networks fill one
MOST = 8  # trials on one GPU: more of them only wait for each other
SLACK = 1.1  # of the measured memory, for what an allocator loses to fragments
FILE = "memory.json"

Measure = Callable[[Sequence[dict[str, Any]]], list[tuple[int, int] | None]]


def share_of(used: int, total: int) -> float:
    """The share of a GPU of `total` bytes for a trial that was seen to use `used`: 1/n for the n that fit."""
    return 1 / max(1, min(MOST, math.floor(total / (SLACK * used))))


def kind_of(settings: Mapping[str, Any]) -> str:
    """What a trial's memory depends on: everything but seed, rates, radii and length."""
    method = settings["method"]
    parts = [method[word] and method[word]["name"] for word in ("mining", "calibration")]
    kept = {key: settings[key] for key in ("model", "batch_size", "precision")}
    images = {key: settings["data"][key] for key in ("train_digest", "train_limit", "test_limit")}
    form = {
        **kept,
        "images": images,
        "parts": parts,
        "objective": _names(method["objective"]),
        "averages": len(method["averaging"]),
        "helper": settings["helper"] is not None,
    }
    return digest_of(form)


def _names(objective: Mapping[str, Any] | None) -> list[str]:
    """An objective and those that it wraps."""
    return [] if objective is None else [str(objective["name"]), *_names(objective.get("base"))]


def shares(
    entries: Sequence[Mapping[str, Any]], gpus: str, store: Store, measure: Measure
) -> dict[str, float]:
    """{fingerprint: share} for what workers are told of their jobs. `gpus`: the kinds of GPU that there are.

    `measure` trains representatives, each alone on a GPU; None from it: this could not be measured.
    """
    kinds = {entry["fingerprint"]: f"{gpus} {kind_of(entry['trial'])}" for entry in entries}
    known = _recorded(store)
    new = {kinds[entry["fingerprint"]]: dict(entry) for entry in reversed(entries)}
    new = {kind: entry for kind, entry in new.items() if kind not in known}
    found = dict(zip(new, measure(list(new.values())), strict=True)) if new else {}
    measured = {kind: list(memory) for kind, memory in found.items() if memory is not None}
    if measured:
        known |= measured
        store.path.mkdir(parents=True, exist_ok=True)
        write_json(store.path / FILE, known)
    return {
        identity: share_of(*known[kind]) if kind in known else USUAL_SHARE for identity, kind in kinds.items()
    }


def _recorded(store: Store) -> dict[str, list[int]]:
    try:
        return dict(read_json(store.path / FILE) or {})
    except RequestError:
        return {}  # damaged: it is measured again
