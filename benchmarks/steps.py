"""Seconds per AT step and per HAM step: ours against the released code's passes and a plain textbook loop, in one run.

    make bench                                             # two minutes on a CPU
    make bench ARGS="--width 1 --batch 128 --threads 2 --repeats 5 --hard-share 0.3 0.5 0.8"    # the paper's network: an hour

One step = attack a batch with K = 10 steps, then one SGD update. HAM: m = 3, the easy examples leave after step m.

    official, textbook   the two references, in plain PyTorch: benchmarks/textbook.py
    ours                 the code that trials run, `ham_core.training.Training`, in each `--precision`: an epoch of one batch,
                         with its augmentation, logging and random streams counted in

F: a forward pass of the batch, Bx: backward to the pixels, Bw: what the weights' gradients cost beyond that; ρ: hard share.
Ours takes for AT 11F + 11Bx + Bw, for HAM 4F + 3Bx + 8ρ(F + Bx) + ρBw. If F = Bx = Bw, passes of official, textbook and ours
are AT 33, 33 and 23; HAM 14 + 31ρ, 10 + 24ρ and 7 + 17ρ.

What a HAM step costs depends on how many examples are hard, so that share is set (`--hard-share`). Labels are the
untrained network's own predictions for the easy rest and its least likely class for the hard ones; epsilon, learning
rate and BatchNorm momentum are so small that no example ever changes side. The arithmetic is the same for any of them.
Each loop is a process of its own, since ours changes what the process does with freed memory (ham_core/memory.py). All take
turns, so that a busy machine slows each; with one thread, `--clock cpu` leaves other people's work out altogether. Ratio =
reference / ours, medians.

Then: what the HAM step may cost, (7 + 17ρ)/23 of our AT step and 15 % more, against what it does; and how far our fp32 input
gradients are from the textbook's, per image.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.machine import ask_for_json, bounded, keep, on
from benchmarks.textbook import (
    EARLY_DROP_STEP,
    EPSILON,
    LEARNING_RATE,
    MOMENTUM,
    REFERENCES,
    STEPS,
    WEIGHT_DECAY,
    plain,
    reference,
    wait,
)
from ham_core import models
from ham_core.attacks.pgd import input_gradient, under_attack
from ham_core.config import Trial
from ham_core.data.source import Facts
from ham_core.data.split import Dataset, Split
from ham_core.models.folded import folding
from ham_core.network import build_model, set_precision
from ham_core.training import Training

CLASSES = 10
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
BOUND = 1.15  # what the HAM step may cost, over its share of passes
KINDS = ("AT", "HAM")


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


def set_sides(model: nn.Module, data: Dataset, hard_share: float) -> None:
    """Label the batch so that exactly the first `hard_share` of it is misclassified, and stays so."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    batch = data.train
    model.eval()
    with torch.no_grad():
        logits = model(batch.images.float() / 255)
    hard = torch.arange(len(batch), device=logits.device) < round(hard_share * len(batch))
    batch.labels.copy_(torch.where(hard, logits.argmin(1), logits.argmax(1)))


def loop(name: str, arguments: argparse.Namespace, kind: Kind) -> Iterator[tuple[float, int]]:
    """One loop on one kind of step; all have the same weights, images and labels."""
    device = torch.device(arguments.device)
    data, clock = noise(arguments, device), CLOCKS[arguments.clock]
    if name in REFERENCES:
        model = build_model(trial_of(arguments, kind.name, "fp32"), data, device)
        set_sides(model, data, kind.hard_share)
        x = data.train.images.float() / 255
        return reference(plain(model), x, data.train.labels, kind.name, name, clock)
    training = Training(trial_of(arguments, kind.name, name), data, device=device)
    set_sides(training.model, data, kind.hard_share)
    return ours(training, clock)


def serve(name: str, arguments: argparse.Namespace, kinds: list[Kind], line: Connection) -> None:
    """A process of one loop: for each number that it is sent, a step of that kind."""
    torch.set_num_threads(arguments.threads)
    loops = [loop(name, arguments, kind) for kind in kinds]
    with suppress(EOFError):
        while True:
            line.send(next(loops[line.recv()]))


def measure(arguments: argparse.Namespace, kinds: list[Kind]) -> list[dict[str, Any]]:
    """All loops on all kinds of steps, in turns, after one step each to warm up."""
    context, names = multiprocessing.get_context("spawn"), [*arguments.reference, *arguments.precision]
    lines: dict[str, Connection] = {}
    for name in names:
        lines[name], theirs = context.Pipe()
        context.Process(target=serve, args=(name, arguments, kinds, theirs), daemon=True).start()
        theirs.close()
    results: list[dict[str, Any]] = [
        {"step": str(kind), "seconds": {n: [] for n in names}, "trained_on": {n: set() for n in names}}
        for kind in kinds
    ]
    for repeat in range(arguments.repeats + 1):
        for number, result in enumerate(results):
            for name, line in lines.items():
                line.send(number)
                spent, count = line.recv()
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
    contiguous = plain(training.model)
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
    ask_for_json(parser)
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
    results = measure(arguments, kinds)
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
    keep(
        arguments.json,
        {
            "machine": about,
            "settings": settings,
            "results": results,
            "bounds": bound,
            "gradients": close,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
