"""A text of one's own whose numbers, tables and pictures come from the report: a Jinja2 template -> the text beside it.

    docs/study/README.md.j2  ->  docs/study/README.md, docs/study/pictures/*.png

    {{ cell("ham-main", "at", "PGD-20 worst") }}                12.3 ± 1.1 %
    {{ difference("ham-differences", "trades", "PGD-20 worst") }}
                                                                higher by 4.1 points (95 % interval 1.0 to 7.2, paired over
                                                                4 seeds, p = 0.02)
    {{ table("ham-main") }}                                     the whole table, with its footnotes
    {{ figure("pareto") }}                                      the picture; what it shows in words for who cannot see it
    {{ setting("epochs") }}                                     what was recorded alike of all trials of the sweep
    {{ total("time/train_s") }}                                 a series added up over all epochs of all trials
    {{ largest("val/pgd10/worst", "cfa-at") }}                  its largest value over all trials, or those of one method
    {{ count("trials") }}, {{ count("seeds") }}, {{ count("methods") }}
    {{ sources() }}                                             the numbers named above it, each with its `ham explain`

So no number has to be typed, and a number that is not there any more is found when the text is made again, not by a reader.
Cells and differences carry `.mean`, `.low`, `.high`, `.n`; a difference also `.p` and `.verdict`, for `{% if %}`. Whatever a
template asks for and nobody has is one sentence with its line; all of them at once, and then nothing is written.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from ham_core.errors import RequestError, known
from ham_core.folder import unwritable
from reports import Request
from reports.builder import materials, restricted
from reports.collect import ABSENT, Material, readable
from reports.figures import Drawing, Lacking, drawn
from reports.manifest import write
from reports.provenance import place_of
from reports.render import markdown
from reports.spec import Spec, load_specs
from reports.statistics import LEVEL, paired_p
from reports.tables import Cell, Head, Table, tables_of

if TYPE_CHECKING:
    from jinja2 import Template

ENDING = ".j2"
KINDS = (".md",)  # of texts: those whose tables we can write
PICTURES = "pictures"
EMPTY = "?"  # stands for what is missing, in a text that is not written then


@dataclass(frozen=True)
class Number:
    """A cell of a table, as a text names it: `12.3 ± 1.1 %`."""

    cell: Cell
    head: Head

    def __str__(self) -> str:
        unit = f" {self.head.unit}" if self.head.unit else ""
        lacking = f" ({self.seeds})" if self.cell.n < self.cell.expected else ""
        return f"{self.cell.text}{unit}{lacking}"

    @property
    def seeds(self) -> str:
        """`3 seeds`, or `2 of 3 seeds` where some are missing."""
        several = "" if self.cell.expected == 1 else "s"
        of = f" of {self.cell.expected}" if self.cell.n < self.cell.expected else ""
        return f"{self.cell.n}{of} seed{several}"

    @property
    def mean(self) -> float | None:
        """In the printed unit."""
        return self.cell.mean

    @property
    def low(self) -> float | None:
        """Lower end of the interval, None where there is none."""
        return self.cell.low

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return self.cell.high

    @property
    def n(self) -> int:
        """Seeds behind it."""
        return self.cell.n


class Difference(Number):
    """A cell of a column that subtracts another method's trial of the same seed, worded by its interval."""

    def __str__(self) -> str:
        mean, low, high = self.mean or 0.0, self.low, self.high
        unit = " points" if self.head.unit == "%" else ""
        if low is None or high is None:
            return f"{mean:+.1f}{unit}, of one seed, so nothing is shown"
        level = f"{LEVEL * 100:g} % interval {low:+.1f} to {high:+.1f}"
        how = f"{level}, paired over {self.seeds}, p = {self.p:.2g}"
        if self.verdict in ("higher", "lower"):
            return f"{self.verdict} by {abs(mean):.1f}{unit} ({how})"
        return f"not shown to differ: {mean:+.1f}{unit} ({how})"

    @property
    def short(self) -> str:
        """For a line of a table: `+4.1 [+1.0, +7.2]`, the difference in bold where the interval leaves 0 out."""
        mark = "**" if self.verdict in ("higher", "lower") else ""
        interval = "" if self.low is None else f" [{self.low:+.1f}, {self.high:+.1f}]"
        return f"{mark}{self.mean:+.1f}{mark}{interval}"

    @property
    def p(self) -> float:
        """Of the paired t test, which the interval belongs to: two-sided, not adjusted for other comparisons."""
        return paired_p([value.value for value in self.cell.values])

    @property
    def verdict(self) -> str:
        """`higher` or `lower` where the interval leaves 0 out, else `not shown`."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "not shown"
        return "higher" if self.low > 0 else "lower"


@dataclass
class Text:
    """A template's text and pictures. `pictures`: path below the text's folder -> PNG."""

    text: str = ""
    pictures: dict[str, bytes] = field(default_factory=dict)


def write_document(template: Path, request: Request) -> list[Path]:
    """Make the text of a template anew from the newest recorded sweep (or the one asked for) -> the text, its pictures.

    Whatever is wrong is a RequestError before anything is written."""
    target = target_of(template)
    if reason := unwritable(target.parent):
        raise RequestError(
            f"--document: {target} cannot be written ({reason}); copy the template to a folder of yours"
        )
    (source, *_) = restricted(materials(request.uri, request.sweep, request.store), request.protocols)
    made = rendered(template, source)
    pictures = {target.parent / path: content for path, content in made.pictures.items()}
    for path, content in (*pictures.items(), (target, made.text.encode())):  # the text last: it shows them
        write(path, content)
    return [target, *pictures]


def target_of(template: Path) -> Path:
    """README.md.j2 -> README.md. RequestError: it is no template, or of a kind that tables are not written for."""
    if template.suffix != ENDING or template.with_suffix("").suffix not in KINDS:
        kinds = ", ".join(f"*{kind}{ENDING}" for kind in KINDS)
        raise RequestError(f"--document: '{template}' is no template by its name; allowed: {kinds}")
    if not template.is_file():
        raise RequestError(
            f"--document: no file '{template}'; docs/reporting.md shows what a template looks like"
        )
    return template.with_suffix("")


def rendered(template: Path, source: Material) -> Text:
    """The text and its pictures. RequestError: a sentence for everything that it asks for and nobody has."""
    from jinja2 import Environment, StrictUndefined, TemplateSyntaxError

    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    try:
        page = environment.from_string(template.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{template}: is no text in UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None
    except TemplateSyntaxError as error:
        raise RequestError(f"{template}:{error.lineno}: {error.message}") from None
    asked = _Asked(source, template, page)
    try:
        text = page.render(asked.functions)
    except Exception as error:
        # Whatever a template does with an answer. Where answers are missing that is why, and they are what is told.
        own = f"{template}:{_line_of(error)}: {error}; a template may ask for {', '.join(asked.functions)}"
        raise RequestError(list(dict.fromkeys(asked.problems)) or own) from None
    if asked.problems:
        raise RequestError(list(dict.fromkeys(asked.problems)))
    return Text(text, asked.pictures)


def _line_of(error: Exception) -> int:
    """Of the template, where an error of its own was raised: Jinja puts its lines into the traceback."""
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return lines[-1] if lines else 1


class _Asked:
    """What a template may ask for. A question without an answer becomes a problem, and the template goes on."""

    def __init__(self, source: Material, template: Path, page: Template) -> None:
        self.problems: list[str] = []
        self.pictures: dict[str, bytes] = {}
        self._cells: dict[tuple[str, str, str], Cell] = {}  # (table, row, column) as printed -> cell
        self._source, self._template, self._page = source, template, page
        self._tables = cache(self._tables_of)

    @property
    def functions(self) -> dict[str, Callable[..., Any]]:
        """By the names that templates call them."""
        numbers = (self.cell, self.difference, self.setting, self.total, self.largest, self.count)
        asked = (*numbers, self.table, self.figure, self.sources)
        return {function.__name__: self._watched(function) for function in asked}

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def answer(*words: Any, **more: Any) -> Any:
            try:
                signature(function).bind(*words, **more)
            except TypeError as error:
                self.problems.append(f"{self._template}:{self._line()}: {function.__name__}: {error}")
                return EMPTY
            try:
                return function(*words, **more)
            except RequestError as error:
                self.problems += [f"{self._template}:{self._line()}: {problem}" for problem in error.problems]
                return EMPTY

        return answer

    def _line(self) -> int:
        """Of the template, where it asks: the nearest frame that runs its code."""
        frame = sys._getframe()
        while frame is not None and frame.f_globals.get("__jinja_template__") is not self._page:
            frame = frame.f_back  # type: ignore[assignment]
        return self._page.get_corresponding_lineno(frame.f_lineno) if frame is not None else 1

    # what a template calls ---------------------------------------------------------------------------------------------

    def cell(self, table: str, row: str, column: str) -> Number:
        """One number of a table."""
        return Number(*self._found(table, row, column)[:2])

    def difference(self, table: str, row: str, column: str) -> Difference:
        """One number of a column that subtracts a method."""
        cell, head, place = self._found(table, row, column)
        if not self._spec(table).columns[place].minus:
            able = [name for name, one in load_specs().items() if any(c.minus for c in one.columns)]
            raise RequestError(
                f"column '{head.full}' of table '{table}' subtracts no method; tables that do: {', '.join(able)}"
            )
        return Difference(cell, head)

    def table(self, name: str) -> str:
        """All of a table, with heading and footnotes, as its own file has it."""
        return markdown.render(self._tables(name)).rstrip()

    def figure(self, name: str) -> str:
        """A picture with what it shows; it goes to pictures/NAME.png."""
        spec = self._spec(name)
        try:
            found: Drawing = drawn(spec, self._source, ("png",))
        except Lacking as reason:
            raise RequestError(f"figure '{name}' waits for {reason}") from None
        path = f"{PICTURES}/{name}.png"
        self.pictures[path] = found.files["png"]
        return f"![{found.title}. {found.alt}]({path})"

    def setting(self, key: str) -> str:
        """A recorded setting that all trials of the sweep share."""
        found: dict[str, list[str]] = {}
        for trial in self._source.trials:
            if trial.run is not None:
                found.setdefault(trial.run.params.get(key, ""), []).append(trial.label)
        if len(found) > 1:
            those = "; ".join(f"{value or 'none'}: {labels[0]}" for value, labels in found.items())
            raise RequestError(f"trials differ in '{key}' ({those}), so the sweep has no one value of it")
        (value,) = found or ("",)
        if value in ABSENT:
            keys = sorted({key for trial in self._source.trials if trial.run for key in trial.run.params})
            raise RequestError(f"no trial has a setting '{key}'; {known(key, keys)}")
        return readable(key, value)

    def total(self, series: str) -> float:
        """A series, such as time/train_s, added up over all epochs of all finished trials."""
        return sum(self._points(series))

    def largest(self, series: str, method: str | None = None) -> float:
        """The largest value of a series over all epochs of all finished trials, or of those of one method."""
        return max(self._points(series, method))

    def _points(self, series: str, method: str | None = None) -> list[float]:
        history = self._source.history(series)
        labels = {trial.label for trial in self._source.trials}
        if method is not None and method not in labels:
            raise RequestError(f"the sweep has no method '{method}'; {known(method, labels)}")
        chosen = [trial for trial in self._source.trials if method in (None, trial.label)]
        points = [value for trial in chosen for _, value in history.get(trial.fingerprint, ())]
        if not points:
            raise RequestError(
                f"no trial has a series '{series}'; for example time/train_s, train/passes/forward"
            )
        return points

    def count(self, what: str) -> int:
        """How many finished trials, or their seeds or methods."""
        done = [trial for trial in self._source.trials if trial.finished]
        counts = {
            "trials": len(done),
            "seeds": len({trial.seed for trial in done}),
            "methods": len({trial.label for trial in done}),
        }
        if what not in counts:
            raise RequestError(f"cannot count '{what}'; {known(what, counts)}")
        return counts[what]

    def sources(self) -> str:
        """A list of the cells that were named so far, and what to type to see the runs, seeds and formula behind each."""
        lines = ["| number | runs, seeds and formula behind it |", "|---|---|"]
        for (table, row, column), cell in sorted(self._cells.items()):
            lines.append(f"| {cell.text} | `ham explain {table} {shlex.quote(row)} {shlex.quote(column)}` |")
        return "\n".join(lines)

    # where the answers come from ---------------------------------------------------------------------------------------

    def _spec(self, name: str) -> Spec:
        specs = load_specs()
        if name not in specs:
            raise RequestError(f"unknown table or figure '{name}'; {known(name, specs)}")
        return specs[name]

    def _tables_of(self, name: str) -> Sequence[Table]:
        spec = self._spec(name)
        if not spec.is_table:
            raise RequestError(f"'{name}' is a figure; write figure(\"{name}\")")
        return tables_of(spec, self._source)

    def _found(self, name: str, row: str, column: str) -> tuple[Cell, Head, int]:
        """A cell with a number in it, its column and which one that is."""
        table, r, c = place_of(self._tables(name), name, row, column)
        cell = table.cells[r][c]
        if cell.mean is None:
            why = cell.waits or "nothing stands there"
            raise RequestError(f"table '{name}', row '{row}', column '{column}': {why}")
        self._cells[name, table.rows[r].title, table.columns[c].full] = cell
        return cell, table.columns[c], c
