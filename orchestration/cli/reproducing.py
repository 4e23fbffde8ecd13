"""reproduce: one trial of an exported sweep, trained again and compared with what was recorded."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ham_core.errors import RequestError
from orchestration.cli.shared import (
    DONE,
    FAILED,
    JsonFlag,
    command,
    complain,
    console,
    emit,
    grid,
    open_store,
    tracking_uri,
)

if TYPE_CHECKING:
    from orchestration.reproduce import Comparison, Number, Recorded
    from orchestration.store import Store

STORE = "reproduced"


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    command(app, "reproduce", "ham reproduce docs/study/trials.tar.gz")(reproduce)


def reproduce(
    file: Annotated[Path, typer.Argument(metavar="FILE.tar.gz", help="What `ham export --sweep` wrote.")],
    trial: Annotated[
        str | None,
        typer.Argument(
            metavar="[TRIAL]",
            help="The beginning of a fingerprint, or a row of ham status. [default: one drawn at random]",
        ),
    ] = None,
    draw: Annotated[
        int | None,
        typer.Option(
            "--draw", metavar="N", help="Draw the trial by this number, so that it can be drawn again."
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance",
            metavar="POINTS",
            help="Percentage points by which an evaluation's accuracies may differ; 0: everything but times is the same.",
        ),
    ] = 0.0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="data=FOLDER", help="Where the images lie here; nothing else can be set."
        ),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", help="CPU threads.")] = 1,
    store: Annotated[
        str,
        typer.Option(
            "--store", metavar="DIR|URL", help="Where the new trial is kept; it must not hold it finished."
        ),
    ] = STORE,
    as_json: JsonFlag = False,
) -> int:
    """Train one trial of an exported sweep again in this process, and compare every number with the recorded one."""
    from orchestration.reproduce import compare, needed_before, read_recorded, with_images
    from orchestration.runner import is_complete, run_here
    from orchestration.tracking import Single

    if not 0 <= tolerance <= 100:
        raise RequestError(
            f"--tolerance: {tolerance:g} is no number of percentage points; give 0 to 100, for example 0.5"
        )
    if trial is not None and draw is not None:
        raise RequestError("ham reproduce: --draw draws a trial and TRIAL names one; give one of the two")
    images = _place_of_images(settings or ())
    recorded = read_recorded(file, trial, draw)
    job = Single(
        with_images(recorded.trial, images), recorded.fingerprint, recorded.evaluations, name=recorded.row
    )
    place = open_store(store)
    if is_complete(job, place):
        raise RequestError(
            f"--store: {place.path} holds trial {job.fingerprint[:10]} already, trained to its end; name another folder, for "
            f"example --store {store}-again, or delete {place.folder(job.fingerprint).path}"
        )
    if not as_json:
        print(_chosen(recorded), flush=True)  # it may take hours until the next line
    device = "cpu" if recorded.done.get("device", "").startswith("cpu") else "auto"
    complain(list(_before(recorded, threads, needed_before(job.trial, place))))
    outcome = run_here(
        [job], place, tracking_uri(None, place), threads=threads, device=device, console=console(stderr=True)
    )
    complain([f"failed: {row}: {reason}" for row, reason in outcome.failed.items()])
    complain([outcome.tracking] if outcome.tracking else [])
    if outcome.interrupted:  # without its name another trial would be drawn
        complain(
            [f"interrupted; {_again(file, job.fingerprint, images, tolerance, threads, store)} continues"]
        )
    if outcome.failed or outcome.interrupted:
        return outcome.exit_code
    comparison = compare(recorded, place.folder(job.fingerprint), tolerance)
    if as_json:
        emit(_answer(recorded, comparison, place))
    else:
        _print(comparison)
        print(comparison.sentence)
    return DONE if comparison.is_reproduced and not outcome.tracking else FAILED


def _place_of_images(settings: Sequence[str]) -> str | None:
    """Where the images lie, of `--set data=FOLDER`; None: where they lay."""
    from ham_core.resolve import parse_set

    place = None
    for text in settings:
        key, value = parse_set(text)
        if key != "data" or not isinstance(value, str):
            raise RequestError(
                f"--set {text}: would make another trial; only the place of the images can be set, --set data=FOLDER"
            )
        place = value
    return place


def _again(file: Path, identity: str, images: str | None, tolerance: float, threads: int, store: str) -> str:
    """The command that goes on with this trial."""
    words = ["ham", "reproduce", str(file), identity[:10]]
    words += ["--set", f"data={images}"] if images is not None else []
    words += ["--tolerance", f"{tolerance:g}"] if tolerance else []
    words += ["--threads", str(threads)] if threads != 1 else []
    words += ["--store", store] if store != STORE else []
    return f"`{shlex.join(words)}`"


def _chosen(recorded: Recorded) -> str:
    """`trial 3fa4b2c1d0  trades seed=0, drawn from 12 trials (--draw 5 draws it again)`."""
    title = f"trial {recorded.fingerprint[:10]}  {recorded.name}"
    if recorded.drawn is None:
        return title
    number, several = recorded.drawn
    return f"{title}, drawn from {several} trial{'s' if several > 1 else ''} (--draw {number} draws it again)"


def _before(recorded: Recorded, threads: int, trained: Sequence[str]) -> Iterator[str]:
    """What is to be known before time is spent."""
    from orchestration.runner import graphics_cards

    device = recorded.done.get("device", "an unknown device")
    if not device.startswith("cpu") and not graphics_cards():
        yield f"recorded on {device}, and this machine has no GPU: it takes far longer, and the numbers will differ"
    then = recorded.done.get("threads", threads)
    if then != threads:
        yield f"recorded with --threads {then}, trained again with {threads}: the numbers need not be the same bit for bit"
    if recorded.trial.precision != "fp32":
        yield (
            f"trained in {recorded.trial.precision} on {device}: on another kind of "
            "processor the numbers need not be the same bit for bit, and --tolerance says how far they may differ"
        )
    if recorded.left_out:
        yield (
            f"not compared: {', '.join(recorded.left_out)}: evaluated on other test images than the trial's, or by another "
            "version of ham"
        )
    if trained:
        named = ", ".join(one[:10] for one in trained)
        yield f"not trained again: {named}, which this trial starts from or asks and which the store has"


def _answer(recorded: Recorded, comparison: Comparison, store: Store) -> dict[str, Any]:
    """What --json prints."""
    number, several = recorded.drawn or (None, None)
    return {
        "trial": recorded.fingerprint,
        "name": recorded.name,
        "draw": number,
        "of": several,
        "folder": str(store.folder(recorded.fingerprint).path),
        "not_compared": list(recorded.left_out),
    } | comparison.to_json()


def _print(comparison: Comparison) -> None:
    from orchestration.reproduce import shown

    rows = [
        (one.name, f"{100 * one.recorded:.3f}", *_again_and_points(one), note)
        for one, note in shown(comparison)
    ]
    grid(("in %", "recorded", "again", "points", ""), rows)
    for one in comparison.images:
        words = f"{one.name}: {one.differ} of {one.images} predictions differ"
        print(words + (f", confidences by up to {one.confidence:.1e}" if one.confidence else ""))
    print(_of_epochs(comparison))
    if comparison.same:
        print("same: " + ", ".join(f"{word} {_short(text)}" for word, text in comparison.same.items()))
    for word, (ours, now) in comparison.other.items():
        print(f"other {word}: recorded with {_short(ours)}, trained again with {_short(now)}")


def _short(text: str) -> str:
    """Digests and commits by their first letters."""
    return re.sub(r"\b([0-9a-f]{10})[0-9a-f]{30,}", r"\1", text)


def _again_and_points(one: Number) -> tuple[str, str]:
    if one.again is None or one.points is None:
        return "-", "-"
    return f"{100 * one.again:.3f}", f"{one.points:+.3f}" if one.points else "0"


def _of_epochs(comparison: Comparison) -> str:
    """`journal: all 130 numbers are the same`, or the first that are not."""
    changed, several = comparison.changed_epochs, len(comparison.epochs)
    if not changed:
        return f"journal: all {several} numbers are the same"
    first = changed[0]
    now = "none" if first.again is None else f"{first.again:.6g}"
    return f"journal: {len(changed)} of {several} numbers differ, the first is {first.name}: {first.recorded:.6g}, now {now}"
