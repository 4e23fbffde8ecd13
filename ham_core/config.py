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
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from ham_core.averaging.base import Averaging
from ham_core.calibration.base import Calibration
from ham_core.data.index import facts
from ham_core.data.source import Facts
from ham_core.mining.base import Mining
from ham_core.objectives.base import Objective
from ham_core.parts import Frozen, build, part_of
from ham_core.sentences import shown

MOST_EPOCHS = 100_000
LONGEST_NUMBER = 60  # letters of a radius; more digits than that are a mistake
STATE = "state"  # weights of a start that stand for the whole training state
NUMERICS_VERSION = 3  # bump by hand when the same settings would train other weights


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
HeldOut = Annotated[float, Field(ge=0, le=0.5)] | Annotated[int, Field(ge=1)]


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
    validation: (
        HeldOut  # held out of each class for selection: a share of its images, or from 1 on their number
    )
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
    """lr(t) = lr · factor(t), t counted in epochs, with fractions inside an epoch.

    shape step: factors[j] for the last milestone j with t >= milestones[j]; 1 before the first. linear, cosine: through
    the points (milestones[j], factors[j]), along straight lines or half cosine waves; constant before the first and after
    the last.
    """

    shape: Literal["step", "linear", "cosine"] = "step"
    milestones: tuple[Annotated[int | float, Field(ge=0)], ...] = (100, 150)
    factors: tuple[Annotated[float, Field(ge=0)], ...] = (0.1, 0.01)

    @model_validator(mode="after")
    def _pairs(self) -> Schedule:
        if len(self.milestones) != len(self.factors):
            raise ValueError(
                f"{len(self.milestones)} milestones but {len(self.factors)} factors; give one factor each"
            )
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones {list(self.milestones)} must not fall")
        if self.shape != "step" and not self.milestones:
            raise ValueError(f"a {self.shape} schedule needs at least one milestone with its factor")
        return self

    def factor(self, time: float) -> float:
        """What the base learning rate is multiplied with at this time, in epochs."""
        passed = [j for j, milestone in enumerate(self.milestones) if time >= milestone]
        if self.shape == "step":
            return self.factors[passed[-1]] if passed else 1.0
        if not passed:
            return self.factors[0]
        last = passed[-1]
        if last + 1 == len(self.milestones):
            return self.factors[last]
        (t0, t1), (f0, f1) = self.milestones[last : last + 2], self.factors[last : last + 2]
        share = (time - t0) / (t1 - t0)
        if self.shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return f0 + (f1 - f0) * share


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


class Start(Frozen):
    """Another trial whose result this one uses.

    `weights` names kept weights (`best`, `last`, `best_ema`, ...). As a trial's `start_from` it may also be `state`:
    everything after the other trial's last epoch, from where this one's epochs go on as if it had trained them itself.
    """

    trial: Trial
    weights: str = Field("best", pattern=r"^[a-z0-9_]+$")

    @field_validator("weights")
    @classmethod
    def _one_name(cls, value: str) -> str:
        from ham_core.protocol import canonical_weights

        return canonical_weights(value)

    @property
    def continues(self) -> bool:
        """Whether the epochs of the other trial are the first of this one."""
        return self.weights == STATE


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
    start_from: Start | None = (
        None  # the trial whose weights this one begins with, trained first where it is missing
    )
    helper: Start | None = None  # the trial whose network the objective asks
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
        parts = [self.method.calibration, *self.method.averaging]
        for part in parts:
            if part is not None and part.needs_validation and self.data.validation == 0:
                raise ValueError(
                    f"data.validation is 0, but {part.name} looks at held-out images while it trains; raise it"
                )
        for problem in start_problems(self):
            raise ValueError(problem)
        return self

    @property
    def sources(self) -> tuple[Start, ...]:
        """The trials that must be trained before this one."""
        return tuple(one for one in (self.start_from, self.helper) if one is not None)


def start_problems(trial: Trial) -> list[str]:
    """Why a trial cannot use its other trials, one sentence each."""
    problems = []
    if trial.method.objective.root.needs_helper and trial.helper is None:
        name = trial.method.objective.root.name
        problems.append(
            f"helper is missing, and the objective {name} asks one; write for example helper: {{method: standard}}"
        )
    start = trial.start_from
    if start is not None and start.trial.model != trial.model:
        problems.append(
            "start_from: the other trial has another network, whose weights do not fit; give both the same model"
        )
    if start is not None and start.continues and start.trial.epochs >= trial.epochs:
        problems.append(
            f"start_from.epochs is {start.trial.epochs}, but the training it is continued to has only {trial.epochs} epochs "
            "in all; give fewer"
        )
    if trial.helper is not None and trial.helper.continues:
        problems.append("helper.weights is state, but a helper is a finished network; write best or last")
    return problems


def with_seed(trial: Trial, seed: int, keeps: frozenset[str] = frozenset()) -> Trial:
    """The trial with another seed; the trials it starts from follow, except those named in `keeps`.

    `start_from`, `helper`, or of another trial `start_from.helper`.
    """
    changed: dict[str, Any] = {"seed": seed}
    for word in ("start_from", "helper"):
        start: Start | None = getattr(trial, word)
        if start is not None and word not in keeps:
            below = frozenset(key.removeprefix(f"{word}.") for key in keeps if key.startswith(f"{word}."))
            changed[word] = start.model_copy(update={"trial": with_seed(start.trial, seed, below)})
    return trial.model_copy(update=changed)


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
        try:
            epsilon = float(pixels(filled.get("epsilon", Trial.model_fields["epsilon"].default)))
        except (TypeError, ValueError, OverflowError):
            epsilon = 0.0  # epsilon's own validation says what is wrong with it
        objective = _objective_of(filled.get("method"))
        if objective is not None:
            attack = {"start": objective.root.start} | attack | objective.attack_settings(epsilon)
        attack.setdefault("start", "uniform")
        step = attack.get("step", "epsilon/4")
        relative = re.fullmatch(
            r"\s*epsilon\s*(?:/\s*(\d+(?:\.\d+)?))?\s*", step if isinstance(step, str) else ""
        )
        divisor = float(relative[1] or 1) if relative else 0.0
        if divisor:  # else the text stays, and the step's own validation refuses it
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


def _objective_of(method: Any) -> Objective | None:
    """The objective of a method that is not validated yet; None where it is wrong, which its own validation says."""
    from pydantic import ValidationError
    from pydantic_core import PydanticCustomError

    value = method.get("objective") if isinstance(method, dict) else getattr(method, "objective", None)
    try:
        return cast(Objective, build("objectives", value))
    except (PydanticCustomError, ValidationError):
        return None


def canonical(trial: Trial) -> dict[str, Any]:
    """The part of a trial that is meant to change its trained weights, in a form that is hashed.

    Left out: averages (they watch the weights, they do not change them), the data's name, place and label (its pixels,
    labels and split are in by digest), the test set, unless weights are selected on it, and every setting at its default,
    so that a new option changes no identity (a default that changes is a new numerics version). Other trials stand for
    themselves by their fingerprints.
    """
    form = trial.model_dump(mode="json", exclude_defaults=True, exclude={"start_from", "helper"})
    form["method"].pop("averaging", None)
    for key in ("name", "folder", "label", "size", "test_limit"):
        form["data"].pop(key, None)
    if trial.selection.on == "validation":
        form["data"].pop("test_digest")
    for word in ("start_from", "helper"):
        start: Start | None = getattr(trial, word)
        if start is not None:
            form[word] = {"trial": fingerprint(start.trial), "weights": start.weights}
            averages = [one for one in start.trial.method.averaging if start.weights.endswith(f"_{one.key}")]
            if averages:  # how they average is not in the other trial's fingerprint
                form[word]["averages"] = [one.model_dump(mode="json") for one in averages]
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
