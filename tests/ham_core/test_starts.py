"""Trials that start from other trials, or ask them: from YAML to weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ham_core import layers, presets, resolve
from ham_core.config import Trial, fingerprint, flatten
from ham_core.errors import RequestError
from ham_core.folder import TrialFolder
from ham_core.resolve import Layer, Leaf, Resolved
from ham_core.run import run_trial
from ham_core.starts import fitted, joined, label_of, needs_of, with_needed

DIGITS = {"data": "digits"}
SMALL = {
    "data": {"name": "digits", "train_limit": 200, "test_limit": 60},
    "model": {"name": "small_cnn", "width": 0.5},
    "epsilon": 0.2,
    "attack": {"step": 0.05, "steps": 3, "mode": "eval"},
    "augment.padding": "zeros",
    "batch_size": 64,
    "selection.steps": 2,
}


def layer(settings: dict[str, Any], name: str = "x.yaml", origin: str = "") -> Layer:
    """A layer whose places are `x.yaml:key/key`."""
    return Layer(origin, settings, lambda written: f"{name}:{'/'.join(map(str, written))}")


def resolved(*settings: dict[str, Any]) -> Resolved:
    return resolve.resolve([layer(DIGITS, "data"), *(layer(one) for one in settings)])


def trial(*settings: dict[str, Any]) -> Trial:
    return resolved(*settings).trial


def start(*settings: dict[str, Any]) -> Trial:
    """The trial that the resolved one starts from."""
    found = trial(*settings).start_from
    assert found is not None
    return found.trial


def problems(*settings: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(RequestError) as caught:
        resolved(*settings)
    return caught.value.problems


@pytest.fixture
def write_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """write_presets(name="recipe in YAML flow style", ...): presets of AT besides `at` and `trades`."""

    def write(**recipes: str) -> None:
        for name in ("at", "trades"):
            (tmp_path / f"{name}.yaml").write_text((folder / f"{name}.yaml").read_text(encoding="utf-8"))
        for name, recipe in recipes.items():
            text = f"title: T\nsource: S\nmethod: {{objective: at}}\nrecipe: {recipe}\n"
            (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
        monkeypatch.setattr(presets, "FOLDER", tmp_path)
        forget()

    def forget() -> None:
        for cached in (presets.load_preset, resolve.preset_layer, resolve._preset_parts):
            cached.cache_clear()

    folder = presets.FOLDER
    yield write
    monkeypatch.undo()
    forget()


# the innermost objective -----------------------------------------------------------------------------------------


def test_the_start_point_of_a_preset_stays_as_long_as_the_innermost_objective_does(
    write_presets: Callable[..., None],
) -> None:
    write_presets(zero="{attack.start: zero}")
    wrapped = {"method": "zero", "method.objective": {"name": "awp", "base": "at"}}
    assert trial(wrapped).attack.start == "zero"
    assert trial(wrapped, {"method.objective.base": "trades"}).attack.start == "gaussian"
    assert trial({"method": "zero", "method.objective": "trades"}).attack.start == "gaussian"


def test_default_start_epochs_of_a_wrapped_objective_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        layers, "_epoch_defaults", lambda kind, name: {"start_epoch": 100} if name == "awp" else {}
    )
    found = trial({"method": {"objective": {"name": "faal", "base": "awp"}}, "epochs": 10})
    assert found.method.objective.base.start_epoch == 5


# weights of another trial ----------------------------------------------------------------------------------------


def test_the_start_is_the_trial_of_its_method_in_the_same_layers() -> None:
    common = {"epochs": 12, "epsilon": 0.2, "batch_size": 64, "data.validation": 0.2, "model.normalize": True}
    common |= {"augment.padding": "zeros"}
    for method in ("at", "trades", "ham-official"):
        row = trial(common, {"method": method})
        assert start(common, {"method": "at", "start_from": method}) == row
        assert fingerprint(start(common, {"method": "at", "start_from": {"method": method}})) == fingerprint(
            row
        )


def test_a_preset_hands_on_the_conditions_of_the_experiment_and_nothing_else_of_its_recipe(
    write_presets: Callable[..., None],
) -> None:
    write_presets(
        user="{data.validation: 0.2, data.split_seed: 3, model.normalize: true, epsilon: 0.1, precision: tf32, "
        "augment.padding: reflect, selection.steps: 3, attack.steps: 7, epochs: 30, batch_size: 17, optimizer.lr: 0.5, "
        "schedule: {milestones: [], factors: []}, start_from: {method: trades, optimizer.momentum: 0.3}}"
    )
    found, alone = start({"method": "user"}), trial({"method": "trades"})
    assert (found.data.validation, found.data.split_seed, found.model.normalize) == (0.2, 3, True)
    assert (found.epsilon, found.precision, found.augment.padding) == (0.1, "tf32", "reflect")
    assert found.selection.steps == 3
    assert found.optimizer == alone.optimizer.model_copy(update={"momentum": 0.3})
    assert (found.attack, found.epochs, found.batch_size) == (alone.attack, alone.epochs, alone.batch_size)
    assert (found.schedule, found.method) == (alone.schedule, alone.method)


def test_what_a_layer_says_of_the_start_wins_over_what_it_says_of_the_trial_and_loses_to_higher_layers() -> (
    None
):
    below = {
        "method": "at",
        "epochs": 12,
        "optimizer.lr": 0.3,
        "start_from": {"method": "trades", "epochs": 6},
    }
    found = start(below)
    assert (found.epochs, found.optimizer.lr, found.schedule.milestones) == (6, 0.3, (6,))
    assert start(below, {"epochs": 3}).epochs == 3
    assert start(below, {"start_from.epochs": 9}, {"batch_size": 5}).epochs == 9
    assert trial(below, {"start_from.epochs": 9}).epochs == 12


def test_epochs_of_the_layer_itself_are_not_meant_for_the_length_of_its_start() -> None:
    """Milestones 6 of 12 epochs become 3 of 6."""
    own = {"epochs": 12, "schedule": {"milestones": [6], "factors": [0.5]}}
    found = trial({"method": "at", **own, "start_from": {"method": "trades", "epochs": 6}})
    assert found.schedule.milestones == (6,)
    assert found.start_from is not None
    assert found.start_from.trial.schedule.milestones == (3,)


def test_the_held_out_images_the_network_and_the_seed_are_those_of_the_trial() -> None:
    """The preset trades would have an unnormalised network."""
    method = {
        "method": {"objective": "at"},
        "seed": 4,
        "data.validation": 0.3,
        "data.split_seed": 2,
        "epochs": 2,
    }
    found = start(method, {"start_from": "trades"})
    assert trial({"method": "trades"}).model.normalize is False
    assert (found.model.normalize, found.seed, found.data.validation, found.data.split_seed) == (
        True,
        4,
        0.3,
        2,
    )


def test_short_forms_dotted_keys_and_the_resolved_form_are_the_same() -> None:
    short = trial({"method": "at", "start_from": "trades"})
    assert short == trial({"method": "at", "start_from": {"method": "trades"}})
    assert short == trial({"method": "at", "start_from.method": "trades"})
    assert short == trial({"method": "at", "start_from": {"trial": {"method": {"preset": "trades"}}}})
    assert short.start_from is not None
    assert short.start_from.weights == "best"
    nested = {
        "method": "at",
        "start_from": {"method": {"objective": "at", "mining": "ham"}, "model": "small_cnn"},
    }
    assert start(nested, {"model": "small_cnn"}).method.mining is not None


def test_none_takes_a_start_away_and_a_later_layer_may_ask_again() -> None:
    below = {"method": "at", "start_from": {"method": "trades", "epochs": 5}}
    for none in ("none", None):
        found = resolved(below, {"start_from": none})
        assert found.trial.start_from is None
        assert found.origins["start_from"] == "x.yaml:start_from"
        assert start(below, {"start_from": none}, {"start_from": "trades"}).epochs == 76
    assert resolved({"method": "at"}).origins["start_from"] == "default"


def test_an_empty_group_changes_no_start() -> None:
    below = {"method": "at", "start_from": {"method": "trades", "epochs": 5}}
    assert trial(below, {"start_from": {}}) == trial(below)
    assert trial({"method": "at", "start_from": {}}) == trial({"method": "at"})


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "at", "epochs": 12, "start_from": {"method": "trades", "weights": "last", "seed": 3}},
        {"method": "ham-official", "epochs": 12, "start_from": {"epochs": 5, "weights": "state"}},
        {"method": "hat", "epochs": 12, "seed": 2},
        {
            "method": "at",
            "start_from": {"method": "at", "seed": 2, "start_from": {"method": "trades", "epochs": 3}},
        },
    ],
)
def test_a_resolved_trial_is_read_back_as_it_is(settings: dict[str, Any]) -> None:
    found = trial(settings)
    assert trial(found.model_dump(mode="json")) == found
    assert fingerprint(Trial.model_validate(found.model_dump(mode="json"))) == fingerprint(found)


def test_starts_start_from_others_in_turn() -> None:
    inner = {"method": "trades", "epochs": 3, "start_from.epochs": 2, "start_from.method": "ham-official"}
    found = trial({"method": "at", "epochs": 9, "start_from": inner})
    assert found.start_from is not None and found.start_from.trial.start_from is not None
    second = found.start_from.trial.start_from.trial
    assert (found.epochs, found.start_from.trial.epochs, second.epochs) == (9, 3, 2)
    assert second.method.mining is not None
    assert second.start_from is None


def test_an_unasked_helper_is_left_out() -> None:
    grid = {"helper": {"method": "standard", "weights": "last"}}
    assert trial(grid, {"method": "at"}).helper is None
    assert trial(grid, {"method": "hat"}).helper is not None
    assert trial({"method": "hat", "method.objective": "trades"}).helper is None


# the state of another trial --------------------------------------------------------------------------------------


def test_a_warm_up_is_the_trial_itself_by_another_method_and_shorter() -> None:
    settings = {"method": "ham-official", "epochs": 120, "optimizer.lr": 0.3, "batch_size": 64}
    found = trial(settings, {"start_from": {"method": "at", "epochs": 48, "weights": "state"}})
    assert found.start_from is not None
    warm = found.start_from.trial
    assert (warm.epochs, warm.method.objective.name, warm.method.mining) == (48, "at", None)
    expected = trial(settings)
    method = expected.method.model_copy(update={"mining": None})
    assert warm == expected.model_copy(update={"method": method, "epochs": 48})
    assert trial(settings, {"start_from": {"epochs": 48, "weights": "state"}}) == found, "AT is what it means"


def test_the_epochs_of_a_warm_up_count_in_the_length_of_the_whole_training() -> None:
    below = {"method": "ham-official", "epochs": 120, "start_from": {"epochs": 48, "weights": "state"}}
    found = resolved(below, {"epochs": 12})
    assert found.trial.start_from is not None
    assert found.trial.start_from.trial.epochs == 5
    assert found.trial.start_from.trial.schedule == found.trial.schedule
    assert (
        found.origins["start_from.trial.epochs"] == "x.yaml:start_from/epochs, scaled from 120 to 12 epochs"
    )
    short = {**below, "start_from": {"epochs": 1, "weights": "state"}}
    assert start(short, {"epochs": 12}).epochs == 1
    long = {**below, "start_from": {"epochs": 119, "weights": "state"}}
    assert start(long, {"epochs": 12}).epochs == 11
    assert start(below, {"epochs": 12, "start_from.epochs": 7}).epochs == 7


def test_the_parts_of_a_warm_ups_preset_scale_with_the_whole_training() -> None:
    warm = {"method": "ham-official", "epochs": 8, "weights": "state"}
    mining = start({"method": "at", "epochs": 12, "start_from": warm}).method.mining
    assert mining is not None
    assert mining.start_epoch == 5, "49 of 120"
    found = start({"method": {"objective": "at"}, "start_from": {**warm, "epochs": 100}})
    assert found.method.mining is not None
    assert found.method.mining.start_epoch == 82, "49 of 120 in the default length, 200"


def test_the_warm_ups_attack_starts_where_the_trials_does() -> None:
    warm = {"epochs": 3, "weights": "state"}
    assert start({"method": "trades", "start_from": warm}).attack.start == "gaussian"
    assert (
        start({"method": {"objective": "trades"}, "epochs": 9, "start_from": warm}).attack.start == "gaussian"
    )
    assert start({"method": "trades", "attack.start": "zero", "start_from": warm}).attack.start == "zero"
    own = {**warm, "attack.start": "uniform"}
    assert start({"method": "trades", "start_from": own}).attack.start == "uniform"


# seeds and origins -----------------------------------------------------------------------------------------------


def test_starts_follow_the_seed_unless_they_have_their_own() -> None:
    inner = {"method": "trades", "start_from": {"method": "at", "seed": 7}}
    found = resolved({"method": "at", "start_from": inner}).seeded(Leaf(3, "seeds", "y:1"))
    first = found.trial.start_from
    assert first is not None and first.trial.start_from is not None
    assert (found.trial.seed, first.trial.seed, first.trial.start_from.trial.seed) == (3, 3, 7)
    assert found.sources["start_from"].trial == first.trial
    assert found.origins["start_from.trial.seed"] == "seeds"
    assert found.origins["start_from.trial.start_from.trial.seed"] == "x.yaml:start_from/start_from/seed"
    shared = resolved({"method": "at", "start_from": {"method": "trades", "seed": 5}}, {"seed": 2})
    shared = shared.seeded(Leaf(3, "seeds", "y:1"))
    assert shared.trial.start_from is not None
    assert shared.trial.start_from.trial.seed == 5


def test_every_setting_of_a_start_has_its_origin() -> None:
    given = {"method": "trades", "epochs": 6, "weights": "last"}
    found = resolved(
        {"method": "at", "epochs": 12, "optimizer.lr": 0.3, "start_from": given}, {"batch_size": 8}
    )
    assert found.origins.keys() == flatten(found.trial.model_dump(mode="json")).keys()
    assert found.origins["start_from.trial.epochs"] == "x.yaml:start_from/epochs"
    assert found.origins["start_from.trial.optimizer.lr"] == "x.yaml:optimizer.lr"
    assert found.origins["start_from.trial.batch_size"] == "x.yaml:batch_size"
    assert found.origins["start_from.trial.attack.step"] == "preset trades"
    assert (
        found.origins["start_from.trial.schedule.milestones"] == "preset trades, scaled from 76 to 6 epochs"
    )
    assert found.origins["start_from.weights"] == "x.yaml:start_from/weights"
    assert found.place("start_from.trial.epochs") == "x.yaml:start_from/epochs"
    assert resolved({"method": "at", "start_from": "trades"}).origins["start_from.weights"] == "default"


def test_parts_of_a_start_that_never_begin_are_named_and_those_of_a_warm_up_are_not() -> None:
    ham = {"method": "ham-official", "epochs": 4, "method.mining.start_epoch": 4}
    (sentence,) = resolved({"method": "at", "start_from": ham}).idle()
    assert sentence.startswith(
        "x.yaml:start_from/method.mining.start_epoch: start_from: method.mining.start_epoch is 4"
    )
    warm = {"method": "ham-official", "epochs": 4, "weights": "state"}
    assert resolved({"method": "at", "epochs": 12, "start_from": warm}).idle() == []


def test_how_an_average_that_is_begun_with_averages_is_in_the_fingerprint() -> None:
    def one(weights: str, decay: float) -> str:
        given = {"method": "trades", "method.averaging": {"name": "ema", "decay": decay}, "weights": weights}
        return fingerprint(trial({"method": "at", "start_from": given}))

    assert one("best_ema", 0.9) != one("best_ema", 0.99)
    assert one("best", 0.9) == one("best", 0.99)


# sentences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"start_from": "tradez"}, "x.yaml:start_from: start_from: unknown method 'tradez'; known: at, "),
        (
            {"start_from": 3},
            "x.yaml:start_from: start_from is 3; allowed: a method, or a mapping of the other",
        ),
        ({"start_from": ["at"]}, 'x.yaml:start_from: start_from is ["at"]; allowed: a method, or a mapping'),
        (
            {"start_from.epochs": 3},
            "x.yaml:start_from.epochs: start_from: no method; write for example method: at",
        ),
        (
            {"start_from": {"method": 3}},
            "x.yaml:start_from/method: start_from: method is 3; allowed: a name, for",
        ),
        (
            {"start_from": {"method": "at", "epochs": "many"}},
            "x.yaml:start_from/epochs: start_from: epochs is 'many'; allowed: a whole number from 1 to 100000",
        ),
        (
            {"start_from": {"method": "at", "weigths": "last"}},
            "x.yaml:start_from/weigths: unknown key 'weigths' in start_from; known: attack, ",
        ),
        ({"start_from": {"method": "at", "weigths": "last"}}, "(did you mean weights?)"),
        (
            {"start_from": {"method": "at", "optimizer.lrr": 1}},
            "x.yaml:start_from/optimizer.lrr: start_from: unknown key 'lrr' in optimizer; known: lr, ",
        ),
        (
            {"start_from": {"method": "at", "weights": "bst"}},
            "x.yaml:start_from/weights: start_from.weights is 'bst'; known: best, best_ema, best_sum, best_sum_ema, "
            "best_worst, best_worst_ema, last, last_ema, state (did you mean best?)",
        ),
        ({"start_from": {"method": "at", "weights": 3}}, "start_from.weights is 3; known: best, best_ema, "),
        (
            {"start_from": {"method": "at", "method.averaging": "none", "weights": "best_ema"}},
            "start_from.weights is 'best_ema'; known: best, best_sum, best_worst, last, state",
        ),
        (
            {"start_from": {"weights": "state"}},
            "x.yaml:start_from/weights: start_from.epochs is missing: after how many of the 200 epochs the state is "
            "taken; allowed: a whole number from 1 to 199",
        ),
        (
            {"epochs": 9, "start_from": {"weights": "state", "epochs": 9}},
            "start_from.epochs is 9, but the training it is continued to has only 9 epochs in all; give fewer",
        ),
        (
            {"start_from": {"weights": "state", "epochs": 0}},
            "x.yaml:start_from/epochs: start_from: epochs is 0; allowed: a whole number from 1 to 100000",
        ),
        (
            {"start_from": {"method": "at", "data.validation": 0.3}},
            "x.yaml:start_from/data.validation: start_from.data.validation is 0.3, but here it is 0.1",
        ),
        (
            {"start_from": {"method": "at", "data.split_seed": 3}},
            "x.yaml:start_from/data.split_seed: start_from.data.split_seed is 3, but here it is 0",
        ),
        (
            {"start_from": {"method": "at", "model.width": 0.5}},
            "start_from: the other trial has another network, whose weights do not fit; give both the same model",
        ),
        (
            {"method.objective": "hat"},
            "x.yaml:method.objective: helper is missing, and the objective hat asks one; write for example helper: "
            "{method: standard}",
        ),
        (
            {"method": "hat", "helper.weights": "state"},
            "x.yaml:helper.weights: helper.weights is state, but a helper is a finished network; write best or last",
        ),
        (
            {"method": "hat", "helper": "standart"},
            "x.yaml:helper: helper: unknown method 'standart'; known: at, ",
        ),
        (
            {"method": "hat", "helper.weights": "beast"},
            "x.yaml:helper.weights: helper.weights is 'beast'; known: best, ",
        ),
    ],
)
def test_a_wrong_start_is_one_sentence_with_its_place(settings: dict[str, Any], sentence: str) -> None:
    found = problems({"method": "at"}, settings)
    assert len(found) == 1, found
    assert sentence in found[0]


def test_what_is_wrong_with_a_trial_is_not_said_again_of_its_start() -> None:
    wrong = {
        "method": "at",
        "epsilon": "x",
        "start_from": {"method": "trades", "epochs": "many", "batch_size": 0},
    }
    assert problems(wrong) == (
        "x.yaml:epsilon: epsilon: 'x' is no number; write for example 8/255 or 0.031",
        "x.yaml:start_from/epochs: start_from: epochs is 'many'; allowed: a whole number from 1 to 100000",
        "x.yaml:start_from/batch_size: start_from: batch_size is 0; allowed: a whole number of 1 or more",
    )
    with pytest.raises(RequestError) as caught:
        resolve.resolve([layer({"method": "at", "start_from": "trades"})])
    assert len(caught.value.problems) == 1


def test_presets_that_start_from_one_another_in_a_circle_are_a_sentence(
    write_presets: Callable[..., None],
) -> None:
    write_presets(
        a="{start_from: b}", b="{start_from: c}", c="{start_from: b}", itself="{start_from: itself}"
    )
    (sentence,) = problems({"method": "a"})
    assert sentence.endswith(
        "the presets b -> c -> b start from one another in a circle; name another method, or none"
    )
    assert sentence.startswith("presets/c.yaml:4: ")
    assert "itself -> itself" in problems({"method": "itself"})[0]
    assert "b -> c -> b" in problems({"method": "a", "start_from.epochs": 3})[0]
    assert trial({"method": "itself", "start_from": "none"}).start_from is None
    assert start({"method": "itself", "start_from": {"method": "at"}}).start_from is None


# what is trained -------------------------------------------------------------------------------------------------


def test_a_trial_is_called_by_its_parts() -> None:
    assert label_of(trial({"method": "ham-official"})) == "at+ham"
    assert label_of(trial({"method": "trades-awp"})) == "awp+trades"


def test_two_uses_of_a_training_join_their_averages() -> None:
    first = trial({"method": "at", "method.averaging": {"name": "ema", "decay": 0.5}})
    second = trial({"method": "at", "method.averaging": ["ema", {"name": "ema", "label": "slow"}]})
    keys = [(one.key, one.decay) for one in joined(first, second).method.averaging]
    assert keys == [("ema", 0.5), ("slow", 0.995)]
    assert joined(first, first) is first


def test_a_needed_training_keeps_what_is_asked_and_what_is_there() -> None:
    found = trial({"method": "at", "method.averaging": ["ema", {"name": "ema", "label": "slow"}]})
    assert fitted(found, frozenset(), None) == found
    assert fitted(found, frozenset(), ()).method.averaging == ()
    assert [one.key for one in fitted(found, frozenset({"slow"}), ()).method.averaging] == ["slow"]
    kept = [found.method.averaging[0].model_dump(mode="json")]
    assert [one.key for one in fitted(found, frozenset(), kept).method.averaging] == ["ema"]


def small(*settings: dict[str, Any]) -> Trial:
    return resolve.resolve([layer(SMALL), *(layer(one) for one in settings)]).trial


def train(one: Trial, store: Path) -> TrialFolder:
    """The trial, and before it those that it needs, in order."""
    for identity, (found, _) in with_needed({fingerprint(one): (one, "it")}, store).items():
        list(run_trial(found, TrialFolder.of(store, identity), device="cpu"))
    return TrialFolder.of(store, one)


def journal(folder: TrialFolder) -> list[dict[str, float]]:
    """Its metrics without those that tell seconds."""
    return [
        {key: value for key, value in record["metrics"].items() if not key.startswith("time/")}
        for record in folder.journal()
    ]


def assert_same(first: TrialFolder, second: TrialFolder) -> None:
    assert journal(first) == journal(second)
    assert first.weight_names() == second.weight_names()
    for name in first.weight_names():
        ours, theirs = first.weights(name), second.weights(name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name


HAM = {
    "method": "ham-official",
    "epochs": 4,
    "method.mining.start_epoch": 3,
    "method.mining.early_drop_step": 1,
}
WARM = {"start_from": {"method": "at", "epochs": 2, "weights": "state"}}


def test_a_shared_warm_up_is_bit_identical_to_training_it_again(tmp_path: Path) -> None:
    alone, warmed = small(HAM), small(HAM, WARM)
    assert fingerprint(alone) != fingerprint(warmed)
    assert_same(train(alone, tmp_path / "alone"), train(warmed, tmp_path / "warmed"))
    assert len(list((tmp_path / "warmed" / "trials").iterdir())) == 2


def test_a_trial_killed_between_warm_up_and_its_own_epochs_continues(tmp_path: Path) -> None:
    warmed = small(HAM, WARM)
    whole = train(warmed, tmp_path / "whole")
    store = tmp_path / "parts"
    assert warmed.start_from is not None
    list(run_trial(warmed.start_from.trial, TrialFolder.of(store, warmed.start_from.trial), device="cpu"))
    folder = TrialFolder.of(store, warmed)
    for event in run_trial(warmed, folder, device="cpu"):
        assert (event.kind, event.epoch) == ("epoch", 2)
        break
    assert folder.epochs_done() == 3
    (
        folder.path / "checkpoint.pt"
    ).unlink()  # as if it had been killed before the first of its own epochs was kept
    text = (folder.path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder.path / "journal.jsonl").write_bytes(b"".join(text[:1]))
    assert_same(whole, train(warmed, store))


def test_a_fine_tuning_begins_with_exactly_the_weights_that_were_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"method": "trades", "epochs": 2, "weights": "best_ema"}
    one = small({"method": "at", "epochs": 1, "start_from": given})
    began: list[dict[str, torch.Tensor]] = []
    before = run_trial.__globals__["Training"]

    class Seen(before):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            began.append({key: value.clone() for key, value in self.model.state_dict().items()})

    monkeypatch.setitem(run_trial.__globals__, "Training", Seen)
    train(one, tmp_path)
    assert one.start_from is not None
    kept = TrialFolder.of(tmp_path, one.start_from.trial).weights("best_ema")
    assert len(began) == 2
    assert all(torch.equal(began[1][key], kept[key]) for key in kept)
    assert not all(torch.equal(began[0][key], kept[key]) for key in kept)
    assert journal(TrialFolder.of(tmp_path, one))[0]


def test_what_a_trained_trial_needed_is_not_asked_for_again(tmp_path: Path) -> None:
    one = small({"method": "at", "epochs": 1, "start_from": {"method": "trades", "epochs": 1}})
    identity, (other,) = fingerprint(one), needs_of(one)
    asked = {identity: (one, "it")}
    assert list(with_needed(asked, tmp_path)) == [other, identity]
    assert with_needed(asked, tmp_path)[other][1] == "trades (start of it)"
    folder = TrialFolder.of(tmp_path, one)
    folder.create(one)
    folder.finish({"epochs": 1})
    assert list(with_needed(asked, tmp_path)) == [identity]


def test_a_needed_trial_that_is_asked_for_as_well_keeps_the_averages_of_both(tmp_path: Path) -> None:
    given = {"method": "trades", "method.averaging": {"name": "ema", "label": "slow"}, "weights": "best_slow"}
    one = small({"method": "at", "epochs": 1, "start_from": given})
    other = small({"method": "trades", "epochs": 1, "model.normalize": True})
    assert needs_of(one) == (fingerprint(other),)
    asked = {fingerprint(one): (one, "it"), fingerprint(other): (other, "other")}
    found = with_needed(asked, tmp_path)
    assert list(found) == [fingerprint(other), fingerprint(one)]
    trained, name = found[fingerprint(other)]
    assert (name, [average.key for average in trained.method.averaging]) == ("other", ["ema", "slow"])
