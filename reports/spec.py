"""What a table or a figure is made of: one YAML file each, `reports/specs/<name>.yaml`.

The first comment lines of a file say the question it answers and the command that builds it. A file with `columns` is a
table (and may draw a `figure` of the same rows); a file with only `figure` is a figure. Specs name grids of a sweep, never a
sweep: they apply to every sweep that plans the grid.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ham_core import yamlfile
from ham_core.errors import RequestError, known
from ham_core.metrics import STATISTICS
from ham_core.protocol import canonical_weights
from reports.figures import kinds

FOLDER = Path(__file__).parent / "specs"
RESULT = re.compile(
    rf"(?P<weights>(?:best|best_sum|best_worst|last)(?:_\w+)?|file)/(?P<attack>[a-z][a-z0-9_]*)/"
    rf"(?P<statistic>{'|'.join(sorted(STATISTICS, key=len, reverse=True))}|\d\d+_.+)"
)
SERIES = re.compile(r"(train|val|val_\w+|time|test)/.+")
Better = Literal["higher", "lower", "none"]


class Part(BaseModel):
    """Frozen; unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _metric(name: str) -> str:
    if not RESULT.fullmatch(name) and not SERIES.fullmatch(name):
        raise ValueError(
            f"'{name}' is no metric name; write <weights>/<attack>/<statistic> such as best/pgd20/worst "
            f"(statistics: {', '.join(STATISTICS)}, or a class such as 03_cat), or a series such as train/passes/forward"
        )
    return canonical(name)


def canonical(name: str) -> str:
    """A metric's one name: `best_avg/pgd20/worst` is `best/pgd20/worst`."""
    weights, slash, rest = name.partition("/")
    return f"{canonical_weights(weights)}{slash}{rest}"


Metric = Annotated[str, AfterValidator(canonical)]


class Trials(Part):
    """Which trials of a sweep take part: those of one of its named grids.

    sweep: the shipped sweep that plans this grid as the paper has it; `ham sweep table:NAME` trains from it.
    """

    grid: str
    sweep: str | None = None


class Entry(Part):
    """A row that is written down: the trials of a method, with its plain weights or with those of one of its averages.

    Rows of one trial share its training: EMA's row shows another set of weights of the row without it.
    """

    of: str  # a method's label
    average: str | None = None  # its weights' name goes behind that of every column: best -> best_ema
    title: str | None = None
    group: str = ""  # rows of one group stand together, a rule between them


class Rows(Part):
    """One row per method label, or per value of a swept setting."""

    by: str = "method"  # "method", or a dotted setting such as method.mining.early_drop_step
    title: str = "Method"
    only: tuple[str, ...] | None = None  # labels, when not every method of the grid is wanted
    entries: tuple[Entry, ...] | None = None  # the rows one by one, in place of one per method
    own: tuple[str, ...] = ()  # settings that belong to a method's own recipe, so rows may differ in them
    format: str = "{value}"  # how a swept value is printed

    @model_validator(mode="after")
    def _entries_are_methods(self) -> Rows:
        if self.entries is not None and (self.by != "method" or self.only is not None):
            raise ValueError("'entries' lists methods one by one, so neither 'by' nor 'only' goes with it")
        return self


class Column(Part):
    """One statistic. Without `reduce` it is a final metric; with it, a series reduced over the epochs of a trial."""

    title: str
    metric: tuple[str, ...]  # several are added, for example the three kinds of passes
    group: str = ""
    better: Better | None = None  # default: lower for std, gap and everything that is no accuracy
    reduce: Literal["sum", "mean", "last"] | None = None
    per: str | None = None  # divide by this series, reduced in the same way
    relative_to: str | None = None  # divide by the value of this method's trial of the same seed
    minus: str | None = None  # subtract it instead: a paired difference; the method's own row stays empty
    scale: float = 1.0  # multiplies numbers that are no accuracies
    formula: str | None = None  # in words, when the default sentence would not say it
    cell: str | None = None
    optional: bool = False  # not every method has it, so a finished trial without it lacks nothing

    @field_validator("metric", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("metric")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_metric(name) for name in value)

    @field_validator("cell")
    @classmethod
    def _format(cls, value: str | None) -> str | None:
        return _cell_format(value) if value else value

    @model_validator(mode="after")
    def _divided_or_subtracted(self) -> Column:
        if self.relative_to and self.minus:
            raise ValueError("'relative_to' divides and 'minus' subtracts; a column does one of them")
        return self

    @property
    def accuracy(self) -> bool:
        """A share in [0, 1] that is printed in percent."""
        return all(RESULT.fullmatch(name) for name in self.metric)

    @property
    def is_share(self) -> bool:
        """One accuracy, so a share of images that has an interval of its own."""
        return self.accuracy and len(self.metric) == 1 and self.beside is None

    @property
    def beside(self) -> str | None:
        """The method whose trial of the same seed it is relative to, or is subtracted."""
        return self.relative_to or self.minus

    @property
    def weights(self) -> str | None:
        """Which weights of a trial were evaluated: `best`, `last_ema`, ...; `file`: those of somebody else's model."""
        found = RESULT.fullmatch(self.metric[0])
        return found["weights"] if found else None

    @property
    def of_file(self) -> Column:
        """The same of a model that has one set of weights, which answers for whatever weights the column asks for."""
        names = (f"file/{name.partition('/')[2]}" if RESULT.fullmatch(name) else name for name in self.metric)
        return self.model_copy(update={"metric": tuple(names)})

    @property
    def attack(self) -> str | None:
        """`clean`, `pgd20`, ..."""
        found = RESULT.fullmatch(self.metric[0])
        return found["attack"] if found else None

    @property
    def statistic(self) -> str:
        """`avg`, `worst`, `03_cat`, ... or the last part of a series' name."""
        return self.metric[0].rsplit("/", 1)[-1]

    @property
    def direction(self) -> Better:
        """Which end of the column is good."""
        if self.better:
            return self.better
        return "higher" if self.accuracy and self.statistic not in ("std", "gap") else "lower"

    @property
    def full_title(self) -> str:
        """Group and title, as one names the column in a sentence: `PGD-20 worst`."""
        return f"{self.group} {self.title}".strip()

    def of_average(self, average: str | None) -> Column:
        """The same column of the weights of an average: best/pgd20/avg -> best_ema/pgd20/avg. A series has no weights."""
        if not average or not self.accuracy:
            return self
        names = [name.partition("/") for name in self.metric]
        return self.model_copy(
            update={"metric": tuple(f"{weights}_{average}/{rest}" for weights, _, rest in names)}
        )


class ReferenceColumn(Part):
    """One column of a published table, picked by its conditions."""

    title: str
    stat: str
    attack: str
    checkpoint: str | None = None
    printed: str | None = None
    beside: Metric | None = None  # our metric that it stands next to, where it measures the same thing


class ReferenceRow(Part):
    """Their row that ours is set beside. Its own conditions override the reference's; null: the source does not say."""

    method: str
    conditions: dict[str, str | float | int | None] = {}


class Reference(Part):
    """Published values set beside ours, and the conditions that they hold under."""

    paper: str
    table: str
    title: str
    rows: dict[str, ReferenceRow]  # our row -> their method
    columns: tuple[ReferenceColumn, ...] = Field(min_length=1)
    conditions: dict[str, str | float | int | None] = {}  # recorded setting -> its value in the paper
    runs: int | None = None  # behind every printed mean; then the number after ± is their standard deviation
    reason: str = ""  # why no value of it can be compared with ours, whatever the conditions
    data: tuple[str, ...] | None = None  # only beside sweeps on these data labels

    @field_validator("rows", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {str(key): {"method": row} if isinstance(row, str) else row for key, row in value.items()}


class Ranking(Part):
    """Methods ranked on each data set by one final metric; rows then show it on every data set, and their average rank."""

    metric: str
    title: str

    @field_validator("metric")
    @classmethod
    def _result(cls, value: str) -> str:
        if not RESULT.fullmatch(value):
            raise ValueError(
                f"'{value}' is no result; write <weights>/<attack>/<statistic> such as best/pgd20/worst"
            )
        return value


def _cell_format(text: str) -> str:
    try:
        text.format(mean=1.0, half=1.0, low=1.0, high=1.0, n=1)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"'{text}' is no cell format ({error!r}); it may use {{mean}}, {{half}}, {{low}}, {{high}} and {{n}}, "
            "for example '{mean:.1f} ± {half:.1f}'"
        ) from None
    return text


class Spec(Part):
    """A table, a figure, or a table with its figure."""

    title: str
    caption: str
    trials: Trials = Trials(grid="")  # only a figure that is computed has none
    rows: Rows = Rows()
    columns: tuple[Column, ...] = ()
    ranking: Ranking | None = None
    figure: kinds.Figure | None = None
    cell: str = "{mean:.1f} ± {half:.1f}"  # n >= 2 seeds; half = half width of the interval
    single: str = "{mean:.1f} [{low:.1f}, {high:.1f}]"  # one seed, Wilson interval
    bare: str = "{mean:.1f}"  # no interval
    min_seeds: int = Field(
        1, ge=1
    )  # a cell with fewer is marked, and refused when the table is asked for by name
    published: tuple[Reference, ...] = ()
    notes: tuple[str, ...] = ()
    order: int = 100  # place in the report
    machine: bool = False  # holds seconds, so it is kept to files named *cost* and to cost.html

    # from the file, not from its YAML
    name: str = ""
    question: str = ""
    place: str = ""

    @field_validator("cell", "single", "bare")
    @classmethod
    def _format(cls, value: str) -> str:
        return _cell_format(value)

    @field_validator("name", "question", "place", mode="before")
    @classmethod
    def _from_file(cls, value: Any) -> Any:
        return value

    @model_validator(mode="after")
    def _ranked_or_listed(self) -> Spec:
        if self.columns and self.ranking is not None:
            raise ValueError(
                "'columns' and 'ranking' do not go together; the columns of a ranking are the data sets"
            )
        return self

    @property
    def shown(self) -> tuple[Column, ...]:
        """The results that the table shows: its columns, or what it ranks by."""
        if self.ranking is None:
            return self.columns
        return (Column(title=self.ranking.title, metric=(self.ranking.metric,)),)

    @property
    def is_table(self) -> bool:
        """Whether it makes a table."""
        return bool(self.shown)

    @property
    def needs_runs(self) -> bool:
        """Whether it shows trials; a figure that is computed does not."""
        return self.is_table or self.figure is None or self.figure.needs_runs

    @property
    def baselines(self) -> tuple[str, ...]:
        """The methods that its columns are relative to, or subtract: a grid without them cannot feed it."""
        return tuple(dict.fromkeys(one.beside for one in self.columns if one.beside is not None))

    @property
    def needed(self) -> str:
        """What a sweep must plan for it, in words: `grid 'methods' with at in it`."""
        among = f" with {' and '.join(self.baselines)} in it" if self.baselines else ""
        return f"grid '{self.trials.grid}'{among}"

    @property
    def label(self) -> str:
        """The LaTeX label."""
        return f"tab:{self.name}"


def load_spec(path: Path) -> Spec:
    """Read one spec; every problem of the file is one sentence with its place."""
    shown = f"reports/specs/{path.name}" if path.parent == FOLDER else str(path)
    document = yamlfile.load(path, shown)
    name = path.stem
    comments = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comments.append(line.lstrip("# ").rstrip())
    problems = []
    command = f"ham report {name}"
    if not any(command in line for line in comments):
        problems.append(
            f"{shown}:1: the first comment lines must say the question and the command '{command}'"
        )
    question = " ".join(line.split("  ham ")[0].strip() for line in comments if not line.startswith("ham "))
    value = document.value
    if not isinstance(value, dict):
        raise RequestError([*problems, f"{shown}:1: a spec is a mapping with title, caption, trials, ..."])
    reserved = {"name", "question", "place"} & set(value)
    problems += [
        f"{document.place((key,))}: unknown key '{key}'; it follows from the file" for key in sorted(reserved)
    ]
    try:
        settings = {key: entry for key, entry in value.items() if key not in reserved}
        spec = Spec(**settings, name=name, question=question, place=f"{shown}:1")
    except ValidationError as error:
        raise RequestError(problems + _sentences(error, document)) from None
    if not spec.is_table and spec.figure is None:
        problems.append(f"{shown}:1: neither 'columns' (a table) nor 'figure' is given; write at least one")
    if spec.needs_runs and not spec.trials.grid:
        problems.append(f"{shown}:1: key 'trials' is missing")
    if spec.machine != any(name.startswith("time/") for column in spec.columns for name in column.metric):
        problems.append(
            f"{document.place(('machine',))}: 'machine: true' belongs to tables of time/* metrics, only to them"
        )
    if spec.machine and "cost" not in name:
        problems.append(
            f"{shown}:1: a table of seconds has 'cost' in its name, so that comparisons can leave it out"
        )
    if problems:
        raise RequestError(problems)
    return spec


def _sentences(error: ValidationError, document: yamlfile.Document) -> list[str]:
    sentences = []
    for item in error.errors():
        location = tuple(item["loc"])
        key = ".".join(str(part) for part in location)
        place = document.place(location)
        if item["type"] == "extra_forbidden":
            sentences.append(f"{place}: unknown key '{key}'; {known(location[-1], _fields(location[:-1]))}")
        elif item["type"] == "missing":
            sentences.append(f"{place}: key '{key}' is missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            sentences.append(f"{place}: {key}: {message} (given: {item['input']!r})")
    return sentences


_MODELS: dict[str, type[BaseModel]] = {
    "trials": Trials,
    "rows": Rows,
    "columns": Column,
    "ranking": Ranking,
    "published": Reference,
    **kinds.MODELS,
}


def _fields(location: tuple[Any, ...]) -> list[str]:
    """The keys that are allowed at a place of a spec."""
    names = [part for part in location if isinstance(part, str)]
    if names[:1] == ["published"] and "columns" in names:
        return list(ReferenceColumn.model_fields)
    if "entries" in names:
        return list(Entry.model_fields)
    if names[:1] == ["published"] and "rows" in names:
        return list(ReferenceRow.model_fields)
    if not names:
        return [field for field in Spec.model_fields if field not in ("name", "question", "place")]
    return list(_MODELS[names[-1]].model_fields) if names[-1] in _MODELS else []


@cache
def load_specs(folder: Path = FOLDER) -> dict[str, Spec]:
    """{name: Spec} in the order of the report. All problems of all files at once."""
    specs: list[Spec] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            specs.append(load_spec(path))
        except RequestError as error:
            problems += error.problems
    if problems:
        raise RequestError(problems)
    return {spec.name: spec for spec in sorted(specs, key=lambda spec: (spec.order, spec.name))}


def chosen(names: tuple[str, ...], specs: dict[str, Spec]) -> list[Spec]:
    """The specs of these names, all when none is given; `table:NAME` is NAME. Unknown names are refused with what is known."""
    names = tuple(re.sub(r"^(table|figure):", "", name) for name in names)
    problems = [
        f"unknown table or figure '{name}'; {known(name, specs)}" for name in names if name not in specs
    ]
    if problems:
        raise RequestError(problems)
    return [specs[name] for name in names] if names else list(specs.values())
