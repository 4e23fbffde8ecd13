"""Memory that was freed stays with the process, so that the next attack step takes it again.

An attack frees and takes the same tensors in every step. By default glibc returns what is larger than 32 MiB to the system
each time, and what lies at the end of its heap; taken again, it is mapped, zeroed and faulted in, 4 KiB at a time. For
PreActResNet-18 with batches of 128 in fp32 that is a fifth of a step (docs/performance.md). The process holds what it
needed at most, and gives it back when it ends. Elsewhere than on Linux with glibc nothing changes.
"""

from __future__ import annotations

import ctypes
from functools import cache

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt(3), from malloc.h
NEVER, NONE = -1, 0


@cache
def keep_freed() -> bool:
    """From now on no freed memory goes back to the system; whether that could be had."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or none to ask
        return False
    return bool(mallopt(TRIM_THRESHOLD, NEVER)) and bool(mallopt(MMAP_MAX, NONE))
