"""Seconds of one training step of every method, against our AT step and a textbook's, in one run.

    ham bench methods                    # all presets but those that go on from another trial: two minutes
    ham bench methods -- at trades ham-official cfa-at --width 1 --batch 128 --threads 2

Each preset trains as `ham_core.training.Training` does, with its own attack, loss, calibration and averages: an epoch of one
batch of random pixels, late enough that all its parts are at work. As in benchmarks/steps.py the network, the radius and the
learning rate are such that exactly `--hard-share` of the batch is misclassified, and stays so. All take turns. What a method
does once per epoch counts in full (Fast-AT looks whether it has collapsed).

Printed: median, fastest and slowest; the median over AT's, beside what counted passes say (a forward pass, a backward pass to
the pixels, and what the weights' gradients cost beyond that count 1 each); how many times faster than the plain AT step of
benchmarks/textbook.py it is, which is fp32 and contiguous.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.machine import ask_for_json, bounded, keep, on, said_of
from benchmarks.steps import Kind, loop, noise, set_sides, trial_of
from benchmarks.textbook import wait
from ham_core.network import build_model
from ham_core.presets import load_preset, names
from ham_core.resolve import Layer, resolve
from ham_core.training import Training

REFERENCE = "at"
EPOCHS = 12
PASSES = ("forward", "input_gradient", "weight_gradient")


def alone() -> list[str]:
    """The presets that do not go on from another trial."""
    return [name for name in names() if not {"start_from", "helper"} & load_preset(name).recipe.keys()]


def training_of(chosen: argparse.Namespace, name: str) -> Training:
    """The preset, on the network and the images of benchmarks/steps.py."""
    device = torch.device(chosen.device)
    settings = {"method": name, "data": "digits", "epochs": EPOCHS}
    preset = resolve([Layer("", settings, lambda _: "benchmark")]).trial
    plain, data = trial_of(chosen, "AT", chosen.precision), noise(chosen, device)
    shared = (
        "data",
        "model",
        "epsilon",
        "batch_size",
        "optimizer",
        "schedule",
        "augment",
        "selection",
        "precision",
    )
    one = preset.model_copy(update={key: getattr(plain, key) for key in shared})
    one = one.model_copy(update={"epochs": EPOCHS + chosen.repeats})
    set_sides(build_model(one, data, device), data, chosen.hard_share)  # before the classes are counted
    training = Training(one, data, device=device)
    set_sides(training.model, data, chosen.hard_share)
    training.epoch = EPOCHS - 1
    return training


def steps(training: Training) -> Iterator[tuple[float, dict[str, float]]]:
    """(seconds, passes by kind) of one epoch, which is one step, after the other; selection is not in them."""
    epoch, found = training._train_epoch, {}

    def timed() -> dict[str, float]:
        start = time.perf_counter()
        metrics = epoch()
        wait(training.device)
        found["step"] = (
            time.perf_counter() - start,
            {kind: metrics[f"train/passes/{kind}"] for kind in PASSES},
        )
        return metrics

    training._train_epoch = timed  # type: ignore[method-assign]
    for _ in training:
        yield found["step"]


def measure(chosen: argparse.Namespace, presets: Sequence[str]) -> list[dict[str, Any]]:
    """All presets in turns, after one step each to warm up; the plain AT step is the last."""
    loops = {name: steps(training_of(chosen, name)) for name in presets}
    textbook = loop("textbook", chosen, Kind("AT", chosen.hard_share))
    seconds: dict[str, list[float]] = {name: [] for name in (*presets, "textbook")}
    passes: dict[str, dict[str, float]] = {}
    for repeat in range(chosen.repeats + 1):
        spent = {"textbook": next(textbook)[0]}
        for name, one in loops.items():
            spent[name], passes[name] = next(one)
        for name, value in spent.items() if repeat else ():
            seconds[name].append(value)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    units = {name: counted["weight_gradient"] + sum(counted.values()) for name, counted in passes.items()}
    return [
        {
            "method": name,
            "seconds": seconds[name],
            "median": median[name],
            "passes": passes.get(name),
            "of_at": median[name] / median[REFERENCE],
            "passes_of_at": units[name] / units[REFERENCE] if name in units else None,
            "faster_than_textbook": median["textbook"] / median[name],
        }
        for name in (*presets, "textbook")
    ]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/methods.py", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("presets", nargs="*", metavar="PRESET", help="default: all that can be trained alone")
    parser.add_argument("--model", default="preact_resnet18", help="default preact_resnet18")
    parser.add_argument("--width", type=bounded(float, 0.01), default=0.25, help="default 0.25")
    parser.add_argument("--batch", type=bounded(int, 2), default=32, help="default 32")
    parser.add_argument("--repeats", type=bounded(int, 1), default=5, help="n; default 5")
    parser.add_argument("--hard-share", type=bounded(float, 0.01, 1), default=0.5, help="default 0.5")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32", help="default fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=bounded(int, 1), default=1, help="of PyTorch; default 1")
    ask_for_json(parser)
    return parser.parse_args(argv, argparse.Namespace(clock="wall"))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the file that was asked for."""
    chosen = parse(argv)
    possible = alone()
    wrong = [name for name in chosen.presets if name not in possible]
    if wrong:
        print(
            f"no preset that can be trained alone: {', '.join(wrong)}; there are {', '.join(possible)}",
            file=sys.stderr,
        )
        return 2
    torch.set_num_threads(chosen.threads)
    about = on(torch.device(chosen.device))
    print(said_of(about))
    print(
        f"{chosen.model} of width {chosen.width:g}, batch {chosen.batch}, {chosen.precision}, "
        f"hard share {chosen.hard_share:g}, n {chosen.repeats}\n"
    )
    results = measure(chosen, list(dict.fromkeys((REFERENCE, *(chosen.presets or possible)))))
    print(
        f"{'method':22}{'median':>11}{'fastest':>11}{'slowest':>11}{'/ AT':>8}{'passes':>8}{'faster than textbook':>22}"
    )
    for row in results:
        times = "".join(
            f"{1000 * s:>8.1f} ms" for s in (row["median"], min(row["seconds"]), max(row["seconds"]))
        )
        counted = "" if row["passes_of_at"] is None else f"{row['passes_of_at']:.2f}"
        print(
            f"{row['method']:22}{times}{row['of_at']:>8.2f}{counted:>8}{row['faster_than_textbook']:>22.2f}"
        )
    keep(chosen.json, {"machine": about, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
