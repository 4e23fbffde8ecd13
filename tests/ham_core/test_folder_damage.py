"""Every file of a trial's folder, damaged in every way, ends in the same results or in a sentence that names the file.

One trial that is trained and evaluated, the same after `ham gc`, and the same half trained. HAM_FUZZ=20 runs 20 times as many
cases, HAM_FUZZ_SEED=7 others.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ham_core import autoattack
from ham_core.errors import RequestError
from ham_core.folder import TrialFolder, load_tensors, read_json, save_tensors
from ham_core.prefix import prefix_file, prefix_of
from ham_core.protocol import Evaluation, evaluation_fingerprint
from ham_core.run import Event, run_trial
from ham_core.seals import is_whole, opened, sealed
from tests.builders import trial
from tests.damage import LONG, SEED, Damage, damages

ROOT = Path(__file__).resolve().parents[2]
ONE = trial(
    epochs=3, attack={"steps": 1}, data={"train_limit": 100, "test_limit": 30}, batch_size=50, selection={"steps": 1}
)  # fmt: skip
EVALUATIONS = [Evaluation.model_validate({"weights": "best", "attack": name}) for name in ("clean", "pgd2")]
FIRST = evaluation_fingerprint(ONE, EVALUATIONS[0])


def run(folder: TrialFolder) -> list[Event]:
    return list(run_trial(ONE, folder, EVALUATIONS, device="cpu"))


def train_half(folder: TrialFolder) -> None:
    """Two of three epochs, then a kill."""
    for event in run_trial(ONE, folder, EVALUATIONS, device="cpu"):
        if event.kind == "epoch" and event.epoch == 1:
            break


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{state: the trial's folder}, not to be changed."""
    found = {}
    for state in ("trained", "swept", "half"):
        folder = TrialFolder.of(tmp_path_factory.mktemp(state), ONE)
        run(folder) if state != "half" else train_half(folder)
        found[state] = folder.path
    (found["swept"] / "checkpoint.pt").unlink()  # as ham gc does
    assert (found["half"] / "checkpoint.previous.pt").exists()
    return found


@pytest.fixture
def copy(places: dict[str, Path], tmp_path: Path) -> Callable[[str], TrialFolder]:
    """copy(state) -> a folder of that state that may be damaged."""

    def made(state: str) -> TrialFolder:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        path = tmp_path / "copy" / places[state].name
        shutil.copytree(places[state], path)
        return TrialFolder(path)

    return made


# what must not change ------------------------------------------------------------------------------------------------


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A journal without what a clock has written."""
    return [
        {
            "epoch": record["epoch"],
            "kept": record["kept"],
            **{key: value for key, value in record["metrics"].items() if not key.startswith("time/")},
        }
        for record in records
    ]


def results(folder: TrialFolder) -> dict[str, Any]:
    """Everything that a complete trial has, in a form that can be compared."""
    weights = {name: folder.weights(name) for name in folder.weight_names()}
    return {
        "trial": folder.settings(),
        "journal": timeless(folder.journal()),
        "weights": {
            name: {key: value.numpy().tobytes() for key, value in state.items()}
            for name, state in weights.items()
        },
        "evaluations": [
            {key: value for key, value in record.items() if key != "seconds"}
            for record in folder.evaluations()
        ],
        "predictions": {
            record["fingerprint"]: {
                key: value.tobytes() for key, value in folder.predictions(record["fingerprint"]).items()
            }
            for record in folder.evaluations()
        },
        "facts": {
            key: value
            for key, value in (read_json(folder.path / "done.json") or {}).items()
            if key != "journal_bytes"
        },
    }


@pytest.fixture(scope="module")
def expected(places: dict[str, Path]) -> dict[str, Any]:
    return results(TrialFolder(places["trained"]))


def must_name(error: RequestError, victim: Path, remedy: str = "") -> None:
    """The sentence names the file, or the other half of the evaluation that it belongs to, and says what to do."""
    named = any(str(path) in str(error) for path in (victim, victim.with_suffix(".json")))
    assert named and remedy in str(error), f"{victim.name}: {error}"


def look(folder: TrialFolder, expected: dict[str, Any], victim: Path) -> None:
    """What plans, status and records read: true, incomplete, or a sentence. Never something else."""

    def sentence(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except RequestError as error:
            must_name(error, victim)
            return None

    folder.is_done(), folder.epochs_done(), folder.problems(), folder.lost_epochs()
    assert sentence(folder.settings) in (None, expected["trial"])
    records = timeless(sentence(folder.journal) or [])
    assert records == expected["journal"][: len(records)]
    for name in folder.weight_names():
        state = sentence(lambda name=name: folder.weights(name))
        if state is not None and folder.is_done():
            assert {key: value.numpy().tobytes() for key, value in state.items()} == expected["weights"][name]
    for record in folder.evaluations(skip_damaged=True):
        identity = record["fingerprint"]
        assert {key: value for key, value in record.items() if key != "seconds"} in expected["evaluations"]
        seen = sentence(lambda identity=identity: folder.predictions(identity))
        assert (
            seen is None
            or {key: value.tobytes() for key, value in seen.items()} == (expected["predictions"][identity])
        )


def check(folder: TrialFolder, victim: Path, damage: Damage, expected: dict[str, Any]) -> list[Event] | None:
    """Damage a file of the folder and run the trial -> its events; None: it ended in a sentence."""
    damage.do(victim)
    look(folder, expected, victim)
    try:
        events = run(folder)
        if (
            victim.parent.name == "weights" and not victim.exists()
        ):  # ham gc takes weights, too: asking says so
            folder.weights(victim.stem)
        assert results(folder) == expected
        assert folder.problems() == []
    except RequestError as error:
        must_name(error, victim, "delete")
        return None
    assert not list(folder.path.rglob(".*")), "a stray file"
    assert not (folder.path / "checkpoint.previous.pt").exists()
    return events


def cases(places: dict[str, Path], state: str) -> Iterator[tuple[Path, Damage]]:
    chance = random.Random(f"{SEED} {state}")
    for path in sorted(places[state].rglob("*")):
        alike = path.parent.name == "weights" and path.stem not in ("best", "best_ema")
        if path.is_file() and (LONG > 1 or not alike):
            for damage in damages(path.read_bytes(), chance, 6 * LONG):
                yield path.relative_to(places[state]), damage


@pytest.mark.timeout(60 + 120 * LONG)
@pytest.mark.parametrize("state", ["trained", "swept", "half"])
def test_every_damaged_file_ends_in_the_same_results_or_in_a_sentence(
    state: str,
    places: dict[str, Path],
    copy: Callable[[str], TrialFolder],
    expected: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended = {"same results": 0, "sentence": 0}
    for inside, damage in cases(places, state):
        folder = copy(state)
        try:
            events = check(folder, folder.path / inside, damage, expected)
        except BaseException as error:
            error.add_note(f"seed {SEED}, {state}, {inside}: {damage.name}")
            raise
        ended["sentence" if events is None else "same results"] += 1
        if inside.stem == "best_ema" and state == "half" and damage.content is None:
            assert events is not None and "best_ema.pt: is damaged or gone" in events[0].name, (
                "kept in epoch 0 only"
            )
        if events is None and state == "half":
            assert inside.name == "trial.json", "everything else of an unfinished trial can be made again"
    with capsys.disabled():
        print(f"\n{state}: {sum(ended.values())} cases, seed {SEED}: {ended}")
    assert sum(ended.values()) >= 60


# one promise each ----------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_costs_one_epoch(
    copy: Callable[[str], TrialFolder], expected: dict[str, Any]
) -> None:
    folder = copy("half")
    (folder.path / "checkpoint.pt").write_bytes(b"no checkpoint")
    said, *events = run(folder)
    assert said.kind == "recovered" and f"{folder.path / 'checkpoint.pt'}: is damaged" in said.name
    assert [event.epoch for event in events if event.kind == "epoch"] == [1, 2]
    assert results(folder) == expected


def test_without_a_checkpoint_an_unfinished_training_begins_again_and_says_so(
    copy: Callable[[str], TrialFolder], expected: dict[str, Any]
) -> None:
    folder = copy("half")
    for path in folder.checkpoints():
        path.write_bytes(path.read_bytes()[:-1])
    events = run(folder)
    assert [event.kind for event in events[:2]] == ["recovered", "recovered"]
    assert [event.epoch for event in events if event.kind == "epoch"] == [0, 1, 2]
    assert results(folder) == expected


def test_a_damaged_journal_is_written_again_byte_for_byte(copy: Callable[[str], TrialFolder]) -> None:
    folder = copy("trained")
    path = folder.path / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"epoch": 1', b'"epoch": 7'))
    with pytest.raises(
        RequestError, match=r"holds 1 of 3 epochs .* delete this file, and the next ham sweep"
    ):
        folder.journal()
    (said,) = run(folder)
    assert (said.kind, path.read_bytes()) == ("recovered", whole)


def test_without_a_checkpoint_a_damaged_journal_of_a_trained_trial_is_a_sentence(
    copy: Callable[[str], TrialFolder],
) -> None:
    folder = copy("swept")
    path = folder.path / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"epoch": 1', b'"epoch": 7'))
    with pytest.raises(RequestError) as caught:
        run(folder)
    assert str(caught.value).startswith(f"{path}: holds 1 of 3 epochs")
    assert f"delete the folder {folder.path} to train this trial again" in str(caught.value)


def test_a_lost_mark_of_a_trained_trial_without_checkpoint_trains_nothing(
    copy: Callable[[str], TrialFolder], expected: dict[str, Any]
) -> None:
    folder = copy("swept")
    (folder.path / "done.json").unlink()
    (folder.path / "weights" / "best_sum.pt").unlink()  # as a finished trial lets go of what nobody attacked
    assert [event.kind for event in run(folder)] == ["trained"]
    assert folder.pruned() == {"best_sum"}
    found = results(folder)
    assert found["facts"].pop("pruned") == ["best_sum"]
    assert found["weights"] == {k: one for k, one in expected["weights"].items() if k != "best_sum"}
    assert [found[key] for key in ("journal", "evaluations", "facts")] == [
        expected[key] for key in ("journal", "evaluations", "facts")
    ]


def test_a_kill_between_checkpoint_and_journal_is_no_damage(copy: Callable[[str], TrialFolder]) -> None:
    folder = copy("half")
    lines = (folder.path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder.path / "journal.jsonl").write_bytes(lines[0] + lines[1][:50])
    assert [event.kind for event in run(folder)][:2] == ["epoch", "trained"]
    assert (folder.path / "journal.jsonl").read_bytes().splitlines(keepends=True)[:2] == lines


def test_a_damaged_evaluation_is_missing_until_it_ran_again(copy: Callable[[str], TrialFolder]) -> None:
    folder = copy("trained")
    path = folder.path / "evaluations" / f"{FIRST}.npz"
    path.write_bytes(path.read_bytes()[:-1])
    assert not folder.has_evaluation(FIRST)
    assert folder.is_damaged(FIRST)
    with pytest.raises(RequestError, match=f"delete .*{FIRST}.json and run ham sweep"):
        folder.evaluations()
    (event,) = run(folder)
    assert (event.kind, event.name) == ("evaluated", "best/clean")
    assert folder.has_evaluation(FIRST)
    assert not folder.is_damaged(FIRST)


def test_predictions_of_another_evaluation_are_refused(copy: Callable[[str], TrialFolder]) -> None:
    """A whole file in the wrong place has right checksums of its own."""
    folder = copy("trained")
    other = evaluation_fingerprint(ONE, EVALUATIONS[1])
    path = folder.path / "evaluations" / f"{FIRST}.npz"
    path.write_bytes(path.with_name(f"{other}.npz").read_bytes())
    with pytest.raises(RequestError) as caught:
        folder.predictions(FIRST)
    must_name(caught.value, path, "delete")


def test_what_a_killed_writer_had_begun_is_gone_when_the_next_one_has_the_lock(
    copy: Callable[[str], TrialFolder],
) -> None:
    folder = copy("half")
    strays = [".checkpoint.pt.77", "weights/.best.pt.77", "evaluations/.x.npz.77"]
    (folder.path / "evaluations").mkdir(exist_ok=True)
    for name in strays:
        (folder.path / name).write_bytes(b"half")
    with folder.lock():
        assert not list(folder.path.rglob(".*"))


def test_the_checkpoint_before_is_kept_without_being_written_again(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path)
    folder.save_checkpoint({"epoch": 1})
    first = (tmp_path / "checkpoint.pt").stat()
    folder.save_checkpoint({"epoch": 2})
    before = tmp_path / "checkpoint.previous.pt"
    assert before.stat().st_ino == first.st_ino
    assert (load_tensors(before), folder.checkpoint()) == ({"epoch": 1}, {"epoch": 2})
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", "checkpoint.previous.pt"}


def test_settings_in_the_folder_of_another_trial_are_refused(copy: Callable[[str], TrialFolder]) -> None:
    folder = copy("trained")
    folder.create(trial(epochs=3, seed=7))
    with pytest.raises(RequestError, match=r"trial.json: describes the trial .* not the one the folder"):
        folder.settings()


# what earlier versions wrote -----------------------------------------------------------------------------------------


def test_files_of_earlier_versions_are_taken_as_they_are(
    copy: Callable[[str], TrialFolder], expected: dict[str, Any]
) -> None:
    """Without checksums; a checkpoint with the record of its own epoch only."""
    folder = copy("half")
    state = folder.checkpoint()
    assert state is not None
    records = state.pop("records")
    save_tensors(folder.path / "checkpoint.pt", state | {"record": records[-1]})
    (folder.path / "checkpoint.previous.pt").unlink()
    (folder.path / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records[:1]))
    path = folder.path / "trial.json"
    path.write_text(json.dumps(read_json(path)))
    assert [event.kind for event in run(folder)][:2] == ["epoch", "trained"]
    assert results(folder) == expected


# parts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [False, True])
def test_a_sealed_object_is_itself_or_refused(lines: bool) -> None:
    chance, value = random.Random(SEED), {"epoch": 3, "metrics": {"a/b": 0.1, "c": [1, 2]}, "ε": "8/255"}
    whole = sealed(value, lines=lines)
    assert opened(whole) == value
    assert json.loads(whole).keys() == {*value, "checksum"}
    for damage in damages(whole, chance, 3000 * LONG):
        try:
            assert opened(damage.content or b"") == value, damage.name
        except ValueError:
            continue


def test_a_lost_checksum_does_not_pass_for_a_file_of_an_earlier_version() -> None:
    whole = sealed({"epoch": 3, "metrics": {"a": 0.1}})
    with pytest.raises(ValueError, match="the checksum is damaged"):
        opened(whole.replace(b"checksum", b"checkzum").replace(b"0.1", b"0.9"))
    assert opened(b'{"epoch": 3, "metrics": {"a": 0.1}}\n') == {"epoch": 3, "metrics": {"a": 0.1}}


def test_every_changed_byte_and_every_cut_of_a_file_of_tensors_is_found(tmp_path: Path) -> None:
    """Some bytes tell torch where the numbers are, and no checksum of the zip format covers them."""
    chance, path = random.Random(SEED), tmp_path / "x.pt"
    save_tensors(path, {"w": torch.arange(300.0), "n": 7})
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= chance.randrange(1, 256)
        for damaged in (bytes(changed), content[:place]):
            path.write_bytes(damaged)
            assert not is_whole(path), (place, changed[place], len(damaged))
    with pytest.raises(RequestError, match="cannot be read as a checkpoint"):
        load_tensors(path)
    path.write_bytes(content)
    assert torch.equal(load_tensors(path)["w"], torch.arange(300.0))
    assert torch.equal(torch.load(path, weights_only=True, mmap=True)["w"], torch.arange(300.0))


def test_tensors_without_a_digest_are_compared_with_the_checksums_of_their_format(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"w": torch.arange(300.0)}, path)
    assert torch.equal(load_tensors(path)["w"], torch.arange(300.0))
    content = path.read_bytes()
    path.write_bytes(content.replace(torch.arange(300.0).numpy().tobytes(), bytes(1200)))
    assert not is_whole(path)


def test_the_state_of_a_stopped_autoattack_is_itself_or_forgotten(tmp_path: Path) -> None:
    chance, label = random.Random(SEED), np.arange(5000) % 3
    state = autoattack.State(
        clean=label,
        clean_confidence=np.linspace(0, 1, 5000),
        prediction=label.copy(),
        confidence=np.linspace(1, 0, 5000),
        broken_by=np.full(5000, -1, np.int8),
        tried=np.zeros(2, np.int64),
        extent=np.zeros(3, np.float32),
        seconds=np.array(1.5),
    )
    path = tmp_path / "x.partial.npz"
    autoattack._write(path, state)
    content = path.read_bytes()
    member, shape = content.index(b"prediction.npy"), b"'shape': (5000,)"
    start = content.index(shape, member)
    shorter = content[:start] + shape.replace(b"5", b"1") + content[start + len(shape) :]
    for damage in [Damage("1000 of 5000 images", shorter), *damages(content, chance, 500 * LONG)]:
        path.touch()
        damage.do(path)
        found = autoattack._read(path, label, 2)
        assert found is None or all(
            np.array_equal(value, getattr(state, name)) for name, value in vars(found).items()
        ), damage.name


def test_a_damaged_shared_beginning_changes_nothing(tmp_path: Path) -> None:
    """A saved state that other trials go on from: damaged, its epochs are trained by the trial itself."""
    chance, name = random.Random(SEED), prefix_of(ONE, 2)
    leader = TrialFolder.of(tmp_path / "leader", ONE)
    list(run_trial(ONE, leader, prefixes={2: name}, device="cpu"))
    content = prefix_file(tmp_path / "leader", name).read_bytes()
    wanted = results(leader)
    for number, damage in enumerate(damages(content, chance, 8 * LONG)):
        store = tmp_path / str(number)
        path = prefix_file(store, name)
        path.parent.mkdir(parents=True)
        path.touch()
        damage.do(path)
        follower = TrialFolder.of(store, ONE)
        list(run_trial(ONE, follower, prefixes={2: name}, device="cpu"))
        assert results(follower) == wanted, f"seed {SEED}, {damage.name}"
        shutil.rmtree(store)


# a full disk ---------------------------------------------------------------------------------------------------------

FULL = """
import resource, sys
from ham_core.errors import RequestError
from ham_core.folder import TrialFolder
from tests.ham_core import test_folder_damage as here
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    here.run(TrialFolder(sys.argv[1]))
except RequestError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize(
    ("state", "most"), [("new", 60_000), ("new", 1_200), ("half", 6_000), ("half", 60_000)]
)
def test_a_file_for_which_there_is_no_room_leaves_nothing_half_written(
    state: str, most: int, copy: Callable[[str], TrialFolder], expected: dict[str, Any], tmp_path: Path
) -> None:
    """The limit on a file's size stands for a full disk: the same error in the same calls, for this process only."""
    folder = copy("half") if state == "half" else TrialFolder.of(tmp_path, ONE)
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FULL, str(folder.path), str(most)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 2, ended.stderr
    assert (
        f"{folder.path}" in ended.stdout
        and "cannot be written (File too large); make room in" in ended.stdout
    )
    assert len(ended.stdout.strip().splitlines()) == 1
    assert not list(folder.path.rglob(".*"))
    assert all(path.stat().st_size <= most or path in before for path in folder.path.rglob("*.*"))
    run(folder)
    assert results(folder) == expected
