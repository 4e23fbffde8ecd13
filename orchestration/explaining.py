"""Why a trial is missing, half done or trained again, and in which settings two trials differ. Light.

A trial is found by the beginning of its fingerprint, or by its row (`trades`, `trades seed=0`), in the sweeps that were
started, in a sweep file, and in the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ham_core.config import Trial, canonical, fingerprint, flatten
from ham_core.errors import RequestError, known
from ham_core.folder import TrialFolder
from orchestration.plan import examine
from orchestration.started import expanded
from orchestration.status import is_running, recorded_sweeps
from orchestration.store import Store
from orchestration.sweep import Planned, Sweep
from orchestration.tracking import Job, Single, params_of, run_name

NO_IDENTITY = (
    "method.averaging",
    "data.name",
    "data.folder",
    "data.label",
    "data.size",
)  # see config.canonical


@dataclass
class Known:
    """What is known of a trial besides its folder: its name, the sweeps that ask for it, why it failed."""

    fingerprint: str
    name: str = ""
    row: str = ""
    sweeps: dict[str, Mapping[str, Any] | Sweep] = field(default_factory=dict)
    failure: str = ""

    @property
    def title(self) -> str:
        """For lists: `3fa4b2c1d0  trades seed=0`."""
        return f"{self.fingerprint[:10]}  {self.name}".rstrip()


def find(store: Store, word: str, sweep: Sweep | None = None) -> Known:
    """The one trial that is meant."""
    everything = _known(store, sweep)
    exact = [one for one in everything.values() if word in (one.name, one.row) and word]
    begins = [one for one in everything.values() if word and one.fingerprint.startswith(word.lower())]
    found = exact or begins
    if len(found) == 1:
        return found[0]
    if found:
        several = "; ".join(one.title for one in found[:8])
        raise RequestError(
            f"'{word}' means {len(found)} trials: {several}; write more letters of a fingerprint"
        )
    names = [one.name or one.fingerprint[:10] for one in everything.values()]
    where = (
        "" if sweep is not None else "; a trial of a sweep that was never started is found with --sweep FILE"
    )
    raise RequestError(f"{store.path}: no trial '{word}' is known here; {known(word, names[:40])}{where}")


def _known(store: Store, sweep: Sweep | None) -> dict[str, Known]:
    found: dict[str, Known] = {}
    if sweep is not None:
        for planned in sweep.trials:
            one = found.setdefault(planned.fingerprint, Known(planned.fingerprint))
            one.name, one.row = run_name(planned), planned.row
            one.sweeps[sweep.name] = sweep
    for recorded in recorded_sweeps(store):
        for trial in recorded["trials"]:
            one = found.setdefault(trial["fingerprint"], Known(trial["fingerprint"]))
            one.name, one.row = one.name or trial["name"], one.row or trial["row"]
            one.sweeps.setdefault(recorded["name"], recorded)
            one.failure = one.failure or trial["failure"]
    for identity in store.trials():
        found.setdefault(identity, Known(identity))
    return found


def explain(store: Store, one: Known) -> dict[str, Any]:
    """Status and reason of a trial; where it is missing, the trial in the store that is most like it."""
    folder = store.folder(one.fingerprint)
    jobs, notes = _jobs(store, one)
    answer: dict[str, Any] = {
        "trial": one.name or (run_name(jobs[0]) if jobs else ""),
        "fingerprint": one.fingerprint,
        "folder": str(folder.path),
        "sweeps": sorted(one.sweeps),
    }
    answer |= _standing(store, folder, jobs, one)
    if notes:
        answer["notes"] = notes
    if answer["status"] == "missing" and jobs:
        nearest = _nearest(store, jobs[0].trial, one.fingerprint)
        if nearest is not None:
            answer["nearest"] = nearest
    return answer


def _standing(store: Store, folder: TrialFolder, jobs: list[Job], one: Known) -> dict[str, Any]:
    """{"status", "why"}: of all sweeps that ask for the trial, the one that needs most of it."""
    if is_running(folder):
        return {"status": "running", "why": f"{folder.epochs_done()} epochs trained; a process works on it"}
    try:
        steps = [examine(cast("Planned", job), store.path) for job in jobs]
    except RequestError as error:
        return {"status": "damaged", "why": " ".join(error.problems)}
    if not steps:
        begun = folder.settings() is not None
        return {"status": "unknown" if begun else "missing", "why": "its settings are not known here"}
    step = max(steps, key=lambda step: (step.epochs_left, len(step.evaluations_left)))
    untrained = [need[:10] for need in step.planned.needs if not store.folder(need).is_done()]
    why = step.why
    if untrained and step.epochs_left:
        why += f"; waits for {', '.join(untrained)}"
    if step.planned.must_keep is not None and step.status != "done":
        why += "; no grid asks for it, so it is trained only while one that needs it is not"
    if one.failure and step.status != "done":
        return {"status": "failed", "why": f"{one.failure}; {why}; the next sweep tries again"}
    return {"status": "trains again" if step.retrains else step.status, "why": why}


def _jobs(store: Store, one: Known) -> tuple[list[Job], list[str]]:
    """The trial as each sweep asks for it, else as it stands in the store; and why some sweep cannot be asked."""
    jobs: list[Job] = []
    notes: list[str] = []
    for sweep in one.sweeps.values():
        try:
            found = sweep if isinstance(sweep, Sweep) else expanded(sweep)
        except RequestError as error:
            notes += error.problems
            continue
        jobs += [planned for planned in found.trials if planned.fingerprint == one.fingerprint]
    folder = store.folder(one.fingerprint)
    if not jobs:
        trial = _trial(folder, notes)
        jobs += [] if trial is None else [Single(trial, one.fingerprint, name=one.row)]
    return jobs, list(dict.fromkeys(notes))


def _trial(folder: TrialFolder, notes: list[str]) -> Trial | None:
    """The recorded settings, or None with a note."""
    try:
        return folder.trial() if folder.settings() is not None else None
    except (RequestError, ValueError) as error:  # pydantic's are ValueErrors
        first = (str(error).splitlines() or [type(error).__name__])[0]
        notes.append(f"{folder.path / 'trial.json'}: cannot be read as a trial of this version ({first})")
        return None


def compare(store: Store, first: Known, second: Known) -> dict[str, Any]:
    """The settings in which two trials differ."""
    found = []
    for one in (first, second):
        jobs, notes = _jobs(store, one)
        if not jobs:
            raise RequestError(notes or f"{one.title}: its settings are not known here")
        found.append((one, jobs[0].trial))
    (ours, here), (theirs, there) = found
    return {
        "here": ours.title,
        "there": theirs.title,
        "differs": differences(here, there),
    }


def differences(here: Trial, there: Trial) -> list[dict[str, Any]]:
    """One entry per setting: its dotted key, both values, and whether it is part of the fingerprint."""
    ours, theirs = params_of(here), params_of(there)
    form, other = flatten(canonical(here)), flatten(canonical(there))
    keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    return [
        {
            "setting": key,
            "here": ours.get(key),
            "there": theirs.get(key),
            # A default is not in the canonical form; a part that only one has comes with its defaults.
            "identity": form.get(key) != other.get(key) or (key in ours) != (key in theirs),
        }
        for key in keys
    ]


def _nearest(store: Store, trial: Trial, identity: str) -> dict[str, Any] | None:
    """The trial in the store that differs in the fewest settings that matter, and those settings."""
    wanted = _matter(trial.model_dump(mode="json"))
    best: tuple[int, str] | None = None
    for other in store.trials():
        try:
            settings = store.folder(other).settings()
        except RequestError:
            continue  # a damaged folder is no neighbour
        if other != identity and settings is not None:
            theirs = _matter(settings)
            distance = sum(wanted.get(key) != theirs.get(key) for key in wanted.keys() | theirs.keys())
            best = min(filter(None, [best, (distance, other)]))
    neighbour = None if best is None else _trial(store.folder(best[1]), [])
    if best is None or neighbour is None:
        return None
    differs = [one for one in differences(trial, neighbour) if one["identity"]]
    answer: dict[str, Any] = {"fingerprint": best[1], "differs": differs}
    if fingerprint(neighbour) != best[1]:
        answer["note"] = "that trial was made by another version of this program, whose numbers may differ"
    return answer


def _matter(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recorded trial that decide its fingerprint, as far as that is seen without building it."""
    return {key: value for key, value in flatten(dict(settings)).items() if key not in NO_IDENTITY}
