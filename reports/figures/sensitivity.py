"""Statistics against a swept setting, with a baseline method as a horizontal line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from reports.collect import Material, Trial
from reports.figures.base import (
    NOTHING_YET,
    Canvas,
    FigurePart,
    Lacking,
    errors,
    percent,
    styles_of,
    values_of,
)
from reports.figures.marks import interval_text
from reports.figures.style import INK, MUTED, legend

if TYPE_CHECKING:
    from reports.spec import Spec


class Panel(FigurePart):
    """One axis of a sensitivity plot."""

    title: str
    metric: str


class Sensitivity(FigurePart):
    """A statistic against the swept setting, with a baseline method as a horizontal line."""

    kind: Literal["sensitivity"]
    x_title: str
    panels: tuple[Panel, ...] = Field(min_length=1)
    baseline: str | None = None  # label of the method drawn as a line
    baseline_grid: str = "methods"

    def caption(self, spec: Spec, material: Material) -> str:
        """Beside a table of the same rows the caption of the figure is its own."""
        if not spec.columns:
            return spec.caption
        title = next(
            (t.title for t in material.of_grid(self.baseline_grid) if t.label == self.baseline), None
        )
        line = f" The dashed line is {title} at the same protocol, its band the interval." if title else ""
        return f"The rows of the table against the {self.x_title}; whiskers are intervals of the mean over seeds.{line}"


def paint(canvas: Canvas, part: Sensitivity) -> str:
    """One panel per statistic, one line per method."""
    from reports.tables import lines_of

    lines = lines_of(canvas.spec, canvas.trials)
    styles, figure = styles_of(canvas.material), canvas.figure
    baseline = _baseline(canvas, part)
    figure.set_size_inches(2.55 * len(part.panels) + 0.3, 2.75)
    panels = figure.subplots(1, len(part.panels), squeeze=False)[0]
    canvas.series_kind("lines", part.x_title, "accuracy (%)")
    label_of = _labels(lines)
    labels = list(dict.fromkeys(label_of.values()))
    shown = list(dict.fromkeys(line.value for line in lines))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in shown)
    places = {value: float(value) if numeric else float(index) for index, value in enumerate(shown)}
    handles: dict[str, Any] = {}
    for axes, panel in zip(panels, part.panels, strict=True):
        for label in labels:
            own = [
                (line, values_of(line.trials, panel.metric)) for line in lines if label_of[id(line)] == label
            ]
            own = [(line, values) for line, values in own if values]
            if not own:
                continue
            estimates = [percent(values) for _, values in own]
            style = styles[label]
            title = next(trial.title for line, _ in own for trial in line.trials if trial.label == label)
            handle = axes.errorbar(
                [places[line.value] for line, _ in own],
                [estimate.mean for estimate in estimates],
                errors(estimates),
                color=style.color,
                marker=style.marker,
                markersize=5,
                linestyle=style.dash,
                elinewidth=0.9,
                capsize=2.5,
            )
            handles.setdefault(title, handle)
            series = canvas.marks.new(title, panel.title)
            series.own(handle.lines[0], *handle.lines[1], *handle.lines[2])
            for (line, _), estimate in zip(own, estimates, strict=True):
                words = f"{title}, {part.x_title} {tick(line.value)}: "
                series.point(
                    axes,
                    places[line.value],
                    estimate.mean,
                    low=estimate.low,
                    high=estimate.high,
                    name=None if numeric else tick(line.value),
                    label=words + interval_text(estimate.mean, estimate.low, estimate.high),
                )
        values = values_of(baseline, panel.metric)
        if values:
            estimate = percent(values)
            line = axes.axhline(estimate.mean, color=INK, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
            handles.setdefault(baseline[0].title, line)
            if estimate.low is not None and estimate.high is not None:
                axes.axhspan(estimate.low, estimate.high, color=MUTED, alpha=0.13, linewidth=0, zorder=0)
        axes.set_title(panel.title)
        axes.set_xlabel(part.x_title)
        axes.set_xticks([places[value] for value in shown], [tick(value) for value in shown])
        axes.grid(axis="y")
        axes.margins(x=0.08, y=0.15)
    panels[0].set_ylabel("accuracy (%)")
    if not handles:
        raise Lacking(NOTHING_YET)
    legend(figure, list(handles.values()), list(handles))
    return (
        f"{', '.join(panel.title for panel in part.panels)} against the {part.x_title}, {len(shown)} values."
    )


def _labels(lines: Sequence[Any]) -> dict[int, str]:
    """The method of each line. Where every value stands once they are one method, the one that most are of: a trial that
    another grid plans under another name keeps that name here."""
    own = {id(line): str(line.row.label) for line in lines}
    if len({repr(line.value) for line in lines}) < len(lines):
        return own
    names = list(own.values())
    return dict.fromkeys(own, max(names, key=names.count)) if names else own


def _baseline(canvas: Canvas, part: Sensitivity) -> list[Trial]:
    """Finished trials of the baseline at a protocol of the swept ones, which they are not."""
    members = canvas.material.of_grid(part.baseline_grid)
    swept = {trial.fingerprint for trial in canvas.trials}
    protocols = {_comparable(trial) for trial in canvas.trials}
    return [
        trial
        for trial in members
        if trial.label == part.baseline
        and trial.finished
        and _comparable(trial) in protocols
        and trial.fingerprint not in swept
    ]


def tick(value: Any) -> str:
    """A swept value below its place."""
    return "none" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)


def _comparable(trial: Trial) -> str:
    from reports.tables import name_of

    return trial.protocol.text if trial.protocol is not None else name_of(trial)
