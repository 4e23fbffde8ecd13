"""What the commands share: flags, the way errors end, the way answers are printed."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ham_core.errors import RequestError

if TYPE_CHECKING:
    from rich.console import Console

    from orchestration.store import Store
    from orchestration.sweep import Sweep

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")

StoreFlag = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="DIR|URL",
        help="Where trials, tracking database and artifacts are kept; a URL (s3://bucket/outputs) for the trials alone.",
    ),
]
UriFlag = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri", metavar="URI", help="MLflow server or database. [default: STORE/mlflow.db]"
    ),
]
SetFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting, e.g. --set seeds=0; repeatable, YAML values."
    ),
]
ProfileFlag = Annotated[
    str | None,
    typer.Option("--profile", metavar="NAME", help="A shorter or other version of the sweep, e.g. smoke."),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
SweepArgument = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP",
        help="A sweep's YAML file, the name of a shipped one, or table:NAME: all that a table needs.",
    ),
]
SweepFlag = Annotated[
    str | None, typer.Option("--sweep", metavar="NAME", help="A recorded sweep. [default: the newest]")
]
GpusFlag = Annotated[
    str | None,
    typer.Option(
        "--gpus-per-trial",
        metavar="auto|SHARE",
        help="Share of a GPU per trial; auto: as its measured memory asks for. [default: auto]",
    ),
]
DiskFlag = Annotated[
    str | None,
    typer.Option(
        "--disk", metavar="SIZE", help="Most bytes of the store, for example 50GB. [default: no limit]"
    ),
]
KeepAllFlag = Annotated[
    bool,
    typer.Option(
        "--keep-all",
        help="Keep checkpoints and weights by every rule, not only what is evaluated, best and last.",
    ),
]
ConcurrentFlag = Annotated[
    int | None, typer.Option("--concurrent", help="Trials at once. [default: as many as fit]")
]
AddressFlag = Annotated[
    str | None,
    typer.Option("--address", metavar="HOST:PORT", help="A Ray cluster. [default: this machine]"),
]

TRACKING = ("mlflow", "sqlalchemy", "sqlite3", "alembic")  # packages whose errors are about the record
DEFAULT_STORE = "outputs"


def command(
    app: typer.Typer, name: str, example: str
) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Register a command: its return value is the exit code, a RequestError is printed and ends with 2."""

    def register(function: Callable[..., int | None]) -> Callable[..., None]:
        @functools.wraps(function)
        def guarded(*arguments: Any, **options: Any) -> None:
            raise typer.Exit(_run(lambda: function(*arguments, **options)))

        app.command(name, epilog=f"Example:  {example}")(guarded)
        return guarded

    return register


def _run(action: Callable[[], int | None]) -> int:
    try:
        return action() or DONE
    except RequestError as error:
        complain(error.problems)
        return WRONG
    except KeyboardInterrupt:
        complain(["interrupted; the same command continues"])
        return INTERRUPTED
    except BrokenPipeError:  # `ham plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        reason = error.strerror or str(error)
        where = f"{error.filename}: {reason}; check the path, its permissions and the free space"
        complain([where if error.filename else reason])
        return WRONG
    except Exception as error:
        if not _is_of_the_record(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        complain(
            [
                f"MLflow's record cannot be used ({reason[:200]}); check --tracking-uri and --store; a damaged mlflow.db "
                "can be moved away, `ham sweep` writes it again from the trials"
            ]
        )
        return WRONG


def _is_of_the_record(error: Exception) -> bool:
    """Whether MLflow or its database raised this; by name, since most commands import neither."""
    return any(kind.__module__.partition(".")[0] in TRACKING for kind in type(error).__mro__)


def next_command(name: str, store: str, uri: str | None) -> str:
    """A command on the same store, as it can be typed: `ham ui --store results`, or `.venv/bin/ham ui`."""
    typed = sys.argv[0]
    program = "ham" if shutil.which("ham") or not typed.endswith("/ham") else shlex.quote(typed)
    words = [program, name]
    if store != DEFAULT_STORE:
        words += ["--store", shlex.quote(store)]
    if uri:
        words += ["--tracking-uri", shlex.quote(uri)]
    return " ".join(words)


def complain(problems: Sequence[str]) -> None:
    """One sentence per line on stderr."""
    for problem in problems:
        print(problem, file=sys.stderr)


def emit(answer: Any) -> None:
    """Machine output."""
    print(json.dumps(answer, indent=1, ensure_ascii=False))


def console(*, stderr: bool = False) -> Console:
    """Tables and progress. Wide where the output goes to a file, so that nothing is cut."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=200)


def grid(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """A plain table on stdout."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, title=title or None, title_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    shown = console()
    with shown.capture() as text:
        shown.print(table)
    print("\n".join(line.rstrip() for line in text.get().splitlines()))


def open_store(address: str, *, must_exist: bool = False) -> Store:
    """The trial store, as other machines have left it; with `must_exist`, one that holds something."""
    from orchestration.store import store_at

    store = store_at(address)
    if not store.pull() and must_exist:
        raise RequestError(
            f"--store: {address} does not exist; run `ham sweep SWEEP --store {address}` first, or name another one"
        )
    return store


def wanted_sweep(words: str, store: Store, profile: str | None, sets: Sequence[str]) -> Sweep:
    """The sweep of a file, of a name, or of `table:NAME`, with what its search has proposed in this store."""
    from orchestration.search import load, resumed
    from orchestration.sweep import parse_sweep
    from reports.targets import document, is_target

    if not is_target(words):
        return load(words, store, profile, sets)
    return resumed(parse_sweep(document(words, profile), words, profile=profile, sets=sets), store)


def gpu_share(text: str | None) -> float | None:
    """A share of a GPU; None stands for `auto`."""
    if text in (None, "auto"):
        return None
    try:
        return float(text)
    except ValueError:
        raise RequestError(
            f"--gpus-per-trial: '{text}' is no share of a GPU; give auto, 0 to 1, or a whole number"
        ) from None


def tracking_uri(uri: str | None, store: Store) -> str:
    """Where MLflow records: what was asked for, else the store's own database."""
    if uri is None:
        from orchestration.tracking import default_uri

        return default_uri(store.path)
    scheme = re.match(r"([a-z]+)(\+[a-z0-9]+)?:", uri)
    if scheme is None or scheme[1] not in SCHEMES:
        raise RequestError(
            f"--tracking-uri: '{uri}' is no address of an MLflow server or database; write for example "
            "http://127.0.0.1:5000 or sqlite:////data/mlflow.db"
        )
    return uri.rstrip("/") if scheme[1].startswith("http") else uri
