"""Table -> Markdown. Best in bold, second in italics, footnote marks behind the number."""

from __future__ import annotations

from collections.abc import Sequence

from reports.tables import Cell, Table


def render(tables: Sequence[Table]) -> str:
    """The parts of one table, one below the other."""
    return "\n".join(_one(table) for table in tables)


def _one(table: Table) -> str:
    heads = [table.row_title, *(" ".join((head.full, *head.marks)) for head in table.columns)]
    rows = [
        [" ".join((row.title, *row.marks)), *(_cell(cell) for cell in cells)]
        for row, cells in zip(table.rows, table.cells, strict=True)
    ]
    lines = [f"### {table.full_title}", "", f"{table.caption} Protocol: {table.protocol}.", ""]
    grid = [[_escape(text) for text in heads], *([_escape(line[0]), *line[1:]] for line in rows)]
    widths = [max(3, *(len(line[index]) for line in grid)) for index in range(len(heads))]
    first, *rest = grid
    lines.append(_line(first, widths))
    lines.append(
        "|"
        + "|".join(f"{'-' * (width + 1)}{':' if index else '-'}" for index, width in enumerate(widths))
        + "|"
    )
    lines += [_line(line, widths) for line in rest]
    lines.append("")
    lines += [f"{mark} {text}  " for mark, text in table.footnotes]
    lines += [f"{note}  " for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.ljust(width) if index == 0 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "| " + " | ".join(padded) + " |"


def _cell(cell: Cell) -> str:
    wrap = {0: "", 1: "**", 2: "*"}[cell.rank]
    return " ".join(
        part for part in (f"{wrap}{cell.text}{wrap}" if cell.text else "", "".join(cell.marks)) if part
    )


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")
