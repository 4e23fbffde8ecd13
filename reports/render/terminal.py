"""Table -> a table of rich for a terminal: best in bold, second underlined, intervals dimmed.

Where the terminal is too narrow for one line per row, intervals stand below their numbers; where it is too narrow for that
as well, there is no table, and the caller prints Markdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table as RichTable
    from rich.text import Text

    from reports.tables import Cell, Head, Table


def render(tables: Sequence[Table], console: Console) -> Group | None:
    """The parts of one table, one below the other, with what stands below them; None: the terminal is too narrow."""
    from rich.console import Group
    from rich.measure import Measurement
    from rich.text import Text

    parts: list[RichTable | Text] = []
    for table in tables:
        grids = (_grid(table, stacked) for stacked in (False, True))
        wide = console.options.update_width(10_000)  # else it would measure what it would cut off
        grid = next(
            (one for one in grids if Measurement.get(console, wide, one).maximum <= console.width), None
        )
        if grid is None:
            return None
        parts += [
            Text(table.full_title, "bold"),
            Text(f"{table.caption} Protocol: {table.protocol}.", "dim"),
            grid,
        ]
        parts += [Text(f"{mark} {text}", "dim") for mark, text in table.footnotes]
        parts += [Text(note, "dim") for note in table.notes]
    return Group(*parts)


def _grid(table: Table, stacked: bool) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    grid = RichTable(box=SIMPLE_HEAD, pad_edge=False, header_style="bold cyan")
    grid.add_column(table.row_title, no_wrap=True)
    for head in table.columns:
        grid.add_column(_head(head), justify="right", no_wrap=True)
    for index, (row, cells) in enumerate(zip(table.rows, table.cells, strict=True)):
        if index and row.group != table.rows[index - 1].group:
            grid.add_section()
        grid.add_row(" ".join((row.title, *row.marks)), *(_cell(cell, stacked) for cell in cells))
    return grid


def _head(head: Head) -> str:
    title = "".join((head.title, *head.marks))
    return f"{head.group}\n{title}" if head.group else title


def _cell(cell: Cell, stacked: bool) -> Text:
    from rich.text import Text

    number, space, interval = cell.text.partition(" ")
    if cell.kind in ("published", "none"):  # words, or a number without an interval
        return Text(cell.text + "".join(cell.marks))
    style = {0: "", 1: "bold green", 2: "underline"}[cell.rank]
    return Text.assemble(
        (number, style),
        ("\n" + interval if stacked and interval else space + interval, "dim"),
        ("".join(cell.marks), "yellow"),
    )
