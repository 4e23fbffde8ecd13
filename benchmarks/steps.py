"""Seconds per AT step and per HAM step: ours against the released code's passes and a plain textbook loop, in one run.

    make bench                                             # two minutes on a CPU
    make bench ARGS="--width 1 --batch 128 --threads 2 --repeats 5 --hard-share 0.3 0.5 0.8"    # the paper's network: an hour

One step = attack a batch with K = 10 steps, then one SGD update. HAM: m = 3, the easy examples leave after step m.
F: a forward pass of the batch, Bx: backward to the pixels, Bw: what the weights' gradients cost beyond that; ρ: hard share.

    official   what the released HAM code does (yyl-github-1896/HAM @e3ee5ff, docs/methods.md), pass by pass:
               AT   per attack step F and Bx + Bw; a Python loop over the examples counts who is still right; then F, Bx + Bw
               HAM  one F of the clean images and one of the start point, unused; per attack step F, Bx + Bw, and one more F of
                    the new point, of which only step m's is used; graphs are kept for all of them; then ρ (F + Bx + Bw)
    textbook   what one would write from the papers: the same without the unused passes; at step m one F for all
    ours       the code that trials run, `ham_core.training.Training`, in each `--precision`: an epoch of one batch, with its
               augmentation, logging and random streams counted in. AT 11F + 11Bx + Bw, HAM 4F + 3Bx + 8ρ(F + Bx) + ρBw

Both references are fp32 and contiguous with a whole `loss.backward()`. Passes of the three, if F = Bx = Bw: AT 33, 33 and 23;
HAM 14 + 31ρ, 10 + 24ρ and 7 + 17ρ.

What a HAM step costs depends on how many examples are hard, so that share is set (`--hard-share`). Labels are the
untrained network's own predictions for the easy rest and its least likely class for the hard ones; epsilon, learning
rate and BatchNorm momentum are so small that no example ever changes side. The arithmetic is the same for any of them.
All loops take turns, so that a busy machine slows each; with one thread, `--clock cpu` leaves other people's work out
altogether. Ratio = reference / ours, medians.

Then: what the HAM step may cost, (7 + 17ρ)/23 of our AT step and 15 % more, against what it does; and how far our fp32 input
gradients are from the textbook's, per image.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.machine import bounded, on
from ham_core import models
from ham_core.attacks.pgd import input_gradient, under_attack
from ham_core.config import Trial
from ham_core.data.source import Facts
from ham_core.data.split import Dataset, Split
from ham_core.models.folded import folding
from ham_core.network import set_precision
from ham_core.training import Training

EPSILON, STEPS, EARLY_DROP_STEP, CLASSES = 1e-6, 10, 3, 10
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-20, 0.9, 5e-4
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
BOUND = 1.15  # what the HAM step may cost, over its share of passes
KINDS = ("AT", "HAM")
REFERENCES = ("official", "textbook")


@dataclass(frozen=True)
class Kind:
    """A kind of step: AT, or HAM with a share of hard examples."""

    name: str
    hard_share: float

    @property
    def passes(self) -> float:
        """Passes of our step, if a forward pass and the halves of a backward pass all cost one."""
        m = EARLY_DROP_STEP
        ham = 2 * m + 1 + (2 * (STEPS - m) + 3) * self.hard_share
        return ham if self.name == "HAM" else 2 * STEPS + 3

    def __str__(self) -> str:
        return f"HAM {self.hard_share:g}" if self.name == "HAM" else self.name


# ---------------------------------------------------------------- the references


def climb(model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(x^{k+1}, logits of x^k): one step of PGD as in the pseudo-code of Madry et al. 2018; x, adv (B,C,H,W), y (B,)."""
    adv = adv.detach().requires_grad_()
    logits = model(adv)
    model.zero_grad()
    F.cross_entropy(logits, y).backward()
    assert adv.grad is not None
    moved = adv.detach() + EPSILON / 4 * adv.grad.sign()
    return torch.min(torch.max(moved, x - EPSILON), x + EPSILON).clamp(0, 1), logits


def official_attack(model: nn.Module, x: Tensor, y: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """(x', y) of those who are trained on, by the passes of the released code."""
    noise = np.random.uniform(-EPSILON, EPSILON, x.shape)
    adv = (x + torch.from_numpy(noise).float().to(x.device)).clamp(0, 1)
    if kind == "HAM":
        model(x), model(adv)  # for a distance that is not used
    still_right = torch.zeros(len(y))
    for k in range(STEPS):
        adv, logits = climb(model, x, adv, y)
        predicted = logits.argmax(1)
        if kind != "HAM":
            for i in range(len(y)):
                if predicted[i] == y[i]:
                    still_right[i] += 1
            continue
        predicted = model(adv).detach().argmax(1)  # after every step
        if k + 1 == EARLY_DROP_STEP:
            hard = predicted != y
            x, adv, y = x[hard], adv[hard], y[hard]
    return adv, y


def textbook_attack(model: nn.Module, x: Tensor, y: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """(x', y) of those who are trained on."""
    adv = (x + torch.empty_like(x).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
    for k in range(STEPS):
        if kind == "HAM" and k == EARLY_DROP_STEP:
            hard = model(adv).argmax(1) != y
            x, adv, y = x[hard], adv[hard], y[hard]
        adv, _ = climb(model, x, adv, y)
    return adv, y


def reference(
    model: nn.Module, x: Tensor, y: Tensor, kind: str, name: str, clock: Callable[[], float]
) -> Iterator[tuple[float, int]]:
    """(seconds, examples trained on) of one step after the other, for ever: attacked in evaluation mode, updated in training
    mode.
    """
    attack = official_attack if name == "official" else textbook_attack
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    while True:
        set_precision("fp32")
        wait(x.device)
        start = clock()
        model.eval()
        adv, labels = attack(model, x, y, kind)
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(adv.detach()), labels).backward()
        optimizer.step()
        wait(x.device)
        yield clock() - start, len(labels)


# ---------------------------------------------------------------- ours


def trial_of(arguments: argparse.Namespace, kind: str, precision: str = "fp32") -> Trial:
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
            "precision": precision,
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


def ours(training: Training, clock: Callable[[], float] = time.perf_counter) -> Iterator[tuple[float, int]]:
    """(seconds, examples trained on) of one epoch, which is one step, after the other; selection is not in it."""
    epoch, spent = training._train_epoch, 0.0

    def timed() -> dict[str, float]:
        nonlocal spent
        start = clock()
        metrics = epoch()
        wait(training.device)
        spent = clock() - start
        return metrics

    training._train_epoch = timed  # type: ignore[method-assign]
    steps = iter(training)
    while True:
        set_precision(training.trial.precision)  # the loops before set theirs
        result = next(steps)
        yield spent, int(result.metrics["train/passes/weight_gradient"])


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


def loops_of(
    arguments: argparse.Namespace, kind: Kind, device: torch.device
) -> dict[str, Iterator[tuple[float, int]]]:
    """Each loop on one kind of step, by name, all with the same weights, images and labels."""
    data = noise(arguments, device)
    trainings = {
        precision: Training(trial_of(arguments, kind.name, precision), data, device=device)
        for precision in arguments.precision
    }
    for training in trainings.values():
        set_sides(training, kind.hard_share)
    clock = CLOCKS[arguments.clock]
    model = next(iter(trainings.values())).model
    found = {}
    for name in arguments.reference:
        plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
        found[name] = reference(
            plain, data.train.images.float() / 255, data.train.labels, kind.name, name, clock
        )
    return found | {precision: ours(training, clock) for precision, training in trainings.items()}


def measure(arguments: argparse.Namespace, kinds: list[Kind], device: torch.device) -> list[dict[str, Any]]:
    """All loops on all kinds of steps, in turns, after one step each to warm up."""
    contests = [(kind, loops_of(arguments, kind, device)) for kind in kinds]
    results: list[dict[str, Any]] = []
    for kind, loops in contests:
        results.append(
            {"step": str(kind), "seconds": {n: [] for n in loops}, "trained_on": {n: set() for n in loops}}
        )
    for repeat in range(arguments.repeats + 1):
        for (_, loops), result in zip(contests, results, strict=True):
            for name, loop in loops.items():
                spent, count = next(loop)
                if repeat:
                    result["seconds"][name].append(spent)
                    result["trained_on"][name].add(count)
    for result in results:
        result["trained_on"] = {name: sorted(counts) for name, counts in result["trained_on"].items()}
        result["median"] = {name: statistics.median(values) for name, values in result["seconds"].items()}
        result["ratio"] = {
            name: {ours: result["median"][name] / result["median"][ours] for ours in arguments.precision}
            for name in arguments.reference
        }
    return results


def bounds(
    arguments: argparse.Namespace, kinds: list[Kind], results: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Of each HAM step and precision: its cost over our AT step's, and what that may be."""
    found = []
    plain = next((result for kind, result in zip(kinds, results, strict=True) if kind.name == "AT"), None)
    for kind, result in zip(kinds, results, strict=True):
        if kind.name == "AT" or plain is None:
            continue
        share = kind.passes / (2 * STEPS + 3)
        for precision in arguments.precision:
            cost = result["median"][precision] / plain["median"][precision]
            found.append(
                {
                    "hard_share": kind.hard_share,
                    "precision": precision,
                    "cost": cost,
                    "passes": share,
                    "allowed": BOUND * share,
                    "holds": cost <= BOUND * share,
                }
            )
    return found


def gradients(arguments: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """How far fp32 input gradients of ours are from the textbook's, |a - b| / |b| in L2 per image.

    An image stands out when one unit of it stands so close to zero that rounding decides its side. How many do so by chance is
    seen from the textbook's own network in channels_last, where nothing but the order of sums is another.
    """
    set_precision("fp32")
    training = Training(trial_of(arguments, "AT", "fp32"), noise(arguments, device), device=device)
    x, y = training.dataset.train.images.float() / 255, training.dataset.train.labels
    contiguous = copy.deepcopy(training.model).to(memory_format=torch.contiguous_format)
    with under_attack(training.model, "eval"), under_attack(contiguous, "eval"):
        right = input_gradient(contiguous, x, lambda z: F.cross_entropy(z, y, reduction="none"))[1]
        same = input_gradient(training.model, x, lambda z: F.cross_entropy(z, y, reduction="none"))[1]
        with folding(training.model):
            found = input_gradient(training.model, x, lambda z: F.cross_entropy(z, y, reduction="none"))[1]

    def off(gradient: Tensor) -> Tensor:
        return (gradient - right).flatten(1).norm(dim=1) / right.flatten(1).norm(dim=1)

    return {
        "median": float(off(found).median()),
        "images": len(x),
        "above": int((off(found) > 1e-5).sum()),
        "above_textbook_in_channels_last": int((off(same) > 1e-5).sum()),
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/steps.py", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--model", choices=models.names(), default="preact_resnet18")
    parser.add_argument(
        "--width", type=bounded(float, 0.01), default=0.25, help="default 0.25; the papers': 1"
    )
    parser.add_argument("--batch", type=bounded(int, 2), default=32, help="default 32; the papers': 128")
    parser.add_argument(
        "--repeats", type=bounded(int, 3), default=5, help="n, timed steps of each kind; default 5"
    )
    parser.add_argument(
        "--hard-share", type=bounded(float, 0.01, 1), nargs="+", default=[0.5], help="default 0.5"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "tf32", "bf16"),
        nargs="+",
        default=["fp32", "bf16"],
        help="of our loops; default fp32 bf16",
    )
    parser.add_argument(
        "--reference", choices=REFERENCES, nargs="*", default=list(REFERENCES), help="default both"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: the process's own seconds, for busy machines; with one thread only; default wall",
    )
    parser.add_argument("--threads", type=bounded(int, 1), default=1, help="of PyTorch on the CPU; default 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measured second there")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, print the tables, write the file that was asked for."""
    arguments = parse(argv)
    if arguments.clock == "cpu" and (arguments.threads > 1 or arguments.device != "cpu"):
        print(
            "--clock cpu counts the waiting of other threads and not the GPU; use --threads 1",
            file=sys.stderr,
        )
        return 2
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    about = on(device)
    settings = {key: value for key, value in vars(arguments).items() if key not in ("json", "threads")}
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    print("  ".join(f"{key} {value}" for key, value in settings.items()), flush=True)
    kinds = [Kind("AT", 1.0), *(Kind("HAM", share) for share in arguments.hard_share)]
    results = measure(arguments, kinds, device)
    ratios = "".join(f"{'/ ' + name:>12}" for name in arguments.reference)
    print(f"\n{'step':9}{'loop':10}{'n':>4}{'median':>12}{'fastest':>12}{'slowest':>12}{'images':>8}{ratios}")
    for result in results:
        for name, values in result["seconds"].items():
            times = "".join(
                f"{1000 * s:>9.1f} ms" for s in (statistics.median(values), min(values), max(values))
            )
            images = "/".join(map(str, result["trained_on"][name]))
            found = "".join(
                f"{result['ratio'][other][name]:>12.2f}" if name in arguments.precision else ""
                for other in arguments.reference
            )
            print(f"{result['step']:9}{name:10}{len(values):>4}{times}{images:>8}{found}")
    bound = bounds(arguments, kinds, results)
    print(f"\n{'HAM / AT':9}{'loop':10}{'hard':>6}{'measured':>10}{'passes':>8}{'allowed':>9}")
    for one in bound:
        print(
            f"{'':9}{one['precision']:10}{one['hard_share']:>6.2f}{one['cost']:>10.3f}{one['passes']:>8.3f}"
            f"{one['allowed']:>9.3f}  {'holds' if one['holds'] else 'does not hold'}"
        )
    close = gradients(arguments, device)
    print(
        f"\ninput gradients, fp32 against textbook: median {close['median']:.1e} per image; {close['above']} of "
        f"{close['images']} images above 1e-5 (the same network in channels_last, nothing folded: "
        f"{close['above_textbook_in_channels_last']})"
    )
    if arguments.json:
        report = {
            "machine": about,
            "settings": settings,
            "results": results,
            "bounds": bound,
            "gradients": close,
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
