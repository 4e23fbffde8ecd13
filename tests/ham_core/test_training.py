"""The training loop: degenerate cases that must hold bit for bit, resume, counts, selection."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from ham_core.config import Trial
from ham_core.errors import RequestError
from ham_core.training import DivergedError, EpochResult, Training, train
from tests.builders import dataset, same_weights, trial


def trained(one: Trial) -> tuple[Training, list[EpochResult]]:
    training = Training(one, dataset(one))
    return training, list(training)


def timeless(result: EpochResult) -> dict[str, float]:
    return {name: value for name, value in result.metrics.items() if not name.startswith("time/")}


@pytest.fixture(scope="module")
def at() -> tuple[Training, list[EpochResult]]:
    return trained(trial("at"))


def equal_runs(one: tuple[Training, list[EpochResult]], other: tuple[Training, list[EpochResult]]) -> bool:
    """Weights equal bit for bit, and every metric that does not tell the time."""
    same_metrics = [timeless(result) for result in one[1]] == [timeless(result) for result in other[1]]
    return same_weights(one[0].model, other[0].model) and same_metrics


HAM_PAPER = {"name": "ham", "early_drop_step": 2, "weight": {"measure": "softmax_l1", "function": "tanh"}}


def test_the_same_trial_twice_is_equal_bit_for_bit(at):
    assert equal_runs(at, trained(trial("at")))


def test_seeds_differ(at):
    assert not same_weights(at[0].model, trained(trial("at", seed=1))[0].model)


def test_ham_with_its_start_beyond_the_end_is_at(at):
    assert equal_runs(at, trained(trial("at", HAM_PAPER | {"start_epoch": 99, "drop_rate": 0.5})))


def test_dropping_no_overconfident_examples_is_at_at_the_same_attack(at):
    found = trained(trial("at", {"name": "drop_overconfident", "drop_rate": 0.0}))
    assert same_weights(at[0].model, found[0].model)
    assert "train/overconfident/all" in found[1][0].metrics


def test_ham_shares_its_warm_up_with_at_and_differs_after_it(at):
    _, results = trained(trial("at", HAM_PAPER | {"start_epoch": 1}))
    assert timeless(results[0]) == timeless(at[1][0])
    assert timeless(results[1]) != timeless(at[1][1])
    assert "train/hard_share/all" not in results[0].metrics
    assert 0 < results[1].metrics["train/hard_share/all"] < 1


def test_trades_with_beta_zero_and_no_attack_is_standard_training():
    """With ε = 0 the adversarial example is the image, so AT and TRADES at β = 0 both train on CE(f(x), y).

    TRADES passes the clean batch through BatchNorm twice, AT once: running statistics differ, parameters do not.
    """
    still: dict[str, Any] = {"epsilon": 0.0, "attack": {"steps": 1, "start": "zero"}, "epochs": 1}
    plain = trained(trial("at", **still))[0].model
    trades = trained(trial({"name": "trades", "beta": 0.0}, **still))[0].model
    ours, theirs = dict(plain.named_parameters()), dict(trades.named_parameters())
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("mining", [None, HAM_PAPER | {"start_epoch": 1}])
def test_a_training_continued_from_its_state_equals_an_unbroken_one(mining):
    settings: dict[str, Any] = {"epochs": 3, "method": {"calibration": {"name": "cfa", "start_epoch": 1}}}
    one = trial("trades", mining, **settings)
    unbroken = trained(one)
    broken = Training(one, dataset(one))
    results = [next(iter(broken))]
    file = io.BytesIO()
    torch.save(broken.state(), file)
    file.seek(0)
    resumed = Training(one, dataset(one))
    resumed.restore(torch.load(file, weights_only=True))
    results += list(resumed)
    assert equal_runs(unbroken, (resumed, results))
    assert [sorted(result.kept) for result in results] == [sorted(result.kept) for result in unbroken[1]]
    assert same_weights(unbroken[0].averages["ema"].module, resumed.averages["ema"].module)


def test_a_state_of_another_trial_is_refused():
    one = trial("at")
    state = Training(one, dataset(one)).state()
    other = trial("at", seed=1)
    with pytest.raises(ValueError, match="another trial"):
        Training(other, dataset(other)).restore(state)


def test_passes_are_counted_per_epoch_as_the_minimum_says(at):
    """AT, K = 4, N images: K gradients, K + 1 forwards, one weight gradient each."""
    n = len(dataset(trial("at")).train)
    for result in at[1]:
        assert result.metrics["train/passes/input_gradient"] == 4 * n
        assert result.metrics["train/passes/forward"] == 5 * n
        assert result.metrics["train/passes/weight_gradient"] == n


def test_ham_passes_follow_from_the_hard_share():
    """m = 2, K = 4: gradients m N + (K - m) ρ N, forwards (m + 1) N + (K - m) ρ N + ρ N, weight gradients ρ N."""
    one = trial("at", {"name": "ham", "early_drop_step": 2, "start_epoch": 1})
    n = len(dataset(one).train)
    metrics = trained(one)[1][1].metrics
    hard = round(metrics["train/hard_share/all"] * n)
    assert 0 < hard < n
    assert metrics["train/passes/input_gradient"] == 2 * n + 2 * hard
    assert metrics["train/passes/forward"] == 3 * n + 2 * hard + hard
    assert metrics["train/passes/weight_gradient"] == hard


def test_counted_passes_are_what_the_network_really_does():
    one = trial("trades", HAM_PAPER | {"start_epoch": 0}, epochs=1)
    training = Training(one, dataset(one))
    counted = 0

    def count(_module: Any, inputs: tuple[torch.Tensor]) -> None:
        nonlocal counted
        counted += len(inputs[0])

    handle = training.model.register_forward_pre_hook(count)
    training._judge_epoch = lambda: ({}, {})  # type: ignore[method-assign]  # selection's passes are not training's
    (result,) = list(training)
    handle.remove()
    assert result.metrics["train/passes/forward"] == counted


def test_batches_without_hard_examples_are_skipped_and_counted(at):
    """With ε = 0 and a perfectly learnt set nothing is hard: no optimiser step may follow, not even of momentum."""
    one = trial(
        "at", {"name": "ham", "early_drop_step": 0, "start_epoch": 0}, epsilon=0.0, attack={"steps": 0}
    )
    training = Training(one, dataset(one))
    everything_right = dataset(one)
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.zero_()
    training.dataset = type(everything_right)(
        train=type(everything_right.train)(everything_right.train.images, 0 * everything_right.train.labels),
        validation=everything_right.validation,
        test=everything_right.test,
        facts=everything_right.facts,
        mean=everything_right.mean,
        std=everything_right.std,
    )
    result = next(iter(training))
    batches = -(-len(everything_right.train) // one.batch_size)
    assert result.metrics["train/skipped"] == batches
    assert result.metrics["train/hard_share/all"] == 0
    assert "train/loss" not in result.metrics
    assert all(not parameter.any() for parameter in training.model.parameters())


def test_the_best_weights_are_those_of_the_epoch_with_the_best_score():
    one = trial("at", epochs=4, optimizer={"lr": 0.3})
    training = Training(one, dataset(one))
    best: dict[str, int] = {}
    scores: list[float] = []
    sums: list[float] = []
    for result in training:
        best |= dict.fromkeys(result.kept, result.epoch)
        scores.append(result.metrics["val/pgd2/avg"])
        sums.append(result.metrics["val/pgd2/avg"] + result.metrics["val/pgd2/worst"])
    assert best["best"] == scores.index(max(scores))
    assert best["best_sum"] == sums.index(max(sums))
    assert best["last"] == best["last_ema"] == 3
    assert {"best_ema", "best_sum_ema", "best_worst_ema", "best_worst"} <= set(best)


def test_selection_uses_held_out_images_or_the_test_set_where_asked():
    held_out = trained(trial("at", epochs=1))[1][0].metrics
    on_test = trained(trial("at", epochs=1, selection={"on": "test", "steps": 2}))[1][0].metrics
    one = trial("at")
    assert held_out["val/clean/avg"] * len(dataset(one).validation) % 1 == pytest.approx(0, abs=1e-9)
    assert on_test["val/clean/avg"] * len(dataset(one).test) % 1 == pytest.approx(0, abs=1e-9)


def test_a_diverged_training_says_so_with_what_to_change():
    one = trial("at", optimizer={"lr": 1e20}, epochs=2)
    with pytest.raises(DivergedError, match=r"lower optimizer\.lr"):
        list(train(one, dataset(one)))


def test_training_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = trial("at", epochs=1)
    list(train(one, dataset(one)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mining", [None, HAM_PAPER | {"start_epoch": 0}])
@pytest.mark.parametrize("objective", ["at", "trades"])
def test_bf16_trains_to_finite_weights(objective, mining):
    training, results = trained(trial(objective, mining, epochs=1, precision="bf16"))
    assert all(bool(parameter.isfinite().all()) for parameter in training.model.parameters())
    assert results[0].metrics["train/loss"] > 0


def test_the_learning_rate_follows_the_schedule():
    one = trial("at", epochs=4, schedule={"milestones": [1, 3], "factors": [0.5, 0.1]}, optimizer={"lr": 0.2})
    rates = [result.metrics["train/learning_rate"] for result in train(one, dataset(one))]
    assert rates == [0.2, 0.1, 0.1, pytest.approx(0.02)]


def test_the_loss_is_the_mean_of_weighted_losses():
    """Weights (2, 0, 1) of mining and (1, 3) of the classes multiply the cross-entropies before the mean over n."""
    from collections import Counter

    from ham_core.adversary import Crafted
    from ham_core.calibration.base import Factors
    from ham_core.mining.base import Kept

    one = trial("at")
    training = Training(one, dataset(one))
    images = training.dataset.train.images[:3] / 255
    y, weights = torch.tensor([0, 1, 1]), torch.tensor([2.0, 0.0, 1.0])
    passes: Counter[str] = Counter()

    def loss_with(mined: torch.Tensor | None, factors: Factors) -> tuple[torch.Tensor, torch.Tensor]:
        training.factors = factors
        crafted = Crafted(Kept(images, y, images, torch.arange(3), mined), {}, [])
        return training._loss(crafted, images, passes)[:2]

    logits = loss_with(None, Factors())[1]
    ce = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    for mined, classes, expected in (
        (None, None, ce.mean()),
        (weights, None, (2 * ce[0] + ce[2]) / 3),
        (weights, torch.tensor([1.0, 3.0]), (2 * ce[0] + 3 * ce[2]) / 3),
    ):
        loss, _ = loss_with(mined, Factors(weight=classes))
        torch.testing.assert_close(loss, expected)
    assert passes["forward"] == 12


def test_every_epoch_draws_its_own_start_points_and_every_method_the_same(monkeypatch):
    from ham_core import training as module
    from ham_core.randomness import derived_seed

    seeds: list[tuple[int, int]] = []
    original = module.craft

    def watched(*arguments: Any, **options: Any) -> Any:
        seeds.append((options["epoch"], options["streams"].noise.initial_seed()))
        return original(*arguments, **options)

    monkeypatch.setattr(module, "craft", watched)
    one = trial("at", {"name": "ham", "early_drop_step": 1, "start_epoch": 1})
    list(train(one, dataset(one)))
    assert set(seeds) == {(epoch, derived_seed(0, "noise", epoch)) for epoch in (0, 1)}
    assert len({seed for _, seed in seeds}) == 2


def test_of_equally_good_epochs_the_first_is_kept(monkeypatch):
    monkeypatch.setattr("ham_core.training.judge", lambda *_: ({"avg": 0.5, "worst": 0.1}, {}))
    one = trial("at", epochs=3)
    kept = [sorted(result.kept) for result in train(one, dataset(one))]
    assert "best" in kept[0] and kept[1] == []
    assert kept[2] == ["last", "last_ema"]


def test_a_single_example_that_batchnorm_cannot_train_on_is_skipped_and_counted():
    """At 8x8 the last features of a ResNet-18 are 1x1, so a batch of one has no variance there; the last batch here is one."""
    settings: dict[str, Any] = {
        "model": {"name": "preact_resnet18", "width": 0.05},
        "attack": {"steps": 0},
        "data": {"train_limit": 50, "validation": 0.1},
        "batch_size": 39,
        "epochs": 1,
    }
    one = trial("at", **settings)
    training = Training(one, dataset(one))
    assert len(training.dataset.train) == 40
    assert training.fewest == 2
    assert Training(trial("at"), dataset(trial("at"))).fewest == 1
    (result,) = list(training)
    assert result.metrics["train/skipped"] == 1
    alone = trial("at", **settings | {"batch_size": 1})
    with pytest.raises(RequestError, match="batch_size: 1, but BatchNorm of preact_resnet18"):
        Training(alone, dataset(alone))


def test_what_calibration_makes_of_each_class_is_recorded():
    """CFA from epoch 1 on: its margin there is λ1 and its β λ2, plus the class's robust accuracy of epoch 0."""
    one = trial(
        "trades",
        method={"calibration": {"name": "cfa", "margin": 0.3, "regularization": 0.6, "start_epoch": 1}},
        data={"train_limit": 120, "validation": 0.2},
    )
    first, second = (result.metrics for result in Training(one, dataset(one)))
    assert not [key for key in first if key.startswith("train/class_")]
    classes = [key.removeprefix("train/class_margin/") for key in second if "class_margin" in key]
    assert len(classes) == 10
    for name in classes:
        robust = first[f"train/robust/{name}"]
        assert second[f"train/class_margin/{name}"] == pytest.approx(0.3 + robust, abs=1e-6)
        assert second[f"train/class_beta/{name}"] == pytest.approx(0.6 + robust, abs=1e-6)


def test_step_sizes_are_recorded_where_mining_weighs_by_them():
    mining = {"name": "ham", "early_drop_step": 1, "start_epoch": 0}
    weighed, uniform = (
        list(Training(one, dataset(one)))[-1].metrics
        for one in (
            trial("at", mining | {"weight": {"measure": "softmax_l1"}}),
            trial("at", mining | {"weight": "uniform"}),
        )
    )
    shares = [value for key, value in weighed.items() if key.startswith("train/step_size/share_")]
    assert sum(shares) == pytest.approx(1.0)
    assert not [key for key in uniform if "step_size" in key]
