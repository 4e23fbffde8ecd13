"""The training loop: a generator of epoch results.

    for result in Training(trial, dataset):  ...

Per batch: attack (adversary.craft), then one step on the loss of the n rows that mining left (a batch of which too few
are left for a step is skipped and counted),

    L = (1/n) Σ_i w_i v_{y_i} ℓ(f(x_i), f(x'_i), y_i)        w from mining, v from calibration, 1 where there is none

After each epoch the weights, and each average of them, are judged by PGD on the selection images; the best by each rule
are kept. A state taken after an epoch continues bit for bit on the same machine and thread count.
"""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ham_core import models
from ham_core.adversary import craft
from ham_core.attacks.pgd import autocast
from ham_core.averaging.base import Averaging
from ham_core.calibration.base import Factors
from ham_core.config import Trial, fingerprint
from ham_core.data import load
from ham_core.data.augment import augment, to_float
from ham_core.data.split import Dataset, Split
from ham_core.errors import RequestError
from ham_core.evaluation import attack_images
from ham_core.metrics import class_keys, summarize
from ham_core.protocol import EvaluationAttack
from ham_core.randomness import derived_seed, generator

SELECTION_RULES = {
    "best": lambda robust: robust["avg"],
    "best_sum": lambda robust: robust["avg"] + robust["worst"],
    "best_worst": lambda robust: robust["worst"],
}


class DivergedError(RuntimeError):
    """The training loss is no longer a number."""


@dataclass(frozen=True)
class EpochResult:
    """What one epoch brought: metrics by name, and the weights that are now to be kept, by name."""

    epoch: int
    metrics: dict[str, float]
    kept: dict[str, dict[str, Tensor]] = field(repr=False)


class Training:
    """One trial in training. Iterating yields one EpochResult per remaining epoch."""

    def __init__(self, trial: Trial, dataset: Dataset, *, device: str | torch.device = "cpu") -> None:
        self.trial, self.dataset, self.device = trial, dataset, torch.device(device)
        self.epoch = 0
        self.model = build_model(trial, dataset, self.device)
        self.fewest = fewest_rows(self.model, dataset.train)
        if trial.batch_size < self.fewest:
            raise RequestError(
                f"batch_size: {trial.batch_size}, but BatchNorm of {trial.model.name} at this image size needs "
                f"{self.fewest} images to have a variance; use {self.fewest} or more"
            )
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=trial.optimizer.lr,
            momentum=trial.optimizer.momentum,
            weight_decay=trial.optimizer.weight_decay,
            nesterov=trial.optimizer.nesterov,
        )
        self.averages = {part.key: average_of(self.model, part) for part in trial.method.averaging}
        self.best: dict[str, float] = {}
        self.robust: Tensor | None = None  # (C,) class-wise robust training accuracy of the epoch before

    # state ---------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs; random streams follow from seed and epoch."""
        return {
            "fingerprint": fingerprint(self.trial),
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": {key: average.state_dict() for key, average in self.averages.items()},
            "best": dict(self.best),
            "robust": self.robust,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state of the same trial."""
        if state["fingerprint"] != fingerprint(self.trial):
            raise ValueError("this state belongs to another trial")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for key, average in self.averages.items():
            average.load_state_dict(state["averages"][key])
        self.best, self.epoch = dict(state["best"]), state["epoch"]
        self.robust = state["robust"]

    # loop ----------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[EpochResult]:
        set_precision(self.trial.precision)
        while self.epoch < self.trial.epochs:
            started = time.perf_counter()
            metrics = self._train_epoch()
            self._update_averages("epoch")
            trained = time.perf_counter()
            judged, kept = self._select()
            seconds = trained - started
            metrics |= judged
            metrics |= {
                "time/train_s": seconds,
                "time/validate_s": time.perf_counter() - trained,
                "time/images_per_second": len(self.dataset.train) / seconds,
            }
            result = EpochResult(self.epoch, metrics, kept)
            self.epoch += 1
            yield result

    def _train_epoch(self) -> dict[str, float]:
        trial, train, epoch = self.trial, self.dataset.train, self.epoch
        factors = self._factors()
        rate = trial.optimizer.lr * trial.schedule.factor(epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        order = generator(trial.seed, "order", epoch)
        noise = generator(trial.seed, "noise", epoch, self.device)
        chance = generator(trial.seed, "mining", epoch)
        log = ClassLog(len(self.dataset.classes), self.device)
        passes: Counter[str] = Counter()
        permutation = torch.randperm(len(train), generator=order).to(self.device)
        for index in permutation.split(trial.batch_size):
            images, y = train.images[index], train.labels[index]
            x = augment(
                images,
                crop=trial.augment.crop,
                flip=trial.augment.flip,
                padding=trial.augment.padding,
                generator=order,
            ).contiguous(memory_format=torch.channels_last)
            margin = None if factors.margin is None else factors.margin[y]
            batch = craft(
                self.model, x, y, trial, epoch=epoch, margin=margin, noise=noise, chance=chance, passes=passes
            )
            log.flags(batch.flags)
            if len(batch.y) < self.fewest:
                log.skipped += 1
                continue
            loss, adv_logits = self._loss(batch.x, batch.adv, batch.y, batch.weights, factors, passes)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            passes["weight_gradient"] += len(batch.y)
            self.optimizer.step()
            self._update_averages("step")
            log.batch(batch.y, adv_logits, loss, batch.weights)
        self.robust = log.robust_shares()
        metrics = log.metrics(self.dataset.classes)
        if not math.isfinite(metrics.get("train/loss", 0.0)):
            raise DivergedError(
                f"the training loss is {metrics['train/loss']} in epoch {epoch}; "
                "lower optimizer.lr, or use precision: fp32"
            )
        metrics["train/learning_rate"] = rate
        metrics["train/images"] = float(len(train))
        return metrics | {
            f"train/passes/{kind}": float(passes[kind])
            for kind in ("forward", "input_gradient", "weight_gradient")
        }

    def _loss(
        self,
        x: Tensor,
        adv: Tensor,
        y: Tensor,
        weights: Tensor | None,
        factors: Factors,
        passes: Counter[str],
    ) -> tuple[Tensor, Tensor]:
        """(L, logits of the adversarial examples (n,C))."""
        objective = self.trial.method.objective
        self.model.train()
        clean = self._forward(x, passes) if objective.loss_needs_clean else None
        adv_logits = self._forward(adv, passes)
        beta = None if factors.beta is None else factors.beta[y]
        losses = objective.loss(clean, adv_logits, y, beta)
        if weights is not None:
            losses = losses * weights
        if factors.weight is not None:
            losses = losses * factors.weight[y]
        return losses.mean(), adv_logits.detach()

    def _forward(self, images: Tensor, passes: Counter[str]) -> Tensor:
        passes["forward"] += len(images)
        with autocast(self.trial.precision, self.device):
            logits: Tensor = self.model(images)
        return logits.float()

    def _factors(self) -> Factors:
        calibration = self.trial.method.calibration
        if calibration is None or self.robust is None or self.epoch < calibration.start_epoch:
            return Factors()
        factors: Factors = calibration.factors(self.robust)
        return factors

    def _update_averages(self, moment: str) -> None:
        for part in self.trial.method.averaging:
            if part.every == moment and self.epoch >= part.start_epoch:
                self.averages[part.key].update_parameters(self.model)

    def _select(self) -> tuple[dict[str, float], dict[str, dict[str, Tensor]]]:
        """Judge the weights and each average on the selection images -> (metrics, weights to be kept)."""
        metrics: dict[str, float] = {}
        kept: dict[str, dict[str, Tensor]] = {}
        images = self.dataset.test if self.trial.selection.on == "test" else self.dataset.validation
        candidates: dict[str, nn.Module] = {"": self.model}
        candidates |= {
            f"_{key}": average.module for key, average in self.averages.items() if int(average.n_averaged) > 0
        }
        for suffix, model in candidates.items():
            robust = self._judge(model, images, f"val{suffix}", metrics)
            names = ["last"] if self.epoch == self.trial.epochs - 1 else []
            for rule, score_of in SELECTION_RULES.items():
                score = score_of(robust)
                if score > self.best.get(f"{rule}{suffix}", -math.inf):
                    self.best[f"{rule}{suffix}"] = score
                    names.append(rule)
            if names:
                weights = copy.deepcopy(model.state_dict())
                kept |= {f"{name}{suffix}": weights for name in names}
        return metrics, kept

    def _judge(
        self, model: nn.Module, images: Split, prefix: str, metrics: dict[str, float]
    ) -> dict[str, float]:
        selection = self.trial.selection
        attack = EvaluationAttack(kind="pgd", steps=selection.steps)
        seen = attack_images(
            model, images, attack, epsilon=self.trial.epsilon, seed=derived_seed(self.trial.seed, "selection")
        )
        labels = images.labels.cpu().numpy()
        clean = summarize(labels, seen.clean == labels, self.dataset.classes)
        robust = summarize(labels, seen.prediction == labels, self.dataset.classes)
        metrics |= {f"{prefix}/clean/{name}": value for name, value in clean.items()}
        metrics |= {f"{prefix}/{attack.key}/{name}": value for name, value in robust.items()}
        return robust


class ClassLog:
    """Class-wise counts of one epoch, summed on the device so that no batch waits for them."""

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes, self.device = classes, device
        self.shares: dict[str, tuple[Tensor, Tensor]] = {}  # name -> (yes (C,), asked (C,))
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.steps = 0
        self.skipped = 0

    def _add(self, name: str, y: Tensor, values: Tensor) -> None:
        yes = torch.zeros(self.classes, dtype=torch.float64, device=self.device).index_add_(
            0, y, values.double()
        )
        asked = torch.bincount(y, minlength=self.classes)
        before = self.shares.get(name)
        self.shares[name] = (yes, asked) if before is None else (before[0] + yes, before[1] + asked)

    def flags(self, flags: dict[str, tuple[Tensor, Tensor]]) -> None:
        """What mining noted of a batch."""
        for name, (y, values) in flags.items():
            self._add(name, y, values)

    def batch(self, y: Tensor, adv_logits: Tensor, loss: Tensor, weights: Tensor | None) -> None:
        """A batch that was trained on."""
        self._add("robust", y, adv_logits.argmax(1) == y)
        if weights is not None:
            self._add("weight", y, weights)
        self.loss_sum += loss.detach()
        self.steps += 1

    def robust_shares(self) -> Tensor:
        """(C,) robust training accuracy; 0 for a class without images."""
        if "robust" not in self.shares:
            return torch.zeros(self.classes, device=self.device)
        yes, asked = self.shares["robust"]
        return (yes / asked.clamp_min(1)).float()

    def metrics(self, classes: tuple[str, ...]) -> dict[str, float]:
        """train/<name>/<class> and train/<name>/all of everything counted."""
        found = {"train/skipped": float(self.skipped)}
        if self.steps:
            found["train/loss"] = float(self.loss_sum) / self.steps
        for name, (yes, asked) in self.shares.items():
            total = int(asked.sum())
            if total:
                found[f"train/{name}/all"] = float(yes.sum()) / total
            for key, hits, n in zip(class_keys(classes), yes.tolist(), asked.tolist(), strict=True):
                if n:
                    found[f"train/{name}/{key}"] = hits / n
        return found


def build_model(trial: Trial, dataset: Dataset, device: torch.device) -> nn.Module:
    """The trial's network with its initial weights, in channels_last. Torch's global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(trial.seed, "weights"))
        model = models.build(
            trial.model.name,
            width=trial.model.width,
            classes=len(dataset.classes),
            channels=dataset.train.images.shape[1],
            mean=dataset.mean,
            std=dataset.std,
            normalize=trial.model.normalize,
        )
    return model.to(device).to(memory_format=torch.channels_last)


def fewest_rows(model: nn.Module, images: Split) -> int:
    """The smallest batch a step can be taken on: 2 where a BatchNorm would see one value per channel, else 1."""
    probe = copy.deepcopy(model).train()
    try:
        with torch.no_grad():
            probe(to_float(images.images[:1]))
    except ValueError:  # torch: "Expected more than 1 value per channel when training"
        return 2
    return 1


def average_of(model: nn.Module, part: Averaging) -> AveragedModel:
    """θ̄ with the part's rate. BatchNorm's statistics are averaged too; counters are copied."""

    def update(averaged: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        rate = part.rate(int(updates))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(list(averaged), list(current), 1 - rate)
        else:
            for old, new in zip(averaged, current, strict=True):
                old.copy_(new)

    return AveragedModel(model, multi_avg_fn=torch.no_grad()(update), use_buffers=True)


def set_precision(precision: str) -> None:
    """fp32 means fp32 in convolutions too, which CUDA otherwise computes in TF32."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def train(
    trial: Trial, dataset: Dataset | None = None, *, device: str | torch.device = "cpu"
) -> Iterator[EpochResult]:
    """Train a trial from its start: one EpochResult per epoch."""
    yield from Training(trial, load_data(trial, device) if dataset is None else dataset, device=device)


def load_data(trial: Trial, device: str | torch.device = "cpu") -> Dataset:
    """The trial's images on the device. They are those the trial was planned with, or this is an error."""
    data = trial.data
    dataset = load(
        data.name,
        data.folder,
        data.size,
        data.label,
        device=device,
        validation=data.validation,
        split_seed=data.split_seed,
        train_limit=data.train_limit,
        test_limit=data.test_limit,
    )
    if dataset.facts.train_digest != data.train_digest:
        raise RequestError(
            f"{dataset.facts.source}: the training images have changed since this trial was planned; "
            "put the old ones back, or run `ham plan` again"
        )
    return dataset
