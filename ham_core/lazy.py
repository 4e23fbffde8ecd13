"""`torch` and `F` on first use. The one place where a part of a method reaches torch.

A part's file holds its pydantic parameters beside its maths. Planning needs the parameters only, and importing torch takes
seconds, so these files write `from ham_core.lazy import F, torch` and pay when the first tensor is touched.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
    import torch.nn.functional as F
else:

    class _Lazy:
        def __init__(self, name: str) -> None:
            self.__dict__["_name"] = name

        def __getattr__(self, attribute: str) -> Any:
            return getattr(importlib.import_module(self._name), attribute)

    torch = _Lazy("torch")
    F = _Lazy("torch.nn.functional")
