"""Table -> CSV in long form: one line per row and column. Holds no ids, dates or paths, so two builds can be compared."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from reports.tables import Table

FIELDS = (
    "table",
    "protocol",
    "row",
    "column",
    "metric",
    "unit",
    "better",
    "n",
    "expected",
    "mean",
    "low",
    "high",
    "interval",
    "rank",
    "text",
    "waits_for",
)


def render(tables: Sequence[Table]) -> str:
    """All parts of one table in one file; the column `protocol` tells them apart."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(FIELDS)
    for table in tables:
        for row, cells in zip(table.rows, table.cells, strict=True):
            for head, cell in zip(table.columns, cells, strict=True):
                writer.writerow(
                    (
                        table.name,
                        table.protocol,
                        row.title,
                        head.full,
                        head.metric,
                        head.unit,
                        head.better,
                        "" if head.published else cell.n,
                        "" if head.published else cell.expected,
                        number(cell.mean),
                        number(cell.low),
                        number(cell.high),
                        cell.kind if cell.text else "",
                        cell.rank or "",
                        cell.text,
                        cell.waits,
                    )
                )
    return stream.getvalue()


def number(value: float | None) -> str:
    """Twelve digits: more than any table prints, fewer than rounding noise reaches."""
    return "" if value is None else f"{value:.12g}"
