"""The projected-gradient loop in the L2 ball, and both balls against another library."""

from __future__ import annotations

import warnings

import pytest
import torch

from ham_core.attacks.losses import cross_entropy
from ham_core.attacks.pgd import l2_ball, length, pgd, start_in_l2, unit
from ham_core.data.augment import to_float
from tests.builders import Linear
from tests.judged import digits, network, only

with warnings.catch_warnings():  # it reads a module of scipy under its old name
    warnings.simplefilter("ignore")
    import foolbox


@pytest.fixture
def middle() -> torch.Tensor:
    """Images far from black and white, so that the range of pixels binds nowhere."""
    return 0.4 + 0.2 * torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def test_l2_pgd_on_a_linear_model_reaches_the_closed_form_optimum(middle):
    """Two classes: every loss that falls in z_y - z_other is maximal at x + ε d / ‖d‖₂, d = w_other - w_y."""
    model, y = (
        Linear(torch.randn(2, 16, generator=torch.Generator().manual_seed(1))),
        torch.tensor([0, 1, 1, 0, 1]),
    )
    direction = (model.weight[1 - y] - model.weight[y]).detach().reshape(middle.shape)
    expected = middle + 0.2 * direction / direction.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    start = start_in_l2(middle, 0.2, torch.Generator().manual_seed(2))
    for begin, steps in ((None, 5), (start, 60)):
        found = pgd(
            model,
            middle,
            lambda z, rows: cross_entropy(z, y[rows]),
            epsilon=0.2,
            step=0.05,
            steps=steps,
            start=begin,
            norm="l2",
        )
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_one_l2_step_has_the_length_of_the_step_and_the_direction_of_the_gradient(middle):
    """f(x) = (w·x, 0) with w = (3, 4, 0, ...): the gradient of -log p_0 is (p_0 - 1) w, of length 5 (1 - p_0)."""
    w = torch.zeros(2, 16)
    w[0, :2] = torch.tensor([3.0, 4.0])
    zero = torch.zeros(5, dtype=torch.long)
    found = pgd(
        Linear(w),
        middle,
        lambda z, rows: cross_entropy(z, zero[rows]),
        epsilon=1,
        step=0.1,
        steps=1,
        norm="l2",
    )
    shift = torch.zeros(16)
    shift[:2] = torch.tensor([-0.06, -0.08])
    torch.testing.assert_close(found - middle, shift.reshape(1, 1, 4, 4).expand(5, -1, -1, -1))


def test_a_point_outside_the_l2_ball_is_drawn_back_to_its_surface_and_one_inside_stays():
    """‖(3, 4)‖₂ = 5 with radius 0.5 -> (0.3, 0.4); (0.03, 0.04) has length 0.05 and stays."""
    x = torch.full((2, 1, 1, 2), 0.5)
    moved = x + torch.tensor([[3.0, 4.0], [0.03, 0.04]]).reshape(2, 1, 1, 2)
    found = l2_ball(x, torch.tensor([0.5, 0.5]))(moved, slice(None))
    torch.testing.assert_close(found[0].flatten(), torch.tensor([0.8, 0.9]))
    torch.testing.assert_close(found[1], moved[1])


def test_each_sample_has_its_own_l2_radius_and_stays_in_the_range_of_pixels():
    x = torch.rand(4, 1, 4, 4)
    epsilon = torch.tensor([0.0, 0.3, 1.0, 3.0])
    found = l2_ball(x, epsilon)(x + 10 * torch.randn_like(x), slice(None))
    assert (length(found - x).flatten() <= epsilon + 1e-6).all()
    assert found.min() >= 0 and found.max() <= 1
    assert torch.equal(found[0], x[0])


def test_a_gradient_or_a_shift_of_zero_moves_nothing():
    assert torch.equal(unit(torch.zeros(2, 1, 3, 3)), torch.zeros(2, 1, 3, 3))
    gray = torch.full((1, 1, 2, 2), 0.5)
    assert torch.equal(l2_ball(gray, 0.0)(gray, slice(None)), gray)


def test_l2_starts_are_uniform_in_the_ball():
    """In d = 4 dimensions the share within radius r ε is r⁴: half of them lie within 2^{-1/4} ε; directions average out."""
    x = torch.full((20_000, 1, 2, 2), 0.5)
    shift = start_in_l2(x, 0.4, torch.Generator().manual_seed(0)) - x
    distance = length(shift).flatten() / 0.4
    assert distance.max() <= 1 + 1e-6
    assert abs((distance < 0.5**0.25).float().mean() - 0.5) < 0.02
    assert shift.mean(0).abs().max() < 0.01


@pytest.mark.parametrize(
    ("norm", "attack", "radius", "step"),
    [("linf", "LinfPGD", 0.15, 0.02), ("l2", "L2PGD", 0.8, 0.15)],
)
def test_pgd_gives_the_images_of_another_library(norm, attack, radius, step):
    """foolbox in fp32, from the image itself: it writes x' as x plus a shift, so the last bits differ."""
    images = only(digits()[1], 4, 40)
    x, y = to_float(images.images), images.labels
    theirs = getattr(foolbox.attacks, attack)(abs_stepsize=step, steps=15, random_start=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = foolbox.PyTorchModel(network(), bounds=(0, 1), device="cpu")
        _, expected, broken = theirs(model, x, y, epsilons=radius)
    found = pgd(
        network(),
        x,
        lambda z, rows: cross_entropy(z, y[rows]),
        epsilon=radius,
        step=step,
        steps=15,
        norm=norm,
    )
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    with torch.no_grad():
        assert torch.equal(network()(found).argmax(1) != y, broken)
    assert 0 < broken.sum() < len(y)
