"""Class-wise accuracy against a swept setting, one line per class; CFA's Figures 2 (b, c) and 3.

A panel shows a final result (`result: best_sum/pgd20`), or the mean of a series per epoch over a part of training
(`series: val/pgd10`, `window: [0.5, 0.6]`: epochs 101 to 120 of 200), so that shorter trainings take the same part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from reports.collect import Trial
from reports.figures.base import (
    NOTHING_YET,
    Canvas,
    FigurePart,
    Lacking,
    all_classes,
    class_name,
    classes_of,
    extremes,
    percent,
    values_of,
)
from reports.figures.marks import interval_text
from reports.figures.sensitivity import tick
from reports.figures.style import INK, PAGE, WIDE_LEGEND, legend, turns


class ClassPanel(FigurePart):
    """One axis of a plot of classes against a setting."""

    title: str
    result: str | None = None  # <weights>/<attack>
    series: str | None = None  # of each epoch: <split>/<attack>
    window: tuple[float, float] = (0.0, 1.0)  # which part of the epochs

    @model_validator(mode="after")
    def _one_source(self) -> ClassPanel:
        if (self.result is None) == (self.series is None):
            raise ValueError(
                "a panel shows 'result' (<weights>/<attack>) or 'series' (<split>/<attack>), one of them"
            )
        if not 0 <= self.window[0] < self.window[1] <= 1:
            raise ValueError(f"window {list(self.window)} is no part of [0, 1]; write for example [0.5, 0.6]")
        return self


class ClassCurves(FigurePart):
    """Class-wise accuracy against the setting by which the spec makes its rows."""

    kind: Literal["class_curves"]
    x_title: str
    curves: tuple[ClassPanel, ...] = Field(min_length=1)


def paint(canvas: Canvas, part: ClassCurves) -> str:
    """Lines are means over seeds; the dashed black one is the average over all images."""
    from reports.tables import lines_of

    lines = lines_of(canvas.spec, canvas.trials)
    lines = [line for line in lines if line.row.label == lines[0].row.label]
    numeric = all(isinstance(line.value, int | float) for line in lines)
    places = [float(line.value) if numeric else float(index) for index, line in enumerate(lines)]
    figure = canvas.figure
    count = len(part.curves)
    figure.set_size_inches(PAGE if count > 1 else PAGE / 2, 3.2)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    canvas.series_kind("lines", part.x_title, "accuracy (%)")
    classes = all_classes(canvas.trials) or classes_of(canvas.trials, f"{part.curves[0].result}/")
    found = [
        {name: [_values(canvas, panel, line.trials, name) for line in lines] for name in ("avg", *classes)}
        for panel in part.curves
    ]
    scores = {name: sum(map(sum, found[0][name])) for name in classes if any(found[0][name])}
    if not scores:
        raise Lacking(NOTHING_YET)
    shown = extremes(scores)
    styles = dict(zip(shown, turns(len(shown)), strict=True))
    handles: dict[str, Any] = {}
    for axes, panel, values_by_name in zip(panels, part.curves, found, strict=True):
        title = _with_epochs(panel, lines[0].trials)
        for name in ("avg", *shown):
            own = [
                (at, line, v) for at, line, v in zip(places, lines, values_by_name[name], strict=True) if v
            ]
            if not own:
                continue
            estimates = [percent(values) for _, _, values in own]
            word = "average" if name == "avg" else class_name(name)
            look: dict[str, Any] = {"color": INK, "linestyle": (0, (4, 2)), "linewidth": 1.8, "zorder": 4}
            if name != "avg":
                style = styles[name]
                look = {"color": style.color, "marker": style.marker, "markersize": 3.8, "linewidth": 1.1}
            (drawn,) = axes.plot([at for at, _, _ in own], [estimate.mean for estimate in estimates], **look)
            handles.setdefault(word, drawn)
            series = canvas.marks.new(word, title)
            series.own(drawn)
            for (at, line, _), estimate in zip(own, estimates, strict=True):
                label = f"{word}, {part.x_title} {tick(line.value)}: "
                label += interval_text(estimate.mean, estimate.low, estimate.high)
                series.point(axes, at, estimate.mean, low=estimate.low, high=estimate.high, label=label)
        axes.set_title(title)
        axes.set_xlabel(part.x_title)
        axes.set_xticks(places, [tick(line.value) for line in lines])
        axes.grid(axis="y")
        axes.margins(x=0.04)
    panels[0].set_ylabel("accuracy (%)")
    legend(figure, list(handles.values()), list(handles), WIDE_LEGEND)
    titles = ", ".join(axes.get_title(loc="left") for axes in panels)
    of = f"{len(shown)} of {len(scores)}" if len(shown) < len(scores) else f"{len(scores)}"
    return f"{titles}: accuracy of {of} classes against the {part.x_title}, {len(lines)} values."


def _values(canvas: Canvas, panel: ClassPanel, trials: Sequence[Trial], name: str) -> list[float]:
    """One value per seed, as a share."""
    if panel.result is not None:
        return values_of(trials, f"{panel.result}/{name}")
    history = canvas.material.history(f"{panel.series}/{name}")
    means = []
    for trial in trials:
        points = history.get(trial.fingerprint, ())
        low, high = window(panel.window, epochs_of(trial, points))
        inside = [value for epoch, value in points if low <= epoch < high]
        means += [sum(inside) / len(inside)] if inside else []
    return means


def epochs_of(trial: Trial, points: Sequence[tuple[int, float]] = ()) -> int:
    """How many epochs the trial was to take."""
    written = trial.run.params.get("epochs", "") if trial.run is not None else ""
    return int(written) if written.isdigit() else (points[-1][0] + 1 if points else 0)


def window(part: tuple[float, float], epochs: int) -> tuple[int, int]:
    """(first, end) of that part of the epochs, counted from 0; one epoch at least."""
    first = min(math.floor(part[0] * epochs + 1e-9), max(epochs - 1, 0))
    return first, max(first + 1, math.ceil(part[1] * epochs - 1e-9))


def _with_epochs(panel: ClassPanel, trials: Sequence[Trial]) -> str:
    """`Epochs 101 to 120`, counted from 1, after the title."""
    if panel.series is None or not trials:
        return panel.title
    first, end = window(panel.window, epochs_of(trials[0]))
    return f"{panel.title}, epochs {first + 1} to {end}" if end > first + 1 else f"{panel.title}, epoch {end}"
