"""The stored results of trials, and what makes them doubtful. Reads files, imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ham_core.protocol import identity_of_evaluation
from orchestration.tracking import run_name

if TYPE_CHECKING:
    from orchestration.store import Store
    from orchestration.tracking import Job

KEYS = ("weights", "attack_name", "metrics", "seconds", "fingerprint")
SHOWN = 20  # doubtful evaluations that are named one by one


def results_of(jobs: Sequence[Job], store: Store) -> list[dict[str, Any]]:
    """The stored results of the jobs' evaluations, sorted by name, weights and attack."""
    rows = []
    for job in jobs:
        wanted = {identity_of_evaluation(job.fingerprint, job.trial, one) for one in job.evaluations}
        for record in store.folder(job.fingerprint).evaluations():
            if record["fingerprint"] in wanted:
                row = {"trial": job.fingerprint, "name": run_name(job)} | {key: record[key] for key in KEYS}
                rows.append(row | {"doubts": list(record.get("doubts", ()))})  # early records have none
    return sorted(rows, key=lambda row: (row["name"], row["trial"], row["weights"], row["attack_name"]))


def doubtful(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """`doubtful: at seed=0, best, pgd20: SENTENCE` for each row with doubts, several sentences parted by ` | `."""
    lines = [
        f"doubtful: {row['name']}, {row['weights']}, {row['attack_name']}: {' | '.join(row['doubts'])}"
        for row in rows
        if row["doubts"]
    ]
    if len(lines) <= SHOWN:
        return lines
    more = f"doubtful: {len(lines) - SHOWN} more evaluations; `ham evaluate --json` has the doubts of all"
    return [*lines[:SHOWN], more]
