"""Predictions of every image under an attack, and everything class-wise that follows from them.

An image counts as robust if it is right on the clean image and right under the attack: the clean image lies in the ball.
So only images that are still right are attacked, and the prediction of the others is the clean one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ham_core.attacks.losses import cross_entropy, margin
from ham_core.attacks.pgd import pgd_linf, start_point, under_attack
from ham_core.data.augment import to_float
from ham_core.data.split import Split
from ham_core.protocol import EvaluationAttack
from ham_core.randomness import generator

BATCH = 256  # images attacked at once; start points are drawn per batch, so results belong to this number

LOSSES = {"pgd": cross_entropy, "cw": margin}


@dataclass(frozen=True)
class Seen:
    """Per image (N,): class predicted under the attack and on the clean image, and p_y of both."""

    prediction: np.ndarray
    clean: np.ndarray
    confidence: np.ndarray
    clean_confidence: np.ndarray
    seconds: float


def attack_images(
    model: nn.Module, images: Split, attack: EvaluationAttack, *, epsilon: float, seed: int
) -> Seen:
    """Attack a whole split in fp32. The model is judged in eval mode and comes back as it was."""
    started = time.perf_counter()
    # One stream per restart, so that the first starts do not depend on how many there are.
    noise = [generator(seed, "start", restart, images.images.device) for restart in range(attack.restarts)]
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    with under_attack(model, "eval"):
        for first in range(0, len(images), BATCH):
            x = to_float(images.images[first : first + BATCH]).contiguous(memory_format=torch.channels_last)
            parts.append(
                _attack_batch(model, x, images.labels[first : first + BATCH], attack, epsilon, noise)
            )
    joined = [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
    return Seen(joined[0], joined[1], joined[2], joined[3], time.perf_counter() - started)


@torch.no_grad()
def _attack_batch(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: EvaluationAttack,
    epsilon: float,
    noise: list[torch.Generator],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(prediction, clean prediction, p_y under attack, clean p_y), each (B,)."""
    logits = model(x)
    clean, clean_confidence = logits.argmax(1), _confidence(logits, y)
    prediction, confidence = clean.clone(), clean_confidence.clone()
    if attack.kind == "clean":
        return prediction, clean, confidence, clean_confidence
    step = epsilon / 4 if attack.step is None else attack.step
    for stream in noise:
        # Noise is drawn for every image, so that an image's start does not depend on which others still stand.
        start = start_point(x, "uniform", epsilon, stream)
        rows = (prediction == y).nonzero().squeeze(1)
        if not len(rows):
            continue
        own = y[rows]
        adv = pgd_linf(
            model,
            x[rows],
            partial(LOSSES[attack.kind], y=own),
            epsilon=epsilon,
            step=step,
            steps=attack.steps,
            start=start[rows],
        )
        logits = model(adv)
        prediction[rows], confidence[rows] = logits.argmax(1), _confidence(logits, own)
    return prediction, clean, confidence, clean_confidence


def _confidence(logits: Tensor, y: Tensor) -> Tensor:
    return logits.float().softmax(1).gather(1, y[:, None]).squeeze(1)
