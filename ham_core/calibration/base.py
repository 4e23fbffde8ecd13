"""The interface of a calibration: class statistics in, three factors per class out."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from ham_core.lazy import torch
from ham_core.parts import Part


@dataclass(frozen=True)
class Factors:
    """One value per class (C,); None means 1. The radius is margin_c ε, the loss weight_c ℓ, and β is beta_c β."""

    margin: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    beta: torch.Tensor | None = None


class Calibration(Part):
    """Renewed before each epoch from what the epoch before showed."""

    epoch_fields: ClassVar[frozenset[str]] = frozenset({"start_epoch"})

    start_epoch: int = Field(
        0, ge=0, description="first calibrated epoch; needs one epoch of statistics before it"
    )

    @abstractmethod
    def factors(self, robust: torch.Tensor) -> Factors:
        """From the previous epoch's class-wise robust training accuracy (C,), in [0, 1]."""
