"""Runs are read from a database in bulk, from a server by MLflow's search: both give the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import record
from orchestration import tracking


class WithoutTables:
    """A store that has no tables of its own, like that of a server: only what the client asks of it."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        if name == "ManagedSessionMaker":
            raise AttributeError(name)
        return getattr(self._store, name)


@contextlib.contextmanager
def as_of_a_server(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients whose store has no tables."""
    real = tracking.client_of

    def client_of(uri: str) -> Any:
        client = real(uri)
        kept = client._tracking_client
        store = WithoutTables(kept.store)
        patch.setattr(type(kept), "store", property(lambda self: store))
        return client

    with patch.context() as inside:
        inside.setattr(tracking, "client_of", client_of)
        yield


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return record.write(tmp_path_factory.mktemp("record") / "store", record.STEP)


@pytest.mark.timeout(120)
def test_a_database_and_a_server_give_the_same_runs_and_series(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [sweep.name for sweep in tracking.read_sweeps(uri)]
    assert names == ["sweep3", "sweep2", "sweep1", "sweep0"]
    bulk = tracking.read_runs(uri, names)
    ids = [run.run_id for members in bulk.values() for run in members.trials]
    assert len(ids) == len(set(ids)) == record.STEP
    points = tracking.read_series(uri, ids[::-1], "val/pgd10/worst")
    with as_of_a_server(monkeypatch):
        searched = tracking.read_runs(uri, names)
        assert tracking.read_series(uri, ids[::-1], "val/pgd10/worst") == points
    for name in names:
        assert sorted(bulk[name].trials, key=lambda run: run.run_id) == sorted(
            searched[name].trials, key=lambda run: run.run_id
        )
    assert list(points) == ids[::-1]
    assert {len(found) for found in points.values()} == {record.EPOCHS}
    one = bulk["sweep0"].trials[0]
    assert len(one.metrics) == record.METRICS + len(record.SERIES)
    assert len(one.params) == record.PARAMS


def test_a_series_of_many_runs_is_that_of_few(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [run.run_id for run in tracking.read_trials(uri, "sweep1")]
    few = tracking.read_series(uri, ids[:3], "train/images")
    monkeypatch.setattr(tracking, "CHUNK", 2)
    assert tracking.read_series(uri, ids[:3], "train/images") == few
    assert set(few) == set(ids[:3])


def test_only_what_belongs_to_a_sweep_and_is_not_deleted_is_read(uri: str) -> None:
    client = tracking.client_of(uri)
    first, *others = tracking.read_trials(uri, "sweep2")
    client.delete_run(first.run_id)
    assert [run.run_id for run in tracking.read_trials(uri, "sweep2")] == [run.run_id for run in others]
    client.restore_run(first.run_id)
    assert tracking.read_trials(uri, "none") == []
    assert tracking.read_runs(uri, []) == {}


def test_the_benchmarks_record_is_one_that_reports_take(uri: str, tmp_path: Path) -> None:
    """Its seals fit, and no cell of the main table is empty."""
    from reports import Request
    from reports.builder import build

    built = build(Request(uri=uri, out=tmp_path, formats=("csv",)))
    assert {path.parent.name for path in built.files} == {f"sweep{number}" for number in range(record.SWEEPS)}
    assert not [sentence for sentence in built.waiting if "evaluation" in sentence and "ham-main" in sentence]
