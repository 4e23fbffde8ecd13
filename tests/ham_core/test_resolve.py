"""Layers of settings -> a trial, the origin of each value, and sentences about what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ham_core.config import Trial, fingerprint
from ham_core.errors import RequestError
from ham_core.resolve import Layer, Resolved, idle_parts, load_trial, resolve, scaled, set_layer

DIGITS = {"data": "digits"}


def layer(settings: dict[str, Any], name: str = "x.yaml", origin: str = "") -> Layer:
    """A layer whose places are `x.yaml:key/key`."""
    return Layer(origin, settings, lambda written: f"{name}:{'/'.join(map(str, written))}")


def resolved(*settings: dict[str, Any]) -> Resolved:
    return resolve([layer(DIGITS, "data"), *(layer(one) for one in settings)])


def trial(*settings: dict[str, Any]) -> Trial:
    return resolved(*settings).trial


def problems(*settings: dict[str, Any], data: dict[str, Any] = DIGITS) -> tuple[str, ...]:
    with pytest.raises(RequestError) as caught:
        resolve([layer(data), *(layer(one) for one in settings)])
    return caught.value.problems


# precedence ------------------------------------------------------------------------------------------------------


def test_a_higher_layer_wins_and_says_so() -> None:
    found = resolve(
        [
            layer({"epsilon": 0.1, "selection.on": "test"}, origin="protocol p"),
            layer({**DIGITS, "method": "ham-official", "epsilon": 0.2, "batch_size": 64}),
            layer({"batch_size": 32}, origin="profile smoke"),
            set_layer({"seed": 7}, {"seed": "seed=7"}),
        ]
    )
    assert (found.trial.epsilon, found.trial.batch_size, found.trial.seed) == (0.2, 32, 7)
    assert found.origins["attack.step"] == "preset ham-official"
    assert found.origins["selection.on"] == "protocol p"
    assert found.origins["epsilon"] == "x.yaml:epsilon"
    assert found.origins["batch_size"] == "profile smoke"
    assert found.origins["seed"] == "--set"
    assert found.origins["precision"] == "default"
    assert found.place("seed") == "--set seed=7"


def test_every_setting_of_the_trial_has_an_origin() -> None:
    from ham_core.config import flatten

    found = resolved({"method": "trades"})
    assert found.origins.keys() == flatten(found.trial.model_dump(mode="json")).keys()


def test_the_last_layer_that_names_a_preset_chooses_it_and_it_lies_below_all_layers() -> None:
    found = resolved({"method": "ham-official", "epochs": 9}, {"method": "trades"})
    assert (found.label, found.trial.epochs, found.trial.method.mining) == ("trades", 9, None)
    assert found.trial.method.objective.name == "trades"


def test_nested_and_dotted_keys_are_the_same() -> None:
    nested = trial({"method": {"preset": "ham-official", "mining": {"early_drop_step": 5}}})
    assert nested == trial({"method": "ham-official", "method.mining.early_drop_step": 5})
    assert nested == trial({"method.preset": "ham-official", "method.mining": {"early_drop_step": 5}})


def test_a_preset_with_another_objective_keeps_its_mining() -> None:
    found = resolved({"method": "ham-official", "method.objective": "trades"})
    assert found.trial.method.objective.name == "trades"
    assert found.trial.method.mining.name == "ham"
    assert (found.label, found.title) == ("ham-official+trades", "HAM (official code) + trades")
    assert found.trial.attack.start == "gaussian"


def test_a_part_of_another_name_leaves_nothing_of_the_part_below() -> None:
    found = trial(
        {"method": "ham-paper"}, {"method.mining": {"name": "drop_overconfident", "drop_rate": 0.2}}
    )
    assert found.method.mining.model_dump(mode="json") == {
        "name": "drop_overconfident",
        "start_epoch": 0,
        "drop_rate": 0.2,
        "choose": "most_confident",
        "confidence": "true_class",
    }


def test_a_part_of_the_same_name_is_changed_key_by_key() -> None:
    weight = trial(
        {"method": "ham-paper", "method.mining": {"name": "ham", "weight": {"parameter": 2}}}
    ).method.mining.weight
    assert (weight.measure, weight.function, weight.parameter) == ("softmax_l1", "tanh", 2.0)


def test_a_weight_by_name_can_be_changed_by_a_higher_layer() -> None:
    below = {"method": {"objective": "at", "mining": {"name": "ham", "weight": "logits_l1"}}}
    weight = trial(below, {"method.mining.weight.function": "power"}).method.mining.weight
    assert (weight.measure, weight.function) == ("logits_l1", "power")


def test_none_takes_mining_away() -> None:
    found = resolved({"method": "ham-official", "method.mining": "none"})
    assert found.trial.method.mining is None
    assert found.label == "ham-official+no-mining"
    assert resolved({"method": "ham-official"}, {"method.mining": None}).trial == found.trial


def test_without_a_preset_the_label_names_the_parts() -> None:
    method = {"objective": "trades", "mining": "ham", "calibration": "cfa"}
    assert resolved({"method": method}).label == "trades+ham+cfa"


def test_other_images_replace_name_and_folder_and_keep_the_limits() -> None:
    found = resolve(
        [
            layer({"data": {"folder": "/nowhere", "train_limit": 50}, "method": "at"}),
            layer({"data": "digits"}),
        ]
    )
    assert (found.trial.data.name, found.trial.data.folder, found.trial.data.train_limit) == (
        "digits",
        None,
        50,
    )


def test_another_model_keeps_the_width() -> None:
    found = trial({"method": "at", "model": {"name": "resnet18", "width": 0.5}}, {"model": "small_cnn"})
    assert (found.model.name, found.model.width) == ("small_cnn", 0.5)


def test_the_start_point_of_a_file_survives_another_objective() -> None:
    assert (
        trial({"method": "at", "attack.start": "zero"}, {"method.objective": "trades"}).attack.start == "zero"
    )


# epochs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epoch", "before", "now", "expected"),
    [
        (49, 120, 12, 5),
        (59, 120, 12, 6),
        (1, 2, 1, 1),
        (49, 120, 4, 2),
        (0, 200, 3, 0),
        ([59, 89, 109], 120, 12, [6, 9, 11]),
    ],
)
def test_epochs_scale_to_the_nearest_and_halves_go_up(
    epoch: Any, before: int, now: int, expected: Any
) -> None:
    assert scaled(epoch, before, now) == expected


def test_a_shorter_training_scales_start_epochs_and_milestones_of_the_layers_below() -> None:
    found = resolved({"method": "ham-official", "epochs": 12})
    assert found.trial.method.mining.start_epoch == 5
    assert found.trial.schedule.milestones == (6, 9, 11)
    assert found.origins["schedule.milestones"] == "preset ham-official, scaled from 120 to 12 epochs"


def test_what_stands_beside_epochs_or_above_them_does_not_scale() -> None:
    beside = {
        "method": "ham-official",
        "epochs": 12,
        "method.mining.start_epoch": 3,
        "schedule.milestones": [7, 8, 9],
    }
    assert trial(beside).method.mining.start_epoch == 3
    assert trial(beside).schedule.milestones == (7, 8, 9)
    assert (
        trial(
            {"method": "ham-official", "epochs": 12}, {"method.mining.start_epoch": 3}
        ).method.mining.start_epoch
        == 3
    )


def test_a_layer_above_scales_again_from_what_the_layers_below_had() -> None:
    found = trial({"method": "ham-official", "epochs": 12, "method.mining.start_epoch": 4}, {"epochs": 3})
    assert found.method.mining.start_epoch == 1
    assert found.schedule.milestones == (1, 2, 3)


def test_defaults_scale_from_the_default_length_of_training() -> None:
    found = trial({"method": {"objective": "at", "mining": "ham"}, "epochs": 20})
    assert found.schedule.milestones == (10, 15)
    assert found.method.mining.start_epoch == 5  # 49 of 200


def test_start_epochs_within_lists_scale() -> None:
    averages = [{"name": "ema", "start_epoch": 50}]
    base = [{"start_epoch": 70, "value": 0.5}, {"start_epoch": 90, "value": 0.0}]
    below = {
        "method": "ham-paper",
        "epochs": 100,
        "method.averaging": averages,
        "method.mining.weight.base": base,
    }
    found = trial(below, {"epochs": 10}).method
    assert found.averaging[0].start_epoch == 5
    assert [entry.start_epoch for entry in found.mining.weight.base] == [7, 9]


def test_idle_parts_are_named() -> None:
    found = resolved({"method": "ham-official", "epochs": 12, "method.mining.start_epoch": 12})
    text = (
        "method.mining.start_epoch is 12, so 'ham' never becomes active in 12 epochs (0 to 11); "
        "allowed: 0 to 11, or more epochs"
    )
    assert idle_parts(found.trial) == [text]
    assert found.idle() == [f"x.yaml:method.mining.start_epoch: {text}"]
    assert idle_parts(trial({"method": "ham-official", "epochs": 12, "method.mining.start_epoch": 11})) == []


# identity --------------------------------------------------------------------------------------------------------


def test_the_way_a_trial_is_written_is_not_in_its_fingerprint() -> None:
    preset = trial({"method": "ham-official", "epochs": 12})
    written = trial(preset.model_dump(mode="json"))
    assert written == preset
    assert fingerprint(written) == fingerprint(preset)
    assert fingerprint(trial({"method": "ham-official", "epochs": 12, "data.label": "other"})) == fingerprint(
        preset
    )


def test_averages_and_test_limits_leave_the_fingerprint_alone() -> None:
    plain = fingerprint(trial({"method": "at"}))
    assert fingerprint(trial({"method": "at", "method.averaging": "none"})) == plain
    assert fingerprint(trial({"method": "at", "method.averaging": {"name": "ema", "decay": 0.5}})) == plain
    assert fingerprint(trial({"method": "at", "data.test_limit": 10})) == plain
    assert fingerprint(trial({"method": "at", "data.train_limit": 100})) != plain
    assert fingerprint(trial({"method": "at", "seed": 1})) != plain


# sentences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"epochz": 3}, "x.yaml:epochz: unknown key 'epochz'; known: attack, augment, "),
        ({"epochz": 3}, "(did you mean epochs?)"),
        ({"epsilon": "x"}, "x.yaml:epsilon: epsilon: 'x' is no number; write for example 8/255 or 0.031"),
        ({"epsilon": 2}, "x.yaml:epsilon: epsilon is 2; allowed: a number from 0 to 1"),
        ({"epochs": "many"}, "epochs is 'many'; allowed: a whole number from 1 to 100000"),
        ({"epochs": 0}, "epochs is 0; allowed: a whole number from 1 to 100000"),
        ({"seed": [1]}, "seed is [1]; allowed: a whole number from 0, below 4294967296"),
        ({"optimizer.lr": 0}, "x.yaml:optimizer.lr: optimizer.lr is 0; allowed: a number above 0"),
        (
            {"optimizer": {"lrr": 1}},
            "x.yaml:optimizer/lrr: unknown key 'lrr' in optimizer; known: lr, momentum, ",
        ),
        (
            {"optimizer": 3},
            "optimizer is 3; allowed: a mapping with the keys lr, momentum, weight_decay, nesterov",
        ),
        ({"attack.mode": "evl"}, "attack.mode is 'evl'; allowed: eval or train"),
        ({"precision": "fp8"}, "precision is 'fp8'; allowed: fp32, tf32 or bf16"),
        ({"model": "small_cn"}, "model.name is 'small_cn': unknown model; known: "),
        ({"model": "small_cn"}, "(did you mean small_cnn?)"),
        ({"augment.flip": "maybe"}, "augment.flip is 'maybe'; allowed: true or false"),
        ({"data.validation": 0.7}, "data.validation is 0.7; allowed: a number from 0 to 0.5"),
        ({"data.limit": 5}, "unknown key 'limit' in data; known: folder, label, name, size, split_seed, "),
        ({"schedule.milestones": [1, "a"]}, "schedule.milestones[1] is 'a'; allowed: a whole number"),
        ({"schedule.milestones": [1]}, "x.yaml:schedule.milestones: schedule: 1 milestones but 2 factors"),
        ({"method.objective": "tradez"}, "method.objective is 'tradez': unknown name; known: at, "),
        ({"method.objective.beta": 1}, "unknown key 'beta' in method.objective (at); known: name"),
        (
            {"method.mining": {"early_drop_step": 3}},
            "method.mining: write a name, or a mapping with a name; known: ",
        ),
        (
            {"method.objectiv": "at"},
            "unknown key 'objectiv' in method; known: averaging, calibration, mining, objective, preset",
        ),
        (
            {"method.averaging": [{"name": "ema", "decay": 2}]},
            "method.averaging[0].decay is 2; allowed: a number from 0",
        ),
        ({"method.averaging": ["ema", "ema"]}, "method.averaging: two averages share the label"),
        ({"epochs": float("inf")}, "epochs is Infinity; allowed: a whole number from 1 to 100000"),
        ({"epochs": True}, "x.yaml:epochs: epochs is true; allowed: a whole number from 1 to 100000"),
        ({"epsilon": True}, "epsilon is true; allowed: a number from 0 to 1"),
        ({"seed": True}, "seed is true; allowed: a whole number from 0, below 4294967296"),
        ({"attack.steps": True}, "attack.steps is true; allowed: a whole number from 0 to 1000"),
        (
            {"data.train_limit": True},
            "data.train_limit is true; allowed: a whole number of 1 or more or null",
        ),
        ({"schedule.milestones": [1, True]}, "schedule.milestones is [1, true]; allowed: a list, each entry"),
        ({"epochs": {}}, "epochs is {}; allowed: a whole number from 1 to 100000"),
        ({"attack.step": {}}, "attack.step is {}; allowed: a number from 0 to 1"),
        ({"schedule.milestones": {}}, "schedule.milestones is {}; allowed: a list, each entry"),
        ({"attack.step": "epsilon/0"}, "attack.step: 'epsilon/0' is no number"),
        ({"epsilon": "1e400"}, "epsilon: '1e400' is no number"),
        ({"Epochs": 3}, "x.yaml:Epochs: unknown key 'Epochs'; known: "),
        ({"epochs ": 3}, "unknown key 'epochs '; known: "),
        ({None: 3}, "unknown key 'null'; known: "),
        ({"model": {"a b": 1}}, "unknown key 'a b' in model; known: name, normalize, width"),
        ({"data": {"data": 3}}, "unknown key 'data' in data; known: folder, label, name, "),
        ({"method": ["at"]}, 'x.yaml:method: method is ["at"]; allowed: a name, for example method: at'),
        (
            {"data.train_digest": "abc"},
            "x.yaml:data.train_digest: data.train_digest is 'abc', but digests are not given by hand",
        ),
        ({"attack..step": 1}, "x.yaml:attack..step: key 'attack..step' has an empty word between its dots"),
        (
            {"data.validation": 0},
            "x.yaml:data.validation: data.validation is 0, so nothing is held out to select on",
        ),
    ],
)
def test_a_wrong_setting_is_a_sentence_with_place_key_value_and_what_is_allowed(
    settings: dict[str, Any], sentence: str
) -> None:
    found = problems({"method": "at"}, settings)
    assert len(found) == 1
    assert sentence in found[0]


def test_an_empty_mapping_does_not_hide_the_number_below_it() -> None:
    found = problems({"method": "ham-official", "epochs": 12}, {"epochs": {}})
    assert found == ("x.yaml:epochs: epochs is {}; allowed: a whole number from 1 to 100000",)


def test_an_empty_group_changes_nothing() -> None:
    below = {"method": "ham-official", "epochs": 12}
    assert trial(below, {"schedule": {}, "attack": {}, "method": {}}) == trial(below)
    assert trial({"method": "at", "epochs": 20, "schedule": {}}).schedule.milestones == (10, 15)


def test_a_boolean_field_takes_a_boolean() -> None:
    assert (
        trial({"method": "at", "augment.flip": True, "optimizer.nesterov": True}).optimizer.nesterov is True
    )


def test_wrong_settings_of_ham_are_named_by_their_whole_key() -> None:
    weight = {"measure": "softmax", "base": "x"}
    found = problems({"method": "ham-official", "method.mining": {"drop_rate": 1.5, "weight": weight}})
    allowed = "uniform, softmax_l1, logits_l1, clean_lp, margin_lp or margin_mse"
    assert found == (
        f"x.yaml:method.mining/weight/measure: method.mining.weight.measure is 'softmax'; allowed: {allowed}",
        "x.yaml:method.mining/weight/base: method.mining.weight.base is 'x'; allowed: "
        "a number or a list, each entry a mapping with the keys start_epoch, value",
        "x.yaml:method.mining/drop_rate: method.mining.drop_rate is 1.5; allowed: a number from 0 to 1",
    )


def test_all_problems_come_at_once_each_with_its_place() -> None:
    found = problems(
        {"method": "hamm", "epsilon": "x", "epochz": 3, "attack": {"steps": 2}, "method.mining": "ham"},
        data={"data": "digitz"},
    )
    text = "\n".join(found)
    for piece in (
        "x.yaml:method: unknown method 'hamm'; known: at, ",
        "x.yaml:data: unknown data set 'digitz'; known: cifar10, ",
        "x.yaml:epsilon: ",
        "x.yaml:epochz: ",
        "mining.early_drop_step is 3, but the attack has only 2 steps",
    ):
        assert piece in text
    assert len(found) == 5


def test_a_problem_between_two_settings_points_at_the_higher_one_that_it_names() -> None:
    found = problems({"method": "ham-official", "method.mining.early_drop_step": 5}, {"attack.steps": 4})
    assert found[0].startswith(
        "x.yaml:attack.steps: mining.early_drop_step is 5, but the attack has only 4 steps"
    )


def test_no_method_and_no_data_are_said() -> None:
    text = "\n".join(problems({}, data={}))
    assert "no method; write for example method: at; known: at, " in text
    assert "data names no images; write for example data: digits, or a folder; known: cifar10, " in text


def test_a_missing_folder_is_a_sentence() -> None:
    found = problems({"method": "at"}, data={"data": "/no/such/folder"})
    assert len(found) == 1
    assert "there is no folder /no/such/folder" in found[0]


def test_a_key_given_nested_and_dotted_in_one_layer_is_refused() -> None:
    found = problems({"method": "at", "attack.step": 0.1, "attack": {"step": 0.2}})
    assert found == (
        "x.yaml:attack/step: attack.step is given twice (first at x.yaml:attack.step); keep one",
    )


# TRIAL.yaml ------------------------------------------------------------------------------------------------------


def write(folder: Path, text: str) -> str:
    path = folder / "trial.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_trial_file_has_the_keys_of_a_trial_and_takes_sets(tmp_path: Path) -> None:
    path = write(tmp_path, "method: ham-official\ndata: digits\nepochs: 12\nselection: {on: test}\n")
    found = load_trial(path, ["epsilon=8/255", "trial.attack.steps=7", "method.mining.weight=softmax_l1"])
    assert (found.trial.epsilon, found.trial.attack.steps, found.trial.selection.on) == (8 / 255, 7, "test")
    assert found.trial.method.mining.weight.measure == "softmax_l1"
    assert found.origins["epochs"] == f"{path}:3"
    assert found.origins["epsilon"] == "--set"


def test_a_trial_file_may_hold_mining_that_never_starts(tmp_path: Path) -> None:
    path = write(
        tmp_path, "method: {preset: ham-official, mining: {start_epoch: 99}}\ndata: digits\nepochs: 2\n"
    )
    assert len(idle_parts(load_trial(path).trial)) == 1


def test_problems_of_a_trial_file_and_of_sets_come_together(tmp_path: Path) -> None:
    path = write(tmp_path, "method: at\ndata: digits\nepsilon: x\n")
    with pytest.raises(RequestError) as caught:
        load_trial(path, ["seed", "epochs=a", "batch_size="])
    assert caught.value.problems == (
        "--set seed: is no setting; write --set key=value, for example --set epochs=3",
        "--set batch_size=: has no value; write --set batch_size=VALUE, or batch_size=null for none",
        f"{path}:3: epsilon: 'x' is no number; write for example 8/255 or 0.031",
        "--set epochs=a: epochs is 'a'; allowed: a whole number from 1 to 100000",
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("method: at\n<<: {epochs: 2}\n", "2: the merge key << is not supported; write its keys out"),
        ("data: &a {name: *a}\n", "1: the anchor here contains itself; write its value out"),
        ("[" * 5000, " is nested too deeply; allowed: 50 levels"),
        ("{a: " * 60 + "1" + "}" * 60, "1: is nested too deeply; allowed: 50 levels"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + "".join(
                f"{n}: &{n} [{', '.join(f'*{m}' for _ in range(10))}]\n"
                for m, n in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            " holds more than 200000 values",
        ),
        ("=: 3\n", "1: '=' cannot be a key; write a plain word"),
        ("2020-13-45: 3\n", "1: '2020-13-45' cannot be a key; write a plain word"),
        ("[a]: 3\n", "1: a list or mapping cannot be a key; write a plain word"),
        ("epochs: !!bool maybe\n", "1: value 'maybe' cannot be read"),
    ],
)
def test_yaml_that_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RequestError) as caught:
        load_trial(path)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"{path}:{sentence}")


def test_a_trial_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="a trial is a mapping of settings"):
        load_trial(write(tmp_path, "- at\n"))


# parts in parts --------------------------------------------------------------------------------------------------


def test_the_base_of_an_objective_has_a_short_form_and_higher_layers_reach_into_it() -> None:
    below = {"method": {"objective": {"name": "awp", "base": "trades"}}}
    assert trial(below).method.objective.base.model_dump(mode="json")["name"] == "trades"
    found = trial(below, {"method.objective.base.beta": 3}).method.objective
    assert (found.name, found.base.name, found.base.beta) == ("awp", "trades", 3.0)
    whole = {"method": {"objective": {"name": "awp", "base": {"name": "trades", "beta": 3}}}}
    assert trial(whole) == trial(below, {"method.objective.base.beta": 3})
    assert trial(whole, {"method.objective.gamma": 0.5}).method.objective.base.beta == 3.0


def test_a_base_of_another_name_leaves_nothing_of_the_one_below() -> None:
    inner = {"name": "awp", "gamma": 0.5, "base": {"name": "trades", "beta": 3}}
    below = {"method": {"objective": {"name": "faal", "base": inner}}}
    assert trial(below, {"method.objective.base.base": "at"}).method.objective.base.gamma == 0.5
    assert trial(below, {"method.objective.base.base": "mart"}).method.objective.base.base.name == "mart"
    assert trial(below, {"method.objective.base": "trades"}).method.objective.base.beta == 6.0
    assert trial(below, {"method.objective.base.name": "awp"}).method.objective.base.gamma == 0.5
    assert trial(below, {"method.objective": "trades"}).method.objective.beta == 6.0


def test_start_epochs_of_wrapped_objectives_scale() -> None:
    inner = {"name": "awp", "start_epoch": 40, "base": "trades"}
    below = {"method": {"objective": {"name": "faal", "base": inner}}, "epochs": 80}
    found = resolved(below, {"epochs": 8})
    assert found.trial.method.objective.base.start_epoch == 4
    assert found.label == "faal+awp+trades"
    idle = resolved({**below, "epochs": 40}).idle()
    assert len(idle) == 1
    assert "method.objective.base.start_epoch is 40, so 'awp' never becomes active" in idle[0]


def test_the_start_point_of_a_recipe_belongs_to_the_innermost_objective() -> None:
    wrapped = {"method": "ham-official", "method.objective": {"name": "awp", "base": "at"}}
    assert trial({"method": "ham-official"}).attack.start == "uniform"
    assert trial(wrapped).attack.start == "uniform"
    assert trial(wrapped, {"method.objective.base": "trades"}).attack.start == "gaussian"
    own = {"method": {"objective": "trades"}, "attack.start": "zero"}
    assert trial(own, {"method.objective": {"name": "awp", "base": "trades"}}).attack.start == "zero"


def test_the_label_tells_an_exchanged_base() -> None:
    assert resolved({"method": "trades-awp"}).label == "trades-awp"
    assert resolved({"method": "trades-awp", "method.objective.base": "at"}).label == "trades-awp+at"
    assert resolved({"method": "trades-awp", "method.objective.base": "at"}).title.endswith(" + at")


def test_settings_that_the_objective_fixes_say_so() -> None:
    found = resolved({"method": {"objective": "standard"}, "attack.steps": 3})
    assert found.trial.attack.steps == 0
    assert found.origins["attack.steps"] == "objective standard"
    assert found.origins["attack.mode"] == "default"


# schedules -------------------------------------------------------------------------------------------------------


def test_points_of_a_line_scale_exactly_and_jumps_to_whole_epochs() -> None:
    line = {"shape": "linear", "milestones": [0, 7.5, 15], "factors": [0, 1, 0]}
    found = trial({"method": "at", "epochs": 15, "schedule": line}, {"epochs": 6}).schedule.milestones
    assert found == (0, 3, 6)
    assert [type(one) for one in found] == [int, int, int]
    assert trial({"method": "at", "epochs": 15, "schedule": line}, {"epochs": 5}).schedule.milestones == (
        0,
        2.5,
        5,
    )
    cosine = {**line, "shape": "cosine"}
    assert trial({"method": "at", "epochs": 15, "schedule": cosine}, {"epochs": 4}).schedule.milestones == (
        0,
        2,
        4,
    )
    step = {"milestones": [7.5, 12], "factors": [1, 0]}
    assert trial({"method": "at", "epochs": 15, "schedule": step}, {"epochs": 5}).schedule.milestones == (
        3,
        4,
    )
    assert trial(
        {"method": {"objective": "at"}, "epochs": 15, "schedule.shape": "linear"}
    ).schedule.milestones == (
        7.5,
        11.25,
    )


def test_default_start_epochs_of_averages_scale_in_a_list_too() -> None:
    for averaging in ("fawa", ["ema", "fawa"], ["ema", {"name": "fawa"}], {"name": "fawa"}):
        found = trial({"method": "at", "method.averaging": averaging, "epochs": 20}).method.averaging
        assert [one.start_epoch for one in found if one.name == "fawa"] == [5], "50 of 200"
    own = {"method": "at", "method.averaging": ["ema", {"name": "fawa", "start_epoch": 3}], "epochs": 20}
    assert trial(own).method.averaging[1].start_epoch == 3


def test_a_schedule_of_a_part_scales() -> None:
    tau = [{"start_epoch": 50, "value": 1}, {"start_epoch": 90, "value": 2}]
    below = {"method": {"objective": {"name": "fat", "tau": tau}}, "epochs": 100}
    assert [one.start_epoch for one in trial(below, {"epochs": 10}).method.objective.tau] == [5, 9]
