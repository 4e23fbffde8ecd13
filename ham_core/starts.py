"""Other trials that a trial uses, `start_from` and `helper`: from the layers of the one to the layers of the other.

    start_from: {method: trades, epochs: 76, weights: best, optimizer.lr: 0.1}    begin with weights that it kept
    helper:     {method: standard, weights: last}                                ask its network
    start_from: {method: at, epochs: 48, weights: state}                         go on from its whole state

The other trial is what a row of its method would be in the same sweep: from below, the preset of its method, the conditions
of the experiment (`CONDITIONS`) that the user's preset sets, and each further layer without its method, every layer followed
by what it says of the other trial. With `weights: state` it is the trial itself, by another method (`at`) and stopped after
`epochs`, which count in the length of the whole training and scale with it.
In all cases the held-out images, the network and the seed are those of the trial that uses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ham_core.config import STATE, Start, Trial, fingerprint
from ham_core.errors import known
from ham_core.folder import TrialFolder
from ham_core.layers import (
    DEFAULT_EPOCHS,
    OBJECTIVE,
    SINGLE_PARTS,
    STARTS,
    Leaf,
    Words,
    scaled,
    scaled_origin,
)
from ham_core.objectives.base import Objective
from ham_core.protocol import RULES, canonical_weights, split_weights
from ham_core.sentences import shown

CONDITIONS = ("data", "model", "epsilon", "precision", "augment", "selection")
SHARED: tuple[Words, ...] = (  # what the other trial has as this one has it
    ("data", "validation"),
    ("data", "split_seed"),
    ("model", "name"),
    ("model", "width"),
    ("model", "normalize"),
    ("seed",),
)
SPLIT = ("validation", "split_seed", "train_limit")
PRESET = ("method", "preset")
EPOCHS, WEIGHTS = ("epochs",), ("weights",)
METHOD_OF_STATE = "at"

Leaves = dict[Words, Leaf]


@dataclass(frozen=True)
class Level:
    """The leaves of one layer. `recipe`: it is a preset's, of which other trials take the conditions only."""

    leaves: Leaves
    recipe: bool = False


@dataclass(frozen=True)
class Request:
    """Another trial as it is asked for.

    `given`: what each level says of it, by its own keys; `place`: where it is named; `by_presets`: by nothing but presets.
    """

    word: str
    given: tuple[Leaves, ...]
    weights: Leaf
    place: str
    by_presets: bool = False

    @property
    def continues(self) -> bool:
        """Whether it is the beginning of the training that asks."""
        return self.weights.value == STATE

    def says(self, path: Words) -> bool:
        """Whether a setting is written for it and not only inherited."""
        return any(path in leaves for leaves in self.given)

    def last(self, path: Words) -> Leaf | None:
        """The highest level's word on one of its settings."""
        return next((leaves[path] for leaves in reversed(self.given) if path in leaves), None)


def requests(levels: Sequence[Level]) -> tuple[list[Request], list[tuple[Request, list[tuple[str, str]]]]]:
    """The other trials that a stack of layers asks for; and askings that are none, each with (place, what is wrong)."""
    found: list[Request] = []
    wrong: list[tuple[Request, list[tuple[str, str]]]] = []
    for word in STARTS:
        given: list[Leaves] = []
        problems: list[tuple[str, str]] = []
        for depth, level in enumerate(levels):
            above = level.leaves.get((word,))
            if above is not None and above.value != {}:
                given = [{} for _ in given]  # null takes away what the layers below say
            if above is not None and above.value not in (None, {}):
                text = f"{word} is {shown(above.value)}; allowed: a method, or a mapping of the other trial's settings"
                problems.append((above.place, f"{text}, for example {word}: {{method: trades}}"))
            mine = {path: leaf for path, leaf in level.leaves.items() if path[0] == word and path[1:]}
            given.append({path[1:]: replace(leaf, depth=depth) for path, leaf in mine.items()})
        request = Request(word, tuple(given), Leaf("best", "default", ""), "")
        named = request.last(PRESET) or next((leaf for one in reversed(given) for leaf in one.values()), None)
        if problems:
            wrong.append((request, problems))
        elif named is not None:
            weights = request.last(WEIGHTS) or Leaf("best", "default", named.place)
            kept = [{path: leaf for path, leaf in one.items() if path != WEIGHTS} for one in given]
            by_presets = all(level.recipe or not one for level, one in zip(levels, given, strict=True))
            found.append(Request(word, tuple(kept), weights, named.place, by_presets))
    return found, wrong


def own(levels: Sequence[Level]) -> list[Level]:
    """The levels without what they say of other trials."""
    return [replace(level, leaves=_without(level.leaves, STARTS)) for level in levels]


def _without(leaves: Mapping[Words, Leaf], words: Sequence[str]) -> Leaves:
    return {path: leaf for path, leaf in leaves.items() if path[0] not in words}


# the layers of the other trial -------------------------------------------------------------------------------------


def levels_of(request: Request, levels: Sequence[Level]) -> list[Level]:
    """The other trial's levels above the preset of its method. `levels`: all of this one's, its preset first."""
    found: list[Level] = []
    for level, given in zip(own(levels), request.given, strict=True):
        leaves = _without(level.leaves, ("seed",))
        if request.continues:
            leaves = {
                path: leaf for path, leaf in leaves.items() if path[:2] not in SINGLE_PARTS and path != PRESET
            }
            given = {path: leaf for path, leaf in given.items() if path != EPOCHS}
        else:
            leaves = _without(leaves, ("method",))
            if level.recipe:
                leaves = {path: leaf for path, leaf in leaves.items() if path[0] in CONDITIONS}
        found += [Level(leaves, level.recipe), Level(given, level.recipe)]
    if request.continues:
        # Below all: the length that the preset's epochs are scaled to where no layer gives one, and the method.
        bottom: Leaves = {EPOCHS: Leaf(DEFAULT_EPOCHS, "default", "")}
        if not any(request.says(path) for path in (PRESET, (*OBJECTIVE, "name"))):
            bottom[PRESET] = Leaf(METHOD_OF_STATE, "default", request.place)
        found.insert(0, Level(bottom, True))
    return found


def preset_part(request: Request, preset: Mapping[Words, Leaf]) -> Leaves:
    """What the other trial takes from the preset of its method: all; for a state the parts and their length of training."""
    if not request.continues:
        return dict(preset)
    return {
        path: leaf
        for path, leaf in preset.items()
        if path[:2] in SINGLE_PARTS or path == EPOCHS or path[0] == "helper"
    }


def shared(
    request: Request, merged: Mapping[Words, Leaf], objective_start: str | None
) -> dict[Words, Leaf | None]:
    """Settings that the other trial has from this one, whose leaves are `merged`; None: their defaults.

    `objective_start`: where this trial's attack starts unless its layers say so.
    """
    found = {path: merged.get(path) for path in SHARED if not request.says(path)}
    start = ("attack", "start")
    if request.continues and not request.says(start):
        default = None if objective_start is None else Leaf(objective_start, "default", "")
        found[start] = merged.get(start, default)
    return found


def epochs_of_state(request: Request, epochs: Sequence[int]) -> tuple[Leaf | None, list[tuple[str, str]]]:
    """After how many epochs the state is taken. `epochs`: those of the whole training, as each level leaves them."""
    now = epochs[-1]
    depth = next((d for d in reversed(range(len(request.given))) if EPOCHS in request.given[d]), None)
    if depth is None:
        allowed = f"allowed: a whole number from 1 to {now - 1}"
        text = f"{request.word}.epochs is missing: after how many of the {now} epochs the state is taken; {allowed}"
        return None, [(request.weights.place or request.place, text)]
    leaf, before = request.given[depth][EPOCHS], epochs[depth]
    if before == now or isinstance(leaf.value, bool) or not isinstance(leaf.value, int):
        return leaf, []
    value = max(1, min(scaled(leaf.value, before, now), now - 1)) if leaf.value > 0 else leaf.value
    return replace(leaf, value=value, origin=scaled_origin(leaf, before, now)), []


# what is wrong -----------------------------------------------------------------------------------------------------


def unknown_settings(request: Request) -> tuple[Request, list[tuple[str, str]]]:
    """The request without settings that no trial has, and a sentence about each."""
    words = set(Trial.model_fields) | set(WEIGHTS)
    problems = [
        (leaf.place, f"unknown key '{path[0]}' in {request.word}; {known(path[0], words)}")
        for leaves in request.given
        for path, leaf in leaves.items()
        if path[0] not in words
    ]
    kept = tuple(
        {path: leaf for path, leaf in leaves.items() if path[0] in words} for leaves in request.given
    )
    return replace(request, given=kept), problems


def unknown_weights(request: Request, other: Trial | None) -> list[tuple[str, str]]:
    """A sentence where the other trial does not keep the weights that are asked for. None: it could not be resolved."""
    name = request.weights.value
    averages = [] if other is None else [average.key for average in other.method.averaging]
    kept = [*RULES, *(f"{rule}_{key}" for rule in RULES for key in averages)]
    kept += [STATE] if request.word == "start_from" else []
    unclear = other is None and isinstance(name, str) and split_weights(name)[1]
    found = canonical_weights(name) if isinstance(name, str) else name
    if found in kept or name == STATE or unclear:  # a helper's state is refused with the trial
        return []
    return [(request.weights.place, f"{request.word}.weights is {shown(name)}; {known(name, kept)}")]


def other_split(request: Request, trial: Trial, other: Trial) -> list[tuple[str, str]]:
    """Sentences where the same images are held out in another way: then some of them would have been trained on."""
    ours, theirs = trial.data, other.data
    if ours.train_digest != theirs.train_digest:
        return []
    problems = []
    for key in SPLIT:
        before, now = getattr(theirs, key), getattr(ours, key)
        if before != now:
            leaf = request.last(("data", key))
            text = f"{request.word}.data.{key} is {shown(before)}, but here it is {shown(now)}, so that images held out here"
            place = leaf.place if leaf else request.place
            problems.append((place, f"{text} would have been trained on; remove it"))
    return problems


# trials and the trials that they need ------------------------------------------------------------------------------


def sources_of(trial: Trial) -> Iterator[tuple[str, Start]]:
    """(`start_from` or `helper`, the other trial) where there is one."""
    for word in STARTS:
        start: Start | None = getattr(trial, word)
        if start is not None:
            yield word, start


def needs_of(trial: Trial) -> tuple[str, ...]:
    """Fingerprints of the trials that must be trained before this one."""
    return tuple(dict.fromkeys(fingerprint(start.trial) for _, start in sources_of(trial)))


def averages_asked_for(start: Start) -> frozenset[str]:
    """The averages that another trial has to keep for the one that uses it."""
    if start.continues:
        return frozenset(average.key for average in start.trial.method.averaging)
    return frozenset({split_weights(start.weights)[1]} - {""})


def role(word: str) -> str:
    """What another trial is to the one that uses it: its `start`, or its `helper`."""
    return "start" if word == "start_from" else word


def chain(objective: Objective | None) -> list[str]:
    """The names of an objective and of those that it wraps, the outermost first."""
    return [] if objective is None else [objective.name, *chain(getattr(objective, "base", None))]


def label_of(trial: Trial) -> str:
    """A trial by the parts of its method: `trades+ham`."""
    method = trial.method
    parts = [part.name for part in (method.mining, method.calibration) if part is not None]
    return "+".join([*chain(method.objective), *parts])


def with_needed(asked: Mapping[str, tuple[Trial, str]], store: str | Path) -> dict[str, tuple[Trial, str]]:
    """{fingerprint: (trial, its name)} with the trials that those which are not trained yet need, before them."""
    found: dict[str, tuple[Trial, str]] = {}

    def add(identity: str, trial: Trial, name: str) -> None:
        if not is_trained(trial, TrialFolder.of(store, identity)):
            for word, start in sources_of(trial):
                need(fingerprint(start.trial), start, f"{label_of(start.trial)} ({role(word)} of {name})")
        found.setdefault(identity, (trial, name))

    def need(identity: str, start: Start, name: str) -> None:
        must_keep = averages_asked_for(start)
        known_already = found.get(identity) or asked.get(identity)
        if known_already is not None:
            add(identity, *known_already)
            trial, name = known_already
            found[identity] = joined(trial, fitted(start.trial, must_keep, ())), name
            return
        folder = TrialFolder.of(store, identity)
        kept = folder.kept_averages() if folder.settings() is not None else None
        add(identity, fitted(start.trial, must_keep, kept), name)

    for identity, (trial, name) in asked.items():
        add(identity, trial, name)
    return found


def is_trained(trial: Trial, folder: TrialFolder) -> bool:
    """Whether a training is complete with all averages that the trial keeps."""
    kept = folder.kept_averages() if folder.is_done() else []
    return folder.is_done() and all(one.model_dump(mode="json") in kept for one in trial.method.averaging)


def joined(first: Trial, second: Trial) -> Trial:
    """The first of two trials with the same training, with the averages of both; its own where two have one label."""
    ours = {average.key for average in first.method.averaging}
    more = tuple(average for average in second.method.averaging if average.key not in ours)
    method = first.method.model_copy(update={"averaging": (*first.method.averaging, *more)})
    return first.model_copy(update={"method": method}) if more else first


def fitted(trial: Trial, must_keep: frozenset[str], kept: Sequence[Mapping[str, Any]] | None) -> Trial:
    """A trial that is trained for another one's sake, with averages such that what is there need not be trained again.

    `must_keep`: labels of the averages that are asked for; `kept`: those of the training that is there, None: there is none.
    """
    if kept is None:
        return trial
    wanted = tuple(
        average
        for average in trial.method.averaging
        if average.key in must_keep or average.model_dump(mode="json") in kept
    )
    return trial.model_copy(update={"method": trial.method.model_copy(update={"averaging": wanted})})
