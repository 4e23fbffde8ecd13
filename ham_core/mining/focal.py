"""Focal weights. Lin et al., ICCV 2017, arXiv:1708.02002.

    w_i = (1 - p_y(x_i'))^γ;   w ← w n / Σw with `normalise` (mean 1; all 1 where every w is zero)

Examples that the network is sure of weigh little. p is read off the training's own forward pass of x'.
Differs from the paper: no gradient flows through the weight; it multiplies the whole loss of any objective, not only a
cross-entropy; it has mean 1 over the batch unless `normalise` is false, which is the paper's form; there is no factor per
class (that is `class_balanced`).
"""

from __future__ import annotations

from pydantic import Field

from ham_core.lazy import torch
from ham_core.mining.base import Mining
from ham_core.mining.weights import mean_one


class Focal(Mining):
    """Weights by how unsure the network is of the true class."""

    name = "focal"
    source = "Lin et al., ICCV 2017, arXiv:1708.02002"

    gamma: float = Field(2.0, ge=0, description="γ; 0 weighs all alike")
    normalise: bool = Field(True, description="mean 1 over the batch")

    def weigh_trained(self, adv: torch.Tensor, y: torch.Tensor) -> torch.Tensor | None:
        """w -> (n,), from logits of x' (n,C) and labels (n,)."""
        if self.gamma == 0:
            return None
        weights = (1 - adv.softmax(1).gather(1, y[:, None]).squeeze(1)).pow(self.gamma)
        return mean_one(weights) if self.normalise else weights
