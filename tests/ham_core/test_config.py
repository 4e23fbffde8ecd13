"""A trial's settings, their dependent defaults, and what belongs to its identity."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from ham_core.config import Schedule, Trial, fingerprint, flatten, pixels
from ham_core.parts import KINDS, find, index
from tests.builders import trial


def full(**settings: Any) -> Trial:
    return Trial.model_validate({"method": {"objective": "at"}, "data": "digits"} | settings)


def test_radii_may_be_written_as_fractions_of_255():
    assert full(epsilon="8/255").epsilon == 8 / 255
    assert full(epsilon=" 8 / 255 ") == full(epsilon=8 / 255)
    assert pixels("0.031") == 0.031
    with pytest.raises(ValidationError, match="'eight' is no number; write for example 8/255"):
        full(epsilon="eight")


@pytest.mark.parametrize(
    "text", ["1e400", "1e9999999999", "1e9999999999/3", "inf", "nan", "1/0", "1" * 100, "epsilon/0"]
)
def test_a_radius_that_is_no_finite_number_is_refused_at_once(text: str):
    with pytest.raises(ValueError, match="is no number; write for example 8/255"):
        pixels(text)


def test_the_step_follows_epsilon_unless_given():
    assert full(epsilon=0.2).attack.step == 0.05
    assert full(epsilon=0.2, attack={"step": "epsilon/2"}).attack.step == 0.1
    assert full(epsilon=0.2, attack={"step": "epsilon"}).attack.step == 0.2
    assert full(epsilon="0.031", attack={"step": 0.007}).attack.step == 0.007


def test_the_start_follows_the_objective_unless_given():
    assert full().attack.start == "uniform"
    assert full(method={"objective": "trades"}).attack.start == "gaussian"
    assert full(method={"objective": {"name": "trades"}}, attack={"start": "zero"}).attack.start == "zero"


def test_a_resolved_trial_survives_being_written_down():
    one = trial("trades", {"name": "ham", "early_drop_step": 2, "weight": {"measure": "softmax_l1"}})
    again = Trial.model_validate_json(one.model_dump_json())
    assert again == one and fingerprint(again) == fingerprint(one)


@pytest.mark.parametrize(
    "settings",
    [
        {"epsilon": 0.3},
        {"seed": 1},
        {"epochs": 3},
        {"precision": "bf16"},
        {"model": {"width": 2.0}},
        {"model": {"normalize": False}},
        {"data": {"name": "digits", "validation": 0.2}},
        {"data": {"name": "digits", "split_seed": 1}},
        {"data": {"name": "digits", "train_limit": 100}},
        {"method": {"objective": {"name": "trades", "beta": 5.0}}},
        {"attack": {"mode": "eval"}},
        {"attack": {"steps": 9}},
        {"optimizer": {"lr": 0.2}},
        {"schedule": {"milestones": [3], "factors": [0.1]}},
        {"augment": {"flip": True}},
        {"selection": {"on": "test"}},
    ],
)
def test_whatever_changes_the_weights_changes_the_fingerprint(settings):
    assert fingerprint(full(**settings)) != fingerprint(full())


@pytest.mark.parametrize(
    "settings",
    [
        {"epsilon": "8/255"},
        {"data": {"name": "digits", "label": "my digits"}},
        {"data": {"name": "digits", "test_limit": 100}},
        {"method": {"objective": {"name": "at"}, "averaging": [{"name": "ema", "decay": 0.9}]}},
        {"method": {"objective": "at", "averaging": "none", "mining": "none"}},
    ],
)
def test_what_does_not_change_the_weights_leaves_the_fingerprint(settings):
    assert fingerprint(full(**settings)) == fingerprint(full())


def pictures(folder: Path, shade: int = 0, test_shade: int = 0) -> Path:
    for part, base in (("train", shade), ("test", test_shade)):
        for c, name in enumerate(("cat", "dog")):
            (folder / part / name).mkdir(parents=True)
            for i in range(4):
                image = Image.new("RGB", (8, 8), (40 * c + base, 10 * i, 0))
                image.save(folder / part / name / f"{i}.png")
    return folder


def test_a_folder_is_known_by_its_training_pictures_wherever_it_lies(tmp_path):
    def of(folder: Path) -> str:
        return fingerprint(full(data={"folder": str(folder), "size": 8}))

    here = of(pictures(tmp_path / "here"))
    assert of(pictures(tmp_path / "elsewhere")) == here
    assert of(pictures(tmp_path / "other test set", test_shade=9)) == here
    assert of(pictures(tmp_path / "other training set", shade=9)) != here


def test_a_path_is_a_folder_and_a_word_is_a_name(tmp_path):
    assert full(data=str(pictures(tmp_path / "pets"))).data.folder == str(tmp_path / "pets")
    assert full().data.name == "digits"


def test_all_problems_of_a_trial_are_reported_together_with_their_keys():
    with pytest.raises(ValidationError) as caught:
        full(
            epsilon=2,
            epochs=0,
            precision="fp8",
            colour="red",
            method={"objective": {"name": "at", "beta": 1}},
        )
    places = {".".join(map(str, error["loc"])) for error in caught.value.errors()}
    assert places == {"epsilon", "epochs", "precision", "colour", "method.objective.beta"}


def test_unknown_parts_list_the_known_ones_with_a_suggestion():
    with pytest.raises(ValidationError, match=r"known: at, .*\(did you mean trades\?\)"):
        full(method={"objective": "trade"})


def test_selecting_on_held_out_images_needs_some():
    with pytest.raises(ValidationError, match="nothing is held out to select on"):
        full(data={"name": "digits", "validation": 0.0})
    assert full(data={"name": "digits", "validation": 0.0}, selection={"on": "test"}).data.validation == 0


def test_two_averages_need_two_names():
    with pytest.raises(ValidationError, match="share the label"):
        full(method={"objective": "at", "averaging": ["ema", {"name": "ema", "decay": 0.5}]})


def test_the_schedule_is_piecewise_constant():
    schedule = Schedule(milestones=(2, 5), factors=(0.1, 0.01))
    assert [schedule.factor(epoch) for epoch in (0, 1, 2, 4, 5, 9)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    with pytest.raises(ValidationError, match="2 milestones but 1 factors"):
        Schedule(milestones=(2, 5), factors=(0.1,))


def test_flatten_joins_keys_with_dots():
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {"a.b.c": 1, "a.d": [2], "e": None}


def test_every_part_is_frozen_refuses_unknown_keys_and_loads_without_torch():
    names = {(kind, name) for kind in KINDS for name in index(kind)}
    assert {
        ("objectives", "trades"),
        ("mining", "ham"),
        ("averaging", "ema"),
        ("calibration", "cfa"),
    } <= names
    for kind, name in names:
        part = find(kind, name)
        with pytest.raises(ValidationError, match="Extra inputs"):
            part.model_validate({"no_such_key": 1})
    code = (
        "import sys; from ham_core.config import Trial; from ham_core.parts import KINDS, index, find;"
        "[find(k, n) for k in KINDS for n in index(k)];"
        "Trial.model_validate({'method': {'objective': 'trades', 'mining': 'ham'}, 'data': 'digits'});"
        "assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
