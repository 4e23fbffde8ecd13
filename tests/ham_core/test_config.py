"""A trial's settings, their dependent defaults, and what belongs to its identity."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from ham_core.config import Schedule, Trial, canonical, fingerprint, flatten, pixels, with_seed
from ham_core.parts import KINDS, From, find, index, value_at
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
        {"schedule": {"shape": "linear"}},
        {"start_from": {"trial": {"method": {"objective": "trades"}, "data": "digits"}}},
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
        {"batch_size": 128, "schedule": {"shape": "step"}, "start_from": None},
    ],
)
def test_what_does_not_change_the_weights_leaves_the_fingerprint(settings):
    assert fingerprint(full(**settings)) == fingerprint(full())


def test_settings_at_their_default_are_no_part_of_the_identity_so_that_a_new_option_changes_none():
    form = canonical(full())
    assert form["method"] == {"objective": {"name": "at"}}
    assert set(form) == {"method", "data", "attack", "augment", "numerics_version"}
    weighty = canonical(full(method={"objective": "at", "mining": {"name": "ham", "drop_rate": 0.1}}))
    assert weighty["method"]["mining"] == {"name": "ham", "drop_rate": 0.1}


def started(weights: str = "best", seed: int = 0, **settings: Any) -> Trial:
    other = {"method": {"objective": "trades"}, "data": "digits", "seed": seed, "epochs": 3}
    return full(start_from={"trial": other, "weights": weights}, **settings)


def test_another_trial_counts_by_its_fingerprint_and_by_the_weights_that_are_taken_from_it():
    one = started()
    assert canonical(one)["start_from"] == {
        "trial": fingerprint(one.start_from.trial),
        "weights": "best",
    }
    prints = [fingerprint(trial) for trial in (full(), one, started("last"), started(seed=1))]
    assert len(set(prints)) == 4
    assert Trial.model_validate_json(one.model_dump_json()) == one
    assert one.sources == (one.start_from,) and full().sources == ()


def test_another_seed_reaches_the_trials_that_it_starts_from_unless_they_keep_their_own():
    found = with_seed(started(), 7)
    assert (found.seed, found.start_from.trial.seed) == (7, 7)
    kept = with_seed(started(), 7, frozenset({"start_from"}))
    assert (kept.seed, kept.start_from.trial.seed) == (7, 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": {"width": 0.5}}, "start_from: the other trial has another network"),
        ({"weights": "state", "epochs": 3}, "start_from.epochs is 3, but .* only 3 epochs"),
        ({"weights": "no such"}, "should match pattern"),
        (
            {"method": {"objective": "at", "calibration": "frl"}, "data.validation": 0},
            "looks at held-out images",
        ),
    ],
)
def test_a_start_that_cannot_serve_is_refused(settings, words):
    if settings.pop("data.validation", None) == 0:
        settings |= {"data": {"name": "digits", "validation": 0}, "selection": {"on": "test"}}
    with pytest.raises(ValidationError, match=words):
        started(**settings)


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


def test_a_linear_schedule_goes_straight_from_point_to_point():
    """Fast-AT's triangle over 15 epochs, 0 to 1 to 0, is 0.4 at t = 3 and again at t = 12."""
    triangle = Schedule(shape="linear", milestones=(0, 7.5, 15), factors=(0, 1, 0))
    found = [triangle.factor(t) for t in (0, 3, 7.5, 12, 15, 20)]
    assert found == pytest.approx([0, 0.4, 1, 0.4, 0, 0])
    late = Schedule(shape="linear", milestones=(2, 4), factors=(0.5, 0.1))
    assert [late.factor(t) for t in (0, 2, 3, 5)] == pytest.approx([0.5, 0.5, 0.3, 0.1])


def test_a_cosine_schedule_goes_along_half_waves():
    """From 0.2 to 1 over 4 epochs: 0.2 + 0.8 (1 - cos(π/4)) / 2 after one epoch, 0.6 after two."""
    wave = Schedule(shape="cosine", milestones=(0, 4, 8), factors=(0.2, 1, 0))
    found = [wave.factor(t) for t in (0, 1, 2, 4, 6, 8)]
    assert found == pytest.approx([0.2, 0.2 + 0.4 * (1 - 0.5**0.5), 0.6, 1, 0.5, 0])
    with pytest.raises(ValidationError, match="needs at least one milestone"):
        Schedule(shape="cosine", milestones=(), factors=())


def test_a_schedule_of_values_holds_each_from_its_epoch_on_in_whatever_order_they_stand():
    entries = (From(start_epoch=5, value=2.0), From(start_epoch=2, value=1.0))
    assert [value_at(entries, epoch, before=-1.0) for epoch in (0, 2, 4, 5, 9)] == [-1, 1, 1, 2, 2]
    assert value_at(3, 7) == 3.0


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
