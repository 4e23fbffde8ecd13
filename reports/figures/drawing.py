"""A spec and a sweep's trials -> a Drawing: SVG, PNG and PDF, the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Sequence

from ham_core.errors import RequestError, known
from reports.collect import Material, Trial
from reports.figures.base import NOTHING_YET, Canvas, Drawing, Lacking
from reports.figures.kinds import PAINTERS
from reports.figures.style import context, new_figure, saved
from reports.spec import Spec
from reports.tables import apart, by_protocol


def drawn(spec: Spec, material: Material, formats: Sequence[str] = ("svg", "png", "pdf")) -> Drawing:
    """The figure of a spec. Of several protocols the largest is drawn. Lacking: what it waits for."""
    part = spec.figure
    if part is None:
        raise Lacking(f"'{spec.name}' has no figure")
    protocol, done = None, []
    if part.needs_runs:
        trials = material.of_grid(spec.trials.grid)
        if not trials:
            raise RequestError(
                f"{spec.place}: figure '{spec.name}' needs grid '{spec.trials.grid}', which sweep '{material.sweep}' does not "
                f"plan; {known(spec.trials.grid, material.grids)}"
            )
        protocol, members = by_protocol(trials, spec.rows.by, spec.rows.own)[0]
        done = _by_value([trial for trial in members if trial.finished], spec.rows.by)
        if not done:
            raise Lacking(NOTHING_YET)
    files: dict[str, bytes] = {}
    alt, data = "", None
    for name in sorted(formats):  # svg last, whose marks `data` describes
        with context():  # a canvas each: saving one moves its axes, and the next file would depend on it
            canvas = Canvas(new_figure(), spec, done, material, by_title(done))
            alt = PAINTERS[type(part)](canvas, part)
            files[name] = _file(canvas, name)
            data = canvas.marks.data()
    text = protocol.text if protocol is not None else ""
    caption = part.caption(spec, material)
    return Drawing(spec.name, material.sweep, spec.title, caption, spec.question, text, files, alt, data)


def _by_value(trials: list[Trial], key: str) -> list[Trial]:
    """By rising value of the setting that makes the rows, where it is a number; else in the order of the plan."""
    values = [trial.values.get(key) for trial in trials]
    numbers = [float(value) for value in values if isinstance(value, int | float)]
    if len(numbers) < len(trials):
        return trials
    order = sorted(range(len(trials)), key=lambda index: numbers[index])
    return [trials[index] for index in order]


def _file(canvas: Canvas, form: str) -> bytes:
    for cloud in canvas.clouds:
        cloud.set_rasterized(form == "svg")
    content = saved(canvas.figure, form)
    return canvas.marks.into_svg(canvas.figure, content) if form == "svg" else content


def by_title(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """One entry per method, or per method and setting where a grid varies more than the method."""
    labels: dict[str, list[Trial]] = {}
    for trial in trials:
        labels.setdefault(trial.label, []).append(trial)
    return {
        f"{members[0].title}, {words}" if words else members[0].title: members
        for own in labels.values()
        for words, members in apart(own).items()
    }
