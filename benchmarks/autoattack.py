"""AutoAttack: seconds of ours against pyautoattack called directly, in one run, with the same result for every image.

    make bench-autoattack                     # three of each: ten minutes on a CPU
    ham bench autoattack -- --only resnet18

    standard    the standard ensemble on a small CNN and 200 images of digits, after ten epochs of adversarial training
    resnet18    APGD-CE, then APGD-T, on a quarter-width ResNet-18 and 20 images of noise

Direct is the library as its users call it: a model in evaluation mode, one `run_standard_evaluation` over all images. Ours
is what an evaluation does (`ham_core.autoattack`): the state after every batch is written to a file, so that a killed run
goes on; predictions after each part and confidences are kept. Both have the same network in channels_last, fp32, batches of
256 and one seed. The predictions of all images under attack must be equal, or the benchmark ends with an error. They take
turns; CPU is user and system time, which a busy machine changes less.

The ResNet is not trained: its labels are its own predictions, and the radius is the first of 8/255, 4/255, ... at which three
quarters of the images stand under PGD-20. Ratio = ours / direct, medians; it should not be above 1.05.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.machine import about, ask_for_json, bounded, keep, said_of
from ham_core import models
from ham_core.attacks.pgd import under_attack
from ham_core.autoattack import Part, parts_of, run_parts
from ham_core.config import Trial
from ham_core.data.augment import to_float
from ham_core.data.split import Split
from ham_core.evaluation import BATCH, attack_images
from ham_core.protocol import EvaluationAttack
from ham_core.training import Training, load_data

SEED = 3
ALLOWED = 1.05
STAND = 8  # images that must stand at the end, so that all parts have work


@dataclass(frozen=True)
class Case:
    """A model in evaluation mode, images, a radius, and what attacks them."""

    name: str
    model: nn.Module
    images: Split
    epsilon: float
    parts: tuple[Part, ...]


def small_cnn() -> Case:
    """The standard ensemble on 200 test images of digits."""
    trial = Trial.model_validate(
        {
            "data": "digits",
            "method": {"objective": "at"},
            "model": {"name": "small_cnn"},
            "epsilon": 0.1,
            "attack": {"steps": 5, "mode": "eval"},
            "epochs": 10,
            "batch_size": 64,
            "selection": {"steps": 0},
        }
    )
    dataset = load_data(trial)
    training = Training(trial, dataset)
    list(training)
    few = Split(dataset.test.images[:200], dataset.test.labels[:200])
    parts = parts_of(EvaluationAttack.model_validate("autoattack"))
    return Case("standard", training.model.eval(), few, trial.epsilon, parts)


def resnet18() -> Case:
    """APGD-CE and APGD-T on 20 images of noise."""
    torch.manual_seed(SEED)
    model = models.build(
        "resnet18", width=0.25, classes=10, channels=3, mean=(0.5,) * 3, std=(0.3,) * 3, normalize=True
    )
    model = model.eval().to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        noise = Split(images, model(to_float(images)).argmax(1))
    epsilon, pgd = 8 / 255, EvaluationAttack.model_validate("pgd20")
    while True:
        seen = attack_images(model, noise, pgd, epsilon=epsilon, seed=SEED)
        if (seen.prediction == noise.labels.numpy()).sum() >= 3 * len(noise) // 4:
            return Case("resnet18", model, noise, epsilon, (Part("apgd-ce"), Part("apgd-t")))
        epsilon /= 2


CASES: dict[str, Callable[[], Case]] = {"standard": small_cnn, "resnet18": resnet18}


def direct(case: Case) -> np.ndarray:
    """Predictions (N,) under attack, by the library alone."""
    from pyautoattack import AutoAttack

    library = AutoAttack(
        case.model,
        norm="Linf",
        eps=case.epsilon,
        seed=SEED,
        device="cpu",
        version="custom",
        attacks=[part.name for part in case.parts],
    )
    library.apgd.n_restarts = 1  # as in the standard version; its other numbers are those of custom
    x, y = to_float(case.images.images), case.images.labels
    prediction: np.ndarray = library.run_standard_evaluation(x, y, batch_size=BATCH)[1].numpy()
    return prediction


def ours(case: Case) -> np.ndarray:
    """The same by an evaluation's code."""
    with tempfile.TemporaryDirectory() as place, under_attack(case.model, "eval"):
        state = run_parts(
            case.model,
            case.images,
            case.parts,
            epsilon=case.epsilon,
            norm="linf",
            seed=SEED,
            batch=BATCH,
            progress=Path(place, "state.npz"),
        )
    return state.prediction


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Both, in turns -> what was measured. SystemExit: some image has another result."""
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    loops = {"direct": direct, "ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    cpu: dict[str, list[float]] = {name: [] for name in loops}
    found: dict[str, np.ndarray] = {}
    for _ in range(repeats):
        for name, loop in loops.items():
            started, busy = time.perf_counter(), time.process_time()
            found[name] = loop(case)
            cpu[name].append(time.process_time() - busy)
            seconds[name].append(time.perf_counter() - started)
        if not np.array_equal(found["direct"], found["ours"]):
            differ = np.flatnonzero(found["direct"] != found["ours"]).tolist()
            raise SystemExit(f"{case.name}: images {differ} have other results")
    label = case.images.labels.numpy()
    with torch.no_grad():
        clean = case.model(to_float(case.images.images)).argmax(1).numpy()
    median = {name: statistics.median(values) for name, values in seconds.items()}
    busiest = {name: statistics.median(values) for name, values in cpu.items()}
    return {
        "case": case.name,
        "images": len(label),
        "right": int((clean == label).sum()),
        "stand": int((found["ours"] == label).sum()),
        "epsilon": case.epsilon,
        "seconds": seconds,
        "cpu": cpu,
        "median": median,
        "ratio": median["ours"] / median["direct"],
        "cpu_ratio": busiest["ours"] / busiest["direct"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the file that was asked for."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/autoattack.py", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("--only", choices=tuple(CASES), help="one of the two; default both")
    parser.add_argument("--repeats", type=bounded(int, 1), default=3, help="n, runs of each; default 3")
    parser.add_argument("--threads", type=bounded(int, 1), default=1, help="of PyTorch; default 1")
    ask_for_json(parser)
    chosen = parser.parse_args(argv)
    torch.set_num_threads(chosen.threads)
    machine = about("pyautoattack") | {"threads": chosen.threads}
    print(said_of(machine))
    heads = ("median", "fastest", "slowest", "CPU", "ratio", "CPU ratio")
    print(
        f"\n{'case':10}{'images':>8}{'right':>7}{'stand':>7}{'n':>4}  {'':8}{''.join(f'{one:>10}' for one in heads)}"
    )
    results = []
    for name in CASES if chosen.only is None else (chosen.only,):
        result = measure(CASES[name](), chosen.repeats)
        results.append(result)
        for loop, values in result["seconds"].items():
            times = (
                statistics.median(values),
                min(values),
                max(values),
                statistics.median(result["cpu"][loop]),
            )
            ratios = f"{result['ratio']:>10.2f}{result['cpu_ratio']:>10.2f}" if loop == "ours" else ""
            print(
                f"{name:10}{result['images']:>8}{result['right']:>7}{result['stand']:>7}{len(values):>4}  {loop:8}"
                f"{''.join(f'{one:>8.1f} s' for one in times)}{ratios}",
                flush=True,
            )
        verdict = "within" if result["ratio"] <= ALLOWED else "OVER"
        few = "" if result["stand"] >= STAND else f"; fewer than {STAND} images stand"
        print(f"{name}: every image has the same result; {verdict} {ALLOWED:g}{few}")
    keep(chosen.json, {"machine": machine, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
