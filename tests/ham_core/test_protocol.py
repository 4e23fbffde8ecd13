"""Attacks by name, the identity of evaluations, and protocols."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from ham_core.config import Trial
from ham_core.protocol import (
    NAMES,
    PROTOCOLS,
    Evaluation,
    EvaluationAttack,
    Protocol,
    canonical_weights,
    evaluation_fingerprint,
    read_evaluations,
    split_weights,
)


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
        ("fgsm", "fgsm", 0, 1, "fgsm"),
        ("autoattack", "autoattack", 0, 1, "autoattack"),
        ("apgd-ce", "apgd-ce", 0, 1, "apgd_ce"),
        ("fab-t", "fab-t", 0, 1, "fab_t"),
        ({"name": "apgd-t", "restarts": 5}, "apgd-t", 0, 5, "apgd_t_x5"),
        ({"name": "square", "queries": 300}, "square", 0, 1, "square_q300"),
        ({"name": "pgd20", "epsilon": "8/255"}, "pgd", 20, 1, "pgd20_eps8_255"),
        ({"name": "pgd20", "epsilon": 0.031}, "pgd", 20, 1, "pgd20_eps0_031"),
        ({"name": "pgd20", "epsilon": 1e-5}, "pgd", 20, 1, "pgd20_eps1e_05"),
        ({"name": "pgd20", "epsilon": 1}, "pgd", 20, 1, "pgd20_eps1"),
        ({"name": "pgd20", "epsilon": 0}, "pgd", 20, 1, "pgd20_eps0"),
        (
            {"name": "autoattack", "norm": "l2", "epsilon": "128/255"},
            "autoattack",
            0,
            1,
            "autoattack_l2_eps128_255",
        ),
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
        (
            "pgdd",
            "unknown attack 'pgdd'; known: apgd-ce, apgd-t, autoattack, clean, cw20, fab-t, fgsm, pgd20,",
        ),
        ("apgd_ce", "(did you mean apgd-ce?)"),
        ("pgd", "'pgd' needs its number of steps; write for example pgd20"),
        ({"name": "pgd20", "steps": 10}, "'pgd20' has 20 steps, but steps: 10 stands beside it"),
        ({"name": "clean", "restarts": 2}, "clean images are not attacked"),
        ({"name": "clean", "epsilon": 0.1}, "clean images are not attacked"),
        ({"name": "clean", "norm": "l2", "epsilon": 0}, "clean images are not attacked"),
        ({"name": "apgd-ce", "steps": 50}, "apgd-ce takes no steps; it takes restarts, norm, epsilon, label"),
        ({"name": "fgsm", "step": 0.1, "restarts": 2}, "fgsm takes no step and no restarts; it takes norm"),
        ({"name": "pgd20", "queries": 5}, "pgd takes no queries; it takes steps, step, restarts, norm"),
        (
            {"name": "autoattack", "queries": 300},
            "autoattack takes no queries; it takes norm, epsilon, label",
        ),
        ({"name": "pgd20", "norm": "l2"}, "norm: l2 needs a radius of its own"),
        ({"name": "pgd20", "epsilon": 8}, "epsilon: 8 is too much; allowed: 0 to 1, the range of pixels"),
        ({"name": "pgd20", "step": 2}, "step: 2 is too much; allowed: 0 to 1, the range of pixels"),
        ({"name": "pgd20", "norm": "l3", "epsilon": 1}, "Input should be 'linf' or 'l2'"),
    ],
)
def test_a_wrong_attack_is_refused_with_a_sentence(written: Any, sentence: str) -> None:
    with pytest.raises(ValidationError) as caught:
        attack(written)
    assert sentence in caught.value.errors()[0]["msg"]


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


def test_a_radius_a_norm_and_queries_are_part_of_the_identity_and_their_defaults_are_not() -> None:
    """The fields of an attack as they were before these three came: evaluations made then keep their fingerprint."""
    old = {"kind": "pgd", "steps": 20, "restarts": 1, "step": None, "label": None}
    assert attack("pgd20").identity() == old
    assert attack({"name": "pgd20", "epsilon": 0.1}).identity() == old | {"epsilon": 0.1}
    l2 = attack({"name": "pgd20", "epsilon": 3, "norm": "l2", "step": 2})
    assert l2.identity() == old | {"epsilon": 3.0, "norm": "l2", "step": 2.0}
    assert attack({"name": "square", "queries": 9}).identity()["queries"] == 9
    one = trial()
    names: list[Any] = ["pgd20", {"name": "pgd20", "epsilon": 0.1}, {"name": "pgd20", "epsilon": 0.2}]
    assert len({identity(one, name=name) for name in names}) == 3


def test_an_attack_without_a_radius_takes_that_of_the_trial() -> None:
    assert attack("pgd20").radius(0.3) == 0.3
    assert attack({"name": "pgd20", "epsilon": 0}).radius(0.3) == 0


def test_keys_of_attacks_hold_only_what_metric_names_may_hold() -> None:
    for name in NAMES:
        assert re.fullmatch(r"[a-z0-9_]+", attack(name).key)


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


def test_a_protocol_says_all_of_it() -> None:
    assert PROTOCOLS["cfa-paper"].model_dump(exclude={"attacks", "title"}) == {
        "name": "cfa-paper",
        "rule": "best_sum",
        "on": "test",
        "epsilon": 8 / 255,
        "norm": "linf",
        "normalisation": "data",
        "weights": ("best_sum", "last"),
    }
    for protocol in PROTOCOLS.values():
        assert Protocol.model_validate(protocol.record()) == protocol
        assert [one.key for one in protocol.attacks] == ["clean", "pgd20", "cw20"]


def test_best_avg_is_another_word_for_best() -> None:
    words = {
        name: canonical_weights(name) for name in ("best_avg", "best_avg_ema", "best", "best_sum_ema", "last")
    }
    assert list(words.values()) == ["best", "best_ema", "best", "best_sum_ema", "last"]
    assert split_weights("best_avg_ema") == ("best", "ema")
    found, problems = read_evaluations("clean", "best_avg,best_avg_ema")
    assert [one.name for one in found] == ["best/clean", "best_ema/clean"]
    assert problems == []
    assert Protocol(name="p", rule="best_avg", weights=("best_avg_ema",)).weights == ("best", "best_ema")  # type: ignore[arg-type]
    start = {"trial": trial().model_dump(mode="json"), "weights": "best_avg"}
    assert trial(start_from=start).start_from == trial(start_from=start | {"weights": "best"}).start_from


@pytest.mark.parametrize("label", ["avg", "sum", "worst"])
def test_an_average_cannot_be_called_like_a_rule(label: str) -> None:
    with pytest.raises(ValidationError, match=f"best_{label} is the name of a selection rule"):
        trial(method={"objective": "at", "averaging": {"name": "ema", "label": label}})


def test_the_weights_of_a_protocol_begin_with_those_of_its_rule() -> None:
    made: Any = Protocol.model_validate
    assert made({"name": "p"}).weights == ("best", "last")
    assert made({"name": "p", "rule": "best_worst"}).weights == ("best_worst", "last")
    assert made({"name": "p", "rule": "last"}).weights == ("last",)
    assert made({"name": "p", "rule": "best_sum", "weights": "best_sum_ema"}).weights == (
        "best_sum",
        "best_sum_ema",
    )


def test_only_a_radius_in_l_infinity_is_that_of_a_training() -> None:
    made: Any = Protocol.model_validate
    assert made({"name": "p", "epsilon": 0.1, "on": "test"}).settings == {
        "selection.on": "test",
        "epsilon": 0.1,
    }
    assert made({"name": "p", "epsilon": "128/255", "norm": "l2"}).settings == {"selection.on": "validation"}
    assert made({"name": "p", "epsilon": 1}).settings["epsilon"] == 1


@pytest.mark.parametrize(
    ("written", "epsilon", "key"),
    [
        ("pgd20", 0.031, "pgd20"),
        ("pgd20", 8 / 255, "pgd20_eps0_031"),
        ("clean", 8 / 255, "clean"),
        ({"name": "pgd20", "epsilon": "8/255"}, 8 / 255, "pgd20"),  # its own radius, which is the trial's
        ({"name": "pgd20", "epsilon": "8/255"}, 0.031, "pgd20_eps8_255"),
        ({"name": "pgd20", "norm": "l2", "epsilon": 0.5}, 0.5, "pgd20_l2_eps0_5"),
        ({"name": "pgd20", "label": "strong"}, 0.2, "strong_eps0_031"),  # else two radii would share a name
        ({"name": "pgd20", "label": "strong", "epsilon": 0.1}, 0.2, "strong"),
        ({"name": "pgd20", "label": "strong"}, 0.031, "strong"),
    ],
)
def test_an_attack_at_the_radius_of_the_trial_keeps_its_plain_name(
    written: Any, epsilon: float, key: str
) -> None:
    placed = PROTOCOLS["ham-paper"].placed(attack(written), epsilon)
    assert placed.key == key
    own = attack(written).epsilon
    assert written == "clean" or placed.radius(epsilon) == (0.031 if own is None else own)


def test_a_protocol_without_a_radius_attacks_at_the_trials_and_one_in_l2_in_l2() -> None:
    assert PROTOCOLS["standard"].placed(attack("pgd20"), 0.2) == attack("pgd20")
    l2: Any = Protocol.model_validate({"name": "p", "norm": "l2", "epsilon": 0.3})
    placed = l2.placed(attack("pgd20"), 0.3)
    assert (placed.norm, placed.epsilon, placed.key) == ("l2", 0.3, "pgd20_l2_eps0_3")


def test_evaluations_under_a_protocol_are_its_attacks_on_the_weights_that_the_trial_keeps() -> None:
    mine: Any = Protocol.model_validate(
        {
            "name": "mine",
            "rule": "best_sum",
            "weights": ["best_sum_ema", "last_fawa"],
            "attacks": ["clean", "pgd3"],
        }
    )
    names = [one.name for one in mine.evaluations(trial())]
    assert names == ["best_sum/clean", "best_sum/pgd3", "best_sum_ema/clean", "best_sum_ema/pgd3"]
    plain = {one.name: one for one in PROTOCOLS["standard"].evaluations(trial(epsilon="8/255"))}
    same = {one.name: one for one in PROTOCOLS["cfa-paper"].evaluations(trial(epsilon="8/255"))}
    assert plain["last/pgd20"] == same["last/pgd20"]
