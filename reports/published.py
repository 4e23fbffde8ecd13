"""Values printed in papers, beside which ours are set: `reports/published/<paper>.yaml`, one file per paper.

Only values that were read in the named source are there; an unread place is `null` or stands under `unknown`. Values are in
percent. `unresolved` and `unstated` mark what the source does not say; they are never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from ham_core import yamlfile
from ham_core.errors import RequestError, known

FOLDER = Path(__file__).parent / "published"


class Part(BaseModel):
    """Frozen; unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Number(Part):
    """A printed value and the number behind its ±, if there is one. Written `82.3` or `82.3 ± 0.8`."""

    value: float
    spread: float | None = None
    printed: str  # with the digits of the file

    @model_validator(mode="before")
    @classmethod
    def _printed(cls, value: Any) -> Any:
        text = str(value)
        number, _, spread = text.partition(" ± ")
        return {"value": float(number), "spread": float(spread) if spread else None, "printed": text}


class Column(Part):
    """What one column measures."""

    attack: str  # clean, pgd20, ...; unstated = robust, attack not named; unresolved = meaning not settled
    stat: str  # avg, worst, worst20, class NAME
    checkpoint: str | None = None
    printed: str | None = None  # heading as printed; "A | B" = group, column


class Row(Part):
    """One printed line. Its own model, checkpoint, source or note override the table's."""

    method: str
    values: tuple[Number | None, ...]
    model: str | None = None
    checkpoint: str | None = None
    source: str | None = None
    note: str | None = None
    classes: dict[str, tuple[float, ...]] = {}  # attack -> class-wise values in `class_order`


class Table(Part):
    """One published table, or what stands in for it."""

    id: str
    where: str
    kind: Literal["table", "text", "released_log", "leaderboard", "repository_readme"]
    dataset: str
    quantity: Literal["accuracy", "error", "unresolved"]
    source: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    model: str | None = None
    checkpoint: str | None = None
    spread: str | None = None  # what the number after ± is
    conditions: dict[str, str] = {}
    class_order: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _rectangular(self) -> Table:
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(
                    f"row '{row.method}' has {len(row.values)} values for {len(self.columns)} columns; write null where "
                    "the source prints none"
                )
        return self


class Paper(Part):
    """One source of published values. `total` is the number of values it must hold."""

    key: str
    title: str
    venue: str
    total: int
    tables: tuple[Table, ...]
    authors: str | None = None
    arxiv: str | None = None
    code: str | None = None
    settings: dict[str, Any] = {}
    scripts: tuple[dict[str, Any], ...] = ()
    rho: tuple[dict[str, Any], ...] = ()
    text_values: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    unknown: tuple[dict[str, str], ...] = ()

    @field_validator("unknown", "notes", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return value or ()

    @model_validator(mode="after")
    def _complete(self) -> Paper:
        count = sum(1 for _ in self.values())
        if count != self.total:
            raise ValueError(f"holds {count} values where its total says {self.total}")
        return self

    @property
    def short(self) -> str:
        """How a table names the paper."""
        return f"{self.title} ({self.venue}{f', arXiv:{self.arxiv}' if self.arxiv else ''})"

    def table(self, name: str) -> Table:
        """One of its tables by id."""
        for table in self.tables:
            if table.id == name:
                return table
        raise RequestError(
            f"unknown table '{name}' of {self.key}; {known(name, (t.id for t in self.tables))}"
        )

    def values(self) -> Iterator[Value]:
        """Every printed value with all its conditions."""
        for table in self.tables:
            for row in table.rows:
                for column, number in zip(table.columns, row.values, strict=True):
                    if number is not None:
                        yield Value(self, table, row, column, number)


@dataclass(frozen=True)
class Value:
    """One printed number with everything that is known about it."""

    paper: Paper
    table: Table
    row: Row
    column: Column
    number: Number

    @property
    def checkpoint(self) -> str:
        """The checkpoint the source names, or its words that it names none."""
        return self.column.checkpoint or self.row.checkpoint or self.table.checkpoint or "not stated"

    @property
    def model(self) -> str:
        """The network."""
        return self.row.model or self.table.model or "not stated"

    @property
    def source(self) -> str:
        """Where the number was read."""
        return self.row.source or self.table.source

    @property
    def text(self) -> str:
        """As printed."""
        return self.number.printed


@cache
def load_papers(folder: Path = FOLDER) -> dict[str, Paper]:
    """{key: Paper} of every file; all problems at once."""
    papers: dict[str, Paper] = {}
    problems: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        document = yamlfile.load(path, f"reports/published/{path.name}" if folder == FOLDER else str(path))
        try:
            paper = Paper.model_validate(document.value)
            papers[paper.key] = paper
        except ValidationError as error:
            problems += [
                f"{document.place(item['loc'])}: {'.'.join(map(str, item['loc']))}: {item['msg']}"
                for item in error.errors()
            ]
    if problems:
        raise RequestError(problems)
    return papers


def paper(key: str) -> Paper:
    """One paper by key."""
    papers = load_papers()
    if key not in papers:
        raise RequestError(f"unknown published source '{key}'; {known(key, papers)}")
    return papers[key]
