"""Each doubt is raised by a model built to deserve it, and by no sound one."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ham_core import doubts
from ham_core.data.augment import to_float
from ham_core.data.split import Split
from ham_core.evaluation import attack_images
from ham_core.protocol import EvaluationAttack
from tests.builders import Linear
from tests.judged import RADIUS, digits, linear, network, only

DOCS = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"


@pytest.fixture(scope="module")
def images() -> Split:
    return only(digits()[1], 4, 100)


class Around(nn.Module):
    """A sound network with something wrong around it."""

    def __init__(self, before=lambda x: x, after=lambda z: z) -> None:
        super().__init__()
        self.inner, self.before, self.after = network(), before, after

    def forward(self, x):
        return self.after(self.inner(self.before(x)))


def found(model: nn.Module, images: Split) -> list[str]:
    sentences = doubts.of_model(model, to_float(images.images), images.labels)
    return [name(sentence) for sentence in sentences]


def name(sentence: str) -> str:
    match = re.match(r"([a-z-]+): ", sentence)
    assert match
    return match[1]


# the model -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [network(), linear(), Around().eval()], ids=["network", "linear", "wrapped"]
)
def test_a_sound_model_raises_no_doubt(images, model):
    assert found(model, images) == []


def test_a_single_image_raises_no_doubt_about_its_batch(images):
    assert found(network(), only(images, 4, 1)) == []


def test_layers_in_training_mode_are_named_and_not_run(images):
    model = Around().eval()
    model.inner.blocks[1][1].train()
    try:
        before = {key: value.clone() for key, value in model.state_dict().items()}
        (sentence,) = doubts.of_model(model, to_float(images.images), images.labels)
        assert name(sentence) == "training-mode" and "1 layers" in sentence and "inner.blocks.1.1" in sentence
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    finally:
        model.eval()


def test_a_pass_that_turns_on_training_mode_is_noticed(images):
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = copy.deepcopy(network())

        def forward(self, x):
            return self.inner.train()(x)

    (sentence,) = doubts.of_model(Turned().eval(), to_float(images.images), images.labels)
    assert name(sentence) == "training-mode" and "inner among them, are put into" in sentence


def test_random_outputs_are_noticed(images):
    assert found(Around(before=lambda x: x + 0.01 * torch.randn_like(x)).eval(), images) == ["random-outputs"]
    assert found(Around(after=lambda z: nn.functional.dropout(z, 0.1)).eval(), images) == ["random-outputs"]


def test_a_coin_that_is_tossed_once_per_batch_is_noticed(images):
    """Two passes look the same half of the time, eight only once in 128."""
    torch.manual_seed(3)  # the first six tosses are heads, the next two tails

    class Flip(nn.Module):
        def forward(self, x):
            return network()(x.flip(3) if torch.rand(()) < 0.5 else x)

    assert found(Flip().eval(), images) == ["random-outputs"]


def test_tiny_and_large_logits_of_a_sound_model_raise_no_doubt(images):
    for scale in (1e-20, 1e-4, 5.0):
        assert found(Around(after=lambda z, scale=scale: scale * z).eval(), images) == []
    noisy = Around(before=lambda x: x + 0.01 * torch.randn_like(x), after=lambda z: 1e-20 * z)
    assert found(noisy.eval(), images) == ["random-outputs"]


def test_outputs_that_depend_on_the_other_images_are_noticed(images):
    assert found(Around(after=lambda z: z - z.mean(0)).eval(), images) == ["batch-dependent"]


def test_changes_of_outputs_are_measured_by_the_largest_logit():
    """Of 100: 0.009 is 0.009 % and 0.02 is 0.02 %, with 0.01 % allowed; 0.9 is 0.9 % and 1.1 is 1.1 %, with 1 % allowed."""

    class Told(nn.Module):
        def __init__(self, *additions: float) -> None:
            super().__init__()
            self.additions = iter([*additions, 0.0])

        def forward(self, x):
            return x.flatten(1) * 0 + torch.tensor([100.0, 0.0]) + next(self.additions)

    x, y = torch.rand(4, 1, 1, 2), torch.zeros(4, dtype=torch.long)
    for second, apart, expected in (
        (0.009, 0.0, []),
        (0.02, 0.0, ["random-outputs"]),
        (0.0, 0.9, []),
        (0.0, 1.1, ["batch-dependent"]),
    ):
        model = Told(0.0, *[second] * (doubts.PASSES - 1), apart, apart).eval()
        raised = [name(sentence) for sentence in doubts.of_model(model, x, y)]
        assert raised == [*expected, "zero-gradients"]


def test_probabilities_in_place_of_logits_are_noticed_and_log_probabilities_are_none(images):
    assert found(Around(after=lambda z: z.softmax(1)).eval(), images) == ["probabilities"]
    assert found(Around(after=lambda z: z.log_softmax(1)).eval(), images) == []
    assert found(Around(after=lambda z: 2 * z.softmax(1)).eval(), images) == []
    assert found(Around(after=lambda z: z - z.mean(1, keepdim=True) + 0.25).eval(), images) == []


def test_zero_gradients_are_noticed(images):
    """Rounded pixels have a gradient of zero, logits a thousand times as large none left in fp32, the others none at all."""
    for model in (
        Around(before=lambda x: (8 * x).round() / 8),
        Around(before=lambda x: (x > 0.5).float()),
        Around(after=lambda z: 1000 * z),
        Around(after=lambda z: z.detach()),
    ):
        assert found(model.eval(), images) == ["zero-gradients"]


def test_the_share_of_zero_gradients_is_told(images):
    """A gate that is shut for 16 of 64 images."""
    shut = torch.arange(64) % 4 == 0

    class Gate(nn.Module):
        def forward(self, x):
            logits = network()(x)
            return torch.where(shut[: len(x), None], logits.detach(), logits)

    x, y = to_float(images.images[:64]), images.labels[:64]
    sentences = doubts.of_model(Gate().eval(), x, y)
    assert len(sentences) == 1 and "for 25 % of the images" in sentences[0]


def test_outputs_and_gradients_that_are_no_numbers_are_noticed(images):
    def broken(z):
        return torch.where(torch.arange(len(z))[:, None] == 3, torch.nan, z)

    (sentence,) = doubts.of_model(Around(after=broken).eval(), to_float(images.images), images.labels)
    assert sentence.startswith("nan: the outputs of 1 of 64 clean images")

    class Root(nn.Module):
        def forward(self, x):
            return network()(x) + 0 * torch.sqrt(
                x.flatten(1)[:, :1]
            )  # black pixels: slope without bound, times 0

    (sentence,) = doubts.of_model(Root().eval(), to_float(images.images), images.labels)
    assert sentence.startswith("nan: the gradient")


def test_checks_leave_parameters_without_gradients(images):
    model = Linear(torch.randn(4, 64))
    found(model.eval(), images)
    assert all(parameter.grad is None for parameter in model.parameters())


# what an attack returned ---------------------------------------------------------------------------------------------


def test_the_extent_is_the_largest_distance_and_the_range_of_pixels():
    """Shifts (0.3, 0.4) and (0, 0.1): largest 0.4 in L∞ and 0.5 in L2; pixels from 0.2 to 0.9."""
    x = torch.tensor([[0.2, 0.5], [0.2, 0.3]]).reshape(2, 1, 1, 2)
    adv = x + torch.tensor([[0.3, 0.4], [0.0, 0.1]]).reshape(2, 1, 1, 2)
    torch.testing.assert_close(doubts.extent(x, adv, "linf"), torch.tensor([0.4, -0.2, 0.9]))
    torch.testing.assert_close(doubts.extent(x, adv, "l2"), torch.tensor([0.5, -0.2, 0.9]))


def test_images_outside_the_ball_or_the_range_or_that_are_none_are_noticed():
    assert doubts.of_extent([0.1, 0.0, 1.0], 0.1) == []
    assert doubts.of_extent([0.1 + 5e-6, 5e-6, 1 + 5e-6], 0.1) == []
    assert doubts.of_extent([0.0, 0.0, 0.0], 0.0) == []
    assert [name(one) for one in doubts.of_extent([0.11, 0.0, 1.0], 0.1)] == ["radius"]
    assert [name(one) for one in doubts.of_extent([0.1, 0.01, 1.0], 0.1)] == ["range"]
    assert [name(one) for one in doubts.of_extent([0.1, 0.0, 1.01], 0.1)] == ["range"]
    assert [name(one) for one in doubts.of_extent([0.2, 0.0, 1.01], 0.1)] == ["radius", "range"]
    assert [name(one) for one in doubts.of_extent([float("nan"), 0.0, 1.0], 0.1)] == ["nan"]
    x = torch.rand(2, 1, 2, 2)
    assert doubts.extent(x, torch.full_like(x, torch.nan), "linf").isnan().all()


def test_outputs_that_are_no_numbers_under_attack_are_noticed():
    p = np.array([0.5, np.nan, 0.1])
    assert doubts.of_confidence(np.zeros(3), np.ones(3)) == []
    (sentence,) = doubts.of_confidence(np.ones(3), p)
    assert sentence.startswith("nan: of 3 images the outputs of 0 clean and 1 attacked ones")
    (sentence,) = doubts.of_confidence(p, np.ones(3))
    assert "1 clean and 0 attacked" in sentence


def test_square_breaking_what_white_box_attacks_left_standing_is_noticed():
    assert doubts.of_ensemble({"apgd-ce": 50, "square": 0}, 100) == []
    assert doubts.of_ensemble({"apgd-ce": 50, "square": 1}, 100) == []  # one image is chance
    assert [name(one) for one in doubts.of_ensemble({"apgd-ce": 50, "square": 2}, 100)] == ["black-box"]
    assert doubts.of_ensemble({"apgd-ce": 50, "square": 20}, 10_000) == []  # 0.2 %, as AutoAttack tolerates
    assert [name(one) for one in doubts.of_ensemble({"apgd-ce": 50, "square": 21}, 10_000)] == ["black-box"]
    assert doubts.of_ensemble({"square": 40}, 100) == []  # alone it has nothing to be compared with
    assert doubts.of_ensemble({}, 100) == []


def test_an_ensemble_raises_the_doubt_on_masked_gradients_and_not_on_a_sound_model(images):
    """Pixels rounded to eighths: gradients are zero, outputs are not."""
    from ham_core.autoattack import Part, run_parts

    few, masked = only(images, 4, 40), Around(before=lambda x: (8 * x).round() / 8).eval()
    for model, expected in ((masked, ["black-box"]), (network(), [])):
        parts = (Part("apgd-ce"), Part("square", queries=150))
        state = run_parts(model, few, parts, epsilon=0.3, norm="linf", seed=0, batch=40)
        broken = {part.name: int((state.broken_by == k).sum()) for k, part in enumerate(parts)}
        assert [name(one) for one in doubts.of_ensemble(broken, len(few))] == expected


# several attacks -------------------------------------------------------------------------------------------------------


def record(
    kind: str, average: float, weights: str = "best", epsilon: float = 0.1, **attack: Any
) -> dict[str, Any]:
    return {
        "weights": weights,
        "attack": {"kind": kind, "norm": "linf", "steps": 20, "step": None, **attack},
        "attack_name": kind,
        "epsilon": epsilon,
        "images": {"00_a": 400, "01_b": 600},
        "metrics": {f"{weights}/{kind}/avg": average},
    }


def test_a_gap_of_more_than_five_points_between_pgd_and_autoattack_is_noticed():
    pgd = record("pgd", 0.55)
    assert doubts.between([pgd], record("autoattack", 0.51)) == []
    (sentence,) = doubts.between([pgd], record("autoattack", 0.49))
    assert name(sentence) == "pgd-gap"
    assert "55.0 % stand under PGD but 49.0 % under AutoAttack, 6.0 points apart" in sentence
    assert doubts.between([record("autoattack", 0.49)], pgd) == [sentence]  # whichever came first
    assert doubts.between([pgd, record("autoattack", 0.4)], record("cw", 0.5)) == []  # told already


def test_the_strongest_pgd_counts_and_only_on_the_same_terms():
    theirs = record("autoattack", 0.4)
    assert doubts.between([record("pgd", 0.44), record("pgd", 0.55)], theirs) == []
    for other in (
        record("pgd", 0.55, weights="last"),
        record("pgd", 0.55, epsilon=0.05),
        record("pgd", 0.55, norm="l2"),
    ):
        assert doubts.between([other], theirs) == []
    old = record("pgd", 0.55)
    del old["attack"]["norm"]  # a record made before there were norms
    assert len(doubts.between([old], theirs)) == 1


def test_pgd_is_compared_with_parts_of_autoattack_too():
    pgd, part = record("pgd", 0.55), record("apgd-t", 0.49)
    (sentence,) = doubts.between([pgd], part)
    assert "49.0 % under apgd-t" in sentence
    assert doubts.between([part], pgd) == [sentence]
    assert doubts.between([pgd, record("autoattack", 0.48)], part) == []  # told already, of AutoAttack
    assert len(doubts.between([pgd, part], record("autoattack", 0.48))) == 1


def test_attacks_that_are_weak_by_their_settings_say_nothing_about_the_model():
    """ε = 0.1: ten steps of 0.02 lead just through the ball; 0.1 is the longest step."""
    theirs, square = record("autoattack", 0.2), record("square", 0.2)
    for weak in (
        record("fgsm", 0.6),
        record("pgd", 0.6, steps=1),
        record("pgd", 0.6, steps=9),
        record("pgd", 0.6, steps=10, step=0.0199),
        record("pgd", 0.6, steps=10, step=0.101),
        record("cw", 0.6, steps=3),
    ):
        assert doubts.between([weak], theirs) == doubts.between([theirs], weak) == []
        assert doubts.between([weak], square) == doubts.between([square], weak) == []
    for strong in (
        record("pgd", 0.6, steps=10),
        record("pgd", 0.6, steps=10, step=0.02),
        record("pgd", 0.6, steps=10, step=0.1),
    ):
        assert len(doubts.between([strong], theirs)) == len(doubts.between([strong], square)) == 1
    assert len(doubts.between([record("cw", 0.6, steps=10)], square)) == 1
    assert doubts.convinces(record("pgd", 0.6, epsilon=0.0))


def test_square_stronger_than_every_white_box_attack_is_noticed():
    """1000 images: at 0.2 % two more are tolerated."""
    assert doubts.between([record("pgd", 0.5)], record("square", 0.498)) == []
    (sentence,) = doubts.between([record("pgd", 0.5)], record("square", 0.497))
    assert name(sentence) == "black-box" and "breaks 3 of 1000 images more" in sentence
    assert doubts.between([record("square", 0.497)], record("pgd", 0.5)) == [sentence]
    assert doubts.between([record("pgd", 0.5), record("apgd-t", 0.49)], record("square", 0.497)) == []
    assert doubts.between([record("clean", 0.9)], record("square", 0.5)) == []
    assert doubts.between([record("square", 0.4), record("pgd", 0.5)], record("clean", 0.9)) == []


# the curve -------------------------------------------------------------------------------------------------------------


def test_robust_accuracy_of_a_sound_model_falls_to_nothing_as_the_radius_grows(images):
    sentences, curve = doubts.as_epsilon_grows(network(), images, epsilon=RADIUS)
    assert sentences == []
    assert list(curve) == [RADIUS, 2 * RADIUS, 4 * RADIUS, 1.0] and curve[1.0] == 0
    label = images.labels.numpy()
    seen = attack_images(network(), images, EvaluationAttack(kind="pgd", steps=20), epsilon=RADIUS, seed=0)
    assert curve[RADIUS] == (seen.prediction == label).mean()


def test_a_model_that_stands_at_a_radius_of_one_is_doubted(images):
    masked = Around(before=lambda x: x.round()).eval()
    sentences, curve = doubts.as_epsilon_grows(masked, images, epsilon=0.25)
    assert curve[1.0] > doubts.LEFT
    told = f"epsilon-curve: {100 * curve[1.0]:.1f} % of the images stand under PGD with radius 1"
    assert any(sentence.startswith(told) for sentence in sentences)
    assert {name(sentence) for sentence in sentences} == {"epsilon-curve"}


def test_a_robust_accuracy_that_rises_with_the_radius_is_doubted(images, monkeypatch):
    from ham_core import evaluation

    accuracies = iter([0.5, 0.3, 0.32, 0.0])

    def seen(model, split, attack, *, epsilon, seed):
        right = round(next(accuracies) * len(split))
        label = split.labels.numpy()
        prediction = label.copy()
        prediction[right:] += 1
        return evaluation.Seen(prediction, label, label, label, 0.0)

    monkeypatch.setattr(evaluation, "attack_images", seen)
    (sentence,), curve = doubts.as_epsilon_grows(Linear(torch.zeros(4, 64)), images, epsilon=0.2)
    assert "rises from 30.0 % at radius 0.4 to 32.0 % at 0.8" in sentence
    assert list(curve.values()) == [0.5, 0.3, 0.32, 0.0]
    accuracies = iter([0.5, 0.3, 0.31, 0.01])  # within chance
    assert doubts.as_epsilon_grows(Linear(torch.zeros(4, 64)), images, epsilon=0.2)[0] == []


def test_a_radius_of_zero_has_no_curve(images):
    sentences, curve = doubts.as_epsilon_grows(network(), only(images, 4, 10), epsilon=0.0)
    assert sentences == [] and list(curve) == [0.0]


# the documentation -----------------------------------------------------------------------------------------------------


def test_every_doubt_is_documented():
    """Every name that a sentence may start with has a section, and every section is one."""
    source = Path(doubts.__file__).read_text(encoding="utf-8")
    raised = set(re.findall(r'f?"([a-z]+(?:-[a-z]+)*): ', source))
    documented = set(re.findall(r"^### `([a-z-]+)`$", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert raised == documented and "pgd-gap" in raised
