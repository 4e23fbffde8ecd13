"""evaluate --checkpoint FILE --model NAME: the flags for other people's models, and what they do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ham_core.errors import RequestError

CheckpointFlag = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint", metavar="FILE", help="Somebody else's weights, a state dict or TorchScript."
    ),
]
ModelFlag = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="Their network, torchscript, or a factory module:function."),
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


def judge_foreign(
    checkpoint: Path | None,
    model: str | None,
    width: float,
    normalisation: str | None,
    entry: str | None,
    data: str | None,
    attacks: str,
    epsilon: str,
    images: int | None,
    threads: int,
    store: str,
) -> list[dict[str, Any]]:
    """Attack somebody else's model -> one row per attack, as `ham evaluate` prints them."""
    radius = _radius(epsilon)
    wanted = _attacks(attacks)
    if model is None:
        raise RequestError(
            f"ham evaluate: --model is missing: which network are the weights of {checkpoint}?"
        )
    if data is None:
        raise RequestError("ham evaluate: --data is missing: which images is the model judged on?")
    from ham_core import foreign
    from orchestration.store import store_at

    asked = foreign.Request(model, checkpoint, width, normalisation, entry)
    records = foreign.evaluate(
        asked, data, wanted, store_at(store).path, epsilon=radius, limit=images, threads=threads
    )
    name = model if checkpoint is None else checkpoint.name
    keys = ("weights", "attack_name", "epsilon", "metrics", "doubts", "seconds", "fingerprint")
    return [
        {"trial": record["foreign"], "name": name} | {key: record[key] for key in keys} for record in records
    ]


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
