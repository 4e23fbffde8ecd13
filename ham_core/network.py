"""A trial's network before its first step: initial weights, memory format, precision, and the averages that follow it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ham_core import models
from ham_core.averaging.base import Averaging
from ham_core.config import Trial
from ham_core.data.augment import to_float
from ham_core.data.split import Dataset, Split
from ham_core.randomness import derived_seed


def usable(device: str) -> torch.device:
    """`auto` is the GPU where there is one, else the CPU."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def build_model(trial: Trial, dataset: Dataset, device: torch.device) -> nn.Module:
    """The trial's network with its initial weights, in channels_last. Torch's global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(trial.seed, "weights"))
        model = models.build(
            trial.model.name,
            width=trial.model.width,
            classes=len(dataset.classes),
            channels=dataset.train.images.shape[1],
            mean=dataset.mean,
            std=dataset.std,
            normalize=trial.model.normalize,
        )
    return model.to(device).to(memory_format=torch.channels_last)


def fewest_rows(model: nn.Module, images: Split) -> int:
    """The smallest batch a step can be taken on: 2 where a BatchNorm would see one value per channel, else 1."""
    probe = copy.deepcopy(model).train()
    try:
        with torch.no_grad():
            probe(to_float(images.images[:1]))
    except ValueError:  # torch: "Expected more than 1 value per channel when training"
        return 2
    return 1


def average_of(model: nn.Module, part: Averaging) -> AveragedModel:
    """θ̄ with the part's rate. BatchNorm's statistics are averaged too; counters are copied."""

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        rate = part.rate(int(updates) - part.from_initial)
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(list(averaged), list(current), 1 - rate)
        else:
            for old, new in zip(averaged, current, strict=True):
                old.copy_(new)

    average = AveragedModel(model, multi_avg_fn=torch.no_grad()(update), use_buffers=True)
    if part.from_initial and not part.start_epoch:
        average.n_averaged.fill_(1)  # else torch's first update copies θ
    return average


def set_precision(precision: str) -> None:
    """fp32 means fp32 in convolutions too, which CUDA otherwise computes in TF32."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


@contextmanager
def exact_fp32() -> Iterator[None]:
    """fp32 as `set_precision("fp32")` means it, whatever the training or somebody's model has set; restored afterwards.

    Every evaluation runs in here: TF32 keeps ten bits, and would judge another function than the one that was trained.
    """
    backends: Any = torch.backends
    general = getattr(backends, "fp32_precision", None)  # PyTorch before 2.9 has none
    products = torch.get_float32_matmul_precision()
    try:
        convolutions = torch.backends.cudnn.allow_tf32
    except RuntimeError:  # somebody set the general one alone, which PyTorch cannot express in this
        convolutions = False
    if general is not None:
        backends.fp32_precision = "ieee"
    set_precision("fp32")
    try:
        yield
    finally:
        if general is not None:
            backends.fp32_precision = general
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
