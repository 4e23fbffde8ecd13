"""FAAL, fairness-aware adversarial learning. Zhang et al., CVPR 2024, arXiv:2402.17729; code TrustAI/FAAL @b20ee9d.

    min_θ (C/B) Σ_i w_{y_i} ℓ_i                                      ℓ the base's loss; w is constant for the gradient
    w = argmax { Σ_c w_c a_c : w in the simplex, KL(U ‖ w) ≤ r }    the worst class weights for this batch
    a_c = Σ_{i: y_i = c} m_i = n_c m̄_c,   m_i = max_{k≠y_i} p_k(x'_i) - p_{y_i}(x'_i)

The optimum has w_c = s_c / Σ s with s_c = 1 / (ν - a_c) and the one ν > max a at which KL(U ‖ w) = r. It is found by bisection
of log(ν - max a), a fixed number of halvings that never wait for the device. r = 0 is the base. The source fine-tunes a robust
model. A class that is absent from the batch has n_c = 0 and so a_c = 0; the -1 that the code gives to its m̄_c never counts.
Differs from the code: no convex solver (there CVXPY), no unread clean pass; the attack is the base's (there KL for MART too);
with `base: awp` the weights are perturbed along the weighted loss (there the unweighted).
"""

from __future__ import annotations

import math

from pydantic import Field

from ham_core.lazy import F, torch
from ham_core.objectives.base import NOTHING, Around, Extra, best_other

HALVINGS = 64  # of the interval below, to 4e-17
LOG_RANGE = (-690.0, 50.0)  # of ν - max a: what fp64 holds; far beyond what the smallest r needs


class Faal(Around):
    """The base objective under the worst class weights within a divergence of uniform ones."""

    name = "faal"
    source = "Zhang et al., CVPR 2024, arXiv:2402.17729"
    needs = ("a robust trial to start from",)

    radius: float = Field(0.5, ge=0, description="r, largest KL(U ‖ w) of the class weights")

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
        """C w_{y_i} ℓ_i."""
        losses: torch.Tensor = self.base.loss(clean, adv, y, natural=natural, beta=beta, extra=extra)
        if self.radius == 0:
            return losses
        w = worst_weights(class_margins(adv.detach(), y), self.radius)
        return (len(w) * w)[y].to(losses.dtype) * losses


def class_margins(adv: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """a_c, sums of the margins per class, of logits (n,C) -> (C,) in double precision."""
    p = adv.double().softmax(1)
    m = best_other(p, y) - p.gather(1, y[:, None]).squeeze(1)
    return m @ F.one_hot(y, adv.shape[1]).double()


def worst_weights(a: torch.Tensor, radius: float) -> torch.Tensor:
    """argmax { Σ w_c a_c : Σ w_c = 1, KL(U ‖ w) ≤ r } -> (C,); uniform for r = 0 (exactly) and equal a_c."""
    if radius == 0:  # bisection would stop where KL is lost in rounding
        return torch.full_like(a, 1 / len(a))
    gap = a.amax() - a
    lower, upper = (torch.full_like(gap[0], bound) for bound in LOG_RANGE)
    for _ in range(HALVINGS):
        middle = (lower + upper) / 2
        too_far = _from_uniform(_log_weights(gap, middle)) > radius
        lower, upper = torch.where(too_far, middle, lower), torch.where(too_far, upper, middle)
    return _log_weights(gap, upper).exp()


def _log_weights(gap: torch.Tensor, log_distance: torch.Tensor) -> torch.Tensor:
    """log w (C,), where ν - a_c = gap_c + exp(log_distance)."""
    return F.log_softmax(-torch.log(gap + log_distance.exp()), 0)


def _from_uniform(log_w: torch.Tensor) -> torch.Tensor:
    """KL(U ‖ w) = -log C - (1/C) Σ log w_c -> ()."""
    return -math.log(len(log_w)) - log_w.mean()
