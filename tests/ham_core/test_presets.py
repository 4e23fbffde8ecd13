"""Published methods by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ham_core import presets
from ham_core.config import Trial, fingerprint, flatten
from ham_core.errors import RequestError
from ham_core.presets import load_preset, names
from ham_core.resolve import Layer, Resolved, resolve

ZJF = {"epochs": 120, "lr": 0.1, "milestones": (59, 89, 109), "factors": (0.1, 0.01, 0.005), "wd": 2e-4}


def resolved(name: str) -> Resolved:
    return resolve([Layer("", {"method": name, "data": "digits"}, lambda _: "x.yaml:1")])


def recipe(trial: Trial) -> dict[str, Any]:
    return {
        "epochs": trial.epochs,
        "lr": trial.optimizer.lr,
        "milestones": trial.schedule.milestones,
        "factors": trial.schedule.factors,
        "wd": trial.optimizer.weight_decay,
    }


def test_the_published_methods_are_there() -> None:
    assert {"at", "trades", "ham-official", "ham-paper", "drop-overconfident"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_every_preset_makes_a_trial_with_a_title_and_a_source(name: str) -> None:
    found = resolved(name)
    assert found.label == name
    assert found.title == load_preset(name).title
    assert load_preset(name).source
    assert found.origins["epochs"] == f"preset {name}"
    assert found.idle() == []


@pytest.mark.parametrize("path", sorted(presets.FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_file_says_where_code_and_paper_differ(path: Path) -> None:
    assert "# Official code and paper differ:" in path.read_text(encoding="utf-8")


def test_at_is_the_reference_recipe_of_rice_et_al() -> None:
    trial = resolved("at").trial
    assert recipe(trial) == {
        "epochs": 200,
        "lr": 0.1,
        "milestones": (100, 150),
        "factors": (0.1, 0.01),
        "wd": 5e-4,
    }
    assert (trial.epsilon, trial.attack.step, trial.attack.steps) == (8 / 255, 2 / 255, 10)
    assert (trial.attack.mode, trial.attack.start, trial.augment.padding) == ("train", "uniform", "reflect")


def test_trades_starts_from_a_gaussian_with_beta_6_and_drops_its_rate_at_epoch_75_counted_from_1() -> None:
    trial = resolved("trades").trial
    assert recipe(trial) == {"epochs": 76, "lr": 0.1, "milestones": (74,), "factors": (0.1,), "wd": 2e-4}
    assert (trial.epsilon, trial.attack.step, trial.attack.mode, trial.attack.start) == (
        0.031,
        0.007,
        "eval",
        "gaussian",
    )
    assert trial.method.objective.beta == 6.0
    assert trial.model.normalize is False


@pytest.mark.parametrize("name", ["ham-official", "ham-paper", "drop-overconfident"])
def test_ham_has_the_recipe_of_its_code(name: str) -> None:
    trial = resolved(name).trial
    assert recipe(trial) == ZJF
    assert trial.batch_size == 128
    assert (trial.epsilon, trial.attack.step, trial.attack.steps) == (0.031, 0.007, 10)
    assert (trial.attack.mode, trial.attack.start) == ("eval", "uniform")


def test_ham_official_and_ham_paper_differ_in_the_weights_of_hard_examples_only() -> None:
    official, paper = resolved("ham-official").trial, resolved("ham-paper").trial
    assert official.method.mining.weight.measure == "uniform"
    weight = paper.method.mining.weight
    assert (weight.measure, weight.function, weight.parameter) == ("softmax_l1", "tanh", -1.0)
    assert (official.method.mining.early_drop_step, official.method.mining.start_epoch) == (3, 49)
    same = paper.method.mining.model_copy(update={"weight": official.method.mining.weight})
    assert same == official.method.mining
    assert paper.model_copy(update={"method": official.method}) == official
    assert fingerprint(paper) != fingerprint(official)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RequestError) as caught:
        load_preset("ham_official")
    assert caught.value.problems[0].startswith("unknown method 'ham_official'; known: at, ")
    assert caught.value.problems[0].endswith("(did you mean ham-official?)")


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs `mine` as the preset of another package."""

    def install(value: Any) -> None:
        monkeypatch.setattr(presets, "MINE", value, raising=False)
        monkeypatch.setattr(presets, "_theirs", lambda: {"mine": "ham_core.presets:MINE"})
        load_preset.cache_clear()

    yield install
    load_preset.cache_clear()


MINE = {"title": "Mine", "source": "us", "method": {"objective": "trades"}, "recipe": {"epochs": 5}}


def test_a_preset_of_another_package_is_a_mapping(foreign: Any) -> None:
    foreign(MINE)
    assert "mine" in names()
    assert (load_preset("mine").title, load_preset("mine").recipe) == ("Mine", {"epochs": 5})


def test_a_preset_of_another_package_may_be_a_yaml_file(foreign: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("title: Mine\nsource: us\nmethod: {objective: at}\n", encoding="utf-8")
    foreign(file)
    assert load_preset("mine").method == {"objective": "at"}
    assert load_preset("mine").document.place(("method",)) == f"{file}:3"


def test_a_malformed_preset_of_another_package_is_refused_with_all_its_problems(foreign: Any) -> None:
    foreign({"titel": "Mine", "source": "us", "method": "at"})
    with pytest.raises(RequestError) as caught:
        load_preset("mine")
    text = "\n".join(caught.value.problems)
    assert "unknown key 'titel'; known: base, method, recipe, source, title (did you mean title?)" in text
    assert "title is None; allowed: text" in text
    assert "method is 'at'; allowed: a mapping" in text


def test_a_preset_that_cannot_be_imported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "_theirs", lambda: {"gone": "no_such_package:PRESET"})
    with pytest.raises(RequestError, match="preset 'gone' cannot be imported from no_such_package:PRESET"):
        load_preset("gone")


# the recipes of methods.md ---------------------------------------------------------------------------------------------

TRADES_STEPS = {"milestones": (74, 89, 99), "factors": (0.1, 0.01, 0.001)}
RICE = {"epochs": 200, "lr": 0.1, "milestones": (100, 150), "factors": (0.1, 0.01), "wd": 5e-4}
RECIPES: dict[str, dict[str, Any]] = {
    "at-awp": RICE,
    "trades-awp": RICE,
    "mart": {"epochs": 120, "lr": 0.01, "wd": 3.5e-3, **TRADES_STEPS},
    "fat": ZJF,
    "fat-trades": {"epochs": 85, "lr": 0.1, "milestones": (74,), "factors": (0.1,), "wd": 2e-4},
    "fat-mart": {"epochs": 90, "lr": 0.1, "milestones": (74, 89), "factors": (0.1, 0.01), "wd": 7e-4},
    "gairat": ZJF,
    "gair-fat": ZJF,
    "fast-at": {"epochs": 15, "lr": 0.2, "milestones": (0, 7.5, 15), "factors": (0, 1, 0), "wd": 5e-4},
    "free-at": {"epochs": 10, "lr": 0.04, "milestones": (0, 5, 10), "factors": (0, 1, 0), "wd": 5e-4},
    "seat": {
        "epochs": 120,
        "lr": 0.01,
        "milestones": (0, 40, 80, 120),
        "factors": (1, 1, 0.1, 0.01),
        "wd": 3.5e-3,
    },
    "hat": {
        "epochs": 50,
        "lr": 0.21,
        "milestones": (0, 12.5, 50),
        "factors": (1 / 25, 1, 1 / 250_000),
        "wd": 5e-4,
    },
    "bat": {"epochs": 200, "lr": 0.1, "wd": 2e-4, **TRADES_STEPS},
    "wat": {"epochs": 100, "lr": 0.1, "wd": 2e-4, **TRADES_STEPS},
    "frl": {"epochs": 40, "lr": 0.001, "milestones": (), "factors": (), "wd": 5e-4},
    "frl-reweight": {"epochs": 40, "lr": 0.001, "milestones": (), "factors": (), "wd": 5e-4},
    "cfol": {"epochs": 100, "lr": 0.1, "milestones": (75, 90), "factors": (0.1, 0.01), "wd": 5e-4},
    "dafa": {"epochs": 110, "lr": 0.1, "milestones": (99, 104), "factors": (0.1, 0.01), "wd": 5e-4},
    "dafa-at": {"epochs": 110, "lr": 0.1, "milestones": (99, 104), "factors": (0.1, 0.01), "wd": 5e-4},
    "faal-at": {"epochs": 2, "lr": 0.01, "milestones": (1,), "factors": (0.1,), "wd": 5e-4},
    "faal-trades-awp": {"epochs": 2, "lr": 0.01, "milestones": (1,), "factors": (0.1,), "wd": 5e-4},
    "ham-cifar10": ZJF,
    "ham-cifar100": ZJF,
    "ham-svhn": {**ZJF, "lr": 0.01},
    "ham-imagenette": ZJF,
    "ham-trades": ZJF,
    "ohem": ZJF,
    "cfa-at": RICE,
    "cfa-trades-ccm-ccr": RICE,
    "cfa-fat-ema": RICE,
}
RECIPES["standard"] = RECIPES["hat"]

# epsilon, step, steps, mode, start
PUBLISHED = (0.031, 0.007, 10, "eval")
EIGHT = (8 / 255, 2 / 255, 10)
ATTACKS: dict[str, tuple[Any, ...]] = {
    "at-awp": (*EIGHT, "train", "uniform"),
    "trades-awp": (*EIGHT, "eval", "gaussian"),
    "mart": (*PUBLISHED, "gaussian"),
    "fat": (*PUBLISHED, "uniform"),
    "fat-trades": (*PUBLISHED, "gaussian"),
    "fat-mart": (*PUBLISHED, "gaussian"),
    "gairat": (*PUBLISHED, "uniform"),
    "gair-fat": (*PUBLISHED, "uniform"),
    "fast-at": (8 / 255, 1.25 * (8 / 255), 1, "train", "uniform"),
    "free-at": (8 / 255, 2 / 255, 0, "train", "zero"),
    "seat": (*PUBLISHED, "uniform"),
    "hat": (*EIGHT, "eval", "gaussian"),
    "bat": (*PUBLISHED, "gaussian"),
    "wat": (*PUBLISHED, "gaussian"),
    "frl": (*EIGHT, "eval", "gaussian"),
    "faal-at": (*EIGHT, "eval", "uniform"),
    "faal-trades": (*EIGHT, "eval", "gaussian"),
    "cfol": (0.031, 0.00797, 7, "eval", "uniform"),
    "dafa": (*PUBLISHED, "gaussian"),
    "dafa-at": (*PUBLISHED, "gaussian"),
    "dafa-at-official": (*PUBLISHED, "gaussian"),
    "ham-svhn": (*PUBLISHED, "uniform"),
    "ham-mart": (*PUBLISHED, "gaussian"),
    "cfa-at": (*EIGHT, "train", "uniform"),
    "cfa-trades": (*EIGHT, "eval", "gaussian"),
    "cfa-fat": (*EIGHT, "train", "uniform"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_preset_has_the_epochs_rates_and_drops_of_its_code(name: str) -> None:
    trial = resolved(name).trial
    assert recipe(trial) == RECIPES[name]
    assert (trial.batch_size, trial.optimizer.momentum) == (128, 0.9)
    assert trial.optimizer.nesterov is (name in ("hat", "standard", "dafa", "dafa-at"))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_preset_has_the_attack_of_its_code(name: str) -> None:
    trial = resolved(name).trial
    attack = trial.attack
    assert (trial.epsilon, attack.step, attack.steps, attack.mode, attack.start) == ATTACKS[name]


NORMALISED = {"at", "at-awp", "cfol", "drop-overconfident", "faal-at", "faal-at-awp", "fast-at", "free-at"}
NORMALISED |= {"ohem", "focal", "class-balanced", "ham-official", "ham-paper", "ham-cifar10"}
NORMALISED |= {"ham-weights", "ham-trades", "ham-mart", "ham-awp", "ham-cfa", "ham-fawa"}


@pytest.mark.parametrize("name", names())
def test_only_networks_whose_codes_normalise_do(name: str) -> None:
    assert resolved(name).trial.model.normalize is (name in NORMALISED or name.startswith("cfa-"))


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("frl", 0.06),
        ("frl-reweight", 0.06),
        ("wat", 0.06),
        ("cfa-at", 0.02),
        ("cfa-fat-none", 0.02),
        ("cfol", 0.2),
    ],
)
def test_methods_that_look_at_held_out_images_hold_out_as_many_as_their_codes(
    name: str, share: float
) -> None:
    assert resolved(name).trial.data.validation == share


@pytest.mark.parametrize(
    ("name", "base", "schedule", "noise"),
    [
        ("fat", "at", [(50, 1), (90, 2)], 0.001),
        ("fat-trades", "trades", [(30, 1), (50, 2), (70, 3)], 0.0),
        ("fat-mart", "mart", [(20, 1), (40, 2), (60, 3), (80, 4)], 0.0),
        ("gair-fat", "at", [(40, 3), (70, 6)], 0.001),
    ],
)
def test_tau_of_fat_grows_at_the_epochs_of_its_code(
    name: str, base: str, schedule: list[tuple[int, int]], noise: float
) -> None:
    objective = resolved(name).trial.method.objective
    assert (objective.name, objective.base.name, objective.rule) == ("fat", base, "friendly")
    assert [(entry.start_epoch, entry.value) for entry in objective.tau] == schedule
    assert objective.noise == noise


@pytest.mark.parametrize("base", ["at", "trades", "fat"])
def test_the_rows_of_cfas_tables_differ_in_calibration_and_average_only(base: str) -> None:
    none = resolved(f"cfa-{base}-none").trial
    margin = {"at": 0.5, "trades": 0.3, "fat": 0.7}[base]
    parts = {}
    for row in ("none", "ema", "ccm", "fawa", ""):
        trial = resolved(f"cfa-{base}-{row}".rstrip("-")).trial
        assert trial.model_copy(update={"method": none.method}) == none
        assert trial.method.objective == none.method.objective
        assert trial.method.mining is None
        parts[row] = (trial.method.calibration, tuple(one.key for one in trial.method.averaging))
    assert parts["none"] == (None, ())
    assert parts["ema"] == (None, ("epochema",))
    assert parts["fawa"] == (None, ("fawa",))
    assert parts["ccm"][1] == () and parts[""][1] == ("fawa",)
    for row in ("ccm", ""):
        assert parts[row][0].margin == margin
        assert parts[row][0].start_epoch == 10
    assert parts["ccm"][0].regularization is None
    assert parts[""][0].regularization == (0.5 if base == "trades" else None)


def test_cfa_on_trades_has_rows_for_each_of_its_calibrations() -> None:
    found = {row: resolved(f"cfa-trades-{row}").trial.method.calibration for row in ("ccm", "ccr", "ccm-ccr")}
    assert {row: (one.margin, one.regularization) for row, one in found.items()} == {
        "ccm": (0.3, None),
        "ccr": (None, 0.5),
        "ccm-ccr": (0.3, 0.5),
    }
    assert resolved("cfa-trades-none").trial.method.objective.scaled is True


def test_fawa_and_ema_of_cfa_have_the_numbers_of_the_paper() -> None:
    (fawa,) = resolved("cfa-at").trial.method.averaging
    assert (fawa.decay, fawa.threshold, fawa.start_epoch) == (0.85, 0.2, 50)
    (ema,) = resolved("cfa-fat-ema").trial.method.averaging
    assert (ema.every, ema.decay, ema.warmup, ema.start_epoch) == ("epoch", 0.85, False, 50)


def test_the_released_settings_of_ham_differ_from_its_official_form_where_the_scripts_do() -> None:
    official = resolved("ham-official").trial
    mining = official.method.mining
    found = {name: resolved(f"ham-{name}").trial for name in ("cifar10", "cifar100", "svhn", "imagenette")}
    assert found["cifar10"].method == official.method
    assert found["imagenette"].method == official.method
    assert found["svhn"].method.mining == mining.model_copy(update={"early_drop_step": 5})
    assert found["cifar100"].method.mining == mining.model_copy(
        update={"easy_high": 0.3, "easy_clean": True, "start_epoch": 59}
    )
    assert found["svhn"].augment.flip is True


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("ham-trades", "trades"),
        ("ham-mart", "mart"),
        ("ham-awp", "awp"),
        ("ham-cfa", "at"),
        ("ham-fawa", "at"),
    ],
)
def test_new_combinations_keep_the_mining_and_recipe_of_ham_official(name: str, objective: str) -> None:
    trial, official = resolved(name).trial, resolved("ham-official").trial
    assert trial.method.mining == official.method.mining
    assert trial.method.objective.name == objective
    assert recipe(trial) == recipe(official)


def test_frl_reweight_is_frl_without_class_radii_and_with_wider_bounds() -> None:
    both, alone = resolved("frl").trial, resolved("frl-reweight").trial
    calibration = both.method.calibration
    assert (calibration.natural_bound, calibration.boundary_bound) == (0.07, 0.07)
    assert (calibration.rate, calibration.margin_rate) == (0.05, 0.2)
    assert both.method.objective.beta == alone.method.objective.beta == 1.5
    assert alone.method.calibration == calibration.model_copy(
        update={"remargin": False, "natural_bound": 0.1, "boundary_bound": 0.1}
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mart", {"objective.beta": 5.0}),
        ("hat", {"objective.beta": 2.5, "objective.gamma": 0.5, "objective.stretch": 2.0, "objective.attack": "kl"}),
        ("bat", {"objective.beta": 6.0}),
        ("at-awp", {"objective.gamma": 0.01, "objective.start_epoch": 0, "objective.base.name": "at"}),
        ("trades-awp", {"objective.gamma": 0.005, "objective.start_epoch": 9, "objective.base.beta": 6.0}),
        ("fast-at", {"objective.step": 1.25, "objective.largest_fall": 0.2, "objective.probe": 5}),
        ("free-at", {"objective.replays": 8}),
        ("gairat", {"mining.function": "tanh", "mining.shift": -1.0, "mining.start_epoch": 59}),
        ("dafa", {"calibration.strength": 1.0, "calibration.start_epoch": 70, "calibration.official_pgd": False}),
        ("dafa-at", {"objective.name": "at", "calibration.official_pgd": False}),
        ("dafa-at-official", {"objective.name": "at", "calibration.official_pgd": True}),
        ("wat", {"calibration.eta": 0.1, "calibration.form": "official", "objective.beta": 6.0}),
        ("cfol", {"calibration.eta": 5e-6, "calibration.gamma": 0.5}),
        ("faal-at-awp", {"objective.radius": 0.5, "objective.base.gamma": 0.005, "objective.base.base.name": "at"}),
        ("faal-mart", {"objective.radius": 0.5, "objective.base.name": "mart", "objective.base.beta": 5.0}),
        ("cfa-fat-none", {"objective.rule": "cfa", "objective.tau": 3}),
        ("ohem", {"mining.share": 0.5}),
        ("focal", {"mining.gamma": 2.0}),
        ("class-balanced", {"mining.beta": 0.9999}),
    ],
)  # fmt: skip
def test_a_preset_has_the_parameters_of_its_code(name: str, parameters: dict[str, Any]) -> None:
    method = flatten(resolved(name).trial.method.model_dump(mode="json"))
    assert {key: method[key] for key in parameters} == parameters


@pytest.mark.parametrize(
    ("name", "other", "weights"),
    [
        ("frl", "trades", "best"),
        ("frl-reweight", "trades", "best"),
        ("cfa-frl", "cfa-trades-none", "best"),
        ("faal-at", "at", "best"),
        ("faal-at-awp", "at-awp", "best"),
        ("faal-trades", "trades", "best"),
        ("faal-trades-awp", "trades-awp", "best"),
        ("faal-mart", "mart", "best"),
    ],
)
def test_fine_tuning_presets_start_from_the_network_of_another_preset(
    name: str, other: str, weights: str
) -> None:
    start = resolved(name).trial.start_from
    assert start is not None and start.weights == weights
    own = resolved(other).trial
    assert start.trial.method == own.method
    assert recipe(start.trial) == recipe(own)


@pytest.mark.parametrize("name", ["ham-cifar10", "ham-svhn"])
def test_two_scripts_of_ham_continue_plain_training_after_48_epochs(name: str) -> None:
    trial = resolved(name).trial
    assert trial.start_from is not None and trial.start_from.continues
    warm = trial.start_from.trial
    assert (warm.epochs, trial.method.mining.start_epoch) == (48, 49)
    assert warm.method.mining is None
    assert (warm.optimizer, warm.attack, warm.model) == (trial.optimizer, trial.attack, trial.model)


def test_the_helper_of_hat_is_the_last_epoch_of_standard_training() -> None:
    helper = resolved("hat").trial.helper
    assert helper is not None and helper.weights == "last"
    assert helper.trial.method.objective.name == "standard"
    assert (helper.trial.epochs, helper.trial.attack.steps) == (50, 0)


# presets that build on others ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A folder of presets of our own: `write(name, text)` puts one there."""

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.yaml").write_text(f"title: {name}\nsource: us\n{text}", encoding="utf-8")

    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    load_preset.cache_clear()
    yield write
    load_preset.cache_clear()


GROUND = """\
method:
  objective: {name: trades, beta: 6.0}
  mining: {name: ham, early_drop_step: 3, weight: {measure: uniform}}
  averaging: [{name: ema, decay: 0.9}, {name: ema, label: slow}]
recipe:
  model.normalize: true
  attack: {steps: 10, mode: eval}
  start_from: {method: at, epochs: 4, weights: state}
"""


def test_a_preset_merges_over_its_base_whether_keys_are_dotted_or_nested(folder: Any) -> None:
    folder("ground", GROUND)
    folder(
        "mine",
        "base: ground\nmethod:\n  objective.beta: 3\n  mining: {early_drop_step: 5}\nrecipe:\n  attack.mode: train\n"
        "  model: {normalize: false}\n",
    )
    preset = load_preset("mine")
    assert preset.base == "ground"
    assert preset.method["objective"] == {"name": "trades", "beta": 3}
    assert preset.method["mining"] == {"name": "ham", "early_drop_step": 5, "weight": {"measure": "uniform"}}
    assert preset.recipe["attack"] == {"steps": 10, "mode": "train"}
    assert preset.recipe["model"] == {"normalize": False}


def test_a_part_of_another_name_a_list_and_another_start_replace_what_the_base_has(folder: Any) -> None:
    folder("ground", GROUND)
    folder(
        "mine",
        "base: ground\nmethod: {objective: at, mining: {name: ohem}, averaging: [{name: ema}]}\n"
        "recipe: {start_from: {method: trades}}\n",
    )
    preset = load_preset("mine")
    assert preset.method == {
        "objective": {"name": "at"},
        "mining": {"name": "ohem"},
        "averaging": [{"name": "ema"}],
    }
    assert preset.recipe["start_from"] == {"method": "trades"}


def test_a_base_inside_an_objective_is_replaced_and_reached_into_like_a_part(folder: Any) -> None:
    folder("ground", "method: {objective: {name: awp, gamma: 0.01, base: {name: trades, beta: 6}}}\n")
    folder("other", "base: ground\nmethod: {objective.base: at}\n")
    folder("same", "base: ground\nmethod: {objective.base.beta: 2}\n")
    assert load_preset("other").method["objective"] == {"name": "awp", "gamma": 0.01, "base": {"name": "at"}}
    assert load_preset("same").method["objective"]["base"] == {"name": "trades", "beta": 2}


def test_none_takes_a_part_or_a_start_of_the_base_away(folder: Any) -> None:
    folder("ground", GROUND)
    folder("mine", "base: ground\nmethod: {mining: none, averaging: none}\nrecipe: {start_from: none}\n")
    preset = load_preset("mine")
    assert preset.method["mining"] is None
    assert preset.document.place(("method", "mining", "name")) == "presets/mine.yaml:4"
    assert preset.method["averaging"] == "none"
    assert preset.recipe["start_from"] is None


def test_short_forms_of_the_base_can_be_built_on(folder: Any) -> None:
    folder(
        "ground",
        "method: {objective: at, calibration: none, mining: {name: ham, weight: softmax_l1}}\n"
        "recipe: {model: resnet18, start_from: at}\n",
    )
    folder(
        "mine",
        "base: ground\nmethod: {calibration: {name: cfa}, mining.weight.function: tanh}\n"
        "recipe: {model.width: 0.5, start_from.epochs: 3}\n",
    )
    preset = load_preset("mine")
    assert preset.method["calibration"] == {"name": "cfa"}
    assert preset.method["mining"]["weight"] == {"measure": "softmax_l1", "function": "tanh"}
    assert preset.recipe == {
        "model": {"name": "resnet18", "width": 0.5},
        "start_from": {"method": "at", "epochs": 3},
    }


def test_a_preset_may_say_nothing_but_its_base(folder: Any) -> None:
    folder("ground", GROUND)
    folder("mine", "base: ground\n")
    folder("again", "base: mine\n")
    again, ground = load_preset("again"), load_preset("ground")
    assert again.method["objective"] == ground.method["objective"]
    assert again.recipe["start_from"] == ground.recipe["start_from"]


def test_every_setting_of_a_merged_preset_knows_its_own_file_and_line(folder: Any) -> None:
    folder("ground", GROUND)
    folder("mine", "base: ground\nmethod:\n  mining.early_drop_step: 5\nrecipe:\n  attack.mode: train\n")
    place = load_preset("mine").document.place
    assert place(("method", "mining", "early_drop_step")) == "presets/mine.yaml:5"
    assert place(("method", "objective", "beta")) == "presets/ground.yaml:4"
    assert place(("recipe", "attack", "mode")) == "presets/mine.yaml:7"
    assert place(("recipe", "attack", "steps")) == "presets/ground.yaml:9"
    assert place(("recipe", "model")) == "presets/ground.yaml:8"
    assert place(("recipe", "nosuch")) == "presets/ground.yaml:8"
    assert place(("nosuch",)) == "presets/mine.yaml:1"


def test_a_wrong_value_of_the_base_is_reported_at_the_base(folder: Any) -> None:
    folder("ground", "method: {objective: at}\nrecipe:\n  epochs: 3\n  batch_size: 0\n")
    folder("mine", "base: ground\nrecipe: {epochs: 0}\n")
    with pytest.raises(RequestError) as caught:
        resolved("mine")
    places = [problem.partition(": ")[0] for problem in caught.value.problems]
    assert sorted(places) == ["presets/ground.yaml:6", "presets/mine.yaml:4"]


def test_an_unknown_base_is_refused_with_the_known_ones(folder: Any) -> None:
    folder("ground", "method: {objective: at}\n")
    folder("mine", "base: groun\n")
    with pytest.raises(RequestError, match=r"presets/mine.yaml:3: unknown base 'groun'; known: .*ground\?"):
        load_preset("mine")


def test_presets_that_build_on_each_other_in_a_circle_are_refused(folder: Any) -> None:
    folder("one", "base: two\n")
    folder("two", "base: three\n")
    folder("three", "base: two\n")
    with pytest.raises(RequestError) as caught:
        load_preset("one")
    assert caught.value.problems == (
        "presets/three.yaml:3: base two -> three -> two is a circle; name a preset that does not build on this one",
    )


def test_a_base_that_is_no_name_is_refused(folder: Any) -> None:
    folder("mine", "base: [at]\nmethod: {objective: at}\n")
    with pytest.raises(RequestError, match=r"base is \['at'\]; allowed: the name of another preset"):
        load_preset("mine")


def test_without_a_base_a_preset_needs_a_method(folder: Any) -> None:
    folder("mine", "recipe: {epochs: 3}\n")
    with pytest.raises(RequestError, match="method is None; allowed: a mapping"):
        load_preset("mine")


def test_the_comments_on_top_say_what_a_preset_is_and_where_code_and_paper_differ() -> None:
    preset = load_preset("trades")
    assert preset.summary.startswith("TRADES: cross-entropy on the clean image")
    assert preset.differs.startswith("the attack's random start")
    assert preset.differs.endswith("here it is a PreActResNet-18.")


def test_a_preset_without_a_first_comment_has_no_summary(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = "# Official code and paper differ: in\n# this.\ntitle: Mine\nsource: us\nmethod: {objective: at}\n"
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    load_preset.cache_clear()
    found = load_preset("mine")
    load_preset.cache_clear()
    assert (found.summary, found.differs) == ("", "in this.")
