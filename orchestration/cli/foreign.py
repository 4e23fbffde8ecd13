"""evaluate --checkpoint FILE --model NAME: the flags for other people's models, and what they do.

What was found is written to STORE/foreign, then to MLflow, from where tables take it (orchestration/models.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ham_core.errors import RequestError, known

if TYPE_CHECKING:
    from ham_core.foreign import Request
    from orchestration.store import Store

DEVICES = ("auto", "cpu", "cuda")

CheckpointFlag = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", metavar="FILE", help="Somebody else's weights, a state dict or TorchScript."
    ),
]
ModelFlag = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Their network, torchscript, robustbench:NAME, or a factory module:function.",
    ),
]
TitleFlag = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="TITLE",
        help="What tables call that model. [default: as its file, without the ending]",
    ),
]
ThreatFlag = Annotated[
    str | None,
    typer.Option(
        "--threat", metavar="NAME", help="Of robustbench:NAME: Linf, L2 or corruptions. [default: Linf]"
    ),
]
DeviceFlag = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="For that model: auto, cpu or cuda. [default: auto]"),
]
WidthFlag = Annotated[float, typer.Option("--width", help="Of that network: scales its channels.")]
NormalisationFlag = Annotated[
    str | None,
    typer.Option(
        "--normalisation",
        metavar="NAME",
        help="Before that network: none, cifar10, cifar100 or data. [default: the file's own, else none]",
    ),
]
ImagesFlag = Annotated[
    str | None, typer.Option("--data", metavar="NAME|FOLDER", help="Images to judge that model on.")
]
EpsilonFlag = Annotated[str, typer.Option("--epsilon", help="L-infinity radius for that model.")]
LimitFlag = Annotated[
    int | None,
    typer.Option("--images", min=1, help="Judge that model on so many test images. [default: all]"),
]


@dataclass(frozen=True)
class Asked:
    """The flags of one model. `sweep`: in whose tables it is to stand; `title`: what they call it."""

    checkpoint: Path | None
    model: str | None
    width: float
    normalisation: str | None
    entry: str | None
    threat: str | None
    data: str | None
    attacks: str
    epsilon: str
    images: int | None
    title: str | None
    sweep: str | None
    device: str | None
    threads: int


def judge_foreign(asked: Asked, store: Store, uri: str) -> tuple[list[dict[str, Any]], str]:
    """Attack somebody else's model and record it -> (a row per attack, as `ham evaluate` prints them; why MLflow lacks it)."""
    wanted = _attacks(asked.attacks)
    request, images, radius, device = _request(asked)
    sweep = None if asked.sweep is None else _recorded(asked.sweep, uri)
    from ham_core import foreign
    from ham_core.folder import TrialFolder
    from orchestration import models

    records = foreign.evaluate(
        request,
        images,
        wanted,
        store.path,
        epsilon=radius,
        limit=asked.images,
        device=device,
        threads=asked.threads,
    )
    folder = TrialFolder(store.path / "foreign" / records[0]["foreign"])
    models.place(folder, asked.title, sweep)
    problem = models.record(uri, store.path, models.judged_in(folder))
    keys = ("weights", "attack_name", "epsilon", "metrics", "doubts", "seconds", "fingerprint")
    rows = [
        {"trial": record["foreign"], "name": _name(asked)} | {key: record[key] for key in keys}
        for record in records
    ]
    return rows, problem


def curve_of_foreign(asked: Asked) -> dict[str, Any]:
    """Its accuracy as epsilon grows to 1 -> a row as `ham evaluate --curve` prints it; nothing is stored."""
    request, images, radius, device = _request(asked)
    from ham_core import foreign
    from ham_core.randomness import derived_seed
    from orchestration.curve import curve_of

    model, dataset = foreign.ready(request, images, limit=asked.images, device=device, threads=asked.threads)
    row = {"name": _name(asked), "weights": foreign.WEIGHTS, "attack_name": "curve"}
    return row | curve_of(model, dataset.test, radius, derived_seed(0, "evaluation"))


def _name(asked: Asked) -> str:
    return asked.title or (str(asked.model) if asked.checkpoint is None else asked.checkpoint.name)


def _request(asked: Asked) -> tuple[Request, str, float, str]:
    """(which model, images, radius, device). RequestError: what is missing, or does not belong together."""
    radius = _radius(asked.epsilon)
    if asked.model is None:
        raise RequestError(
            f"ham evaluate: --model is missing: which network are the weights of {asked.checkpoint}?"
        )
    if asked.data is None:
        raise RequestError("ham evaluate: --data is missing: which images is the model judged on?")
    if asked.threat is not None and not asked.model.startswith("robustbench:"):
        raise RequestError("ham evaluate: --threat belongs to --model robustbench:NAME; leave it out")
    if asked.title is not None and not asked.title.strip():
        raise RequestError("ham evaluate: --name is empty; give a title, or leave it out")
    device = _device(asked.device or "auto")
    from ham_core.foreign import Request

    request = Request(
        asked.model,
        asked.checkpoint,
        asked.width,
        asked.normalisation,
        asked.entry,
        "Linf" if asked.threat is None else asked.threat,
    )
    return request, asked.data, radius, device


def _recorded(word: str, uri: str) -> str | None:
    """The name of the recorded sweep behind NAME or FILE; None: `models`, where such models are anyway."""
    from orchestration.models import MODELS
    from orchestration.tracking import read_sweeps

    name = Path(word).stem if Path(word).suffix in (".yaml", ".yml") else word
    if name == MODELS:
        return None
    names = [one.name for one in read_sweeps(uri) if one.name != MODELS]
    if name not in names:
        raise RequestError(
            f"--sweep: no sweep '{name}' is recorded, in whose tables the model could stand; {known(name, names)}; "
            f"without --sweep it stands in the table {MODELS}"
        )
    return name


def _device(name: str) -> str:
    if name not in DEVICES:
        raise RequestError(f"--device: unknown {name!r}; {known(name, DEVICES)}")
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise RequestError("--device: cuda is not available here; give --device cpu, or leave it out")
    return name


def _attacks(text: str) -> list[Any]:
    from ham_core.protocol import read_evaluations

    found, problems = read_evaluations(text, "last")  # the weights' name is not used
    if problems or not found:
        raise RequestError(problems or "give at least one attack")
    return [one.attack for one in found]


def _radius(text: str) -> float:
    from ham_core.config import pixels

    try:
        radius = float(pixels(text))
    except ValueError as error:
        raise RequestError(f"--epsilon: {error}") from None
    if not 0 <= radius <= 1:
        raise RequestError(f"--epsilon: {text} is no radius; allowed: 0 to 1, for example 8/255")
    return radius
