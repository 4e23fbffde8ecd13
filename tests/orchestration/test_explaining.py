"""Why a trial stands as it does, and in which settings two trials differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ham_core.errors import RequestError
from ham_core.folder import read_json, write_json
from ham_core.run import run_trial
from orchestration import explaining
from orchestration.sweep import load_sweep
from tests.orchestration.keeping import ONE, WARM, ham, started

Write = Callable[..., Path]


def test_a_missing_trial_names_the_nearest_one_and_the_setting_that_differs(
    write_sweep: Write, tmp_path: Path
) -> None:
    store, _ = started(
        write_sweep(), tmp_path / "s", trained=lambda name: name in ("at seed=0", "trades seed=0")
    )
    answer = explaining.explain(store, explaining.find(store, "at seed=1"))
    assert (answer["status"], answer["why"]) == ("missing", "no folder in the store")
    assert answer["nearest"]["fingerprint"] == explaining.find(store, "at seed=0").fingerprint
    assert answer["nearest"]["differs"] == [{"setting": "seed", "here": 1, "there": 0, "identity": True}]
    assert answer["sweeps"] == ["tiny"]


def test_a_changed_digest_of_the_images_is_named(write_sweep: Write) -> None:
    (planned,) = load_sweep(write_sweep(), sets=ONE).trials
    data = planned.trial.data.model_copy(update={"train_digest": "0" * 64})
    changed = planned.trial.model_copy(update={"data": data})
    (difference,) = explaining.differences(changed, planned.trial)
    assert difference == {
        "setting": "data.train_digest",
        "here": "0" * 64,
        "there": planned.trial.data.train_digest,
        "identity": True,
    }


def test_averages_and_names_are_no_part_of_the_fingerprint(write_sweep: Write) -> None:
    (planned,) = load_sweep(write_sweep(), sets=ONE).trials
    method = planned.trial.method.model_copy(update={"averaging": ()})
    data = planned.trial.data.model_copy(update={"label": "other"})
    other = planned.trial.model_copy(update={"method": method, "data": data})
    found = {one["setting"]: one["identity"] for one in explaining.differences(planned.trial, other)}
    assert found == {"method.averaging": False, "data.label": False}


def test_parts_that_only_one_has_count_with_their_defaults(write_sweep: Write) -> None:
    at, trades = load_sweep(write_sweep(), sets=["seeds=0"]).trials
    found = {one["setting"]: one for one in explaining.differences(at.trial, trades.trial)}
    assert found["method.objective.beta"] == {
        "setting": "method.objective.beta",
        "here": None,
        "there": 6.0,
        "identity": True,
    }
    assert "epochs" not in found


def test_a_trial_whose_average_was_not_kept_trains_again(write_sweep: Write, tmp_path: Path) -> None:
    store, sweep = started(write_sweep(), tmp_path / "s", sets=ONE)
    record = sweep.trials[0].fingerprint
    path = store.folder(record).path / "trial.json"
    recorded = read_json(path)
    assert recorded is not None
    recorded["trial"]["method"]["averaging"] = []
    write_json(path, recorded)
    answer = explaining.explain(store, explaining.find(store, record[:8]))
    assert (answer["status"], answer["why"]) == ("trains again", "average 'ema' was not kept, trains again")


def test_states_of_a_trial_are_told_apart(write_sweep: Write, tmp_path: Path) -> None:
    store, _ = started(
        write_sweep(),
        tmp_path / "s",
        trained=lambda name: name == "at seed=0",
        failed={"trades seed=0": "NaN"},
    )

    def status(word: str) -> str:
        return str(explaining.explain(store, explaining.find(store, word))["status"])

    failed = explaining.explain(store, explaining.find(store, "trades seed=0"))
    assert failed["why"] == "NaN; no folder in the store; the next sweep tries again"
    assert [status(word) for word in ("at seed=0", "at seed=1", "trades seed=0")] == [
        "done",
        "missing",
        "failed",
    ]
    folder = store.folder(explaining.find(store, "at seed=0").fingerprint)
    with folder.lock():
        assert status("at seed=0") == "running"
    (folder.path / "journal.jsonl").write_bytes(b"")
    mendable = explaining.explain(store, explaining.find(store, "at seed=0"))
    assert (mendable["status"], mendable["why"]) == (
        "partial",
        "trained; its journal is damaged, the checkpoint has it too",
    )
    (folder.path / "checkpoint.pt").unlink()
    damaged = explaining.explain(store, explaining.find(store, "at seed=0"))
    assert damaged["status"] == "damaged"
    assert "holds 0 of 2 epochs" in damaged["why"]


def test_what_a_trial_waits_for_is_named(write_sweep: Write, tmp_path: Path) -> None:
    store, sweep = started(
        write_sweep(replaced=WARM), tmp_path / "s", sets=("seeds=0",), trained=lambda name: False
    )
    start, user = sweep.trials
    waiting = explaining.explain(store, explaining.find(store, user.fingerprint))
    assert waiting["why"] == f"no folder in the store; waits for {start.fingerprint[:10]}"
    needed = explaining.explain(store, explaining.find(store, start.fingerprint))
    assert "no grid asks for it" in needed["why"]


def test_a_trial_of_no_sweep_is_known_by_its_fingerprint(write_sweep: Write, tmp_path: Path) -> None:
    store, _ = started(write_sweep(), tmp_path / "s", sets=ONE)
    alone = load_sweep(write_sweep(), sets=["seeds=7", "grid.methods.method=[at]", "epochs=1"]).trials[0]
    list(run_trial(alone.trial, store.folder(alone.fingerprint), device="cpu"))
    answer = explaining.explain(store, explaining.find(store, alone.fingerprint[:9]))
    assert (answer["status"], answer["trial"], answer["sweeps"]) == ("done", "at seed=7", [])


def test_a_row_that_several_trials_share_needs_more_letters(write_sweep: Write, tmp_path: Path) -> None:
    store, _ = started(write_sweep(), tmp_path / "s", trained=lambda name: False)
    with pytest.raises(RequestError) as error:
        explaining.find(store, "at")
    assert "'at' means 2 trials" in str(error.value)
    assert "at seed=1" in str(error.value)
    with pytest.raises(RequestError) as error:
        explaining.find(store, "att seed=0")
    assert "did you mean at seed=0?" in str(error.value)


def test_the_sweep_is_read_as_it_was_started_although_its_file_is_gone(
    write_sweep: Write, tmp_path: Path
) -> None:
    path = write_sweep()
    store, _ = started(path, tmp_path / "s", trained=lambda name: False)
    path.unlink()
    assert explaining.explain(store, explaining.find(store, "trades seed=1"))["status"] == "missing"


# the command -------------------------------------------------------------------------------------------------------


def test_explain_tells_a_trial_and_two_trials_from_a_cell(write_sweep: Write, tmp_path: Path) -> None:
    place = ("--store", tmp_path / "s")
    started(write_sweep(), tmp_path / "s", trained=lambda name: name == "at seed=0")
    code, out, _ = ham("explain", "at seed=1", *place)
    assert code == 0
    assert "missing: no folder in the store" in out
    assert "nearest trial in the store" in out
    two = ham("explain", "at seed=1", "trades seed=1", *place, "--json")
    flag = ham("explain", "at seed=1", "--against", "trades seed=1", *place, "--json")
    assert two == flag
    answer = json.loads(two[1])
    assert {"setting": "method.objective.name", "here": "at", "there": "trades", "identity": True} in answer[
        "differs"
    ]
    code, _, err = ham("explain", "at seed=1", "trades seed=1", "--against", "at seed=0", *place)
    assert (code, "give one trial to compare with" in err) == (2, True)
    code, _, err = ham("explain", "table", "row", "column", "--against", "at seed=0", *place)
    assert (code, "a cell is TABLE ROW COLUMN" in err) == (2, True)


def test_explain_finds_a_trial_of_a_sweep_file_that_was_never_started(
    write_sweep: Write, tmp_path: Path
) -> None:
    code, out, err = ham("explain", "trades seed=1", "--store", tmp_path / "s", "--sweep", write_sweep())
    assert (code, err) == (0, "")
    assert "missing: no folder in the store" in out
    code, _, err = ham("explain", "trades seed=1", "--store", tmp_path / "s")
    assert code == 2
    assert "found with --sweep FILE" in err
