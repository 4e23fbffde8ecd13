"""A spec and a sweep's trials -> Table: rows, columns and cells that every format renders.

A cell is a statistic over the trials that share everything but the seed. Trials of different protocols never share a
column: they go to separate tables. A cell that lacks seeds is marked with its n; a cell without any is empty and says what
it waits for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ham_core.errors import RequestError, known
from orchestration.tracking import COMMIT
from reports import published as library
from reports.collect import Material, Protocol, Trial
from reports.spec import Better, Column, Reference, Spec
from reports.statistics import LEVEL, Estimate, student_t, wilson

MARKS = "†‡§¶‖"
PERCENT = 100.0
WILSON_NOTE = (
    "One seed: the interval is Wilson's over the test images of that one model "
    f"({LEVEL:.0%}); it says nothing about other seeds."
)


@dataclass(frozen=True)
class Value:
    """One trial's contribution to a cell, in the printed unit."""

    seed: int
    value: float
    fingerprint: str
    run_id: str
    experiment_id: str
    commit: str = ""  # of the checkout that trained it; empty where none was recorded


@dataclass(frozen=True)
class Cell:
    """One number. `mean`, `low`, `high` are in the printed unit; `text` is what every format prints."""

    text: str = ""
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    kind: Literal["t", "wilson", "none", "published"] = "none"
    n: int = 0
    expected: int = 0
    values: tuple[Value, ...] = ()
    marks: tuple[str, ...] = ()
    rank: Literal[0, 1, 2] = 0  # 1 = best of its column, 2 = second
    waits: str = ""  # what an empty or short cell waits for
    missing: tuple[str, ...] = ()  # the trials behind `waits`
    source: str = ""  # of a published value


@dataclass(frozen=True)
class Head:
    """A column's heading and meaning."""

    title: str
    group: str
    metric: str
    unit: Literal["%", ""]
    better: Better
    formula: str
    published: bool = False

    @property
    def full(self) -> str:
        """Group and title in one line."""
        return f"{self.group} {self.title}".strip()


@dataclass(frozen=True)
class Row:
    """A row's heading. `key` is the label or the swept value."""

    key: str
    title: str
    label: str


@dataclass(frozen=True)
class Table:
    """What every format renders."""

    name: str
    sweep: str
    title: str
    caption: str
    question: str
    label: str
    protocol: str
    row_title: str
    rows: tuple[Row, ...]
    columns: tuple[Head, ...]
    cells: tuple[tuple[Cell, ...], ...]  # [row][column]
    footnotes: tuple[tuple[str, str], ...]  # (mark, text)
    notes: tuple[str, ...]
    machine: bool = False
    part: int = 0  # > 0 when trials of several protocols made several tables

    @property
    def full_title(self) -> str:
        """The title, with its part when there are several."""
        return f"{self.title} ({self.part})" if self.part else self.title

    @property
    def waiting(self) -> tuple[str, ...]:
        """What its cells wait for, each sentence once."""
        return tuple(dict.fromkeys(cell.waits for line in self.cells for cell in line if cell.waits))

    @property
    def missing(self) -> tuple[str, ...]:
        """The trials its cells lack."""
        return tuple(dict.fromkeys(name for line in self.cells for cell in line for name in cell.missing))

    @property
    def empty(self) -> bool:
        """No run of ours behind any cell."""
        return not any(cell.n for line in self.cells for cell in line)


@dataclass
class _Line:
    row: Row
    value: Any
    trials: list[Trial] = field(default_factory=list)


def tables_of(spec: Spec, material: Material) -> list[Table]:
    """One Table per protocol found among the spec's trials; RequestError when the sweep cannot feed the spec."""
    trials = material.of_grid(spec.trials.grid)
    if not trials:
        raise RequestError(
            f"{spec.place}: table '{spec.name}' needs grid '{spec.trials.grid}', which sweep '{material.sweep}' does not "
            f"plan; {known(spec.trials.grid, material.grids)}"
        )
    groups = by_protocol(trials, spec.rows.by)
    tables = [_table(spec, material, protocol, members) for protocol, members in groups]
    return (
        [replace(table, part=index) for index, table in enumerate(tables, 1)] if len(tables) > 1 else tables
    )


def by_protocol(trials: Sequence[Trial], swept: str = "method") -> list[tuple[Protocol | None, list[Trial]]]:
    """Trials by protocol, the swept setting left out of it. Trials without a run join the largest group."""
    groups: dict[Protocol, list[Trial]] = {}
    for trial in trials:
        if trial.protocol is not None:
            settings = tuple(pair for pair in trial.protocol.settings if pair[0] != swept)
            groups.setdefault(Protocol(settings), []).append(trial)
    if not groups:
        return [(None, list(trials))]
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0].text))
    main = {trial.fingerprint for trial in trials if trial.protocol is None} | {
        t.fingerprint for t in ordered[0][1]
    }
    first = [trial for trial in trials if trial.fingerprint in main]
    return [(ordered[0][0], first), *ordered[1:]]


def lines_of(spec: Spec, trials: Sequence[Trial]) -> list[_Line]:
    """The rows, with their trials: methods in the order of the plan, swept values in rising order."""
    if spec.rows.by == "method":
        lines: dict[Any, _Line] = {}
        for trial in trials:
            if spec.rows.only is None or trial.label in spec.rows.only:
                line = lines.setdefault(
                    trial.label, _Line(Row(trial.label, trial.title, trial.label), trial.label)
                )
                line.trials.append(trial)
        return _apart(spec, lines.values())
    swept: dict[tuple[str, str], _Line] = {}
    for trial in trials:
        if spec.rows.only is not None and trial.label not in spec.rows.only:
            continue
        try:
            value = trial.setting(spec.rows.by)
        except KeyError:
            raise RequestError(
                f"{spec.place}: trial '{name_of(trial)}' has no value for '{spec.rows.by}', by which table '{spec.name}' "
                f"makes its rows; {known(spec.rows.by, trial.values)}"
            ) from None
        shown = show_value(value)
        line = swept.setdefault(
            (trial.label, shown), _Line(Row(shown, spec.rows.format.format(value=shown), trial.label), value)
        )
        line.trials.append(trial)
    shown_once = len({shown for _, shown in swept}) == len(swept)
    ordered = sorted(swept.values(), key=lambda line: _order(line.value))
    if not shown_once:  # several methods share values: a row needs both
        for line in ordered:
            title = f"{line.trials[0].title}, {line.row.title}"
            line.row = Row(f"{line.row.label} {line.row.key}", title, line.row.label)
    return _apart(spec, ordered)


def _apart(spec: Spec, lines: Iterable[_Line]) -> list[_Line]:
    """One line per setting that the trials of a line still differ in, so that a line differs in nothing but the seed."""
    found: list[_Line] = []
    for line in lines:
        for words, trials in apart(line.trials, spec.rows.by).items():
            row = Row(f"{line.row.key}, {words}", f"{line.row.title}, {words}", line.row.label)
            found.append(_Line(row if words else line.row, line.value, trials))
    for line in found:
        seeds = [trial.seed for trial in line.trials]
        if len(set(seeds)) < len(seeds):
            names = ", ".join(sorted({name_of(trial) for trial in line.trials}))
            raise RequestError(
                f"{spec.place}: row '{line.row.title}' of table '{spec.name}' would average trials that differ in more than "
                f"the seed ({names}); put them into grids of their own"
            )
    return found


def apart(trials: Sequence[Trial], by: str = "method") -> dict[str, list[Trial]]:
    """Trials of one row by the settings that their grids vary besides `by`: `lr=0.1` -> trials; "" where none differs."""
    keys = sorted({key for trial in trials for key in trial.values} - {by, "method"})
    varied = [key for key in keys if len({repr(trial.values.get(key)) for trial in trials}) > 1]
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        words = ", ".join(f"{key.rsplit('.', 1)[-1]}={show_value(trial.values.get(key))}" for key in varied)
        found.setdefault(words, []).append(trial)
    return found


def show_value(value: Any) -> str:
    """`3`, `-1`, `0.1`, `none`."""
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _order(value: Any) -> tuple[int, float, str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def name_of(trial: Trial) -> str:
    """A trial in a sentence: `ham-official early_drop_step=5 seed 0`."""
    values = " ".join(
        f"{key.rsplit('.', 1)[-1]}={show_value(value)}" for key, value in sorted(trial.values.items())
    )
    return " ".join(part for part in (trial.label, values, f"seed {trial.seed}") if part)


def _table(spec: Spec, material: Material, protocol: Protocol | None, trials: Sequence[Trial]) -> Table:
    lines = lines_of(spec, trials)
    heads = [_head(column) for column in spec.columns]
    cells = [[_cell(spec, column, line, material) for column in spec.columns] for line in lines]
    notes = list(spec.notes)
    on_test = protocol is not None and protocol.get("selection.on") == "test"
    if on_test:
        notes.append(
            "The checkpoints were selected on the test set, as some papers do: read these numbers as optimistic."
        )
    for index, column in enumerate(spec.columns):
        _rank([line[index] for line in cells], column.direction, cells, index)

    data = protocol.get("data.label") if protocol is not None else None
    for reference in spec.published:
        if reference.data is None or data in reference.data:
            _set_beside(reference, lines, heads, cells, notes)

    footnotes: dict[str, str] = {}
    marked = tuple(tuple(_marked(cell, footnotes) for cell in line) for line in cells)
    seeds = sorted({trial.seed for line in lines for trial in line.trials})
    notes.insert(0, _seed_note(marked, seeds))
    return Table(
        name=spec.name,
        sweep=material.sweep,
        title=spec.title,
        caption=spec.caption,
        question=spec.question,
        label=spec.label,
        protocol=protocol.text if protocol is not None else "no run yet",
        row_title=spec.rows.title,
        rows=tuple(line.row for line in lines),
        columns=tuple(heads),
        cells=marked,
        footnotes=tuple((mark, text) for text, mark in footnotes.items()),
        notes=tuple(notes),
        machine=spec.machine,
    )


def _head(column: Column) -> Head:
    return Head(
        title=column.title,
        group=column.group,
        metric=" + ".join(column.metric),
        unit="%" if column.accuracy else "",
        better=column.direction,
        formula=column.formula or formula_of(column),
    )


STATISTIC_WORDS = {
    "avg": "share of all test images that are classified correctly",
    "worst": "smallest class-wise accuracy",
    "worst20": "mean of the ⌈C/5⌉ smallest class-wise accuracies",
    "std": "standard deviation of the class-wise accuracies, sqrt((1/C) Σ_c (a_c - mean a)²)",
    "gap": "largest minus smallest class-wise accuracy",
}


def formula_of(column: Column) -> str:
    """The column's statistic in words: first within a trial, then over the seeds."""
    metric = " + ".join(column.metric)
    if column.reduce is None and column.accuracy:
        words = STATISTIC_WORDS.get(column.statistic, f"accuracy on class {column.statistic}")
        images = "on clean images" if column.attack == "clean" else f"under {column.attack}"
        inner = f"{metric}: {words} {images}, with the '{column.weights}' weights"
    elif column.reduce is None:
        inner = f"{metric} of each trial"
    else:
        inner = f"{column.reduce} of {metric} over the epochs of each trial"
        if column.per:
            inner += f", divided by the {column.reduce} of {column.per}"
    several = f"mean ± t(n-1, {(1 + LEVEL) / 2:g}) s/√n"
    return f"mean over seeds of ({inner}); interval at {LEVEL:.0%}: {several}, for one seed Wilson's over its images"


def value_of(column: Column, trial: Trial, material: Material) -> float | None:
    """The column's statistic of one trial, in its stored unit; None when it was not measured."""
    if not trial.finished:
        return None
    if column.reduce is None:
        parts = [trial.metric(name) for name in column.metric]
        return None if None in parts else sum(part for part in parts if part is not None)
    parts = [
        _reduced(column.reduce, material.history(name).get(trial.fingerprint, ())) for name in column.metric
    ]
    if None in parts:
        return None
    total = sum(part for part in parts if part is not None)
    if column.per is None:
        return total
    below = _reduced(column.reduce, material.history(column.per).get(trial.fingerprint, ()))
    return total / below if below else None


def _reduced(how: str, points: Sequence[tuple[int, float]]) -> float | None:
    values = [value for _, value in points]
    if not values:
        return None
    return {"sum": sum(values), "mean": sum(values) / len(values), "last": values[-1]}[how]


def estimate_of(column: Column, values: Sequence[float], trials: Sequence[Trial]) -> Estimate:
    """Mean and interval over the trials; Wilson's for one accuracy of one trial."""
    if len(values) == 1 and column.accuracy and len(column.metric) == 1 and trials[0].run is not None:
        images = images_behind(column, trials[0].run.metrics)
        if images:
            return wilson(values[0], images)
    return student_t(values)


def images_behind(column: Column, metrics: Mapping[str, float]) -> int | None:
    """How many test images an accuracy is the share of: all (avg), the worst class's (worst), or the class's."""
    prefix = "test/images/"
    counts = {name.removeprefix(prefix): round(n) for name, n in metrics.items() if name.startswith(prefix)}
    if column.statistic == "avg":
        return sum(counts.values()) or None
    if column.statistic == "worst":
        stem = column.metric[0].rsplit("/", 1)[0]
        shares = {name: metrics[f"{stem}/{name}"] for name in counts if f"{stem}/{name}" in metrics}
        return counts[min(sorted(shares), key=lambda name: shares[name])] if shares else None
    return counts.get(column.statistic)


def _cell(spec: Spec, column: Column, line: _Line, material: Material) -> Cell:
    expected = max(len({trial.seed for trial in line.trials}), spec.min_seeds)
    found = [(trial, value_of(column, trial, material)) for trial in line.trials]
    present = [(trial, value) for trial, value in found if value is not None]
    absent = [trial for trial, value in found if value is None]
    waits, missing = _waits(column, line, absent, len(present), expected)
    if not present:
        return Cell(expected=expected, waits=waits, missing=missing)
    trials, values = [trial for trial, _ in present], [value for _, value in present]
    factor = PERCENT if column.accuracy else column.scale
    estimate = estimate_of(column, values, trials).scaled(factor)
    form = {"t": column.cell or spec.cell, "wilson": spec.single, "none": column.cell or spec.bare}[
        estimate.kind
    ]
    if estimate.half is None:
        form = _without_interval(form)
    text = form.format(
        mean=estimate.mean, half=estimate.half, low=estimate.low, high=estimate.high, n=estimate.n
    )
    return Cell(
        text=text,
        mean=estimate.mean,
        low=estimate.low,
        high=estimate.high,
        kind=estimate.kind,
        n=len(present),
        expected=expected,
        values=tuple(
            Value(
                trial.seed,
                value * factor,
                trial.fingerprint,
                trial.run.run_id,
                trial.run.experiment_id,
                trial.run.tags.get(COMMIT, ""),
            )
            for trial, value in present
            if trial.run is not None
        ),
        waits=waits,
        missing=missing,
    )


def _without_interval(form: str) -> str:
    """The `{mean...}` field alone."""
    start = form.index("{mean")
    return form[start : form.index("}", start) + 1]


def _waits(
    column: Column, line: _Line, absent: Sequence[Trial], n: int, expected: int
) -> tuple[str, tuple[str, ...]]:
    names = tuple(name_of(trial) for trial in absent)
    seeds = ", ".join(str(seed) for seed in sorted({trial.seed for trial in absent}))
    if not absent:
        if n >= expected:
            return "", ()
        return f"{line.row.title}: {n} of the {expected} seeds this table asks for are planned", (
            line.row.title,
        )
    states = sorted({trial.state for trial in absent})
    which = f"seed{'s' if ',' in seeds else ''} {seeds}"
    if states == ["finished"]:
        what = "evaluation " + column.attack if column.attack else " + ".join(column.metric)
        return f"{line.row.title}: waits for the {what} of {which}", names
    return f"{line.row.title}: waits for {which} ({', '.join(states)})", names


def _rank(column: Sequence[Cell], better: Better, cells: list[list[Cell]], index: int) -> None:
    """Best and second best by the printed mean: what reads equal ranks equal."""
    if better == "none":
        return
    shown = {row: float(_leading(cell.text)) for row, cell in enumerate(column) if cell.text}
    levels = sorted(set(shown.values()), reverse=better == "higher")
    if len(shown) < 2 or len(levels) < 2:
        return
    for row, number in shown.items():
        place = levels.index(number)
        if place < 2:
            cells[row][index] = replace(cells[row][index], rank=1 if place == 0 else 2)


def _leading(text: str) -> str:
    return text.split(" ", 1)[0].replace(",", "")


def _set_beside(
    reference: Reference, lines: Sequence[_Line], heads: list[Head], cells: list[list[Cell]], notes: list[str]
) -> None:
    """Append the published columns."""
    paper = library.paper(reference.paper)
    table = paper.table(reference.table)
    sources: dict[str, None] = {}
    for wanted in reference.columns:
        heads.append(
            Head(
                title=wanted.title,
                group=reference.title,
                metric=f"published:{paper.key}:{table.id}",
                unit="%",
                better="none",
                formula=f"as printed in {paper.short}, {table.where}",
                published=True,
            )
        )
        for line, row in zip(lines, cells, strict=True):
            method = reference.rows.get(line.row.key) or reference.rows.get(line.row.label)
            value = next(
                (
                    value
                    for value in paper.values()
                    if value.table is table
                    and value.row.method == method
                    and value.column.attack == wanted.attack
                    and value.column.stat == wanted.stat
                    and (wanted.checkpoint is None or value.column.checkpoint == wanted.checkpoint)
                    and (wanted.printed is None or value.column.printed == wanted.printed)
                ),
                None,
            )
            if value is None:
                row.append(Cell(kind="published"))
            else:
                sources[value.source] = None
                row.append(
                    Cell(text=value.text, mean=value.number.value, kind="published", source=value.source)
                )
    notes.append(
        f"{reference.title}: {paper.title}, {paper.venue}, {table.where}; read in {'; '.join(sources) or table.source}. "
        f"Not comparable with ours: {reference.reason}"
    )


def _marked(cell: Cell, footnotes: dict[str, str]) -> Cell:
    """Give the cell its footnote marks, new footnotes in order of appearance."""
    texts = []
    if cell.n and cell.n < cell.expected:
        texts.append(f"{cell.n} of {cell.expected} seeds.")
    if cell.waits and not cell.n:
        texts.append(f"{cell.waits}.")
    if cell.kind == "wilson":
        texts.append(WILSON_NOTE)
    for text in texts:
        if text not in footnotes:
            place = len(footnotes)
            footnotes[text] = MARKS[place % len(MARKS)] * (place // len(MARKS) + 1)
    return replace(cell, marks=tuple(footnotes[text] for text in texts))


def _seed_note(cells: Sequence[Sequence[Cell]], seeds: Sequence[int]) -> str:
    own = [cell for line in cells for cell in line if cell.kind != "published"]
    counts = sorted({cell.n for cell in own if cell.n})
    if not counts:
        return "No trial of this table has finished."
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    several = any(cell.kind == "t" for cell in own)
    form = f"; ± is half the {LEVEL:.0%} Student-t interval of the mean over seeds" if several else ""
    return f"n = {n} seed{'' if n == '1' else 's'} (planned: {', '.join(map(str, seeds))}){form}."
