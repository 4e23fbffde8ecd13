"""What evaluation attacks ascend, besides the objectives' own losses. All (logits (B,C), y (B,)) -> (B,)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log p_y."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{k≠y} z_k - z_y: positive exactly where the sample is misclassified.

    Carlini and Wagner, S&P 2017, arXiv:1608.04644, f_6 without its offset; "CW" in robustness tables is PGD on it.
    """
    own = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - own
