"""sweep, plan, status: what is there, what is missing, and doing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestration.cli.shared import (
    DEFAULT_STORE,
    AddressFlag,
    ConcurrentFlag,
    DiskFlag,
    GpusFlag,
    JsonFlag,
    KeepAllFlag,
    ProfileFlag,
    SetFlag,
    StoreFlag,
    SweepArgument,
    UriFlag,
    command,
    complain,
    console,
    emit,
    gpu_share,
    grid,
    next_command,
    open_store,
    tracking_uri,
    wanted_sweep,
)
from orchestration.live import percent

if TYPE_CHECKING:
    from orchestration.plan import Plan, Step
    from orchestration.runner import Outcome

NEXT = 5  # trials that `ham status` names as next
ALL_ROWS = 200  # trials of a sweep that `ham plan` lists without being asked to; of a larger one only what needs something
MOST_ROWS = 50  # and of that so many


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "sweep", "ham sweep sweeps/digits.yaml --set seeds=0")(sweep)
    command(app, "plan", "ham plan sweeps/cifar10.yaml --profile smoke --json")(plan)
    command(app, "status", "ham status digits")(status)


def sweep(
    sweep: SweepArgument,
    profile: ProfileFlag = None,
    settings: SetFlag = None,
    store: StoreFlag = DEFAULT_STORE,
    uri: UriFlag = None,
    threads: Annotated[int, typer.Option("--threads", help="CPU threads per trial.")] = 1,
    gpus: GpusFlag = None,
    disk: DiskFlag = None,
    keep_all: KeepAllFlag = False,
    concurrent: ConcurrentFlag = None,
    address: AddressFlag = None,
) -> int:
    """Train and evaluate what the sweep is missing. After any interruption the same command continues."""
    from orchestration.disk import bytes_in
    from orchestration.results import doubtful, results_of
    from orchestration.runner import Resources, run_sweep
    from orchestration.search import resumed

    place = open_store(store)
    found = wanted_sweep(sweep, place, profile, settings or ())
    address_of_mlflow = tracking_uri(uri, place)
    resources = Resources(
        threads=threads,
        gpus_per_trial=gpu_share(gpus),
        concurrent=concurrent,
        address=address,
        disk=None if disk is None else bytes_in(disk),
        keep_all=keep_all,
    )
    outcome = run_sweep(found, place, address_of_mlflow, resources=resources, console=console(stderr=True))
    _summary(found.name, outcome, store, uri)
    complain(doubtful(results_of(resumed(found, place).trials, place)))
    return outcome.exit_code


def _summary(name: str, outcome: Outcome, store: str, uri: str | None) -> None:
    for row, reason in outcome.failed.items():
        complain([f"failed: {row}: {reason}"])
    if outcome.tracking:
        complain([outcome.tracking])
    counts = f"{len(outcome.done)} trained, {outcome.reused} reused, {len(outcome.failed)} failed"
    early = f", {outcome.stopped} stopped early" if outcome.stopped else ""
    print(f"{name}: {counts}{early}{', interrupted' if outcome.interrupted else ''}")
    _print_best(outcome.best)
    if outcome.interrupted:
        complain(["interrupted; the same command continues"])
    elif not outcome.failed:
        print(f"tables: {next_command('report', store, uri)}")


def _print_best(points: Sequence[Mapping[str, Any]]) -> None:
    """The best point of a search, or of several goals those that no other one beats."""
    if not points:
        return
    keys = list(dict.fromkeys(key for point in points for key in point["values"]))
    rows = [
        (point["number"], *(_value(point["values"].get(key)) for key in keys), *map(percent, _scores(point)))
        for point in points
    ]
    title = "best point" if len(points) == 1 else f"{len(points)} points that no other one beats"
    print(f"{title}, on held-out images")
    grid(("point", *keys, "worst, at least", "avg"), rows)


def _scores(point: Mapping[str, Any]) -> tuple[float, float]:
    return point["worst"], point["avg"]


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def plan(
    sweep: SweepArgument,
    profile: ProfileFlag = None,
    settings: SetFlag = None,
    store: StoreFlag = DEFAULT_STORE,
    as_json: JsonFlag = False,
    origins: Annotated[bool, typer.Option("--origins", help="Print where each value came from.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help=f"List every trial, also of a sweep with more than {ALL_ROWS}.")
    ] = False,
) -> None:
    """Show which trials are done, half done or missing, why, and what the missing ones will cost."""
    from orchestration.disk import estimate_bytes
    from orchestration.estimate import estimate
    from orchestration.plan import plan as make_plan

    place = open_store(store)
    made = make_plan(wanted_sweep(sweep, place, profile, settings or ()), place.path)
    cost = estimate(made, place) | {"bytes": estimate_bytes(made)}
    if as_json:
        emit(made.to_json(origins) | {"estimate": cost})
        return
    steps, rest = (made.steps, "") if every else _worth_listing(made)
    rows = [
        (step.status, f"{step.planned.row} seed={step.planned.seed}", step.planned.fingerprint[:10], step.why)
        for step in steps
    ]
    if rows:
        grid(("status", "trial", "fingerprint", "why"), rows, title=made.sweep.name)
    if rest:
        print(rest)
    print(_headline(made, cost))
    if origins:
        for step in steps:
            print(f"\n{step.planned.row} seed={step.planned.seed}")
            grid(("setting", "from"), list(step.planned.origins.items()))


def _worth_listing(made: Plan) -> tuple[Sequence[Step], str]:
    """The steps of a plan that are shown, and a sentence about the others: a small plan's are all shown.

    Of a large one those that need something, what is begun first: nobody reads ten thousand lines that say `complete`.
    """
    if len(made.steps) <= ALL_ROWS:
        return made.steps, ""
    todo = sorted(made.todo, key=lambda step: step.status == "missing")
    shown = todo[:MOST_ROWS]
    more = len(todo) - len(shown)
    hidden = [f"{more} more that need something"] if more else []
    hidden += [f"{made.summary['done']} that are done"] if made.summary["done"] else []
    return shown, f"not listed: {' and '.join(hidden)}; --all lists every trial, --json too" if hidden else ""


def _headline(made: Plan, cost: dict[str, Any]) -> str:
    """`46 trials: 12 done, 3 half done, 31 missing; 372 epochs left, about 52 min of training one after the other`."""
    from orchestration.disk import size_in_words

    words = {"done": "done", "partial": "half done", "missing": "missing"}
    counts = ", ".join(f"{made.summary[state]} {word}" for state, word in words.items())
    counts += f", {made.summary['stopped']} stopped early" if made.summary["stopped"] else ""
    text = f"{made.summary['trials']} trials: {counts}; {cost['epochs_left']} epochs left"
    adopting = [step for step in made.steps if step.adopted]
    if adopting:
        text += f" instead of {made.epochs['unshared']} ({len(adopting)} trials take their first epochs from others)"
    if cost["seconds"] and cost["epochs_left"]:
        text += f", about {_duration(cost['seconds'])} one after the other (from {cost['measured_on']} trained trials)"
    if cost["bytes"] and made.todo:
        text += f"; about {size_in_words(cost['bytes'])} on disk"
    search, proposed = made.sweep.search, len(made.sweep.points)
    if search is not None and proposed < search.points:
        left = search.points - proposed
        text += f"; {left} of {search.points} points of the search are still to come, {left * len(made.sweep.seeds)} trials"
    return text


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def status(
    sweep: Annotated[
        str | None, typer.Argument(metavar="[SWEEP]", help="A sweep's name. [default: all]")
    ] = None,
    store: StoreFlag = DEFAULT_STORE,
    as_json: JsonFlag = False,
) -> None:
    """Show what is running, done and failed (with the reason), and what comes next."""
    from orchestration.status import status as read_status

    answer = read_status(open_store(store), sweep)
    if as_json:
        emit(answer)
        return
    if not answer["sweeps"]:
        print(f"{answer['store']}: no sweep was started here yet; begin with: ham sweep digits")
    for one in answer["sweeps"]:
        _print_sweep(one)
    if answer["others"]:
        print(f"{answer['others']} trials in the store belong to none of these sweeps")


def _print_sweep(one: dict[str, Any]) -> None:
    counts = ", ".join(f"{n} {state}" for state, n in one["counts"].items() if n)
    print(f"{one['name']}: {len(one['trials'])} trials: {counts}")
    for trial in one["trials"]:
        if trial["status"] in ("running", "partial"):
            print(f"  {trial['status']:<8} {trial['row']}  epoch {trial['epoch']}/{trial['epochs']}")
        elif trial["status"] == "failed":
            print(f"  failed   {trial['row']}  {trial['failure']}")
    following = [trial["row"] for trial in one["trials"] if trial["status"] == "missing"]
    if one["left"]["epochs"]:
        print(f"  left     {_left(one['left'])}")
    if "search" in one:
        print(f"  search   {one['search']['proposed']} of {one['search']['points']} points proposed")
        _print_best(one["search"]["best"])
    if following:
        more = f" and {len(following) - NEXT} more" if len(following) > NEXT else ""
        print(f"  next     {'; '.join(following[:NEXT])}{more}")


def _left(left: dict[str, Any]) -> str:
    """`12 epochs, about 4 min with 2 trials at once`."""
    if left["seconds"] is None:
        return (
            f"{left['epochs']} epochs of training; how long they take is known after the first of their kind"
        )
    several = f" with {left['at_once']} trials at once" if left["at_once"] > 1 else ""
    return f"{left['epochs']} epochs, about {_duration(left['seconds'])} of training{several}"
