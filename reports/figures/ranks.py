"""Average ranks of methods over data sets on one axis; a bar joins methods that are not told apart (Demšar, JMLR 2006)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from reports.figures.base import Canvas, FigurePart, Lacking
from reports.figures.style import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = 0.21  # inches between two names
SIDE = 0.3  # share of the axis that the names take on each side


class RankAxis(FigurePart):
    """The ranking of the spec's table."""

    kind: Literal["ranks"]


def paint(canvas: Canvas, part: RankAxis) -> str:
    """The better half of the methods is named on the left, the others on the right."""
    from reports.ranking import ranks_in  # reads the table, whose spec knows the kinds of figures

    names, found = ranks_in(canvas.spec, canvas.material)
    if len(names) < 2:
        raise Lacking("two methods with a number on every data set")
    order = sorted(range(len(names)), key=lambda j: found.average[j])
    half = (len(order) + 1) // 2
    figure = canvas.figure
    figure.set_size_inches(7.2, 0.9 + LINE * (half + 1 + len(found.groups) * 0.6))
    axes: Axes = figure.subplots()
    low, high = 1.0, float(len(names))
    pad = SIDE * (high - low) / (1 - 2 * SIDE)
    axes.set_xlim(low - pad, high + pad)
    bars = 0.55 * len(found.groups)
    depth = bars + half + 1.2
    axes.set_ylim(-depth, 1.6)
    axes.set_axis_off()
    axes.plot([low, high], [0, 0], color=INK, linewidth=0.9)
    for rank in range(1, len(names) + 1):
        if len(names) <= 12 or (rank % 2 and rank != len(names) - 1) or rank == len(names):
            axes.plot([rank, rank], [0, 0.25], color=INK, linewidth=0.9)
            axes.text(rank, 0.4, str(rank), ha="center", va="bottom", fontsize=8)
    canvas.series_kind("points", "average rank", "")
    series = canvas.marks.new("average rank")
    for place, j in enumerate(order):
        left = place < half
        level = -(bars + 0.8 + (place if left else len(order) - 1 - place))
        edge = low - 0.04 * pad if left else high + 0.04 * pad
        mean = found.average[j]
        axes.plot([mean, mean, edge], [0, level, level], color=MUTED, linewidth=0.8)
        (dot,) = axes.plot(mean, 0, "o", color=INK, markersize=3.5)
        series.own(dot)
        words = f"{names[j]}  {mean:.2f}" if left else f"{mean:.2f}  {names[j]}"
        axes.text(
            edge,
            level,
            words + " " if left else " " + words,
            ha="right" if left else "left",
            va="center",
            fontsize=8,
        )
        series.point(axes, mean, 0.0, label=f"{names[j]}: average rank {mean:.2f}")
    for index, group in enumerate(found.groups):
        level = -(0.45 + 0.55 * index)
        ends = [found.average[group[0]], found.average[group[-1]]]
        axes.plot(
            [ends[0] - 0.04, ends[1] + 0.04], [level, level], color=INK, linewidth=3, solid_capstyle="round"
        )
    if found.difference is not None:
        axes.plot(
            [low, low + found.difference], [1.35, 1.35], color=INK, linewidth=1.2, marker="|", markersize=6
        )
        axes.text(
            low + found.difference,
            1.35,
            f"  critical difference {found.difference:.2f}",
            va="center",
            fontsize=8,
        )
    return f"{len(names)} methods on {found.blocks} data sets by average rank, best first: " + ", ".join(
        f"{names[j]} {found.average[j]:.2f}" for j in order
    )
