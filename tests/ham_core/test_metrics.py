"""Class-wise statistics against values derived by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ham_core.metrics import class_key, class_keys, confusion, metric_name, summarize, under_all

CLASSES = ["cat", "dog", "frog"]
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
CORRECT = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 1], dtype=bool)


def test_every_statistic_of_an_unbalanced_example():
    """Class accuracies 3/4, 1/2, 1/4; five of ten images right."""
    found = summarize(LABELS, CORRECT, CLASSES)
    assert found == {
        "avg": 0.5,
        "worst": 0.25,
        "worst20": 0.25,
        "std": pytest.approx(math.sqrt((0.25**2 + 0 + 0.25**2) / 3)),
        "gap": 0.5,
        "00_cat": 0.75,
        "01_dog": 0.5,
        "02_frog": 0.25,
    }


def test_the_average_is_the_class_accuracies_weighted_by_class_size():
    found = summarize(LABELS, CORRECT, CLASSES)
    sizes = np.bincount(LABELS)
    assert found["avg"] == sum(
        found[key] * n for key, n in zip(class_keys(CLASSES), sizes, strict=True)
    ) / len(LABELS)


def test_worst20_averages_the_worst_fifth_of_the_classes_rounded_up():
    labels = np.arange(11).repeat(10)
    correct = np.concatenate([np.arange(10) < c for c in range(11)])
    found = summarize(labels, correct, [str(c) for c in range(11)])
    assert found["worst"] == 0.0 and found["worst20"] == pytest.approx((0.0 + 0.1 + 0.2) / 3)


def test_a_class_without_images_takes_no_part():
    found = summarize(np.array([0, 2]), np.array([True, False]), CLASSES)
    assert "01_dog" not in found and found["worst"] == 0.0 and found["gap"] == 1.0


def test_names_sort_by_class_and_hold_only_what_trackers_take():
    assert class_key(3, [*CLASSES, "Müller's, 100%"]) == "03_M_ller_s__100_"
    assert class_key(7, [str(i) for i in range(1001)]) == "0007_7"
    assert metric_name("best", "pgd20", "worst") == "best/pgd20/worst"


def test_the_confusion_matrix_has_true_classes_in_rows():
    assert confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist() == [[1, 1], [0, 1]]


def test_the_union_of_attacks_is_right_where_all_of_them_leave_the_image_right() -> None:
    label = np.array([0, 1, 2, 0])
    first, second = np.array([0, 1, 0, 0]), np.array([0, 2, 2, 0])
    assert under_all(label, first, second).tolist() == [True, False, False, True]
    assert under_all(label, first).tolist() == (first == label).tolist()
