"""Seconds per AT step and per HAM step: ours against a plain textbook loop, in one run on one machine.

    make bench                                             # half a minute on a CPU
    make bench ARGS="--width 1 --batch 128 --repeats 30"   # the paper's network

One step = attack a batch with K = 10 steps, then one SGD update. HAM: m = 3, the easy examples leave after step m.

The textbook loop is what one would write from the papers, and what released codes do: fp32, contiguous, at each attack
step a forward and a whole `loss.backward()` (so gradients of the weights are computed and thrown away), and one more
forward at step m to see who is misclassified. Ours is the code that trials run, `ham_core.training.Training`: an epoch
of one batch, with its augmentation, logging and random streams counted in.

What a HAM step costs depends on how many examples are hard, so that share is set (`--hard-share`). Labels are the
untrained network's own predictions for the easy rest and its least likely class for the hard ones; epsilon, learning
rate and BatchNorm momentum are so small that no example ever changes side. The arithmetic is the same for any of them.
The loops take turns, so that a busy machine slows both. Ratio = textbook / ours, medians.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ham_core import models
from ham_core.config import Trial
from ham_core.data.source import Facts
from ham_core.data.split import Dataset, Split
from ham_core.training import Training

EPSILON, STEPS, EARLY_DROP_STEP, CLASSES = 1e-6, 10, 3, 10
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-20, 0.9, 5e-4
KINDS = ("AT", "HAM")

# ---------------------------------------------------------------- the textbook


def textbook_attack(model: nn.Module, x: Tensor, adv: Tensor, y: Tensor, steps: int) -> Tensor:
    """PGD as in the pseudo-code of Madry et al. 2018; x, adv (B,C,H,W), y (B,) -> like x."""
    for _ in range(steps):
        adv = adv.detach().requires_grad_()
        model.zero_grad()
        F.cross_entropy(model(adv), y).backward()
        assert adv.grad is not None
        moved = adv.detach() + EPSILON / 4 * adv.grad.sign()
        adv = torch.min(torch.max(moved, x - EPSILON), x + EPSILON).clamp(0, 1)
    return adv


def textbook_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, kind: str) -> int:
    """One step, attacked in evaluation mode and updated in training mode -> number of examples trained on."""
    model.eval()
    adv = (x + torch.empty_like(x).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
    if kind == "HAM":
        adv = textbook_attack(model, x, adv, y, EARLY_DROP_STEP)
        hard = model(adv).argmax(1) != y
        x, adv, y = x[hard], adv[hard], y[hard]
        adv = textbook_attack(model, x, adv, y, STEPS - EARLY_DROP_STEP)
    else:
        adv = textbook_attack(model, x, adv, y, STEPS)
    model.train()
    optimizer.zero_grad()
    F.cross_entropy(model(adv.detach()), y).backward()
    optimizer.step()
    return len(y)


def textbook(model: nn.Module, x: Tensor, y: Tensor, kind: str) -> Iterator[tuple[float, int]]:
    """(seconds, examples trained on) of one step after the other, for ever."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    while True:
        wait(x.device)
        start = time.perf_counter()
        trained_on = textbook_step(model, optimizer, x, y, kind)
        wait(x.device)
        yield time.perf_counter() - start, trained_on


# ---------------------------------------------------------------- ours


def trial_of(arguments: argparse.Namespace, kind: str) -> Trial:
    """The same step as a trial."""
    ham = {"name": "ham", "early_drop_step": EARLY_DROP_STEP, "start_epoch": 0}
    optimizer = {"lr": LEARNING_RATE, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY}
    data = {"name": "noise", "validation": 0.1, "train_digest": "noise", "test_digest": "noise"}
    return Trial.model_validate(
        {
            "method": {"objective": "at", "mining": ham if kind == "HAM" else None, "averaging": "none"},
            "data": data,
            "model": {"name": arguments.model, "width": arguments.width},
            "epsilon": EPSILON,
            "attack": {"steps": STEPS, "mode": "eval"},
            "epochs": arguments.repeats + 1,
            "batch_size": arguments.batch,
            "optimizer": optimizer,
            "schedule": {"milestones": [], "factors": []},
            "augment": {"crop": 4, "flip": True},
            "selection": {"steps": 0},
            "precision": arguments.precision,
        }
    )


def noise(arguments: argparse.Namespace, device: torch.device) -> Dataset:
    """One batch of random 32x32 pixels to train on, and a handful to select on."""
    draw = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=draw)
        return Split(images.to(device), torch.arange(count, device=device) % CLASSES)

    facts = Facts(
        name="noise",
        label="noise",
        classes=tuple(str(c) for c in range(CLASSES)),
        shape=(3, 32, 32),
        train_digest="noise",
        test_digest="noise",
        crop=4,
        flip=True,
        validation=0.1,
        source="random pixels",
        images=(arguments.batch, CLASSES),
    )
    return Dataset(split(arguments.batch), split(CLASSES), split(CLASSES), facts, (0.5,) * 3, (0.3,) * 3)


def ours(training: Training) -> Iterator[tuple[float, int]]:
    """(seconds, examples trained on) of one epoch, which is one step, after the other."""
    for result in training:
        yield result.metrics["time/train_s"], int(result.metrics["train/passes/weight_gradient"])


# ---------------------------------------------------------------- both


def wait(device: torch.device) -> None:
    """Until the GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def set_sides(training: Training, hard_share: float) -> None:
    """Label the batch so that exactly the first `hard_share` of it is misclassified, and stays so."""
    for module in training.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    batch = training.dataset.train
    training.model.eval()
    with torch.no_grad():
        logits = training.model(batch.images.float() / 255)
    hard = torch.arange(len(batch), device=logits.device) < round(hard_share * len(batch))
    batch.labels.copy_(torch.where(hard, logits.argmin(1), logits.argmax(1)))


def measure(arguments: argparse.Namespace, kind: str, device: torch.device) -> dict[str, Any]:
    """Both loops on one kind of step, in turns, after one step each to warm up."""
    training = Training(trial_of(arguments, kind), noise(arguments, device), device=device)
    set_sides(training, arguments.hard_share)
    batch = training.dataset.train
    reference = copy.deepcopy(training.model).to(memory_format=torch.contiguous_format)
    loops = {
        "textbook": textbook(reference, batch.images.float() / 255, batch.labels, kind),
        "ours": ours(training),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    trained_on: dict[str, set[int]] = {name: set() for name in loops}
    for repeat in range(arguments.repeats + 1):
        for name, loop in loops.items():
            spent, count = next(loop)
            if repeat:
                seconds[name].append(spent)
                trained_on[name].add(count)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "step": kind,
        "seconds": seconds,
        "trained_on": {name: sorted(counts) for name, counts in trained_on.items()},
        "median": median,
        "ratio": median["textbook"] / median["ours"],
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on."""
    found = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
        found |= {"cudnn": torch.backends.cudnn.version()}
    return found


def processor() -> str:
    """The processor's own name where the system tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def bounded(kind: Callable[[str], float], low: float, high: float = float("inf")) -> Callable[[str], Any]:
    """An argparse type: a number from low to high."""

    def number(text: str) -> float:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low} to {high}")
        return value

    return number


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/steps.py", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--model", choices=models.names(), default="preact_resnet18")
    parser.add_argument(
        "--width", type=bounded(float, 0.01), default=0.25, help="default 0.25; the papers': 1"
    )
    parser.add_argument("--batch", type=bounded(int, 2), default=32, help="default 32; the papers': 128")
    parser.add_argument(
        "--repeats", type=bounded(int, 3), default=7, help="n, timed steps of each kind; default 7"
    )
    parser.add_argument("--hard-share", type=bounded(float, 0.01, 1), default=0.5, help="default 0.5")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32", help="of our loop")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=bounded(int, 1), default=1, help="of PyTorch on the CPU; default 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measured second there")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, write the file that was asked for."""
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    about = machine(device)
    settings = {key: value for key, value in vars(arguments).items() if key not in ("json", "threads")}
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    print("  ".join(f"{key} {value}" for key, value in settings.items()))
    print(
        f"\n{'step':6}{'loop':10}{'n':>4}{'median':>11}{'fastest':>11}{'slowest':>11}{'images':>8}{'ratio':>8}"
    )
    results = []
    for kind in KINDS:
        result = measure(arguments, kind, device)
        results.append(result)
        for name, values in result["seconds"].items():
            times = "".join(
                f"{1000 * s:>8.1f} ms" for s in (statistics.median(values), min(values), max(values))
            )
            images = "/".join(map(str, result["trained_on"][name]))
            ratio = f"{result['ratio']:.2f}" if name == "ours" else ""
            print(f"{kind:6}{name:10}{len(values):>4}{times}{images:>8}{ratio:>8}", flush=True)
    if arguments.json:
        report = {"machine": about, "settings": settings, "results": results}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
