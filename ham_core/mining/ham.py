"""HAM, hard adversarial example mining. Lin, Ji, Yang et al., IEEE TIFS 20 (2025) 350-363, arXiv:2308.01823.

    H = { i : argmax f(x_i^m) ≠ y_i }                        early drop: the easy rest leaves after step m of K
    min_θ (1/|H|) Σ_{i ∈ H} w_i ℓ(f(x_i^K), y_i)              w = `Weight`, mean 1 over H

Code yyl-github-1896/HAM @e3ee5ff: w is 1 (the reweighting is commented out), the mean is over H, m = 3 (SVHN 5), and
plain AT comes first (`start_epoch`). Paper: weights from the adversarial step size. Unclear there: whether "within m
steps" means at step m (the code; default) or at any step up to it (`hard_rule: any_step`).
Differs from the code: a batch without hard examples is skipped and counted (there it ends in an error, or in a step of
momentum and weight decay alone).
`drop_rate` takes ⌊d |O|⌋ of the over-confident O = {c(x^K) > c(x)} out of H, the most over-confident first; c is the
confidence in the true or in the predicted class.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ham_core.lazy import torch
from ham_core.mining.base import Confidence, Mining, Trajectory, overconfidence
from ham_core.mining.drop_overconfident import keep_after_drop
from ham_core.mining.weights import Weight


class Ham(Mining):
    """Early drop of easy adversarial examples, reweighting of hard ones."""

    name = "ham"
    source = "Lin et al., IEEE TIFS 2025, arXiv:2308.01823"

    early_drop_step: int = Field(3, ge=0, description="m, attack steps before the easy examples leave")
    hard_rule: Literal["at_step", "any_step"] = Field(
        "at_step", description="misclassified at step m, or at any up to it"
    )
    weight: Weight = Weight.model_validate("uniform")
    drop_rate: float = Field(
        0.0, ge=0, le=1, description="share of the over-confident among the hard that is dropped"
    )
    confidence: Confidence = Field("true_class", description="whose confidence tells the over-confident")
    start_epoch: int = Field(49, ge=0, description="warm-up epochs of plain training")

    def check(self, steps: int) -> None:
        """m must lie within the attack."""
        if self.early_drop_step > steps:
            raise ValueError(
                f"mining.early_drop_step is {self.early_drop_step}, but the attack has only {steps} steps; "
                f"use 0 to {steps}, or raise attack.steps"
            )

    def wants_path(self) -> bool:
        """For step sizes and crossings."""
        return self.weight.wants_path() or self.hard_rule == "any_step"

    def pause(self) -> int:
        """m."""
        return self.early_drop_step

    def keep(self, seen: Trajectory) -> torch.Tensor:
        """H -> (n,) bool."""
        hard = seen.current().argmax(1) != seen.y
        if self.hard_rule == "any_step":
            for logits in seen.path:
                hard = hard | (logits.argmax(1) != seen.y)
        seen.note("hard_share", hard)
        return hard

    def finish(self, seen: Trajectory) -> torch.Tensor | None:
        """H without the dropped over-confident."""
        if self.drop_rate == 0:
            return None
        gap = overconfidence(seen, self.confidence)
        seen.note("overconfident", gap > 0)
        return keep_after_drop(gap, self.drop_rate, gap)

    def weigh(self, seen: Trajectory) -> torch.Tensor | None:
        """w -> (n,)."""
        return self.weight(seen)
