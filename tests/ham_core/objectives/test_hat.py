"""HAT: its three terms by hand, the helper's point, and that γ = 0 is TRADES."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ham_core.config import Trial
from ham_core.errors import RequestError
from ham_core.objectives.hat import Hat
from ham_core.objectives.trades import Trades
from ham_core.training import Training
from tests.builders import dataset, same_weights, trial
from tests.ham_core.objectives.helpers import timeless, trained

CLEAN = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [0.0, math.log(4.0)]])
ADV = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [math.log(4.0), 0.0]])
BEYOND = torch.tensor([[0.0, math.log(4.0)], [0.0, math.log(2.0)], [0.0, 0.0]])
LABEL = torch.tensor([0, 0, 1])
EXTRA = {"beyond": BEYOND, "label": torch.tensor([1, 0, 0])}
NATURAL = torch.tensor([math.log(2), math.log(4 / 3), math.log(5 / 4)])
DIVERGENCE = torch.tensor(
    [
        0.5 * math.log(2) + 0.5 * math.log(2 / 3),
        0.75 * math.log(1.5) + 0.25 * math.log(0.5),
        0.6 * math.log(4),
    ]
)
HELPED = torch.tensor([math.log(5 / 4), math.log(3), math.log(2)])
HELPER = trial("standard", epochs=1)


def helped(objective: Any, **settings: Any) -> Trial:
    return trial(objective, helper={"trial": HELPER.model_dump(mode="json"), "weights": "last"}, **settings)


@pytest.fixture(scope="module")
def helper() -> dict[str, torch.Tensor]:
    return trained(HELPER)[1][-1].kept["last"]


def test_hat_adds_the_helpers_cross_entropy_to_trades():
    """CE(f(x), y), KL(p‖p') as for TRADES; p(x_h) = (1/5,4/5), (1/3,2/3), (1/2,1/2), labels 1, 0, 0: log 5/4, log 3, log 2."""
    loss = Hat().loss(CLEAN, ADV, LABEL, extra=EXTRA)
    torch.testing.assert_close(loss, NATURAL + 2.5 * DIVERGENCE + 0.5 * HELPED, atol=1e-6, rtol=0)
    loss = Hat(beta=3.0, gamma=2.0).loss(CLEAN, ADV, LABEL, extra=EXTRA)
    torch.testing.assert_close(loss, NATURAL + 3 * DIVERGENCE + 2 * HELPED, atol=1e-6, rtol=0)


def test_class_factors_leave_the_helpers_term_alone():
    natural, beta = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([0.0, 1.0, 3.0])
    loss = Hat().loss(CLEAN, ADV, LABEL, natural=natural, beta=beta, extra=EXTRA)
    expected = natural * NATURAL + 2.5 * beta * DIVERGENCE + 0.5 * HELPED
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)


def test_the_helpers_point_lies_beyond_the_adversarial_one_unclipped_and_with_the_helpers_label():
    """h = 2: x = 0.5, x' = 0.875 gives 1.25; x = 0.25, x' = 0.125 gives 0. The helper sees x' and calls 0.875 class 1."""
    x, adv = torch.tensor([0.5, 0.25]).reshape(2, 1, 1, 1), torch.tensor([0.875, 0.125]).reshape(2, 1, 1, 1)
    asked = []

    def ask(images: torch.Tensor) -> torch.Tensor:
        asked.append(images)
        return torch.cat([0.5 - images.flatten(1), images.flatten(1) - 0.5], 1)

    points, values = Hat().points(x, adv, {}, ask)
    assert points["beyond"].flatten().tolist() == [1.25, 0.0]
    assert values["label"].tolist() == [1, 0]
    assert len(asked) == 1 and asked[0] is adv
    assert Hat(stretch=1.0).points(x, adv, {}, ask)[0]["beyond"].flatten().tolist() == [0.875, 0.125]


def test_the_attack_ascends_the_divergence_or_the_cross_entropy_and_reads_the_clean_logits_only_for_the_former():
    """p_y(x') = 1/4, 1/2, 1/5."""
    torch.testing.assert_close(Hat().ascend(CLEAN, ADV, LABEL), DIVERGENCE, atol=1e-6, rtol=0)
    expected = torch.tensor([math.log(4), math.log(2), math.log(5)])
    torch.testing.assert_close(Hat(attack="ce").ascend(None, ADV, LABEL), expected, atol=1e-6, rtol=0)
    assert Hat().attack_needs_clean and not Hat(attack="ce").attack_needs_clean
    assert Hat.start == "gaussian"


def test_hat_with_gamma_zero_is_trades():
    trades = Trades(beta=2.5)
    assert torch.equal(Hat(gamma=0.0).loss(CLEAN, ADV, LABEL), trades.loss(CLEAN, ADV, LABEL))
    plain, results = trained(trial({"name": "trades", "beta": 2.5}))
    training, others = trained(helped({"name": "hat", "gamma": 0.0}))
    assert same_weights(plain.model, training.model)
    assert [timeless(result) for result in results] == [timeless(result) for result in others]


@pytest.mark.parametrize(("attack", "clean"), [("kl", 1), ("ce", 0)])
def test_hat_costs_three_training_passes_one_of_the_helper_and_no_clean_one_that_is_not_read(
    helper, attack, clean
):
    """K = 4: K gradients; K + 3 forwards of the network, one of the helper, one of the clean batch for the divergence."""
    one = helped({"name": "hat", "attack": attack})
    training, results = trained(one, helper=helper)
    n = len(training.dataset.train)
    for result in results:
        assert result.metrics["train/passes/input_gradient"] == 4 * n
        assert result.metrics["train/passes/forward"] == (4 + clean + 3 + 1) * n
        assert result.metrics["train/passes/weight_gradient"] == 3 * n
        assert math.isfinite(result.metrics["train/loss"])


def test_the_helper_is_asked_and_never_changed(helper):
    one = helped("hat")
    training, _ = trained(one, helper=helper)
    assert all(torch.equal(value, helper[name]) for name, value in training.helper.state_dict().items())
    another, _ = trained(one)  # with a helper of initial weights
    assert not same_weights(training.model, another.model)


def test_hat_without_a_helper_is_refused_where_it_is_planned():
    with pytest.raises(ValueError, match="the objective hat asks one"):
        trial("hat")
    with pytest.raises(ValueError, match="the objective hat asks one"):
        trial({"name": "awp", "base": "hat"})


def test_a_training_that_lost_its_helper_says_so():
    one = helped("hat")
    training = Training(one, dataset(one))
    training.helper = None
    with pytest.raises(RequestError, match="asks a helper"):
        next(iter(training))


@pytest.mark.parametrize("allowed", [{"beta": 0.0}, {"gamma": 0.0}, {"stretch": 0.0}])
def test_the_ends_of_the_ranges_are_allowed(allowed):
    assert Hat(**allowed)


@pytest.mark.parametrize("refused", [{"beta": -0.1}, {"gamma": -0.1}, {"stretch": -0.1}])
def test_values_beyond_the_ranges_are_refused(refused):
    with pytest.raises(ValueError, match="should be"):
        Hat(**refused)
