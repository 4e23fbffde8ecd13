"""Parts of a method: found by kind and name, described by pydantic fields, loaded without torch.

A kind is a package of ham_core (`objectives`, `mining`, `calibration`, `averaging`). Its `INDEX` maps each name to
`module:Class`; adding a part is one new file and one line there. Other people's packages join through the entry-point
groups `ham_sweeps.objectives`, `ham_sweeps.mining`, ... with values of the same form.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_serializer,
)
from pydantic_core import PydanticCustomError

from ham_core.errors import known
from ham_core.plugins import entry_points

Kind = Literal["objectives", "mining", "calibration", "averaging"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Frozen(BaseModel):
    """Every configuration object: immutable, unknown keys refused, defaults validated like values."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`true` is no 1, neither alone nor in a list."""
        # Asked of every field of every trial of a sweep, so the usual value is passed on quickly.
        if isinstance(value, bool) or (
            isinstance(value, list | tuple) and any(isinstance(entry, bool) for entry in value)
        ):
            kinds = _plain_types(cls.model_fields[str(info.field_name)].annotation)
            if bool not in kinds and kinds & {int, float}:
                raise PydanticCustomError("boolean", "a boolean is no number")
        return value


def _plain_types(annotation: Any) -> set[Any]:
    """The types that an annotation is built of: `tuple[int, ...] | None` -> int and None."""
    inner = get_args(annotation)
    return set().union(*map(_plain_types, inner)) if inner else {annotation}


class Part(Frozen):
    """One choice within a method. `name` is its YAML name, `source` where its maths comes from.

    `cost` is what it adds to a step of plain adversarial training with K attack steps, which takes (K+1)F + K Bx + 1(Bx+Bw):
    F a forward pass of the batch, Bx a backward pass to the input only, Bx+Bw one to the weights as well.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    cost: ClassVar[str] = "none"
    needs: ClassVar[tuple[str, ...]] = ()  # what it cannot do without: a helper, held-out images, ...
    epoch_fields: ClassVar[frozenset[str]] = (
        frozenset()
    )  # scale with `epochs` when a profile shortens the training

    @model_serializer(mode="wrap")
    def _with_name(self, handler: Any) -> dict[str, Any]:
        return {"name": self.name, **handler(self)}


class From(Frozen):
    """A value that holds from one epoch on, until the next entry of its schedule."""

    start_epoch: int = Field(ge=0)
    value: float


def value_at(schedule: float | tuple[From, ...], epoch: int, before: float = 0.0) -> float:
    """The value of a number or a schedule in this epoch; `before` its first entry."""
    if isinstance(schedule, int | float):
        return float(schedule)
    passed = [entry for entry in schedule if epoch >= entry.start_epoch]
    return max(passed, key=lambda entry: entry.start_epoch).value if passed else before


@cache
def index(kind: Kind) -> dict[str, str]:
    """name -> `module:Class` of every part of a kind, ours and those of installed packages."""
    ours: dict[str, str] = dict(importlib.import_module(f"ham_core.{kind}").INDEX)
    theirs = {point.name: point.value for point in entry_points(group=f"ham_sweeps.{kind}")}
    return {**theirs, **ours}


def find(kind: Kind, name: object) -> type[Part]:
    """The class of a part by its name."""
    places = index(kind)
    if not isinstance(name, str) or name not in places:
        raise PydanticCustomError("unknown_part", "{text}", {"text": f"unknown name; {known(name, places)}"})
    module, _, attribute = places[name].partition(":")
    part: type[Part] = getattr(importlib.import_module(module), attribute)
    return part


def build(kind: Kind, value: Any) -> Part:
    """A part from YAML: `trades`, or `{name: trades, beta: 6.0}`."""
    if isinstance(value, Part):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict) or "name" not in value:
        text = f"write a name, or a mapping with a name; {known('', index(kind))}"
        raise PydanticCustomError("part_form", "{text}", {"text": text})
    settings = dict(value)
    return find(kind, settings.pop("name")).model_validate(settings)


def part_of(kind: Kind, base: Any) -> Any:
    """The pydantic field type for 'a part of this kind'; it is dumped with its own fields."""
    return Annotated[SerializeAsAny[base], BeforeValidator(lambda value: build(kind, value))]  # type: ignore[misc]
