"""Focal weights."""

from __future__ import annotations

import math

import pytest
import torch

from ham_core.mining.focal import Focal
from tests.builders import same_weights, trial
from tests.ham_core.mining.helpers import close, crafted, trained

HALF, QUARTER, THREE_QUARTERS = [0.0, 0.0], [0.0, math.log(3)], [math.log(3), 0.0]  # p_0
LOGITS = torch.tensor([HALF, QUARTER, THREE_QUARTERS])
LABELS = torch.tensor([0, 0, 0])


def test_weights_of_three_examples():
    """p_y = 1/2, 1/4, 3/4: (1 - p)² = 4/16, 9/16, 1/16 with sum 14/16, whose mean-one form is 12/14, 27/14, 3/14."""
    close(Focal().weigh_trained(LOGITS, LABELS), [12 / 14, 27 / 14, 3 / 14])


def test_without_normalising_the_weights_are_the_papers():
    close(Focal(normalise=False).weigh_trained(LOGITS, LABELS), [4 / 16, 9 / 16, 1 / 16])
    close(Focal(normalise=False, gamma=1.0).weigh_trained(LOGITS, LABELS), [1 / 2, 3 / 4, 1 / 4])
    close(Focal(normalise=False, gamma=0.5).weigh_trained(LOGITS, LABELS), [0.5**0.5, 0.75**0.5, 0.5])


def test_the_true_class_decides():
    """With label 1 p_y is 1/2, 3/4, 1/4."""
    close(Focal(normalise=False, gamma=1.0).weigh_trained(LOGITS, LABELS + 1), [1 / 2, 1 / 4, 3 / 4])


def test_examples_that_are_all_certain_weigh_the_same():
    certain = torch.tensor([[500.0, 0.0], [500.0, 0.0]])
    assert Focal().weigh_trained(certain, torch.tensor([0, 0])).tolist() == [1.0, 1.0]
    assert Focal(normalise=False).weigh_trained(certain, torch.tensor([0, 0])).tolist() == [0.0, 0.0]


def test_one_example_weighs_one():
    assert Focal().weigh_trained(LOGITS[:1], LABELS[:1]).tolist() == [1.0]


def test_the_defaults_are_the_published_ones():
    assert (Focal().gamma, Focal().normalise, Focal().start_epoch) == (2.0, True, 0)
    with pytest.raises(ValueError, match="gamma"):
        Focal(gamma=-1.0)


@pytest.mark.parametrize("normalise", [True, False])
def test_gamma_zero_is_adversarial_training_bit_for_bit(normalise):
    mined = trained(trial("at", {"name": "focal", "gamma": 0.0, "normalise": normalise}))
    assert same_weights(mined, trained(trial("at")))
    assert not same_weights(mined, trained(trial("at", {"name": "focal", "normalise": normalise})))


def test_the_attack_is_left_alone(batch):
    model, x, y = batch
    found, passes = crafted(trial("at", "focal"), model, x, y)
    whole, plain = crafted(trial("at"), model, x, y)
    assert torch.equal(found.adv, whole.adv) and found.weights is None and passes == plain
