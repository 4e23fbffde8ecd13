"""Models by name: known parameter counts, the public layer names, and normalisation as the first layer."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest
import torch
from torch import Tensor, nn

from ham_core import models
from ham_core.errors import RequestError
from ham_core.models import build, names
from ham_core.models.sizes import numbers_in

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def preact_by_hand(a: int, b: int, c: int, d: int, channels: int, classes: int) -> int:
    """Convolutions 9 n m, shortcuts n m, BatchNorm 2 n each, final BatchNorm 2 d, linear (d + 1) classes."""

    def block(n: int, m: int) -> int:
        return 2 * n + 9 * n * m + 2 * m + 9 * m * m + (n * m if n != m else 0)

    layers = sum(block(n, m) + block(m, m) for n, m in ((a, a), (a, b), (b, c), (c, d)))
    return 9 * channels * a + layers + 2 * d + (d + 1) * classes


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("preact_resnet18", 11_172_170),
        ("resnet18", 11_173_962),
        ("small_cnn", 24_346),
        ("wrn28_10", 36_479_194),
        ("wrn34_10", 46_160_474),
    ],
)
def test_parameter_counts_are_the_known_ones(name: str, count: int) -> None:
    assert parameters(build(name, classes=10, channels=3, normalize=False)) == count


def test_the_count_of_preact_resnet18_follows_by_hand_at_every_width() -> None:
    assert preact_by_hand(64, 128, 256, 512, 3, 10) == 11_172_170
    narrow = build("preact_resnet18", width=0.125, classes=7, channels=1, normalize=False)
    assert parameters(narrow) == preact_by_hand(8, 16, 32, 64, 1, 7)


def test_the_layer_names_are_those_of_public_checkpoints() -> None:
    preact = set(build("preact_resnet18", width=0.1, classes=10, channels=3, normalize=False).state_dict())
    expected = ["conv1.weight", "bn.running_mean", "linear.bias", "layer1.0.bn1.weight", "layer1.0.conv1.weight",
                "layer2.0.shortcut.0.weight", "layer4.1.conv2.weight"]  # fmt: skip
    assert preact.issuperset(expected)
    assert not any(key.startswith(("layer1.0.shortcut", "normalize")) for key in preact)
    plain = set(build("resnet18", width=0.1, classes=10, channels=3, normalize=False).state_dict())
    assert plain.issuperset(["bn1.weight", "layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.running_var"])


@pytest.mark.parametrize("name", ["small_cnn", "preact_resnet18", "resnet18", "wrn28_10"])
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32), (3, 64)])
def test_every_model_takes_every_image_size(name: str, channels: int, side: int) -> None:
    model = build(name, width=0.05, classes=7, channels=channels, normalize=False)
    assert model(torch.rand(2, channels, side, side)).shape == (2, 7)


@pytest.mark.parametrize("name", ["small_cnn", "preact_resnet18", "resnet18", "wrn28_10"])
def test_normalisation_is_the_first_layer(name: str) -> None:
    torch.manual_seed(0)
    inside = build(name, width=0.1, classes=4, channels=3, mean=MEAN, std=STD)
    torch.manual_seed(0)
    outside = build(name, width=0.1, classes=4, channels=3, normalize=False)
    x = torch.rand(5, 3, 8, 8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    assert torch.equal(inside(x), outside((x - mean) / std))
    assert parameters(inside) == parameters(outside)
    assert inside.state_dict()["normalize.mean"].flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_normalisation_without_statistics_is_an_error() -> None:
    with pytest.raises(ValueError, match="give mean and std"):
        build("small_cnn", classes=10, channels=1, normalize=True)


@pytest.mark.parametrize("name", ["small_cnn", "preact_resnet18", "resnet18", "wrn28_10"])
def test_the_seed_alone_decides_the_initial_weights(name: str) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build(name, width=0.1, classes=4, channels=1, normalize=False).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


def test_the_preactivation_block_adds_the_raw_input_where_the_shape_stays() -> None:
    from ham_core.models.preact_resnet import Block

    block = Block(4, 4, 1).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), x)


def test_preact_resnet_normalises_and_cuts_before_pooling() -> None:
    model = build("preact_resnet18", width=0.05, classes=3, channels=1, normalize=False).eval()
    seen: list[Tensor] = []
    model.linear.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    nn.init.constant_(model.bn.bias, -1e6)  # type: ignore[union-attr, arg-type]
    model(torch.rand(2, 1, 8, 8))
    assert torch.equal(seen[0], torch.zeros_like(seen[0]))  # ReLU(BN(.)) of a very negative BN is 0


def test_wide_resnets_start_as_published() -> None:
    """N(0, 2 / (k² · outputs)) for k x k convolutions, bias 0: of 160 outputs √(2 / 1440) = 0.0373."""
    torch.manual_seed(0)
    state = build("wrn28_10", width=0.5, classes=10, channels=3, normalize=False).state_dict()
    assert float(state["block2.layer.0.conv1.weight"].std()) == pytest.approx((2 / 1440) ** 0.5, rel=0.02)
    assert torch.equal(state["fc.bias"], torch.zeros(10))


def test_the_smallest_width_keeps_one_channel() -> None:
    assert build("small_cnn", width=0.001, classes=2, channels=1, normalize=False)(
        torch.rand(1, 1, 8, 8)
    ).shape == (1, 2)


def test_unknown_names_and_widths_are_sentences() -> None:
    with pytest.raises(
        RequestError,
        match=r"'resnet81'; known: preact_resnet18, resnet18, small_cnn, wrn28_10, wrn34_10 \(did you mean resnet18\?\)",
    ):
        build("resnet81", classes=10, channels=3, normalize=False)
    with pytest.raises(RequestError, match=r"model\.width: 0"):
        build("small_cnn", width=0, classes=10, channels=3, normalize=False)


def test_a_model_of_another_package_joins_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("somebodys_models")

    def flat(width: float, classes: int, channels: int, normalize: nn.Module) -> nn.Module:
        return nn.Sequential(normalize, nn.Flatten(), nn.LazyLinear(classes))

    module.flat = flat  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebodys_models", module)
    point = EntryPoint("flat", "somebodys_models:flat", "ham_sweeps.models")
    monkeypatch.setattr(models, "entry_points", lambda group: [point] if group == "ham_sweeps.models" else [])
    monkeypatch.setattr(models, "_places", models._places.__wrapped__)
    assert "flat" in names()
    assert build("flat", classes=3, channels=1, normalize=False)(torch.rand(2, 1, 4, 4)).shape == (2, 3)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize(("width", "classes", "channels"), [(1.0, 10, 3), (0.25, 100, 3), (0.5, 10, 1)])
def test_the_numbers_of_a_state_dict_are_counted_without_building_it(
    name: str, width: float, classes: int, channels: int
) -> None:
    with torch.device("meta"):
        model = build(name, width=width, classes=classes, channels=channels, normalize=False)
    floats = sum(value.numel() for value in model.state_dict().values() if value.is_floating_point())
    assert numbers_in(name, width, classes, channels) == floats
