"""The attack on one training batch: objective, mining and calibration meet the projected-gradient loop here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ham_core.attacks.pgd import autocast, pgd_linf, start_point, under_attack
from ham_core.config import Trial
from ham_core.mining.base import Mining, Trajectory


@dataclass(frozen=True)
class Crafted:
    """What the model trains on.

    x, adv (n,C,H,W) and y (n,) of the rows (n,) that are left of the batch; weights (n,) or None for 1 each.
    flags: name -> (labels, yes or no) that mining noted.
    """

    x: Tensor
    y: Tensor
    adv: Tensor
    rows: Tensor
    weights: Tensor | None
    flags: dict[str, tuple[Tensor, Tensor]]


def craft(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    trial: Trial,
    *,
    epoch: int,
    margin: Tensor | None,
    noise: torch.Generator,
    chance: torch.Generator,
    passes: Counter[str],
) -> Crafted:
    """Attack a batch x (B,C,H,W), y (B,), and let mining pick.

    margin (B,) scales epsilon per sample. `noise` draws start points, `chance` what mining draws. `passes` counts
    samples through forward passes and input gradients. The model comes back in its mode, with its gradients.
    """
    attack, objective = trial.attack, trial.method.objective
    mining: Mining | None = trial.method.mining
    if mining is not None and epoch < mining.start_epoch:
        mining = None
    epsilon: float | Tensor = trial.epsilon if margin is None else margin * trial.epsilon

    def forward(images: Tensor) -> Tensor:
        passes["forward"] += len(images)
        with autocast(trial.precision, images.device):
            logits: Tensor = model(images)
        return logits.float()

    @torch.no_grad()
    def predict(images: Tensor) -> Tensor:
        return forward(images)

    with under_attack(model, attack.mode):
        first = start_point(x, attack.start, epsilon, noise)
        everyone = torch.arange(len(y), device=y.device)
        seen = Trajectory(predict, x, y, first, epoch, len(y), chance, everyone)

        def climb(steps: int) -> None:
            """So many steps for the rows that are still followed."""
            clean = seen.clean() if objective.attack_needs_clean else None
            keep_path = mining is not None and mining.wants_path()

            def watch(_: int, __: Tensor, logits: Tensor) -> None:
                passes["input_gradient"] += len(logits)
                if keep_path:
                    seen.path.append(logits)

            seen.move(
                pgd_linf(
                    forward,
                    seen.x,
                    lambda logits: objective.ascend(clean, logits, seen.y),
                    epsilon=epsilon if isinstance(epsilon, float) else epsilon[seen.rows],
                    step=attack.step,
                    steps=steps,
                    start=seen.adv,
                    watch=watch,
                )
            )

        pause = None if mining is None else mining.pause()
        if mining is None or pause is None:
            climb(attack.steps)
        else:
            climb(pause)
            seen.restrict(mining.keep(seen))
            if len(seen.y):
                climb(attack.steps - pause)
        weights = None
        if mining is not None and len(seen.y):
            kept = mining.finish(seen)
            if kept is not None:
                seen.restrict(kept)
            if len(seen.y):
                weights = mining.weigh(seen)
    return Crafted(seen.x, seen.y, seen.adv, seen.rows, weights, seen.flags)
