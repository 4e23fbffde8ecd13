"""From recorded runs to trials with their protocol, and to a tidy data frame.

The sweep's plan says which trials there should be; the runs say which there are. Everything here is a pure function of the
two, except `recorded_series`, which reads from MLflow.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ham_core.config import digest_of
from orchestration.tracking import Sweep, planned_models
from reports.predictions import stored_predictions

if TYPE_CHECKING:
    import pandas

    from ham_core.protocol import Protocol as Judging
    from orchestration.tracking import Members, Run
    from reports.predictions import Predictions

# Settings that decide whether two results may stand in one column, and how they are written.
PROTOCOL = {
    "data.label": "{}",
    "data.train_limit": "{} training images",
    "data.test_limit": "{} test images",
    "model.name": "{}",
    "model.width": "width {}",
    "epsilon": "ε = {}",
    "epochs": "{} epochs",
    "precision": "{}",
    "selection.on": "selected on the {} split",
    "selection.steps": "by PGD-{}",
}
UNSAID = {"model.width": "1.0", "precision": "fp32"}  # defaults that need no mention
ABSENT = ("", "None", "null")
UNSEEN = ("synced",)  # tags that no report shows
COLUMNS = ["label", "title", "seed", "setting", "protocol", "metric", "value"]


@dataclass(frozen=True)
class Protocol:
    """How a result may be compared: equal protocols may stand in one column."""

    settings: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """`digits, small_cnn, ε = 0.2, 12 epochs, selected on the validation split`."""
        parts = [
            PROTOCOL.get(key, f"{key} {{}}").format(readable(key, value))
            for key, value in self.settings
            if UNSAID.get(key) != value
        ]
        return ", ".join(parts)

    def get(self, key: str) -> str | None:
        """One setting."""
        return dict(self.settings).get(key)


def readable(key: str, value: str) -> str:
    """`0.03137254901960784` -> `8/255` where it is a whole number of pixel steps."""
    if key == "epsilon":
        steps = float(value) * 255
        if abs(steps - round(steps)) < 1e-6 and round(steps) > 0 and len(value) > 6:
            return f"{round(steps)}/255"
    return value


def protocol_of(params: Mapping[str, str], tag: str = "") -> Protocol:
    """The protocol of a trial, from its recorded parameters and the sweep's protocol name."""
    found = [(key, params[key]) for key in PROTOCOL if params.get(key, "") not in ABSENT]
    return Protocol((*found, ("protocol", tag)) if tag else tuple(found))


@dataclass(frozen=True)
class Trial:
    """One planned trial and its run, if there is one."""

    fingerprint: str
    label: str
    title: str
    seed: int
    grids: tuple[str, ...]
    values: Mapping[str, Any]
    run: Run | None

    @property
    def file(self) -> str:
        """Of somebody else's model, which is a row like a trial: the file its weights come from, or its factory; else ""."""
        is_model = self.run is not None and self.run.tags.get("kind") == "model"
        return self.run.params.get("file", "") if is_model and self.run is not None else ""

    @property
    def finished(self) -> bool:
        """Only finished runs give numbers."""
        return self.run is not None and self.run.status == "FINISHED"

    @property
    def state(self) -> str:
        """In words, for the list of what a table waits for."""
        if self.run is None:
            return "not run"
        return (
            self.run.status.lower()
            if self.finished
            else self.run.tags.get("stopped", self.run.status.lower())
        )

    @cached_property
    def protocol(self) -> Protocol | None:
        """None when nothing was recorded yet."""
        if self.run is None:
            return None
        if self.file:  # nothing but its images and radius says what it may be compared with
            digest = self.run.params.get("data.test_digest", "")[:10]
            return Protocol((*protocol_of(self.run.params).settings, ("test digest", digest)))
        return protocol_of(self.run.params, self.run.tags.get("protocol", ""))

    @cached_property
    def digest(self) -> str:
        """Of all that reports show of it: its plan and its run. What only tells how far a record is written is left out."""
        plan = [self.label, self.title, self.seed, dict(self.values), list(self.grids)]
        if self.run is None:
            return digest_of(plan)
        tags = {key: value for key, value in self.run.tags.items() if key not in UNSEEN}
        place = [self.run.run_id, self.run.experiment_id, self.run.experiment, self.run.status]
        return digest_of([plan, place, tags, self.run.digest])

    def metric(self, name: str) -> float | None:
        """A final metric of a finished run."""
        return self.run.metrics.get(name) if self.run is not None and self.finished else None

    def setting(self, key: str) -> Any:
        """A swept value: as planned, else as recorded. KeyError when neither knows it."""
        if key in self.values:
            return self.values[key]
        if self.run is not None and key in self.run.params:
            return scalar(self.run.params[key])
        raise KeyError(key)


def scalar(text: str) -> Any:
    """A recorded parameter back to a number where it is one."""
    try:
        return json.loads(text)
    except ValueError:
        return None if text == "None" else text


def trials_of(sweep: Sweep, runs: Iterable[Run]) -> tuple[Trial, ...]:
    """The sweep's planned trials in their order, each with its run. Runs the plan no longer names are left out.

    A trial of several sweeps has the protocol of this one, whichever recorded it last.
    """
    best: dict[str, Run] = {}
    own = {"protocol": sweep.protocol} if sweep.protocol else {}
    for run in (replace(run, tags={**run.tags, **own}) for run in runs):
        known = best.get(run.fingerprint)
        if known is None or (run.status == "FINISHED" and known.status != "FINISHED"):
            best[run.fingerprint] = run
    return tuple(
        Trial(
            plan.fingerprint,
            plan.label,
            plan.title,
            plan.seed,
            tuple(plan.grids),
            dict(plan.values),
            best.get(plan.fingerprint),
        )
        for plan in sweep.planned
    )


@dataclass(frozen=True)
class Material:
    """All that reports know of one sweep.

    `history(key)`: {fingerprint: [(epoch, value), ...]} of finished trials. `predictions(trial, weights, attack)`: what was
    predicted of each test image, None where that is not stored; itself None where the trial store is not known.
    `models`: other people's, which are rows at the end of its tables.
    `protocol`: the name of its own; `judged`: all that it is judged under, empty where that is its own alone, unasked.
    `drawn`: whether figures, which show the sweep's own protocol, are wanted.
    """

    sweep: str
    trials: tuple[Trial, ...]
    history: Callable[[str], Mapping[str, Sequence[tuple[int, float]]]]
    predictions: Callable[[Trial, str, str], Predictions | None] | None = None
    models: tuple[Trial, ...] = ()
    protocol: str = ""
    judged: tuple[Judging, ...] = ()
    drawn: bool = True

    def of_grid(self, grid: str) -> tuple[Trial, ...]:
        """The trials of one named grid."""
        return tuple(trial for trial in self.trials if grid in trial.grids)

    def plans(self, grid: str, methods: Sequence[str] = ()) -> bool:
        """Whether the sweep plans the grid, and these methods in it."""
        labels = {trial.label for trial in self.of_grid(grid)}
        return bool(labels) and labels.issuperset(methods)

    @property
    def grids(self) -> tuple[str, ...]:
        """Names of the grids, in the order of the plan."""
        return tuple(dict.fromkeys(grid for trial in self.trials for grid in trial.grids))

    @property
    def labels(self) -> tuple[str, ...]:
        """Method labels, in the order of the plan: the order of colours in every figure."""
        return tuple(dict.fromkeys(trial.label for trial in self.trials))


# key -> {run id: [(epoch, value), ...]}
SeriesOf = Callable[[str], Mapping[str, Sequence[tuple[int, float]]]]


def recorded_series(uri: str, runs: Iterable[Run]) -> SeriesOf:
    """The series of all finished runs by key, each read when it is first asked for, for all sweeps at once."""
    from orchestration import tracking

    tags = {run.run_id: run.tags for run in runs if run.status == "FINISHED"}
    return cache(lambda key: tracking.read_series(uri, list(tags), key, tags))


def material(sweep: Sweep, members: Members, series: SeriesOf, store: str | Path | None = None) -> Material:
    """A sweep and its runs; series, and predictions from the trial store at `store`, are read when first asked for."""
    trials = trials_of(sweep, members.trials)
    by_run = {
        trial.run.run_id: trial.fingerprint for trial in trials if trial.run is not None and trial.finished
    }

    @cache
    def history(key: str) -> Mapping[str, Sequence[tuple[int, float]]]:
        found = series(key)
        return {by_run[run_id]: found[run_id] for run_id in by_run if found[run_id]}

    predictions = None if store is None else partial(stored_predictions, Path(store))
    planned = planned_models([run.tags for run in members.models])
    models = trials_of(Sweep(sweep.name, "", (), planned), members.models)
    return Material(sweep.name, trials, history, predictions, models, sweep.protocol, sweep.judged)


def under(source: Material, names: Sequence[str]) -> Material | None:
    """The material of these protocols alone; None where the sweep is judged under none of them."""
    kept = tuple(protocol for protocol in source.judged if protocol.name in names)
    own = source.protocol in names
    if not kept and not (own and not source.judged):
        return None
    return replace(source, judged=kept, drawn=own)


def tidy(trials: Iterable[Trial]) -> pandas.DataFrame:
    """One row per finished trial and final metric, as COLUMNS names them. No ids, no seconds."""
    import pandas

    rows = [(*words, *result) for words, results in _results(trials) for result in results]
    return pandas.DataFrame(rows, columns=COLUMNS)


def tidy_csv(trials: Iterable[Trial]) -> str:
    """The same as a CSV file with twelve digits. A trial's words are written once for its many metrics."""
    row = cache(_csv_row)
    lines = [row(*COLUMNS)]
    for words, results in _results(trials):
        start = row(*words)
        lines += [f"{start},{row(metric)},{value:.12g}" for metric, value in results]
    return "\n".join([*lines, ""])


def _results(trials: Iterable[Trial]) -> Iterator[tuple[tuple[Any, ...], list[tuple[str, float]]]]:
    """What is said of a finished trial, and its final metrics."""
    for trial in trials:
        if trial.run is not None and trial.protocol is not None and trial.finished:
            setting = json.dumps(dict(sorted(trial.values.items())), ensure_ascii=False)
            results = [one for one in sorted(trial.run.metrics.items()) if not one[0].startswith("time/")]
            yield (trial.label, trial.title, trial.seed, setting, trial.protocol.text), results


def _csv_row(*words: Any) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="").writerow(words)
    return stream.getvalue()
