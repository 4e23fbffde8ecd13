"""A spec and a sweep's trials -> drawings: SVG, PNG and PDF, the same bytes for the same numbers.

Colours are those of Okabe and Ito (2008), told apart by all common kinds of colour vision; markers, hatches and line styles
repeat the distinction for readers of grey prints.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ham_core.errors import RequestError, known
from reports.collect import Material, Trial
from reports.spec import ClassBars, Pareto, Sensitivity, Series, Spec
from reports.statistics import Estimate, student_t
from reports.tables import apart, by_protocol, lines_of, name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID, MUTED, PAPER = (
    "#1c1e21",
    "#d7dade",
    "#6b7075",
    "#fefefe",
)  # the page replaces them by its own, light or dark
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#8c6d1f", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "----", "++", "oo")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (8, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
)
PERCENT = 100.0


@dataclass(frozen=True)
class Drawing:
    """One figure of one sweep."""

    name: str
    sweep: str
    title: str
    caption: str
    question: str
    protocol: str
    files: dict[str, bytes]  # format -> content
    alt: str  # what the figure shows, in words


@dataclass(frozen=True)
class Style:
    """How one method is drawn, everywhere alike."""

    color: str
    marker: str
    hatch: str
    dash: Any


def styles_of(material: Material) -> dict[str, Style]:
    """One style per method label, in the order of the sweep's plan."""
    return dict(zip(material.labels, _turns(len(material.labels)), strict=True))


def _turns(count: int) -> list[Style]:
    """The first styles, over again where there are more lines than colours."""
    return [
        Style(
            PALETTE[index % len(PALETTE)],
            MARKERS[index % len(MARKERS)],
            HATCHES[index % len(HATCHES)],
            DASHES[index % len(DASHES)],
        )
        for index in range(count)
    ]


def draw(spec: Spec, material: Material, formats: Sequence[str] = ("svg", "png", "pdf")) -> Drawing | None:
    """The figure of a spec; None while no trial of it has finished. Of several protocols the largest is drawn."""
    if spec.figure is None:
        return None
    trials = material.of_grid(spec.trials.grid)
    if not trials:
        raise RequestError(
            f"{spec.place}: figure '{spec.name}' needs grid '{spec.trials.grid}', which sweep '{material.sweep}' does not "
            f"plan; {known(spec.trials.grid, material.grids)}"
        )
    protocol, members = by_protocol(trials, spec.rows.by)[0]
    done = [trial for trial in members if trial.finished]
    painters: dict[type, Callable[..., str | None]] = {
        ClassBars: _class_bars,
        Pareto: _pareto,
        Series: _series,
        Sensitivity: _sensitivity,
    }
    painter = painters[type(spec.figure)]
    with _context():
        figure = _figure()
        alt = painter(figure, spec, spec.figure, done, material) if done else None
        if alt is None:
            return None
        files = {name: _saved(figure, name) for name in formats}
    text = protocol.text if protocol is not None else ""
    caption = _beside_table(spec.figure, material) if isinstance(spec.figure, Sensitivity) else spec.caption
    return Drawing(spec.name, material.sweep, spec.title, caption, spec.question, text, files, alt)


def _beside_table(part: Sensitivity, material: Material) -> str:
    """The caption of a figure that stands below its table."""
    title = next((t.title for t in material.of_grid(part.baseline_grid) if t.label == part.baseline), None)
    line = f" The dashed line is {title} at the same protocol, its band the interval." if title else ""
    return f"The rows of the table against the {part.x_title}; whiskers are intervals of the mean over seeds.{line}"


def _context() -> Any:
    import matplotlib

    return matplotlib.rc_context(
        {
            "font.family": "DejaVu Sans",
            "font.size": 8.5,
            "axes.titlesize": 9,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 8.5,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.linewidth": 0.7,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "grid.color": GRID,
            "grid.linewidth": 0.6,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "xtick.major.size": 2.5,
            "ytick.major.size": 2.5,
            "legend.frameon": False,
            "legend.fontsize": 8,
            "lines.linewidth": 1.5,
            "hatch.linewidth": 0.6,
            "svg.hashsalt": "ham-sweeps",
            "svg.fonttype": "path",
            "pdf.fonttype": 42,
            "figure.dpi": 100,
        }
    )


def _figure() -> Figure:
    from matplotlib.figure import Figure

    return Figure(layout="constrained")


def _saved(figure: Figure, form: str) -> bytes:
    """Bytes without date or version, so that equal numbers give equal files."""
    stream = io.BytesIO()
    options: dict[str, Any] = {
        "svg": {"metadata": {"Date": None, "Creator": None}, "transparent": True},
        "pdf": {
            "metadata": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
            "transparent": True,
        },
        "png": {"metadata": {"Software": None}, "dpi": 200, "facecolor": "white"},
    }[form]
    figure.savefig(stream, format=form, **options)
    return stream.getvalue()


def _percent(values: Sequence[float]) -> Estimate:
    return student_t([value * PERCENT for value in values])


def _errors(estimates: Sequence[Estimate]) -> list[float]:
    """Half widths for error bars; nothing (0) where one seed gives no interval over seeds."""
    return [estimate.half or 0.0 for estimate in estimates]


def _by_title(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """One entry per method, or per method and setting where a grid varies more than the method."""
    labels: dict[str, list[Trial]] = {}
    for trial in trials:
        labels.setdefault(trial.label, []).append(trial)
    return {
        f"{members[0].title}, {words}" if words else members[0].title: members
        for own in labels.values()
        for words, members in apart(own).items()
    }


def _styles(groups: Mapping[str, Sequence[Trial]], material: Material) -> dict[str, Style]:
    """A method keeps its style in every figure; settings of one method take turns."""
    labels = [members[0].label for members in groups.values()]
    if len(set(labels)) < len(labels):
        return dict(zip(groups, _turns(len(groups)), strict=True))
    return {title: styles_of(material)[members[0].label] for title, members in groups.items()}


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=min(len(labels), 4),
        handlelength=2.4,
        columnspacing=1.6,
    )


def _class_bars(
    figure: Figure, spec: Spec, part: ClassBars, trials: Sequence[Trial], material: Material
) -> str | None:
    prefix = f"{part.weights}/{part.attacks[0]}/"
    first = next(
        (t.run.metrics for t in trials if t.run is not None and f"{prefix}avg" in t.run.metrics), None
    )
    if first is None:
        return None
    classes = sorted(
        name.removeprefix(prefix) for name in first if name.startswith(prefix) and name[len(prefix)].isdigit()
    )
    if not classes:
        return None
    groups = _by_title(trials)
    styles = _styles(groups, material)
    figure.set_size_inches(max(7.2, 0.72 * len(classes)), 1.95 * len(part.attacks) + 0.55)
    panels = figure.subplots(len(part.attacks), 1, sharex=True, squeeze=False)[:, 0]
    width = 0.82 / len(groups)
    handles: dict[str, Any] = {}
    for axes, attack in zip(panels, part.attacks, strict=True):
        for index, (title, members) in enumerate(groups.items()):
            found = [_values(members, f"{part.weights}/{attack}/{name}") for name in classes]
            places = [place for place, values in enumerate(found) if values]
            if not places:
                continue
            estimates = [_percent(found[place]) for place in places]
            means = [estimate.mean for estimate in estimates]
            style = styles[title]
            x = [place + (index - (len(groups) - 1) / 2) * width for place in places]
            bars = axes.bar(
                x, means, width * 0.94, facecolor=style.color, edgecolor=PAPER, hatch=style.hatch, linewidth=0
            )
            handles.setdefault(title, bars)
            axes.errorbar(x, means, _errors(estimates), fmt="none", ecolor=INK, elinewidth=0.7, capsize=0)
            worst = means.index(min(means))
            top = min(means[worst] + _errors(estimates)[worst], 96)
            axes.plot(
                x[worst], top + 4, marker="v", color=INK, markersize=3.5, linestyle="none", clip_on=False
            )
        axes.set_title(_attack_title(attack))
        axes.set_ylabel("accuracy (%)")
        axes.set_ylim(0, 104)
        axes.set_yticks(range(0, 101, 20))
        axes.grid(axis="y")
        axes.margins(x=0.01)
        axes.tick_params(axis="x", length=0)
    shown = [name.split("_", 1)[-1].replace("_", " ") for name in classes]
    panels[-1].set_xticks(range(len(classes)), shown)
    if max(map(len, shown)) > 11:
        panels[-1].tick_params(axis="x", rotation=30)
    if not handles:
        return None
    _legend(figure, list(handles.values()), list(handles))
    return f"Bars of the class-wise accuracy of {', '.join(handles)} on {len(classes)} classes."


def _attack_title(attack: str) -> str:
    if attack == "clean":
        return "Clean images"
    letters = attack.rstrip("0123456789")
    return f"{letters.upper()}-{attack[len(letters) :]}" if attack != letters else attack


def _values(trials: Sequence[Trial], metric: str) -> list[float]:
    return [value for value in (trial.metric(metric) for trial in trials) if value is not None]


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in one coordinate without losing in the other, by rising x. Larger is better."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(set(points), reverse=True):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best[::-1]


def _pareto(
    figure: Figure, spec: Spec, part: Pareto, trials: Sequence[Trial], material: Material
) -> str | None:
    groups = _by_title(trials)
    styles = _styles(groups, material)
    figure.set_size_inches(5.2, 3.7)
    axes: Axes = figure.subplots()
    everything: list[tuple[float, float]] = []
    handles: dict[str, Any] = {}
    for title, members in groups.items():
        pairs = [(trial.metric(part.x), trial.metric(part.y)) for trial in members]
        points = [(x * PERCENT, y * PERCENT) for x, y in pairs if x is not None and y is not None]
        if not points:
            continue
        everything += points
        style = styles[title]
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axes.plot(
            xs, ys, style.marker, color=style.color, markersize=4.5, alpha=0.55, markeredgewidth=0, zorder=3
        )
        (mean,) = axes.plot(
            sum(xs) / len(xs),
            sum(ys) / len(ys),
            style.marker,
            color=style.color,
            markersize=9.5,
            markeredgecolor=INK,
            markeredgewidth=0.8,
            zorder=4,
        )
        handles[title] = mean
    if not everything:
        return None
    best = front(everything)
    axes.plot(
        [x for x, _ in best],
        [y for _, y in best],
        color=MUTED,
        linewidth=1.1,
        linestyle=(0, (4, 2)),
        zorder=2,
    )
    x, y = best[len(best) // 2]
    axes.annotate("Pareto front", (x, y), (7, 7), textcoords="offset points", color=MUTED, fontsize=7.5)
    axes.set_xlabel(part.x_title)
    axes.set_ylabel(part.y_title)
    axes.grid()
    axes.margins(0.12)
    _legend(figure, list(handles.values()), list(handles))
    return f"{len(everything)} trials; {len(best)} of them on the Pareto front."


def _series(
    figure: Figure, spec: Spec, part: Series, trials: Sequence[Trial], material: Material
) -> str | None:
    from matplotlib.ticker import MaxNLocator

    history = material.history(part.metric)
    groups = _by_title(trials)
    styles = _styles(groups, material)
    figure.set_size_inches(6.2, 3.4)
    axes: Axes = figure.subplots()
    handles: dict[str, Any] = {}
    starts: set[float] = set()
    top = 0.0
    for title, members in groups.items():
        epochs: dict[int, list[float]] = {}
        for trial in members:
            for epoch, value in history.get(trial.fingerprint, ()):
                epochs.setdefault(epoch, []).append(value)
        if not epochs:
            continue
        x = sorted(epochs)
        estimates = [_percent(epochs[epoch]) for epoch in x]
        means, halves = [e.mean for e in estimates], _errors(estimates)
        top = max(top, *means)
        style = styles[title]
        (line,) = axes.plot(
            x,
            means,
            color=style.color,
            linestyle=style.dash,
            marker=style.marker,
            markersize=3.6,
            markevery=max(1, len(x) // 12),
        )
        low = [max(0.0, mean - half) for mean, half in zip(means, halves, strict=True)]
        high = [min(PERCENT, mean + half) for mean, half in zip(means, halves, strict=True)]
        axes.fill_between(x, low, high, color=style.color, alpha=0.16, linewidth=0)
        handles[title] = line
        for trial in members:
            written = trial.run.params.get("method.mining.start_epoch", "") if trial.run is not None else ""
            starts |= {float(written)} if written.isdigit() and int(written) > 0 else set()
    if not handles:
        return None
    for start in sorted(starts):
        axes.axvline(start, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    axes.set_xlabel("epoch")
    axes.set_ylabel(part.y_title)
    axes.set_ylim(0, 1.3 * top or None)  # bands of few seeds may reach far beyond
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.margins(x=0.02)
    _legend(figure, list(handles.values()), list(handles))
    return f"{part.metric} over the epochs for {', '.join(handles)}."


def _sensitivity(
    figure: Figure, spec: Spec, part: Sensitivity, trials: Sequence[Trial], material: Material
) -> str | None:
    lines = lines_of(spec, trials)
    styles = styles_of(material)
    baseline = [t for t in material.of_grid(part.baseline_grid) if t.label == part.baseline and t.finished]
    swept = {trial.fingerprint for trial in trials}
    protocols = {_comparable(trial) for trial in trials}
    baseline = [t for t in baseline if _comparable(t) in protocols and t.fingerprint not in swept]
    figure.set_size_inches(2.55 * len(part.panels) + 0.3, 2.75)
    panels = figure.subplots(1, len(part.panels), squeeze=False)[0]
    labels = list(dict.fromkeys(line.row.label for line in lines))
    shown = list(dict.fromkeys(line.value for line in lines))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in shown)
    places = {value: float(value) if numeric else float(index) for index, value in enumerate(shown)}
    handles: dict[str, Any] = {}
    for axes, panel in zip(panels, part.panels, strict=True):
        for label in labels:
            own = [(line, _values(line.trials, panel.metric)) for line in lines if line.row.label == label]
            own = [(line, values) for line, values in own if values]
            if not own:
                continue
            estimates = [_percent(values) for _, values in own]
            style = styles[label]
            handle = axes.errorbar(
                [places[line.value] for line, _ in own],
                [estimate.mean for estimate in estimates],
                _errors(estimates),
                color=style.color,
                marker=style.marker,
                markersize=5,
                linestyle=style.dash,
                elinewidth=0.9,
                capsize=2.5,
            )
            handles.setdefault(own[0][0].trials[0].title, handle)
        values = _values(baseline, panel.metric)
        if values:
            estimate = _percent(values)
            line = axes.axhline(estimate.mean, color=INK, linewidth=1.0, linestyle=(0, (4, 2)), zorder=1)
            handles.setdefault(baseline[0].title, line)
            if estimate.low is not None and estimate.high is not None:
                axes.axhspan(estimate.low, estimate.high, color=MUTED, alpha=0.13, linewidth=0, zorder=0)
        axes.set_title(panel.title)
        axes.set_xlabel(part.x_title)
        axes.set_xticks([places[value] for value in shown], [_tick(value) for value in shown])
        axes.grid(axis="y")
        axes.margins(x=0.08, y=0.15)
    panels[0].set_ylabel("accuracy (%)")
    if not handles:
        return None
    _legend(figure, list(handles.values()), list(handles))
    return (
        f"{', '.join(panel.title for panel in part.panels)} against the {part.x_title}, {len(shown)} values."
    )


def _tick(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)


def _comparable(trial: Trial) -> str:
    return trial.protocol.text if trial.protocol is not None else name_of(trial)
