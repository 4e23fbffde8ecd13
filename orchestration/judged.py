"""Which protocols a recorded sweep is judged under: tags of its parent run in MLflow, one per protocol. Light.

    judge.<name>    {"order": place in the list, "by": "sweep" or "evaluate", ...the protocol}

`sweep`: the sweep's file says so, and a sweep that is started again without it loses the tag. `evaluate`: `ham evaluate
--sweep --protocol` has judged the sweep's trials, which stays. Without such a tag a sweep is judged under its own protocol.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from ham_core.protocol import Protocol

TAG = "judge."  # + name of a protocol
By = Literal["sweep", "evaluate"]


def tags_of(protocols: Sequence[Protocol], by: By) -> dict[str, str]:
    """The tags of a sweep that is judged under these."""
    return {
        f"{TAG}{protocol.name}": json.dumps(
            {"order": order, "by": by, **protocol.record()}, sort_keys=True, ensure_ascii=False
        )
        for order, protocol in enumerate(protocols)
    }


def protocols_in(tags: Mapping[str, str]) -> tuple[Protocol, ...]:
    """The protocols that these tags hold, those of the sweep's file first. ValueError: one cannot be read."""
    found = []
    for key, text in tags.items():
        if key.startswith(TAG):
            entry = json.loads(text)
            order, by = int(entry.pop("order")), entry.pop("by")
            found.append((by != "sweep", order, key, Protocol.model_validate(entry)))
    return tuple(protocol for *_, protocol in sorted(found, key=lambda one: one[:3]))


def of_file(tags: Iterable[tuple[str, str]]) -> set[str]:
    """The tags among these that a sweep's file gave."""
    return {key for key, text in tags if key.startswith(TAG) and _by(text) != "evaluate"}


def of_commands(tags: Iterable[tuple[str, str]]) -> set[str]:
    """Those that `ham evaluate` gave."""
    return {key for key, text in tags if key.startswith(TAG) and _by(text) == "evaluate"}


def _by(text: str) -> str | None:
    try:
        return str(json.loads(text)["by"])
    except (ValueError, KeyError, TypeError):
        return None
