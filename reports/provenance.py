"""What stands behind one cell: runs, seeds, checkpoints, formula, protocol, values, interval, published value."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ham_core.errors import RequestError
from reports.builder import materials, restricted
from reports.collect import Material
from reports.comparison import compared
from reports.selection import rule_of
from reports.spec import Spec, canonical, chosen, load_specs
from reports.tables import FILE_NOTE, Head, Row, Table, formula_of, tables_of


def explain(
    *,
    uri: str,
    store: str | Path,
    table: str,
    row: str,
    column: str,
    sweep: str | None = None,
    protocols: Sequence[str] = (),
) -> dict[str, Any]:
    """The cell of `table` at `row` and `column`, in the newest sweep that plans the table (or the one named).

    Of a sweep that is judged under several protocols: under the first of `protocols`, else of the sweep's.

    Rows and columns are found by title, label or metric name, in any case; a beginning is enough where it is unambiguous.
    """
    (spec,) = chosen((table,), load_specs())
    if not spec.is_table:
        tables = ", ".join(name for name, other in load_specs().items() if other.is_table)
        raise RequestError(f"'{table}' is a figure; tables: {tables}")
    sources = restricted(materials(uri, sweep), protocols)
    return explain_cell(_source(spec, sources), spec, row, column, Path(store))


def _source(spec: Spec, sources: Sequence[Material]) -> Material:
    for source in sources:
        if source.plans(spec.trials.grid, spec.baselines):
            return source
    raise RequestError(
        f"no recorded sweep plans {spec.needed}, which table '{spec.name}' needs; recorded: "
        f"{', '.join(source.sweep for source in sources)}"
    )


def explain_cell(source: Material, spec: Spec, row: str, column: str, store: Path) -> dict[str, Any]:
    """`explain` on material that is already read."""
    place, r, c = place_of(tables_of(spec, source), spec.name, row, column)
    return _answer(spec, place, r, c, store)


def place_of(tables: Sequence[Table], name: str, row: str, column: str) -> tuple[Table, int, int]:
    """Where a cell stands: its table (the first of those of several protocols that has a number there), row and column."""
    problems: list[str] = []
    heads = [
        (head.full, head.title, *_metrics(index, tables)) for index, head in enumerate(tables[0].columns)
    ]
    column = canonical(column)
    try:
        c = match(column, heads, f"column of table '{name}'")
    except RequestError as error:
        problems += error.problems
    rows = list(dict.fromkeys(_names(found) for table in tables for found in table.rows))
    try:
        names = rows[match(row, rows, f"row of table '{name}'")]
    except RequestError as error:
        problems += error.problems
    if problems:
        raise RequestError(problems)
    places = [(table, r) for table in tables for r, found in enumerate(table.rows) if _names(found) == names]
    places = [(table, r) for table, r in places if table.columns[c].metric == column] or places
    place, r = next(((table, r) for table, r in places if table.cells[r][c].text), places[0])
    return place, r, c


def _metrics(index: int, tables: Sequence[Table]) -> list[str]:
    """The names of a column's metrics, which differ where tables are judged under different protocols."""
    columns = [table.columns[index] for table in tables if index < len(table.columns)]
    return list(dict.fromkeys(name for head in columns for name in head.metric.split(" + ")))


def _names(row: Row) -> tuple[str, ...]:
    return (row.title, row.key) if row.key == row.label else (row.title, row.key, f"{row.label} {row.key}")


def match(asked: str, options: Sequence[Sequence[str]], what: str) -> int:
    """Index of the option one of whose names is `asked`, else of the only one that begins with it or holds it."""
    wanted = asked.strip().casefold()
    folded = [[name.casefold() for name in names] for names in options]
    tests = (
        [wanted in names for names in folded],
        [any(name.startswith(wanted) for name in names) for names in folded],
        [any(wanted in name for name in names) for names in folded],
    )
    for hits in tests if wanted else ():
        found = [index for index, hit in enumerate(hits) if hit]
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(f"'{options[index][0]}'" for index in found)
            raise RequestError(f"'{asked}' fits more than one {what}: {several}; write one of them in full")
    titles = [names[0] for names in options]
    close = difflib.get_close_matches(wanted, [title.casefold() for title in titles], n=1, cutoff=0.4)
    hint = next(
        (f" (did you mean '{title}'?)" for title in titles if close and title.casefold() == close[0]), ""
    )
    raise RequestError(f"unknown {what}: '{asked}'; known: {', '.join(titles)}{hint}")


def _answer(spec: Spec, table: Table, r: int, c: int, store: Path) -> dict[str, Any]:
    cell, head, row = table.cells[r][c], table.columns[c], table.rows[r]
    column = (spec.columns[c] if spec.columns else spec.shown[0]).model_copy(
        update={"metric": tuple(head.metric.split(" + "))}  # under a protocol not what the spec says
    )
    column = column.of_average(row.average)
    weights = column.weights
    file = next((value.file for value in cell.values if value.file), "")
    judged = {"judged_under": table.judge.name} if table.judge is not None else {}
    return {
        "table": table.name,
        "sweep": table.sweep,
        "row": row.title,
        "column": head.full,
        "metric": " + ".join(column.metric),
        "text": cell.text,
        "unit": head.unit,
        "mean": cell.mean,
        "interval": None
        if cell.low is None
        else {
            "low": cell.low,
            "high": cell.high,
            "kind": {"t": "student-t"}.get(cell.kind, cell.kind),
            "level": 0.95,
        },
        "n": cell.n,
        "expected": cell.expected,
        "waits_for": cell.waits,
        "formula": head.formula if row.average is None else column.formula or formula_of(column),
        "protocol": table.protocol,
        **judged,
        "selection": FILE_NOTE.format(file=file) if file else rule_of(weights),
        "runs": [
            {
                "run_id": value.run_id,
                "experiment_id": value.experiment_id,
                "fingerprint": value.fingerprint,
                "seed": None if value.file else value.seed,
                "value": value.value,
                "checkpoint": value.file
                if value.file
                else None
                if weights is None
                else str(store / "trials" / value.fingerprint / "weights" / f"{weights}.pt"),
            }
            for value in cell.values
        ],
        "seeds": [value.seed for value in cell.values if not value.file],
        "values": [value.value for value in cell.values],
        "published": _published(spec, table, row, head),
        "footnotes": [*table.deviations, *cell.remarks, *row.remarks],
    }


def _published(spec: Spec, table: Table, row: Row, head: Head) -> list[dict[str, Any]]:
    """Published values of the cell, each with our difference and the verdict; where no column matches, all of the row."""
    mine = [one for one in compared(spec, table) if one.row is row]
    beside = [one for one in mine if one.beside == head.metric]
    return [
        {
            "value": one.value.text,
            "column": one.column,
            "method": one.value.row.method,
            "quantity": one.value.table.quantity,
            "dataset": one.value.table.dataset,
            "checkpoint": one.value.checkpoint,
            "paper": one.value.paper.short,
            "where": one.value.table.where,
            "source": one.value.source,
            "difference": one.difference,
            "verdict": one.verdict,
            "comparable": one.verdict in ("inside", "outside"),
            "reason": "; ".join(one.reasons),
        }
        for one in beside or [one for one in mine if one.beside is None]
    ]
