"""Fast-AT, one step from a random start. Wong, Rice and Kolter, ICLR 2020, arXiv:2001.03994;
code locuslab/fast_adversarial @54f7287.

    x^0 = x + U(-ε, ε),   x' = Π( x^0 + s ε sign ∇_x CE(f(x^0), y) ),   min_θ E[ CE(f(x'), y) ]

s is `step`. Catastrophic overfitting ends the training: where the accuracy on an epoch's first batch under PGD with `probe`
steps of ε/4 falls by more than `largest_fall` from one epoch to the next, the weights of the epoch before are the last ones.
Differs from the code: that stop is on by default (there behind a flag; here `probe: 0` switches it off), and radii are in
pixels (there in normalised units).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ham_core.objectives.at import AT


class FastAT(AT):
    """Cross-entropy on an adversarial example of one step."""

    name = "fast_at"
    source = "Wong, Rice and Kolter, ICLR 2020, arXiv:2001.03994"
    cost = "-(K-1)F -(K-1)Bx"

    step: float = Field(1.25, ge=0, description="s, the attack's one step in units of ε")
    largest_fall: float = Field(
        0.2, ge=0, le=1, description="fall of the probe's accuracy beyond which the training ends"
    )
    probe: int = Field(5, ge=0, le=1000, description="PGD steps on each epoch's first batch; 0: no such stop")

    def attack_settings(self, epsilon: float) -> dict[str, Any]:
        """One step s ε; a pixel has no further way to go than 1."""
        return {"steps": 1, "step": min(self.step * epsilon, 1.0), "start": "uniform"}

    def probe_steps(self) -> int:
        """`probe`."""
        return self.probe

    def collapsed(self, before: float, now: float) -> bool:
        """Whether the accuracy fell by more than `largest_fall`."""
        return before - now > self.largest_fall
