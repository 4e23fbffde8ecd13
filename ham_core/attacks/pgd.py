"""Projected gradient ascent in the L∞ ball. Madry et al., ICLR 2018, arXiv:1706.06083.

    x^{k+1} = Π( x^k + α sign ∇_x ℓ(f(x^k)) ),   Π = clip to [x-ε, x+ε], then to [0, 1]

Notation: x (B,C,H,W) pixels in [0, 1]; ε radius and α step in the same units, numbers or one per sample (B,).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

Ascend = Callable[[Tensor], Tensor]  # logits (B,K) -> (B,), to be maximised
Watch = Callable[
    [int, Tensor, Tensor], "Tensor | None"
]  # step, x^k, logits -> rows (B,) bool that move; None: all


def pgd_linf(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    ascend: Ascend,
    *,
    epsilon: float | Tensor,
    step: float | Tensor,
    steps: int,
    start: Tensor | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Signed gradient ascent from `start` (default x) -> x^steps, shaped like x.

    The model normalises inside and returns logits (B,K). `start` is projected first. `watch` sees every iterate
    x^0..x^{steps-1} with its logits before the step is taken and may hold rows back.
    Promises |x'-x| ≤ ε and 0 ≤ x' ≤ 1. Leaves the model's mode and gradients as found; a model in evaluation mode keeps
    its batch statistics.
    """
    lower, upper = (x - per_sample(epsilon, x)).clamp_(0, 1), (x + per_sample(epsilon, x)).clamp_(0, 1)
    alpha = per_sample(step, x)
    adv = x.clone() if start is None else torch.clamp(start, lower, upper)
    for k in range(steps):
        logits, gradient = input_gradient(model, adv, ascend)
        moving = None if watch is None else watch(k, adv, logits)
        moved = torch.clamp(adv + alpha * gradient.sign(), lower, upper)
        adv = moved if moving is None else torch.where(per_sample(moving, x), moved, adv)
    return adv


def input_gradient(model: Callable[[Tensor], Tensor], x: Tensor, ascend: Ascend) -> tuple[Tensor, Tensor]:
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
        return x + 0.001 * torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(
            x.device
        )
    raise ValueError(f"unknown start '{kind}'; known: uniform, gaussian, zero")


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
