"""CFOL: shares, draws and scores by hand; with η = 0 it is class-balanced sampling with replacement."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from ham_core.calibration.base import Factors, Observed
from ham_core.calibration.cfol import Cfol
from ham_core.training import Training
from tests.builders import dataset, same_weights, trial

SCORES = torch.tensor([0.0, math.log(2.0), math.log(5.0)], dtype=torch.float64)
EVERY = torch.tensor([True, True, True])
WITHOUT_1 = torch.tensor([True, False, True])
LABELS = torch.tensor([2, 0, 1, 0, 2, 2, 0, 2])


def near(found: torch.Tensor, *expected: float) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), atol=1e-6, rtol=0)


def test_shares_of_three_classes():
    """softmax(0, log 2, log 5) = (1, 2, 5)/8; γ = .4: q = .4/3 + .6 (1, 2, 5)/8 = .2083333, .2833333, .5083333."""
    cfol = Cfol(gamma=0.4)
    near(cfol.shares({"scores": SCORES, "present": EVERY}), 0.2083333, 0.2833333, 0.5083333)


def test_a_class_without_training_images_has_no_share():
    """Without class 1 softmax is (1, 0, 5)/6 and C = 2: q = .2 + .6/6 = .3, 0, .2 + .6 · 5/6 = .7."""
    cfol = Cfol(gamma=0.4)
    near(cfol.shares({"scores": SCORES, "present": WITHOUT_1}), 0.3, 0, 0.7)


def test_scores_grow_by_eta_over_the_share_for_every_wrong_image():
    """q as above; class 0 wrong twice, class 1 right, class 2 wrong once and right once, η = .01:

    s = (2 · .01/.2083333, log 2, log 5 + .01/.5083333) = (.096, .6931472, 1.6094379 + .0196721).
    """
    cfol = Cfol(eta=0.01, gamma=0.4)
    before = {"scores": SCORES, "present": EVERY}
    right = torch.tensor([False, True, False, False, True])
    after = cfol.observe(before, torch.tensor([0, 1, 0, 2, 2]), right)
    near(after["scores"], 0.096, 0.6931472, 1.6291100)
    assert torch.equal(before["scores"], SCORES) and torch.equal(after["present"], EVERY)


def test_scores_stay_finite_where_a_class_is_never_drawn():
    """q = (.3, 0, .7): class 0 wrong once gains .01/.3."""
    cfol = Cfol(eta=0.01, gamma=0.4)
    state = {"scores": SCORES, "present": WITHOUT_1}
    after = cfol.observe(state, torch.tensor([0]), torch.tensor([False]))
    near(after["scores"], 0.0333333, 0.6931472, 1.6094379)


def test_it_knows_which_classes_have_training_images():
    cfol = Cfol()
    seen = Observed(
        0,
        torch.tensor([3, 0, 1]),
        None,
        None,
        lambda steps: pytest.fail("asked"),
        lambda: pytest.fail("asked"),
    )
    state = cfol.renew(cfol.initial(3), seen)
    assert torch.equal(state["present"], WITHOUT_1)
    assert torch.equal(state["scores"], torch.zeros(3, dtype=torch.float64))
    assert cfol.factors(state) == Factors()


def test_a_draw_is_a_class_by_its_share_and_then_one_of_its_images():
    """q = (.3, 0, .7): u below .3 is class 0, above it class 2; v in [0, 1) picks among the class's images in order."""
    cfol = Cfol(gamma=0.4)
    labels = LABELS[LABELS != 1]
    found = cfol.draw({"scores": SCORES, "present": WITHOUT_1}, labels, 500, torch.Generator().manual_seed(3))
    u, v = torch.rand(2, 500, generator=torch.Generator().manual_seed(3)).tolist()
    expected = []
    for first, second in zip(u, v, strict=True):
        members = (labels == (0 if first < 0.3 else 2)).nonzero().squeeze(1)
        expected.append(int(members[int(second * len(members))]))
    assert found.tolist() == expected


def test_a_number_on_the_border_of_two_classes_belongs_to_the_upper_one(monkeypatch):
    """q = (1/2, 0, 1/2) and u = 1/2: class 2, not class 0 and never class 1; v = 0 is its first image."""
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([[0.5, 0.0], [0.0, 0.0]]))
    state = {"scores": torch.zeros(3, dtype=torch.float64), "present": WITHOUT_1}
    assert Cfol().draw(state, torch.tensor([2, 0, 2]), 2, torch.Generator()).tolist() == [0, 1]


def test_draws_with_equal_scores_are_class_balanced_with_replacement():
    """Three classes of 3, 1 and 4 images: thirds of u choose the class, from the same generator."""
    cfol = Cfol()
    found = cfol.draw(cfol.initial(3), LABELS, 6000, torch.Generator().manual_seed(5))
    u, v = torch.rand(2, 6000, generator=torch.Generator().manual_seed(5)).double()
    c = (u * 3).long()
    members = [(LABELS == k).nonzero().squeeze(1) for k in range(3)]
    direct = [int(members[k][int(s * len(members[k]))]) for k, s in zip(c.tolist(), v.tolist(), strict=True)]
    assert found.tolist() == direct
    shares = torch.bincount(found, minlength=8) / 6000
    assert bool((shares - 1 / 3 / torch.tensor([4, 3, 1, 3, 4, 4, 3, 4])).abs().amax() < 0.02)


def test_a_training_with_eta_zero_is_class_balanced_sampling_with_replacement(monkeypatch):
    one = trial("at", method={"calibration": {"name": "cfol", "eta": 0.0}})
    sampled, direct = Training(one, dataset(one)), Training(one, dataset(one))
    list(sampled)
    labels = direct.dataset.train.labels
    sizes = []

    def balanced(self, state, labels_now, size, generator):
        assert torch.equal(labels_now, labels)
        sizes.append(size)
        u, v = torch.rand(2, size, generator=generator).double()
        members = [(labels == k).nonzero().squeeze(1) for k in range(10)]
        chosen = zip((u * 10).long().tolist(), v.tolist(), strict=True)
        return torch.stack([members[k][int(s * len(members[k]))] for k, s in chosen])

    monkeypatch.setattr(Cfol, "draw", balanced)
    list(direct)
    assert same_weights(sampled.model, direct.model)
    assert sum(sizes) == 2 * len(labels)
    assert not sampled.learnt["scores"].any()


def test_each_batch_is_drawn_with_the_scores_that_the_batch_before_left(monkeypatch):
    seen = []
    original = Cfol.draw

    def watched(self, state, *arguments):
        seen.append(state["scores"].sum().item())
        return original(self, state, *arguments)

    monkeypatch.setattr(Cfol, "draw", watched)
    one = trial("at", method={"calibration": {"name": "cfol", "eta": 0.01}}, epochs=1)
    list(Training(one, dataset(one)))
    assert seen[0] == 0
    assert all(later > earlier for earlier, later in pairwise(seen)) and len(seen) > 1


def test_before_its_start_every_image_is_seen_once():
    one = trial("at", method={"calibration": {"name": "cfol", "eta": 1.0, "start_epoch": 1}})
    sampled, plain = Training(one, dataset(one)), Training(trial("at"), dataset(one))
    next(iter(sampled)), next(iter(plain))
    assert same_weights(sampled.model, plain.model)
    assert not sampled.learnt["scores"].any()


@pytest.mark.parametrize(
    ("key", "default", "allowed", "refused"),
    [
        ("eta", 5e-6, [0], [-1e-9]),
        ("gamma", 0.5, [0.01, 1], [0, 1.01]),
        ("start_epoch", 0, [3], [-1]),
    ],
)
def test_its_parameters_have_their_defaults_and_ranges(key, default, allowed, refused):
    assert getattr(Cfol(), key) == default
    for value in allowed:
        assert getattr(Cfol(**{key: value}), key) == value
    for value in refused:
        with pytest.raises(ValidationError):
            Cfol(**{key: value})
