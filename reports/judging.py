"""A table of trials that are judged under a protocol: which stored numbers it shows, and what the trials deviate in.

A spec asks for `best/pgd20/worst`. Under a protocol `best` are the weights that its rule selects and `pgd20` is at its
radius, so the number is stored as `best_sum/pgd20/worst` or `best/pgd20_eps0_031/worst` (ham_core/judging.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ham_core.judging import attack_called, deviations_of, in_words, stored_attack, stored_weights
from ham_core.protocol import Protocol as Judging
from reports.collect import PROTOCOL, UNSAID, Protocol, readable
from reports.spec import RESULT, Column

if TYPE_CHECKING:
    from reports.collect import Trial


@dataclass(frozen=True)
class Judge:
    """One protocol that a table is judged under."""

    protocol: Judging

    @property
    def name(self) -> str:
        """`ham-paper`."""
        return self.protocol.name

    def read(self, column: Column, trials: Sequence[Trial]) -> Column:
        """The column by the names under which these trials hold its numbers; as it is where they hold it under several."""
        found = {self._stored(column, radius) for radius in radii(trials)} or {column.metric}
        metric = found.pop() if len(found) == 1 else column.metric
        return column if metric == column.metric else column.model_copy(update={"metric": metric})

    def _stored(self, column: Column, radius: float) -> tuple[str, ...]:
        return tuple(self._name(name, radius) for name in column.metric)

    def _name(self, metric: str, radius: float) -> str:
        found = RESULT.fullmatch(metric)
        if found is None:
            return metric
        weights = stored_weights(self.protocol, found["weights"])
        attack = stored_attack(self.protocol, found["attack"], radius)
        return f"{weights}/{attack}/{found['statistic']}"

    def lacks(self, column: Column) -> bool:
        """Whether the column asks for an attack that the protocol does not have."""
        return column.attack is not None and attack_called(self.protocol, column.attack) is None

    def of(self, trials: Sequence[Trial]) -> tuple[str, ...]:
        """What some of these trials deviate in, as footnotes."""
        return tuple(dict.fromkeys(text for trial in trials for text in _deviations(self.protocol, trial)))

    def shared(self, trials: Sequence[Trial]) -> tuple[str, ...]:
        """What all of these trials deviate in, as far as they have run."""
        ran = [set(_deviations(self.protocol, trial)) for trial in trials if trial.run is not None]
        return tuple(text for text in self.of(trials) if all(text in one for one in ran))

    def heading(self, trained: Protocol | None) -> str:
        """How the trials were trained, and what they are judged by."""
        words = {**PROTOCOL, "epsilon": "trained at ε = {}"}
        settings = () if trained is None else trained.settings
        parts = [
            words.get(key, f"{key} {{}}").format(readable(key, value))
            for key, value in settings
            if UNSAID.get(key) != value and key != "protocol"
        ]
        before = ", ".join(parts) or "no run yet"
        return f"{before}; judged under {in_words(self.protocol)}"


def radii(trials: Sequence[Trial]) -> set[float]:
    """The training radii of these trials, of those that have a run."""
    found = set()
    for trial in trials:
        if trial.run is not None and trial.run.params.get("epsilon"):
            found.add(float(trial.run.params["epsilon"]))
    return found


def _deviations(protocol: Judging, trial: Trial) -> tuple[str, ...]:
    params = {} if trial.run is None else trial.run.params
    normalize = params.get("model.normalize")
    sentences = deviations_of(
        protocol,
        epsilon=float(params["epsilon"]) if params.get("epsilon") else None,
        on=params.get("selection.on"),
        normalize=None if normalize is None else normalize.lower() == "true",
    )
    return tuple(f"{text[0].upper()}{text[1:]}." for text in sentences)
