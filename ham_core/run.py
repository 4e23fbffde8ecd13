"""One trial from its folder's present state to trained and evaluated: what workers and bare machines run."""

from __future__ import annotations

import platform
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ham_core import autoattack, doubts
from ham_core.attacks.pgd import under_attack
from ham_core.commit import commit
from ham_core.config import Start, Trial, fingerprint
from ham_core.data.augment import to_float
from ham_core.data.split import Dataset, Split
from ham_core.errors import RequestError
from ham_core.evaluation import Seen, attack_images
from ham_core.folder import TrialFolder, load_tensors, save_tensors
from ham_core.metrics import class_keys, metric_name, summarize
from ham_core.network import build_model, exact_fp32, usable
from ham_core.prefix import prefix_file, prefix_of
from ham_core.processor import processor
from ham_core.protocol import Evaluation, EvaluationAttack, evaluation_fingerprint
from ham_core.randomness import derived_seed
from ham_core.recovery import pruned_by_journal, recover_journal, recover_state
from ham_core.starts import is_trained
from ham_core.training import Training, load_data


@dataclass(frozen=True)
class Event:
    """Something that happened: `epoch` (with its metrics), `trained`, `evaluated` (with its metrics), `stopped`, `recovered`.

    `name`: of what was evaluated, `best/pgd20`; or a sentence about damage that was found and mended.
    """

    kind: str
    epoch: int = 0
    metrics: dict[str, float] | None = None
    name: str = ""


def run_trial(
    trial: Trial,
    folder: TrialFolder,
    evaluations: Sequence[Evaluation] = (),
    *,
    device: str = "auto",
    threads: int = 1,
    deadline: float | None = None,
    train: bool = True,
    prefixes: Mapping[int, str] | None = None,
    patience: float = 60.0,
    keep: Collection[str] | None = None,
) -> Iterator[Event]:
    """Train what is missing, evaluate what is missing, and say so event by event. Already complete: no event at all.

    `prefixes` {epochs: name} are first epochs that other trials share (ham_core.prefix): a trial that is not begun takes the
    longest that the store has, and leaves those behind that the store lacks. `patience`: seconds to wait for another
    process that has the trial; then BusyError. `keep`: of a trial that is complete, the rules whose weights stay (None: all).

    `threads` are torch's CPU threads; results on CPUs belong to their number, which is recorded. `deadline` is a
    `time.monotonic()` after which the trial stops between two epochs; the same call continues it. Without `train` a trial
    that would be trained is refused instead, and its folder stays as it is.
    """
    torch.set_num_threads(threads)
    chosen = usable(device)
    with folder.lock(patience):
        if not train and not is_trained(trial, folder):
            raise RequestError(
                f"{folder.path}: is not trained, or keeps other averages ({folder.epochs_done()} of {trial.epochs} epochs "
                "are done); train it first, as ham sweep and ham train do"
            )
        trial = with_kept_averages(trial, folder)
        if folder.is_done():
            yield from _said(recover_journal(folder))
        missing = _missing(trial, folder, evaluations)
        if train and folder.pruned() & {one.weights for one in missing}:
            folder.reopen()  # weights that are asked for now were not kept
            folder.create(trial)
            missing = _missing(trial, folder, evaluations)
        for one in missing:
            folder.drop_evaluation(evaluation_fingerprint(trial, one))  # half of it may be there, or damaged
        if folder.is_done() and not missing:
            return
        dataset = load_data(trial, chosen)
        if not folder.is_done():
            yield from _train(trial, folder, dataset, chosen, deadline, prefixes or {})
        if folder.is_done():
            for evaluation in missing:
                if _late(deadline):
                    yield Event("stopped", folder.epochs_done())
                    return
                try:
                    event = evaluate(trial, folder, evaluation, dataset, chosen, deadline)
                except autoattack.Unfinished:
                    yield Event("stopped", folder.epochs_done())
                    return
                yield event
            if train and keep is not None:
                folder.prune(keep)


def _missing(trial: Trial, folder: TrialFolder, evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    return [one for one in evaluations if not folder.has_evaluation(evaluation_fingerprint(trial, one))]


def with_kept_averages(trial: Trial, folder: TrialFolder) -> Trial:
    """The trial with the averages its folder keeps besides its own. A finished trial that lacks one starts again."""
    kept = folder.kept_averages()
    wanted = [average.model_dump(mode="json") for average in trial.method.averaging]
    absent = [average for average in wanted if average not in kept]
    if folder.settings() is None or absent:
        folder.reopen()
        kept_keys = {average.get("label") or average["name"] for average in wanted}
        kept = wanted + [old for old in kept if (old.get("label") or old["name"]) not in kept_keys]
    settings = trial.model_dump(mode="json")
    settings["method"]["averaging"] = kept
    trial = Trial.model_validate(settings)
    if absent or folder.settings() is None:
        folder.create(trial)
    return trial


def _train(
    trial: Trial,
    folder: TrialFolder,
    dataset: Dataset,
    device: torch.device,
    deadline: float | None,
    prefixes: Mapping[int, str],
) -> Iterator[Event]:
    start, helper = trial.start_from, trial.helper
    pruned = pruned_by_journal(folder, trial.epochs)
    if pruned is not None:
        again = {"epochs": trial.epochs, "held_out": dataset.held_out, **machine(device)}
        folder.finish(again | ({"pruned": pruned} if pruned else {}))
        yield Event("trained", trial.epochs)
        return
    folder.go_on()
    state, said = recover_state(folder, str(device))
    yield from _said(said)
    if state is None and prefixes:
        state = _take_prefix(trial, folder, prefixes, device)
    if state is None and start is not None and start.continues:
        state = _take_over(folder, start, device)
    training = Training(
        trial,
        dataset,
        device=device,
        start=None if state is not None or start is None else weights_of(folder, start, device),
        helper=None if helper is None else weights_of(folder, helper, device),
    )
    if state is not None:
        training.restore(state)
    _leave_prefix(training, folder, prefixes)  # killed between an epoch and its prefix
    records = folder.journal()
    if not _late(deadline):
        for result in training:
            for name, weights in result.kept.items():
                folder.save_weights(name, weights)
            record = {
                "epoch": result.epoch,
                "timestamp": time.time(),
                "kept": sorted(result.kept),
                "metrics": result.metrics,
            }
            records.append(record)
            folder.save_checkpoint(training.state() | {"records": records})
            folder.append(record)
            _leave_prefix(training, folder, prefixes)
            yield Event("epoch", result.epoch, result.metrics)
            if _late(deadline):
                break
    if not training.finished:
        yield Event("stopped", training.epoch)
        return
    folder.finish({"epochs": training.epoch, "held_out": dataset.held_out, **machine(device)})
    yield Event("trained", training.epoch)


def _said(sentences: Sequence[str]) -> Iterator[Event]:
    yield from (Event("recovered", name=sentence) for sentence in sentences)


def _leave_prefix(training: Training, folder: TrialFolder, prefixes: Mapping[int, str]) -> None:
    """Where other trials go on from this epoch: the state for them, unless it is there."""
    name = prefixes.get(training.epoch)
    if name is None or training.finished:
        return
    path = prefix_file(folder.path.parent.parent, name)
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    kept = {one: folder.weights(one) for one in folder.weight_names()}
    save_tensors(
        path, {"state": training.state() | {"prefix": name}, "records": folder.journal(), "weights": kept}
    )


def _take_prefix(
    trial: Trial, folder: TrialFolder, prefixes: Mapping[int, str], device: torch.device
) -> dict[str, Any] | None:
    """The longest shared beginning that is there becomes the first epochs of this trial, -> its state, or None.

    The checkpoint comes last; killed before it, this runs again. A damaged prefix is removed; its epochs are trained here.
    """
    for epochs, name in sorted(prefixes.items(), reverse=True):
        path = prefix_file(folder.path.parent.parent, name)
        if not path.exists():
            continue
        try:
            prefix = load_tensors(path, str(device))
        except RequestError:
            path.unlink(missing_ok=True)
            continue
        if prefix["state"]["prefix"] != name or prefix_of(trial, epochs) != name:
            continue
        for one, weights in prefix["weights"].items():
            folder.save_weights(one, weights)
        leader = prefix["state"]["fingerprint"]
        records = [{"trained_by": leader} | record for record in prefix["records"]]
        folder.rewrite_journal(records)
        state = dict(prefix["state"]) | {"records": records}
        folder.save_checkpoint(state)
        return state
    return None


def source_folder(folder: TrialFolder, start: Start) -> TrialFolder:
    """Where the store keeps another trial that this one uses. RequestError: it is not trained."""
    source = TrialFolder(folder.path.parent / fingerprint(start.trial))
    if not source.is_done():
        raise RequestError(
            f"{source.path}: this trial starts from another one, which is not trained yet "
            f"({source.epochs_done()} of {start.trial.epochs} epochs); train that first, as ham sweep and ham train do"
        )
    return source


def weights_of(folder: TrialFolder, start: Start, device: torch.device) -> dict[str, Any]:
    """Weights of another trial."""
    return source_folder(folder, start).weights(start.weights, str(device))


def _take_over(folder: TrialFolder, start: Start, device: torch.device) -> dict[str, Any]:
    """The other trial's epochs become the first of this one: its kept weights, its journal, its state.

    The journal comes last but for the checkpoint of our own that the next epoch writes; killed in between, this runs again.
    """
    source = source_folder(folder, start)
    state = source.checkpoint(str(device))
    if state is None:
        raise RequestError(
            f"{source.path}: its checkpoint is gone, so its training cannot be continued; delete the folder to train it again"
        )
    for name in source.weight_names():
        if not name.startswith("last"):
            folder.save_weights(name, source.weights(name))
    for record in source.journal():
        folder.append(record)
    return state


def evaluate(
    trial: Trial,
    folder: TrialFolder,
    evaluation: Evaluation,
    dataset: Dataset,
    device: torch.device,
    deadline: float | None = None,
) -> Event:
    """Run one attack on one set of weights and store its per-image predictions, and what makes them doubtful.

    autoattack.Unfinished: AutoAttack was stopped by the deadline; the same call goes on where it stopped.
    """
    model = build_model(trial, dataset, device)
    model.load_state_dict(folder.weights(evaluation.weights, str(device)))
    metrics = judge(
        model,
        dataset,
        folder,
        evaluation.attack,
        evaluation_fingerprint(trial, evaluation),
        weights=evaluation.weights,
        about={"trial": fingerprint(trial)},
        epsilon=trial.epsilon,
        seed=derived_seed(trial.seed, "evaluation"),
        device=device,
        deadline=deadline,
    )
    return Event("evaluated", trial.epochs, metrics, f"{evaluation.weights}/{evaluation.attack.key}")


def judge(
    model: torch.nn.Module,
    dataset: Dataset,
    folder: TrialFolder,
    attack: EvaluationAttack,
    identity: str,
    *,
    weights: str,
    about: dict[str, Any],
    epsilon: float,
    seed: int,
    device: torch.device,
    deadline: float | None = None,
) -> dict[str, float]:
    """Attack any model on the test images and store the evaluation under `identity` -> its metrics.

    weights: the first word of the metrics' names. about: what the record says of the model. autoattack.Unfinished: as above.
    """
    classes = dataset.classes
    progress = folder.path / "evaluations" / f"{identity}.partial.npz"
    seen = attack_images(
        model,
        dataset.test,
        attack,
        epsilon=epsilon,
        seed=seed,
        progress=progress,
        late=lambda: _late(deadline),
    )
    label = dataset.test.labels.cpu().numpy()
    statistics = summarize(label, seen.prediction == label, classes)
    metrics = {metric_name(weights, attack.key, name): value for name, value in statistics.items()}
    counts = np.bincount(label, minlength=len(classes))
    record: dict[str, Any] = {
        "fingerprint": identity,
        **about,
        "weights": weights,
        "attack": attack.model_dump(mode="json"),
        "attack_name": attack.key,
        "epsilon": attack.radius(epsilon),
        "classes": list(classes),
        "images": {key: int(n) for key, n in zip(class_keys(classes), counts, strict=True)},
        "metrics": metrics,
        "seconds": seen.seconds,
        **machine(device),
    }
    if seen.broken:
        record["broken"] = seen.broken
        record["versions"]["pyautoattack"] = autoattack.version()
    record["doubts"] = _doubts(model, dataset.test, seen, record, folder)
    arrays = {
        "label": label,
        "prediction": seen.prediction,
        "clean": seen.clean,
        "confidence": seen.confidence,
        "clean_confidence": seen.clean_confidence,
        **seen.parts,
    }
    folder.save_evaluation(identity, record, arrays)
    progress.unlink(missing_ok=True)
    return metrics


def _doubts(
    model: torch.nn.Module, test: Split, seen: Seen, record: dict[str, Any], folder: TrialFolder
) -> list[str]:
    """The checks that cost a few passes; ham_core/doubts.py has one that costs attacks of its own."""
    few = slice(0, doubts.IMAGES)
    with under_attack(model, "eval"), exact_fp32():
        found = doubts.of_model(model, to_float(test.images[few]), test.labels[few])
    return [
        *found,
        *doubts.of_confidence(seen.clean_confidence, seen.confidence),
        *doubts.of_extent(seen.extent, record["epsilon"]),
        *doubts.of_ensemble(seen.broken, len(test)),
        *doubts.between(folder.evaluations(skip_damaged=True), record),
    ]


def machine(device: torch.device) -> dict[str, Any]:
    """What results may depend on besides the trial: recorded beside them, never part of an identity."""
    return {
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu ({platform.machine()})",
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "commit": commit(),
    }


def _late(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline
