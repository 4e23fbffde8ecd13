"""YAML with places: every value remembers the line it was written on, so that errors can point there."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ham_core.errors import RequestError

Key = tuple[Hashable, ...]


@dataclass(frozen=True)
class Document:
    """One YAML file: plain Python values, and the line of each key."""

    name: str
    value: Any
    lines: dict[Key, int] = field(default_factory=dict)

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
        raise RequestError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    lines: dict[Key, int] = {}
    problems: list[str] = []
    constructor = yaml.SafeLoader("")

    def walk(node: yaml.Node, path: Key) -> Any:
        lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            mapping: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                key = constructor.construct_object(key_node, deep=True)
                if isinstance(key, bool):
                    key = key_node.value  # `on`, which YAML 1.1 takes for true, is a word as a key
                line = key_node.start_mark.line + 1
                if not isinstance(key, Hashable):
                    problems.append(f"{name}:{line}: a list or mapping cannot be a key; write a plain word")
                    continue
                if key in mapping:
                    first = lines[(*path, key)]
                    problems.append(
                        f"{name}:{line}: key '{key}' is given twice (first on line {first}); keep one"
                    )
                    continue
                lines[(*path, key)] = line
                mapping[key] = walk(value_node, (*path, key))
            return mapping
        if isinstance(node, yaml.SequenceNode):
            return [walk(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return constructor.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            problems.append(
                f"{name}:{node.start_mark.line + 1}: value '{node.value}' cannot be read: {error}"
            )
            return None

    value = walk(root, ()) if root is not None else {}
    if problems:
        raise RequestError(problems)
    return Document(name, value, lines)
