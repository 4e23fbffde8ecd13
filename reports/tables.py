"""A spec and a sweep's trials -> Table: rows, columns and cells that every format renders.

A cell is a statistic over the trials that share everything but the seed. Trials of different protocols never share a
column: they go to separate tables, and trials that are judged under several have a table for each (reports/judging.py).
A cell that lacks seeds is marked with its n; a cell without any is empty and says what it waits for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ham_core.errors import RequestError, known
from orchestration.tracking import COMMIT, MODELS
from reports.collect import ABSENT, Material, Protocol, Trial, protocol_of, readable
from reports.footnotes import marked
from reports.judging import Judge
from reports.spec import Better, Column, Entry, Spec
from reports.statistics import LEVEL, Estimate, student_t, wilson, worst

PERCENT = 100.0
ONE_SEED = {
    "wilson": (
        f"One seed: the interval is Wilson's over the test images of that one model ({LEVEL:.0%}); it says nothing about "
        "other seeds."
    ),
    "worst": (
        f"One seed: a simultaneous interval for the true worst class, over the test images of that one model ({LEVEL:.0%}); "
        "it says nothing about other seeds."
    ),
}

FILE_NOTE = "Weights from {file}; how they were trained and selected is not recorded here."
# What a model of other people must share with the trials of a table, and how a sentence calls it.
SAME = {
    "data.label": "images are",
    "data.test_digest": "test images are",
    "data.test_limit": "number of test images is",
    "epsilon": "radius is",
}


@dataclass(frozen=True)
class Value:
    """One trial's contribution to a cell, in the printed unit."""

    seed: int
    value: float
    fingerprint: str
    run_id: str
    experiment_id: str
    file: str = ""  # of somebody else's model: where its weights come from
    commit: str = ""  # of the checkout that trained it; empty where none was recorded


@dataclass(frozen=True)
class Cell:
    """One number. `mean`, `low`, `high` are in the printed unit; `text` is what every format prints."""

    text: str = ""
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    kind: Literal["t", "wilson", "worst", "none", "published"] = "none"
    n: int = 0
    expected: int = 0
    values: tuple[Value, ...] = ()
    remarks: tuple[
        str, ...
    ] = ()  # all that is to be said of it; `marks`: of what is marked at the cell itself
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
    marks: tuple[str, ...] = ()

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
    group: str = ""  # rows of one group stand together, a rule between them
    average: str | None = None  # the row shows the weights of this average
    short: str = ""  # its title below the name of its group, where groups are named
    settings: Mapping[str, str] = field(default_factory=dict)  # recorded; {} while none of its trials has run
    remarks: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


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
    refused: tuple[str, ...] = ()  # models of other people that are no rows of it, and why
    judge: Judge | None = None  # the protocol that its numbers are judged under, where the sweep asks for any
    deviations: tuple[str, ...] = ()  # from that protocol, of all its trials; footnotes of the heading

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
    """One Table per protocol found among the spec's trials, and per protocol that the sweep is judged under; RequestError when
    the sweep cannot feed the spec."""
    trials = material.of_grid(spec.trials.grid)
    if not trials:
        raise RequestError(
            f"{spec.place}: table '{spec.name}' needs grid '{spec.trials.grid}', which sweep '{material.sweep}' does not "
            f"plan; {known(spec.trials.grid, material.grids)}"
        )
    groups = by_protocol(trials, spec.rows.by, spec.rows.own)
    if spec.ranking is not None:
        from reports.ranking import ranked  # which builds its cells with this module

        return [ranked(spec, material, groups)]
    judging = material.judged if any(column.accuracy for column in spec.columns) else ()
    judges: list[Judge | None] = [Judge(one) for one in judging] or [None]
    tables = [
        _table(spec, material, protocol, members, judge) for judge in judges for protocol, members in groups
    ]
    if takes_models(spec):
        refused = refusals(material.models, [members for _, members in groups])
        tables[0] = replace(tables[0], refused=refused)
    return (
        [replace(table, part=index) for index, table in enumerate(tables, 1)] if len(tables) > 1 else tables
    )


def by_protocol(
    trials: Sequence[Trial], swept: str = "method", own: Sequence[str] = ()
) -> list[tuple[Protocol | None, list[Trial]]]:
    """Trials by protocol, the swept setting and the rows' own ones left out of it. Trials without a run join the largest."""
    groups: dict[Protocol, list[Trial]] = {}
    for trial in trials:
        if trial.protocol is not None:
            settings = tuple(pair for pair in trial.protocol.settings if pair[0] not in (swept, *own))
            groups.setdefault(Protocol(settings), []).append(trial)
    if not groups:
        return [(None, list(trials))]
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0].text))
    main = {trial.fingerprint for trial in trials if trial.protocol is None} | {
        t.fingerprint for t in ordered[0][1]
    }
    first = [trial for trial in trials if trial.fingerprint in main]
    return [(ordered[0][0], first), *ordered[1:]]


def takes_models(spec: Spec) -> bool:
    """Whether other people's models are rows of the table: it has a row per method, and accuracies."""
    shown = any(
        one.accuracy and one.beside is None for one in spec.columns
    )  # a model has no seed to be paired by
    return spec.rows.by == "method" and spec.rows.only is None and shown


def why_not(model: Trial, trials: Sequence[Trial]) -> str:
    """Why a model is no row beside these trials, in words; "": it was judged as they were."""
    ours = [trial.run.params for trial in trials if trial.run is not None]
    if not ours or model.run is None:
        return "no trial of it has been run"
    for key, words in SAME.items():
        theirs = model.run.params.get(key, "None")
        here = sorted({params.get(key, "None") for params in ours})
        if here != [theirs]:
            return f"its {words} {_said(key, theirs)}, the table's {' and '.join(_said(key, one) for one in here)}"
    return ""


def _said(key: str, value: str) -> str:
    if value in ABSENT:
        return "all" if key == "data.test_limit" else "not recorded"
    return value[:10] if key == "data.test_digest" else readable(key, value)


def refusals(models: Sequence[Trial], groups: Sequence[Sequence[Trial]]) -> tuple[str, ...]:
    """A sentence for each model that is a row in none of a table's parts, which hold these trials."""
    reasons = [(model, [why_not(model, trials) for trials in groups]) for model in models]
    return tuple(
        f"{model.title}: is no row, since {'; '.join(dict.fromkeys(whys))}"
        for model, whys in reasons
        if all(whys)
    )


def lines_of(spec: Spec, trials: Sequence[Trial]) -> list[_Line]:
    """The rows, with their trials: methods in the order of the plan, swept values in rising order."""
    if spec.rows.entries is not None:
        return _apart(spec, [_line_of(entry, trials) for entry in spec.rows.entries])
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
            line.row = replace(line.row, key=f"{line.row.label} {line.row.key}", title=title)
    return _apart(spec, ordered)


def _line_of(entry: Entry, trials: Sequence[Trial]) -> _Line:
    """A row that the spec writes down; without trials where the sweep does not plan its method."""
    mine = [trial for trial in trials if trial.label == entry.of]
    key = f"{entry.of}+{entry.average}" if entry.average else entry.of
    title = entry.title or (mine[0].title if mine else entry.of)
    return _Line(Row(key, title, entry.of, entry.group, entry.average), key, mine)


def _apart(spec: Spec, lines: Iterable[_Line]) -> list[_Line]:
    """One line per setting that the trials of a line still differ in, so that a line differs in nothing but the seed."""
    found: list[_Line] = []
    for line in lines:
        for words, trials in (apart(line.trials, spec.rows.by) or {"": []}).items():
            row = replace(line.row, key=f"{line.row.key}, {words}", title=f"{line.row.title}, {words}")
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


def _table(
    spec: Spec,
    material: Material,
    protocol: Protocol | None,
    trials: Sequence[Trial],
    judge: Judge | None = None,
) -> Table:
    lines = lines_of(spec, trials)
    seeds = sorted({trial.seed for line in lines for trial in line.trials if not trial.file})
    guests = [model for model in material.models if takes_models(spec) and not why_not(model, trials)]
    lines += [_Line(Row(one.label, one.title, one.label), one.label, [one]) for one in guests]
    heads = [head_of(column if judge is None else judge.read(column, trials)) for column in spec.columns]
    below = [_baseline(spec, column, material, protocol, judge) for column in spec.columns]
    cells = [
        [
            cell_of(spec, column.of_average(line.row.average), line, material, base, judge)
            for column, base in zip(spec.columns, below, strict=True)
        ]
        for line in lines
    ]
    notes = list(spec.notes)
    if protocol is not None and protocol.get("selection.on") == "test":
        notes.append(
            "The checkpoints were selected on the test set, as some papers do: read these numbers as optimistic."
        )
    for index, column in enumerate(spec.columns):
        rank([line[index] for line in cells], column.direction, cells, index)

    rows = _with_recipes([replace(line.row, settings=settings_of(line.trials)) for line in lines], spec)
    notes.insert(0, _seed_note(cells[: len(cells) - len(guests)], seeds))
    heading = protocol.text if protocol is not None else "no run yet"
    shared: tuple[str, ...] = ()
    if judge is not None:
        shared = judge.shared(trials)
        heading = judge.heading(protocol)
        for line, row in zip(lines, cells, strict=True):
            own = tuple(text for text in judge.of(line.trials) if text not in shared)
            row[:] = [replace(cell, remarks=(*cell.remarks, *own)) if cell.n else cell for cell in row]
    table = Table(
        name=spec.name,
        sweep=material.sweep,
        title=spec.title if judge is None else f"{spec.title}, judged under {judge.name}",
        caption=spec.caption,
        question=spec.question,
        label=spec.label,
        protocol=heading,
        row_title=spec.rows.title,
        rows=rows,
        columns=tuple(heads),
        cells=tuple(tuple(line) for line in cells),
        footnotes=(),
        notes=tuple(notes),
        machine=spec.machine,
        judge=judge,
        deviations=shared,
    )
    return with_marks(table)


def with_marks(table: Table) -> Table:
    """The table with its remarks as footnotes and notes; what its trials deviate in is marked at its heading."""
    found = marked(
        [[cell.remarks for cell in line] for line in table.cells],
        [[bool(cell.text) for cell in line] for line in table.cells],
        [row.remarks for row in table.rows],
        table.deviations,
    )
    first, *rest = table.notes or ("",)
    return replace(
        table,
        protocol=f"{table.protocol}{''.join(found.heading)}",
        columns=tuple(
            replace(head, marks=marks) for head, marks in zip(table.columns, found.heads, strict=True)
        ),
        rows=tuple(replace(row, marks=marks) for row, marks in zip(table.rows, found.rows, strict=True)),
        cells=tuple(
            tuple(replace(cell, marks=mine) for cell, mine in zip(line, marks, strict=True))
            for line, marks in zip(table.cells, found.cells, strict=True)
        ),
        footnotes=found.footnotes,
        notes=tuple(note for note in (first, *found.notes, *rest) if note),
    )


def settings_of(trials: Sequence[Trial]) -> Mapping[str, str]:
    """What was recorded of how the trials of a row may be compared."""
    run = next((trial.run for trial in trials if trial.finished), None)
    return {} if run is None else dict(protocol_of(run.params).settings)


def _with_recipes(rows: Sequence[Row], spec: Spec) -> tuple[Row, ...]:
    """Rows that differ in what belongs to their own recipes say so: `40 epochs`."""
    found = []
    for row in rows:
        differing = [
            (key, row.settings[key])
            for key in spec.rows.own
            if key in row.settings
            and len({other.settings[key] for other in rows if key in other.settings}) > 1
        ]
        words = Protocol(tuple(differing)).text
        found.append(replace(row, remarks=(f"Its own recipe: {words}.",)) if words else row)
    return tuple(found)


def head_of(column: Column) -> Head:
    return Head(
        title=column.title,
        group=column.group,
        metric=" + ".join(column.metric),
        unit="%" if column.accuracy and not column.relative_to else "",
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
    if column.relative_to:
        inner += f", divided by the same of {column.relative_to} with the same seed"
    if column.minus:
        inner += f", minus the same of {column.minus} with the same seed"
    several = f"mean ± t(n-1, {(1 + LEVEL) / 2:g}) s/√n"
    return f"mean over seeds of ({inner}); interval at {LEVEL:.0%}: {several}, for one seed over its images"


def value_of(
    column: Column, trial: Trial, material: Material, baseline: Mapping[int, float] | None = None
) -> float | None:
    """The column's statistic of one trial, in its stored unit; None when it was not measured.

    baseline: seed -> value of the method that the column is relative to, or that is subtracted.
    """
    value = _own_value(column, trial, material)
    if column.beside is None or value is None:
        return value
    below = (baseline or {}).get(trial.seed)
    if column.minus:
        return None if below is None else value - below
    return value / below if below else None


def _baseline(
    spec: Spec, column: Column, material: Material, protocol: Protocol | None, judge: Judge | None
) -> Mapping[int, float]:
    """seed -> value of the method that a column is relative to, or that is subtracted, of the same protocol."""
    if column.beside is None:
        return {}
    members = dict(by_protocol(material.of_grid(spec.trials.grid), spec.rows.by, spec.rows.own)).get(
        protocol, []
    )
    found = {
        trial.seed: _own_value(column if judge is None else judge.read(column, [trial]), trial, material)
        for trial in members
        if trial.label == column.beside
    }
    return {seed: value for seed, value in found.items() if value is not None}


def _own_value(column: Column, trial: Trial, material: Material) -> float | None:
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
    """Mean and interval over the trials; for one accuracy of one trial an interval over its test images."""
    if len(values) == 1 and column.is_share and trials[0].run is not None:
        return over_images(column, values[0], trials[0].run.metrics)
    return student_t(values)


def over_images(column: Column, value: float, metrics: Mapping[str, float]) -> Estimate:
    """One accuracy of one model: Wilson's interval, of the worst class the simultaneous one; none where counts are missing."""
    prefix = "test/images/"
    counts = {name.removeprefix(prefix): round(n) for name, n in metrics.items() if name.startswith(prefix)}
    if column.statistic == "worst":
        stem = column.metric[0].rsplit("/", 1)[0]
        shares = {name: metrics[f"{stem}/{name}"] for name in counts if f"{stem}/{name}" in metrics}
        if shares:
            return worst(list(shares.values()), [counts[name] for name in shares])
    images = sum(counts.values()) if column.statistic == "avg" else counts.get(column.statistic)
    return wilson(value, images) if images else student_t([value])


def cell_of(
    spec: Spec,
    column: Column,
    line: _Line,
    material: Material,
    baseline: Mapping[int, float],
    judge: Judge | None = None,
) -> Cell:
    """The column's statistic over the trials of a row, or of one model of other people."""
    file = line.trials[0].file if line.trials else ""
    if file:
        return _cell_of_model(spec, column, line, material, file)
    return _cell_of_trials(spec, column, line, material, baseline, judge)


def _cell_of_model(spec: Spec, column: Column, line: _Line, material: Material, file: str) -> Cell:
    """Of somebody else's model: one value. What only a training has is left empty, and nothing is waited for."""
    if not column.accuracy or column.reduce is not None or column.beside is not None:
        return Cell()
    cell = _cell_of_trials(spec.model_copy(update={"min_seeds": 1}), column.of_file, line, material, {})
    if cell.waits:
        what = f"{line.row.title}: waits for the evaluation {column.attack}, which ham evaluate makes"
        cell = _remarked(replace(cell, waits=what, missing=(f"{line.row.title} {column.attack}",)))
    if cell.n and spec.trials.grid != MODELS:
        return replace(cell, remarks=(*cell.remarks, FILE_NOTE.format(file=file)))
    return cell


def _cell_of_trials(
    spec: Spec,
    column: Column,
    line: _Line,
    material: Material,
    baseline: Mapping[int, float],
    judge: Judge | None = None,
) -> Cell:
    expected = max(len({trial.seed for trial in line.trials}), spec.min_seeds)
    asked = column
    found = [
        (trial, value_of(column if judge is None else judge.read(column, [trial]), trial, material, baseline))
        for trial in line.trials
    ]
    if column.minus and all(trial.label == column.minus for trial in line.trials):
        return Cell()
    present = [(trial, value) for trial, value in found if value is not None]
    absent = [trial for trial, value in found if value is None]
    if judge is not None:
        column = judge.read(asked, [trial for trial, _ in present] or line.trials)
    waits, missing = _waits(column, line, absent, len(present), expected)
    if not present and judge is not None and judge.lacks(asked):
        return Cell(expected=expected, remarks=(f"{judge.name} has no attack {asked.attack}.",))
    if not present and column.optional and absent and all(trial.finished for trial in absent):
        return Cell()
    if not present:
        return _remarked(Cell(expected=expected, waits=waits, missing=missing))
    trials, values = [trial for trial, _ in present], [value for _, value in present]
    factor = PERCENT if column.accuracy and not column.relative_to else column.scale
    estimate = estimate_of(column, values, trials).scaled(factor)
    forms = {"t": column.cell or spec.cell, "none": column.cell or spec.bare}
    form = forms.get(estimate.kind, spec.single)
    if estimate.half is None:
        form = _without_interval(form)
    text = form.format(
        mean=estimate.mean, half=estimate.half, low=estimate.low, high=estimate.high, n=estimate.n
    )
    cell = Cell(
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
                trial.file,
                trial.run.tags.get(COMMIT, ""),
            )
            for trial, value in present
            if trial.run is not None
        ),
        waits=waits,
        missing=missing,
    )
    return _remarked(cell)


def _remarked(cell: Cell) -> Cell:
    return replace(cell, remarks=_remarks(cell))


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


def rank(column: Sequence[Cell], better: Better, cells: list[list[Cell]], index: int) -> None:
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


def _remarks(cell: Cell) -> tuple[str, ...]:
    """What is to be said of a cell: seeds that it lacks, what it waits for, which interval it has."""
    texts = []
    if cell.n and cell.n < cell.expected:
        texts.append(f"{cell.n} of {cell.expected} seeds.")
    if cell.waits and not cell.n:
        texts.append(f"{cell.waits}.")
    if cell.kind in ONE_SEED:
        texts.append(ONE_SEED[cell.kind])
    return tuple(texts)


def _seed_note(cells: Sequence[Sequence[Cell]], seeds: Sequence[int]) -> str:
    own = [cell for line in cells for cell in line if cell.kind != "published"]
    counts = sorted({cell.n for cell in own if cell.n})
    if not counts:
        return "No trial of this table has finished."
    if not seeds:
        return "n = 1: each row is one file of weights."
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    several = any(cell.kind == "t" for cell in own)
    form = f"; ± is half the {LEVEL:.0%} Student-t interval of the mean over seeds" if several else ""
    return f"n = {n} seed{'' if n == '1' else 's'} (planned seeds: {', '.join(map(str, seeds))}){form}."
