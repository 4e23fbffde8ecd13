"""GAIRAT, geometry-aware instance-reweighted adversarial training. Zhang et al., ICLR 2021, arXiv:2010.01736;
code zjfheart/Geometry-aware-Instance-reweighted-Adversarial-Training @16813b5.

    κ_i = |{ k < K : argmax f(x_i^k) = y_i }|              iterates x^0..x^{K-1} that are classified rightly, 0..K
    tanh      ω = (1 + tanh(Λ + 5(⌊K/2⌋ - κ)/⌊K/2⌋)) / 2
    sigmoid   ω = σ(Λ + 5(⌊K/2⌋ - κ)/⌊K/2⌋)
    discrete  ω = (K + 1 - κ) / (K + 1)
    ω ← ω B / Σω                                          mean 1; all 1 where every ω is zero

Examples near the decision boundary (small κ) weigh more; Λ = +∞ weighs all alike. κ is read off the attack's own logits. A row
that the objective stops (FAT) stands still, so that its last iterate counts for the steps that it does not take.
Differs from the code: its "piecewise" Λ never gets beyond its first value, here a schedule of Λ means what it says, with
Λ = +∞ before its first entry.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from ham_core.lazy import torch
from ham_core.mining.base import Mining, Trajectory
from ham_core.mining.weights import mean_one
from ham_core.parts import From, value_at


class Gairat(Mining):
    """Weights by how many attack steps an example withstands."""

    name = "gairat"
    source = "Zhang et al., ICLR 2021, arXiv:2010.01736"
    needs_path = True

    function: Literal["tanh", "sigmoid", "discrete"] = Field("tanh", description="ω as a function of κ")
    shift: float | tuple[From, ...] = Field(
        -1.0, description="Λ of tanh and sigmoid; a number or a schedule, 1e9 is as good as +∞"
    )
    start_epoch: int = Field(59, ge=0, description="warm-up epochs in which all weights are 1")

    def check(self, steps: int) -> None:
        """⌊K/2⌋ is divided by."""
        fewest = 1 if self.function == "discrete" else 2
        if steps < fewest:
            raise ValueError(
                f"mining.function is {self.function}, which needs at least {fewest} attack steps to tell examples apart, "
                f"but attack.steps is {steps}; raise it"
            )

    def weigh(self, seen: Trajectory) -> torch.Tensor:
        """ω B / Σω -> (n,)."""
        omega = self.omega(
            correct_iterates(seen), seen.steps, value_at(self.shift, seen.epoch, before=math.inf)
        )
        return mean_one(omega).to(seen.x.dtype)

    def omega(self, kappa: torch.Tensor, steps: int, shift: float) -> torch.Tensor:
        """ω (n,) of κ (n,), K and Λ."""
        if self.function == "discrete":
            return (steps + 1 - kappa) / (steps + 1)
        half = steps // 2
        argument = shift + 5 * (half - kappa) / half
        return torch.sigmoid(argument) if self.function == "sigmoid" else (1 + torch.tanh(argument)) / 2


def correct_iterates(seen: Trajectory) -> torch.Tensor:
    """κ -> (n,), in double precision, where 1 + tanh keeps its digits near zero."""
    stops = seen.path + [seen.path[-1]] * (
        seen.steps - len(seen.path)
    )  # once all rows are stopped none moves
    return torch.stack([logits.argmax(1) == seen.y for logits in stops]).sum(0).double()
