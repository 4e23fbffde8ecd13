"""What a table or a figure is made of: one YAML file each, `reports/specs/<name>.yaml`.

The first comment lines of a file say the question it answers and the command that builds it. A file with `columns` is a
table (and may draw a `figure` of the same rows); a file with only `figure` is a figure. Specs name grids of a sweep, never a
sweep: they apply to every sweep that plans the grid.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ham_core import yamlfile
from ham_core.errors import RequestError, known
from ham_core.metrics import STATISTICS
from reports.figures import kinds

FOLDER = Path(__file__).parent / "specs"
RESULT = re.compile(
    rf"(?P<weights>(?:best|best_sum|best_worst|last)(?:_\w+)?)/(?P<attack>[a-z][a-z0-9_]*)/"
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
    return name


class Trials(Part):
    """Which trials of a sweep take part: those of one of its named grids."""

    grid: str


class Rows(Part):
    """One row per method label, or per value of a swept setting."""

    by: str = "method"  # "method", or a dotted setting such as method.mining.early_drop_step
    title: str = "Method"
    only: tuple[str, ...] | None = None  # labels, when not every method of the grid is wanted
    format: str = "{value}"  # how a swept value is printed


class Column(Part):
    """One statistic. Without `reduce` it is a final metric; with it, a series reduced over the epochs of a trial."""

    title: str
    metric: tuple[str, ...]  # several are added, for example the three kinds of passes
    group: str = ""
    better: Better | None = None  # default: lower for std, gap and everything that is no accuracy
    reduce: Literal["sum", "mean", "last"] | None = None
    per: str | None = None  # divide by this series, reduced in the same way
    scale: float = 1.0  # multiplies numbers that are no accuracies
    formula: str | None = None  # in words, when the default sentence would not say it
    cell: str | None = None

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

    @property
    def accuracy(self) -> bool:
        """A share in [0, 1] that is printed in percent."""
        return all(RESULT.fullmatch(name) for name in self.metric)

    @property
    def weights(self) -> str | None:
        """Which weights of a trial were evaluated: `best`, `last_ema`, ..."""
        found = RESULT.fullmatch(self.metric[0])
        return found["weights"] if found else None

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


class ReferenceColumn(Part):
    """One column of a published table, picked by its conditions."""

    title: str
    stat: str
    attack: str
    checkpoint: str | None = None
    printed: str | None = None
    beside: str | None = None  # our metric that it stands next to, where it measures the same thing


class Reference(Part):
    """Published values set beside ours."""

    paper: str
    table: str
    title: str
    reason: str  # why a difference between the two is no verdict
    rows: dict[str, str]  # our row -> their method
    columns: tuple[ReferenceColumn, ...] = Field(min_length=1)
    data: tuple[str, ...] | None = None  # only beside sweeps on these data labels


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

    @property
    def needs_runs(self) -> bool:
        """Whether it shows trials; a figure that is computed does not."""
        return bool(self.columns) or self.figure is None or self.figure.needs_runs

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
    if not spec.columns and spec.figure is None:
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
    "published": Reference,
    **kinds.MODELS,
}


def _fields(location: tuple[Any, ...]) -> list[str]:
    """The keys that are allowed at a place of a spec."""
    names = [part for part in location if isinstance(part, str)]
    if names[:1] == ["published"] and "columns" in names:
        return list(ReferenceColumn.model_fields)
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
    """The specs of these names, all when none is given; unknown names are refused with what is known."""
    problems = [
        f"unknown table or figure '{name}'; {known(name, specs)}" for name in names if name not in specs
    ]
    if problems:
        raise RequestError(problems)
    return [specs[name] for name in names] if names else list(specs.values())
