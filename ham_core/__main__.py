"""`python -m ham_core train|evaluate`: trials on a bare machine, which has torch, numpy, pydantic and pyyaml and nothing else.

    python -m ham_core train a.yaml b.yaml --data DIR --out OUT --minutes 8 --jobs 2
    python -m ham_core evaluate OUT --attack clean,pgd20 --weights best,last

OUT is a piece of a trial store: `ham import OUT` takes it into a sweep. Trials that others start from or ask are trained
first, in the same OUT. A call that was stopped, by --minutes or by force, is continued by the same call. Exit codes: 0 done
(or stopped in time), 1 some trial failed, 2 the request is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from ham_core.config import Trial, fingerprint
from ham_core.errors import RequestError
from ham_core.folder import TrialFolder, unwritable
from ham_core.protocol import Evaluation, read_evaluations
from ham_core.starts import needs_of, with_needed

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command -> exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        _check(chosen)
        work = _training_work(chosen) if chosen.command == "train" else _evaluation_work(chosen)
        return run_all(work, jobs=chosen.jobs, deadline=_deadline(chosen.minutes))
    except RequestError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return WRONG
    except OSError as error:
        print(f"{error.filename or 'ham_core'}: {error.strerror or error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ham_core",
        description="Trials on a bare machine: PyTorch only, no Ray, no MLflow.",
        epilog="Example:  python -m ham_core train trial.yaml --data photos --out out --minutes 8",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="train|evaluate")
    train = commands.add_parser(
        "train",
        help="train trials, or continue them",
        epilog="Example:  python -m ham_core train at.yaml ham.yaml --data photos --out out --jobs 2 --minutes 8",
    )
    train.add_argument(
        "trials", nargs="+", metavar="TRIAL.yaml", help="settings of a trial; `method` may name a preset"
    )
    train.add_argument(
        "--data", metavar="DIR", help="images to use: a folder with train/<class>/ and test/<class>/"
    )
    train.add_argument(
        "--out", required=True, metavar="OUT", help="where the trials go: OUT/trials/<fingerprint>"
    )
    train.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting; repeatable"
    )
    evaluate = commands.add_parser(
        "evaluate",
        help="attack trained weights",
        epilog="Example:  python -m ham_core evaluate out --attack clean,pgd20 --weights best,last",
    )
    evaluate.add_argument(
        "place", metavar="FOLDER|OUT", help="one trial's folder, or OUT with all its trials"
    )
    evaluate.add_argument(
        "--attack",
        default="clean,pgd20",
        metavar="LIST",
        help="of clean, fgsm, pgdN, cwN, autoattack and its parts (%(default)s)",
    )
    evaluate.add_argument(
        "--weights", default="best,last", metavar="LIST", help="names of kept weights (%(default)s)"
    )
    for command in (train, evaluate):
        command.add_argument(
            "--minutes", type=float, metavar="M", help="stop cleanly after that many minutes"
        )
        command.add_argument(
            "--jobs", type=int, default=1, metavar="N", help="trials at once, on one device (%(default)s)"
        )
        command.add_argument(
            "--device", default="auto", choices=("auto", "cpu", "cuda"), help="(%(default)s)"
        )
        command.add_argument(
            "--threads", type=int, default=1, metavar="N", help="CPU threads per trial (%(default)s)"
        )
    return parser


def _check(chosen: argparse.Namespace) -> None:
    problems = []
    if chosen.jobs < 1:
        problems.append(f"--jobs: {chosen.jobs} is too few; give 1 or more")
    processors = os.cpu_count() or 1
    if not 1 <= chosen.threads <= processors:
        problems.append(f"--threads: {chosen.threads} is not possible here; allowed: 1 to {processors}")
    if chosen.minutes is not None and chosen.minutes <= 0:
        problems.append(f"--minutes: {chosen.minutes:g} is no time; give more than 0")
    if chosen.device == "cuda" and not _has_cuda():
        problems.append(
            "--device: cuda is not available here; use --device cpu, or install a torch with CUDA"
        )
    if chosen.command == "train" and (reason := unwritable(chosen.out)):
        problems.append(
            f"--out: {chosen.out} cannot be written ({reason}); name a folder in which you may write, "
            "for example --out out"
        )
    if problems:
        raise RequestError(problems)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _deadline(minutes: float | None) -> float | None:
    """The same `time.monotonic()` in every process of this machine."""
    return None if minutes is None else time.monotonic() + 60 * minutes


# what is to be done ------------------------------------------------------------------------------------------------

# Plain data for another process: trial, folder, evaluations, device, threads, row, needs (folders that are trained before).
Work = dict[str, Any]


def _training_work(chosen: argparse.Namespace) -> list[Work]:
    from ham_core import data
    from ham_core.resolve import load_trial

    trials: dict[str, tuple[Trial, str]] = {}
    problems: list[str] = []
    for path in chosen.trials:
        try:
            resolved = load_trial(path, [*_other_images(path, chosen.data), *chosen.set])
        except RequestError as error:
            problems += error.problems
            continue
        trials[fingerprint(resolved.trial)] = (resolved.trial, f"{resolved.label} seed={resolved.trial.seed}")
    trials = with_needed(trials, chosen.out)
    folders = {identity: TrialFolder.of(chosen.out, identity) for identity in trials}
    problems += [problem for folder in folders.values() for problem in folder.problems()]
    if problems:
        raise RequestError(problems)
    for name, place, size in {
        (t.data.name, t.data.folder, t.data.size if t.data.folder else None) for t, _ in trials.values()
    }:
        data.ensure(name, place, size)
    problems = data.split_problems([trial.data for trial, _ in trials.values()])
    if problems:
        raise RequestError(problems)
    return [
        _work(trial, folders[identity], (), row, chosen)
        | {"needs": [str(folders[need].path) for need in needs_of(trial) if need in folders]}
        for identity, (trial, row) in trials.items()
    ]


def _other_images(path: str, folder: str | None) -> list[str]:
    """--data as settings: other images under the same label and size."""
    from ham_core.yamlfile import load

    if folder is None:
        return []
    written = load(path).value
    before = written.get("data") if isinstance(written, dict) else None
    kept = [
        f"data.{key}={before[key]}"
        for key in ("label", "size")
        if isinstance(before, dict) and before.get(key)
    ]
    return [f"data.folder={Path(folder).resolve()}", *kept]


def _evaluation_work(chosen: argparse.Namespace) -> list[Work]:
    folders = _folders(Path(chosen.place))
    wanted, problems = read_evaluations(chosen.attack, chosen.weights)
    work = []
    for folder in folders:
        if not folder.is_done():
            problems.append(
                f"{folder.path}: is not trained yet ({folder.epochs_done()} epochs are done); train it first"
            )
            continue
        kept = folder.weight_names()
        for name in {one.weights for one in wanted} - set(kept):
            problems.append(f"{folder.path}: weights '{name}' were not kept; kept: {', '.join(kept)}")
        problems += folder.problems()
        work.append(_work(folder.trial(), folder, wanted, folder.path.name[:10], chosen))
    if problems:
        raise RequestError(problems)
    return work


def _folders(place: Path) -> list[TrialFolder]:
    if (place / "trial.json").exists():
        return [TrialFolder(place)]
    found = [TrialFolder(path.parent) for path in sorted((place / "trials").glob("*/trial.json"))]
    if not found:
        raise RequestError(
            f"{place}: holds no trials; name the OUT of `train`, or a folder OUT/trials/<fingerprint>"
        )
    return found


def _work(
    trial: Trial, folder: TrialFolder, evaluations: Iterable[Evaluation], row: str, chosen: argparse.Namespace
) -> Work:
    return {
        "trial": trial.model_dump(mode="json"),
        "folder": str(folder.path),
        "evaluations": [one.model_dump(mode="json") for one in evaluations],
        "device": chosen.device,
        "threads": chosen.threads,
        "row": row,
        "needs": [],
    }


# doing it ----------------------------------------------------------------------------------------------------------


def run_all(work: Sequence[Work], *, jobs: int, deadline: float | None) -> int:
    """Run the trials, `jobs` at once -> exit code. One that fails leaves alone all that do not need it."""
    codes: dict[str, int] = {}
    if jobs == 1 or len(work) == 1:
        for one in work:  # what others need stands before them
            codes[one["folder"]] = (
                run_one(one, deadline) if _can_start(one, work, codes) else _held(one, codes)
            )
        return max(codes.values(), default=DONE)
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(min(jobs, len(work)), mp_context=context) as pool:
        try:
            for wave in _waves(work):
                ready = [one for one in wave if _can_start(one, work, codes)]
                codes |= {one["folder"]: _held(one, codes) for one in wave if one not in ready}
                futures = [pool.submit(run_one, one, deadline) for one in ready]
                codes |= {
                    one["folder"]: _code(future, one) for future, one in zip(futures, ready, strict=True)
                }
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return max(codes.values(), default=DONE)


def _waves(work: Sequence[Work]) -> list[list[Work]]:
    """Groups, each of which needs earlier groups only."""
    depth: dict[str, int] = {}
    for one in work:
        depth[one["folder"]] = 1 + max((depth[need] for need in one["needs"]), default=-1)
    return [
        [one for one in work if depth[one["folder"]] == level] for level in range(1 + max(depth.values()))
    ]


def _can_start(one: Work, work: Sequence[Work], codes: Mapping[str, int]) -> bool:
    """Whether what a trial needs is trained; else a line says what it waits for, or what has failed."""
    rows = {other["folder"]: other["row"] for other in work}
    for need in one["needs"]:
        if TrialFolder(need).is_done():
            continue
        if codes.get(need) == FAILED:
            _say(one, f"failed: its start {rows[need]} failed")
        else:
            _say(one, f"waits for its start {rows[need]}; the same command continues")
        return False
    return True


def _held(one: Work, codes: Mapping[str, int]) -> int:
    """The code of a trial that could not start: that of what it needs."""
    return max(codes.get(need, DONE) for need in one["needs"])


def _code(future: Future[int], one: Work) -> int:
    try:
        return future.result()
    except Exception as error:  # the process died: out of memory, or killed
        _say(one, f"failed: {error}")
        return FAILED


def run_one(one: Work, deadline: float | None) -> int:
    """One trial, with a line per event -> exit code."""
    from ham_core.run import run_trial

    trial = Trial.model_validate(one["trial"])
    evaluations = [Evaluation.model_validate(entry) for entry in one["evaluations"]]
    folder = TrialFolder(one["folder"])
    watched = f"val/pgd{trial.selection.steps}"
    if deadline is not None and time.monotonic() > deadline:
        _say(one, f"waits at epoch {folder.epochs_done()}/{trial.epochs}; the same command continues")
        return DONE
    try:
        for event in run_trial(
            trial, folder, evaluations, device=one["device"], threads=one["threads"], deadline=deadline
        ):
            metrics = event.metrics or {}
            if event.kind == "epoch":
                _say(one, f"epoch {event.epoch + 1}/{trial.epochs}  robust {_numbers(metrics, watched)}")
            elif event.kind == "evaluated":
                _say(one, f"{event.name}  {_numbers(metrics, event.name)}")
            elif event.kind == "trained":
                _say(one, f"trained: {folder.path}")
            elif event.kind == "recovered":
                _say(one, event.name)
            else:
                _say(
                    one, f"stopped at epoch {folder.epochs_done()}/{trial.epochs}; the same command continues"
                )
    except RequestError as error:
        for problem in error.problems:
            _say(one, f"failed: {problem}")
        return FAILED
    except Exception as error:  # out of memory, a loss that is no number: the other trials go on
        _say(one, f"failed: {type(error).__name__}: {error}")
        return FAILED
    return DONE


def _numbers(metrics: dict[str, float], prefix: str) -> str:
    found = [(word, metrics.get(f"{prefix}/{word}")) for word in ("avg", "worst")]
    return ", ".join(f"{100 * value:.1f} % {word}" for word, value in found if value is not None)


def _say(one: Work, text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {one['row']}  {text}", flush=True)


if __name__ == "__main__":
    from ham_core.__main__ import main as entry  # under its own name, so that worker processes find `run_one`

    sys.exit(entry())
