"""`ham evaluate`: trained trials are attacked as Ray tasks, continue after any end, and are never trained. Real Ray."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from ham_core.errors import RequestError
from ham_core.folder import TrialFolder
from ham_core.protocol import Evaluation, EvaluationAttack
from orchestration import engine, runner, tracking
from orchestration.cli import app
from orchestration.runner import Resources, run_evaluations, run_sweep
from orchestration.store import Store
from orchestration.sweep import Planned, load_sweep
from tests.commands import start

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]

SWEEP = """\
trial:
  data: {name: digits, train_limit: 200, test_limit: 40}
  model: {name: small_cnn, width: 0.5}
  epsilon: 0.1
  attack: {steps: 2, mode: eval}
  epochs: 3
  batch_size: 32
  selection.steps: 2
grid:
  methods: {method: [at, trades]}
seeds: [0, 1]
evaluate: [clean, pgd2]
"""
FEW_QUERIES = EvaluationAttack(kind="square", queries=20)
APGD = EvaluationAttack(kind="apgd-ce")
AUTOATTACK = EvaluationAttack(kind="autoattack")


def evaluation(attack: EvaluationAttack, weights: str = "last") -> Evaluation:
    return Evaluation(weights=weights, attack=attack)


def quiet() -> Console:
    return Console(file=open(os.devnull, "w"), width=200)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, ray_runs: dict[str, Any]) -> Path:
    """A folder with small.yaml and the store of its trained trials."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "small.yaml").write_text(SWEEP, encoding="utf-8")
    sweep, store = load_sweep(str(folder / "small.yaml")), Store(folder / "store")
    outcome = run_sweep(sweep, store, tracking.default_uri(store.path), console=quiet())
    assert (outcome.exit_code, len(outcome.done)) == (0, 4)
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed. Its record is made anew, because it names its artifacts by their old place."""
    shutil.copytree(trained, tmp_path / "copy")
    for path in (tmp_path / "copy" / "store").glob("mlflow.db*"):
        path.unlink()
    sweep, store = load_sweep(str(tmp_path / "copy" / "small.yaml")), Store(tmp_path / "copy" / "store")
    assert run_sweep(sweep, store, tracking.default_uri(store.path), console=quiet()).reused == 4
    return tmp_path / "copy"


@pytest.fixture
def asked(place: Path) -> Callable[..., list[Planned]]:
    """asked(evaluation, ...) -> the sweep's trials, with these evaluations."""

    def ask(*evaluations: Evaluation) -> list[Planned]:
        planned = load_sweep(str(place / "small.yaml")).trials
        return [replace(one, evaluations=evaluations) for one in planned]

    return ask


def run(jobs: Sequence[Planned], place: Path, console: Console | None = None, **resources: Any) -> Any:
    store = Store(place / "store")
    uri = tracking.default_uri(store.path)
    return run_evaluations(jobs, store, uri, resources=Resources(**resources), console=console or quiet())


def run_unbroken(jobs: Sequence[Planned], place: Path, attack: str) -> dict[str, Any]:
    """What run_trial itself stores in a copy, one trial after the other in this process."""
    from ham_core.run import run_trial

    other = place.with_name("unbroken")
    shutil.copytree(place / "store" / "trials", other / "store" / "trials")
    for job in jobs:
        list(run_trial(job.trial, Store(other / "store").folder(job.fingerprint), job.evaluations))
    return per_image(other, attack)


def per_image(place: Path, attack: str) -> dict[str, Any]:
    """{fingerprint of the trial: the arrays that are stored for this attack}."""
    found = {}
    for path in (place / "store" / "trials").iterdir():
        for record in TrialFolder(path).evaluations():
            if record["attack_name"] == attack:
                found[path.name] = TrialFolder(path).predictions(record["fingerprint"])
    return found


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for trial, arrays in expected.items():
        assert found[trial].keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[trial][name], array)


def training_files(place: Path) -> dict[Path, tuple[int, bytes]]:
    """When and with what everything was written that training leaves behind."""
    trials = place / "store" / "trials"
    patterns = ("*/journal.jsonl", "*/checkpoint.pt", "*/done.json", "*/trial.json", "*/weights/*")
    found = [path for pattern in patterns for path in trials.glob(pattern)]
    return {path.relative_to(trials): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def statuses(place: Path) -> list[str]:
    return [one.status for one in tracking.read_trials(tracking.default_uri(place / "store"), "small")]


def ham(*arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command in this process."""
    outcome = CliRunner().invoke(app, list(arguments))
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.exit_code, outcome.stdout, outcome.stderr


# as Ray tasks --------------------------------------------------------------------------------------------------------


def test_several_trials_are_ray_tasks_with_the_results_of_this_process_and_train_nothing(
    place: Path, asked: Callable[..., list[Planned]], console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, before = asked(evaluation(APGD), evaluation(FEW_QUERIES)), training_files(place)
    tasks: list[Any] = []
    through = engine.run
    monkeypatch.setattr(
        engine,
        "run",
        lambda given, **more: (tasks.append((list(given.entries.values()), more)), through(given, **more))[1],
    )
    outcome = run(jobs, place, console, concurrent=2)
    assert (outcome.exit_code, outcome.reused, outcome.failed) == (0, 0, {})
    assert sorted(outcome.done) == sorted(job.fingerprint for job in jobs)
    ((entries, options),) = tasks
    assert [entry["train"] for entry in entries] == [False] * 4
    assert options["concurrent"] == 2
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert told.count("is evaluated") == 4
    assert told.count("last/square_q20") == 4
    assert training_files(place) == before
    for attack in ("apgd_ce", "square_q20"):
        assert_same(per_image(place, attack), run_unbroken(jobs, place, attack))
        shutil.rmtree(place.with_name("unbroken"))
    assert statuses(place) == ["FINISHED"] * 4
    runs = tracking.read_trials(tracking.default_uri(place / "store"), "small")
    assert all("last/square_q20/worst" in one.metrics for one in runs)

    again = run(jobs, place)
    assert (again.exit_code, again.reused, again.done) == (0, 4, [])
    assert len(tasks) == 1, "what is there is not attacked again"


def test_a_single_trial_is_evaluated_in_this_process(
    place: Path, asked: Callable[..., list[Planned]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "cluster", None)  # would be called
    devices: list[str] = []
    here = runner.run_here
    monkeypatch.setattr(runner, "run_here", lambda *a, **k: (devices.append(k["device"]), here(*a, **k))[1])
    jobs = asked(evaluation(FEW_QUERIES))
    assert run(jobs[:1], place).exit_code == 0
    assert list(per_image(place, "square_q20")) == [jobs[0].fingerprint]
    assert run(jobs[1:2], place, gpus_per_trial=0).exit_code == 0
    assert devices == ["auto", "cpu"]


def test_a_cluster_that_was_asked_for_is_used_for_a_single_trial(
    place: Path, asked: Callable[..., list[Planned]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "run_here", None)
    jobs = asked(evaluation(FEW_QUERIES))[:1]
    assert run(jobs, place, address="auto").exit_code == 0
    monkeypatch.undo()
    assert run(jobs, place, address="auto").reused == 1


def test_impossible_resources_are_refused_for_a_single_trial_too(
    place: Path, asked: Callable[..., list[Planned]]
) -> None:
    with pytest.raises(RequestError, match="--concurrent: 0 is too few"):
        run(asked(evaluation(APGD))[:1], place, concurrent=0)


def test_a_worker_that_is_killed_within_autoattack_is_replaced_and_goes_on(
    place: Path, asked: Callable[..., list[Planned]], console: Console
) -> None:
    jobs, before = asked(evaluation(AUTOATTACK))[:2], training_files(place)
    expected = run_unbroken(jobs, place, "autoattack")
    folder = Store(place / "store").folder(jobs[0].fingerprint).path
    killer = threading.Thread(target=kill_the_evaluator, args=(folder,))
    killer.start()
    outcome = run(jobs, place, console)
    killer.join()
    assert (outcome.exit_code, outcome.failed) == (0, {})
    assert "tries again" in console.file.getvalue()  # type: ignore[attr-defined]
    assert_same(per_image(place, "autoattack"), expected)
    assert training_files(place) == before
    assert not list(folder.glob("evaluations/*.partial.npz"))


def kill_the_evaluator(folder: Path) -> None:
    """Kill -9 whoever holds the trial's lock, once a part of AutoAttack is done."""
    deadline = time.monotonic() + 90
    while not list(folder.glob("evaluations/*.partial.npz")):
        if time.monotonic() > deadline:
            return  # the test says that nothing was tried again
        time.sleep(0.01)
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            opened = {os.readlink(link) for link in (process / "fd").iterdir()}
        except OSError:
            continue
        if str(folder / "lock") in opened:
            os.kill(int(process.name), signal.SIGKILL)


def test_a_killed_and_an_interrupted_command_go_on_to_the_same_results(
    place: Path, asked: Callable[..., list[Planned]]
) -> None:
    jobs = [job for job in asked(evaluation(AUTOATTACK)) if job.seed == 0]
    before, expected = training_files(place), run_unbroken(jobs, place, "autoattack")
    command = ("evaluate", "--sweep", "small.yaml", "--set", "seeds=0", "--store", "store", "--json")
    command += ("--attack", "autoattack", "--weights", "last", "--concurrent", "1")

    process = start(place, *command)
    wait_for(process, lambda: bool(list(place.glob("store/trials/*/evaluations/*.partial.npz"))))
    process.kill()
    process.communicate()
    assert per_image(place, "autoattack") == {}

    process = start(place, *command)
    wait_for(process, lambda: len(per_image(place, "autoattack")) == 1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: Ray's own processes get it too
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted; the same command continues" in err
    assert "Traceback" not in err
    assert len(json.loads(out)["evaluations"]) == 1
    assert statuses(place) == ["FINISHED"] * 4, "the trials are as trained as before"

    process = start(place, *command)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert len(json.loads(out)["evaluations"]) == 2
    assert_same(per_image(place, "autoattack"), expected)
    assert training_files(place) == before
    assert statuses(place) == ["FINISHED"] * 4


def wait_for(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


# what is not trained, and what fails -----------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [True, False])
def test_a_trial_that_is_not_trained_fails_and_stays_as_it_is(
    several: bool, place: Path, asked: Callable[..., list[Planned]]
) -> None:
    jobs = asked(evaluation(FEW_QUERIES))
    jobs = jobs if several else jobs[:1]
    folder = Store(place / "store").folder(jobs[0].fingerprint)
    (folder.path / "done.json").unlink()
    before = training_files(place)
    outcome = run(jobs, place)
    assert (outcome.exit_code, len(outcome.done)) == (1, len(jobs) - 1)
    assert list(outcome.failed) == ["at seed=0"]
    assert "is not trained, or keeps other averages (3 of 3 epochs are done)" in outcome.failed["at seed=0"]
    assert training_files(place) == before


def test_an_attack_that_fails_leaves_the_run_finished(
    place: Path, asked: Callable[..., list[Planned]]
) -> None:
    jobs = asked(evaluation(FEW_QUERIES))
    (Store(place / "store").folder(jobs[0].fingerprint).path / "weights" / "last.pt").unlink()
    outcome = run(jobs, place)
    assert (outcome.exit_code, len(outcome.done), list(outcome.failed)) == (1, 3, ["at seed=0"])
    assert "these weights were not kept" in outcome.failed["at seed=0"]
    assert statuses(place) == ["FINISHED"] * 4


def test_an_interruption_in_this_process_leaves_the_run_finished(
    place: Path, asked: Callable[..., list[Planned]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ham_core.run.run_trial", interrupt)
    assert run(asked(evaluation(FEW_QUERIES))[:1], place).exit_code == 130
    assert statuses(place) == ["FINISHED"] * 4


def test_trials_that_would_train_are_named_and_left_out(place: Path) -> None:
    (identity, *_) = Store(place / "store").trials()
    folder = Store(place / "store").folder(identity)
    (folder.path / "done.json").unlink()
    words = ("evaluate", "--sweep", str(place / "small.yaml"), "--store", str(place / "store"), "--json")
    attack = ("--attack", "pgd3", "--weights", "last", "--concurrent", "1")
    before = training_files(place)
    code, out, err = ham(*words, *attack)
    assert code == 0, err
    assert err.startswith("not trained yet: ")
    assert identity not in {one["trial"] for one in json.loads(out)["evaluations"]}
    assert len(json.loads(out)["evaluations"]) == 3

    code, out, err = ham(*words, *attack, "--set", "method.averaging=[{name: ema, decay: 0.5}]")
    assert (code, out) == (2, "")
    assert err.count("(an average of it was not kept)") == 3
    assert training_files(place) == before


# doubts and the curve --------------------------------------------------------------------------------------------------


def hide_gradients(folder: TrialFolder, weights: str) -> None:
    """Multiply the last layer by 1e6: the same predictions, and softmax and gradients are 0 and 1 in fp32."""
    state = folder.weights(weights)
    last = [name for name in state if state[name].is_floating_point() and state[name].dim() > 0][-2:]
    folder.save_weights(weights, {key: value * 1e6 if key in last else value for key, value in state.items()})


def test_doubts_are_shown_after_evaluations_and_sweeps(place: Path) -> None:
    store = ("--store", str(place / "store"))
    jobs = load_sweep(str(place / "small.yaml")).trials
    hide_gradients(Store(place / "store").folder(jobs[0].fingerprint), "last")
    code, out, err = ham(
        "evaluate", jobs[0].fingerprint, "--attack", "pgd3", "--weights", "best,last", *store
    )
    assert code == 0
    (line,) = [one for one in err.splitlines() if one.startswith("doubtful: ")]
    assert line.startswith("doubtful: at seed=0, last, pgd3: zero-gradients: for ")
    assert "doubtful" not in out
    code, out, err = ham(
        "evaluate", jobs[0].fingerprint, "--attack", "pgd3", "--weights", "best,last", *store, "--json"
    )
    best, last = json.loads(out)["evaluations"]
    assert best["doubts"] == []
    assert [line] == [f"doubtful: at seed=0, last, pgd3: {sentence}" for sentence in last["doubts"]]
    assert err.splitlines() == [line]

    asking = ("--set", "evaluate=[clean, pgd2, pgd3]", "--set", "seeds=0")
    code, out, err = ham("sweep", str(place / "small.yaml"), *asking, *store)
    assert code == 0, err
    assert [one for one in err.splitlines() if one.startswith("doubtful: ")] == [line]
    code, out, err = ham("sweep", str(place / "small.yaml"), *store)
    assert (code, "doubtful" in err) == (0, False), "only of what the sweep evaluates"


def test_the_curve_is_a_table_with_its_doubts_and_stores_nothing(place: Path) -> None:
    store = ("--store", str(place / "store"))
    jobs = load_sweep(str(place / "small.yaml")).trials
    folder = Store(place / "store").folder(jobs[0].fingerprint)
    hide_gradients(folder, "last")
    words = ("evaluate", jobs[0].fingerprint, "--curve", "--weights", "best,last", *store)
    before = {path: path.stat().st_mtime_ns for path in (place / "store").rglob("*")}
    code, out, err = ham(*words, "--json")
    assert code == 0, err
    best, last = json.loads(out)["curves"]
    assert (best["weights"], best["images"], best["doubts"]) == ("best", 40, [])
    assert [point["epsilon"] for point in best["curve"]] == [0.1, 0.2, 0.4, 0.8, 1.0]
    accuracies = [point["accuracy"] for point in best["curve"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[-1] == 0
    assert last["curve"][-1]["accuracy"] > 0.01
    assert last["doubts"][0].startswith("epsilon-curve: ")
    assert err.splitlines() == [f"doubtful: at seed=0, last, curve: {' | '.join(last['doubts'])}"]

    code, out, _ = ham(*words)
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["trial", "weights", "epsilon", "robust", "accuracy"]
    shown = [(row[2], row[3], float(row[4])) for row in rows[1:]]
    assert shown == [
        (one["weights"], f"{point['epsilon']:.4g}", round(100 * point["accuracy"], 1))
        for one in (best, last)
        for point in one["curve"]
    ]
    assert {path: path.stat().st_mtime_ns for path in (place / "store").rglob("*")} == before


def test_the_curve_of_a_trial_is_that_of_its_weights_and_seed(place: Path) -> None:
    from ham_core import doubts
    from ham_core.network import build_model
    from ham_core.randomness import derived_seed
    from ham_core.training import load_data
    from orchestration.curve import epsilon_curve

    (job, *_) = load_sweep(str(place / "small.yaml")).trials
    folder = Store(place / "store").folder(job.fingerprint)
    dataset = load_data(job.trial, torch.device("cpu"))
    model = build_model(job.trial, dataset, torch.device("cpu"))
    model.load_state_dict(folder.weights("best"))
    seed = derived_seed(job.trial.seed, "evaluation")
    _, expected = doubts.as_epsilon_grows(model, dataset.test, epsilon=job.trial.epsilon, seed=seed)
    found = epsilon_curve(job.trial, folder, "best", device="cpu")
    assert {point["epsilon"]: point["accuracy"] for point in found["curve"]} == expected


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--attack", "pgd2"), "leave out --attack"),
        (("--concurrent", "2", "--address", "auto"), "leave out --concurrent and --address"),
        (("--weights", "best_seat"), "weights 'best_seat' were not kept"),
        (("--threads", "100000"), "--threads: 100000 threads per trial"),
    ],
)
def test_the_curve_refuses_what_it_cannot_do(trained: Path, flags: tuple[str, ...], sentence: str) -> None:
    (identity, *_) = Store(trained / "store").trials()
    code, out, err = ham("evaluate", identity, "--curve", *flags, "--store", str(trained / "store"))
    assert (code, out) == (2, "")
    assert sentence in err
