"""`search` and `stop` in a sweep: what they mean, and what is wrong with them, all at once and with its line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ham_core.errors import RequestError
from orchestration.plan import plan
from orchestration.space import Proposal, Range
from orchestration.sweep import Sweep, joined, load_sweep, only_point, with_points

SWEEP = """\
trial:
  data: {name: digits, train_limit: 200, test_limit: 60}
  model: {name: small_cnn, width: 0.5}
  epsilon: 0.2
  method: ham-official
  attack: {steps: 3, mode: eval}
  epochs: 12
search:
  points: 4
  space:
    method.mining.early_drop_step: [1, 2]
    optimizer.lr: {low: 0.001, high: 0.5, log: true}
stop: {by: asha, grace: 4}
seeds: [0, 1]
evaluate: clean
profiles:
  short: {epochs: 6, search.points: 2}
  own: {epochs: 6, stop.grace: 5, search: {space.method.mining.early_drop_step: [2]}}
"""
POINT = Proposal(0, {"method.mining.early_drop_step": 2, "optimizer.lr": 0.0123})


def load(tmp_path: Path, *sets: str, profile: str | None = None, text: str = SWEEP) -> Sweep:
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    return load_sweep(tmp_path / "x.yaml", sets=sets, profile=profile)


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., Sequence[str]]:
    """refused(old, new) -> the problems of the sweep with these words replaced, without the folder's name."""

    def problems(*words: str) -> Sequence[str]:
        text = SWEEP
        for old, new in zip(words[::2], words[1::2], strict=True):
            assert old in text
            text = text.replace(old, new)
        with pytest.raises(RequestError) as caught:
            load(tmp_path, text=text)
        return [one.replace(f"{tmp_path}/", "") for one in caught.value.problems]

    return problems


def test_a_search_has_no_trials_before_it_proposes(tmp_path: Path) -> None:
    sweep = load(tmp_path)
    assert sweep.search is not None
    assert (sweep.trials, sweep.search.by, sweep.search.goal, sweep.search.points) == (
        (),
        "tpe",
        ("worst",),
        4,
    )


def test_beside_a_grid_the_grids_trials_are_there(tmp_path: Path) -> None:
    sweep = load(tmp_path, "grid.method=[at, trades]")
    assert [one.row for one in sweep.trials] == ["at", "at", "trades", "trades"]
    grown = with_points(sweep, [POINT])
    assert [one.grids for one in grown.trials] == [("grid",)] * 4 + [("search",)] * 2


def test_a_point_becomes_trials_as_a_grid_point_does(tmp_path: Path) -> None:
    searched = only_point(load(tmp_path), POINT)
    text = SWEEP[: SWEEP.index("search:")] + SWEEP[SWEEP.index("stop:") : SWEEP.index("profiles:")]
    grid = "grid: {method.mining.early_drop_step: [2], optimizer.lr: [0.0123]}\n"
    as_grid = load(tmp_path, text=text + grid)
    assert [one.fingerprint for one in searched.trials] == [one.fingerprint for one in as_grid.trials]
    assert [one.row for one in searched.trials] == [one.row for one in as_grid.trials]
    assert [one.evaluations for one in searched.trials] == [one.evaluations for one in as_grid.trials]
    assert searched.points[0].fingerprints == tuple(one.fingerprint for one in searched.trials)
    assert searched.trials[0].values == POINT.values


def test_points_one_by_one_are_the_points_at_once_and_equal_ones_are_one_trial(tmp_path: Path) -> None:
    sweep = load(tmp_path)
    points = [
        POINT,
        Proposal(1, POINT.values | {"optimizer.lr": 0.1}),
        Proposal(2, POINT.values),
    ]
    grown = sweep
    for point in points:
        grown = joined(grown, only_point(sweep, point))
    at_once = with_points(sweep, points)
    assert [one.fingerprint for one in grown.trials] == [one.fingerprint for one in at_once.trials]
    assert len(grown.trials) == 4
    assert [one.fingerprints for one in grown.points] == [one.fingerprints for one in at_once.points]
    assert grown.points[0].fingerprints == grown.points[2].fingerprints


@pytest.mark.parametrize(
    ("sets", "profile", "points", "grace"),
    [
        ((), None, 4, 4),
        ((), "short", 2, 2),
        (("epochs=24",), None, 4, 8),
        (("epochs=24", "stop.grace=4"), None, 4, 4),
        (("search.points=9", "stop={by: median}"), None, 9, 4),
        (("epochs=1",), None, 4, 1),
        (("stop=asha",), None, 4, 1),
        ((), "own", 4, 5),
        (("epochs=12",), "own", 4, 10),
        ((), "smoke", 2, 2),
    ],
)
def test_single_keys_are_changed_and_the_grace_follows_the_epochs(
    tmp_path: Path, sets: tuple[str, ...], profile: str | None, points: int, grace: int
) -> None:
    sweep = load(tmp_path, *sets, profile=profile)
    assert sweep.search is not None and sweep.stop is not None
    assert (sweep.search.points, sweep.stop.grace) == (points, grace)


def test_the_space_is_changed_key_by_key_and_stop_is_taken_away(tmp_path: Path) -> None:
    sweep = load(
        tmp_path, "stop=none", "search.space.batch_size={low: 32, high: 64, step: 16}", profile="own"
    )
    assert sweep.stop is None
    assert sweep.search is not None
    assert list(sweep.search.space) == ["method.mining.early_drop_step", "optimizer.lr", "batch_size"]
    assert sweep.search.space["method.mining.early_drop_step"] == (2,)


def test_a_stepped_range_ends_at_a_step() -> None:
    assert Range(low=32, high=70, step=16).ends == [32, 64]
    assert all(type(end) is int for end in Range(low=32, high=70, step=16).ends)
    assert Range(low=0.1, high=0.4, step=0.1).ends == pytest.approx([0.1, 0.4])


def test_everything_that_is_wrong_is_told_at_once_with_its_line(
    refused: Callable[..., Sequence[str]],
) -> None:
    found = refused("points: 4", "points: 0\n  by: bayes\n  goal: wurst", "grace: 4", "grace: 0", "low", "lo")
    assert found == [
        "x.yaml:11: search: unknown goal 'wurst'; known: avg, worst (did you mean worst?); several: [avg, worst]",
        "x.yaml:14: search.space.optimizer.lr: low is missing; allowed: a number",
        "x.yaml:14: search.space.optimizer.lr: unknown key 'lo'; known: high, log, low, step (did you mean low?)",
        "x.yaml:10: search: by is 'bayes'; allowed: random or tpe",
        "x.yaml:9: search: points is 0; allowed: a whole number from 1 to 10000",
        "x.yaml:15: stop: grace is 0; allowed: a whole number of 1 or more",
    ]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[1, 2]", "[1, 9]", "x.yaml:11: mining.early_drop_step is 9, but the attack has only 3 steps"),
        ("[1, 2]", "[]", "x.yaml:11: search.space.method.mining.early_drop_step has an empty list"),
        ("[1, 2]", "[1, 1]", "x.yaml:11: search.space.method.mining.early_drop_step names 1 twice; keep one"),
        ("[1, 2]", "1", "x.yaml:11: search.space.method.mining.early_drop_step is 1; allowed: a list of choices"),
        ("early_drop_step: [1, 2]", "erly_drop_step: [1, 2]", "x.yaml:11: unknown key 'erly_drop_step'"),
        ("low: 0.001", "low: 0", "x.yaml:12: search.space.optimizer.lr: low is 0; allowed with log: a low above 0"),
        ("low: 0.001", "low: 2", "x.yaml:12: search.space.optimizer.lr: low is 2 and high is 0.5; allowed: a high above"),
        ("optimizer.lr: {low: 0.001, high: 0.5, log: true}", "epochs: {low: 2, high: 4}", "x.yaml:12: epochs is 3.4"),
        ("optimizer.lr", "seed", "x.yaml:12: search.space.seed: seeds are not searched"),
        ("asha", "ashe", "x.yaml:13: stop: by is 'ashe'; allowed: asha or median"),
        ("asha", "median, reduction: 2", "x.yaml:13: stop.reduction belongs to by: asha"),
        ("stop: {by: asha, grace: 4}", "stop: 3", "x.yaml:13: stop is 3; allowed: none, or a mapping"),
        ("seeds: [0, 1]", "grid: {search: {method: [at]}}", "x.yaml:14: tables know the points of the search as 'search'"),
        ("epochs: 12", "optimizer.lr: 0.1\n  epochs: 12", ""),
        ("search.points: 2", "search.pints: 2", "x.yaml:17: search: unknown key 'pints'"),
        ("grace: 5", "grace: five", "x.yaml:18: stop: grace is 'five'; allowed: a whole number of 1 or more"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_sentence(
    refused: Callable[..., Sequence[str]], tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    if not sentence:
        load(tmp_path, text=SWEEP.replace(old, new))  # what the search varies may be set below it
        return
    (found,) = refused(old, new)
    assert found.startswith(sentence)


def test_a_set_of_what_the_search_varies_is_refused_with_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        load(tmp_path, "optimizer.lr=0.1")
    (sentence,) = caught.value.problems
    assert "the search varies optimizer.lr" in sentence
    assert "write --set search.space.optimizer.lr=[0.1]" in sentence
    assert load(tmp_path, "search.space.optimizer.lr=[0.1]").search is not None


def test_the_plan_says_how_many_points_are_still_to_come(tmp_path: Path) -> None:
    found = plan(with_points(load(tmp_path), [POINT]), tmp_path / "store").to_json()
    assert found["search"] == {"points": 4, "proposed": 1}
    assert len(found["trials"]) == 2
