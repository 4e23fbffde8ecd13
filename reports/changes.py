"""What differs between two reports: cells changed, added and removed, table by table, from their CSV files in long form.

A cell is named by its table, protocol, row and column. It changed when its number, its interval or its seeds did, or what it
waits for. A cell whose number stayed and whose place in its column did not (best, second) is counted apart: its own trials did
not change.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ham_core.errors import RequestError
from reports.render.csv import FIELDS

NAME = "changes.md"
NUMBERS = ("text", "n", "expected", "mean", "low", "high", "interval", "waits_for")
Key = tuple[str, str, str, str]  # protocol, row, column, and which of several alike
Cell = Mapping[str, str]
Report = dict[str, dict[Key, Cell]]  # "digits/ham-main" -> its cells


@dataclass(frozen=True)
class Change:
    """One cell. `old` None: it was added; `new` None: it was removed."""

    row: str
    column: str
    protocol: str
    old: Cell | None
    new: Cell | None

    @property
    def difference(self) -> str:
        """New minus old mean, with a sign; "" where one of them has none."""
        if self.old is None or self.new is None or not (self.old["mean"] and self.new["mean"]):
            return ""
        return f"{float(self.new['mean']) - float(self.old['mean']):+.4g}"


@dataclass
class Changes:
    """What became of one table. `ranks`: cells that are the best or the second of their column otherwise than before."""

    table: str
    cells: list[Change] = field(default_factory=list)
    ranks: list[Change] = field(default_factory=list)
    whole: str = ""  # "added" or "removed", where the other report does not have the table


def read(folder: Path, tables: Iterable[str] | None = None) -> Report:
    """The tables of a report's folder, or those of these names. RequestError: there are none, or a file is no table."""
    if not folder.is_dir():
        raise RequestError(f"--against: {folder} is no folder; name the folder of an earlier report")
    wanted = None if tables is None else set(tables)
    found: Report = {}
    for path in sorted(folder.glob("*/*.csv")):
        name = f"{path.parent.name}/{path.stem}"
        if path.name != "trials.csv" and (wanted is None or name in wanted):
            found[name] = _cells(path)
    if not found and wanted is None:
        raise RequestError(
            f"--against: {folder} holds no tables as CSV; name the folder of a report that was built with --format csv"
        )
    return found


def _cells(path: Path) -> dict[Key, Cell]:
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != FIELDS:
            raise RequestError(
                f"{path}: is no table of this version (its columns are others); build that report again with ham report"
            )
        found: dict[Key, Cell] = {}
        for line in reader:
            words = (line["protocol"], line["row"], line["column"])
            alike = sum(key[:3] == words for key in found) if (*words, "") in found else 0
            found[*words, str(alike) if alike else ""] = line
        return found


def between(old: Report, new: Report) -> list[Changes]:
    """The tables in which something differs, in the order of the new report; what was removed comes last."""
    found = []
    for table in [*new, *(name for name in old if name not in new)]:
        before, now = old.get(table), new.get(table)
        changes = Changes(table, whole="added" if before is None else "removed" if now is None else "")
        before, now = before or {}, now or {}
        for key in [*now, *(key for key in before if key not in now)]:
            was, cell = before.get(key), now.get(key)
            change = Change(key[1], key[2], key[0], was, cell)
            if was is None or cell is None or any(was[name] != cell[name] for name in NUMBERS):
                changes.cells.append(change)
            elif was["rank"] != cell["rank"]:
                changes.ranks.append(change)
        if changes.cells or changes.ranks:
            found.append(changes)
    return found


def in_one_line(changes: Sequence[Changes], old: Path) -> str:
    """`12 cells of 3 tables differ from reports-old`, or that none does."""
    cells = sum(len(one.cells) for one in changes)
    ranks = sum(len(one.ranks) for one in changes)
    if not changes:
        return f"nothing changed against {old}"
    tables = sum(bool(one.cells) for one in changes)
    number = f"{cells} cell{'' if cells == 1 else 's'} of {tables} table{'' if tables == 1 else 's'}"
    parts = [f"{number} {'differs' if cells == 1 else 'differ'}"]
    if ranks:
        parts.append(f"{ranks} more {'is' if ranks == 1 else 'are'} marked otherwise (best, second)")
    return f"{'; '.join(parts)}; against {old}"


def markdown(changes: Sequence[Changes], old: Path) -> str:
    """All changes as Markdown."""
    lines = [f"# What changed against {old}", "", f"{in_one_line(changes, old).capitalize()}.", ""]
    for one in changes:
        lines += [f"## {one.table}{f' ({one.whole})' if one.whole else ''}", ""]
        if one.cells:
            lines += ["| row | column | old | new | difference |", "|---|---|---:|---:|---:|"]
            lines += [f"| {' | '.join(map(_escape, row))} |" for row in rows_of(one)]
            lines.append("")
        if one.ranks:
            places = [
                f"{_escape(change.row)}, {_escape(change.column)} ({_places(change)})" for change in one.ranks
            ]
            lines += [f"Numbers alike, marked otherwise: {'; '.join(places)}.", ""]
    return "\n".join(lines)


def rows_of(changes: Changes) -> list[tuple[str, str, str, str, str]]:
    """(row, column, old, new, difference) of each cell; the protocol stands behind the row where there are several."""
    several = len({change.protocol for change in changes.cells}) > 1
    return [
        (
            f"{change.row} ({change.protocol})" if several else change.row,
            change.column,
            _shown(change.old),
            _shown(change.new),
            change.difference,
        )
        for change in changes.cells
    ]


def _shown(cell: Cell | None) -> str:
    """What a cell said: its text, else what it waits for; its seeds where they are fewer than expected."""
    if cell is None:
        return "-"
    if not cell["text"]:
        return f"empty ({cell['waits_for']})" if cell["waits_for"] else "empty"
    return cell["text"] if cell["n"] == cell["expected"] else f"{cell['text']} (n = {cell['n']})"


def _places(change: Change) -> str:
    assert change.old is not None and change.new is not None
    words = {"": "neither", "1": "best", "2": "second"}
    return f"{words[change.old['rank']]} -> {words[change.new['rank']]}"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
