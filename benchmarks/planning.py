"""Seconds and memory of `ham plan`, `ham status` and a `ham sweep` that finds nothing to do, on stores full of trials.

    python -m benchmarks.planning                                  # 10,000 trials planned, 1,000 swept: ten minutes
    python -m benchmarks.planning --trials 1000 --swept 100        # a minute

Both stores are made first (benchmarks/finished.py), which is not measured; of the planned one every hundredth trial is
missing. The first `ham sweep` writes the record of every trial into MLflow and is reported apart. Then each command runs so
many times, each time as a process of its own, imports and all. Memory: the most that the process had resident (ru_maxrss).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.finished import METHODS, finish, write_sweep
from benchmarks.machine import ask_for_json, bounded, keep
from ham_core.processor import processor
from orchestration.sweep import load_sweep

SEEDS = 5
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cost:
    """One command. `seconds`: by the clock; `cpu_seconds`: user and system; `mebibytes`: its most memory."""

    seconds: float
    cpu_seconds: float
    mebibytes: float


# Runs a command and prints its cost. A process of its own, since Linux counts the memory of whoever started a process as
# that process's, and this one has PyTorch in it.
MEASURE = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes
cost = (time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / unit)
print(json.dumps(cost))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(*arguments: object, quiet: bool = False) -> Cost:
    """What `ham ARGUMENTS` costs. `quiet`: what it complains of is shown only where it fails, a CalledProcessError."""
    said = subprocess.run(
        [sys.executable, "-c", MEASURE, sys.executable, "-m", "orchestration.cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if quiet else None,
        check=False,
    )
    if said.returncode:
        print((said.stderr or b"").decode(), file=sys.stderr)
        said.check_returncode()
    return Cost(*json.loads(said.stdout))


def prepare(folder: Path, trials: int, epochs: int, every: int | None) -> tuple[Path, Path]:
    """(sweep file, store) of so many finished trials, without every `every`-th."""
    path = write_sweep(folder / "many.yaml", trials, seeds=SEEDS, epochs=epochs)
    sweep = load_sweep(path)
    missing = {one.fingerprint for one in sweep.trials[every // 2 :: every]} if every else set()
    finish(sweep, folder / "store", missing=missing)
    return path, folder / "store"


def report(name: str, trials: int, costs: list[Cost]) -> dict[str, object]:
    """Print one row of the table."""
    seconds = [cost.seconds for cost in costs]
    cpu = statistics.median(cost.cpu_seconds for cost in costs)
    memory = max(cost.mebibytes for cost in costs)
    times = "".join(f"{one:>9.2f} s" for one in (statistics.median(seconds), min(seconds), max(seconds), cpu))
    print(f"{name:24}{trials:>7}{len(costs):>4}{times}{memory:>9.0f} MiB", flush=True)
    return {"command": name, "trials": trials, "costs": [asdict(cost) for cost in costs]}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/planning.py", description=str(__doc__).partition("\n")[0]
    )
    step = METHODS * SEEDS
    parser.add_argument(
        "--trials", type=bounded(int, step), default=10_000, help=f"planned; a multiple of {step}"
    )
    parser.add_argument(
        "--swept", type=bounded(int, step), default=1000, help=f"swept and recorded; a multiple of {step}"
    )
    parser.add_argument("--epochs", type=bounded(int, 4), default=12, help="of each trial; default 12")
    parser.add_argument(
        "--repeats", type=bounded(int, 1), default=5, help="n, runs of each command; default 5"
    )
    ask_for_json(parser, "every measurement")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Make the stores, measure, print a table, write the file that was asked for."""
    arguments = parse(argv)
    about = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    print(f"epochs {arguments.epochs}  seeds {SEEDS}\n")
    print(
        f"{'command':24}{'trials':>7}{'n':>4}{'median':>11}{'fastest':>11}{'slowest':>11}{'CPU':>11}{'memory':>13}"
    )
    repeats = range(arguments.repeats)
    with tempfile.TemporaryDirectory() as place:
        path, store = prepare(Path(place, "swept"), arguments.swept, arguments.epochs, None)
        swept = ("sweep", path, "--store", store)
        results = [report("ham sweep, first record", arguments.swept, [run(*swept)])]
        results.append(report("ham sweep, nothing to do", arguments.swept, [run(*swept) for _ in repeats]))
        path, store = prepare(Path(place, "planned"), arguments.trials, arguments.epochs, 100)
        plan = ("plan", path, "--store", store)
        results.append(report("ham plan", arguments.trials, [run(*plan) for _ in repeats]))
        results.append(report("ham plan --json", arguments.trials, [run(*plan, "--json") for _ in repeats]))
        _started(path, store)
        status = ("status", "--store", store)
        results.append(report("ham status", arguments.trials, [run(*status) for _ in repeats]))
    keep(arguments.json, {"machine": about, "epochs": arguments.epochs, "results": results})
    return 0


def _started(path: Path, store: Path) -> None:
    """What the driver of the sweep leaves behind when it starts, without starting it."""
    from orchestration.status import remember
    from orchestration.store import Store

    remember(load_sweep(path), Store(store), {})


if __name__ == "__main__":
    sys.exit(main())
