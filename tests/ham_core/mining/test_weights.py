"""HAM's weights, worked out by hand: measures, functions, base and normalisation."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from ham_core.mining.weights import Function, Weight, crossing_logits, mean_one
from tests.ham_core.mining.helpers import close, example, seen


def weights(**settings: object) -> torch.Tensor:
    found = Weight.model_validate({"measure": "logits_l1", **settings})(example())
    assert found is not None
    return found


def test_the_adversarial_step_size_is_the_largest_jump_of_the_logits():
    """max(1, 3), max(2, 0), 0 = 3, 2, 0, whose mean-one form is 9/5, 6/5, 0."""
    close(weights(), [9 / 5, 6 / 5, 0.0])


def test_the_start_jump_counts_only_where_asked():
    """|z - z^0| is 4, 0, 1, so the largest are 4, 2, 1: 12/7, 6/7, 3/7."""
    close(weights(start_jump=True), [12 / 7, 6 / 7, 3 / 7])


def test_the_softmax_step_size_measures_probabilities():
    """p_0 is σ of the logit difference d; an L1 jump of p is 2|Δσ|. d: 2, 1, -2;  -1, -3, -3;  -2, -2, -2."""

    def sigma(d: float) -> float:
        return 1 / (1 + math.exp(-d))

    jumps = [2 * (sigma(1) - sigma(-2)), 2 * (sigma(-1) - sigma(-3)), 0.0]
    close(weights(measure="softmax_l1"), [3 * jump / sum(jumps) for jump in jumps])


def test_margin_measures_start_from_the_first_misclassified_iterate_after_the_start():
    """Sample 0 crosses at k = 2 (the end), samples 1 and 2 at k = 1; z^mar - z^K is 0 for all but would not be from z^0."""
    assert crossing_logits(example()).tolist() == [[0.0, 2.0], [0.0, 3.0], [0.0, 2.0]]
    moving = seen([[[9.0, 0.0]], [[0.0, 1.0]], [[0.0, 4.0]]], clean=[[9.0, 0.0]], y=[0])
    assert crossing_logits(moving).tolist() == [[0.0, 1.0]]
    lp = Weight.model_validate({"measure": "margin_lp", "space": "logits", "p": 2})
    assert lp.raw(moving).tolist() == [3.0]
    assert Weight.model_validate("margin_mse").raw(moving).tolist() == [4.5]


def test_the_margin_of_an_example_that_never_crosses_is_zero():
    """z^mar is z^K then, also where iterates before it were nearer to the boundary."""
    never = seen([[[9.0, 0.0]], [[2.0, 1.0]], [[4.0, 0.0]]], clean=[[9.0, 0.0]], y=[0])
    assert crossing_logits(never).tolist() == [[4.0, 0.0]]
    assert Weight.model_validate("margin_lp").raw(never).tolist() == [0.0]


def test_the_clean_measure_compares_the_last_iterate_with_the_clean_image():
    """Differences (6,-2), (0,-2), (1,0): 1-norms 8, 2, 1; 2-norms sqrt 40, 2, 1."""
    close(weights(measure="clean_lp", space="logits"), [24 / 11, 6 / 11, 3 / 11])
    total = math.sqrt(40) + 3
    close(weights(measure="clean_lp", space="logits", p=2), [3 * math.sqrt(40) / total, 6 / total, 3 / total])


def test_the_clean_measure_is_in_probabilities_by_default():
    """|Δp|_1 = 2|Δσ(d)| with d = 6 to -2, -1 to -3, -1 to -2."""

    def sigma(d: float) -> float:
        return 1 / (1 + math.exp(-d))

    moved = [sigma(6) - sigma(-2), sigma(-1) - sigma(-3), sigma(-1) - sigma(-2)]
    close(weights(measure="clean_lp"), [3 * value / sum(moved) for value in moved])


SHAPES = [
    ("uniform", None, lambda t: 1.0),
    ("linear", None, lambda t: t),
    ("power", 2.0, lambda t: t**2),
    ("exponential", 1.5, lambda t: math.exp(1.5 * (t - 1))),
    ("sigmoid", -0.5, lambda t: 1 / (1 + math.exp(-(5 * (2 * t - 1) + 0.5)))),
    ("tanh", -1.0, lambda t: (1 + math.tanh(5 * (2 * t - 1) + 1)) / 2),
]


@pytest.mark.parametrize(("function", "parameter", "shape"), SHAPES[1:])
def test_each_weight_function_has_its_formula_mean_one_and_increases(function, parameter, shape):
    """Scaled measures t are 1, 2/3, 0."""
    values = [shape(t) for t in (1.0, 2 / 3, 0.0)]
    found = weights(function=function, parameter=parameter)
    close(found, [3 * value / sum(values) for value in values])
    assert float(found.mean()) == pytest.approx(1, abs=1e-6)
    assert found[0] > found[1] > found[2]


@pytest.mark.parametrize(("function", "parameter", "shape"), SHAPES)
def test_each_weight_function_is_the_one_it_says_and_scales_by_the_largest(function, parameter, shape):
    rule = Weight.model_validate({"measure": "softmax_l1", "function": function, "parameter": parameter})
    close(rule.shape(torch.tensor([3.0, 2.0, 0.75, 0.0])), [shape(t) for t in (1.0, 2 / 3, 0.25, 0.0)])


def test_the_uniform_function_measures_nothing_and_weighs_all_alike():
    rule = Weight.model_validate({"measure": "softmax_l1", "function": "uniform"})
    assert rule(example()) is None
    assert not rule.wants_path()
    assert Weight.model_validate({"measure": "softmax_l1"}).wants_path()
    batch = Weight.model_validate({"measure": "softmax_l1", "function": "uniform", "normalise": "batch"})
    close(batch(example()), [0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("measure", "wanted"),
    [
        ("uniform", False),
        ("softmax_l1", True),
        ("logits_l1", True),
        ("clean_lp", False),
        ("margin_lp", True),
        ("margin_mse", True),
    ],
)
def test_the_path_is_kept_only_for_measures_that_read_it(measure, wanted):
    assert Weight.model_validate(measure).wants_path() is wanted


@pytest.mark.parametrize("function", get_args(Function))
@pytest.mark.parametrize("size", [1, 2, 40])
def test_weights_never_fall_with_the_measure_and_have_mean_one(function, size):
    generator = torch.Generator().manual_seed(size)
    steps = 4 * torch.rand(size, generator=generator)
    paths = [[[0.0, 0.0]] * size, [[float(step), 0.0] for step in steps]]
    rule = Weight.model_validate({"measure": "logits_l1", "function": function, "base": 0.1})
    found = rule(seen(paths, clean=paths[0], y=[0] * size))
    found = torch.ones(size) if found is None else found
    assert float(found.mean()) == pytest.approx(1, abs=1e-5)
    assert bool((found[steps.argsort()].diff() >= 0).all())
    assert size == 40 or function == "uniform" or len(found.unique()) == size


def test_the_released_tanh_gives_the_values_stated_for_its_default():
    """With λ = -1: about 3.4e-4 at t = 0, one half at t = 0.4, nearly 1 at t = 1."""
    u = torch.tensor([0.0, 0.4, 1.0])
    found = Weight.model_validate({"measure": "softmax_l1", "function": "tanh"}).shape(u)
    assert found[0].item() == pytest.approx(3.4e-4, rel=0.02)
    assert found[1].item() == pytest.approx(0.5, abs=1e-6)
    assert found[2].item() > 0.999


def test_the_parameter_left_out_is_that_of_the_function():
    functions = ("uniform", "linear", "power", "exponential", "sigmoid", "tanh")
    found = {name: Weight.model_validate({"function": name}).parameter for name in functions}
    assert found == {"uniform": 1, "linear": 1, "power": 1, "exponential": 1, "sigmoid": -1, "tanh": -1}
    assert Weight.model_validate("uniform").parameter == 1


def test_the_base_is_added_before_scaling_and_follows_its_schedule():
    """Mean-one measures 9/5, 6/5, 0 plus 3/5: 12/5, 9/5, 3/5, whose mean-one form is 3/2, 9/8, 3/8."""
    close(weights(base=0.6), [3 / 2, 9 / 8, 3 / 8])
    schedule = [{"start_epoch": 5, "value": 0.6}, {"start_epoch": 8, "value": 0.0}]
    rule = Weight.model_validate({"measure": "logits_l1", "base": schedule})
    assert [rule.base_at(epoch) for epoch in (4, 5, 7, 8)] == [0.0, 0.6, 0.6, 0.0]
    close(rule(example(epoch=4)), [9 / 5, 6 / 5, 0.0])
    close(rule(example(epoch=5)), [3 / 2, 9 / 8, 3 / 8])


def test_normalising_over_the_batch_scales_by_the_hard_share():
    """Three hard of a batch of six: half of the weights that have mean one."""
    close(weights(normalise="batch"), [9 / 10, 6 / 10, 0.0])
    assert Weight.model_validate("uniform")(example()) is None
    uniform = Weight.model_validate({"measure": "uniform", "normalise": "batch"})(example())
    assert uniform is not None and uniform.tolist() == [0.5, 0.5, 0.5]


def test_weights_are_uniform_where_nothing_moved():
    assert mean_one(torch.zeros(4)).tolist() == [1.0] * 4
    still = seen([[[1.0, 2.0]], [[1.0, 2.0]]], clean=[[1.0, 2.0]], y=[0])
    for function in ("linear", "power", "tanh", "sigmoid", "exponential"):
        found = Weight.model_validate({"measure": "logits_l1", "function": function})(still)
        assert found is not None and found.tolist() == [1.0]


def test_small_values_are_scaled_to_mean_one_too():
    close(mean_one(torch.tensor([0.1, 0.3])), [0.5, 1.5])


def test_an_attack_without_steps_has_no_step_size():
    unmoved = seen([[[1.0, 2.0], [2.0, 0.0]]], clean=[[1.0, 2.0], [5.0, 0.0]], y=[0, 0])
    assert Weight.model_validate("logits_l1").raw(unmoved).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "wrong", [{"function": "power", "parameter": 0.0}, {"function": "exponential", "parameter": -1}]
)
def test_a_parameter_that_would_make_weights_fall_is_refused(wrong):
    with pytest.raises(ValueError, match="to increase"):
        Weight.model_validate(wrong)


def test_the_smallest_parameters_are_taken():
    assert Weight.model_validate({"function": "power", "parameter": 0.1}).parameter == 0.1
    flat = Weight.model_validate({"measure": "logits_l1", "function": "exponential", "parameter": 0})
    close(flat(example()), [1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    "wrong", [-0.1, [{"start_epoch": 0, "value": 0.5}, {"start_epoch": 3, "value": -0.1}]]
)
def test_a_negative_base_is_refused(wrong):
    with pytest.raises(ValueError, match="negative"):
        Weight.model_validate({"measure": "logits_l1", "base": wrong})


def test_an_example_that_crossed_and_came_back_has_the_margin_of_its_first_crossing():
    """Right at z^0, wrong at z^1, right again at z^2: z^mar is z^1, not the last."""
    returning = seen([[[9.0, 0.0]], [[0.0, 1.0]], [[4.0, 0.0]]], clean=[[9.0, 0.0]], y=[0])
    assert crossing_logits(returning).tolist() == [[0.0, 1.0]]


def test_softmax_step_sizes_are_left_for_the_log_with_the_weights_they_got():
    watched = example()
    weight = Weight.model_validate({"measure": "softmax_l1", "normalise": "batch"})
    weight(watched)
    assert watched.sizes is not None
    sizes, got = watched.sizes
    assert torch.equal(sizes, weight.raw(example()))
    close(got, mean_one(sizes).tolist())  # before `batch` scales them, so that their mean is 1
    other = example()
    Weight.model_validate({"measure": "logits_l1"})(other)
    assert other.sizes is None
