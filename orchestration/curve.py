"""Robust accuracy as epsilon grows to 1, of a trained trial or of somebody's model: `ham_core.doubts.as_epsilon_grows`.

Nothing is stored: the curve is a look at one model, no result of a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ham_core.lazy import torch

if TYPE_CHECKING:
    from torch import nn

    from ham_core.config import Trial
    from ham_core.data.split import Split
    from ham_core.folder import TrialFolder

IMAGES = 500  # of the test images; a share of 1 %, which the doubts look at, is five of them


def epsilon_curve(
    trial: Trial, folder: TrialFolder, weights: str, *, device: str = "auto", threads: int = 1
) -> dict[str, Any]:
    """{"images", "curve": [{"epsilon", "accuracy"}, ...], "doubts"}: L-infinity radii in pixels of [0, 1], shares."""
    from ham_core.network import build_model, usable
    from ham_core.randomness import derived_seed
    from ham_core.training import load_data

    torch.set_num_threads(threads)
    chosen = usable(device)
    dataset = load_data(trial, chosen)
    model = build_model(trial, dataset, chosen)
    model.load_state_dict(folder.weights(weights, str(chosen)))
    return curve_of(model, dataset.test, trial.epsilon, derived_seed(trial.seed, "evaluation"))


def curve_of(model: nn.Module, test: Split, epsilon: float, seed: int) -> dict[str, Any]:
    """The same of any model on at most IMAGES of its test images."""
    from ham_core import doubts
    from ham_core.data.split import Split

    rows = spread(len(test), IMAGES).to(test.labels.device)
    images = Split(test.images[rows], test.labels[rows])
    sentences, curve = doubts.as_epsilon_grows(model, images, epsilon=epsilon, seed=seed)
    points = [{"epsilon": epsilon, "accuracy": accuracy} for epsilon, accuracy in curve.items()]
    return {"images": len(images), "curve": points, "doubts": sentences}


def spread(images: int, wanted: int) -> torch.Tensor:
    """At most `wanted` positions (n,), evenly over all: test sets may be sorted by class."""
    count = min(images, wanted)
    return torch.arange(count) * images // count
