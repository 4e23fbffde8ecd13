"""What a method costs against what the worst class gains, in passes, which no machine changes."""

from __future__ import annotations

from typing import Any, Literal

from reports.collect import Material, Trial
from reports.figures.base import NOTHING_YET, Canvas, FigurePart, Lacking
from reports.figures.pareto import cloud, draw_front, front
from reports.figures.style import COLUMN, PERCENT, legend

PASSES = ("train/passes/forward", "train/passes/input_gradient", "train/passes/weight_gradient")


class CostFairness(FigurePart):
    """Passes per training image and epoch against a statistic, every trial a point."""

    kind: Literal["cost_fairness"]
    y: str = "best/pgd20/worst"
    y_title: str = "worst-class robust accuracy (%)"


def paint(canvas: Canvas, part: CostFairness) -> str:
    """Small marks are trials, large ones means over seeds; the front holds what no other trial beats in both."""
    styles, figure = canvas.styles, canvas.figure
    figure.set_size_inches(COLUMN, 2.7 + 0.09 * len(canvas.groups))  # and its legend in two columns
    axes = figure.subplots()
    x_title = "passes per training image and epoch"
    canvas.series_kind("points", x_title, part.y_title)
    everything: list[tuple[float, float]] = []
    handles: dict[str, Any] = {}
    for title, members in canvas.groups.items():
        pairs = [
            (passes_per_image(canvas.material, trial), trial.metric(part.y), trial.seed) for trial in members
        ]
        points = [(x, y * PERCENT, seed) for x, y, seed in pairs if x is not None and y is not None]
        if not points:
            continue
        everything += [(x, y) for x, y, _ in points]
        handles[title] = cloud(canvas, axes, title, points, styles[title], "{x:.1f} passes, {y:.1f} %")
    if not everything:
        raise Lacking(NOTHING_YET)
    best = [(-x, y) for x, y in front([(-x, y) for x, y in everything])]  # few passes are good
    if len(best) > 1:
        draw_front(axes, sorted(best), at_end=True)
    axes.set_xlabel(x_title)
    axes.set_ylabel(part.y_title)
    axes.grid()
    axes.margins(0.12)
    legend(figure, list(handles.values()), list(handles))
    return f"{len(everything)} trials; {len(best)} of them on the Pareto front of few passes and a high worst class."


def passes_per_image(material: Material, trial: Trial) -> float | None:
    """All passes of a training over all images that it was shown."""
    sums = [sum(value for _, value in material.history(key).get(trial.fingerprint, ())) for key in PASSES]
    images = sum(value for _, value in material.history("train/images").get(trial.fingerprint, ()))
    return sum(sums) / images if images else None
