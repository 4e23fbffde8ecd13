"""AT, adversarial training with projected gradients. Madry et al., ICLR 2018, arXiv:1706.06083.

min_θ E[ max_{|x'-x|∞ ≤ ε} CE(f(x'), y) ]
"""

from __future__ import annotations

from ham_core.lazy import torch
from ham_core.objectives.base import NOTHING, Extra, Objective, cross_entropy, weighted


class AT(Objective):
    """Cross-entropy on the adversarial example."""

    name = "at"
    source = "Madry et al., ICLR 2018, arXiv:1706.06083"

    def ascend(self, clean: torch.Tensor | None, adv: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """CE(f(x'), y)."""
        return cross_entropy(adv, y)

    def loss(
        self,
        clean: torch.Tensor | None,
        adv: torch.Tensor,
        y: torch.Tensor,
        *,
        natural: torch.Tensor | None = None,
        beta: torch.Tensor | None = None,
        extra: Extra = NOTHING,
    ) -> torch.Tensor:
        """CE(f(x'), y)."""
        return weighted(cross_entropy(adv, y), natural)
