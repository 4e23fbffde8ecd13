"""Average and worst class over the epochs, and by how much the worst class changes from one to the next; CFA's Figure 4."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field

from reports.figures.base import NOTHING_YET, Canvas, FigurePart, Lacking, chosen_groups
from reports.figures.class_series import mean_over_epochs
from reports.figures.series import MARKED, epochs_below
from reports.figures.style import PAGE, PERCENT, legend, turns


class Weights(FigurePart):
    """One panel: the weights judged after each epoch, θ itself or an average of it."""

    title: str
    series: str  # val, val_fawa, ...


class Fluctuation(FigurePart):
    """One panel per kind of weights of the same trainings."""

    kind: Literal["fluctuation"]
    attack: str = "pgd10"
    method: str | None = None  # label; the first of the plan where none is named
    of: tuple[Weights, ...] = Field(min_length=1)


def paint(canvas: Canvas, part: Fluctuation) -> str:
    """Means over seeds; the change is the mean over seeds of each training's own change."""
    groups = chosen_groups(canvas, None if part.method is None else (part.method,), 1)
    trials = [trial for members in groups.values() for trial in members]
    figure = canvas.figure
    figure.set_size_inches(PAGE, 2.7)
    panels = figure.subplots(1, len(part.of), sharex=True, sharey=True, squeeze=False)[0]
    canvas.series_kind("lines", "epoch", "accuracy (%)")
    average, worst, change = turns(3)
    handles: dict[str, Any] = {}
    sentences: list[str] = []
    absent: list[str] = []
    for axes, one in zip(panels, part.of, strict=True):
        stem = f"{one.series}/{part.attack}"
        of_worst = canvas.material.history(f"{stem}/worst")
        lines = {
            "average": (mean_over_epochs(canvas.material.history(f"{stem}/avg"), trials), average),
            "worst class": (mean_over_epochs(of_worst, trials), worst),
        }
        changes = mean_over_epochs({name: steps(points) for name, points in of_worst.items()}, trials)
        if not lines["worst class"][0]:
            absent.append(stem)
        for name, (means, style) in lines.items():
            x, y = list(means), [value * PERCENT for value in means.values()]
            marks = {"marker": style.marker, "markersize": 3.2, "markevery": max(1, len(x) // MARKED)}
            (line,) = axes.plot(x, y, color=style.color, linestyle=style.dash, linewidth=1.3, **marks)
            handles.setdefault(name, line)
            series = canvas.marks.new(name, one.title)
            series.own(line)
            for epoch, value in zip(x, y, strict=True):
                series.point(axes, epoch, value, label=f"{one.title}, {name}, epoch {epoch}: {value:.1f} %")
        name = "change of the worst class"
        heights = [value * PERCENT for value in changes.values()]
        bars = axes.bar(list(changes), heights, width=0.8, color=change.color, linewidth=0)
        handles.setdefault(name, bars)
        series = canvas.marks.new(name, one.title)
        series.own(*bars)
        for epoch, value in zip(changes, heights, strict=True):
            label = f"{one.title}, {name} to epoch {epoch}: {value:.1f} points"
            series.box(axes, (epoch - 0.4, 0.0, epoch + 0.4, value), epoch, value, label=label)
        if heights:
            mean = sum(heights) / len(heights)
            axes.set_title(f"mean change {mean:.1f}", loc="right", fontsize=7.5, fontweight="normal")
            sentences.append(f"{one.title}: mean change of the worst class {mean:.1f} points per epoch.")
        axes.set_title(one.title)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.margins(x=0.02)
        epochs_below(axes)
    if absent:
        raise Lacking(f"{NOTHING_YET} ({', '.join(absent)})")
    panels[0].set_ylabel("accuracy (%)")
    legend(figure, list(handles.values()), list(handles))
    return "Accuracy over the epochs. " + " ".join(sentences)


def steps(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """|a_t - a_{t-1}| at every epoch t that has one before it."""
    return [(epoch, abs(value - before)) for (_, before), (epoch, value) in pairwise(points)]
