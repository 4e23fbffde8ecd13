"""RobustBench's model zoo: networks by name, and where their files are. Croce et al., NeurIPS 2021 Datasets and Benchmarks,
arXiv:2010.09670; the package robustbench, which only this file imports.

Its architectures are taken as they are, with the normalisation that they carry; its files are read by ham_core/foreign.py
and not by its own loader. They lie where its loader would put them:

    CACHE/robustbench/<data set>/<threat>/<name>.pt      CACHE: ham_core.data.places.cache_folder()
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ham_core.data.places import alone, cache_folder, written
from ham_core.errors import RequestError, known

PREFIX = "robustbench:"  # of --model
THREATS = ("Linf", "L2", "corruptions")
DATA = ("cifar10", "cifar100")  # data sets that both of us have
DRIVE = "https://drive.google.com/uc?id="
# The loader of the package takes the `last` of the two state dicts in these files.
LAST = ("Kireev2021Effectiveness", "Andriushchenko2020Understanding")


@dataclass(frozen=True)
class Model:
    """One model of the zoo: its name there, the data set and the threat that it was trained for."""

    name: str
    data: str
    threat: str

    @property
    def file(self) -> Path:
        """Where its file lies, or belongs."""
        return cache_folder() / "robustbench" / self.data / self.threat / f"{self.name}.pt"

    @property
    def source(self) -> str:
        """The address of its file."""
        return f"{DRIVE}{_entry(self)['gdrive_id']}"

    @property
    def entry(self) -> str | None:
        """Which of the file's entries the package takes, where there are several."""
        return "last" if any(word in self.name for word in LAST) else None


def find(name: str, data: str | None, threat: str) -> Model:
    """The model of that name (without `robustbench:`); RequestError, with the nearest names, where the zoo has none.

    data: the data set that it is judged on, which must be the zoo's; None: a folder, or no name.
    """
    if threat not in THREATS:
        raise RequestError(f"--threat: unknown {threat!r}; {known(threat, THREATS)}")
    if data not in DATA:
        raise RequestError(
            f"--model {PREFIX}{name}: these models of RobustBench know the classes of {' and '.join(DATA)}; judge it with "
            f"--data {DATA[0]} or --data {DATA[1]}"
        )
    names = sorted(_models(data, threat))
    if name not in names:
        raise RequestError(_unknown(name, names, data, threat))
    model = Model(name, data, threat)
    if not isinstance(_entry(model)["gdrive_id"], str):
        raise RequestError(
            f"--model {PREFIX}{name}: is not one network in one file; let robustbench load it, in a factory of your own "
            "(docs/evaluation.md), as --model module:function"
        )
    return model


def _unknown(name: str, names: list[str], data: str, threat: str) -> str:
    begins = [one for one in names if name and one.casefold().startswith(name.casefold())]
    close = begins or difflib.get_close_matches(name, names, n=5, cutoff=0.4)
    elsewhere = [
        f"--data {other} --threat {kind}"
        for other in DATA
        for kind in THREATS
        if name in _models(other, kind)
    ]
    hint = (
        f"close: {', '.join(close[:5])}" if close else f"for example {names[0]}" if names else "it has none"
    )
    if elsewhere:
        hint = f"it stands under {' and '.join(elsewhere)}"
    return f"--model {PREFIX}{name}: RobustBench has no such model for {data} and {threat}; {hint}"


def network(model: Model) -> torch.nn.Module:
    """Its architecture with random weights, on the CPU. The random state is left alone."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
        net: torch.nn.Module = _entry(model)["model"]()
    return net


def fetched(model: Model) -> Path:
    """Its file, downloaded where it is not there yet; RequestError says where to put it by hand."""
    if not model.file.is_file():
        with alone(model.file):
            if not model.file.is_file():
                _download(model)
    return model.file


def _download(model: Model) -> None:
    package()
    utils = importlib.import_module("robustbench.utils")
    try:
        with written(model.file) as part, contextlib.redirect_stdout(io.StringIO()):
            utils.download_gdrive_new(_entry(model)["gdrive_id"], part)
            if not part.is_file():
                raise OSError("the server sent no file")
    except Exception as error:  # of gdown, requests and the file system
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise RequestError(
            f"--model {PREFIX}{model.name}: cannot be downloaded ({reason}); bring {model.source} to {model.file}, or give "
            "the file by --checkpoint FILE"
        ) from None


def package() -> ModuleType:
    """The package, imported so that it works beside ours; RequestError where it is not installed.

    It imports `autoattack`, whose place pyautoattack has taken, and says much about what it imports itself.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            for name in ("", ".state"):
                sys.modules.setdefault(f"autoattack{name}", importlib.import_module(f"pyautoattack{name}"))
            return importlib.import_module("robustbench")
    except ImportError as error:
        raise RequestError(
            f"models of RobustBench need its package, which cannot be imported here ({error}); "
            "run python -m pip install robustbench 'setuptools<81'"
        ) from None


def _models(data: str, threat: str) -> dict[str, Any]:
    """{name: {"model": its architecture, "gdrive_id": ...}}; empty where the zoo has none of that kind."""
    package()
    zoo = importlib.import_module("robustbench.model_zoo.models").model_dicts
    return next(
        (
            dict(models)
            for dataset, threats in zoo.items()
            for kind, models in threats.items()
            if (dataset.value, kind.value) == (data, threat)
        ),
        {},
    )


def _entry(model: Model) -> dict[str, Any]:
    entry: dict[str, Any] = _models(model.data, model.threat)[model.name]
    return entry
