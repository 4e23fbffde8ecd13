"""OHEM: the examples with the highest loss."""

from __future__ import annotations

import pytest
import torch

from ham_core.mining.ohem import Ohem
from tests.builders import same_weights, trial
from tests.ham_core.mining.helpers import crafted, seen, still, trained


@pytest.mark.parametrize(
    ("share", "kept"), [(0.1, [2]), (1 / 3, [2]), (0.34, [0, 2]), (0.5, [0, 2]), (2 / 3, [0, 2])]
)
def test_the_share_with_the_highest_loss_is_kept(share, kept):
    """CE of logits (0,0), (2,0), (0,1) with label 0 is log 2 = 0.693, log(1 + e^-2) = 0.127, log(1 + e) = 1.313."""
    three = still([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    assert Ohem(share=share).finish(three).nonzero().flatten().tolist() == kept


def test_the_true_label_decides_about_the_loss():
    """The same logits, other labels: log 2, log(1 + e^2) = 2.127, log(1 + e^-1) = 0.313."""
    three = still([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]], y=[1, 1, 1])
    assert Ohem(share=1 / 3).finish(three).tolist() == [False, True, False]


def test_the_loss_is_that_of_the_adversarial_example():
    """By the clean logits example 0 would be the harder one."""
    two = seen([[[3.0, 0.0], [0.0, 3.0]]], clean=[[0.0, 9.0], [9.0, 0.0]], y=[0, 0])
    assert Ohem(share=0.5).finish(two).tolist() == [False, True]


def test_of_equal_losses_the_earlier_stay():
    assert Ohem(share=0.5).finish(still([[1.0, 0.0]] * 5)).tolist() == [True, True, True, False, False]


def test_the_number_kept_is_exact_where_floating_point_is_not():
    """0.07 * 100 is 7.000000000000001."""
    hundred = still([[0.1 * i, 0.0] for i in range(100)])
    assert int(Ohem(share=0.07).finish(hundred).sum()) == 7


def test_half_is_kept_by_default():
    assert (Ohem().share, Ohem().start_epoch) == (0.5, 0)
    for wrong in (0.0, 1.1):
        with pytest.raises(ValueError, match="share"):
            Ohem(share=wrong)


def test_where_everyone_is_kept_nothing_is_asked():
    """Also where the share is below 1 but rounds up to everyone."""
    for rule, n in ((Ohem(share=1.0), 4), (Ohem(share=0.9), 4), (Ohem(share=0.1), 1)):
        one = still([[1.0, 0.0]] * n)
        one.predict = lambda images: pytest.fail("a forward pass that is not needed")
        assert rule.finish(one) is None


def test_a_share_of_one_is_adversarial_training_bit_for_bit(batch):
    mined = trained(trial("at", {"name": "ohem", "share": 1.0}))
    assert same_weights(mined, trained(trial("at")))
    assert not same_weights(mined, trained(trial("at", "ohem")))
    model, x, y = batch
    assert (
        crafted(trial("at", {"name": "ohem", "share": 1.0}), model, x, y)[1]
        == crafted(trial("at"), model, x, y)[1]
    )


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_mining_costs_one_forward_pass_and_leaves_the_rest_out(batch, objective):
    model, x, y = batch
    whole, plain = crafted(trial(objective, epsilon=0.05), model, x, y)
    found, passes = crafted(trial(objective, "ohem", epsilon=0.05), model, x, y)
    loss = torch.nn.functional.cross_entropy(model(whole.adv), y, reduction="none")
    assert passes["forward"] == plain["forward"] + 50 and passes["input_gradient"] == plain["input_gradient"]
    assert found.rows.tolist() == sorted(loss.argsort(descending=True)[:25].tolist())
    assert torch.equal(found.adv, whole.adv[found.rows]) and found.weights is None
    ((labels, right),) = found.left
    assert len(labels) == 25 and bool(right.any())
