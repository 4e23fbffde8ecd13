"""The interface of a calibration: class statistics in, factors per class out.

Its parameters are fixed; what it has learnt stands in a `state`, a mapping of tensors that is saved with the training.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from ham_core.lazy import torch
from ham_core.parts import Part

State = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class Factors:
    """One value per class (C,); None means 1. For a sample of class c the radius is margin_c ε, and its loss

        weight_c (natural_c N + beta_c β R)        N the main term, R the regularisation of the objective

    With `per_batch`, natural and beta are divided by their mean over the batch.
    """

    margin: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    natural: torch.Tensor | None = None
    beta: torch.Tensor | None = None
    per_batch: bool = False

    def of(self, which: str, y: torch.Tensor) -> torch.Tensor | None:
        """One of the four per sample (n,), for labels y (n,)."""
        factors: torch.Tensor | None = getattr(self, which)
        if factors is None:
            return None
        values = factors[y]
        return values / values.mean() if self.per_batch and which in ("natural", "beta") else values

    def by_class(self) -> dict[str, list[float]]:
        """Those that are not 1: `margin` -> one number per class."""
        found = {name: getattr(self, name) for name in ("margin", "weight", "natural", "beta")}
        return {name: values.tolist() for name, values in found.items() if values is not None}


@dataclass(frozen=True)
class Observed:
    """What is known before an epoch starts.

    counts (C,) training images per class; robust (C,) accuracy on x' in the epoch before, confusion (C,C) mean of p_j(x') over
    its images of class i: both read off the training's own forward passes, None before the first epoch.
    """

    epoch: int
    counts: torch.Tensor
    robust: torch.Tensor | None
    confusion: torch.Tensor | None
    accuracies: Callable[[int], tuple[torch.Tensor, torch.Tensor]]
    """accuracies(steps): class-wise (clean, robust) accuracy (C,) on held-out images; PGD on CE, uniform start, step ε/4."""
    losses: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    """Sums (C,) of the objective's loss over each class's held-out images under its own attack, and their numbers (C,)."""


class Calibration(Part):
    """Renewed before each epoch from `start_epoch` on."""

    epoch_fields: ClassVar[frozenset[str]] = frozenset({"start_epoch"})
    needs_validation: ClassVar[bool] = False  # `renew` looks at held-out images
    samples: ClassVar[bool] = False  # `draw` chooses the images of each batch

    start_epoch: int = Field(0, ge=0, description="first calibrated epoch")

    def initial(self, classes: int) -> State:
        """The state before the first epoch."""
        return {}

    def renew(self, state: State, observed: Observed) -> State:
        """The state for the epoch that is about to start."""
        return state

    @abstractmethod
    def factors(self, state: State) -> Factors:
        """What the state means for each class."""

    def attack_step(self, margin: torch.Tensor, step: float, epsilon: float) -> float | torch.Tensor:
        """α of a batch, a number or one per sample (B,); margin (B,) scales ε."""
        return step

    def steps_again(self) -> bool:
        """Whether each attack step is followed by one of α within the plain ε, along the same gradient."""
        return False

    def draw(self, state: State, labels: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
        """Positions (size,) of the next batch among the training images with these labels (N,)."""
        raise TypeError(f"{self.name} draws no batches")

    def observe(self, state: State, y: torch.Tensor, right: torch.Tensor) -> State:
        """The state after a batch: labels y (n,), and whether x' was classified rightly (n,)."""
        return state
