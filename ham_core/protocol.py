"""What is run on a trained trial, and how results may be compared. Light: planning imports this.

An evaluation is one attack on one set of weights of one trial. It has its own fingerprint, so that adding an attack later
trains nothing again. A protocol is the agreement under which numbers may stand in one column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ham_core.config import Pixels, Trial, digest_of, fingerprint
from ham_core.errors import known
from ham_core.parts import Frozen

EVALUATION_VERSION = 1  # bump by hand when the same evaluation would give other predictions

RULES: Mapping[str, str] = {
    "best": "the epoch with the highest average robust accuracy",
    "best_sum": "the epoch with the highest sum of average and worst-class robust accuracy",
    "best_worst": "the epoch with the highest worst-class robust accuracy",
    "last": "the last epoch",
}
ATTACKS = ("clean", "pgd20", "cw20")  # the usual ones; any pgdN and cwN is allowed
ENSEMBLE = ("apgd-ce", "apgd-t", "fab-t", "square")  # AutoAttack's standard version, in its order
NAMES = (*ATTACKS, "fgsm", *ENSEMBLE, "autoattack")
QUERIES = 5000  # of Square in the standard version

# What each attack may be given besides a radius, a norm and a label.
TAKES: Mapping[str, tuple[str, ...]] = {
    "clean": (),
    "fgsm": (),
    "pgd": ("steps", "step", "restarts"),
    "cw": ("steps", "step", "restarts"),
    "apgd-ce": ("restarts",),
    "apgd-t": ("restarts",),
    "fab-t": (),
    "square": ("restarts", "queries"),
    "autoattack": (),
}


class EvaluationAttack(Frozen):
    """A name, `clean`, `fgsm`, `pgd20`, `cw20`, any pgdN or cwN, `apgd-ce`, `apgd-t`, `fab-t`, `square`, `autoattack`, or a
    mapping such as {name: pgd, steps: 50, restarts: 5, label: pgd50x5} or {name: autoattack, norm: l2, epsilon: 0.5}.

    PGD ascends the cross-entropy, CW the margin max_{c≠y} z_c - z_y; N steps from a uniform random start. FGSM is one step
    of ε from the image itself. The others are those of AutoAttack (Croce and Hein, ICML 2020, arXiv:2003.01690) with the
    settings of its standard version, and `autoattack` is the four of them, each on the images that still stand.
    """

    kind: Literal["clean", "fgsm", "pgd", "cw", "apgd-ce", "apgd-t", "fab-t", "square", "autoattack"]
    steps: int = Field(0, ge=0, le=100_000)
    restarts: int = Field(1, ge=1, le=1000)
    step: Pixels | None = Field(None, ge=0, le=1000)  # None: epsilon/4
    label: str | None = Field(None, pattern=r"^[a-z0-9_]+$")  # its name in metrics, in place of `pgd20`
    norm: Literal["linf", "l2"] = "linf"
    epsilon: Pixels | None = Field(
        None, ge=0, le=1000
    )  # radius in that norm; None: the trial's, which is L-infinity
    queries: int | None = Field(None, ge=1, le=1_000_000)  # of Square; None: 5000

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return _from_name(value)
        if isinstance(value, dict) and "name" in value:
            rest = {key: entry for key, entry in value.items() if key != "name"}
            return rest | _from_name(str(value["name"]), steps=rest.get("steps"))
        return value

    @model_validator(mode="after")
    def _takes_what_it_knows(self) -> EvaluationAttack:
        given = {
            "steps": self.steps > 0,
            "step": self.step is not None,
            "restarts": self.restarts > 1,
            "queries": self.queries is not None,
        }
        surplus = [name for name, is_given in given.items() if is_given and name not in TAKES[self.kind]]
        if self.kind == "clean":
            if surplus or self.norm != "linf" or self.epsilon is not None:
                raise ValueError(
                    "clean images are not attacked, so clean takes no steps, step, restarts, queries, norm or epsilon"
                )
        elif surplus:
            taken = ", ".join([*TAKES[self.kind], "norm", "epsilon", "label"])
            raise ValueError(f"{self.kind} takes no {' and no '.join(surplus)}; it takes {taken}")
        if self.norm == "l2" and self.epsilon is None:
            raise ValueError(
                "norm: l2 needs a radius of its own, since the trial's epsilon is L-infinity; "
                "write for example epsilon: 128/255"
            )
        if self.norm == "linf":
            for name, value in (("epsilon", self.epsilon), ("step", self.step)):
                if value is not None and value > 1:
                    raise ValueError(f"{name}: {value:g} is too much; allowed: 0 to 1, the range of pixels")
        return self

    @property
    def key(self) -> str:
        """Its name in metrics: the label, else `clean`, `pgd20`, `pgd20x5` (restarts), `square_q300`, `apgd_t_l2_eps0_5`."""
        plain = f"{self.kind}{self.steps}" if "steps" in TAKES[self.kind] else self.kind.replace("-", "_")
        if self.restarts > 1:
            plain += f"x{self.restarts}" if "steps" in TAKES[self.kind] else f"_x{self.restarts}"
        if self.queries is not None:
            plain += f"_q{self.queries}"
        if self.norm != "linf":
            plain += f"_{self.norm}"
        if self.epsilon is not None:
            plain += f"_eps{_as_word(self.epsilon)}"
        return self.label or plain

    def radius(self, epsilon: float) -> float:
        """Its own radius, else the trial's `epsilon`."""
        return epsilon if self.epsilon is None else self.epsilon

    def identity(self) -> dict[str, Any]:
        """What of it belongs to an evaluation's fingerprint. Later fields are left out at their defaults, so that they
        changed no fingerprint when they came."""
        dumped = self.model_dump(mode="json")
        later = {name: type(self).model_fields[name].default for name in ("norm", "epsilon", "queries")}
        return {name: value for name, value in dumped.items() if name not in later or value != later[name]}


def _as_word(radius: float) -> str:
    """8/255 -> `8_255`, 0.5 -> `0_5`: letters that a metric's name may hold."""
    levels = round(radius * 255)
    if radius and radius != round(radius) and math.isclose(levels / 255, radius, rel_tol=1e-9):
        return f"{levels}_255"
    return re.sub(r"[^a-z0-9]+", "_", f"{radius:.10g}")


def _from_name(name: str, steps: Any = None) -> dict[str, Any]:
    """`pgd20` -> {kind: pgd, steps: 20}; `pgd` takes the steps that stand beside it."""
    found = re.fullmatch(r"(pgd|cw)(\d*)", name)
    if name in TAKES and found is None:
        return {"kind": name}
    if found is None:
        raise ValueError(f"unknown attack '{name}'; {known(name, NAMES)}; any pgdN and cwN with N steps")
    if found[2] and steps is not None and str(steps) != found[2]:
        raise ValueError(
            f"'{name}' has {found[2]} steps, but steps: {steps} stands beside it; give one of the two"
        )
    if not found[2] and steps is None:
        raise ValueError(f"'{name}' needs its number of steps; write for example {name}20")
    return {"kind": found[1], "steps": int(found[2]) if found[2] else steps}


class Evaluation(Frozen):
    """One attack on one set of weights: `best`, `best_sum`, `best_worst`, `last`, or such a name with `_<average>` behind."""

    weights: str
    attack: EvaluationAttack

    @field_validator("weights")
    @classmethod
    def _known(cls, value: str) -> str:
        if not split_weights(value)[0]:
            raise ValueError(
                f"unknown weights '{value}'; {known(value, RULES)}; _<average> may follow, as in best_ema"
            )
        return value

    @property
    def name(self) -> str:
        """`best/pgd20`."""
        return f"{self.weights}/{self.attack.key}"


def read_evaluations(attacks: str, weights: str) -> tuple[list[Evaluation], list[str]]:
    """Every attack of `clean,pgd20` on all weights of `best,last`, each once, and what is wrong with the words."""
    found: list[Evaluation] = []
    problems: list[str] = []
    for name in _words(weights):
        for attack in _words(attacks):
            try:
                found.append(Evaluation(weights=name, attack=EvaluationAttack.model_validate(attack)))
            except ValidationError as error:
                problems += [one["msg"].removeprefix("Value error, ") for one in error.errors()]
    return found, list(dict.fromkeys(problems))


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def split_weights(name: str) -> tuple[str, str]:
    """`best_sum_ema` -> (best_sum, ema); `last` -> (last, ""); an unknown rule -> ("", "")."""
    for rule in sorted(RULES, key=len, reverse=True):
        if name == rule:
            return rule, ""
        if name.startswith(f"{rule}_") and len(name) > len(rule) + 1:
            return rule, name[len(rule) + 1 :]
    return "", ""


def evaluation_fingerprint(trial: Trial, evaluation: Evaluation) -> str:
    """The identity of an evaluation of a trial: 64 hex digits.

    It covers the trial's, the weights (of an average: how it averages), the attack with its own radius if it has one, the
    trial's epsilon and the test images.
    """
    return identity_of_evaluation(fingerprint(trial), trial, evaluation)


def identity_of_evaluation(trial_fingerprint: str, trial: Trial, evaluation: Evaluation) -> str:
    """The same where the trial's fingerprint is known already."""
    average = split_weights(evaluation.weights)[1]
    return digest_of(
        {
            "trial": trial_fingerprint,
            "weights": evaluation.weights,
            "average": [one.model_dump(mode="json") for one in trial.method.averaging if one.key == average],
            "attack": evaluation.attack.identity(),
            "name": evaluation.attack.key,  # the stored metrics carry it
            "epsilon": trial.epsilon,
            "test_digest": trial.data.test_digest,
            "test_limit": trial.data.test_limit,
            "version": EVALUATION_VERSION,
        }
    )


@dataclass(frozen=True)
class Protocol:
    """How results may be compared. `settings` lie above a preset's recipe and below the sweep's own."""

    name: str
    title: str
    weights: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    attacks: tuple[str, ...] = ATTACKS


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "standard", "selected on a held-out split", ("best", "last"), {"selection.on": "validation"}
        ),
        Protocol(
            "ham-paper",
            "as HAM's code: selected on the test set, epsilon 0.031",
            ("best", "last"),
            {"selection.on": "test", "epsilon": 0.031},
        ),
        Protocol(
            "cfa-paper",
            "as CFA: selected on the test set by average plus worst class, epsilon 8/255",
            ("best_sum", "last"),
            {"selection.on": "test", "epsilon": "8/255"},
        ),
    )
}
