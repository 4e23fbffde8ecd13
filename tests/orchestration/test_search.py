"""What a search proposes, what its journal remembers, and real searches that are killed, resumed and made longer."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ham_core.errors import RequestError
from ham_core.run import run_trial
from ham_core.scores import selected_score, selection_images, watched_metric
from orchestration import tracking
from orchestration.cli.planning import _print_best
from orchestration.runner import Outcome, Resources, run_sweep
from orchestration.search import (
    Point,
    Proposer,
    front,
    journal_file,
    points_of,
    proposals,
    propose,
    resumed,
)
from orchestration.space import Range, Search
from orchestration.started import expanded
from orchestration.status import recorded_sweep, status
from orchestration.store import Store
from orchestration.sweep import Sweep, load_sweep
from tests.commands import start

SWEEP = """\
trial:
  data: {name: digits, train_limit: 200, test_limit: 60}
  model: {name: small_cnn, width: 0.5}
  epsilon: 0.2
  method: ham-official
  attack: {steps: 2, mode: eval}
  method.mining.early_drop_step: 1
  epochs: 2
  batch_size: 64
  selection.steps: 2
search:
  points: 3
  space:
    method.mining.early_drop_step: [1, 2]
    optimizer.lr: {low: 0.001, high: 0.5, log: true}
seeds: 0
evaluate: clean
weights: best
"""


def load(path: Path, *sets: str) -> Sweep:
    (path / "searched.yaml").write_text(SWEEP, encoding="utf-8")
    return load_sweep(path / "searched.yaml", sets=sets)


def run(sweep: Sweep, store: Store, concurrent: int = 1) -> Outcome:
    console = Console(file=io.StringIO(), width=200)
    uri = tracking.default_uri(store.path)
    return run_sweep(sweep, store, uri, resources=Resources(concurrent=concurrent), console=console)


def written(store: Store) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal_file(store, "searched").read_text().splitlines()]


# proposals -----------------------------------------------------------------------------------------------------------

SPACE: dict[str, Any] = {
    "x": Range(low=-3, high=3),
    "n": Range(low=1, high=9, step=2),
    "word": (1, True, "a", None),
}


def searched(
    search: Search, count: int, judge: Callable[[dict[str, Any]], tuple[float, float]]
) -> list[Point]:
    history: list[Point] = []
    for number in range(count):
        values = propose(search, number, history)
        history.append(Point(number, values, (), "complete", *judge(values)))
    return history


@pytest.mark.parametrize("by", ["random", "tpe"])
def test_proposals_lie_in_the_space_and_are_the_same_each_time(by: Any) -> None:
    search = Search(by=by, points=12, space=SPACE)
    first, second = (searched(search, 12, lambda values: (values["x"], 0.0)) for _ in range(2))
    assert first == second
    for point in first:
        assert -3 <= point.values["x"] <= 3
        assert point.values["n"] in (1, 3, 5, 7, 9)
        assert type(point.values["n"]) is int
        assert any(point.values["word"] is one or point.values["word"] == one for one in SPACE["word"])
    assert len({type(point.values["word"]) for point in first}) > 2, "1 and true are two choices"
    other = searched(search.model_copy(update={"seed": 1}), 3, lambda values: (0.0, 0.0))
    assert [one.values for one in other] != [one.values for one in first[:3]]


def test_the_history_makes_the_next_proposal_however_it_came_about() -> None:
    """A point that is killed half way is proposed once; those after it know the same as if it had not been."""
    search = Search(points=15, space=SPACE)
    history = searched(search, 14, lambda values: (-((values["x"] - 1) ** 2), 0.0))
    assert (
        propose(search, 14, history) == searched(search, 15, lambda v: (-((v["x"] - 1) ** 2), 0.0))[14].values
    )
    worse = [replace(one, worst=-one.worst) for one in history]
    assert propose(search, 14, worse) != propose(search, 14, history), "scores are heard"
    failed = [replace(one, state="failed") if one.number > 7 else one for one in history]
    assert propose(search, 14, failed) != propose(search, 14, history)
    changed = [replace(one, worst=1.0) if one.state == "failed" else one for one in failed]
    assert propose(search, 14, failed) == propose(search, 14, changed), "what failed teaches nothing"


def test_tpe_comes_closer_than_chance() -> None:
    def judge(values: dict[str, Any]) -> tuple[float, float]:
        return -((values["x"] - 1) ** 2), 0.0

    late = {
        by: [abs(one.values["x"] - 1) for one in searched(Search(by=by, points=40, space=SPACE), 40, judge)[20:]]
        for by in ("random", "tpe")
    }  # fmt: skip
    assert sum(late["tpe"]) < 0.5 * sum(late["random"])


def test_the_average_alone_is_climbed_where_the_worst_class_is_always_the_same() -> None:
    """As while the worst class stands at 0."""
    search = Search(points=40, space={"x": Range(low=-3, high=3)})
    late = searched(search, 40, lambda values: (0.0, 1 - abs(values["x"] - 1) / 4))[20:]
    assert sum(abs(one.values["x"] - 1) for one in late) / 20 < 0.8


def test_of_several_goals_what_no_other_point_beats_stays() -> None:
    scores = [(0.1, 0.9), (0.2, 0.8), (0.2, 0.7), (0.3, 0.3), (0.3, 0.3)]
    points = [Point(n, {"x": n}, (), "complete", *score).record() for n, score in enumerate(scores)]
    points += [Point(9, {"x": 9}, (), "stopped", 0.9, 0.9).record(), Point(10, {}, (), "open").record()]
    assert [one["number"] for one in front(points, ["worst", "avg"])] == [3, 4, 1, 0]
    assert [one["number"] for one in front(points, ["avg", "worst"])] == [0, 1, 3, 4]
    assert [one["number"] for one in front(points, ["avg"])] == [0]
    assert [one["number"] for one in front(points, ["worst"])] == [3]
    assert front(points[-2:], ["worst"]) == []


def test_the_front_is_a_small_table(capsys: pytest.CaptureFixture[str]) -> None:
    points = [
        Point(n, {"x": 0.5 + n}, (), "complete", 0.25 - n / 10, 0.5 + n / 10).record() for n in range(2)
    ]
    _print_best(front(points, ["worst", "avg"]))
    assert capsys.readouterr().out.splitlines() == [
        "2 points that no other one beats, on held-out images",
        "point  x    worst, at least  avg",
        "0      0.5  25.0 %           50.0 %",
        "1      1.5  15.0 %           60.0 %",
    ]


# the journal ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def proposer(tmp_path: Path) -> Callable[..., Proposer]:
    """A proposer of the small sweep in a store, as a process that begins now has it."""
    store = Store(tmp_path / "store")
    return lambda *sets: Proposer(resumed(load(tmp_path, *sets), store), store)


def test_a_proposal_is_written_down_before_its_trials_are_handed_out(
    proposer: Callable[..., Proposer],
) -> None:
    one = proposer("seeds=[0, 1]")
    steps = one.more({})
    (line,) = written(one.store)
    assert line["fingerprints"] == [step.planned.fingerprint for step in steps]
    assert (line["number"], line["problem"], len(steps)) == (0, "", 2)
    assert line["values"] == dict(steps[0].planned.values)
    again = proposer("seeds=[0, 1]")
    assert [planned.fingerprint for planned in again.sweep.trials] == line["fingerprints"], "finished first"


def test_a_search_ends_after_its_points_and_goes_on_when_there_are_more(
    proposer: Callable[..., Proposer],
) -> None:
    one = proposer()
    handed = [step.planned.fingerprint for _ in range(3) for step in one.more({})]
    assert one.more({}) == []
    assert len(set(handed)) == 3
    longer = proposer("search.points=4")
    assert [planned.fingerprint for planned in longer.sweep.trials] == handed
    assert len(longer.more({})) == 1
    assert longer.more({}) == []
    shorter = proposer("search.points=2")
    assert [planned.fingerprint for planned in shorter.sweep.trials] == handed[:2]
    assert shorter.more({}) == []


def test_what_another_process_has_proposed_is_taken_over(proposer: Callable[..., Proposer]) -> None:
    first, second = proposer(), proposer()
    ours = [first.more({})[0].planned.fingerprint for _ in range(2)]
    theirs = [second.more({})[0].planned.fingerprint for _ in range(3)]
    assert theirs[:2] == ours
    assert first.more({})[0].planned.fingerprint == theirs[2]
    assert [line["number"] for line in written(first.store)] == [0, 1, 2]


def test_proposals_of_another_space_or_other_settings_are_passed_over(
    proposer: Callable[..., Proposer],
) -> None:
    proposer().more({})
    assert len(proposer().sweep.trials) == 1
    assert len(proposer("seeds=[0, 1]").sweep.trials) == 2, "a further seed is one of the same search"
    assert len(proposer("search.goal=avg", "search.by=random", "search.seed=3").sweep.trials) == 1
    assert proposer("epochs=3").sweep.trials == ()
    assert proposer("search.space.optimizer.lr={low: 0.01, high: 0.5}").sweep.trials == ()
    assert len(proposer("evaluate=[clean, pgd2]").sweep.trials) == 1


def test_a_torn_last_line_is_no_proposal_and_a_damaged_one_is_a_sentence(
    proposer: Callable[..., Proposer],
) -> None:
    one = proposer()
    for _ in range(2):
        one.more({})
    file = journal_file(one.store, "searched")
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    torn = proposer()
    assert len(torn.sweep.points) == 1
    torn.more({})
    assert file.read_bytes() == whole, "the same proposal, on a line of its own"
    file.write_bytes(b"{" + whole)
    with pytest.raises(RequestError, match=r"searched\.search\.jsonl:1: is damaged; delete this line"):
        proposer()


def test_a_point_that_can_be_no_trial_counts_and_stays_out(proposer: Callable[..., Proposer]) -> None:
    """2 of 2 steps is fine for each value alone; together with another one it is not."""
    one = proposer("search.space.attack.steps=[2, 1]", "search.points=12", "search.space.optimizer.lr=[0.1]")
    while one.more({}):
        pass
    problems = [line["problem"] for line in written(one.store)]
    assert len(problems) == 12
    assert any("mining.early_drop_step is 2, but the attack has only 1 steps" in text for text in problems)
    assert all(bool(line["problem"]) != bool(line["fingerprints"]) for line in written(one.store))
    states = {point.state for point in one.points({})}
    assert states == {"failed", "open"}
    assert (
        len(
            proposer(
                "search.space.attack.steps=[2, 1]", "search.points=12", "search.space.optimizer.lr=[0.1]"
            ).sweep.trials
        )
        == 3
    )


def test_points_share_their_first_epochs_where_these_can_be_the_same(
    proposer: Callable[..., Proposer],
) -> None:
    assert not proposer().shares_beginnings, "a learning rate is hardly ever the same twice"
    assert proposer("search.space.optimizer.lr=[0.1, 0.2]").shares_beginnings
    weights = "search.space={method.mining.weight.parameter: {low: -3, high: 3}}"
    assert proposer(weights, "epochs=12").shares_beginnings


def test_a_points_score_is_the_mean_over_its_seeds_at_their_selected_epochs(
    proposer: Callable[..., Proposer],
) -> None:
    one = proposer("seeds=[0, 1]")
    jobs = [step.planned for step in one.more({})]
    folders = [one.store.folder(job.fingerprint) for job in jobs]
    list(run_trial(jobs[0].trial, folders[0]))
    (point,) = one.points({})
    assert (point.state, one.points({jobs[0].fingerprint: "no"})[0].state) == ("open", "failed")
    list(run_trial(jobs[1].trial, folders[1]))
    (point,) = one.points({})
    images = selection_images(jobs[0].trial)
    scores = [selected_score(folder.journal(), watched_metric(jobs[0].trial), images) for folder in folders]
    assert point.state == "complete"
    assert point.worst == pytest.approx(sum(score.worst for score in scores) / 2)
    assert point.avg == pytest.approx(sum(score.avg for score in scores) / 2)


# with Ray ------------------------------------------------------------------------------------------------------------


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_runs")
def test_a_search_of_two_goals_is_recorded_shown_and_made_longer(tmp_path: Path) -> None:
    store, sets = Store(tmp_path / "store"), ("search.goal=[worst, avg]", "search.by=random")
    sweep = load(tmp_path, *sets)
    outcome = run(sweep, store, concurrent=2)
    assert (outcome.exit_code, len(outcome.done), outcome.failed) == (0, 3, {})
    points = points_of(resumed(sweep, store), store, {})
    assert [point.state for point in points] == ["complete"] * 3
    assert outcome.best == front([point.record() for point in points], ["worst", "avg"])
    assert outcome.best

    (told,) = status(store)["sweeps"]
    assert told["counts"]["done"] == 3
    assert told["search"] == {"points": 3, "goal": ["worst", "avg"], "proposed": 3, "best": outcome.best}
    recorded = expanded(recorded_sweep(store, "searched"))
    assert [one.fingerprint for one in recorded.trials] == [
        line["fingerprints"][0] for line in written(store)
    ]

    uri = tracking.default_uri(store.path)
    (planned,) = tracking.read_sweeps(uri)
    assert [one.fingerprint for one in planned.planned] == [one.fingerprint for one in recorded.trials]
    assert {one.grids for one in planned.planned} == {("search",)}
    runs = {one.fingerprint: one for one in tracking.read_trials(uri, "searched")}
    for point in points:
        (identity,) = point.fingerprints
        assert runs[identity].status == "FINISHED"
        noted = json.loads(runs[identity].tags["search.searched"])
        assert noted == {"point": point.number, "worst": point.worst, "avg": point.avg}
        assert (runs[identity].metrics["search/worst"], runs[identity].metrics["search/avg"]) == (
            pytest.approx(point.worst),
            pytest.approx(point.avg),
        )

    again = run(sweep, store)
    assert (again.done, again.reused, again.best) == ([], 3, outcome.best)
    longer = run(load(tmp_path, *sets, "search.points=4"), store)
    assert (len(longer.done), longer.reused) == (1, 3)
    assert len(written(store)) == 4


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_runs")
def test_points_that_are_proposed_later_go_on_from_what_earlier_ones_have_trained(tmp_path: Path) -> None:
    """Warm-up 2 of 4 epochs, once."""
    store = Store(tmp_path / "store")
    sweep = load(
        tmp_path,
        "search.space={method.mining.weight.parameter: {low: -3, high: 3}}",
        "epochs=4",
        "method.mining.start_epoch=2",
    )
    assert run(sweep, store).exit_code == 0
    journals = [store.folder(line["fingerprints"][0]).journal() for line in written(store)]
    assert sum("trained_by" not in record for journal in journals for record in journal) == 2 + 3 * 2
    assert all([record["epoch"] for record in journal] == list(range(4)) for journal in journals)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("ray_runs")
def test_a_search_that_is_killed_goes_on_to_the_same_proposals(tmp_path: Path) -> None:
    """One point after the other; killed while the second one trains."""
    sets = ("search.points=4", "epochs=6")
    unbroken, broken = Store(tmp_path / "unbroken"), Store(tmp_path / "broken")
    sweep = load(tmp_path, *sets)
    assert run(sweep, unbroken).exit_code == 0

    words = [word for text in sets for word in ("--set", text)]
    driver = start(tmp_path, "sweep", "searched.yaml", "--store", "broken", "--concurrent", "1", *words)
    second = Path("none")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (second / "journal.jsonl").exists():
        file = journal_file(broken, "searched")
        lines = written(broken) if file.exists() and file.read_bytes().endswith(b"\n") else []
        if len(lines) > 1:
            second = broken.folder(lines[1]["fingerprints"][0]).path
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.communicate()
    before = written(broken)
    assert len(before) == 2
    assert not broken.folder(before[1]["fingerprints"][0]).is_done()

    outcome = run(sweep, broken)
    assert (outcome.exit_code, outcome.reused, len(outcome.done)) == (0, 1, 3)
    assert written(broken)[:2] == before
    assert written(broken) == written(unbroken)
    for line in written(broken):
        (identity,) = line["fingerprints"]
        assert [one["epoch"] for one in broken.folder(identity).journal()] == list(range(6))
    assert len(proposals(sweep, broken)) == 4
