"""Published methods by name: `method: ham-official` in a YAML file is the method and the recipe of ham-official.yaml.

Adding a preset is one new YAML file here with the keys title, source, method, recipe. Other people's packages join
through the entry-point group `ham_sweeps.presets`; the value `module:ATTRIBUTE` is a mapping of that form, or the path
of such a YAML file.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ham_core.errors import RequestError, known
from ham_core.yamlfile import Document, load

__all__ = ["Preset", "load_preset", "names"]

KEYS = ("title", "source", "method", "recipe")
FOLDER = Path(__file__).parent


@dataclass(frozen=True, eq=False)
class Preset:
    """A published method. `method` and `recipe` hold the settings of a trial; `document` knows their lines."""

    name: str
    title: str
    source: str
    method: Mapping[str, Any]
    recipe: Mapping[str, Any]
    document: Document


@cache
def _theirs() -> dict[str, str]:
    """name -> `module:ATTRIBUTE` of the presets of installed packages."""
    return {point.name: point.value for point in entry_points(group="ham_sweeps.presets")}


def names() -> list[str]:
    """All presets that a method can be asked for by."""
    return sorted({path.stem for path in FOLDER.glob("*.yaml")} | set(_theirs()))


@cache
def load_preset(name: str) -> Preset:
    """The preset of that name. RequestError: no such preset, or a file that is none."""
    if name not in names():
        raise RequestError(f"unknown method {name!r}; {known(name, names())}")
    path = FOLDER / f"{name}.yaml"
    document = load(path, f"presets/{name}.yaml") if path.exists() else _foreign(name)
    found = document.value
    problems = _problems(document)
    if problems:
        raise RequestError(problems)
    return Preset(name, found["title"], found["source"], found["method"], found.get("recipe") or {}, document)


def _foreign(name: str) -> Document:
    """A preset of another package."""
    place = _theirs()[name]
    module, _, attribute = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RequestError(f"preset {name!r} cannot be imported from {place} ({error})") from error
    if isinstance(found, str | Path):
        return load(found)
    return Document(f"{place} ({name})", found)


def _problems(document: Document) -> list[str]:
    found = document.value
    if not isinstance(found, Mapping):
        return [f"{document.place()}: a preset is a mapping with the keys {', '.join(KEYS)}"]
    problems = [
        f"{document.place((key,))}: unknown key {key!r}; {known(key, KEYS)}"
        for key in found
        if key not in KEYS
    ]
    for key, kind, form in (
        ("title", str, "text"),
        ("source", str, "text"),
        ("method", Mapping, "a mapping, for example {objective: at}"),
        ("recipe", Mapping | None, "a mapping, for example {epochs: 120}"),
    ):
        if not isinstance(found.get(key), kind):
            problems.append(f"{document.place((key,))}: {key} is {found.get(key)!r}; allowed: {form}")
    return problems
