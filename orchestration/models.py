"""Other people's models as the record sees them: what STORE/foreign holds, and what it becomes in MLflow and in tables. Light.

    STORE/foreign/<digest>/model.json      what ham_core/foreign.py read
    STORE/foreign/<digest>/tables.json     its title, and the sweeps in whose tables it is a row

One run per model and radius: the radius is no part of the model, but a run has one set of settings and a column one radius,
so a model that is judged at two radii is two runs, as a trial of two radii would be two trials.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ham_core.config import digest_of
from ham_core.errors import RequestError
from ham_core.folder import TrialFolder, read_json, write_json
from orchestration.sealed_runs import corruption

MODELS = "models"  # the sweep, and its grid, of which every such model is a row
OF_IMAGES = (
    "test_digest",
    "test_limit",
)  # of what identifies a model's folder, that which says no more of the model


@dataclass(frozen=True)
class Judged:
    """A model that was judged at one radius. `about`: its model.json; `evaluations`: the records at that radius."""

    folder: TrialFolder
    about: Mapping[str, Any]
    title: str
    sweeps: tuple[str, ...]
    epsilon: float
    evaluations: tuple[dict[str, Any], ...]

    @property
    def fingerprint(self) -> str:
        """Of its run: the model, how it was read, the test images and the radius."""
        return digest_of({"foreign": self.about["digest"], "epsilon": self.epsilon})

    @property
    def model(self) -> str:
        """Of the model and how it was read, whatever it was judged on."""
        told = {key: value for key, value in self.about["model"].items() if key not in OF_IMAGES}
        return digest_of({"model": told})

    @property
    def data(self) -> str:
        """The experiment it belongs to."""
        return str(self.about["data"])

    @property
    def began_ms(self) -> int:
        """When it was first judged."""
        return int(self.about["time"] * 1000)

    @property
    def params(self) -> dict[str, Any]:
        """dotted key -> value of all that is known of it; those that a trial has too have a trial's names."""
        told = self.about["model"]
        return {
            "model": told["model"],
            "file": self.about["name"],
            "file_sha256": told["file"],
            **{key: told[key] for key in ("width", "entry", "threat", "weights") if key in told},
            "normalisation": told["normalisation"],
            "probe": json.dumps(self.about["probe"]),
            "data.label": self.data,
            "data.test_digest": told["test_digest"],
            "data.test_limit": told["test_limit"],
            "epsilon": self.epsilon,
            "precision": "fp32",
        }


def judged(store: Path) -> list[Judged]:
    """All models that were ever judged in a store, in the order of their digests."""
    found = (TrialFolder(place.parent) for place in sorted((store / "foreign").glob("*/model.json")))
    return [one for folder in found for one in judged_in(folder)]


def judged_in(folder: TrialFolder) -> list[Judged]:
    """A model by its radii. Empty for the folder of an earlier version, until its evaluation is asked for again."""
    about = read_json(folder.path / "model.json")
    if about is None or "data" not in about:
        return []
    placed = read_json(folder.path / "tables.json") or {}
    by_radius: dict[float, list[dict[str, Any]]] = {}
    for record in folder.evaluations(skip_damaged=True):  # which the same command makes again
        by_radius.setdefault(record.get("radius", record["epsilon"]), []).append(record)
    title, sweeps = placed.get("title") or title_of(about["name"]), tuple(placed.get("sweeps", ()))
    return [
        Judged(folder, about, title, sweeps, epsilon, tuple(records))
        for epsilon, records in sorted(by_radius.items())
    ]


def title_of(name: str) -> str:
    """What tables call a model that has no title: `model_best` of model_best.pth, the zoo's name, or the factory."""
    return (
        name.rpartition(":")[2]
        if name.startswith("robustbench:")
        else name
        if ":" in name
        else Path(name).stem
    )


def place(folder: TrialFolder, title: str | None, sweep: str | None) -> None:
    """Note a model's title, and a sweep in whose tables it stands from now on. None: as before."""
    with folder.lock():
        file = folder.path / "tables.json"
        before = read_json(file) or {}
        after = {
            "title": title or before.get("title"),
            "sweeps": sorted({*before.get("sweeps", ()), *([sweep] if sweep is not None else [])}),
        }
        if after != {"title": before.get("title"), "sweeps": list(before.get("sweeps", ()))}:
            write_json(file, after)


def record(uri: str, store: Path, models: Iterable[Judged]) -> str:
    """Bring the models' runs in MLflow up to date -> why that was not possible, "" where it was."""
    from orchestration.tracking import Tracker

    try:
        tracker = Tracker(uri, store)
        for one in models:
            tracker.sync_model(one)
    except RequestError as error:  # a damaged file of a model
        return " ".join(error.problems)
    except Exception as error:  # anything a database, a server or a file system can raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        return corruption(uri, error) or (
            f"MLflow at {uri} could not be brought up to date ({first}); nothing is lost, the same command completes it when "
            "it answers again"
        )
    return ""


def unique_titles(models: Sequence[tuple[str, str]]) -> list[str]:
    """Titles of (title, model) pairs: where different models have the same, each with the beginning of its digest."""
    owners: dict[str, set[str]] = {}
    for title, model in models:
        owners.setdefault(title, set()).add(model)
    return [title if len(owners[title]) == 1 else f"{title} ({model[:6]})" for title, model in models]
