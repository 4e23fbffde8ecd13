"""A trial, fully resolved: method + data + model + training settings + seed. Loads without torch.

`fingerprint(trial)` is its identity: SHA-256 over everything that is meant to change the trained weights, and nothing else.
The fields below are the YAML keys and the only place of their defaults (the recipe of Rice, Wong and Kolter, ICML 2020,
for PGD adversarial training on CIFAR-10). Radii and steps are in pixel units of [0, 1]; epochs count from 0.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from ham_core.averaging.base import Averaging
from ham_core.calibration.base import Calibration
from ham_core.data.index import facts
from ham_core.data.source import Facts
from ham_core.mining.base import Mining
from ham_core.objectives.base import Objective
from ham_core.parts import Frozen, part_of
from ham_core.sentences import shown

MOST_EPOCHS = 100_000
LONGEST_NUMBER = 60  # letters of a radius; more digits than that are a mistake
NUMERICS_VERSION = 1  # bump by hand when the same settings would train other weights


def pixels(value: Any) -> Any:
    """`8/255` or a number -> float."""
    if not isinstance(value, str):
        return value
    text = value.replace(" ", "")
    try:
        if len(text) > LONGEST_NUMBER:
            raise ValueError
        number = float(Fraction(text) if "/" in text else text)
        if not math.isfinite(number):
            raise ValueError
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"{shown(value)} is no number; write for example 8/255 or 0.031") from None
    return number


Pixels = Annotated[float, BeforeValidator(pixels)]


class Method(Frozen):
    """How a model is trained: four independent choices."""

    objective: part_of("objectives", Objective)  # type: ignore[valid-type]
    mining: part_of("mining", Mining) | None = None  # type: ignore[valid-type]
    calibration: part_of("calibration", Calibration) | None = None  # type: ignore[valid-type]
    averaging: tuple[part_of("averaging", Averaging), ...] = ({"name": "ema"},)  # type: ignore[valid-type]

    @field_validator("mining", "calibration", mode="before")
    @classmethod
    def _none_by_name(cls, value: Any) -> Any:
        return None if value == "none" else value

    @field_validator("averaging", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if value is None or value == "none":
            return ()
        return (value,) if isinstance(value, str | dict) else value

    @field_validator("averaging")
    @classmethod
    def _distinct(cls, value: tuple[Averaging, ...]) -> tuple[Averaging, ...]:
        labels = [average.key for average in value]
        if len(set(labels)) < len(labels):
            raise ValueError(f"two averages share the label in {labels}; give one of them its own `label`")
        return value


class Data(Frozen):
    """Which images. By `name`, or any `folder` of class folders (`train/<class>/*`, `test/<class>/*`)."""

    name: str | None = None
    folder: str | None = None
    label: str | None = None  # what tables call it
    size: int | None = Field(None, ge=4, le=1024)  # side in pixels to which pictures of a folder are resized
    validation: float = Field(ge=0, le=0.5)  # share of each class held out of training for selection
    split_seed: int = Field(0, ge=0)
    train_limit: int | None = Field(None, ge=1)  # use that many training images, the same number per class
    test_limit: int | None = Field(None, ge=1)
    train_digest: str
    test_digest: str


class Model(Frozen):
    """Which network. `width` scales the number of channels; `normalize` puts (x - mean) / std in front."""

    name: str = "preact_resnet18"
    width: float = Field(1.0, gt=0, le=16)
    normalize: bool = True

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        from ham_core import models
        from ham_core.errors import known

        if value not in models.names():
            raise ValueError(f"unknown model; {known(value, models.names())}")
        return value


class Attack(Frozen):
    """The attack of the training loop: signed gradient ascent in the L-infinity ball of the trial's epsilon."""

    step: Pixels = Field(ge=0, le=1)  # may be written `epsilon/4`, which is the default
    steps: int = Field(10, ge=0, le=1000)
    start: Literal["uniform", "gaussian", "zero"]  # default: what the objective's source uses
    mode: Literal["eval", "train"] = (
        "train"  # of BatchNorm while the attack runs; `train` also moves its averages
    )


class Optimizer(Frozen):
    """Stochastic gradient descent."""

    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    nesterov: bool = False


class Schedule(Frozen):
    """lr(epoch) = lr * factors[j] for the last milestone j with epoch >= milestones[j]; 1 before the first."""

    milestones: tuple[Annotated[int, Field(ge=0)], ...] = (100, 150)
    factors: tuple[Annotated[float, Field(ge=0)], ...] = (0.1, 0.01)

    @model_validator(mode="after")
    def _pairs(self) -> Schedule:
        if len(self.milestones) != len(self.factors):
            raise ValueError(
                f"{len(self.milestones)} milestones but {len(self.factors)} factors; give one factor each"
            )
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones {list(self.milestones)} must not fall")
        return self

    def factor(self, epoch: int) -> float:
        """What the base learning rate is multiplied with in this epoch."""
        passed = [f for m, f in zip(self.milestones, self.factors, strict=True) if epoch >= m]
        return passed[-1] if passed else 1.0


class Augment(Frozen):
    """Random crop after padding by `crop` pixels, random horizontal flip. Defaults are the data set's."""

    crop: int = Field(ge=0, le=64)
    flip: bool
    padding: Literal["zeros", "reflect"] = "zeros"


class Selection(Frozen):
    """Which epoch's weights are kept as `best`: the highest robust accuracy under PGD on held-out images.

    `on: test` follows papers that select on the test set; reports mark it.
    """

    on: Literal["validation", "test"] = "validation"
    steps: int = Field(10, ge=0, le=1000)  # of the selection attack, step epsilon/4, uniform start


class Trial(Frozen):
    """One training run."""

    method: Method
    data: Data
    model: Model = Model()
    epsilon: Pixels = Field(8 / 255, ge=0, le=1)
    attack: Attack
    epochs: int = Field(200, ge=1, le=MOST_EPOCHS)
    batch_size: int = Field(128, ge=1)
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    augment: Augment
    selection: Selection = Selection()
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    seed: int = Field(0, ge=0, lt=2**32)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, value: Any) -> Any:
        return _with_dependent_defaults(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Trial:
        if self.selection.on == "validation" and self.data.validation == 0:
            raise ValueError(
                "data.validation is 0, so nothing is held out to select on; "
                "raise it, or set selection.on: test to follow papers that select on the test set"
            )
        if self.method.mining is not None:
            self.method.mining.check(self.attack.steps)
        return self


def _with_dependent_defaults(settings: dict[str, Any]) -> dict[str, Any]:
    """Fill the defaults that depend on other settings: step on epsilon, start on the objective, crop on the data."""
    filled = dict(settings)
    if "data" in filled:
        data = filled["data"] = data_settings(filled["data"])
        if isinstance(data, dict) and "train_digest" not in data:
            found = facts(data.get("name"), data.get("folder"), data.get("size"), data.get("label"))
            filled = with_facts(filled, found)

    if isinstance(filled.get("model"), str):
        filled["model"] = {"name": filled["model"]}

    attack = dict(filled["attack"]) if isinstance(filled.get("attack"), dict) else filled.get("attack", {})
    if isinstance(attack, dict):
        if "start" not in attack:
            objective = (
                filled.get("method", {}).get("objective") if isinstance(filled.get("method"), dict) else None
            )
            attack["start"] = _start_of(objective)
        step = attack.get("step", "epsilon/4")
        relative = re.fullmatch(
            r"\s*epsilon\s*(?:/\s*(\d+(?:\.\d+)?))?\s*", step if isinstance(step, str) else ""
        )
        divisor = float(relative[1] or 1) if relative else 0.0
        if divisor:  # else the text stays, and the step's own validation refuses it
            try:
                epsilon = float(pixels(filled.get("epsilon", Trial.model_fields["epsilon"].default)))
            except (TypeError, ValueError, OverflowError):
                epsilon = 0.0  # epsilon's own validation says what is wrong with it
            attack["step"] = epsilon / divisor
        filled["attack"] = attack
    return filled


def data_settings(data: Any) -> Any:
    """`digits` -> {name: digits}, `path/to/images` -> {folder: path/to/images}; a mapping without its empty entries."""
    if isinstance(data, str):
        return {"folder": data} if re.search(r"[/\\]|\.pt$", data) else {"name": data}
    if isinstance(data, dict):
        return {key: value for key, value in data.items() if value is not None}
    return data


def with_facts(settings: dict[str, Any], found: Facts) -> dict[str, Any]:
    """Settings with what follows from the data set `found`: digests, label, held-out share, crop and flip."""
    told = {"label": found.label, "train_digest": found.train_digest, "test_digest": found.test_digest}
    data = told | {"validation": found.validation} | settings["data"]
    if data.get("folder") and not data.get("name"):
        data.setdefault("size", found.shape[1])
    augment = settings.get("augment")
    if augment is None or isinstance(augment, dict):
        augment = {"crop": found.crop, "flip": found.flip} | (augment or {})
    return settings | {"data": data, "augment": augment}


def _start_of(objective: Any) -> str:
    from pydantic_core import PydanticCustomError

    from ham_core.parts import find

    name = objective.get("name") if isinstance(objective, dict) else getattr(objective, "name", objective)
    try:
        return str(getattr(find("objectives", name), "start", "uniform"))
    except PydanticCustomError:
        return "uniform"  # the objective's own validation says what is wrong with it


def canonical(trial: Trial) -> dict[str, Any]:
    """The part of a trial that is meant to change its trained weights, in a form that is hashed.

    Left out: averages (they watch the weights, they do not change them), the data's name, place and label (its pixels,
    labels and split are in by digest), and the test set, unless weights are selected on it.
    """
    form = trial.model_dump(mode="json")
    form["method"].pop("averaging")
    for key in ("name", "folder", "label", "size", "test_limit"):
        form["data"].pop(key)
    if trial.selection.on == "validation":
        form["data"].pop("test_digest")
    form["numerics_version"] = NUMERICS_VERSION
    return form


def digest_of(form: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of `form`."""
    text = json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(trial: Trial) -> str:
    """The identity of a trial: 64 hex digits."""
    return digest_of(canonical(trial))


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}. Lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat
