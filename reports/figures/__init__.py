"""Figures: a spec and a sweep's trials -> drawings.

    base.py      the canvas, the drawing, and what a kind of figure is
    style.py     colours, sizes, saving
    marks.py     the numbers of a drawing, for the page's hovering and for tests
    kinds.py     the kinds, one file each
    drawing.py   from a spec to a drawing

Importing this package is light, and reports.spec may do it: kinds know specs only by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports.figures.base import Drawing, Lacking
from reports.figures.pareto import front
from reports.figures.style import GRID, INK, MUTED, PAPER

if TYPE_CHECKING:
    from reports.collect import Material
    from reports.spec import Spec

__all__ = ["GRID", "INK", "MUTED", "PAPER", "Drawing", "Lacking", "draw", "drawn", "front"]


def drawn(spec: Spec, material: Material, formats: Sequence[str] = ("svg", "png", "pdf")) -> Drawing:
    """The figure of a spec; Lacking where there is nothing to draw yet."""
    from reports.figures.drawing import drawn as found

    return found(spec, material, formats)


def draw(spec: Spec, material: Material, formats: Sequence[str] = ("svg", "png", "pdf")) -> Drawing | None:
    """The figure of a spec; None where there is nothing to draw yet."""
    try:
        return drawn(spec, material, formats)
    except Lacking:
        return None
