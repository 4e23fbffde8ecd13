"""Seconds and memory of `ham report` on records of 100, 1,000 and 10,000 runs in SQLite.

    python -m benchmarks.reporting                                   # ten minutes
    python -m benchmarks.reporting --runs 100 1000 --repeats 3       # two minutes
    python -m benchmarks.reporting --plot docs/pictures/report-growth.png

The records are invented (benchmarks/record.py) and made first, which is not measured: four sweeps of five grids, five seeds,
50 final metrics, 8 series of 12 epochs and 60 parameters per run. Every command is a process of its own, imports and all:

    tables, cold   all tables of all sweeps in Markdown, LaTeX and CSV (--tables) into an empty folder, after the pages of the
                   database and of Python's packages were given back to the system, as far as no other process maps them
    tables, warm   the same, right after it
    again          the same command with nothing new: it reads the runs, compares digests and writes nothing
    everything     figures and the HTML page besides

It should stay below 60 s cold, 10 s warm and 2 GiB for the tables of 10,000 runs. Memory: the most that the process had
resident (ru_maxrss).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.machine import ask_for_json, bounded, keep
from benchmarks.planning import Cost, run
from ham_core.processor import processor

COLD, WARM, MEMORY = (
    60.0,
    10.0,
    2048.0,
)  # seconds and MiB that we allow ourselves for the tables of 10,000 runs
LIBRARIES = ("mlflow", "sqlalchemy", "matplotlib", "numpy", "pandas", "scipy")
STYLES = {  # colours of Okabe and Ito (2008), told apart by dashes in grey prints
    "tables, cold": ("#0072b2", "o", "-"),
    "tables, warm": ("#d55e00", "s", (0, (5, 1.5))),
    "again": ("#009e73", "^", (0, (1, 1))),
    "everything": ("#6b7075", "D", (0, (5, 1.5, 1, 1.5))),
}


def forget(folder: Path) -> None:
    """Give the pages of all files below a folder back to the system."""
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                descriptor = os.open(os.path.join(place, name), os.O_RDONLY)
            except OSError:  # links to nowhere
                continue
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def measure(uri: str, folder: Path, repeats: int, *, everything: bool) -> dict[str, list[Cost]]:
    """{what: costs} on one record, in a folder for the reports."""
    costs: dict[str, list[Cost]] = {"tables, cold": [], "tables, warm": [], "again": []}
    for number in range(repeats):
        words = ("report", "--tracking-uri", uri, "--store", folder, "--tables")
        os.sync()  # pages that are not written yet cannot be given back
        forget(Path(uri.removeprefix("sqlite:///")).parent)
        forget(Path(sys.prefix) / "lib")
        costs["tables, cold"].append(run(*words, "--out", folder / f"cold{number}", quiet=True))
        costs["tables, warm"].append(run(*words, "--out", folder / f"warm{number}", quiet=True))
        costs["again"].append(run(*words, "--out", folder / f"warm{number}", quiet=True))
    if everything:
        costs["everything"] = [
            run(
                "report", "--tracking-uri", uri, "--store", folder, "--out", folder / "everything", quiet=True
            )
        ]
    return costs


def show(what: str, runs: int, costs: Sequence[Cost]) -> None:
    """Print one row of the table."""
    seconds = [cost.seconds for cost in costs]
    cpu = statistics.median(cost.cpu_seconds for cost in costs)
    memory = max(cost.mebibytes for cost in costs)
    times = "".join(f"{one:>9.2f} s" for one in (statistics.median(seconds), min(seconds), max(seconds), cpu))
    print(f"{what:16}{runs:>8}{len(costs):>4}{times}{memory:>9.0f} MiB", flush=True)


def plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds and memory against the number of runs."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8.75, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for what, (color, marker, dash) in STYLES.items():
            own = [one for one in results if one["what"] == what]
            if not own:
                continue
            runs = [one["runs"] for one in own]
            seconds = [[cost["seconds"] for cost in one["costs"]] for one in own]
            middle = [statistics.median(one) for one in seconds]
            spread = [
                [m - min(one) for m, one in zip(middle, seconds, strict=True)],
                [max(one) - m for m, one in zip(middle, seconds, strict=True)],
            ]
            look = {"color": color, "marker": marker, "linestyle": dash, "markersize": 5}
            left.errorbar(runs, middle, spread, label=what, capsize=2.5, elinewidth=0.9, **look)
            memory = [max(cost["mebibytes"] for cost in one["costs"]) for one in own]
            right.plot(runs, memory, label=what, **look)
        for axes, limits, unit in ((left, (COLD, WARM), "seconds"), (right, (MEMORY,), "MiB, at most")):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("runs in the record")
            axes.set_ylabel(unit)
            axes.grid(color="#d7dade", linewidth=0.6)
            for limit in limits:
                axes.axhline(limit, color="#1c1e21", linewidth=0.8, linestyle=(0, (1, 2)))
        for limit, words in ((COLD, "allowed cold"), (WARM, "allowed warm")):
            left.annotate(
                f"{words}: {limit:g} s",
                (0.02, limit),
                xycoords=("axes fraction", "data"),
                va="bottom",
                fontsize=8,
            )
        right.annotate(
            "allowed: 2 GiB", (0.02, MEMORY), xycoords=("axes fraction", "data"), va="bottom", fontsize=8
        )
        right.set_ylim(100, 4000)
        for axis in (left.xaxis, left.yaxis, right.xaxis, right.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8.5)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160, metadata={"Software": None})


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/reporting.py", description=str(__doc__).partition("\n")[0]
    )
    step = record.STEP
    parser.add_argument(
        "--runs",
        type=bounded(int, step),
        nargs="+",
        default=[100, 1000, 10_000],
        help=f"multiples of {step}; default 100 1000 10000",
    )
    parser.add_argument("--repeats", type=bounded(int, 1), default=5, help="n of each command; default 5")
    parser.add_argument("--tables", action="store_true", help="leave out `everything`")
    ask_for_json(parser, "every measurement")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw how it grows")
    arguments = parser.parse_args(argv)
    if any(runs % step for runs in arguments.runs):
        parser.error(f"--runs: multiples of {step}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Make the records, measure, print a table, write the files that were asked for."""
    arguments = parse(argv)
    about = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    print(
        f"sweeps {record.SWEEPS}  seeds {record.SEEDS}  metrics {record.METRICS}  series {len(record.SERIES)}\n"
    )
    print(f"{'':16}{'runs':>8}{'n':>4}{'median':>11}{'fastest':>11}{'slowest':>11}{'CPU':>11}{'memory':>13}")
    results = []
    with tempfile.TemporaryDirectory() as place:
        for runs in arguments.runs:
            uri = record.write(Path(place, f"record{runs}"), runs)
            reports = Path(place, f"reports{runs}")
            reports.mkdir()
            costs = measure(uri, reports, arguments.repeats, everything=not arguments.tables)
            for what, own in costs.items():
                show(what, runs, own)
                results.append({"what": what, "runs": runs, "costs": [asdict(one) for one in own]})
    keep(arguments.json, {"machine": about, "results": results})
    if arguments.plot:
        plot(results, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
