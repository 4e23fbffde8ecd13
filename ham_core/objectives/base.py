"""The interface of an objective.

Notation: B batch, C classes; clean, adv (B, C) logits of x and x'; y (B,) labels; p = softmax(logits).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from ham_core.lazy import F, torch
from ham_core.parts import Part


class Objective(Part):
    """Per sample: what the attack ascends, what the training descends."""

    start: ClassVar[str] = "uniform"  # where the source's attack begins
    attack_needs_clean: ClassVar[bool] = False  # `ascend` reads the clean logits
    loss_needs_clean: ClassVar[bool] = False  # `loss` reads the clean logits

    @abstractmethod
    def ascend(self, clean: torch.Tensor | None, adv: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """What the attack maximises -> (B,). `clean` is constant here."""

    @abstractmethod
    def loss(
        self, clean: torch.Tensor | None, adv: torch.Tensor, y: torch.Tensor, beta: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the training minimises -> (B,). Gradients flow through `clean` and `adv`.

        beta (B,) multiplies the weight of the regularisation, if the objective has one; None means 1.
        """


def cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """CE(f(x), y) = -log p_y -> (B,)."""
    return F.cross_entropy(logits, y, reduction="none")


def kl(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """KL(p ‖ q) = Σ_c p_c log(p_c / q_c), p and q the softmax of `first` and `second` -> (B,)."""
    return F.kl_div(F.log_softmax(second, 1), F.log_softmax(first, 1), reduction="none", log_target=True).sum(
        1
    )
