"""AutoAttack and its parts. Croce and Hein, ICML 2020, arXiv:2003.01690; run by pyautoattack, which only this file imports.

    standard    APGD-CE, then APGD-T (DLR, 9 targets), FAB-T (9 targets), Square (5000 queries), each on the images that
                the ones before it left standing; with K classes there are min(9, K-1) targets

The library attacks one batch at a time, of images that still stand at the start of a part, in their order, and starts every
batch from the same seed. So batches do not depend on each other: the state after each of them is written to a file, and a
run that was killed continues from there to the same per-image results. They are those of one direct call of the library
with the same seed and batch size.

Differs from that call: K < 10 limits the targets (the library raises IndexError), torch's global random state and the log
level are left as found (the library resets the first), its own resume file is not used (a second run raises ValueError), and
its checks of the model, seven passes, and their warnings are left out (ham_core/doubts.py looks for the same and more).
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ham_core import doubts
from ham_core.data.augment import to_float
from ham_core.data.split import Split
from ham_core.errors import RequestError
from ham_core.folder import write_atomically
from ham_core.protocol import ENSEMBLE, QUERIES, EvaluationAttack, class_problem
from ham_core.seals import is_whole

TARGETS = 9  # classes that a targeted part goes for, at most
NORMS = {"linf": "Linf", "l2": "L2"}
NOT_BROKEN = -1


class Unfinished(Exception):
    """Time was up; what is done is in the progress file, and the same call goes on from there."""


@dataclass(frozen=True)
class Part:
    """One attack of the ensemble. Defaults: the standard version."""

    name: str
    restarts: int = 1
    queries: int = QUERIES


def parts_of(attack: EvaluationAttack) -> tuple[Part, ...]:
    """What an attack by name consists of."""
    if attack.kind == "autoattack":
        return tuple(Part(name) for name in ENSEMBLE)
    return (Part(attack.kind, attack.restarts, attack.queries or QUERIES),)


@dataclass
class State:
    """What is known so far, each (N,) where not said otherwise: the content of the progress file.

    broken_by counts parts, -1 while the image stands (or was wrong when clean). prediction and confidence (p_y) are those
    on the image that broke it, on the clean image before. tried (parts,) counts the images that each part is done with.
    """

    clean: np.ndarray
    clean_confidence: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray
    broken_by: np.ndarray
    tried: np.ndarray
    extent: np.ndarray  # (3,), see doubts.extent
    seconds: np.ndarray  # ()

    def standing(self, label: np.ndarray, part: int) -> np.ndarray:
        """The images (n,) that stood when this part began."""
        unbroken = (self.broken_by == NOT_BROKEN) | (self.broken_by >= part)
        return np.flatnonzero((self.clean == label) & unbroken)

    def after(self, part: int) -> np.ndarray:
        """Predictions (N,) after this part and those before it."""
        broken = (self.broken_by != NOT_BROKEN) & (self.broken_by <= part)
        return np.where(broken, self.prediction, self.clean)


def run_parts(
    model: nn.Module,
    images: Split,
    parts: Sequence[Part],
    *,
    epsilon: float,
    norm: str,
    seed: int,
    batch: int,
    progress: Path | None = None,
    late: Callable[[], bool] | None = None,
) -> State:
    """The parts in turn on a model in evaluation mode, pixels in [0, 1] -> what they broke.

    `batch` images are on their way at once, and nothing else grows with their number. With `progress` the state is written
    there after each batch and read from there first; the caller removes it. `late` is asked after each batch.
    """
    label = images.labels.cpu().numpy()
    state = _read(progress, label, len(parts))
    if state is None:
        state = _clean(model, images, len(parts), batch)
    targets = min(TARGETS, _classes(model, images) - 1)
    problems = [class_problem(part.name, targets + 1) for part in parts]
    if any(problems):
        raise RequestError(list(filter(None, problems)))
    for number, part in enumerate(parts):
        rows = state.standing(label, number)
        while (first := int(state.tried[number])) < len(rows):
            started = time.perf_counter()
            own = rows[first : first + batch]
            at = torch.from_numpy(own).to(images.labels.device)
            x, y = to_float(images.images[at]), images.labels[at]
            adv, logits = _attack(model, x, y, part, targets, epsilon=epsilon, norm=norm, seed=seed)
            prediction = logits.max(1).indices
            confidence = logits.float().softmax(1).gather(1, y[:, None]).squeeze(1)
            broken = (prediction != y).cpu().numpy()
            state.prediction[own[broken]] = prediction.cpu().numpy()[broken]
            state.confidence[own[broken]] = confidence.cpu().numpy()[broken]
            state.broken_by[own[broken]] = number
            state.extent = np.maximum(state.extent, doubts.extent(x, adv, norm).cpu().numpy())
            state.tried[number] = first + len(own)
            state.seconds = state.seconds + (time.perf_counter() - started)
            if progress is not None:
                _write(progress, state)
            if late is not None and late():
                raise Unfinished
    return state


def version() -> str:
    """The library's version, for the record."""
    return str(_library().__version__)


def _library() -> Any:
    try:
        import pyautoattack
    except ImportError:
        raise RequestError(
            "AutoAttack and its parts need pyautoattack, which is not installed here; "
            "run python -m pip install pyautoattack, or attack with fgsm, pgdN and cwN"
        ) from None
    return pyautoattack


def _attack(
    model: nn.Module, x: Tensor, y: Tensor, part: Part, targets: int, *, epsilon: float, norm: str, seed: int
) -> tuple[Tensor, Tensor]:
    """One part on one batch -> attacked images like x, the model's logits (B,K) on them."""
    with _as_found(x.device), torch.no_grad():
        ensemble = _library().AutoAttack(
            model,
            norm=NORMS[norm],
            eps=epsilon,
            seed=seed,
            device=x.device,
            version="custom",
            attacks=[part.name],
        )
        ensemble.apgd.n_restarts = ensemble.apgd_targeted.n_restarts = part.restarts
        ensemble.apgd_targeted.n_target_classes = ensemble.fab.n_target_classes = targets
        ensemble.square.n_restarts, ensemble.square.n_queries = part.restarts, part.queries
        ensemble.apgd.loss, ensemble.fab.targeted, ensemble.fab.n_restarts = "ce", True, 1
        attacks = {
            "apgd-ce": ensemble.apgd,
            "apgd-t": ensemble.apgd_targeted,
            "fab-t": ensemble.fab,
            "square": ensemble.square,
        }
        adv: Tensor = attacks[part.name].perturb(x, y)
        return adv, model(adv)


@contextmanager
def _as_found(device: torch.device) -> Iterator[None]:
    """What the library changes for everyone, the random state of all devices; and its log level."""
    logger = logging.getLogger("auto-attack")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        logger.setLevel(level)


@torch.no_grad()
def _clean(model: nn.Module, images: Split, parts: int, batch: int) -> State:
    started = time.perf_counter()
    predictions, confidences = [], []
    for first in range(0, len(images), batch):
        y = images.labels[first : first + batch]
        logits = model(to_float(images.images[first : first + batch]))
        predictions.append(logits.argmax(1))
        confidences.append(logits.float().softmax(1).gather(1, y[:, None]).squeeze(1))
    clean, confidence = torch.cat(predictions).cpu().numpy(), torch.cat(confidences).cpu().numpy()
    return State(
        clean=clean,
        clean_confidence=confidence,
        prediction=clean.copy(),
        confidence=confidence.copy(),
        broken_by=np.full(len(clean), NOT_BROKEN, np.int8),
        tried=np.zeros(parts, np.int64),
        extent=np.array([0.0, 0.0, 0.0], np.float32),
        seconds=np.array(time.perf_counter() - started),
    )


@torch.no_grad()
def _classes(model: nn.Module, images: Split) -> int:
    return int(model(to_float(images.images[:1])).shape[1])


def _write(path: Path, state: State) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **vars(state))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


def _read(path: Path | None, label: np.ndarray, parts: int) -> State | None:
    """The state of a run that was stopped; None where there is none, or one that is damaged: then the run begins again."""
    if path is None or not is_whole(path):
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            state = State(**{name: arrays[name] for name in arrays.files})
    except Exception:  # zip, end of file, missing or surplus arrays
        return None
    return state if len(state.clean) == len(label) and len(state.tried) == parts else None
