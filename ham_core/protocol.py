"""What is run on a trained trial, and how results may be compared. Light: planning imports this.

An evaluation is one attack on one set of weights of one trial. It has its own fingerprint, so that adding an attack later
trains nothing again. A protocol is the agreement under which numbers may stand in one column: which weights, attacked how, at
which radius. A trial is trained under one protocol and may be judged under several; ham_core/judging.py says what of a
protocol a trained model cannot follow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
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
OTHER_WORDS = {"best_avg": "best"}  # of rules; metrics and files know the second only
ATTACKS = ("clean", "pgd20", "cw20")  # the usual ones; any pgdN and cwN is allowed
ENSEMBLE = ("apgd-ce", "apgd-t", "fab-t", "square")  # AutoAttack's standard version, in its order
NAMES = (*ATTACKS, "fgsm", *ENSEMBLE, "autoattack")
QUERIES = 5000  # of Square in the standard version
LOGITS = 4  # that the targeted loss of apgd-t compares

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


def class_problem(kind: str, classes: int) -> str | None:
    """A sentence where this kind of attack cannot be run on so few classes."""
    if classes >= LOGITS or kind not in ("apgd-t", "autoattack"):
        return None
    return (
        f"apgd-t compares four logits, and there are {classes} classes; "
        "attack with apgd-ce, fab-t and square instead (autoattack contains apgd-t)"
    )


def _as_word(radius: float) -> str:
    """8/255 -> `8_255`, 0.5 -> `0_5`: letters that a metric's name may hold."""
    levels = _levels(radius)
    return f"{levels}_255" if levels else re.sub(r"[^a-z0-9]+", "_", f"{radius:.10g}")


def radius_in_words(radius: float) -> str:
    """`8/255` for a whole number of pixel steps, unless it is as short without: `0.2`, `0.031`."""
    plain = f"{radius:.10g}"
    return f"{_levels(radius)}/255" if _levels(radius) and len(plain) > len("0.031") else plain


def _levels(radius: float) -> int:
    """How many 255ths a radius is; 0 where it is no whole number of them, or a whole number itself."""
    levels = round(radius * 255)
    fits = radius != round(radius) and math.isclose(levels / 255, radius, rel_tol=1e-9)
    return levels if fits else 0


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
        return known_weights(value)

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


def canonical_weights(name: str) -> str:
    """`best_avg` -> `best`, `best_avg_ema` -> `best_ema`: the one name that files and metrics have; others as they are."""
    for word, rule in OTHER_WORDS.items():
        if name == word or name.startswith(f"{word}_"):
            return rule + name[len(word) :]
    return name


def known_weights(name: str) -> str:
    """The canonical name; ValueError: there is no such rule."""
    found = canonical_weights(name)
    if not split_weights(found)[0]:
        raise ValueError(
            f"unknown weights '{name}'; {known(name, RULES)}; _<average> may follow, as in best_ema"
        )
    return found


def split_weights(name: str) -> tuple[str, str]:
    """`best_sum_ema` -> (best_sum, ema); `last` -> (last, ""); an unknown rule -> ("", "")."""
    name = canonical_weights(name)
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


USUAL = tuple(EvaluationAttack.model_validate(name) for name in ATTACKS)


class Protocol(Frozen):
    """How results may be compared: the fields say all of it.

    `settings` lie above a preset's recipe and below the sweep's own. What the network does to its input is a matter of the
    recipe: `normalisation` is compared and footnoted, never set.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=40)
    title: str = Field("", max_length=200)  # in words
    rule: Literal["best", "best_sum", "best_worst", "last"] = "best"  # which epoch's weights count
    on: Literal["validation", "test"] = "validation"  # the images that the rule looks at
    epsilon: Pixels | None = Field(None, ge=0, le=1000)  # radius of its attacks; None: the trial's
    norm: Literal["linf", "l2"] = "linf"  # of that radius
    normalisation: Literal["any", "data", "none"] = (
        "any"  # of pixels by the data set's statistics, in the model
    )
    weights: tuple[str, ...]  # kept and attacked: those of the rule first; without any the last epoch's too
    attacks: tuple[EvaluationAttack, ...] = Field(USUAL, min_length=1, max_length=50)

    @model_validator(mode="before")
    @classmethod
    def _rule_first(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        found = dict(value)
        rule = found.get("rule", cls.model_fields["rule"].default)
        if isinstance(rule, str):
            found["rule"] = rule = canonical_weights(rule)
        given = found.get("weights")
        given = ["last"] if given is None else [given] if isinstance(given, str) else given
        if isinstance(given, list | tuple) and rule in RULES and all(isinstance(one, str) for one in given):
            given = tuple(dict.fromkeys([rule, *map(canonical_weights, given)]))
        found["weights"] = given
        if isinstance(found.get("attacks"), str | dict):
            found["attacks"] = [found["attacks"]]
        return found

    @field_validator("weights")
    @classmethod
    def _known_weights(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(known_weights(name) for name in value)

    @field_validator("attacks")
    @classmethod
    def _distinct(cls, value: tuple[EvaluationAttack, ...]) -> tuple[EvaluationAttack, ...]:
        keys = [attack.key for attack in value]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"two attacks are called '{key}'; drop one, or give it its own label")
        return value

    @model_validator(mode="after")
    def _radius_of_its_norm(self) -> Protocol:
        if self.norm == "l2" and self.epsilon is None:
            raise ValueError(
                "norm: l2 needs a radius of its own, since a trial's epsilon is L-infinity; "
                "write for example epsilon: 128/255"
            )
        if self.norm == "linf" and self.epsilon is not None and self.epsilon > 1:
            raise ValueError(f"epsilon: {self.epsilon:g} is too much; allowed: 0 to 1, the range of pixels")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What a trial that is trained under it has: the images of its selection, and the radius if that is L-infinity."""
        found: dict[str, Any] = {"selection.on": self.on}
        if self.epsilon is not None and self.norm == "linf":
            words = radius_in_words(self.epsilon)
            found["epsilon"] = words if "/" in words else self.epsilon
        return found

    def evaluations(self, trial: Trial) -> list[Evaluation]:
        """All its attacks on all its weights of a trial; weights of an average only where the trial keeps that."""
        averages = {"", *(average.key for average in trial.method.averaging)}
        attacks = [self.placed(attack, trial.epsilon) for attack in self.attacks]
        names = [name for name in self.weights if split_weights(name)[1] in averages]
        return [Evaluation(weights=name, attack=attack) for name in names for attack in attacks]

    def placed(self, attack: EvaluationAttack, epsilon: float) -> EvaluationAttack:
        """The attack as it is run on a trial of this `epsilon`: at the protocol's radius unless it has its own.

        Where that is the trial's the attack is the plain one, so that protocols of one radius share their evaluations.
        """
        own = attack.epsilon is not None
        radius, norm = (attack.epsilon, attack.norm) if own else (self.epsilon, self.norm)
        if attack.kind == "clean" or radius is None:
            return attack
        if norm == "linf" and math.isclose(radius, epsilon, rel_tol=1e-9):
            radius = None
        label = attack.label
        if label is not None and radius is not None and not own:
            label += f"{'' if norm == 'linf' else f'_{norm}'}_eps{_as_word(radius)}"
        changed = attack.model_dump() | {"epsilon": radius, "norm": norm, "label": label}
        return EvaluationAttack.model_validate(changed)

    def record(self) -> dict[str, Any]:
        """As JSON, without what is a default."""
        attacks = [attack.model_dump(mode="json", exclude_defaults=True) for attack in self.attacks]
        return self.model_dump(mode="json", exclude_defaults=True) | {"attacks": attacks}


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="standard",
            title="selected on a held-out split",
            rule="best",
            on="validation",
            weights=("best", "last"),
        ),
        # Its scripts normalise by CIFAR-10's statistics on CIFAR-10 and not at all on other images, as the presets do.
        Protocol(
            name="ham-paper",
            title="as HAM's code: selected on the test set, epsilon 0.031",
            rule="best",
            on="test",
            epsilon=0.031,
            weights=("best", "last"),
        ),
        Protocol(
            name="cfa-paper",
            title="as CFA: selected on the test set by average plus worst class, epsilon 8/255",
            rule="best_sum",
            on="test",
            epsilon=8 / 255,
            normalisation="data",
            weights=("best_sum", "last"),
        ),
    )
}
