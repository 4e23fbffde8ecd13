"""Seconds and memory of `ham sweep` as its trials double: linear in trials, with flat memory?

    make bench-growth                                        # T = 8, 16, 32, 64 trials, five of each: half an hour
    ham bench growth -- --repeats 1 --plot growth.png

The trials are alike (a small CNN on 200 images of digits, one epoch, clean and PGD-2), share no beginning and run two at once.
A run is the command as a user types it, from its first import to its exit code, in a new store with a new tracking database;
sizes take turns. A sweep has a fixed cost, which is Ray's and MLflow's start, so linear means: a + b T through the smallest
and the largest size, and every median within 20 % of that line. Memory: the most that the process of `ham sweep` had resident.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machine import about, ask_for_json, bounded, keep, said_of
from benchmarks.planning import Cost, run

FACTORS = (1, 2, 4, 8)
ALLOWED = 0.2
AT_ONCE = 2


def sweep_file(folder: Path, trials: int) -> Path:
    """A sweep of so many trials."""
    sweep = {
        "trial": {
            "data": {"name": "digits", "train_limit": 200, "test_limit": 60},
            "method": "at",
            "model": {"name": "small_cnn", "width": 0.5},
            "epsilon": 0.2,
            "attack": {"steps": 2, "mode": "eval"},
            "epochs": 1,
            "batch_size": 64,
            "selection": {"steps": 2},
        },
        "seeds": list(range(trials)),
        "evaluate": ["clean", "pgd2"],
    }
    path = folder / f"sweep{trials}.yaml"
    path.write_text(yaml.safe_dump(sweep), encoding="utf-8")
    return path


def measure(base: int, repeats: int) -> list[dict[str, Any]]:
    """All sizes, in turns -> a row for each."""
    costs: dict[int, list[Cost]] = {base * factor: [] for factor in FACTORS}
    for _ in range(repeats):
        for trials in costs:
            with tempfile.TemporaryDirectory() as place:
                path = sweep_file(Path(place), trials)
                words = ("sweep", path, "--store", Path(place, "store"), "--concurrent", AT_ONCE)
                costs[trials].append(run(*words, quiet=True))
    medians = {trials: statistics.median(cost.seconds for cost in found) for trials, found in costs.items()}
    first, last = base * FACTORS[0], base * FACTORS[-1]
    slope = (medians[last] - medians[first]) / (last - first)
    return [
        {
            "trials": trials,
            "costs": [asdict(cost) for cost in found],
            "median": medians[trials],
            "line": medians[first] + slope * (trials - first),
            "of_line": medians[trials] / (medians[first] + slope * (trials - first)),
            "mebibytes": max(cost.mebibytes for cost in found),
        }
        for trials, found in costs.items()
    ]


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds (every run, the medians' line) and memory against trials."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    trials = [row["trials"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3))
    for row in rows:
        left.plot(
            [row["trials"]] * len(row["costs"]), [c["seconds"] for c in row["costs"]], "o", color="0.6", ms=4
        )
    left.plot(trials, [row["line"] for row in rows], "-", color="0.4", lw=1)
    left.plot(trials, [row["median"] for row in rows], "D", color="tab:blue", ms=5)
    left.fill_between(
        trials,
        [(1 - ALLOWED) * row["line"] for row in rows],
        [(1 + ALLOWED) * row["line"] for row in rows],
        color="0.9",
    )
    left.set(xlabel="trials", ylabel="seconds of ham sweep", ylim=(0, None))
    right.plot(trials, [row["mebibytes"] for row in rows], "D-", color="tab:blue", ms=5)
    right.set(xlabel="trials", ylabel="most memory of ham sweep, MiB")
    right.set_ylim(0, 1.3 * max(row["mebibytes"] for row in rows))
    for axes in (left, right):
        axes.set_xticks(trials)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the files that were asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks/growth.py", description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--base", type=bounded(int, 1), default=8, help="T, trials of the smallest; default 8"
    )
    parser.add_argument("--repeats", type=bounded(int, 1), default=5, help="n, sweeps of each; default 5")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="write the picture there")
    ask_for_json(parser, "every measurement")
    chosen = parser.parse_args(argv)
    machine = about("ray", "mlflow")
    print(said_of(machine))
    print(
        f"\n{'trials':>8}{'n':>4}{'median':>11}{'fastest':>11}{'slowest':>11}{'of the line':>13}{'memory':>13}"
    )
    rows = measure(chosen.base, chosen.repeats)
    for row in rows:
        seconds = [cost["seconds"] for cost in row["costs"]]
        times = "".join(f"{one:>9.1f} s" for one in (row["median"], min(seconds), max(seconds)))
        print(
            f"{row['trials']:>8}{len(seconds):>4}{times}{row['of_line']:>13.2f}{row['mebibytes']:>9.0f} MiB"
        )
    slope = (rows[-1]["line"] - rows[0]["line"]) / (rows[-1]["trials"] - rows[0]["trials"])
    print(f"the line: {rows[0]['line'] - slope * rows[0]['trials']:.1f} s and {slope:.2f} s per trial")
    over = [row["trials"] for row in rows if abs(row["of_line"] - 1) > ALLOWED]
    print("within 20 % of linear" if not over else f"more than 20 % off the line: {over}")
    if chosen.plot:
        plot(rows, chosen.plot)
    keep(chosen.json, {"machine": machine, "results": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
