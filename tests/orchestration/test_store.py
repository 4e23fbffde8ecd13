"""The trial store: finding, taking over and giving away trials."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ham_core.config import Trial, fingerprint
from ham_core.errors import RequestError
from ham_core.folder import TrialFolder
from ham_core.protocol import Evaluation, evaluation_fingerprint
from ham_core.run import run_trial
from orchestration.store import Store
from tests.builders import trial

ONE: Trial = trial(epochs=1)
CLEAN = Evaluation.model_validate({"weights": "best", "attack": "clean"})


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What another machine left: one trained trial with one evaluation."""
    out = tmp_path_factory.mktemp("out")
    list(run_trial(ONE, TrialFolder.of(out, ONE), [CLEAN], device="cpu"))
    return out


@pytest.fixture
def copy(left_behind: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    import shutil

    shutil.copytree(left_behind, tmp_path / "copy")
    return tmp_path / "copy"


def test_imported_trial_is_complete_and_keeps_its_evaluations(left_behind: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.import_trials(left_behind) == {fingerprint(ONE): "imported"}
    assert store.trials() == [fingerprint(ONE)]
    folder = store.folder(fingerprint(ONE))
    assert folder.is_done()
    assert folder.has_evaluation(evaluation_fingerprint(ONE, CLEAN))
    assert list(run_trial(ONE, folder, [CLEAN], device="cpu")) == []


def test_a_single_trial_folder_is_imported_too(left_behind: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.import_trials(left_behind / "trials" / fingerprint(ONE))
    assert store.trials() == [fingerprint(ONE)]


def test_importing_twice_changes_nothing(left_behind: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.import_trials(left_behind)
    assert store.import_trials(left_behind) == {fingerprint(ONE): "is here already"}


def test_import_adds_evaluations_of_the_same_training(copy: Path, left_behind: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.import_trials(left_behind)
    more = Evaluation.model_validate({"weights": "last", "attack": "clean"})
    list(run_trial(ONE, TrialFolder.of(copy, ONE), [more], device="cpu"))
    assert store.import_trials(copy) == {fingerprint(ONE): "is here already; 1 evaluations added"}
    assert store.folder(fingerprint(ONE)).has_evaluation(evaluation_fingerprint(ONE, more))


def test_import_replaces_a_trial_that_is_less_far(copy: Path, left_behind: Path, tmp_path: Path) -> None:
    (TrialFolder.of(copy, ONE).path / "done.json").unlink()
    store = Store(tmp_path / "store")
    store.import_trials(copy)
    store.import_trials(left_behind)
    assert store.folder(fingerprint(ONE)).is_done()


@pytest.mark.parametrize("victim", ["trial.json", "weights/best.pt", "journal.jsonl", "evaluations"])
def test_damage_is_refused_with_a_sentence_and_nothing_is_copied(
    copy: Path, tmp_path: Path, victim: str
) -> None:
    path = TrialFolder.of(copy, ONE).path / victim
    path = next(path.glob("*.npz")) if path.is_dir() else path
    path.write_bytes(path.read_bytes()[:40])
    store = Store(tmp_path / "store")
    with pytest.raises(RequestError) as caught:
        store.import_trials(copy)
    assert str(copy) in caught.value.problems[0]
    assert store.trials() == []


def test_a_trial_under_a_wrong_name_is_refused(copy: Path, tmp_path: Path) -> None:
    folder = TrialFolder.of(copy, ONE)
    folder.create(trial(epochs=1, seed=7))
    with pytest.raises(RequestError, match="not the one the folder is named after"):
        Store(tmp_path / "store").import_trials(copy)


def test_a_folder_without_trials_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds no trials"):
        Store(tmp_path / "store").import_trials(tmp_path)


def test_exported_weights_are_a_plain_state_dict(left_behind: Path, tmp_path: Path) -> None:
    store = Store(left_behind)
    path = store.export_weights(fingerprint(ONE)[:6], "best_ema", tmp_path / "model.pt")
    state = torch.load(path, weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    expected = store.folder(fingerprint(ONE)).weights("best_ema")
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_weights_that_were_not_kept_are_named(left_behind: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="kept: best, best_ema"):
        Store(left_behind).export_weights(fingerprint(ONE), "best_seat", tmp_path / "model.pt")


def test_an_unknown_fingerprint_is_a_sentence(left_behind: Path) -> None:
    with pytest.raises(RequestError, match="no trial's fingerprint begins with 'zz'"):
        Store(left_behind).find("zz")


def test_a_place_below_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="is a file"):
        Store(tmp_path / "file" / "store")


def test_weights_are_not_exported_over_a_folder(left_behind: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is a folder; name a file"):
        Store(left_behind).export_weights(fingerprint(ONE), "best", tmp_path)
