"""One store in which a sweep is disturbed: what can be killed, and what must hold when it is over."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ham_core.folder import TrialFolder
from tests.commands import ROOT
from tests.faults import processes
from tests.faults.processes import MARK, wait_until

SWEEP = """\
title: Small trials that are killed
trial:
  data: {name: digits, train_limit: 200, test_limit: 60}
  model: {name: small_cnn, width: 0.5}
  epsilon: 0.2
  attack: {steps: 3, mode: eval}
  epochs: EPOCHS
  batch_size: 64
  selection.steps: 2
grid:
  methods: {method: [at, ham-official]}
  started:
    method: [at]
    start_from: {method: trades, weights: last}
    optimizer.lr: [0.01]
seeds: SEEDS
evaluate: [clean, pgd2]
"""
TRIALS = 4  # per seed: two methods, and a trial with its start
ENDINGS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 130, signal.SIGINT: 130}


class Arena:
    """A folder with small.yaml and a store, and optionally a Ray cluster and an MLflow server of its own."""

    def __init__(self, folder: Path, epochs: int, seeds: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        text = SWEEP.replace("EPOCHS", str(epochs)).replace("SEEDS", str(list(range(seeds))))
        (folder / "small.yaml").write_text(text, encoding="utf-8")
        self.folder, self.epochs, self.trials = folder, epochs, TRIALS * seeds
        self.store = folder / "store"
        self.database = self.store / "mlflow.db"
        self.mark = uuid.uuid4().hex
        self.options: list[str] = []
        self.cluster: Any = None
        self.nodes: list[Any] = []
        self.server: subprocess.Popen[bytes] | None = None
        self.sleepers: dict[int, Path] = {}  # stopped worker -> the lock that it held
        self._runs = 0

    # its processes -------------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), MARK: self.mark}

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`ham ARGUMENTS --store ...`, in a session of its own, its output in files."""
        self._runs += 1
        with (
            open(self.folder / f"{self._runs}.out", "wb") as out,
            open(self.folder / f"{self._runs}.err", "wb") as err,
        ):
            return subprocess.Popen(
                [sys.executable, "-m", "orchestration.cli", *arguments, "--store", "store"],
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=_hear_interrupts,
            )

    def sweep(self) -> subprocess.Popen[bytes]:
        """The one command that is typed again and again."""
        return self.start("sweep", "small.yaml", *self.options)

    def said(self) -> str:
        """What the last command printed."""
        return "".join(
            (self.folder / f"{self._runs}.{end}").read_text(errors="replace") for end in ("out", "err")
        )

    def processes(self) -> dict[int, str]:
        """pid -> command line of all that was started here, Ray's processes and servers too."""
        return processes.belonging(self.mark, self.folder)

    def workers(self) -> dict[int, Path]:
        """pid -> lock of every process that works on a trial, but for those that a test has stopped."""
        found = processes.holders("trials/*/lock", self.store)
        return {pid: lock for pid, lock in found.items() if pid not in self.sleepers}

    def epochs_done(self) -> int:
        """Over all trials."""
        return sum(len(path.read_bytes().splitlines()) for path in self.store.glob("trials/*/journal.jsonl"))

    def start_cluster(self) -> None:
        """A head without a CPU, so that the driver's node stays, and two nodes of one CPU."""
        from ray.cluster_utils import Cluster

        with self._marked():
            self.cluster = Cluster(
                initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
            )
        for _ in range(2):
            self.add_node()
        self.options += ["--address", self.cluster.address]

    def add_node(self) -> None:
        """One more CPU."""
        with self._marked():
            self.nodes.append(self.cluster.add_node(num_cpus=1))

    def start_server(self) -> None:
        """An MLflow server on the same database, at the same port again and again."""
        if "--tracking-uri" not in self.options:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.options += ["--tracking-uri", f"http://127.0.0.1:{probe.getsockname()[1]}"]
            self.database = self.folder / "server.db"
        address = self.options[self.options.index("--tracking-uri") + 1]
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        command += ["--backend-store-uri", f"sqlite:///{self.database}", "--port", address.rpartition(":")[2]]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with open(self.folder / "server.log", "ab") as log:
            self.server = subprocess.Popen(
                command,
                env={**self.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: _is_healthy(address), 90, "the MLflow server")

    def close(self) -> None:
        """End everything that belongs here, and whatever should not be there."""
        if self.cluster is not None:
            self.cluster.shutdown()
        if self.server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait()
        processes.end(self.processes())

    @contextlib.contextmanager
    def _marked(self) -> Iterator[None]:
        """Ray starts its nodes with this process's environment and in its folder."""
        before = dict(os.environ)
        os.environ.update(self.environment)
        try:
            with contextlib.chdir(self.folder):
                yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    # what can be killed --------------------------------------------------------------------------------------------

    def kill_driver(self, running: subprocess.Popen[bytes], dice: random.Random) -> bool:
        """By SIGKILL, a scheduler's SIGTERM, or Ctrl-C, which the whole foreground group gets."""
        number = dice.choice(list(ENDINGS))
        begun, left = self.workers(), self.epochs * self.trials - self.epochs_done()
        if number == signal.SIGINT:
            os.killpg(running.pid, number)
        else:
            processes.send(running.pid, number)
        code = running.wait(120)
        if begun:  # before that it may end in any way, having done nothing
            assert code == ENDINGS[number] or (code == 0 and left < 10), (
                f"{number.name} with {left} epochs left ended in {code}:\n{self.said()}"
            )
            assert "Traceback" not in self.said(), self.said()
        return code != 0

    def kill_worker(self, running: subprocess.Popen[bytes], dice: random.Random) -> bool:
        """One of those that work on a trial."""
        found = sorted(self.workers())
        return bool(found) and processes.send(dice.choice(found), signal.SIGKILL)

    def remove_node(self, node: Any) -> None:
        """Its raylet is killed, and its workers with it."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def kill_node(self, running: subprocess.Popen[bytes], dice: random.Random) -> bool:
        """A whole node; another one joins."""
        self.remove_node(dice.choice(self.nodes))
        self.add_node()
        return True

    def strand_worker(self, running: subprocess.Popen[bytes], dice: random.Random) -> bool:
        """Stop a worker and kill its node, as if the network had gone: it lives on and keeps its lock."""
        found = {pid: lock for pid, lock in self.workers().items() if node_of(pid, self.nodes) is not None}
        if not found:
            return False
        pid = dice.choice(sorted(found))
        node = node_of(pid, self.nodes)
        self.sleepers[pid] = found[pid]
        processes.send(pid, signal.SIGSTOP)
        self.remove_node(node)
        self.add_node()
        return True

    def kill_server(self, running: subprocess.Popen[bytes], dice: random.Random) -> bool:
        """The MLflow server; it comes back some seconds later."""
        assert self.server is not None
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()
        time.sleep(dice.uniform(0.5, 4))
        self.start_server()
        return True

    def wake_sleepers(self) -> None:
        """Let stopped workers go on whose trial another one has taken over by now."""
        taken = set(self.workers().values())
        for pid, lock in list(self.sleepers.items()):
            if lock in taken or (lock.parent / "done.json").exists():
                processes.send(pid, signal.SIGCONT)
                del self.sleepers[pid]

    # what must hold ------------------------------------------------------------------------------------------------

    def tables(self) -> dict[str, bytes]:
        """Every Markdown, LaTeX and CSV file of the report but those about cost, which hold seconds."""
        place = [word for word in self.options if "://" in word or word == "--tracking-uri"]
        command = self.start("report", "--format", "csv,md,tex", "--out", "report", *place)
        assert command.wait(120) == 0, self.said()
        found = [
            path for path in (self.folder / "report").rglob("*.*") if path.suffix in (".md", ".tex", ".csv")
        ]
        return {path.name: path.read_bytes() for path in found if "cost" not in path.name}

    def journals(self) -> dict[str, list[dict[str, Any]]]:
        """fingerprint -> records as they stand in the file, metrics without seconds."""
        found = {}
        for path in sorted(self.store.glob("trials/*/journal.jsonl")):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.parent.name] = [
                {
                    "epoch": line["epoch"],
                    **{key: value for key, value in line["metrics"].items() if not key.startswith("time/")},
                }
                for line in lines
            ]
        return found

    def check(self, unbroken: Arena) -> None:
        """Everything is as if nothing had happened."""
        assert self.journals() == unbroken.journals()
        for identity, records in self.journals().items():
            assert [record["epoch"] for record in records] == list(range(self.epochs))
            folder = TrialFolder.of(self.store, identity)
            assert folder.problems() == []
            assert not [path for path in folder.path.rglob(".*") if path.name != ".taking"]
        assert self.tables() == unbroken.tables()
        runs, points = self.record()
        assert sorted(runs) == [("FINISHED", "sweep"), *[("FINISHED", "trial")] * self.trials]
        assert points == []
        assert self.workers() == {}

    def record(self) -> tuple[list[tuple[str, str]], list[Any]]:
        """(status and kind of every run in MLflow, epochs that a trial's run lacks or holds twice)."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            runs = connection.execute(
                "select r.status, t.value from runs r join tags t on t.run_uuid = r.run_uuid and t.key = 'kind' "
                "where r.lifecycle_stage = 'active'"
            ).fetchall()
            points = connection.execute(
                "select m.run_uuid, m.key, count(*) as points, count(distinct m.step) as steps from metrics m "
                "join runs r on r.run_uuid = m.run_uuid "
                "where r.lifecycle_stage = 'active' and (m.key like 'train/%' or m.key like 'val/%') "
                "group by 1, 2 having points != steps or (m.key = 'train/loss' and steps != ?)",
                (self.epochs,),
            ).fetchall()
        return runs, points

    def strays(self) -> dict[int, str]:
        """Processes of this arena that its sweeps have left behind, the cluster's and the server's own apart."""
        kept = set() if self.server is None else {self.server.pid}
        return {
            pid: line
            for pid, line in self.processes().items()
            if pid not in kept and not (self.server and _parent(pid) in kept)
        }


def node_of(pid: int, nodes: Iterable[Any]) -> Any:
    """The node of `ray.cluster_utils` that a worker is a child of, or None."""
    raylets = {node.all_processes["raylet"][0].process.pid: node for node in nodes}
    return raylets.get(_parent(pid))


def _hear_interrupts() -> None:
    """As at a terminal: what a script starts in the background ignores SIGINT, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return 0


def _is_healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2):
            return True
    except OSError:
        return False
