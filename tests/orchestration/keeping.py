"""A store in which a small sweep was started, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from typer.testing import CliRunner

from ham_core.run import run_trial
from orchestration.cli import app
from orchestration.status import remember
from orchestration.store import Store
from orchestration.sweep import Sweep, load_sweep

ONE = ("seeds=0", "grid.methods.method=[at]")  # the small sweep's first trial
WARM = {  # a trial that goes on from the state of another one, which no grid asks for
    "method: [at, trades]": "method: [trades]\n    start_from: {method: at, epochs: 1, weights: state}"
}


def started(
    path: Path,
    place: Path,
    *,
    sets: tuple[str, ...] = (),
    trained: Callable[[str], bool] = lambda name: True,
    failed: Mapping[str, str] | None = None,
) -> tuple[Store, Sweep]:
    """The sweep of a file as if `ham sweep` had run it: the trials with these names are trained and evaluated."""
    store, sweep = Store(place), load_sweep(path, sets=sets)
    names = {f"{one.row} seed={one.seed}": one.fingerprint for one in sweep.trials}
    remember(sweep, store, {names[name]: why for name, why in (failed or {}).items()})
    for planned in sweep.trials:
        if trained(f"{planned.row} seed={planned.seed}"):
            list(
                run_trial(planned.trial, store.folder(planned.fingerprint), planned.evaluations, device="cpu")
            )
    return store, sweep


def ham(*arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command in this process; a traceback fails the test."""
    outcome = CliRunner().invoke(app, [str(word) for word in arguments])
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.exit_code, outcome.stdout, outcome.stderr
