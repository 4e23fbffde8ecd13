"""data: which images there are, fetching them, checking them, looking at them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ham_core.errors import RequestError, known
from orchestration.cli.shared import JsonFlag, command, console, emit, grid

if TYPE_CHECKING:
    from ham_core.data import Facts, Progress

WAYS = ("list", "fetch", "check", "show")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "data", "ham data fetch cifar10")(data)


def data(
    way: Annotated[str, typer.Argument(metavar="[list|fetch|check|show]", help="What to do.")] = "list",
    which: Annotated[str | None, typer.Argument(metavar="[NAME|FOLDER]", help="Which images.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="show: where to. [default: NAME-images.png]")
    ] = None,
    per_class: Annotated[
        int, typer.Option("--per-class", metavar="N", min=1, max=100, help="show: images of each class.")
    ] = 10,
    as_json: JsonFlag = False,
) -> None:
    """List data sets, fetch or convert one, check its files, or write a picture of its images per class."""
    from ham_core import data as room
    from ham_core.config import data_settings

    if way not in WAYS:
        raise RequestError(f"ham data: unknown word '{way}'; {known(way, WAYS)}")
    if way == "list":
        _print_sets(room.describe(), as_json)
        return
    if which is None:
        raise RequestError(f"ham data {way}: which one? {known('', room.names())}; or a folder by its path")
    chosen = {"folder": which} if Path(which).is_dir() and which not in room.names() else data_settings(which)
    name, folder = chosen.get("name"), chosen.get("folder")
    source = room.find(name, folder)
    facts = source.facts()
    with on_stderr() as progress:
        if way == "fetch":
            source.ensure(progress)
        elif way == "check":
            problems = room.check(name, folder, progress=progress)
            if problems:
                raise RequestError(problems)
        else:
            from ham_core.data.contact import write_sheet

            picture = out or Path(f"{facts.label}-images.png".replace("/", "-"))
            write_sheet(picture, source.load(progress), facts, per_class)
    if way == "show":
        emit({"name": facts.name, "picture": str(picture)}) if as_json else print(picture)
        return
    _print_facts(facts, source.present(), as_json)


def _print_sets(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        emit(rows)
        return
    columns = ("name", "classes", "shape", "images", "present", "place")
    shown = [
        (
            row["name"],
            len(row["classes"]),
            "x".join(map(str, row["shape"])),
            row["images"],
            "yes" if row["present"] else "no",
            row["place"],
        )
        for row in rows
    ]
    grid(columns, shown)


def _print_facts(facts: Facts, present: bool, as_json: bool) -> None:
    answer = {
        "name": facts.name,
        "label": facts.label,
        "classes": list(facts.classes),
        "shape": list(facts.shape),
        "images": list(facts.images),
        "train_digest": facts.train_digest,
        "test_digest": facts.test_digest,
        "present": present,
        "place": facts.source,
    }
    if as_json:
        emit(answer)
        return
    for key, value in answer.items():
        print(f"{key + ':':<14}{', '.join(map(str, value)) if isinstance(value, list) else value}")


@contextmanager
def on_stderr() -> Iterator[Progress]:
    """A progress function: a bar on a terminal, elsewhere a line every tenth."""
    shown = console(stderr=True)
    if not shown.is_terminal:
        yield lines()
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=shown) as bars:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None)
            bars.update(tasks[what], completed=done, total=total or None)

        yield progress


def lines() -> Callable[[str, int, int], None]:
    """A progress function that writes a line to stderr every tenth."""
    told: dict[str, int] = {}

    def progress(what: str, done: int, total: int) -> None:
        tenth = 10 * done // total if total else 0
        if told.get(what, -1) < tenth:
            told[what] = tenth
            print(f"{what}: {10 * tenth} %" if total else what, file=sys.stderr, flush=True)

    return progress
