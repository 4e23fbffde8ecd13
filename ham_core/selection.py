"""Which epoch's weights are kept: the best by each rule on the selection images."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from ham_core.config import Trial
from ham_core.data.split import Split
from ham_core.evaluation import attack_images
from ham_core.metrics import summarize
from ham_core.protocol import EvaluationAttack
from ham_core.randomness import derived_seed

SELECTION_RULES = {
    "best": lambda robust: robust["avg"],
    "best_sum": lambda robust: robust["avg"] + robust["worst"],
    "best_worst": lambda robust: robust["worst"],
}


def judge(
    model: nn.Module, images: Split, trial: Trial, classes: tuple[str, ...], prefix: str
) -> tuple[dict[str, float], dict[str, float]]:
    """(statistics under the selection attack, all metrics by their name below `prefix`)."""
    attack = EvaluationAttack(kind="pgd", steps=trial.selection.steps)
    seed = derived_seed(trial.seed, "selection")
    seen = attack_images(model, images, attack, epsilon=trial.epsilon, seed=seed)
    labels = images.labels.cpu().numpy()
    clean = summarize(labels, seen.clean == labels, classes)
    robust = summarize(labels, seen.prediction == labels, classes)
    metrics = {f"{prefix}/clean/{name}": value for name, value in clean.items()}
    return robust, metrics | {f"{prefix}/{attack.key}/{name}": value for name, value in robust.items()}


def rules_won(robust: Mapping[str, float], suffix: str, best: dict[str, float]) -> list[str]:
    """The rules by which these statistics beat the scores of `best`, which is updated; the first of equals stays."""
    won = []
    for rule, score_of in SELECTION_RULES.items():
        score = score_of(robust)
        if score > best.get(f"{rule}{suffix}", -math.inf):
            best[f"{rule}{suffix}"] = score
            won.append(rule)
    return won
