"""Mutation run over the four rooms of a method: does a flipped sign or a dropped term make a mirrored test fail?

    make mutants ARGS="--most 300"           a sample of 300, the same one for the same --seed
    make mutants ARGS="--only ham_core/mining/ham.py --most 1000"

A mutant is one file with one expression changed. It runs against its mirrored tests alone, in a copy of the tree:
ham_core/<room>/<part>.py against tests/ham_core/<room>/test_<part>.py, base.py against test_base.py or else the whole
room. Survivors are printed in the form of `mutants_accepted.txt`, which lists, with the reason, those that nothing can tell
from the original. Exit status: 0 none survives, 1 some do, 2 the tests fail without any mutant, or there are none.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from itertools import zip_longest
from multiprocessing import connection, get_context
from pathlib import Path

from tests.mutation import Mutant, mutants_of

ROOMS = ("objectives", "mining", "calibration", "averaging")
COPIED = ("ham_core", "tests", "pyproject.toml")  # what mirrored tests need
PRELOADED = ("torch._dynamo", "pydantic.main", "sklearn.datasets", "hypothesis")  # imported once, then forked
ACCEPTED = "tests/mutants_accepted.txt"


def all_mutants(tree: Path) -> dict[str, list[Mutant]]:
    """file -> its mutants."""
    files = [path for room in ROOMS for path in sorted((tree / "ham_core" / room).glob("[!_]*.py"))]
    names = [path.relative_to(tree).as_posix() for path in files]
    return {name: mutants_of(name, (tree / name).read_text("utf-8")) for name in names}


def chosen(mutants: dict[str, list[Mutant]], most: int, seed: int) -> list[Mutant]:
    """At most so many, spread over the files, the same ones for the same seed."""
    shuffled = [random.Random(f"{seed} {file}").sample(own, len(own)) for file, own in mutants.items()]
    spread = [one for row in zip_longest(*shuffled) for one in row if one is not None]
    return sorted(spread[:most], key=lambda one: (one.file, one.number))


def mirrored(tree: Path, file: str) -> str | None:
    """The tests of a file: its own, or for the base of a room all of the room's."""
    room = Path("tests", *Path(file).parts[:-1])
    own = room / f"test_{Path(file).name}"
    if (tree / own).exists():
        return own.as_posix()
    return room.as_posix() if Path(file).stem == "base" and (tree / room).is_dir() else None


def accepted(text: str) -> dict[tuple[str, str, str, str], str]:
    """Key -> reason, from paragraphs of a file's name and the lines `line: `, `before: `, `after: `, `because: `."""
    found = {}
    for paragraph in text.split("\n\n"):
        lines = [line for line in paragraph.splitlines() if line.strip() and not line.startswith("#")]
        if lines:
            line, before, after, reason = (line.partition(":")[2].strip() for line in lines[1:])
            found[lines[0].strip(), line, before, after] = reason
    return found


def _test(copy: Path, tests: str) -> None:
    """In a forked process: run the tests on the copy; the exit status is pytest's."""
    import pytest

    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    sys.dont_write_bytecode = True
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    sys.exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--rootdir={copy}", tests])))


class Pool:
    """Copies of the tree, one per worker, and the tests that run on them at this moment."""

    def __init__(self, tree: Path, folder: Path, workers: int) -> None:
        self.free = [folder / str(number) for number in range(workers)]
        for copy in self.free:
            for name in COPIED:
                source = tree / name
                if source.is_dir():
                    shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
                elif source.exists():
                    shutil.copy(source, copy / name)

    def run(self, jobs: list[tuple[str, str | None, str, float]]) -> Iterator[tuple[int, int | None, float]]:
        """Jobs (file, its source or None for the original, tests, seconds) -> (job, status or None if killed, seconds)."""
        context, waiting, running = get_context("fork"), list(enumerate(jobs)), {}
        while waiting or running:
            while waiting and self.free:
                number, (file, source, tests, limit) = waiting.pop(0)
                copy = self.free.pop()
                original = (copy / file).read_text("utf-8")
                (copy / file).write_text(original if source is None else source, "utf-8")
                process = context.Process(target=_test, args=(copy, tests))
                process.start()
                running[process.sentinel] = (process, copy, original, number, time.monotonic(), limit)
            connection.wait(list(running), timeout=0.2)
            for sentinel, (process, copy, original, number, since, limit) in list(running.items()):
                seconds = time.monotonic() - since
                late = process.is_alive() and seconds > limit
                if late:
                    process.kill()
                    process.join()
                if not process.is_alive():
                    (copy / jobs[number][0]).write_text(original, "utf-8")
                    self.free.append(copy)
                    del running[sentinel]
                    yield number, None if late else process.exitcode, seconds


def prepare(modules: tuple[str, ...]) -> None:
    """Import what every test would import first; one thread, so that forking is safe."""
    import pytest

    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for name in modules:
        with suppress(ImportError):
            importlib.import_module(name)
    with tempfile.TemporaryDirectory() as empty, redirect_stdout(io.StringIO()):
        pytest.main(["-q", f"--rootdir={empty}", empty])  # loads pytest's plugins


def main(arguments: list[str] | None = None, modules: tuple[str, ...] = PRELOADED) -> int:
    """Run and report -> the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--tree", type=Path, default=Path(__file__).resolve().parent.parent, help="a checkout"
    )
    parser.add_argument("--most", type=int, default=300, help="mutants (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice among them (default 0)")
    parser.add_argument("--workers", type=int, default=2, help="tests at a time (default 2)")
    parser.add_argument("--only", default="", help="files whose path begins so")
    given = parser.parse_args(arguments)
    every = all_mutants(given.tree)
    asked = {file: own for file, own in every.items() if file.startswith(given.only)}
    mutants = chosen(asked, given.most, given.seed)
    tests = {file: mirrored(given.tree, file) for file in asked}
    for file in sorted(file for file, place in tests.items() if place is None):
        print(f"{file}: no mirrored tests")
    if None in tests.values():
        return 2
    prepare(modules)
    path = given.tree / ACCEPTED
    known = accepted(path.read_text("utf-8")) if path.exists() else {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        pool = Pool(given.tree, Path(folder), given.workers)
        files = sorted({one.file for one in mutants})
        limits, failing = {}, []
        for number, status, seconds in pool.run([(file, None, str(tests[file]), 600.0) for file in files]):
            limits[files[number]] = 10 + 4 * seconds
            if status != 0:
                failing.append(files[number])
        for file in sorted(failing):
            print(f"{tests[file]}: fails without any mutant")
        if failing:
            return 2
        jobs: list[tuple[str, str | None, str, float]] = [
            (one.file, one.source, str(tests[one.file]), limits[one.file]) for one in mutants
        ]
        alive, late, survivors = 0, 0, 0
        for number, status, _ in pool.run(jobs):
            one = mutants[number]
            alive, late = alive + (status == 0), late + (status is None)
            if status == 0 and one.key not in known:
                survivors += 1
                told = {"line": one.line, "before": one.before, "after": one.after, "because": ""}
                print(
                    one.file,
                    *(f"    {name}: {text}" for name, text in told.items()),
                    "",
                    sep="\n",
                    flush=True,
                )
    total = sum(map(len, asked.values()))
    print(
        f"{len(mutants)} of {total} mutants: {len(mutants) - alive} killed ({late} by the clock), "
        f"{alive - survivors} accepted, {survivors} survive"
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
