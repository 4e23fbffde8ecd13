"""From layers of settings to one trial, and where each of its values came from.

    part defaults < preset recipe < protocol < sweep `trial:` < grid point < profile < --set

Keys may be nested or dotted (`method.mining.early_drop_step`). Layers merge key by key; a part of the method with another
name replaces the part below it. `method: NAME` (or `method.preset: NAME`) in any layer puts that preset below all layers.
Epochs at which something starts belong to a length of training: where a higher layer changes `epochs`, the `start_epoch`s
and milestones of the layers below scale with it, to the nearest whole epoch (halves up).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from ham_core.config import MOST_EPOCHS, Schedule, Trial, data_settings, flatten, with_facts
from ham_core.data.index import facts
from ham_core.data.index import names as data_names
from ham_core.data.source import Facts
from ham_core.errors import RequestError, known
from ham_core.parts import Kind, find
from ham_core.presets import Preset, load_preset
from ham_core.presets import names as preset_names
from ham_core.sentences import Path, Problem, dotted, problems_of, shown
from ham_core.yamlfile import Key, load, parse

DEFAULT_EPOCHS: int = Trial.model_fields["epochs"].default
DEFAULT_MILESTONES = Schedule.model_fields["milestones"].default
PRESET = ("method", "preset")
MILESTONES = ("schedule", "milestones")
WEIGHT = ("method", "mining", "weight")
PART_KINDS: dict[str, Kind] = {
    "objective": "objectives",
    "mining": "mining",
    "calibration": "calibration",
    "averaging": "averaging",
}
PARTS = tuple(("method", kind) for kind in PART_KINDS)
SINGLE_PARTS = PARTS[:3]
WHICH_DATA = ("name", "folder", "label", "size", "train_digest", "test_digest")
DIGESTS = ("train_digest", "test_digest")

# What takes the place of a required setting that is wrong, so that the others can still be looked at.
STAND_INS: dict[Path, Any] = {
    ("method",): {"objective": "at"},
    ("method", "objective"): "at",
    ("data",): {"label": "", "train_digest": "", "test_digest": "", "validation": 0.1},
    ("data", "validation"): 0.1,
    ("augment",): {"crop": 0, "flip": False},
    ("augment", "crop"): 0,
    ("augment", "flip"): False,
}

Words = tuple[str, ...]  # ("method", "mining", "start_epoch")


# layers ------------------------------------------------------------------------------------------------------------


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
            yield from (((*path, key), below, written) for key, below in short.items())
            return
        value = short
    if not isinstance(value, Mapping) or (path and not value):
        yield path, value, written
        return
    for key, below in value.items():
        word = "null" if key is None else str(key)
        yield from _walk(below, (*path, *word.split(".")), (*written, key))


def _written_out(value: str, path: Words) -> Any:
    """`method: at` -> {preset: at}, `method.objective: trades` -> {name: trades}, `data: digits` -> {name: digits}."""
    if path == ("method",):
        return {"preset": value}
    if path in SINGLE_PARTS:
        return None if value == "none" and path[1] != "objective" else {"name": value}
    if path == ("model",):
        return {"name": value}
    return data_settings(value) if path == ("data",) else value


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


def _merge(layers: Sequence[dict[Words, Leaf]]) -> tuple[dict[Words, Leaf], list[int]]:
    """All leaves of the stack, and the number of epochs as each layer leaves it."""
    merged: dict[Words, Leaf] = {}
    epochs = []
    for depth, layer in enumerate(layers):
        _drop_replaced(merged, layer)
        for path, leaf in layer.items():
            _put(merged, path, replace(leaf, depth=depth))
        epochs.append(_epochs(merged))
    return merged, epochs


def _drop_replaced(merged: dict[Words, Leaf], layer: Mapping[Words, Leaf]) -> None:
    """A part with another name, and other images, leave nothing of what was there before."""
    for part in PARTS:
        name = (*part, "name")
        if name in layer and name in merged and merged[name].value != layer[name].value:
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
    _drop_below(merged, path)
    merged[path] = leaf


def _drop_below(merged: dict[Words, Leaf], path: Words) -> None:
    if len(path) <= 3:  # no setting lies deeper than method.mining.weight.parameter
        for key in [key for key in merged if key[: len(path)] == path and key != path]:
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


def _scale(merged: dict[Words, Leaf], epochs: Sequence[int]) -> None:
    """Bring every epoch that was written for another length of training to this one."""
    now = epochs[-1] if epochs else DEFAULT_EPOCHS
    _add_scaled_defaults(merged, now)
    for path, leaf in list(merged.items()):
        before = epochs[leaf.depth] if leaf.depth >= 0 else DEFAULT_EPOCHS
        if before == now:
            continue
        value = leaf.value
        if path[-1] == "start_epoch" or path == MILESTONES:
            value = scaled(value, before, now)
        elif isinstance(value, list):
            value = [_scaled_entry(one, before, now) for one in value]
        if value != leaf.value:
            merged[path] = replace(
                leaf, value=value, origin=f"{leaf.origin}, scaled from {before} to {now} epochs"
            )


def _scaled_entry(entry: Any, before: int, now: int) -> Any:
    """An average, or an entry of a schedule of base weights."""
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
    for word, kind in PART_KINDS.items():
        name = merged.get(("method", word, "name"))
        for key, value in _epoch_defaults(kind, name.value).items() if name is not None else ():
            merged.setdefault(("method", word, key), Leaf(value, "default", name.place if name else ""))


def _epoch_defaults(kind: Kind, name: Any) -> dict[str, int]:
    """The part's settings that hold an epoch, where their default is not 0."""
    try:
        part = find(kind, name)
    except PydanticCustomError:
        return {}  # validation says that there is no such part
    defaults = {key: part.model_fields[key].default for key in part.epoch_fields}
    return {key: value for key, value in defaults.items() if isinstance(value, int) and value}


# the result --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resolved:
    """A trial, its method's name for people, and where its values came from."""

    trial: Trial
    preset: Preset | None
    leaves: Mapping[Words, Leaf] = field(repr=False)

    @cached_property
    def origins(self) -> dict[str, str]:
        """dotted key -> `preset ham-official`, `sweeps/x.yaml:5`, `profile smoke`, `--set` or `default`; scaled: says so."""
        found = {key: self._leaf(key) for key in flatten(self.trial.model_dump(mode="json"))}
        return {key: "default" if leaf is None else leaf.origin for key, leaf in found.items()}

    def place(self, key: str) -> str:
        """Where a setting is written; empty for a default."""
        leaf = self._leaf(key)
        return "" if leaf is None else leaf.place

    def _leaf(self, key: str) -> Leaf | None:
        return _nearest(self.leaves, tuple(key.split(".")))

    @property
    def label(self) -> str:
        """The preset's name, `ham-official+trades` where a part was exchanged; without a preset `trades+ham`."""
        return self._named(self.preset.name if self.preset else "", "+")

    @property
    def title(self) -> str:
        """The same in words."""
        return self._named(self.preset.title if self.preset else "", " + ")

    def _named(self, name: str, joint: str) -> str:
        before = _preset_parts(self.preset.name) if self.preset else {}
        now = {word: getattr(getattr(self.trial.method, word), "name", None) for _, word in SINGLE_PARTS}
        changed = [now[word] or f"no-{word}" for word in now if now[word] != before.get(word)]
        return joint.join([name, *changed] if name else changed)

    def idle(self) -> list[str]:
        """`idle_parts` of the trial, each sentence with its place in front."""
        return [f"{self.place(key) or 'default'}: {text}" for key, text in _idle(self.trial)]


def idle_parts(trial: Trial) -> list[str]:
    """One sentence per mining, calibration or average that would start only after the last epoch."""
    return [text for _, text in _idle(trial)]


def _idle(trial: Trial) -> Iterator[tuple[str, str]]:
    method = trial.method
    parts = [("method.mining", method.mining), ("method.calibration", method.calibration)]
    parts += [("method.averaging", average) for average in method.averaging]
    for key, part in parts:
        if part is not None and part.start_epoch >= trial.epochs:
            yield (
                f"{key}.start_epoch",
                f"{key}.start_epoch is {part.start_epoch}, so '{part.name}' never becomes active in {trial.epochs} epochs "
                f"(0 to {trial.epochs - 1}); allowed: 0 to {trial.epochs - 1}, or more epochs",
            )


def _nearest(leaves: Mapping[Words, Leaf], path: Words) -> Leaf | None:
    """The leaf of a key, else the one it lies in, else the first that lies in it."""
    for length in range(len(path), 0, -1):
        if path[:length] in leaves:
            return leaves[path[:length]]
    return next((leaf for key, leaf in leaves.items() if key[: len(path)] == path), None)


# resolving ---------------------------------------------------------------------------------------------------------


class DataFacts:
    """`facts`, asked once per data set: hashing a folder takes seconds."""

    def __init__(self) -> None:
        self.known: dict[tuple[Any, ...], Facts | RequestError] = {}

    def __call__(self, data: Mapping[str, Any]) -> Facts:
        """What is known of the data set that these settings name."""
        asked = tuple(data.get(key) for key in ("name", "folder", "size", "label"))
        if asked not in self.known:
            try:
                self.known[asked] = facts(*asked)
            except RequestError as error:
                self.known[asked] = error
        found = self.known[asked]
        if isinstance(found, RequestError):
            raise found
        return found


@cache
def preset_layer(name: str) -> Layer:
    """The method and the recipe of a preset."""
    preset = load_preset(name)
    settings = {"method": dict(preset.method), **preset.recipe}

    def place(written: Key) -> str:
        return preset.document.place(written if written[:1] == ("method",) else ("recipe", *written))

    return Layer(f"preset {name}", settings, place)


@cache
def _preset_parts(name: str) -> dict[str, Any]:
    """objective, mining and calibration of a preset, by name."""
    leaves = preset_layer(name).expanded[0]
    return {
        word: leaves[(*part, "name")].value
        for part in SINGLE_PARTS
        if (*part, "name") in leaves
        for word in part[1:]
    }


def resolve(layers: Sequence[Layer], look: DataFacts | None = None) -> Resolved:
    """The trial of a stack of layers, lowest first. RequestError with every problem that was found."""
    problems = [problem for layer in layers for problem in layer.expanded[1]]
    stack = [dict(layer.expanded[0]) for layer in layers]
    wrong_method = _take_out_wrong_methods(stack)
    preset, wrong_preset = _preset_of(stack)
    wrong_method += wrong_preset
    problems += wrong_method
    bottom = preset_layer(preset.name).expanded[0] if preset else {}
    merged, epochs = _merge([bottom, *stack])
    _forget_start_of_another_objective(merged, bottom)
    _scale(merged, epochs)
    files = [layer for layer in layers if not layer.origin]  # not a protocol or a command line
    home = (files or layers)[0].place(())
    trial, found = _validate(merged, look or DataFacts(), home, bool(wrong_method))
    if problems or found or trial is None:
        raise RequestError(list(dict.fromkeys([*problems, *found])))
    return Resolved(trial, preset, merged)


def _take_out_wrong_methods(stack: Sequence[dict[Words, Leaf]]) -> list[str]:
    """A `method` that is neither a name nor a mapping would hide what the layers below say: out, with a sentence."""
    found = [
        layer.pop(PRESET[:1]) for layer in stack if PRESET[:1] in layer and layer[PRESET[:1]].value != {}
    ]
    return [
        f"{leaf.place}: method is {shown(leaf.value)}; allowed: a name, for example method: at, or a mapping; "
        f"{known(leaf.value, preset_names())}"
        for leaf in found
    ]


def _preset_of(stack: Sequence[dict[Words, Leaf]]) -> tuple[Preset | None, list[str]]:
    """The preset that the highest layer names which names one."""
    leaf = next((layer[PRESET] for layer in reversed(stack) if PRESET in layer), None)
    if leaf is None or leaf.value is None:
        return None, []
    if leaf.value not in preset_names():
        return None, [
            f"{leaf.place}: unknown method {shown(leaf.value)}; {known(leaf.value, preset_names())}"
        ]
    return load_preset(leaf.value), []


def _forget_start_of_another_objective(merged: dict[Words, Leaf], bottom: Mapping[Words, Leaf]) -> None:
    """A recipe's start point belongs to its objective."""
    name, start = ("method", "objective", "name"), merged.get(("attack", "start"))
    inherited = start is not None and start.depth == 0
    if inherited and name in bottom and merged[name].value != bottom[name].value:
        del merged[("attack", "start")]


def _nested(merged: Mapping[Words, Leaf]) -> dict[str, Any]:
    """Leaves -> the mapping that `Trial` validates."""
    settings: dict[str, Any] = {}
    for path, leaf in merged.items():
        if path == PRESET:
            continue
        node = settings
        for word in path[:-1]:
            node = node.setdefault(word, {})
        node[path[-1]] = leaf.value
    return settings


def _validate(
    merged: dict[Words, Leaf], look: DataFacts, home: str, method_is_wrong: bool
) -> tuple[Trial | None, list[str]]:
    """The trial, or every problem: what is wrong is reported, taken out, and the rest is looked at again."""
    merged, problems = dict(merged), []
    removed: list[str] = []
    settings = _nested(merged)
    filled, unusable = _with_data(settings, merged, look, home)
    problems += unusable
    method = settings.get("method") or {}
    if isinstance(method, dict) and "objective" not in method:
        if not method_is_wrong:
            where = _place(merged, ("method",), "", home)
            problems.append(
                f"{where}: no method; write for example method: at; known: {', '.join(preset_names())}"
            )
        removed.append("method")
        filled["method"] = {**STAND_INS[("method",)], **method}
    trial = None
    for _ in range(6):  # each round takes something out; checks across settings come last
        try:
            trial = Trial.model_validate(filled)
            break
        except ValidationError as error:
            fresh = problems_of(error, Trial, filled)
        except RequestError as error:
            problems += [f"{home}: {problem}" for problem in error.problems]
            break
        told = [one for one in fresh if one.path or not any(_speaks_of(one.text, key) for key in removed)]
        problems += [f"{_place(merged, one.path, one.text, home)}: {one.text}" for one in told]
        removed += [dotted(one.path) for one in fresh]
        if not _take_out(filled, fresh):
            break
    return (None if problems else trial), problems


def _with_data(
    settings: dict[str, Any], merged: Mapping[Words, Leaf], look: DataFacts, home: str
) -> tuple[dict[str, Any], list[str]]:
    """Settings with the facts of their data set. Where there are none: with stand-ins, and the reason."""
    data = data_settings(settings.get("data"))
    by_hand: list[str] = []
    if isinstance(data, dict) and len(given := [key for key in DIGESTS if key in data]) == 1:
        key = given[0]
        data = {word: value for word, value in data.items() if word != key}
        by_hand = [
            f"{_place(merged, ('data', key), '', home)}: data.{key} is {shown(settings['data'][key])}, but digests are not "
            "given by hand: they follow from the data set; remove it"
        ]
    settings = settings | {"data": data}
    if isinstance(data, dict) and "train_digest" in data:
        return settings, []
    where = _place(merged, ("data",), "", home)
    if not isinstance(data, dict) or not (data.get("name") or data.get("folder")):
        written = "" if not data or isinstance(data, dict) else f" is {shown(data)}, which"
        text = f"data{written} names no images; write for example data: digits, or a folder"
        problems = [f"{where}: {text}; known: {', '.join(data_names())}"]
    else:
        try:
            return with_facts(settings, look(data)), by_hand
        except RequestError as error:
            problems = [f"{where}: {problem}" for problem in error.problems]
        except (TypeError, ValueError):
            problems = []  # a name or size of the wrong type: validation says so
    stand_in = {"label": "", "train_digest": "", "test_digest": "", "validation": 0.1}
    augment = settings.get("augment") or {}
    if isinstance(augment, dict):
        augment = {"crop": 0, "flip": False} | augment
    return settings | {
        "data": stand_in | (data if isinstance(data, dict) else {}),
        "augment": augment,
    }, [*by_hand, *problems]


def _take_out(settings: dict[str, Any], problems: Iterable[Problem]) -> bool:
    """Remove what is wrong from the settings, so that defaults take its place; False where nothing could be removed."""
    changed = False
    for problem in problems:
        words = itertools.takewhile(lambda part: isinstance(part, str), problem.path)  # lists go as a whole
        path = tuple(words)
        node: Any = settings
        for word in path[:-1]:
            node = node.get(word) if isinstance(node, dict) else None
        if not path or not isinstance(node, dict) or path[-1] not in node:
            continue
        changed = True
        del node[path[-1]]
        if path in STAND_INS:
            node[path[-1]] = STAND_INS[path]
    return changed


def _place(merged: Mapping[Words, Leaf], path: Path, text: str, home: str) -> str:
    """Where to look: at the key; for a problem between several settings at the highest one that the text names."""
    words: Words = tuple(part for part in path if isinstance(part, str))
    if words in merged:
        return merged[words].place or home
    inside = {key: leaf for key, leaf in merged.items() if key[: len(words)] == words and leaf.place}
    named = [leaf for key, leaf in inside.items() if _speaks_of(text, dotted(key))]
    if named or (inside and words):
        return max(named or inside.values(), key=lambda leaf: leaf.depth).place
    leaf = _nearest(merged, words) if words else None
    return leaf.place if leaf is not None and leaf.place else home


def _speaks_of(text: str, key: str) -> bool:
    """Whether a sentence names a setting by the last words of its key."""
    return any(
        word and (key == word or key.endswith(f".{word}"))
        for word in re.findall(r"[a-z_]+(?:\.[a-z_]+)*", text)
    )


def load_trial(path: str, sets: Sequence[str] = ()) -> Resolved:
    """A TRIAL.yaml whose top-level keys are a trial's; `method` may name a preset. `sets`: `key=value`."""
    document = load(path)
    if not isinstance(document.value, Mapping):
        raise RequestError(f"{document.place()}: a trial is a mapping of settings, for example method: at")
    layers = [Layer("", document.value, document.place)]
    problems: list[str] = []
    settings: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for text in sets:
        try:
            key, value = parse_set(text)
        except RequestError as error:
            problems += error.problems
            continue
        key = key.removeprefix("trial.")
        settings[key], texts[key] = value, text
    layers.append(set_layer(settings, texts))
    try:
        resolved = resolve(layers)
    except RequestError as error:
        raise RequestError([*problems, *error.problems]) from None
    if problems:
        raise RequestError(problems)
    return resolved
