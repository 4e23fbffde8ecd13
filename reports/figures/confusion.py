"""What the images of each class are taken for under attack, one panel per method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from reports.figures.base import Canvas, FigurePart, chosen_groups, no_predictions, predictions_of
from reports.figures.style import INK, MUTED, PAGE, PERCENT, sequential

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

    from reports.predictions import Predictions

MOST_PANELS = 6
MOST_CLASSES = 20  # up to which classes are named and cells answer to the mouse


class Confusion(FigurePart):
    """Rows are true classes, columns predicted ones; shares of the row in percent, right predictions left white."""

    kind: Literal["confusion"]
    weights: str = "best"
    attack: str = "pgd20"
    methods: tuple[str, ...] | None = None  # labels; the first six of the plan where none are named


def paint(canvas: Canvas, part: Confusion) -> str:
    """All seeds together."""
    import numpy as np

    found: dict[str, list[Predictions]] = {}
    for title, members in chosen_groups(canvas, part.methods, MOST_PANELS).items():
        own = [one for _, one in predictions_of(canvas, members, part.weights, part.attack)]
        if own:
            found[title] = own
    if not found:
        raise no_predictions(part.weights, part.attack)
    names = [name.replace("_", " ") for name in next(iter(found.values()))[0].classes]
    tables = {title: shares(own, len(names)) for title, own in found.items()}
    most = max(float(np.where(np.eye(len(names), dtype=bool), 0, table).max()) for table in tables.values())
    columns = 2 if len(tables) == 4 else min(3, len(tables))
    rows = -(-len(tables) // columns)
    figure = canvas.figure
    side = (PAGE - 1.5) / 3
    figure.set_size_inches(columns * side + 1.5, rows * (side + 0.25) + 0.75)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    canvas.series_kind("heat", "predicted class", "share of the true class (%)")
    mesh = None
    sentences = []
    for index, axes in enumerate(grid.flat):
        if index >= len(tables):
            axes.set_axis_off()
            continue
        title, table = list(tables.items())[index]
        off = np.ma.masked_array(table, mask=np.eye(len(names), dtype=bool))
        mesh = axes.pcolormesh(
            off, cmap=sequential(), vmin=0, vmax=max(most, 1.0), edgecolors="#ffffff", linewidth=0.2
        )
        axes.set_title(title, fontsize=8)
        axes.set(aspect="equal", xlim=(0, len(names)), ylim=(len(names), 0))
        if len(names) <= MOST_CLASSES:
            places = [place + 0.5 for place in range(len(names))]
            turn = 90 if max(map(len, names)) > 2 else 0
            axes.set_xticks(places, names, fontsize=6.5, rotation=turn)
            axes.set_yticks(places, names, fontsize=6.5)
            for place in range(len(names)):
                axes.text(
                    place + 0.5,
                    place + 0.5,
                    f"{table[place, place]:.0f}",
                    ha="center",
                    va="center",
                    fontsize=5.5,
                    color=MUTED,
                )
            _name_cells(canvas, axes, title, table, names)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set(visible=True, color=INK, linewidth=0.5)
        true, taken = np.unravel_index(int(off.filled(-1).argmax()), table.shape)
        sentences.append(f"{title}: {table[true, taken]:.0f} % of {names[true]} is taken for {names[taken]}.")
    for line in grid:
        line[0].set_ylabel("true class")
    for axes in grid[-1]:
        axes.set_xlabel("predicted class")
    bar = figure.colorbar(mesh, ax=grid, shrink=0.8, aspect=30, pad=0.02)
    bar.set_label("share of the true class (%)")
    bar.outline.set_visible(False)
    return f"Confusion under {part.attack}. " + " ".join(sentences)


def shares(own: list[Predictions], classes: int) -> np.ndarray:
    """(C,C) in percent of the row, over the images of all seeds; a class without images has zeros."""
    import numpy as np

    from ham_core.metrics import confusion

    counts = sum(confusion(one.label, one.prediction, classes) for one in own)
    total = np.asarray(counts).sum(1, keepdims=True)
    return np.divide(counts, total, out=np.zeros((classes, classes)), where=total > 0) * PERCENT


def _name_cells(canvas: Canvas, axes: Axes, title: str, table: np.ndarray, names: list[str]) -> None:
    for true, name in enumerate(names):
        series = canvas.marks.new(f"{title}, {name}")
        for taken, other in enumerate(names):
            share = float(table[true, taken])
            label = f"{title}, {name}, taken for {other}: {share:.1f} %"
            series.box(axes, (taken, true, taken + 1, true + 1), other, share, label=label)
