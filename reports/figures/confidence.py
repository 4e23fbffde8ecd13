"""Confidence on the adversarial image against that on the clean one, image by image; HAM's Figure 2.

    over-confident  c(x') > c(x), above the diagonal

c is p_y, the confidence in the true class, as HAM's text has it, or max_c p_c, that in the predicted class. An attack that
climbs the cross-entropy lowers p_y by construction, so that by p_y hardly any image lies above the diagonal; both are drawn.
Images that are wrong when clean are not attacked and not drawn. Many points are counted in hexagons, which keeps files small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from reports.figures.base import Canvas, FigurePart, Lacking, chosen_groups, no_predictions, predictions_of
from reports.figures.style import INK, PAGE, PERCENT, sequential

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from reports.predictions import Predictions

Reading = Literal["true_class", "predicted_class"]
WORDS = {"true_class": "true class", "predicted_class": "predicted class"}
HEXAGONS = 22  # along one side
Panel = tuple[str, Reading, Any, Any]  # title, reading, and arrays c(x) and c(x')


class Confidence(FigurePart):
    """Confidence under attack against clean, per image; one column per method, or one panel per class of one method."""

    kind: Literal["confidence"]
    weights: str = "best"
    attack: str = "pgd20"
    readings: tuple[Reading, ...] = ("true_class", "predicted_class")
    methods: tuple[str, ...] | None = None  # labels; the first four of the plan where none are named
    by: Literal["method", "class"] = "method"


def paint(canvas: Canvas, part: Confidence) -> str:
    """Hexagons, darker with more images; the dashed line is the diagonal, the cross the mean."""
    from matplotlib.colors import LogNorm

    groups = chosen_groups(canvas, part.methods, 1 if part.by == "class" else 4)
    found: dict[str, list[Predictions]] = {}
    for title, members in groups.items():
        own = [one for _, one in predictions_of(canvas, members, part.weights, part.attack)]
        if own:
            found[title] = own
    if not found:
        raise no_predictions(part.weights, part.attack)
    rows = _by_class(found, part) if part.by == "class" else _by_method(found, part)
    if not rows:
        raise Lacking(
            "evaluations that store the confidence in the predicted class; those of earlier versions do not"
        )
    wide = max(map(len, rows))
    figure = canvas.figure
    figure.set_size_inches(PAGE, (PAGE - 1.7) / max(wide, 3) * len(rows) + 0.8)
    grid = figure.subplots(len(rows), max(wide, 3), sharex=True, sharey=True, squeeze=False)
    canvas.series_kind("points", "confidence on the clean image", "confidence on the adversarial image")
    drawn: list[Any] = []
    sentences: list[str] = []
    for r, panels in enumerate(rows):
        for c, axes in enumerate(grid[r]):
            if c >= len(panels):
                axes.set_axis_off()
                continue
            hexagons, sentence = _panel(canvas, axes, panels[c], with_title=r == 0 or part.by == "class")
            drawn.append(hexagons)
            sentences.append(sentence)
        grid[r][0].set_ylabel("adversarial" if part.by == "class" else f"adversarial,\n{WORDS[panels[0][1]]}")
    for axes in grid[-1][: len(rows[-1])]:
        axes.set_xlabel("clean")
    counts = [hexagons.get_array() for hexagons in drawn]
    most = max(
        (float(one.max()) for one in counts if len(one)), default=1.0
    )  # a class may have no image to show
    for hexagons in drawn:
        hexagons.set_norm(LogNorm(1, max(most, 2)))
    bar = figure.colorbar(drawn[0], ax=grid, shrink=0.8, aspect=30, pad=0.02)
    bar.set_label("images")
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.outline.set_visible(False)
    return "Confidence under attack against clean. " + " ".join(sentences)


def _by_method(found: dict[str, list[Predictions]], part: Confidence) -> list[list[Panel]]:
    """One row per reading that every method has, one column per method."""
    rows = []
    for reading in part.readings:
        panels = [
            (title, reading, *_pairs(own, reading)) for title, own in found.items() if _has(own, reading)
        ]
        if len(panels) == len(found):
            rows.append(panels)
    return rows


def _by_class(found: dict[str, list[Predictions]], part: Confidence) -> list[list[Panel]]:
    """The classes of one method, five in a row."""
    ((_, own),) = found.items()
    readings = [reading for reading in part.readings if _has(own, reading)]
    if not readings:
        return []
    panels = [
        (name.replace("_", " "), readings[0], *_pairs(own, readings[0], index))
        for index, name in enumerate(own[0].classes)
    ]
    return [panels[first : first + 5] for first in range(0, len(panels), 5)]


def _has(own: Sequence[Predictions], reading: Reading) -> bool:
    return reading == "true_class" or all(one.top is not None and one.clean_top is not None for one in own)


def _pairs(own: Sequence[Predictions], reading: Reading, only: int | None = None) -> tuple[Any, Any]:
    """(c(x), c(x')) of the attacked images of all seeds, or of one class of them."""
    import numpy as np

    clean, attacked = [], []
    for one in own:
        rows = one.clean == one.label
        if only is not None:
            rows &= one.label == only
        before, after = confidences(one, reading)
        clean.append(before[rows])
        attacked.append(after[rows])
    return np.concatenate(clean), np.concatenate(attacked)


def confidences(one: Predictions, reading: Reading) -> tuple[Any, Any]:
    """c(x), c(x') of every image."""
    return (one.clean_confidence, one.confidence) if reading == "true_class" else (one.clean_top, one.top)


def _panel(canvas: Canvas, axes: Axes, panel: Panel, *, with_title: bool) -> tuple[Any, str]:
    title, reading, clean, attacked = panel
    hexagons = axes.hexbin(
        clean,
        attacked,
        gridsize=HEXAGONS,
        extent=(0, 1, 0, 1),
        mincnt=1,
        cmap=sequential(),
        linewidths=0.15,
        edgecolors="face",
    )
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    share = float((attacked > clean).mean()) * PERCENT if len(clean) else 0.0
    axes.text(0.04, 0.93, f"{share:.1f} %\nabove", transform=axes.transAxes, fontsize=7, va="top")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axes.tick_params(labelsize=7.5)
    if with_title:
        axes.set_title(title, fontsize=8)
    sentence = f"{title}, {WORDS[reading]}: {share:.1f} % of {len(clean)} attacked images over-confident."
    series = canvas.marks.new(title, WORDS[reading])
    canvas.clouds.append(hexagons)
    if len(clean):
        x, y = float(clean.mean()), float(attacked.mean())
        axes.plot(x, y, marker="P", color="#d55e00", markeredgecolor="#ffffff", markersize=7)
        words = f"{share:.1f} % of {len(clean)} attacked images over-confident"
        series.point(axes, x, y, label=f"{title}, {words}: mean {x:.2f} clean, {y:.2f} attacked")
    return hexagons, sentence
