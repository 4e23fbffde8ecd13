"""Where the time of a training epoch goes: the share inside PyTorch's operators, and what remains, by name.

    python -m benchmarks.profiling                                          # PreActResNet-18, width 1, batch 64: minutes
    python -m benchmarks.profiling --width 0.25 --batch 32 --picture FILE   # half a minute

One epoch of `ham_core.training.Training` (batches of random pixels, as in benchmarks/steps.py) under torch.profiler, after one
to warm up. An operator's time is its self time on the CPU: what it spent neither in operators that it called nor in Python.
Share in kernels = Σ self time of aten and oneDNN operators / seconds of the epoch by the clock. The rest is Python,
autograd's own work, and the profiler. (Not `profile.py`: Python's own module of that name would be hidden by it.)
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import ask_for_json, bounded, keep, on
from benchmarks.steps import KINDS, noise, set_sides, trial_of
from ham_core import models
from ham_core.training import Training

KERNELS = ("aten::", "mkldnn::", "onednn::")
AIM = 0.95


def profiled(arguments: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Seconds of one epoch by the clock, and self seconds by operator."""
    device = torch.device("cpu")
    rows = argparse.Namespace(
        **{**vars(arguments), "batch": arguments.batch * arguments.batches, "repeats": 1}
    )
    one = trial_of(rows, kind, arguments.precision).model_copy(update={"batch_size": arguments.batch})
    training = Training(one, noise(rows, device), device=device)
    set_sides(training.model, training.dataset, arguments.hard_share)
    training._train_epoch()
    training.epoch += 1
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        start = time.perf_counter()
        training._train_epoch()
        seconds = time.perf_counter() - start
    spent: Counter[str] = Counter()
    for event in seen.key_averages():
        spent[event.key] += event.self_cpu_time_total / 1e6
    kernels = {name: t for name, t in spent.items() if name.startswith(KERNELS)}
    others = {name: t for name, t in spent.items() if name not in kernels}
    unnamed = seconds - sum(kernels.values()) - sum(others.values())
    return {
        "step": kind,
        "seconds": seconds,
        "kernels": dict(sorted(kernels.items(), key=lambda item: -item[1])),
        "others": dict(sorted(others.items(), key=lambda item: -item[1])) | {"outside any operator": unnamed},
        "share": sum(kernels.values()) / seconds,
    }


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """A bar per kind of step, of its operators by their share of the epoch."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(name for result in results for name in list(result["kernels"])[:7]))
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.7 * len(results)), layout="constrained")
    colours = plt.get_cmap("tab20").colors
    for row, result in enumerate(results):
        left = 0.0
        rest = sum(t for name, t in result["kernels"].items() if name not in names)
        parts = [(name, result["kernels"].get(name, 0.0)) for name in names] + [("other operators", rest)]
        parts.append(("Python, autograd, profiler", result["seconds"] - sum(result["kernels"].values())))
        for number, (name, t) in enumerate(parts):
            share = 100 * t / result["seconds"]
            axes.barh(row, share, left=left, color=colours[number], label=None if row else name)
            left += share
    axes.set_yticks(range(len(results)), [f"{result['step']} step" for result in results])
    axes.set_xlabel("share of the epoch's time, %")
    axes.set_xlim(0, 100)
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/profiling.py", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("--model", choices=models.names(), default="preact_resnet18")
    parser.add_argument("--width", type=bounded(float, 0.01), default=1.0, help="default 1")
    parser.add_argument("--batch", type=bounded(int, 2), default=64, help="default 64")
    parser.add_argument("--batches", type=bounded(int, 1), default=2, help="of the epoch; default 2")
    parser.add_argument("--hard-share", type=bounded(float, 0.01, 1), default=0.5, help="default 0.5")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="default bf16")
    parser.add_argument("--threads", type=bounded(int, 1), default=1, help="of PyTorch; default 1")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the shares there (PNG, SVG, PDF)")
    ask_for_json(parser, "every operator's seconds")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Profile, print a table per kind of step, write the files that were asked for."""
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    about = on(torch.device("cpu"))
    settings = {key: value for key, value in vars(arguments).items() if key not in ("json", "picture")}
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    print("  ".join(f"{key} {value}" for key, value in settings.items()), flush=True)
    results = []
    for kind in KINDS:
        result = profiled(arguments, kind)
        results.append(result)
        verdict = "holds" if result["share"] >= AIM else "does not hold"
        print(
            f"\n{kind}: {100 * result['share']:.1f} % of {result['seconds']:.2f} s in kernels "
            f"(at least {100 * AIM:.0f} %: {verdict})"
        )
        for title, some in (("kernels", result["kernels"]), ("remains", result["others"])):
            for name, t in sorted(some.items(), key=lambda item: -item[1])[:8]:
                print(f"  {title:9}{name:44}{100 * t / result['seconds']:>7.2f} %{1000 * t:>10.1f} ms")
    if arguments.picture:
        draw(results, arguments.picture)
    keep(arguments.json, {"machine": about, "settings": settings, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
