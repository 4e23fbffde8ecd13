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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ham_core import memory
from ham_core.adversary import Crafted, Streams, active_mining, counted, craft
from ham_core.attacks.pgd import pgd, start_point, under_attack
from ham_core.calibration.base import Calibration, Factors, Observed
from ham_core.classlog import ClassLog
from ham_core.config import Start, Trial, fingerprint
from ham_core.data import load
from ham_core.data.augment import augment
from ham_core.data.split import Dataset, Split
from ham_core.errors import RequestError
from ham_core.held_out import held_out_accuracies, held_out_losses
from ham_core.metrics import class_keys
from ham_core.network import average_of, build_model, fewest_rows, set_precision
from ham_core.objectives.base import Objective, cross_entropy
from ham_core.optimizer import SGD
from ham_core.prefix import prefix_of
from ham_core.randomness import generator
from ham_core.selection import judge, rules_won

Weights = dict[str, Tensor]  # a network's state dict


class DivergedError(RuntimeError):
    """The training loss is no longer a number."""


@dataclass(frozen=True)
class EpochResult:
    """What one epoch brought: metrics by name, and the weights that are now to be kept, by name."""

    epoch: int
    metrics: dict[str, float]
    kept: dict[str, Weights] = field(repr=False)


class Training:
    """One trial in training. Iterating yields one EpochResult per remaining epoch.

    `start` are the weights to begin with and `helper` those of the helper, where the trial has such other trials.
    """

    def __init__(
        self,
        trial: Trial,
        dataset: Dataset,
        *,
        device: str | torch.device = "cpu",
        start: Weights | None = None,
        helper: Weights | None = None,
    ) -> None:
        memory.keep_freed()
        self.trial, self.dataset, self.device = trial, dataset, torch.device(device)
        self.objective: Objective = trial.method.objective
        self.calibration: Calibration | None = trial.method.calibration
        self.classes = len(dataset.classes)
        self.counts = torch.bincount(dataset.train.labels, minlength=self.classes)
        self.epoch = 0
        self.finished = False
        self.model = build_model(trial, dataset, self.device)
        if start is not None:
            self.model.load_state_dict(start)
        self.helper = None if trial.helper is None else build_model(trial.helper.trial, dataset, self.device)
        if self.helper is not None:
            if helper is not None:
                self.helper.load_state_dict(helper)
            self.helper.eval().requires_grad_(False)
        self.fewest = fewest_rows(self.model, dataset.train)
        if trial.batch_size < self.fewest:
            raise RequestError(
                f"batch_size: {trial.batch_size}, but BatchNorm of {trial.model.name} at this image size needs "
                f"{self.fewest} images to have a variance; use {self.fewest} or more"
            )
        self.optimizer = SGD(
            self.model.parameters(),
            lr=trial.optimizer.lr,
            momentum=trial.optimizer.momentum,
            weight_decay=trial.optimizer.weight_decay,
            nesterov=trial.optimizer.nesterov,
        )
        self.averages = {part.key: average_of(self.model, part) for part in trial.method.averaging}
        self.accepted = dict.fromkeys(self.averages, 0)  # epochs that entered each average
        self.best: dict[str, float] = {}
        self.robust: Tensor | None = None  # (C,) class-wise robust training accuracy of the epoch before
        self.confusion: Tensor | None = None  # (C,C) mean predictions on x' of the epoch before
        learnt = {} if self.calibration is None else self.calibration.initial(self.classes)
        self.learnt = {name: values.to(self.device) for name, values in learnt.items()}
        self.factors = Factors()
        self.memory: dict[str, Tensor] = {}  # of the objective
        self.before: dict[
            str, Weights
        ] = {}  # weights of the epoch before, where a collapse would go back to them

    # state ---------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that a bit-exact continuation needs; random streams follow from seed and epoch."""
        return {
            "fingerprint": fingerprint(self.trial),
            "epoch": self.epoch,
            "finished": self.finished,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": {key: average.state_dict() for key, average in self.averages.items()},
            "accepted": dict(self.accepted),
            "best": dict(self.best),
            "robust": self.robust,
            "confusion": self.confusion,
            "learnt": dict(self.learnt),
            "memory": dict(self.memory),
            "before": dict(self.before),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of the same trial, of the trial whose epochs are the first of this one, or of one whose
        first epochs are this one's (`prefix`)."""
        start = self.trial.start_from
        ours = state["fingerprint"] == fingerprint(self.trial)
        shares = not ours and state.get("prefix") == prefix_of(self.trial, state["epoch"])
        follows = start is not None and start.continues and state["fingerprint"] == fingerprint(start.trial)
        if not (ours or shares or follows):
            raise ValueError("this state belongs to another trial")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        # An average that begins later is in nobody's state yet but its own, and is new here as it is there.
        begun = {
            part.key: self.averages[part.key]
            for part in self.trial.method.averaging
            if not shares or part.start_epoch < state["epoch"]
        }
        absent = sorted(set(begun) - set(state["averages"]))
        if absent:
            raise RequestError(
                f"method.averaging: the training that is continued did not keep {', '.join(absent)}"
            )
        for key, average in begun.items():
            average.load_state_dict(state["averages"][key])
            self.accepted[key] = state["accepted"][key]
        self.best, self.epoch = dict(state["best"]), state["epoch"]
        self.robust, self.confusion = state["robust"], state["confusion"]
        self.memory = dict(state["memory"])
        if ours:
            self.finished = state["finished"]
        if ours or shares:
            self.before = dict(state["before"])
        calibration = self.calibration
        if ours or (shares and calibration is not None and calibration.start_epoch < self.epoch):
            self.learnt = dict(state["learnt"])

    # loop ----------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[EpochResult]:
        set_precision(self.trial.precision)
        while self.epoch < self.trial.epochs and not self.finished:
            started = time.perf_counter()
            metrics = self._train_epoch()
            trained = time.perf_counter()
            judged, kept = self._judge_epoch()
            seconds = trained - started
            metrics |= judged
            metrics |= {
                "time/train_s": seconds,
                "time/validate_s": time.perf_counter() - trained,
                "time/images_per_second": len(self.dataset.train) / seconds,
            }
            result = EpochResult(self.epoch, metrics, kept)
            self.epoch += 1
            self.finished = self.finished or self.epoch == self.trial.epochs
            yield result

    def _train_epoch(self) -> dict[str, float]:
        trial, train, epoch = self.trial, self.dataset.train, self.epoch
        passes: Counter[str] = Counter()
        self._renew_calibration()
        order = generator(trial.seed, "order", epoch)
        streams = Streams(
            generator(trial.seed, "noise", epoch, self.device), generator(trial.seed, "mining", epoch)
        )
        log = ClassLog(self.classes, self.device)
        batches = -(-len(train) // trial.batch_size)
        repeats = self.objective.passes_per_batch()
        probe: tuple[Tensor, Tensor] | None = None
        for position, index in enumerate(self._batches(order)):
            y = train.labels[index]
            x = augment(
                train.images[index],
                crop=trial.augment.crop,
                flip=trial.augment.flip,
                padding=trial.augment.padding,
                generator=order,
            ).contiguous(memory_format=torch.channels_last)
            probe = probe or (x, y)
            for repeat in range(repeats):
                self._set_rate(epoch + (position + repeat / repeats) / batches)
                self._step(x, y, streams, log, passes)
        self.robust = log.robust_shares(self.robust)
        self.confusion = log.confusion()
        metrics = log.metrics(self.dataset.classes)
        if not math.isfinite(metrics.get("train/loss", 0.0)):
            raise DivergedError(
                f"the training loss is {metrics['train/loss']} in epoch {epoch}; "
                "lower optimizer.lr, or use precision: fp32"
            )
        metrics["train/learning_rate"] = trial.optimizer.lr * trial.schedule.factor(epoch)
        metrics["train/images"] = float(len(train))
        for which, values in self.factors.by_class().items():
            keys = class_keys(self.dataset.classes)
            metrics |= {f"train/class_{which}/{key}": value for key, value in zip(keys, values, strict=True)}
        if probe is not None:
            metrics |= self._probe(*probe)
        return metrics | {
            f"train/passes/{kind}": float(passes[kind])
            for kind in ("forward", "input_gradient", "weight_gradient")
        }

    def _batches(self, order: torch.Generator) -> Iterator[Tensor]:
        """Positions of each batch: a permutation in pieces, or what the calibration draws."""
        total, size = len(self.dataset.train), self.trial.batch_size
        calibration = self._active_calibration()
        if calibration is None or not calibration.samples:
            yield from torch.randperm(total, generator=order).to(self.device).split(size)
            return
        labels = self.dataset.train.labels
        for first in range(0, total, size):
            yield calibration.draw(self.learnt, labels, min(size, total - first), order)

    def _step(self, x: Tensor, y: Tensor, streams: Streams, log: ClassLog, passes: Counter[str]) -> None:
        """Attack one batch x (B,C,H,W), y (B,), and take one step on what is left of it."""
        first = self.objective.carried(self.memory, x)
        crafted = craft(
            self.model,
            x,
            y,
            self.trial,
            epoch=self.epoch,
            streams=streams,
            passes=passes,
            margin=self.factors.of("margin", y),
            counts=self.counts,
            first=first,
        )
        kept = crafted.kept
        log.flags(crafted.flags)
        if crafted.sizes is not None:
            log.step_sizes(*crafted.sizes)
        for labels, right in crafted.left:
            log.right(labels, right)
        if len(kept.y) < self.fewest:
            log.skipped += 1
            return
        adv = kept.adv if first is None else kept.adv.detach().requires_grad_()
        around = self.objective.neighbourhood(
            list(self.model.named_parameters()), lambda: self._gradients(crafted, passes), self.epoch
        )
        with around:
            loss, adv_logits, weights = self._loss(crafted, adv, passes)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        if adv.grad is not None:
            margin = self.factors.of("margin", kept.y)
            radius = torch.full_like(kept.y, self.trial.epsilon, dtype=adv.dtype)
            self.objective.remember(
                self.memory, kept.rows, adv.grad, radius if margin is None else margin * radius
            )
        self._update_averages("step")
        log.batch(kept.y, adv_logits, loss, weights)
        active = self._active_calibration()
        if active is not None and active.samples:
            self.learnt = active.observe(self.learnt, kept.y, adv_logits.argmax(1) == kept.y)

    def _loss(
        self, crafted: Crafted, adv: Tensor, passes: Counter[str]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(L, logits of the adversarial examples (n,C), mining's weights (n,)), in training mode."""
        kept, objective = crafted.kept, self.objective
        self.model.train()
        through = counted(self.model, self.trial.precision, passes)

        def forward(images: Tensor) -> Tensor:
            passes["weight_gradient"] += len(images)
            return through(images)

        clean = forward(kept.x) if objective.root.loss_needs_clean else None
        adv_logits = forward(adv)
        images, values = objective.points(
            kept.x, adv, kept.marks, lambda seen: self._ask_helper(seen, passes)
        )
        extra = values | {name: forward(points) for name, points in images.items()}
        losses = objective.loss(
            clean,
            adv_logits,
            kept.y,
            natural=self.factors.of("natural", kept.y),
            beta=self.factors.of("beta", kept.y),
            extra=extra,
        )
        weights = kept.weights
        mining = active_mining(self.trial, self.epoch)
        found = None if mining is None else mining.weigh_trained(adv_logits.detach(), kept.y)
        if found is not None:
            weights = found if weights is None else weights * found
        for factor in (weights, self.factors.of("weight", kept.y)):
            losses = losses if factor is None else losses * factor
        return losses.mean(), adv_logits.detach(), weights

    def _gradients(self, crafted: Crafted, passes: Counter[str]) -> list[Tensor]:
        """∇_θ L at the present weights, per parameter; BatchNorm's statistics stay as they are."""
        before = [buffer.clone() for buffer in self.model.buffers()]
        loss, _, _ = self._loss(crafted, crafted.kept.adv, passes)
        gradients = torch.autograd.grad(loss, list(self.model.parameters()))
        for buffer, old in zip(self.model.buffers(), before, strict=True):
            buffer.copy_(old)
        return list(gradients)

    @torch.no_grad()
    def _ask_helper(self, images: Tensor, passes: Counter[str]) -> Tensor:
        if self.helper is None:
            raise RequestError(
                f"helper: the objective {self.objective.name} asks a helper, and this trial has none"
            )
        return counted(self.helper, self.trial.precision, passes)(images)

    def _set_rate(self, time: float) -> None:
        """The learning rate at a time in epochs."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.trial.optimizer.lr * self.trial.schedule.factor(time)

    # calibration ---------------------------------------------------------------------------------------------------

    def _active_calibration(self) -> Calibration | None:
        calibration = self.calibration
        return None if calibration is None or self.epoch < calibration.start_epoch else calibration

    def _renew_calibration(self) -> None:
        calibration = self._active_calibration()
        if calibration is None:
            self.factors = Factors()
            return
        observed = Observed(
            self.epoch,
            self.counts,
            self.robust,
            self.confusion,
            lambda steps: held_out_accuracies(self.model, self.trial, self.dataset, steps, epoch=self.epoch),
            lambda: held_out_losses(self.model, self.trial, self.dataset, self._ask_helper, epoch=self.epoch),
        )
        self.learnt = calibration.renew(self.learnt, observed)
        self.factors = calibration.factors(self.learnt)

    # after an epoch ------------------------------------------------------------------------------------------------

    def _probe(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Accuracy on the epoch's first batch under a short attack; a collapse ends the training."""
        steps = self.objective.probe_steps()
        if not steps:
            return {}
        noise = generator(self.trial.seed, "probe", self.epoch, self.device)
        with under_attack(self.model, "eval"), torch.no_grad():
            adv = pgd(
                self.model,
                x,
                lambda z, rows: cross_entropy(z, y[rows]),
                epsilon=self.trial.epsilon,
                step=self.trial.epsilon / 4,
                steps=steps,
                start=start_point(x, "uniform", self.trial.epsilon, noise),
            )
            now = float((self.model(adv).argmax(1) == y).float().mean())
        before = self.memory.get("probe")
        self.finished = before is not None and self.objective.collapsed(float(before), now)
        self.memory["probe"] = torch.tensor(now)
        return {"train/probe": now, "train/collapsed": float(self.finished)}

    def _update_averages(self, moment: str, worst: float = 1.0) -> None:
        for part in self.trial.method.averaging:
            if part.every == moment and self.epoch >= part.start_epoch and part.accepts(worst):
                self.averages[part.key].update_parameters(self.model)
                if moment == "epoch":
                    self.accepted[part.key] += 1

    def _judge_epoch(self) -> tuple[dict[str, float], dict[str, Weights]]:
        """Judge θ, let it into the averages, judge those -> (metrics, weights to be kept)."""
        metrics: dict[str, float] = {}
        kept: dict[str, Weights] = {}
        on_test = self.trial.selection.on == "test"
        images = self.dataset.test if on_test else self.dataset.validation
        worst = self._judge("", self.model, images, metrics, kept)["worst"]
        if on_test and any(part.needs_validation for part in self.trial.method.averaging):
            robust, found = judge(
                self.model, self.dataset.validation, self.trial, self.dataset.classes, "held_out"
            )
            worst = robust["worst"]
            metrics |= found
        self._update_averages("epoch", worst)
        for part in self.trial.method.averaging:
            average = self.averages[part.key]
            if part.needs_validation:
                if self.epoch >= part.start_epoch:
                    metrics[f"train/accepted/{part.key}"] = float(self.accepted[part.key])
                ends = self.finished or self.epoch == self.trial.epochs - 1
                if ends and not self.accepted[part.key]:
                    average.update_parameters(self.model)  # none passed: the last θ stands in, 0 says so
            if int(average.n_averaged) > 0:
                self._judge(f"_{part.key}", average.module, images, metrics, kept)
        if self.objective.probe_steps():
            if self.finished:
                before = {suffix: self.before.get(suffix, self.before[""]) for suffix in self._candidates()}
                kept |= {f"last{suffix}": weights for suffix, weights in before.items()}
            self.before = {
                suffix: copy.deepcopy(model.state_dict()) for suffix, model in self._candidates().items()
            }
        return metrics, kept

    def _judge(
        self,
        suffix: str,
        model: nn.Module,
        images: Split,
        metrics: dict[str, float],
        kept: dict[str, Weights],
    ) -> dict[str, float]:
        """Judge θ or an average, add its metrics, and its weights under every name that they now deserve -> statistics."""
        robust, found = judge(model, images, self.trial, self.dataset.classes, f"val{suffix}")
        metrics |= found
        names = ["last"] if self.epoch == self.trial.epochs - 1 else []
        names += rules_won(robust, suffix, self.best)
        if names:
            weights = copy.deepcopy(model.state_dict())
            kept |= {f"{name}{suffix}": weights for name in names}
        return robust

    def _candidates(self) -> dict[str, nn.Module]:
        """θ and each average that has begun, by what their names end in."""
        begun = {key: average for key, average in self.averages.items() if int(average.n_averaged) > 0}
        return {"": self.model} | {f"_{key}": average.module for key, average in begun.items()}


def train(
    trial: Trial, dataset: Dataset | None = None, *, device: str | torch.device = "cpu"
) -> Iterator[EpochResult]:
    """Train a trial from its start: one EpochResult per epoch. Trials that it starts from are trained first, unseen."""
    yield from _prepared(trial, dataset, device)


def _prepared(trial: Trial, dataset: Dataset | None, device: str | torch.device) -> Training:
    """A training that has what it needs of other trials, which are trained here and now."""
    start, helper = trial.start_from, trial.helper
    found = None if start is None else _finished(start, dataset, device)
    asked = None if helper is None else _finished(helper, dataset, device)
    continues = start is not None and start.continues
    images = load_data(trial, device) if dataset is None else dataset
    training = Training(trial, images, device=device, start=None if continues else found, helper=asked)
    if continues and found is not None:
        training.restore(found)
    return training


def _finished(start: Start, dataset: Dataset | None, device: str | torch.device) -> dict[str, Any]:
    """The weights, or the state, of a trial that is trained for another one's sake."""
    training = _prepared(start.trial, dataset, device)
    kept: dict[str, Weights] = {}
    for result in training:
        kept |= result.kept
    if start.continues:
        return training.state()
    if start.weights not in kept:
        raise RequestError(
            f"start: '{start.weights}' of another trial are of the epochs that it went on from; a trial store keeps them "
            "(ham train, ham sweep, python -m ham_core train)"
        )
    return kept[start.weights]


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
