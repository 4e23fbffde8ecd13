"""Class-balanced weights by the effective number of samples. Cui et al., CVPR 2019, arXiv:1901.05555.

    w_c ∝ 1 / E_{n_c},   E_n = (1 - β^n) / (1 - β),   Σ_c w_c = C

n_c are the training images of class c, E_n their effective number, C the classes that have images.

β = 0 weighs all alike, β → 1 by 1/n_c. A batch's loss is the mean of w_{y_i} ℓ_i; balanced classes have weight 1.
Differs from the paper: C counts only classes with images, as E_0 = 0 cannot be divided by.
"""

from __future__ import annotations

import math

from pydantic import Field

from ham_core.lazy import torch
from ham_core.mining.base import Mining, Trajectory


class ClassBalanced(Mining):
    """Weights by the number of training images of the class."""

    name = "class_balanced"
    source = "Cui et al., CVPR 2019, arXiv:1901.05555"

    beta: float = Field(0.9999, ge=0, lt=1, description="β; 0 weighs all alike, towards 1 by 1/n_c")

    def weigh(self, seen: Trajectory) -> torch.Tensor | None:
        """w_y -> (n,)."""
        if self.beta == 0:
            return None
        assert seen.counts is not None
        return class_weights(seen.counts, self.beta).to(seen.x.dtype)[seen.y]


def effective_numbers(counts: torch.Tensor, beta: float) -> torch.Tensor:
    """E_n = (1 - β^n) / (1 - β) of n = counts (C,), for 0 < β < 1, in double precision."""
    return torch.expm1(counts.double() * math.log(beta)) / (beta - 1)  # 1 - β^n itself would lose digits


def class_weights(counts: torch.Tensor, beta: float) -> torch.Tensor:
    """w (C,) from n_c (C,); a class without images has weight 0."""
    inverse = torch.where(counts > 0, 1 / effective_numbers(counts, beta), 0.0)
    return inverse * ((counts > 0).sum() / inverse.sum())
