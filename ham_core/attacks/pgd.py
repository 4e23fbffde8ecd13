"""Projected gradient ascent in the L∞ or the L2 ball. Madry et al., ICLR 2018, arXiv:1706.06083.

    L∞    x^{k+1} = Π( x^k + α sign g ),     Π = clip to [x-ε, x+ε], then to [0, 1]
    L2    x^{k+1} = Π( x^k + α g / ‖g‖₂ ),   Π = shorten x'-x to at most ε, then clip to [0, 1]

Notation: g = ∇_x ℓ(f(x^k)); x (B,C,H,W) pixels in [0, 1]; ε radius and α step in the same units, numbers or one per
sample (B,). x lies in [0, 1], so the clip after an L2 projection only shortens x'-x further.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

Rows = Tensor | slice  # positions in the batch, or all of it
Ascend = Callable[[Tensor, Rows], Tensor]  # logits (n,K) of those rows -> (n,), to be maximised
Watch = Callable[
    [int, Tensor, Tensor], "Tensor | None"
]  # step, x^k, logits (B,K) -> rows (B,) bool that go on; None: all
Project = Callable[
    [Tensor, Rows], Tensor
]  # points (n,C,H,W) of those rows -> the same, inside the ball and [0, 1]
EVERYTHING = slice(None)
TINY = 1e-12  # a length of zero is taken for this one


class Move(NamedTuple):
    """A step α and the radius ε it is projected to, numbers or one per sample (B,)."""

    step: float | Tensor
    epsilon: float | Tensor


def pgd(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    ascend: Ascend,
    *,
    epsilon: float | Tensor,
    step: float | Tensor,
    steps: int,
    start: Tensor | None = None,
    watch: Watch | None = None,
    noise: Callable[[], Tensor] | None = None,
    again: Move | None = None,
    norm: str = "linf",
) -> Tensor:
    """Gradient ascent in the ball of `norm` (linf, l2) from `start` (default x) -> x^steps, shaped like x.

    The model normalises inside and returns logits (B,K). `start` is projected first. `watch` sees every iterate
    x^0..x^{steps-1} with its logits before the step is taken and may stop rows: they stay where they are for good, cost no
    further pass, and keep their last logits. `noise()`, shaped like x, is added to every step before its projection.
    `again` is a second step along the same gradient with a radius of its own.
    Promises |x'-x| ≤ ε (with `again`: its radius) and 0 ≤ x' ≤ 1. Leaves the model's mode and gradients as found; a model in
    evaluation mode keeps its batch statistics.
    """
    direction, around = NORMS[norm]
    moves = [(per_sample(a, x), around(x, e)) for a, e in ([(step, epsilon)] + ([again] if again else []))]
    adv = x.clone() if start is None else moves[0][1](start, EVERYTHING)
    rows: Rows = EVERYTHING
    logits = x.new_empty(0)
    for k in range(steps):
        seen, gradient = input_gradient(model, adv[rows], lambda z, own=rows: ascend(z, own))  # type: ignore[misc]
        logits = seen if isinstance(rows, slice) else logits.index_copy(0, rows, seen)
        going = None if watch is None else watch(k, adv, logits)
        if going is not None:
            on = going[rows]
            gradient = gradient[on]
            rows = on.nonzero().squeeze(1) if isinstance(rows, slice) else rows[on]
            if not len(rows):
                break
        moved = adv[rows]
        drawn = None if noise is None else noise()[rows]
        for alpha, project in moves:
            moved = moved + _of(alpha, rows) * direction(gradient)
            moved = moved if drawn is None else moved + drawn
            moved = project(moved, rows)
        adv = moved if isinstance(rows, slice) else adv.index_copy(0, rows, moved)
    return adv


def linf_ball(x: Tensor, epsilon: float | Tensor) -> Project:
    """The projection to the L∞ ball around x inside [0, 1]."""
    lower, upper = ball(x, epsilon)
    return lambda moved, rows: torch.clamp(moved, lower[rows], upper[rows])


def l2_ball(x: Tensor, epsilon: float | Tensor) -> Project:
    """The projection to the L2 ball around x, then to [0, 1]."""
    radius = per_sample(epsilon, x)

    def project(moved: Tensor, rows: Rows) -> Tensor:
        shift = moved - x[rows]
        shorter = (_of(radius, rows) / length(shift).clamp_min(TINY)).clamp_max(1)
        return (x[rows] + shorter * shift).clamp_(0, 1)

    return project


def length(shift: Tensor) -> Tensor:
    """‖·‖₂ of each sample, (B,1,1,1), so that it broadcasts over x."""
    return per_sample(shift.flatten(1).norm(dim=1), shift)


def unit(gradient: Tensor) -> Tensor:
    """g / ‖g‖₂ of each sample; zero where there is no gradient."""
    return gradient / length(gradient).clamp_min(TINY)


NORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, float | Tensor], Project]]] = {
    "linf": (torch.sign, linf_ball),
    "l2": (unit, l2_ball),
}


def ball(x: Tensor, epsilon: float | Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of the L∞ ball inside [0, 1], each shaped like x."""
    radius = per_sample(epsilon, x)
    return (x - radius).clamp_(0, 1), (x + radius).clamp_(0, 1)


def input_gradient(
    model: Callable[[Tensor], Tensor], x: Tensor, ascend: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """(f(x), ∇_x Σ_i ℓ_i). With frozen parameters nothing but the input's gradient is computed."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        (gradient,) = torch.autograd.grad(ascend(logits).sum(), x)
    return logits.detach(), gradient


def per_sample(value: float | Tensor, x: Tensor) -> Tensor:
    """A number or one value per sample (B,), shaped so that it broadcasts over x."""
    if not isinstance(value, Tensor):
        return torch.as_tensor(value, dtype=x.dtype, device=x.device)
    return value.reshape(-1, *[1] * (x.dim() - 1)) if value.dim() else value


def _of(value: Tensor, rows: Rows) -> Tensor:
    """The rows of one value per sample; a single number stays what it is."""
    return value[rows] if value.dim() else value


def start_point(x: Tensor, kind: str, epsilon: float | Tensor, generator: torch.Generator | None) -> Tensor:
    """The first x' before projection: x + U(-ε, ε), x + 0.001 N(0, 1), or x. Noise is drawn on the generator's device.

    The gaussian start is where TRADES and MART begin; it is projected like every start, which the official codes skip.
    """
    if kind == "zero":
        return x
    device = x.device if generator is None else generator.device
    if kind == "uniform":
        unit = torch.rand(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
        return x + per_sample(epsilon, x) * (2 * unit - 1)
    if kind == "gaussian":
        return x + gaussian(x, 0.001, generator)
    raise ValueError(f"unknown start '{kind}'; known: uniform, gaussian, zero")


def start_in_l2(x: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """x + ε u^{1/d} n/‖n‖₂ with n ~ N(0, 1) and u ~ U(0, 1): uniform in the L2 ball of d dimensions, before [0, 1]."""
    share = torch.rand(len(x), generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
    return x + per_sample(epsilon * share ** (1 / x[0].numel()), x) * unit(gaussian(x, 1.0, generator))


def gaussian(x: Tensor, scale: float, generator: torch.Generator | None) -> Tensor:
    """scale · N(0, 1), shaped like x, drawn on the generator's device."""
    device = x.device if generator is None else generator.device
    return scale * torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)


@contextmanager
def under_attack(model: nn.Module, mode: str) -> Iterator[None]:
    """The model as attacks want it: in `eval` or `train` mode, parameters frozen. Restores both afterwards."""
    was_training = {module: module.training for module in model.modules()}
    needed_gradient = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.train(mode == "train")
    for parameter in needed_gradient:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in needed_gradient:
            parameter.requires_grad_(True)
        for module, training in was_training.items():
            module.training = training


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """bf16 arithmetic in convolutions and products where asked for; logits and losses stay in fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
