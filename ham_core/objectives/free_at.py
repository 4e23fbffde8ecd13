"""Free-AT, adversarial training for free. Shafahi et al., NeurIPS 2019, arXiv:1904.12843;
code ashafahi/free_adv_train @c42cac2, mahyarnajibi/FreeAdversarialTraining @e185c84.

    m times per batch:   x' = clip01(x + δ),   a step on θ with ∇_θ ℓ,   δ ← clip(δ + ε sign ∇_x' ℓ, ±ε),   ℓ = CE(f(x'), y)

One backward pass gives both gradients, before θ moves. δ is shaped like a batch, zero at first and never reset: its row j
belongs to the j-th place of a batch, whichever image stands there. m is `replays`; an epoch passes over the images m times, so
a budget of epochs is divided by m. With class-wise radii ε is the one of the row's image.
Differs from the code: a last, smaller batch uses the first rows of δ (there it is left out or padded), and δ grows with a
larger one.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ham_core.lazy import torch
from ham_core.objectives.at import AT


class FreeAT(AT):
    """Cross-entropy on an adversarial example that is carried from step to step."""

    name = "free_at"
    source = "Shafahi et al., NeurIPS 2019, arXiv:1904.12843"
    cost = "-KF -KBx, and 1F +1(Bx+Bw) per replay"
    start = "zero"

    replays: int = Field(8, ge=1, le=1000, description="m, steps on each batch in a row")

    def attack_settings(self, epsilon: float) -> dict[str, Any]:
        """No step beyond the one that comes with training."""
        return {"steps": 0, "start": "zero"}

    def carried(self, memory: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor | None:
        """clip01(x + δ)."""
        delta = memory.get("delta", torch.zeros_like(x))
        if len(delta) < len(x):
            delta = torch.cat([delta, torch.zeros_like(x[len(delta) :])])
        memory["delta"] = delta
        return (x + delta[: len(x)]).clamp(0, 1)

    def passes_per_batch(self) -> int:
        """m."""
        return self.replays

    def remember(
        self,
        memory: dict[str, torch.Tensor],
        rows: torch.Tensor,
        gradient: torch.Tensor,
        epsilon: torch.Tensor,
    ) -> None:
        """δ ← clip(δ + ε sign ∇_x', ±ε) at these rows; a new tensor, so that a state taken before keeps its own."""
        radius = epsilon.reshape(-1, 1, 1, 1)
        delta = memory["delta"]
        moved = torch.clamp(delta[rows] + radius * gradient.sign(), -radius, radius)
        memory["delta"] = delta.index_copy(0, rows, moved)
