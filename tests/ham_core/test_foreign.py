"""Files in each official layout, made from the published layer names; what does not fit is refused by name."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ham_core import foreign
from ham_core.data.source import Facts
from ham_core.data.split import Dataset, Split
from ham_core.errors import RequestError
from ham_core.folder import TrialFolder
from ham_core.foreign import FROM_FILE, RAW, STATISTICS, Request
from ham_core.protocol import EvaluationAttack

WIDTH, CLASSES = 0.0625, 5
State = dict[str, Tensor]

# The official layouts: names and shapes as those codes write them, at a small width ------------------------------------


def put(state: State, name: str, *shape: int) -> None:
    fan = shape[1] * 9 if len(shape) == 4 else shape[-1]
    state[f"{name}.weight"] = torch.randn(*shape) * (2 / fan) ** 0.5


def put_norm(state: State, name: str, n: int) -> None:
    state[f"{name}.weight"] = torch.rand(n) + 0.5
    state[f"{name}.bias"] = torch.randn(n) * 0.3
    state[f"{name}.running_mean"] = torch.randn(n) * 0.3
    state[f"{name}.running_var"] = torch.rand(n) + 0.5
    state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def put_linear(state: State, name: str, inputs: int) -> None:
    state[f"{name}.weight"] = torch.randn(CLASSES, inputs) / inputs**0.5
    state[f"{name}.bias"] = torch.randn(CLASSES) * 0.1


def resnet18(preact: bool, *, final_norm: bool = True, head: str = "linear") -> State:
    """PreActResNet-18 (CFA, DAFA, HAM) or ResNet-18 (TRADES, DAFA)."""
    state: State = {}
    inputs = 4
    put(state, "conv1", inputs, 3, 3, 3)
    if not preact:
        put_norm(state, "bn1", inputs)
    for group, outputs in enumerate((4, 8, 16, 32), 1):
        for block in (0, 1):
            name = f"layer{group}.{block}"
            put_norm(state, f"{name}.bn1", inputs if preact else outputs)
            put(state, f"{name}.conv1", outputs, inputs, 3, 3)
            put_norm(state, f"{name}.bn2", outputs)
            put(state, f"{name}.conv2", outputs, outputs, 3, 3)
            if block == 0 and group > 1:
                put(state, f"{name}.shortcut.0", outputs, inputs, 1, 1)
                if not preact:
                    put_norm(state, f"{name}.shortcut.1", outputs)
            inputs = outputs
    if preact and final_norm:
        put_norm(state, "bn", inputs)
    put_linear(state, head, inputs)
    return state


def wrn(depth: int, *, sub_block: bool = False) -> State:
    """WRN as TRADES, DAFA and RobustBench name it; `sub_block1` is saved by some and used by none."""
    state: State = {}
    put(state, "conv1", 16, 3, 3, 3)
    sizes = (10, 20, 40)
    groups = [("block1", 16, sizes[0])] + ([("sub_block1", 16, sizes[0])] if sub_block else [])
    groups += [("block2", sizes[0], sizes[1]), ("block3", sizes[1], sizes[2])]
    for group, inputs, outputs in groups:
        for block in range((depth - 4) // 6):
            name, n = f"{group}.layer.{block}", inputs if block == 0 else outputs
            put_norm(state, f"{name}.bn1", n)
            put(state, f"{name}.conv1", outputs, n, 3, 3)
            put_norm(state, f"{name}.bn2", outputs)
            put(state, f"{name}.conv2", outputs, outputs, 3, 3)
            if n != outputs:
                put(state, f"{name}.convShortcut", outputs, n, 1, 1)
    put_norm(state, "bn1", sizes[2])
    put_linear(state, "fc", sizes[2])
    return state


# What these layouts compute, straight from the names -------------------------------------------------------------------


def norm(state: State, name: str, x: Tensor) -> Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])


def conv(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)


def head(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x.mean((2, 3)), state[f"{name}.weight"], state[f"{name}.bias"])


def preact_block(state: State, name: str, x: Tensor, stride: int, shortcut: str, *, raw: bool) -> Tensor:
    active = F.relu(norm(state, f"{name}.bn1", x))
    beside = x
    if f"{name}.{shortcut}.weight" in state:
        beside = conv(state, f"{name}.{shortcut}", x if raw else active, stride)
    out = F.relu(norm(state, f"{name}.bn2", conv(state, f"{name}.conv1", active, stride)))
    return conv(state, f"{name}.conv2", out) + beside


def preact_logits(state: State, x: Tensor, *, raw: bool = False) -> Tensor:
    x = conv(state, "conv1", x)
    for group in (1, 2, 3, 4):
        for block in (0, 1):
            stride = 2 if group > 1 and block == 0 else 1
            x = preact_block(state, f"layer{group}.{block}", x, stride, "shortcut.0", raw=raw)
    if "bn.weight" in state:
        x = F.relu(norm(state, "bn", x))
    return head(state, "linear", x)


def resnet_logits(state: State, x: Tensor) -> Tensor:
    x = F.relu(norm(state, "bn1", conv(state, "conv1", x)))
    for group in (1, 2, 3, 4):
        for block in (0, 1):
            name, stride, beside = f"layer{group}.{block}", 2 if group > 1 and block == 0 else 1, x
            if f"{name}.shortcut.0.weight" in state:
                beside = norm(state, f"{name}.shortcut.1", conv(state, f"{name}.shortcut.0", x, stride))
            out = F.relu(norm(state, f"{name}.bn1", conv(state, f"{name}.conv1", x, stride)))
            x = F.relu(norm(state, f"{name}.bn2", conv(state, f"{name}.conv2", out)) + beside)
    return head(state, "fc" if "fc.weight" in state else "linear", x)


def wrn_logits(state: State, x: Tensor, depth: int) -> Tensor:
    x = conv(state, "conv1", x)
    for group in (1, 2, 3):
        for block in range((depth - 4) // 6):
            stride = 2 if group > 1 and block == 0 else 1
            x = preact_block(state, f"block{group}.layer.{block}", x, stride, "convShortcut", raw=False)
    return head(state, "fc", F.relu(norm(state, "bn1", x)))


LAYOUTS: dict[str, tuple[str, Callable[[], State], Callable[[State, Tensor], Tensor]]] = {
    "preact-cfa": ("preact_resnet18", lambda: resnet18(True), preact_logits),
    "preact-without-final-bn": ("preact_resnet18", lambda: resnet18(True, final_norm=False), preact_logits),
    "preact-robustbench": (
        RAW,
        lambda: resnet18(True, final_norm=False),
        lambda state, x: preact_logits(state, x, raw=True),
    ),
    "resnet-trades": ("resnet18", lambda: resnet18(False), resnet_logits),
    "resnet-fc": ("resnet18", lambda: resnet18(False, head="fc"), resnet_logits),
    "wrn28": ("wrn28_10", lambda: wrn(28), lambda state, x: wrn_logits(state, x, 28)),
    "wrn34-trades": ("wrn34_10", lambda: wrn(34, sub_block=True), lambda state, x: wrn_logits(state, x, 34)),
}


def read(path: Path, name: str, dataset: Dataset, **more: Any) -> tuple[nn.Module, Any]:
    """(the network with its normalisation, the statistics)."""
    net, statistics, _ = foreign._read(Request(name, path, WIDTH, **more), dataset)
    return foreign._with(statistics, net).eval(), statistics


def images(count: int = 200, labels: Tensor | None = None) -> Dataset:
    """Random pictures of 3 channels."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    split = Split(pixels, torch.arange(count) % CLASSES if labels is None else labels)
    facts = Facts(
        "made", "made", tuple("abcde"), (3, 8, 8), "train", "test", 0, False, 0.0, "nowhere", (count, count)
    )
    return Dataset(split, split, split, facts, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_official_layout_gives_the_logits_of_its_layer_names(layout: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    name, make, logits = LAYOUTS[layout]
    state = make()
    x = torch.rand(4, 3, 16, 16)
    model, _ = read(saved(tmp_path / "model.pt", state), name, images())
    torch.testing.assert_close(model(x), logits(state, x), rtol=1e-4, atol=1e-5)


MEAN, STD = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 2.0])

WRAPPERS: dict[str, Callable[[State], Any]] = {
    "DAFA": lambda state: {"state_dict": {f"module.{key}": one for key, one in state.items()}},
    "DAFA's latest": lambda state: {f"module.{key}": one for key, one in state.items()},
    "HAM": lambda state: {
        "epoch": 3,
        "state_dict": {f"module.{key}": one for key, one in state.items()},
        "test_pgd20_acc": np.float64(0.5),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
    },
    "net": lambda state: {"net": state, "acc": 93.1, "classwise": np.array([0.1, 0.2])},
    "model": lambda state: {"model": state, "epoch": 7},
    "RobustBench": lambda state: {"model_state_dict": {f"module.model.{k}": one for k, one in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{key}": one for key, one in state.items()},
    "nested": lambda state: {"last": {"state_dict": state}},
    "PyTorch 0.3": lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
    "an attack wrapper": lambda state: state | {f"attacker.model.{key}": one for key, one in state.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_and_prefixes_change_no_logit(wrapper: str, tmp_path: Path) -> None:
    state = resnet18(True)
    x = torch.rand(3, 3, 8, 8)
    bare, _ = read(saved(tmp_path / "bare.pt", state), "preact_resnet18", images())
    model, statistics = read(
        saved(tmp_path / "model.pt", WRAPPERS[wrapper](state)), "preact_resnet18", images()
    )
    assert statistics is None
    assert torch.equal(model(x), bare(x))


def test_numbers_of_numpy_1_are_read(tmp_path: Path) -> None:
    """The same file as NumPy 1 wrote it, whose modules were called numpy.core."""
    path, state = tmp_path / "model.pt", resnet18(True)
    torch.save(
        {"net": state, "acc": np.float64(0.5), "classwise": np.ones(3)},
        path,
        _use_new_zipfile_serialization=False,
    )
    old = path.read_bytes().replace(b"numpy._core.", b"numpy.core.")
    assert old != path.read_bytes()
    path.write_bytes(old)
    bare, _ = read(saved(tmp_path / "bare.pt", state), "preact_resnet18", images())
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(read(path, "preact_resnet18", images())[0](x), bare(x))


def test_torchvisions_name_of_a_shortcut_is_known(tmp_path: Path) -> None:
    state = resnet18(False, head="fc")
    theirs = {key.replace(".shortcut.", ".downsample."): one for key, one in state.items()}
    x = torch.rand(2, 3, 8, 8)
    model, _ = read(saved(tmp_path / "model.pt", theirs), "resnet18", images())
    torch.testing.assert_close(model(x), resnet_logits(state, x), rtol=1e-4, atol=1e-5)


CARRIERS: dict[str, Callable[[State], State]] = {
    "buffers mu and sigma": lambda state: state | {"mu": MEAN.view(3, 1, 1), "sigma": STD.view(3, 1, 1)},
    "RobustBench's normaliser": lambda state: {
        "normalize.mean": MEAN.view(1, 3, 1, 1),
        "normalize.std": STD.view(1, 3, 1, 1),
        **{f"model.{key}": one for key, one in state.items()},
    },
    "Sequential in DataParallel": lambda state: {
        "module.0.mean": MEAN,
        "module.0.std": STD,
        **{f"module.1.{key}": one for key, one in state.items()},
    },
    "robustness": lambda state: {
        "module.normalizer.new_mean": MEAN,
        "module.normalizer.new_std": STD,
        **{f"module.model.{key}": one for key, one in state.items()},
        **{f"module.attacker.model.{key}": one for key, one in state.items()},
    },
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_the_statistics_that_a_file_carries_are_its_normalisation(carrier: str, tmp_path: Path) -> None:
    state = resnet18(False)
    path = saved(tmp_path / "model.pt", CARRIERS[carrier](state))
    x = torch.rand(3, 3, 8, 8)
    bare, _ = read(saved(tmp_path / "bare.pt", state), "resnet18", images())
    model, _ = read(path, "resnet18", images())
    assert torch.equal(model(x), bare((x - MEAN.view(1, 3, 1, 1)) / STD.view(1, 3, 1, 1)))
    unnormalised, _ = read(path, "resnet18", images(), normalisation="none")
    assert torch.equal(unnormalised(x), bare(x))


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
        ("cifar100", (0.50708, 0.48655, 0.44092), (0.26733, 0.25644, 0.27615)),
        ("data", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
    ],
)
def test_each_normalisation_is_the_one_of_its_name(name: str, mean: Any, std: Any, tmp_path: Path) -> None:
    _, statistics = read(
        saved(tmp_path / "model.pt", resnet18(True)), "preact_resnet18", images(), normalisation=name
    )
    assert statistics[0] == pytest.approx(mean, abs=1e-5)
    assert statistics[1] == pytest.approx(std, abs=1e-5)


# refusals ------------------------------------------------------------------------------------------------------------


def refused(path: Path | None, name: str, dataset: Dataset | None = None, **more: Any) -> str:
    with pytest.raises(RequestError) as error:
        foreign._read(Request(name, path, more.pop("width", WIDTH), **more), dataset or images())
    return str(error.value)


def test_another_architecture_is_refused_with_names_shapes_and_what_fits(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", wrn(34))
    sentence = refused(path, "wrn28_10")
    assert "does not fit wrn28_10: unexpected: block1.layer.4.bn1.weight (10,)" in sentence
    assert sentence.endswith("its names and shapes fit wrn34_10")
    sentence = refused(saved(tmp_path / "model.pt", resnet18(False)), "preact_resnet18")
    assert "unexpected: bn1.weight (4,)" in sentence
    assert "of another shape: layer2.0.bn1.weight (8,) for (4,)" in sentence


def test_missing_layers_are_named(tmp_path: Path) -> None:
    state = resnet18(True)
    del state["layer3.1.conv2.weight"]
    sentence = refused(saved(tmp_path / "model.pt", state), "preact_resnet18")
    assert "missing: layer3.1.conv2.weight (16, 16, 3, 3)" in sentence
    assert "names and shapes fit" not in sentence


def test_another_width_is_refused_and_the_published_one_is_found(tmp_path: Path) -> None:
    with torch.device("meta"):
        names = foreign.network("resnet18", {}, width=1.0, classes=CLASSES, channels=3).state_dict()
    path = saved(tmp_path / "model.pt", {key: torch.zeros(one.shape) for key, one in names.items()})
    sentence = refused(path, "resnet18", width=0.5)
    assert "conv1.weight (64, 3, 3, 3) for (32, 3, 3, 3)" in sentence
    assert "its names and shapes fit resnet18 at width 1" in sentence


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    state = resnet18(True)
    state["linear.weight"], state["linear.bias"] = torch.zeros(100, 32), torch.zeros(100)
    assert "linear.weight (100, 32) for (5, 32)" in refused(
        saved(tmp_path / "model.pt", state), "preact_resnet18"
    )


class Evil:
    """Its pickle asks for a call."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("this must never be printed",)


def test_a_file_that_needs_code_is_refused_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in (Evil(), {"state_dict": resnet18(True), "more": Evil()}, nn.Linear(2, 2)):
        sentence = refused(saved(tmp_path / "model.pt", value), "preact_resnet18")
        assert "reading it would run code that came with it; save its state_dict alone" in sentence
    assert "never be printed" not in capsys.readouterr().out
    path = saved(tmp_path / "model.pt", {"state_dict": resnet18(True), "args": argparse.Namespace(a=1)})
    assert "(argparse.Namespace)" in refused(path, "preact_resnet18")


def test_files_that_hold_no_state_dict_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    assert "cannot be read by torch.load" in refused(tmp_path / "text.pt", "resnet18")
    assert "cannot be read (No such file or directory)" in refused(tmp_path / "absent.pt", "resnet18")
    assert "--checkpoint is missing" in refused(None, "resnet18")
    sentence = refused(
        saved(tmp_path / "model.pt", {"weights": {"a": torch.ones(1)}, "epoch": 3}), "resnet18"
    )
    assert "holds no state dict" in sentence
    assert "found: weights, epoch" in sentence
    assert "'wieghts'; known: epoch, weights (did you mean weights?)" in refused(
        tmp_path / "model.pt", "resnet18", entry="wieghts"
    )
    assert "unknown 'resnet19'" in refused(tmp_path / "model.pt", "resnet19")
    assert "unknown 'imagenet'; known: cifar10" in refused(
        tmp_path / "model.pt", "resnet18", normalisation="imagenet"
    )


def test_of_several_entries_one_must_be_chosen(tmp_path: Path) -> None:
    first, second = resnet18(True), resnet18(True)
    path = saved(tmp_path / "model.pt", {"best": first, "last": second, "ema": first})
    assert "holds best and last; choose by --weights" in refused(path, "preact_resnet18")
    x = torch.rand(2, 3, 8, 8)
    for entry, state in (("last", second), ("ema", first)):
        model, _ = read(path, "preact_resnet18", images(), entry=entry)
        torch.testing.assert_close(model(x), preact_logits(state, x), rtol=1e-4, atol=1e-5)


def test_cifar_statistics_need_three_channels() -> None:
    from dataclasses import replace

    grey = images()
    grey = replace(grey, facts=replace(grey.facts, shape=(1, 8, 8)))
    with pytest.raises(RequestError, match="cifar10 has statistics of 3 channels, the images have 1"):
        foreign._statistics("cifar10", None, grey)


# the probe, and whole evaluations --------------------------------------------------------------------------------------


def balanced(state: State, logits: Callable[[Tensor], Tensor], linear: str = "linear") -> Dataset:
    """Pictures whose labels are what the model says of them; its bias is set so that all classes occur."""
    x = images().test.images.float() / 255
    state[f"{linear}.bias"] -= logits(x).mean(0)
    labels = logits(x).argmax(1)
    assert len(labels.unique()) == CLASSES
    return images(labels=labels)


def cifar_normalised(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in STATISTICS["cifar10"])
    return (x - mean) / std


@pytest.fixture
def normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file trained with CIFAR-10's statistics outside, and its data set as the one that is loaded."""
    torch.manual_seed(3)
    state = resnet18(True)
    dataset = balanced(state, lambda x: preact_logits(state, cifar_normalised(x)))
    monkeypatch.setattr(foreign, "_dataset", lambda *arguments: dataset)
    return saved(tmp_path / "model.pt", {"state_dict": state})


CLEAN, PGD = (EvaluationAttack.model_validate(name) for name in ("clean", "pgd3"))


def evaluate(
    path: Path | None, store: Path, name: str = "preact_resnet18", **more: Any
) -> list[dict[str, Any]]:
    request = Request(name, path, WIDTH, **more)
    return foreign.evaluate(request, "made", [CLEAN, PGD], store, epsilon=0.01)


def test_the_wrong_normalisation_is_refused_with_the_accuracy_of_each(
    normalised: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError) as error:
        evaluate(normalised, tmp_path)
    sentence = str(error.value)
    assert sentence.startswith("--normalisation none is not how this model was trained")
    assert "100.0 % with --normalisation cifar10" in sentence
    assert "% with --normalisation none" in sentence
    assert "% with --normalisation data" in sentence
    assert sentence.endswith("give --normalisation cifar10")
    assert not list(tmp_path.glob("foreign/*/model.json"))


def test_the_right_normalisation_is_judged_and_stored_per_image(normalised: Path, tmp_path: Path) -> None:
    clean, pgd = evaluate(normalised, tmp_path, normalisation="cifar10")
    assert clean["metrics"]["file/clean/avg"] == 1
    assert pgd["metrics"]["file/pgd3/avg"] < 1
    folder = TrialFolder(tmp_path / "foreign" / clean["foreign"])
    arrays = folder.predictions(pgd["fingerprint"])
    assert np.mean(arrays["prediction"] == arrays["label"]) == pytest.approx(pgd["metrics"]["file/pgd3/avg"])
    told = json.loads((folder.path / "model.json").read_text())
    assert told["name"] == "model.pt"
    assert told["probe"]["--normalisation cifar10"] == 1
    assert next(iter(told["probe"])) == "--normalisation cifar10"


def test_what_was_judged_is_not_judged_again(
    normalised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(normalised, tmp_path, normalisation="cifar10")
    monkeypatch.delattr(foreign, "judge")
    monkeypatch.delattr(foreign, "probe")
    assert evaluate(normalised, tmp_path, normalisation="cifar10") == first
    monkeypatch.undo()


def test_another_file_radius_or_reading_is_another_evaluation(normalised: Path, tmp_path: Path) -> None:
    (first,) = {one["foreign"] for one in evaluate(normalised, tmp_path, normalisation="cifar10")}
    state = torch.load(normalised, weights_only=True)
    state["state_dict"]["linear.bias"] += 1e-3
    saved(normalised, state)
    (second,) = {one["foreign"] for one in evaluate(normalised, tmp_path, normalisation="cifar10")}
    assert first != second
    assert foreign._identity("d", PGD, 0.01) != foreign._identity("d", PGD, 0.02)
    assert foreign._identity("d", PGD, 0.01) != foreign._identity("e", PGD, 0.01)
    assert foreign._identity("d", PGD, 0.01) != foreign._identity("d", CLEAN, 0.01)


def test_the_identity_is_the_file_its_reading_and_the_images(normalised: Path, tmp_path: Path) -> None:
    evaluate(normalised, tmp_path, normalisation="cifar10", entry="state_dict")
    (told,) = tmp_path.glob("foreign/*/model.json")
    assert json.loads(told.read_text())["model"] == {
        "model": "preact_resnet18",
        "file": hashlib.sha256(normalised.read_bytes()).hexdigest(),
        "width": WIDTH,
        "entry": "state_dict",
        "normalisation": [list(values) for values in STATISTICS["cifar10"]],
        "test_digest": "test",
        "test_limit": None,
    }


def test_reading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.pt", resnet18(True))
    before = torch.random.get_rng_state()
    read(path, "preact_resnet18", images())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_tensors_called_mean_of_another_size_are_no_statistics() -> None:
    state = {"a.weight": torch.ones(2), "a.mean": torch.ones(7), "a.std": torch.ones(7)}
    rest, statistics = foreign.plain(state, 3)
    assert (rest.keys(), statistics) == (state.keys(), None)


def test_the_other_kind_of_shortcut_is_refused_by_its_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(4)
    state = resnet18(True)
    dataset = balanced(state, lambda x: preact_logits(state, x, raw=True))
    monkeypatch.setattr(foreign, "_dataset", lambda *arguments: dataset)
    path = saved(tmp_path / "model.pt", state)
    with pytest.raises(RequestError, match=f"give --model {RAW} --normalisation none$"):
        evaluate(path, tmp_path)
    assert evaluate(path, tmp_path, RAW)[0]["metrics"]["file/clean/avg"] == 1


def test_a_model_of_other_classes_is_no_classifier(
    normalised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = (foreign._dataset("", None, torch.device("cpu")).test.labels + 1) % CLASSES
    monkeypatch.setattr(foreign, "_dataset", lambda *arguments: images(labels=labels))
    with pytest.raises(RequestError, match=r"this is no classifier of made as it was read; .* 0\.0 % with"):
        evaluate(normalised, tmp_path, normalisation="cifar10")


@pytest.mark.parametrize(
    ("chosen", "best", "refused"),
    [(0.80, 0.84, False), (0.80, 0.86, True), (0.27, 0.27, True), (0.29, 0.29, False)],
)
def test_the_probe_refuses_from_five_points_and_below_a_tenth_of_the_way_from_chance(
    chosen: float, best: float, refused: bool
) -> None:
    """Five classes: chance is 0.2, and 0.2 + 0.1 · 0.8 = 0.28."""
    seen = {"--normalisation none": chosen, "--normalisation data": best}
    if not refused:
        foreign._judge_probe(seen, 300, 5, "made")
        return
    with pytest.raises(RequestError):
        foreign._judge_probe(seen, 300, 5, "made")


def test_statistics_of_the_file_are_named_so_in_the_probe(normalised: Path, tmp_path: Path) -> None:
    state = torch.load(normalised, weights_only=True)["state_dict"]
    mean, std = (torch.tensor(values) for values in STATISTICS["cifar10"])
    path = saved(tmp_path / "carrying.pt", state | {"mu": mean, "sigma": std})
    evaluate(path, tmp_path)
    (told,) = tmp_path.glob("foreign/*/model.json")
    assert next(iter(json.loads(told.read_text())["probe"])) == f"--normalisation {FROM_FILE}"
    with pytest.raises(RequestError, match=r"give no --normalisation$"):
        foreign._judge_probe(
            {"--normalisation none": 0.5, f"--normalisation {FROM_FILE}": 0.9}, 300, 5, "made"
        )


# TorchScript and factories ---------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Somebody's network, which begins with a name that is also a wrapper's prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(3 * 8 * 8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.flatten(1))


def net() -> Net:
    torch.manual_seed(6)
    return Net()


def labelled_by(model: nn.Module) -> Dataset:
    with torch.no_grad():
        return images(labels=model(images().test.images.float() / 255).argmax(1))


def test_torchscript_is_judged_as_the_network_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = labelled_by(net())
    monkeypatch.setattr(foreign, "_dataset", lambda *arguments: dataset)
    path = tmp_path / "model.ts"
    torch.jit.save(torch.jit.script(net()), str(path))
    clean, pgd = evaluate(path, tmp_path, "torchscript")
    assert clean["metrics"]["file/clean/avg"] == 1
    assert 0 <= pgd["metrics"]["file/pgd3/avg"] < 1
    assert pgd["doubts"] == []
    assert "TorchScript" in refused(path, "resnet18")
    assert "is no TorchScript" in refused(saved(tmp_path / "model.pt", resnet18(True)), "torchscript")


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> str:
    module = type(sys)("somebodys_robust_models")
    module.net, module.number = net, lambda: 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebodys_robust_models", module)
    return "somebodys_robust_models"


def test_a_factory_alone_or_with_a_file(
    somebody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = labelled_by(net())
    monkeypatch.setattr(foreign, "_dataset", lambda *arguments: dataset)
    alone, _ = evaluate(None, tmp_path, f"{somebody}:net")
    assert alone["metrics"]["file/clean/avg"] == 1
    _, _, told = foreign._read(Request(f"{somebody}:net"), dataset)
    monkeypatch.setattr(sys.modules[somebody], "net", Net)
    assert foreign._read(Request(f"{somebody}:net"), dataset)[2] != told  # other weights, another identity
    other = Net()
    for state in (other.state_dict(), {f"module.{key}": one for key, one in other.state_dict().items()}):
        model, _ = read(saved(tmp_path / "model.pt", state), f"{somebody}:net", dataset)
        x = torch.rand(2, 3, 8, 8)
        assert torch.equal(model(x), other(x))


def test_wrong_factories_are_sentences(somebody: str, tmp_path: Path) -> None:
    assert "put its folder into PYTHONPATH" in refused(None, "no_such_module:net")
    assert "cannot be imported" in refused(None, f"{somebody}:nothing")
    assert "returns int" in refused(None, f"{somebody}:number")
    assert "does not fit what" in refused(saved(tmp_path / "m.pt", resnet18(True)), f"{somebody}:net")
