"""What orchestration costs: `ham sweep` against a bare loop of two processes over the same trials, in one run.

    python -m benchmarks.orchestration                          # twelve trials, two at once: about two minutes on 2 cores
    python -m benchmarks.orchestration --trials 24 --epochs 40

The bare loop starts two processes, which take one trial after the other and train and evaluate it by `ham_core.run`: no Ray,
no MLflow, no plan. `ham sweep` is the command as a user types it, from its first import to its exit code, in a new store, with
a new tracking database. Both write the same trial folders; that their predictions are equal is checked. They take turns.
Overhead = seconds of `ham sweep` - seconds of the bare loop. It should stay below 10 s per sweep plus 1 s per trial.
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
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

PER_SWEEP, PER_TRIAL = 10.0, 1.0  # seconds that we allow ourselves
AT_ONCE = 2

# What one process of the bare loop does. Each takes the next trial when it is free, as Ray's workers do.
BARE = """
import fcntl, sys
from ham_core.folder import TrialFolder
from ham_core.run import run_trial
from orchestration.sweep import load_sweep

sweep, store, ticket = sys.argv[1:]
trials = load_sweep(sweep).trials
while True:
    with open(ticket, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        number = int(file.read())
        file.seek(0)
        file.write(str(number + 1))
        file.truncate()
    if number >= len(trials):
        break
    planned = trials[number]
    for _ in run_trial(planned.trial, TrialFolder.of(store, planned.trial), planned.evaluations):
        pass
"""


def sweep_file(folder: Path, trials: int, epochs: int) -> Path:
    """A sweep of so many alike trials on digits, which share no beginning."""
    sweep = {
        "trial": {
            "data": "digits",
            "method": "at",
            "model": {"name": "small_cnn", "width": 0.5},
            "epsilon": 0.2,
            "attack": {"steps": 5, "mode": "eval"},
            "epochs": epochs,
            "batch_size": 64,
        },
        "seeds": list(range(trials)),
        "evaluate": ["clean", "pgd10"],
    }
    path = folder / "overhead.yaml"
    path.write_text(yaml.safe_dump(sweep), encoding="utf-8")
    return path


def bare(sweep: Path, store: Path) -> float:
    """Seconds of the bare loop."""
    store.mkdir()
    ticket = store / "ticket"
    ticket.write_text("0")
    started = time.perf_counter()
    command = [sys.executable, "-c", BARE, str(sweep), str(store), str(ticket)]
    processes = [subprocess.Popen(command, env=environment()) for _ in range(AT_ONCE)]
    if any(process.wait() for process in processes):
        raise SystemExit("a process of the bare loop failed")
    return time.perf_counter() - started


def ours(sweep: Path, store: Path) -> float:
    """Seconds of `ham sweep`."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "orchestration.cli", "sweep", str(sweep), "--store", str(store)]
    subprocess.run(
        [*command, "--concurrent", str(AT_ONCE)],
        check=True,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def environment() -> dict[str, str]:
    """One thread each, as Ray's workers have it."""
    return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def predictions(store: Path) -> dict[str, list[int]]:
    """{trial/evaluation: predicted classes} of a store."""
    import numpy as np

    return {
        f"{path.parent.parent.name}/{path.stem}": np.load(path)["prediction"].tolist()
        for path in sorted(store.glob("trials/*/evaluations/*.npz"))
    }


def measure(trials: int, epochs: int, repeats: int) -> dict[str, Any]:
    """Both, in turns -> what was measured."""
    rows: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as place:
        sweep = sweep_file(Path(place), trials, epochs)
        for turn in range(repeats):
            stores = Path(place) / f"bare{turn}", Path(place) / f"ours{turn}"
            rows.append((bare(sweep, stores[0]), ours(sweep, stores[1])))
            if predictions(stores[0]) != predictions(stores[1]) or not predictions(stores[0]):
                raise SystemExit("the two did not do the same: their predictions differ")
    overheads = [with_ray - without for without, with_ray in rows]
    allowed = PER_SWEEP + PER_TRIAL * trials
    return {
        "hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "ray", "mlflow")},
        },
        "trials": trials,
        "epochs": epochs,
        "repeats": repeats,
        "bare_s": statistics.median(without for without, _ in rows),
        "ham_sweep_s": statistics.median(with_ray for _, with_ray in rows),
        "overhead_s": statistics.median(overheads),
        "overheads_s": overheads,
        "allowed_s": allowed,
        "within": statistics.median(overheads) <= allowed,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    found = measure(given.trials, given.epochs, given.repeats)
    if given.json:
        print(json.dumps(found, indent=1))
        return 0
    print(f"{found['hardware']}; {', '.join(f'{name} {one}' for name, one in found['versions'].items())}")
    print(
        f"{found['trials']} trials of {found['epochs']} epochs, {AT_ONCE} at once, median of {found['repeats']}"
    )
    print(f"bare loop {found['bare_s']:.1f} s, ham sweep {found['ham_sweep_s']:.1f} s")
    print(f"overhead {found['overhead_s']:.1f} s of {found['allowed_s']:.0f} s allowed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
