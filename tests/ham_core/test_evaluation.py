"""Predictions under attack: per image, re-judged, and equal to the closed form where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ham_core import autoattack, models
from ham_core.attacks.losses import cross_entropy
from ham_core.attacks.pgd import start_in_l2
from ham_core.data.augment import to_float
from ham_core.data.split import Split
from ham_core.errors import RequestError
from ham_core.evaluation import Attackable, attack_images
from ham_core.folder import TrialFolder
from ham_core.metrics import summarize
from ham_core.network import exact_fp32
from ham_core.protocol import NAMES, Evaluation, EvaluationAttack, evaluation_fingerprint
from ham_core.randomness import generator
from ham_core.run import run_trial
from ham_core.statistics import per_class
from tests.builders import Linear, trial
from tests.judged import RADIUS, digits, network, only

CLEAN, PGD, CW = (EvaluationAttack.model_validate(name) for name in ("clean", "pgd20", "cw20"))


@pytest.fixture
def images() -> Split:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (300, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return Split(pixels, torch.arange(300) % 2)


@pytest.fixture
def linear() -> Linear:
    return Linear(0.2 * torch.randn(2, 16, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("attack", [PGD, CW])
def test_robust_images_of_a_linear_model_are_those_of_the_closed_form(images, linear, attack):
    """Two classes: the worst margin in the ball, ignoring no pixel bound, is reached at a corner of the clipped box."""
    x, y = images.images / 255, images.labels
    direction = (linear.weight[1 - y] - linear.weight[y]).reshape(x.shape).sign()
    corner = (x + 0.1 * direction).clamp(0, 1)
    with torch.no_grad():
        robust = (linear(corner).argmax(1) == y).numpy()
    seen = attack_images(linear, images, attack, epsilon=0.1, seed=0)
    assert ((seen.prediction == y.numpy()) == robust).all()
    assert 0 < robust.sum() < (seen.clean == y.numpy()).sum()


def test_the_clean_attack_changes_nothing(images, linear):
    seen = attack_images(linear, images, CLEAN, epsilon=0.1, seed=0)
    with torch.no_grad():
        logits = linear(images.images / 255)
    assert (seen.prediction == logits.argmax(1).numpy()).all() and (seen.clean == seen.prediction).all()
    own = logits.softmax(1).gather(1, images.labels[:, None]).squeeze(1)
    torch.testing.assert_close(torch.from_numpy(seen.confidence), own)


def test_the_confidence_in_the_predicted_class_is_kept_beside_that_in_the_true_one(images, linear):
    """With two classes it is p_y where the prediction is right, and 1 - p_y where it is wrong."""
    seen = attack_images(linear, images, PGD, epsilon=0.1, seed=0)
    y = images.labels.numpy()
    for top, own, predicted in (
        (seen.parts["clean_top"], seen.clean_confidence, seen.clean),
        (seen.parts["top"], seen.confidence, seen.prediction),
    ):
        np.testing.assert_allclose(top, np.where(predicted == y, own, 1 - own), atol=1e-6)
    assert "top" not in attack_images(linear, images, CLEAN, epsilon=0.1, seed=0).parts


def test_an_image_that_is_wrong_when_clean_stays_wrong_under_attack(images, linear):
    seen = attack_images(linear, images, PGD, epsilon=0.1, seed=0)
    wrong = seen.clean != images.labels.numpy()
    assert wrong.any() and (seen.prediction[wrong] == seen.clean[wrong]).all()


def test_more_restarts_never_make_a_model_more_robust(images):
    model = models.build("small_cnn", width=0.5, classes=2, channels=1, normalize=False)
    few = attack_images(model, images, EvaluationAttack(kind="pgd", steps=2), epsilon=0.1, seed=0)
    many = attack_images(
        model, images, EvaluationAttack(kind="pgd", steps=2, restarts=4), epsilon=0.1, seed=0
    )
    y = images.labels.numpy()
    assert ((many.prediction == y) <= (few.prediction == y)).all()


def test_evaluating_leaves_the_model_as_it_was_and_ignores_its_mode(images):
    model = models.build("small_cnn", width=0.5, classes=2, channels=1, normalize=False).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first = attack_images(model, images, PGD, epsilon=0.1, seed=0)
    assert model.training and all(
        torch.equal(before[key], value) for key, value in model.state_dict().items()
    )
    second = attack_images(model.eval(), images, PGD, epsilon=0.1, seed=0)
    assert (first.prediction == second.prediction).all()


def test_fgsm_is_one_step_of_the_radius_from_the_image():
    """x' = clip(x + ε sign ∇CE): the confidence recorded is that on x'."""
    images = only(digits()[1], 4, 60)
    x, y = (images.images / 255).requires_grad_(), images.labels
    cross_entropy(network()(x), y).sum().backward()
    moved = (x + RADIUS * x.grad.sign()).clamp(0, 1).detach()
    seen = attack_images(network(), images, EvaluationAttack(kind="fgsm"), epsilon=RADIUS, seed=0)
    with torch.no_grad():
        logits = network()(moved)
    right = seen.clean == y.numpy()
    own = logits.softmax(1).gather(1, y[:, None]).squeeze(1).numpy()
    np.testing.assert_allclose(seen.confidence[right], own[right], atol=1e-5)
    assert (seen.prediction[right] == logits.argmax(1).numpy()[right]).all()
    assert 0 < (seen.prediction == y.numpy()).sum() < right.sum()


def test_robust_images_in_the_l2_ball_are_those_of_the_closed_form(linear):
    """Far from black and white: the worst margin in the L2 ball is that at x + ε d / ‖d‖₂, d = w_other - w_y."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(100, 156, (300, 1, 4, 4), dtype=torch.uint8, generator=generator)
    images = Split(pixels, torch.arange(300) % 2)
    x, y = pixels / 255, images.labels
    direction = (linear.weight[1 - y] - linear.weight[y]).detach()
    worst = x + 0.2 * (direction / direction.norm(dim=1, keepdim=True)).reshape(x.shape)
    with torch.no_grad():
        robust = (linear(worst).argmax(1) == y).numpy()
    for kind in ("pgd", "cw"):
        attack = EvaluationAttack(kind=kind, steps=40, norm="l2", epsilon=0.2)
        seen = attack_images(linear, images, attack, epsilon=0.001, seed=0)
        assert ((seen.prediction == y.numpy()) == robust).all()
    assert 0 < robust.sum() < (seen.clean == y.numpy()).sum()
    assert 0.199 < seen.extent[0] < 0.2001


def test_l2_starts_are_drawn_in_the_l2_ball(images, linear):
    """No step: the confidence recorded is that on the start, once it is clipped to [0, 1]."""
    few = Split(images.images[:100], images.labels[:100])
    attack = EvaluationAttack(kind="pgd", steps=0, norm="l2", epsilon=0.3)
    seen = attack_images(linear, few, attack, epsilon=1, seed=5)
    start = start_in_l2(few.images / 255, 0.3, generator(5, "start", 0)).clamp(0, 1)
    with torch.no_grad():
        own = linear(start).softmax(1).gather(1, few.labels[:, None]).squeeze(1).numpy()
    right = seen.clean == few.labels.numpy()
    np.testing.assert_allclose(seen.confidence[right], own[right], atol=1e-6)


def test_a_radius_of_its_own_stands_in_for_that_of_the_trial(images, linear):
    own = EvaluationAttack(kind="pgd", steps=5, epsilon=0.1)
    found = attack_images(linear, images, own, epsilon=0.02, seed=0)
    expected = attack_images(linear, images, EvaluationAttack(kind="pgd", steps=5), epsilon=0.1, seed=0)
    assert (found.prediction == expected.prediction).all()
    assert (found.confidence == expected.confidence).all()


def test_the_extent_is_that_of_all_attacked_images(images, linear):
    pixels = images.images.clone()
    pixels[256:] = 128  # the second batch reaches neither black nor white
    seen = attack_images(linear, Split(pixels, images.labels), PGD, epsilon=0.1, seed=0)
    distance, below, highest = seen.extent
    assert distance == pytest.approx(0.1, abs=1e-6) and 0 <= -below < 0.01 and 0.99 < highest <= 1
    assert list(attack_images(linear, images, CLEAN, epsilon=0.1, seed=0).extent) == [0, 0, 0]


@pytest.mark.parametrize("sizes", [(10, 10, 10, 10), (3, 17, 1, 9)], ids=["balanced", "unbalanced"])
@pytest.mark.parametrize("name", NAMES)
def test_the_overall_figure_is_the_class_figures_weighted_by_their_counts_exactly(name, sizes, monkeypatch):
    """Σ_c a_c n_c = avg · N in whole images, and the exact fractions are equal."""
    monkeypatch.setattr("ham_core.autoattack.parts_of", cheap_parts)
    four = only(digits()[1], 4, 200)
    rows = torch.cat([(four.labels == c).nonzero().squeeze(1)[:n] for c, n in enumerate(sizes)])
    images = Split(four.images[rows], four.labels[rows])
    seen = attack_images(network(), images, EvaluationAttack.model_validate(name), epsilon=RADIUS, seed=0)
    label = images.labels.numpy()
    found = summarize(label, seen.prediction == label, ["a", "b", "c", "d"])
    hits = [round(found[f"{c:02d}_{'abcd'[c]}"] * n) for c, n in enumerate(sizes)]
    assert [found[f"{c:02d}_{'abcd'[c]}"] for c in range(4)] == [
        h / n for h, n in zip(hits, sizes, strict=True)
    ]
    assert found["avg"] == sum(hits) / sum(sizes)
    assert per_class(label, seen.prediction == label, 4).hits.tolist() == hits


def cheap_parts(attack: EvaluationAttack) -> tuple[autoattack.Part, ...]:
    """Square with few queries in the place of every part."""
    queries = {"autoattack": (5, 20)}.get(attack.kind, (10,))
    return tuple(autoattack.Part("square", queries=n) for n in queries)


def test_one_trial_is_judged_at_several_radii_and_norms(tmp_path):
    one = trial("at", epochs=1)
    folder = TrialFolder.of(tmp_path, one)
    attacks = [
        PGD,
        EvaluationAttack(kind="pgd", steps=20, epsilon=0.02),
        EvaluationAttack(kind="pgd", steps=20, epsilon=0.3, norm="l2"),
    ]
    run(one, folder, [Evaluation(weights="last", attack=attack) for attack in attacks])
    found = {record["attack_name"]: record for record in folder.evaluations()}
    assert {name: record["epsilon"] for name, record in found.items()} == {
        "pgd20": 0.2,
        "pgd20_eps0_02": 0.02,
        "pgd20_l2_eps0_3": 0.3,
    }
    for name, record in found.items():
        assert f"last/{name}/avg" in record["metrics"]
        assert not [doubt for doubt in record["doubts"] if doubt.startswith(("radius", "range", "nan"))]


def test_doubts_are_recorded_with_the_evaluation(tmp_path, monkeypatch):
    one = trial("at", epochs=1)
    folder = TrialFolder.of(tmp_path, one)
    run(one, folder, evaluations("last"))
    assert [record["doubts"] for record in folder.evaluations()] == [[], []]
    monkeypatch.setattr("ham_core.doubts.of_model", lambda model, x, y: [f"mode {model.training} {len(x)}"])
    monkeypatch.setattr("ham_core.doubts.of_confidence", lambda clean, seen: [f"confidence {len(seen)}"])
    monkeypatch.setattr("ham_core.doubts.of_extent", lambda extent, epsilon: [f"extent {epsilon}"])
    monkeypatch.setattr("ham_core.doubts.of_ensemble", lambda broken, images: [f"ensemble {images}"])
    monkeypatch.setattr("ham_core.doubts.between", lambda records, record: [f"{len(records)} others"])
    run(one, folder, [Evaluation(weights="last", attack=CW)])
    (record,) = (record for record in folder.evaluations() if record["attack_name"] == "cw20")
    assert record["doubts"] == ["mode False 60", "confidence 60", "extent 0.2", "ensemble 60", "2 others"]


def run(one, folder, evaluations=(), **settings):
    return list(run_trial(one, folder, evaluations, device="cpu", **settings))


def evaluations(*names: str) -> list[Evaluation]:
    return [Evaluation(weights=w, attack=a) for w in names for a in (CLEAN, PGD)]


def test_metrics_of_an_evaluation_are_those_of_its_stored_predictions(tmp_path):
    one = trial("at", epochs=1)
    folder = TrialFolder.of(tmp_path, one)
    events = run(one, folder, evaluations("best", "last_ema"))
    assert [event.kind for event in events] == ["epoch", "trained", *["evaluated"] * 4]
    assert len(folder.evaluations()) == 4
    for record in folder.evaluations():
        stored = folder.predictions(record["fingerprint"])
        again = summarize(stored["label"], stored["prediction"] == stored["label"], record["classes"])
        prefix = f"{record['weights']}/{record['attack_name']}"
        assert record["metrics"] == {f"{prefix}/{name}": value for name, value in again.items()}
        assert np.bincount(stored["label"]).tolist() == list(record["images"].values())


def test_a_complete_trial_is_left_alone_and_a_new_evaluation_retrains_nothing(tmp_path):
    one = trial("at", epochs=1)
    folder = TrialFolder.of(tmp_path, one)
    run(one, folder, evaluations("last"))
    before = folder.weights("last")
    assert run(one, folder, evaluations("last")) == []
    later = [*evaluations("last"), Evaluation(weights="best_ema", attack=CW)]
    assert [event.kind for event in run(one, folder, later)] == ["evaluated"]
    assert all(torch.equal(before[key], value) for key, value in folder.weights("last").items())


def test_where_nothing_may_be_trained_a_trial_that_would_be_is_refused_and_stays_as_it_is(tmp_path):
    bare = trial("at", method={"averaging": "none"}, epochs=2)
    folder = TrialFolder.of(tmp_path, bare)
    generator = run_trial(bare, folder, device="cpu")
    next(generator)
    generator.close()
    for one, done in ((bare, 1), (trial("at", epochs=2), 2)):
        before = changed_at(folder)
        with pytest.raises(RequestError, match=rf"keeps other averages \({done} of 2 epochs are done\)"):
            run(one, folder, evaluations("last"), train=False)
        assert changed_at(folder) == before
        run(bare, folder)
    events = run(bare, folder, evaluations("last"), train=False)
    assert [event.kind for event in events] == ["evaluated"] * 2


def changed_at(folder: TrialFolder) -> dict[str, int]:
    """When each file was last changed; the lock shows that somebody looked."""
    return {path.name: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.name != "lock"}


def timeless(folder: TrialFolder) -> list[dict[str, float]]:
    return [
        {name: value for name, value in record["metrics"].items() if not name.startswith("time/")}
        for record in folder.journal()
    ]


def test_a_trial_stopped_by_its_deadline_continues_bit_for_bit(tmp_path):
    one = trial("at", {"name": "ham", "early_drop_step": 1, "start_epoch": 1}, epochs=3)
    whole, parts = TrialFolder.of(tmp_path / "a", one), TrialFolder.of(tmp_path / "b", one)
    run(one, whole)
    while parts.epochs_done() < 3:
        assert [event.kind for event in run(one, parts, deadline=1e-9)] == ["stopped"]
        generator = run_trial(one, parts, device="cpu")
        next(generator)  # one epoch, then the process is gone
        generator.close()
    assert [event.kind for event in run(one, parts)] == ["trained"]
    assert timeless(whole) == timeless(parts)
    for name in whole.weight_names():
        ours, theirs = whole.weights(name), parts.weights(name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_an_epoch_whose_journal_line_was_lost_is_restored_from_the_checkpoint(tmp_path):
    one = trial("at")
    folder = TrialFolder.of(tmp_path, one)
    generator = run_trial(one, folder, device="cpu")
    next(generator)
    generator.close()
    lost = folder.journal()
    (folder.path / "journal.jsonl").unlink()
    run(one, folder)
    assert folder.journal()[0] == lost[0] and folder.epochs_done() == 2


def test_an_average_that_was_not_kept_trains_the_same_weights_again(tmp_path):
    bare = trial("at", method={"averaging": "none"}, epochs=1)
    folder = TrialFolder.of(tmp_path, bare)
    run(bare, folder)
    before = folder.weights("last")
    events = run(trial("at", epochs=1), folder)
    assert [event.kind for event in events] == ["epoch", "trained"]
    assert "best_ema" in folder.weight_names()
    assert all(torch.equal(before[key], value) for key, value in folder.weights("last").items())
    assert run(bare, folder) == []


def test_the_identity_of_an_evaluation_is_weights_attack_radius_and_test_set():
    one = trial("at")
    first = evaluation_fingerprint(one, Evaluation(weights="best", attack=PGD))
    assert first == evaluation_fingerprint(trial("at"), Evaluation(weights="best", attack=PGD))
    others = [
        evaluation_fingerprint(one, Evaluation(weights="last", attack=PGD)),
        evaluation_fingerprint(one, Evaluation(weights="best", attack=CW)),
        evaluation_fingerprint(trial("at", seed=1), Evaluation(weights="best", attack=PGD)),
        evaluation_fingerprint(trial("at", data={"test_limit": 50}), Evaluation(weights="best", attack=PGD)),
    ]
    assert len({first, *others}) == 5


def test_images_changed_since_planning_are_noticed(tmp_path):
    one = trial("at")
    changed = one.model_copy(update={"data": one.data.model_copy(update={"train_digest": "0" * 64})})
    with pytest.raises(Exception, match="training images have changed"):
        run(changed, TrialFolder(tmp_path / "x"))


# what models may do -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if name != "autoattack"])
def test_every_evaluation_computes_in_exact_fp32_and_leaves_the_settings_as_found(name, images, monkeypatch):
    """TF32 is on before, as PyTorch has it for convolutions on GPUs: off in every pass, on again afterwards."""
    monkeypatch.setattr("ham_core.autoattack.parts_of", cheap_parts)
    seen = set()

    def settings():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    class Watching(Linear):
        def forward(self, x):
            seen.add(settings())
            return super().forward(x)

    before = settings()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        model = Watching(torch.randn(4, 16)).eval()
        attack = EvaluationAttack.model_validate(name)
        attack_images(model, Split(images.images[:8], images.labels[:8]), attack, epsilon=0.1, seed=0)
        assert seen == {("highest", False)}
        assert settings() == ("high", True)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="PyTorch before 2.9")
def test_the_general_setting_of_newer_pytorch_is_overruled_and_restored():
    with exact_fp32():
        pass
    torch.backends.fp32_precision = "tf32"
    try:
        with exact_fp32():
            assert torch.backends.cudnn.conv.fp32_precision == "ieee"
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.fp32_precision == "tf32"
    finally:
        torch.backends.fp32_precision = "none"


def test_doubts_are_looked_for_in_exact_fp32(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "ham_core.doubts.of_model",
        lambda model, x, y: seen.append(torch.backends.cudnn.allow_tf32) or [],
    )
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    one = trial("at", epochs=1)
    folder = TrialFolder.of(tmp_path, one)
    run(one, folder)
    torch.backends.cudnn.allow_tf32 = True  # the training is fp32
    run(one, folder, [Evaluation(weights="last", attack=CLEAN)])
    assert seen == [False]


@pytest.mark.parametrize("name", ["fgsm", "pgd20", "cw20", "apgd-ce", "apgd-t", "fab-t", "square"])
@pytest.mark.parametrize("how", ["detached", "numpy", "inference"])
def test_attacks_on_a_model_without_gradients_stand_still_instead_of_failing(name, how, images):
    class Closed(Linear):
        def forward(self, x):
            if how == "inference":
                with torch.inference_mode():
                    return super().forward(x)
            inside = x.detach() if how == "detached" else torch.from_numpy(x.detach().numpy().copy())
            return super().forward(inside)

    settings = {"name": name, "queries": 20} if name == "square" else name
    attack = EvaluationAttack.model_validate(settings)
    model = Closed(torch.randn(4, 16, generator=torch.Generator().manual_seed(0))).eval()
    few = Split(images.images[:8], images.labels[:8])
    seen = attack_images(model, few, attack, epsilon=0.1, seed=0)
    assert np.isfinite(seen.confidence).all() and seen.extent[0] <= 0.1 + 1e-6


def test_outputs_and_gradients_are_those_of_the_model_bit_for_bit():
    x = to_float(digits()[1].images[:20]).requires_grad_()
    y = digits()[1].labels[:20] % 4
    results = []
    for model in (network(), Attackable(network())):
        logits = model(x)
        (gradient,) = torch.autograd.grad(cross_entropy(logits, y).sum(), x)
        results.append((logits, gradient))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
