"""Freed memory stays with the process: the same tensors taken again cost no page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ham_core.memory import keep_freed

FAULTS = """
import resource, torch
from ham_core.memory import keep_freed
{first}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.empty(40 * 2**20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def faults(first: str) -> int:
    """Page faults of filling 40 MiB ten times, after it was done before."""
    run = subprocess.run([sys.executable, "-c", FAULTS.format(first=first)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@pytest.mark.skipif(not keep_freed(), reason="needs Linux with glibc")
def test_memory_that_was_freed_is_taken_again_without_page_faults() -> None:
    kept, given_back = faults("keep_freed()"), faults("")
    assert 5 * kept < given_back, f"{kept} page faults, {given_back} as glibc has it"


def test_it_may_be_asked_for_again() -> None:
    assert keep_freed() == keep_freed()
