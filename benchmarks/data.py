"""Seconds to decode a data set once, to load it, and the share of an adversarial training step that augmentation takes.

    make bench-data DATA=photos/                    # a folder of class folders, or a name; four minutes on two cores
    make bench-data DATA=photos/ ARGS="--model small_cnn"

Decoding runs `ham data fetch` as a process of its own, imports and all, into an empty cache folder that is removed afterwards;
an archive by name is copied there first, so that nothing is downloaded. Loading is `ham_core.data.load`: it lists the
folder, compares the checksum of the decoded pixels and makes the splits of a trial; once with the start of a process and
the import of PyTorch, and on its own. The files lie in the system's memory by then, as between two trials.

A step is one PGD-10 AT step of `ham_core.training.Training` on a batch of 3x32x32 pixels, as in benchmarks/steps.py, and
contains one augmentation of that batch (crop after padding by 4, flip). Medians.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import ask_for_json, bounded, keep, on
from benchmarks.planning import ROOT, run
from benchmarks.steps import noise, ours, trial_of
from benchmarks.textbook import wait
from ham_core import data, models
from ham_core.config import data_settings
from ham_core.data.augment import augment
from ham_core.data.published import Published
from ham_core.training import Training

MODELS = ("small_cnn", "preact_resnet18")
LOAD = """
import sys
from ham_core import data
from ham_core.config import data_settings
data.load(**data_settings(sys.argv[1]), validation=0.02, split_seed=0)
"""


def of_images(images: str, repeats: int) -> list[tuple[str, list[float]]]:
    """(what, seconds) of decoding and loading a data set by name or folder, in a cache folder of its own."""
    place: dict[str, Any] = data_settings(images)
    source = data.find(**place)
    archives = [source.place(one) for one in source.archives] if isinstance(source, Published) else []
    usual = data.cache_folder()
    with tempfile.TemporaryDirectory() as cache:
        for archive in filter(Path.is_file, archives):
            copy = Path(cache) / archive.relative_to(usual)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(archive, copy)
        before = os.environ.get("HAM_DATA")
        os.environ["HAM_DATA"] = cache
        try:
            decoded = run("data", "fetch", images).seconds
            command = [sys.executable, "-c", LOAD, images]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            started = timed(lambda: subprocess.run(command, env=environment, check=True), repeats)
            loaded = timed(lambda: data.load(**place, validation=0.02, split_seed=0), repeats)
        finally:
            if before is None:
                del os.environ["HAM_DATA"]
            else:
                os.environ["HAM_DATA"] = before
    return [
        ("decode (ham data fetch)", [decoded]),
        ("load, with the start of Python", started),
        ("load", loaded),
    ]


def of_steps(
    model: str, arguments: argparse.Namespace, device: torch.device
) -> tuple[list[float], list[float]]:
    """Seconds of augmenting one batch, and of one adversarial training step on it."""
    settings = argparse.Namespace(**{**vars(arguments), "model": model})
    dataset = noise(settings, device)
    steps = ours(Training(trial_of(settings, "AT"), dataset, device=device))
    next(steps)  # the first one sets memory aside
    seconds = [next(steps)[0] for _ in range(arguments.repeats)]
    stream, pixels = torch.Generator().manual_seed(0), dataset.train.images

    def one() -> None:
        augment(pixels, crop=4, flip=True, generator=stream)
        wait(device)

    one()
    return timed(one, 20 * arguments.repeats), seconds


def timed(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of so many runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def row(what: str, seconds: list[float], more: str = "") -> None:
    """Print one line of the table."""
    times = "".join(f"{value:>11.4f}" for value in (statistics.median(seconds), min(seconds), max(seconds)))
    print(f"{what:34}{len(seconds):>4}{times}  {more}".rstrip(), flush=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/data.py", description=str(__doc__).partition("\n")[0])
    parser.add_argument("images", nargs="?", metavar="NAME|FOLDER", help="default: steps only")
    parser.add_argument(
        "--model", choices=models.names(), action="append", help=f"default {' and '.join(MODELS)}"
    )
    parser.add_argument("--width", type=bounded(float, 0.01), default=1.0, help="default 1")
    parser.add_argument("--batch", type=bounded(int, 2), default=128, help="default 128")
    parser.add_argument(
        "--repeats", type=bounded(int, 3), default=3, help="n, timed steps and loads; default 3"
    )
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=bounded(int, 1), default=os.cpu_count(), help="default: all cores")
    ask_for_json(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, write the file that was asked for."""
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    about = on(device)
    print("  ".join(f"{key} {value}" for key, value in about.items()))
    print(f"\n{'what':34}{'n':>4}{'median s':>11}{'fastest':>11}{'slowest':>11}")
    results: dict[str, list[float]] = {}
    if arguments.images:
        for what, seconds in of_images(arguments.images, arguments.repeats):
            row(what, seconds)
            results[what] = seconds
    for model in arguments.model or MODELS:
        augmented, stepped = of_steps(model, arguments, device)
        share = statistics.median(augmented) / statistics.median(stepped)
        row(f"augment {arguments.batch} images", augmented)
        row(f"AT step, {model}", stepped, f"augmentation {100 * share:.3f} %")
        results |= {f"augment beside {model}": augmented, f"AT step, {model}": stepped}
    keep(arguments.json, {"machine": about, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
