"""Epochs that several trials share: which they are, and that sharing changes no bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ham_core.config import Trial, fingerprint
from ham_core.folder import TrialFolder
from ham_core.prefix import forks, prefix_file, prefix_of, shared_prefixes
from ham_core.run import run_trial
from tests.builders import trial

EMA: dict[str, Any] = {"name": "ema", "decay": 0.9}
TIMES = ("time/train_s", "time/validate_s", "time/images_per_second")


def ham(start: int = 2, step: int = 1, **settings: Any) -> Trial:
    mining = {"name": "ham", "start_epoch": start, "early_drop_step": step}
    return trial("at", mining, epochs=4, method={"averaging": [EMA]}, **settings)


def cfa(start: int = 1, averaging: Any = (EMA,), mining: Any = None, **settings: Any) -> Trial:
    method = {"calibration": {"name": "cfa", "start_epoch": start}, "averaging": averaging}
    return trial("at", mining, epochs=4, method=method, **settings)


def at(**settings: Any) -> Trial:
    return trial("at", epochs=4, method={"averaging": [EMA]}, **settings)


def test_a_trial_forks_where_its_late_parts_begin() -> None:
    assert forks(at()) == ()
    assert forks(ham(0)) == ()
    assert forks(ham(2)) == (2,)
    assert forks(cfa(1, mining={"name": "ham", "start_epoch": 3})) == (1, 3)


def test_before_a_part_begins_its_settings_do_not_count() -> None:
    assert prefix_of(ham(2, 1), 2) == prefix_of(ham(2, 3), 2) == prefix_of(ham(3), 2) == prefix_of(at(), 2)
    assert prefix_of(ham(2, 1), 3) != prefix_of(ham(2, 3), 3), "from its first epoch on they do"
    assert prefix_of(at(), 2) != prefix_of(at(), 1)
    both = cfa(1, mining={"name": "ham", "start_epoch": 3})
    assert prefix_of(both, 3) == prefix_of(cfa(1), 3) != prefix_of(at(), 3)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"epsilon": 0.1},
        {"optimizer": {"lr": 0.05}},
        {"schedule": {"milestones": [3], "factors": [0.1]}},
        {"batch_size": 32},
        {"precision": "bf16"},
        {"data": {"validation": 0.2}},
    ],
)
def test_trials_that_differ_otherwise_share_nothing(other: dict[str, Any]) -> None:
    assert prefix_of(ham(), 2) != prefix_of(at(**other), 2)


def test_an_average_counts_from_the_epoch_at_which_it_begins() -> None:
    late = {"name": "fawa", "start_epoch": 2, "threshold": 0.0}
    early = late | {"start_epoch": 1}
    assert prefix_of(cfa(2, [EMA, late]), 2) == prefix_of(at(), 2)
    assert prefix_of(cfa(2, [EMA, early]), 2) != prefix_of(at(), 2)
    on_test = {"selection": {"on": "test", "steps": 2}}
    assert prefix_of(cfa(2, [EMA, late], **on_test), 2) != prefix_of(at(**on_test), 2), (
        "it is judged in each epoch"
    )


def test_what_is_shared_by_two_is_offered_to_them_and_nothing_else() -> None:
    trials = {"at": at(), "ham": ham(2), "ham3": ham(3), "cfa": cfa(1), "other": ham(2, seed=1)}
    found = shared_prefixes({key: (one, 0) for key, one in trials.items()})
    assert {key: list(points) for key, points in found.items()} == {
        "at": [1, 2, 3],
        "ham": [1, 2],
        "ham3": [1, 2, 3],
        "cfa": [1],
    }
    assert found["ham"][2] == found["at"][2] == prefix_of(at(), 2)
    begun = shared_prefixes({"at": (at(), 3), "ham": (ham(2), 0), "again": (ham(2, 3), 1)})
    assert {key: list(points) for key, points in begun.items()} == {"ham": [2], "again": [2]}
    assert shared_prefixes({"at": (at(), 2), "ham": (ham(2), 0)}) == {}, "who stands there has passed it"


def trained(store: Path, one: Trial, prefixes: dict[int, str] | None = None) -> TrialFolder:
    folder = TrialFolder.of(store, one)
    for _ in run_trial(one, folder, prefixes=prefixes):
        pass
    return folder


def same(first: TrialFolder, second: TrialFolder) -> None:
    """Weights, journals (times aside) and the state after the last epoch are equal bit for bit."""
    assert first.weight_names() == second.weight_names()
    for name in first.weight_names():
        ours, theirs = first.weights(name), second.weights(name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    for ours, theirs in zip(first.journal(), second.journal(), strict=True):
        numbers, others = ours["metrics"], theirs["metrics"]
        assert {key: value for key, value in numbers.items() if key not in TIMES} == {
            key: value for key, value in others.items() if key not in TIMES
        }
    flat, other = first.checkpoint(), second.checkpoint()
    assert flat is not None and other is not None
    for key in ("best", "accepted", "epoch"):
        assert flat[key] == other[key], key
    assert set(flat["learnt"]) == set(other["learnt"])
    assert all(torch.equal(value, other["learnt"][key]) for key, value in flat["learnt"].items())


SHARING = {
    "ham after at": (at(), ham(2, 1)),
    "at after ham": (ham(2, 1), at()),
    "cfa with an average of its own after at": (
        at(),
        cfa(2, [EMA, {"name": "fawa", "start_epoch": 2, "threshold": 0.0}]),
    ),
    "calibrated before the fork": (cfa(1), cfa(1, mining={"name": "ham", "start_epoch": 2})),
    "frl, which learns": (
        trial("at", epochs=4, method={"calibration": {"name": "frl"}}),
        trial(
            "at",
            {"name": "ham", "start_epoch": 2, "early_drop_step": 1},
            epochs=4,
            method={"calibration": {"name": "frl"}},
        ),
    ),
}


@pytest.mark.parametrize("pair", SHARING)
def test_a_shared_beginning_gives_the_bits_of_an_unshared_training(pair: str, tmp_path: Path) -> None:
    first, second = SHARING[pair]
    shared = shared_prefixes({"first": (first, 0), "second": (second, 0)})
    assert max(shared["second"]) == 2
    alone, leader = trained(tmp_path / "alone", second), trained(tmp_path / "shared", first, shared["first"])
    follower = trained(tmp_path / "shared", second, shared["second"])
    same(follower, alone)
    same(leader, trained(tmp_path / "alone", first))
    by = [record.get("trained_by") for record in follower.journal()]
    assert by == [fingerprint(first)] * 2 + [None] * 2, "its own two epochs, and two of the other trial"
    assert [record.get("trained_by") for record in leader.journal()] == [None] * 4


def test_a_beginning_that_is_missing_or_damaged_is_trained_again(tmp_path: Path) -> None:
    name = prefix_of(at(), 2)
    path = prefix_file(tmp_path / "store", name)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no prefix")
    folder = trained(tmp_path / "store", ham(2), {2: name})
    assert not any("trained_by" in record for record in folder.journal())
    same(folder, trained(tmp_path / "alone", ham(2)))
    follower = trained(tmp_path / "store", at(), {2: name})
    assert follower.journal()[0]["trained_by"] == fingerprint(ham(2)), "it was left behind anew"


def test_a_beginning_of_other_trials_is_not_taken(tmp_path: Path) -> None:
    """The name says what a prefix is; a file under a wrong name is passed over."""
    trained(tmp_path, at(), {2: prefix_of(at(), 2)})
    stranger = ham(2, seed=1)
    prefix_file(tmp_path, prefix_of(at(), 2)).rename(prefix_file(tmp_path, prefix_of(stranger, 2)))
    folder = trained(tmp_path, stranger, {2: prefix_of(stranger, 2)})
    assert not any("trained_by" in record for record in folder.journal())
