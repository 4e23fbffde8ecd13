"""FAWA, fairness-aware weight averaging. Wei et al., CVPR 2023, arXiv:2303.14460; PKU-ML/CFA @071f333.

    θ̄ ← a θ̄ + (1 - a) θ after each epoch in which min_c (robust accuracy of θ on class c) ≥ threshold

on held-out images; in other epochs θ̄ stays. The first such epoch copies θ. The accuracy is that under the selection attack
(`selection.steps`, 10 by default as in the paper), so it costs nothing more.
Paper a = 0.85, code 0.88; threshold 0.20 in the paper and the README's command, 0.24 in the code's defaults; the paper
averages from epoch 50 on, the code from the first epoch that passes.
Differs from the code: where no epoch passes, the last θ stands in and the metric train/accepted/fawa is 0 (there θ̄ stays at
its random start).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ham_core.averaging.base import Averaging


class Fawa(Averaging):
    """Average over the epochs whose worst class is robust enough."""

    name = "fawa"
    source = "Wei et al., CVPR 2023, arXiv:2303.14460"
    cost = "none; per epoch one multiply-add of each weight"
    needs = ("held-out images",)
    needs_validation = True

    decay: float = Field(0.85, ge=0, lt=1, description="a")
    threshold: float = Field(
        0.2, ge=0, le=1, description="least robust accuracy of the worst class on held-out images"
    )
    every: Literal["epoch"] = Field("epoch", description="fixed: epochs are accepted or not")
    start_epoch: int = Field(50, ge=0, description="first epoch that may enter the average")

    def rate(self, updates: int) -> float:
        """a."""
        return self.decay

    def accepts(self, worst: float) -> bool:
        """worst ≥ threshold."""
        return worst >= self.threshold
