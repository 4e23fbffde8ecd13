"""What the contract suite asks every part: small trials of each, and a network that tells what is done to it."""

from __future__ import annotations

import dataclasses
import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ham_core.config import Trial
from ham_core.data.split import Dataset, Split
from ham_core.objectives.base import Around
from ham_core.parts import KINDS, Kind, find, index
from ham_core.training import EpochResult, Training
from tests.builders import dataset, trial

SHORT = {
    "early_drop_step": 2,
    "replays": 2,
    "halve_every": 2,
}  # defaults that are too long for four steps or epochs
DATA = {"train_limit": 120, "validation": 0.2}  # per class nine images for training, three held out
COMBINED: dict[str, list[dict[str, Any]]] = {  # settings that mean something only together
    "ham": [
        {"weight": {"measure": "softmax_l1", "function": "tanh"}, "drop_rate": 0.5},
        {"weight": {"measure": "margin_lp", "function": "exponential"}, "hard_rule": "any_step"},
        {"easy_high": 0.3, "easy_low": 0.3, "easy_clean": True},
        {"easy_low": 0.5, "drop_confident": 0.5},
        {"clean_weight": 0.5},
    ],
}


class Case(NamedTuple):
    """A part with settings, within a method that uses it."""

    kind: Kind
    settings: dict[str, Any]

    def __str__(self) -> str:
        told = [
            f"{key}={value}"
            for key, value in self.settings.items()
            if key not in ("name", "start_epoch", *SHORT)
        ]
        return "-".join([self.settings["name"], *told]).replace(" ", "")

    @property
    def part(self) -> tuple[Kind, str]:
        """Kind and name."""
        return self.kind, self.settings["name"]

    def trial(self, start_epoch: int = 0, **more: Any) -> Trial:
        """A small trial of it: calibrations calibrate TRADES, the rest stands on AT."""
        settings = dict(self.settings)
        part = find(self.kind, settings["name"])
        if "start_epoch" in part.model_fields:
            settings["start_epoch"] = start_epoch
        method: dict[str, Any] = {"objective": "trades" if self.kind == "calibration" else "at"}
        method["averaging"] = None
        method["objective" if self.kind == "objectives" else self.kind] = settings
        if self.kind == "objectives" and _asks_helper(settings):
            more["helper"] = {"trial": trial("at", epochs=1).model_dump(mode="json"), "weights": "last"}
        return trial(method=method | more.pop("method", {}), **{"data": DATA} | more)


def _asks_helper(settings: dict[str, Any]) -> bool:
    objective: Any = find("objectives", settings["name"]).model_validate(
        {key: value for key, value in settings.items() if key != "name"}
    )
    return bool(objective.root.needs_helper)


def parts() -> list[tuple[Kind, str]]:
    """Every part of every kind."""
    return [(kind, name) for kind in KINDS for name in sorted(index(kind))]


def defaults(kind: Kind, name: str) -> Case:
    """A part as it is when only its name is written."""
    fields = find(kind, name).model_fields
    return Case(kind, {"name": name} | {key: value for key, value in SHORT.items() if key in fields})


@cache
def cases() -> tuple[Case, ...]:
    """Every part with its defaults, with each other choice that it offers, on each other base, and some combinations."""
    return tuple(case for kind, name in parts() for case in _variants(kind, name))


def _variants(kind: Kind, name: str) -> Iterator[Case]:
    plain = defaults(kind, name)
    part = find(kind, name)
    yield plain
    changed: list[dict[str, Any]] = list(COMBINED.get(name, []))
    for key, field in part.model_fields.items():
        if key == "base" and issubclass(part, Around):
            changed += [
                {key: other} for other in ("trades", "mart", "fat", "bat") if other in index("objectives")
            ]
        elif field.annotation is bool:
            changed.append({key: not field.default})
        elif get_origin(field.annotation) is Literal:
            changed += [{key: choice} for choice in get_args(field.annotation) if choice != field.default]
    for settings in changed:
        if settings.get("base") != name and _valid(part, plain.settings | settings):
            yield Case(kind, plain.settings | settings)


def _valid(part: Any, settings: dict[str, Any]) -> bool:
    """Whether a part takes these settings: some choices need others beside them."""
    try:
        part.model_validate({key: value for key, value in settings.items() if key != "name"})
    except ValidationError:
        return False
    return True


# trainings ---------------------------------------------------------------------------------------------------------------


def timeless(result: EpochResult) -> dict[str, float]:
    """Metrics that do not tell the time."""
    return {name: value for name, value in result.metrics.items() if not name.startswith("time/")}


def saved(training: Training) -> bytes:
    """The state, as a file."""
    file = io.BytesIO()
    torch.save(training.state(), file)
    return file.getvalue()


def continued(one: Trial, state: bytes) -> Training:
    """A new training that goes on from a state."""
    training = Training(one, images())
    training.restore(torch.load(io.BytesIO(state), weights_only=True))
    return training


def equal(one: Any, other: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(equal(one[k], other[k]) for k in one)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def finite(state: Any) -> bool:
    """Whether all tensors of a nested state are finite."""
    if isinstance(state, Tensor):
        return bool(state.isfinite().all())
    if isinstance(state, dict):
        return all(map(finite, state.values()))
    return all(map(finite, state)) if isinstance(state, list | tuple) else True


def unbalanced() -> Dataset:
    """Class 0 has no image in training or held out, class 1 one for training, class 2 three, the rest all of theirs.

    With batches of 32 the last batch holds one image, and many batches lack a class.
    """
    whole, chosen = images(), []
    train, held = whole.train, whole.validation
    for c in range(len(whole.classes)):
        own = (train.labels == c).nonzero().squeeze(1)
        chosen.append(own[: {0: 0, 1: 1, 2: 3}.get(c, len(own))])
    rows = torch.cat(chosen)
    rows = rows[: len(rows) - (len(rows) - 1) % 32]
    others = (held.labels != 0).nonzero().squeeze(1)
    return dataclasses.replace(
        whole,
        train=Split(train.images[rows], train.labels[rows]),
        validation=Split(held.images[others], held.labels[others]),
    )


# passes --------------------------------------------------------------------------------------------------------------------


class Passes:
    """Counts, by hooks on the network, what is really computed while `on`; all in samples.

    forward: images through the network. to_input, to_weights: backward passes through a forward pass whose parameters were
    frozen (Bx) or not (Bx+Bw). In calls: open, frozen: forward passes by whether parameters need gradients; moving: those
    that moved BatchNorm's statistics, frozen_moving: the frozen ones among them.
    """

    def __init__(self, *models: nn.Module) -> None:
        self.on = False
        self.counts: Counter[str] = Counter()
        for model in models:
            model.register_forward_hook(self._forward)

    def _forward(self, model: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        if not self.on:
            return
        rows = len(inputs[0])
        needed = [parameter.requires_grad for parameter in model.parameters()]
        assert all(needed) or not any(needed), "some parameters are frozen and some are not"
        self.counts["forward"] += rows
        self.counts["open" if any(needed) else "frozen"] += 1
        self.counts["moving"] += model.training
        self.counts["frozen_moving"] += model.training and not any(needed)
        if logits.requires_grad:
            kind = "to_weights" if any(needed) else "to_input"
            logits.register_hook(lambda _: self.counts.update({kind: rows}))


@contextmanager
def steps_watched(training: Training) -> Iterator[Passes]:
    """Count the passes of training steps: not those of selection, calibration or a probe, which are paid per epoch."""
    networks = [training.model] + ([] if training.helper is None else [training.helper])
    passes = Passes(*networks)
    original: Callable[..., None] = training._step

    def step(*arguments: Any) -> None:
        passes.on = True
        original(*arguments)
        passes.on = False

    training._step = step  # type: ignore[method-assign]
    yield passes


@cache
def images() -> Dataset:
    """The images of these trials, loaded once."""
    return dataset(trial("at", data=DATA))
