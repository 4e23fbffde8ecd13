"""Read the runs, build every table and figure there is material for, write them below one folder.

    OUT/<sweep>/<table>.{md,tex,csv}    OUT/<sweep>/<table>-published.{md,tex,csv}: their values beside ours
    OUT/<sweep>/figures/<figure>.{svg,png,pdf}    OUT/<sweep>/trials.csv
    OUT/index.html   tables, figures and provenance, self-contained
    OUT/cost.html    the tables of seconds, which are kept out of every file whose name has no `cost`

Equal numbers give equal bytes: nothing holds a date, and drawings have fixed salts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ham_core.errors import RequestError, known
from orchestration.tracking import MODELS
from reports.collect import Material, material, recorded_series, tidy_csv, under
from reports.comparison import compared, published_tables
from reports.figures import Drawing, Lacking, drawn
from reports.render import csv, html, latex, markdown
from reports.spec import Spec, chosen, load_specs
from reports.tables import Table, tables_of

if TYPE_CHECKING:
    from orchestration.tracking import Sweep

MAIN = "ham-main"
RENDERERS = {"md": markdown.render, "tex": latex.render, "csv": csv.render}
FORMATS = (*RENDERERS, "html")
DRAWN = {"md": "png", "tex": "pdf", "html": "svg"}  # a figure's file follows the format it is wanted for
TITLE = "Robust fairness: tables and figures"
LEDE = (
    "What each training method does to the worst class. Every number is a mean over seeds, computed from stored per-image "
    "predictions; choose a number to see the runs, seeds and formula behind it."
)
FOOTER = "Best value of a column in bold, second best underlined. Built from recorded runs; the same runs give the same bytes."


@dataclass
class Built:
    """What a build wrote."""

    files: list[Path] = field(default_factory=list)
    html: Path | None = None
    main: list[Table] = field(default_factory=list)  # the main table, which is printed
    waiting: list[str] = field(default_factory=list)  # one sentence per thing that lacks runs

    @property
    def shown(self) -> str:
        """The main table as Markdown."""
        return markdown.render(self.main)


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
    """Write tables and figures from the runs at `uri` to `out`.

    Without `names`: everything that has material, for every recorded sweep (or the one named); what lacks runs is marked
    and listed in `.waiting`. With `names`: those tables and figures, of the newest sweep that plans their grids (or the one
    named); a missing cell is a RequestError that names the missing trials, unless `partial`. With `protocols`: only tables
    under these, and figures where the sweep's own is one of them. `mlflow`: address of the MLflow UI to which the page links
    its runs.
    """
    wrong = [f"unknown format '{name}'; {known(name, FORMATS)}" for name in formats if name not in FORMATS]
    specs = load_specs()
    try:
        wanted = chosen(tuple(names), specs)
    except RequestError as error:
        raise RequestError([*wrong, *error.problems]) from None
    if wrong:
        raise RequestError(wrong)
    named = bool(names)
    return write(
        restricted(materials(uri, sweep, store), protocols),
        wanted,
        Path(out),
        formats=formats,
        strict=named and not partial,
        named=named,
        mlflow=mlflow,
    )


def restricted(sources: Sequence[Material], protocols: Sequence[str]) -> list[Material]:
    """The material of these protocols alone, all of it where none is named. RequestError: one of them judges no sweep."""
    if not protocols:
        return list(sources)
    known_of = {
        source.sweep: tuple(one.name for one in source.judged) or (source.protocol,) for source in sources
    }
    everything = [name for names in known_of.values() for name in names]
    problems = [
        f"--protocol: no sweep is judged under '{name}'; {known(name, everything)}; to judge one: "
        f"ham evaluate --sweep {next(iter(known_of))} --protocol {name}"
        for name in protocols
        if name not in everything
    ]
    if problems:
        raise RequestError(problems)
    found = [under(source, protocols) for source in sources]
    return [source for source in found if source is not None]


def materials(uri: str, sweep: str | None = None, store: str | Path | None = None) -> list[Material]:
    """One Material per recorded sweep, newest first; with predictions where the trial store is known."""
    from orchestration import tracking

    found: dict[str, Sweep] = {}
    for recorded in tracking.read_sweeps(uri):
        found.setdefault(recorded.name, recorded)
    if not found:
        raise RequestError(
            f"no sweep is recorded at {uri}; run one first, for example: ham sweep sweeps/digits.yaml"
        )
    if sweep is not None and sweep not in found:
        raise RequestError(f"no sweep '{sweep}' is recorded; {known(sweep, found)}")
    wanted = [name for name in found if sweep in (None, name)]
    runs = tracking.read_runs(uri, wanted)
    series = recorded_series(uri, [run for members in runs.values() for run in members.trials])
    return [material(found[name], runs[name], series, store) for name in wanted]


def write(
    sources: Sequence[Material],
    specs: Sequence[Spec],
    out: Path,
    *,
    formats: Sequence[str] = FORMATS,
    strict: bool = False,
    named: bool = False,
    mlflow: str | None = None,
) -> Built:
    """`build` on material that is already read. `named`: each spec comes from the first source that plans its grid."""
    built = Built()
    plan: dict[str, list[Spec]] = {source.sweep: [] for source in sources}
    problems: list[str] = []
    for spec in specs:
        able = [source for source in sources if spec.trials.grid in source.grids]
        if not spec.needs_runs:  # computed, so once is enough
            able = list(sources[:1])
        for source in able[:1] if named else able:
            plan[source.sweep].append(spec)
        if not able and (named or spec.trials.grid != MODELS):
            (problems if named else built.waiting).append(_without_grid(spec, sources))

    sections: list[html.Section] = []
    results: list[tuple[Material, Spec, list[Table]]] = []
    for source in sources:
        for spec in plan[source.sweep]:
            tables = tables_of(spec, source) if spec.is_table else []
            results.append((source, spec, tables))
            for table in tables:
                sentences = [f"{source.sweep}/{spec.name}: {sentence}" for sentence in table.waiting]
                built.waiting += sentences
                built.waiting += [f"{source.sweep}/{spec.name}: {sentence}" for sentence in table.refused]
                if strict and sentences:
                    problems.append(
                        f"{source.sweep}/{spec.name}: {len(table.missing)} missing: {', '.join(table.missing)}; "
                        "train them with ham sweep, or write what exists with --partial"
                    )
    if problems:
        raise RequestError(problems)

    drawn_formats = [DRAWN[name] for name in formats if name in DRAWN]
    for source in sources:
        section = html.Section(source.sweep, _summary(source))
        folder = out / source.sweep
        for spec, tables in ((spec, tables) for of, spec, tables in results if of is source):
            links: list[tuple[str, str]] = []
            for form in (name for name in formats if name in RENDERERS and tables):
                path = folder / f"{spec.name}.{form}"
                _save(path, RENDERERS[form](tables).encode(), built)
                links.append((path.name, f"{source.sweep}/{path.name}"))
            beside = published_tables(spec, tables)
            for form in (name for name in formats if name in RENDERERS and beside):
                path = folder / f"{spec.name}-published.{form}"
                _save(path, RENDERERS[form](beside).encode(), built)
                links.append((path.name, f"{source.sweep}/{path.name}"))
            draws = spec.figure is not None and bool(drawn_formats) and source.drawn
            drawing, lacks = _drawn(spec, source, drawn_formats) if draws else (None, "")
            if draws:
                for form in drawn_formats:
                    path = folder / "figures" / f"{spec.name}.{form}"
                    if drawing is None:
                        path.unlink(missing_ok=True)  # an old drawing would show runs that are gone
                    else:
                        _save(path, drawing.files[form], built)
                        links.append((path.name, f"{source.sweep}/figures/{path.name}"))
                if drawing is None:
                    sentence = f"{source.sweep}/figures/{spec.name}: {lacks}"
                    built.waiting.append(sentence)
                    if strict:
                        raise RequestError(sentence)
            drawings = [drawing] if drawing is not None else []
            if tables or drawings:
                section.items.append(
                    html.Item(
                        spec.name,
                        spec.title,
                        spec.question,
                        [*tables, *beside],
                        drawings,
                        links,
                        [one for table in tables for one in compared(spec, table)],
                    )
                )
        if "csv" in formats and not named:
            _save(folder / "trials.csv", tidy_csv(source.trials).encode(), built)
        sections.append(section)

    if "html" in formats:
        seconds = {spec.name for spec in specs if spec.machine}
        built.html = _page(
            sections, lambda item: item.name not in seconds, out / "index.html", built, TITLE, LEDE, mlflow
        )
        if any(item.name in seconds for section in sections for item in section.items):
            _page(
                sections,
                lambda item: item.name in seconds,
                out / "cost.html",
                built,
                "Training cost in seconds",
                "Seconds belong to one machine and what else ran on it, so they are kept apart from what can be compared.",
                mlflow,
            )
    built.main = _main(results)
    return built


def _without_grid(spec: Spec, sources: Sequence[Material]) -> str:
    """What a spec whose grid nobody has trained waits for, and what to type."""
    if spec.trials.grid == MODELS:
        return (
            f"'{spec.name}' has no rows: no model of other people is recorded; judge one with "
            "ham evaluate --checkpoint FILE --model NAME --data NAME"
        )
    recorded = ", ".join(source.sweep for source in sources if source.sweep != MODELS) or "none"
    target = f"{'table' if spec.is_table else 'figure'}:{spec.name}"
    how = f"; train it with: ham sweep {target}" if spec.trials.sweep is not None else ""
    return f"'{spec.name}' waits for grid '{spec.trials.grid}', which no recorded sweep plans (recorded: {recorded}){how}"


def _drawn(spec: Spec, source: Material, formats: Sequence[str]) -> tuple[Drawing | None, str]:
    """The figure, or what it waits for."""
    try:
        return drawn(spec, source, formats), ""
    except Lacking as reason:
        return None, str(reason)


def _page(
    sections: Sequence[html.Section],
    wanted: Callable[[html.Item], bool],
    path: Path,
    built: Built,
    title: str,
    lede: str,
    mlflow: str | None,
) -> Path:
    kept = [
        html.Section(section.sweep, section.summary, [item for item in section.items if wanted(item)])
        for section in sections
    ]
    kept = [section for section in kept if section.items]
    waiting = built.waiting if path.name == "index.html" else ()
    page = html.render(kept, title=title, lede=lede, footer=FOOTER, waiting=waiting, mlflow=mlflow)
    _save(path, page.encode(), built)
    return path


def _summary(source: Material) -> str:
    if source.sweep == MODELS:
        count = len(source.labels)
        return f"{count} model{'' if count == 1 else 's'} of other people, judged here."
    finished = sum(trial.finished for trial in source.trials)
    seeds = len({trial.seed for trial in source.trials})
    return (
        f"{finished} of {len(source.trials)} planned trials finished; {len(source.labels)} methods, "
        f"{seeds} seed{'' if seeds == 1 else 's'}; grids: {', '.join(source.grids)}."
    )


def _main(results: Sequence[tuple[Material, Spec, list[Table]]]) -> list[Table]:
    """The main table of the newest sweep that has it, else the first table."""
    ordered = sorted((result for result in results if result[2]), key=lambda result: result[1].name != MAIN)
    filled = [tables for _, _, tables in ordered if not all(table.empty for table in tables)]
    choice = filled or [tables for _, _, tables in ordered]
    return choice[0] if choice else []


def _save(path: Path, content: bytes, built: Built) -> None:
    """Write by rename, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(content)
    beside.replace(path)
    built.files.append(path)
