"""Tests of the core start from one random state, so that a failure can be had again."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _same_start() -> None:
    import torch

    torch.manual_seed(0)
