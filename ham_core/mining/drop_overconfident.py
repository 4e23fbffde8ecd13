"""Drop a share of the over-confident adversarial examples. HAM's Table 1: Lin et al., arXiv:2308.01823, section 3.2.

    O = { i : c(x_i^K) > c(x_i) };   ⌊d |O|⌋ of them are dropped, the rest of the batch is trained on uniformly

c is the confidence p_y in the true class, or in the predicted class (`base.overconfidence` says why there is a choice).
The paper does not say which share is dropped, nor when, and no released script does it: dropping per batch, in the
attack's mode and before the update, those with the largest gain c(x^K) - c(x) is our protocol; `choose: random` is the
other arm.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from ham_core.lazy import torch
from ham_core.mining.base import Confidence, Mining, Trajectory, overconfidence


def keep_after_drop(gap: torch.Tensor, rate: float, order: torch.Tensor) -> torch.Tensor:
    """All rows (n,) but the ⌊rate |O|⌋ rows of O = {gap > 0} that come first in falling `order` (n,)."""
    over = gap > 0
    drop = math.floor(rate * int(over.sum()) + 1e-9)  # 0.29 * 100 is 28.999999999999996
    keep = torch.ones_like(over)
    ranking = torch.where(over, order, -torch.inf).argsort(descending=True, stable=True)
    keep[ranking[:drop]] = False
    return keep


class DropOverconfident(Mining):
    """Plain training on everything but some over-confident adversarial examples."""

    name = "drop_overconfident"
    source = "Lin et al., arXiv:2308.01823, Table 1"
    cost = "+2F, +1F where the attack has the clean logits; outer pass on what is left"

    drop_rate: float = Field(0.1, ge=0, le=1, description="d, share of the over-confident examples")
    choose: Literal["most_confident", "random"] = Field(
        "most_confident", description="which of them leave: those that gained most, or a random choice"
    )
    confidence: Confidence = Field("true_class", description="whose confidence is compared")

    def finish(self, seen: Trajectory) -> torch.Tensor | None:
        """Rows that stay."""
        gap = overconfidence(seen, self.confidence)
        seen.note("overconfident", gap > 0)
        order = gap
        if self.choose == "random":
            order = torch.rand(len(gap), generator=seen.generator, device=seen.generator.device).to(
                gap.device
            )
        return keep_after_drop(gap, self.drop_rate, order)
