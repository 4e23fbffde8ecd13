"""OHEM, online hard example mining by loss. Shrivastava et al., CVPR 2016, arXiv:1604.03540.

    H = the ⌈share n⌉ of the n examples with the largest CE(f(x'), y);   min_θ (1/|H|) Σ_{i ∈ H} ℓ(f(x_i'), y_i)

Differs from the paper, which mines regions of an image for a detector: here the examples of a batch are mined under attack,
in the attack's mode and by cross-entropy, whatever the objective is. Of equal losses those earlier in the batch stay.
"""

from __future__ import annotations

import math

from pydantic import Field

from ham_core.lazy import torch
from ham_core.mining.base import Mining, Trajectory
from ham_core.objectives.base import cross_entropy


class Ohem(Mining):
    """The share of each batch with the highest adversarial loss."""

    name = "ohem"
    source = "Shrivastava et al., CVPR 2016, arXiv:1604.03540"
    cost = "+1F, outer pass on the share only"

    share: float = Field(0.5, gt=0, le=1, description="share of the batch that is trained on")

    def finish(self, seen: Trajectory) -> torch.Tensor | None:
        """H -> (n,) bool; None, for nothing, where that is everyone."""
        n = len(seen.y)
        size = math.ceil(self.share * n - 1e-9)  # 0.07 * 100 is 7.000000000000001
        if size == n:
            return None
        keep = torch.zeros_like(seen.y, dtype=torch.bool)
        keep[cross_entropy(seen.current(), seen.y).argsort(descending=True, stable=True)[:size]] = True
        return keep
