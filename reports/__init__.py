"""The reports room: from recorded runs to tables, figures and one self-contained page. It reads, it never trains.

    spec.py        what a table or a figure is made of (reports/specs/*.yaml)
    published.py   values printed in papers (reports/published/*.yaml)
    collect.py     runs -> trials with their protocol -> a tidy data frame
    statistics.py  mean and interval of a cell
    judging.py     what a table shows of trials that are judged under a protocol
    tables.py      spec + trials -> Table, the one object all formats are rendered from
    figures/       spec + trials -> drawings, one file per kind
    predictions.py per-image predictions, from the trial store
    render/        Markdown, LaTeX, CSV, HTML
    builder.py     all of it, written to a folder
    provenance.py  what stands behind one cell

Importing this package is light: pandas, scipy and matplotlib load when a report is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reports.builder import Built

FORMATS = ("md", "tex", "csv", "html")


def build(
    *,
    uri: str,
    out: str | Path,
    names: Sequence[str] = (),
    formats: Sequence[str] = FORMATS,
    sweep: str | None = None,
    partial: bool = False,
    protocols: Sequence[str] = (),
    store: str | Path | None = None,
    mlflow: str | None = None,
) -> Built:
    """Write tables and figures below `out`; see `reports.builder.build`."""
    from reports.builder import build as build_reports

    return build_reports(
        uri=uri,
        out=out,
        names=names,
        formats=formats,
        sweep=sweep,
        partial=partial,
        protocols=protocols,
        store=store,
        mlflow=mlflow,
    )


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
    """Runs, seeds, checkpoints, formula, values, interval and published value behind one cell."""
    from reports.provenance import explain as explain_cell

    return explain_cell(
        uri=uri, store=store, table=table, row=row, column=column, sweep=sweep, protocols=protocols
    )


def names() -> dict[str, str]:
    """{table or figure name: the question it answers}, in the order of the report."""
    from reports.spec import load_specs

    return {name: spec.question for name, spec in load_specs().items()}
