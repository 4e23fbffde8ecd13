"""Seconds of a PGD-20 evaluation against its bare passes, and its seconds and memory as the images double.

    make bench-evaluation                     # five minutes on a CPU
    ham bench evaluation -- --width 1 --images 512

Ours is `ham_core.evaluation.attack_images`, as trials are judged by it: every image once, 20 steps and a last look at those
that are right. The floor has the same passes and nothing else: no noise, no sign, no step, no projection, no statistics.
Half of the images are right (`--right`): their labels are the untrained network's own predictions, and the radius is so small
that none changes side. Both take turns. Statistics: class-wise accuracies and intervals from the predictions of all images.

Growth: a small CNN on N, 2N, 4N, 8N images of 3x32x32, PGD-5, every run a process of its own. Memory is the most that the
process had resident, without the images themselves; it should not grow, and seconds per image should stay within 20 %.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.machine import about, ask_for_json, bounded, keep, said_of
from ham_core import models
from ham_core.attacks.pgd import under_attack
from ham_core.data.augment import to_float
from ham_core.data.split import Split
from ham_core.evaluation import BATCH, attack_images
from ham_core.metrics import summarize
from ham_core.protocol import EvaluationAttack

EPSILON, STEPS, CLASSES, SEED = 1e-6, 20, 10, 0
FACTORS = (1, 2, 4, 8)


def network(name: str, width: float) -> nn.Module:
    """An untrained network in channels_last, in evaluation mode."""
    torch.manual_seed(SEED)
    model = models.build(
        name, width=width, classes=CLASSES, channels=3, mean=(0.5,) * 3, std=(0.3,) * 3, normalize=True
    )
    return model.eval().to(memory_format=torch.channels_last)


@torch.no_grad()
def noise(model: nn.Module, count: int, right: float) -> Split:
    """Random pixels, of which every 1/right-th is classified correctly."""
    draw = torch.Generator().manual_seed(SEED)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draw)
    logits = torch.cat([model(to_float(part)) for part in images.split(BATCH)])
    chosen = torch.rand(count, generator=draw) < right
    return Split(images, torch.where(chosen, logits.argmax(1), logits.argmin(1)))


def floor(model: nn.Module, images: Split) -> None:
    """The passes of the evaluation, bare."""
    for part, labels in zip(images.images.split(BATCH), images.labels.split(BATCH), strict=True):
        x = to_float(part).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            rows = (model(x).argmax(1) == labels).nonzero().squeeze(1)
        x, y = x[rows], labels[rows]
        if not len(rows):
            continue
        for _ in range(STEPS):
            x.requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
            x = x.detach()
        with torch.no_grad():
            model(x)


def ours(model: nn.Module, images: Split, steps: int = STEPS) -> Any:
    """The evaluation."""
    attack = EvaluationAttack(kind="pgd", steps=steps)
    return attack_images(model, images, attack, epsilon=EPSILON, seed=SEED)


def against_floor(chosen: argparse.Namespace) -> dict[str, Any]:
    """Both, in turns, after one of each to warm up."""
    model = network(chosen.model, chosen.width)
    images = noise(model, chosen.images, chosen.right)
    label = images.labels.numpy()
    loops: dict[str, Callable[[nn.Module, Split], Any]] = {"floor": floor, "ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    counted: list[float] = []
    for turn in range(chosen.repeats + 1):
        for name, loop in loops.items():
            with under_attack(model, "eval"):
                started = time.perf_counter()
                seen = loop(model, images)
                spent = time.perf_counter() - started
            if turn:
                seconds[name].append(spent)
        started = time.perf_counter()
        summarize(label, seen.prediction == label, tuple(str(c) for c in range(CLASSES)))
        counted.append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds": seconds,
        "right": int((seen.clean == label).sum()),
        "median": median,
        "ratio": median["ours"] / median["floor"],
        "statistics": statistics.median(counted),
    }


def grown(count: int, threads: int) -> None:
    """One run of its own process: print {seconds, mebibytes} as JSON."""
    torch.set_num_threads(threads)
    model = network("small_cnn", 1.0)
    images = noise(model, count, 0.5)
    ours(model, Split(images.images[:BATCH], images.labels[:BATCH]), 5)
    started = time.perf_counter()
    ours(model, images, 5)
    spent = time.perf_counter() - started
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(json.dumps({"seconds": spent, "mebibytes": peak - images.images.nbytes / 2**20}))


def growth(chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Sizes in turns -> a row for each."""
    runs: dict[int, list[dict[str, float]]] = {chosen.base * factor: [] for factor in FACTORS}
    for _ in range(chosen.growth_repeats):
        for count in runs:
            command = [sys.executable, "-m", "benchmarks.evaluation", "--grown", str(count)]
            done = subprocess.run(
                [*command, "--threads", str(chosen.threads)], stdout=subprocess.PIPE, check=True, text=True
            )
            runs[count].append(json.loads(done.stdout))
    first = statistics.median(run["seconds"] for run in runs[chosen.base])
    return [
        {
            "images": count,
            "runs": found,
            "median": statistics.median(run["seconds"] for run in found),
            "of_linear": statistics.median(run["seconds"] for run in found) / first * chosen.base / count,
            "mebibytes": max(run["mebibytes"] for run in found),
        }
        for count, found in runs.items()
    ]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/evaluation.py", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("--model", choices=models.names(), default="preact_resnet18")
    parser.add_argument(
        "--width", type=bounded(float, 0.01), default=0.25, help="default 0.25; the papers': 1"
    )
    parser.add_argument("--images", type=bounded(int, 2), default=512, help="default 512")
    parser.add_argument("--right", type=bounded(float, 0.01, 1), default=0.5, help="default 0.5")
    parser.add_argument("--repeats", type=bounded(int, 1), default=5, help="n, evaluations; default 5")
    parser.add_argument("--base", type=bounded(int, 1), default=1000, help="N of the growth; default 1000")
    parser.add_argument(
        "--growth-repeats", type=bounded(int, 0), default=5, help="n of the growth; default 5"
    )
    parser.add_argument("--threads", type=bounded(int, 1), default=1, help="of PyTorch; default 1")
    ask_for_json(parser)
    parser.add_argument("--grown", type=int, help=argparse.SUPPRESS)  # the process of one run of the growth
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print two tables, write the file that was asked for."""
    chosen = parse(argv)
    if chosen.grown:
        grown(chosen.grown, chosen.threads)
        return 0
    torch.set_num_threads(chosen.threads)
    machine = about() | {"threads": chosen.threads}
    print(said_of(machine))
    found = against_floor(chosen)
    print(
        f"{chosen.model} of width {chosen.width:g}, {chosen.images} images, of which {found['right']} are right\n"
    )
    print(f"{'PGD-20':10}{'n':>4}{'median':>11}{'fastest':>11}{'slowest':>11}{'ratio':>8}")
    for name, values in found["seconds"].items():
        times = "".join(f"{s:>9.2f} s" for s in (statistics.median(values), min(values), max(values)))
        print(f"{name:10}{len(values):>4}{times}" + (f"{found['ratio']:>8.3f}" if name == "ours" else ""))
    print(f"statistics of all classes from the predictions: {1000 * found['statistics']:.1f} ms")
    rows = growth(chosen) if chosen.growth_repeats else []
    if rows:
        print(f"\n{'images':>8}{'n':>4}{'median':>11}{'of linear':>11}{'memory':>13}")
    for row in rows:
        print(
            f"{row['images']:>8}{len(row['runs']):>4}{row['median']:>9.2f} s{row['of_linear']:>11.2f}"
            f"{row['mebibytes']:>9.0f} MiB"
        )
    keep(chosen.json, {"machine": machine, "evaluation": found, "growth": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
