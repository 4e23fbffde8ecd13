"""Seconds until a command answers or a training works: `ham --help`, `ham plan`, and the first step of the first attack.

    make bench-startup                        # nine of each: two minutes
    ham bench startup -- --repeats 31

    import torch      python -c "import torch": what any training has to wait for
    ham_core train    `python -m ham_core train`, until its first attack asks for its first gradient
    ham train         `ham train`, until the same
    ham --help        until it has ended
    ham plan          the plan of 50 trials, until it has ended

Every one is a process of its own, from its start; they take turns, so that a busy machine slows all. The first turn, which
compiles Python's files and warms the file cache, does not count. The trial is of digits, so next to nothing is read from
disk. Bounds: help 0.5 s, plan 2 s, a first step 1.3 times `import torch` (ratio of the medians); none of them may have loaded
what it does not need, which is looked up in sys.modules. CPU: user and system time, which a busy machine changes less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machine import about, ask_for_json, bounded, keep, said_of

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("at", "trades", "mart", "fat", "gairat", "cfa-at", "frl", "wat", "ham-official", "ham-paper")
SEEDS = 5
UNWANTED = ("ray", "mlflow", "torchvision", "sklearn", "pandas", "torch._dynamo")

# Ends a training when its first attack asks for its first gradient. What it has imported by then it would have imported
# anyway; only torch comes first, so that there is something to put in the way.
UNTIL_FIRST_GRADIENT = f"""
import sys, time
import torch

def first(*arguments, **options):
    end({UNWANTED!r})

torch.autograd.grad = first
"""
END = """
import json, os, sys, time

def end(unwanted):
    loaded = [name for name in unwanted if name in sys.modules]
    cpu = os.times()
    print(json.dumps({"at": time.monotonic(), "cpu": cpu.user + cpu.system, "loaded": loaded}), file=sys.stderr)
    sys.stderr.flush()
    os._exit(0)
"""
HAM = "sys.argv[0] = 'ham'\nfrom orchestration.cli import main\n"


@dataclass(frozen=True)
class Command:
    """What is timed. bound: seconds, or with `torch` multiples of `import torch`."""

    name: str
    code: str
    arguments: tuple[str, ...] = ()
    bound: float = 0.0
    torch: bool = False  # it needs torch, and its time is compared with that of importing it


def commands(place: Path) -> list[Command]:
    """All of them, on files in this folder."""
    trial = {"data": "digits", "method": "at", "model": {"name": "small_cnn"}, "epsilon": 0.1, "epochs": 1}
    sweep = {"trial": trial | {"epochs": 3}, "grid": {"method": list(METHODS)}, "seeds": list(range(SEEDS))}
    del sweep["trial"]["method"]  # type: ignore[attr-defined]
    (place / "trial.yaml").write_text(yaml.safe_dump(trial), encoding="utf-8")
    (place / "fifty.yaml").write_text(
        yaml.safe_dump(sweep | {"evaluate": ["clean", "pgd20"]}), encoding="utf-8"
    )
    ended = f"try:\n    main()\nexcept SystemExit as exit:\n    assert not exit.code, exit.code\nend({(*UNWANTED, 'torch')!r})"
    core = "from ham_core.__main__ import main\nsys.exit(main())"
    return [
        Command("import torch", "import torch\nend(())"),
        Command(
            "ham_core train",
            UNTIL_FIRST_GRADIENT + core,
            ("train", str(place / "trial.yaml"), "--out", str(place / "out")),
            1.3,
            True,
        ),
        Command(
            "ham train",
            UNTIL_FIRST_GRADIENT + HAM + "main()",
            ("train", str(place / "trial.yaml"), "--store", str(place / "store")),
            1.3,
            True,
        ),
        Command("ham --help", HAM + ended, ("--help",), 0.5),
        Command(
            f"ham plan, {len(METHODS) * SEEDS} trials",
            HAM + ended,
            ("plan", str(place / "fifty.yaml"), "--store", str(place / "plans")),
            2.0,
        ),
    ]


def once(command: Command) -> dict[str, Any]:
    """{seconds, cpu, loaded} of one process. CalledProcessError: it failed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", END + command.code, *command.arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        told = json.loads(done.stderr.splitlines()[-1])
    except (IndexError, ValueError):
        raise SystemExit(f"{command.name}: it ended before it could be measured\n{done.stderr}") from None
    return {"seconds": told["at"] - started, "cpu": told["cpu"], "loaded": told["loaded"]}


def measure(repeats: int) -> list[dict[str, Any]]:
    """All commands in turns -> a row for each."""
    with tempfile.TemporaryDirectory() as folder:
        everything = commands(Path(folder))
        seen: dict[str, list[dict[str, Any]]] = {command.name: [] for command in everything}
        for turn in range(repeats + 1):
            for command in everything:
                found = once(command)
                if turn:
                    seen[command.name].append(found)
    rows = []
    for command in everything:
        runs = seen[command.name]
        seconds = [run["seconds"] for run in runs]
        base = statistics.median(run["seconds"] for run in seen["import torch"])
        middle = statistics.median(seconds)
        reached = middle / base if command.torch else middle
        loaded = sorted({name for run in runs for name in run["loaded"]})
        rows.append(
            {
                "command": command.name,
                "seconds": seconds,
                "median": middle,
                "cpu": statistics.median(run["cpu"] for run in runs),
                "ratio": middle / base,
                "cpu_ratio": statistics.median(run["cpu"] for run in runs)
                / statistics.median(run["cpu"] for run in seen["import torch"]),
                "bound": command.bound,
                "loaded": loaded,
                "within": not loaded and (not command.bound or reached <= command.bound),
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write the file that was asked for."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/startup.py", description=str(__doc__).partition("\n")[0]
    )
    parser.add_argument("--repeats", type=bounded(int, 1), default=9, help="n, processes of each; default 9")
    ask_for_json(parser)
    chosen = parser.parse_args(argv)
    machine = about()
    print(said_of(machine))
    print(
        f"\n{'command':22}{'n':>4}{'median':>10}{'fastest':>10}{'slowest':>10}{'CPU':>9}{'of torch':>10}{'CPU of torch':>14}"
        "  verdict"
    )
    rows = measure(chosen.repeats)
    for row in rows:
        print(_line(row))
    keep(chosen.json, {"machine": machine, "results": rows})
    return 0


def _line(row: dict[str, Any]) -> str:
    times = "".join(f"{one:>8.2f} s" for one in (row["median"], min(row["seconds"]), max(row["seconds"])))
    unit = "x torch" if row["command"].endswith("train") else "s"
    verdict = f"{'within' if row['within'] else 'OVER'} {row['bound']:g} {unit}" if row["bound"] else ""
    loaded = f", loads {', '.join(row['loaded'])}" if row["loaded"] else ""
    return (
        f"{row['command']:22}{len(row['seconds']):>4}{times}{row['cpu']:>7.2f} s{row['ratio']:>10.2f}{row['cpu_ratio']:>14.2f}"
        f"  {verdict}{loaded}"
    )


if __name__ == "__main__":
    sys.exit(main())
