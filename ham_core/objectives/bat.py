"""BAT, balance adversarial training. Sun et al., 2022, arXiv:2209.07534;
code silvercherry/Improving-Robust-Fairness-via-Balance-Adversarial-Training @9bcee67.

    min_θ E[ CE(f(x_a), y) + β KL(p(x) ‖ p(x_b)) + KL(p(x_a) ‖ U) + KL(p(x_b) ‖ U) ],   KL(p ‖ U) = log C - H(p)

on the path x^0, x^1, ... of an attack on KL(p(x) ‖ p(x')):
    x_a  the last clean one: before the first misclassified iterate (x^0 if that is misclassified, x^K if none is found to be)
    x_b  the first adversarial one, as FAT's with τ = 1: one step past the first misclassified iterate (x^K if there is none)
The main term is CE(f(x_a), y); class weights leave the two last terms alone.
Differs from the code: both points are read off one path (there off two, with separate noise), and x_b stays beside its own x_a
(there it comes back in another order). Differs from the paper: it speaks of class-wise strengths, of which the code has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from pydantic import Field

from ham_core.lazy import F, torch
from ham_core.mining.base import Trajectory
from ham_core.objectives.base import NOTHING, Extra, Objective, cross_entropy, kl, weighted

TAU = 1  # steps of x_b past the first misclassified iterate


class Bat(Objective):
    """Both sides of the boundary: classify just before it, regularise just beyond it, stay undecided at both."""

    name = "bat"
    source = "Sun et al., 2022, arXiv:2209.07534"
    cost = "+3F +2(Bx+Bw), or less: an example that has stopped takes no further step"
    start = "gaussian"
    attack_needs_clean = True
    loss_needs_clean = True

    beta: float = Field(6.0, ge=0, description="β, weight of the robust term")

    def ascend(self, clean: torch.Tensor | None, adv: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """KL(p(x) ‖ p(x'))."""
        assert clean is not None
        return kl(clean, adv)

    def follow(self, seen: Trajectory, logits: torch.Tensor) -> torch.Tensor | None:
        """Rows (n,) that go on towards x_b; x_a is noted on the way."""
        before = seen.marks.get("wrong", torch.zeros_like(seen.y))  # misclassified iterates so far
        wrong = before + (logits.argmax(1) != seen.y).long()
        last_clean = seen.marks.get("last_clean", seen.adv)
        uncrossed = (wrong == 0).reshape(-1, 1, 1, 1)
        seen.marks["wrong"] = wrong
        seen.marks["last_clean"] = torch.where(uncrossed, seen.adv, last_clean)
        return wrong <= TAU

    def points(
        self,
        x: torch.Tensor,
        adv: torch.Tensor,
        marks: Mapping[str, torch.Tensor],
        helper: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """x_a (n,C,H,W); x' where no iterate was seen to be misclassified."""
        if "wrong" not in marks:
            return {"last_clean": adv}, {}
        crossed = (marks["wrong"] > 0).reshape(-1, 1, 1, 1)
        return {"last_clean": torch.where(crossed, marks["last_clean"], adv)}, {}

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
        """CE(f(x_a), y) + β_i KL(p(x) ‖ p(x_b)) + KL(p(x_a) ‖ U) + KL(p(x_b) ‖ U); β_i = β, or β times the class's factor."""
        assert clean is not None
        last_clean = extra["last_clean"]
        weight = self.beta if beta is None else self.beta * beta
        total = weighted(cross_entropy(last_clean, y), natural) + weight * kl(clean, adv)
        return total + from_uniform(last_clean) + from_uniform(adv)


def from_uniform(logits: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ U) = log C + Σ_c p_c log p_c of logits (n,C) -> (n,)."""
    log_p = F.log_softmax(logits, 1)
    return math.log(logits.shape[1]) + (log_p.exp() * log_p).sum(1)
