"""docs/methods.md says what `ham methods` says, and both what the presets and parts say."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ham_core.catalogue import (
    catalogue,
    default_in_words,
    markdown,
    named,
    parameters,
    preset_entry,
    range_in_words,
    settings_in_words,
)
from ham_core.errors import RequestError
from ham_core.parts import KINDS, find, index
from ham_core.presets import load_preset, names
from orchestration.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "methods.md"


@pytest.fixture(scope="module")
def answer() -> dict[str, Any]:
    return catalogue()


@pytest.fixture(scope="module")
def parts(answer: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["kind"], one["name"]): one for one in answer["parts"]}


@pytest.fixture(scope="module")
def presets(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in answer["presets"]}


def ham(*arguments: str) -> tuple[int, str]:
    run = CliRunner().invoke(app, list(arguments))
    return run.exit_code, run.output


# the document ----------------------------------------------------------------------------------------------------------


def test_docs_methods_is_what_ham_methods_prints_today(answer: dict[str, Any]) -> None:
    kept, made = DOCUMENT.read_text(encoding="utf-8"), markdown(answer)
    changes = list(
        difflib.unified_diff(kept.splitlines(), made.splitlines(), "kept", "made", n=0, lineterm="")
    )
    assert kept == made, "run: ham methods --markdown > docs/methods.md\n" + "\n".join(changes[:20])


def test_the_document_holds_the_maths_of_every_part_as_it_stands_in_its_file(
    parts: dict[tuple[str, str], dict[str, Any]],
) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for (kind, name), part in parts.items():
        assert f"### {kind} {name}\n" in text
        assert f"```text\n{part['formula']}\n```" in text
        first = part["formula"].splitlines()[0]
        file = ROOT / f"{find(kind, name).__module__.replace('.', '/')}.py"
        assert first in file.read_text(encoding="utf-8")


def test_the_maths_of_hams_weights_stands_beside_hams_with_their_picture(
    parts: dict[tuple[str, str], dict[str, Any]],
) -> None:
    formula = parts["mining", "ham"]["formula"]
    assert formula.startswith("HAM, hard adversarial example mining.")
    assert "HAM's reweighting of hard adversarial examples." in formula
    assert "(pictures/weight-functions.png)" in DOCUMENT.read_text(encoding="utf-8")
    assert (ROOT / "docs" / "pictures" / "weight-functions.png").exists()


def test_the_maths_of_a_part_that_wraps_another_is_its_own_only(
    parts: dict[tuple[str, str], dict[str, Any]],
) -> None:
    assert "interface" not in parts["objectives", "awp"]["formula"]


def test_links_of_the_document_lead_to_its_headings() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    headings = {
        line.removeprefix("### ").replace(" ", "-") for line in text.splitlines() if line.startswith("### ")
    }
    links = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert links == headings


def test_no_row_of_a_table_has_more_cells_than_its_head() -> None:
    width = 0
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert width in (0, cells) or cells == 0, line
        width = cells


# what is known of presets and parts --------------------------------------------------------------------------------------


def test_every_preset_and_every_part_is_listed(
    presets: dict[str, Any], parts: dict[tuple[str, str], Any]
) -> None:
    assert list(presets) == names()
    assert set(parts) == {(kind, name) for kind in KINDS for name in index(kind)}


def test_every_part_says_what_it_is_costs_and_where_it_comes_from(parts: dict[tuple[str, str], Any]) -> None:
    for (kind, name), part in parts.items():
        assert all(part[key] for key in ("summary", "source", "cost", "formula")), (kind, name)
    assert parts["objectives", "hat"]["needs"] == ["a helper trial"]
    assert parts["objectives", "trades"]["cost"] == "+2F +1(Bx+Bw)"


def test_every_preset_says_what_it_is_and_where_code_and_paper_differ(presets: dict[str, Any]) -> None:
    for name, preset in presets.items():
        assert all(preset[key] for key in ("title", "source", "summary", "differs", "parts", "epochs")), name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("at", "at"),
        ("ham-cfa", "at + ham + cfa"),
        ("faal-trades-awp", "faal of awp of trades"),
        ("fat-mart", "fat of mart"),
        ("cfa-trades", "trades + cfa; average fawa"),
        ("cfa-at-ema", "at; average epochema"),
        ("cfa-at-none", "at; no average"),
    ],
)
def test_a_preset_names_its_parts_in_words(presets: dict[str, Any], name: str, words: str) -> None:
    assert presets[name]["parts"] == words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("at", []),
        ("frl", ["starts from trades"]),
        ("hat", ["helper standard"]),
        ("ham-svhn", ["starts from at after 48 epochs"]),
    ],
)
def test_a_preset_names_the_other_trials_that_it_uses(
    presets: dict[str, Any], name: str, words: list[str]
) -> None:
    assert presets[name]["starts"] == words


def test_a_start_that_is_taken_away_is_none() -> None:
    recipe = {"start_from": "none", "helper": {"method": "none"}}
    preset = replace(load_preset("at"), recipe=recipe)
    assert preset_entry(preset)["starts"] == []
    assert preset_entry(replace(preset, recipe={"start_from": "at"}))["starts"] == ["starts from at"]


def test_the_settings_of_a_preset_are_shown_as_they_could_stand_in_yaml(presets: dict[str, Any]) -> None:
    found = settings_in_words(presets["cfa-trades-ccm"])
    assert found["method.calibration.margin"] == "0.3"
    assert found["method.calibration.regularization"] == "none"
    assert found["method.averaging"] == "none"
    assert found["attack.step"] == "2/255"
    assert found["model.normalize"] == "true"
    assert found["schedule.milestones"] == "[100, 150]"
    assert settings_in_words(presets["cfa-at"])["method.averaging"] == (
        "[{name: fawa, decay: 0.85, threshold: 0.2, start_epoch: 50}]"
    )


@pytest.mark.parametrize(
    ("kind", "name", "key", "default", "allowed"),
    [
        ("objectives", "trades", "beta", "6.0", "0 <= x"),
        ("objectives", "trades", "scaled", "false", "boolean"),
        ("objectives", "awp", "base", "at", "part"),
        ("objectives", "fat", "tau", "3", "integer or schedule"),
        ("objectives", "fat", "rule", "friendly", "friendly | cfa"),
        ("mining", "ham", "weight.parameter", "follows", "number"),
        ("mining", "ohem", "share", "0.5", "0 < x <= 1"),
        ("calibration", "cfa", "margin", "0.5", "0 <= x or none"),
        ("calibration", "frl", "limit", "0.5", "0 <= x < 1"),
        ("averaging", "fawa", "every", "epoch", "epoch"),
        ("averaging", "ema", "label", "none", "string or none"),
    ],
)
def test_a_parameter_is_listed_with_its_default_and_range(
    kind: Any, name: str, key: str, default: str, allowed: str
) -> None:
    one = parameters(find(kind, name))[key]
    assert (default_in_words(one), range_in_words(one)) == (default, allowed)


def test_every_parameter_has_a_meaning_or_a_list_of_words(parts: dict[tuple[str, str], Any]) -> None:
    for (kind, name), part in parts.items():
        for key, one in part["parameters"].items():
            assert one["meaning"] or "enum" in one["allowed"], (kind, name, key)


# the command -------------------------------------------------------------------------------------------------------------


def test_ham_methods_markdown_is_the_document_and_json_the_same_as_data(answer: dict[str, Any]) -> None:
    assert ham("methods", "--markdown") == (0, markdown(answer))
    code, out = ham("methods", "--json")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(answer))


def test_ham_methods_lists_parts_costs_needs_and_other_trials() -> None:
    code, out = ham("methods")
    assert code == 0
    for words in (
        "ham-cifar10",
        "starts from at after 48 epochs",
        "+2F +1(Bx+Bw)",
        "a helper trial",
        "easy_high",
    ):
        assert words in out
    assert max(map(len, out.splitlines())) <= 200


def test_ham_methods_of_one_name_shows_the_preset_and_the_part_of_that_name_in_full() -> None:
    code, out = ham("methods", "frl")
    assert code == 0
    for words in (
        "preset frl: FRL (reweight + remargin)",
        "start_from.method                  trades",
        "method.calibration.natural_bound   0.07",
        "calibration frl:",
        "g⁰_c = e_c - ē - δ0",
        "held-out images, a robust trial to start from",
    ):
        assert words in out
    assert "gairat" not in out


def test_ham_methods_of_one_name_as_json_holds_that_name_only(answer: dict[str, Any]) -> None:
    code, out = ham("methods", "trades", "--json")
    assert code == 0
    found = json.loads(out)
    assert [one["name"] for one in found["presets"]] == ["trades"]
    assert [(one["kind"], one["name"]) for one in found["parts"]] == [("objectives", "trades")]


def test_ham_methods_of_an_unknown_name_is_refused_with_the_known_ones(answer: dict[str, Any]) -> None:
    with pytest.raises(
        RequestError, match=r"unknown method or part 'trade'; known: .*\(did you mean trades\?\)"
    ):
        named(answer, "trade")
    assert ham("methods", "trade")[0] == 2


def test_every_parameter_says_what_it_means() -> None:
    silent = [
        f"{part['name']}.{key}"
        for part in catalogue()["parts"]
        for key, one in part["parameters"].items()
        if not one["meaning"]
    ]
    assert silent == []
