"""Every trial as a point; the front holds the trials that no other beats in both statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from reports.figures.base import NOTHING_YET, Canvas, FigurePart, Lacking
from reports.figures.style import INK, MUTED, PERCENT, Style, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Panel(FigurePart):
    """One pair of statistics; `title` tells it from its neighbours."""

    title: str = ""
    x: str
    y: str


class Pareto(FigurePart):
    """Every trial as a point; the front holds the trials that no other beats in both. Panels share their axes."""

    kind: Literal["pareto"]
    panels: tuple[Panel, ...] = Field(min_length=1)
    x_title: str
    y_title: str


def paint(canvas: Canvas, part: Pareto) -> str:
    """Small marks are trials, large ones means over seeds. A panel for which nothing was measured is left out."""
    styles, figure = canvas.styles, canvas.figure
    shown = [(panel, _points(canvas, panel)) for panel in part.panels]
    shown = [(panel, groups) for panel, groups in shown if groups]
    if not shown:
        raise Lacking(NOTHING_YET)
    figure.set_size_inches(5.2 if len(shown) == 1 else 3.6 * len(shown), 3.7)
    places = figure.subplots(1, len(shown), squeeze=False, sharex=True, sharey=True)[0]
    canvas.series_kind("points", part.x_title, part.y_title)
    handles: dict[str, Any] = {}
    words = []
    for axes, (panel, groups) in zip(places, shown, strict=True):
        for title, points in groups.items():
            name = f"{panel.title} {{x:.1f}} %, {{y:.1f}} %".strip()
            handles[title] = cloud(canvas, axes, title, points, styles[title], name, panel.title)
        everything = [(x, y) for points in groups.values() for x, y, _ in points]
        best = front(everything)
        draw_front(axes, best)
        axes.set_title(panel.title)
        axes.set_xlabel(part.x_title)
        axes.grid()
        axes.margins(0.12)
        said = f"{len(everything)} trials; {len(best)} of them on the Pareto front."
        words.append(f"{panel.title}: {said}" if panel.title else said)
    places[0].set_ylabel(part.y_title)
    legend(figure, list(handles.values()), list(handles))
    return " ".join(words)


def _points(canvas: Canvas, panel: Panel) -> dict[str, list[tuple[float, float, int]]]:
    """title of a method -> (x, y, seed) of its trials, in percent; those without numbers left out."""
    found = {}
    for title, members in canvas.groups.items():
        pairs = [(trial.metric(panel.x), trial.metric(panel.y), trial.seed) for trial in members]
        points = [(x * PERCENT, y * PERCENT, seed) for x, y, seed in pairs if x is not None and y is not None]
        if points:
            found[title] = points
    return found


def cloud(
    canvas: Canvas,
    axes: Axes,
    title: str,
    points: Sequence[tuple[float, float, int]],
    style: Style,
    words: str,
    panel: str = "",
) -> Any:
    """The trials of one method (x, y, seed) as small marks, their mean as a large one -> the large one. `words`: x and y."""
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    (small,) = axes.plot(
        xs, ys, style.marker, color=style.color, markersize=4.5, alpha=0.55, markeredgewidth=0, zorder=3
    )
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    (mean,) = axes.plot(
        mean_x,
        mean_y,
        style.marker,
        color=style.color,
        markersize=9.5,
        markeredgecolor=INK,
        markeredgewidth=0.8,
        zorder=4,
    )
    series = canvas.marks.new(title, panel)
    series.own(small, mean)
    for x, y, seed in points:
        series.point(axes, x, y, label=f"{title}, seed {seed}: {words.format(x=x, y=y)}")
    if len(points) > 1:
        series.point(
            axes,
            mean_x,
            mean_y,
            label=f"{title}, mean of {len(points)} seeds: {words.format(x=mean_x, y=mean_y)}",
        )
    return mean


def draw_front(axes: Axes, best: Sequence[tuple[float, float]], *, at_end: bool = False) -> None:
    """The Pareto front as a dashed line with its name, in its middle or right of its end."""
    axes.plot(
        [x for x, _ in best],
        [y for _, y in best],
        color=MUTED,
        linewidth=1.1,
        linestyle=(0, (4, 2)),
        zorder=2,
    )
    place, shift = (best[-1], (8, -2)) if at_end else (best[len(best) // 2], (7, 7))
    axes.annotate("Pareto front", place, shift, textcoords="offset points", color=MUTED, fontsize=7.5)


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in one coordinate without losing in the other, by rising x. Larger is better."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(set(points), reverse=True):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best[::-1]
