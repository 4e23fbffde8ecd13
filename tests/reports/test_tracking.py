"""The same reports from a real MLflow database on SQLite."""

import json
from pathlib import Path

import pytest

import reports
from ham_core.errors import RequestError


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> tuple[str, Path]:
    """One sweep: method `at` with seeds 0 and 1 finished, `trades` planned and not run."""
    from orchestration import tracking

    folder = tmp_path_factory.mktemp("store")
    uri = tracking.default_uri(folder)
    client = tracking.client_of(uri)
    experiment = client.create_experiment("digits", artifact_location=(folder / "artifacts").as_uri())
    parent = client.create_run(experiment, tags={"kind": "sweep", "sweep": "digits"})
    plan = []
    for label, seed in (("at", 0), ("at", 1), ("trades", 0), ("trades", 1)):
        fingerprint = f"{label}{seed}".ljust(64, "0")
        entry = {"fingerprint": fingerprint, "label": label, "title": label.upper(), "grids": ["methods"]}
        plan.append(entry | {"values": {}, "seed": seed, "row": label.upper()})
        if label == "trades":
            continue
        tags = {"kind": "trial", "fingerprint": fingerprint, "sweep.digits": json.dumps(entry)}
        run = client.create_run(experiment, tags=tags)
        for key, value in {
            "data.label": "digits",
            "epsilon": "0.2",
            "epochs": "2",
            "selection.on": "validation",
        }.items():
            client.log_param(run.info.run_id, key, value)
        for epoch in (0, 1):
            client.log_metric(run.info.run_id, "val/pgd10/worst", 0.2 + 0.1 * epoch, step=epoch)
        for attack in ("clean", "pgd20", "cw20"):
            for statistic in ("avg", "worst", "std", "00_zero"):
                client.log_metric(run.info.run_id, f"best/{attack}/{statistic}", 0.25 + 0.5 * seed)
        client.set_terminated(run.info.run_id)
    client.log_text(parent.info.run_id, json.dumps(plan), "plan.json")
    return uri, folder


@pytest.mark.filterwarnings(
    "error:constrained_layout"
)  # a mark outside its axes would squeeze them to nothing
def test_build_writes_what_exists_and_lists_what_waits(recorded, tmp_path):
    uri, _ = recorded
    built = reports.build(reports.Request(uri=uri, out=tmp_path))
    assert "| AT " in built.shown
    assert "50.0 ± " in built.shown
    assert built.html == tmp_path / "index.html"
    assert all(path.is_file() for path in built.files)
    assert (tmp_path / "digits/figures/worst-over-epochs.svg").is_file()
    assert "digits/ham-main: TRADES: waits for seeds 0, 1 (not run)" in built.waiting


def test_a_named_table_names_the_missing_trials(recorded, tmp_path):
    uri, _ = recorded
    with pytest.raises(RequestError, match="trades seed 0, trades seed 1"):
        reports.build(reports.Request(uri=uri, out=tmp_path, names=["ham-main"]))
    assert reports.build(reports.Request(uri=uri, out=tmp_path, names=["ham-main"]), partial=True).shown


def test_explain_leads_to_the_runs(recorded):
    uri, folder = recorded
    answer = reports.explain(uri=uri, store=folder, table="ham-main", row="AT", column="PGD-20 worst")
    assert answer["values"] == [25.0, 75.0]
    assert [Path(run["checkpoint"]).parts[-3:] for run in answer["runs"]] == [
        (run["fingerprint"], "weights", "best.pt") for run in answer["runs"]
    ]


def test_unknown_sweeps_formats_and_tables_are_answered_with_the_known_ones(recorded, tmp_path):
    uri, folder = recorded
    with pytest.raises(RequestError, match=r"no sweep 'digit' is recorded; known: digits"):
        reports.build(reports.Request(uri=uri, out=tmp_path, sweep="digit"))
    with pytest.raises(RequestError) as caught:
        reports.build(reports.Request(uri=uri, out=tmp_path, names=["ham-mian"], formats=["pdf"]))
    assert len(caught.value.problems) == 2
    with pytest.raises(RequestError, match="'pareto' is a figure"):
        reports.explain(uri=uri, store=folder, table="pareto", row="x", column="y")


def test_an_empty_store_says_what_to_run(tmp_path):
    with pytest.raises(RequestError, match="run one first"):
        reports.build(reports.Request(uri=f"sqlite:///{tmp_path}/none.db", out=tmp_path / "out"))
