"""Published methods by name: `method: ham-official` in a YAML file is the method and the recipe of ham-official.yaml.

Adding a preset is one new YAML file here with the keys title, source, method, recipe. `base: NAME` builds on another preset:
what a file says is merged over its base key by key; a part with another name, a list, and a start from another method
replace what stands there; `none` takes a part away. The comments on top say what it is and where official code and paper
differ; `ham methods NAME` shows them.

Other people's packages join through the entry-point group `ham_sweeps.presets`; the value `module:ATTRIBUTE` is a mapping of
that form, or the path of such a YAML file.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ham_core.errors import RequestError, known
from ham_core.plugins import entry_points
from ham_core.yamlfile import Document, Key, load

__all__ = ["Preset", "load_preset", "names"]

KEYS = ("title", "source", "base", "method", "recipe")
DIFFER = "Official code and paper differ:"  # how the comment begins that says where
FOLDER = Path(__file__).parent
PARTS = ("objective", "mining", "calibration")
STARTS = ("start_from", "helper")

Words = tuple[str, ...]  # ("recipe", "optimizer", "lr")


@dataclass(frozen=True, eq=False)
class Preset:
    """A published method. `method` and `recipe` hold the settings of a trial; `document` knows their lines.

    With a `base` they hold the merged settings, all keys and short forms written out. `summary` and `differs` are the comments
    of its file: what it is, and where official code and paper differ.
    """

    name: str
    title: str
    source: str
    method: Mapping[str, Any]
    recipe: Mapping[str, Any]
    document: Document
    base: str | None = None
    summary: str = ""
    differs: str = ""


@dataclass(frozen=True)
class Merged(Document):
    """Settings of several files; each key knows its own."""

    places: dict[Words, str] = field(default_factory=dict)

    def place(self, key: Key | Sequence[Any] = ()) -> str:
        """`presets/at.yaml:5` of the longest known beginning of `key`, which may be a group of settings."""
        path = tuple(str(word) for word in key)
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, f"{self.name}:1")


@cache
def _theirs() -> dict[str, str]:
    """name -> `module:ATTRIBUTE` of the presets of installed packages."""
    return {point.name: point.value for point in entry_points(group="ham_sweeps.presets")}


def names() -> list[str]:
    """All presets that a method can be asked for by."""
    return sorted({path.stem for path in FOLDER.glob("*.yaml")} | set(_theirs()))


class UnknownPreset(RequestError):
    """There is no preset of that name."""


@cache
def load_preset(name: str) -> Preset:
    """The preset of that name. RequestError: no such preset, a file that is none, or one that builds on itself."""
    if name not in names():
        raise UnknownPreset(f"unknown method {name!r}; {known(name, names())}")
    return _load(name, ())


def _load(name: str, above: tuple[str, ...]) -> Preset:
    """The preset `name`, on which the presets `above` build, the nearest last."""
    path = FOLDER / f"{name}.yaml"
    document, comments = (_ours(path), _comments(path)) if path.exists() else _foreign(name)
    problems = _problems(document)
    base = document.value.get("base") if isinstance(document.value, Mapping) else None
    if isinstance(base, str):
        problems += _wrong_base(base, (*above, name), document.place(("base",)))
    if problems:
        raise RequestError(problems)
    found = document.value
    method, recipe = found.get("method") or {}, found.get("recipe") or {}
    if isinstance(base, str):
        document = _merged(_load(base, (*above, name)), document)
        method, recipe = document.value["method"], document.value.get("recipe", {})
    return Preset(name, found["title"], found["source"], method, recipe, document, base, *comments)


def _ours(path: Path) -> Document:
    return load(path, f"presets/{path.name}")


def _foreign(name: str) -> tuple[Document, tuple[str, str]]:
    """A preset of another package, and its comments."""
    place = _theirs()[name]
    module, _, attribute = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RequestError(f"preset {name!r} cannot be imported from {place} ({error})") from error
    if isinstance(found, str | Path):
        return load(found), _comments(Path(found))
    return Document(f"{place} ({name})", found), ("", "")


def _comments(path: Path) -> tuple[str, str]:
    """The first block of comment lines of a file, and the block that says where official code and paper differ."""
    blocks: list[list[str]] = [[]]
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            blocks[-1].append(line.removeprefix("#").strip())
        elif blocks[-1]:
            blocks.append([])
    texts = [" ".join(block) for block in blocks]
    differs = next((text.removeprefix(DIFFER).strip() for text in texts if text.startswith(DIFFER)), "")
    return ("" if texts[0].startswith(DIFFER) else texts[0]), differs


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
        ("base", str | None, "the name of another preset"),
        (
            "method",
            Mapping | None if found.get("base") else Mapping,
            "a mapping, for example {objective: at}",
        ),
        ("recipe", Mapping | None, "a mapping, for example {epochs: 120}"),
    ):
        if not isinstance(found.get(key), kind):
            problems.append(f"{document.place((key,))}: {key} is {found.get(key)!r}; allowed: {form}")
    return problems


def _wrong_base(base: str, chain: tuple[str, ...], place: str) -> list[str]:
    """Why a preset cannot build on `base`; the presets of `chain` build on each other, the nearest last."""
    if base in chain:
        circle = " -> ".join([*chain[chain.index(base) :], base])
        return [f"{place}: base {circle} is a circle; name a preset that does not build on this one"]
    if base not in names():
        return [f"{place}: unknown base {base!r}; {known(base, names())}"]
    return []


# merging -----------------------------------------------------------------------------------------------------------


def _merged(base: Preset, document: Document) -> Merged:
    """The settings of a file over those of its base."""
    below = {"method": base.method, "recipe": base.recipe}
    above = {key: document.value.get(key) or {} for key in below}
    leaves = dict(_leaves(below, (), (), base.document))
    ours = dict(_leaves(above, (), (), document))
    for path, (value, _) in ours.items():
        if _names_a_choice(path) and path in leaves and leaves[path][0] != value:
            _drop(leaves, path[:-1])
    for path in ours:
        _drop(leaves, path)
        for length in range(1, len(path)):
            leaves.pop(path[:length], None)
    leaves |= ours
    settings: dict[str, Any] = {}
    places: dict[Words, str] = {}
    for path, (value, place) in leaves.items():
        node = settings
        for length, word in enumerate(path[:-1], 1):
            node = node.setdefault(word, {})
            places.setdefault(path[:length], place)
        node[path[-1]] = value
        places[path] = place
    return Merged(document.name, settings, places=places)


def _drop(leaves: dict[Words, tuple[Any, str]], path: Words) -> None:
    """Take a setting, and all that lie in it, out."""
    for key in [key for key in leaves if key[: len(path)] == path]:
        del leaves[key]


def _names_a_choice(path: Words) -> bool:
    """Whether a setting says which part, or which method a start has; another one shares nothing with the one before."""
    if path[-1] == "name":
        return path[0] == "method"
    return path[-1] == "method" and path[-2] in STARTS


def _leaves(
    value: Any, path: Words, written: Key, document: Document
) -> Iterator[tuple[Words, tuple[Any, str]]]:
    """(whole key, (value, place)) of every setting, dotted keys and short forms written out."""
    if isinstance(value, str):
        value = _written_out(value, path)
    if not isinstance(value, Mapping):
        yield path, (value, document.place(written))
        return
    for key, below in value.items():
        deeper = written if isinstance(below, str) and key == "name" else (*written, key)
        yield from _leaves(below, (*path, *str(key).split(".")), deeper, document)


def _written_out(value: str, path: Words) -> Any:
    """`objective: at` -> {name: at}, `mining: none` -> None, `weight: uniform` -> {measure: uniform}, `helper: standard`."""
    if path[:2] == ("method", "objective") and (len(path) == 2 or path[-1] == "base"):
        return {"name": value}
    if path in {("method", part) for part in PARTS} or path in {("recipe", start) for start in STARTS}:
        word = "name" if path[0] == "method" else "method"
        return None if value == "none" else {word: value}
    if path == ("method", "mining", "weight"):
        return {"measure": value}
    return {"name": value} if path == ("recipe", "model") else value
