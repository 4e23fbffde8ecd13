"""A sweep against a store: what is done, what is missing, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ham_core.errors import RequestError
from ham_core.folder import TrialFolder
from ham_core.protocol import evaluation_fingerprint
from orchestration.plan import Plan, Step, plan
from orchestration.sweep import Planned, Sweep, load_sweep

SWEEP = """\
trial: {data: digits, method: at, epochs: 2}
grid: {epsilon: [0.1]}
evaluate: [clean, pgd20]
weights: [best]
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return written(tmp_path, SWEEP)


def written(folder: Path, text: str) -> Sweep:
    path = folder / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return load_sweep(path)


def folder_of(planned: Planned, store: Path) -> TrialFolder:
    return TrialFolder.of(store, planned.fingerprint)


def train(planned: Planned, store: Path, epochs: int) -> TrialFolder:
    """What a training of that many epochs leaves behind, as far as planning looks."""
    folder = folder_of(planned, store)
    folder.create(planned.trial)
    for epoch in range(folder.epochs_done(), epochs):
        folder.append({"epoch": epoch, "metrics": {}})
    if epochs == planned.trial.epochs:
        folder.finish({"epochs": epochs})
    return folder


def evaluate(planned: Planned, store: Path, *names: str) -> None:
    places = folder_of(planned, store).path / "evaluations"
    places.mkdir(exist_ok=True)
    for one in planned.evaluations:
        if one.name in names:
            (places / f"{evaluation_fingerprint(planned.trial, one)}.json").write_text("{}", encoding="utf-8")


def only(found: Plan) -> Step:
    assert len(found.steps) == 1
    return found.steps[0]


def test_a_trial_without_a_folder_is_missing(sweep: Sweep, tmp_path: Path) -> None:
    step = only(plan(sweep, tmp_path / "store"))
    assert (step.status, step.why, step.epochs_left) == ("missing", "no folder in the store", 2)
    assert [one.name for one in step.evaluations_left] == ["best/clean", "best/pgd20"]
    assert not (tmp_path / "store").exists()


def test_a_trial_that_is_half_trained_is_partial(sweep: Sweep, tmp_path: Path) -> None:
    train(sweep.trials[0], tmp_path, 1)
    step = only(plan(sweep, tmp_path))
    assert (step.status, step.why, step.epochs_left) == ("partial", "1 of 2 epochs trained", 1)


def test_a_torn_line_of_the_journal_is_no_epoch(sweep: Sweep, tmp_path: Path) -> None:
    folder = train(sweep.trials[0], tmp_path, 1)
    with open(folder.path / "journal.jsonl", "a", encoding="utf-8") as file:
        file.write('{"epoch": 1, "met')
    assert only(plan(sweep, tmp_path)).why == "1 of 2 epochs trained"


def test_missing_evaluations_are_named(sweep: Sweep, tmp_path: Path) -> None:
    train(sweep.trials[0], tmp_path, 2)
    step = only(plan(sweep, tmp_path))
    assert (step.status, step.epochs_left) == ("partial", 0)
    assert step.why == "trained; evaluation best/clean and 1 more missing"
    evaluate(sweep.trials[0], tmp_path, "best/clean")
    step = only(plan(sweep, tmp_path))
    assert step.why == "trained; evaluation best/pgd20 missing"
    assert [one.name for one in step.evaluations_left] == ["best/pgd20"]


def test_a_complete_trial_is_done_and_stays_done_under_another_name(sweep: Sweep, tmp_path: Path) -> None:
    train(sweep.trials[0], tmp_path, 2)
    evaluate(sweep.trials[0], tmp_path, "best/clean", "best/pgd20")
    step = only(plan(sweep, tmp_path))
    assert (step.status, step.why, step.epochs_left, step.evaluations_left) == ("done", "complete", 0, ())
    renamed = written(tmp_path, SWEEP.replace("{epsilon: [0.1]}", "{other: {epsilon: [0.1]}}"))
    assert only(plan(renamed, tmp_path)).status == "done"


def test_another_attack_trains_nothing(sweep: Sweep, tmp_path: Path) -> None:
    train(sweep.trials[0], tmp_path, 2)
    evaluate(sweep.trials[0], tmp_path, "best/clean", "best/pgd20")
    step = only(plan(written(tmp_path, SWEEP.replace("[clean, pgd20]", "[clean, pgd20, cw20]")), tmp_path))
    assert (step.status, step.epochs_left) == ("partial", 0)
    assert [one.name for one in step.evaluations_left] == ["best/cw20"]


def test_one_more_value_in_a_grid_is_one_more_trial(sweep: Sweep, tmp_path: Path) -> None:
    train(sweep.trials[0], tmp_path, 2)
    evaluate(sweep.trials[0], tmp_path, "best/clean", "best/pgd20")
    found = plan(written(tmp_path, SWEEP.replace("[0.1]", "[0.1, 0.2]")), tmp_path)
    assert [step.status for step in found.steps] == ["done", "missing"]
    assert found.summary == {"trials": 2, "done": 1, "stopped": 0, "partial": 0, "missing": 1}
    assert [step.planned.values["epsilon"] for step in found.todo] == [0.2]


def test_an_average_that_was_not_kept_trains_again(sweep: Sweep, tmp_path: Path) -> None:
    train(sweep.trials[0], tmp_path, 2)
    evaluate(sweep.trials[0], tmp_path, "best/clean", "best/pgd20")
    both = "method.averaging: [ema, {name: ema, decay: 0.5, label: fast}]"
    step = only(plan(written(tmp_path, SWEEP.replace("epochs: 2", f"epochs: 2, {both}")), tmp_path))
    assert (step.status, step.why) == ("partial", "average 'fast' was not kept, trains again")
    assert (step.epochs_left, step.retrains) == (2, True)
    fewer = written(tmp_path, SWEEP.replace("epochs: 2", "epochs: 2, method.averaging: none"))
    assert only(plan(fewer, tmp_path)).status == "done"


def test_damaged_folders_are_told_all_at_once(tmp_path: Path) -> None:
    two = written(tmp_path, SWEEP.replace("[0.1]", "[0.1, 0.2]"))
    for planned in two.trials:
        (train(planned, tmp_path, 1).path / "trial.json").write_text("{", encoding="utf-8")
    with pytest.raises(RequestError) as caught:
        plan(two, tmp_path)
    assert len(caught.value.problems) == 2
    assert "trial.json: is damaged" in caught.value.problems[0]


def test_the_plan_as_json_has_status_and_why_of_every_trial(sweep: Sweep, tmp_path: Path) -> None:
    found: dict[str, Any] = json.loads(json.dumps(plan(sweep, tmp_path).to_json()))
    planned = sweep.trials[0]
    assert found == {
        "sweep": "x",
        "profile": None,
        "trials": [
            {
                "fingerprint": planned.fingerprint,
                "status": "missing",
                "why": "no folder in the store",
                "label": "at",
                "row": "at epsilon=0.1",
                "seed": 0,
                "grids": ["grid"],
                "values": {"epsilon": 0.1},
                "needs": [],
                "epochs_left": 2,
                "epochs_adopted": 0,
                "evaluations_left": ["best/clean", "best/pgd20"],
            }
        ],
        "summary": {"trials": 1, "done": 0, "stopped": 0, "partial": 0, "missing": 1},
        "epochs": {"left": 2, "unshared": 2},
    }


def test_the_plan_prints_origins_on_request(sweep: Sweep, tmp_path: Path) -> None:
    origins = plan(sweep, tmp_path).to_json(origins=True)["trials"][0]["origins"]
    assert origins["epsilon"] == f"{tmp_path / 'x.yaml'}:2"
    assert origins["optimizer.lr"] == "preset at"
    assert origins["optimizer.nesterov"] == "default"


def test_a_finished_trial_without_its_journal_is_never_done(sweep: Sweep, tmp_path: Path) -> None:
    folder = train(sweep.trials[0], tmp_path, 2)
    evaluate(sweep.trials[0], tmp_path, "best/clean", "best/pgd20")
    assert only(plan(sweep, tmp_path)).status == "done"
    (folder.path / "journal.jsonl").unlink()
    with pytest.raises(RequestError, match=r"journal\.jsonl: holds 0 of 2 epochs"):
        plan(sweep, tmp_path)


def test_a_class_that_would_have_no_training_image_is_named(tmp_path: Path) -> None:
    found = written(tmp_path, SWEEP.replace("data: digits", "data: {name: digits, train_limit: 5}"))
    with pytest.raises(
        RequestError, match=r"holds out all 1 training images of class '0' that data\.train_limit: 5"
    ):
        plan(found, tmp_path / "store")


# trials that start from others -----------------------------------------------------------------------------------

STARTS = """\
trial: {data: digits, epochs: 4, epsilon: 0.1, augment.padding: zeros, model.normalize: true, method.averaging: none}
grid:
  a: {method: [at], start_from: {method: trades, weights: best}}
evaluate: [clean]
weights: [best]
"""


def test_an_attack_that_needs_more_classes_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAM_DATA", str(tmp_path / "cache"))
    text = SWEEP.replace("[clean, pgd20]", "[clean, apgd-ce, autoattack]")
    for count in (4, 3):
        photos = tmp_path / f"photos{count}"
        for place in (photos / part / name for part in ("train", "test") for name in "abcd"[:count]):
            place.mkdir(parents=True)
            for k in range(2):
                (place / f"{k}.png").write_bytes(b"a plan decodes no picture")
        found = written(tmp_path, text.replace("data: digits", f"data: {photos}/"))
        if count == 4:
            assert len(plan(found, tmp_path / "store").todo) == 1
    with pytest.raises(RequestError) as refused:
        plan(found, tmp_path / "store")
    (sentence,) = refused.value.problems
    assert sentence.startswith(
        f"evaluate: autoattack on {photos}: apgd-t compares four logits, and there are 3"
    )


# trials that start from others -----------------------------------------------------------------------------------

STARTS = """\
trial: {data: digits, epochs: 4, epsilon: 0.1, augment.padding: zeros, model.normalize: true, method.averaging: none}
grid:
  a: {method: [at], start_from: {method: trades, weights: best}}
evaluate: [clean]
weights: [best]
"""


def test_what_is_needed_comes_first_and_the_others_say_that_they_wait(tmp_path: Path) -> None:
    found = plan(written(tmp_path, STARTS), tmp_path / "store")
    start, user = found.steps
    assert [step.planned.row for step in found.steps] == ["trades (start of at)", "at"]
    assert (start.why, start.epochs_left) == ("no folder in the store", 4)
    assert user.why == "no folder in the store; waits for trades (start of at)"
    entries = found.to_json()["trials"]
    assert [one["needs"] for one in entries] == [[], [start.planned.fingerprint]]
    assert found.to_json(origins=True)["trials"][1]["origins"]["start_from.trial.epochs"].endswith("x.yaml:1")
    train(start.planned, tmp_path / "store", 4)
    start, user = plan(written(tmp_path, STARTS), tmp_path / "store").steps
    assert (start.status, user.why) == ("done", "no folder in the store")


def test_a_start_that_nobody_needs_any_more_is_not_trained(tmp_path: Path) -> None:
    found = written(tmp_path, STARTS)
    train(found.trials[1], tmp_path, 4)
    evaluate(found.trials[1], tmp_path, "best/clean")
    start, user = plan(found, tmp_path).steps
    assert (start.status, start.epochs_left, user.status) == ("done", 0, "done")
    assert start.why == "no longer needed: what uses it is trained"


def test_a_start_is_not_trained_again_for_averages_that_nobody_asks_for(tmp_path: Path) -> None:
    found = written(tmp_path, STARTS)
    start = found.trials[0]
    assert [one.key for one in start.trial.method.averaging] == ["ema"]
    bare = start.trial.model_copy(update={"method": start.trial.method.model_copy(update={"averaging": ()})})
    folder = folder_of(start, tmp_path)
    folder.create(bare)
    for epoch in range(4):
        folder.append({"epoch": epoch, "metrics": {}})
    folder.finish({"epochs": 4})
    assert plan(found, tmp_path).steps[0].status == "done"
    asking = written(tmp_path, STARTS.replace("weights: best}", "weights: best_ema}"))
    step = plan(asking, tmp_path).steps[0]
    assert (step.why, step.retrains) == ("average 'ema' was not kept, trains again", True)


def test_a_half_trained_start_is_partial_like_any_trial(tmp_path: Path) -> None:
    found = written(tmp_path, STARTS)
    train(found.trials[0], tmp_path, 2)
    step = plan(found, tmp_path).steps[0]
    assert (step.status, step.why) == ("partial", "2 of 4 epochs trained")
