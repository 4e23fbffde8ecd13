"""Published methods by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ham_core import presets
from ham_core.config import Trial, fingerprint
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
    assert "unknown key 'titel'; known: method, recipe, source, title (did you mean title?)" in text
    assert "title is None; allowed: text" in text
    assert "method is 'at'; allowed: a mapping" in text


def test_a_preset_that_cannot_be_imported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "_theirs", lambda: {"gone": "no_such_package:PRESET"})
    with pytest.raises(RequestError, match="preset 'gone' cannot be imported from no_such_package:PRESET"):
        load_preset("gone")
