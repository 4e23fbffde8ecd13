"""A statistic over pairs of settings: cells for a grid, with their numbers or, where those are many, contour lines; coloured
points for a search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from reports.collect import Trial
from reports.figures.base import NOTHING_YET, Canvas, FigurePart, Lacking
from reports.figures.class_series import has
from reports.figures.sensitivity import tick
from reports.figures.style import INK, PAGE, PERCENT, ink_on, sequential

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NUMBERS = 6  # cells side by side that have room for one


class Pair(FigurePart):
    """One panel: two settings, the trials of a grid, and what their other settings must be."""

    x: str
    y: str
    x_title: str
    y_title: str
    grid: str | None = None  # that of the spec where none is named
    where: Mapping[str, float | int | str] = {}


class Surface(FigurePart):
    """Pairs of settings side by side, all on one scale."""

    kind: Literal["surface"]
    metric: str
    title: str  # of the scale
    pairs: tuple[Pair, ...] = Field(min_length=1, max_length=4)


Cells = dict[tuple[Any, Any], list[float]]


def paint(canvas: Canvas, part: Surface) -> str:
    """Means over seeds; the best cell or point has a frame."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    found = [_cells(canvas, part, pair) for pair in part.pairs]
    means = [{key: sum(values) / len(values) for key, values in cells.items()} for cells in found]
    everything = [value for cells in means for value in cells.values()]
    if not everything:
        raise Lacking(NOTHING_YET)
    empty = [
        f"{pair.x_title} x {pair.y_title}" for pair, cells in zip(part.pairs, means, strict=True) if not cells
    ]
    if empty:
        raise Lacking(f"{NOTHING_YET} ({', '.join(empty)})")
    low, high = min(everything), max(everything)
    scale = ScalarMappable(Normalize(low, high if high > low else low + 1), sequential())
    figure = canvas.figure
    figure.set_size_inches(PAGE if len(part.pairs) > 1 else PAGE / 2 + 0.4, 2.75)
    panels = figure.subplots(1, len(part.pairs), squeeze=False)[0]
    canvas.series_kind("heat", "setting", part.title)
    for axes, pair, cells in zip(panels, part.pairs, means, strict=True):
        xs, ys = _values(cells, 0), _values(cells, 1)
        regular = len(cells) == len(xs) * len(ys)
        (_grid if regular else _points)(canvas, axes, pair, cells, scale)
        axes.set_xlabel(pair.x_title)
        axes.set_ylabel(pair.y_title)
    bar = figure.colorbar(scale, ax=list(panels), shrink=0.9, aspect=25, pad=0.02)
    bar.set_label(part.title)
    bar.outline.set_visible(False)
    best = [max(cells, key=lambda key, cells=cells: cells[key]) for cells in means]  # type: ignore[misc]
    return f"{part.title}: " + "; ".join(
        f"best {cells[key]:.1f} at {pair.x_title} {tick(key[0])}, {pair.y_title} {tick(key[1])}"
        for pair, cells, key in zip(part.pairs, means, best, strict=True)
    )


def _cells(canvas: Canvas, part: Surface, pair: Pair) -> Cells:
    """(x, y) -> one value per trial, in percent, of the trials that have both settings and are of the spec's protocol."""
    members: Sequence[Trial] = canvas.trials
    if pair.grid is not None:
        same = {trial.protocol for trial in canvas.trials}
        members = [t for t in canvas.material.of_grid(pair.grid) if t.finished and t.protocol in same]
    cells: Cells = {}
    for trial in members:
        value = trial.metric(part.metric)
        if value is None or not has(trial, pair.where):
            continue
        try:
            key = (trial.setting(pair.x), trial.setting(pair.y))
        except KeyError:
            continue
        cells.setdefault(key, []).append(value * PERCENT)
    return cells


def _values(cells: Mapping[tuple[Any, Any], float], which: int) -> list[Any]:
    return sorted({key[which] for key in cells}, key=lambda value: (isinstance(value, str), value))


def _grid(canvas: Canvas, axes: Axes, pair: Pair, cells: Mapping[tuple[Any, Any], float], scale: Any) -> None:
    """One cell per pair of values, evenly spaced."""
    from matplotlib.patches import Rectangle

    xs, ys = _values(cells, 0), _values(cells, 1)
    table = [[cells[x, y] for x in xs] for y in ys]
    axes.pcolormesh(range(len(xs) + 1), range(len(ys) + 1), table, cmap=scale.cmap, norm=scale.norm)
    flat = [value for row in table for value in row]
    numbered = len(xs) <= MOST_NUMBERS
    if not numbered and len(ys) > 1 and max(flat) > min(flat):
        middles = [index + 0.5 for index in range(len(xs))], [index + 0.5 for index in range(len(ys))]
        axes.contour(*middles, table, levels=4, colors=INK, linewidths=0.6, alpha=0.6)
    best = max(cells, key=lambda key: cells[key])
    for row, y in enumerate(ys):
        series = canvas.marks.new(f"{pair.y_title} {tick(y)}", f"{pair.x_title} x {pair.y_title}")
        for column, x in enumerate(xs):
            value = cells[x, y]
            color = ink_on(scale.to_rgba(value))
            if numbered:
                look = {"ha": "center", "va": "center", "fontsize": 7.5, "color": color}
                axes.text(column + 0.5, row + 0.5, f"{value:.1f}", **look)
            label = f"{pair.x_title} {tick(x)}, {pair.y_title} {tick(y)}: {value:.1f} %"
            series.box(axes, (column, row, column + 1, row + 1), tick(x), value, label=label)
    column, row = xs.index(best[0]), ys.index(best[1])
    axes.add_patch(
        Rectangle((column + 0.03, row + 0.03), 0.94, 0.94, fill=False, edgecolor="#d55e00", linewidth=1.6)
    )
    axes.set_xticks([index + 0.5 for index in range(len(xs))], [tick(x) for x in xs])
    axes.set_yticks([index + 0.5 for index in range(len(ys))], [tick(y) for y in ys])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _points(
    canvas: Canvas, axes: Axes, pair: Pair, cells: Mapping[tuple[Any, Any], float], scale: Any
) -> None:
    """A mark per point of a search, coloured by the statistic."""
    xs, ys = (_places(_values(cells, which)) for which in (0, 1))
    best = max(cells, key=lambda key: cells[key])
    series = canvas.marks.new(f"{pair.x_title} x {pair.y_title}")
    for key, value in sorted(cells.items(), key=lambda item: item[1]):
        x, y = xs[key[0]], ys[key[1]]
        edge = (
            {"markeredgecolor": "#d55e00", "markeredgewidth": 1.8}
            if key == best
            else {"markeredgecolor": INK}
        )
        axes.plot(x, y, "o", color=scale.to_rgba(value), markersize=8, **edge)
        label = f"{pair.x_title} {tick(key[0])}, {pair.y_title} {tick(key[1])}: {value:.1f} %"
        series.box(axes, (x, y, x, y), tick(key[0]), value, label=label)
    axes.grid()
    axes.margins(0.1)


def _places(values: Sequence[Any]) -> dict[Any, float]:
    numeric = all(isinstance(value, int | float) for value in values)
    return {value: float(value) if numeric else float(index) for index, value in enumerate(values)}
