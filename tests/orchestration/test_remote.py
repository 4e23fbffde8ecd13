"""A store on object storage: the same contract for plain files and for a file system that is no more than objects."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from ham_core.config import Trial, fingerprint
from ham_core.errors import BusyError
from ham_core.folder import TrialFolder
from ham_core.prefix import forks, has_prefix, prefix_file, prefix_of
from ham_core.protocol import Evaluation
from ham_core.run import run_trial
from orchestration import garbage, lease
from orchestration.lease import take
from orchestration.objects import Objects
from orchestration.remote import RemoteStore
from orchestration.states import State, is_tensors
from orchestration.store import Store, store_at
from tests.builders import trial
from tests.objectstore import Bucket
from tests.orchestration.keeping import ham

ROOT = Path(__file__).resolve().parents[2]
EVALUATIONS = [Evaluation.model_validate({"weights": "best", "attack": {"kind": "clean"}})]
fsspec.register_implementation("bucket", "tests.objectstore.Bucket", clobber=True)


@pytest.fixture(params=["file", "bucket"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the objects are."""
    return f"{request.param}://{tmp_path}/objects"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], RemoteStore]:
    """machine(name, url) -> the store as another machine sees it, with a mirror of its own."""

    def opened(name: str, url: str) -> RemoteStore:
        monkeypatch.setenv("HAM_CACHE", str(tmp_path / name))
        store = store_at(url)
        assert isinstance(store, RemoteStore)
        return store

    return opened


@pytest.fixture
def at_every_put(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], None]], None]:
    """Have something happen before every put into a bucket."""
    return lambda action: monkeypatch.setattr(Bucket, "before_put", staticmethod(action))


def train(store: Store, one: Trial, prefixes: dict[int, str] | None = None, **options: Any) -> TrialFolder:
    folder = store.folder(fingerprint(one))
    events = run_trial(one, folder, EVALUATIONS, device="cpu", prefixes=prefixes or {}, **options)
    for _ in store.published(one, events, prefixes or {}):
        pass
    return folder


def results(folder: TrialFolder) -> list[Any]:
    """What a training has come to, without times."""
    journal = [
        (
            record["epoch"],
            {key: value for key, value in record["metrics"].items() if not key.startswith("time/")},
        )
        for record in folder.journal()
    ]
    weights = {
        name: hashlib.sha256(
            b"".join(value.numpy().tobytes() for value in folder.weights(name).values())
        ).hexdigest()
        for name in folder.weight_names()
    }
    return [folder.is_done(), journal, weights, [one["metrics"] for one in folder.evaluations()]]


# one machine after the other ---------------------------------------------------------------------------------------


def test_what_one_machine_has_trained_another_sees_and_uses(
    url: str, machine: Callable[..., RemoteStore], tmp_path: Path
) -> None:
    one = trial()
    alone = results(train(Store(tmp_path / "alone"), one))
    train(machine("first", url), one)
    second = machine("second", url)
    assert second.trials() == []
    assert second.pull()
    assert second.trials() == [fingerprint(one)]
    folder = second.folder(fingerprint(one))
    assert [record["epoch"] for record in folder.journal()] == [0, 1]
    assert not list(folder.path.rglob("*.pt")), "tensors come when they are used"
    assert results(folder) == alone
    assert (folder.path / "weights" / "best.pt").exists()
    attacked = Evaluation.model_validate({"weights": "last", "attack": {"kind": "pgd", "steps": 2}})
    list(second.published(one, run_trial(one, folder, [attacked], train=False), {}))
    first = machine("first", url)
    first.pull()
    assert len(first.folder(fingerprint(one)).evaluations()) == 2


def test_a_training_goes_on_on_another_machine_as_if_nothing_had_happened(
    url: str, machine: Callable[..., RemoteStore], tmp_path: Path
) -> None:
    one = trial(epochs=4)
    alone = results(train(Store(tmp_path / "alone"), one))
    first, second = machine("first", url), machine("second", url)
    for store, epochs in ((first, 2), (second, 3)):
        train(store, one, deadline=_after(store, one, epochs))
        assert store.folder(fingerprint(one)).epochs_done() == epochs
    train(first, one)
    assert results(first.folder(fingerprint(one))) == alone


def _after(store: Store, one: Trial, epochs: int) -> Any:
    """A deadline that has passed once so many epochs are recorded."""

    class Deadline(float):
        def __lt__(self, now: object) -> bool:  # time.monotonic() > deadline
            return store.folder(fingerprint(one)).epochs_done() >= epochs

    return Deadline()


def test_each_epoch_is_one_object_and_no_object_ever_changes(
    url: str, machine: Callable[..., RemoteStore]
) -> None:
    store, one = machine("first", url), trial(epochs=3)
    place, seen, epochs = f"trials/{fingerprint(one)}", {}, []
    events = run_trial(one, store.folder(fingerprint(one)), EVALUATIONS, device="cpu")
    for event in store.published(one, events, {}):
        names = store.objects.list(place)
        for name in names:
            content = store.objects.read(name)
            assert seen.setdefault(name, content) == content
        if event.kind == "epoch":
            lines = sorted(name for name in names if "/journal/" in name)
            assert [json.loads(store.objects.read(name))["epoch"] for name in lines] == list(
                range(event.epoch + 1)
            )
            epochs.append(event.epoch)
    assert epochs == [0, 1, 2]
    left = store.objects.list(place)
    state = store.head(fingerprint(one))
    assert set(left) == state.objects, "nothing is left behind"
    assert len(state.journal) == 1, "of a finished trial all lines are one object"
    assert len(store.objects.list("states")) == 1
    assert not store.objects.list("leases")


def test_a_reader_at_any_moment_sees_a_folder_as_it_was_after_some_epoch(
    machine: Callable[..., RemoteStore], tmp_path: Path, at_every_put: Callable[..., None]
) -> None:
    url, one = f"bucket://{tmp_path}/objects", trial(epochs=3)
    store, reader = machine("first", url), machine("reader", url)
    identity, seen = fingerprint(one), []

    def look(path: str) -> None:
        if "/trials/" not in path and "/states/" not in path:
            return
        with TrialFolder.of(reader.path, identity).lock():
            reader.settle(identity, tensors=True)
        folder = TrialFolder.of(reader.path, identity)
        seen.append((folder.epochs_done(), folder.is_done(), len(folder.evaluations())))
        if folder.epochs_done():
            state = folder.checkpoint()
            assert state is not None or folder.is_done()
            assert (
                state is None
                or state["epoch"] + 1 == folder.epochs_done()
                or state["epoch"] == folder.epochs_done()
            )
            assert folder.problems() == []
            assert {"best", "last"} <= set(folder.weight_names()) or not folder.is_done()

    at_every_put(look)
    train(store, one, keep=["best", "last"])
    assert sorted(set(seen)) == seen_in_order(seen)
    assert {epochs for epochs, _, _ in seen} == {0, 1, 2, 3}
    assert seen[-1][1]


def seen_in_order(seen: list[Any]) -> list[Any]:
    return list(dict.fromkeys(seen))


class Killed(BaseException):
    """The process ends here."""


def test_killed_at_any_put_another_machine_goes_on_and_nothing_differs(
    machine: Callable[..., RemoteStore],
    tmp_path: Path,
    at_every_put: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, puts = trial(epochs=2, data={"train_limit": 100, "test_limit": 30}), []
    at_every_put(puts.append)
    alone = results(train(machine("counted", f"bucket://{tmp_path}/counted"), one))
    total = len(puts)
    monkeypatch.setattr(lease.Lease, "release", lambda self: self._over.set())  # the dead release nothing
    seed = random.randrange(10**6)
    for moment in sorted(random.Random(seed).sample(range(total), 10)):
        url, left = f"bucket://{tmp_path}/killed-{moment}", [moment]

        def count(path: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed

        at_every_put(count)
        monkeypatch.setattr(lease, "TTL", 0.0)  # found dead at once
        with pytest.raises(Killed):
            train(machine(f"dies-{moment}", url), one)
        at_every_put(lambda path: None)
        second = machine(f"goes-on-{moment}", url)
        second.pull()
        folder = train(second, one)
        assert results(folder) == alone, f"killed at put {moment} of {total}, seed {seed}"
        state = second.head(fingerprint(one))
        assert set(second.objects.list("trials")) == state.objects
        assert list(second.objects.list("states")) == [state.name]


def test_half_a_state_of_a_plain_file_is_no_state(
    machine: Callable[..., RemoteStore], tmp_path: Path
) -> None:
    store, one = machine("first", f"file://{tmp_path}/objects"), trial()
    train(store, one)
    good = store.head(fingerprint(one))
    name = f"states/{fingerprint(one)}/00000009.00000001.abc.json"
    store.objects.write(name, good.content()[:50])
    assert store.head(fingerprint(one)) == good
    store.objects.write(f"states/{fingerprint(one)}/00000000.00000009.abc.json", State().content())
    assert store.head(fingerprint(one)) == good, "the one of the greatest generation counts"
    second = machine("second", store.address)
    second.pull()
    assert second.folder(fingerprint(one)).is_done()


def test_a_mirror_that_was_damaged_or_deleted_is_made_again(
    url: str, machine: Callable[..., RemoteStore], tmp_path: Path
) -> None:
    import shutil

    store, one = machine("first", url), trial()
    before = results(train(store, one))
    folder = store.folder(fingerprint(one))
    (folder.path / "journal.jsonl").write_text("nonsense")
    (folder.path / "weights" / "best.pt").write_bytes(b"")
    (folder.path / "done.json").unlink()
    store.refresh(fingerprint(one))
    assert results(folder) == before
    shutil.rmtree(folder.path)
    store.refresh(fingerprint(one))
    assert results(folder) == before
    shutil.rmtree(store.path)
    again = machine("first", url)
    again.pull()
    assert results(again.folder(fingerprint(one))) == before


def test_shared_beginnings_and_starts_come_from_other_machines(
    url: str, machine: Callable[..., RemoteStore], tmp_path: Path
) -> None:
    first, second = machine("first", url), machine("second", url)
    one = trial(mining={"name": "ham", "start_epoch": 1, "early_drop_step": 1})
    other = trial(mining={"name": "ham", "start_epoch": 1, "early_drop_step": 2})
    (cut,) = forks(one)
    name = prefix_of(one, cut)
    train(first, one, {cut: name})
    second.pull()
    assert has_prefix(second.path, name) and not prefix_file(second.path, name).exists()
    taken = train(second, other, {cut: prefix_of(other, cut)})
    assert taken.journal()[0]["trained_by"] == fingerprint(one)
    assert results(taken) == results(train(Store(tmp_path / "alone"), other))

    for weights in ("last", "state"):
        after = trial(start_from={"trial": one.model_dump(mode="json"), "weights": weights}, epochs=3)
        third = machine(f"third-{weights}", url)
        started = results(train(third, after))
        alone = Store(tmp_path / f"alone-{weights}")
        train(alone, one)
        assert started == results(train(alone, after))


def test_a_finished_trial_is_pruned_or_trained_again_where_its_weights_are_not(
    url: str, machine: Callable[..., RemoteStore], tmp_path: Path
) -> None:
    one = trial()
    identity = fingerprint(one)
    train(machine("first", url), one)
    second = machine("second", url)
    attacked = Evaluation.model_validate({"weights": "last", "attack": {"kind": "pgd", "steps": 2}})
    events = run_trial(one, second.folder(identity), [attacked], device="cpu", keep={"best", "last"})
    list(second.published(one, events, {}))
    names = {name for name in second.head(identity).files if is_tensors(name)}
    assert names == {f"weights/{name}.pt" for name in ("best", "best_ema", "last", "last_ema")}

    seat = {"name": "seat", "start_epoch": 0}
    more = one.model_copy(update={"method": trial(method={"averaging": [seat]}).method})
    assert fingerprint(more) == identity
    third = machine("third", url)
    train(third, more)
    alone = Store(tmp_path / "alone")
    assert results(third.folder(identity)) == results(
        train(alone, more.model_copy(update={"method": _both(one, more)}))
    )
    state = third.head(identity)
    assert set(third.objects.list("trials")) == state.objects
    generation = state.name.rpartition("/")[2].partition(".")[0]
    assert all(f".{generation}." in name for name in state.objects), "nothing of the first training is left"
    second.pull()
    assert second.folder(identity).journal() == third.folder(identity).journal()


def _both(one: Trial, other: Trial) -> Any:
    """The method of a trial with the averages of two, those asked for first."""
    return one.method.model_copy(update={"averaging": (*other.method.averaging, *one.method.averaging)})


def test_an_early_stop_is_known_to_all_machines_though_the_worker_has_the_lease(
    url: str, machine: Callable[..., RemoteStore], tmp_path: Path
) -> None:
    one = trial(epochs=4)
    first, driver, third = (machine(name, url) for name in ("first", "driver", "third"))
    label = {"epoch": 2, "epochs": 4, "rule": "asha", "sweep": "tiny"}
    events = run_trial(one, first.folder(fingerprint(one)), EVALUATIONS, device="cpu")
    for event in first.published(one, events, {}):
        if event.epoch == 1:
            driver.refresh(fingerprint(one))
            driver.folder(fingerprint(one)).stop(label)
            break
    events.close()  # type: ignore[attr-defined]  # a generator
    for store in (driver, third, first):
        store.pull()
        assert store.folder(fingerprint(one)).stopped() == label
    assert not list(driver.path.rglob("*.pt"))
    assert results(train(third, one)) == results(train(Store(tmp_path / "alone"), one))
    for store in (driver, third, first):
        store.pull()
        assert store.folder(fingerprint(one)).stopped() is None
        assert not (store.folder(fingerprint(one)).path / "stopped.json").exists()


def test_what_drivers_leave_behind_is_on_all_machines(url: str, machine: Callable[..., RemoteStore]) -> None:
    first, second = machine("first", url), machine("second", url)
    path = first.path / "sweeps" / "tiny.search.jsonl"
    for text in ("one", "two"):
        path.write_text(text)
        first.share(path)
        assert second.pull()
        assert (second.path / "sweeps" / path.name).read_text() == text


# who has it --------------------------------------------------------------------------------------------------------


def test_of_many_that_want_a_lease_one_has_it_at_a_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "POLL", 0.02)
    inside, most, generations, errors = [0], [0], [], []
    guard = threading.Lock()

    def work(name: str) -> None:
        try:
            for _ in range(3):
                mine = take(Objects(url), "a" * 64, name, 60)
                with guard:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    generations.append(mine.generation)
                time.sleep(random.uniform(0, 0.05))
                mine.check()
                Objects(url).write(f"states/{'a' * 64}/{mine.generation:08d}.x.json", b"")
                with guard:
                    inside[0] -= 1
                mine.release()
        except Exception as error:  # a thread's exception would be lost
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"m{n}",)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert most == [1]
    assert generations == sorted(set(generations)), "each is greater than all before"


def test_a_live_holder_keeps_its_lease_and_a_silent_one_loses_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "TTL", 1.0)
    monkeypatch.setattr(lease, "BEAT", 0.2)
    first = take(Objects(url), "a", "m1", 0)
    with pytest.raises(BusyError, match="another machine has been training the trial a"):
        take(Objects(url), "a", "m2", 2.5)
    assert lease.held(Objects(url), "m2") == {"a"}
    assert lease.held(Objects(url), "m1") == set()
    first._over.set()  # it is stopped
    second = take(Objects(url), "a", "m2", 10)
    assert second.generation > first.generation
    second.check()
    with pytest.raises(BusyError, match="taken the trial a over"):
        first.check()
    second.release()
    Objects(url).write(f"states/a/{second.generation:08d}.00000001.x.json", b"")
    late = lease.Lease(Objects(url), "a", first.mark)
    with pytest.raises(BusyError, match="over"):
        late.check()
    late.release()


def test_the_lease_of_a_dead_process_of_this_machine_counts_for_nothing(url: str) -> None:
    dead = take(Objects(url), "a", "m1", 0)
    dead._over.set()
    take(Objects(url), "a", "m1", 0).release()


def test_a_lease_that_nobody_took_goes_on_after_a_silence(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TTL", 0.1)
    mine = take(Objects(url), "a", "m1", 0)
    time.sleep(0.3)
    mine.check()
    mine.release()


# Trains a trial on a machine of its own and prints every event.
WORKER = """
import sys, fsspec
fsspec.register_implementation("bucket", "tests.objectstore.Bucket", clobber=True)
from orchestration import lease
lease.TTL, lease.BEAT = 2.0, 0.5
from ham_core.config import Trial, fingerprint
from ham_core.errors import BusyError
from ham_core.run import run_trial
from orchestration.store import store_at
one = Trial.model_validate_json(sys.argv[2])
store = store_at(sys.argv[1])
try:
    for event in store.published(one, run_trial(one, store.folder(fingerprint(one)), device="cpu"), {}):
        print(event.kind, event.epoch, flush=True)
except BusyError as error:
    print("busy:", error, flush=True)
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[str, str, Trial], subprocess.Popen[str]]]:
    """worker(machine, url, trial) -> a process that trains it."""
    processes: list[subprocess.Popen[str]] = []

    def start(name: str, url: str, one: Trial) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, url, one.model_dump_json()],
            env={**os.environ, "PYTHONPATH": str(ROOT), "HAM_CACHE": str(tmp_path / name)},
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_stopped_process_loses_its_trial_and_writes_nothing_when_it_wakes_up(
    url: str,
    machine: Callable[..., RemoteStore],
    worker: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "TTL", 2.0)
    monkeypatch.setattr(lease, "BEAT", 0.5)
    one = trial(epochs=20)
    stopped = worker("stopped", url, one)
    assert stopped.stdout is not None
    while stopped.stdout.readline() != "epoch 2\n":
        assert stopped.poll() is None
    os.kill(stopped.pid, signal.SIGSTOP)
    taker = machine("taker", url)
    with pytest.raises(BusyError):
        train(taker, one, patience=0.0)
    folder, before = taker.folder(fingerprint(one)), set()
    events = run_trial(one, folder, device="cpu", patience=20)
    for event in taker.published(one, events, {}):
        if event.kind == "epoch" and not before:
            assert event.epoch >= 2, "what was put stays"
            before = set(taker.objects.list("states"))
            os.kill(stopped.pid, signal.SIGCONT)
            rest = stopped.communicate(timeout=60)[0]
            assert "busy:" in rest and "has taken the trial" in rest and "trained" not in rest
            assert set(taker.objects.list("states")) == before
    assert results(folder) == results(folder_without_evaluations(tmp_path / "alone", one))
    third = machine("third", url)
    third.pull()
    assert [record["epoch"] for record in third.folder(fingerprint(one)).journal()] == list(range(20))


def folder_without_evaluations(place: Path, one: Trial) -> TrialFolder:
    folder = TrialFolder.of(place, one)
    list(run_trial(one, folder, device="cpu"))
    return folder


@pytest.mark.slow
def test_a_killed_machine_s_trial_is_free_after_a_while_and_at_once_on_the_same_machine(
    url: str,
    machine: Callable[..., RemoteStore],
    worker: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease, "TTL", 3.0)
    one = trial(epochs=60)
    for name, patience in (("same", 0.0), ("other", 20.0)):
        killed = worker("same", url, one)
        assert killed.stdout is not None
        while not killed.stdout.readline().startswith("epoch"):
            assert killed.poll() is None
        for _ in range(3):
            killed.stdout.readline()
        killed.kill()
        killed.wait()
        store = machine(name, url)
        store.pull()
        done = store.folder(fingerprint(one)).epochs_done()
        if name == "other":
            with pytest.raises(BusyError):
                train(store, one, patience=0.0)
        train(store, one, patience=patience, deadline=_after(store, one, done + 2))
        assert store.folder(fingerprint(one)).epochs_done() == done + 2


# keeping -----------------------------------------------------------------------------------------------------------


def test_gc_deletes_what_is_not_on_this_machine(url: str, machine: Callable[..., RemoteStore]) -> None:
    one = trial()
    train(machine("first", url), one)
    second = machine("second", url)
    second.pull()
    found = garbage.listed(second)
    assert {item.kind for item in found} == {"checkpoints", "weights", "folders"}
    assert all(item.bytes > 0 for item in found)
    gone = garbage.delete(second, found, ["checkpoints", "weights"])
    kept = second.head(fingerprint(one)).files
    assert [name for name in kept if is_tensors(name)] == ["weights/best.pt"]
    assert len(gone) == len(found) - 1
    assert set(second.objects.list("trials")) == second.head(fingerprint(one)).objects
    first = machine("first", url)
    first.pull()
    assert first.folder(fingerprint(one)).weight_names() == ["best"]
    garbage.delete(first, garbage.listed(first), ["folders"])
    assert not first.objects.list("trials") and not first.objects.list("states")
    second.pull()
    assert second.trials() == []


def test_trials_of_a_folder_are_imported_for_all_machines(
    url: str, machine: Callable[..., RemoteStore], tmp_path: Path
) -> None:
    one = trial()
    out = train(Store(tmp_path / "out"), one)
    first = machine("first", url)
    assert first.import_trials(tmp_path / "out") == {fingerprint(one): "imported"}
    assert first.import_trials(tmp_path / "out") == {fingerprint(one): "is here already"}
    second = machine("second", url)
    second.pull()
    assert results(second.folder(fingerprint(one))) == results(out)
    target = second.export_weights(fingerprint(one), "last", tmp_path / "model.pt")
    assert torch.load(target, weights_only=True).keys() == out.weights("last").keys()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("nowhere://bucket/outputs", "unknown protocol"),
        ("s3:/bucket/outputs", "neither a folder nor a URL"),
        ("bucket://", "names no place"),
    ],
)
def test_an_address_that_is_none_is_a_sentence(address: str, sentence: str) -> None:
    code, _, err = ham("status", "--store", address)
    assert code == 2
    assert sentence in err and len(err.splitlines()) == 1


def test_a_protocol_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*arguments: Any, **options: Any) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    code, _, err = ham("plan", "digits", "--store", "s3://bucket/outputs")
    assert code == 2
    assert "pip install s3fs" in err and len(err.splitlines()) == 1


def test_a_storage_that_cannot_be_written_is_a_sentence_before_anything_starts(
    machine: Callable[..., RemoteStore],
    tmp_path: Path,
    at_every_put: Callable[..., None],
    write_sweep: Callable[..., Path],
) -> None:
    url = f"bucket://{tmp_path}/objects"
    machine("first", url)

    def refuse(path: str) -> None:
        raise PermissionError("Access Denied")

    at_every_put(refuse)
    code, _, err = ham("sweep", write_sweep(), "--store", url)
    assert code == 2
    assert "Access Denied" in err and url in err
