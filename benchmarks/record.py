"""A record of many runs without any training: an SQLite database as the tracker leaves it, with invented numbers.

MLflow makes the schema, the experiments, the sweeps' parents and their plans; the rows of the trials are inserted in bulk.
Everything that a report looks at is there and fits together: the plan, memberships, parameters, metrics, series and seals.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestration import tracking
from orchestration.sealed_runs import PLAN_SEAL, SEAL, seal_of, seal_of_plan, series_tags

SWEEPS, SEEDS, EPOCHS, CLASSES = 4, 5, 12, 10
STEP = SWEEPS * SEEDS * 5  # runs: every grid of every sweep gets one setting more
GRIDS: dict[
    str, tuple[str, str]
] = {  # grid -> (the method, the setting that it varies); `methods` varies the method
    "methods": ("", "optimizer.lr"),
    "early_drop_step": ("ham-official", "method.mining.early_drop_step"),
    "weight_parameter": ("ham-paper", "method.mining.weight.parameter"),
    "drop_rate": ("ham-official", "method.mining.drop_rate"),
    "drop_rate_at": ("drop-overconfident", "method.mining.drop_rate"),
}
LABELS = ("at", "trades", "ham-official", "ham-paper", *(f"method-{number:02}" for number in range(16)))
SERIES = (
    "val/pgd10/worst",
    "train/hard_share/all",
    "train/images",
    "train/passes/forward",
    "train/passes/input_gradient",
    "train/passes/weight_gradient",
    "time/train_s",
    "time/validate_s",
)
METRICS = 50  # final ones, besides the series
PARAMS = 60


def write(folder: Path, runs: int) -> str:
    """The address of a record of so many finished runs, a multiple of STEP, in a folder that is made."""
    folder.mkdir(parents=True)
    uri = tracking.default_uri(folder)
    client = tracking.client_of(uri)
    experiment = client.create_experiment("digits", artifact_location=(folder / "artifacts").as_uri())
    chance = random.Random(0)
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=off")
        for number in range(SWEEPS):
            name = f"sweep{number}"
            planned = list(_planned(name, runs // SWEEPS))
            parent = client.create_run(experiment, tags={"kind": "sweep", "sweep": name}, run_name=name)
            plan = json.dumps(planned, indent=1)
            client.log_text(parent.info.run_id, plan, tracking.PLAN)
            client.set_tag(parent.info.run_id, PLAN_SEAL, seal_of_plan(plan))
            client.set_tag(parent.info.run_id, "started_ms", str(number))
            for first in range(0, len(planned), 500):
                _insert(database, experiment, name, planned[first : first + 500], chance)
        database.execute("pragma wal_checkpoint(truncate)")
    return uri


def _planned(sweep: str, runs: int) -> Iterator[dict[str, Any]]:
    for place in range(runs // SEEDS):
        grid, index = list(GRIDS)[place % len(GRIDS)], place // len(GRIDS)
        label, setting = GRIDS[grid]
        if grid == "methods":
            label = LABELS[index % len(LABELS)]
            values: dict[str, Any] = {"method": label, setting: round(0.1 + index // len(LABELS) / 100, 2)}
        else:
            values = {"method": label, setting: index / 1000 if "rate" in grid else index}
        for seed in range(SEEDS):
            fingerprint = hashlib.sha256(f"{sweep} {grid} {index} {seed}".encode()).hexdigest()
            yield {
                "fingerprint": fingerprint,
                "label": label,
                "title": label.upper(),
                "grids": [grid],
                "values": values,
                "seed": seed,
                "row": f"{label} {index}",
            }


def _insert(
    database: sqlite3.Connection,
    experiment: str,
    sweep: str,
    planned: list[dict[str, Any]],
    chance: random.Random,
) -> None:
    """The rows of some trials, as MLflow would have written them."""
    runs, tags, params, metrics, latest = [], [], [], [], []
    for one in planned:
        run_id = one["fingerprint"][:32]
        series = _series(chance)
        final = _final(chance)
        assert len(final) == METRICS
        last = final | {key: points[-1] for key, points in series.items()}
        settings = _params(one)
        assert len(settings) == PARAMS
        runs.append((run_id, one["row"], "ham", "FINISHED", 1, 2, "active", int(experiment)))
        journal = [
            {"epoch": epoch, "metrics": {key: points[epoch] for key, points in series.items()}}
            for epoch in range(EPOCHS)
        ]
        own = {
            "kind": "trial",
            "fingerprint": one["fingerprint"],
            "data": "digits",
            "method": one["label"],
            "mlflow.runName": f"{one['row']} seed={one['seed']}",
            "protocol": "standard",
            "synced": "{}",
            f"{tracking.MEMBERSHIP}{sweep}": json.dumps(one),
            SEAL: seal_of(one["fingerprint"], last, settings),
        } | series_tags(journal, tracking.metric_key)
        tags += [(key, value, run_id) for key, value in own.items()]
        params += [(key, value, run_id) for key, value in settings.items()]
        latest += [(key, value, 1, EPOCHS - 1, False, run_id) for key, value in last.items()]
        metrics += [(key, value, 1, EPOCHS - 1, False, run_id) for key, value in final.items()]
        metrics += [
            (key, value, epoch, epoch, False, run_id)
            for key, points in series.items()
            for epoch, value in enumerate(points)
        ]
    with database:
        for table, columns, rows in (
            (
                "runs",
                "run_uuid, name, user_id, status, start_time, end_time, lifecycle_stage, experiment_id",
                runs,
            ),
            ("tags", "key, value, run_uuid", tags),
            ("params", "key, value, run_uuid", params),
            ("metrics", "key, value, timestamp, step, is_nan, run_uuid", metrics),
            ("latest_metrics", "key, value, timestamp, step, is_nan, run_uuid", latest),
        ):
            places = ", ".join("?" * (columns.count(",") + 1))
            database.executemany(f"insert into {table} ({columns}) values ({places})", rows)


def _params(one: dict[str, Any]) -> dict[str, str]:
    known = {
        "data.label": "digits",
        "model.name": "small_cnn",
        "model.width": "1.0",
        "epsilon": "0.2",
        "epochs": str(EPOCHS),
        "selection.on": "validation",
        "selection.steps": "10",
        "precision": "fp32",
        "seed": str(one["seed"]),
    } | {key: str(value) for key, value in one["values"].items()}
    return known | {f"setting.{number:02}": "0.123" for number in range(PARAMS - len(known))}


def _series(chance: random.Random) -> dict[str, list[float]]:
    return {key: [chance.uniform(0.2, 0.8) for _ in range(EPOCHS)] for key in SERIES}


def _final(chance: random.Random) -> dict[str, float]:
    """Class-wise accuracies of the `best` weights on clean images and under PGD-20, the statistics of the others."""
    classes = [f"{index:02}_class" for index in range(CLASSES)]
    found = {f"test/images/{name}": 100.0 for name in classes} | {"time/evaluate_s": chance.uniform(2, 3)}
    for weights in ("best", "last"):
        for attack in ("clean", "pgd20", "cw20"):
            shares = [chance.randrange(20, 80) / 100 for _ in classes]
            mean = sum(shares) / CLASSES
            found |= {
                f"{weights}/{attack}/avg": mean,
                f"{weights}/{attack}/worst": min(shares),
                f"{weights}/{attack}/std": (sum((share - mean) ** 2 for share in shares) / CLASSES) ** 0.5,
            }
            if weights == "best" and attack != "cw20":
                found |= {
                    f"{weights}/{attack}/{name}": share for name, share in zip(classes, shares, strict=True)
                }
    return found | {"best/epoch": float(EPOCHS - 1)}
