"""The numbers of a drawing, beside the drawing: for hovering, for readers who cannot see it, and for tests.

`Marks.data()`, kept as `Drawing.data`, is plain JSON:

    {"kind": "points" | "lines" | "bars" | "heat", "title": "...", "x": "label of x", "y": "label of y",
     "series": [{"name": "AT", "panel": "PGD-20", "x": [...], "y": [...], "low": [...], "high": [...], "label": [...]}, ...]}

The lists of a series are equally long; x is a number or the name of a class or a column; low and high are null where there is
no interval; label is one line of text per number. In the SVG, number `index` of series `series` is the element

    id="pt-<series>-<index>"        a circle (points, lines) or a rectangle (bars, cells) over what is drawn, without ink

and what is drawn of a series (its line, band, bars) carries ids `sr-<series>-<n>`. Those of a series that share a legend
entry share its name. PNG and PDF know nothing of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Kind = Literal["points", "lines", "bars", "heat"]
DIGITS = 4  # of the numbers in `data`
RADIUS = 4.0  # points around a mark that answer to the mouse
POINTS_PER_INCH = 72


@dataclass
class Mark:
    """One number, and where it is: a point (left = right, bottom = top) or a box, in data of its axes."""

    x: float | str
    y: float | None
    low: float | None
    high: float | None
    label: str
    axes: Axes
    box: tuple[float, float, float, float]  # left, bottom, right, top


@dataclass
class MarkSeries:
    """The numbers under one name in one panel."""

    number: int
    name: str
    panel: str = ""
    marks: list[Mark] = field(default_factory=list)
    drawn: int = 0

    def point(
        self,
        axes: Axes,
        x: float,
        y: float,
        *,
        low: float | None = None,
        high: float | None = None,
        label: str = "",
        name: str | None = None,
    ) -> None:
        """A number at (x, y); `name` stands for x where x is only a place."""
        self.marks.append(Mark(x if name is None else name, y, low, high, label, axes, (x, y, x, y)))

    def box(
        self,
        axes: Axes,
        box: tuple[float, float, float, float],
        x: float | str,
        y: float | None,
        *,
        low: float | None = None,
        high: float | None = None,
        label: str = "",
    ) -> None:
        """A number as a box (left, bottom, right, top)."""
        self.marks.append(Mark(x, y, low, high, label, axes, box))

    def own(self, *artists: Any) -> None:
        """What is drawn of it."""
        for artist in artists:
            if artist is not None:
                artist.set_gid(f"sr-{self.number}-{self.drawn}")
                self.drawn += 1


@dataclass
class Marks:
    """All series of a drawing."""

    kind: Kind = "points"
    title: str = ""
    x: str = ""
    y: str = ""
    series: list[MarkSeries] = field(default_factory=list)

    def new(self, name: str, panel: str = "") -> MarkSeries:
        """The next series."""
        self.series.append(MarkSeries(len(self.series), name, panel))
        return self.series[-1]

    def data(self) -> dict[str, Any] | None:
        """As JSON; None for a drawing that names no numbers."""
        if not any(one.marks for one in self.series):
            return None
        return {
            "kind": self.kind,
            "title": self.title,
            "x": self.x,
            "y": self.y,
            "series": [
                {
                    "name": one.name,
                    "panel": one.panel,
                    "x": [_round(mark.x) for mark in one.marks],
                    "y": [_round(mark.y) for mark in one.marks],
                    "low": [_round(mark.low) for mark in one.marks],
                    "high": [_round(mark.high) for mark in one.marks],
                    "label": [mark.label for mark in one.marks],
                }
                for one in self.series
            ],
        }

    def into_svg(self, figure: Figure, svg: bytes) -> bytes:
        """The SVG that this figure has just been saved as, with an element over each mark."""
        shapes = [
            _shape(figure, mark, f"pt-{one.number}-{index}")
            for one in self.series
            for index, mark in enumerate(one.marks)
        ]
        if not shapes:
            return svg
        layer = (
            '<g id="marks" fill="none" stroke="none" pointer-events="all">\n' + "\n".join(shapes) + "\n</g>\n"
        )
        end = svg.rindex(b"</svg>")
        return svg[:end] + layer.encode() + svg[end:]


def _round(value: float | str | None) -> float | str | None:
    return round(float(value), DIGITS) if isinstance(value, int | float) else value


def _shape(figure: Figure, mark: Mark, name: str) -> str:
    """A circle for a point, a rectangle for a box; SVG counts from the upper left corner, in points."""
    left, bottom, right, top = mark.box
    corners = mark.axes.transData.transform([(left, bottom), (right, top)]) / figure.dpi * POINTS_PER_INCH
    height = figure.get_size_inches()[1] * POINTS_PER_INCH
    (x0, y0), (x1, y1) = ((float(x), height - float(y)) for x, y in corners)
    if (left, bottom) == (right, top):
        return f'<circle id="{name}" cx="{x0:.2f}" cy="{y0:.2f}" r="{RADIUS:g}"/>'
    x, y, wide, high = min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0)
    return f'<rect id="{name}" x="{x:.2f}" y="{y:.2f}" width="{wide:.2f}" height="{high:.2f}"/>'


def interval_text(mean: float, low: float | None, high: float | None, unit: str = " %") -> str:
    """`43.0 % (41.2 to 44.8)`."""
    between = "" if low is None or high is None else f" ({low:.1f} to {high:.1f})"
    return f"{mean:.1f}{unit}{between}"


def joined(words: Sequence[str], most: int = 6) -> str:
    """`AT, TRADES and 3 more`."""
    shown = list(words[:most])
    return ", ".join(shown) + (f" and {len(words) - most} more" if len(words) > most else "")
