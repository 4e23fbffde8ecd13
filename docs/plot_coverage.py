"""Simulate how often an interval holds the true worst class: docs/pictures/worst-coverage.png and the numbers beside it.

    python docs/plot_coverage.py

Ten classes of 1,000 test images. The worst class has accuracy 0.2, the nine others lie `gap` above it; gap 0 is a tie of all
ten. Each point: 4,000 test sets drawn anew.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ham_core.statistics import LEVEL, PerClass, wilson, worst_interval

PICTURE = Path(__file__).parent / "pictures" / "worst-coverage.png"
CLASSES, IMAGES, WORST, DRAWS = 10, 1000, 0.2, 4000
GAPS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#d7dade",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
}


def coverage(gap: float, random: np.random.Generator) -> tuple[float, float, float, float]:
    """(share of test sets whose simultaneous interval, and whose Wilson interval, holds the true worst; their mean widths)."""
    truth = np.full(CLASSES, WORST + gap)
    truth[0] = WORST
    images = np.full(CLASSES, IMAGES)
    held = np.zeros(2)
    width = np.zeros(2)
    for _ in range(DRAWS):
        hits = random.binomial(images, truth)
        seen = int(np.argmin(hits))
        both = (worst_interval(PerClass(images, hits, hits / images)), wilson(int(hits[seen]), IMAGES))
        held += [one.low <= WORST <= one.high for one in both]
        width += [one.high - one.low for one in both]
    return (*(held / DRAWS), *(width / DRAWS))


def main() -> None:
    """Two lines over the gap, and a table on stdout."""
    random = np.random.default_rng(0)
    found = np.array([coverage(gap, random) for gap in GAPS])
    print(
        "| gap to the other nine | simultaneous | its width | Wilson of the class that looks worst | its width |"
    )
    print("|---:|---:|---:|---:|---:|")
    for gap, (ours, theirs, wide, narrow) in zip(GAPS, found, strict=True):
        print(f"| {gap:g} | {100 * ours:.1f} % | {wide:.3f} | {100 * theirs:.1f} % | {narrow:.3f} |")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.axhline(100 * LEVEL, color="#6b7075", linewidth=0.9, linestyle=(0, (4, 2)))
        axes.plot(
            GAPS,
            100 * found[:, 0],
            color="#0072b2",
            marker="o",
            label="simultaneous, for the true worst class",
        )
        axes.plot(
            GAPS,
            100 * found[:, 1],
            color="#d55e00",
            marker="s",
            linestyle=(0, (5, 1.5)),
            label="Wilson, of the class that looks worst",
        )
        axes.set(
            xlabel="how far the nine other classes lie above the worst",
            ylabel="intervals that hold the true worst (%)",
            ylim=(70, 101),
            title=f"{CLASSES} classes of {IMAGES:,} images, worst class {WORST:g}; dashed: the promised {LEVEL:.0%}",
        )
        axes.legend(frameon=False, loc="lower right")
        figure.savefig(PICTURE, dpi=160, metadata={"Software": None})


if __name__ == "__main__":
    main()
