"""Weights by the effective number of a class's images."""

from __future__ import annotations

import pytest
import torch

from ham_core.mining.class_balanced import ClassBalanced, class_weights, effective_numbers
from tests.builders import same_weights, trial
from tests.ham_core.mining.helpers import close, crafted, still, trained


def weights(counts: list[int], y: list[int], **settings: float) -> torch.Tensor | None:
    seen = still([[0.0] * len(counts)] * len(y), y=y)
    seen.counts = torch.tensor(counts)
    return ClassBalanced(**settings).weigh(seen)


def test_weights_of_three_examples():
    """β = 1/2, n = 1, 2, 3: E = 1, 3/2, 7/4; 1/E = 21/21, 14/21, 12/21 with sum 47/21; times 3/sum: 63, 42, 36 over 47."""
    close(weights([1, 2, 3], [0, 1, 2], beta=0.5), [63 / 47, 42 / 47, 36 / 47])
    close(weights([1, 2, 3], [2, 2, 0, 1], beta=0.5), [36 / 47, 36 / 47, 63 / 47, 42 / 47])


def test_the_effective_number_is_the_geometric_sum():
    """1 + β + β² + ...: for β = 1/2 it is 0, 1, 3/2, 7/4 of 0, 1, 2, 3 images."""
    assert effective_numbers(torch.tensor([0, 1, 2, 3]), 0.5).tolist() == pytest.approx([0, 1, 1.5, 1.75])


def test_a_class_without_images_counts_for_nothing():
    close(class_weights(torch.tensor([1, 0, 2, 3]), 0.5).float(), [63 / 47, 0.0, 42 / 47, 36 / 47])


def test_a_class_missing_from_the_batch_changes_no_weight():
    close(weights([1, 2, 3], [1], beta=0.5), [42 / 47])


def test_the_weights_of_the_classes_sum_to_their_number():
    for beta in (0.1, 0.9, 0.9999):
        assert float(class_weights(torch.tensor([5, 700, 60_000, 1]), beta).sum()) == pytest.approx(4)


def test_close_to_one_beta_weighs_by_the_inverse_count():
    """1/n = 4, 2, 1 over 4, times 3 / (7/4): 12/7, 6/7, 3/7."""
    close(weights([1, 2, 4], [0, 1, 2], beta=1 - 1e-12), [12 / 7, 6 / 7, 3 / 7])


def test_huge_classes_stay_finite_and_weigh_the_same():
    close(weights([10**9, 2 * 10**9], [0, 1]), [1.0, 1.0])


def test_balanced_classes_weigh_one():
    close(weights([180, 180, 180], [0, 1, 2]), [1.0, 1.0, 1.0])


def test_the_default_is_the_published_one():
    assert (ClassBalanced().beta, ClassBalanced().start_epoch) == (0.9999, 0)
    with pytest.raises(ValueError, match="beta"):
        ClassBalanced(beta=1.0)


def test_beta_zero_is_adversarial_training_bit_for_bit():
    assert weights([1, 2, 3], [0, 1, 2], beta=0.0) is None
    plain = trained(trial("at", epochs=1))
    assert same_weights(trained(trial("at", {"name": "class_balanced", "beta": 0.0}, epochs=1)), plain)


def test_the_attack_is_left_alone_and_its_rows_are_weighed(batch):
    model, x, y = batch
    counts = torch.tensor([5, 10, 20])
    found, passes = crafted(trial("at", "class_balanced"), model, x, y, counts=counts)
    whole, plain = crafted(trial("at"), model, x, y)
    assert torch.equal(found.adv, whole.adv) and passes == plain
    assert torch.equal(found.weights, class_weights(counts, 0.9999).float()[y])
    assert found.weights.dtype == torch.float32
