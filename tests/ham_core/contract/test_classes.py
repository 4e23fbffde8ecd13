"""Classes without images, with one image, and of unequal size."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from ham_core import training as module
from ham_core.adversary import craft
from ham_core.data.split import Split
from ham_core.metrics import class_keys
from ham_core.training import Training
from tests.ham_core.contract.helpers import cases, finite, images, unbalanced

every_case = pytest.mark.parametrize("case", cases(), ids=str)


def test_the_unbalanced_images_are_what_the_tests_below_need():
    found = unbalanced()
    counts = torch.bincount(found.train.labels, minlength=10)
    assert counts[:3].tolist() == [0, 1, 3]
    assert len(found.train) % 32 == 1
    assert not (found.validation.labels == 0).any()


@every_case
def test_classes_without_images_or_with_one_train_to_finite_weights_and_right_class_rates(case, monkeypatch):
    """train/robust/<class> is the class's own hits over its own images, counted here from the logits that were trained on
    and the labels that left the attack.
    """
    one = case.trial(epochs=3, batch_size=32)
    training = Training(one, unbalanced())
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    crafted: list[Any] = []
    loss_of, in_step = training._loss, []

    def watched_craft(*arguments: Any, **options: Any) -> Any:
        found = craft(*arguments, **options)
        crafted.append(found)
        return found

    def watched_loss(found: Any, *arguments: Any) -> Any:
        answer = loss_of(found, *arguments)
        in_step.append((found.kept.y, answer[1].argmax(1) == found.kept.y))
        return answer

    def watched_step(*arguments: Any) -> None:
        crafted.clear()
        in_step.clear()
        step(*arguments)
        seen.extend(crafted[-1].left + in_step[-1:])  # the last pass is the one of the step

    step = training._step
    monkeypatch.setattr(module, "craft", watched_craft)
    training._loss = watched_loss  # type: ignore[method-assign]
    training._step = watched_step  # type: ignore[method-assign]
    for result in training:
        assert all(map(finite, map(torch.tensor, result.metrics.values())))
        y, right = (torch.cat(column) for column in zip(*seen, strict=True))
        for c, key in enumerate(class_keys(training.dataset.classes)):
            own = right[y == c]
            name = f"train/robust/{key}"
            assert (name in result.metrics) == (len(own) > 0)
            if len(own):
                assert result.metrics[name] == pytest.approx(float(own.double().mean()), abs=1e-12)
        seen.clear()
    state = training.state()
    assert (
        finite(state["model"])
        and finite(state["learnt"])
        and finite(state["averages"])
        and finite(state["memory"])
    )


@every_case
def test_batches_of_one_image_are_handled(case):
    one = case.trial(epochs=1, batch_size=1)
    train = images().train
    few = Split(train.images[::12], train.labels[::12])
    training = Training(one, dataclasses.replace(images(), train=few))
    for result in training:
        assert all(map(finite, map(torch.tensor, result.metrics.values())))
    assert finite(training.state()["model"])
