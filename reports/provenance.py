"""What stands behind one cell: runs, seeds, checkpoints, formula, protocol, values, interval, published value."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ham_core.errors import RequestError
from reports import published as library
from reports.builder import materials
from reports.collect import Material
from reports.selection import rule_of
from reports.spec import Column, Spec, chosen, load_specs
from reports.tables import Row, Table, tables_of


def explain(
    *, uri: str, store: str | Path, table: str, row: str, column: str, sweep: str | None = None
) -> dict[str, Any]:
    """The cell of `table` at `row` and `column`, in the newest sweep that plans the table (or the one named).

    Rows and columns are found by title, label or metric name, in any case; a beginning is enough where it is unambiguous.
    """
    (spec,) = chosen((table,), load_specs())
    if not spec.columns:
        tables = ", ".join(name for name, other in load_specs().items() if other.columns)
        raise RequestError(f"'{table}' is a figure; tables: {tables}")
    return explain_cell(_source(spec, materials(uri, sweep)), spec, row, column, Path(store))


def _source(spec: Spec, sources: Sequence[Material]) -> Material:
    for source in sources:
        if spec.trials.grid in source.grids:
            return source
    raise RequestError(
        f"no recorded sweep plans grid '{spec.trials.grid}', which table '{spec.name}' needs; recorded: "
        f"{', '.join(source.sweep for source in sources)}"
    )


def explain_cell(source: Material, spec: Spec, row: str, column: str, store: Path) -> dict[str, Any]:
    """`explain` on material that is already read."""
    tables = tables_of(spec, source)
    problems: list[str] = []
    heads = [(head.full, head.title, *head.metric.split(" + ")) for head in tables[0].columns]
    try:
        c = match(column, heads, f"column of table '{spec.name}'")
    except RequestError as error:
        problems += error.problems
    rows = list(dict.fromkeys(_names(found) for table in tables for found in table.rows))
    try:
        names = rows[match(row, rows, f"row of table '{spec.name}'")]
    except RequestError as error:
        problems += error.problems
    if problems:
        raise RequestError(problems)
    places = [(table, r) for table in tables for r, found in enumerate(table.rows) if _names(found) == names]
    place, r = next(((table, r) for table, r in places if table.cells[r][c].text), places[0])
    return _answer(spec, place, r, c, store)


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
    column = spec.columns[c] if c < len(spec.columns) else None
    weights = column.weights if column is not None else None
    return {
        "table": table.name,
        "sweep": table.sweep,
        "row": row.title,
        "column": head.full,
        "metric": head.metric,
        "text": cell.text,
        "unit": head.unit,
        "mean": cell.mean,
        "interval": None
        if cell.low is None
        else {
            "low": cell.low,
            "high": cell.high,
            "kind": {"t": "student-t", "wilson": "wilson"}[cell.kind],
            "level": 0.95,
        },
        "n": cell.n,
        "expected": cell.expected,
        "waits_for": cell.waits,
        "formula": head.formula,
        "protocol": table.protocol,
        "selection": rule_of(weights),
        "runs": [
            {
                "run_id": value.run_id,
                "experiment_id": value.experiment_id,
                "fingerprint": value.fingerprint,
                "seed": value.seed,
                "value": value.value,
                "checkpoint": None
                if weights is None
                else str(store / "trials" / value.fingerprint / "weights" / f"{weights}.pt"),
            }
            for value in cell.values
        ],
        "seeds": [value.seed for value in cell.values],
        "values": [value.value for value in cell.values],
        "published": _published(spec, table, row, column, head.metric),
        "footnotes": [text for mark, text in table.footnotes if mark in cell.marks],
    }


def _published(
    spec: Spec, table: Table, row: Row, column: Column | None, metric: str
) -> list[dict[str, Any]]:
    """Published values of the row: the one that measures the same thing where the spec names it, else all, marked as such."""
    answers = []
    shown = {head.group for head in table.columns if head.published}
    for reference in (reference for reference in spec.published if reference.title in shown):
        method = reference.rows.get(row.key) or reference.rows.get(row.label)
        beside = [part for part in reference.columns if column is not None and part.beside in column.metric]
        paper = library.paper(reference.paper)
        for part in beside or (reference.columns if not any(p.beside for p in reference.columns) else ()):
            for value in paper.values():
                if (
                    value.table.id == reference.table
                    and value.row.method == method
                    and (value.column.attack, value.column.stat) == (part.attack, part.stat)
                    and part.checkpoint in (None, value.column.checkpoint)
                    and part.printed in (None, value.column.printed)
                ):
                    answers.append(
                        {
                            "value": value.text,
                            "column": part.title,
                            "method": value.row.method,
                            "quantity": value.table.quantity,
                            "dataset": value.table.dataset,
                            "checkpoint": value.checkpoint,
                            "paper": paper.short,
                            "where": value.table.where,
                            "source": value.source,
                            "comparable": False,
                            "reason": " ".join(reference.reason.split()),
                        }
                    )
    return answers
