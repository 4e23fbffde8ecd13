"""Draw HAM's weight functions φ_λ(t), as `ham_core.mining.weights` computes them: docs/pictures/weight-functions.png.

    python docs/plot_weights.py

Colours are those of Okabe and Ito (2008); dashes repeat the distinction for readers of grey prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import matplotlib
import torch
from matplotlib.figure import Figure

from ham_core.mining.weights import Function, Weight

PICTURE = Path(__file__).parent / "pictures" / "weight-functions.png"
WIDTH, HEIGHT, DPI = 8.75, 5.6, 160  # inches and dots per inch: 1400 pixels wide
FORMULAS = {
    "uniform": "1",
    "linear": "t",
    "power": "t^λ",
    "exponential": "exp(λ(t - 1))",
    "sigmoid": "σ(5(2t - 1) - λ)",
    "tanh": "(1 + tanh(5(2t - 1) - λ))/2",
}
LINES: dict[str, dict[float, float]] = {  # λ -> t at which the line is labelled
    "power": {0.5: 0.25, 1: 0.5, 2: 0.62, 4: 0.86},
    "exponential": {0: 0.5, 1: 0.45, 3: 0.6, 8: 0.85},
    "sigmoid": {-3: 0.2, -1: 0.4, 1: 0.6, 3: 0.8},
    "tanh": {-3: 0.2, -1: 0.4, 1: 0.6, 3: 0.8},
}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#1c1e21")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
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
LABEL = {
    "ha": "center",
    "va": "center",
    "fontsize": 8,
    "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1.2},
}


def main() -> None:
    """One panel per function, one line per λ."""
    t = torch.linspace(0, 1, 401)  # its largest value is 1, so that `shape` scales it by 1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        panels = figure.subplots(2, 3, sharex=True, sharey=True)
        for panel, function in zip(panels.flat, get_args(Function), strict=True):
            panel.set_title(f"{function}:  φ(t) = {FORMULAS[function]}")
            for (parameter, place), color, dash in zip(
                LINES.get(function, {1.0: None}).items(), COLORS, DASHES, strict=False
            ):
                weight = Weight.model_validate(
                    {"measure": "softmax_l1", "function": function, "parameter": parameter}
                )
                values = weight.shape(t)
                panel.plot(t, values, color=color, linestyle=dash, clip_on=False)
                if place is not None:
                    height = values[(t - place).abs().argmin()]
                    panel.text(place, height, f"λ = {parameter:g}", color=color, **LABEL)
            panel.set(xlim=(0, 1), ylim=(0, 1.03))
        for panel in panels[1]:
            panel.set_xlabel("t, measure over its largest value")
        for panel in panels[:, 0]:
            panel.set_ylabel("φ(t), before the mean is set to 1")
        figure.supxlabel(
            "Source: Weight.shape in ham_core/mining/weights.py. The measure's largest value is that over the hard examples "
            "of the batch. Default of tanh and sigmoid: λ = -1.",
            fontsize=7.5,
            color="#50555a",
        )
        PICTURE.parent.mkdir(exist_ok=True)
        figure.savefig(PICTURE, dpi=DPI, metadata={"Software": None})


if __name__ == "__main__":
    main()
