"""Settings in layers: read, laid over each other, and brought to one length of training.

Keys may be nested or dotted (`method.mining.early_drop_step`). Layers merge key by key; a part of the method with another
name replaces the part below it. Epochs at which something starts belong to a length of training: where a higher layer
changes `epochs`, the `start_epoch`s and milestones of the layers below scale with it, to the nearest whole epoch (halves up);
milestones of a schedule without steps scale exactly.

Settings of another trial (`start_from`, `helper`) are read by the same rules below their key; `start_from.trial.epochs`, as
resolved trials have it, is `start_from.epochs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from pydantic_core import PydanticCustomError

from ham_core.config import MOST_EPOCHS, Schedule, Trial, data_settings
from ham_core.errors import RequestError
from ham_core.parts import Kind, find
from ham_core.sentences import dotted
from ham_core.yamlfile import Key, parse

DEFAULT_EPOCHS: int = Trial.model_fields["epochs"].default
DEFAULT_MILESTONES = Schedule.model_fields["milestones"].default
MILESTONES = ("schedule", "milestones")
SHAPE = ("schedule", "shape")
OBJECTIVE = ("method", "objective")
AVERAGING = ("method", "averaging")
WEIGHT = ("method", "mining", "weight")
PART_KINDS: dict[str, Kind] = {
    "objective": "objectives",
    "mining": "mining",
    "calibration": "calibration",
    "averaging": "averaging",
}
PARTS = tuple(("method", kind) for kind in PART_KINDS)
SINGLE_PARTS = PARTS[:3]
STARTS = ("start_from", "helper")
WHICH_DATA = ("name", "folder", "label", "size", "train_digest", "test_digest")

Words = tuple[str, ...]  # ("method", "mining", "start_epoch")


# reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """One setting: its value, where it came from in the words of `--origins`, and where it is written."""

    value: Any
    origin: str
    place: str
    depth: int = -1  # which layer gave it; -1: a default


@dataclass(frozen=True)
class Layer:
    """Settings from one source. `origin` "" stands for the place. `place(key path as written)` -> `sweeps/x.yaml:5`."""

    origin: str
    settings: Mapping[str, Any]
    place: Callable[[Key], str]

    @cached_property
    def expanded(self) -> tuple[dict[Words, Leaf], list[str]]:
        """The settings as leaves by their whole key, and what is wrong with the keys."""
        leaves: dict[Words, Leaf] = {}
        problems: list[str] = []
        for path, value, written in _walk(self.settings, (), ()):
            place = self.place(written)
            if "" in path:
                problems.append(f"{place}: key '{written[-1]}' has an empty word between its dots")
            elif path in leaves:
                problems.append(
                    f"{place}: {dotted(path)} is given twice (first at {leaves[path].place}); keep one"
                )
            else:
                leaves[path] = Leaf(value, self.origin or place, place)
        return leaves, problems


def _walk(value: Any, path: Words, written: Key) -> Iterator[tuple[Words, Any, Key]]:
    """(whole key, value, key path as written) of every setting, short forms written out."""
    if isinstance(value, str):
        short = _written_out(value, path)
        if isinstance(short, Mapping):
            for key, below in short.items():
                yield from ((found, one, written) for found, one, _ in _walk(below, (*path, key), written))
            return
        value = short
    if not isinstance(value, Mapping) or (path and not value):
        yield path, value, written
        return
    for key, below in value.items():
        word = "null" if key is None else str(key)
        yield from _walk(below, _plain((*path, *word.split("."))), (*written, key))


def _plain(path: Words) -> Words:
    """`start_from.trial.epochs` -> `start_from.epochs`."""
    kept = [
        word
        for index, word in enumerate(path)
        if not (word == "trial" and index and path[index - 1] in STARTS and index + 1 < len(path))
    ]
    return tuple(kept)


def _written_out(value: str, path: Words) -> Any:
    """`method: at` -> {preset: at}, `method.objective: trades` -> {name: trades}, `start_from: at` -> {method: at}, ..."""
    while path and path[0] in STARTS:
        if len(path) == 1:
            return None if value == "none" else {"method": value}
        path = path[1:]
    if path == ("method",):
        return {"preset": value}
    if path in SINGLE_PARTS or is_objective(path):
        return None if value == "none" and path in SINGLE_PARTS[1:] else {"name": value}
    if path == ("model",):
        return {"name": value}
    return data_settings(value) if path == ("data",) else value


def is_objective(path: Words) -> bool:
    """`method.objective`, or the `base` of one: `method.objective.base`, `method.objective.base.base`."""
    return path[:2] == OBJECTIVE and all(word == "base" for word in path[2:])


def parse_set(text: str) -> tuple[str, Any]:
    """`epochs=3` -> ("epochs", 3). The value is YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RequestError(f"--set {text}: is no setting; write --set key=value, for example --set epochs=3")
    if not value.strip():
        raise RequestError(f"--set {text}: has no value; write --set {key}=VALUE, or {key}=null for none")
    return key.strip(), parse(value, f"--set {text}").value


def set_layer(settings: Mapping[str, Any], texts: Mapping[str, str]) -> Layer:
    """The highest layer. `texts` holds what was typed for each key."""
    return Layer(
        "--set", settings, lambda written: f"--set {texts[str(written[0])] if written else ''}".strip()
    )


# merging -----------------------------------------------------------------------------------------------------------


def merge(layers: Sequence[dict[Words, Leaf]]) -> tuple[dict[Words, Leaf], list[int]]:
    """All leaves of the stack, and the number of epochs as each layer leaves it."""
    merged: dict[Words, Leaf] = {}
    epochs = []
    for depth, layer in enumerate(layers):
        _drop_replaced(merged, layer)
        for path, leaf in layer.items():
            _put(merged, path, Leaf(leaf.value, leaf.origin, leaf.place, depth))
        epochs.append(_epochs(merged))
    return merged, epochs


def _drop_replaced(merged: dict[Words, Leaf], layer: Mapping[Words, Leaf]) -> None:
    """A part with another name, and other images, leave nothing of what was there before."""
    for name in layer:
        part = name[:-1]
        names_part = name[-1] == "name" and (part in PARTS or is_objective(part))
        if names_part and name in merged and merged[name].value != layer[name].value:
            _drop_below(merged, part)
    if ("data", "name") in layer or ("data", "folder") in layer:
        for key in WHICH_DATA:
            merged.pop(("data", key), None)


def _put(merged: dict[Words, Leaf], path: Words, leaf: Leaf) -> None:
    for length in range(1, len(path)):
        above = merged.pop(path[:length], None)
        if above is not None and path[:length] == WEIGHT and isinstance(above.value, str):
            merged[(*WEIGHT, "measure")] = above  # `weight: softmax_l1` below `weight.parameter: 2`
    if leaf.value == {} and any(len(key) > len(path) and key[: len(path)] == path for key in merged):
        return  # a group without settings changes nothing; in place of a single setting it is refused later
    if path not in merged:  # below a setting that is there is nothing
        _drop_below(merged, path)
    merged[path] = leaf


def _drop_below(merged: dict[Words, Leaf], path: Words) -> None:
    length = len(path)
    for key in [key for key in merged if len(key) > length and key[:length] == path]:
        del merged[key]


def _epochs(merged: Mapping[Words, Leaf]) -> int:
    """The number of epochs that the layers so far ask for."""
    leaf = merged.get(("epochs",))
    try:
        epochs = DEFAULT_EPOCHS if leaf is None else int(leaf.value)
    except (TypeError, ValueError, OverflowError):
        return DEFAULT_EPOCHS
    return epochs if 0 < epochs <= MOST_EPOCHS else DEFAULT_EPOCHS  # validation says what is wrong with it


# scaling -----------------------------------------------------------------------------------------------------------


def scaled(epoch: Any, before: int, now: int) -> Any:
    """The same share of the training, to the nearest epoch, halves up: 49 of 120 -> 5 of 12. Lists entry by entry."""
    if isinstance(epoch, list | tuple):
        return [scaled(one, before, now) for one in epoch]
    if isinstance(epoch, int) and not isinstance(epoch, bool):
        return (2 * epoch * now + before) // (2 * before)
    return epoch


def _scaled_milestones(milestones: Any, before: int, now: int, shape: Any) -> Any:
    """To whole epochs where the rate jumps; exactly where it moves along a line, which a rounded point would bend."""
    if not isinstance(milestones, list | tuple) or not all(map(_is_number, milestones)):
        return milestones  # validation says what is wrong with them
    shares = [Fraction(one) * now / before for one in milestones]
    if shape == "step":
        return [math.floor(share + Fraction(1, 2)) for share in shares]
    return [int(share) if share.denominator == 1 else float(share) for share in shares]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def scale(merged: dict[Words, Leaf], epochs: Sequence[int]) -> None:
    """Bring every epoch that was written for another length of training to this one."""
    now = epochs[-1] if epochs else DEFAULT_EPOCHS
    _add_scaled_defaults(merged, now)
    shape = merged[SHAPE].value if SHAPE in merged else "step"
    for path, leaf in list(merged.items()):
        before = epochs[leaf.depth] if leaf.depth >= 0 else DEFAULT_EPOCHS
        if before == now:
            continue
        value = leaf.value
        if path == MILESTONES:
            value = _scaled_milestones(value, before, now, shape)
        elif path[-1] == "start_epoch":
            value = scaled(value, before, now)
        elif isinstance(value, list):
            value = [_scaled_entry(one, before, now) for one in value]
        if value != leaf.value:
            merged[path] = replace(leaf, value=value, origin=scaled_origin(leaf, before, now))
    averages = merged.get(AVERAGING)
    if averages is not None and now != DEFAULT_EPOCHS:
        merged[AVERAGING] = replace(averages, value=_with_scaled_defaults(averages.value, now))


def scaled_origin(leaf: Leaf, before: int, now: int) -> str:
    """Where a scaled value came from."""
    return f"{leaf.origin}, scaled from {before} to {now} epochs"


def _scaled_entry(entry: Any, before: int, now: int) -> Any:
    """An average, or an entry of a schedule."""
    if isinstance(entry, Mapping) and "start_epoch" in entry:
        return {**entry, "start_epoch": scaled(entry["start_epoch"], before, now)}
    return entry


def _add_scaled_defaults(merged: dict[Words, Leaf], now: int) -> None:
    """Write out the defaults that hold epochs, which are meant for the default number of epochs."""
    if now == DEFAULT_EPOCHS:
        return
    above = merged.get(MILESTONES[:1])
    if MILESTONES not in merged and (above is None or above.value == {}):
        merged.pop(MILESTONES[:1], None)
        merged[MILESTONES] = Leaf(list(DEFAULT_MILESTONES), "default", "")
    for path in [path[:-1] for path in merged if path[-1] == "name"]:
        kind = "objectives" if is_objective(path) else PART_KINDS.get(path[-1]) if path in PARTS else None
        if kind is not None:
            name = merged[(*path, "name")]
            for key, value in _epoch_defaults(kind, name.value).items():
                merged.setdefault((*path, key), Leaf(value, "default", name.place))


def _with_scaled_defaults(averages: Any, now: int) -> Any:
    """The same for averages that are written as a name or as a list."""
    if isinstance(averages, list):
        return [_with_scaled_defaults(one, now) for one in averages]
    entry = {"name": averages} if isinstance(averages, str) else averages
    if not isinstance(entry, Mapping) or "name" not in entry:
        return averages
    defaults = _epoch_defaults("averaging", entry["name"])
    return (
        {**{key: scaled(value, DEFAULT_EPOCHS, now) for key, value in defaults.items()}, **entry}
        if defaults
        else averages
    )


def _epoch_defaults(kind: Kind, name: Any) -> dict[str, int]:
    """The part's settings that hold an epoch, where their default is not 0."""
    try:
        part = find(kind, name)
    except PydanticCustomError:
        return {}  # validation says that there is no such part
    defaults = {key: part.model_fields[key].default for key in part.epoch_fields}
    return {key: value for key, value in defaults.items() if isinstance(value, int) and value}
