"""AWP: the perturbation by hand, and that it is taken back; γ = 0 is the base."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ham_core.objectives.awp import Awp
from ham_core.parts import build
from ham_core.training import Training
from tests.builders import Linear, dataset, trial
from tests.ham_core.objectives.helpers import equal_runs, equal_when_broken, trained


def never() -> list[torch.Tensor]:
    raise AssertionError("the gradient is not to be asked for")


def test_each_weight_tensor_moves_along_its_gradient_by_gamma_times_its_norm():
    """w = ((3, 4), (0, 0)), ‖w‖ = 5; g = ((0, 0), (0, -2)), ‖g‖ = 2; γ = 0.1: v = 0.5 g/2 = ((0, 0), (0, -0.5)).

    w = (6, 8) as a row, ‖w‖ = 10; g = (3, 4): v = (0.6, 0.8).  w = (1, 0), g = 0: v = 0.
    """
    w = [torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[6.0, 8.0]]), torch.tensor([[1.0, 0.0]])]
    g = [torch.tensor([[0.0, 0.0], [0.0, -2.0]]), torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)]
    moves = Awp(gamma=0.1).moves([(f"{i}.weight", each) for i, each in enumerate(w)], g)
    assert [id(each) for each, _ in moves] == [id(each) for each in w]
    expected = [torch.tensor([[0.0, 0.0], [0.0, -0.5]]), torch.tensor([[0.6, 0.8]]), torch.zeros(1, 2)]
    for (_, v), by_hand in zip(moves, expected, strict=True):
        torch.testing.assert_close(v, by_hand, atol=1e-6, rtol=0)


def test_vanishing_gradients_are_scaled_up_without_dividing_by_zero():
    """g = 1e-20: v = γ ‖w‖ 1e-20 / 2e-20 = γ ‖w‖ / 2."""
    ((_, v),) = Awp(gamma=1.0).moves([("weight", torch.tensor([[4.0]]))], [torch.tensor([[1e-20]])])
    assert v.item() == pytest.approx(2.0, rel=1e-5)


def test_neither_batchnorm_nor_biases_nor_other_tensors_move():
    tensors = [("bn.weight", torch.ones(4)), ("fc.bias", torch.ones(2)), ("scale", torch.ones(2, 2))]
    assert Awp().moves(tensors, [torch.ones_like(each) for _, each in tensors]) == []


def test_inside_the_weights_are_perturbed_and_after_it_the_perturbation_is_subtracted():
    """w = (0.5), g > 0, γ = 0.5: 0.75 inside, where a step of -0.25 is taken; 0.5 - 0.25 = 0.25 afterwards."""
    w = nn.Parameter(torch.tensor([[0.5]]))
    with Awp(gamma=0.5).neighbourhood([("weight", w)], lambda: [torch.tensor([[3.0]])], 0):
        assert w.item() == 0.75
        with torch.no_grad():
            w -= 0.25
    assert w.item() == 0.25
    assert w.requires_grad and w.grad is None


def test_the_weights_come_back_from_an_error():
    w = nn.Parameter(torch.tensor([[0.5]]))

    def interrupted() -> None:
        with Awp(gamma=0.5).neighbourhood([("weight", w)], lambda: [torch.tensor([[3.0]])], 0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert w.item() == 0.5


def test_nothing_is_asked_before_its_epoch_or_with_gamma_zero():
    w = nn.Parameter(torch.tensor([[0.5]]))
    for objective, epoch in ((Awp(gamma=0.0), 5), (Awp(start_epoch=2), 1)):
        with objective.neighbourhood([("weight", w)], never, epoch):
            assert w.item() == 0.5
    with Awp(start_epoch=2, gamma=1.0).neighbourhood([("weight", w)], lambda: [torch.ones(1, 1)], 2):
        assert w.item() == 1.0


def test_the_gradient_is_taken_at_the_perturbed_weights_where_the_loss_is_higher():
    model = Linear(torch.tensor([[1.0, -1.0], [0.5, 2.0]]))
    x, y = torch.tensor([[0.2, 0.7], [0.9, 0.1]]), torch.tensor([0, 1])

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(x), y)

    parameters = list(model.named_parameters())
    plain = loss()
    around = Awp(gamma=0.1).neighbourhood(
        parameters, lambda: torch.autograd.grad(loss(), [each for _, each in parameters]), 0
    )
    with around:
        assert loss() > plain
    assert loss().item() == pytest.approx(plain.item(), abs=1e-6)


def test_awp_is_around_its_base():
    """CE + 2 KL of TRADES at p(x) = p(x') = (¼, ¾), y = 0: log 4."""
    objective = build("objectives", {"name": "awp", "base": {"name": "trades", "beta": 2.0}})
    logits, y = torch.tensor([[0.0, math.log(3.0)]] * 3), torch.zeros(3, dtype=torch.long)
    torch.testing.assert_close(objective.loss(logits, logits, y), torch.full((3,), math.log(4)))
    assert objective.root.name == "trades" and Awp().root.name == "at"
    assert (Awp().gamma, Awp().start_epoch) == (0.01, 0) and Awp.epoch_fields == {"start_epoch"}


@pytest.mark.parametrize("base", ["at", "trades", "mart"])
@pytest.mark.parametrize("off", [{"gamma": 0.0}, {"start_epoch": 9}])
def test_awp_with_gamma_zero_or_not_yet_begun_is_its_base(base, off):
    assert equal_runs(trial({"name": "awp", "base": base} | off), trial(base))


@pytest.mark.parametrize(("base", "clean", "passes"), [("at", 0, 1), ("trades", 1, 2)])
def test_awp_pays_one_more_forward_and_backward_pass_of_its_bases_loss(base, clean, passes):
    """K = 4: K gradients; K forwards, one of the clean batch where the attack reads it, twice the base's training passes."""
    training, results = trained(trial({"name": "awp", "base": base}))
    n = len(training.dataset.train)
    for result in results:
        assert result.metrics["train/passes/input_gradient"] == 4 * n
        assert result.metrics["train/passes/forward"] == (4 + clean + 2 * passes) * n
        assert result.metrics["train/passes/weight_gradient"] == 2 * passes * n


def test_batchnorms_statistics_see_each_step_once():
    training, _ = trained(trial("awp"))
    steps = 2 * -(-len(training.dataset.train) // 64)
    counters = [m.num_batches_tracked for m in training.model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert counters and all(int(counter) == steps for counter in counters)


def test_a_step_of_the_training_is_the_gradient_at_the_perturbed_weights(monkeypatch):
    """One batch, plain SGD: θ ← θ + v - η ∇L(θ + v) - v, with v from the gradient at θ."""
    settings = {
        "optimizer": {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0},
        "batch_size": 500,
        "epochs": 1,
        "schedule": {"milestones": [], "factors": []},
    }
    one = trial({"name": "awp", "gamma": 0.5}, **settings)
    training = Training(one, dataset(one))
    first = {name: each.detach().clone() for name, each in training.model.named_parameters()}
    asked: list[list[torch.Tensor]] = []
    original = Training._loss

    def watched(self, crafted, adv, passes):
        found = original(self, crafted, adv, passes)
        asked.append(list(torch.autograd.grad(found[0], self.model.parameters(), retain_graph=True)))
        return found

    monkeypatch.setattr(Training, "_loss", watched)
    list(training)
    at_weights, at_perturbed = asked
    moved = 0
    for (name, w), g, there in zip(training.model.named_parameters(), at_weights, at_perturbed, strict=True):
        torch.testing.assert_close(w, first[name] - 0.1 * there, atol=1e-6, rtol=0)
        moved += not torch.equal(g, there)
    assert moved


def test_a_broken_awp_ends_as_the_unbroken_one():
    assert equal_when_broken(trial({"name": "awp", "start_epoch": 1}, epochs=3), 1)


@pytest.mark.parametrize("allowed", [{"gamma": 0.0}, {"start_epoch": 0}])
def test_the_ends_of_the_ranges_are_allowed(allowed):
    assert Awp(**allowed)


@pytest.mark.parametrize("refused", [{"gamma": -0.1}, {"start_epoch": -1}])
def test_values_beyond_the_ranges_are_refused(refused):
    with pytest.raises(ValueError, match="should be"):
        Awp(**refused)
