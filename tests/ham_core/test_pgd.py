"""The one projected-gradient loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ham_core import models
from ham_core.attacks.losses import cross_entropy, margin
from ham_core.attacks.pgd import Move, pgd, start_point, under_attack
from tests.builders import Linear, same_weights


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.tensor([0, 1, 0, 1, 1, 0])


@pytest.fixture
def linear() -> Linear:
    return Linear(torch.randn(2, 16, generator=torch.Generator().manual_seed(1)))


def optimum(model: Linear, x: torch.Tensor, y: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Two classes: every loss that falls in z_y - z_other is maximal at clip01(x + ε sign(w_other - w_y))."""
    direction = model.weight[1 - y] - model.weight[y]
    return (x + epsilon * direction.sign().reshape(x.shape)).clamp(0, 1)


def ascended(
    model: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, labels: torch.Tensor, **options: Any
) -> torch.Tensor:
    """PGD on the cross-entropy."""
    return pgd(model, images, lambda z, rows: cross_entropy(z, labels[rows]), **options)


@pytest.mark.parametrize("loss", [cross_entropy, margin])
@pytest.mark.parametrize("kind", ["zero", "uniform", "gaussian"])
def test_pgd_on_a_linear_model_reaches_the_closed_form_optimum(linear, images, labels, loss, kind):
    start = start_point(images, kind, 0.1, torch.Generator().manual_seed(2))
    found = pgd(
        linear, images, lambda z, rows: loss(z, labels[rows]), epsilon=0.1, step=0.025, steps=12, start=start
    )
    torch.testing.assert_close(found, optimum(linear, images, labels, 0.1), atol=1e-7, rtol=0)


def test_each_sample_has_its_own_radius_and_step(linear, images, labels):
    epsilon = torch.tensor([0.0, 0.01, 0.05, 0.1, 0.2, 0.5])
    found = ascended(
        linear,
        images,
        labels,
        epsilon=epsilon,
        step=epsilon / 2,
        steps=4,
    )
    for i, radius in enumerate(epsilon.tolist()):
        expected = optimum(linear, images[i : i + 1], labels[i : i + 1], radius)
        torch.testing.assert_close(found[i : i + 1], expected, atol=1e-6, rtol=0)


def test_one_step_from_the_image_is_its_signed_gradient(images, labels):
    model = models.build("small_cnn", width=0.5, classes=2, channels=1, normalize=False).eval()
    x = images.clone().requires_grad_()
    cross_entropy(model(x), labels).sum().backward()
    expected = (images + 0.03 * x.grad.sign()).clamp(0, 1)
    found = ascended(model, images, labels, epsilon=0.1, step=0.03, steps=1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("epsilon", [0.0, 8 / 255, 0.3, 1.0])
def test_the_result_stays_in_the_ball_and_in_the_pixel_range(images, labels, epsilon):
    model = models.build("small_cnn", width=0.5, classes=2, channels=1, normalize=False).eval()
    far = images + 10 * torch.randn_like(images)
    found = ascended(
        model,
        images,
        labels,
        epsilon=epsilon,
        step=epsilon,
        steps=5,
        start=far,
    )
    assert float((found - images).abs().max()) <= epsilon + 1e-6
    assert 0 <= float(found.min()) and float(found.max()) <= 1


def test_an_attack_interrupted_after_m_steps_and_continued_is_the_same_attack(images, labels):
    model = models.build("small_cnn", width=0.5, classes=2, channels=1, normalize=False).eval()

    def attack(steps, start):
        return ascended(
            model,
            images,
            labels,
            epsilon=0.2,
            step=0.05,
            steps=steps,
            start=start,
        )

    start = start_point(images, "uniform", 0.2, torch.Generator().manual_seed(3))
    assert torch.equal(attack(7, attack(3, start)), attack(10, start))


def test_watch_sees_every_iterate_and_may_hold_rows_back(linear, images, labels):
    visited = []

    def watch(k, x, logits):
        visited.append((k, len(x), logits.requires_grad))
        return torch.tensor([True] * 5 + [False])

    found = ascended(
        linear,
        images,
        labels,
        epsilon=0.1,
        step=0.05,
        steps=3,
        watch=watch,
    )
    assert visited == [(0, 6, False), (1, 6, False), (2, 6, False)]
    assert torch.equal(found[5], images[5])
    assert not torch.equal(found[0], images[0])


@pytest.mark.parametrize("training", [True, False])
def test_an_attack_leaves_mode_gradients_and_batch_statistics_as_found(images, labels, training):
    model = models.build("small_cnn", width=0.5, classes=2, channels=1, normalize=False).train(training)
    frozen = next(model.parameters()).requires_grad_(False)
    before = copy.deepcopy(model)
    with under_attack(model, "eval"):
        ascended(model, images, labels, epsilon=0.1, step=0.05, steps=3)
    assert all(module.training == training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not frozen.requires_grad and sum(p.requires_grad for p in model.parameters()) > 0
    assert same_weights(model, before)


def test_a_train_mode_attack_moves_batch_statistics(images, labels):
    model = models.build("small_cnn", width=0.5, classes=2, channels=1, normalize=False)
    before = copy.deepcopy(model)
    with under_attack(model, "train"):
        ascended(model, images, labels, epsilon=0.1, step=0.05, steps=1)
    assert not same_weights(model, before)
    assert int(next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).num_batches_tracked) == 1


def test_the_margin_is_positive_exactly_where_the_prediction_is_wrong():
    """z = (2, 5, 1): own 2, best other 5 -> 3.  z = (4, 1, 0): own 4, best other 1 -> -3."""
    logits = torch.tensor([[2.0, 5.0, 1.0], [4.0, 1.0, 0.0]])
    assert margin(logits, torch.tensor([0, 0])).tolist() == [3.0, -3.0]


def test_uniform_starts_fill_the_ball_and_gaussian_ones_have_a_thousandth():
    x = torch.full((1, 1, 200, 200), 0.5)
    uniform = start_point(x, "uniform", 0.1, torch.Generator().manual_seed(0)) - x
    assert float(uniform.min()) < -0.0999 and float(uniform.max()) > 0.0999
    assert abs(float(uniform.mean())) < 1e-3
    gaussian = start_point(x, "gaussian", 0.1, torch.Generator().manual_seed(0)) - x
    assert float(gaussian.std()) == pytest.approx(0.001, rel=0.02)
    with pytest.raises(ValueError, match="unknown start 'unifrom'"):
        start_point(x, "unifrom", 0.1, None)


def test_rows_that_stop_cost_no_further_pass_keep_their_logits_and_never_move_again(linear, images, labels):
    """Six rows; two stop before the first step, two more before the second, the rest before the third: 6 + 4 + 2 passes."""
    passed: list[int] = []
    seen: list[torch.Tensor] = []

    def model(x):
        passed.append(len(x))
        return linear(x)

    def watch(k, x, logits):
        seen.append(logits)
        torch.testing.assert_close(logits, linear(x))
        return torch.arange(6) >= 2 * (k + 1)

    found = ascended(
        model,
        images,
        labels,
        epsilon=0.1,
        step=0.03,
        steps=7,
        watch=watch,
    )
    assert passed == [6, 4, 2]
    assert torch.equal(found[:2], images[:2])
    for rows, steps in ((slice(2, 4), 1), (slice(4, 6), 2)):
        own = labels[rows]
        alone = pgd(
            linear,
            images[rows],
            lambda z, held, own=own: cross_entropy(z, own[held]),
            epsilon=0.1,
            step=0.03,
            steps=steps,
        )
        torch.testing.assert_close(found[rows], alone)
    assert torch.equal(seen[2][:4], seen[1][:4])


def test_noise_is_added_to_every_step_before_the_projection(linear, images, labels):
    quiet = ascended(linear, images, labels, epsilon=0.1, step=0.01, steps=2)
    noisy = ascended(
        linear,
        images,
        labels,
        epsilon=0.1,
        step=0.01,
        steps=2,
        noise=lambda: torch.full_like(images, 0.02),
    )
    inside = (images > 0.2) & (images < 0.8)
    torch.testing.assert_close(noisy[inside], quiet[inside] + 0.04)
    loud = ascended(
        linear,
        images,
        labels,
        epsilon=0.1,
        step=0.01,
        steps=2,
        noise=lambda: torch.full_like(images, 9.0),
    )
    torch.testing.assert_close(loud, (images + 0.1).clamp(0, 1))


def test_a_second_move_goes_along_the_same_gradient_within_its_own_radius(linear, images, labels):
    """One step of 0.05 in a ball of 0.03, then 0.04 more in a ball of 0.06: 0.06 along the sign, with one gradient."""
    calls = []

    def model(x):
        calls.append(len(x))
        return linear(x)

    found = ascended(
        model,
        images,
        labels,
        epsilon=torch.full((6,), 0.03),
        step=torch.full((6,), 0.05),
        steps=1,
        again=Move(0.04, 0.06),
    )
    torch.testing.assert_close(found, optimum(linear, images, labels, 0.06), atol=1e-6, rtol=0)
    assert calls == [6]
