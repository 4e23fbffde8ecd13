"""From layers of settings to one trial, and where each of its values came from.

    part defaults < preset recipe < protocol < sweep `trial:` < grid point < profile < --set

How layers merge and how epochs scale: `ham_core.layers`. `method: NAME` (or `method.preset: NAME`) in any layer puts that
preset below all layers. Other trials that a trial uses are resolved with it, from the layers that `ham_core.starts` makes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from ham_core.config import Start, Trial, data_settings, flatten, with_facts, with_seed
from ham_core.data.index import facts
from ham_core.data.index import names as data_names
from ham_core.data.source import Facts
from ham_core.errors import RequestError, known
from ham_core.layers import (
    OBJECTIVE,
    SINGLE_PARTS,
    STARTS,
    Layer,
    Leaf,
    Words,
    merge,
    parse_set,
    scale,
    scaled,
    set_layer,
)
from ham_core.objectives.base import Objective
from ham_core.parts import build
from ham_core.presets import Preset, UnknownPreset, load_preset
from ham_core.presets import names as preset_names
from ham_core.sentences import Path, Problem, dotted, problems_of, shown
from ham_core.starts import (
    EPOCHS,
    PRESET,
    Leaves,
    Level,
    Request,
    chain,
    epochs_of_state,
    levels_of,
    other_split,
    own,
    preset_part,
    requests,
    shared,
    unknown_settings,
    unknown_weights,
)
from ham_core.yamlfile import Key, load

__all__ = [
    "DataFacts",
    "Layer",
    "Leaf",
    "Resolved",
    "Words",
    "idle_parts",
    "load_trial",
    "parse_set",
    "resolve",
    "scaled",
    "set_layer",
]

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

Said = tuple[str, str]  # (place, what is wrong there)


# the result --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Resolved:
    """A trial, its method's name for people, and where its values came from.

    `sources`: the other trials that it uses, by `start_from` and `helper`; `own_seeds`: those whose seed is written for them.
    """

    trial: Trial
    preset: Preset | None
    leaves: Mapping[Words, Leaf] = field(repr=False)
    sources: Mapping[str, Resolved] = field(default_factory=dict)
    own_seeds: frozenset[str] = frozenset()

    @cached_property
    def origins(self) -> dict[str, str]:
        """dotted key -> `preset ham-official`, `sweeps/x.yaml:5`, `profile smoke`, `--set` or `default`; scaled: says so.

        A setting that the objective fixes comes from `objective standard`.
        """
        found: dict[str, str] = {}
        objective = self.trial.method.objective
        fixed = {f"attack.{key}" for key in objective.attack_settings(self.trial.epsilon)}
        for key in flatten(self.trial.model_dump(mode="json", exclude=set(self.sources))):
            leaf = _nearest(self.leaves, tuple(key.split(".")))
            found[key] = "default" if leaf is None else leaf.origin
            if key in fixed:
                found[key] = f"objective {objective.name}"
        for word, other in self.sources.items():
            found |= {f"{word}.trial.{key}": origin for key, origin in other.origins.items()}
            found[f"{word}.weights"] = self.leaves[(word, "weights")].origin
        return found

    def place(self, key: str) -> str:
        """Where a setting is written; empty for a default."""
        word, _, rest = key.partition(".trial.")
        if rest and word in self.sources:
            return self.sources[word].place(rest)
        leaf = _nearest(self.leaves, tuple(key.split(".")))
        return "" if leaf is None else leaf.place

    @property
    def label(self) -> str:
        """The preset's name, `ham-official+trades` where a part was exchanged; without a preset `trades+ham`."""
        return self._named(self.preset.name if self.preset else "", "+")

    @property
    def title(self) -> str:
        """The same in words."""
        return self._named(self.preset.title if self.preset else "", " + ")

    def _named(self, name: str, joint: str) -> str:
        method = self.trial.method
        before = _preset_parts(self.preset.name) if self.preset else {}
        now = {"objective": chain(method.objective)}
        now |= {
            word: [part.name] if (part := getattr(method, word)) else [] for word in ("mining", "calibration")
        }
        changed: list[str] = []
        for word, names in now.items():
            pairs = list(itertools.zip_longest(names, before.get(word, [])))
            changed += [one for one, old in pairs if one is not None and one != old]
            changed += [f"no-{word}"] if pairs and not names else []
        return joint.join([name, *changed] if name else changed)

    @property
    def keeps(self) -> frozenset[str]:
        """The other trials whose seed is their own, as `with_seed` takes them: `start_from`, `start_from.helper`."""
        below = {f"{word}.{key}" for word, other in self.sources.items() for key in other.keeps}
        return self.own_seeds | below

    def seeded(self, seed: Leaf) -> Resolved:
        """The same with another seed; the trials that it uses follow."""
        return replace(
            self,
            trial=with_seed(self.trial, seed.value, self.keeps),
            leaves={**self.leaves, ("seed",): seed},
            sources={
                word: other if word in self.own_seeds else other.seeded(seed)
                for word, other in self.sources.items()
            },
        )

    def idle(self) -> list[str]:
        """`idle_parts` of the trial and of those it begins with or asks, each sentence with its place in front."""
        return [f"{place or 'default'}: {text}" for place, text in self._idle()]

    def _idle(self) -> Iterator[Said]:
        for key, text in _idle(self.trial):
            yield self.place(key), text
        for word, other in self.sources.items():
            if not getattr(self.trial, word).continues:  # what is taken on may well start later
                yield from ((place, f"{word}: {text}") for place, text in other._idle())


def idle_parts(trial: Trial) -> list[str]:
    """One sentence per part of the method that would start only after the last epoch."""
    return [text for _, text in _idle(trial)]


def _idle(trial: Trial) -> Iterator[tuple[str, str]]:
    method = trial.method
    parts: list[tuple[str, Any]] = [("method.objective", method.objective)]
    while (base := getattr(parts[-1][1], "base", None)) is not None:
        parts.append((f"{parts[-1][0]}.base", base))
    parts += [("method.mining", method.mining), ("method.calibration", method.calibration)]
    parts += [("method.averaging", average) for average in method.averaging]
    for key, part in parts:
        start = getattr(part, "start_epoch", 0)
        if start >= trial.epochs:
            yield (
                f"{key}.start_epoch",
                f"{key}.start_epoch is {start}, so '{part.name}' never becomes active in {trial.epochs} epochs "
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
def _preset_parts(name: str) -> dict[str, list[str]]:
    """objective (with those it wraps), mining and calibration of a preset, by name."""
    leaves = preset_layer(name).expanded[0]
    found = {"objective": chain(_objective(leaves))}
    for part in SINGLE_PARTS[1:]:
        leaf = leaves.get((*part, "name"))
        found[part[1]] = [] if leaf is None else [leaf.value]
    return found


def resolve(layers: Sequence[Layer], look: DataFacts | None = None) -> Resolved:
    """The trial of a stack of layers, lowest first. RequestError with every problem that was found."""
    problems = [problem for layer in layers for problem in layer.expanded[1]]
    files = [layer for layer in layers if not layer.origin]  # not a protocol or a command line
    home = (files or layers)[0].place(())
    levels = [Level(layer.expanded[0]) for layer in layers]
    resolved, found = _resolve(levels, look or DataFacts(), home)
    problems += [f"{place}: {text}" for place, text in found]
    if problems or resolved is None:
        raise RequestError(list(dict.fromkeys(problems)))
    return resolved


@dataclass(frozen=True)
class _Purpose:
    """Why another trial is resolved: what asks for it, what it shares with that, and when its state is taken."""

    request: Request
    shared: Mapping[Words, Leaf | None]
    epochs: Leaf | None


def _resolve(
    levels: Sequence[Level],
    look: DataFacts,
    home: str,
    purpose: _Purpose | None = None,
    led: tuple[str, ...] = (),
) -> tuple[Resolved | None, list[Said]]:
    """The trial of the levels above its preset, or what is wrong. `led`: presets that led here by nothing but themselves."""
    levels, problems = _without_wrong_methods(levels)
    preset, unknown = _preset_of(levels)
    problems += unknown
    method_is_wrong = bool(problems)
    if preset is not None and preset.name in led:
        circle = " -> ".join([*led[led.index(preset.name) :], preset.name])
        return None, [
            (home, f"the presets {circle} start from one another in a circle; name another method, or none")
        ]
    bottom = preset_layer(preset.name).expanded[0] if preset else {}
    levels = [Level(preset_part(purpose.request, bottom) if purpose else bottom, True), *levels]
    merged, epochs = merge([level.leaves for level in own(levels)])
    _forget_start_of_another_objective(merged, bottom)
    scale(merged, epochs)
    if purpose is not None:
        _share(merged, purpose)
    sources = _sources(levels, merged, epochs, look, (*led, preset.name) if preset else led)
    trial, found = _validate(merged, sources, look, home, method_is_wrong)
    problems += found
    problems += [said for source in sources for said in source.told(trial, problems)]
    if problems or trial is None:
        return None, problems
    used = {
        source.request.word: source for source in sources if getattr(trial, source.request.word) is not None
    }
    resolved = {word: source.resolved for word, source in used.items() if source.resolved is not None}
    leaves = _with_starts(merged, levels, used)
    own_seeds = frozenset(word for word, source in used.items() if source.request.says(("seed",)))
    return Resolved(trial, preset, leaves, resolved, own_seeds), []


def _share(merged: Leaves, purpose: _Purpose) -> None:
    """Put what the other trial has from the one that uses it in place of what its own levels say."""
    for path, leaf in purpose.shared.items():
        merged.pop(path, None)
        if leaf is not None:
            merged[path] = leaf
    if purpose.epochs is not None:
        merged[EPOCHS] = purpose.epochs


def _with_starts(merged: Leaves, levels: Sequence[Level], used: Mapping[str, _Source]) -> Leaves:
    """The leaves with those that say which other trials there are, or that there are none."""
    found = dict(merged)
    for word in STARTS:
        if word in used:
            found[(word, "weights")] = used[word].request.weights
            continue
        none = next((level.leaves[(word,)] for level in reversed(levels) if (word,) in level.leaves), None)
        if none is not None:
            found[(word,)] = none
    return found


def _without_wrong_methods(levels: Sequence[Level]) -> tuple[list[Level], list[Said]]:
    """A `method` that is neither a name nor a mapping would hide what the layers below say: out, with a sentence."""
    kept: list[Level] = []
    problems: list[Said] = []
    for level in levels:
        leaf = level.leaves.get(PRESET[:1])
        if leaf is not None and leaf.value != {}:
            text = f"method is {shown(leaf.value)}; allowed: a name, for example method: at, or a mapping"
            problems.append((leaf.place, f"{text}; {known(leaf.value, preset_names())}"))
            rest = {path: one for path, one in level.leaves.items() if path != PRESET[:1]}
            level = replace(level, leaves=rest)
        kept.append(level)
    return kept, problems


def _preset_of(levels: Sequence[Level]) -> tuple[Preset | None, list[Said]]:
    """The preset that the highest layer names which names one."""
    leaf = next((level.leaves[PRESET] for level in reversed(levels) if PRESET in level.leaves), None)
    if leaf is None or leaf.value is None:
        return None, []
    try:
        if isinstance(leaf.value, str):
            return load_preset(leaf.value), []
    except UnknownPreset:
        pass
    return None, [(leaf.place, f"unknown method {shown(leaf.value)}; {known(leaf.value, preset_names())}")]


def _objective(leaves: Mapping[Words, Leaf]) -> Objective | None:
    """The objective of these leaves; None where it is wrong, which validation says, or where there is none."""
    length = len(OBJECTIVE)
    inside = {
        path[length:]: leaf for path, leaf in leaves.items() if path[:length] == OBJECTIVE and path[length:]
    }
    try:
        return cast(Objective, build("objectives", _nested(inside)))
    except (PydanticCustomError, ValidationError):
        return None


def _forget_start_of_another_objective(merged: Leaves, bottom: Mapping[Words, Leaf]) -> None:
    """A recipe's start point belongs to its objective, whatever is wrapped around that."""
    start = merged.get(("attack", "start"))
    if start is None or start.depth != 0:
        return
    before, now = _objective(bottom), _objective(merged)
    if before is not None and now is not None and before.root.name != now.root.name:
        del merged[("attack", "start")]


# other trials ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """Another trial as far as it could be resolved. `said`: what is wrong with it; `asked`: what is wrong with the asking."""

    request: Request
    resolved: Resolved | None
    said: Sequence[Said]
    asked: Sequence[Said]

    @property
    def start(self) -> Start | None:
        """What the trial that uses it holds."""
        if self.resolved is None or self.asked:
            return None
        return Start(trial=self.resolved.trial, weights=self.request.weights.value)

    def told(self, trial: Trial | None, known_already: Sequence[Said]) -> list[Said]:
        """What is wrong, without what the trial that uses it has wrong in the same way."""
        texts = {text for _, text in known_already}
        fresh = [
            (place, f"{self.request.word}: {text}")
            for place, text in self.said
            if (place, text) not in known_already and not (place == self.request.place and text in texts)
        ]
        split = other_split(self.request, trial, self.resolved.trial) if trial and self.resolved else []
        return [*self.asked, *fresh, *split]


def _sources(
    levels: Sequence[Level],
    merged: Mapping[Words, Leaf],
    epochs: Sequence[int],
    look: DataFacts,
    led: tuple[str, ...],
) -> list[_Source]:
    """The other trials of a stack of levels, the lowest of which is the preset's."""
    asked_for, wrong = requests(levels)
    objective = _objective(merged)
    sources = [_Source(request, None, (), said) for request, said in wrong]
    for request in asked_for:
        request, asked = unknown_settings(request)
        at: Leaf | None = None
        if request.continues:
            at, missing = epochs_of_state(request, epochs)
            asked += missing
        start = objective.root.start if objective is not None else None
        purpose = _Purpose(request, shared(request, merged, start), at)
        resolved, said = _resolve(
            levels_of(request, levels), look, request.place, purpose, led if request.by_presets else ()
        )
        asked += unknown_weights(request, None if resolved is None else resolved.trial)
        sources.append(_Source(request, resolved, said, asked))
    return sources


# validation --------------------------------------------------------------------------------------------------------


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
    merged: Leaves, sources: Sequence[_Source], look: DataFacts, home: str, method_is_wrong: bool
) -> tuple[Trial | None, list[Said]]:
    """The trial, or every problem: what is wrong is reported, taken out, and the rest is looked at again."""
    settings = _nested(merged)
    filled, problems = _with_data(settings, merged, look, home)
    places = merged | {
        (source.request.word, *path): leaf
        for source in sources
        for given in source.request.given
        for path, leaf in given.items()
    }
    removed: list[str] = []
    method = settings.get("method") or {}
    if isinstance(method, dict) and "objective" not in method:
        if not method_is_wrong:
            where = _place(merged, ("method",), "", home)
            problems.append(
                (where, f"no method; write for example method: at; known: {', '.join(preset_names())}")
            )
        removed.append("method")
        filled["method"] = {**STAND_INS[("method",)], **method}
    objective = _objective(merged)
    for source in sources:
        word, start = source.request.word, source.start
        if start is None:
            removed.append(word)
        elif (
            word != "helper" or objective is None or objective.root.needs_helper
        ):  # else nobody asks the helper
            filled[word] = start
            places[(word, "weights")] = source.request.weights
    trial = None
    for _ in range(6):  # each round takes something out; checks across settings come last
        try:
            trial = Trial.model_validate(filled)
            break
        except ValidationError as error:
            fresh = problems_of(error, Trial, filled)
        except RequestError as error:
            problems += [(home, problem) for problem in error.problems]
            break
        told = [one for one in fresh if one.path or not any(_speaks_of(one.text, key) for key in removed)]
        problems += [(_place(places, one.path, one.text, home), one.text) for one in told]
        removed += [dotted(one.path) for one in fresh]
        if not _take_out(filled, fresh):
            break
    return (None if problems else trial), problems


def _with_data(
    settings: dict[str, Any], merged: Mapping[Words, Leaf], look: DataFacts, home: str
) -> tuple[dict[str, Any], list[Said]]:
    """Settings with the facts of their data set. Where there are none: with stand-ins, and the reason."""
    data = data_settings(settings.get("data"))
    by_hand: list[Said] = []
    if isinstance(data, dict) and len(given := [key for key in DIGESTS if key in data]) == 1:
        key = given[0]
        data = {word: value for word, value in data.items() if word != key}
        text = f"data.{key} is {shown(settings['data'][key])}, but digests are not given by hand"
        where = _place(merged, ("data", key), "", home)
        by_hand = [(where, f"{text}: they follow from the data set; remove it")]
    settings = settings | {"data": data}
    if isinstance(data, dict) and "train_digest" in data:
        return settings, []
    if not isinstance(data, dict) or not (data.get("name") or data.get("folder")):
        where = _place(merged, ("data",), "", home)
        written = "" if not data or isinstance(data, dict) else f" is {shown(data)}, which"
        text = f"data{written} names no images; write for example data: digits, or a folder"
        problems = [(where, f"{text}; known: {', '.join(data_names())}")]
    else:
        try:
            return with_facts(settings, look(data)), by_hand
        except RequestError as error:
            where = _place(merged, ("data",), "", home)
            problems = [(where, problem) for problem in error.problems]
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
    named = [
        leaf
        for key, leaf in inside.items()
        if _speaks_of(text, dotted(key)) or (key[-1] == "name" and _speaks_of(text, dotted(key[:-1])))
    ]
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
