r"""A toy model of two classes that want different classifiers; stands beside CFA's Figure 1. Computed, no runs needed.

    y uniform in {-1, +1};   x_1 = y with probability p_y, else -y;   x_2, ..., x_{d+1} independent N(ηy, 1)
    f_w(x) = sign( x_1 + (x_2 + ... + x_{d+1}) / w ),   w > 0

x_1 is the robust feature, which an L∞ attack of ε < 1 cannot turn round; the many weak ones it shifts by ε each. A larger w
trusts x_1 more. In the hard class x_1 says less (p_- < p_+). With Φ the normal distribution, in class y

    A_y(w, ε) = p_y Φ( (w(1-ε) + d(η-ε)) / √d ) + (1-p_y) Φ( (w(-1-ε) + d(η-ε)) / √d )

clean at ε = 0. The point: the best w of the hard class is smaller than that of the easy one, so one w for both, which
robustness drives up, is paid for by the hard class. The distribution is that of Tsipras et al. (ICLR 2019, arXiv:1805.12152)
with a p of its own for each class. CFA's figure makes the same point; the text of its model and its numbers were not at
hand, so p, η, d and ε here are ours.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from reports.figures.base import Canvas, FigurePart
from reports.figures.style import GRID, INK, MUTED, PAGE, PERCENT, legend, turns

POINTS = 161  # along w
SHOWN = 160  # points of the sample that are drawn


class Toy(FigurePart):
    """The toy model's data, and clean and robust accuracy of each class against w."""

    kind: Literal["toy"]
    needs_runs = False

    easy: float = Field(0.95, gt=0.5, lt=1)  # p_+
    hard: float = Field(0.75, gt=0.5, lt=1)  # p_-
    eta: float = Field(0.3, gt=0)  # η
    dimensions: int = Field(25, ge=1)  # d
    epsilon: float = Field(0.1, ge=0, lt=1)  # ε
    largest: float = Field(12.0, gt=0)  # of w


def accuracy(part: Toy, sign: int, w: float, epsilon: float) -> float:
    """A_y(w, ε) of class y = `sign`."""
    p = part.easy if sign > 0 else part.hard
    d = part.dimensions
    shift = d * (part.eta - epsilon)

    def normal(value: float) -> float:
        return 0.5 * (1 + math.erf(value / math.sqrt(2)))

    right, wrong = (normal((w * (x1 - epsilon) + shift) / math.sqrt(d)) for x1 in (1.0, -1.0))
    return p * right + (1 - p) * wrong


def paint(canvas: Canvas, part: Toy) -> str:
    """Three panels; a triangle marks the best w of each class."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    figure = canvas.figure
    figure.set_size_inches(PAGE, 2.55)
    sample, clean, robust = figure.subplots(1, 3)
    easy, hard, mean = turns(3)
    canvas.series_kind("lines", "w", "accuracy (%)")
    draws = np.random.default_rng(0)  # a sample to look at; no number of the figure comes from it
    for sign, style in ((1, easy), (-1, hard)):
        p = part.easy if sign > 0 else part.hard
        x1 = sign * np.where(draws.random(SHOWN) < p, 1, -1) + draws.uniform(-0.22, 0.22, SHOWN)
        rest = draws.normal(sign * part.eta, 1 / math.sqrt(part.dimensions), SHOWN)
        sample.plot(rest, x1, style.marker, color=style.color, markersize=2.6, alpha=0.7, markeredgewidth=0)
    sample.axvline(0, color=GRID, linewidth=0.8, zorder=0)
    sample.set(yticks=(-1, 1), ylim=(-1.6, 1.6), xlabel=r"mean of $x_2 \ldots x_{d+1}$", ylabel="$x_1$")
    sample.set_title("Sample")
    w = [part.largest * index / (POINTS - 1) for index in range(POINTS)]
    handles: dict[str, Any] = {}
    best: dict[str, float] = {}
    lowest = math.floor(accuracy(part, -1, part.largest, part.epsilon) * 10 - 0.5) * 10.0
    for axes, epsilon, title in (
        (clean, 0.0, "Clean"),
        (robust, part.epsilon, rf"Robust, $\epsilon$ = {part.epsilon:g}"),
    ):
        panel = "Clean" if epsilon == 0.0 else "Robust"
        pair = [[accuracy(part, sign, one, epsilon) * PERCENT for one in w] for sign in (1, -1)]
        lines = {
            f"easy class, p = {part.easy:g}": (pair[0], easy),
            f"hard class, p = {part.hard:g}": (pair[1], hard),
            "average": ([(a + b) / 2 for a, b in zip(*pair, strict=True)], mean),
        }
        for name, (values, style) in lines.items():
            color = INK if name == "average" else style.color
            (line,) = axes.plot(w, values, color=color, linestyle=style.dash, linewidth=1.6)
            handles.setdefault(name, line)
            series = canvas.marks.new(name, panel)
            series.own(line)
            for one, value in list(zip(w, values, strict=True))[:: POINTS // 40]:
                series.point(axes, one, value, label=f"{name}, w = {one:.1f}: {value:.1f} %")
            top = max(range(POINTS), key=lambda index, values=values: values[index])  # type: ignore[misc]
            best[f"{panel} {name}"] = w[top]
            axes.plot(
                w[top],
                values[top] + (103 - lowest) * 0.03,
                marker="v",
                color=color,
                markersize=5,
                clip_on=False,
            )
        axes.set_title(title)
        axes.set_xlabel("w, weight of the robust feature")
        axes.set_ylim(lowest, 103)
        axes.set_xlim(0, part.largest)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
    clean.set_ylabel("accuracy (%)")
    robust.text(
        0.98,
        0.04,
        rf"d = {part.dimensions}, $\eta$ = {part.eta:g}",
        transform=robust.transAxes,
        ha="right",
        fontsize=7,
        color=MUTED,
    )
    legend(figure, list(handles.values()), list(handles))
    found = [f"{name} {value:.1f}" for name, value in best.items() if "average" not in name]
    return f"Accuracy of the toy model against w. Best w: {'; '.join(found)}."
