"""The least time that an AT step can take on this machine, beside the time that it takes: a roofline.

    make bench-floors                                   # two minutes on a CPU
    ham bench floors -- --width 1 --batch 128 --threads 2

Peak rates are measured first, in fp32 and bf16: the fastest of many products of square matrices and of 3x3 convolutions (which
have another library behind them, and the faster one on some processors), and of copies of 256 MiB, which are read and written.
They are short, so that some of them are undisturbed on a busy machine. Then one PGD-10 AT step of
`ham_core.training.Training` runs with every operation counted: its floating-point operations by torch.utils.flop_counter, and
the bytes of the tensors that it reads and writes; views are free. (So is a look at ten held-out images, which the counted
epoch contains.)

    arithmetic   operations of the step / peak rate: nothing can be faster with the same passes
    roofline     Σ over operations of max(arithmetic, bytes / rate of copies): nothing can be faster that does them one by one;
                 fusing a normalisation with its neighbours can, and so can caches, which hold what a small batch writes

The step itself is timed without counting, in the same run. Share = arithmetic / median. It may pass 100 % where a convolution
needs fewer operations than its definition (Winograd's form), or where the machine was busier while its peaks were measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.machine import ask_for_json, bounded, keep, on, said_of
from benchmarks.steps import noise, trial_of
from ham_core import models
from ham_core.training import Training

SIDES = (512, 1024, 2048)  # of the square matrices
MAPS = (32, 128, 16)  # images, channels and side of what is convolved
COPIED = 2**28  # bytes
PROBES = 30  # runs of each, of which the fastest counts
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Counting(TorchDispatchMode):
    """Floating-point operations and bytes of all operations, and how long a roofline says that they take."""

    def __init__(self, rate: float, bandwidth: float) -> None:
        super().__init__()
        self.rate, self.bandwidth = rate, bandwidth
        self.flops, self.bytes, self.seconds, self.by_name = 0, 0, 0.0, Counter[str]()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        views = [
            value.alias_info is not None and not value.alias_info.is_write
            for value in function._schema.returns
        ]
        if views and all(views):
            return out
        count = flop_registry.get(function.overloadpacket)
        flops = int(count(*args, **(kwargs or {}), out_val=out)) if count else 0
        if function.namespace == "mkldnn" and "convolution" in str(function):
            flops = fused_flops(function._overloadname, args, out)
        moved = sum(one.nbytes for one in tree_leaves((args, kwargs, out)) if isinstance(one, Tensor))
        self.flops += flops
        self.bytes += moved
        self.seconds += max(flops / self.rate, moved / self.bandwidth)
        self.by_name[str(function.overloadpacket)] += flops
        return out


def fastest(action: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest run after one to warm up."""
    action()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def peaks(repeats: int) -> dict[str, float]:
    """Operations per second by precision, and bytes per second that copies read and write."""
    count, channels, side = MAPS
    maps, kernel = torch.rand(count, channels, side, side), torch.rand(channels, channels, 3, 3)
    found = {}
    for name, kind in PRECISIONS.items():
        x, w = (one.to(kind, memory_format=torch.channels_last) for one in (maps, kernel))
        work = 2 * maps.numel() * channels * 9
        rates = [work / fastest(partial(torch.conv2d, x, w, padding=1), repeats)]
        for length in SIDES:
            a, b = torch.rand(length, length).to(kind), torch.rand(length, length).to(kind)
            rates.append(2 * length**3 / fastest(partial(torch.mm, a, b), repeats))
        found[name] = max(rates)
    source, target = torch.ones(COPIED, dtype=torch.uint8), torch.zeros(COPIED, dtype=torch.uint8)
    found["copy"] = 2 * COPIED / fastest(lambda: target.copy_(source), repeats)
    return found


def fused_flops(overload: str, args: Sequence[Any], out: Tensor) -> int:
    """Of oneDNN's convolution with a ReLU or a sum at its end, which the registry lacks: 2 per weight and output pixel."""
    weight = args[1] if overload == "default" else args[2]  # a sum's other term comes first
    return int(2 * out.numel() * weight[0].numel())


def training_of(chosen: argparse.Namespace, precision: str) -> Training:
    """An AT trial whose epoch is one step on a batch of noise."""
    trial = trial_of(chosen, "AT", precision).model_copy(update={"epochs": chosen.repeats + 2})
    return Training(trial, noise(chosen, torch.device("cpu")))


def measure(chosen: argparse.Namespace, precision: str, peak: dict[str, float]) -> dict[str, Any]:
    """Counted once, timed `repeats` times."""
    training = training_of(chosen, precision)
    counting = Counting(peak[precision], peak["copy"])
    epochs = iter(training)
    next(epochs)  # to warm up
    seconds = [next(epochs).metrics["time/train_s"] for _ in range(chosen.repeats)]
    with counting:
        next(epochs)
    median = statistics.median(seconds)
    return {
        "precision": precision,
        "seconds": seconds,
        "median": median,
        "gflop": counting.flops / 1e9,
        "gigabytes": counting.bytes / 1e9,
        "arithmetic_s": counting.flops / peak[precision],
        "roofline_s": counting.seconds,
        "share": counting.flops / peak[precision] / median,
        "gflop_by_operation": {name: n / 1e9 for name, n in counting.by_name.most_common() if n},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print two tables, write the file that was asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks/floors.py", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--model", choices=models.names(), default="preact_resnet18")
    parser.add_argument(
        "--width", type=bounded(float, 0.01), default=0.25, help="default 0.25; the papers': 1"
    )
    parser.add_argument("--batch", type=bounded(int, 2), default=32, help="default 32; the papers': 128")
    parser.add_argument("--repeats", type=bounded(int, 1), default=7, help="n, timed steps; default 7")
    parser.add_argument("--threads", type=bounded(int, 1), default=1, help="of PyTorch; default 1")
    ask_for_json(parser)
    chosen = parser.parse_args(argv)
    torch.set_num_threads(chosen.threads)
    machine = on(torch.device("cpu"))
    print(said_of(machine))
    peak = peaks(PROBES)
    print(
        f"peak rates: fp32 {peak['fp32'] / 1e9:.0f} and bf16 {peak['bf16'] / 1e9:.0f} GFLOP/s, "
        f"{peak['copy'] / 1e9:.1f} GB/s in copies"
    )
    print(f"PGD-10 AT step of {chosen.model}, width {chosen.width:g}, batch {chosen.batch}\n")
    heads = ("median", "fastest", "slowest", "GFLOP", "GB", "arithmetic", "roofline", "share")
    print(f"{'precision':10}{'n':>4}{''.join(f'{head:>12}' for head in heads)}")
    results = []
    for precision in PRECISIONS:
        row = measure(chosen, precision, peak)
        results.append(row)
        times = (row["median"], min(row["seconds"]), max(row["seconds"]))
        print(
            f"{precision:10}{len(row['seconds']):>4}{''.join(f'{1000 * s:>9.1f} ms' for s in times)}"
            f"{row['gflop']:>12.1f}{row['gigabytes']:>12.2f}{1000 * row['arithmetic_s']:>9.1f} ms"
            f"{1000 * row['roofline_s']:>9.1f} ms{row['share']:>11.0%}",
            flush=True,
        )
    keep(chosen.json, {"machine": machine, "peaks": peak, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
