"""What may be deleted from a store: never what a started sweep needs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from ham_core.folder import TrialFolder, read_json, write_json
from ham_core.run import run_trial
from orchestration import garbage
from orchestration.status import status
from orchestration.store import Store
from orchestration.sweep import load_sweep
from tests.orchestration.keeping import ONE, WARM, ham, started

Write = Callable[..., Path]
OLD = 1.0  # seconds since 1970


def kinds(store: Store, folder: TrialFolder) -> dict[str, list[str]]:
    """{kind: file names} of what could go of one trial."""
    found: dict[str, list[str]] = {}
    for item in garbage.listed(store):
        if folder.path in (item.path, *item.path.parents):
            found.setdefault(item.kind, []).append(item.path.name)
    return found


def test_a_finished_trial_keeps_the_weights_that_were_attacked(write_sweep: Write, tmp_path: Path) -> None:
    store, sweep = started(write_sweep(), tmp_path / "s", sets=ONE)
    folder = store.folder(sweep.trials[0].fingerprint)
    found = kinds(store, folder)
    assert found["checkpoints"] == ["checkpoint.pt"]
    assert set(found["weights"]) == {f"{name}.pt" for name in folder.weight_names()} - {"best.pt", "last.pt"}
    assert "folders" not in found


def test_a_list_deletes_nothing_and_delete_deletes_what_was_listed(
    write_sweep: Write, tmp_path: Path
) -> None:
    store, sweep = started(write_sweep(), tmp_path / "s", sets=ONE)
    folder = store.folder(sweep.trials[0].fingerprint)
    sizes = [path.stat().st_size for path in [folder.path / "checkpoint.pt"]]
    code, out, _ = ham("gc", "--store", store.path, "--json")
    answer = json.loads(out)
    assert (code, answer["deleted"]) == (0, False)
    assert [one["bytes"] for one in answer["items"] if one["kind"] == "checkpoints"] == sizes
    assert answer["bytes"] == sum(one["bytes"] for one in answer["items"])
    assert (folder.path / "checkpoint.pt").exists()
    assert json.loads(ham("gc", "--store", store.path, "--delete", "--json")[1])["items"] == answer["items"]
    assert not (folder.path / "checkpoint.pt").exists()
    assert folder.weight_names() == ["best", "last"]
    assert status(store)["sweeps"][0]["counts"]["done"] == 1
    assert garbage.listed(store) == []


def test_only_limits_what_is_deleted(write_sweep: Write, tmp_path: Path) -> None:
    store, sweep = started(write_sweep(), tmp_path / "s", sets=ONE)
    folder = store.folder(sweep.trials[0].fingerprint)
    before = folder.weight_names()
    ham("gc", "--store", store.path, "--delete", "--only", "checkpoints")
    assert folder.weight_names() == before
    assert not (folder.path / "checkpoint.pt").exists()
    code, _, err = ham("gc", "--store", store.path, "--only", "checkpoint")
    assert code == 2
    assert "unknown word 'checkpoint'; known: checkpoints," in err


def test_nothing_of_an_unfinished_trial_or_of_its_start_goes(write_sweep: Write, tmp_path: Path) -> None:
    path = write_sweep(replaced=WARM)
    sweep = load_sweep(path, sets=["seeds=0"])
    start = sweep.trials[0]
    store, _ = started(
        path, tmp_path / "s", sets=("seeds=0",), trained=lambda name: name == f"{start.row} seed=0"
    )
    assert store.folder(start.fingerprint).is_done()
    assert garbage.listed(store) == []
    started(path, tmp_path / "s", sets=("seeds=0",))
    assert kinds(store, store.folder(start.fingerprint)) == {}  # a new value in the grid would go on from it
    user = store.folder(sweep.trials[1].fingerprint)
    assert kinds(store, user)["checkpoints"] == ["checkpoint.pt"]


def test_a_start_of_an_unfinished_trial_of_no_sweep_stays(write_sweep: Write, tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    start, user = load_sweep(write_sweep(replaced=WARM), sets=["seeds=0"]).trials
    list(run_trial(start.trial, store.folder(start.fingerprint), device="cpu"))
    assert kinds(store, store.folder(start.fingerprint))["checkpoints"] == ["checkpoint.pt"]
    store.folder(user.fingerprint).create(user.trial)
    assert kinds(store, store.folder(start.fingerprint)) == {}


def test_a_trained_trial_whose_evaluation_is_missing_keeps_everything(
    write_sweep: Write, tmp_path: Path
) -> None:
    store, sweep = started(write_sweep(), tmp_path / "s", sets=ONE)
    folder = store.folder(sweep.trials[0].fingerprint)
    next((folder.path / "evaluations").glob("*.json")).unlink()
    assert garbage.listed(store) == []


def test_weights_that_a_trial_began_with_stay(write_sweep: Write, tmp_path: Path) -> None:
    words = "method: [trades]\n    start_from: {method: at, epochs: 1, weights: best_worst}"
    path = write_sweep(replaced={"method: [at, trades]": words})
    store, sweep = started(path, tmp_path / "s", sets=("seeds=0",))
    start = next(one for one in sweep.trials if not one.grids)
    folder = store.folder(start.fingerprint)
    record = store.folder(sweep.trials[-1].fingerprint).evaluations()[0] | {"weights": "best"}
    folder.save_evaluation("0" * 64, record, {})  # attacked once, so that some weights may go
    left = {path.removesuffix(".pt") for path in kinds(store, folder)["weights"]}
    assert set(folder.weight_names()) - left == {"best", "best_worst"}


def test_a_running_trial_is_left_alone(write_sweep: Write, tmp_path: Path) -> None:
    store, sweep = started(write_sweep(), tmp_path / "s", sets=ONE)
    folder = store.folder(sweep.trials[0].fingerprint)
    listed = garbage.listed(store)
    with folder.lock():
        assert garbage.listed(store) == []
        assert garbage.delete(store, listed, garbage.KINDS) == []
    assert (folder.path / "checkpoint.pt").exists()


def test_what_became_needed_after_the_list_was_made_stays(write_sweep: Write, tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    start, user = load_sweep(write_sweep(replaced=WARM), sets=["seeds=0"]).trials
    list(run_trial(start.trial, store.folder(start.fingerprint), device="cpu"))
    listed = garbage.listed(store)
    store.folder(user.fingerprint).create(user.trial)
    assert garbage.delete(store, listed, garbage.KINDS) == []
    assert (store.folder(start.fingerprint).path / "checkpoint.pt").exists()


def test_trials_of_no_sweep_go_only_by_their_word(write_sweep: Write, tmp_path: Path) -> None:
    store, sweep = started(write_sweep(), tmp_path / "s", sets=ONE)
    alone = load_sweep(write_sweep(), sets=["seeds=7", "grid.methods.method=[at]", "epochs=1"]).trials[0]
    folder = store.folder(alone.fingerprint)
    list(run_trial(alone.trial, folder, device="cpu"))
    _, out, _ = ham("gc", "--store", store.path)
    assert "folders: 1" in out
    assert "unless --only folders is given" in out
    ham("gc", "--store", store.path, "--delete")
    assert folder.is_done()
    ham("gc", "--store", store.path, "--delete", "--only", "folders")
    assert store.trials() == [sweep.trials[0].fingerprint]


def test_temporary_files_go_when_they_are_old(write_sweep: Write, tmp_path: Path) -> None:
    store, sweep = started(write_sweep(), tmp_path / "s", sets=ONE)
    folder = store.folder(sweep.trials[0].fingerprint).path
    strays = [
        folder / ".checkpoint.pt.77",
        folder / "weights" / ".best.pt.77",
        store.path / "sweeps" / ".tiny.json.77",
    ]
    incoming = store.path / "trials" / ".incoming-77"
    incoming.mkdir()
    for path in [*strays, incoming / ".x", incoming / "journal.jsonl"]:
        path.write_bytes(b"12345")

    def temporary() -> list[tuple[Path, int]]:
        return [(one.path, one.bytes) for one in garbage.listed(store) if one.kind == "temporary"]

    assert temporary() == []
    for path in [*strays, incoming]:
        os.utime(path, (OLD, OLD))
    assert sorted(temporary()) == sorted([*((path, 5) for path in strays), (incoming, 10)])
    garbage.delete(store, garbage.listed(store), ["temporary"])
    assert not any(path.exists() for path in [*strays, incoming])
    assert (folder / "checkpoint.pt").exists()


def test_a_start_that_cannot_be_read_stops_everything(write_sweep: Write, tmp_path: Path) -> None:
    store, sweep = started(write_sweep(replaced=WARM), tmp_path / "s", sets=("seeds=0",))
    path = store.folder(sweep.trials[-1].fingerprint).path / "trial.json"
    recorded = read_json(path)
    assert recorded is not None
    recorded["trial"]["start_from"]["trial"]["epochs"] = "many"
    write_json(path, recorded)
    code, _, err = ham("gc", "--store", store.path, "--delete")
    assert code == 2
    assert f"{path}: cannot be read as a trial of this version" in err
    assert (store.folder(sweep.trials[0].fingerprint).path / "checkpoint.pt").exists()


def test_weights_stay_where_nothing_was_attacked_and_where_a_state_goes_on(
    write_sweep: Write, tmp_path: Path
) -> None:
    store = Store(tmp_path / "s")
    start, user = load_sweep(write_sweep(replaced=WARM), sets=["seeds=0"]).trials
    folder = store.folder(start.fingerprint)
    list(run_trial(start.trial, folder, device="cpu"))
    assert "weights" not in kinds(store, folder)
    list(run_trial(user.trial, store.folder(user.fingerprint), user.evaluations, device="cpu"))
    record = store.folder(user.fingerprint).evaluations()[0]
    folder.save_evaluation("0" * 64, record | {"weights": "best"}, {})
    assert kinds(store, folder) == {}
    (folder.path / "journal.jsonl").write_bytes(b"")
    (store.folder(user.fingerprint).path / "journal.jsonl").write_bytes(b"")
    assert "checkpoints" not in kinds(store, store.folder(user.fingerprint))
