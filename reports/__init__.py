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
    outputs.py     which of its files are made again
    manifest.py    what each file was made of, and why it would be made again
    provenance.py  what stands behind one cell
    changes.py     what differs between two reports
    document.py    a text of one's own, whose numbers and pictures come from here

Importing this package is light: pandas, scipy and matplotlib load when a report is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reports.builder import Built
    from reports.changes import Changes, Report

FORMATS = ("md", "tex", "csv", "html")


@dataclass(frozen=True)
class Request:
    """What a report is asked for.

    Without `names`: everything that has material, for every recorded sweep (or the one named). With `names`: those tables and
    figures, of the newest sweep that plans their grids (or the one named). With `protocols`: only tables under these, and
    figures where the sweep's own is one of them. `mlflow`: address of the MLflow UI to which the page links its runs. Without
    `figures`: tables only, which takes a fraction of the time; figures that are there stay.
    """

    uri: str
    out: str | Path
    names: Sequence[str] = ()
    formats: Sequence[str] = FORMATS
    sweep: str | None = None
    protocols: Sequence[str] = ()
    store: str | Path | None = None
    mlflow: str | None = None
    figures: bool = True

    @property
    def whole(self) -> bool:
        """Whether this is all that there is to report."""
        return self.figures and not self.names and self.sweep is None and not self.protocols


def build(request: Request, *, partial: bool = False) -> Built:
    """Write tables and figures; see `reports.builder.build`."""
    from reports.builder import build as build_reports

    return build_reports(request, partial=partial)


def why(request: Request) -> dict[str, list[str]]:
    """{table, figure or page: why `build` would make it again}; see `reports.builder.why`."""
    from reports.builder import why as why_build

    return why_build(request)


def write_document(template: Path, request: Request) -> list[Path]:
    """The text of a template, and its pictures; see `reports.document.write_document`."""
    from reports.document import write_document as write_text

    return write_text(template, request)


def tables_in(folder: str | Path) -> Report:
    """The tables of an earlier report."""
    from reports.changes import read

    return read(Path(folder))


def compare(before: Report, built: Built, against: str | Path, out: str | Path) -> list[Changes]:
    """What differs between an earlier report and the tables that were built just now; also written to OUT/changes.md."""
    from reports.changes import NAME, between, markdown, read
    from reports.manifest import write

    names = [f"{path.parent.name}/{path.stem}" for path in built.files if path.suffix == ".csv"]
    now = read(Path(out), names)
    found = between({name: cells for name, cells in before.items() if built.whole or name in now}, now)
    write(Path(out) / NAME, markdown(found, Path(against)).encode())
    return found


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
