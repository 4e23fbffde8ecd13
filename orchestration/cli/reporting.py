"""report, explain, ui: looking at what was recorded."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import reports
from ham_core.errors import RequestError, known
from orchestration.cli.keeping import explain_trial
from orchestration.cli.shared import (
    DEFAULT_STORE,
    DONE,
    FAILED,
    JsonFlag,
    StoreFlag,
    SweepFlag,
    UriFlag,
    command,
    complain,
    console,
    emit,
    grid,
    next_command,
    open_store,
    tracking_uri,
)

if TYPE_CHECKING:
    from reports.builder import Built

UnderFlag = Annotated[
    str | None,
    typer.Option(
        "--protocol", metavar="LIST", help="Only under these protocols. [default: all of the sweep]"
    ),
]
BEST_FIRST = "best/pgd20/worst"  # the UI opens with the trials sorted by it
READY_SECONDS = 60
MOST_CHANGES = 60  # of one table on the terminal; the file has all


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(
        app,
        "report",
        "ham report --out reports-out --format md,tex  ·  ham report --tables  ·  ham report --why",
    )(report)
    command(
        app, "explain", 'ham explain ham-main "HAM (official code)" "PGD-20 worst"  ·  ham explain 3fa4b2'
    )(explain)
    command(app, "ui", "ham ui --port 5001")(ui)


def report(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Tables or figures. [default: all that have runs]"),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="[default: STORE/report]")] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", metavar="LIST", help="Of md, tex, csv, html. [default: all]"),
    ] = None,
    tables: Annotated[
        bool, typer.Option("--tables", help="Tables only, in md, tex and csv: figures take most of the time.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Write named tables although cells are missing.")
    ] = False,
    mlflow_url: Annotated[
        str | None,
        typer.Option(
            "--mlflow-url",
            metavar="URL",
            help="The MLflow UI that the page links runs to. [default: the tracking server, else http://127.0.0.1:5000]",
        ),
    ] = None,
    sweep: SweepFlag = None,
    store: StoreFlag = DEFAULT_STORE,
    uri: UriFlag = None,
    protocol: UnderFlag = None,
    why: Annotated[
        bool, typer.Option("--why", help="Build nothing; say what would be built again, and why.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="DIR", help="Say which cells differ from an earlier report."),
    ] = None,
    document: Annotated[
        Path | None,
        typer.Option(
            "--document",
            metavar="FILE.md.j2",
            help="Besides: write a text of your own, FILE.md, whose numbers come from the report.",
        ),
    ] = None,
) -> int:
    """Build tables and figures from what is recorded, and one self-contained HTML page. What is up to date is left alone."""
    from ham_core.folder import unwritable

    possible = tuple(
        word for word in reports.FORMATS if word != "html" or not tables
    )  # the page shows figures
    chosen = list(possible) if format is None else _words(format)
    wrong = [
        "--format: the page shows figures, so html does not go with --tables; leave out one of them"
        if word in reports.FORMATS
        else f"--format: unknown format '{word}'; {known(word, reports.FORMATS)}"
        for word in chosen
        if word not in possible
    ]
    if wrong or not chosen:
        raise RequestError(wrong or f"--format: no format given; {known('', reports.FORMATS)}")
    place = open_store(store, must_exist=uri is None)
    if mlflow_url and not mlflow_url.startswith(("http://", "https://")):
        raise RequestError(
            f"--mlflow-url: '{mlflow_url}' is no web address; try --mlflow-url http://127.0.0.1:5000"
        )
    target = out or place.path / "report"
    if why and against is not None:
        raise RequestError("--why builds nothing, so there is nothing to compare --against; give one of them")
    if why and document is not None:
        raise RequestError("--why builds nothing, so there is no text to write either; leave out --document")
    if against is not None and "csv" not in chosen:
        chosen.append("csv")  # which is what is compared
    address = tracking_uri(uri, place)
    asked = reports.Request(
        uri=address,
        out=target,
        names=names or (),
        formats=chosen,
        sweep=sweep,
        protocols=_words(protocol),
        store=place.path,
        mlflow=mlflow_url or (address if address.startswith("http") else None),
        figures=not tables,
    )
    if why:
        print("\n".join(_reasons(reports.why(asked), target)))
        return DONE
    reason = unwritable(target)
    if reason:
        raise RequestError(
            f"--out: {target} cannot be written ({reason}); name a folder in which you may write, for example --out tables"
        )
    # Read first: it may be the folder that is built.
    before = {} if against is None else reports.tables_in(against)
    files = [] if document is None else reports.write_document(document, asked)
    built = reports.build(asked, partial=partial)
    _show(built)
    complain(built.waiting)
    if against is not None:
        _show_changes(reports.compare(before, built, against, target), against)
        print(f"\nchanges:     {_short(target / 'changes.md')}")
    if files:
        print(f"\ntext:        {_short(files[0])}, {len(files) - 1} picture{'' if len(files) == 2 else 's'}")
    count = f"{len(built.files)} file{'' if len(built.files) == 1 else 's'} in {_short(target)}"
    print(
        f"\nup to date: {count}"
        if built.up_to_date
        else f"\n{count}, {len(built.written)} of them new or changed"
    )
    if built.html is not None:
        print(f"HTML report: {_short(built.html)} (open it in a browser; it needs no network)")
    print(f"MLflow UI:   {next_command('ui', store, uri)}")
    return DONE


def _show(built: Built) -> None:
    """The main table: in colours on a terminal, else as the Markdown that its file holds."""
    from reports.render.terminal import render

    screen = console()
    coloured = render(built.main, screen) if built.main and screen.is_terminal else None
    if coloured is not None:
        screen.print(coloured)
    elif built.main:
        print(built.shown)


def _reasons(asked: Mapping[str, list[str]], target: Path) -> list[str]:
    """A line per target: why it would be built again; what is up to date comes last, in one."""
    lines = [f"{name}: {'; '.join(reasons)}" for name, reasons in asked.items() if reasons]
    fresh = [name for name, reasons in asked.items() if not reasons]
    if not lines:
        return [f"up to date: all of {_short(target)} ({', '.join(fresh)})"]
    return [*lines, f"up to date: {', '.join(fresh) or 'nothing'}"]


def _show_changes(found: Sequence[Any], against: Path) -> None:
    """The changed cells, table by table."""
    from reports.changes import in_one_line, rows_of

    for changes in found:
        if changes.cells:
            title = f"{changes.table}{f' ({changes.whole})' if changes.whole else ''}"
            rows = rows_of(changes)
            grid(("row", "column", "old", "new", "difference"), rows[:MOST_CHANGES], title)
            if len(rows) > MOST_CHANGES:
                print(f"and {len(rows) - MOST_CHANGES} more")
            print()
    print(in_one_line(found, against))


def explain(
    table: Annotated[
        str, typer.Argument(metavar="TABLE|TRIAL", help="Alone: the beginning of a fingerprint, or a row.")
    ],
    row: Annotated[
        str | None, typer.Argument(metavar="[ROW|TRIAL]", help="As printed in the table; or a second trial.")
    ] = None,
    column: Annotated[
        str | None, typer.Argument(metavar="[COLUMN]", help="As printed in the table, or a metric's name.")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="TRIAL", help="In which settings do two trials differ?")
    ] = None,
    sweep: SweepFlag = None,
    store: StoreFlag = DEFAULT_STORE,
    uri: UriFlag = None,
    as_json: JsonFlag = False,
    protocol: UnderFlag = None,
) -> None:
    """What stands behind one cell of a table; or why a trial is missing or trains again, and how two trials differ."""
    if column is None:
        explain_trial(table, _one_of(row, against), sweep, store, as_json)
        return
    if row is None or against is not None:
        raise RequestError("ham explain: --against compares two trials; a cell is TABLE ROW COLUMN")
    place = open_store(store, must_exist=uri is None)
    answer = reports.explain(
        uri=tracking_uri(uri, place),
        store=place.path,
        table=table,
        row=row,
        column=column,
        sweep=sweep,
        protocols=_words(protocol),
    )
    if as_json:
        emit(answer)
    else:
        print("\n".join(_lines(answer)))


def _words(text: str | None) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in (text or "").split(",") if word.strip()))


def _one_of(second: str | None, against: str | None) -> str | None:
    if second is not None and against is not None:
        raise RequestError(
            f"ham explain: '{second}' and --against '{against}'; give one trial to compare with"
        )
    return against if second is None else second


def _lines(answer: Any, indent: str = "") -> list[str]:
    """Nested answers for people: a key per line, lists as blocks."""
    lines: list[str] = []
    for key, value in answer.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
            lines.append(f"{indent}{key}:")
            for entry in value:
                block = _lines(entry, indent + "    ")
                lines += [f"{indent}  - {block[0].strip()}", *block[1:]]
        elif isinstance(value, list):
            lines.append(f"{indent}{key}: {', '.join(map(str, value))}")
        else:
            lines.append(f"{indent}{key}: {'' if value is None else value}")
    return lines


def ui(
    port: Annotated[int, typer.Option("--port", help="Port on 127.0.0.1.", min=1, max=65535)] = 5000,
    store: StoreFlag = DEFAULT_STORE,
    uri: UriFlag = None,
) -> int:
    """Open the MLflow UI on what is recorded, on 127.0.0.1. Ctrl-C ends it."""
    place = open_store(store, must_exist=uri is None)
    address = tracking_uri(uri, place)
    if address.startswith("http"):
        print(f"That server has the UI: {address}{_trials_view(address)}")
        return DONE
    if uri is None and not (place.path / "mlflow.db").exists():
        raise RequestError(
            f"{place.path}: nothing is recorded yet (no mlflow.db); run `ham sweep SWEEP` first"
        )
    if _taken(port):
        raise RequestError(
            f"--port: {port} is in use on 127.0.0.1; choose another, for example --port {port + 1}"
        )
    view = _trials_view(address)
    server = _start_server(address, place.path, port)
    try:
        if not _answers(server, port):
            complain([f"the MLflow server did not start; see {place.path / 'ui.log'}"])
            return FAILED
        print(f"MLflow UI:   http://127.0.0.1:{port}/")
        print(f"all trials:  http://127.0.0.1:{port}/{view}")
        print("Ctrl-C ends it.", flush=True)
        return DONE if server.wait() == 0 else FAILED
    except KeyboardInterrupt:
        return DONE
    finally:
        _stop(server)


def _start_server(address: str, store: Path, port: int) -> subprocess.Popen[bytes]:
    command_line = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", address]
    command_line += ["--artifacts-destination", str(store / "artifacts")]
    command_line += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # Without its job queue the server is 2 processes instead of 14.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(store / "ui.log", "wb") as log:
        return subprocess.Popen(
            command_line, stdout=log, stderr=log, env=environment, cwd=store, start_new_session=True
        )


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until the server is healthy."""
    import urllib.request

    for _ in range(READY_SECONDS * 4):
        if server.poll() is not None:
            return False
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return True
        except OSError:
            time.sleep(0.25)
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its workers."""
    try:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _trials_view(address: str) -> str:
    """The address of the newest sweep's trials, flat and best first."""
    from urllib.parse import quote

    from orchestration import tracking

    sweeps = tracking.read_sweeps(address)
    if not sweeps:
        return ""
    where = quote(f"tags.kind='trial' and tags.`{tracking.MEMBERSHIP}{sweeps[0].name}` != ''")
    order = quote(f"metrics.`{BEST_FIRST}`")
    if sweeps[0].name == tracking.MODELS:  # no sweep of trials is recorded
        where, order = quote("tags.kind='model'"), quote("metrics.`file/pgd20/worst`")
    return (
        f"#/experiments/{sweeps[0].experiment_ids[0]}/runs?searchFilter={where}&orderByKey={order}&orderByAsc=false"
        "&startTime=ALL&lifecycleFilter=Active&modelVersionFilter=All+Runs&datasetsFilter=W10%3D"
    )


def _short(path: Path) -> str:
    """Relative to here where that is shorter."""
    return min(str(path), os.path.relpath(path), key=len)
