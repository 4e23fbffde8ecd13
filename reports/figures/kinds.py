"""The kinds of figures: the `kind` of a spec's `figure`, its keys, and who paints it. Each is one file with a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, get_args

from pydantic import Field

from reports.figures import (
    class_bars,
    class_curves,
    class_heat,
    class_pairs,
    class_series,
    confidence,
    confusion,
    cost_fairness,
    fluctuation,
    overconfident,
    pareto,
    ranks,
    sensitivity,
    series,
    step_sizes,
    surface,
    toy,
)
from reports.figures.base import Canvas, FigurePart

PAINTERS: dict[type[FigurePart], Callable[[Canvas, Any], str]] = {
    class_bars.ClassBars: class_bars.paint,
    class_curves.ClassCurves: class_curves.paint,
    class_heat.ClassHeat: class_heat.paint,
    class_pairs.ClassPairs: class_pairs.paint,
    class_series.ClassSeries: class_series.paint,
    confidence.Confidence: confidence.paint,
    confusion.Confusion: confusion.paint,
    cost_fairness.CostFairness: cost_fairness.paint,
    fluctuation.Fluctuation: fluctuation.paint,
    overconfident.Overconfident: overconfident.paint,
    pareto.Pareto: pareto.paint,
    ranks.RankAxis: ranks.paint,
    sensitivity.Sensitivity: sensitivity.paint,
    series.Series: series.paint,
    step_sizes.StepSizes: step_sizes.paint,
    surface.Surface: surface.paint,
    toy.Toy: toy.paint,
}
Figure = Annotated[
    class_bars.ClassBars
    | class_curves.ClassCurves
    | class_heat.ClassHeat
    | class_pairs.ClassPairs
    | class_series.ClassSeries
    | confidence.Confidence
    | confusion.Confusion
    | cost_fairness.CostFairness
    | fluctuation.Fluctuation
    | overconfident.Overconfident
    | pareto.Pareto
    | ranks.RankAxis
    | sensitivity.Sensitivity
    | series.Series
    | step_sizes.StepSizes
    | surface.Surface
    | toy.Toy,
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
    "curves": class_curves.ClassPanel,
    "pairs": surface.Pair,
}
