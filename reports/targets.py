"""`table:NAME` and `figure:NAME`: the sweep that trains exactly what a table or a figure needs.

The spec names a shipped sweep and one of its grids. What comes out is a sweep file of its own, called NAME: that grid alone,
attacked by what the columns show, with the weights that they show. Light: planning reads it.

`--profile smoke` fills any table from nothing: the digits images and a small network take the place of the paper's, unless
`--set data=...` names others.
"""

from __future__ import annotations

from typing import Any

import yaml

from ham_core.errors import RequestError, known
from orchestration.sweep import TARGETS, find_sweep
from reports.spec import Spec, load_specs

SMOKE = "smoke"
# Images that come with a package, and a network, a radius and an augmentation that suit them: sweeps/digits.yaml.
DIGITS: dict[str, Any] = {
    "data": "digits",
    "model": {"name": "small_cnn", "width": 0.5},
    "epsilon": 0.2,
    "attack.step": "epsilon/4",
    "augment": {"crop": 0, "flip": False},
    "optimizer.lr": 0.1,
}


def is_target(text: str) -> bool:
    """Whether the words name a table or a figure rather than a sweep."""
    return text.startswith(tuple(f"{kind}:" for kind in TARGETS))


def document(target: str, profile: str | None = None) -> str:
    """`table:cfa-1` -> the text of its sweep file. RequestError where there is no such table, or nothing to train."""
    spec = _spec(target)
    if spec.trials.sweep is None:
        raise RequestError(
            f"{target}: {spec.place} names no sweep below trials, so nothing tells what to train; any sweep that plans "
            f"the grid '{spec.trials.grid}' feeds it"
        )
    found = find_sweep(spec.trials.sweep)
    file = dict(found.value)
    if spec.trials.grid not in file["grid"]:
        raise RequestError(
            f"{spec.place}: {found.name} plans no grid '{spec.trials.grid}'; {known(spec.trials.grid, file['grid'])}"
        )
    grid = dict(file["grid"][spec.trials.grid])
    if profile == SMOKE:
        grid = {key: value for key, value in grid.items() if key.partition(".")[0] not in DIGITS}
    file |= {
        "title": spec.title,
        "description": f"{' '.join(spec.caption.split())} Made from {found.name} for ham report {spec.name}.",
        "grid": {spec.trials.grid: grid},
        "profiles": {**file.get("profiles", {}), SMOKE: DIGITS},
    }
    attacks = list(dict.fromkeys(column.attack for column in spec.shown if column.attack))
    weights = list(dict.fromkeys(name for column in spec.shown for name in _weights(spec, column.weights)))
    if attacks:
        file |= {"evaluate": attacks, "weights": weights}
    return yaml.safe_dump(file, sort_keys=False, allow_unicode=True)


def _spec(target: str) -> Spec:
    kind, _, name = target.partition(":")
    specs = {
        name: spec
        for name, spec in load_specs().items()
        if (spec.is_table if kind == "table" else spec.figure)
    }
    if name not in specs:
        raise RequestError(f"{target}: unknown {kind} '{name}'; {known(name, specs)}")
    return specs[name]


def _weights(spec: Spec, weights: str | None) -> list[str]:
    """The weights of a column in every row: plain, and of the rows' averages."""
    if weights is None:
        return []
    averages = [entry.average for entry in spec.rows.entries or ()] or [None]
    return [f"{weights}_{average}" if average else weights for average in averages]
