"""Closed doors: what listens where, who gets in, what is told to others, and files that would run code."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.store import Store
from orchestration.tracking import Tracker, default_uri
from tests.commands import ROOT
from tests.faults import processes
from tests.faults.arena import Arena
from tests.faults.processes import Door, wait_until

TELEMETRY = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
CONNECT = "import ray, sys; ray.init(address=sys.argv[1], logging_level='critical', log_to_driver=False)"


@pytest.fixture(scope="module")
def sweeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """A real `ham sweep` in the middle of its work, started without the settings that conftest.py makes for tests."""
    with pytest.MonkeyPatch.context() as bare:
        for name in [*os.environ]:
            if name.startswith(("RAY_", "MLFLOW_", "TUNE_")):
                bare.delenv(name)
        arena = Arena(tmp_path_factory.mktemp("doors"), epochs=2000, seeds=1)
        running = arena.sweep()
        try:
            wait_until(lambda: arena.epochs_done() >= 2, 90, "the first epochs")
            assert running.poll() is None, arena.said()
            yield arena
        finally:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            arena.close()


# what listens where ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_ham_ui_listens_on_this_machine_only_and_leaves_nothing_behind(tmp_path: Path) -> None:
    arena = Arena(tmp_path, epochs=1, seeds=1)
    Tracker(default_uri(arena.store), arena.store)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = arena.start("ui", "--port", str(port))
    try:
        wait_until(lambda: "Ctrl-C ends it" in arena.said(), 60, "the UI")
        doors = processes.doors(arena.processes())
        assert port in {door.port for door in doors}
        assert {door.address for door in doors} == {"127.0.0.1"}
        running.send_signal(signal.SIGTERM)  # as a service manager ends it
        assert running.wait(30) == 0
        wait_until(lambda: not arena.processes(), 10, "the end of its server")
    finally:
        arena.close()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(240)
class TestWhileASweepRuns:
    def test_only_ray_listens_beyond_this_machine(self, sweeping: Arena) -> None:
        ours = sweeping.processes()
        open_doors = [door for door in processes.doors(ours) if not loopback(door.address)]
        assert open_doors, "Ray has some, or this test sees nothing"
        for door in open_doors:
            name = ours[door.pid]
            assert "/ray/" in name or name.startswith("ray::") or "orchestration.cli sweep" in name
        # In our own processes Ray's library opens one, for its other processes; there is no second one.
        for pid, name in ours.items():
            if "orchestration.cli" in name or pid in sweeping.workers():
                assert len([door for door in open_doors if door.pid == pid]) == 1

    def test_ray_lets_in_only_who_has_its_token(self, sweeping: Arena) -> None:
        asked = {token: connect(sweeping, token) for token in ("right", "wrong", "none")}
        for token, process in asked.items():
            _, err = process.communicate(timeout=100)
            assert (process.returncode == 0) == (token == "right"), err
            assert ("InvalidAuthToken" in err) == (token != "right"), err

    @pytest.mark.parametrize("token", ["none", "wrong"])
    def test_ham_without_the_clusters_token_is_one_sentence(
        self, sweeping: Arena, token: str, tmp_path: Path
    ) -> None:
        code, out, err = ham_on_cluster(sweeping, token, tmp_path)
        assert (code, out) == (2, ""), err
        assert "does not let this process in" in err
        assert "RAY_AUTH_TOKEN_PATH" in err
        assert "Traceback" not in err

    def test_rays_pages_are_closed_without_the_token(self, sweeping: Arena) -> None:
        """What answers to HTTP among Ray's doors (its agents) answers 401."""
        answers = {}
        for door in processes.doors(sweeping.processes()):
            if not loopback(door.address):
                status = http_status(door)
                if status is not None:
                    answers[door.port] = status
        assert answers, "the agent of the runtime environments is one"
        assert set(answers.values()) == {401}

    def test_telemetry_of_the_libraries_is_off_in_every_process(self, sweeping: Arena) -> None:
        ours, seen = sweeping.processes(), set()
        for pid, name in ours.items():
            shown = processes.environment(pid)
            # /proc shows what the command itself was started with (the next test asks it), and nothing certain of what has
            # overwritten its environment with another name.
            if "orchestration.cli" in name or shown[0] == b"":
                continue
            seen.add(pid)
            for variable, value in TELEMETRY.items():
                assert f"{variable}={value}".encode() in shown, name
        assert seen >= set(sweeping.workers()) != set()
        assert len(seen) >= 4, "the workers, gcs_server and raylet"


ASK = """
import os, sys
sys.argv = ["ham", "status", "--store", "nowhere"]
from orchestration.cli import main
try:
    main()
except SystemExit:
    pass
import mlflow.telemetry
import mlflow.telemetry.utils
from ray._common.usage import usage_lib
print(mlflow.telemetry.utils.is_telemetry_disabled(), mlflow.telemetry.get_telemetry_client() is None)
print(usage_lib.usage_stats_enabled())
"""


@pytest.mark.slow
def test_the_libraries_themselves_say_that_their_telemetry_is_off(tmp_path: Path) -> None:
    """In a process that began as `ham` does; and on where it did not, or the question would prove nothing."""
    bare = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    bare |= {"PYTHONPATH": str(ROOT)}
    bare.pop("CI", None)  # MLflow is silent there by itself
    asked = subprocess.run(
        [sys.executable, "-c", ASK], cwd=tmp_path, env=bare, capture_output=True, text=True
    )
    assert asked.stdout.splitlines()[-2:] == ["True True", "False"], asked.stderr


# files that would run code -----------------------------------------------------------------------------------------


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.place),)


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[Path]:
    """A checkpoint whose loading would make the folder `ran`; it must not be there in the end."""
    torch.save({"state_dict": Payload(tmp_path / "ran")}, tmp_path / "evil.pt")
    torch.load(tmp_path / "evil.pt", weights_only=False)
    (tmp_path / "ran").rmdir()  # it would
    yield tmp_path / "evil.pt"
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_foreign_checkpoint_that_would_run_code_is_refused(evil: Path, tmp_path: Path) -> None:
    network = (
        "--model",
        "small_cnn",
        "--data",
        "digits",
        "--epsilon",
        "0.1",
        "--store",
        str(tmp_path / "store"),
    )
    code, out, err = ham("evaluate", "--checkpoint", str(evil), *network)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert str(evil) in err


TRAIN = ["train", "--method", "standard", "--attack", "clean", "--weights", "best"]
for setting in (
    "model.name=small_cnn",
    "model.width=0.5",
    "epochs=2",
    "data.train_limit=100",
    "data.test_limit=40",
):
    TRAIN += ["--set", setting]


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["checkpoint.pt", "weights/best.pt"])
def test_a_file_of_a_trial_that_would_run_code_is_never_run(name: str, evil: Path, tmp_path: Path) -> None:
    """In a store that was tampered with, and in one that somebody sent."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    assert ham(*TRAIN, "--store", str(theirs))[0] == 0
    (identity,) = Store(theirs).trials()
    folder = theirs / "trials" / identity
    (folder / "done.json").unlink()
    for path in (folder / "evaluations").iterdir():
        path.unlink()
    os.replace(evil, folder / name)
    ham("import", str(theirs), "--store", str(ours))
    for store in (ours, theirs):
        code, _, err = ham(*TRAIN, "--store", str(store))
        # Either the file is made anew from what is known to be good, or a sentence names it.
        assert code == 0 or (code in (1, 2) and name in err)


def ham(*arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command in this process. What is no answer of the command's is raised."""
    outcome = CliRunner().invoke(app, list(arguments))
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.exit_code, outcome.stdout, outcome.stderr


def loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def gcs_address(arena: Arena) -> str:
    """Where the sweep's Ray takes other programs in."""
    (gcs,) = [pid for pid, name in arena.processes().items() if "gcs_server" in name]
    return f"127.0.0.1:{next(door.port for door in processes.doors([gcs]))}"


def connect(arena: Arena, token: str) -> subprocess.Popen[str]:
    """Another Ray program that wants to join the sweep's Ray."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "right": {"RAY_AUTH_MODE": "token"},
        "wrong": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        "none": {"RAY_AUTH_MODE": "disabled"},
    }[token]
    return subprocess.Popen(
        [sys.executable, "-c", CONNECT, gcs_address(arena)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def ham_on_cluster(arena: Arena, token: str, folder: Path) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `ham sweep --address` by somebody who lacks the token, or has another one."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(folder)}  # the token's usual place is below HOME
    environment |= {"RAY_AUTH_TOKEN": "0" * 64} if token == "wrong" else {}
    words = ["sweep", str(arena.folder / "small.yaml"), "--store", "store", "--address", gcs_address(arena)]
    done = subprocess.run(
        [sys.executable, "-m", "orchestration.cli", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def http_status(door: Door) -> int | None:
    """What a door answers to HTTP; None where it does not speak it."""
    host = socket.gethostbyname(socket.gethostname()) if door.address in ("0.0.0.0", "::") else door.address
    try:
        with contextlib.closing(urllib.request.urlopen(f"http://{host}:{door.port}/", timeout=3)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
    except Exception:  # gRPC answers in HTTP/2
        return None
