"""What every part may do to images, to the network's mode, its gradients and its BatchNorm statistics."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from ham_core import training as module
from ham_core.adversary import Crafted, Streams, craft
from ham_core.randomness import generator
from ham_core.training import Training
from tests.ham_core.contract.helpers import Case, cases, images, steps_watched

every_case = pytest.mark.parametrize("case", cases(), ids=str)


def largest_radius(case: Case, margin: torch.Tensor, epsilon: float) -> torch.Tensor:
    """ε_i, margin (n,) times ε. DAFA's official PGD follows each step with a plain one that is projected to the plain ε."""
    if case.settings.get("official_pgd"):
        return (margin * epsilon).clamp_min(epsilon)
    return margin * epsilon


@every_case
def test_perturbations_stay_in_their_ball_and_in_the_pixel_box(case, monkeypatch):
    one = case.trial(epochs=3)
    crafted: list[tuple[torch.Tensor | None, Crafted]] = []

    def watched(*arguments: Any, **options: Any) -> Crafted:
        found = craft(*arguments, **options)
        crafted.append((options.get("margin"), found))
        return found

    monkeypatch.setattr(module, "craft", watched)
    list(Training(one, images()))
    farthest = 0.0
    for margin, found in crafted:
        kept = found.kept
        if not len(kept.y):
            continue
        scale = torch.ones(len(kept.y)) if margin is None else margin[kept.rows]
        radius = largest_radius(case, scale, one.epsilon)[:, None, None, None]
        points = [kept.adv, *(mark for mark in kept.marks.values() if mark.shape == kept.x.shape)]
        for image in points:
            assert bool(((image - kept.x).abs() <= radius + 1e-6).all())
            assert 0 <= image.min() and image.max() <= 1
        farthest = max(farthest, float((kept.adv - kept.x).abs().max()))
    moves = one.attack.steps > 0 or one.method.objective.passes_per_batch() > 1
    assert crafted
    assert (farthest > 0) == moves


@every_case
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("was_training", [True, False])
def test_the_attack_leaves_mode_and_gradients_and_in_eval_mode_the_statistics_as_found(
    case, mode, was_training
):
    one = case.trial(attack={"mode": mode})
    training = Training(one, images())
    model, train = training.model.train(was_training), training.dataset.train
    gradients = {}
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name] = torch.full_like(parameter, 3.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    streams = Streams(generator(0, "noise"), generator(0, "mining"))
    passes: Counter[str] = Counter()
    calls = Counter[str]()
    model.register_forward_hook(
        lambda network, *_: calls.update({"training": int(network.training), "all": 1})
    )
    margin = torch.full((40,), 0.5)
    x, y = train.images[:40] / 255, train.labels[:40]
    found = craft(
        model, x, y, one, epoch=0, streams=streams, passes=passes, margin=margin, counts=training.counts
    )
    assert not found.kept.adv.requires_grad
    assert all(network.training == was_training for network in model.modules())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad
        assert parameter.grad is gradients[name] and bool((parameter.grad == 3).all())
    assert calls["training"] == (calls["all"] if mode == "train" else 0)
    for name, value in model.state_dict().items():
        moved = name.endswith("num_batches_tracked")
        if mode == "eval" or "running" not in name:
            assert torch.equal(value, before[name] + (calls["training"] if moved else 0)), name


@every_case
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_statistics_move_once_per_outer_pass_and_in_train_mode_with_the_attack(case, mode):
    """Outer passes see the batch's images x, x' and further points once each; a gradient that only finds the place to step at
    (AWP) leaves the statistics alone.
    """
    one = case.trial(epochs=1, attack={"mode": mode})
    training = Training(one, images())
    unseen = 0
    gradients = training._gradients

    def unmoved(*arguments: Any) -> list[torch.Tensor]:
        nonlocal unseen
        before, tracked = passes.counts["moving"], [buffer.clone() for buffer in training.model.buffers()]
        found = gradients(*arguments)
        unseen += passes.counts["moving"] - before
        assert all(map(torch.equal, tracked, training.model.buffers()))
        return found

    training._gradients = unmoved  # type: ignore[method-assign]
    with steps_watched(training) as passes:
        next(iter(training))
    tracked = [
        buffer for name, buffer in training.model.named_buffers() if name.endswith("num_batches_tracked")
    ]
    assert tracked and passes.counts["moving"] > 0
    assert {int(count) for count in tracked} == {passes.counts["moving"] - unseen}
    attacked = one.attack.steps > 0
    assert (passes.counts["frozen_moving"] > 0) == (mode == "train" and attacked)


@every_case
def test_after_an_epoch_the_network_can_be_trained_on(case):
    one = case.trial(epochs=2)
    training = Training(one, images())
    for _ in training:
        assert all(parameter.requires_grad for parameter in training.model.parameters())
        assert len({network.training for network in training.model.modules()}) == 1
        if training.helper is not None:
            assert not training.helper.training
            assert all(p.grad is None and not p.requires_grad for p in training.helper.parameters())
        for average in training.averages.values():
            assert all(parameter.grad is None for parameter in average.parameters())
