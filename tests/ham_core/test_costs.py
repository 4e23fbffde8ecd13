"""What a training step costs, counted on the network itself: forward passes F, backward passes to the input only Bx, and
backward passes to the weights Bx+Bw, in samples of the batch.

Minimal adversarial training with K = 10 steps takes 11F, 10Bx and 1(Bx+Bw). Every method is compared with that, and with what
it says itself in `train/passes/*`. N images, H hard ones at step m, T that are trained on; ρ = H/N.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import pytest

from ham_core import training as module
from ham_core.adversary import craft
from ham_core.config import Trial
from ham_core.training import Training
from tests.builders import trial
from tests.ham_core.contract.helpers import DATA, Passes, cases, images, steps_watched

K, M = 10, 3
AT = {"forward": K + 1, "to_input": K, "to_weights": 1}


class Counted(NamedTuple):
    """One epoch: samples through the network, images N, hard H and trained on T."""

    passes: Counter[str]
    metrics: dict[str, float]
    images: int
    trained: int

    @property
    def hard(self) -> int:
        return round(self.metrics["train/hard_share/all"] * self.images)

    def costs(self, *, forward: float, to_input: float, to_weights: float) -> bool:
        """Whether the counts are these."""
        found = [self.passes[name] for name in AT]
        assert found == [forward, to_input, to_weights], f"{found} of {self.images} images"
        return True


def built(objective: Any, **method: Any) -> Trial:
    """A trial whose attack has K steps and whose parts begin in epoch 1."""
    settings: dict[str, Any] = {}
    if isinstance(objective, dict) and objective["name"] == "hat":
        settings["helper"] = {"trial": trial("at", epochs=1).model_dump(mode="json"), "weights": "last"}
    return trial(objective, method=method, attack={"steps": K}, epochs=4, data=DATA, **settings)


def count(one: Trial, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Train, and count the last epoch. No attack may compute, or even prepare, a weight gradient."""
    training = Training(one, images())
    rows: list[int] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        before = dict(passes.counts)
        gradients = [parameter.grad for parameter in training.model.parameters()]
        found = craft(*arguments, **options)
        for name in ("open", "to_weights"):
            assert passes.counts[name] == before.get(name, 0)
        assert all(a is b.grad for a, b in zip(gradients, training.model.parameters(), strict=True))
        rows.append(len(found.kept.y) if passes.on else 0)
        return found

    monkeypatch.setattr(module, "craft", watched)
    with steps_watched(training) as passes:
        for result in training:
            found = Counted(Counter(passes.counts), result.metrics, len(training.dataset.train), sum(rows))
            passes.counts.clear()
            rows.clear()
    assert found.passes["forward"] == found.metrics["train/passes/forward"]
    assert found.passes["to_input"] == found.metrics["train/passes/input_gradient"]
    assert found.passes["to_weights"] == found.metrics["train/passes/weight_gradient"]
    return found


TRADES = (2, 0, 1)
MART = (1, 0, 1)
NOTHING = (0, 0, 0)
EXTRA: dict[str, tuple[Any, dict[str, Any], tuple[int, int, int]]] = {
    # name: (objective, the rest of the method, F, Bx and Bx+Bw per image beyond adversarial training)
    "at": ("at", {}, NOTHING),
    "standard": ("standard", {}, (-K, -K, 0)),
    "trades": ("trades", {}, TRADES),
    "mart": ("mart", {}, MART),
    "fast_at": ("fast_at", {}, (-9, -9, 0)),
    "awp": ({"name": "awp", "base": "at"}, {}, (1, 0, 1)),
    "awp-without-gamma": ({"name": "awp", "base": "at", "gamma": 0.0}, {}, NOTHING),
    "trades-awp": ({"name": "awp", "base": "trades"}, {}, (2 + 2, 0, 1 + 2)),
    "mart-awp": ({"name": "awp", "base": "mart"}, {}, (1 + 2, 0, 1 + 2)),
    "hat": ({"name": "hat"}, {}, (2 + 1 + 1, 0, 1 + 1)),  # TRADES, the helper's pass, the helper point's
    "hat-ce": ({"name": "hat", "attack": "ce"}, {}, (1 + 1 + 1, 0, 1 + 1)),  # the attack needs no clean pass
    "faal": ({"name": "faal", "base": "at"}, {}, NOTHING),
    "faal-trades": ({"name": "faal", "base": "trades"}, {}, TRADES),
    "faal-mart": ({"name": "faal", "base": "mart"}, {}, MART),
    "gairat": ("at", {"mining": {"name": "gairat", "start_epoch": 1}}, NOTHING),
    "gairat-sigmoid": (
        "at",
        {"mining": {"name": "gairat", "start_epoch": 1, "function": "sigmoid"}},
        NOTHING,
    ),
    "gairat-discrete": (
        "at",
        {"mining": {"name": "gairat", "start_epoch": 1, "function": "discrete"}},
        NOTHING,
    ),
    "focal": ("at", {"mining": {"name": "focal"}}, NOTHING),
    "class_balanced": ("at", {"mining": {"name": "class_balanced"}}, NOTHING),
    "ohem-of-all": ("at", {"mining": {"name": "ohem", "share": 1.0}}, NOTHING),
    "ham-before-its-start": ("at", {"mining": {"name": "ham", "start_epoch": 99}}, NOTHING),
    "cfa": ("at", {"calibration": {"name": "cfa", "start_epoch": 1}}, NOTHING),
    "cfa-trades": ("trades", {"calibration": {"name": "cfa", "start_epoch": 1}}, TRADES),
    "frl": ("trades", {"calibration": {"name": "frl"}}, TRADES),
    "frl-reweight": ("trades", {"calibration": {"name": "frl", "remargin": False}}, TRADES),
    "wat": ("trades", {"calibration": {"name": "wat"}}, TRADES),
    "dafa": ("trades", {"calibration": {"name": "dafa", "start_epoch": 1}}, TRADES),
    "dafa-at": ("at", {"calibration": {"name": "dafa", "start_epoch": 1}}, NOTHING),
    "dafa-at-official": (
        "at",
        {"calibration": {"name": "dafa", "start_epoch": 1, "official_pgd": True}},
        NOTHING,
    ),
    "cfol": ("at", {"calibration": {"name": "cfol"}}, NOTHING),
    "ema": ("at", {"averaging": {"name": "ema"}}, NOTHING),
    "ema-per-epoch": ("at", {"averaging": {"name": "ema", "every": "epoch"}}, NOTHING),
    "seat": ("at", {"averaging": {"name": "seat"}}, NOTHING),
    "fawa": ("at", {"averaging": {"name": "fawa", "start_epoch": 1}}, NOTHING),
}


@pytest.mark.parametrize("name", EXTRA)
def test_a_step_costs_adversarial_training_and_its_stated_extra(name, monkeypatch):
    objective, method, extra = EXTRA[name]
    found = count(built(objective, **method), monkeypatch)
    n = found.images
    assert found.trained == n
    assert [found.passes[unit] for unit in AT] == [
        n * (usual + more) for usual, more in zip(AT.values(), extra, strict=True)
    ]


@pytest.mark.parametrize("replays", [1, 4])
def test_free_at_costs_one_pass_there_and_back_per_replay(replays, monkeypatch):
    found = count(built({"name": "free_at", "replays": replays}), monkeypatch)
    each = replays * found.images
    assert found.costs(forward=each, to_input=0, to_weights=each)


@pytest.mark.parametrize(
    ("base", "clean_in_attack", "outer"),
    [("at", 0, 1), ("trades", 1, 2), ("mart", 0, 2)],
    ids=["at", "trades", "mart"],
)
@pytest.mark.parametrize("rule", ["friendly", "cfa"])
@pytest.mark.parametrize("mining", [None, {"name": "gairat", "start_epoch": 1}], ids=["all", "gairat"])
def test_fat_pays_for_the_steps_that_are_taken(base, clean_in_attack, outer, rule, mining, monkeypatch):
    """A step is one F and one Bx, until a row stops: never more than its base, and less as soon as one does."""
    fat = {"name": "fat", "base": base, "rule": rule, "tau": 1}
    found = count(built(fat, mining=mining), monkeypatch)
    n, steps = found.images, found.passes["to_input"]
    assert n <= steps < K * n
    assert found.costs(forward=steps + (clean_in_attack + outer) * n, to_input=steps, to_weights=outer * n)


def test_bat_reads_both_examples_off_one_attack(monkeypatch):
    """Stated: a second attack, ≤ 10F + 10Bx, +3F and +2(Bx+Bw). One trajectory saves the second attack."""
    found = count(built("bat"), monkeypatch)
    n, steps = found.images, found.passes["to_input"]
    assert n <= steps <= K * n
    assert found.costs(forward=steps + n + 3 * n, to_input=steps, to_weights=3 * n)


def ham(**settings: Any) -> dict[str, Any]:
    return {"name": "ham", "early_drop_step": M, "start_epoch": 1} | settings


@pytest.mark.parametrize(
    ("objective", "clean_in_attack", "outer"), [("at", 0, 1), ("trades", 1, 2), ("mart", 0, 2)]
)
def test_ham_costs_m_steps_for_all_and_the_rest_for_the_hard(objective, clean_in_attack, outer, monkeypatch):
    """On AT m + 1 + (K - m)ρ + ρ forward passes, m + (K - m)ρ Bx and ρ(Bx+Bw). TRADES: +1F for p(x) in the attack, and
    like MART +ρF +ρ(Bx+Bw) in the step.
    """
    found = count(built(objective, mining=ham()), monkeypatch)
    n, hard = found.images, found.hard
    assert 0 < hard < n and found.trained == hard
    assert found.costs(
        forward=(clean_in_attack + M + 1) * n + (K - M) * hard + outer * hard,
        to_input=M * n + (K - M) * hard,
        to_weights=outer * hard,
    )


STEP_SIZE = {"measure": "softmax_l1", "function": "tanh"}


@pytest.mark.parametrize(
    ("settings", "passes_of_the_hard"),
    [
        ({"weight": STEP_SIZE}, 1),  # the last jump ends at x^K
        ({"weight": STEP_SIZE | {"start_jump": True}}, 2),  # and the first begins at x
        ({"weight": {"measure": "margin_lp"}}, 1),
        ({"weight": {"measure": "clean_lp"}}, 2),
        ({"weight": {"function": "tanh"}}, 0),
        ({"hard_rule": "any_step"}, 0),
        ({"drop_rate": 0.5}, 2),  # confidence at x and at x^K
        ({"drop_rate": 0.5, "weight": STEP_SIZE | {"start_jump": True}}, 2),
        ({"drop_confident": 0.5}, 1),
        ({"easy_high": 0.3}, 0),
        ({"easy_low": 0.5, "easy_clean": True}, 0),
        ({"clean_weight": 0.5}, 0),
    ],
    ids=str,
)
def test_options_of_ham_cost_forward_passes_of_the_hard_and_no_more(
    settings, passes_of_the_hard, monkeypatch
):
    found = count(built("at", mining=ham(**settings)), monkeypatch)
    n, hard = found.images, found.hard
    assert 0 < hard < n
    asked = found.passes["forward"] - (M + 1) * n - (K - M) * hard - found.trained
    if "drop_rate" in settings and "weight" in settings:
        # known of all hard before the drop: nothing more is asked for the weights
        assert passes_of_the_hard * found.trained <= asked <= passes_of_the_hard * hard
    else:
        assert asked == passes_of_the_hard * hard
    assert found.passes["to_input"] == M * n + (K - M) * hard
    assert found.passes["to_weights"] == found.trained


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_dropping_overconfident_examples_costs_two_forward_passes(rate, monkeypatch):
    """Clean images and x^K in the attack's mode; the step is on the T that stay."""
    mining = {"name": "drop_overconfident", "drop_rate": rate, "confidence": "predicted_class"}
    found = count(built("at", mining=mining), monkeypatch)
    n = found.images
    assert (found.trained < n) == (rate > 0)
    assert found.costs(forward=K * n + 2 * n + found.trained, to_input=K * n, to_weights=found.trained)


def test_ohem_costs_one_forward_pass_and_steps_on_its_share(monkeypatch):
    found = count(built("at", mining={"name": "ohem", "share": 0.5}), monkeypatch)
    n = found.images
    assert found.trained == n // 2
    assert found.costs(forward=K * n + n + n // 2, to_input=K * n, to_weights=n // 2)


@pytest.mark.parametrize(
    ("name", "forward", "to_input"),
    [
        ("cfa", 0, 0),
        ("dafa", 0, 0),
        ("cfol", 0, 0),
        ("frl", 1 + 20 + 1, 20),  # clean, PGD-20 on those that are right, its result
        ("wat", 1 + K + 2, K),  # p(x) once, the attack, the loss of x and x'
    ],
)
def test_calibrations_cost_per_epoch_at_most_what_their_held_out_images_need(name, forward, to_input):
    one = built("trades", calibration={"name": name, "start_epoch": 1})
    training = Training(one, images())
    passes, renew = Passes(training.model), training._renew_calibration

    def renewed() -> None:
        passes.counts.clear()
        passes.on = True
        renew()
        passes.on = False

    training._renew_calibration = renewed  # type: ignore[method-assign]
    list(training)
    held_out = len(training.dataset.validation)
    assert passes.counts["forward"] <= forward * held_out
    assert passes.counts["to_input"] <= to_input * held_out
    assert (passes.counts["forward"] > 0) == training.calibration.needs_validation
    assert passes.counts["to_weights"] == passes.counts["moving"] == 0


@pytest.mark.parametrize("case", cases(), ids=str)
def test_attacks_compute_no_weight_gradient_and_every_pass_is_counted(case, monkeypatch):
    """`count` asserts both, here of every part and every choice that it offers."""
    found = count(case.trial(epochs=3), monkeypatch)
    assert found.passes["to_weights"] >= found.trained > 0
