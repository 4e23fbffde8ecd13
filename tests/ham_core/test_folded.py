"""Attacks in evaluation mode see the network with its BatchNorms folded into the convolutions: the same function."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ham_core import models
from ham_core.adversary import Streams, craft
from ham_core.attacks.pgd import under_attack
from ham_core.models import folded as module
from ham_core.models.folded import folded, folding
from ham_core.randomness import generator
from ham_core.training import Training
from tests.builders import dataset, trial

every_model = pytest.mark.parametrize(
    ("name", "width"),
    [
        ("preact_resnet18", 0.125),
        ("preact_resnet18", 0.01),  # one channel per layer, so that strides alone ask for shortcuts
        ("resnet18", 0.125),
        ("small_cnn", 1.0),
        ("wrn28_10", 0.1),  # the first group has no shortcut convolution
        ("wrn28_10", 0.05),
    ],
)


def network(name: str, width: float, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A network whose BatchNorms have seen images, with scales of both signs and of zero."""
    torch.manual_seed(0)
    model = models.build(name, width=width, classes=7, channels=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(-0.5, 1.5)
            norm.weight[len(norm.weight) // 2 :: 5] = 0.0 if len(norm.weight) > 4 else -0.5
            norm.bias.normal_(0, 0.3)
        model.train()
        model(torch.rand(16, 3, 16, 16))
    return model.eval().requires_grad_(False).to(dtype, memory_format=torch.channels_last)


def pixels(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)


Y = torch.arange(5)


def seen(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """(logits, ∂/∂x of a sum over them that weighs every class)."""
    x = x.clone().requires_grad_()
    logits = net(x)
    (gradient,) = torch.autograd.grad((logits * torch.arange(1, 8)).sum() + F.cross_entropy(logits, Y), x)
    return logits.detach(), gradient


def off(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm())


@every_model
def test_a_folded_network_is_the_same_function_with_the_same_input_gradient(name, width):
    model = network(name, width)
    net = folded(model)
    assert net is not None
    for found, right in zip(seen(net, pixels()), seen(model, pixels()), strict=True):
        assert off(found, right) < 1e-12


@every_model
def test_the_fused_convolutions_agree_with_double_precision(name, width):
    """In float32 the convolutions are oneDNN's with a ReLU or a sum at their end, where there is a oneDNN. Images of which no
    unit changes sides, which is every one here, have the gradient to a relative 1e-5.
    """
    net = folded(network(name, width, torch.float32))
    assert net is not None
    found, right = seen(net, pixels(torch.float32)), seen(network(name, width), pixels())
    assert off(found[0].double(), right[0]) < 1e-5
    for one, other in zip(found[1].double(), right[1], strict=True):
        assert off(one, other) < 1e-5


@every_model
def test_plain_convolutions_give_what_the_fused_give(name, width, monkeypatch):
    model = network(name, width, torch.float32)
    fused = seen(folded(model), pixels(torch.float32))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = seen(folded(model), pixels(torch.float32))
    for found, right in zip(plain, fused, strict=True):
        assert off(found, right) < 1e-5


@every_model
def test_in_bf16_a_folded_network_is_as_close_as_autocast(name, width):
    model, x = network(name, width, torch.float32), pixels(torch.float32)
    net = folded(model, torch.bfloat16)
    assert net is not None
    right = seen(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = model(x).float()
    found = seen(net, x)
    assert found[0].dtype == found[1].dtype == torch.float32
    assert off(found[0], right[0]) < 2 * off(cast, right[0])
    assert off(found[0], right[0]) > 1e-6  # it is bf16 indeed


def test_a_pass_without_gradient_leaves_its_input_alone():
    model, x = network("preact_resnet18", 0.125), pixels()
    before = x.clone()
    with torch.no_grad():
        logits = folded(model)(x)  # type: ignore[misc]
        assert torch.equal(folded(model)(x), logits)  # type: ignore[misc]
    assert torch.equal(x, before)


def test_folding_lasts_as_long_as_its_block_and_keeps_hooks():
    model, x, calls = network("small_cnn", 1.0), pixels(), []
    own = model(x)
    model.register_forward_hook(lambda *_: calls.append(1))
    with folding(model):
        inside = model(x)
        model.blocks[0][0].weight.zero_()  # type: ignore[index, operator, union-attr]
        assert torch.equal(model(x), inside)  # the weights of the first call
    assert "forward" not in vars(model)
    assert off(inside, own) < 1e-12
    assert not torch.equal(model(x), own)
    assert len(calls) == 3


def test_the_last_layer_stays_in_float32_under_autocast():
    model, x = network("small_cnn", 1.0, torch.float32), pixels(torch.float32)
    with folding(model, "bf16"), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).dtype == torch.float32


def test_an_unknown_network_is_attacked_as_it_is():
    class Mine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :7]

    model, x = Mine(), pixels()
    assert folded(model) is None
    with folding(model):
        assert torch.equal(model(x), x.flatten(1)[:, :7])


def test_other_peoples_forms_are_attacked_as_they_are():
    raw = copy.deepcopy(network("preact_resnet18", 0.125))
    raw.layer1[0].raw = True  # type: ignore[index, operator, union-attr]
    bare = copy.deepcopy(network("preact_resnet18", 0.125))
    bare.bn = None
    assert folded(raw) is None
    assert folded(bare) is None


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_attacks_in_evaluation_mode_are_folded_and_no_others(mode, monkeypatch):
    one = trial("at", attack={"mode": mode, "steps": 2})
    training, made = Training(one, dataset(one)), []
    monkeypatch.setattr(module, "folded", lambda *a: made.append(1) or folded(*a))
    train = training.dataset.train
    streams = Streams(generator(0, "noise"), generator(0, "mining"))
    craft(
        training.model,
        train.images[:8] / 255,
        train.labels[:8],
        one,
        epoch=0,
        streams=streams,
        passes=Counter(),
    )
    assert len(made) == (mode == "eval")  # once per batch


def test_an_attack_of_no_steps_folds_nothing(monkeypatch):
    monkeypatch.setattr(module, "folded", lambda *a: pytest.fail("folded"))
    model = network("small_cnn", 1.0)
    with under_attack(model, "eval"), folding(model):
        pass


@pytest.mark.cuda
def test_on_a_gpu_a_folded_network_is_the_same_function():
    model = network("preact_resnet18", 0.125).to("cuda")
    x = pixels().to("cuda")
    net = folded(model)
    assert net is not None
    logits = model(x)
    assert off(net(x), logits) < 1e-12
