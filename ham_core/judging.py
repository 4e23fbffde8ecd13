"""A trained trial under a protocol: what the protocol's words mean in its results, and what it cannot follow. Light.

A result is stored under the names of the trial (`best_sum/pgd20_eps0_031/worst`); a table asks in the protocol's (`best` are
the weights that its rule selects, `pgd20` is at its radius). What was settled in training, the images that epochs were
selected on, the network's normalisation and the training radius, cannot be had otherwise afterwards: it is a deviation.
"""

from __future__ import annotations

import math

from pydantic import ValidationError

from ham_core.config import Trial
from ham_core.protocol import (
    RULES,
    EvaluationAttack,
    Protocol,
    canonical_weights,
    radius_in_words,
    split_weights,
)

IMAGES = {"validation": "held-out images", "test": "the test images"}
NETWORKS = {"data": "normalises its input by the data set's statistics", "none": "takes pixels as they are"}
SETTING = {"data": "true", "none": "false"}  # of model.normalize


def stored_weights(protocol: Protocol, weights: str) -> str:
    """`best` -> the weights of the protocol's rule, `best_ema` -> its average by that rule; other names stay."""
    rule, average = split_weights(weights)
    if rule != "best":
        return canonical_weights(weights)
    return f"{protocol.rule}_{average}" if average else protocol.rule


def stored_attack(protocol: Protocol, attack: str, epsilon: float) -> str:
    """The key of an attack's results in a trial of this `epsilon`: `pgd20` -> `pgd20_eps0_031` where the radii differ."""
    found = attack_called(protocol, attack) or _attack(attack)
    return attack if found is None else protocol.placed(found, epsilon).key


def attack_called(protocol: Protocol, key: str) -> EvaluationAttack | None:
    """The protocol's attack of this name in metrics; None: it has none."""
    return next((attack for attack in protocol.attacks if attack.key == key), None)


def _attack(key: str) -> EvaluationAttack | None:
    """An attack by its name in metrics (`apgd_t`), as far as such a name says all of it."""
    try:
        return EvaluationAttack.model_validate(key.replace("_", "-"))
    except ValidationError:
        return None


def deviations(protocol: Protocol, trial: Trial) -> tuple[str, ...]:
    """What the protocol asks for and the trial's training settled otherwise, one sentence each; none: it follows it."""
    return deviations_of(
        protocol, epsilon=trial.epsilon, on=trial.selection.on, normalize=trial.model.normalize
    )


def deviations_of(
    protocol: Protocol, *, epsilon: float | None, on: str | None, normalize: bool | None
) -> tuple[str, ...]:
    """The same from three settings of a trial; None where one is not known."""
    found = []
    if on not in (None, protocol.on) and protocol.rule != "last":
        found.append(f"selected on {IMAGES[str(on)]}, where {protocol.name} selects on {IMAGES[protocol.on]}")
    if epsilon is not None and protocol.norm == "l2":
        found.append(
            f"trained and selected in L-infinity (ε = {radius_in_words(epsilon)}), where {protocol.name} attacks in L2"
        )
    elif epsilon is not None and protocol.epsilon is not None and not _equal(epsilon, protocol.epsilon):
        found.append(
            f"trained and selected at ε = {radius_in_words(epsilon)}, where {protocol.name} has "
            f"{radius_in_words(protocol.epsilon)}"
        )
    network = None if normalize is None else "data" if normalize else "none"
    if network is not None and protocol.normalisation not in ("any", network):
        found.append(
            f"the network {NETWORKS[network]}, where that of {protocol.name} {NETWORKS[protocol.normalisation]} "
            f"(model.normalize: {SETTING[protocol.normalisation]})"
        )
    return tuple(found)


def _equal(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=1e-9)


def in_words(protocol: Protocol) -> str:
    """`ham-paper: 'best' is the epoch with the highest average robust accuracy on the test images, ε = 0.031`."""
    chosen = RULES[protocol.rule] + (f" on {IMAGES[protocol.on]}" if protocol.rule != "last" else "")
    words = [f"{protocol.name}: 'best' is {chosen}"]
    if protocol.epsilon is not None:
        norm = "" if protocol.norm == "linf" else " in L2"
        words.append(f"attacks at ε = {radius_in_words(protocol.epsilon)}{norm}")
    if protocol.normalisation != "any":
        words.append(f"network that {NETWORKS[protocol.normalisation]}")
    return ", ".join(words)
