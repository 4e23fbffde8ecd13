"""HAM's reweighting of hard adversarial examples. Lin et al., arXiv:2308.01823, Eq. 4; yyl-github-1896/HAM @e3ee5ff.

Notation: n hard examples; s = softmax or identity (`space`); z, z^k logits (n,C) of the clean image and of iterate k.

    1. raw      r_i = measure of how far the logits moved
    2. base     u_i = n r_i / Σ r + base(epoch)
    3. scale    t_i = u_i / max_j u_j                      in [0, 1]
    4. function w_i = φ_λ(t_i)                             increasing
    5. mean     w_i ← n w_i / Σ w                          mean 1 over the hard set (`normalise: hard`),
                w_i ← w_i n / B besides                    so that the loss is a mean over the batch (`batch`)

Measures (steps 1): softmax_l1, logits_l1  max_k ‖s(z^{k+1}) - s(z^k)‖_1, the "adversarial step size", with
‖s(z) - s(z^0)‖_1 among them if `start_jump` (the code's `delta` includes it, the paper's text does not);
clean_lp ‖s(z) - s(z^K)‖_p;  margin_lp ‖s(z^mar) - s(z^K)‖_p;  margin_mse mean_c (z^mar - z^K)²;  uniform 1, where
z^mar are the logits at the first misclassified iterate k ≥ 1 (z^K if there is none).

Functions: tanh (1 + tanh(5(2t - 1) - λ))/2 (the code's, λ = -1);  sigmoid σ(5(2t - 1) - λ);  power t^λ, λ > 0;
exponential exp(λ(t - 1)), λ ≥ 0;  linear t;  uniform 1, for which nothing is measured. docs/pictures/weight-functions.png
shows them. Every line of this was commented out in the released code, so `uniform` is what it runs. Where all raw values
are zero the weights are uniform.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, model_validator

from ham_core.lazy import torch
from ham_core.mining.base import Trajectory
from ham_core.parts import From, Frozen, value_at

Function = Literal["uniform", "linear", "power", "exponential", "sigmoid", "tanh"]
PARAMETERS: dict[str, float] = {
    "uniform": 1.0,
    "linear": 1.0,
    "power": 1.0,
    "exponential": 1.0,
    "sigmoid": -1.0,
    "tanh": -1.0,
}


class Weight(Frozen):
    """How hard examples are weighted."""

    measure: Literal["uniform", "softmax_l1", "logits_l1", "clean_lp", "margin_lp", "margin_mse"] = Field(
        "uniform", description="how far an example's logits moved"
    )
    function: Function = Field("linear", description="φ, from the scaled measure to the weight")
    parameter: float = Field(
        description="λ of the function; left out: -1 for tanh and sigmoid, 1 for the others"
    )
    base: float | tuple[From, ...] = Field(0.0, description="added before scaling; a number or a schedule")
    normalise: Literal["hard", "batch"] = Field(
        "hard", description="mean 1 over the hard examples, or their sum over the batch"
    )
    space: Literal["softmax", "logits"] = Field("softmax", description="s, of clean_lp and margin_lp")
    p: float = Field(1.0, ge=1, description="norm of clean_lp and margin_lp")
    start_jump: bool = Field(False, description="count the jump from the clean image to the start point")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"measure": value}
        if isinstance(value, dict) and value.get("parameter") is None:
            value = {**value, "parameter": PARAMETERS.get(str(value.get("function", "linear")), 1.0)}
        return value

    @model_validator(mode="after")
    def _increasing(self) -> Weight:
        if self.function == "power" and self.parameter <= 0:
            raise ValueError(
                f"the power function t^λ needs parameter > 0 to increase, not {self.parameter:g}"
            )
        if self.function == "exponential" and self.parameter < 0:
            raise ValueError(
                f"the exponential function needs parameter >= 0 to increase, not {self.parameter:g}"
            )
        if not isinstance(self.base, float) and any(entry.value < 0 for entry in self.base):
            raise ValueError("base weights must not be negative")
        if isinstance(self.base, float) and self.base < 0:
            raise ValueError(f"base must not be negative, not {self.base:g}")
        return self

    @property
    def uniform(self) -> bool:
        """Whether all hard examples weigh the same, so that nothing has to be measured."""
        return "uniform" in (self.measure, self.function)

    def wants_path(self) -> bool:
        """Whether the logits of every step are read."""
        return not self.uniform and self.measure in ("softmax_l1", "logits_l1", "margin_lp", "margin_mse")

    def base_at(self, epoch: int) -> float:
        """base(epoch)."""
        return value_at(self.base, epoch)

    def __call__(self, seen: Trajectory) -> torch.Tensor | None:
        """Weights (n,), steps 1 to 5; None where they are all 1."""
        if self.uniform:
            n = len(seen.y)
            return (
                None if self.normalise == "hard" else torch.full((n,), n / seen.batch, device=seen.y.device)
            )
        raw = self.raw(seen)
        weights = mean_one(self.shape(mean_one(raw) + self.base_at(seen.epoch)))
        if self.measure == "softmax_l1":
            seen.sizes = (raw, weights)
        return weights if self.normalise == "hard" else weights * (len(weights) / seen.batch)

    def raw(self, seen: Trajectory) -> torch.Tensor:
        """Step 1 -> (n,)."""
        if self.measure in ("softmax_l1", "logits_l1"):
            s = _identity if self.measure == "logits_l1" else _softmax
            stops = [s(logits) for logits in [*seen.path, seen.current()]]
            jumps = [(after - before).abs().sum(1) for before, after in pairwise(stops)]
            if self.start_jump:
                jumps.append((stops[0] - s(seen.clean())).abs().sum(1))
            return torch.stack(jumps).amax(0) if jumps else torch.zeros_like(seen.y, dtype=stops[0].dtype)
        if self.measure == "margin_mse":
            return (crossing_logits(seen) - seen.current()).square().mean(1)
        s = _softmax if self.space == "softmax" else _identity
        reference = seen.clean() if self.measure == "clean_lp" else crossing_logits(seen)
        return torch.linalg.vector_norm(s(reference) - s(seen.current()), ord=self.p, dim=1)

    def shape(self, u: torch.Tensor) -> torch.Tensor:
        """Steps 3 and 4 -> (n,)."""
        largest = u.amax().clamp_min(torch.finfo(u.dtype).tiny)
        t = u / largest
        if self.function == "uniform":
            return torch.ones_like(t)
        if self.function == "power":
            return t.pow(self.parameter)
        if self.function == "exponential":
            return torch.exp(self.parameter * (t - 1))
        if self.function == "sigmoid":
            return torch.sigmoid(5 * (2 * t - 1) - self.parameter)
        if self.function == "tanh":
            return (1 + torch.tanh(5 * (2 * t - 1) - self.parameter)) / 2
        return t


def mean_one(values: torch.Tensor) -> torch.Tensor:
    """n v_i / Σ v; all 1 where the sum is zero."""
    total = values.sum()
    return torch.where(total > 0, values * len(values) / total, torch.ones_like(values))


def crossing_logits(seen: Trajectory) -> torch.Tensor:
    """z^mar (n,C): logits at the first misclassified iterate k ≥ 1, the last iterate's where there is none."""
    stops = torch.stack([*seen.path[1:], seen.current()])  # (k,n,C)
    crossed = stops.argmax(2) != seen.y
    first = torch.where(crossed.any(0), crossed.int().argmax(0), len(stops) - 1)
    return stops[first, torch.arange(len(seen.y), device=first.device)]


def _softmax(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(1)


def _identity(logits: torch.Tensor) -> torch.Tensor:
    return logits
