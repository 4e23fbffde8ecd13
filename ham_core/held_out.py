"""What calibrations learn from held-out images between two epochs. The network is judged in evaluation mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ham_core.adversary import Streams, counted, craft
from ham_core.config import Trial
from ham_core.data.augment import to_float
from ham_core.data.split import Dataset
from ham_core.evaluation import attack_images
from ham_core.metrics import class_shares
from ham_core.protocol import EvaluationAttack
from ham_core.randomness import derived_seed, generator

STREAM = "calibration"  # of random numbers


def held_out_accuracies(
    model: nn.Module, trial: Trial, dataset: Dataset, steps: int, *, epoch: int
) -> tuple[Tensor, Tensor]:
    """Class-wise (clean, robust) accuracy (C,) under PGD with so many steps; NaN for a class without held-out images."""
    images = dataset.validation
    attack = EvaluationAttack(kind="pgd", steps=steps)
    seed = derived_seed(trial.seed, STREAM, epoch)
    seen = attack_images(model, images, attack, epsilon=trial.epsilon, seed=seed)
    labels = images.labels.cpu().numpy()
    shares = [
        class_shares(labels, found == labels, len(dataset.classes))[0]
        for found in (seen.clean, seen.prediction)
    ]
    clean, robust = (
        torch.as_tensor(share, dtype=torch.float32, device=images.labels.device) for share in shares
    )
    return clean, robust


def held_out_losses(
    model: nn.Module,
    trial: Trial,
    dataset: Dataset,
    ask_helper: Callable[[Tensor, Counter[str]], Tensor],
    *,
    epoch: int,
) -> tuple[Tensor, Tensor]:
    """Sums (C,) of the objective's loss over the images of each class under its own attack, and their numbers (C,)."""
    images, classes = dataset.validation, len(dataset.classes)
    device, objective = images.labels.device, trial.method.objective
    attack = trial.attack.model_copy(update={"mode": "eval"})
    method = trial.method.model_copy(update={"mining": None, "calibration": None})
    plain = trial.model_copy(update={"attack": attack, "method": method})
    streams = Streams(generator(trial.seed, STREAM, epoch, device), generator(trial.seed, STREAM, epoch))
    passes: Counter[str] = Counter()  # of no training step
    forward = counted(model, trial.precision, passes)
    total = torch.zeros(classes, device=device)
    was_training = model.training
    for first in range(0, len(images), trial.batch_size):
        piece = slice(first, first + trial.batch_size)
        x = to_float(images.images[piece]).contiguous(memory_format=torch.channels_last)
        y = images.labels[piece]
        kept = craft(model, x, y, plain, epoch=epoch, streams=streams, passes=passes).kept
        model.eval()
        with torch.no_grad():
            clean = forward(x) if objective.root.loss_needs_clean else None
            points, values = objective.points(x, kept.adv, kept.marks, lambda seen: ask_helper(seen, passes))
            extra = values | {name: forward(seen) for name, seen in points.items()}
            losses = objective.loss(clean, forward(kept.adv), y, extra=extra)
        model.train(was_training)
        total.index_add_(0, y, losses)
    return total, torch.bincount(images.labels, minlength=classes)
