"""The attack on one training batch: objective, mining and calibration meet the projected-gradient loop here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ham_core.attacks.pgd import Move, Rows, autocast, gaussian, pgd, start_point, under_attack
from ham_core.calibration.base import Calibration
from ham_core.config import Trial
from ham_core.mining.base import Kept, Mining, Trajectory
from ham_core.models.folded import folding


@dataclass(frozen=True)
class Crafted:
    """What the model trains on.

    kept: what is left of the batch. flags: name -> (labels, yes or no) that mining noted. left: (labels, right under
    attack) of those of whom it is known and who are not trained on. sizes: (step sizes, weights) of the hard examples, where
    mining weighed by them.
    """

    kept: Kept
    flags: dict[str, tuple[Tensor, Tensor]]
    left: list[tuple[Tensor, Tensor]]
    sizes: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Streams:
    """Random streams of an epoch: `noise` draws start points, `chance` what mining draws."""

    noise: torch.Generator
    chance: torch.Generator


def craft(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    trial: Trial,
    *,
    epoch: int,
    streams: Streams,
    passes: Counter[str],
    margin: Tensor | None = None,
    counts: Tensor | None = None,
    first: Tensor | None = None,
) -> Crafted:
    """Attack a batch x (B,C,H,W), y (B,), and let mining pick.

    margin (B,) scales epsilon per sample; counts (C,) are the training images per class; `first` is x' to begin with in place
    of a drawn start. `passes` counts samples through forward passes and input gradients. The model comes back in its mode,
    with its gradients.
    """
    attack, objective = trial.attack, trial.method.objective
    mining = active_mining(trial, epoch)
    epsilon: float | Tensor = trial.epsilon if margin is None else margin * trial.epsilon
    step, again = _moves(trial, margin)
    forward = counted(model, trial.precision, passes)

    @torch.no_grad()
    def predict(images: Tensor) -> Tensor:
        return forward(images)

    # BatchNorm of the batch cannot be folded: an attack in training mode goes through the network as it is.
    fold = folding(model, trial.precision) if attack.mode == "eval" else nullcontext()
    with under_attack(model, attack.mode), fold:
        start = start_point(x, attack.start, epsilon, streams.noise) if first is None else first
        everyone = torch.arange(len(y), device=y.device)
        seen = Trajectory(predict, x, y, start, epoch, len(y), streams.chance, everyone, counts, attack.steps)

        def climb(steps: int) -> None:
            """So many steps for the rows that are still followed."""
            clean = seen.clean() if steps and objective.root.attack_needs_clean else None
            keep_path = mining is not None and mining.wants_path()

            def ascend(logits: Tensor, rows: Rows) -> Tensor:
                passes["input_gradient"] += len(logits)
                return objective.ascend(None if clean is None else clean[rows], logits, seen.y[rows])

            def watch(_: int, adv: Tensor, logits: Tensor) -> Tensor | None:
                seen.adv = adv
                if keep_path:
                    seen.path.append(logits)
                return objective.follow(seen, logits)

            omega = objective.jitter()
            seen.move(
                pgd(
                    forward,
                    seen.x,
                    ascend,
                    epsilon=_rows(epsilon, seen.rows),
                    step=_rows(step, seen.rows),
                    steps=steps,
                    start=seen.adv,
                    watch=watch,
                    noise=(lambda: gaussian(seen.x, omega, streams.noise)) if omega else None,
                    again=again,
                )
            )

        pause = None if mining is None else mining.pause()
        if mining is None or pause is None:
            climb(attack.steps)
        else:
            climb(pause)
            seen.restrict(mining.keep(seen))
            if len(seen.y) and pause < attack.steps:
                climb(attack.steps - pause)
        kept = _pick(seen, mining)
    return Crafted(kept, seen.flags, seen.left, seen.sizes)


def _pick(seen: Trajectory, mining: Mining | None) -> Kept:
    """What mining leaves of the followed rows after the attack, and those that were set aside before."""
    weights = None
    if mining is not None and len(seen.y):
        chosen = mining.finish(seen)
        if chosen is not None:
            seen.restrict(chosen)
        if len(seen.y):
            weights = mining.weigh(seen)
    followed = Kept(seen.x, seen.y, seen.adv, seen.rows, weights, seen.marks)
    if mining is None or not seen.aside:
        return followed
    kept = Kept.joined([followed, *seen.aside])
    assert kept.weights is not None
    return Kept(kept.x, kept.y, kept.adv, kept.rows, mining.balance(kept.weights), kept.marks)


def active_mining(trial: Trial, epoch: int) -> Mining | None:
    """The trial's mining, once it has begun."""
    mining: Mining | None = trial.method.mining
    return None if mining is None or epoch < mining.start_epoch else mining


def counted(model: nn.Module, precision: str, passes: Counter[str]) -> Callable[[Tensor], Tensor]:
    """The network in the trial's precision, fp32 logits out; every sample that goes through is counted."""

    def forward(images: Tensor) -> Tensor:
        passes["forward"] += len(images)
        with autocast(precision, images.device):
            logits: Tensor = model(images)
        return logits.float()

    return forward


def _moves(trial: Trial, margin: Tensor | None) -> tuple[float | Tensor, Move | None]:
    """(α, a second move along the same gradient) of a batch whose radii are margin (B,) times epsilon."""
    calibration: Calibration | None = trial.method.calibration
    plain = trial.attack.step
    if calibration is None or margin is None:
        return plain, None
    again = Move(plain, trial.epsilon) if calibration.steps_again() else None
    return calibration.attack_step(margin, plain, trial.epsilon), again


def _rows(value: float | Tensor, rows: Tensor) -> float | Tensor:
    return value[rows] if isinstance(value, Tensor) and value.dim() else value
