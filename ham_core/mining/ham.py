"""HAM, hard adversarial example mining. Lin, Ji, Yang et al., IEEE TIFS 20 (2025) 350-363, arXiv:2308.01823.

    H = { i : argmax f(x_i^m) ≠ y_i }                        early drop: the easy rest E leaves after step m of K
    min_θ (1/|H|) Σ_{i ∈ H} w_i ℓ(f(x_i^K), y_i)              w = `Weight`, mean 1 over H

Code yyl-github-1896/HAM @e3ee5ff: w is 1 (the reweighting is commented out), the mean is over H, m = 3 (SVHN 5), and
plain AT comes first (`start_epoch`). Paper: weights from the adversarial step size. Unclear there: whether "within m
steps" means at step m (the code; default) or at any step up to it (`hard_rule: any_step`).
Differs from the code: a batch without examples to train on is skipped and counted (there it ends in an error, or in a step
of momentum and weight decay alone).
`drop_rate` takes ⌊d |O|⌋ of the over-confident O = {c(x^K) > c(x)} out of H, the most over-confident first; c is the
confidence in the true or in the predicted class.

The code also names options whose meaning is lost with files that were never released; these are our definitions:

    easy_high, easy_low   ⌊r |E|⌋ of E with the largest, the smallest p_y(x^m) are trained on after all (keep_bili_high_conf,
                          keep_bili_low_conf), with weights easy_high_weight, easy_low_weight (.._mul; H has mean 1), as
                          x^m, or as the clean x with easy_clean (keep_clean); the mean is then over all that is trained on
    clean_weight          all of E is trained on as the clean x with weight v; then w ← w n / Σw over the n examples that are
                          trained on (add_w_on_clean)
    drop_confident        the ⌈(1 - d) |H|⌉ of H with the smallest p_y(x^K) stay (drop_bili; visible there, with
                          ⌊(1 - d) |H|⌋ + 1 of them)

Numbers are rounded with a tolerance of 1e-9, as 0.29 · 100 is 28.999999999999996 in floating point. Of equal confidences those
earlier in the batch come first: they return as the more confident, and they stay.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ham_core.lazy import torch
from ham_core.mining.base import Confidence, Mining, Trajectory, overconfidence
from ham_core.mining.drop_overconfident import keep_after_drop
from ham_core.mining.weights import Weight, mean_one


class Ham(Mining):
    """Early drop of easy adversarial examples, reweighting of hard ones."""

    name = "ham"
    source = "Lin et al., IEEE TIFS 2025, arXiv:2308.01823"
    cost = (
        "in all m+1+(K-m+1)ρ F, m+(K-m)ρ Bx, ρ(Bx+Bw), ρ = |H|/B; +ρF where weights or drops read x^K, +ρF where they read "
        "x; easy examples that return add their outer pass"
    )

    early_drop_step: int = Field(3, ge=0, description="m, attack steps before the easy examples leave")
    hard_rule: Literal["at_step", "any_step"] = Field(
        "at_step", description="misclassified at step m, or at any up to it"
    )
    weight: Weight = Weight.model_validate("uniform")
    drop_rate: float = Field(
        0.0, ge=0, le=1, description="share of the over-confident among the hard that is dropped"
    )
    confidence: Confidence = Field("true_class", description="whose confidence tells the over-confident")
    drop_confident: float = Field(
        0.0, ge=0, le=1, description="d, share of the hard that is dropped, highest p_y(x^K) first"
    )
    easy_high: float = Field(
        0.0, ge=0, le=1, description="share of the easy that returns, highest p_y(x^m) first"
    )
    easy_low: float = Field(
        0.0, ge=0, le=1, description="share of the easy that returns, lowest p_y(x^m) first"
    )
    easy_high_weight: float = Field(1.0, ge=0, description="weight of the easy_high examples")
    easy_low_weight: float = Field(1.0, ge=0, description="weight of the easy_low examples")
    easy_clean: bool = Field(False, description="they return as clean images, not as x^m")
    clean_weight: float = Field(
        0.0, ge=0, description="v, weight of all easy examples as clean images; 0: they leave"
    )
    start_epoch: int = Field(49, ge=0, description="warm-up epochs of plain training")

    @field_validator("drop_confident", "easy_high", "easy_low", "clean_weight", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        """null is off, too."""
        return 0.0 if value is None else value

    @model_validator(mode="after")
    def _compatible(self) -> Ham:
        returned = self.easy_high + self.easy_low
        if returned > 1 + 1e-9:
            raise ValueError(
                f"easy_high {self.easy_high:g} and easy_low {self.easy_low:g} are more than all easy examples; "
                "their sum must be at most 1"
            )
        if self.clean_weight and returned:
            raise ValueError(
                "clean_weight trains on all easy examples, easy_high and easy_low on some; use one or the other"
            )
        dropped = " and ".join(key for key in ("drop_rate", "drop_confident") if getattr(self, key))
        if self.clean_weight and dropped:
            raise ValueError(
                f"clean_weight trains on the whole batch, of which {dropped} takes a part away; use one or the other"
            )
        if self.drop_rate and self.drop_confident:
            raise ValueError("drop_rate and drop_confident both drop hard examples; use one of the two")
        if self.weight.normalise == "batch" and (self.clean_weight or returned):
            raise ValueError(
                "weight.normalise: batch makes up for the easy examples that are missing, and easy_high, easy_low and "
                "clean_weight bring them back; use normalise: hard"
            )
        return self

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
        """H -> (n,) bool. What returns of E is set aside."""
        hard = seen.current().argmax(1) != seen.y
        if self.hard_rule == "any_step":
            for logits in seen.path:
                hard = hard | (logits.argmax(1) != seen.y)
        seen.note("hard_share", hard)
        for rows, weight in self.returning(seen, ~hard):
            which = torch.zeros_like(hard)
            which[rows] = True
            images = seen.x if self.clean_weight or self.easy_clean else seen.adv
            seen.set_aside(which, images, seen.x.new_full((len(hard),), weight))
        return hard

    def returning(self, seen: Trajectory, easy: torch.Tensor) -> list[tuple[torch.Tensor, float]]:
        """(positions, weight) of each group of E, easy (n,) bool, that is trained on after all; no group is empty."""
        if not (self.clean_weight or self.easy_high or self.easy_low):
            return []
        ranked = torch.where(easy, sureness(seen), -torch.inf).argsort(descending=True, stable=True)
        ranked = ranked[: int(easy.sum())]  # E, the surest first
        if self.clean_weight:
            groups = [(ranked, self.clean_weight)]
        else:
            high, low = (math.floor(share * len(ranked) + 1e-9) for share in (self.easy_high, self.easy_low))
            lowest = ranked[len(ranked) - low :]
            groups = [(ranked[:high], self.easy_high_weight), (lowest, self.easy_low_weight)]
        return [(rows, weight) for rows, weight in groups if len(rows)]

    def finish(self, seen: Trajectory) -> torch.Tensor | None:
        """H without those that are dropped."""
        if self.drop_confident:
            n = len(seen.y)
            stay = math.ceil((1 - self.drop_confident) * n - 1e-9)
            if stay == n:
                return None
            keep = torch.zeros_like(seen.y, dtype=torch.bool)
            keep[sureness(seen).argsort(stable=True)[:stay]] = True
            return keep
        if self.drop_rate == 0:
            return None
        gap = overconfidence(seen, self.confidence)
        seen.note("overconfident", gap > 0)
        return keep_after_drop(gap, self.drop_rate, gap)

    def weigh(self, seen: Trajectory) -> torch.Tensor | None:
        """w -> (n,)."""
        return self.weight(seen)

    def balance(self, weights: torch.Tensor) -> torch.Tensor:
        """w n / Σw with clean_weight."""
        return mean_one(weights) if self.clean_weight else weights


def sureness(seen: Trajectory) -> torch.Tensor:
    """p_y(x^k) -> (n,)."""
    return seen.current().softmax(1).gather(1, seen.y[:, None]).squeeze(1)
