"""The interface of an average: which updates of θ enter θ̄, and with which rate."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from ham_core.parts import Part


class Averaging(Part):
    """θ̄ ← a θ̄ + (1 - a) θ. BatchNorm's statistics are averaged like the parameters."""

    epoch_fields: ClassVar[frozenset[str]] = frozenset({"start_epoch"})
    from_initial: ClassVar[bool] = False  # θ̄ begins at the initial weights; else the first update copies θ
    needs_validation: ClassVar[bool] = False  # `accepts` is asked, with accuracies on held-out images

    every: Literal["step", "epoch"] = Field("step", description="when θ enters the average")
    start_epoch: int = Field(0, ge=0, description="first epoch that enters the average")
    label: str | None = Field(None, pattern=r"^[a-z0-9]+$", description="name of the weights: best_<label>")

    @field_validator("label")
    @classmethod
    def _no_rule(cls, value: str | None) -> str | None:
        if value in ("avg", "sum", "worst"):
            raise ValueError(f"best_{value} is the name of a selection rule; give the average another label")
        return value

    @property
    def key(self) -> str:
        """What is appended to `best` and `last` to name these weights."""
        return self.label or self.name

    @abstractmethod
    def rate(self, updates: int) -> float:
        """a, given how many updates θ̄ has had."""

    def accepts(self, worst: float) -> bool:
        """Whether an epoch enters the average, by the worst class's robust accuracy of θ on held-out images."""
        return True
