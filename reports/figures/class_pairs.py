"""Class-wise accuracy of a few weights side by side, one line per class; CFA's Figure 6."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from reports.figures.base import (
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
from reports.figures.style import COLUMN, GRID, MUTED, PERCENT, legend, turns


class Entry(FigurePart):
    """One set of weights: of the trials with one of these labels. Averages of one training share its trial."""

    title: str
    labels: tuple[str, ...]
    weights: str


class ClassPairs(FigurePart):
    """Classes from top to bottom, accuracy from left to right, a mark per set of weights."""

    kind: Literal["class_pairs"]
    attack: str = "pgd20"
    of: tuple[Entry, ...] = Field(min_length=2)


def paint(canvas: Canvas, part: ClassPairs) -> str:
    """Marks are means over seeds, whiskers their interval; the legend has the standard deviation over classes."""
    figure = canvas.figure
    classes: list[str] = []
    found = []
    for entry in part.of:
        stem = f"{entry.weights}/{part.attack}"
        trials = [
            trial
            for trial in canvas.trials
            if trial.label in entry.labels and values_of([trial], f"{stem}/avg")
        ]
        if not trials:
            raise Lacking(
                f"a finished trial of {' or '.join(entry.labels)} with {stem} (weights: {entry.weights} in the sweep)"
            )
        classes = classes or classes_of(trials, f"{stem}/")
        found.append((entry, stem, trials))
    figure.set_size_inches(COLUMN, 0.23 * len(classes) + 1.15)
    axes = figure.subplots()
    canvas.series_kind("points", "class", "accuracy (%)")
    for place in range(len(classes)):
        axes.axhline(place, color=GRID, linewidth=0.6, zorder=0)
    means = [
        [percent(values_of(trials, f"{stem}/{name}")).mean for _, stem, trials in found] for name in classes
    ]
    axes.hlines(range(len(classes)), list(map(min, means)), list(map(max, means)), color=MUTED, linewidth=1.2)
    handles: dict[str, Any] = {}
    for index, ((entry, stem, trials), style) in enumerate(zip(found, turns(len(found)), strict=True)):
        estimates = [percent(values_of(trials, f"{stem}/{name}")) for name in classes]
        handle = axes.errorbar(
            [estimate.mean for estimate in estimates],
            range(len(classes)),
            xerr=errors(estimates),
            color=style.color,
            marker=style.marker,
            markersize=max(6.5 - 2 * index, 3),  # the later ones smaller, so that none is hidden
            linestyle="none",
            elinewidth=0.9,
        )
        spread = values_of(trials, f"{stem}/std")
        words = f"{entry.title} (std {sum(spread) / len(spread) * PERCENT:.1f})" if spread else entry.title
        handles[words] = handle
        series = canvas.marks.new(entry.title)
        series.own(handle.lines[0], *handle.lines[2])
        for height, (name, estimate) in enumerate(zip(classes, estimates, strict=True)):
            label = f"{entry.title}, {class_name(name)}: "
            label += interval_text(estimate.mean, estimate.low, estimate.high)
            spot = (estimate.mean, height, estimate.mean, height)
            series.box(
                axes,
                spot,
                class_name(name),
                estimate.mean,
                low=estimate.low,
                high=estimate.high,
                label=label,
            )
    axes.set_yticks(range(len(classes)), [class_name(name) for name in classes])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"accuracy, {attack_title(part.attack)} (%)")
    legend(figure, list(handles.values()), list(handles))
    return f"Class-wise accuracy of {', '.join(handles)} on {len(classes)} classes."
