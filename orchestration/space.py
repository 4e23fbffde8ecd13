"""What a sweep says of a search and of stopping early: the keys `search` and `stop`, their limits and their sentences. Light.

    search: {by: tpe, points: 24, space: {KEY: [a, b], KEY: {low: -3, high: 3}}, goal: worst, seed: 0}
    stop:   {by: asha, grace: 10, reduction: 3}

A point is one value for each key of the space; it becomes trials as a point of a grid does, one for each seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from ham_core.config import digest_of
from ham_core.errors import known
from ham_core.parts import Frozen
from ham_core.sentences import problems_of, shown
from ham_core.yamlfile import Key

Goal = Literal["worst", "avg"]
Model = TypeVar("Model", bound=BaseModel)
SPACE_FORMS = "a list of choices, or a range {low: ..., high: ...}"
SEARCHED: Key = ("search", "space")  # where the searched keys stand in a sweep


class Range(Frozen):
    """The numbers from `low` to `high`: all, or those whole `step`s above `low`; `log`: even on a logarithmic scale."""

    low: float
    high: float
    step: float | None = Field(None, gt=0)
    log: bool = False

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low:g} and high is {self.high:g}; allowed: a high above low")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low:g}; allowed with log: a low above 0")
        if self.log and self.step is not None:
            raise ValueError("step and log are both given; leave one out")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"step is {self.step:g}; allowed: at most high - low = {self.high - self.low:g}")
        return self

    @property
    def whole(self) -> bool:
        """Whether its numbers are whole ones."""
        return self.step is not None and self.step.is_integer() and self.low.is_integer()

    @property
    def ends(self) -> list[float | int]:
        """The smallest and the largest number that can come out."""
        if self.step is None:
            return [self.low, self.high]
        top = self.low + math.floor(round((self.high - self.low) / self.step, 9)) * self.step
        return [int(self.low), int(top)] if self.whole else [self.low, top]

    @property
    def tried(self) -> list[float | int]:
        """Its ends, and where it has no steps a number that no whole one is."""
        low, high = self.ends
        return [low, high] if self.step is not None else [low, high, low + (high - low) / 2**0.5]

    def holds(self, value: Any) -> bool:
        """Whether a number lies between its ends."""
        low, high = self.ends
        return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


class Search(Frozen):
    """How many settings are tried, which, and what for."""

    by: Literal["random", "tpe"] = "tpe"
    points: int = Field(ge=1, le=10_000)  # each with all seeds
    space: dict[str, tuple[Any, ...] | Range]
    goal: tuple[Goal, ...] = ("worst",)
    seed: int = Field(0, ge=0, le=2**31)  # of the sampler

    def samples(self) -> list[dict[str, Any]]:
        """A point with the first value of each key, and one more for every other choice, end and inside of a range."""
        values = {
            key: entry.tried if isinstance(entry, Range) else entry for key, entry in self.space.items()
        }
        first = {key: some[0] for key, some in values.items()}
        return [first, *({**first, key: value} for key, some in values.items() for value in some[1:])]

    def choice(self, key: str, value: Any) -> int | None:
        """Which of the key's choices a value is (0 in a range), or None: it is not in the space."""
        entry = self.space.get(key)
        if isinstance(entry, Range):
            return 0 if entry.holds(value) else None
        same = (index for index, one in enumerate(entry or ()) if one == value and type(one) is type(value))
        return next(same, None)

    @property
    def digest(self) -> str:
        """Equal for equal spaces, whatever the order of their keys."""
        form = {
            key: one.model_dump() if isinstance(one, Range) else list(one) for key, one in self.space.items()
        }
        return digest_of({"space": form})


class Stop(Frozen):
    """Which rule ends trials that do badly. `grace`: epochs that every trial has; `reduction`: of asha, 1/reduction go on."""

    by: Literal["asha", "median"]
    grace: int = Field(10, ge=1)
    reduction: float = Field(3.0, gt=1, le=100)


@dataclass(frozen=True)
class Proposal:
    """The number-th point of a search. `problem`: why it can be no trial; `fingerprints`: of its trials, one for each seed."""

    number: int
    values: Mapping[str, Any]
    problem: str = ""
    fingerprints: tuple[str, ...] = field(default=(), compare=False)


Say = Callable[[Key, str], None]  # takes (key path, what is wrong there)


def read_search(found: Any, say: Say) -> Search | None:
    """The value of `search:`; everything that is wrong with it is said."""
    if not isinstance(found, Mapping):
        say(
            ("search",), f"search is {shown(found)}; allowed: a mapping with points, space, by, goal and seed"
        )
        return None
    settings = dict(found)
    settings["goal"] = _goal(settings.get("goal", "worst"), say)
    space = settings.get("space")
    if not isinstance(space, Mapping) or not space:
        what = "is missing" if space is None else f"is {shown(space)}"
        say(("search", "space"), f"search.space {what}; allowed: settings, each with {SPACE_FORMS}")
        space = {}
    read = {str(key): _entry(str(key), entry, (*SEARCHED, key), say) for key, entry in space.items()}
    settings["space"] = {key: entry for key, entry in read.items() if entry is not None}
    search = _validated(Search, settings, "search", say)
    return search if read and len(settings["space"]) == len(read) else None


def _goal(goal: Any, say: Say) -> list[Goal]:
    goals = goal if isinstance(goal, list) else [goal]
    for one in goals:
        if one not in ("worst", "avg"):
            say(
                ("search", "goal"),
                f"search: unknown goal {shown(one)}; {known(one, ('worst', 'avg'))}; several: [avg, worst]",
            )
    kept: list[Goal] = [one for one in ("worst", "avg") if one in goals]
    if len(goals) != len(set(map(str, goals))):
        say(("search", "goal"), f"search.goal names a goal twice: {shown(goal)}; keep one")
    return kept or ["worst"]


def _entry(key: str, entry: Any, where: Key, say: Say) -> tuple[Any, ...] | Range | None:
    name = f"search.space.{key}"
    if key in ("seed", "seeds"):
        say(where, f"{name}: seeds are not searched; write seeds: [...] at the top of the file")
    elif "/" in key:
        say(where, f"{name}: a setting has no / in its name; write dots between its words")
    elif isinstance(entry, list):
        twice = [one for index, one in enumerate(entry) if one in entry[:index]]
        if entry and not twice:
            return tuple(entry)
        why = f"names {shown(twice[0])} twice; keep one" if twice else "has an empty list; write its choices"
        say(where, f"{name} {why}")
    elif isinstance(entry, Mapping):
        return _validated(Range, dict(entry), name, say, where)
    else:
        say(where, f"{name} is {shown(entry)}; allowed: {SPACE_FORMS}")
    return None


def read_stop(found: Any, say: Say) -> Stop | None:
    """The value of `stop:`; None for `none`, and where something is wrong."""
    if found == "none":
        return None
    settings = {"by": found} if isinstance(found, str) else found
    if not isinstance(settings, Mapping):
        say(("stop",), f"stop is {shown(found)}; allowed: none, or a mapping with by, grace and reduction")
        return None
    if settings.get("by") == "median" and "reduction" in settings:
        say(("stop", "reduction"), "stop.reduction belongs to by: asha; leave it out with median")
        return None
    return _validated(Stop, dict(settings), "stop", say)


def _validated(
    model: type[Model], settings: dict[str, Any], name: str, say: Say, home: Key | None = None
) -> Model | None:
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        for problem in problems_of(error, model, settings):
            say((*(home or (name,)), *problem.path), f"{name}: {problem.text}")
        return None
