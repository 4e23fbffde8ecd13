"""Read the runs, build every table and figure there is material for, write them below one folder.

    OUT/<sweep>/<table>.{md,tex,csv}    OUT/<sweep>/<table>-published.{md,tex,csv}: their values beside ours
    OUT/<sweep>/figures/<figure>.{svg,png,pdf}    OUT/<sweep>/trials.csv
    OUT/index.html   tables, figures and provenance, self-contained
    OUT/cost.html    the tables of seconds, which are kept out of every file whose name has no `cost`
    OUT/manifest.json   what each of these was made of; what is up to date is not made again

Equal numbers give equal bytes: nothing holds a date, and drawings have fixed salts. Which way a folder came to hold them, by
one build or by many, makes no difference.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ham_core.config import digest_of
from ham_core.errors import RequestError, known
from orchestration.tracking import MODELS
from reports import FORMATS, Request
from reports.collect import Material, material, recorded_series, tidy_csv, under
from reports.comparison import compared, published_tables
from reports.figures import Drawing, Lacking, drawn
from reports.manifest import Ask, Inputs, Manifest, Watched, alone, inputs_of, program
from reports.outputs import Made, Outputs, Target
from reports.render import csv, html, latex, markdown
from reports.spec import Spec, chosen, load_specs
from reports.tables import Table, tables_of

if TYPE_CHECKING:
    from orchestration.tracking import Sweep

MAIN = "ham-main"
RENDERERS = {"md": markdown.render, "tex": latex.render, "csv": csv.render}
PAGE_CELLS = (
    6000  # numbers that a page holds at most: a browser shows them at once, and tables of more are not read
)
DRAWN = {"md": "png", "tex": "pdf", "html": "svg"}  # a figure's file follows the format it is wanted for
TITLE = "Robust fairness: tables and figures"
LEDE = (
    "What each training method does to the worst class. Every number is a mean over seeds, computed from stored per-image "
    "predictions; choose a number to see the runs, seeds and formula behind it."
)
COST_TITLE = "Training cost in seconds"
COST_LEDE = (
    "Seconds belong to one machine and what else ran on it, so they are kept apart from what can be compared."
)
FOOTER = "Best value of a column in bold, second best underlined. Built from recorded runs; the same runs give the same bytes."


@dataclass
class Built:
    """What a build wrote."""

    files: list[Path] = field(default_factory=list)  # all that were asked for
    written: list[Path] = field(default_factory=list)  # those that were not what they are now
    up_to_date: bool = False  # nothing had to be made
    whole: bool = False  # this is all that there is to report
    html: Path | None = None
    main: list[Table] = field(default_factory=list)  # the main table, which is printed
    waiting: list[str] = field(default_factory=list)  # one sentence per thing that lacks runs

    @property
    def shown(self) -> str:
        """The main table as Markdown."""
        return markdown.render(self.main)


def build(request: Request, *, partial: bool = False) -> Built:
    """Write the tables and figures that are asked for, from the runs at `request.uri` to `request.out`, as far as they are not
    up to date there. Without names what lacks runs is marked and listed in `.waiting`; with names a missing cell is a
    RequestError that names the missing trials, unless `partial`."""
    wanted, sources = _asked_for(request)
    return write(
        sources,
        wanted,
        Path(request.out),
        formats=request.formats,
        strict=bool(request.names) and not partial,
        named=bool(request.names),
        mlflow=request.mlflow,
        whole=request.whole,
        figures=request.figures,
    )


def why(request: Request) -> dict[str, list[str]]:
    """{table, figure or page: why `build` would make it again, a sentence each; [] where it would not}. Writes nothing."""
    wanted, sources = _asked_for(request)
    return reasons(
        sources,
        wanted,
        Path(request.out),
        formats=request.formats,
        named=bool(request.names),
        mlflow=request.mlflow,
        whole=request.whole,
        figures=request.figures,
    )


def _asked_for(request: Request) -> tuple[list[Spec], list[Material]]:
    formats, figures = request.formats, request.figures
    wrong = [f"unknown format '{name}'; {known(name, FORMATS)}" for name in formats if name not in FORMATS]
    if not figures and "html" in formats:
        wrong.append("the page shows figures, so it is not made of tables alone; leave out html")
    specs = load_specs()
    try:
        wanted = chosen(tuple(request.names), specs)
    except RequestError as error:
        raise RequestError([*wrong, *error.problems]) from None
    if not figures:
        wrong += [
            f"'{spec.name}' is a figure, and tables alone were asked for; leave out --tables"
            for spec in wanted
            if request.names and not spec.is_table
        ]
        wanted = [spec for spec in wanted if spec.is_table]
    if wrong:
        raise RequestError(wrong)
    return wanted, restricted(materials(request.uri, request.sweep, request.store), request.protocols)


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
    with _uncollected():
        runs = tracking.read_runs(uri, wanted)
    series = recorded_series(uri, [run for members in runs.values() for run in members.trials])
    return [material(found[name], runs[name], series, store) for name in wanted]


@contextmanager
def _uncollected() -> Iterator[None]:
    """What is read here is millions of small objects that stay, none of them garbage: nothing for the collector to look at
    again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


@dataclass
class Part:
    """One spec and one sweep. What it takes to make its tables is done when they are first asked for, and once."""

    source: Material
    spec: Spec

    @property
    def table(self) -> str:
        """The name of its tables' target."""
        return f"{self.source.sweep}/{self.spec.name}"

    @property
    def figure(self) -> str:
        """The name of its figure's target."""
        return f"{self.source.sweep}/figures/{self.spec.name}"

    @property
    def draws(self) -> bool:
        """Whether it is a figure, or has one."""
        return self.spec.figure is not None and self.source.drawn

    @cached_property
    def _made(self) -> tuple[list[Table], set[Ask]]:
        watched = Watched(self.source)
        return (tables_of(self.spec, watched.material) if self.spec.is_table else []), watched.asked

    @property
    def tables(self) -> list[Table]:
        """A table per protocol; [] of a figure."""
        return self._made[0]

    @property
    def asked(self) -> set[Ask]:
        """What its tables read besides runs."""
        return self._made[1]

    @cached_property
    def beside(self) -> list[Table]:
        """The published values beside its tables."""
        return published_tables(self.spec, self.tables)


def write(
    sources: Sequence[Material],
    specs: Sequence[Spec],
    out: Path,
    *,
    formats: Sequence[str] = FORMATS,
    strict: bool = False,
    named: bool = False,
    mlflow: str | None = None,
    whole: bool = False,
    figures: bool = True,
) -> Built:
    """`build` on material that is already read. `named`: each spec comes from the first source that plans its grid.
    `whole`: this is all there is, so files of tables that nothing makes any more are deleted."""
    plan, without = _planned(sources, specs, named=named)
    problems = without if named else []
    if strict:
        problems = [*problems, *(sentence for part in plan for sentence in _incomplete(part))]
    if problems:
        raise RequestError(problems)
    with alone(out):
        outputs = Outputs(Manifest(out))
        page = _bring(
            outputs, plan, sources, formats, mlflow, named=named, unplanned=without, figures=figures
        )
        undrawn = [sentence for sentence in outputs.waiting if "/figures/" in sentence.partition(":")[0]]
        if strict and undrawn:
            raise RequestError(undrawn)
        if whole:
            outputs.forget_others()
        outputs.manifest.save()
    return Built(
        files=outputs.files,
        written=outputs.written,
        up_to_date=outputs.up_to_date,
        whole=whole,
        html=page,
        main=_main(plan),
        waiting=[*without, *outputs.waiting],
    )


def reasons(
    sources: Sequence[Material],
    specs: Sequence[Spec],
    out: Path,
    *,
    formats: Sequence[str] = FORMATS,
    named: bool = False,
    mlflow: str | None = None,
    whole: bool = False,
    figures: bool = True,
) -> dict[str, list[str]]:
    """`why` on material that is already read."""
    plan, without = _planned(sources, specs, named=named)
    outputs = Outputs(Manifest(out), only_ask=True)
    _bring(outputs, plan, sources, formats, mlflow, named=named, unplanned=without, figures=figures)
    if whole:
        outputs.forget_others()
    return outputs.reasons


def _planned(
    sources: Sequence[Material], specs: Sequence[Spec], *, named: bool
) -> tuple[list[Part], list[str]]:
    """What is to be made, sweep by sweep; and a sentence per spec that no sweep can feed."""
    parts: dict[str, list[Part]] = {source.sweep: [] for source in sources}
    without: list[str] = []
    for spec in specs:
        able = [source for source in sources if source.plans(spec.trials.grid, spec.baselines)]
        if not spec.needs_runs:  # computed, so once is enough
            able = list(sources[:1])
        for source in able[:1] if named else able:
            parts[source.sweep].append(Part(source, spec))
        if not able and (named or spec.trials.grid != MODELS):
            without.append(_without_grid(spec, sources))
    return [part for own in parts.values() for part in own], without


def _incomplete(part: Part) -> list[str]:
    """What a table lacks that was asked for by name."""
    return [
        f"{part.table}: {len(table.missing)} missing: {', '.join(table.missing)}; train them with ham sweep, or write what "
        "exists with --partial"
        for table in part.tables
        if table.waiting
    ]


def _bring(
    outputs: Outputs,
    plan: Sequence[Part],
    sources: Sequence[Material],
    formats: Sequence[str],
    mlflow: str | None,
    *,
    named: bool,
    unplanned: Sequence[str],
    figures: bool,
) -> Path | None:
    """Bring tables, figures, lists of trials and pages up to date -> the page, where one was asked for."""
    drawn = tuple(DRAWN[name] for name in formats if name in DRAWN and figures)
    with _uncollected():
        for part in (part for part in plan if part.spec.is_table):
            outputs.bring(_table_target(part, tuple(formats)))
        for source in sources if "csv" in formats and not named else ():
            outputs.bring(_trials_target(source))
    for part in (part for part in plan if part.draws and drawn):
        outputs.bring(_figure_target(part, drawn))
    if "html" not in formats:
        return None
    plain = [part for part in plan if not part.spec.machine]
    seconds = [part for part in plan if part.spec.machine]
    waiting = [*unplanned, *outputs.waiting]
    pages = [Page("index.html", TITLE, LEDE, plain, waiting)]
    if seconds:
        pages.append(Page("cost.html", COST_TITLE, COST_LEDE, seconds))
    for page in pages:
        outputs.bring(_page_target(outputs, page, sources, formats, mlflow))
    return outputs.out / "index.html"


def _table_target(part: Part, formats: tuple[str, ...]) -> Target:
    """The tables of a spec in the formats of text; the page has them as `html`, without a file of their own."""

    def inputs(asked: Iterable[Ask]) -> Inputs:
        return inputs_of(part.spec, part.source, part.source.of_grid(part.spec.trials.grid), asked)

    def make(forms: Sequence[str]) -> Made:
        files: dict[str, dict[str, bytes]] = {form: {} for form in forms}
        for form in (form for form in forms if form in RENDERERS):
            files[form][f"{part.table}.{form}"] = RENDERERS[form](part.tables).encode()
            if part.beside:
                files[form][f"{part.table}-published.{form}"] = RENDERERS[form](part.beside).encode()
        said = [sentence for table in part.tables for sentence in (*table.waiting, *table.refused)]
        return Made(files, tuple(f"{part.table}: {sentence}" for sentence in said), part.asked)

    return Target(part.table, formats, inputs, make)


def _figure_target(part: Part, forms: tuple[str, ...]) -> Target:
    """The figure of a spec. Beside its SVG stands what a page says of it, as JSON."""

    def inputs(asked: Iterable[Ask]) -> Inputs:
        trials = (
            part.source.trials if part.spec.needs_runs else ()
        )  # all: a method's colour follows from them
        return inputs_of(part.spec, part.source, trials, asked)

    def make(forms: Sequence[str]) -> Made:
        watched = Watched(part.source)
        try:
            drawing = drawn(part.spec, watched.material, forms)
        except Lacking as reason:
            gone = tuple(f"{part.figure}.{form}" for form in forms)  # would show runs that are gone
            return Made({form: {} for form in forms}, (f"{part.figure}: {reason}",), watched.asked, gone)
        files = {form: {f"{part.figure}.{form}": drawing.files[form]} for form in forms}
        if "svg" in files:
            files["svg"][f"{part.figure}.json"] = _facts(drawing)
        return Made(files, (), watched.asked)

    return Target(part.figure, forms, inputs, make)


def _facts(drawing: Drawing) -> bytes:
    """All of a drawing but its picture."""
    facts = {one.name: getattr(drawing, one.name) for one in fields(drawing) if one.name != "files"}
    return (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()


def _drawing(outputs: Outputs, part: Part) -> list[Drawing]:
    """The figure as it was written, for a page."""
    paths = outputs.manifest.files(part.figure, "svg")
    if not paths:
        return []
    facts = json.loads((outputs.out / f"{part.figure}.json").read_bytes())
    return [Drawing(**facts, files={"svg": (outputs.out / f"{part.figure}.svg").read_bytes()})]


def _trials_target(source: Material) -> Target:
    """Every final number of a sweep's trials."""
    name = f"{source.sweep}/trials.csv"

    def inputs(asked: Iterable[Ask]) -> Inputs:
        return inputs_of(None, source, source.trials, ())

    return Target(
        name, ("csv",), inputs, lambda forms: Made({"csv": {name: tidy_csv(source.trials).encode()}})
    )


@dataclass(frozen=True)
class Page:
    """One HTML file. `waiting`: the sentences at its end."""

    name: str
    title: str
    lede: str
    parts: Sequence[Part]
    waiting: Sequence[str] = ()


def _page_target(
    outputs: Outputs, page: Page, sources: Sequence[Material], formats: Sequence[str], mlflow: str | None
) -> Target:
    """A page is made of tables and figures, so its inputs are their inputs, and its own words."""
    sweeps = {source.sweep: _summary(source) for source in sources}

    def inputs(asked: Iterable[Ask]) -> Inputs:
        names = [name for part in page.parts for name in (part.table, part.figure)]
        items = {name: outputs.digests[name] for name in names if name in outputs.digests}
        words = [list(formats), mlflow, list(sweeps.items()), page.title, page.lede, FOOTER, *page.waiting]
        return Inputs({"page": digest_of(words), "items": items, "program": program()})

    def make(forms: Sequence[str]) -> Made:
        sections = []
        for sweep, summary in sweeps.items():
            items = [_item(outputs, part, formats) for part in page.parts if part.source.sweep == sweep]
            items = [item for item in items if item.tables or item.drawings]
            if items:
                sections.append(html.Section(sweep, summary, items))
        text = html.render(
            _fitting(sections),
            title=page.title,
            lede=page.lede,
            footer=FOOTER,
            waiting=page.waiting,
            mlflow=mlflow,
        )
        return Made({"html": {page.name: text.encode()}})

    return Target(page.name, ("html",), inputs, make)


def _item(outputs: Outputs, part: Part, formats: Sequence[str]) -> html.Item:
    """What a page shows of a spec, with links to its other files."""
    drawn = [DRAWN[name] for name in formats if name in DRAWN]
    files = [
        path
        for target, forms in ((part.table, formats), (part.figure, drawn))
        for form in forms
        for path in outputs.manifest.files(target, form)
        if not path.endswith(".json")
    ]
    files.sort(key=lambda path: ("/figures/" in path, "-published." in path))
    spec = part.spec
    drawings = _drawing(outputs, part) if part.draws else []
    links = [(Path(path).name, path) for path in files]
    return html.Item(
        spec.name,
        spec.title,
        spec.question,
        [*part.tables, *part.beside],
        drawings,
        links,
        [one for table in part.tables for one in compared(spec, table)],
    )


def _fitting(sections: Sequence[html.Section]) -> Sequence[html.Section]:
    """The sections with tables so short that a page holds no more than PAGE_CELLS numbers, all of one length at most."""
    tables = [table for section in sections for item in section.items for table in item.tables]
    longest = max((len(table.rows) for table in tables), default=0)

    def cells(rows: int) -> int:
        return sum(min(rows, len(table.rows)) * len(table.columns) for table in tables)

    rows = next((rows for rows in range(longest, 1, -1) if cells(rows) <= PAGE_CELLS), 1)
    if rows >= longest:
        return sections
    return [
        replace(
            section,
            items=[
                replace(item, tables=[_cut(table, rows) for table in item.tables]) for item in section.items
            ],
        )
        for section in sections
    ]


def _cut(table: Table, rows: int) -> Table:
    """The first rows of a table, which says so."""
    if len(table.rows) <= rows:
        return table
    note = (
        f"The first {rows} of {len(table.rows)} rows, since a page of more than {PAGE_CELLS:,} numbers is slow to open; "
        f"all of them: ham report {table.name.removesuffix('-published')} --format csv."
    )
    return replace(table, rows=table.rows[:rows], cells=table.cells[:rows], notes=(note, *table.notes))


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
    return f"'{spec.name}' waits for {spec.needed}, which no recorded sweep plans (recorded: {recorded}){how}"


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


def _main(plan: Sequence[Part]) -> list[Table]:
    """The main table of the newest sweep that has it, else the first table."""
    ordered = sorted((part for part in plan if part.spec.is_table), key=lambda part: part.spec.name != MAIN)
    filled = (part for part in ordered if not all(table.empty for table in part.tables))
    choice = next(filled, None) or next(iter(ordered), None)
    return choice.tables if choice is not None else []
