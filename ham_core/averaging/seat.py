"""SEAT, self-ensemble adversarial training. Wang and Wang, ICLR 2022, arXiv:2203.09678;
code whj363636/Self-Ensemble-Adversarial-Training @826b4bc.

    θ̄_0 = θ_0,   θ̄ ← a_t θ̄ + (1 - a_t) θ after every step t = 0, 1, ...,   a_t = min(decay, (t + 1) / (t + 10))

BatchNorm's statistics are averaged with the same rate, and θ̄ is judged in evaluation mode.
Differs from the code: θ̄ makes no clean forward pass per step (there one, for the log alone), and its selection attack has
the steps that `selection` gives (there the "PGD-20" runs 10).
"""

from __future__ import annotations

from pydantic import Field

from ham_core.averaging.base import Averaging


class Seat(Averaging):
    """Average over all steps from the initial weights on."""

    name = "seat"
    source = "Wang and Wang, ICLR 2022, arXiv:2203.09678"
    cost = "none; per step one multiply-add of each weight"
    from_initial = True

    decay: float = Field(0.999, ge=0, lt=1, description="largest a")

    def rate(self, updates: int) -> float:
        """a_t = min(decay, (t+1)/(t+10))."""
        return min(self.decay, (updates + 1) / (updates + 10))
