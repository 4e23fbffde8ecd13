"""Does training in bf16 reach what fp32 reaches, and who would be hard? AT and HAM, several seeds, in one run.

    python -m benchmarks.precision                             # digits: two minutes on 2 cores
    python -m benchmarks.precision --folder DIR --train 1000   # real images: a folder per class, or train/ and test/ of those

Each seed is trained in fp32 and in bf16 from the same initial weights, order and noise; the last weights are judged on the
test images in fp32, clean and under PGD-20. Difference: mean over seeds of bf16 - fp32. Spread: standard deviation of fp32
over seeds. bf16 has reached fp32 where the difference of the means is no larger than 2 spreads · √(2/n).

Hard sets: a trained fp32 network, all training images in batches, m steps of PGD from the same start points: who is
misclassified then (a) by a textbook loop in fp32 with contiguous pixels, on the network as it is, (b) by our fp32 attack,
(c) by our bf16 attack. Flipped: images on which (b) or (c) differ from (a).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.machine import ask_for_json, bounded, keep, on
from ham_core.adversary import Streams, craft
from ham_core.attacks.pgd import input_gradient, start_point, under_attack
from ham_core.config import Trial
from ham_core.data.augment import to_float
from ham_core.data.split import Dataset
from ham_core.evaluation import attack_images
from ham_core.metrics import summarize
from ham_core.protocol import EvaluationAttack
from ham_core.randomness import derived_seed, generator
from ham_core.training import Training, load_data

STEPS, EARLY_DROP_STEP = 10, 3
PRECISIONS = ("fp32", "bf16")
METHODS = ("at", "ham")


def trial_of(arguments: argparse.Namespace, method: str, precision: str, seed: int) -> Trial:
    """AT, or HAM that begins after a third of the epochs."""
    begin = arguments.epochs // 3
    ham = {"name": "ham", "early_drop_step": EARLY_DROP_STEP, "start_epoch": begin}
    if arguments.folder is None:
        data: dict[str, Any] = {"name": "digits"}
    else:
        data = {"folder": str(arguments.folder), "size": 32}
    data |= {"train_limit": arguments.train, "test_limit": arguments.test}
    return Trial.model_validate(
        {
            "method": {"objective": "at", "mining": ham if method == "ham" else None, "averaging": "none"},
            "data": data,
            "model": {"name": arguments.model, "width": arguments.width},
            "epsilon": arguments.epsilon,
            "attack": {"steps": STEPS, "mode": "eval"},
            "epochs": arguments.epochs,
            "batch_size": 64,
            "optimizer": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
            "schedule": {"milestones": [2 * arguments.epochs // 3], "factors": [0.1]},
            "selection": {"steps": 0},
            "precision": precision,
            "seed": seed,
        }
    )


def trained(one: Trial, images: Dataset) -> Training:
    """The trial's training, at its end."""
    training = Training(one, images)
    for _ in training:
        pass
    return training


def judged(training: Training) -> dict[str, float]:
    """Clean and robust accuracy, average and worst class, of the last weights on the test images, in percent."""
    attack = EvaluationAttack(kind="pgd", steps=20)
    images, one = training.dataset.test, training.trial
    seed = derived_seed(one.seed, "precision")
    seen = attack_images(training.model, images, attack, epsilon=one.epsilon, seed=seed)
    labels = images.labels.cpu().numpy()
    found: dict[str, float] = {}
    for name, prediction in (("clean", seen.clean), ("robust", seen.prediction)):
        accuracy = summarize(labels, prediction == labels, training.dataset.classes)
        found |= {f"{name} {kind}": 100 * accuracy[kind] for kind in ("avg", "worst")}
    return found


def compare(arguments: argparse.Namespace, method: str) -> tuple[dict[str, Any], Training]:
    """(accuracies per precision and seed, with their differences; the last fp32 training)."""
    images = load_data(trial_of(arguments, method, "fp32", 0))
    scores: dict[str, list[dict[str, float]]] = {precision: [] for precision in PRECISIONS}
    for seed in range(arguments.seeds):
        for precision in PRECISIONS:
            training = trained(trial_of(arguments, method, precision, seed), images)
            scores[precision].append(judged(training))
            if precision == "fp32":
                last = training
    found: dict[str, Any] = {"method": method, "scores": scores, "figures": {}}
    for name in scores["fp32"][0]:
        ours, theirs = ([one[name] for one in scores[precision]] for precision in ("bf16", "fp32"))
        spread = statistics.stdev(theirs)
        difference = statistics.mean(ours) - statistics.mean(theirs)
        allowed = 2 * spread * (2 / arguments.seeds) ** 0.5
        found["figures"][name] = {
            "fp32": statistics.mean(theirs),
            "bf16": statistics.mean(ours),
            "difference": difference,
            "spread": spread,
            "allowed": allowed,
            "holds": abs(difference) <= allowed,
        }
    return found, last


# ---------------------------------------------------------------- hard sets


def textbook_hard(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, one: Trial) -> Tensor:
    """Who is misclassified after m plain steps from `start` -> (B,) bool."""
    adv = start.clamp(0, 1)
    for _ in range(EARLY_DROP_STEP):
        _, gradient = input_gradient(model, adv, lambda z: F.cross_entropy(z, y, reduction="none"))
        moved = adv + one.attack.step * gradient.sign()
        adv = torch.min(torch.max(moved, x - one.epsilon), x + one.epsilon).clamp(0, 1)
    with torch.no_grad():
        return model(adv).argmax(1) != y


def hard_sets(arguments: argparse.Namespace, training: Training) -> dict[str, Any]:
    """How many of the training images are hard to the textbook, and on how many ours differ, per precision."""
    trials = {
        precision: trial_of(arguments, "ham", precision, training.trial.seed) for precision in PRECISIONS
    }
    train, size = training.dataset.train, training.trial.batch_size
    training.model.eval()
    found: dict[str, Any] = {"images": len(train), "hard": 0, "flipped": dict.fromkeys(PRECISIONS, 0)}
    for first in range(0, len(train), size):
        x, y = to_float(train.images[first : first + size]), train.labels[first : first + size]
        one = training.trial
        start = start_point(x, "uniform", one.epsilon, generator(0, "noise", first))
        with under_attack(training.model, "eval"):
            right = textbook_hard(training.model, x, y, start, one)
        found["hard"] += int(right.sum())
        for precision, other in trials.items():
            streams = Streams(generator(0, "noise", first), generator(0, "mining", first))
            crafted = craft(
                training.model,
                x.contiguous(memory_format=torch.channels_last),
                y,
                other,
                epoch=one.epochs,
                streams=streams,
                passes=Counter(),
            )
            ours = torch.zeros_like(right)
            ours[crafted.kept.rows] = True
            found["flipped"][precision] += int((ours != right).sum())
    return found


# ---------------------------------------------------------------- both


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/precision.py", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("--folder", type=Path, help="real images instead of digits")
    parser.add_argument("--method", choices=METHODS, nargs="+", default=list(METHODS), help="default both")
    parser.add_argument("--seeds", type=bounded(int, 2), default=5, help="n; default 5")
    parser.add_argument("--epochs", type=bounded(int, 3), default=12, help="default 12")
    parser.add_argument("--train", type=bounded(int, 100), default=1000, help="training images; default 1000")
    parser.add_argument("--test", type=bounded(int, 50), default=400, help="test images; default 400")
    parser.add_argument("--model", help="default small_cnn on digits, preact_resnet18 on a folder")
    parser.add_argument("--width", type=bounded(float, 0.01), help="default 1 on digits, 0.125 on a folder")
    parser.add_argument(
        "--epsilon", type=bounded(float, 0, 1), help="default 0.1 on digits, 8/255 on a folder"
    )
    parser.add_argument("--threads", type=bounded(int, 1), default=1, help="of PyTorch on the CPU; default 1")
    ask_for_json(parser, "all scores")
    arguments = parser.parse_args(argv)
    digits = arguments.folder is None
    arguments.model = arguments.model or ("small_cnn" if digits else "preact_resnet18")
    arguments.width = arguments.width or (1.0 if digits else 0.125)
    arguments.epsilon = arguments.epsilon or (0.1 if digits else 8 / 255)
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Train, print the tables, write the file that was asked for."""
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    about = on(torch.device("cpu"))
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    print(
        f"seeds {arguments.seeds}  epochs {arguments.epochs}  model {arguments.model}  width {arguments.width}"
    )
    report: dict[str, Any] = {"machine": about, "results": []}
    print(
        f"\n{'method':8}{'accuracy, %':15}{'fp32':>8}{'bf16':>8}{'difference':>12}{'spread':>8}{'allowed':>9}"
    )
    for method in arguments.method:
        result, last = compare(arguments, method)
        for name, figures in result["figures"].items():
            numbers = "".join(
                f"{figures[key]:>{width}.2f}"
                for key, width in (
                    ("fp32", 8),
                    ("bf16", 8),
                    ("difference", 12),
                    ("spread", 8),
                    ("allowed", 9),
                )
            )
            print(
                f"{method:8}{name:15}{numbers}  {'holds' if figures['holds'] else 'does not hold'}",
                flush=True,
            )
        result["hard_sets"] = hard = hard_sets(arguments, last)
        for precision, flipped in hard["flipped"].items():
            print(
                f"{method:8}hard at step {EARLY_DROP_STEP}: {hard['hard']} of {hard['images']} images; our {precision} "
                f"differs on {flipped} ({100 * flipped / hard['images']:.2f} % of all)"
            )
        report["results"].append(result)
    keep(arguments.json, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
