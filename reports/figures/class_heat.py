"""Class-wise accuracy of each method as a table of colours: methods from top to bottom, classes from left to right."""

from __future__ import annotations

from typing import Literal

from reports.figures.base import (
    NOTHING_YET,
    Canvas,
    FigurePart,
    Lacking,
    class_name,
    classes_of,
    percent,
    values_of,
)
from reports.figures.marks import interval_text
from reports.figures.style import PAGE, ink_on, sequential

MOST_NUMBERS = 14  # classes up to which cells have room for a number
GAP = 0.25  # between the classes and what is said of them together


class ClassHeat(FigurePart):
    """Methods x classes, with average and worst class beside them; the worst class of each method has a frame."""

    kind: Literal["class_heat"]
    weights: str = "best"
    attack: str = "pgd20"


def paint(canvas: Canvas, part: ClassHeat) -> str:
    """Means over seeds."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    stem = f"{part.weights}/{part.attack}"
    groups = {title: members for title, members in canvas.groups.items() if values_of(members, f"{stem}/avg")}
    classes = classes_of([trial for members in groups.values() for trial in members], f"{stem}/")
    if not groups or not classes:
        raise Lacking(NOTHING_YET)
    names = [*classes, "avg", "worst"]
    lefts = [index + (GAP if index >= len(classes) else 0.0) for index in range(len(names))]
    figure = canvas.figure
    figure.set_size_inches(PAGE, 0.27 * len(groups) + 1.0)
    axes = figure.subplots()
    canvas.series_kind("heat", "class", "accuracy (%)")
    table = {
        title: [
            percent(values) if (values := values_of(members, f"{stem}/{name}")) else None for name in names
        ]
        for title, members in groups.items()
    }
    values = [one.mean for line in table.values() for one in line if one is not None]
    scale = ScalarMappable(Normalize(min(values), max(max(values), min(values) + 1)), sequential())
    for row, (title, line) in enumerate(table.items()):
        series = canvas.marks.new(title)
        shares = [one.mean if one is not None else 101.0 for one in line[: len(classes)]]
        worst = shares.index(min(shares))
        for column, (name, left, one) in enumerate(zip(names, lefts, line, strict=True)):
            if one is None:
                continue
            color = scale.to_rgba(one.mean)
            cell = Rectangle((left, row), 1, 1, facecolor=color, edgecolor="#ffffff", linewidth=0.6)
            axes.add_patch(cell)
            series.own(cell)
            if len(classes) <= MOST_NUMBERS:
                look = {"color": ink_on(color), "fontsize": 7, "ha": "center", "va": "center"}
                weight = "bold" if column == worst else "normal"
                axes.text(left + 0.5, row + 0.5, f"{one.mean:.1f}", weight=weight, **look)
            shown = {"avg": "average", "worst": "worst class"}.get(name) or class_name(name)
            label = f"{title}, {shown}: {interval_text(one.mean, one.low, one.high)}"
            series.box(
                axes, (left, row, left + 1, row + 1), shown, one.mean, low=one.low, high=one.high, label=label
            )
        axes.add_patch(
            Rectangle((worst + 0.05, row + 0.08), 0.9, 0.84, fill=False, edgecolor="#d55e00", linewidth=1.4)
        )
    axes.set(xlim=(0, len(names) + GAP), ylim=(len(groups), 0))
    shown_names = [*(class_name(name) for name in classes), "average", "worst"]
    slant = len(classes) > 8 or max(map(len, shown_names)) > 8
    axes.set_xticks(
        [left + 0.5 for left in lefts],
        shown_names,
        rotation=35 if slant else 0,
        ha="right" if slant else "center",
    )
    axes.set_yticks([row + 0.5 for row in range(len(groups))], list(groups))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(scale, ax=axes, aspect=18, pad=0.01)
    bar.set_label("accuracy (%)")
    bar.outline.set_visible(False)
    return f"Accuracy of {len(groups)} methods on {len(classes)} classes under {part.attack}, {stem}."
