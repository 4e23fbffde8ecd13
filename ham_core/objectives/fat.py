"""FAT, friendly adversarial training. Zhang et al., ICML 2020, arXiv:2002.11242;
code zjfheart/Friendly-Adversarial-Training @80a0640.

The attack of the base, stopped early: each example has a counter c = τ, and at the iterate x^k

    rule friendly    misclassified and c = 0: x' = x^k;    misclassified and c > 0: c ← c - 1 and step;    else step
    rule cfa         c = 0: x' = x^k;                      misclassified and c > 0: c ← c - 1 and step;    else step

so that x' lies τ steps beyond the first crossing of the boundary. `cfa` is the form of CFA's code (PKU-ML/CFA @071f333): it
stops also where the example is right again, and with τ = 0 it does not attack at all. ω N(0, 1) is added to every step.
`base` at, trades or mart gives FAT, FAT-TRADES, FAT-MART; in the code ω is 0.001 for the first and 0 for the others. A
schedule of τ is 0 before its first entry. τ ≥ K and ω = 0 is the base.
Differs from the code: the batch keeps its order (there it is sorted by who stopped), and no unread clean pass is made.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ham_core.lazy import torch
from ham_core.mining.base import Trajectory
from ham_core.objectives.base import Around
from ham_core.parts import From, value_at


class Fat(Around):
    """The base objective on adversarial examples that are only just misclassified."""

    name = "fat"
    source = "Zhang et al., ICML 2020, arXiv:2002.11242"
    cost = "none, or less: an example that has stopped takes no further step"

    tau: int | tuple[From, ...] = Field(3, description="τ >= 0, steps past the boundary, or a schedule")
    noise: float = Field(0.001, ge=0, description="ω, standard deviation of the noise after each step")
    rule: Literal["friendly", "cfa"] = Field("friendly", description="when an example stops")

    @field_validator("tau")
    @classmethod
    def _counts(cls, tau: int | tuple[From, ...]) -> int | tuple[From, ...]:
        for value in (tau,) if isinstance(tau, int) else [entry.value for entry in tau]:
            if value < 0 or value != int(value):
                raise ValueError(f"tau counts attack steps, so it is a whole number from 0 on, not {value:g}")
        return tau

    def follow(self, seen: Trajectory, logits: torch.Tensor) -> torch.Tensor | None:
        """Rows (n,) that take the next step, of those that the base lets go on."""
        wrong = logits.argmax(1) != seen.y
        before = seen.marks.get("left", torch.full_like(seen.y, int(value_at(self.tau, seen.epoch))))
        after = before - wrong.long()  # c; below 0 a friendly row has stopped, and no step raises c
        seen.marks["left"] = after
        going = after >= 0 if self.rule == "friendly" else before > 0
        theirs = self.base.follow(seen, logits)
        return going if theirs is None else going & theirs

    def jitter(self) -> float:
        """ω."""
        return self.noise
