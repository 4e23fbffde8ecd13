"""Models by name. Normalisation is the first layer of each, so every attack sees pixels in [0,1].

Light until `build` is called. Adding a model is one new file and one line in INDEX; other people's packages join through
the entry-point group `ham_sweeps.models`. The value is a class or function `(width, classes, channels, normalize)` that
returns a module from pixels (B,C,H,W) to logits (B,K); `normalize` is the layer it must apply first.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from ham_core.errors import RequestError, known
from ham_core.plugins import entry_points

if TYPE_CHECKING:
    from torch import nn

INDEX = {
    "preact_resnet18": "ham_core.models.preact_resnet:PreActResNet18",
    "resnet18": "ham_core.models.resnet:ResNet18",
    "small_cnn": "ham_core.models.small_cnn:SmallCNN",
    "wrn28_10": "ham_core.models.wide_resnet:wrn28_10",
    "wrn34_10": "ham_core.models.wide_resnet:wrn34_10",
}

__all__ = ["build", "names"]


@cache
def _places() -> dict[str, str]:
    """name -> `module:attribute` of every model, ours and those of installed packages."""
    theirs = {point.name: point.value for point in entry_points(group="ham_sweeps.models")}
    return {**theirs, **INDEX}


def names() -> list[str]:
    """All models that can be asked for by name."""
    return sorted(_places())


def build(
    name: str,
    *,
    width: float = 1.0,
    classes: int,
    channels: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    normalize: bool = True,
) -> nn.Module:
    """A freshly initialised model: pixels (B,C,H,W) in [0,1] -> logits (B,K).

    width scales every layer's channels. mean, std: channel statistics of the pixels; needed with `normalize`, whose
    layer is (x - mean) / std. The initial weights depend on torch's global seed and on nothing else.
    """
    if name not in _places():
        raise RequestError(f"unknown model {name!r}; {known(name, names())}")
    if not width > 0:
        raise RequestError(f"model.width: {width} gives no channels; allowed: above 0, for example 0.25 or 1")
    from ham_core.models.layers import first_layer

    module, _, attribute = _places()[name].partition(":")
    try:
        make = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:  # another package's entry point
        raise RequestError(
            f"model {name!r} cannot be imported from {module}:{attribute} ({error})"
        ) from error
    model: nn.Module = make(width, classes, channels, first_layer(mean, std, normalize))
    return model
