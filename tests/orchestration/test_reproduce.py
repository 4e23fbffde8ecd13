"""One trial of a published sweep, trained again: it comes out bit for bit, and what was altered is found."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from ham_core.errors import RequestError
from ham_core.processor import processor
from ham_core.run import run_trial
from ham_core.seals import opened, sealed
from orchestration.archive import write_archive
from orchestration.reproduce import compare, read_recorded, shown
from orchestration.runner import run_here
from orchestration.status import remember
from orchestration.store import Store
from orchestration.sweep import Sweep, load_sweep
from orchestration.tracking import default_uri
from tests.orchestration.conftest import SWEEP
from tests.orchestration.keeping import ham
from tests.orchestration.test_archive import contents, packed

HAM, STARTED = "at+ham seed=0", "trades"
GRIDS = """\
    method: [at]
  mined:
    method: [at]
    method.mining: {name: ham, start_epoch: 1, early_drop_step: 2}
  started:
    method: [trades]
    start_from: {method: at, epochs: 2, weights: best}
"""
REPLACED = {
    "    method: [at, trades]\n": GRIDS,
    "epochs: 2\n": "epochs: 4\n  optimizer.lr: 0.05\n",
    "epsilon: 0.2": "epsilon: 0.1",
    "train_limit: 200": "train_limit: 600",
}


def trained(path: Path, place: Path) -> tuple[Store, Sweep]:
    """A sweep as if `ham sweep` had run it, with beginnings that its trials share."""
    store, sweep = Store(place), load_sweep(path, sets=("seeds=0",))
    outcome = run_here(sweep.trials, store, default_uri(store.path), console=Console(file=io.StringIO()))
    assert outcome.exit_code == 0
    remember(sweep, store, {})
    return store, sweep


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """The store and the archive of a sweep: AT, HAM with the same first epoch, and TRADES that starts from another trial."""
    place = tmp_path_factory.mktemp("published")
    text = SWEEP
    for old, new in REPLACED.items():
        text = text.replace(old, new, 1)
    (place / "tiny.yaml").write_text(text, encoding="utf-8")
    store, _ = trained(place / "tiny.yaml", place / "s")
    write_archive(store, "tiny", place / "tiny.tar.gz")
    return store, place / "tiny.tar.gz"


@pytest.fixture(scope="module")
def again(published: tuple[Store, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, str]:
    """The store in which `ham reproduce` has trained HAM again, and what it printed."""
    place = tmp_path_factory.mktemp("again") / "reproduced"
    code, out, err = ham("reproduce", published[1], HAM, "--store", place)
    assert code == 0, err
    return Store(place), out


def untimed(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record["metrics"].items() if not key.startswith("time/")}


def test_a_trial_whose_warm_up_was_shared_comes_out_bit_for_bit(
    published: tuple[Store, Path], again: tuple[Store, str]
) -> None:
    store, (new, out) = published[0], again
    (identity,) = new.trials()
    ours, theirs = store.folder(identity), new.folder(identity)
    assert "trained_by" in ours.journal()[0]
    assert "trained_by" not in theirs.journal()[0]
    assert list(map(untimed, theirs.journal())) == list(map(untimed, ours.journal()))
    for name in ("best", "last"):
        first, second = ours.weights(name), theirs.weights(name)
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert len(theirs.evaluations()) == 4
    for record in ours.evaluations():
        arrays, there = (one.predictions(record["fingerprint"]) for one in (ours, theirs))
        assert all(np.array_equal(arrays[key], there[key]) for key in arrays)
    numbers = 4 * 15 + sum(len(untimed(one)) for one in ours.journal())
    assert out.splitlines()[0] == f"trial {identity[:10]}  {HAM}"
    assert out.splitlines()[-1] == (
        f"reproduced: all {numbers} numbers within 0 points, and all 240 predictions are the same"
    )
    assert f"torch {torch.__version__}" in out
    assert f"processor {processor()}" in out
    assert "threads 1" in out
    assert "numerics version" in out


def test_a_trial_is_trained_after_what_it_starts_from(published: tuple[Store, Path], tmp_path: Path) -> None:
    store, archive = published
    code, out, err = ham("reproduce", archive, STARTED, "--json", "--store", tmp_path / "r")
    assert code == 0, err
    answer = json.loads(out)
    new = Store(tmp_path / "r")
    assert len(new.trials()) == 2
    assert set(new.trials()) < set(store.trials())
    assert (answer["reproduced"], answer["trial"] in new.trials(), answer["draw"]) == (True, True, None)
    assert {one["points"] for one in answer["statistics"]} == {0.0}
    assert answer["epochs"]["differ"] == []
    assert len({one["recorded"] for one in answer["statistics"]}) > 10, (
        "a network that has learnt nothing proves nothing"
    )


def altered(archive: Path, target: Path, identity: str, metric: str, by: float) -> Path:
    """The archive with another number in one evaluation, and with seals and digests that fit."""
    files = contents(archive)
    for name, content in files.items():
        if f"{identity}/evaluations/" in name and name.endswith(".json"):
            record = opened(content)
            if metric in record["metrics"]:
                record["metrics"][metric] += by
                files[name] = sealed(record, lines=True)
    assert files != contents(archive)
    return packed(target, files)


def test_an_altered_number_ends_with_1_and_its_name(
    published: tuple[Store, Path], again: tuple[Store, str], tmp_path: Path
) -> None:
    (identity,) = again[0].trials()
    path = altered(published[1], tmp_path / "altered.tar.gz", identity, "best/pgd2/avg", 0.02)
    code, out, _ = ham("reproduce", path, identity[:8], "--store", tmp_path / "r")
    assert code == 1
    assert "numbers differ by more than 0 points: best/pgd2/avg" in out.splitlines()[-1]
    assert out.splitlines()[-1].startswith("not reproduced: 1 of ")
    (row,) = [line.split() for line in out.splitlines() if line.startswith("best/pgd2/avg ")]
    assert row[-1] == "-2.000"


def test_the_tolerance_is_in_points_and_counts_for_accuracies_of_evaluations(
    published: tuple[Store, Path], again: tuple[Store, str], tmp_path: Path
) -> None:
    (identity,) = again[0].trials()
    folder = again[0].folder(identity)
    path = altered(published[1], tmp_path / "altered.tar.gz", identity, "last/clean/03_3", 0.02)
    recorded = read_recorded(path, identity, None)
    assert compare(recorded, folder, 2.0).is_reproduced
    assert compare(recorded, folder, 2.0).sentence == "reproduced: all 60 numbers within 2 points"
    assert compare(recorded, folder, 1.9).wrong == ["last/clean/03_3"]
    notes = {one.name: note for one, note in shown(compare(recorded, folder, 1.9))}
    assert notes["last/clean/03_3"] == "largest difference of 10 classes"
    assert "last/clean/04_4" not in notes


def test_without_tolerance_epochs_predictions_and_confidences_are_compared_too(
    published: tuple[Store, Path], again: tuple[Store, str]
) -> None:
    (identity,) = again[0].trials()
    folder = again[0].folder(identity)
    recorded = read_recorded(published[1], identity, None)
    journal = [dict(one) for one in recorded.journal]
    journal[1]["metrics"] = journal[1]["metrics"] | {"train/loss": 0.0, "time/train_s": -1.0}
    found = compare(replace(recorded, journal=journal), folder)
    assert (found.is_reproduced, found.wrong) == (False, ["epoch 2 train/loss"])
    assert compare(replace(recorded, journal=journal), folder, 0.1).is_reproduced

    chosen = next(iter(recorded.arrays))
    arrays = {key: array.copy() for key, array in recorded.arrays[chosen].items()}
    arrays["prediction"][:3] += 1
    found = compare(replace(recorded, arrays={**recorded.arrays, chosen: arrays}), folder)
    assert sorted(one.differ for one in found.images) == [0, 0, 0, 3]
    assert found.sentence == "not reproduced: 3 of 240 predictions differ"

    arrays = {key: array.copy() for key, array in recorded.arrays[chosen].items()}
    arrays["confidence"][0] += 0.25
    found = compare(replace(recorded, arrays={**recorded.arrays, chosen: arrays}), folder)
    assert found.sentence == "not reproduced: confidences differ by up to 2.5e-01"


def test_other_versions_and_threads_are_told(published: tuple[Store, Path], again: tuple[Store, str]) -> None:
    (identity,) = again[0].trials()
    recorded = read_recorded(published[1], identity, None)
    done = {**recorded.done, "threads": 7, "versions": {**recorded.done["versions"], "torch": "1.0"}}
    found = compare(replace(recorded, done=done), again[0].folder(identity))
    assert found.other["threads"] == ("1 and 7", "1")
    assert found.other["torch"][0] == f"1.0 and {torch.__version__}"
    assert found.is_reproduced, "the numbers decide"


def test_the_same_number_draws_the_same_trial_and_every_trial_can_be_drawn(
    published: tuple[Store, Path],
) -> None:
    archive = published[1]
    drawn = [read_recorded(archive, None, number) for number in range(12)]
    assert len({one.fingerprint for one in drawn}) == 3, "the start of TRADES was not evaluated"
    assert drawn[5].fingerprint == read_recorded(archive, None, 5).fingerprint
    assert drawn[5].drawn == (5, 3)
    number = read_recorded(archive, None, None).drawn
    assert number is not None
    assert number[0] in range(10**6)


def test_a_finished_trial_is_refused_and_a_half_done_one_continues(
    published: tuple[Store, Path], again: tuple[Store, str], tmp_path: Path
) -> None:
    (identity,) = again[0].trials()
    code, _, err = ham("reproduce", published[1], identity, "--store", again[0].path)
    assert (code, "already, trained to its end; name another folder" in err) == (2, True)
    recorded, store = read_recorded(published[1], identity, None), Store(tmp_path / "r")
    events = run_trial(recorded.trial, store.folder(identity), recorded.evaluations, device="cpu")
    assert next(events).kind == "epoch"
    events.close()
    code, out, err = ham("reproduce", published[1], identity, "--store", store.path)
    assert code == 0, err
    assert "epoch 2/4" in err
    assert "epoch 1/4" not in err
    assert "reproduced: all" in out


def pictures(folder: Path, shade: int) -> Path:
    """Two classes of grey pictures, ten each for training and four for the test."""
    for part, count in (("train", 10), ("test", 4)):
        for label, name in enumerate(("dark", "light")):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((8, 8, 3), 100 * label + 5 * number + shade, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


def test_images_may_lie_elsewhere_and_must_be_the_recorded_ones(
    write_sweep: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAM_DATA", str(tmp_path / "cache"))
    there = pictures(tmp_path / "there", 0)
    data = f"{{folder: {there}, size: 8, validation: 2}}"
    path = write_sweep(
        replaced={
            "{name: digits, train_limit: 200, test_limit: 60}": data,
            "[at, trades]": "[at]",
            "  epochs: 2": "  epochs: 1",
        }
    )
    store, _ = trained(path, tmp_path / "s")
    write_archive(store, "tiny", tmp_path / "tiny.tar.gz")
    there.rename(tmp_path / "here")
    command = ("reproduce", tmp_path / "tiny.tar.gz", "--draw", 1, "--store", tmp_path / "r")
    code, _, err = ham(*command)
    assert (
        code,
        str(there) in err,
        "give the place of the recorded images with --set data=FOLDER" in err,
    ) == (2, True, True)
    code, _, err = ham(*command, "--set", f"data={pictures(tmp_path / 'others', 1)}")
    assert (code, f"{tmp_path / 'others'}: has other training images (SHA-256" in err) == (2, True)
    assert not (tmp_path / "r").exists()
    code, out, err = ham(*command, "--set", f"data={tmp_path / 'here'}")
    assert code == 0, err
    assert "at seed=0, drawn from 1 trial (--draw 1 draws it again)" in out


# wrong requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ("tyny",),
            "holds no trial 'tyny'; known: at (start of trades) seed=0, at seed=0, at+ham seed=0, ",
        ),
        (("trade seed=0",), "(did you mean trades seed=0?)"),
        (("at", "--draw", "3"), "--draw draws a trial and TRIAL names one"),
        (("at", "--tolerance", "-1"), "--tolerance: -1 is no number of percentage points"),
        (("at", "--tolerance", "nan"), "--tolerance: nan is no number of percentage points"),
        (("at seed=0", "--set", "epochs=5"), "--set epochs=5: would make another trial"),
        (("at seed=0", "--set", "method=trades"), "--set method=trades: would make another trial"),
        (("at seed=0", "--set", "data={train_limit: 5}"), "would make another trial"),
        (
            ("at seed=0", "--set", "data=photos"),
            "the trial was trained on digits, which is found by its name",
        ),
        (("at seed=0", "--threads", "100000"), "--threads: 100000 threads per trial"),
        (("at seed=0", "--threads", "100000"), "recorded with --threads 1, trained again with 100000"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_requests_end_with_a_sentence_and_2(
    words: tuple[str, ...], sentence: str, published: tuple[Store, Path], tmp_path: Path
) -> None:
    code, out, err = ham("reproduce", published[1], *words, "--store", tmp_path / "r")
    assert code == 2
    assert sentence in err
    assert "reproduced" not in out


def test_files_that_are_no_published_sweep_end_with_a_sentence_and_2(
    published: tuple[Store, Path], tmp_path: Path
) -> None:
    text = tmp_path / "text.tar.gz"
    text.write_text("only text")
    files = contents(published[1])
    planless = {name: content for name, content in files.items() if not name.startswith("trials/")}
    plan = packed(tmp_path / "plan.tar.gz", planless)
    unattacked = {name: content for name, content in files.items() if "/evaluations/" not in name}
    bare = packed(tmp_path / "bare.tar.gz", unattacked)
    cases = [
        (tmp_path / "absent.tar.gz", "no such file"),
        (text, "cannot be read as an exported sweep"),
        (plan, "holds no trained trial, only a plan"),
        (bare, "no trial of it was evaluated, so there is nothing to compare"),
        (tmp_path, "Is a directory"),
    ]
    for path, sentence in cases:
        code, _, err = ham("reproduce", path, "--store", tmp_path / "r")
        assert (code, str(path) in err, sentence in err, len(err.splitlines())) == (2, True, True, 1)
    with pytest.raises(RequestError, match="nothing of it was evaluated"):
        read_recorded(bare, "at seed=0", None)


def test_a_trial_of_another_version_is_named_by_the_file_that_holds_it(
    published: tuple[Store, Path], tmp_path: Path
) -> None:
    """A fingerprint that this version would not give, everything else whole."""
    files, identity = contents(published[1]), read_recorded(published[1], HAM, None).fingerprint
    other = "a" * 64
    renamed = {
        name.replace(identity, other): content.replace(identity.encode(), other.encode())
        if name.endswith("sweep.json")
        else content
        for name, content in files.items()
    }
    key = f"trials/{other}/trial.json"
    renamed[key] = sealed(opened(renamed[key]) | {"fingerprint": other}, lines=True)
    path = packed(tmp_path / "other.tar.gz", renamed)
    with pytest.raises(RequestError) as error:
        read_recorded(path, None, 1)
    assert str(error.value).startswith(
        f"{path}: trials/{other}: trial.json describes the trial {identity[:10]}"
    )
