"""sync, gc, retry, logs: keeping what was computed, and looking at it trial by trial. Also sweeps as one file."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ham_core.errors import RequestError
from orchestration.cli.shared import (
    DEFAULT_STORE,
    DONE,
    FAILED,
    JsonFlag,
    StoreFlag,
    UriFlag,
    command,
    complain,
    console,
    emit,
    grid,
    open_store,
    tracking_uri,
    wanted_sweep,
)

if TYPE_CHECKING:
    from ham_core.folder import TrialFolder
    from orchestration.garbage import Item
    from orchestration.store import Store
    from orchestration.sweep import Planned, Sweep

StartedArgument = Annotated[
    str | None, typer.Argument(metavar="[SWEEP]", help="The name of a started sweep. [default: all]")
]
MOST_DIFFERENCES = 12  # settings of the nearest trial that are printed


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "logs", "ham logs 3fa4b2")(logs)
    command(app, "retry", "ham retry --failed digits")(retry)
    command(app, "sync", "ham sync digits")(sync)
    command(app, "gc", "ham gc --delete")(gc)


# one trial ---------------------------------------------------------------------------------------------------------


def logs(
    trial: Annotated[
        str, typer.Argument(metavar="TRIAL", help="The beginning of a fingerprint, or a row of ham status.")
    ],
    store: StoreFlag = DEFAULT_STORE,
    as_json: JsonFlag = False,
) -> None:
    """Print a trial's journal, an epoch per line, and its evaluations."""
    from orchestration.explaining import find

    place = open_store(store, must_exist=True)
    one = find(place, trial)
    folder = place.folder(one.fingerprint)
    settings = folder.settings()
    if settings is None:
        raise RequestError(f"{one.title}: was never started; `ham explain {one.fingerprint[:10]}` says why")
    if as_json:
        emit(
            {
                "fingerprint": one.fingerprint,
                "name": one.name,
                "done": folder.is_done(),
                "failure": one.failure,
                "epochs": folder.journal(),
                "evaluations": folder.evaluations(),
            }
        )
        return
    print(one.title)
    for line in _journal_lines(folder, settings["epochs"]):
        print(line)
    if one.failure:
        print(f"failed: {one.failure}")


def _journal_lines(folder: TrialFolder, epochs: int) -> Iterator[str]:
    from orchestration.live import numbers

    for record in folder.journal():
        metrics = record["metrics"]
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["timestamp"]))
        words = [moment, f"epoch {record['epoch'] + 1}/{epochs}"]
        if "train/loss" in metrics:
            words.append(f"loss {metrics['train/loss']:.4f}")
        attacked = [key for key in metrics if re.fullmatch(r"val/(?!clean).+/avg", key)]
        words += [_accuracies(metrics, key.removesuffix("/avg")) for key in attacked]
        seconds = metrics.get("time/train_s", 0.0) + metrics.get("time/validate_s", 0.0)
        yield "  ".join([*words, f"{seconds:.1f} s"])
    if folder.is_done():
        yield "trained"
    for record in folder.evaluations():
        name, metrics = f"{record['weights']}/{record['attack_name']}", record["metrics"]
        told = numbers(metrics[f"{name}/avg"], metrics[f"{name}/worst"])
        yield f"evaluated {name}  {told}  {record['seconds']:.1f} s"
        yield from (f"  doubt: {doubt}" for doubt in record.get("doubts", ()))


def _accuracies(metrics: Mapping[str, float], prefix: str) -> str:
    from orchestration.live import numbers

    return f"{prefix} {numbers(metrics[f'{prefix}/avg'], metrics[f'{prefix}/worst'])}"


def explain_trial(trial: str, against: str | None, sweep: str | None, store: str, as_json: bool) -> None:
    """Why a trial stands as it does; with a second one, in which settings they differ."""
    from orchestration import explaining

    place = open_store(store)
    asked = None if sweep is None else _sweep_of(place, sweep)
    one = explaining.find(place, trial, asked)
    if against is None:
        answer = explaining.explain(place, one)
        emit(answer) if as_json else _print_explanation(answer)
        return
    answer = explaining.compare(place, one, explaining.find(place, against, asked))
    if as_json:
        emit(answer)
        return
    print(f"here:   {answer['here']}\nthere:  {answer['there']}")
    _print_differences(answer["differs"])


def _sweep_of(store: Store, name: str) -> Sweep:
    """A sweep by its file, or as it was started here."""
    from orchestration.started import expanded
    from orchestration.status import recorded_sweeps

    for recorded in recorded_sweeps(store):
        if recorded["name"] == name:
            return expanded(recorded)
    return wanted_sweep(name, store, None, ())


def _print_explanation(answer: Mapping[str, Any]) -> None:
    print(f"{answer['fingerprint'][:10]}  {answer['trial']}")
    print(f"{answer['status']}: {answer['why']}")
    print(f"folder: {answer['folder']}")
    print(f"sweeps: {', '.join(answer['sweeps']) or 'none'}")
    for note in answer.get("notes", ()):
        print(f"note:   {note}")
    if "nearest" in answer:
        nearest = answer["nearest"]
        print(f"nearest trial in the store: {nearest['fingerprint'][:10]}")
        _print_differences(nearest["differs"])
        if "note" in nearest:
            print(nearest["note"])


def _print_differences(differs: Sequence[Mapping[str, Any]]) -> None:
    if not differs:
        print("no setting differs")
        return
    rows = [
        (one["setting"], _word(one["here"]), _word(one["there"]), "yes" if one["identity"] else "no")
        for one in differs[:MOST_DIFFERENCES]
    ]
    grid(("setting", "here", "there", "part of the fingerprint"), rows)
    if len(differs) > MOST_DIFFERENCES:
        print(f"and {len(differs) - MOST_DIFFERENCES} more; --json shows all")


def _word(value: Any) -> str:
    return "-" if value is None else str(value)


# sweeps ------------------------------------------------------------------------------------------------------------


def retry(
    sweep: StartedArgument = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="The trials that failed, and what else the sweep is missing.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Only forget that they failed, and run nothing.")
    ] = False,
    threads: Annotated[int, typer.Option("--threads", help="CPU threads per trial.")] = 1,
    concurrent: Annotated[
        int | None, typer.Option("--concurrent", help="Trials at once. [default: as many as fit]")
    ] = None,
    store: StoreFlag = DEFAULT_STORE,
    uri: UriFlag = None,
) -> int:
    """Run sweeps with failed trials again, as they were started."""
    from orchestration.runner import Resources, run_sweep
    from orchestration.started import command_of, expanded, failures, forget_failures
    from orchestration.status import recorded_sweep

    if not failed:
        raise RequestError(
            "ham retry: retry what? write ham retry --failed; what is merely missing, ham sweep runs"
        )
    place = open_store(store, must_exist=True)
    address = tracking_uri(uri, place)
    if sweep is not None:
        recorded_sweep(place, sweep)
    found = failures(place, sweep)
    if not found:
        print("no trial failed")
    code = DONE
    for name, reasons in found.items():
        recorded = recorded_sweep(place, name)
        again = shlex.join(command_of(recorded))
        for trial, reason in reasons.items():
            print(f"{name}: {trial}: had failed: {reason}")
        if forget:
            forget_failures(place, recorded)
            print(f"{name}: {len(reasons)} failures forgotten; next: {again}")
            continue
        try:
            asked = expanded(recorded)
        except RequestError as error:
            complain([*error.problems, f"{name}: not run; next: {again}"])
            code = FAILED
            continue
        resources = Resources(threads=threads, concurrent=concurrent)
        outcome = run_sweep(asked, place, address, resources=resources, console=console(stderr=True))
        complain([f"failed: {row}: {reason}" for row, reason in outcome.failed.items()])
        complain([outcome.tracking] if outcome.tracking else [])
        print(f"{name}: {len(outcome.done)} trained, {outcome.reused} reused, {len(outcome.failed)} failed")
        if outcome.interrupted:
            complain(["interrupted; the same command continues"])
            return outcome.exit_code
        code = max(code, outcome.exit_code)
    return code


def sync(sweep: StartedArgument = None, store: StoreFlag = DEFAULT_STORE, uri: UriFlag = None) -> int:
    """Complete MLflow, or write it anew, from the journals: of a started sweep, or of all trials of the store."""
    from orchestration.status import recorded_sweep, recorded_sweeps

    place = open_store(store, must_exist=True)
    address = tracking_uri(uri, place)
    sweeps = [recorded_sweep(place, sweep)] if sweep is not None else recorded_sweeps(place)[::-1]
    _refuse_running(place)
    problems: list[str] = []
    for recorded in sweeps:  # the one that was started last comes last, as it was
        problems += _record_sweep(place, recorded, address)
    if sweep is None:
        members = {trial["fingerprint"] for recorded in sweeps for trial in recorded["trials"]}
        problems += _record_others(place, [one for one in place.trials() if one not in members], address)
        problems += _record_models(place, address)
    complain(problems)
    return FAILED if problems else DONE


def _refuse_running(store: Store) -> None:
    """One process writes the record: while a sweep runs, its driver."""
    from orchestration.status import is_running

    running = [identity[:10] for identity in store.trials() if is_running(store.folder(identity))]
    if running:
        raise RequestError(
            f"{store.path}: {len(running)} trials are being trained ({', '.join(running[:5])}); what trains them also records "
            "them; run ham sync when it has ended"
        )


def _record_sweep(store: Store, recorded: Mapping[str, Any], uri: str) -> list[str]:
    """Bring a started sweep's runs up to date -> what went wrong."""
    from orchestration.runner import Recorder, is_complete
    from orchestration.started import expanded

    try:
        sweep = expanded(recorded)
        complete = {one.fingerprint for one in sweep.trials if is_complete(one, store)}
    except RequestError as error:
        return list(error.problems)
    recorder = Recorder(uri, store, sweep.trials, sweep, warn=lambda sentence: complain([sentence]))
    recorder.failures = {
        trial["fingerprint"]: trial["failure"]
        for trial in recorded["trials"]
        if trial["failure"] and trial["fingerprint"] not in complete
    }
    recorder.finish(interrupted=len(complete) + len(recorder.failures) < len(sweep.trials))
    if recorder.problem:
        return [recorder.problem]
    print(f"{sweep.name}: {len(sweep.trials)} trials, {len(complete)} complete")
    return [
        sentence
        for one in sweep.trials
        if one.fingerprint not in complete
        for sentence in _other_predictions(one, store, recorded)
    ]


def _other_predictions(one: Planned, store: Store, recorded: Mapping[str, Any]) -> Iterator[str]:
    """A sentence per evaluation of a trained trial whose files are not those that were written."""
    from ham_core.protocol import identity_of_evaluation

    again = ["ham", "sweep", str(recorded["source"])]
    again += ["--profile", recorded["profile"]] if recorded["profile"] else []
    again += [word for setting in recorded["sets"] for word in ("--set", setting)]
    folder = store.folder(one.fingerprint)
    for evaluation in one.evaluations if folder.is_done() else ():
        identity = identity_of_evaluation(one.fingerprint, one.trial, evaluation)
        if folder.is_damaged(identity):
            yield (
                f"{folder.path / 'evaluations' / identity}.npz: is not what was written (edited, or damaged), so {one.label} "
                f"seed {one.seed} counts as half done; to attack it again: {shlex.join([*again, '--store', store.address])}"
            )


def _record_models(store: Store, uri: str) -> list[str]:
    """The same of other people's models."""
    from orchestration.models import judged, record

    models = judged(store.path)
    problem = record(uri, store.path, models) if models else ""
    if models and not problem:
        print(f"models: {len({one.folder.path for one in models})} judged")
    return [problem] if problem else []


def _record_others(store: Store, identities: Sequence[str], uri: str) -> list[str]:
    """The same of trials that belong to no started sweep."""
    from orchestration.runner import Recorder
    from orchestration.tracking import Single

    jobs, problems = [], []
    for identity in identities:
        try:
            jobs.append(Single(store.folder(identity).trial(), identity))
        except (RequestError, ValueError):  # pydantic's are ValueErrors
            problems.append(
                f"{store.folder(identity).path / 'trial.json'}: cannot be read as a trial of this version; left out"
            )
    if jobs:
        recorder = Recorder(uri, store, jobs, warn=lambda sentence: complain([sentence]))
        recorder.finish(interrupted=False)
        problems += [recorder.problem] if recorder.problem else []
        if not recorder.problem:
            print(f"{len(jobs)} trials of no started sweep")
    return problems


def export_sweep(name: str, weights: str | None, out: Path | None, store: str) -> None:
    """Write a started sweep as one file."""
    from ham_core.protocol import canonical_weights
    from orchestration.archive import write_archive
    from orchestration.disk import size_in_words

    place = open_store(store, must_exist=True)
    wanted = [canonical_weights(word.strip()) for word in (weights or "").split(",") if word.strip()]
    written = write_archive(place, name, out or Path(f"{name}.tar.gz"), wanted)
    if written.left_out:
        complain([f"left out, since they are not trained yet: {', '.join(written.left_out)}"])
    print(f"{written.path}: {written.trials} trials of sweep '{name}', {size_in_words(written.bytes)}")


def import_sweep(source: Path, store: str, uri: str | None) -> int:
    """Take an exported sweep into the store and into MLflow."""
    from orchestration.archive import read_archive

    place = open_store(store)
    address = tracking_uri(uri, place)
    recorded, taken = read_archive(place, source)
    names = {trial["fingerprint"]: trial["name"] for trial in recorded["trials"]}
    for identity, what in taken.items():
        print(f"{identity[:10]}  {names.get(identity, '')}  {what}")
    problems = _record_sweep(place, recorded, address)
    complain(problems)
    return FAILED if problems else DONE


# space -------------------------------------------------------------------------------------------------------------


def gc(
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete; without it nothing but a list is made.")
    ] = False,
    only: Annotated[
        str,
        typer.Option("--only", metavar="LIST", help="Of checkpoints, weights, folders, temporary."),
    ] = "checkpoints,weights,temporary",
    store: StoreFlag = DEFAULT_STORE,
    as_json: JsonFlag = False,
) -> None:
    """List what could be deleted: nothing that a started sweep needs. Trials of no sweep go with --only folders."""
    from orchestration import garbage

    place = open_store(store, must_exist=True)
    kinds = [word.strip() for word in only.split(",") if word.strip()]
    garbage.check_kinds(kinds)
    found = garbage.listed(place)
    gone = garbage.delete(place, found, kinds) if delete else []
    if as_json:
        shown = gone if delete else found
        emit(
            {
                "deleted": delete,
                "bytes": sum(one.bytes for one in shown),
                "items": [_entry(one) for one in shown],
            }
        )
        return
    _print_items(place, gone if delete else found, kinds, delete)


def _entry(item: Item) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "path": str(item.path),
        "bytes": item.bytes,
        "trial": item.trial,
        "why": item.why,
    }


def _print_items(store: Store, items: Sequence[Item], kinds: Sequence[str], deleted: bool) -> None:
    from orchestration.disk import size_in_words
    from orchestration.garbage import KINDS

    if items:
        rows = [
            (one.kind, size_in_words(one.bytes), str(one.path.relative_to(store.path)), one.why)
            for one in items
        ]
        grid(("what", "size", "where", "why"), rows)
    for kind in KINDS:
        mine = [one.bytes for one in items if one.kind == kind]
        if mine:
            kept = "" if kind in kinds else f"; --delete leaves them, unless --only {kind} is given"
            print(f"{kind}: {len(mine)}, {size_in_words(sum(mine))}{kept}")
    total = size_in_words(sum(one.bytes for one in items if one.kind in kinds))
    print(f"{total} deleted" if deleted else f"{total} would go with --delete")
