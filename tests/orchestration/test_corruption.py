"""Every file of a store, damaged in every way: each command says what it said before, or a sentence with its name.

The store holds a sweep of two trials, one trained and evaluated, one half trained. What a worker makes of a damaged folder is
in tests/ham_core/test_folder_damage.py. HAM_FUZZ=20 runs 20 times as many cases, HAM_FUZZ_SEED=7 others.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ham_core.errors import RequestError
from ham_core.folder import TrialFolder, read_json
from ham_core.run import run_trial
from orchestration import sealed_runs, tracking
from orchestration.archive import read_archive, write_archive
from orchestration.plan import plan
from orchestration.runner import run_sweep
from orchestration.status import recorded_sweep
from orchestration.store import Store
from orchestration.sweep import Sweep, load_sweep
from tests.damage import LONG, SEED, Damage, damages
from tests.orchestration.conftest import SWEEP
from tests.orchestration.keeping import ham, started

AT = ("grid.methods.method=[at]",)
TABLES = "ham-main"


@dataclass
class Place:
    """A store with its sweep, and what the commands say of it while nothing is damaged."""

    store: Store
    sweep: Sweep
    path: Path
    backup: Path
    said: dict[str, Any]

    @property
    def trained(self) -> TrialFolder:
        return self.store.folder(self.sweep.trials[0].fingerprint)

    @property
    def half(self) -> TrialFolder:
        return self.store.folder(self.sweep.trials[1].fingerprint)

    def restore(self) -> None:
        """Everything but MLflow as it was before the damage."""
        for name in ("trials", "sweeps"):
            shutil.rmtree(self.store.path / name)
            shutil.copytree(self.backup / name, self.store.path / name)


def tables(store: Store, out: Path, uri: str | None = None) -> tuple[int, str, str]:
    """(exit code, the main table, stderr) of ham report."""
    where = ("--tracking-uri", uri) if uri else ()
    code, _, err = ham(
        "report", TABLES, "--store", store.path, "--out", out, "--format", "csv", "--partial", *where
    )
    found = sorted(out.rglob(f"{TABLES}.csv"))
    return code, found[0].read_text(encoding="utf-8") if found else "", err


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("kept")
    path = root / "tiny.yaml"
    path.write_text(SWEEP, encoding="utf-8")
    store, sweep = started(path, root / "s", sets=AT, trained=lambda name: "seed=0" in name)
    half = sweep.trials[1]
    for event in run_trial(half.trial, store.folder(half.fingerprint), half.evaluations, device="cpu"):
        if event.kind == "epoch":
            break
    assert ham("sync", "--store", store.path)[0] == 0
    for name in ("trials", "sweeps"):
        shutil.copytree(store.path / name, root / "backup" / name)
    made = Place(store, sweep, path, root / "backup", {})
    made.said["evaluate"] = json.loads(evaluate(made)[1])["evaluations"]
    made.said["report"] = tables(store, root / "out")
    assert made.said["report"][0] == 0
    assert "at" in made.said["report"][1]
    return made


def evaluate(place: Place) -> tuple[int, str, str]:
    words = ("--attack", "clean,pgd2", "--store", place.store.path, "--json")
    return ham("evaluate", place.trained.path.name[:10], *words)


def commands(place: Place) -> Iterator[tuple[str, tuple[int, str, str]]]:
    """The light commands, and what they end in."""
    store = ("--store", place.store.path)
    yield "plan", ham("plan", place.path, "--set", AT[0], *store, "--json")
    yield "status", ham("status", *store, "--json")
    for folder in (place.trained, place.half):
        yield "explain", ham("explain", folder.path.name[:10], *store)
        yield "logs", ham("logs", folder.path.name[:10], *store)
    yield "gc", ham("gc", *store)


def must_name(text: str, victim: Path) -> None:
    """The sentence names the file, or the other half of the evaluation that it belongs to."""
    assert any(str(path) in text for path in (victim, victim.with_suffix(".json"))), text


def check(place: Place, victim: Path, damage: Damage) -> int:
    """Damage a file and run the commands -> in how many it was named."""
    damage.do(victim)
    named = 0
    for name, (code, _, err) in commands(place):
        lost = damage.content is None and victim.name in ("trial.json", "tiny.json")
        assert code in (0, 2), f"{name}: {err}"
        if code == 2 and not lost:  # a trial that is no longer there is an unknown word
            must_name(err, victim)
            named += 1
    code, out, err = evaluate(place)
    if code == 0:
        assert without_seconds(json.loads(out)["evaluations"]) == without_seconds(place.said["evaluate"])
    elif (
        not (damage.content is None and victim.name in ("trial.json", "done.json"))
        and "not trained yet" not in err
    ):
        must_name(err, victim)
        named += 1
    return named


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def victims(place: Place) -> Iterator[Path]:
    """One of each kind of file."""
    for folder in (place.trained, place.half):
        yield from (folder.path / name for name in ("trial.json", "journal.jsonl", "checkpoint.pt", "lock"))
        yield folder.path / "weights" / "best.pt"
    yield place.trained.path / "done.json"
    wanted = place.said["evaluate"][0]["fingerprint"]
    yield from (place.trained.path / "evaluations" / f"{wanted}.{suffix}" for suffix in ("json", "npz"))
    yield place.store.path / "sweeps" / "tiny.json"


@pytest.mark.timeout(120 + 120 * LONG)
def test_every_command_survives_every_damage(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    chance, cases, named = random.Random(SEED), 0, 0
    for victim in list(victims(place)):
        for damage in damages(victim.read_bytes(), chance, 3 * LONG):
            try:
                named += check(place, victim, damage)
                if cases % 10 == 0:  # tables come from MLflow, whatever has happened to the trials
                    assert tables(place.store, tmp_path / "out")[:2] == place.said["report"][:2]
            except BaseException as error:
                error.add_note(f"seed {SEED}, {victim.relative_to(place.store.path)}: {damage.name}")
                raise
            finally:
                place.restore()
            cases += 1
    with capsys.disabled():
        print(f"\n{cases} cases, seed {SEED}; named {named} times")
    assert cases >= 80
    assert named >= 40


# the record ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database(place: Place, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """MLflow's database as one file, without its write-ahead log."""
    path = tmp_path_factory.mktemp("database") / "copy.db"
    source, target = sqlite3.connect(place.store.path / "mlflow.db"), sqlite3.connect(path)
    source.backup(target)
    target.execute("pragma journal_mode=delete")
    source.close()
    target.close()
    return path.read_bytes()


def damaged_tables(
    content: bytes, place: Place, tmp_path: Path, number: int
) -> tuple[Path, tuple[int, str, str]]:
    """The main table from a damaged database; a new name each time, since MLflow keeps connections."""
    path = tmp_path / f"{number}.db"
    path.write_bytes(content)
    return path, tables(place.store, tmp_path / f"out{number}", f"sqlite:///{path}")


@pytest.mark.timeout(120 + 240 * LONG)
def test_a_damaged_database_gives_the_same_tables_or_a_sentence(
    place: Place, database: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance, ended = random.Random(SEED), {"same table": 0, "sentence": 0, "nothing recorded": 0}
    for number, damage in enumerate(damages(database, chance, 12 * LONG)):
        if damage.content is None:
            continue
        path, (code, table, err) = damaged_tables(damage.content, place, tmp_path, number)
        if code == 0 and table:
            ended["same table"] += 1
            assert table == place.said["report"][1], f"seed {SEED}, {damage.name}"
        else:
            assert code == 2, f"seed {SEED}, {damage.name}: {err}"
            assert str(path) in err
            ended["nothing recorded" if "no sweep is recorded" in err else "sentence"] += 1
    with capsys.disabled():
        print(f"\nmlflow.db: seed {SEED}: {ended}")
    assert ended["sentence"]


@pytest.mark.parametrize(
    "change",
    [
        "update latest_metrics set value = value + 1e-9 where key = 'best/clean/avg'",
        "update latest_metrics set key = 'best/clean/avh' where key = 'best/clean/avg'",
        "update params set value = '0.3' where key = 'epsilon'",
        "delete from latest_metrics where key = 'last/pgd2/worst'",
    ],
)
def test_a_changed_number_in_the_database_is_found(
    change: str, place: Place, database: bytes, tmp_path: Path
) -> None:
    """SQLite itself has no checksums: it would read the number that is there now."""
    path = tmp_path / "changed.db"
    path.write_bytes(database)
    with sqlite3.connect(path) as connection:
        assert connection.execute(change).rowcount == 2, "of the sweep and one trial, or of two trials"
    connection.close()
    code, _, err = tables(place.store, tmp_path / "out", f"sqlite:///{path}")
    assert code == 2
    assert f"{path}: is damaged (trial {place.trained.path.name[:10]}" in err
    assert "move changed.db away" in err and "then run ham sync" in err


def test_a_changed_series_is_found(place: Place) -> None:
    uri = tracking.default_uri(place.store.path)
    (run,) = [one for one in tracking.read_trials(uri, "tiny") if one.status == "FINISHED"]
    tags = {run.run_id: run.tags}
    history = tracking.read_history(uri, [run.run_id], "train/loss", tags)
    assert len(history) == 2
    assert not sealed_runs.is_series(run.tags, "train/loss", [(0, 1.0), (1, 1.0)])
    path = place.store.path / "other.db"
    source, target = sqlite3.connect(place.store.path / "mlflow.db"), sqlite3.connect(path)
    source.backup(target)
    target.execute("update metrics set value = value + 1e-9 where key = 'train/loss' and step = 0")
    target.commit()
    source.close()
    target.close()
    with pytest.raises(RequestError, match=r"other.db: is damaged .*has another series train/loss"):
        tracking.read_history(f"sqlite:///{path}", [run.run_id], "train/loss", tags)


def test_a_damaged_plan_in_the_artifacts_is_named_and_written_again(place: Place, tmp_path: Path) -> None:
    (path,) = place.store.path.glob("artifacts/*/*/artifacts/plan.json")
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace('"seed": 1', '"seed": 7'), encoding="utf-8")
    code, _, err = tables(place.store, tmp_path / "out")
    assert code == 2
    assert f"{path}: is damaged; run ham sync tiny" in err.replace("file://", "")
    assert ham("sync", "tiny", "--store", place.store.path)[0] == 0
    assert path.read_text(encoding="utf-8") == whole


@pytest.mark.parametrize("damage", ["text", "cut", "zeros"])
def test_a_damaged_database_is_written_again_as_the_sentence_says(damage: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP, encoding="utf-8")
    store, _ = started(tmp_path / "tiny.yaml", tmp_path / "s", sets=(*AT, "seeds=0"))
    assert ham("sync", "--store", store.path)[0] == 0
    before = tables(store, tmp_path / "before")
    path = store.path / "mlflow.db"
    moved = [
        one
        for one in (path, path.with_name("mlflow.db-wal"), path.with_name("mlflow.db-shm"))
        if one.exists()
    ]
    content = path.read_bytes()
    for one in moved:
        one.unlink()
    path.write_bytes(
        {"text": b"no database " * 500, "cut": content[:5000], "zeros": bytes(len(content))}[damage]
    )
    for words in (("report", TABLES, "--out", tmp_path / "x"), ("sync",)):
        code, _, err = ham(*words, "--store", store.path, "--tracking-uri", f"sqlite:////{path}")
        assert code in (1, 2)
        assert f"{path}: is damaged" in err.replace("//", "/")
        assert "move mlflow.db away" in err and "ham sync" in err
    path.rename(tmp_path / "away.db")
    uri = f"sqlite:///{store.path}/./mlflow.db"  # another name of the same file: MLflow keeps connections to the old one
    assert ham("sync", "--store", store.path, "--tracking-uri", uri)[0] == 0
    assert tables(store, tmp_path / "after", uri) == before


# sweeps --------------------------------------------------------------------------------------------------------------


def test_a_damaged_record_of_a_sweep_is_named_and_written_again(place: Place, console: Console) -> None:
    path = place.store.path / "sweeps" / "tiny.json"
    whole = read_json(path)
    assert whole is not None
    path.write_bytes(path.read_bytes().replace(b'"seed": 1', b'"seed": 7'))
    code, _, err = ham("status", "--store", place.store.path)
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"{path}: is damaged" in err and "start the sweep once more with ham sweep" in err
    from orchestration.status import remember

    remember(place.sweep, place.store, {})
    assert recorded_sweep(place.store, "tiny")["trials"] == whole["trials"]
    place.restore()


@pytest.mark.timeout(60 + 60 * LONG)
def test_a_damaged_archive_gives_the_same_trials_or_a_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance, source, ended = random.Random(SEED), tmp_path / "tiny.tar.gz", {"same trials": 0, "sentence": 0}
    write_archive(place.store, "tiny", source)
    for number, damage in enumerate(damages(source.read_bytes(), chance, 60 * LONG)):
        path, store = tmp_path / "damaged.tar.gz", Store(tmp_path / f"s{number}")
        path.touch()
        damage.do(path)
        try:
            read_archive(store, path)
        except RequestError as error:
            must_name(str(error), path)
            assert not store.trials()
            ended["sentence"] += 1
            continue
        ours, theirs = place.trained, store.folder(place.trained.path.name)
        for name in ("trial.json", "journal.jsonl", "done.json"):
            assert (ours.path / name).read_bytes() == (theirs.path / name).read_bytes(), damage.name
        assert ours.evaluations() == theirs.evaluations()
        ended["same trials"] += 1
    with capsys.disabled():
        print(f"\narchive: seed {SEED}: {ended}")
    assert ended["sentence"] > 30


def test_an_export_refuses_a_damaged_evaluation(place: Place, tmp_path: Path) -> None:
    path = next((place.trained.path / "evaluations").glob("*.json"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RequestError) as caught:
        write_archive(place.store, "tiny", tmp_path / "x.tar.gz")
    place.restore()
    must_name(str(caught.value), path)


def test_the_plan_says_that_a_damaged_evaluation_runs_again(place: Place) -> None:
    for path in (place.trained.path / "evaluations").glob("*.npz"):
        path.write_bytes(path.read_bytes()[:-9])
    step = plan(place.sweep, place.store.path).steps[0]
    place.restore()
    assert (step.status, step.why) == (
        "partial",
        "trained; evaluation best/clean and 3 more damaged, runs again",
    )


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_over_a_damaged_store_ends_in_the_tables_of_an_undamaged_one(
    ray_runs: dict[str, Any], write_sweep: Callable[..., Path], tmp_path: Path, console: Console
) -> None:
    sweep = load_sweep(write_sweep())
    found = {}
    for name in ("whole", "damaged"):
        store = Store(tmp_path / name)
        if name == "damaged":
            damage_four(sweep, store)
        outcome = run_sweep(sweep, store, tracking.default_uri(store.path), console=console)
        assert (outcome.exit_code, len(outcome.done) + outcome.reused) == (0, 4)
        found[name] = tables(store, tmp_path / f"out-{name}")
        assert not list((store.path / "trials").rglob(".*"))
    assert found["damaged"] == found["whole"]


def damage_four(sweep: Sweep, store: Store) -> None:
    """One trial half trained with a damaged checkpoint, one with a damaged journal too, two with damaged evaluations."""
    for number, one in enumerate(sweep.trials):
        folder = store.folder(one.fingerprint)
        for event in run_trial(one.trial, folder, one.evaluations, device="cpu"):
            if number < 2 and event.kind == "epoch":
                break
        if number < 2:
            (folder.path / "checkpoint.pt").write_bytes(b"no checkpoint")
        if number == 1:
            (folder.path / "journal.jsonl").write_bytes(b"\0" * 100)
        for path in list((folder.path / "evaluations").glob("*.json" if number == 2 else "*.npz")):
            path.write_bytes(path.read_bytes()[:-3])
    (store.path / "sweeps").mkdir()
    (store.path / "sweeps" / f"{sweep.name}.json").write_bytes(b"{")
