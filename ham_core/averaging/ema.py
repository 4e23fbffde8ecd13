"""EMA, the exponential moving average of weights. Lineage: Izmailov et al., UAI 2018, arXiv:1803.05407.

    θ̄ ← a θ̄ + (1 - a) θ,   a = min(decay, (1 + t) / (10 + t)) with `warmup`, else a = decay;   t = updates so far

The warm-up (Rade and Moosavi-Dezfooli's code) forgets the first steps of short runs. CFA's EMA is
{every: epoch, decay: 0.85, warmup: false, start_epoch: 50}; its code uses 0.88 from epoch 0.
"""

from __future__ import annotations

from pydantic import Field

from ham_core.averaging.base import Averaging


class Ema(Averaging):
    """Exponential moving average, per step or per epoch."""

    name = "ema"
    source = "Izmailov et al., UAI 2018, arXiv:1803.05407"
    cost = "none; per step or epoch one multiply-add of each weight"

    decay: float = Field(0.995, ge=0, lt=1, description="largest a")
    warmup: bool = Field(True, description="let a rise to `decay` over the first updates")

    def rate(self, updates: int) -> float:
        """a = min(decay, (1+t)/(10+t))."""
        return min(self.decay, (1 + updates) / (10 + updates)) if self.warmup else self.decay
