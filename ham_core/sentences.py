"""From pydantic's errors to sentences: the key, the value that was written, and what is allowed there."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from ham_core.errors import known
from ham_core.parts import Part, find

Path = tuple[str | int, ...]

NOT_WRITTEN = {
    "data": {"train_digest", "test_digest"}
}  # filled from the data set; keys that nobody is told to write
ALSO_WRITTEN = {"method": {"preset"}}  # keys that are gone before validation


@dataclass(frozen=True)
class Problem:
    """What is wrong at `path`. `text` names the key and the value; the place is left to the caller."""

    path: Path
    text: str


def problems_of(error: ValidationError, model: type[BaseModel], settings: Any) -> list[Problem]:
    """One problem per wrong setting. `settings` is what `model` was asked to validate."""
    found: dict[Path, Problem] = {}
    for entry in error.errors(include_url=False):
        location = entry["loc"]
        if entry["type"] == "extra_forbidden":  # its last word is a key as someone wrote it
            path = (*_without_tags(location[:-1]), location[-1])
        else:
            path = _without_tags(location)
        found.setdefault(path, Problem(path, _text(entry, path, model, settings)))
    return list(found.values())


def dotted(path: Path) -> str:
    """("schedule", "milestones", 0) -> schedule.milestones[0]."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def shown(value: Any) -> str:
    """A value as it could stand in the YAML file, cut at 80 letters."""
    if isinstance(value, str):
        text = f"'{value}'"
    else:
        try:
            text = json.dumps(value, default=str, ensure_ascii=False)
        except (TypeError, ValueError):  # keys that are no text; numbers of thousands of digits
            text = "a value that cannot be shown"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _without_tags(location: tuple[int | str, ...]) -> Path:
    """pydantic names the branch of a union that it tried (`float`, `tuple[BaseFrom, ...]`); keys are words of ours."""
    tag = re.compile(r"((constrained-)?(float|int)|str|bool|none|.*[\[\](), ].*|[A-Z]\w*)$")
    return tuple(part for part in location if isinstance(part, int) or not tag.match(part))


def _text(entry: Any, path: Path, model: type[BaseModel], settings: Any) -> str:
    key, kind = dotted(path), entry["type"]
    if kind == "extra_forbidden":
        return _unknown_key(path, model, settings)
    if kind == "missing":
        return f"{key} is missing; allowed: {_allowed(path, model, settings)}"
    written = entry["input"]
    if kind == "unknown_part" and isinstance(written, Mapping):
        written = written.get("name")
    value = shown(written)
    if kind == "value_error" or "text" in entry.get("ctx", {}):
        message = str(entry["ctx"].get("text") or entry["ctx"]["error"])
        if not key:
            return message
        simple = isinstance(written, str | int | float) and value not in message
        return f"{key} is {value}: {message}" if simple else f"{key}: {message}"
    return f"{key} is {value}; allowed: {_allowed(path, model, settings)}"


def _unknown_key(path: Path, model: type[BaseModel], settings: Any) -> str:
    owner, node = _owner(path, model, settings)
    above = dotted(path[:-1])
    keys = set(owner.model_fields) - NOT_WRITTEN.get(above, set()) | ALSO_WRITTEN.get(above, set())
    where = f" in {above}" if above else ""
    if issubclass(owner, Part):
        keys.add("name")
        where += f" ({_name_of(node)})"
    return f"unknown key '{path[-1]}'{where}; {known(path[-1], keys)}"


# what is allowed ---------------------------------------------------------------------------------------------------


def _allowed(path: Path, model: type[BaseModel], settings: Any) -> str:
    """`a number from 0 to 0.5`, `clean, pgd or cw`, ... of the field at `path`."""
    owner, _ = _owner(path, model, settings)
    names = [part for part in path if isinstance(part, str)]
    declared = owner.model_fields.get(names[-1]) if names else None
    if declared is None:
        return "see ham methods"
    annotation: Any = declared.annotation
    if isinstance(path[-1], int):
        annotation = get_args(annotation)[0] if get_args(annotation) else annotation
        return _kind(annotation, [])
    return _kind(annotation, declared.metadata)


def _kind(annotation: Any, metadata: list[Any]) -> str:
    """An annotation in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [
            piece
            for one in arguments[1:]
            for piece in (one.metadata if isinstance(one, FieldInfo) else [one])
        ]
        return _kind(arguments[0], [*metadata, *inner])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(one, metadata) for one in arguments))
    if origin is Literal:
        words = [str(word) for word in arguments]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    if origin in (tuple, list):
        return f"a list, each entry {_kind(arguments[0], [])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a mapping with the keys {', '.join(annotation.model_fields)}"
    words_of = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        type(None): "null",
    }
    word = words_of.get(annotation, "see ham methods")
    if annotation is str:
        pattern = next((piece.pattern for piece in metadata if getattr(piece, "pattern", None)), None)
        return f"text of the form {pattern}" if pattern else word
    return f"{word}{_range(metadata)}" if annotation in (int, float) else word


def _range(metadata: list[Any]) -> str:
    """` from 0 to 0.5`, ` above 0`, ` of 1 or more`."""
    low = high = ""
    for piece in metadata:
        if isinstance(piece, annotated_types.Ge):
            low = f"from {piece.ge}"
        elif isinstance(piece, annotated_types.Gt):
            low = f"above {piece.gt}"
        elif isinstance(piece, annotated_types.Le):
            high = f"to {piece.le}"
        elif isinstance(piece, annotated_types.Lt):
            high = f"below {piece.lt}"
    if low and high:
        return f" {low} {high}" if low.startswith("from") and high.startswith("to") else f" {low}, {high}"
    if low.startswith("from"):
        return f" of {low.removeprefix('from ')} or more"
    return f" {low or high}" if low or high else ""


# where a path leads ------------------------------------------------------------------------------------------------


def _owner(path: Path, model: type[BaseModel], settings: Any) -> tuple[type[BaseModel], Any]:
    """The class whose field the last word of `path` is (or is not), and the settings it was built from."""
    last = max((index for index, part in enumerate(path) if isinstance(part, str)), default=-1)
    owner, node, base = model, settings, model
    for index, part in enumerate(path):
        if isinstance(part, int):
            node = node[part] if isinstance(node, list | tuple) and part < len(node) else None
            owner = _part_class(base, node) if issubclass(base, Part) else owner
            continue
        if index >= last:
            break
        declared = owner.model_fields.get(part)
        node = node.get(part) if isinstance(node, Mapping) else None
        below = None if declared is None else _model_in(declared.annotation)
        if below is None:
            break
        base = below
        owner = _part_class(below, node) if issubclass(below, Part) else below
    return owner, node


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first class of settings within an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _model_in(one)) is not None), None)


def _part_class(base: type[Part], node: Any) -> type[Part]:
    """The class of the part that was asked for; the base of its kind where there is no such part."""
    kind: Any = base.__module__.split(".")[1]  # ham_core.objectives.base
    try:
        return find(kind, _name_of(node))
    except PydanticCustomError:
        return base


def _name_of(node: Any) -> Any:
    return node.get("name") if isinstance(node, Mapping) else node
