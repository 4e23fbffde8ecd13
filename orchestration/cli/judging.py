"""`ham evaluate --protocol`: trained trials under other protocols than the one that they were trained under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ham_core.errors import RequestError

if TYPE_CHECKING:
    from ham_core.config import Trial
    from ham_core.protocol import Protocol
    from orchestration.store import Store
    from orchestration.sweep import Planned, Sweep
    from orchestration.tracking import Job, Single

ProtocolFlag = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        metavar="LIST",
        help="Of standard, ham-paper, cfa-paper, the sweep's own, or a YAML file: their attacks, radius and weights.",
    ),
]
MOST_NAMED = 5  # trials that a sentence about a deviation names


def protocols_of(
    text: str, attack: str | None, weights_given: bool, curve: bool, sweep: Sweep | None
) -> list[Protocol]:
    """The protocols of `--protocol`; with `--attack` those attacks take the place of the protocols' own."""
    from orchestration.protocols import as_asked, named_protocols

    if weights_given or curve:
        flag = "--weights" if weights_given else "--curve"
        raise RequestError(
            f"ham evaluate: --protocol says which weights are attacked, and with what; leave {flag} out"
        )
    others = {} if sweep is None else {one.name: one for one in [sweep.protocol, *sweep.judged]}
    found = named_protocols(text, others)
    if attack is None:
        return found
    from ham_core.protocol import read_evaluations

    evaluations, problems = read_evaluations(attack, "last")
    if problems or not evaluations:
        raise RequestError(problems or "give at least one attack")
    return [as_asked(one, [wanted.attack for wanted in evaluations], one.weights) for one in found]


def judged(jobs: Sequence[Job], protocols: Sequence[Protocol]) -> list[Job]:
    """The trials with the evaluations of all protocols, each once."""
    found: list[Job] = []
    for job in jobs:
        wanted = {one.name: one for protocol in protocols for one in protocol.evaluations(job.trial)}
        for protocol in protocols:
            for one in protocol.evaluations(job.trial):
                if wanted[one.name] != one:
                    raise RequestError(
                        f"--protocol: the attack '{one.attack.key}' of '{protocol.name}' is another one than that of another "
                        "protocol of this name; give it its own label"
                    )
        changed = replace(cast("Planned | Single", job), evaluations=tuple(wanted.values()))
        found.append(changed)
    return found


def rows_of(
    jobs: Sequence[Job], rows: Sequence[dict[str, Any]], protocols: Sequence[Protocol]
) -> list[dict[str, Any]]:
    """Each result once per protocol that asks for it, with the protocol's name and what the trial deviates in."""
    from ham_core.judging import deviations

    trials: dict[str, Trial] = {job.fingerprint: job.trial for job in jobs}
    found = []
    for protocol in protocols:
        for row in rows:
            trial = trials[row["trial"]]
            names = {one.name for one in protocol.evaluations(trial)}
            if f"{row['weights']}/{row['attack_name']}" in names:
                said = {"protocol": protocol.name, "deviations": list(deviations(protocol, trial))}
                found.append(row | said)
    return found


def deviating(jobs: Sequence[Job], protocols: Sequence[Protocol]) -> list[str]:
    """`ham-paper: selected on held-out images, where ...: at seed=0, at seed=1 and 7 more`, one line per deviation."""
    from ham_core.judging import deviations
    from orchestration.tracking import run_name

    lines = []
    for protocol in protocols:
        named: dict[str, list[str]] = {}
        for job in jobs:
            for sentence in deviations(protocol, job.trial):
                named.setdefault(sentence, []).append(run_name(job))
        for sentence, names in named.items():
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            lines.append(f"deviates from {protocol.name}: {sentence}: {', '.join(names[:MOST_NAMED])}{more}")
    return lines


def note(sweep: Sweep | None, protocols: Sequence[Protocol], uri: str, store: Store) -> None:
    """A recorded sweep has tables under these protocols from now on."""
    if sweep is None:
        return
    from orchestration.tracking import Tracker

    Tracker(uri, store.path).note_judging(sweep, protocols)
