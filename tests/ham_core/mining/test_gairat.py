"""GAIRAT: weights by the number of iterates that are still classified rightly."""

from __future__ import annotations

import math

import pytest
import torch

from ham_core.mining.gairat import Gairat, correct_iterates
from tests.builders import same_weights, trial
from tests.ham_core.mining.helpers import close, crafted, seen, trained

RIGHT, WRONG = [1.0, 0.0], [0.0, 1.0]


def withstanding(kappas: list[int], steps: int, epoch: int = 0):
    """A trajectory of that many steps whose examples are right at their first κ iterates, and wrong from there on."""
    path = [[RIGHT if k < kappa else WRONG for kappa in kappas] for k in range(steps)]
    return seen([*path, [WRONG] * len(kappas)], clean=[RIGHT] * len(kappas), y=[0] * len(kappas), epoch=epoch)


def mean_of_one(values: list[float]) -> list[float]:
    return [len(values) * value / sum(values) for value in values]


def gairat(**settings: object) -> dict[str, object]:
    return {"name": "gairat", "start_epoch": 0, **settings}


def test_tanh_weights_of_three_examples():
    """K = 4, ⌊K/2⌋ = 2, κ = 4, 2, 0: -1 + 5(2 - κ)/2 = -6, -1, 4, and ω = (1 + tanh)/2 of that."""
    omega = [(1 + math.tanh(a)) / 2 for a in (-6, -1, 4)]
    close(Gairat().weigh(withstanding([4, 2, 0], 4)), mean_of_one(omega))


def test_sigmoid_weights_of_three_examples():
    """The same arguments -6, -1, 4, and with Λ = 0.5: -4.5, 0.5, 5.5."""
    one = withstanding([4, 2, 0], 4)
    close(Gairat(function="sigmoid").weigh(one), mean_of_one([1 / (1 + math.exp(-a)) for a in (-6, -1, 4)]))
    shifted = Gairat(function="sigmoid", shift=0.5).weigh(one)
    close(shifted, mean_of_one([1 / (1 + math.exp(-a)) for a in (-4.5, 0.5, 5.5)]))


def test_discrete_weights_of_three_examples():
    """(5 - κ)/5 = 1/5, 3/5, 1, whose mean-one form is 1/3, 1, 5/3."""
    close(Gairat(function="discrete").weigh(withstanding([4, 2, 0], 4)), [1 / 3, 1.0, 5 / 3])


def test_omega_before_it_is_scaled_to_mean_one():
    """K = 5, κ = 5, 2, 0, Λ = -1: arguments -8.5, -1, 4; discrete 1/6, 4/6, 1."""
    kappa = torch.tensor([5.0, 2.0, 0.0])
    arguments = (-8.5, -1, 4)
    close(Gairat().omega(kappa, 5, -1.0), [(1 + math.tanh(a)) / 2 for a in arguments])
    close(Gairat(function="sigmoid").omega(kappa, 5, -1.0), [1 / (1 + math.exp(-a)) for a in arguments])
    close(Gairat(function="discrete").omega(kappa, 5, -1.0), [1 / 6, 4 / 6, 1.0])


def test_an_odd_number_of_steps_is_halved_downwards():
    """K = 5, ⌊K/2⌋ = 2, κ = 5, 2, 0: -1 + 5(2 - κ)/2 = -8.5, -1, 4; discrete (6 - κ)/6 = 1/6, 4/6, 1."""
    one = withstanding([5, 2, 0], 5)
    close(Gairat().weigh(one), mean_of_one([(1 + math.tanh(a)) / 2 for a in (-8.5, -1, 4)]))
    close(Gairat(function="discrete").weigh(one), mean_of_one([1 / 6, 4 / 6, 1.0]))


def test_the_last_iterate_does_not_count():
    """κ counts x^0..x^{K-1}: right at x^0 and x^1, wrong at x^2, right again at x^3, whatever x^4 is."""
    path = [[RIGHT], [RIGHT], [WRONG], [RIGHT]]
    for last in (RIGHT, WRONG):
        assert correct_iterates(seen([*path, [last]], clean=[RIGHT], y=[0])).tolist() == [3]


@pytest.mark.parametrize("function", ["tanh", "sigmoid", "discrete"])
def test_weights_fall_with_kappa_and_have_mean_one(function):
    found = Gairat(function=function).weigh(withstanding(list(range(11)), 10))
    assert bool((found.diff() < 0).all())
    assert float(found.mean()) == pytest.approx(1, abs=1e-6)
    assert found.dtype == torch.float32


def test_tiny_weights_keep_their_digits():
    """Λ = -9, K = 2: arguments -14 and -9, where 1 + tanh is 0 in single precision."""
    omega = [(1 + math.tanh(a)) / 2 for a in (-14, -9)]
    found = Gairat(shift=-9.0).weigh(withstanding([2, 1], 2))
    assert found[0].item() / found[1].item() == pytest.approx(omega[0] / omega[1], rel=1e-3)


@pytest.mark.parametrize("function", ["tanh", "sigmoid"])
def test_a_shift_that_leaves_no_weight_weighs_all_alike(function):
    found = Gairat(function=function, shift=-1e9).weigh(withstanding([4, 2, 0], 4))
    assert found.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("function", ["tanh", "sigmoid"])
def test_an_infinite_shift_is_adversarial_training_bit_for_bit(function):
    mined = trained(trial("at", gairat(function=function, shift=1e9)))
    assert same_weights(mined, trained(trial("at")))
    assert not same_weights(mined, trained(trial("at", gairat(function=function))))


def test_the_shift_follows_its_schedule_and_is_infinite_before():
    schedule = [{"start_epoch": 2, "value": 3.0}, {"start_epoch": 4, "value": -1.0}]
    rule = Gairat.model_validate({"shift": schedule})

    def at(epoch: int) -> list[float]:
        return rule.weigh(withstanding([4, 2, 0], 4, epoch=epoch)).tolist()

    assert at(1) == [1.0, 1.0, 1.0]
    close(torch.tensor(at(2)), mean_of_one([(1 + math.tanh(a)) / 2 for a in (-2, 3, 8)]))
    assert at(3) == at(2)
    close(torch.tensor(at(4)), mean_of_one([(1 + math.tanh(a)) / 2 for a in (-6, -1, 4)]))


def test_the_defaults_are_the_published_ones():
    rule = Gairat()
    assert (rule.function, rule.shift, rule.start_epoch) == ("tanh", -1.0, 59)


def test_kappa_is_counted_on_the_attack_itself_and_costs_nothing(batch):
    """κ counted by hand: plain attacks of 0, 1, 2, 3 steps from the same start stop at x^0..x^3."""
    model, x, y = batch
    whole, plain = crafted(trial("at", epsilon=0.05), model, x, y)
    found, passes = crafted(trial("at", gairat(function="discrete"), epsilon=0.05), model, x, y)
    kappa = torch.zeros(50)
    for k in range(4):
        stop, _ = crafted(trial("at", epsilon=0.05, attack={"steps": k}), model, x, y)
        kappa += model(stop.adv).argmax(1) == y
    omega = (5 - kappa) / 5
    torch.testing.assert_close(found.weights, 50 * omega / omega.sum(), atol=1e-6, rtol=0)
    assert passes == plain and torch.equal(found.adv, whole.adv) and len(found.rows) == 50
    assert len(kappa.unique()) > 2


def test_rows_that_friendly_training_stopped_count_no_further_iterate(batch):
    """With τ = 0 a row stops at its first misclassified iterate k, so that κ = k; K where there is none."""
    model, x, y = batch
    right = []
    for k in range(4):
        stop, _ = crafted(trial("at", epsilon=0.05, attack={"steps": k}), model, x, y)
        right.append(model(stop.adv).argmax(1) == y)
    kappa = torch.stack(right).int().cumprod(0).sum(0)
    fat = {"name": "fat", "tau": 0, "noise": 0.0}
    found, _ = crafted(trial(fat, gairat(function="discrete"), epsilon=0.05), model, x, y)
    omega = (5 - kappa) / 5
    torch.testing.assert_close(found.weights, 50 * omega / omega.sum(), atol=1e-6, rtol=0)


def test_an_attack_that_stopped_early_counts_where_it_stands():
    """Two of four steps were taken: example 0 stopped wrong (κ = 1), example 1 right (κ = 1 + 3)."""
    one = seen([[RIGHT, RIGHT], [WRONG, RIGHT], [WRONG, RIGHT]], clean=[RIGHT] * 2, y=[0, 0], steps=4)
    assert correct_iterates(one).tolist() == [1, 4]


def test_before_its_start_epoch_all_weights_are_one(batch):
    model, x, y = batch
    one = trial("at", gairat(start_epoch=1), epsilon=0.05)
    assert crafted(one, model, x, y, epoch=0)[0].weights is None
    assert crafted(one, model, x, y, epoch=1)[0].weights is not None


@pytest.mark.parametrize(("function", "steps"), [("tanh", 1), ("sigmoid", 1), ("tanh", 0), ("discrete", 0)])
def test_attacks_too_short_to_tell_examples_apart_are_refused(function, steps):
    with pytest.raises(ValueError, match=rf"function is {function}.*attack.steps is {steps}"):
        trial("at", gairat(function=function), attack={"steps": steps})


@pytest.mark.parametrize(("function", "steps"), [("tanh", 2), ("sigmoid", 3), ("discrete", 1)])
def test_the_shortest_attacks_that_tell_examples_apart_are_taken(batch, function, steps):
    model, x, y = batch
    one = trial("at", gairat(function=function), attack={"steps": steps}, epsilon=0.05)
    assert len(crafted(one, model, x, y)[0].weights.unique()) > 1


def test_one_example_weighs_one(batch):
    model, x, y = batch
    assert crafted(trial("at", gairat()), model, x[:1], y[:1])[0].weights.tolist() == [1.0]
