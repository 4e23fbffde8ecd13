"""MLflow: one run per trial for ever. The only module that imports mlflow; the driver is the single writer.

Writing half: `Tracker`. Everything it records is read from the trial folders, so a run can be completed or rebuilt at any
time, and doing it again changes nothing. Reading half: `read_sweeps`, `read_runs`, `read_series` and their like, which reports
use.

    experiment        one per data set, named by its label
    run kind=sweep    one per sweep name; artifact plan.json says what the sweep expands to now
    run kind=trial    one per fingerprint, nested under a sweep; tag `sweep.<name>` for every sweep it belongs to
    run kind=model    one per model of other people and radius (orchestration.models); tag `sweep.<name>` for every sweep in
                      whose tables it is a row; together they are read as the sweep `models`
    step              the epoch; timestamps are the journal's, so a point that is logged twice is stored once
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import logging
import math
import operator
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ham_core.config import Trial, fingerprint, flatten
from ham_core.errors import RequestError
from ham_core.folder import TrialFolder, read_json, stop_text
from ham_core.metrics import STATISTICS
from ham_core.protocol import Evaluation, identity_of_evaluation
from ham_core.starts import label_of, needs_of, sources_of
from orchestration.judged import of_commands, of_file, protocols_in, tags_of
from orchestration.models import MODELS, unique_titles
from orchestration.sealed_runs import (
    OPEN,
    PLAN_SEAL,
    SEAL,
    SERIES,
    damaged,
    database_file,
    is_series,
    reading,
    seal_of,
    seal_of_plan,
    series_tags,
)

if TYPE_CHECKING:
    import pandas
    from mlflow import MlflowClient

    from ham_core.protocol import Protocol as Judging
    from orchestration.models import Judged
    from orchestration.sweep import Sweep as SweepFile

PLAN = "plan.json"
COMMIT = "mlflow.source.git.commit"  # the tag that the MLflow UI shows as a run's version
MEMBERSHIP = "sweep."  # + sweep name: the tag of every trial that belongs to it
SERVERS = ("http:", "https:", "databricks")  # beginnings of addresses that are no database
BATCH = 1000  # metrics that MLflow takes in one call
KINDS = ("trial", "model")  # of runs that are rows in tables
CHUNK = 500  # values of one question to a database
SUMMED_UP = ("best/", "last/")  # a sweep's parent shows the highest accuracies of these weights
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


# reading -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One trial as MLflow knows it. `status`: RUNNING, FINISHED, FAILED or KILLED; `metrics`: the latest values."""

    run_id: str
    experiment_id: str
    experiment: str
    fingerprint: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]

    @property
    def digest(self) -> str:
        """Of its latest metrics and its parameters: the seal that was compared when it was read, else what it would be."""
        return self.tags.get(SEAL, OPEN) or seal_of(self.fingerprint, self.metrics, self.params)

    @property
    def has_sealed_series(self) -> bool:
        """Whether its tags, too, are others where a point of a series is another. Earlier versions wrote none."""
        return f"{SERIES}0" in self.tags


@dataclass(frozen=True)
class Planned:
    """One trial of a sweep's plan, run or not. `values`: what its grids set, by dotted key; `needs`: trials before it."""

    fingerprint: str
    label: str
    title: str
    grids: tuple[str, ...]
    values: dict[str, Any]
    seed: int
    row: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """One sweep and what it expands to now. `protocol`: the name of its own; `judged`: all that it is judged under, where
    it was asked to be judged under any."""

    name: str
    run_id: str
    experiment_ids: tuple[str, ...]
    planned: tuple[Planned, ...]
    protocol: str = ""
    judged: tuple[Judging, ...] = ()


def read_sweeps(uri: str) -> list[Sweep]:
    """Every recorded sweep, the one that was started last first, and `models` last. No database yet: no sweeps.

    RequestError, here and below: the database is damaged, or does not hold what was written.
    """
    if not _exists(uri):
        return []
    with reading(uri):
        client = client_of(uri)
        found: dict[str, list[Any]] = {}
        for run in _search(client, list(_experiments(client)), "tags.kind = 'sweep'"):
            found.setdefault(run.data.tags["sweep"], []).append(run)
        newest_first = sorted(found.items(), key=lambda item: max(map(_started, item[1])), reverse=True)
        sweeps = [_sweep(client, uri, name, runs) for name, runs in newest_first]
        models = _search(client, list(_experiments(client)), "tags.kind = 'model'")
    planned = planned_models([dict(run.data.tags) for run in models])
    experiments = tuple(sorted({run.info.experiment_id for run in models}))
    return [*sweeps, *([Sweep(MODELS, "", experiments, planned)] if models else [])]


def planned_models(tags: Sequence[Mapping[str, str]]) -> tuple[Planned, ...]:
    """The runs of other people's models, by their tags, as the plan of a sweep: one grid, a row each."""
    titles = unique_titles([(one["title"], one["model"]) for one in tags])
    return tuple(
        Planned(one["fingerprint"], one["model"][:10], title, (MODELS,), {}, 0, title)
        for one, title in zip(tags, titles, strict=True)
    )


def read_trials(uri: str, sweep: str) -> list[Run]:
    """Every trial run that belongs to the sweep, in order of creation; of `models` those of all models."""
    return read_runs(uri, [sweep])[sweep].trials


def read_models(uri: str, sweep: str) -> list[Run]:
    """Every run of somebody else's model that is a row in the sweep's tables, in order of creation."""
    return read_runs(uri, [sweep])[sweep].models


@dataclass(frozen=True)
class Members:
    """The runs of one sweep, in order of creation. `models`: those of other people's that are rows in its tables."""

    trials: list[Run]
    models: list[Run]


def read_runs(uri: str, sweeps: Sequence[str]) -> dict[str, Members]:
    """{sweep: its runs}. A run that belongs to several sweeps is read, and compared with its seal, once."""
    if not _exists(uri):
        return {sweep: Members([], []) for sweep in sweeps}
    with reading(uri):
        tags = {sweep: f"{MEMBERSHIP}{sweep}" for sweep in sweeps if sweep != MODELS}
        found = _recorded_runs(client_of(uri), list(tags.values()), models=MODELS in sweeps)
        for one in found:
            seal = one.tags.get(SEAL, OPEN)
            if seal != OPEN and seal != seal_of(one.fingerprint, one.metrics, one.params):
                what = f"{one.tags['kind']} {one.fingerprint[:10]}, run {one.run_id}, has other numbers or settings than "
                raise damaged(uri, f"{what}were written")
        trials = [one for one in found if one.tags["kind"] == "trial"]
        models = [one for one in found if one.tags["kind"] == "model"]
        members = {
            sweep: Members(
                [one for one in trials if tag in one.tags], [one for one in models if tag in one.tags]
            )
            for sweep, tag in tags.items()
        }
        return members | ({MODELS: Members(models, [])} if MODELS in sweeps else {})


def read_history(
    uri: str, run_ids: Sequence[str], key: str, tags: Mapping[str, Mapping[str, str]] | None = None
) -> pandas.DataFrame:
    """`read_series` as a table: columns run_id, epoch, value; sorted by run (in the order asked for) and epoch."""
    import pandas

    series = read_series(uri, run_ids, key, tags)
    rows = [(run_id, epoch, value) for run_id in run_ids for epoch, value in series[run_id]]
    return pandas.DataFrame(rows, columns=["run_id", "epoch", "value"])


def read_series(
    uri: str, run_ids: Sequence[str], key: str, tags: Mapping[str, Mapping[str, str]] | None = None
) -> dict[str, list[tuple[int, float]]]:
    """{run id: [(epoch, value), ...] by epoch} of one series; [] where a run has none.

    `tags`: {run_id: its tags}, by which the series is compared with the one that was written.
    """
    with reading(uri):
        series = _points(uri, run_ids, key)
    for run_id, points in series.items():
        if not is_series((tags or {}).get(run_id, {}), key, points):
            raise damaged(uri, f"run {run_id} has another series {key} than was written")
    return series


def _points(uri: str, run_ids: Sequence[str], key: str) -> dict[str, list[tuple[int, float]]]:
    """{run id: its (epoch, value) points by epoch, of one epoch the one that was logged last behind}."""
    client = client_of(uri)
    store = client._tracking_client.store
    found: dict[str, list[tuple[int, int, float]]] = {run_id: [] for run_id in run_ids}
    if hasattr(store, "ManagedSessionMaker"):
        from mlflow.store.tracking.dbmodels.models import SqlMetric
        from sqlalchemy import Integer, select, type_coerce

        # is_nan as the number that it is: making truth values of many takes time
        of_run = (SqlMetric.run_uuid, SqlMetric.step, SqlMetric.timestamp, SqlMetric.value)
        asked = select(*of_run, type_coerce(SqlMetric.is_nan, Integer)).where(SqlMetric.key == key)
        if (
            len(run_ids) <= CHUNK
        ):  # of many, all of the series is read along its index, in a sixth of the time
            asked = asked.where(SqlMetric.run_uuid.in_(run_ids))
        with store.ManagedSessionMaker() as session:
            for run_id, epoch, moment, value, is_nan in session.connection().execute(asked):
                if run_id in found:
                    found[run_id].append((epoch, moment, math.nan if is_nan else value))
    else:
        for run_id in run_ids:
            history = client.get_metric_history(run_id, key)
            found[run_id] = [(point.step, point.timestamp, point.value) for point in history]
    return {
        run_id: [(epoch, value) for epoch, _, value in sorted(points)] for run_id, points in found.items()
    }


def _recorded_runs(client: MlflowClient, memberships: Sequence[str], *, models: bool) -> list[Run]:
    """The active runs of trials and models that have one of these tags, oldest first; `models`: all models besides.

    Of a database whole tables are read, a row a value: MLflow's own search builds several objects of each. A server has no
    other question than that search.
    """
    experiments = _experiments(client)
    store = client._tracking_client.store
    if hasattr(store, "ManagedSessionMaker"):
        return _runs_of_database(store, experiments, memberships, models=models)
    return [
        Run(
            run.info.run_id,
            run.info.experiment_id,
            experiments[run.info.experiment_id],
            run.data.tags["fingerprint"],
            run.info.status,
            dict(run.data.tags),
            dict(run.data.params),
            dict(run.data.metrics),
        )
        for kind in KINDS
        for run in _search(client, list(experiments), f"tags.kind = '{kind}'")
        if (models and kind == "model") or not run.data.tags.keys().isdisjoint(memberships)
    ]


def _runs_of_database(
    store: Any, experiments: Mapping[str, str], memberships: Sequence[str], *, models: bool
) -> list[Run]:
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam, SqlRun, SqlTag
    from sqlalchemy import Integer, select, type_coerce

    tags: dict[str, dict[str, str]] = {}
    params: dict[str, dict[str, str]] = {}
    metrics: dict[str, dict[str, float]] = {}
    once: dict[str, str] = {}  # names and settings repeat from run to run: kept once
    belongs = [SqlTag.key.in_(chunk) for chunk in _chunks(memberships)]
    belongs += [(SqlTag.key == "kind") & (SqlTag.value == "model")] if models else []
    active = (
        select(SqlRun.run_uuid, SqlRun.experiment_id, SqlRun.status)
        .where(SqlRun.lifecycle_stage == "active")
        .order_by(SqlRun.start_time, SqlRun.run_uuid)
    )
    with store.ManagedSessionMaker() as session:
        rows = session.connection().execute  # plain rows, without the bookkeeping of objects
        members = {run_id for one in belongs for (run_id,) in rows(select(SqlTag.run_uuid).where(one))}
        runs = [
            (run_id, str(experiment), status)
            for run_id, experiment, status in rows(active)
            if run_id in members and str(experiment) in experiments
        ]
        for chunk in _chunks([run_id for run_id, _, _ in runs]):
            for table, target in ((SqlTag, tags), (SqlParam, params)):
                target.update((run_id, {}) for run_id in chunk)
                texts = select(table.run_uuid, table.key, table.value).where(table.run_uuid.in_(chunk))
                for run_id, key, value in rows(texts):
                    target[run_id][once.setdefault(key, key)] = once.setdefault(value, value)
            metrics.update((run_id, {}) for run_id in chunk)
            latest = SqlLatestMetric
            numbers = select(latest.run_uuid, latest.key, latest.value, type_coerce(latest.is_nan, Integer))
            for run_id, key, number, is_nan in rows(numbers.where(latest.run_uuid.in_(chunk))):
                metrics[run_id][once.setdefault(key, key)] = math.nan if is_nan else number
    return [
        Run(
            run_id,
            experiment,
            experiments[experiment],
            tags[run_id]["fingerprint"],
            status,
            tags[run_id],
            params[run_id],
            metrics[run_id],
        )
        for run_id, experiment, status in runs
        if tags[run_id].get("kind") in KINDS
    ]


def _chunks(words: Sequence[str]) -> Iterator[Sequence[str]]:
    """Parts of a list: databases bound how many values a question may hold."""
    return (words[first : first + CHUNK] for first in range(0, len(words), CHUNK))


def default_uri(store: str | Path) -> str:
    """The embedded tracking database of a trial store."""
    return f"sqlite:///{Path(store).resolve() / 'mlflow.db'}"


def client_of(uri: str) -> MlflowClient:
    """A client, with MLflow's own messages switched off."""
    quiet()
    from mlflow import MlflowClient

    quiet()  # mlflow sets its own levels when it is imported
    try:
        return MlflowClient(tracking_uri=uri)
    except ModuleNotFoundError as error:
        raise RequestError(
            f"--tracking-uri: a database of this kind needs the Python package {error.name}, which is not installed; "
            f"try pip install '{error.name}[binary]' for PostgreSQL, or give the address of an MLflow server"
        ) from None


def quiet() -> None:
    """No telemetry, no progress bars, no links on stdout, short waits. Must come before mlflow is imported."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # training does not wait for a server that is down
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }.items():
        os.environ.setdefault(name, value)
    for logger in ("mlflow", "mlflow.store.db.utils", "alembic"):
        logging.getLogger(logger).setLevel(logging.ERROR)


def _exists(uri: str) -> bool:
    file = database_file(uri)
    return file is None or file.exists()


def _experiments(client: MlflowClient) -> dict[str, str]:
    """id -> name of every experiment."""
    found: dict[str, str] = {}
    token = None
    while True:
        page = client.search_experiments(page_token=token)
        found |= {experiment.experiment_id: experiment.name for experiment in page}
        token = page.token
        if not token:
            return found


def _search(client: MlflowClient, experiments: Sequence[str], query: str) -> list[Any]:
    """All active runs that match, oldest first."""
    runs: list[Any] = []
    token = None
    while experiments:
        page = client.search_runs(
            list(experiments),
            query,
            max_results=1000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            break
    return runs


def _started(run: Any) -> int:
    """When the sweep was last started, in ms."""
    return int(run.data.tags.get("started_ms", run.info.start_time))


def _sweep(client: MlflowClient, uri: str, name: str, runs: Sequence[Any]) -> Sweep:
    newest = max(runs, key=_started)
    with tempfile.TemporaryDirectory() as folder:
        content = Path(client.download_artifacts(newest.info.run_id, PLAN, folder)).read_text(
            encoding="utf-8"
        )
    if newest.data.tags.get(PLAN_SEAL, seal_of_plan(content)) != seal_of_plan(content):
        raise RequestError(
            f"{newest.info.artifact_uri}/{PLAN}: is damaged; run ham sync {name}, which writes it again"
        )
    planned = tuple(_planned(entry) for entry in json.loads(content))
    experiments = tuple(sorted({run.info.experiment_id for run in runs}))
    try:
        judged = protocols_in(newest.data.tags)
    except (ValueError, KeyError, TypeError, AttributeError):  # pydantic's are ValueErrors
        raise damaged(
            uri, f"sweep '{name}', run {newest.info.run_id}, has a protocol that cannot be read"
        ) from None
    return Sweep(name, newest.info.run_id, experiments, planned, newest.data.tags.get("protocol", ""), judged)


def _planned(entry: Mapping[str, Any]) -> Planned:
    return Planned(
        entry["fingerprint"],
        entry["label"],
        entry["title"],
        tuple(entry["grids"]),
        dict(entry["values"]),
        entry["seed"],
        entry["row"],
        tuple(entry.get("needs", ())),  # plans of earlier versions have none
    )


# writing -----------------------------------------------------------------------------------------------------------


class Job(Protocol):
    """What the writing half needs to know of a trial; `orchestration.sweep.Planned` and `Single` are."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def trial(self) -> Trial: ...
    @property
    def label(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def grids(self) -> Sequence[str]: ...
    @property
    def values(self) -> Mapping[str, Any]: ...
    @property
    def seed(self) -> int: ...
    @property
    def row(self) -> str: ...
    @property
    def evaluations(self) -> Sequence[Evaluation]: ...
    @property
    def needs(self) -> Sequence[str]: ...
    @property
    def must_keep(self) -> frozenset[str] | None: ...


@dataclass(frozen=True)
class Single:
    """A trial that no sweep asked for: trained alone, brought from another machine, or needed by one of these.

    `name`: what lists call it, `trades (start of at)`; empty: its label.
    """

    trial: Trial
    fingerprint: str
    evaluations: tuple[Evaluation, ...] = ()
    grids: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def must_keep(self) -> frozenset[str] | None:
        """None: all of its averages."""
        return None

    @property
    def needs(self) -> tuple[str, ...]:
        """Fingerprints of the trials that are trained before it."""
        return needs_of(self.trial)

    @property
    def label(self) -> str:
        """`trades+ham`."""
        return label_of(self.trial)

    @property
    def title(self) -> str:
        """The same for tables."""
        return self.label

    @property
    def row(self) -> str:
        """The same for lists, or the name."""
        return self.name or self.label

    @property
    def seed(self) -> int:
        """The trial's."""
        return self.trial.seed


def run_name(job: Job) -> str:
    """`ham-official early_drop_step=5 seed=0`."""
    return f"{job.row} seed={job.seed}"


@dataclass
class _Synced:
    """How much of a trial's folder its run holds: kept as a tag, so that nothing is logged twice.

    epochs: journal lines logged; first_ms: timestamp of epoch 0, which tells a training from one that was started anew;
    size: bytes of the journal; evaluations: {"best/pgd20": [fingerprint, step, digest of its predictions]}, without the digest
    where an earlier version logged it; seen: fingerprints of all evaluations that were there; artifacts: whether they are up
    to date.
    """

    epochs: int = 0
    first_ms: int = 0
    size: int = 0
    evaluations: dict[str, list[Any]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    artifacts: bool = False

    def as_tag(self) -> str:
        return json.dumps(vars(self), sort_keys=True)

    @classmethod
    def from_tag(cls, text: str | None) -> _Synced:
        return cls(**json.loads(text)) if text else cls()


@dataclass
class _Record:
    """The run of one trial, as last seen or written by this process.

    params, metrics: None where they are in the database and were not read, since nobody has asked for them.
    """

    run_id: str
    experiment_id: str
    status: str
    tags: dict[str, str]
    params: set[str] | None
    metrics: dict[str, float] | None


class Tracker:
    """Writes trial folders into MLflow; any method may raise what MLflow raises.

    Several processes may write at once, also the same trial: its run is made by one of them, and a point that two log is
    stored once.
    """

    def __init__(self, uri: str, store: str | Path) -> None:
        self.uri, self.store = uri, Path(store).resolve()
        self.sweep: str | None = None
        self._protocol = ""
        self._client = _open(uri, self.store)
        self._experiment_ids = {name: key for key, name in _experiments(self._client).items()}
        self._records: dict[str, _Record] = {}
        self._parents: dict[str, str] = {}  # experiment id -> run id of the sweep's parent
        for record in _trial_records(self._client, list(self._experiment_ids.values())):
            self._remember(record)

    # sweep ---------------------------------------------------------------------------------------------------------

    def open_sweep(self, sweep: SweepFile) -> None:
        """The sweep's parent run (one per data set), its plan, and membership of exactly the trials planned now."""
        from orchestration.sweep import plan_records

        self.sweep = sweep.name
        entries = json.dumps(plan_records(sweep), indent=1)
        note = "\n\n".join(filter(None, [sweep.title, sweep.description, f"`{sweep.source}`"]))
        tags = {"protocol": sweep.protocol.name, "mlflow.note.content": note, "started_ms": str(_now())}
        tags[PLAN_SEAL] = seal_of_plan(entries)
        judge = tags_of(sweep.judged, "sweep")
        for label in sorted({data_label(job.trial) for job in sweep.trials}):
            experiment = self._experiment(label)
            parent = self._parent(sweep.name, experiment)
            self._parents[experiment] = parent
            self._client.log_text(parent, entries, PLAN)
            before = self._client.get_run(parent).data.tags
            for key in of_file(before.items()) - set(judge):
                self._client.delete_tag(parent, key)
            if not judge and of_commands(before.items()):
                tags |= tags_of([_own_protocol(sweep)], "evaluate")
            for key, value in {**tags, **judge}.items():
                self._set_tag(parent, key, value)
        self._protocol = sweep.protocol.name
        self._set_membership(sweep.name, sweep.trials)

    def note_judging(self, sweep: SweepFile, protocols: Sequence[Judging]) -> None:
        """A recorded sweep's trials were judged under these protocols too; its own stays among them."""
        own = _own_protocol(sweep)
        wanted = tags_of([own, *(one for one in protocols if one.name != own.name)], "evaluate")
        query = "tags.kind = 'sweep' and tags.sweep = '{}'".format(sweep.name.replace("'", ""))
        for run in _search(self._client, list(self._experiment_ids.values()), query):
            for key in wanted.keys() - of_file(run.data.tags.items()):
                self._set_tag(run.info.run_id, key, wanted[key])

    def close_sweep(self, status: Status) -> None:
        """Best average and best worst-class accuracy over the sweep's finished trials; the parent is complete."""
        key = f"{MEMBERSHIP}{self.sweep}"
        for experiment, parent in self._parents.items():
            members = [
                record
                for record in self._records.values()
                if record.experiment_id == experiment and record.status == "FINISHED" and key in record.tags
            ]
            known = self._client.get_run(parent).data.metrics
            best = _best(self._accuracies(members))
            best = {name: value for name, value in best.items() if known.get(name) != value}
            self._log(parent, [(name, value, _now(), 0) for name, value in best.items()])
            self._client.set_terminated(parent, status)

    def _accuracies(self, members: Sequence[_Record]) -> Iterator[tuple[str, float]]:
        """Metrics of these runs: all that this process has seen, of the others those that a sweep is summed up by."""
        unread = [record.run_id for record in members if record.metrics is None]
        if unread:
            yield from _accuracies_of_runs(self._client, unread)
        for record in members:
            yield from (record.metrics or {}).items()

    def _parent(self, name: str, experiment: str) -> str:
        quoted = name.replace("'", "")
        with _alone(self.uri, self.store):
            found = _search(self._client, [experiment], f"tags.kind = 'sweep' and tags.sweep = '{quoted}'")
            if not found:
                run = self._client.create_run(
                    experiment, tags={"kind": "sweep", "sweep": name}, run_name=name
                )
                return str(run.info.run_id)
        self._client.update_run(found[0].info.run_id, status="RUNNING")
        return str(found[0].info.run_id)

    def _set_membership(self, name: str, planned: Sequence[Job]) -> None:
        key, jobs = f"{MEMBERSHIP}{name}", {job.fingerprint: job for job in planned}
        for identity, record in self._records.items():
            job = jobs.get(identity)
            if job is not None:
                self._set_tags(record, self._place(job, record.experiment_id))
            elif key in record.tags:
                self._delete_tag(record, key)

    def _place(self, job: Job, experiment: str) -> dict[str, str]:
        """The tags that nest a trial under the sweep and make it a member."""
        if self.sweep is None:
            return {}
        tags = {f"{MEMBERSHIP}{self.sweep}": json.dumps(membership(job)), "protocol": self._protocol}
        record = self._records.get(job.fingerprint)
        if experiment in self._parents and (record is None or "mlflow.parentRunId" not in record.tags):
            tags |= {"mlflow.parentRunId": self._parents[experiment], "method": job.label}
            if record is not None:  # trained alone before: now it has a name
                self._client.update_run(record.run_id, name=run_name(job))
                record.tags["mlflow.runName"] = run_name(job)
        return tags

    # trial ---------------------------------------------------------------------------------------------------------

    def sync(self, job: Job, folder: TrialFolder, status: Status | None = None, failure: str = "") -> None:
        """Bring the trial's run up to date with its folder. Does nothing where it is.

        `status` is what the folder cannot tell: RUNNING while it runs, FAILED with its reason, KILLED when interrupted.
        A trial that is trained and has its planned evaluations is FINISHED.
        """
        done = folder.is_done()
        wanted = [identity_of_evaluation(job.fingerprint, job.trial, one) for one in job.evaluations]
        if status is None and done and all(folder.has_evaluation(one) for one in wanted):
            status = "FINISHED"
        stopped = folder.stopped() if status != "RUNNING" else None
        if stopped is not None:
            status = "KILLED"
        record = self._records.get(job.fingerprint)
        if record is None and status is None and not (folder.path / "trial.json").exists():
            return
        if record is not None and not failure and self._is_current(record, folder, status, wanted):
            return
        record = self._begun_anew(record, folder) or self._create(job, folder)
        self._set_tags(record, self._place(job, record.experiment_id))
        self._add_params(record, params_of(job.trial))
        synced = _Synced.from_tag(record.tags.get("synced"))
        points = self._epochs(folder, synced)
        points += self._evaluations(job.trial, folder, synced, wanted, done=status == "FINISHED")
        if status == "FINISHED" and not synced.artifacts:
            self._artifacts(record, folder, synced)
            synced.artifacts = True
        if points and record.tags.get(SEAL):
            self._set_tags(record, {SEAL: OPEN})
        self._log(record.run_id, points)
        if record.metrics is not None:
            record.metrics |= {key: value for key, value, _, _ in points}
        facts = read_json(folder.path / "done.json") if done else None
        self._set_tags(record, {"synced": synced.as_tag()} | (machine_tags(facts) if facts else {}))
        if done and not record.tags.get(SEAL):
            self._seal(record, folder)
        self._set_stop(record, stop_text(stopped) if stopped is not None else "")
        self._set_status(record, folder, status, failure)

    def sync_model(self, model: Judged) -> None:
        """Bring the run of somebody else's model up to date with its folder, whose evaluations are all it has.

        Does nothing where it is. One process at a time: whoever judges the model writes its run, and a seal is put on all
        that it holds.
        """
        experiment = self._experiment(model.data)
        tags = {"kind": "model", "fingerprint": model.fingerprint, "foreign": str(model.about["digest"])}
        tags |= {"model": model.model, "data": model.data, "title": model.title}
        tags |= {f"{MEMBERSHIP}{name}": MODELS for name in model.sweeps}
        with _alone(self.uri, self.store):
            query = f"tags.kind = 'model' and tags.fingerprint = '{model.fingerprint}'"
            found = _search(self._client, [experiment], query) or [
                self._client.create_run(experiment, model.began_ms, tags, run_name=model.title)
            ]
            record = _record(found[0])
            if record.tags.get("mlflow.runName") != model.title:
                self._client.update_run(record.run_id, name=model.title)
            self._set_tags(record, tags)
            synced = _Synced.from_tag(record.tags.get("synced"))
            points = evaluation_points(model.evaluations, synced, (), model.began_ms, 0)
            self._add_params(record, model.params)
            if not synced.artifacts:
                self._artifacts(record, model.folder, synced)
                synced.artifacts = True
            if points and record.tags.get(SEAL):
                self._set_tags(record, {SEAL: OPEN})
            self._log(record.run_id, points)
            self._set_tags(record, {"synced": synced.as_tag()} | machine_tags(model.evaluations[-1]))
            if not record.tags.get(SEAL):
                self._seal(record, model.folder)
            self._set_status(record, model.folder, "FINISHED", "")

    def _seal(self, record: _Record, folder: TrialFolder) -> None:
        """Note what the run of a trained trial, or of a judged model, holds now."""
        data = self._client.get_run(record.run_id).data
        seal = seal_of(record.tags["fingerprint"], data.metrics, data.params)
        self._set_tags(record, series_tags(folder.journal(), metric_key) | {SEAL: seal})

    def mark(self, folder: TrialFolder, sweep: str, number: int, scores: Mapping[str, float]) -> None:
        """Note of a trial which point of a search it belongs to, and the scores of that point, {"worst": 0.31, "avg": 0.5}."""
        record = self._records.get(folder.path.name)
        tag = {f"search.{sweep}": json.dumps({"point": number, **scores})}
        if record is None or record.tags.items() >= tag.items():
            return
        was_sealed = bool(record.tags.get(SEAL))
        if was_sealed:
            self._set_tags(record, {SEAL: OPEN})
        self._log(record.run_id, [(f"search/{goal}", score, _now(), 0) for goal, score in scores.items()])
        record.metrics = (
            None
            if record.metrics is None
            else record.metrics | {f"search/{goal}": score for goal, score in scores.items()}
        )
        if was_sealed:
            self._seal(record, folder)
        self._set_tags(record, tag)

    def _set_stop(self, record: _Record, words: str) -> None:
        """The tag of a trial that was stopped early; without words it was not, or has gone on since."""
        if words:
            self._set_tags(record, {"stopped": words})
        elif "stopped" in record.tags:
            self._client.delete_tag(record.run_id, "stopped")
            del record.tags["stopped"]

    def _is_current(
        self, record: _Record, folder: TrialFolder, status: Status | None, wanted: Sequence[str]
    ) -> bool:
        """Whether the run holds all of the folder, by the journal's first line and length, without reading the rest."""
        if record.status != status or status != "FINISHED" or "synced" not in record.tags:
            return False
        synced = _Synced.from_tag(record.tags["synced"])
        size, first = _outline(folder.path / "journal.jsonl")
        present = {path.stem for path in (folder.path / "evaluations").glob("*.json")}
        logged = {str(entry[0]) for entry in synced.evaluations.values()}
        if any(entry[2:] != [folder.digest_of_arrays(entry[0])] for entry in synced.evaluations.values()):
            return False  # an attack ran again and gave other predictions
        same = (synced.size, synced.first_ms) == (size, first) and present == set(synced.seen)
        return synced.artifacts and same and logged >= present.intersection(wanted)

    def _begun_anew(self, record: _Record | None, folder: TrialFolder) -> _Record | None:
        """The record, unless the training it holds was thrown away and begun anew: then the run is deleted."""
        if record is None:
            return None
        synced = _Synced.from_tag(record.tags.get("synced"))
        journal = folder.journal()
        first = _milliseconds(journal[0]) if journal else 0
        if synced.epochs and (len(journal) < synced.epochs or first != synced.first_ms):
            self._client.delete_run(record.run_id)
            self._records = {key: value for key, value in self._records.items() if value is not record}
            return None
        return record

    def _create(self, job: Job, folder: TrialFolder) -> _Record:
        experiment = self._experiment(data_label(job.trial))
        journal = folder.journal()
        tags = {
            "kind": "trial",
            "fingerprint": job.fingerprint,
            "data": data_label(job.trial),
            "method": job.label,
        }
        tags |= self._place(job, experiment)
        start = _milliseconds(journal[0]) if journal else _now()
        with _alone(self.uri, self.store):  # another process may be about to make the same run
            found = _search(self._client, [experiment], _of_trial(job.fingerprint))
            if found:
                return self._remember(_record(found[0]))
            run = self._client.create_run(experiment, start_time=start, tags=tags, run_name=run_name(job))
        self._client.log_text(run.info.run_id, trial_yaml(job.trial), "trial.yaml")
        return self._remember(_record(run))

    def _add_params(self, record: _Record, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        wanted = {key: shown(value) for key, value in settings.items()}
        for attempt in (1, 2):
            if record.params is None:
                record.params = set(self._client.get_run(record.run_id).data.params)
            missing = [Param(key, value) for key, value in wanted.items() if key not in record.params]
            if missing and record.tags.get(SEAL):
                self._set_tags(record, {SEAL: OPEN})
            try:
                for first in range(0, len(missing), 100):
                    self._client.log_batch(record.run_id, params=missing[first : first + 100])
            except MlflowException:  # so it is where two processes add the same ones at the same moment
                if attempt == 2:
                    raise
                record.params = None
            else:
                record.params |= set(wanted)
                break

    def _epochs(self, folder: TrialFolder, synced: _Synced) -> list[Point]:
        """Points of the epochs that are not logged yet."""
        journal = folder.journal()
        points = [
            (key, value, _milliseconds(record), record["epoch"])
            for record in journal[synced.epochs :]
            for key, value in record["metrics"].items()
        ]
        if journal:
            synced.epochs, synced.first_ms = len(journal), _milliseconds(journal[0])
            synced.size = (folder.path / "journal.jsonl").stat().st_size
        return points

    def _evaluations(
        self, trial: Trial, folder: TrialFolder, synced: _Synced, wanted: Sequence[str], *, done: bool
    ) -> list[Point]:
        """Points of the evaluations that are not logged yet. One that replaces another is logged a step later."""
        records = folder.evaluations(skip_damaged=not done)  # until then a damaged one can be made again
        moment = _milliseconds(folder.journal()[-1]) if synced.epochs else 0
        return evaluation_points(records, synced, wanted, moment, trial.epochs - 1)

    def _artifacts(self, record: _Record, folder: TrialFolder, synced: _Synced) -> None:
        """The class-wise table, and a confusion matrix of each evaluation as numbers and as a picture."""
        logged = {str(entry[0]) for entry in synced.evaluations.values()}
        evaluations = [one for one in folder.evaluations() if one["fingerprint"] in logged]
        if not evaluations:
            return
        with tempfile.TemporaryDirectory() as place:
            target = Path(place)
            (target / "classwise.json").write_text(json.dumps(classwise(evaluations)), encoding="utf-8")
            for evaluation in evaluations:
                _write_confusion(target, evaluation, folder.predictions(evaluation["fingerprint"]))
            self._client.log_artifacts(record.run_id, str(target))
        tables = [
            {"path": "classwise.json", "type": "table"}
        ]  # what log_table notes, so that the UI shows a table
        self._set_tags(record, {"mlflow.loggedArtifacts": json.dumps(tables)})

    def _set_status(self, record: _Record, folder: TrialFolder, status: Status | None, failure: str) -> None:
        if failure:
            self._set_tags(record, {"failure": failure[:500]})
        elif "failure" in record.tags and status not in (None, "FAILED"):
            self._delete_tag(record, "failure")
        if status is None or status == record.status:
            return
        if status == "RUNNING":
            self._client.update_run(record.run_id, status="RUNNING")
        else:
            self._client.set_terminated(record.run_id, status, end_time=_last_change(folder))
        record.status = status

    # plumbing ------------------------------------------------------------------------------------------------------

    def _experiment(self, label: str) -> str:
        if label not in self._experiment_ids:
            place = None
            if not self.uri.startswith(SERVERS):  # a server chooses its own place
                place = (self.store / "artifacts" / re.sub(r"[^A-Za-z0-9_.-]", "_", label)).as_uri()
            with _alone(self.uri, self.store):
                found = self._client.get_experiment_by_name(label)  # of a process that was quicker
                self._experiment_ids[label] = (
                    found.experiment_id
                    if found is not None
                    else self._client.create_experiment(label, artifact_location=place)
                )
        return self._experiment_ids[label]

    def _remember(self, record: _Record) -> _Record:
        identity = record.tags["fingerprint"]
        known = self._records.get(identity)
        if known is None or (record.status == "FINISHED" and known.status != "FINISHED"):
            self._records[identity] = record
        return self._records[identity]

    def _log(self, run_id: str, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        once = dict.fromkeys(points)  # PostgreSQL says an error where a batch holds a point twice
        metrics = [
            Metric(metric_key(key), value, moment, step)
            for key, value, moment, step in once
            if math.isfinite(value)
        ]
        for first in range(0, len(metrics), BATCH):
            self._client.log_batch(run_id, metrics=metrics[first : first + BATCH])

    def _delete_tag(self, record: _Record, key: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.delete_tag(record.run_id, key)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # another process was quicker
                raise
        del record.tags[key]

    def _set_tag(self, run_id: str, key: str, value: str) -> None:
        """Of two processes that make a tag at the same moment, MLflow fails one; asked again, it changes what is there."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.set_tag(run_id, key, value)
        except MlflowException:
            self._client.set_tag(run_id, key, value)

    def _set_tags(self, record: _Record, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        changed = {key: value for key, value in tags.items() if record.tags.get(key) != value}
        if changed:
            self._client.log_batch(record.run_id, tags=[RunTag(key, value) for key, value in changed.items()])
            record.tags |= changed


Point = tuple[str, float, int, int]  # metric, value, timestamp in ms, step


def evaluation_points(
    records: Sequence[dict[str, Any]], synced: _Synced, wanted: Sequence[str], moment: int, first_step: int
) -> list[Point]:
    """Points of those evaluations that are not logged yet, which are noted as logged in `synced`."""
    synced.seen = sorted(record["fingerprint"] for record in records)
    points: list[Point] = []
    for name, record in one_per_name(records, wanted).items():
        identity, step, *known = synced.evaluations.get(name, ["", first_step - 1])
        digest = record.get("arrays_sha256", "")
        if identity == record["fingerprint"] and known in ([], [digest]):
            synced.evaluations[name] = [identity, step, digest]
            continue
        synced.evaluations[name] = [record["fingerprint"], step + 1, digest]
        synced.artifacts = False
        sizes = {f"test/images/{key}": float(n) for key, n in record["images"].items()}
        points += [(key, value, moment, step + 1) for key, value in {**record["metrics"], **sizes}.items()]
    if points:
        # A step for each evaluation that there is and for each that was logged again, so a later point never re-logs one.
        total = sum(record["seconds"] for record in records)
        again = sum(step - first_step for _, step, *_ in synced.evaluations.values())
        points.append(("time/evaluate_s", total, moment, len(records) + again))
    return points


def _own_protocol(sweep: SweepFile) -> Judging:
    """The sweep's own protocol with the attacks and weights that its file asks for."""
    from orchestration.protocols import as_asked

    return as_asked(sweep.protocol, sweep.attacks, sweep.weights)


def membership(job: Job) -> dict[str, Any]:
    """Where a trial stands in a sweep: the value of its `sweep.<name>` tag."""
    return {
        "label": job.label,
        "title": job.title,
        "grids": list(job.grids),
        "values": dict(job.values),
        "row": job.row,
    }


def params_of(trial: Trial) -> dict[str, Any]:
    """dotted key -> value of every setting; another trial by its fingerprint, under which all of it is found."""
    found = flatten(trial.model_dump(mode="json", exclude={word for word, _ in sources_of(trial)}))
    for word, start in sources_of(trial):
        found |= {f"{word}.trial": fingerprint(start.trial), f"{word}.weights": start.weights}
    return found


def data_label(trial: Trial) -> str:
    """The experiment a trial belongs to."""
    return trial.data.label or trial.data.name or str(trial.data.folder)


def trial_yaml(trial: Trial) -> str:
    """The resolved settings as a file that `ham train` and `python -m ham_core train` take."""
    import yaml

    text: str = yaml.safe_dump(trial.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def shown(value: Any) -> str:
    """A setting as MLflow keeps it: text."""
    return (
        value
        if isinstance(value, str)
        else json.dumps(value)
        if isinstance(value, list | bool)
        else str(value)
    )


def metric_key(name: str) -> str:
    """MLflow takes letters, digits and `_-./: `; anything else becomes `_`."""
    return re.sub(r"[^A-Za-z0-9_\-./: ]", "_", name)


def machine_tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """Device, threads, library versions and commit of the training; earlier versions recorded no commit."""
    tags = {
        "machine": f"{facts['device']}, {facts['threads']} CPU thread{'s' if facts['threads'] != 1 else ''}",
        "versions": json.dumps(facts["versions"], sort_keys=True),
    }
    return tags | ({COMMIT: facts["commit"]} if facts.get("commit") else {})


def classwise(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row per class, a column per weights and attack, in the form of MLflow's tables."""
    names = [f"{evaluation['weights']}/{evaluation['attack_name']}" for evaluation in evaluations]
    order = sorted(range(len(names)), key=names.__getitem__)
    images: dict[str, int] = evaluations[0]["images"]
    rows = [
        [key, count, *(evaluations[i]["metrics"].get(f"{names[i]}/{key}") for i in order)]
        for key, count in images.items()
    ]
    return {"columns": ["class", "images", *(names[i] for i in order)], "data": rows}


def one_per_name(records: Iterable[dict[str, Any]], wanted: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`best/pgd20` -> its evaluation. Of several (other test images, another step) the planned one counts."""
    chosen: dict[str, dict[str, Any]] = {}
    for record in sorted(
        records, key=lambda record: (record["fingerprint"] in wanted, record["fingerprint"])
    ):
        chosen[f"{record['weights']}/{record['attack_name']}"] = record
    return chosen


def _best(metrics: Iterable[tuple[str, float]]) -> dict[str, float]:
    """`best/pgd20/avg` -> its highest value over the trials, likewise `worst`."""
    best: dict[str, float] = {}
    for key, value in metrics:
        if key.startswith(SUMMED_UP) and key.rpartition("/")[2] in STATISTICS[:2]:
            best[key] = max(value, best.get(key, value))
    return best


def _record(run: Any) -> _Record:
    """A run as MLflow's own search gives it."""
    return _Record(
        run.info.run_id,
        run.info.experiment_id,
        run.info.status,
        dict(run.data.tags),
        set(run.data.params),
        dict(run.data.metrics),
    )


def _of_trial(identity: str) -> str:
    """The search for the run of one trial."""
    return f"tags.kind = 'trial' and tags.fingerprint = '{identity}'"


def _trial_records(client: MlflowClient, experiments: Sequence[str]) -> list[_Record]:
    """The active runs of all trials, oldest first.

    Of a database only the tags are read, which say how much of a folder its run holds: a thousand runs have 150,000 values,
    and MLflow's own search builds an object of each. A server has no other question than that search.
    """
    store = client._tracking_client.store
    if not hasattr(store, "ManagedSessionMaker"):
        return [_record(run) for run in _search(client, experiments, "tags.kind = 'trial'")]
    from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag

    tags: dict[str, dict[str, str]] = {}
    with store.ManagedSessionMaker() as session:
        trials = session.query(SqlTag.run_uuid).filter(SqlTag.key == "kind", SqlTag.value == "trial")
        of_trials = session.query(SqlTag.run_uuid, SqlTag.key, SqlTag.value).filter(
            SqlTag.run_uuid.in_(trials)
        )
        for run_id, key, value in of_trials:
            tags.setdefault(run_id, {})[key] = value
        runs = session.query(SqlRun.run_uuid, SqlRun.experiment_id, SqlRun.status)
        return [
            _Record(run_id, str(experiment), status, tags[run_id], None, None)
            for run_id, experiment, status in runs.filter(SqlRun.lifecycle_stage == "active").order_by(
                SqlRun.start_time
            )
            if run_id in tags and str(experiment) in experiments
        ]


def _accuracies_of_runs(client: MlflowClient, run_ids: Sequence[str]) -> Iterator[tuple[str, float]]:
    """(metric, value) of these runs of a database, as far as sweeps are summed up by it."""
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric

    key = SqlLatestMetric.key
    ends = [key.like(f"{start}%/{statistic}") for start in SUMMED_UP for statistic in STATISTICS[:2]]
    wanted = functools.reduce(operator.or_, ends)
    with client._tracking_client.store.ManagedSessionMaker() as session:
        for chunk in _chunks(run_ids):
            of_runs = SqlLatestMetric.run_uuid.in_(chunk)
            yield from map(tuple, session.query(key, SqlLatestMetric.value).filter(of_runs, wanted))


def _write_confusion(target: Path, evaluation: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    from ham_core.metrics import confusion

    classes = list(evaluation["classes"])
    counts = confusion(arrays["label"], arrays["prediction"], len(classes))
    stem = f"confusion_{evaluation['weights']}_{evaluation['attack_name']}"
    table = {"columns": ["true \\ predicted", *classes]}
    table["data"] = [[name, *map(int, row)] for name, row in zip(classes, counts, strict=True)]
    (target / f"{stem}.json").write_text(json.dumps(table), encoding="utf-8")
    _draw_confusion(
        target / f"{stem}.png", counts, classes, f"{evaluation['weights']} under {evaluation['attack_name']}"
    )


def _draw_confusion(path: Path, counts: Any, classes: Sequence[str], title: str) -> None:
    """Rows are true classes, columns predicted ones, numbers are % of the true class. Pillow: 20 times faster than axes."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(11)
    cell = 30 if len(classes) <= 20 else 6
    names = [name[:16] for name in classes] if len(classes) <= 20 else []
    margin = 12 + max((int(font.getlength(name)) for name in names), default=20)
    top, size = margin + 24, cell * len(classes)
    picture = Image.new("RGB", (max(margin + size + 12, 260), top + size + 12), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((8, 6), f"{title}: % of the true class (row) predicted as (column)"[:90], "black", font)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    for row, values in enumerate(shares.tolist()):
        for column, share in enumerate(values):
            x, y = margin + column * cell, top + row * cell
            draw.rectangle(
                (x, y, x + cell - 2, y + cell - 2), (int(255 - 220 * share), int(255 - 170 * share), 255)
            )
            if names and share > 0:
                ink = "white" if share > 0.5 else "black"
                draw.text((x + cell / 2 - 1, y + cell / 2 - 1), f"{100 * share:.0f}", ink, font, anchor="mm")
    for index, name in enumerate(names):
        middle = index * cell + cell / 2 - 1
        draw.text((margin - 6, top + middle), name, "black", font, anchor="rm")
        upright = Image.new("RGB", (margin - 8, 14), "white")
        ImageDraw.Draw(upright).text((0, 7), name, "black", font, anchor="lm")
        turned = upright.rotate(90, expand=True)
        picture.paste(turned, (int(margin + middle) - 7, top - turned.height - 4))
    picture.save(path)


def _open(uri: str, store: Path) -> MlflowClient:
    """A client whose database exists. An SQLite database is created by one process, in WAL mode."""
    file = database_file(uri)
    if file is None:
        return client_of(uri)
    with _alone(uri, store):
        fresh = not file.exists()
        client = client_of(uri)
        client.search_experiments(max_results=1)
        if fresh:
            with contextlib.closing(sqlite3.connect(file)) as connection:
                connection.execute("pragma journal_mode=wal")
    return client


@contextlib.contextmanager
def _alone(uri: str, store: Path) -> Iterator[None]:
    """One process at a time, beside the database, else in the store: MLflow's migrations do not survive company, and what
    two processes look for and do not find, both would make."""
    file = database_file(uri)
    place = store if file is None else file.parent
    place.mkdir(parents=True, exist_ok=True)
    with open(place / ".mlflow.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _milliseconds(record: Mapping[str, Any]) -> int:
    return int(record["timestamp"] * 1000)


def _outline(journal: Path) -> tuple[int, int]:
    """(bytes of a journal, timestamp of its first record in ms); zeros where there is none."""
    try:
        with open(journal, "rb") as file:
            record = json.loads(file.readline())
            return os.fstat(file.fileno()).st_size, _milliseconds(record)
    except (FileNotFoundError, ValueError, KeyError):
        return 0, 0


def _now() -> int:
    return int(time.time() * 1000)


def _last_change(folder: TrialFolder) -> int:
    """When the last result was written, in ms: the end of the run, also when it is rebuilt much later."""
    files = [
        folder.path / "journal.jsonl",
        folder.path / "done.json",
        *(folder.path / "evaluations").glob("*.json"),
    ]
    moments = [file.stat().st_mtime for file in files if file.exists()]
    return int(max(moments) * 1000) if moments else _now()
