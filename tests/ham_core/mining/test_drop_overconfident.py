"""Which over-confident examples leave."""

from __future__ import annotations

import math

import pytest
import torch

from ham_core.mining.base import overconfidence
from ham_core.mining.drop_overconfident import DropOverconfident, keep_after_drop
from tests.builders import trial
from tests.ham_core.mining.helpers import close, crafted, example, seen


def test_overconfidence_is_the_gain_of_the_true_class():
    gap = overconfidence(example())
    p_adv, p_clean = example().current().softmax(1)[:, 0], example().clean().softmax(1)[:, 0]
    assert torch.equal(gap, p_adv - p_clean)


def test_confidence_may_be_that_of_the_predicted_class():
    """p of sample 0: clean (σ(6), ·), adversarial (σ(-2), σ(2)): p_y falls by σ(6) - σ(-2), the largest by σ(6) - σ(2).

    Sample 1 goes from σ(1) to σ(3) in the wrong class: over-confident there, less confident in the true one.
    """

    def sigma(d: float) -> float:
        return 1 / (1 + math.exp(-d))

    close(
        overconfidence(example(), "predicted_class"),
        [sigma(2) - sigma(6), sigma(3) - sigma(1), sigma(2) - sigma(1)],
    )
    close(overconfidence(example()), [sigma(-2) - sigma(6), sigma(-3) - sigma(-1), sigma(-2) - sigma(-1)])


@pytest.mark.parametrize(
    ("rate", "dropped"), [(0.0, []), (0.1, []), (0.34, [1]), (0.67, [1, 3]), (1.0, [0, 1, 3])]
)
def test_the_share_of_the_overconfident_that_gained_most_is_dropped(rate, dropped):
    """Over-confident are rows 0, 1, 3 with gains .1, .5, .2; row 2 lost confidence and always stays."""
    gap = torch.tensor([0.1, 0.5, -0.3, 0.2])
    assert (~keep_after_drop(gap, rate, gap)).nonzero().flatten().tolist() == dropped


def test_an_unchanged_confidence_is_not_overconfident():
    gap = torch.tensor([0.0, 0.1])
    assert keep_after_drop(gap, 1.0, gap).tolist() == [True, False]


def test_of_equal_gains_the_earlier_leave():
    gap = torch.full((4,), 0.25)
    assert keep_after_drop(gap, 0.5, gap).tolist() == [False, False, True, True]


def test_the_number_dropped_is_exact_where_floating_point_is_not():
    gap = torch.arange(1, 101, dtype=torch.float32)
    assert int((~keep_after_drop(gap, 0.29, gap)).sum()) == 29


def test_by_default_a_tenth_leaves_judged_by_the_true_class():
    """Ten examples whose p_y rises by different gains: the one with the largest leaves."""
    rule = DropOverconfident()
    assert (rule.drop_rate, rule.choose, rule.confidence, rule.start_epoch) == (
        0.1,
        "most_confident",
        "true_class",
        0,
    )
    ten = seen([[[0.1 * i, 0.0] for i in range(1, 11)]], clean=[[0.0, 0.0]] * 10, y=[0] * 10)
    assert rule.finish(ten).tolist() == [True] * 9 + [False]
    assert ten.flags["overconfident"][1].all()


def test_an_unchanged_confidence_is_not_noted_as_overconfidence():
    two = seen([[[1.0, 0.0], [2.0, 0.0]]], clean=[[1.0, 0.0], [1.0, 0.0]], y=[0, 0])
    DropOverconfident().finish(two)
    assert two.flags["overconfident"][1].tolist() == [False, True]


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_a_share_is_between_none_and_all(rate):
    with pytest.raises(ValueError, match="drop_rate"):
        DropOverconfident(drop_rate=rate)


def test_by_the_predicted_class_others_leave():
    """Sample 0 gains in the wrong class, sample 1 in the true one."""
    two = seen([[[0.0, 3.0], [3.0, 0.0]]], clean=[[0.0, 1.0], [1.0, 0.0]], y=[0, 0])
    assert DropOverconfident(drop_rate=1.0).finish(two).tolist() == [True, False]
    assert DropOverconfident(drop_rate=1.0, confidence="predicted_class").finish(two).tolist() == [
        False,
        False,
    ]


def test_the_random_arm_drops_as_many_of_the_overconfident_and_no_others():
    rule = DropOverconfident(drop_rate=0.5, choose="random")
    many = seen([[[float(i % 3), 0.0]] * 1 for i in range(1)], clean=[[0.5, 0.0]], y=[0])
    many.x, many.adv = torch.rand(40, 2), torch.rand(40, 2)
    many.y = torch.zeros(40, dtype=torch.long)
    over = overconfidence(many) > 0
    keep = rule.finish(many)
    assert keep is not None
    assert int((~keep).sum()) == int(over.sum()) // 2
    assert bool(over[~keep].all())
    gap = overconfidence(many)
    assert not torch.equal(keep, keep_after_drop(gap, 0.5, gap))


def test_drop_overconfident_keeps_all_others_and_notes_the_share(batch):
    model, x, y = batch
    settings = {"attack": {"steps": 1, "step": 0.0, "start": "uniform"}, "epsilon": 0.3}
    rule = {"name": "drop_overconfident", "drop_rate": 0.3}
    whole, plain = crafted(trial("at", **settings), model, x, y)
    found, passes = crafted(trial("at", rule, **settings), model, x, y)
    over = int(found.flags["overconfident"][1].sum())
    assert over > 0 and len(found.rows) == 50 - math.floor(0.3 * over)
    assert found.weights is None and passes["forward"] == plain["forward"] + 100
    assert torch.equal(found.adv, whole.adv[found.rows])
    assert torch.equal(found.y, y[found.rows])


def test_with_drop_rate_zero_everyone_stays(batch):
    model, x, y = batch
    found, _ = crafted(trial("at", {"name": "drop_overconfident", "drop_rate": 0.0}), model, x, y)
    whole, _ = crafted(trial("at"), model, x, y)
    assert torch.equal(found.adv, whole.adv) and found.weights is None


def test_a_batch_of_one_is_kept_or_dropped(batch):
    model, x, y = batch
    rule = {"name": "drop_overconfident", "drop_rate": 1.0, "confidence": "predicted_class"}
    found, _ = crafted(trial("at", rule), model, x[:1], y[:1])
    assert len(found.rows) == 1 - int(found.flags["overconfident"][1].sum())
