"""Attacks by name, the identity of evaluations, and protocols."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ham_core.config import Trial
from ham_core.protocol import PROTOCOLS, Evaluation, EvaluationAttack, evaluation_fingerprint, split_weights


def attack(value: Any) -> EvaluationAttack:
    return EvaluationAttack.model_validate(value)


def trial(**changes: Any) -> Trial:
    settings: dict[str, Any] = {"method": {"objective": "at"}, "data": {"name": "digits"}, "epsilon": 0.2}
    return Trial.model_validate(settings | changes)


def identity(one: Trial, weights: str = "best", name: Any = "pgd20") -> str:
    return evaluation_fingerprint(one, Evaluation(weights=weights, attack=attack(name)))


@pytest.mark.parametrize(
    ("written", "kind", "steps", "restarts", "key"),
    [
        ("clean", "clean", 0, 1, "clean"),
        ("pgd20", "pgd", 20, 1, "pgd20"),
        ("cw7", "cw", 7, 1, "cw7"),
        ({"name": "pgd", "steps": 50}, "pgd", 50, 1, "pgd50"),
        ({"name": "pgd50", "restarts": 5}, "pgd", 50, 5, "pgd50x5"),
        ({"name": "pgd", "steps": 50, "restarts": 5, "label": "strong"}, "pgd", 50, 5, "strong"),
        ({"kind": "cw", "steps": 3}, "cw", 3, 1, "cw3"),
    ],
)
def test_an_attack_is_a_name_or_a_mapping(
    written: Any, kind: str, steps: int, restarts: int, key: str
) -> None:
    found = attack(written)
    assert (found.kind, found.steps, found.restarts, found.key) == (kind, steps, restarts, key)
    assert attack(found.model_dump(mode="json")) == found


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("pgdd", "unknown attack 'pgdd'; known: clean, cw20, pgd20"),
        ("pgd", "'pgd' needs its number of steps; write for example pgd20"),
        ({"name": "pgd20", "steps": 10}, "'pgd20' has 20 steps, but steps: 10 stands beside it"),
        ({"name": "clean", "restarts": 2}, "clean images are not attacked"),
    ],
)
def test_a_wrong_attack_is_refused_with_a_sentence(written: Any, sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        attack(written)
    assert sentence in str(caught.value)


def test_weights_are_a_selection_rule_with_an_average_behind_it() -> None:
    assert split_weights("best") == ("best", "")
    assert split_weights("best_sum") == ("best_sum", "")
    assert split_weights("best_sum_ema") == ("best_sum", "ema")
    assert split_weights("last_slow") == ("last", "slow")
    assert split_weights("bets") == ("", "")
    with pytest.raises(ValidationError, match="unknown weights 'bets'"):
        Evaluation(weights="bets", attack=attack("clean"))


def test_the_identity_of_an_evaluation_follows_the_weights_the_attack_and_the_images() -> None:
    one = trial()
    others = {
        identity(one),
        identity(one, weights="last"),
        identity(one, name="cw20"),
        identity(one, name={"name": "pgd20", "step": 0.01}),
        identity(one, name={"name": "pgd20", "label": "other"}),
        identity(trial(seed=1)),
        identity(trial(data={"name": "digits", "test_limit": 50})),
    }
    assert len(others) == 7
    assert all(len(other) == 64 for other in others)
    assert identity(one, name={"name": "pgd", "steps": 20}) == identity(one)


def test_the_identity_of_an_evaluation_knows_how_an_average_averages_and_leaves_other_weights_alone() -> None:
    slow = trial(method={"objective": "at", "averaging": {"name": "ema", "decay": 0.5}})
    assert identity(slow, weights="best_ema") != identity(trial(), weights="best_ema")
    assert identity(slow) == identity(trial())


def test_the_test_digest_belongs_to_the_evaluation() -> None:
    settings = trial().model_dump(mode="json")
    other = Trial.model_validate(settings | {"data": settings["data"] | {"test_digest": "other"}})
    assert identity(other) != identity(trial())


def test_protocols_say_what_is_selected_on_and_which_weights_count() -> None:
    assert PROTOCOLS["standard"].settings == {"selection.on": "validation"}
    assert PROTOCOLS["standard"].weights == ("best", "last")
    assert PROTOCOLS["ham-paper"].settings == {"selection.on": "test", "epsilon": 0.031}
    assert PROTOCOLS["cfa-paper"].settings == {"selection.on": "test", "epsilon": "8/255"}
    assert PROTOCOLS["cfa-paper"].weights == ("best_sum", "last")
