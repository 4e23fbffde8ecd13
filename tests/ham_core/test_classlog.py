"""Class-wise counts of an epoch: every class by its own number, and what is said of a class that did not occur."""

from __future__ import annotations

import torch

from ham_core.classlog import ClassLog


def logits_for(predicted: list[int], classes: int = 3) -> torch.Tensor:
    return 10 * torch.eye(classes)[torch.tensor(predicted)]


def test_rates_are_by_each_class_s_own_count():
    """Class 0: 3 of 4 right over two batches, class 1: 0 of 1, class 2: 1 of 1."""
    log = ClassLog(3, torch.device("cpu"))
    log.batch(torch.tensor([0, 0, 1]), logits_for([0, 2, 0]), torch.tensor(1.0), None)
    log.batch(
        torch.tensor([0, 0, 2]), logits_for([0, 0, 2]), torch.tensor(3.0), torch.tensor([1.0, 3.0, 0.5])
    )
    assert log.robust_shares(None).tolist() == [0.75, 0.0, 1.0]
    metrics = log.metrics(("a", "b", "c"))
    assert metrics["train/robust/00_a"] == 0.75 and metrics["train/robust/all"] == 4 / 6
    assert metrics["train/loss"] == 2.0
    assert metrics["train/weight/00_a"] == 2.0 and "train/weight/01_b" not in metrics


def test_examples_that_mining_lets_go_count_with_what_is_known_of_them():
    log = ClassLog(2, torch.device("cpu"))
    log.right(torch.tensor([0, 0, 1]), torch.tensor([True, True, False]))
    log.batch(torch.tensor([0, 1]), logits_for([1, 1], 2), torch.tensor(1.0), None)
    torch.testing.assert_close(log.robust_shares(None), torch.tensor([2 / 3, 1 / 2]))


def test_a_class_that_did_not_occur_keeps_its_rate_or_has_the_mean_of_the_others():
    log = ClassLog(3, torch.device("cpu"))
    assert log.robust_shares(None).tolist() == [0.0, 0.0, 0.0]
    before = torch.tensor([0.1, 0.2, 0.3])
    assert torch.equal(log.robust_shares(before), before)
    log.batch(torch.tensor([0, 0, 1]), logits_for([0, 1, 1]), torch.tensor(1.0), None)
    torch.testing.assert_close(log.robust_shares(before), torch.tensor([0.5, 1.0, 0.3]))
    torch.testing.assert_close(log.robust_shares(None), torch.tensor([0.5, 1.0, 0.75]))


def test_the_confusion_is_the_mean_prediction_per_true_class():
    """Class 0 saw p = (3/4, 1/4) and (1/4, 3/4), class 1 nothing."""
    log = ClassLog(2, torch.device("cpu"))
    assert log.confusion() is None
    third = float(torch.tensor(3.0).log())
    log.confidences(torch.tensor([0]), torch.tensor([[third, 0.0]]))
    log.confidences(torch.tensor([0]), torch.tensor([[0.0, third]]))
    torch.testing.assert_close(log.confusion(), torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
