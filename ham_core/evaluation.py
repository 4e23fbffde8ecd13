"""Predictions of every image under an attack, and everything class-wise that follows from them.

An image counts as robust if it is right on the clean image and right under the attack: the clean image lies in the ball.
So only images that are still right are attacked, and the prediction of the others is the clean one.

    fgsm    x' = clip(x + ε sign ∇ CE)           Goodfellow et al., ICLR 2015, arXiv:1412.6572
    pgdN    N steps on CE = -log p_y             Madry et al., ICLR 2018, arXiv:1706.06083
    cwN     N steps on max_{c≠y} z_c - z_y       Carlini and Wagner, S&P 2017, arXiv:1608.04644

with restarts: an image is attacked again, from another start, while it stands. The others are ham_core/autoattack.py's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ham_core import autoattack, doubts, memory
from ham_core.attacks.losses import cross_entropy, margin
from ham_core.attacks.pgd import Rows, pgd, start_in_l2, start_point, under_attack
from ham_core.data.augment import to_float
from ham_core.data.split import Split
from ham_core.network import exact_fp32
from ham_core.protocol import EvaluationAttack
from ham_core.randomness import generator

BATCH = 256  # images attacked at once; start points are drawn per batch, so results belong to this number

LOSSES = {"fgsm": cross_entropy, "pgd": cross_entropy, "cw": margin}


@dataclass(frozen=True)
class Seen:
    """Per image (N,): class predicted under the attack and on the clean image, and p_y of both.

    confidence is p_y on the last attacked image of PGD and CW; for AutoAttack and its parts on the image that broke it,
    and on the clean one where none did. `parts` has what single attacks add: PGD, CW and FGSM `top` and `clean_top` (N,),
    max_c p_c of the same two images; an ensemble `broken_by` (N,), the number of the part that broke the image or -1, and
    `prediction_<part>` (N,), the prediction after that part and those before it.
    """

    prediction: np.ndarray
    clean: np.ndarray
    confidence: np.ndarray
    clean_confidence: np.ndarray
    seconds: float
    extent: Sequence[float] = (0.0, 0.0, 0.0)  # of all attacked images, see doubts.extent
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)  # images broken by each part of an ensemble


class Attackable(nn.Module):
    """A model whose outputs depend on the pixels, be it with slope zero.

    Where no gradient reaches the pixels, gradient attacks then stand still, as they do where it is zero, and the doubt
    `zero-gradients` says so; PyTorch would raise. Outputs and gradients are otherwise those of the model: z + 0.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        if logits.is_inference():  # made under torch.inference_mode: attacks may not write to it
            logits = logits.clone()
        if not (torch.is_grad_enabled() and x.requires_grad):
            return logits
        return logits + 0 * x.flatten(1).sum(1, keepdim=True).to(logits.dtype)


def attack_images(
    model: nn.Module,
    images: Split,
    attack: EvaluationAttack,
    *,
    epsilon: float,
    seed: int,
    progress: Path | None = None,
    late: Callable[[], bool] | None = None,
) -> Seen:
    """Attack a whole split in exact fp32. The model is judged in eval mode and comes back as it was.

    epsilon: the L∞ radius of an attack that has none of its own. progress, late: for AutoAttack and its parts, where the
    state is kept and when to stop with autoattack.Unfinished.
    """
    memory.keep_freed()
    epsilon = attack.radius(epsilon)
    if attack.kind not in ("clean", *LOSSES):
        return _by_library(model, images, attack, epsilon=epsilon, seed=seed, progress=progress, late=late)
    started = time.perf_counter()
    # One stream per restart, so that the first starts do not depend on how many there are.
    noise = [generator(seed, "start", restart, images.images.device) for restart in range(attack.restarts)]
    parts: list[tuple[Tensor, ...]] = []
    extent = torch.zeros(3, device=images.images.device)
    with under_attack(model, "eval"), exact_fp32():
        for first in range(0, len(images), BATCH):
            x = to_float(images.images[first : first + BATCH]).contiguous(memory_format=torch.channels_last)
            y = images.labels[first : first + BATCH]
            *seen, reached = _attack_batch(Attackable(model), x, y, attack, epsilon, noise)
            parts.append(tuple(seen))
            extent = torch.maximum(extent, reached)
    joined = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    tops = {} if attack.kind == "clean" else {"top": joined[4], "clean_top": joined[5]}
    seconds = time.perf_counter() - started
    return Seen(joined[0], joined[1], joined[2], joined[3], seconds, extent=extent.tolist(), parts=tops)


def _by_library(
    model: nn.Module,
    images: Split,
    attack: EvaluationAttack,
    *,
    epsilon: float,
    seed: int,
    progress: Path | None,
    late: Callable[[], bool] | None,
) -> Seen:
    """AutoAttack or one part of it."""
    parts = autoattack.parts_of(attack)
    with under_attack(model, "eval"), exact_fp32():
        state = autoattack.run_parts(
            Attackable(model),
            images,
            parts,
            epsilon=epsilon,
            norm=attack.norm,
            seed=seed,
            batch=BATCH,
            progress=progress,
            late=late,
        )
    keys = [part.name.replace("-", "_") for part in parts]
    after = {f"prediction_{key}": state.after(number) for number, key in enumerate(keys)}
    return Seen(
        state.prediction,
        state.clean,
        state.confidence,
        state.clean_confidence,
        float(state.seconds),
        extent=state.extent.tolist(),
        parts={"broken_by": state.broken_by, **after} if len(parts) > 1 else {},
        broken={part.name: int((state.broken_by == number).sum()) for number, part in enumerate(parts)},
    )


@torch.no_grad()
def _attack_batch(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: EvaluationAttack,
    epsilon: float,
    noise: list[torch.Generator],
) -> tuple[Tensor, ...]:
    """(prediction, clean prediction, p_y under attack, clean p_y, max_c p_c under attack, clean max_c p_c), each (B,), and the
    extent (3,)."""
    logits = model(x)
    clean, clean_confidence, clean_top = logits.argmax(1), _confidence(logits, y), _top(logits)
    prediction, confidence, top = clean.clone(), clean_confidence.clone(), clean_top.clone()
    extent = torch.zeros(3, device=x.device)
    if attack.kind == "clean":
        return prediction, clean, confidence, clean_confidence, top, clean_top, extent
    step, steps = epsilon / 4 if attack.step is None else attack.step, attack.steps
    if attack.kind == "fgsm":
        step, steps = epsilon, 1
    for stream in noise:
        # Noise is drawn for every image, so that an image's start does not depend on which others still stand.
        start = _start(x, attack, epsilon, stream)
        rows = (prediction == y).nonzero().squeeze(1)
        if not len(rows):
            continue
        own = y[rows]
        adv = pgd(
            model,
            x[rows],
            partial(_climb, loss=LOSSES[attack.kind], y=own),
            epsilon=epsilon,
            step=step,
            steps=steps,
            start=start[rows],
            norm=attack.norm,
        )
        extent = torch.maximum(extent, doubts.extent(x[rows], adv, attack.norm))
        logits = model(adv)
        prediction[rows], confidence[rows], top[rows] = (
            logits.argmax(1),
            _confidence(logits, own),
            _top(logits),
        )
    return prediction, clean, confidence, clean_confidence, top, clean_top, extent


def _start(x: Tensor, attack: EvaluationAttack, epsilon: float, stream: torch.Generator) -> Tensor:
    if attack.kind == "fgsm":
        return x
    if attack.norm == "l2":
        return start_in_l2(x, epsilon, stream)
    return start_point(x, "uniform", epsilon, stream)


def _climb(logits: Tensor, rows: Rows, *, loss: Callable[[Tensor, Tensor], Tensor], y: Tensor) -> Tensor:
    return loss(logits, y[rows])


def _confidence(logits: Tensor, y: Tensor) -> Tensor:
    return logits.float().softmax(1).gather(1, y[:, None]).squeeze(1)


def _top(logits: Tensor) -> Tensor:
    """max_c p_c (B,)."""
    return logits.float().softmax(1).amax(1)
