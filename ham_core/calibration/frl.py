"""FRL, fair robust learning. Xu et al., ICML 2021, arXiv:2010.06121; code hannxu123/fair_robust @a80547d.

Before each epoch, on held-out images: e_c clean error, b_c = clean - robust accuracy of class c, ē and b̄ their means,

    g⁰_c = e_c - ē - δ0                     g¹_c = b_c - b̄ - δ1
    λ⁰ ← N(λ⁰ + r1 g⁰)                      λ¹ ← N(λ¹ + 2 r1 g¹)                     λ² ← λ² + r2 g¹

all starting at 0; N clamps at 0 and, where the sum exceeds the limit, rescales to it. Then, with C classes,

    w_c = 1/C + λ_c - (1/C) Σ_j λ_j         w⁰ of λ⁰, w¹ of λ¹; each sums to 1
    L = Σ_i w⁰_{y_i} CE_i / Σ_i w⁰_{y_i} + β Σ_i w¹_{y_i} KL_i / Σ_i w¹_{y_i}         (reweight)
    ε_c = ε clamp(exp(2 λ²_c), lowest, highest),   α = max_i ε_{y_i} / 4              (remargin)

The code takes β = 1.5, and for reweighting alone δ0 = δ1 = 0.1 (bounds of 0.05 and 0.07 are reported of the paper).
Here a factor is C w_c, which the quotients cancel, so that λ = 0 is exactly 1.
Differs from the code: an image counts as robust only if it is right on the clean image too, so b_c is never negative;
a class without held-out images is taken to be at the mean; r1 halves by the epochs since the first calibrated one.
"""

from __future__ import annotations

from pydantic import Field

from ham_core.calibration.base import Calibration, Factors, Observed, State
from ham_core.lazy import torch


class Frl(Calibration):
    """Class weights (reweight) and radii (remargin) from violations of fairness on held-out images."""

    name = "frl"
    source = "Xu et al., ICML 2021, arXiv:2010.06121"
    cost = "none; once an epoch (steps+2)F + steps Bx of each held-out image"
    needs = ("held-out images", "a robust trial to start from")
    needs_validation = True

    remargin: bool = Field(True, description="give each class its own radius too")
    natural_bound: float = Field(0.07, ge=0, le=1, description="δ0, allowed excess of a class's clean error")
    boundary_bound: float = Field(
        0.07, ge=0, le=1, description="δ1, allowed excess of a class's boundary error"
    )
    rate: float = Field(0.05, ge=0, description="r1, rate of the multipliers behind the weights")
    margin_rate: float = Field(0.2, ge=0, description="r2, rate of the multipliers behind the radii")
    limit: float = Field(0.5, ge=0, lt=1, description="largest sum of the multipliers behind the weights")
    lowest: float = Field(0.98, gt=0, le=1, description="smallest radius, as a multiple of ε")
    highest: float = Field(3.0, ge=1, description="largest radius, as a multiple of ε")
    halve_every: int = Field(40, ge=1, description="epochs after which r1 halves, again and again")
    steps: int = Field(20, ge=0, le=1000, description="attack steps on the held-out images")

    def initial(self, classes: int) -> State:
        """λ⁰, λ¹, λ² = 0, each (C,)."""
        return {name: torch.zeros(classes) for name in ("natural", "boundary", "radius")}

    def renew(self, state: State, observed: Observed) -> State:
        """One step of the multipliers."""
        clean, robust = observed.accuracies(self.steps)
        natural = violation(1 - clean, self.natural_bound)
        boundary = violation(clean - robust, self.boundary_bound)
        rate = self.rate * 0.5 ** ((observed.epoch - self.start_epoch) // self.halve_every)
        return {
            "natural": self.limited(state["natural"] + rate * natural),
            "boundary": self.limited(state["boundary"] + 2 * rate * boundary),
            "radius": state["radius"] + self.margin_rate * boundary,
        }

    def limited(self, multipliers: torch.Tensor) -> torch.Tensor:
        """N(λ) (C,): not negative, with a sum of at most the limit."""
        positive = multipliers.clamp_min(0)
        total = positive.sum()
        return torch.where(total > self.limit, positive * (self.limit / total), positive)

    def factors(self, state: State) -> Factors:
        """C w⁰ on the main term, C w¹ on the regularisation, the radii where there is remargin."""
        margin = torch.exp(2 * state["radius"]).clamp(self.lowest, self.highest)
        return Factors(
            margin=margin if self.remargin else None,
            natural=class_weights(state["natural"]),
            beta=class_weights(state["boundary"]),
            per_batch=True,
        )

    def attack_step(self, margin: torch.Tensor, step: float, epsilon: float) -> float | torch.Tensor:
        """One α for the whole batch, a quarter of its largest radius."""
        return margin.max() * epsilon / 4 if self.remargin else step


def violation(rates: torch.Tensor, bound: float) -> torch.Tensor:
    """g_c = rate_c - mean - δ (C,), may be negative; a class without a rate (NaN) is at the mean."""
    mean = rates.nanmean()
    return torch.where(rates.isnan(), mean, rates) - mean - bound


def class_weights(multipliers: torch.Tensor) -> torch.Tensor:
    """C w_c = 1 + C λ_c - Σ_j λ_j (C,); at least 1 - limit, and 1 on average over the classes."""
    return 1 + len(multipliers) * multipliers - multipliers.sum()
