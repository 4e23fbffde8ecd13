"""Mining: the weights of HAM derived by hand, and which examples leave when."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from ham_core.adversary import craft
from ham_core.config import Trial
from ham_core.mining.base import Trajectory, overconfidence
from ham_core.mining.drop_overconfident import DropOverconfident, keep_after_drop
from ham_core.mining.ham import Ham
from ham_core.mining.weights import Weight, crossing_logits, mean_one
from tests.builders import Linear, trial

ROWS = 3


def seen(path: list[list[list[float]]], clean: list[list[float]], y: list[int], epoch: int = 0) -> Trajectory:
    """A trajectory whose logits are given: path[:-1] at z^0.., path[-1] at the end."""
    *earlier, last = [torch.tensor(logits) for logits in path]
    found = Trajectory(
        predict=lambda images: images,
        x=torch.tensor(clean),
        y=torch.tensor(y),
        adv=last,
        epoch=epoch,
        batch=2 * len(y),
        generator=torch.Generator().manual_seed(0),
        rows=torch.arange(len(y)),
    )
    found.path = earlier
    return found


def example(epoch: int = 0) -> Trajectory:
    """Three images, two classes, label 0. Logit jumps (L1): sample 0: 1, 3; sample 1: 2, 0; sample 2: 0, 0."""
    return seen(
        path=[
            [[2.0, 0.0], [0.0, 1.0], [0.0, 2.0]],
            [[1.0, 0.0], [0.0, 3.0], [0.0, 2.0]],
            [[0.0, 2.0], [0.0, 3.0], [0.0, 2.0]],
        ],
        clean=[[6.0, 0.0], [0.0, 1.0], [1.0, 2.0]],
        y=[0, 0, 0],
        epoch=epoch,
    )


def weights(**settings: object) -> torch.Tensor:
    found = Weight.model_validate({"measure": "logits_l1", **settings})(example())
    assert found is not None
    return found


def close(found: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


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


def test_the_clean_measure_compares_the_last_iterate_with_the_clean_image():
    """Differences (6,-2), (0,-2), (1,0): 1-norms 8, 2, 1; 2-norms sqrt 40, 2, 1."""
    close(weights(measure="clean_lp", space="logits"), [24 / 11, 6 / 11, 3 / 11])
    total = math.sqrt(40) + 3
    close(weights(measure="clean_lp", space="logits", p=2), [3 * math.sqrt(40) / total, 6 / total, 3 / total])


@pytest.mark.parametrize(
    ("function", "parameter", "shape"),
    [
        ("linear", None, lambda t: t),
        ("power", 2.0, lambda t: t**2),
        ("exponential", 1.5, lambda t: math.exp(1.5 * (t - 1))),
        ("sigmoid", -0.5, lambda t: 1 / (1 + math.exp(-(5 * (2 * t - 1) + 0.5)))),
        ("tanh", -1.0, lambda t: (1 + math.tanh(5 * (2 * t - 1) + 1)) / 2),
    ],
)
def test_each_weight_function_has_its_formula_mean_one_and_increases(function, parameter, shape):
    """Scaled measures t are 1, 2/3, 0."""
    values = [shape(t) for t in (1.0, 2 / 3, 0.0)]
    found = weights(function=function, parameter=parameter)
    close(found, [3 * value / sum(values) for value in values])
    assert float(found.mean()) == pytest.approx(1, abs=1e-6)
    assert found[0] > found[1] > found[2]


def test_the_released_tanh_gives_the_values_stated_for_its_default():
    """With λ = -1: about 3.4e-4 at t = 0, one half at t = 0.4, nearly 1 at t = 1."""
    u = torch.tensor([0.0, 0.4, 1.0])
    found = Weight.model_validate({"measure": "softmax_l1", "function": "tanh"}).shape(u)
    assert found[0].item() == pytest.approx(3.4e-4, rel=0.02)
    assert found[1].item() == pytest.approx(0.5, abs=1e-6)
    assert found[2].item() > 0.999


def test_the_base_is_added_before_scaling_and_follows_its_schedule():
    """Mean-one measures 9/5, 6/5, 0 plus 3/5: 12/5, 9/5, 3/5, whose mean-one form is 3/2, 9/8, 3/8."""
    close(weights(base=0.6), [3 / 2, 9 / 8, 3 / 8])
    schedule = [{"start_epoch": 5, "value": 0.6}, {"start_epoch": 8, "value": 0.0}]
    rule = Weight.model_validate({"measure": "logits_l1", "base": schedule})
    assert [rule.base_at(epoch) for epoch in (4, 5, 7, 8)] == [0.0, 0.6, 0.6, 0.0]


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


@pytest.mark.parametrize(
    "wrong", [{"function": "power", "parameter": 0.0}, {"function": "exponential", "parameter": -1}]
)
def test_a_parameter_that_would_make_weights_fall_is_refused(wrong):
    with pytest.raises(ValueError, match="to increase"):
        Weight.model_validate(wrong)


def test_overconfidence_is_the_gain_of_the_true_class():
    gap = overconfidence(example())
    p_adv, p_clean = example().current().softmax(1)[:, 0], example().clean().softmax(1)[:, 0]
    assert torch.equal(gap, p_adv - p_clean)


def test_confidence_may_be_that_of_the_predicted_class():
    """p of sample 0: clean (σ(6), ·), adversarial (σ(-2), σ(2)): p_y falls by σ(6) - σ(-2), the largest by σ(6) - σ(2).

    Sample 1 goes from σ(1) to σ(3) in the wrong class: over-confident there, less confident in the true one.
    """

    def sigma(d: float) -> float:
        return 1 / (1 + math.exp(-d))

    close(
        overconfidence(example(), "predicted_class"),
        [sigma(2) - sigma(6), sigma(3) - sigma(1), sigma(2) - sigma(1)],
    )
    close(overconfidence(example()), [sigma(-2) - sigma(6), sigma(-3) - sigma(-1), sigma(-2) - sigma(-1)])


@pytest.mark.parametrize(
    ("rate", "dropped"), [(0.0, []), (0.1, []), (0.34, [1]), (0.67, [1, 3]), (1.0, [0, 1, 3])]
)
def test_the_share_of_the_overconfident_that_gained_most_is_dropped(rate, dropped):
    """Over-confident are rows 0, 1, 3 with gains .1, .5, .2; row 2 lost confidence and always stays."""
    gap = torch.tensor([0.1, 0.5, -0.3, 0.2])
    assert (~keep_after_drop(gap, rate, gap)).nonzero().flatten().tolist() == dropped


def test_the_number_dropped_is_exact_where_floating_point_is_not():
    gap = torch.arange(1, 101, dtype=torch.float32)
    assert int((~keep_after_drop(gap, 0.29, gap)).sum()) == 29


def test_the_random_arm_drops_as_many_of_the_overconfident_and_no_others():
    rule = DropOverconfident(drop_rate=0.5, choose="random")
    many = seen([[[float(i % 3), 0.0]] * 1 for i in range(1)], clean=[[0.5, 0.0]], y=[0])
    many.x, many.adv = torch.rand(40, 2), torch.rand(40, 2)
    many.y = torch.zeros(40, dtype=torch.long)
    over = overconfidence(many) > 0
    keep = rule.finish(many)
    assert keep is not None
    assert int((~keep).sum()) == int(over.sum()) // 2
    assert bool(over[~keep].all())


# the attack with mining in it ---------------------------------------------------------------------------------------


def crafted(one: Trial, model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, epoch: int = 0):
    passes: Counter[str] = Counter()
    noise, chance = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    found = craft(model, x, y, one, epoch=epoch, margin=None, noise=noise, chance=chance, passes=passes)
    return found, passes


@pytest.fixture
def batch() -> tuple[Linear, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    model = Linear(0.6 * torch.randn(3, 64, generator=generator))
    x = torch.rand(50, 1, 8, 8, generator=generator)
    return model, x, torch.arange(50) % 3


def ham(step: int, **settings: object) -> dict[str, object]:
    return {"name": "ham", "early_drop_step": step, "start_epoch": 0, **settings}


@pytest.mark.parametrize("objective", ["at", "trades"])
@pytest.mark.parametrize("m", [0, 1, 2, 4])
def test_ham_trains_on_exactly_the_examples_that_are_wrong_at_step_m(batch, objective, m):
    model, x, y = batch
    plain, _ = crafted(trial(objective, attack={"steps": m}, epsilon=0.05), model, x, y)
    hard = model(plain.adv).argmax(1) != y
    assert 0 < int(hard.sum()) < len(y)
    found, _ = crafted(trial(objective, ham(m), epsilon=0.05), model, x, y)
    assert torch.equal(found.rows, hard.nonzero().flatten())
    assert torch.equal(found.flags["hard_share"][1], hard)
    whole, _ = crafted(trial(objective, epsilon=0.05), model, x, y)
    torch.testing.assert_close(found.adv, whole.adv[hard], atol=1e-6, rtol=0)
    assert found.weights is None


def test_with_m_equal_to_k_ham_is_at_restricted_to_the_successful(batch):
    model, x, y = batch
    whole, _ = crafted(trial("at", epsilon=0.05), model, x, y)
    found, _ = crafted(trial("at", ham(4), epsilon=0.05), model, x, y)
    successful = model(whole.adv).argmax(1) != y
    assert torch.equal(found.rows, successful.nonzero().flatten())
    assert torch.equal(found.adv, whole.adv[successful])


def test_dropped_examples_take_no_part_in_later_steps(batch):
    """m = 1 of K = 4: B gradients before the drop, |H| per step after it; one more forward of B decides."""
    model, x, y = batch
    found, passes = crafted(trial("at", ham(1), epsilon=0.05), model, x, y)
    h = len(found.rows)
    assert 0 < h < 50
    assert passes == {"input_gradient": 50 + 3 * h, "forward": 50 + 50 + 3 * h}


def test_plain_at_costs_k_forwards_and_k_input_gradients(batch):
    model, x, y = batch
    assert crafted(trial("at"), model, x, y)[1] == {"input_gradient": 200, "forward": 200}
    assert crafted(trial("trades"), model, x, y)[1] == {"input_gradient": 200, "forward": 250}


def test_paper_weights_cost_one_forward_of_the_hard_more(batch):
    model, x, y = batch
    weight = {"measure": "softmax_l1", "function": "tanh"}
    found, passes = crafted(trial("at", ham(1, weight=weight), epsilon=0.05), model, x, y)
    h = len(found.rows)
    assert passes == {"input_gradient": 50 + 3 * h, "forward": 100 + 4 * h}
    assert found.weights is not None and float(found.weights.mean()) == pytest.approx(1, abs=1e-6)


def test_when_every_example_is_wrong_at_step_m_ham_is_at_bit_for_bit(batch):
    model, x, y = batch
    always_two = Linear(model.weight.detach(), torch.tensor([0.0, 0.0, 1e4]))
    wrong = y % 2
    found, _ = crafted(trial("at", ham(2)), always_two, x, wrong)
    whole, _ = crafted(trial("at"), always_two, x, wrong)
    assert torch.equal(found.adv, whole.adv) and torch.equal(found.rows, whole.rows)


def test_a_batch_without_hard_examples_is_empty_and_costs_no_step_after_m(batch):
    model, x, _ = batch
    always_two = Linear(model.weight.detach(), torch.tensor([0.0, 0.0, 1e4]))
    found, passes = crafted(trial("at", ham(2)), always_two, x, torch.full((50,), 2))
    assert len(found.y) == 0 and len(found.adv) == 0
    assert passes["input_gradient"] == 100


def test_before_its_start_epoch_mining_does_nothing(batch):
    model, x, y = batch
    late = ham(2, start_epoch=5, weight={"measure": "softmax_l1"}, drop_rate=0.5)
    found, passes = crafted(trial("at", late), model, x, y, epoch=4)
    whole, plain_passes = crafted(trial("at"), model, x, y, epoch=4)
    assert torch.equal(found.adv, whole.adv) and found.weights is None and passes == plain_passes
    assert len(crafted(trial("at", late, epsilon=0.05), model, x, y, epoch=5)[0].rows) < 50


def test_any_step_counts_examples_that_crossed_and_came_back(batch):
    model, x, y = batch
    here = crafted(trial("at", ham(2), epsilon=0.05), model, x, y)[0].rows
    ever = crafted(trial("at", ham(2, hard_rule="any_step"), epsilon=0.05), model, x, y)[0].rows
    assert set(here.tolist()) <= set(ever.tolist())
    path = seen([[[0.0, 1.0]], [[1.0, 0.0]]], clean=[[1.0, 0.0]], y=[0])
    assert Ham(early_drop_step=1, hard_rule="any_step").keep(path).tolist() == [True]
    assert Ham(early_drop_step=1).keep(path).tolist() == [False]


def test_the_drop_rate_takes_overconfident_examples_out_of_the_hard(batch):
    """An attack that climbs KL from a wrong start can raise p_y; here the model is wrong and the step far too large."""
    model, x, y = batch
    settings = {"attack": {"steps": 1, "step": 0.0, "start": "uniform"}, "epsilon": 0.3}
    hard, _ = crafted(trial("at", ham(0), **settings), model, x, y)
    clean, adv = model(hard.x).softmax(1), model(hard.adv).softmax(1)
    gap = (adv - clean).gather(1, hard.y[:, None]).squeeze(1)
    over = int((gap > 0).sum())
    assert over > 2
    found, _ = crafted(trial("at", ham(0, drop_rate=0.5), **settings), model, x, y)
    assert len(found.rows) == len(hard.rows) - over // 2
    everything, _ = crafted(trial("at", ham(0, drop_rate=1.0), **settings), model, x, y)
    assert torch.equal(everything.rows, hard.rows[gap <= 0])


def test_drop_overconfident_keeps_all_others_and_notes_the_share(batch):
    model, x, y = batch
    settings = {"attack": {"steps": 1, "step": 0.0, "start": "uniform"}, "epsilon": 0.3}
    rule = {"name": "drop_overconfident", "drop_rate": 0.3}
    whole, plain = crafted(trial("at", **settings), model, x, y)
    found, passes = crafted(trial("at", rule, **settings), model, x, y)
    over = int(found.flags["overconfident"][1].sum())
    assert over > 0 and len(found.rows) == 50 - math.floor(0.3 * over)
    assert found.weights is None and passes["forward"] == plain["forward"] + 100
    assert torch.equal(found.adv, whole.adv[found.rows])


def test_an_early_drop_step_beyond_the_attack_is_refused_with_what_is_allowed():
    with pytest.raises(
        ValueError, match=r"early_drop_step is 5, but the attack has only 4 steps; use 0 to 4"
    ):
        trial("at", ham(5))
