"""YAML with places: every value remembers the line it was written on, so that errors can point there."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ham_core.errors import RequestError

Key = tuple[Hashable, ...]

DEEPEST = 50  # levels of nesting
MOST_VALUES = 200_000  # with every alias written out
MERGE_KEY = "tag:yaml.org,2002:merge"
UNREADABLE = (  # what the constructors of plain values raise: `!!bool maybe`, `!!int ""`, 2020-13-45
    yaml.YAMLError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    OverflowError,
)


@dataclass(frozen=True)
class Document:
    """One YAML file: plain Python values, the line of each key, and its text."""

    name: str
    value: Any
    lines: dict[Key, int] = field(default_factory=dict)
    text: str = field(default="", repr=False)

    def place(self, key: Sequence[Hashable] = ()) -> str:
        """`sweeps/x.yaml:5` of the longest known beginning of `key`."""
        path = tuple(key)
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.name}:{self.lines.get(path, 1)}"


def load(path: str | Path, name: str | None = None) -> Document:
    """Read a YAML file. A missing file, bad syntax and a key written twice are RequestErrors that name file and line."""
    shown = name or str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise RequestError(f"{shown}: cannot be read: {reason}") from None
    return parse(text, shown)


def parse(text: str, name: str) -> Document:
    """The same for text that is already in memory."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise RequestError(f"{where}: not valid YAML: {_reason(error)}") from None
    except RecursionError:
        raise RequestError(f"{name}: is nested too deeply; allowed: {DEEPEST} levels") from None
    lines: dict[Key, int] = {}
    problems: list[str] = []
    constructor = yaml.SafeLoader("")
    values = itertools.count(1)

    def walk(node: yaml.Node, path: Key, above: tuple[int, ...] = ()) -> Any:
        line = node.start_mark.line + 1
        lines.setdefault(path, line)
        if id(node) in above:
            problems.append(f"{name}:{line}: the anchor here contains itself; write its value out")
            return None
        if len(path) > DEEPEST:
            raise RequestError(f"{name}:{line}: is nested too deeply; allowed: {DEEPEST} levels")
        if next(values) > MOST_VALUES:
            raise RequestError(
                f"{name}: holds more than {MOST_VALUES} values once its aliases are written out"
            )
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            mapping: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                line = key_node.start_mark.line + 1
                if not isinstance(key_node, yaml.ScalarNode):
                    problems.append(f"{name}:{line}: a list or mapping cannot be a key; write a plain word")
                    continue
                if key_node.tag == MERGE_KEY:
                    problems.append(f"{name}:{line}: the merge key << is not supported; write its keys out")
                    continue
                try:
                    key = constructor.construct_object(key_node, deep=True)
                except UNREADABLE:
                    problems.append(f"{name}:{line}: '{key_node.value}' cannot be a key; write a plain word")
                    continue
                if isinstance(key, bool):
                    key = key_node.value  # `on`, which YAML 1.1 takes for true, is a word as a key
                if key in mapping:
                    first = lines[(*path, key)]
                    problems.append(
                        f"{name}:{line}: key '{key}' is given twice (first on line {first}); keep one"
                    )
                    continue
                lines[(*path, key)] = line
                mapping[key] = walk(value_node, (*path, key), above)
            return mapping
        if isinstance(node, yaml.SequenceNode):
            return [walk(item, (*path, index), above) for index, item in enumerate(node.value)]
        try:
            return constructor.construct_object(node, deep=True)
        except UNREADABLE as error:
            problems.append(f"{name}:{line}: value '{node.value[:80]}' cannot be read: {_reason(error)}")
            return None

    value = walk(root, ()) if root is not None else {}
    if problems:
        raise RequestError(problems)
    return Document(name, value, lines, text)


def _reason(error: Exception) -> str:
    """What a YAML error says, on one line."""
    return " ".join(str(getattr(error, "problem", None) or error).split()) or type(error).__name__
