"""Class-wise counts of an epoch: every class by its own number, and what is said of a class that did not occur."""

from __future__ import annotations

from itertools import pairwise

import torch

from ham_core.classlog import ClassLog
from ham_core.metrics import size_edges


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


def test_step_sizes_are_counted_between_their_edges_with_the_mean_weight_of_each():
    """0.001 and 0.004 lie below the first edge, 2/400, with weights 1 and 2; 0.31 in bin 7, from 0.245 to 0.32; and 2, the
    largest there is, in the last."""
    log = ClassLog(2, torch.device("cpu"))
    log.step_sizes(torch.tensor([0.001, 0.31]), torch.tensor([1.0, 0.5]))
    log.step_sizes(torch.tensor([0.004, 2.0]), torch.tensor([2.0, 4.0]))
    found = {key: value for key, value in log.metrics(("a", "b")).items() if "step_size" in key}
    assert found == {
        "train/step_size/share_00": 0.5,
        "train/step_size/weight_00": 1.5,
        "train/step_size/share_07": 0.25,
        "train/step_size/weight_07": 0.5,
        "train/step_size/share_19": 0.25,
        "train/step_size/weight_19": 4.0,
    }
    edges = size_edges()
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    log.step_sizes(torch.tensor(middles), torch.ones(len(middles)))
    assert log.sizes is not None and log.sizes[0].tolist() == [3.0, *[1.0] * 6, 2.0, *[1.0] * 11, 2.0]
