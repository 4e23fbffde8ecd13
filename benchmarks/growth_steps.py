"""How the cost of training grows with epochs, images and attack steps, over a factor of 8: counted passes, seconds, memory.

    python -m benchmarks.growth_steps                  # a small CNN: a minute on 2 cores
    python -m benchmarks.growth_steps --picture FILE

Passes are counted by the training itself (`train/passes/*`; tests hold them against the network) and must be exactly K+1
forward passes, K to the pixels and one to the weights, of each image in each epoch. Seconds are the process's own on the CPU,
which other people's work on the machine changes little: median of n runs, all sizes taking turns, an epoch to warm up not
counted. Within 20 %: the cost per pass at each size against the mean over sizes. Memory: the most that was resident
(ru_maxrss) after a size's first run, sizes growing; the images themselves are in it.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import ask_for_json, bounded, keep, on
from benchmarks.steps import noise, trial_of
from ham_core.config import Trial
from ham_core.training import Training

FACTORS = (1, 2, 4, 8)
TOLERANCE = 0.2
PASSES = ("forward", "input_gradient", "weight_gradient")
BASE = {"epochs": 1, "images": 128, "steps": 2}
AXES = ("epochs", "images", "steps")


def trial(arguments: argparse.Namespace, size: dict[str, int]) -> Trial:
    """AT on random pixels, of that size, and one more epoch to warm up."""
    options = argparse.Namespace(
        model=arguments.model, width=arguments.width, batch=size["images"], repeats=size["epochs"]
    )
    one = trial_of(options, "AT", "fp32")
    attack = one.attack.model_copy(update={"steps": size["steps"]})
    return one.model_copy(update={"batch_size": arguments.batch, "attack": attack})


def run(arguments: argparse.Namespace, size: dict[str, int]) -> tuple[float, dict[str, int]]:
    """(seconds, passes by kind) of all epochs but the first."""
    options = argparse.Namespace(batch=size["images"])
    steps = iter(Training(trial(arguments, size), noise(options, torch.device("cpu"))))
    next(steps)
    start, passes = time.process_time(), dict.fromkeys(PASSES, 0)
    for result in steps:
        for kind in PASSES:
            passes[kind] += int(result.metrics[f"train/passes/{kind}"])
    return time.process_time() - start, passes


def expected(size: dict[str, int]) -> dict[str, int]:
    """What AT costs: K+1 forward passes, K input gradients, one weight gradient, of each image and epoch."""
    shown = size["epochs"] * size["images"]
    steps = size["steps"]
    return {
        "forward": (steps + 1) * shown,
        "input_gradient": steps * shown,
        "weight_gradient": shown,
    }


def units(size: dict[str, int]) -> float:
    """What seconds ought to be in proportion to: passes, forward and backward alike."""
    counted = expected(size)
    return float(sum(counted.values()) + counted["weight_gradient"])


def measure(arguments: argparse.Namespace, axis: str) -> dict[str, Any]:
    """All sizes along one axis, in turns."""
    sizes = [{**BASE, axis: BASE[axis] * factor} for factor in FACTORS]
    seconds: list[list[float]] = [[] for _ in sizes]
    exact, memory = True, []
    for repeat in range(arguments.repeats):
        for number, size in enumerate(sizes):
            spent, passes = run(arguments, size)
            seconds[number].append(spent)
            exact = exact and passes == expected(size)
            if not repeat:
                memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    medians = [statistics.median(values) for values in seconds]
    rates = [median / units(size) for median, size in zip(medians, sizes, strict=True)]
    middle = statistics.mean(rates)
    off = [rate / middle - 1 for rate in rates]
    return {
        "axis": axis,
        "sizes": [size[axis] for size in sizes],
        "seconds": seconds,
        "median": medians,
        "off": off,
        "memory": memory,
        "passes_exact": exact,
        "linear": max(map(abs, off)) <= TOLERANCE,
    }


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Seconds against size, a panel per axis, with the line of constant cost per pass; memory below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        2, len(results), figsize=(9, 4.6), layout="constrained", squeeze=False, height_ratios=(2, 1)
    )
    for column, result in enumerate(results):
        time_panel, memory_panel = panels[:, column]
        low = [min(values) for values in result["seconds"]]
        high = [max(values) for values in result["seconds"]]
        even = [median / (1 + off) for median, off in zip(result["median"], result["off"], strict=True)]
        time_panel.plot(result["sizes"], even, color="0.6", label="in proportion to passes")
        time_panel.vlines(result["sizes"], low, high, color="C0", label="fastest to slowest")
        time_panel.plot(result["sizes"], result["median"], "o", color="C0", label="median")
        memory_panel.plot(result["sizes"], result["memory"], "o-", color="C1")
        memory_panel.set_xlabel(result["axis"] if result["axis"] != "steps" else "attack steps K")
        for panel in (time_panel, memory_panel):
            panel.set_ylim(0, 1.15 * panel.get_ylim()[1])
    panels[0, 0].set_ylabel("seconds")
    panels[1, 0].set_ylabel("resident, MiB")
    panels[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/growth_steps.py", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("--model", default="small_cnn", help="default small_cnn")
    parser.add_argument("--width", type=bounded(float, 0.01), default=0.5, help="default 0.5")
    parser.add_argument("--batch", type=bounded(int, 2), default=64, help="default 64")
    parser.add_argument("--repeats", type=bounded(int, 1), default=5, help="n; default 5")
    parser.add_argument("--threads", type=bounded(int, 1), default=1, help="of PyTorch; default 1")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the curves there (PNG, SVG, PDF)")
    ask_for_json(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table per axis, write the files that were asked for."""
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    about = on(torch.device("cpu"))
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    print(f"model {arguments.model}  width {arguments.width}  batch {arguments.batch}  n {arguments.repeats}")
    results = []
    for axis in AXES:
        result = measure(arguments, axis)
        results.append(result)
        print(f"\n{axis:>8}{'median':>11}{'off':>9}{'resident':>13}")
        for row in zip(result["sizes"], result["median"], result["off"], result["memory"], strict=True):
            print(f"{row[0]:>8}{row[1]:>9.3f} s{100 * row[2]:>+7.1f} %{row[3]:>9.0f} MiB")
        told = "exactly linear" if result["passes_exact"] else "NOT as expected"
        within = "within" if result["linear"] else "NOT within"
        print(f"passes {told}; seconds {within} {100 * TOLERANCE:.0f} % of linear", flush=True)
    if arguments.picture:
        draw(results, arguments.picture)
    keep(arguments.json, {"machine": about, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
