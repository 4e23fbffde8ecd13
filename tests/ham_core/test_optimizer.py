"""Our SGD is torch's, without its compiler."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch

from ham_core.models import build
from ham_core.optimizer import SGD
from tests.builders import trial

SETTINGS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True},
]


def trained(kind: type[torch.optim.Optimizer], settings: dict[str, Any], steps: int = 3) -> Any:
    """(weights, state of the optimiser) after a few steps, with the state written and read after the second."""
    torch.manual_seed(0)
    model = build("small_cnn", width=0.25, classes=3, channels=1, mean=(0.5,), std=(0.5,), normalize=True)
    x, y = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    optimizer = kind(model.parameters(), **settings)
    for step in range(steps):
        if step == 2:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = kind(model.parameters(), lr=1.0)
            optimizer.load_state_dict(state)
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.state_dict(), optimizer.state_dict()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_weights_and_states_are_those_of_torchs_sgd_bit_for_bit(settings: dict[str, Any]) -> None:
    (ours, our_state), (theirs, their_state) = trained(SGD, settings), trained(torch.optim.SGD, settings)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert our_state["param_groups"] == their_state["param_groups"]
    assert our_state["state"].keys() == their_state["state"].keys()
    for key, entry in their_state["state"].items():
        mine = our_state["state"][key]["momentum_buffer"]
        assert torch.equal(mine, entry["momentum_buffer"]) if "momentum" in settings else mine is None


def test_a_step_leaves_no_graph_behind_and_gradients_switched_on() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = SGD([weight], lr=0.5)
    weight.sum().backward()
    optimizer.step()
    assert weight.tolist() == [0.5, 0.5] and weight.grad_fn is None and torch.is_grad_enabled()
    optimizer.zero_grad()
    assert weight.grad is None


def test_a_training_from_its_start_to_its_end_loads_no_compiler() -> None:
    """In a process of its own: two epochs with an average, judged, its state taken and restored."""
    one = trial(method={"averaging": "ema"}).model_dump_json()
    code = f"""
import sys
from ham_core.config import Trial
from ham_core.training import Training, load_data
one = Trial.model_validate_json({one!r})
training = Training(one, load_data(one))
list(training)
Training(one, load_data(one)).restore(training.state())
print([name for name in ("torch._dynamo", "torch._inductor", "sklearn", "pandas") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
