"""Adversarial step sizes of the hard examples and the weights they get; HAM's Figure 4.

The step size of an example is max_k ‖p(x^{k+1}) - p(x^k)‖_1, in [0, 2]. Training counts the hard examples of each epoch
in bins (ham_core.classlog), with the mean weight of each bin, where mining weighs by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from ham_core.metrics import LARGEST_SIZE, SIZE_BINS, size_edges
from reports.collect import Material, Trial
from reports.figures.base import Canvas, FigurePart, Lacking
from reports.figures.style import COLUMN, MUTED, PERCENT, legend, without_title

TICKS = (0, 0.02, 0.1, 0.2, 0.4, 0.7, 1, 1.5, LARGEST_SIZE)

LINEAR, LIGHTEST = (
    6.0,
    0.02,
)  # weights up to the first fit a plain scale; below the second they are as good as none


class StepSizes(FigurePart):
    """Histogram of the step sizes of hard examples above the mean weight in each of its bins."""

    kind: Literal["step_sizes"]


def paint(canvas: Canvas, part: StepSizes) -> str:
    """The last epoch of training, mean over seeds."""
    import numpy as np

    figure = canvas.figure
    figure.set_size_inches(COLUMN, 3.5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.0, 1.0))
    canvas.series_kind("lines", "adversarial step size", "share (%), mean weight")
    edges = size_edges()
    last = 1  # edge beyond which all bins are empty
    handles: dict[str, Any] = {}
    for title, members in canvas.groups.items():
        shares = last_bins(canvas.material, members, "share")
        if not any(shares):
            continue
        weights = last_bins(canvas.material, members, "weight")
        style = canvas.styles[title]
        steps = upper.stairs([share * PERCENT for share in shares], edges, color=style.color, linewidth=1.3)
        steps.set_linestyle(style.dash)
        middles = [(low + high) / 2 for low, high in pairwise(edges)]
        seen = [(x, w) for x, w, share in zip(middles, weights, shares, strict=True) if share]
        (line,) = lower.plot(
            [x for x, _ in seen],
            [w for _, w in seen],
            color=style.color,
            linestyle=style.dash,
            marker=style.marker,
            markersize=3.4,
            linewidth=1.2,
        )
        handles[title] = line
        last = max(last, *(index + 1 for index, share in enumerate(shares) if share))
        one, other = canvas.marks.new(title, "share of hard examples"), canvas.marks.new(title, "weight")
        one.own(steps)
        other.own(line)
        for index, share in enumerate(shares):
            if share:
                words = f"{title}, step size {edges[index]:.3g} to {edges[index + 1]:.3g}: "
                box = (edges[index], 0.0, edges[index + 1], share * PERCENT)
                one.box(upper, box, middles[index], share * PERCENT, label=f"{words}{share * PERCENT:.1f} %")
                other.point(
                    lower, middles[index], weights[index], label=f"{words}mean weight {weights[index]:.2f}"
                )
    if not handles:
        raise Lacking(
            "a finished trial that weighs by step sizes (method.mining.weight.measure: softmax_l1) and has recorded them"
        )
    upper.set_ylabel("hard examples (%)")
    upper.set_ylim(bottom=0)
    lower.set_ylabel("mean weight")
    heaviest = max(max(line.get_ydata()) for line in handles.values())
    if heaviest > LINEAR:  # few examples with nearly all of the weight
        lower.set_yscale("log")
        lower.set_ylim(LIGHTEST, heaviest * 1.6)
        lower.yaxis.set_major_formatter("{x:g}")
    else:
        lower.set_ylim(bottom=0)
    lower.axhline(1, color=MUTED, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
    lower.set_xlabel(r"step size $\max_k\,\Vert p(x^{k+1}) - p(x^k)\Vert_1$")
    for axes in (upper, lower):
        # the bins are equally wide in the root of the step size
        axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
        axes.set_xlim(0, edges[min(last + 1, SIZE_BINS)])
        ticks = [tick for tick in TICKS if tick <= edges[min(last + 1, SIZE_BINS)]]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.grid(axis="y")
    legend(figure, list(handles.values()), without_title(list(handles)))
    return f"Step sizes of hard examples in the last epoch and their weights, for {', '.join(handles)}."


def last_bins(material: Material, trials: Sequence[Trial], what: str) -> list[float]:
    """Per bin the mean over the trials of `share` or `weight` in the last epoch. A bin that is empty there counts 0 as a
    share, and not at all as a weight."""
    histories = [material.history(f"train/step_size/{what}_{index:02d}") for index in range(SIZE_BINS)]
    last: dict[str, int] = {}
    for history in histories:
        for trial in trials:
            for epoch, _ in history.get(trial.fingerprint, ())[-1:]:
                last[trial.fingerprint] = max(epoch, last.get(trial.fingerprint, 0))
    bins = []
    for history in histories:
        found = [dict(history.get(fingerprint, ())).get(epoch) for fingerprint, epoch in last.items()]
        present = [value for value in found if value is not None]
        below = len(last) if what == "share" else len(present)
        bins.append(sum(present) / below if below else 0.0)
    return bins
