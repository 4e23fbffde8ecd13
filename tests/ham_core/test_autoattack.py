"""AutoAttack: the library's own per-image results, also after any number of kills, and in bounded memory."""

from __future__ import annotations

import copy
import logging
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pyautoattack import AutoAttack
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ham_core import autoattack
from ham_core.autoattack import Part, Unfinished, parts_of, run_parts
from ham_core.data.augment import to_float
from ham_core.data.split import Split
from ham_core.errors import RequestError
from ham_core.evaluation import attack_images
from ham_core.folder import TrialFolder
from ham_core.protocol import ENSEMBLE, Evaluation, EvaluationAttack
from ham_core.run import run_trial
from tests.builders import Linear, trial
from tests.judged import RADIUS, digits, linear, network, only

QUICK = (Part("square", queries=60), Part("apgd-ce"))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def images() -> Split:
    """20 images, two of which have a wrong label, so that they are wrong when clean."""
    found = only(digits()[1], 4, 20)
    labels = found.labels.clone()
    labels[[12, 15]] = (labels[[12, 15]] + 1) % 4
    return Split(found.images, labels)


def run(
    images: Split, parts=QUICK, *, model: nn.Module | None = None, norm="linf", radius=RADIUS, **settings
):
    return run_parts(
        network() if model is None else model,
        images,
        parts,
        epsilon=radius,
        norm=norm,
        seed=3,
        batch=10,
        **settings,
    )


def same(first: autoattack.State, second: autoattack.State) -> bool:
    names = [name for name in vars(first) if name != "seconds"]
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)


def directly(model: nn.Module, images: Split, norm: str, radius: float, batch: int, **settings) -> np.ndarray:
    """The library's own predictions under attack, set up as it tells its users to."""
    attack = AutoAttack(model, norm=norm, eps=radius, seed=3, device="cpu", **settings)
    attack.apgd.n_restarts = 1
    attack.square.n_queries = 200
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = 3
    return attack.run_standard_evaluation(to_float(images.images), images.labels, batch_size=batch)[1].numpy()


# the reference -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "name", "radius"), [("linf", "Linf", RADIUS), ("l2", "L2", 0.9)])
@pytest.mark.parametrize("part", ENSEMBLE)
def test_each_part_gives_the_results_of_the_library_called_directly(images, part, norm, name, radius):
    found = run(images, (Part(part, queries=200),), norm=norm, radius=radius)
    expected = directly(network(), images, name, radius, 10, version="custom", attacks=[part])
    assert (found.prediction == expected).all()
    assert 0 < (found.broken_by == 0).sum() < (found.clean == images.labels.numpy()).sum()


def test_the_parts_in_turn_give_the_results_of_one_call_with_all_of_them(images):
    parts = tuple(Part(name, queries=200) for name in ENSEMBLE)
    expected = directly(network(), images, "Linf", RADIUS, 10, version="custom", attacks=list(ENSEMBLE))
    assert (run(images, parts).prediction == expected).all()


def test_autoattack_is_the_standard_version_of_the_library():
    """Ten classes, so that nothing is set by us: 9 targets, 5000 queries, one restart, on 40 images of a linear model."""
    images = only(digits()[1], 10, 40)
    found = attack_images(linear(), images, EvaluationAttack(kind="autoattack"), epsilon=0.03, seed=3)
    library = AutoAttack(linear(), norm="Linf", eps=0.03, seed=3, device="cpu", version="standard")
    _, expected = library.run_standard_evaluation(to_float(images.images), images.labels, batch_size=256)
    assert (found.prediction == expected.numpy()).all()
    assert 0 < found.broken["apgd-ce"] and (found.prediction == images.labels.numpy()).any()


@pytest.mark.parametrize("part", ENSEMBLE)
def test_no_part_passes_the_model_more_often_than_the_library_called_directly(images, part):
    """Ours passes it for the clean images, for the number of classes, and in the attack; never to check the model."""
    ours, theirs, few = Mortal().eval(), Mortal().eval(), only(images, 4, 10)
    found = run(few, (Part(part, queries=200),), model=ours)
    expected = directly(theirs, few, "Linf", RADIUS, 10, version="custom", attacks=[part])
    assert (found.prediction == expected).all() and ours.passes < theirs.passes


def test_a_name_is_the_standard_version_and_takes_restarts_and_queries():
    assert parts_of(EvaluationAttack(kind="autoattack")) == tuple(Part(name, 1, 5000) for name in ENSEMBLE)
    assert parts_of(EvaluationAttack(kind="apgd-t", restarts=4)) == (Part("apgd-t", 4, 5000),)
    assert parts_of(EvaluationAttack(kind="square", queries=300)) == (Part("square", 1, 300),)


def test_restarts_and_queries_reach_the_library(images):
    """More tries from the same seed begin with the same ones, so that they break at least as many images."""
    for few, many in (
        (Part("square", queries=2), Part("square", queries=300)),
        (Part("square", queries=2), Part("square", 20, 2)),
    ):
        fewer, more = run(images, (few,)), run(images, (many,))
        assert (fewer.broken_by == 0).sum() < (more.broken_by == 0).sum()


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t"])
def test_restarts_of_auto_pgd_are_passes_of_the_model(images, name):
    """Where no image falls, each restart costs the same again."""
    passes = []
    for restarts in (1, 2):
        model = Mortal().eval()
        run(only(images, 4, 2), (Part(name, restarts),), model=model, radius=1e-4)
        passes.append(model.passes)
    assert passes[1] > 1.8 * passes[0]


# what is known of each image -------------------------------------------------------------------------------------------


def test_each_image_knows_which_part_broke_it_and_its_prediction_after_each_part(images):
    parts = (Part("square", queries=200), Part("apgd-ce"), Part("apgd-t"))
    state, y = run(images, parts), images.labels.numpy()
    right = state.clean == y
    assert (state.after(2) == state.prediction).all()
    for number in range(3):
        broken = state.broken_by == number
        assert right[broken].all() and (state.prediction[broken] != y[broken]).all()
        standing = right & ~np.isin(state.broken_by, range(number + 1))
        assert ((state.after(number) == y) == standing).all()
    first = run(images, parts[:1])
    assert (state.after(0) == first.prediction).all() and len(set(state.broken_by)) > 2
    assert (state.prediction[~right] == state.clean[~right]).all()


def test_confidence_is_that_of_the_image_that_broke_it_and_else_the_clean_one(images):
    state = run(images)
    broken = state.broken_by >= 0
    assert (state.confidence[broken] < 0.5 + 1e-6).all()  # another class is at least as likely
    assert (state.confidence[~broken] == state.clean_confidence[~broken]).all()
    with torch.no_grad():
        p = network()(to_float(images.images)).softmax(1)
    own = p.gather(1, images.labels[:, None]).squeeze(1).numpy()
    np.testing.assert_allclose(state.clean_confidence, own, atol=1e-6)


def test_the_attacked_images_lie_in_the_ball_and_in_the_range_of_pixels(images):
    distance, below, highest = run(images).extent
    assert RADIUS / 2 < distance < RADIUS + 1e-6 and below <= 0 and highest <= 1


def test_a_model_that_is_always_wrong_is_not_attacked(images):
    class Never(nn.Module):
        def forward(self, x):
            return -nn.functional.one_hot((x * 0).sum((1, 2, 3)).long() + 1, 4).float()

    wrong = Split(images.images, torch.ones_like(images.labels))
    state = run(wrong, model=Never())
    assert (state.tried == 0).all() and (state.broken_by == -1).all()


# kills -----------------------------------------------------------------------------------------------------------------


class Mortal(nn.Module):
    """A network that raises at a chosen pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.passes, self.life = network(), 0, sys.maxsize

    def forward(self, x):
        self.passes += 1
        self.life -= 1
        if self.life == 0:
            raise KeyboardInterrupt
        return self.inner(x)


def test_ten_kills_at_random_moments_change_no_image(images, tmp_path):
    parts = (*QUICK, Part("apgd-t"), Part("square", queries=30))
    unbroken = Mortal().eval()
    expected = run(images, parts, model=unbroken)
    mortal, progress, chance = Mortal().eval(), tmp_path / "x.partial.npz", random.Random(0)
    killed = 0
    while True:
        mortal.life = chance.randrange(1, unbroken.passes // 4) if killed < 10 else sys.maxsize
        try:
            found = run(images, parts, model=mortal, progress=progress)
            break
        except KeyboardInterrupt:
            killed += 1
    assert killed == 10 and same(found, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["x.partial.npz"]


SCRIPT = """
import sys, torch
from pathlib import Path
from ham_core.autoattack import Part, run_parts
from tests.judged import RADIUS, digits, network, only
torch.set_num_threads(1)
parts = (Part("square", queries=60), Part("apgd-ce"), Part("square", queries=10**6))
settings = {"epsilon": RADIUS, "norm": "linf", "seed": 3, "batch": 10}
run_parts(network(), only(digits()[1], 4, 20), parts, **settings, progress=Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_a_state_to_go_on_from(tmp_path):
    torch.set_num_threads(1)
    progress = tmp_path / "x.partial.npz"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(progress)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        deadline = time.monotonic() + 90
        while not progress.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    parts, images = (*QUICK, Part("square", queries=1)), only(digits()[1], 4, 20)
    with np.load(progress) as arrays:
        assert arrays["tried"].sum() > 0
    assert same(run(images, parts, progress=progress), run(images, parts))


def test_what_is_done_is_not_done_again(images, tmp_path):
    first, second = Mortal().eval(), Mortal().eval()
    progress = tmp_path / "x.partial.npz"
    run(images, model=first, progress=progress)
    again = run(images, model=second, progress=progress)
    assert second.passes == 1 and same(again, run(images))  # one pass tells the number of classes


def test_a_damaged_or_foreign_progress_file_is_no_progress(images, tmp_path):
    progress = tmp_path / "x.partial.npz"
    parts = (Part("square", queries=20), Part("square", queries=30))
    expected = run(images, parts)
    run(only(images, 4, 9), parts, progress=progress)
    assert same(run(images, parts, progress=progress), expected)
    progress.write_bytes(progress.read_bytes()[:300])
    assert same(run(images, parts, progress=progress), expected)
    progress.unlink()
    run(images, parts[:1], progress=progress)
    assert same(run(images, parts, progress=progress), expected)


def test_it_stops_after_a_batch_when_time_is_up_and_goes_on_from_there(images, tmp_path):
    progress, stops = tmp_path / "x.partial.npz", 0
    while True:
        try:
            found = run(images, progress=progress, late=lambda: True)
            break
        except Unfinished:
            stops += 1
    standing = (run(images, QUICK[:1]).broken_by == -1) & (found.clean == images.labels.numpy())
    right = (found.clean == images.labels.numpy()).sum()
    assert stops == -(-right // 10) - (-standing.sum() // 10) and same(found, run(images))


def test_a_trial_goes_on_with_autoattack_where_its_deadline_stopped_it(tmp_path, monkeypatch):
    monkeypatch.setattr(autoattack, "parts_of", lambda attack: QUICK)
    monkeypatch.setattr("ham_core.evaluation.BATCH", 16)
    one = trial("at", epochs=1)
    folders = [TrialFolder.of(tmp_path / name, one) for name in "ab"]
    wanted = [Evaluation(weights="last", attack="autoattack")]
    for folder in folders:
        list(run_trial(one, folder, device="cpu"))
    list(run_trial(one, folders[0], wanted, device="cpu"))
    kinds = []
    for _ in range(30):
        with monkeypatch.context() as patch:  # the deadline passes while the first batch is attacked
            asked = iter([False])
            patch.setattr("ham_core.run._late", lambda deadline, asked=asked: next(asked, True))
            events = list(run_trial(one, folders[1], wanted, device="cpu"))
        kinds += [event.kind for event in events]
        if not events or kinds[-1] == "evaluated":
            break
    assert kinds[-1] == "evaluated" and kinds.count("stopped") > 1
    whole, parts = (folder.evaluations()[0] for folder in folders)
    assert whole["metrics"] == parts["metrics"] and whole["broken"] == parts["broken"]
    ours, theirs = (folder.predictions(whole["fingerprint"]) for folder in folders)
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert {"broken_by", "prediction_apgd_ce", "prediction_square", "confidence"} <= ours.keys()
    assert "pyautoattack" in whole["versions"]
    assert not list((folders[1].path / "evaluations").glob("*.partial.npz"))


# manners ---------------------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The most numbers in one floating-point tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.is_floating_point():
            self.numbers = max(self.numbers, out.numel())
        return out


@pytest.mark.parametrize("name", ["clean", "pgd2", "fgsm", "library"])
def test_no_tensor_grows_with_the_number_of_images(name, monkeypatch):
    monkeypatch.setattr("ham_core.evaluation.BATCH", 8)
    monkeypatch.setattr(autoattack, "parts_of", lambda attack: (Part("square", queries=3),))
    attack = EvaluationAttack.model_validate("square" if name == "library" else name)
    sizes = []
    for count in (16, 150):
        with Largest() as largest:
            attack_images(network(), only(digits()[1], 4, count), attack, epsilon=RADIUS, seed=0)
        sizes.append(largest.numbers)
    assert sizes[0] == sizes[1]


def test_frozen_parameters_get_no_gradients(images):
    """The library's FAB asks for those of all parameters that can have one, which is a third of its time."""
    model = copy.deepcopy(network())
    model.zero_grad()
    attack_images(model, only(images, 4, 4), EvaluationAttack(kind="fab-t"), epsilon=RADIUS, seed=0)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_random_state_tracing_log_level_and_the_model_are_left_as_found(images):
    model, logger = network(), logging.getLogger("auto-attack")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state, level = torch.get_rng_state(), logger.level
    logger.setLevel(logging.INFO)

    def tracing(frame, event, argument):
        return None

    old = sys.gettrace()
    sys.settrace(tracing)
    try:
        attack_images(model, images, EvaluationAttack(kind="square", queries=3), epsilon=RADIUS, seed=0)
        found = sys.gettrace()
        assert logger.level == logging.INFO
    finally:
        sys.settrace(old)
        logger.setLevel(level)
    assert found is tracing and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_the_seed_belongs_to_the_evaluation_and_not_to_torch(images):
    first = run(images)
    torch.manual_seed(99)
    assert same(first, run(images))


def test_nothing_is_printed_logged_or_warned(images, capfd, caplog):
    class Softmax(nn.Module):
        def forward(self, x):
            return network()(x).softmax(1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for part in ("apgd-ce", "apgd-t", "fab-t"):
            run(only(images, 4, 2), (Part(part),), model=Softmax().eval())
    assert capfd.readouterr() == ("", "") and not caplog.records


# what cannot be done -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_too_few_classes_for_the_targeted_loss_end_in_a_sentence(classes):
    few = only(digits()[1], classes, 6)
    model = Linear(0.1 * torch.randn(classes, 64))
    for name in ("apgd-t", "autoattack"):
        with pytest.raises(
            RequestError, match=f"there are {classes} classes; attack with apgd-ce, fab-t and"
        ):
            attack_images(model, few, EvaluationAttack(kind=name), epsilon=0.1, seed=0)
    for name in ("apgd-ce", "fab-t", "square"):
        attack = EvaluationAttack(kind=name, queries=3 if name == "square" else None)
        seen = attack_images(model, few, attack, epsilon=0.1, seed=0)
        assert len(seen.prediction) == 6


def test_a_machine_without_the_library_says_so_and_runs_the_other_attacks(images, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(
        RequestError, match="need pyautoattack, which is not installed here; run python -m pip"
    ):
        attack_images(network(), images, EvaluationAttack(kind="square"), epsilon=RADIUS, seed=0)
    attack_images(network(), images, EvaluationAttack(kind="pgd", steps=1), epsilon=RADIUS, seed=0)
