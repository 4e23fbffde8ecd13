"""Published values beside ours: `<table>-published`, one line per printed value, with difference and verdict.

    inside          both are means over n >= 2 runs with their standard deviations: Welch's t test finds no difference at 5 %;
                    else: the published value lies in our interval
    outside         neither
    not comparable  a condition of the paper (data, epsilon, epochs, selection, ...) is not ours, or is not stated, or we have
                    no interval; the footnote names them all

A published value is printed as its source prints it. Nothing is estimated: where we have no run, the cell says what it
waits for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from reports import published as library
from reports.collect import PROTOCOL, readable
from reports.spec import Reference, ReferenceColumn, ReferenceRow, Spec
from reports.statistics import LEVEL
from reports.tables import Cell, Head, Row, Table, with_marks

Verdict = Literal["inside", "outside", "not comparable", ""]
LINES = 42  # of one part, so that it fits a page
RULE = (
    f"inside: Welch's t test of the two means finds no difference at {1 - LEVEL:.0%}, or, where the paper prints no spread or "
    "we have one seed, the published value lies in our interval. outside: neither. Differences are ours minus published, in "
    "points."
)


@dataclass(frozen=True)
class Compared:
    """One published value beside our cell. `ours` None: nothing of ours measures the same thing."""

    row: Row
    column: str
    beside: str | None  # the metric of our column
    value: library.Value
    ours: Cell | None
    verdict: Verdict
    reasons: tuple[str, ...]

    @property
    def difference(self) -> float | None:
        """Ours minus published, in percentage points."""
        if self.ours is None or self.ours.mean is None:
            return None
        return self.ours.mean - self.value.number.value


def compared(spec: Spec, table: Table) -> list[Compared]:
    """Every published value that stands beside the rows of a table, in the order reference, column, row."""
    return [one for reference in _beside(spec, table) for one in _of_reference(reference, table)]


def _beside(spec: Spec, table: Table) -> Iterator[Reference]:
    labels = {row.settings["data.label"] for row in table.rows if "data.label" in row.settings}
    for reference in spec.published:
        if reference.data is None or labels & set(reference.data):
            yield reference


def _of_reference(reference: Reference, table: Table) -> Iterator[Compared]:
    for column in reference.columns:
        place = next((c for c, head in enumerate(table.columns) if head.metric == column.beside), None)
        for row, cells in zip(table.rows, table.cells, strict=True):
            theirs = reference.rows.get(row.key) or reference.rows.get(row.label)
            value = None if theirs is None else printed(reference, theirs, column)
            if theirs is None or value is None:
                continue
            ours = None if place is None else cells[place]
            verdict, reasons = _verdict(reference, theirs, value, row, ours)
            yield Compared(
                row, _title(reference, column, table), column.beside, value, ours, verdict, reasons
            )


def _title(reference: Reference, column: ReferenceColumn, table: Table) -> str:
    head = next((head for head in table.columns if head.metric == column.beside), None)
    return column.title if head is None else head.full


def printed(reference: Reference, row: ReferenceRow, column: ReferenceColumn) -> library.Value | None:
    """The value that the paper prints there."""
    paper = library.paper(reference.paper)
    table = paper.table(reference.table)
    return next(
        (
            value
            for value in paper.values()
            if value.table is table
            and value.row.method == row.method
            and (value.column.attack, value.column.stat) == (column.attack, column.stat)
            and column.checkpoint in (None, value.column.checkpoint)
            and column.printed in (None, value.column.printed)
        ),
        None,
    )


def _verdict(
    reference: Reference, theirs: ReferenceRow, value: library.Value, row: Row, ours: Cell | None
) -> tuple[Verdict, tuple[str, ...]]:
    if reference.reason:
        return "not comparable", (" ".join(reference.reason.split()).rstrip("."),)
    if ours is None:
        return "not comparable", ("no column of this table measures the same thing",)
    if ours.mean is None:
        return "", ()
    reasons = [*_differing({**reference.conditions, **theirs.conditions}, row.settings)]
    if value.table.quantity != "accuracy":
        reasons.append(f"the paper prints an {value.table.quantity}")
    if ours.low is None or ours.high is None:
        reasons.append("one number of ours without an interval is no evidence")
    if reasons:
        return "not comparable", tuple(reasons)
    return ("inside" if _agrees(value, ours, reference.runs) else "outside"), ()


def _differing(conditions: Mapping[str, str | float | int | None], ours: Mapping[str, str]) -> Iterator[str]:
    """A sentence per condition that is not ours: `12 epochs instead of 200 epochs`."""
    for key, theirs in conditions.items():
        mine = ours.get(key, "")
        if theirs is None:
            yield f"the paper does not state its {key.replace('.', ' ')}"
        elif not mine:
            yield f"our {key.replace('.', ' ')} is not recorded"
        elif not _same(str(theirs), mine):
            yield f"{_words(key, mine)} instead of {_words(key, str(theirs))}"


def _words(key: str, value: str) -> str:
    """`12 epochs`, `ε = 8/255`, `width 0.5`."""
    return PROTOCOL.get(key, f"{key} {{}}").format(value if "/" in value else readable(key, value))


def _same(theirs: str, mine: str) -> bool:
    """Equal as text, or as numbers; 8/255 is a number."""
    if theirs == mine:
        return True
    try:
        return math.isclose(_number(theirs), _number(mine), rel_tol=1e-9)
    except ValueError:
        return False


def _number(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below) if below else float(above)


def _agrees(value: library.Value, ours: Cell, runs: int | None) -> bool:
    """Whether the published value and ours are the same within what is known of their spread."""
    theirs = value.number
    if theirs.spread is None or runs is None or runs < 2 or ours.n < 2:
        assert ours.low is not None and ours.high is not None
        return ours.low <= theirs.value <= ours.high
    from statistics import mean, stdev

    from scipy.stats import ttest_ind_from_stats

    own = [one.value for one in ours.values]
    if not stdev(own) and not theirs.spread:
        return math.isclose(mean(own), theirs.value)
    test = ttest_ind_from_stats(
        mean(own), stdev(own), len(own), theirs.value, theirs.spread, runs, equal_var=False
    )
    return bool(test.pvalue >= 1 - LEVEL)


# as a table ----------------------------------------------------------------------------------------------------------


HEADS = (
    Head("published", "", "published:value", "%", "none", "as printed in the source", published=True),
    Head("ours", "", "published:ours", "%", "none", "the cell of the table above"),
    Head("difference", "", "published:difference", "", "none", "ours minus published, in percentage points"),
    Head("verdict", "", "published:verdict", "", "none", RULE),
)


def published_tables(spec: Spec, tables: Sequence[Table]) -> list[Table]:
    """The published values beside each table, in parts that fit a page; [] where a spec names none for these data."""
    parts = [(table, chunk) for table in tables for chunk in _chunks(compared(spec, table))]
    return [
        _part(spec, table, chunk, index if len(parts) > 1 else 0)
        for index, (table, chunk) in enumerate(parts, 1)
    ]


def _chunks(found: Sequence[Compared]) -> Iterator[list[Compared]]:
    """Whole columns together, as many as fit a page."""
    chunk: list[Compared] = []
    for _, members in groupby(found, key=lambda one: one.column):
        column = list(members)
        if chunk and len(chunk) + len(column) > LINES:
            yield chunk
            chunk = []
        chunk += column
    if chunk:
        yield chunk


def _part(spec: Spec, table: Table, found: Sequence[Compared], part: int) -> Table:
    sources = [
        f"{one.value.paper.title}, {one.value.paper.venue}, {one.value.table.where}; read in {one.value.source}."
        for one in found
    ]
    verdicts = any(one.verdict in ("inside", "outside") for one in found)
    return with_marks(
        Table(
            name=f"{spec.name}-published",
            sweep=table.sweep,
            title=f"Published beside reproduced: {spec.title}",
            caption="Each value as the paper prints it, ours beside it, and whether the two agree.",
            question=spec.question,
            label=f"{spec.label}-published",
            protocol=table.protocol,
            row_title=spec.rows.title,
            rows=tuple(_row(one) for one in found),
            columns=HEADS,
            cells=tuple(tuple(_cells(one)) for one in found),
            footnotes=(),
            notes=(*([RULE] if verdicts else ()), *dict.fromkeys(sources)),
            part=part,
        )
    )


def _row(one: Compared) -> Row:
    return Row(
        key=f"{one.row.key}: {one.column}",
        title=f"{one.row.title}: {one.column}",
        label=one.row.label,
        group=one.column,
        short=one.row.title,
    )


def _cells(one: Compared) -> Iterator[Cell]:
    yield Cell(text=one.value.text, mean=one.value.number.value, kind="published", source=one.value.source)
    yield replace(one.ours or Cell(), rank=0)
    difference = one.difference
    yield Cell() if difference is None else Cell(text=f"{difference:+.1f}", mean=difference)
    yield Cell(text=one.verdict, remarks=(f"{'; '.join(one.reasons)}.",) if one.reasons else ())
