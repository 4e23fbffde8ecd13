"""Stochastic gradient descent: torch.optim.SGD, without torch's compiler.

    v ← μ v + g + λ θ,     θ ← θ - η v     (nesterov: θ ← θ - η (g + λ θ + μ v))

torch wraps five methods of its optimisers so that torch.compile leaves them alone, and the wraps import torch._dynamo at
their first call: nearly the time of `import torch` again, in every process that trains, and 150 MiB. We compile no
optimiser, so this is the class without these wraps: the same arithmetic, operation for operation.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch


def _bare(method: Any) -> Any:
    """The function that torch wrote, below its wraps."""
    return inspect.unwrap(method)


class SGD(torch.optim.SGD):
    """Arguments, states and results of torch.optim.SGD; their `differentiable` is not supported."""

    add_param_group = _bare(torch.optim.SGD.add_param_group)
    zero_grad = _bare(torch.optim.SGD.zero_grad)
    state_dict = _bare(torch.optim.SGD.state_dict)
    load_state_dict = _bare(torch.optim.SGD.load_state_dict)
    step = torch.no_grad()(_bare(torch.optim.SGD.step))
