"""Class-wise accuracy of each method as bars, one panel per attack; as dots where there are too many methods for bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from reports.figures.base import (
    NOTHING_YET,
    Canvas,
    FigurePart,
    Lacking,
    attack_title,
    class_name,
    classes_of,
    errors,
    percent,
    values_of,
)
from reports.figures.marks import interval_text
from reports.figures.style import INK, PAPER, Style, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BARS = 6  # of one class


class ClassBars(FigurePart):
    """Class-wise accuracy of each method, one panel per attack."""

    kind: Literal["class_bars"]
    weights: str = "best"
    attacks: tuple[str, ...] = ("clean", "pgd20")


def paint(canvas: Canvas, part: ClassBars) -> str:
    """Bars are means over seeds, whiskers their interval; a triangle marks each method's worst class."""
    classes = classes_of(canvas.trials, f"{part.weights}/{part.attacks[0]}/")
    if not classes:
        raise Lacking(NOTHING_YET)
    figure = canvas.figure
    figure.set_size_inches(max(7.2, 0.72 * len(classes)), 1.95 * len(part.attacks) + 0.55)
    panels = figure.subplots(len(part.attacks), 1, sharex=True, squeeze=False)[:, 0]
    canvas.series_kind("bars", "class", "accuracy (%)")
    handles: dict[str, Any] = {}
    for axes, attack in zip(panels, part.attacks, strict=True):
        found = {
            title: [values_of(members, f"{part.weights}/{attack}/{name}") for name in classes]
            for title, members in canvas.groups.items()
        }
        bars = grouped_bars(canvas, axes, attack_title(attack), classes, found, mark_worst=True)
        for title, handle in bars.items():
            handles.setdefault(title, handle)
        axes.set_title(attack_title(attack))
        axes.set_ylabel("accuracy (%)")
        axes.set_ylim(0, 104)
        axes.set_yticks(range(0, 101, 20))
    name_classes(panels[-1], classes)
    if not handles:
        raise Lacking(NOTHING_YET)
    legend(figure, list(handles.values()), list(handles))
    return f"Bars of the class-wise accuracy of {', '.join(handles)} on {len(classes)} classes."


def grouped_bars(
    canvas: Canvas,
    axes: Axes,
    panel: str,
    classes: Sequence[str],
    found: Mapping[str, Sequence[Sequence[float]]],
    *,
    mark_worst: bool = False,
    styles: Mapping[str, Style] | None = None,
) -> dict[str, Any]:
    """Per class a bar of each group: `found` has shares over the seeds, [group][class]. -> legend handle of each group."""
    styles = canvas.styles if styles is None else styles
    width = 0.82 / len(found)
    handles: dict[str, Any] = {}
    for index, (title, shares) in enumerate(found.items()):
        places = [place for place, values in enumerate(shares) if values]
        if not places:
            continue
        estimates = [percent(shares[place]) for place in places]
        means = [estimate.mean for estimate in estimates]
        style = styles[title]
        x = [place + (index - (len(found) - 1) / 2) * width for place in places]
        many = len(found) > MOST_BARS
        if many:  # bars would be too thin for their hatches
            (bars,) = axes.plot(x, means, style.marker, color=style.color, markersize=4.2, markeredgewidth=0)
        else:
            bars = axes.bar(
                x, means, width * 0.94, facecolor=style.color, edgecolor=PAPER, hatch=style.hatch, linewidth=0
            )
        handles[title] = bars
        series = canvas.marks.new(title, panel)
        series.own(*([bars] if many else bars))
        for left, place, estimate in zip(x, places, estimates, strict=True):
            name = class_name(classes[place])
            label = f"{title}, {name}: {interval_text(estimate.mean, estimate.low, estimate.high)}"
            box = (left - width * 0.47, 0.0, left + width * 0.47, estimate.mean)
            series.box(axes, box, name, estimate.mean, low=estimate.low, high=estimate.high, label=label)
        look: dict[str, Any] = {"ecolor": style.color, "alpha": 0.6} if many else {"ecolor": INK}
        axes.errorbar(x, means, errors(estimates), fmt="none", elinewidth=0.7, capsize=0, **look)
        if mark_worst:
            worst = means.index(min(means))
            top = 0 if many else min(means[worst] + errors(estimates)[worst], 96)
            axes.plot(
                x[worst], top + 4, marker="v", color=INK, markersize=3.5, linestyle="none", clip_on=False
            )
    axes.grid(axis="y")
    axes.margins(x=0.01)
    axes.tick_params(axis="x", length=0)
    return handles


def name_classes(axes: Axes, classes: Sequence[str]) -> None:
    """The classes below their groups, slanted where their names are long or many."""
    shown = [class_name(name) for name in classes]
    axes.set_xticks(range(len(classes)), shown)
    if max(map(len, shown)) > 11:
        axes.tick_params(axis="x", rotation=30)
