"""The short training that measures a trial's memory."""

from __future__ import annotations

import pytest
import torch

from ham_core.probe import BATCHES, active, few_images, memory_needed
from ham_core.training import Training, load_data
from tests.builders import trial

HAM = {"name": "ham", "start_epoch": 1, "early_drop_step": 1}


def test_without_a_gpu_there_is_nothing_to_measure() -> None:
    assert memory_needed(trial(), "cpu") is None


def test_the_measured_epoch_is_short_and_has_all_parts_at_work() -> None:
    one = trial("at", HAM, batch_size=16)
    images = few_images(load_data(one), one.batch_size)
    (result, *_) = Training(active(one), images)
    assert result.metrics["train/images"] == BATCHES * 16
    assert any(name.startswith("train/hard") for name in result.metrics)
    assert not any(name.startswith("train/hard") for name in next(iter(Training(one, images))).metrics)


@pytest.mark.cuda
def test_a_larger_batch_needs_more_memory() -> None:
    found = [memory_needed(trial(batch_size=size), torch.device("cuda")) for size in (8, 64)]
    assert all(one is not None and 0 < one[0] < one[1] for one in found)
