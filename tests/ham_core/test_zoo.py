"""Networks of RobustBench's zoo by name: the package's own architectures, files where its loader would put them."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ham_core import foreign, zoo
from ham_core.data.source import Facts
from ham_core.data.split import Dataset, Split
from ham_core.errors import RequestError
from ham_core.foreign import Request
from ham_core.protocol import EvaluationAttack

NAME = (
    "Wong2020Fast"  # the smallest network of the zoo: PreActResNet-18, statistics in buffers `mu` and `sigma`
)
MODEL = zoo.Model(NAME, "cifar10", "Linf")
CLEAN = EvaluationAttack.model_validate("clean")


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """The package's own class, with random weights and statistics of BatchNorm."""
    zoo.package()
    from robustbench.model_zoo.cifar10 import Wong2020FastNet

    torch.manual_seed(2)
    net: nn.Module = Wong2020FastNet()
    for key, tensor in net.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return net.eval()


def pixels(count: int = 40) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5)
    )


def images(labels: Tensor) -> Dataset:
    """Random pictures in CIFAR-10's shape."""
    split = Split(pixels(len(labels)), labels)
    sizes = (len(labels), len(labels))
    names = tuple("abcdefghij")
    facts = Facts("cifar10", "cifar10", names, (3, 32, 32), "train", "test", 0, False, 0.0, "nowhere", sizes)
    return Dataset(split, split, split, facts, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("HAM_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def read(place: Path | None = None, **more: Any) -> nn.Module:
    """The network behind robustbench:NAME."""
    request = Request(f"robustbench:{NAME}", place, **more)
    dataset = images(torch.arange(40) % 10)
    net, statistics, _ = foreign._read(request, dataset, foreign._member(request, "cifar10"))
    assert statistics is None
    return net.eval()


def saved(place: Path, value: Any) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, place)
    return place


def without(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {key: one for key, one in state.items() if key not in names}


LAYOUTS = {
    "plain": lambda state: state,
    "in state_dict and DataParallel": lambda state: {
        "state_dict": {f"module.{k}": one for k, one in state.items()}
    },
    "some names wrapped": lambda state: {
        k if k in ("mu", "sigma") else f"model.{k}": o for k, o in state.items()
    },
    "without statistics": lambda state: without(state, "mu", "sigma"),
    "with what their loader leaves out": lambda state: state | {"conv1.scores": torch.ones(2)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_in_the_zoos_place_gives_the_logits_of_the_packages_class(
    layout: str, theirs: nn.Module, cache: Path
) -> None:
    saved(cache / "robustbench" / "cifar10" / "Linf" / f"{NAME}.pt", LAYOUTS[layout](theirs.state_dict()))
    x = pixels(3).float() / 255
    with torch.no_grad():
        assert torch.equal(read()(x), theirs(x))


def test_their_own_loader_finds_the_same_file_and_the_same_logits(theirs: nn.Module, cache: Path) -> None:
    saved(MODEL.file, theirs.state_dict())
    zoo.package()
    from robustbench.utils import load_model

    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        loaded = load_model(NAME, cache / "robustbench", "cifar10", "Linf")
        x = pixels(3).float() / 255
        assert torch.equal(read()(x), loaded(x))


def test_a_file_of_another_name_comes_by_checkpoint(theirs: nn.Module, cache: Path, tmp_path: Path) -> None:
    x = pixels(2).float() / 255
    with torch.no_grad():
        assert torch.equal(read(saved(tmp_path / "brought.pt", theirs.state_dict()))(x), theirs(x))
    assert not MODEL.file.exists()


def test_a_model_of_the_zoo_is_judged_with_what_it_is(
    theirs: nn.Module, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its labels are what it says of the pictures, shifted so that several classes occur."""
    x = pixels().float() / 255
    state = dict(theirs.state_dict())
    with torch.no_grad():
        logits = theirs(x)
        state["linear.bias"] = state["linear.bias"] - logits.mean(0)
        labels = (logits - logits.mean(0)).argmax(1)
    dataset = images(labels)
    monkeypatch.setattr(foreign, "_dataset", lambda *arguments: dataset)
    saved(MODEL.file, state)
    (clean,) = foreign.evaluate(Request(f"robustbench:{NAME}"), "cifar10", [CLEAN], tmp_path, epsilon=0.03)
    assert clean["metrics"]["file/clean/avg"] == 1
    (told,) = tmp_path.glob("foreign/*/model.json")
    seen = json.loads(told.read_text())
    assert (seen["name"], seen["data"]) == (f"robustbench:{NAME}", "cifar10")
    assert {"data": "cifar10", "threat": "Linf"}.items() <= seen["model"].items()
    assert "width" not in seen["model"]


def test_of_two_state_dicts_the_one_that_the_package_takes_is_taken(
    theirs: nn.Module, tmp_path: Path
) -> None:
    assert zoo.Model("Andriushchenko2020Understanding", "cifar10", "Linf").entry == "last"
    assert MODEL.entry is None
    member = replace(MODEL, name="Andriushchenko2020Understanding")
    last = without(theirs.state_dict(), "mu", "sigma")  # that network carries none
    best = {key: torch.zeros_like(one) for key, one in last.items()}
    path = saved(tmp_path / "two.pt", {"best": best, "last": last})
    net = foreign._from_zoo(member, path, None)
    assert torch.equal(net.state_dict()["conv1.weight"], theirs.state_dict()["conv1.weight"])


def test_reading_leaves_the_random_state_alone(theirs: nn.Module, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", theirs.state_dict())
    before = torch.random.get_rng_state()
    read(path)
    assert torch.equal(torch.random.get_rng_state(), before)


# refusals ------------------------------------------------------------------------------------------------------------


def refused(name: str, data: str = "cifar10", path: Path | None = None, **more: Any) -> str:
    request = Request(f"robustbench:{name}", path, **more)
    with pytest.raises(RequestError) as error:
        foreign._read(request, images(torch.arange(40) % 10), foreign._member(request, data))
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "more", "sentence"),
    [
        ("Rice2020", "cifar10", {}, "no such model for cifar10 and Linf; close: Rice2020Overfitting"),
        ("Wong2020Fsat", "cifar10", {}, "close: Wong2020Fast"),
        ("Wong2020Fast", "cifar100", {}, "it stands under --data cifar10 --threat Linf"),
        ("Rice2020Overfitting", "digits", {}, "know the classes of cifar10 and cifar100; judge it with"),
        ("Rice2020Overfitting", "my/cifar10", {}, "judge it with --data cifar10 or --data cifar100"),
        (
            "Rice2020Overfitting",
            "cifar10",
            {"threat": "linf"},
            "unknown 'linf'; known: L2, Linf, corruptions",
        ),
        ("Bai2024MixedNUTS", "cifar10", {}, "is not one network in one file"),
        ("Debenedetti2022Light_XCiT-S12", "cifar10", {}, "is not one network in one file"),
        (NAME, "cifar10", {"normalisation": "cifar10"}, "leave --width and --normalisation out"),
        (NAME, "cifar10", {"width": 0.5}, "leave --width and --normalisation out"),
    ],
)
def test_what_the_zoo_cannot_give_is_a_sentence(name: str, data: str, more: Any, sentence: str) -> None:
    assert sentence in refused(name, data, **more)


def test_another_architecture_is_refused_by_its_layers(theirs: nn.Module, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", without(theirs.state_dict(), "layer3.1.conv2.weight"))
    sentence = refused(NAME, path=path)
    assert f"does not fit robustbench:{NAME}: missing: layer3.1.conv2.weight (256, 256, 3, 3)" in sentence


def test_without_a_network_the_place_and_the_source_are_said(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing listens behind this proxy, so nothing leaves the machine."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    sentence = refused(NAME)
    assert "cannot be downloaded (" in sentence
    assert (
        f"bring https://drive.google.com/uc?id=1Re--_lf3jCEw9bnQqGkjw3J7v2tSZKrv to {MODEL.file}" in sentence
    )
    assert "or give the file by --checkpoint FILE" in sentence
    assert "\n" not in sentence
    assert list(MODEL.file.parent.glob("*")) == []


def test_a_file_that_needs_code_is_refused(cache: Path) -> None:
    saved(MODEL.file, nn.Linear(2, 2))
    assert "reading it would run code" in refused(NAME)
