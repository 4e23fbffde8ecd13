"""train, evaluate, import, export: single trials of the store, and sweeps as one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ham_core.errors import RequestError
from orchestration.cli.foreign import (
    Asked,
    CheckpointFlag,
    DeviceFlag,
    EpsilonFlag,
    ImagesFlag,
    LimitFlag,
    ModelFlag,
    NormalisationFlag,
    ThreatFlag,
    TitleFlag,
    WidthFlag,
    curve_of_foreign,
    judge_foreign,
)
from orchestration.cli.judging import ProtocolFlag, deviating, judged, note, protocols_of, rows_of
from orchestration.cli.keeping import export_sweep, import_sweep
from orchestration.cli.shared import (
    DEFAULT_STORE,
    AddressFlag,
    ConcurrentFlag,
    GpusFlag,
    JsonFlag,
    ProfileFlag,
    SetFlag,
    StoreFlag,
    UriFlag,
    command,
    complain,
    console,
    emit,
    gpu_share,
    grid,
    open_store,
    tracking_uri,
    wanted_sweep,
)

if TYPE_CHECKING:
    from ham_core.config import Trial
    from ham_core.protocol import Evaluation
    from orchestration.runner import Resources
    from orchestration.store import Store
    from orchestration.sweep import Sweep
    from orchestration.tracking import Job

WeightsFlag = Annotated[str, typer.Option("--weights", metavar="LIST", help="Names of kept weights.")]
AttackFlag = Annotated[
    str, typer.Option("--attack", metavar="LIST", help="Of clean, fgsm, pgdN, cwN, autoattack and its parts.")
]
ThreadsFlag = Annotated[int, typer.Option("--threads", help="CPU threads.")]
ThreadsPerTrialFlag = Annotated[int, typer.Option("--threads", help="CPU threads per trial.")]
ATTACKS = "clean,pgd20,cw20"
KEPT_WEIGHTS = "best,last"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "train", "ham train --method ham-official --data digits --set epochs=5")(train)
    command(app, "evaluate", "ham evaluate 3fa4b2 --attack pgd50 --weights best")(evaluate)
    command(app, "import", "ham import out --store outputs")(import_)
    command(app, "export", "ham export 3fa4b2 --weights best --out model.pt")(export)


def train(
    trial: Annotated[
        str | None, typer.Argument(metavar="[TRIAL.yaml]", help="Settings of one trial.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", metavar="PRESET", help="A method by name.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME|FOLDER", help="Images. [default: digits]")
    ] = None,
    settings: SetFlag = None,
    attack: AttackFlag = ATTACKS,
    weights: WeightsFlag = KEPT_WEIGHTS,
    threads: ThreadsFlag = 1,
    store: StoreFlag = DEFAULT_STORE,
    uri: UriFlag = None,
) -> int:
    """Train and evaluate one trial in this process, without Ray. The same command continues it."""
    from ham_core.config import fingerprint
    from orchestration.results import doubtful, results_of
    from orchestration.runner import run_here
    from orchestration.tracking import Single

    chosen = _resolved(trial, method, data, settings or ())
    place = open_store(store)
    address = tracking_uri(uri, place)
    job = Single(chosen, fingerprint(chosen), tuple(evaluations(attack, weights)))
    outcome = run_here([job], place, address, threads=threads, console=console(stderr=True))
    _complain_of(outcome)
    if outcome.exit_code == 0:
        rows = results_of([job], place)
        _print_results(rows)
        complain(doubtful(rows))
        print(f"trial {job.fingerprint[:10]}: {place.folder(job.fingerprint).path}")
    return outcome.exit_code


def _resolved(path: str | None, method: str | None, data: str | None, sets: Sequence[str]) -> Trial:
    """The trial of a file, of flags, or of a file with flags over it."""
    from ham_core.resolve import Layer, load_trial, parse_set, resolve, set_layer

    if path is not None:
        flags = [f"{key}={value}" for key, value in (("method", method), ("data", data)) if value is not None]
        return load_trial(path, [*flags, *sets]).trial
    if method is None:
        raise RequestError(
            "ham train: which trial? give a TRIAL.yaml, or --method PRESET (ham methods lists them)"
        )
    pairs = {text: parse_set(text) for text in sets}
    typed = {key.removeprefix("trial."): value for key, value in pairs.values()}
    texts = {key.removeprefix("trial."): text for text, (key, _) in pairs.items()}
    base = Layer(
        "command line",
        {"method": method, "data": data or "digits"},
        lambda key: f"--{key[0] if key else 'method'}",
    )
    return resolve([base, set_layer(typed, texts)]).trial


def evaluations(attacks: str, weights: str) -> list[Evaluation]:
    """Every attack on all weights; RequestError with every wrong word."""
    from ham_core.protocol import read_evaluations

    found, problems = read_evaluations(attacks, weights)
    if problems or not found:
        raise RequestError(problems or "give at least one attack and one name of weights")
    return found


def evaluate(
    trials: Annotated[
        list[str] | None, typer.Argument(metavar="[TRIAL]...", help="Beginnings of fingerprints.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            "--sweep",
            metavar="FILE",
            help="All trained trials of a sweep; with --model: the recorded sweep in whose tables the model is a row.",
        ),
    ] = None,
    profile: ProfileFlag = None,
    settings: SetFlag = None,
    attack: Annotated[
        str | None,
        typer.Option(
            "--attack",
            metavar="LIST",
            help=f"Of clean, fgsm, pgdN, cwN, autoattack and its parts. [default: {ATTACKS}]",
        ),
    ] = None,
    weights: WeightsFlag = KEPT_WEIGHTS,
    curve: Annotated[
        bool,
        typer.Option(
            "--curve", help="Instead of attacks to store: accuracy under PGD as epsilon grows to 1."
        ),
    ] = False,
    threads: ThreadsPerTrialFlag = 1,
    gpus: GpusFlag = None,
    concurrent: ConcurrentFlag = None,
    address: AddressFlag = None,
    store: StoreFlag = DEFAULT_STORE,
    uri: UriFlag = None,
    as_json: JsonFlag = False,
    checkpoint: CheckpointFlag = None,
    model: ModelFlag = None,
    width: WidthFlag = 1.0,
    normalisation: NormalisationFlag = None,
    data: ImagesFlag = None,
    epsilon: EpsilonFlag = "8/255",
    images: LimitFlag = None,
    title: TitleFlag = None,
    threat: ThreatFlag = None,
    device: DeviceFlag = None,
    protocol: ProtocolFlag = None,
) -> int:
    """Attack trained weights, several trials at once. What was attacked before is not attacked again; nothing is trained."""
    from orchestration.results import doubtful, results_of
    from orchestration.runner import Resources, run_evaluations

    if checkpoint is not None or model is not None:
        if protocol is not None:
            raise RequestError(
                "ham evaluate: --protocol judges trials; of a model that is no trial give --epsilon and --attack"
            )
        if trials or profile is not None or settings:
            raise RequestError(
                "ham evaluate: --checkpoint and --model judge a model that is no trial; leave trials, --profile and --set out"
            )
        entry = None if weights == KEPT_WEIGHTS else weights
        foreign = Asked(
            checkpoint=checkpoint,
            model=model,
            width=width,
            normalisation=normalisation,
            entry=entry,
            threat=threat,
            data=data,
            attacks=attack or ATTACKS,
            epsilon=epsilon,
            images=images,
            title=title,
            sweep=sweep,
            device=device,
            threads=threads,
        )
        if curve:
            _refuse_beside_curve({"--attack": attack, "--sweep": sweep})
            return _print_curves([curve_of_foreign(foreign)], as_json)
        place = open_store(store)
        rows, problem = judge_foreign(foreign, place, tracking_uri(uri, place))
        if as_json:
            emit({"evaluations": rows})
        else:
            _print_results(rows)
        complain([*doubtful(rows), *([problem] if problem else [])])
        return 1 if problem else 0
    if any(one is not None for one in (data, images, normalisation, title, threat, device)):
        raise RequestError(
            "ham evaluate: --data, --images, --normalisation, --name, --threat and --device belong to --checkpoint FILE "
            "--model NAME; a trial has its own"
        )
    place = open_store(store, must_exist=True)
    address_of_mlflow = tracking_uri(uri, place)
    resources = Resources(
        threads=threads, gpus_per_trial=gpu_share(gpus), concurrent=concurrent, address=address
    )
    if curve:
        _refuse_beside_curve(
            {"--attack": attack, "--gpus-per-trial": gpus, "--concurrent": concurrent, "--address": address}
        )
    wanted = evaluations("clean" if curve or protocol else attack or ATTACKS, weights)
    asked, planned = _jobs(place, trials or (), sweep, profile, settings or (), wanted)
    protocols = []
    if protocol is not None:
        protocols = protocols_of(protocol, attack, weights != KEPT_WEIGHTS, curve, planned)
        asked = judged(asked, protocols)
    jobs = _trained(asked, place)
    complain(deviating(jobs, protocols))
    if curve:
        return _curves(jobs, place, resources, as_json)
    outcome = run_evaluations(
        jobs, place, address_of_mlflow, resources=resources, console=console(stderr=True)
    )
    _complain_of(outcome)
    if protocols and not outcome.tracking:
        note(planned, protocols, address_of_mlflow, place)
    rows = results_of(jobs, place)
    shown = rows_of(jobs, rows, protocols) if protocols else rows
    if as_json:
        emit({"evaluations": shown})
    else:
        _print_results(shown)
    complain(doubtful(rows))
    return outcome.exit_code


def _refuse_beside_curve(given: Mapping[str, object]) -> None:
    surplus = [flag for flag, value in given.items() if value is not None]
    if surplus:
        raise RequestError(
            f"ham evaluate: --curve runs PGD at growing radii in this process; leave out {' and '.join(surplus)}"
        )


def _curves(jobs: Sequence[Job], store: Store, resources: Resources, as_json: bool) -> int:
    """One curve per trial and weights, one after the other."""
    from orchestration.curve import epsilon_curve
    from orchestration.runner import check
    from orchestration.tracking import run_name

    check(jobs, store, resources)
    rows = []
    for job in jobs:
        for name in dict.fromkeys(one.weights for one in job.evaluations):
            row = {"trial": job.fingerprint, "name": run_name(job), "weights": name, "attack_name": "curve"}
            found = epsilon_curve(job.trial, store.folder(job.fingerprint), name, threads=resources.threads)
            rows.append(row | found)
    return _print_curves(rows, as_json)


def _print_curves(rows: Sequence[dict[str, Any]], as_json: bool) -> int:
    from orchestration.live import percent
    from orchestration.results import doubtful

    if as_json:
        emit({"curves": rows})
    else:
        shown = [
            (row["name"], row["weights"], f"{point['epsilon']:.4g}", percent(point["accuracy"]))
            for row in rows
            for point in row["curve"]
        ]
        grid(("trial", "weights", "epsilon", "robust accuracy"), shown)
    complain(doubtful(rows))
    return 0


def _jobs(
    store: Store,
    prefixes: Sequence[str],
    sweep: str | None,
    profile: str | None,
    sets: Sequence[str],
    wanted: Sequence[Evaluation],
) -> tuple[list[Job], Sweep | None]:
    """The trials that were asked for, with the evaluations that were asked for; and their sweep."""
    from orchestration.tracking import Single

    if (sweep is None) == (not prefixes):
        raise RequestError("ham evaluate: give trials by the beginning of their fingerprint, or --sweep FILE")
    if sweep is None and (profile is not None or sets):
        given = "--profile" if profile is not None else "--set"
        raise RequestError(
            f"ham evaluate: {given} changes the trials of a sweep; give it with --sweep FILE, or leave it out"
        )
    if sweep is not None:
        found = wanted_sweep(sweep, store, profile, sets)
        return [replace(one, evaluations=tuple(wanted)) for one in found.trials if one.grids], found
    folders = {folder.path.name: folder for folder in map(store.find, prefixes)}
    return [Single(folder.trial(), identity, tuple(wanted)) for identity, folder in folders.items()], None


def _trained(jobs: Sequence[Job], store: Store) -> list[Job]:
    """Those that can be attacked; the others are named."""
    from ham_core.starts import is_trained
    from orchestration.tracking import run_name

    trained = [job for job in jobs if is_trained(job.trial, store.folder(job.fingerprint))]
    done = {job.fingerprint for job in trained}
    left = [_untrained(job, store) for job in jobs if job.fingerprint not in done]
    sentence = (
        f"not trained yet: {', '.join(left[:5])}{f' and {len(left) - 5} more' if len(left) > 5 else ''}"
    )
    if not trained:
        raise RequestError(f"{sentence}; train first with ham sweep, or ham train")
    if left:
        complain([sentence])
    problems = []
    for job in trained:
        kept = store.folder(job.fingerprint).weight_names()
        absent = sorted({one.weights for one in job.evaluations} - set(kept))
        place = store.folder(job.fingerprint).path / "weights"
        problems += [
            f"{run_name(job)}: weights '{name}' were not kept; kept: {', '.join(kept)}; there is no {place / name}.pt; to "
            "train it again and keep them, name them under weights: or judge: in the sweep and run ham sweep"
            for name in absent
        ]
    if problems:
        raise RequestError(problems)
    return trained


def _untrained(job: Job, store: Store) -> str:
    from orchestration.tracking import run_name

    trains_again = store.folder(job.fingerprint).is_done()
    return f"{run_name(job)} (an average of it was not kept)" if trains_again else run_name(job)


def _print_results(rows: Sequence[dict[str, Any]]) -> None:
    from orchestration.live import percent

    shown = []
    under = ("protocol",) if any("protocol" in row for row in rows) else ()
    for row in rows:
        prefix = f"{row['weights']}/{row['attack_name']}"
        numbers = [percent(row["metrics"][f"{prefix}/{word}"]) for word in ("avg", "worst")]
        named = (*(row[word] for word in under), row["name"], row["weights"], row["attack_name"])
        shown.append((*named, *numbers))
    grid((*under, "trial", "weights", "attack", "avg", "worst"), shown)


def _complain_of(outcome: Any) -> None:
    complain([f"failed: {row}: {reason}" for row, reason in outcome.failed.items()])
    if outcome.tracking:
        complain([outcome.tracking])
    if outcome.interrupted:
        complain(["interrupted; the same command continues"])


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="OUT|FILE.tar.gz",
            help="What `python -m ham_core train --out OUT` left behind, or what `ham export --sweep` wrote.",
        ),
    ],
    store: StoreFlag = DEFAULT_STORE,
    uri: UriFlag = None,
) -> int:
    """Take trials or a sweep that were trained elsewhere into the store and into MLflow."""
    if source.is_file():
        return import_sweep(source, store, uri)
    from rich.console import Console

    from orchestration.runner import Recorder
    from orchestration.tracking import Single, run_name

    place = open_store(store)
    address = tracking_uri(uri, place)
    taken = place.import_trials(source)
    jobs = [Single(place.folder(identity).trial(), identity) for identity in taken]
    for job in jobs:
        print(f"{job.fingerprint[:10]}  {run_name(job)}  {taken[job.fingerprint]}")
    recorder = Recorder(address, place, jobs, warn=Console(stderr=True).print)
    recorder.finish(interrupted=False)
    if recorder.problem:
        complain([recorder.problem])
    return 1 if recorder.problem else 0


def export(
    trial: Annotated[
        str | None, typer.Argument(metavar="[TRIAL]", help="The beginning of a fingerprint.")
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option("--sweep", metavar="NAME", help="A started sweep, as one file that ham import takes."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="NAME",
            help="Which weights: best, last, best_ema, ...; of a sweep also a list or all. [default: best, of a sweep none]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="[default: TRIAL-WEIGHTS.pt, of a sweep NAME.tar.gz]"),
    ] = None,
    store: StoreFlag = DEFAULT_STORE,
) -> None:
    """Write weights as a plain state dict, for torch.load and load_state_dict; or a sweep as one file."""
    if (trial is None) == (sweep is None):
        raise RequestError("ham export: give a trial by the beginning of its fingerprint, or --sweep NAME")
    if sweep is not None:
        export_sweep(sweep, weights, out, store)
        return
    assert trial is not None
    weights = weights or "best"
    place = open_store(store, must_exist=True)
    folder = place.find(trial)
    target = out or Path(f"{folder.path.name[:10]}-{weights}.pt")
    written = place.export_weights(folder.path.name, weights, target)
    model = folder.trial().model
    print(f"{written}: state dict of {model.name} (width {model.width:g}), weights '{weights}'")
