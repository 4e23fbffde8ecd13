"""A factor of each class over the epochs, one line per class; CFA's Figures 5 (b) and 7 (b)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from reports.collect import Trial
from reports.figures.base import Canvas, FigurePart, Lacking, all_classes, class_name, extremes
from reports.figures.series import MARKED, epochs_below
from reports.figures.style import COLUMN, MUTED, end_labels, turns


class ClassSeries(FigurePart):
    """What calibration made of each class, epoch by epoch: margin (class_margin), regularisation (class_beta), weight."""

    kind: Literal["class_series"]
    metric: str  # train/class_margin, one series per class below it
    y_title: str
    method: str | None = None  # label; the first of the plan where none is named
    where: Mapping[str, float | int | str] = {}  # settings that the trials must have
    reference: float | None = None  # a horizontal line, the value without calibration


def paint(canvas: Canvas, part: ClassSeries) -> str:
    """Lines are means over seeds."""
    trials = [
        trial for trial in canvas.trials if part.method in (None, trial.label) and has(trial, part.where)
    ]
    classes = all_classes(trials)
    figure = canvas.figure
    figure.set_size_inches(COLUMN, 2.7)
    axes = figure.subplots()
    canvas.series_kind("lines", "epoch", part.y_title)
    series_of = {
        name: mean_over_epochs(canvas.material.history(f"{part.metric}/{name}"), trials) for name in classes
    }
    series_of = {name: means for name, means in series_of.items() if means}
    shown = extremes({name: list(means.values())[-1] for name, means in series_of.items()})
    ends: list[tuple[float, float, str, str]] = []
    for name, style in zip(shown, turns(len(shown)), strict=True):
        means = series_of[name]
        x, y = list(means), list(means.values())
        (line,) = axes.plot(
            x,
            y,
            color=style.color,
            marker=style.marker,
            markersize=3.2,
            linewidth=1.1,
            markevery=max(1, len(x) // MARKED),
        )
        series = canvas.marks.new(class_name(name))
        series.own(line)
        for epoch, value in means.items():
            series.point(axes, epoch, value, label=f"{class_name(name)}, epoch {epoch}: {value:.2f}")
        ends.append((x[-1], y[-1], class_name(name), style.color))
    if not ends:
        where = "".join(f", {key} = {value}" for key, value in part.where.items())
        raise Lacking(f"a finished trial that records {part.metric}{where}")
    if part.reference is not None:
        axes.axhline(part.reference, color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    axes.set_ylabel(part.y_title)
    epochs_below(axes)
    axes.grid(axis="y")
    axes.margins(x=0.03)
    end_labels(axes, ends)
    of = f"{len(ends)} of {len(series_of)}" if len(ends) < len(series_of) else f"{len(ends)}"
    return f"{part.y_title} of {of} classes over the epochs."


def has(trial: Trial, where: Mapping[str, Any]) -> bool:
    """Whether a trial has these settings."""
    try:
        return all(trial.setting(key) == value for key, value in where.items())
    except KeyError:
        return False


def mean_over_epochs(
    history: Mapping[str, Sequence[tuple[int, float]]], trials: Sequence[Trial]
) -> dict[int, float]:
    """{epoch: mean over the trials}, in the series' own unit."""
    epochs: dict[int, list[float]] = {}
    for trial in trials:
        for epoch, value in history.get(trial.fingerprint, ()):
            epochs.setdefault(epoch, []).append(value)
    return {epoch: sum(epochs[epoch]) / len(epochs[epoch]) for epoch in sorted(epochs)}
