"""What all kinds of figures share: their YAML part, the drawing they become, and the canvas they are painted on.

A kind is one file: a pydantic part (its keys in a spec) and a painter,

    def paint(canvas: Canvas, part: ItsPart) -> str

which draws on `canvas.figure`, names every number that it draws in `canvas.marks`, and answers what the figure shows in words.
A painter that finds no numbers raises Lacking with what it waits for. `kinds.py` lists the kinds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from ham_core.errors import RequestError
from reports.collect import Material, Trial
from reports.figures.marks import Kind, Marks
from reports.figures.style import PERCENT, Style, turns
from reports.statistics import Estimate, student_t

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reports.predictions import Predictions
    from reports.spec import Spec

MOST_LINES, EXTREMES = 20, 5  # classes that one plot has lines for; of more, so many at each end
NOTHING_YET = "no finished trial with what it draws yet"


class FigurePart(BaseModel):
    """The keys of one kind of figure. Frozen; unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    needs_runs: ClassVar[bool] = True  # False: computed, drawn without any trial

    def caption(self, spec: Spec, material: Material) -> str:
        """The caption of the drawing."""
        return spec.caption


class Lacking(Exception):
    """There is nothing to draw; the message says what the figure waits for."""


@dataclass(frozen=True)
class Drawing:
    """One figure of one sweep. `data` is what marks.py says; the SVG's marks carry its indices."""

    name: str
    sweep: str
    title: str
    caption: str
    question: str
    protocol: str
    files: dict[str, bytes]  # format -> content
    alt: str  # what the figure shows, in words
    data: dict[str, Any] | None = None


@dataclass
class Canvas:
    """What a painter is given: an empty figure, and the finished trials of one protocol."""

    figure: Figure
    spec: Spec
    trials: Sequence[Trial]
    material: Material
    groups: Mapping[
        str, list[Trial]
    ]  # title of a method, or of a method and setting -> trials of several seeds
    marks: Marks = field(default_factory=Marks)
    clouds: list[Any] = field(
        default_factory=list
    )  # of many points: pixels in the SVG, which goes into a page

    @property
    def styles(self) -> dict[str, Style]:
        """Of each group. A method keeps its style in every figure; settings of one method take turns."""
        labels = [members[0].label for members in self.groups.values()]
        if len(set(labels)) < len(labels):
            return dict(zip(self.groups, turns(len(self.groups)), strict=True))
        own = styles_of(self.material)
        return {title: own[members[0].label] for title, members in self.groups.items()}

    def series_kind(self, kind: Kind, x: str, y: str) -> None:
        """What the marks are, and what their numbers mean."""
        self.marks.kind, self.marks.title, self.marks.x, self.marks.y = kind, self.spec.title, x, y


def styles_of(material: Material) -> dict[str, Style]:
    """One style per method label, in the order of the sweep's plan."""
    return dict(zip(material.labels, turns(len(material.labels)), strict=True))


def percent(values: Sequence[float]) -> Estimate:
    """Mean and interval over seeds of shares, in percent."""
    return student_t([value * PERCENT for value in values])


def errors(estimates: Sequence[Estimate]) -> list[float]:
    """Half widths for error bars; nothing (0) where one seed gives no interval over seeds."""
    return [estimate.half or 0.0 for estimate in estimates]


def values_of(trials: Sequence[Trial], metric: str) -> list[float]:
    """A final metric of those trials that have it."""
    return [value for value in (trial.metric(metric) for trial in trials) if value is not None]


def predictions_of(
    canvas: Canvas, trials: Sequence[Trial], weights: str, attack: str
) -> list[tuple[Trial, Predictions]]:
    """Of those trials that have them. Lacking: the trial store is not known, or one of them is damaged in it."""
    read = canvas.material.predictions
    if read is None:
        raise Lacking("the trial store (--store), which holds the predictions of single images")
    try:
        found = [(trial, read(trial, weights, attack)) for trial in trials]
    except RequestError as error:
        raise Lacking(str(error)) from None
    return [(trial, one) for trial, one in found if one is not None]


def no_predictions(weights: str, attack: str) -> Lacking:
    """The sentence for a store without the evaluations that are drawn."""
    return Lacking(f"the trial store (--store) with predictions of the {weights} weights under {attack}")


def chosen_groups(canvas: Canvas, methods: Sequence[str] | None, most: int) -> dict[str, list[Trial]]:
    """The groups of these method labels, all where none are named; no more than `most`, in the order of the plan."""
    wanted = {
        title: members
        for title, members in canvas.groups.items()
        if methods is None or members[0].label in methods
    }
    return dict(list(wanted.items())[:most])


def all_classes(trials: Sequence[Trial]) -> list[str]:
    """Keys of all classes of the data set."""
    return classes_of(trials, "test/images/")


def classes_of(trials: Sequence[Trial], prefix: str) -> list[str]:
    """Keys of the classes, `03_cat`, for which a trial has `<prefix><class>`."""
    for trial in trials:
        metrics = trial.run.metrics if trial.run is not None else {}
        found = [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]
        classes = sorted(name for name in found if name[:1].isdigit())
        if classes:
            return classes
    return []


def extremes(scores: Mapping[str, float]) -> list[str]:
    """All classes where a figure has room for their lines; else the lowest and the highest of them, in the given order."""
    if len(scores) <= MOST_LINES:
        return list(scores)
    ranked = sorted(scores, key=lambda name: scores[name])
    shown = {*ranked[:EXTREMES], *ranked[-EXTREMES:]}
    return [name for name in scores if name in shown]


def class_name(key: str) -> str:
    """`03_traffic_light` -> `traffic light`."""
    return key.split("_", 1)[-1].replace("_", " ")


def attack_title(attack: str) -> str:
    """`pgd20` -> `PGD-20`."""
    if attack == "clean":
        return "Clean images"
    if attack == "autoattack":
        return "AutoAttack"
    letters = attack.rstrip("0123456789")
    return f"{letters.upper()}-{attack[len(letters) :]}" if attack != letters else attack
