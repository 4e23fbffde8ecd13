"""The score of a trial, and the label of a training that was stopped early."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ham_core.errors import RequestError
from ham_core.folder import TrialFolder, stop_text
from ham_core.run import run_trial
from ham_core.scores import Score, score_of, selected_score, selection_images, watched_metric
from ham_core.statistics import wilson
from tests.builders import dataset, trial

IMAGES = {"00_a": 10, "01_b": 100, "02_c": 0}


def metrics(avg: float, first: float, second: float) -> dict[str, float]:
    return {"val/pgd2/avg": avg, "val/pgd2/00_a": first, "val/pgd2/01_b": second}


def test_the_score_is_the_smallest_lower_bound_and_a_small_class_is_less_sure() -> None:
    score = score_of(metrics(0.4, 0.5, 0.4), "val/pgd2", IMAGES)
    assert score.avg == 0.4
    assert score.worst == pytest.approx(wilson(5, 10).low)
    assert wilson(5, 10).low < wilson(40, 100).low, "although its rate is higher"


def test_the_average_decides_between_equal_worst_classes_and_nothing_else() -> None:
    assert Score(0.0, 0.3).rank > Score(0.0, 0.2).rank
    assert Score(0.001, 0.0).rank > Score(0.0, 1.0).rank


def test_a_trial_is_judged_at_the_epoch_that_it_is_selected_at() -> None:
    journal = [{"metrics": metrics(*row)} for row in [(0.2, 0.2, 0.2), (0.5, 0.1, 0.5), (0.5, 0.9, 0.9)]]
    assert selected_score(journal, "val/pgd2", IMAGES) == score_of(journal[1]["metrics"], "val/pgd2", IMAGES)


def test_the_images_of_each_class_are_those_that_select() -> None:
    one = trial()
    counts = [int((dataset(one).validation.labels == index).sum()) for index in range(10)]
    assert list(selection_images(one).values()) == counts
    on_test = trial(selection={"on": "test", "steps": 2})
    assert sum(selection_images(on_test).values()) == len(dataset(on_test).test)


def test_a_real_journal_has_what_a_score_needs(tmp_path: Path) -> None:
    one = trial()
    folder = TrialFolder.of(tmp_path, one)
    list(run_trial(one, folder))
    score = selected_score(folder.journal(), watched_metric(one), selection_images(one))
    best = max(record["metrics"]["val/pgd2/avg"] for record in folder.journal())
    assert score.avg == best
    assert 0 <= score.worst <= best


def test_a_label_of_an_early_stop_holds_until_something_is_trained(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    assert folder.stopped() is None
    folder.append({"epoch": 0, "metrics": {}})
    label = {"epoch": 1, "epochs": 4, "rule": "asha", "sweep": "x"}
    folder.stop(label)
    assert folder.stopped() == label
    assert stop_text(label) == "stopped by asha after 1 of 4 epochs"
    folder.append({"epoch": 1, "metrics": {}})
    assert folder.stopped() is None, "another process has gone on with it"


def test_a_training_that_goes_on_loses_its_label(tmp_path: Path) -> None:
    one = trial()
    folder = TrialFolder.of(tmp_path, one)
    for _ in run_trial(one, folder):
        break
    folder.stop({"epoch": 1, "epochs": 2, "rule": "asha", "sweep": "x"})
    list(run_trial(one, folder))
    assert folder.is_done()
    assert not (folder.path / "stopped.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"epoch": 0})])
def test_a_damaged_label_is_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "stopped.json").write_text(content, encoding="utf-8")
    with pytest.raises(RequestError, match=r"stopped\.json: is damaged; delete this file"):
        TrialFolder(tmp_path).stopped()
