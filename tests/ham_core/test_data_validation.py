"""data.validation: a share of each class, or from 1 on a number of images; part of a trial's identity either way."""

from __future__ import annotations

from pathlib import Path

import pytest

from ham_core.config import canonical, fingerprint
from ham_core.data.index import held_out_count, split_problems
from ham_core.errors import RequestError
from ham_core.folder import TrialFolder, read_json
from ham_core.resolve import Layer, resolve
from ham_core.run import run_trial
from tests.builders import dataset, trial


@pytest.mark.parametrize(
    ("written", "kept"), [(0.02, 0.02), (0.5, 0.5), (1, 1), (30, 30), (30.0, 30), (0.25, 0.25)]
)
def test_shares_and_numbers_are_kept_as_they_are(written: float, kept: float) -> None:
    one = trial(data={"validation": written})
    assert one.data.validation == kept
    assert type(one.data.validation) is type(kept)
    assert type(one).model_validate(one.model_dump(mode="json")) == one  # as the trial store reads it back


def test_zero_is_a_share_so_that_no_older_identity_changes() -> None:
    one = trial(data={"validation": 0}, selection={"on": "test"})
    assert repr(canonical(one)["data"]["validation"]) == "0.0"


def test_the_number_of_images_is_part_of_the_identity() -> None:
    identities = {fingerprint(trial(data={"validation": wanted})) for wanted in (1, 3, 4, 0.1, 0.2)}
    assert len(identities) == 5
    assert fingerprint(trial(data={"validation": 3})) == fingerprint(trial(data={"validation": 3.0}))


@pytest.mark.parametrize("wrong", [0.7, 1.5, -1, "many", 0.51])
def test_what_is_neither_is_a_sentence(wrong: object) -> None:
    settings = {"method": "at", "data": {"name": "digits", "validation": wrong}}
    with pytest.raises(RequestError) as refused:
        resolve([Layer("", settings, lambda written: "x.yaml")])
    (sentence,) = refused.value.problems
    assert "data.validation is" in sentence
    assert "allowed: a number from 0 to 0.5 or a whole number of 1 or more" in sentence


def test_a_trial_holds_out_the_number_it_asks_for() -> None:
    images = dataset(trial(data={"validation": 3, "train_limit": 200}))
    assert images.validation.labels.bincount().tolist() == [3] * 10
    assert len(images.train) == 170


@pytest.mark.parametrize(
    ("wanted", "images", "count"), [(300, 5000, 300), (1, 7, 1), (0.02, 5000, 100), (0.07, 100, 7)]
)
def test_the_number_held_out_of_a_class(wanted: float, images: int, count: int) -> None:
    assert held_out_count(wanted, images) == count


def test_a_number_that_takes_a_whole_class_is_refused_before_training() -> None:
    one = trial(data={"validation": 200, "train_limit": None})
    (sentence,) = split_problems([one.data], light=True)
    assert "data.validation: 200 of" in sentence
    assert "holds out all 134 training images of class '0'" in sentence


def test_a_finished_trial_records_which_images_were_held_out(tmp_path: Path) -> None:
    one = trial(epochs=1, attack={"steps": 1}, data={"validation": 3})
    folder = TrialFolder(tmp_path / "one")
    list(run_trial(one, folder, device="cpu"))
    assert read_json(folder.path / "done.json")["held_out"] == dataset(one).held_out
