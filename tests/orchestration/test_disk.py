"""What a sweep takes on disk: the estimate against real files, what a finished trial keeps, and a budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from ham_core.errors import RequestError
from ham_core.folder import TrialFolder
from ham_core.prefix import prefix_file, prefix_of
from ham_core.protocol import read_evaluations
from ham_core.run import run_trial
from orchestration import tracking
from orchestration.disk import Budget, bytes_in, estimate_bytes, footprint, kept_rules, size_in_words, used
from orchestration.plan import plan
from orchestration.runner import Resources, run_sweep
from orchestration.store import Store
from orchestration.sweep import load_sweep
from tests.builders import trial

WIDE = {"name": "small_cnn", "width": 3.0}  # 0.8 MB, so that headers count little


def test_the_footprint_is_that_of_real_files(tmp_path: Path) -> None:
    one = trial(model=WIDE)
    wanted, _ = read_evaluations("clean", "best,last")
    found = footprint(one, wanted, kept_rules(wanted))
    assert found is not None
    folder, name = TrialFolder.of(tmp_path, one), prefix_of(one, 1)
    largest = 0
    for event in run_trial(one, folder, wanted, prefixes={1: name}, keep=kept_rules(wanted)):
        if event.kind in ("epoch", "trained"):
            largest = max(largest, used(folder.path))
    checkpoint = found.prefix - 3 * 2 * (found.prefix // 9)
    assert largest == pytest.approx(found.training - checkpoint, rel=0.1), (
        "the third checkpoint is there for a moment"
    )
    assert used(folder.path) == pytest.approx(found.done, rel=0.1)
    assert prefix_file(tmp_path, name).stat().st_size == pytest.approx(found.prefix, rel=0.1)


def test_a_finished_trial_keeps_what_is_evaluated_best_and_last(tmp_path: Path) -> None:
    one = trial()
    wanted, _ = read_evaluations("clean", "best_worst")
    assert kept_rules(wanted) == {"best", "last", "best_worst"}
    folder = TrialFolder.of(tmp_path, one)
    for _ in run_trial(one, folder, wanted, keep=kept_rules(wanted)):
        pass
    rules = ("best", "best_worst", "last")
    assert folder.weight_names() == sorted([*rules, *(f"{rule}_ema" for rule in rules)])
    assert not (folder.path / "checkpoint.pt").exists()
    assert folder.pruned() == {"best_sum", "best_sum_ema"}


def test_weights_that_were_not_kept_and_are_asked_for_are_trained_again(
    write_sweep: Callable[..., Path], tmp_path: Path
) -> None:
    sets = ["seeds=0", "grid.methods.method=[at]", "evaluate=clean", "weights=best"]
    sweep = load_sweep(write_sweep(), sets=sets)
    (planned,), store = sweep.trials, Store(tmp_path / "store")
    folder = store.folder(planned.fingerprint)
    for _ in run_trial(planned.trial, folder, planned.evaluations, keep=kept_rules(planned.evaluations)):
        pass
    before = folder.journal()
    more = load_sweep(write_sweep(), sets=[*sets[:-1], "weights=[best, best_sum]"])
    (step,) = plan(more, store.path).steps
    assert (step.status, step.why) == ("partial", "weights best_sum were not kept, trains again")
    assert (step.epochs_left, step.retrains) == (2, True)
    wanted = more.trials[0].evaluations
    for _ in run_trial(planned.trial, folder, wanted, keep=kept_rules(wanted)):
        pass
    assert plan(more, store.path).todo == ()
    assert folder.journal()[0]["timestamp"] > before[0]["timestamp"], "it was trained again"
    assert "best_sum" in folder.weight_names()


@pytest.mark.parametrize(
    ("text", "count"),
    [("50GB", 50 * 10**9), ("1.5 TB", 1.5e12), ("800m", 8 * 10**8), ("12", 12), ("7kB", 7000)],
)
def test_sizes_are_read(text: str, count: float) -> None:
    assert bytes_in(text) == count


@pytest.mark.parametrize("text", ["", "much", "0", "-3GB", "3 GiB", "0GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="--disk"):
        bytes_in(text)


def test_sizes_are_told_in_words() -> None:
    assert [size_in_words(count) for count in (0, 999, 1000, 1_450_000_000)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "1.4 GB",
    ]


def test_a_budget_counts_what_is_there_and_what_those_that_run_will_need(tmp_path: Path) -> None:
    (tmp_path / "trials" / "a").mkdir(parents=True)
    (tmp_path / "trials" / "a" / "checkpoint.pt").write_bytes(bytes(300))
    (tmp_path / "other").write_bytes(bytes(100))
    budget = Budget(tmp_path, 1000, {"a": 400, "b": 500, "c": 600})
    assert budget.admits("a", ())
    budget.recount()
    assert budget.admits("b", {"a"}), "100 + 400 + 500, of which 300 are there"
    assert not budget.admits("c", {"a"})
    budget.recount()
    assert budget.admits("c", ()), "300 + 100 + 600"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_runs")
def test_a_sweep_stays_within_its_bytes_and_says_what_had_no_room(
    write_sweep: Callable[..., Path], tmp_path: Path, console: Console
) -> None:
    small = {"model: {name: small_cnn, width: 0.5}": "model: {name: small_cnn, width: 3.0}"}
    sweep, store = load_sweep(write_sweep(replaced=small), sets=["seeds=0"]), Store(tmp_path / "store")
    needed = estimate_bytes(plan(sweep, store.path))
    assert needed is not None
    resources = Resources(disk=needed - 2_500_000, concurrent=1)
    outcome = run_sweep(sweep, store, tracking.default_uri(store.path), resources=resources, console=console)
    assert (len(outcome.done), outcome.exit_code) == (1, 1)
    ((name, reason),) = outcome.failed.items()
    assert name == "trades seed=0"
    assert reason.startswith("no room: the store has")
    assert "raise --disk" in reason
    again = run_sweep(sweep, store, tracking.default_uri(store.path), console=console)
    assert (again.exit_code, len(again.done), again.reused) == (0, 1, 1)
