"""MART, misclassification-aware adversarial training. Wang et al., ICLR 2020; code YisenWang/MART mart.py @2d83e17.

    min_θ E[ BCE(p(x'), y) + λ KL(p(x) ‖ p(x')) (1 - p_y(x)) ],   x' = argmax_{|x'-x|∞ ≤ ε} CE(f(x'), y)
    BCE(p, y) = -log p_y - log(1 - max_{k≠y} p_k)

λ is `beta`. The main term is BCE, the regularisation KL (1 - p_y(x)). The code's constants are kept: log(1.0001 - p + 1e-12),
log(p' + 1e-12) inside KL and the factor 1.0000001 - p_y. Gradients flow through p(x) and through the factor.
Differs from the code: log p(x) is a log-softmax, which stays finite where p underflows (there the logarithm of p).
"""

from __future__ import annotations

from pydantic import Field

from ham_core.lazy import F, torch
from ham_core.objectives.base import NOTHING, Extra, Objective, best_other, cross_entropy, weighted


class Mart(Objective):
    """Boosted cross-entropy on the adversarial example, and a divergence that counts more where x is misclassified."""

    name = "mart"
    source = "Wang et al., ICLR 2020; YisenWang/MART @2d83e17"
    cost = "+1F +1(Bx+Bw)"
    start = "gaussian"
    loss_needs_clean = True

    beta: float = Field(5.0, ge=0, description="λ, weight of the divergence (6 for WRN-34-10)")

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
        """BCE(p(x'), y) + λ_i KL(p(x) ‖ p(x')) (1 - p_y(x)); λ_i = λ, or λ times the class's factor."""
        assert clean is not None
        log_p, p, p_adv = F.log_softmax(clean, 1), clean.softmax(1), adv.softmax(1)
        boosted = cross_entropy(adv, y) - torch.log(1.0001 - best_other(p_adv, y) + 1e-12)
        divergence = (p * (log_p - torch.log(p_adv + 1e-12))).sum(1)
        doubt = 1.0000001 - p.gather(1, y[:, None]).squeeze(1)
        weight = self.beta if beta is None else self.beta * beta
        return weighted(boosted, natural) + weight * divergence * doubt
