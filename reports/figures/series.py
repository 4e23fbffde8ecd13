"""A metric over the epochs: mean over seeds, band = its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from reports.collect import Trial
from reports.figures.base import NOTHING_YET, Canvas, FigurePart, Lacking, errors, percent
from reports.figures.marks import interval_text
from reports.figures.style import MUTED, PERCENT, legend, without_title
from reports.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

History = Mapping[str, Sequence[tuple[int, float]]]
MARKED = 12  # marks along a line
FEW = 6  # lines whose bands can be told apart


class Series(FigurePart):
    """A metric over the epochs: mean over seeds, band = its interval."""

    kind: Literal["series"]
    metric: str
    y_title: str


def paint(canvas: Canvas, part: Series) -> str:
    """One line per method; the dotted line is the first epoch of mining."""
    history = canvas.material.history(part.metric)
    styles, figure = canvas.styles, canvas.figure
    figure.set_size_inches(6.2, 3.4)
    axes: Axes = figure.subplots()
    canvas.series_kind("lines", "epoch", part.y_title)
    handles: dict[str, Any] = {}
    starts: set[float] = set()
    top = 0.0
    alpha = 0.16 if len(canvas.groups) <= FEW else 0.07
    for title, members in canvas.groups.items():
        found = over_epochs(history, members)
        if not found:
            continue
        x, estimates = list(found), list(found.values())
        means, halves = [e.mean for e in estimates], errors(estimates)
        top = max(top, *means)
        style = styles[title]
        (line,) = axes.plot(
            x,
            means,
            color=style.color,
            linestyle=style.dash,
            marker=style.marker,
            markersize=3.6,
            markevery=max(1, len(x) // MARKED),
        )
        low = [max(0.0, mean - half) for mean, half in zip(means, halves, strict=True)]
        high = [min(PERCENT, mean + half) for mean, half in zip(means, halves, strict=True)]
        band = axes.fill_between(x, low, high, color=style.color, alpha=alpha, linewidth=0)
        handles[title] = line
        series = canvas.marks.new(title)
        series.own(line, band)
        for epoch, estimate in found.items():
            label = f"{title}, epoch {epoch}: {interval_text(estimate.mean, estimate.low, estimate.high)}"
            series.point(axes, epoch, estimate.mean, low=estimate.low, high=estimate.high, label=label)
        for trial in members:
            written = trial.run.params.get("method.mining.start_epoch", "") if trial.run is not None else ""
            starts |= {float(written)} if written.isdigit() and int(written) > 0 else set()
    if not handles:
        raise Lacking(NOTHING_YET)
    for start in sorted(starts):
        axes.axvline(start, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    axes.set_ylabel(part.y_title)
    axes.set_ylim(0, 1.3 * top or None)  # bands of few seeds may reach far beyond
    epochs_below(axes)
    axes.grid(axis="y")
    axes.margins(x=0.02)
    legend(figure, list(handles.values()), without_title(list(handles)))
    return f"{part.metric} over the epochs for {', '.join(handles)}."


def over_epochs(history: History, trials: Sequence[Trial]) -> dict[int, Estimate]:
    """{epoch: mean and interval over the trials, in percent}, by rising epoch."""
    epochs: dict[int, list[float]] = {}
    for trial in trials:
        for epoch, value in history.get(trial.fingerprint, ()):
            epochs.setdefault(epoch, []).append(value)
    return {epoch: percent(epochs[epoch]) for epoch in sorted(epochs)}


def epochs_below(axes: Axes) -> None:
    """Whole epochs along x."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
