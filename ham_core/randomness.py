"""Every random stream of a trial, derived from its seed.

A stream is named and belongs to one epoch, so nothing random has to be saved: an epoch starts from the weights alone, a
continued training equals an unbroken one, and methods that differ in mining see the same batches and start points.
"""

from __future__ import annotations

import hashlib

import torch


def derived_seed(seed: int, stream: str, epoch: int = 0) -> int:
    """63 bits, independent for all practical purposes of those of other streams and epochs."""
    digest = hashlib.sha256(f"{seed}/{stream}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, stream: str, epoch: int = 0, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh generator of that stream."""
    return torch.Generator(device).manual_seed(derived_seed(seed, stream, epoch))
