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
from reports.spec import RESULT, Spec, load_specs

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
    drawn = spec.figure if target.startswith("figure:") else None  # a table alone needs nothing of its figure
    named = {} if drawn is None else drawn.model_dump()
    names = dict.fromkeys([spec.trials.grid, *_named(named, ("grid", "baseline_grid"))])
    grids = {name: dict(file["grid"][name]) for name in names if name in file["grid"]}
    if profile == SMOKE:
        grids = {
            name: {key: value for key, value in grid.items() if key.partition(".")[0] not in DIGITS}
            for name, grid in grids.items()
        }
    file |= {
        "title": spec.title,
        "description": f"{' '.join(spec.caption.split())} Made from {found.name} for ham report {spec.name}.",
        "grid": grids,
        "profiles": {**file.get("profiles", {}), SMOKE: DIGITS},
    }
    attacks = [column.attack for column in spec.shown if column.attack]
    weights = [name for column in spec.shown for name in _weights(spec, column.weights)]
    for result in filter(None, map(RESULT.fullmatch, _named(named, None))):
        attacks.append(result["attack"])
        weights.append(result["weights"])
    attacks += _named(named, ("attack", "attacks"))
    weights += _named(named, ("weights",))
    file.pop("weights", None)  # what shows series alone takes the protocol's
    if attacks and weights:
        file |= {"evaluate": list(dict.fromkeys(attacks)), "weights": list(dict.fromkeys(weights))}
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


def _named(found: Any, keys: tuple[str, ...] | None) -> list[str]:
    """The words that stand below these keys, however deep; below any key where none is named."""
    if isinstance(found, dict):
        mine = [value for key, value in found.items() if keys is not None and key in keys]
        rest = [value for key, value in found.items() if keys is None or key not in keys]
        return [word for value in mine for word in _named(value, None)] + [
            word for value in rest for word in _named(value, keys)
        ]
    if isinstance(found, list | tuple):
        return [word for value in found for word in _named(value, keys)]
    return [found] if isinstance(found, str) and keys is None else []
