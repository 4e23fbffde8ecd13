"""What a protocol's words mean in a trial's results, and what a trained trial cannot follow."""

from __future__ import annotations

from typing import Any

import pytest

from ham_core.judging import deviations, in_words, stored_attack, stored_weights
from ham_core.protocol import PROTOCOLS, Protocol
from tests.builders import trial

STANDARD, HAM, CFA = (PROTOCOLS[name] for name in ("standard", "ham-paper", "cfa-paper"))


def made(**fields: Any) -> Protocol:
    return Protocol.model_validate({"name": "mine"} | fields)


def test_best_means_the_weights_of_the_rule() -> None:
    names = ("best", "best_avg", "best_ema", "last", "best_worst", "best_sum_ema")
    assert [stored_weights(STANDARD, name) for name in names] == ["best", "best", "best_ema", *names[3:]]
    assert [stored_weights(CFA, name) for name in names] == [
        "best_sum",
        "best_sum",
        "best_sum_ema",
        *names[3:],
    ]
    assert stored_weights(made(rule="last"), "best_ema") == "last_ema"


def test_an_attack_means_its_own_at_the_radius() -> None:
    assert stored_attack(HAM, "pgd20", 8 / 255) == "pgd20_eps0_031"
    assert stored_attack(HAM, "pgd20", 0.031) == "pgd20"
    assert stored_attack(HAM, "clean", 8 / 255) == "clean"
    assert (
        stored_attack(HAM, "apgd_t", 8 / 255) == "apgd_t_eps0_031"
    )  # that it does not have, it would have like this
    assert stored_attack(HAM, "something", 8 / 255) == "something"
    strong = made(epsilon=0.1, attacks=[{"name": "pgd50", "label": "strong"}])
    assert stored_attack(strong, "strong", 0.2) == "strong_eps0_1"


def test_a_trial_that_follows_a_protocol_deviates_in_nothing() -> None:
    one = trial(epsilon="8/255", selection={"on": "test"})
    assert deviations(CFA, one) == ()
    assert deviations(STANDARD, trial()) == ()
    assert deviations(HAM, trial(epsilon=0.031, selection={"on": "test"})) == ()


@pytest.mark.parametrize(
    ("protocol", "changes", "sentence"),
    [
        (
            CFA,
            {"selection": {"on": "validation"}},
            "selected on held-out images, where cfa-paper selects on the test images",
        ),
        (
            STANDARD,
            {"selection": {"on": "test"}},
            "selected on the test images, where standard selects on held-out images",
        ),
        (CFA, {"epsilon": 0.031}, "trained and selected at ε = 0.031, where cfa-paper has 8/255"),
        (
            CFA,
            {"model": {"normalize": False}},
            "the network takes pixels as they are, where that of cfa-paper normalises its input by the data set's "
            "statistics (model.normalize: true)",
        ),
        (
            made(on="test", normalisation="none"),
            {},
            "the network normalises its input by the data set's statistics, where that of mine takes pixels as they are "
            "(model.normalize: false)",
        ),
        (
            made(on="test", norm="l2", epsilon=0.5),
            {},
            "trained and selected in L-infinity (ε = 8/255), where mine attacks in L2",
        ),
    ],
)
def test_what_training_settled_otherwise_is_a_deviation(
    protocol: Protocol, changes: dict[str, Any], sentence: str
) -> None:
    settings: dict[str, Any] = {"epsilon": "8/255", "selection": {"on": "test"}} | changes
    assert deviations(protocol, trial(**settings)) == (sentence,)


def test_a_rule_that_looks_at_no_images_has_no_wrong_ones() -> None:
    assert deviations(made(rule="last", on="test"), trial()) == ()
    assert "images" not in in_words(made(rule="last", on="test"))


def test_a_protocol_in_words_says_what_best_is_and_at_which_radius() -> None:
    assert in_words(CFA) == (
        "cfa-paper: 'best' is the epoch with the highest sum of average and worst-class robust accuracy on the test images, "
        "attacks at ε = 8/255, network that normalises its input by the data set's statistics"
    )
    assert "attacks at ε = 0.5 in L2" in in_words(made(norm="l2", epsilon=0.5))
