"""Hand-made sweeps: what the tracking store would hold, with every number known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from orchestration.tracking import Planned, Run, Sweep
from reports.collect import Material, Trial, trials_of
from reports.predictions import Predictions

CLASSES = ("00_cat", "01_dog", "02_ship")
PARAMS = {
    "data.label": "digits",
    "model.name": "small_cnn",
    "model.width": "1.0",
    "epsilon": "0.2",
    "epochs": "12",
    "selection.on": "validation",
    "selection.steps": "10",
    "precision": "fp32",
}


@dataclass
class Store:
    """A sweep that is written down line by line."""

    name: str = "digits"
    planned: list[Planned] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    series: dict[str, dict[str, list[tuple[int, float]]]] = field(default_factory=dict)
    images: dict[tuple[str, str, str], Predictions] | None = None  # None: the trial store is not known

    def add(
        self,
        label: str,
        seed: int,
        metrics: Mapping[str, float] | None,
        *,
        title: str | None = None,
        grids: tuple[str, ...] = ("methods",),
        values: Mapping[str, Any] | None = None,
        status: str = "FINISHED",
        params: Mapping[str, str] | None = None,
        series: Mapping[str, list[float]] | None = None,
    ) -> str:
        """Plan a trial; `metrics` None leaves it without a run. Returns its fingerprint."""
        identity = f"{self.name}{label}{seed}{sorted((values or {}).items())}"
        fingerprint = hashlib.sha256(identity.encode()).hexdigest()
        shown = title or label
        self.planned.append(Planned(fingerprint, label, shown, grids, dict(values or {}), seed, shown))
        if metrics is not None:
            self.runs.append(
                Run(
                    hashlib.md5(fingerprint.encode()).hexdigest(),
                    "1",
                    "digits",
                    fingerprint,
                    status,
                    {"kind": "trial"},
                    PARAMS | dict(params or {}),
                    dict(metrics),
                )
            )
        for key, points in (series or {}).items():
            self.series.setdefault(key, {})[fingerprint] = list(enumerate(points))
        return fingerprint

    def keep(
        self, fingerprint: str, predictions: Predictions, weights: str = "best", attack: str = "pgd20"
    ) -> None:
        """Predictions of a trial's images; from now on the trial store is known."""
        self.images = {**(self.images or {}), (fingerprint, weights, attack): predictions}

    def material(self) -> Material:
        sweep = Sweep(self.name, "0", ("1",), tuple(self.planned))
        images = self.images

        def read(trial: Trial, weights: str, attack: str) -> Predictions | None:
            return (images or {}).get((trial.fingerprint, weights, attack))

        trials = trials_of(sweep, self.runs)
        return Material(
            self.name, trials, lambda key: self.series.get(key, {}), None if images is None else read
        )

    def without(self, fingerprint: str) -> Store:
        """The same store, one run deleted."""
        return replace(self, runs=[run for run in self.runs if run.fingerprint != fingerprint])


def results(accuracies: Mapping[str, tuple[float, ...]], images: int = 100) -> dict[str, float]:
    """Metrics of `best` and `last` from class-wise accuracies per attack, as ham_core.metrics defines them."""
    found = {f"test/images/{name}": float(images) for name in CLASSES}
    for attack, shares in accuracies.items():
        mean = sum(shares) / len(shares)
        statistics = {
            "avg": mean,
            "worst": min(shares),
            "worst20": min(shares),
            "std": (sum((share - mean) ** 2 for share in shares) / len(shares)) ** 0.5,
            "gap": max(shares) - min(shares),
        } | dict(zip(CLASSES, shares, strict=True))
        for weights in ("best", "last"):
            found |= {f"{weights}/{attack}/{name}": value for name, value in statistics.items()}
    return found


def attacks(clean: tuple[float, ...], robust: tuple[float, ...]) -> dict[str, float]:
    """The three standard evaluations; CW-20 equals PGD-20 here."""
    return results({"clean": clean, "pgd20": robust, "cw20": robust})


@pytest.fixture
def store() -> Store:
    """An empty sweep."""
    return Store()


@pytest.fixture
def metrics() -> Callable[..., dict[str, float]]:
    """`metrics(clean, robust)` -> the metrics of one trial."""
    return attacks


@pytest.fixture
def digits(store: Store) -> Store:
    """Two methods with three seeds each, one with a seed missing and one not run; series and passes for all that ran."""
    for seed, worst in enumerate((0.40, 0.46, 0.43)):
        shift = seed / 100
        series = {
            "val/pgd10/worst": [0.1, 0.2 + shift, 0.3 + shift],
            "train/passes/forward": [1100.0] * 3,
            "train/passes/input_gradient": [1000.0] * 3,
            "train/passes/weight_gradient": [100.0] * 3,
            "train/images": [100.0] * 3,
            "time/train_s": [2.0, 2.0, 2.5],
            "time/validate_s": [0.5] * 3,
        }
        times = {"time/evaluate_s": 3.0}
        store.add("at", seed, attacks((0.9, 0.8, 0.7), (0.6, 0.5, worst)) | times, title="AT", series=series)
        own = attacks((0.88, 0.8, 0.72), (0.58, 0.52, worst + 0.05)) | times if seed else None
        store.add("ham-official", seed, own, title="HAM (official)", series=series if seed else None)
        store.add("ham-paper", seed, None, title="HAM (paper)")
    return store
