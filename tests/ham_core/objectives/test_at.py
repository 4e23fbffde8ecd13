"""AT: the cross-entropy on x', for the attack and for the training."""

from __future__ import annotations

import math

import torch

from ham_core.objectives.at import AT

ADV = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [math.log(4.0), 0.0]])
LABEL = torch.tensor([0, 0, 1])
EXPECTED = torch.tensor([math.log(4), math.log(2), math.log(5)])


def test_at_is_the_cross_entropy_on_the_adversarial_example():
    """p_y(x') = 1/4, 1/2, 1/5, so the losses are log 4, log 2, log 5."""
    torch.testing.assert_close(AT().loss(None, ADV, LABEL), EXPECTED, atol=1e-6, rtol=0)
    torch.testing.assert_close(AT().ascend(None, ADV, LABEL), EXPECTED, atol=1e-6, rtol=0)


def test_class_weights_multiply_the_main_term_and_at_has_no_other():
    natural = torch.tensor([1.0, 2.0, 0.5])
    torch.testing.assert_close(AT().loss(None, ADV, LABEL, natural=natural), natural * EXPECTED)
    assert torch.equal(AT().loss(None, ADV, LABEL, beta=natural), AT().loss(None, ADV, LABEL))


def test_an_objective_that_says_nothing_else_leaves_the_attack_and_the_step_as_they_are():
    objective = AT()
    assert objective.root is objective
    assert objective.attack_settings(0.1) == {} and objective.start == "uniform"
    assert objective.jitter() == 0 and objective.passes_per_batch() == 1 and objective.probe_steps() == 0
    assert objective.carried({}, ADV) is None
    assert objective.points(ADV, ADV, {}, lambda images: images) == ({}, {})
    assert not objective.collapsed(1.0, 0.0)
