"""Standard training: no attack, cross-entropy on the image."""

from __future__ import annotations

import math

import torch

from ham_core.objectives.standard import Standard
from ham_core.training import Training
from tests.builders import dataset, same_weights, trial


def test_standard_is_the_cross_entropy_on_the_image_that_no_attack_has_moved():
    """p_y = 1/4, 1/2, 1/5, so the losses are log 4, log 2, log 5."""
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [math.log(4.0), 0.0]])
    losses = Standard().loss(None, logits, torch.tensor([0, 0, 1]))
    expected = torch.tensor([math.log(4), math.log(2), math.log(5)])
    torch.testing.assert_close(losses, expected, atol=1e-6, rtol=0)


def test_standard_fixes_its_attack_to_none_whatever_the_trial_says():
    one = trial("standard", attack={"steps": 7, "start": "uniform"})
    assert (one.attack.steps, one.attack.start) == (0, "zero")
    assert Standard.start == "zero"


def test_standard_is_at_without_steps_from_the_image_and_costs_one_pass():
    """1F and 1(Bx+Bw) per image: no input gradient, no further forward pass."""
    one = trial("standard")
    training = Training(one, dataset(one))
    results = list(training)
    still = trial("at", attack={"steps": 0, "start": "zero"})
    other = Training(still, dataset(still))
    list(other)
    assert same_weights(training.model, other.model)
    n = len(training.dataset.train)
    for result in results:
        assert result.metrics["train/passes/input_gradient"] == 0
        assert result.metrics["train/passes/forward"] == n
        assert result.metrics["train/passes/weight_gradient"] == n
