"""DAFA, distance-aware fair adversarial training. Lee et al., ICLR 2024, arXiv:2401.12532; code rucy74/DAFA @c60ba83.

    s_ij = mean of p_j(x') over the training images of class i, in the last epoch of the warm-up
    W_i  = 1 + λ Σ_{j≠i} [ s_ij s_jj if s_ii < s_jj, else -s_ji s_ii ]          computed once, then fixed
    ε_c  = W_c ε,   α_c = W_c α,   L = mean( W_{y_i} N_i + β R_i )

A harder class takes weight from each easier class that it is confused with, as much as that class gives: the W sum to C,
unless two s_ii are equal. N is the main term, CE(f(x), y) of TRADES or CE(f(x'), y) of AT; the regularisation R is not
weighted. The code takes λ = 1 for CIFAR-10, 1.5 for CIFAR-100 and STL-10, and 70 epochs of warm-up out of 110.
Official quirk, behind `official_pgd` (the code's AT version): each attack step is followed by one of the plain α within
the plain ε along the same gradient, so radii above ε have no effect and those below it are loosened to min(ε, Wε + α).
Differs from the code: W is clamped at 0, which a large λ or a hardly learnt network would pass; there such a class has
a negative radius and its loss is maximised. Where no predictions are known yet the training stays plain one epoch more.
"""

from __future__ import annotations

from pydantic import Field

from ham_core.calibration.base import Calibration, Factors, Observed, State
from ham_core.lazy import torch


class Dafa(Calibration):
    """Radii, steps and weights of the main term from how the classes are confused under attack."""

    name = "dafa"
    source = "Lee et al., ICLR 2024, arXiv:2401.12532"

    strength: float = Field(1.0, ge=0, description="λ; a class whose weight would fall below 0 gets 0")
    official_pgd: bool = Field(False, description="the released AT version's second, unscaled attack step")
    start_epoch: int = Field(70, ge=0, description="first calibrated epoch, after the warm-up")

    def renew(self, state: State, observed: Observed) -> State:
        """W from the first predictions that there are; fixed from then on."""
        if "weights" in state or observed.confusion is None:
            return state
        return {"weights": distance_weights(observed.confusion, self.strength)}

    def factors(self, state: State) -> Factors:
        """W on the radius and on the main term."""
        weights = state.get("weights")
        return Factors(margin=weights, natural=weights)

    def attack_step(self, margin: torch.Tensor, step: float, epsilon: float) -> float | torch.Tensor:
        """W_y α, one per sample."""
        return margin * step

    def steps_again(self) -> bool:
        """Only in the released AT version."""
        return self.official_pgd


def distance_weights(s: torch.Tensor, strength: float) -> torch.Tensor:
    """W (C,) from s (C,C), rows true classes."""
    own = s.diagonal()
    harder = own[:, None] < own[None, :]  # class i than class j
    flow = torch.where(harder, s * own[None, :], -s.T * own[:, None])
    return (1 + strength * flow.fill_diagonal_(0).sum(1)).clamp_min(0)
