"""The kinds of figures: the `kind` of a spec's `figure`, its keys, and who paints it. Each is one file with a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, get_args

from pydantic import Field

from reports.figures import class_bars, pareto, sensitivity, series
from reports.figures.base import Canvas, FigurePart

PAINTERS: dict[type[FigurePart], Callable[[Canvas, Any], str]] = {
    class_bars.ClassBars: class_bars.paint,
    pareto.Pareto: pareto.paint,
    series.Series: series.paint,
    sensitivity.Sensitivity: sensitivity.paint,
}
Figure = Annotated[
    class_bars.ClassBars | pareto.Pareto | series.Series | sensitivity.Sensitivity,
    Field(discriminator="kind"),
]


def name_of(part: type[FigurePart]) -> str:
    """The word that a spec's `kind` is."""
    (name,) = get_args(part.model_fields["kind"].annotation)
    return str(name)


# What an unknown key of a figure, or of a list within one, is compared with.
MODELS: dict[str, type[FigurePart]] = {
    **{name_of(part): part for part in PAINTERS},
    "panels": sensitivity.Panel,
}
