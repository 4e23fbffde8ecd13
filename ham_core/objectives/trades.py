"""TRADES. Zhang et al., ICML 2019, arXiv:1901.08573; code yaodongyu/TRADES trades.py @6e8e11b.

    min_θ E[ CE(f(x), y) + β max_{|x'-x|∞ ≤ ε} KL(p(x) ‖ p(x')) ]

Differs from the code: f(x) is computed once in training mode (there twice, so BatchNorm sees x twice) and once for the
whole attack (there at every step).
"""

from __future__ import annotations

from pydantic import Field

from ham_core.lazy import torch
from ham_core.objectives.base import NOTHING, Extra, Objective, cross_entropy, kl, weighted


class Trades(Objective):
    """Natural cross-entropy plus β times the divergence between clean and adversarial predictions."""

    name = "trades"
    source = "Zhang et al., ICML 2019, arXiv:1901.08573"
    cost = "+2F +1(Bx+Bw)"
    start = "gaussian"
    attack_needs_clean = True
    loss_needs_clean = True

    beta: float = Field(6.0, ge=0, description="β, weight of the robust term")
    scaled: bool = Field(False, description="divide by 1 + β, as CFA's code does for TRADES")

    def ascend(self, clean: torch.Tensor | None, adv: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """KL(p(x) ‖ p(x'))."""
        assert clean is not None
        return kl(clean, adv)

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
        """CE(f(x), y) + β_i KL(p(x) ‖ p(x')), over 1 + β_i if `scaled`; β_i = β, or β times the class's factor."""
        assert clean is not None
        weight = self.beta if beta is None else self.beta * beta
        total = weighted(cross_entropy(clean, y), natural) + weight * kl(clean, adv)
        return total / (1 + weight) if self.scaled else total
