"""Share of over-confident adversarial images beside robust accuracy, class by class; HAM's Figure 3.

Over-confident as in confidence.py, a share of the class's attacked images: those that are right when clean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from reports.figures.base import Canvas, FigurePart, Lacking, attack_title, no_predictions, predictions_of
from reports.figures.class_bars import grouped_bars, name_classes
from reports.figures.confidence import Reading, confidences
from reports.figures.style import PERCENT, legend

if TYPE_CHECKING:
    from reports.predictions import Predictions


class Overconfident(FigurePart):
    """Class-wise share of over-confident adversarial images above class-wise robust accuracy, the hardest class first."""

    kind: Literal["overconfident"]
    weights: str = "best"
    attack: str = "pgd20"
    reading: Reading = "predicted_class"


def paint(canvas: Canvas, part: Overconfident) -> str:
    """Bars are means over seeds, whiskers their interval."""
    found: dict[str, list[Predictions]] = {}
    for title, members in canvas.groups.items():
        own = [one for _, one in predictions_of(canvas, members, part.weights, part.attack)]
        if own:
            found[title] = own
    if not found:
        raise no_predictions(part.weights, part.attack)
    if part.reading == "predicted_class":
        found = {title: own for title, own in found.items() if all(one.top is not None for one in own)}
        if not found:
            raise Lacking(
                "evaluations that store the confidence in the predicted class; those of earlier versions do not"
            )
    names = next(iter(found.values()))[0].classes
    over = {title: _shares(own, part.reading, len(names)) for title, own in found.items()}
    robust = {title: _shares(own, None, len(names)) for title, own in found.items()}
    pooled = [[value for shares in robust.values() for value in shares[c]] for c in range(len(names))]
    order = sorted(range(len(names)), key=lambda c: sum(pooled[c]) / len(pooled[c]) if pooled[c] else 2.0)
    classes = [f"{c:02d}_{names[c]}" for c in order]
    figure = canvas.figure
    figure.set_size_inches(max(7.2, 0.72 * len(names)), 4.2)
    upper, lower = figure.subplots(2, 1, sharex=True)
    canvas.series_kind("bars", "class", "share (%)")
    handles: dict[str, Any] = {}
    for axes, shares, panel in (
        (upper, over, "Over-confident, of the attacked images"),
        (lower, robust, f"Robust, {attack_title(part.attack)}"),
    ):
        ordered = {title: [one[c] for c in order] for title, one in shares.items()}
        handles |= grouped_bars(canvas, axes, panel, classes, ordered)
        axes.set_title(panel)
    upper.set_ylabel("share (%)")
    upper.set_ylim(0, min(upper.get_ylim()[1], 104))
    lower.set_ylabel("accuracy (%)")
    lower.set_ylim(0, 104)
    name_classes(lower, classes)
    legend(figure, list(handles.values()), list(handles))
    worst = names[order[0]]
    shares_of_worst = [
        f"{sum(o[order[0]]) / len(o[order[0]]) * PERCENT:.1f} %" for o in over.values() if o[order[0]]
    ]
    return (
        f"Over-confident share and robust accuracy of {', '.join(found)} on {len(names)} classes. In {worst}, the hardest "
        f"class: {', '.join(shares_of_worst)} over-confident."
    )


def _shares(own: list[Predictions], reading: Reading | None, classes: int) -> list[list[float]]:
    """[class][seed]: share that is over-confident, or with no reading share of all images that is robust."""
    shares: list[list[float]] = [[] for _ in range(classes)]
    for one in own:
        for c in range(classes):
            rows = one.label == c
            if reading is not None:
                rows = rows & (one.clean == one.label)
            if not rows.any():
                continue
            if reading is None:
                hits = one.prediction[rows] == c
            else:
                clean, attacked = confidences(one, reading)
                hits = attacked[rows] > clean[rows]
            shares[c].append(float(hits.mean()))
    return shares
