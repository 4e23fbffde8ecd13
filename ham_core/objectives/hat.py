"""HAT, helper-based adversarial training. Rade and Moosavi-Dezfooli, ICLR 2022; code imrahulr/hat @3177a4f.

    min_θ E[ CE(f(x), y) + β KL(p(x) ‖ p(x')) + γ CE(f(x_h), argmax g(x')) ],   x_h = x + h (x' - x)

g is a helper network from standard training, the trial's `helper`. x_h lies beyond x', outside the ball, and is not clipped.
The attack is TRADES's (`attack: kl`) or AT's (`ce`; the code starts that one uniformly: set attack.start: uniform with it).
γ = 0 is TRADES. The main term is CE(f(x), y) and the regularisation β KL; class weights leave the helper's term alone.
The defaults are those of the code's command line (β 2.5, γ 0.5, h 2), which override those of its loss functions (1, 1, 3.5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import Field

from ham_core.lazy import torch
from ham_core.objectives.base import NOTHING, Extra, Objective, cross_entropy, kl, weighted


class Hat(Objective):
    """TRADES, and beyond the adversarial example the label that a standard network gives to it."""

    name = "hat"
    source = "Rade and Moosavi-Dezfooli, ICLR 2022; imrahulr/hat @3177a4f"
    cost = "+3F +2(Bx+Bw) +1F of the helper; -1F with attack ce"
    needs = ("a helper trial",)
    start = "gaussian"
    loss_needs_clean = True
    needs_helper = True

    beta: float = Field(2.5, ge=0, description="β, weight of the robust term")
    gamma: float = Field(0.5, ge=0, description="γ, weight of the helper's term; 0: it is not computed")
    stretch: float = Field(2.0, ge=0, description="h, how far x_h lies from x, in units of x' - x")
    attack: Literal["kl", "ce"] = Field(
        "kl", description="what the attack ascends; with ce set attack.start: uniform"
    )

    @property
    def attack_needs_clean(self) -> bool:  # type: ignore[override]
        """Only the divergence reads p(x)."""
        return self.attack == "kl"

    def ascend(self, clean: torch.Tensor | None, adv: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """KL(p(x) ‖ p(x')), or CE(f(x'), y)."""
        if self.attack == "ce":
            return cross_entropy(adv, y)
        assert clean is not None
        return kl(clean, adv)

    def points(
        self,
        x: torch.Tensor,
        adv: torch.Tensor,
        marks: Mapping[str, torch.Tensor],
        helper: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """x_h (n,C,H,W), and the helper's labels of x' (n,)."""
        if self.gamma == 0:
            return {}, {}
        return {"beyond": x + self.stretch * (adv - x)}, {"label": helper(adv).argmax(1)}

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
        """CE(f(x), y) + β_i KL(p(x) ‖ p(x')) + γ CE(f(x_h), y_h); β_i = β, or β times the class's factor."""
        assert clean is not None
        weight = self.beta if beta is None else self.beta * beta
        total = weighted(cross_entropy(clean, y), natural) + weight * kl(clean, adv)
        return total + self.gamma * cross_entropy(extra["beyond"], extra["label"]) if self.gamma else total
