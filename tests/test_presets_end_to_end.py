"""Every preset trained: on digits by `ham sweep` with the real Ray, in bfloat16, and planned with all the others.

The sweep changes what an experiment changes (images, network, radius, length) and leaves each preset its own learning rate,
drops, momentum and attack. It takes minutes, so a third of the presets runs, another one every day; with the environment
variable HAM_ALL_PRESETS=1 all of them do.
"""

from __future__ import annotations

import datetime
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from ham_core.config import Trial, fingerprint
from ham_core.folder import TrialFolder
from ham_core.presets import load_preset, names
from ham_core.resolve import Layer, resolve
from ham_core.training import load_data, train
from tests.commands import ham

TRIAL: dict[str, Any] = {
    "data": "digits",
    "model": {"name": "small_cnn", "width": 0.5},
    "epsilon": 0.1,
    "attack": {"step": "epsilon/4"},
    "epochs": 12,
    "batch_size": 64,
    "augment": {"crop": 0, "flip": False},
    "selection.steps": 10,
}
LEAST_CLEAN, LEAST_ROBUST = 0.8, 0.5  # chance is 0.1
LEAST_UNATTACKED = {"standard": 0.2}  # under PGD-20, trained without an attack


def todays() -> list[str]:
    """The presets that are trained today: a third of them, in turn, or all."""
    everyone = names()
    if os.environ.get("HAM_ALL_PRESETS") == "1":
        return everyone
    return everyone[datetime.date.today().toordinal() % 3 :: 3]


def sweep(methods: list[str]) -> str:
    """A sweep over these presets; JSON is YAML."""
    settings = {
        "title": "Presets",
        "trial": TRIAL,
        "grid": {"method": methods},
        "seeds": [0],
        "evaluate": ["clean", "pgd20"],
        "weights": ["best"],
    }
    return json.dumps(settings, indent=1)


def resolved(name: str, **settings: Any) -> Trial:
    return resolve([Layer("", TRIAL | settings | {"method": name}, lambda _: "x.yaml:1")]).trial


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_todays_presets_learn_digits_and_resist_pgd_on_them(
    tmp_path: Path, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = todays()
    record_property("presets", chosen)
    (tmp_path / "presets.yaml").write_text(sweep(chosen), encoding="utf-8")
    code, _, err = ham(tmp_path, "sweep", "presets.yaml", "--store", "store", timeout=1800)
    assert code == 0, err
    found: dict[str, dict[str, float]] = {}
    for name in chosen:
        records = TrialFolder.of(tmp_path / "store", fingerprint(resolved(name))).evaluations()
        found[name] = {
            one["attack_name"]: one["metrics"][f"best/{one['attack_name']}/avg"] for one in records
        }
    with capsys.disabled():
        print(f"\npresets trained (clean, PGD-20), {len(chosen)} of {len(names())}:")
        for name, one in found.items():
            print(f"  {name:20} {one['clean']:.3f} {one['pgd20']:.3f}")
    assert {name: one for name, one in found.items() if one["clean"] < LEAST_CLEAN} == {}
    weak = {
        name: one for name, one in found.items() if one["pgd20"] < LEAST_UNATTACKED.get(name, LEAST_ROBUST)
    }
    assert weak == {}


@pytest.mark.parametrize("name", names())
def test_every_preset_trains_in_bfloat16_without_a_nan(name: str) -> None:
    torch.set_num_threads(1)
    trial = resolved(
        name,
        data={"name": "digits", "train_limit": 200, "test_limit": 60},
        epochs=2,
        precision="bf16",
        **{"selection.steps": 1},
    )
    kept = {}
    for result in train(trial, load_data(trial)):
        assert all(math.isfinite(value) for value in result.metrics.values()), result.metrics
        kept |= result.kept
    assert "last" in kept  # `best` may be of the epochs that a warm-up trained
    for weights in kept.values():
        assert all(tensor.isfinite().all() for tensor in weights.values())


def test_the_plan_of_all_presets_lists_each_shared_start_once_and_before_its_users(tmp_path: Path) -> None:
    (tmp_path / "presets.yaml").write_text(sweep(names()), encoding="utf-8")
    code, out, err = ham(tmp_path, "plan", "presets.yaml", "--store", "store", "--json")
    assert code == 0, err
    steps = json.loads(out)["trials"]
    place = {one["fingerprint"]: position for position, one in enumerate(steps)}
    assert len(place) == len(steps)
    for one in steps:
        assert all(place[other] < place[one["fingerprint"]] for other in one["needs"]), one["row"]
    needs = {one["fingerprint"]: one["needs"] for one in steps}
    for name in names():
        trial = resolved(name)
        assert needs[fingerprint(trial)] == [fingerprint(start.trial) for start in trial.sources]
        settings = load_preset(name).recipe
        assert bool(trial.sources) is bool({"start_from", "helper"} & settings.keys())
    shared = fingerprint(resolved("frl").start_from.trial)  # type: ignore[union-attr]
    users = {one["label"] for one in steps if shared in one["needs"]}
    assert users == {"frl", "frl-reweight"}
