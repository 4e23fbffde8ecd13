"""AWP, adversarial weight perturbation. Wu, Xia and Wang, NeurIPS 2020, arXiv:2004.05884; code csdongxian/AWP @a7acf5d.

    min_θ max_{‖v_l‖ ≤ γ ‖w_l‖} E[ ℓ(θ + v) ],   v_l = γ ‖w_l‖ g_l / (‖g_l‖ + 1e-20),   g_l = ∇_{w_l} ℓ(θ) at the same x'

for each weight tensor w_l with more than one dimension, so neither for BatchNorm nor for biases. The optimiser steps at θ + v
(its weight decay sees w + v), then v is taken off again, as in the code. γ = 0 is the base.
Differs from the code: g is the gradient itself (there what one step of SGD changes in a copy of the network, the same up to
rounding). BatchNorm's statistics see only the pass at θ + v, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from pydantic import Field

from ham_core.lazy import torch
from ham_core.objectives.base import Around


class Awp(Around):
    """The base objective at the worst weights nearby."""

    name = "awp"
    source = "Wu, Xia and Wang, NeurIPS 2020, arXiv:2004.05884"
    cost = "+1F +1(Bx+Bw) for each pass of the base's loss"
    epoch_fields: ClassVar[frozenset[str]] = frozenset({"start_epoch"})

    gamma: float = Field(0.01, ge=0, description="γ, size of the perturbation relative to each weight tensor")
    start_epoch: int = Field(0, ge=0, description="first epoch with perturbed weights")

    @contextmanager
    def neighbourhood(
        self,
        parameters: Sequence[tuple[str, torch.Tensor]],
        gradients: Callable[[], Sequence[torch.Tensor]],
        epoch: int,
    ) -> Iterator[None]:
        """At θ + v; nothing is asked and nothing moves where γ = 0 or before `start_epoch`."""
        with self.base.neighbourhood(parameters, gradients, epoch):
            if self.gamma == 0 or epoch < self.start_epoch:
                yield
                return
            moves = self.moves(parameters, gradients())
            _add(moves, 1)
            try:
                yield
            finally:
                _add(moves, -1)

    def moves(
        self, parameters: Sequence[tuple[str, torch.Tensor]], gradients: Sequence[torch.Tensor]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """(w_l, v_l) of each perturbed tensor."""
        return [
            (w, self.gamma * w.detach().norm() * g / (g.norm() + 1e-20))
            for (name, w), g in zip(parameters, gradients, strict=True)
            if "weight" in name and w.dim() > 1
        ]


def _add(moves: list[tuple[torch.Tensor, torch.Tensor]], sign: int) -> None:
    """w ← w ± v."""
    with torch.no_grad():
        for w, v in moves:
            w.add_(v, alpha=sign)
