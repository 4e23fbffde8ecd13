"""An evaluation that doubts the model it judges: checks that return sentences, none for a sound model.

Robust accuracy is only an upper bound: it is what these attacks could not break. Each check looks for a known way in which
attacks fail without the model being robust (Athalye, Carlini and Wagner, ICML 2018, arXiv:1802.00420; Carlini et al. 2019,
arXiv:1902.06705; the flags of AutoAttack, Croce and Hein, ICML 2020, arXiv:2003.01690). A sentence starts with the name
under which docs/evaluation.md says when it is raised, what it means and what to do.

Differs from AutoAttack's flags: a share of images with zero gradient is tolerated instead of none, a black-box success must
be two images or more, and the modes of layers, the dependence on the batch, the radius and the gap to PGD are checked too.
An attack that is weak by its settings says nothing about the model, and is compared with no other (`convinces`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ham_core.lazy import F, torch
from ham_core.protocol import QUERIES, EvaluationAttack

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from ham_core.data.split import Split

IMAGES = 64  # that a check of the model looks at
PASSES = 8  # over the same images: a layer that tosses one coin per batch looks the same in two of them half of the time
RANDOM = 1e-4  # two passes may differ by this share of the largest logit
BATCH = 1e-2  # and of the same images in two batches: other kernels round otherwise, by far less than this
SIMPLEX = 1e-5  # outputs this close to non-negative numbers of sum 1 are probabilities
ZERO_GRADIENTS = 0.01  # tolerated share of images whose gradient is zero in every pixel
GAP = 0.05  # PGD may leave this share of images standing that AutoAttack breaks
BLACK_BOX = 0.002  # Square may break this share of images that no white-box attack breaks, as in AutoAttack
LEFT = 0.01  # share of images that may stand when every image can be made any other
RISE = 0.01  # robust accuracy may rise by this much from one radius to the next: chance of the start points
SLACK = 1e-5  # of radius and range: rounding
STEPS = 10  # of PGD and CW, at least, where they stand for what gradients can do

WHITE_BOX = ("pgd", "cw", "apgd-ce", "apgd-t", "fab-t")
STRONGER = ("autoattack", "apgd-ce", "apgd-t", "fab-t")  # than PGD with steps of one size


# the model -----------------------------------------------------------------------------------------------------------


def of_model(model: nn.Module, x: Tensor, y: Tensor) -> list[str]:
    """Doubts about a model as it is handed over, x (B,C,H,W) in [0, 1], y (B,): ten passes and one gradient of 64 images.

    A layer in training mode ends the checks: passes would move its averages. Parameters get no gradients.
    """
    modes = list(
        _modes(model, "layers are in training mode, {} among them; call model.eval() before it is judged")
    )
    if modes:
        return modes
    x, y = x[:IMAGES], y[:IMAGES]
    half = len(x) // 2
    with torch.no_grad():
        first = model(x)
        modes = list(
            _modes(model, "layers, {} among them, are put into training mode by a pass; take that call out")
        )
        if modes:
            return modes
        others = [model(x) for _ in range(PASSES - 1)]
        apart = torch.cat([model(x[:half]), model(x[half:])]) if half > 1 else first
    if not torch.isfinite(first).all():
        bad = int((~torch.isfinite(first)).any(1).sum())
        return [f"nan: the outputs of {bad} of {len(x)} clean images are not finite numbers"]
    return [
        *_random(first, others, apart),
        *_probabilities(first),
        *_zero_gradients(model, x, y),
    ]


def _modes(model: nn.Module, sentence: str) -> Iterator[str]:
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    if training:
        yield f"training-mode: {len(training)} {sentence.format(training[0])}"


def _random(first: Tensor, others: Sequence[Tensor], apart: Tensor) -> Iterator[str]:
    largest = float(first.abs().amax().clamp_min(1e-30))  # tiny logits are logits too
    change = float(torch.stack([(first - other).abs().amax() for other in others]).amax()) / largest
    if not change <= RANDOM:
        yield (
            f"random-outputs: passes over the same images differ by {change:.2g} of the largest logit; "
            "attacks need the average over many passes"
        )
        return
    change = float((first - apart).abs().amax()) / largest
    if not change <= BATCH:
        yield (
            f"batch-dependent: an image's logits change by {change:.2g} of the largest one with the other images of its "
            "batch, as with batch statistics in BatchNorm; an attack on one image then moves the others"
        )


def _probabilities(outputs: Tensor) -> Iterator[str]:
    sums = outputs.sum(1)
    if bool((outputs.amin() >= -SIMPLEX) & ((sums - 1).abs() <= SIMPLEX).all()):
        yield (
            "probabilities: the outputs are not negative and sum to 1, so they look like probabilities; "
            "attacks need logits, return what goes into the softmax"
        )


def _zero_gradients(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[str]:
    gradient = None
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        if logits.requires_grad:
            loss = F.cross_entropy(logits, y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x, allow_unused=True)
    if gradient is None:
        yield (
            "zero-gradients: no gradient reaches the pixels, so gradient attacks cannot work; "
            "judge the model by square, or attack a differentiable stand-in"
        )
        return
    if not torch.isfinite(gradient).all():
        yield "nan: the gradient of the loss is not a finite number in some pixels"
        return
    share = float((gradient.flatten(1).abs().amax(1) == 0).float().mean())
    if share > ZERO_GRADIENTS:
        yield (
            f"zero-gradients: for {100 * share:.0f} % of the images the gradient of the cross-entropy is zero in every "
            "pixel, so gradient attacks stand still there; trust apgd-t, fab-t and square more than PGD"
        )


# what an attack returned ---------------------------------------------------------------------------------------------


def extent(x: Tensor, adv: Tensor, norm: str) -> Tensor:
    """(3,): largest distance of an image in `norm`, -(smallest pixel), largest pixel; NaN where a pixel is none.

    The elementwise maximum of two extents is that of their images together.
    """
    shift = (adv - x).flatten(1)
    distance = shift.abs().amax() if norm == "linf" else shift.norm(dim=1).amax()
    return torch.stack([distance, (-adv).amax(), adv.amax()])


def of_extent(extent: Sequence[float], epsilon: float) -> list[str]:
    """Doubts about attacked images: outside the ball, outside [0, 1], or no numbers."""
    distance, below, highest = extent
    if any(math.isnan(value) for value in extent):
        return ["nan: an attacked image has pixels that are no numbers"]
    found = []
    if distance > epsilon + SLACK * (1 + epsilon):
        found.append(f"radius: an attacked image lies {distance:.6g} away, outside the radius {epsilon:.6g}")
    if -below < -SLACK or highest > 1 + SLACK:
        found.append(f"range: attacked pixels reach from {-below:.6g} to {highest:.6g}, outside [0, 1]")
    return found


def of_confidence(clean: np.ndarray, attacked: np.ndarray) -> list[str]:
    """Doubts about p_y (N,) of all images, clean and as attacked: NaN where the outputs are no numbers."""
    bad = [int((values != values).sum()) for values in (clean, attacked)]
    if not any(bad):
        return []
    return [
        f"nan: of {len(clean)} images the outputs of {bad[0]} clean and {bad[1]} attacked ones are not finite numbers"
    ]


def of_ensemble(broken: Mapping[str, int], images: int) -> list[str]:
    """Doubts about an ensemble: `broken` images by each attack among those that the attacks before it left standing."""
    by_square = broken.get("square", 0)
    if len(broken) < 2 or not _counts(by_square, images):
        return []
    return [_black_box(by_square, images, "the white-box attacks before it")]


def _counts(alone: int, images: int) -> bool:
    return alone > max(1, BLACK_BOX * images)


def _black_box(alone: int, images: int, others: str) -> str:
    return (
        f"black-box: Square, which sees outputs only, breaks {alone} of {images} images more than {others}; "
        f"gradients mislead, so run square with more than {QUERIES} queries or an attack made for this model"
    )


# several attacks on the same weights ---------------------------------------------------------------------------------


def between(records: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Any]) -> list[str]:
    """Doubts that follow from an evaluation's record beside the `records` of the same trial.

    Compared are attacks on the same weights with the same norm and radius: PGD against AutoAttack and its parts, Square
    against white-box attacks. Only those that `convinces` count.
    """
    if not convinces(evaluation):
        return []
    mine = _terms(evaluation)
    alike = [*(one for one in records if _terms(one) == mine and convinces(one)), evaluation]
    accuracy: dict[str, float] = {}
    for one in alike:
        kind, average = one["attack"]["kind"], _average(one)
        accuracy[kind] = min(average, accuracy.get(kind, average))
    images, kind = sum(evaluation["images"].values()), evaluation["attack"]["kind"]
    found = []
    strongest = min(
        (name for name in STRONGER if name in accuracy), key=lambda name: accuracy[name], default=""
    )
    if "pgd" in accuracy and strongest and kind in ("pgd", strongest):
        gap = accuracy["pgd"] - accuracy[strongest]
        if gap > GAP:
            title = "AutoAttack" if strongest == "autoattack" else strongest
            found.append(
                f"pgd-gap: {100 * accuracy['pgd']:.1f} % stand under PGD but {100 * accuracy[strongest]:.1f} % under {title}, "
                f"{100 * gap:.1f} points apart; gradients of the cross-entropy mislead on this model, report AutoAttack"
            )
    white = [accuracy[name] for name in WHITE_BOX if name in accuracy]
    if "square" in accuracy and white and kind in ("square", *WHITE_BOX):
        alone = round((min(white) - accuracy["square"]) * images)
        if _counts(alone, images):
            found.append(_black_box(alone, images, "the strongest white-box attack"))
    return found


def convinces(record: Mapping[str, Any]) -> bool:
    """Whether it says something of the model that an attack leaves images standing. FGSM does not, and weak PGD and CW do not.

    PGD and CW need N ≥ 10 steps α that lead through the ball, N α ≥ 2ε, and α ≤ ε; the default is α = ε/4.
    """
    attack, radius = record["attack"], record["epsilon"]
    if attack["kind"] not in ("pgd", "cw"):
        return bool(attack["kind"] != "fgsm")
    steps, step = attack["steps"], attack.get("step")
    step = radius / 4 if step is None else step
    return bool(steps >= STEPS and 2 * radius * (1 - SLACK) <= steps * step and step <= radius * (1 + SLACK))


def _terms(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record["weights"], record["attack"].get("norm", "linf"), record["epsilon"]


def _average(record: Mapping[str, Any]) -> float:
    return float(record["metrics"][f"{record['weights']}/{record['attack_name']}/avg"])


# costly: attacks of its own ------------------------------------------------------------------------------------------


def as_epsilon_grows(
    model: nn.Module, images: Split, *, epsilon: float, seed: int = 0, steps: int = 20
) -> tuple[list[str], dict[float, float]]:
    """Doubts, and {radius: robust accuracy} under L∞ PGD for ε, 2ε, 4ε, ... and 1, where every image can become any other.

    Costs (steps + 1) passes and `steps` gradients of all `images` per radius; a few hundred images are enough.
    """
    from ham_core.evaluation import attack_images

    radii = [epsilon]
    while 0 < radii[-1] < 1:
        radii.append(min(1.0, 2 * radii[-1]))
    label = images.labels.cpu().numpy()
    attack = EvaluationAttack(kind="pgd", steps=steps)
    curve = {
        radius: float(
            (attack_images(model, images, attack, epsilon=radius, seed=seed).prediction == label).mean()
        )
        for radius in radii
    }
    shares = list(curve.values())
    found = []
    if radii[-1] == 1 and shares[-1] > LEFT:
        found.append(
            f"epsilon-curve: {100 * shares[-1]:.1f} % of the images stand under PGD with radius 1, where every image can "
            "become any other; PGD fails on this model, so its robust accuracy means nothing"
        )
    rises = [(small, large) for small, large in pairwise(radii) if curve[large] > curve[small] + RISE]
    if rises:
        small, large = rises[0]
        found.append(
            f"epsilon-curve: robust accuracy rises from {100 * curve[small]:.1f} % at radius {small:.4g} to "
            f"{100 * curve[large]:.1f} % at {large:.4g}; a larger ball holds the smaller one, so PGD fails there"
        )
    return found, curve
