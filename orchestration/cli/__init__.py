"""`ham ...`: the command line. One module per group of commands; this one puts them together.

Everything heavy (torch, ray, mlflow, scikit-learn, pandas) is imported inside the commands that need it, so that help,
plans and status come at once. Exit codes: 0 done, 1 some trial failed, 2 the request is wrong, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Annotated

import typer

from orchestration.cli import datasets, keeping, listing, planning, reporting, reproducing, trials

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: Tune prints nothing
    "RAY_AUTH_MODE": "token",  # Ray's ports demand its token
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journals hold all of it
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

app = typer.Typer(
    name="ham",
    help="Adversarially robust fairness: write down the tables you want, train what is missing, rebuild every table.",
    epilog="First steps:  ham sweep digits  ·  ham report  ·  ham ui",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
planning.register(app)
trials.register(app)
reporting.register(app)
keeping.register(app)
reproducing.register(app)
listing.register(app)
datasets.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        from ham_core import __version__

        print(f"ham-sweeps {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The entry point."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    signal.signal(signal.SIGTERM, _interrupt)
    app()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """A scheduler's SIGTERM ends a command as Ctrl-C does, also one whose SIGINT a background shell has switched off."""
    raise KeyboardInterrupt
