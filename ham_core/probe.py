"""How much of a GPU a trial needs: it is trained for a few steps, and the device is asked. Its results are thrown away."""

from __future__ import annotations

from dataclasses import replace

import torch

from ham_core.config import Trial
from ham_core.data.split import Dataset, Split
from ham_core.training import Training, load_data

BATCHES = 3  # the allocator has found its size by then
JUDGED = 1024  # images of the evaluation after an epoch: more than one batch of it


def memory_needed(trial: Trial, device: str | torch.device) -> tuple[int, int] | None:
    """(bytes in use at the peak, bytes of the device), with the process's own share and the images; None: no GPU.

    Everything else on the device counts as well, so nothing else should run there.
    """
    chosen = torch.device(device)
    if chosen.type != "cuda":
        return None
    for _ in Training(active(trial), few_images(load_data(trial, chosen), trial.batch_size), device=chosen):
        break
    free, total = torch.cuda.mem_get_info(chosen)
    return total - free, total  # the allocator keeps what it once had, so this is the peak


def active(trial: Trial) -> Trial:
    """The trial with mining and calibration from its first epoch on."""
    late = {
        word: part.model_copy(update={"start_epoch": 0})
        for word in ("mining", "calibration")
        if (part := getattr(trial.method, word)) is not None
    }
    return trial.model_copy(update={"method": trial.method.model_copy(update=late)})


def few_images(dataset: Dataset, batch: int) -> Dataset:
    """The data set with so many images that an epoch is a few steps."""

    def first(split: Split, count: int) -> Split:
        return Split(split.images[:count], split.labels[:count])

    return replace(
        dataset,
        train=first(dataset.train, BATCHES * batch),
        validation=first(dataset.validation, JUDGED),
        test=first(dataset.test, JUDGED),
    )
