"""HAM: who leaves at step m, who returns, who is dropped, and what it costs."""

from __future__ import annotations

import pytest
import torch

from ham_core.mining.base import Kept
from ham_core.mining.ham import Ham
from tests.builders import same_weights, trial
from tests.ham_core.mining.helpers import always_two, close, crafted, ham, seen, still, trained

EASY = [
    [3.0, 0.0],
    [1.0, 0.0],
    [2.0, 0.0],
    [0.0, 1.0],
    [0.5, 0.0],
]  # label 0: row 3 is hard; falling p_y: 0, 2, 1, 4


def aside(rule: Ham, logits: list[list[float]] = EASY) -> list[tuple[list[int], list[float], torch.Tensor]]:
    """(rows, weights, images) of each group that returns."""
    one = still(logits)
    assert rule.keep(one).tolist() == [row[0] < row[1] for row in logits]
    return [(group.rows.tolist(), group.weights.tolist(), group.adv) for group in one.aside]


# the early drop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["at", "trades", "mart"])
@pytest.mark.parametrize("m", [0, 1, 2, 4])
def test_ham_trains_on_exactly_the_examples_that_are_wrong_at_step_m(batch, objective, m):
    """The dropped are not there, which is weight 0."""
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
    _, x, y = batch
    wrong = y % 2
    found, _ = crafted(trial("at", ham(2)), always_two(), x, wrong)
    whole, _ = crafted(trial("at"), always_two(), x, wrong)
    assert torch.equal(found.adv, whole.adv) and torch.equal(found.rows, whole.rows)


def test_a_batch_without_hard_examples_is_empty_and_costs_no_step_after_m(batch):
    _, x, _ = batch
    found, passes = crafted(trial("at", ham(2)), always_two(), x, torch.full((50,), 2))
    assert len(found.y) == 0 and len(found.adv) == 0
    assert passes["input_gradient"] == 100


def test_before_its_start_epoch_mining_does_nothing(batch):
    model, x, y = batch
    late = ham(2, start_epoch=5, weight={"measure": "softmax_l1"}, drop_rate=0.5)
    found, passes = crafted(trial("at", late), model, x, y, epoch=4)
    whole, plain_passes = crafted(trial("at"), model, x, y, epoch=4)
    assert torch.equal(found.adv, whole.adv) and found.weights is None and passes == plain_passes
    assert len(crafted(trial("at", late, epsilon=0.05), model, x, y, epoch=5)[0].rows) < 50


def test_a_start_beyond_the_end_is_adversarial_training_bit_for_bit():
    late = ham(2, start_epoch=2, weight={"measure": "softmax_l1"}, easy_high=0.5, drop_confident=0.5)
    assert same_weights(trained(trial("at", late)), trained(trial("at")))


def test_any_step_counts_examples_that_crossed_and_came_back(batch):
    model, x, y = batch
    here = crafted(trial("at", ham(2), epsilon=0.05), model, x, y)[0].rows
    ever = crafted(trial("at", ham(2, hard_rule="any_step"), epsilon=0.05), model, x, y)[0].rows
    assert set(here.tolist()) <= set(ever.tolist())
    path = seen([[[0.0, 1.0]], [[1.0, 0.0]]], clean=[[1.0, 0.0]], y=[0])
    assert Ham(early_drop_step=1, hard_rule="any_step").keep(path).tolist() == [True]
    assert Ham(early_drop_step=1).keep(path).tolist() == [False]
    assert Ham(hard_rule="any_step").wants_path() and not Ham().wants_path()


def test_an_early_drop_step_beyond_the_attack_is_refused_with_what_is_allowed():
    with pytest.raises(
        ValueError, match=r"early_drop_step is 5, but the attack has only 4 steps; use 0 to 4"
    ):
        trial("at", ham(5))


def test_the_defaults_are_those_of_the_released_code():
    rule = Ham()
    assert (rule.early_drop_step, rule.hard_rule, rule.start_epoch) == (3, "at_step", 49)
    assert rule.weight.measure == "uniform"
    off = (
        rule.drop_rate,
        rule.drop_confident,
        rule.easy_high,
        rule.easy_low,
        rule.clean_weight,
        rule.easy_clean,
    )
    assert not any(off)
    assert (rule.easy_high_weight, rule.easy_low_weight) == (1.0, 1.0)


# drops among the hard -----------------------------------------------------------------------------------------------


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
    assert int(everything.flags["overconfident"][1].sum()) == over


def test_the_drop_rate_may_judge_by_the_predicted_class():
    """Both hard examples lose p_y; the first gains confidence in its wrong class."""
    two = seen([[[0.0, 3.0], [0.0, 1.0]]], clean=[[0.0, 1.0], [2.0, 0.0]], y=[0, 0])
    assert Ham(drop_rate=1.0).finish(two).tolist() == [True, True]
    assert Ham(drop_rate=1.0, confidence="predicted_class").finish(two).tolist() == [False, True]


@pytest.mark.parametrize(
    ("d", "kept"), [(0.2, None), (0.25, [1, 2, 3]), (0.26, [1, 2, 3]), (0.5, [1, 3]), (0.75, [3]), (1.0, [])]
)
def test_the_surest_of_the_true_class_are_dropped_and_the_rest_is_rounded_up(d, kept):
    """p_y of rows 0 to 3 falls in the order 0, 2, 1, 3; ⌈(1 - d) 4⌉ stay: 4, 3, 3, 2, 1, 0 of them."""
    hard = still([[-1.0, 0.0], [-3.0, 0.0], [-2.0, 0.0], [-4.0, 0.0]])
    found = Ham(drop_confident=d).finish(hard)
    assert found is None if kept is None else found.nonzero().flatten().tolist() == kept


def test_of_equally_sure_examples_the_earlier_stay_and_the_number_is_exact():
    """(1 - 0.7) 10 is 3.0000000000000004 and (1 - 0.9) 30 is 2.999999999999999: three stay of each."""
    for d, n in ((0.9, 30), (0.7, 10)):
        found = Ham(drop_confident=d).finish(still([[0.0, 1.0]] * n))
        assert found.nonzero().flatten().tolist() == [0, 1, 2]


def test_dropping_the_surest_costs_one_forward_of_the_hard(batch):
    model, x, y = batch
    hard, plain = crafted(trial("at", ham(1), epsilon=0.05), model, x, y)
    found, passes = crafted(trial("at", ham(1, drop_confident=0.4), epsilon=0.05), model, x, y)
    h = len(hard.rows)
    assert passes["forward"] == plain["forward"] + h and passes["input_gradient"] == plain["input_gradient"]
    sure = model(hard.adv).softmax(1).gather(1, hard.y[:, None]).squeeze(1)
    stay = -(-6 * h // 10)
    assert found.rows.tolist() == sorted(hard.rows[sure.argsort()[:stay]].tolist())
    assert sum(len(labels) for labels, _ in found.left) + len(found.rows) == 50


def test_a_single_hard_example_is_not_dropped_by_a_share(batch):
    model, x, y = batch
    one, _ = crafted(trial("at", ham(1), epsilon=0.05), model, x, y)
    row = one.rows[:1]
    weight = {"measure": "softmax_l1", "function": "tanh"}
    rule = ham(1, drop_confident=0.9, weight=weight)
    settings = {"epsilon": 0.05, "attack": {"start": "zero"}}
    found, _ = crafted(trial("at", rule, **settings), model, one.adv[:1], y[row])
    assert len(found.y) == 1 and found.weights.tolist() == [1.0]


# easy examples that return ------------------------------------------------------------------------------------------


def test_the_surest_and_the_least_sure_return_with_their_weights():
    """Of four easy ones (0, 2, 1, 4 by falling p_y) half are rows 0 and 2, a quarter is row 4."""
    rule = Ham(easy_high=0.5, easy_low=0.25, easy_high_weight=1.5, easy_low_weight=0.5)
    (high, high_weight, images), (low, low_weight, lowest) = aside(rule)
    assert (high, high_weight, low, low_weight) == ([0, 2], [1.5, 1.5], [4], [0.5])
    assert images.tolist() == [[3.0, 0.0], [2.0, 0.0]] and lowest.tolist() == [[0.5, 0.0]]


def test_they_return_as_clean_images_where_asked():
    (_, _, images), (_, _, lowest) = aside(Ham(easy_high=0.5, easy_low=0.25, easy_clean=True))
    assert images.tolist() == [[103.0, 100.0], [102.0, 100.0]] and lowest.tolist() == [[100.5, 100.0]]


@pytest.mark.parametrize(
    ("high", "low", "expected"),
    [
        (0.0, 0.0, []),
        (0.24, 0.0, []),
        (0.25, 0.0, [[0]]),
        (0.0, 0.5, [[1, 4]]),
        (0.0, 1.0, [[0, 1, 2, 4]]),
        (0.75, 0.25, [[0, 1, 2], [4]]),
        (0.49, 0.49, [[0], [4]]),
    ],
)
def test_the_number_that_returns_is_rounded_down(high, low, expected):
    assert [rows for rows, _, _ in aside(Ham(easy_high=high, easy_low=low))] == expected


def test_the_number_that_returns_is_exact_where_floating_point_is_not():
    """0.29 * 100 is 28.999999999999996."""
    ((rows, _, _),) = aside(Ham(easy_high=0.29), [[0.1 + 0.1 * i, 0.0] for i in range(100)])
    assert rows == list(range(71, 100))


def test_equally_sure_examples_return_once_the_earlier_as_the_surer():
    (high, _, _), (low, _, _) = aside(Ham(easy_high=0.5, easy_low=0.5), [[1.0, 0.0]] * 4)
    assert (high, low) == ([0, 1], [2, 3])


def test_returning_examples_are_trained_on_as_they_were_at_step_m_at_no_further_pass(batch):
    model, x, y = batch
    plain, plain_passes = crafted(trial("at", ham(1), epsilon=0.05), model, x, y)
    rule = ham(1, easy_high=0.5, easy_high_weight=0.25)
    found, passes = crafted(trial("at", rule, epsilon=0.05), model, x, y)
    assert passes == plain_passes
    at_m, _ = crafted(trial("at", epsilon=0.05, attack={"steps": 1}), model, x, y)
    easy = torch.ones(50, dtype=torch.bool)
    easy[plain.rows] = False
    sure = model(at_m.adv).softmax(1).gather(1, y[:, None]).squeeze(1)
    back = torch.where(easy, sure, -1.0).argsort(descending=True)[: int(easy.sum()) // 2]
    assert found.rows.tolist() == sorted(plain.rows.tolist() + back.tolist())
    returned = torch.isin(found.rows, back)
    assert torch.equal(found.adv[returned], at_m.adv[found.rows[returned]])
    assert torch.equal(found.adv[~returned], plain.adv)
    assert torch.equal(found.y, y[found.rows]) and torch.equal(found.x, x[found.rows])
    assert torch.equal(found.weights, torch.where(returned, 0.25, 1.0))


def test_each_example_is_either_trained_on_or_among_those_that_left(batch):
    model, x, y = batch
    for rule in (ham(1), ham(1, easy_high=0.5, easy_low=0.2), ham(1, clean_weight=0.5)):
        found, _ = crafted(trial("at", rule, epsilon=0.05), model, x, y)
        assert sum(len(labels) for labels, _ in found.left) + len(found.rows) == 50
        assert all(bool(right.all()) for _, right in found.left)


def test_hard_weights_keep_mean_one_beside_those_that_return(batch):
    model, x, y = batch
    weight = {"measure": "softmax_l1", "function": "tanh"}
    plain, _ = crafted(trial("at", ham(1, weight=weight), epsilon=0.05), model, x, y)
    rule = ham(1, weight=weight, easy_low=0.5, easy_low_weight=0.5, easy_clean=True)
    found, _ = crafted(trial("at", rule, epsilon=0.05), model, x, y)
    hard = torch.isin(found.rows, plain.rows)
    assert torch.equal(found.weights[hard], plain.weights)
    assert found.weights[~hard].unique().tolist() == [0.5]
    assert torch.equal(found.adv[~hard], x[found.rows[~hard]])


@pytest.mark.parametrize(
    "rule", [{"easy_high": 1.0, "easy_high_weight": 0.5}, {"easy_low": 0.5}, {"clean_weight": 0.5}]
)
def test_a_batch_without_hard_examples_trains_on_those_that_return(batch, rule):
    _, x, _ = batch
    twos = torch.full((50,), 2)
    found, passes = crafted(trial("at", ham(2, **rule)), always_two(), x, twos)
    at_m, _ = crafted(trial("at", attack={"steps": 2}), always_two(), x, twos)
    assert passes["input_gradient"] == 100
    assert len(found.rows) == (25 if "easy_low" in rule else 50)
    assert torch.equal(found.adv, (x if "clean_weight" in rule else at_m.adv)[found.rows])
    assert found.weights.unique().tolist() == [0.5 if "easy_high" in rule else 1.0]


@pytest.mark.parametrize("rule", [{"easy_high": 0.5, "easy_low": 0.5}, {"clean_weight": 0.5}])
def test_without_easy_examples_their_options_change_nothing(batch, rule):
    _, x, y = batch
    found, _ = crafted(trial("at", ham(2, **rule)), always_two(), x, y % 2)
    whole, _ = crafted(trial("at"), always_two(), x, y % 2)
    assert torch.equal(found.adv, whole.adv) and found.weights is None


def test_with_all_options_off_ham_is_the_plain_ham_bit_for_bit():
    off = {"easy_high": None, "easy_low": 0.0, "clean_weight": None, "drop_confident": None, "drop_rate": 0.0}
    unused = {"easy_high_weight": 3.0, "easy_low_weight": 0.1, "easy_clean": True}
    plain = trained(trial("at", ham(2)))
    assert same_weights(trained(trial("at", ham(2, **off, **unused))), plain)
    assert not same_weights(trained(trial("at", ham(2, easy_high=0.5))), plain)


@pytest.mark.parametrize("rule", [{"easy_high": 0.3, "easy_clean": True}, {"clean_weight": 0.5}])
@pytest.mark.parametrize("objective", ["trades", "mart", "fat", "bat"])
@pytest.mark.parametrize("m", [0, 2])
def test_easy_examples_return_under_any_objective(batch, objective, rule, m):
    """Also where an objective notes something per row, which rows that leave at step 0 do not have."""
    model, x, y = batch
    found, _ = crafted(trial(objective, ham(m, **rule), epsilon=0.05), model, x, y)
    assert all(len(values) == len(found.y) for values in found.marks.values())
    training = trained(trial(objective, ham(m, **rule), epochs=1))
    assert all(bool(torch.isfinite(values).all()) for values in training.state_dict().values())


def test_what_an_objective_did_not_note_of_a_group_is_zero():
    def group(rows: list[int], marks: dict[str, torch.Tensor]) -> Kept:
        n = len(rows)
        return Kept(
            torch.zeros(n, 1), torch.zeros(n).long(), torch.zeros(n, 1), torch.tensor(rows), None, marks
        )

    noted = {"point": torch.ones(2, 3), "count": torch.tensor([4, 5])}
    joined = Kept.joined([group([0, 2], noted), group([1], {})])
    assert joined.rows.tolist() == [0, 1, 2]
    assert joined.marks["point"].tolist() == [[1.0] * 3, [0.0] * 3, [1.0] * 3]
    assert joined.marks["count"].tolist() == [4, 0, 5]


# clean_weight -------------------------------------------------------------------------------------------------------


def test_balanced_weights_of_three_examples():
    """One hard with weight 1, two easy ones with v = 1/2: sum 2, so that times 3/2 they are 3/2, 3/4, 3/4."""
    rule = Ham(clean_weight=0.5)
    close(rule.balance(torch.tensor([1.0, 0.5, 0.5])), [3 / 2, 3 / 4, 3 / 4])
    close(Ham(easy_high=0.5).balance(torch.tensor([1.0, 0.5, 0.5])), [1.0, 0.5, 0.5])


def test_all_easy_examples_enter_as_clean_images_with_their_weight(batch):
    model, x, y = batch
    plain, plain_passes = crafted(trial("at", ham(1), epsilon=0.05), model, x, y)
    found, passes = crafted(trial("at", ham(1, clean_weight=0.25), epsilon=0.05), model, x, y)
    assert passes == plain_passes and torch.equal(found.rows, torch.arange(50))
    hard = torch.isin(found.rows, plain.rows)
    assert torch.equal(found.adv[hard], plain.adv) and torch.equal(found.adv[~hard], x[~hard])
    raw = torch.where(hard, 1.0, 0.25)
    torch.testing.assert_close(found.weights, 50 * raw / raw.sum(), atol=1e-6, rtol=0)


# what cannot be combined --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"easy_high": 0.6, "easy_low": 0.5}, "more than all easy examples"),
        ({"clean_weight": 1.0, "easy_high": 0.1}, "clean_weight trains on all easy examples"),
        ({"clean_weight": 1.0, "easy_low": 0.1}, "clean_weight trains on all easy examples"),
        ({"clean_weight": 1.0, "drop_confident": 0.1}, "of which drop_confident takes a part away"),
        ({"clean_weight": 1.0, "drop_rate": 0.1}, "of which drop_rate takes a part away"),
        ({"drop_rate": 0.1, "drop_confident": 0.1}, "use one of the two"),
        ({"weight": {"normalise": "batch"}, "easy_low": 0.1}, "use normalise: hard"),
        ({"weight": {"normalise": "batch"}, "easy_high": 0.1}, "use normalise: hard"),
        ({"weight": {"normalise": "batch"}, "clean_weight": 0.1}, "use normalise: hard"),
    ],
)
def test_options_that_contradict_each_other_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Ham.model_validate(settings)


@pytest.mark.parametrize("share", ["drop_rate", "drop_confident", "easy_high", "easy_low"])
@pytest.mark.parametrize("wrong", [-0.1, 1.1])
def test_a_share_is_between_none_and_all(share, wrong):
    with pytest.raises(ValueError, match=rf"(?s){share}.*than or equal to"):
        Ham.model_validate({share: wrong})


@pytest.mark.parametrize("weight", ["easy_high_weight", "easy_low_weight", "clean_weight"])
def test_a_negative_weight_is_refused(weight):
    with pytest.raises(ValueError, match=weight):
        Ham.model_validate({weight: -0.1})


def test_noted_as_overconfident_is_only_a_gain():
    two = seen([[[0.0, 1.0], [0.0, 1.0]]], clean=[[0.0, 1.0], [0.0, 2.0]], y=[0, 0])
    assert Ham(drop_rate=1.0).finish(two).tolist() == [True, False]
    assert two.flags["overconfident"][1].tolist() == [False, True]


def test_shares_that_together_are_everyone_are_taken():
    """Also where their sum is 1.0000000000000002 in floating point."""
    for high, low in ((0.5, 0.5), (0.95, 0.05), (1 / 3 + 2e-16, 2 / 3)):
        assert Ham(easy_high=high, easy_low=low).easy_low == low
    assert Ham(weight={"normalise": "batch"}, drop_rate=0.5).drop_rate == 0.5


def test_with_m_equal_to_k_the_logits_that_tell_the_hard_are_not_computed_again(batch):
    """K gradients and K + 1 forwards of all; the paper's weights read z^K, which is known already."""
    model, x, y = batch
    weight = {"measure": "softmax_l1", "function": "tanh"}
    found, passes = crafted(trial("at", ham(4, weight=weight), epsilon=0.05), model, x, y)
    assert 0 < len(found.rows) < 50
    assert passes == {"input_gradient": 4 * 50, "forward": 5 * 50}
