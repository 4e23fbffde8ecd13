"""From a damaged trial folder to one that trains on. Nothing that can be mended or made again stops a sweep.

    journal               written again from the records in the checkpoint
    checkpoint.pt         the one of the epoch before takes its place, and one epoch is trained again
    both, or weights      of an unfinished trial: training begins again at epoch 0, since nothing finished is lost
    done.json             the last checkpoint says the same; without one, a journal of all epochs does
    evaluations           the attack runs again

Whatever is trained again is, on a CPU, the same bit for bit. Only the holder of the folder's lock calls this. Damage that
nothing mends (settings; weights of a trained trial) is a RequestError where it is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ham_core.errors import RequestError
from ham_core.folder import TrialFolder, load_tensors


def recover_state(folder: TrialFolder, device: str = "cpu") -> tuple[dict[str, Any] | None, list[str]]:
    """(the newest whole state of an unfinished training, None: from epoch 0; what was wrong, a sentence each).

    Afterwards the journal holds exactly the epochs of the state, and every set of weights that they kept is whole.
    """
    said: list[str] = []
    for path in folder.checkpoints():
        found = _readable(path, device)
        records = None if found is None else _records_of(found, folder)
        if found is None or records is None:
            said.append(f"{path}: is damaged; goes on from the one before, if there is any")
            path.unlink()
            continue
        broken = folder.damaged_weights(_names(records, finished=bool(found["finished"])))
        if broken:
            said.append(f"{broken[0]}: is damaged or gone; trains again from epoch 0")
            break
        before = folder.epochs_done()
        if folder.rewrite_journal(records) and before < len(records) - 1:  # one less: killed in between
            said += _about_journal(folder, len(records))
        return found, said
    if folder.checkpoints() or folder.epochs_done():
        said = said or [f"{folder.path}: no checkpoint is left; trains again from epoch 0"]
    folder.reopen()
    return None, said


def pruned_by_journal(folder: TrialFolder, epochs: int) -> list[str] | None:
    """Of a training whose mark is lost and that is complete, the weights that are not there; None: it is not complete.

    A finished trial keeps no checkpoint and not all weights. All epochs are in its journal, and what is there is whole.
    """
    records = folder.journal()
    if folder.checkpoints() or len(records) < epochs or not all("kept" in record for record in records):
        return None
    kept = folder.weight_names()
    if not kept or folder.damaged_weights(kept):
        return None
    return sorted(_names(records, finished=True) - set(kept))


def recover_journal(folder: TrialFolder) -> list[str]:
    """Write the journal of a trained trial again if it is damaged -> what was wrong. RequestError: from what?"""
    lost = folder.lost_epochs(thorough=True)
    if not lost:
        return []
    if not folder.journal_is_kept_twice():
        raise RequestError(lost)
    path = folder.path / "checkpoint.pt"
    state = load_tensors(path)
    records = state.get("records")
    if records is None or len(records) != state["epoch"]:
        raise RequestError(
            f"{folder.path / 'journal.jsonl'}: is damaged, and {path} has no copy of it; delete the folder {folder.path} to "
            "train this trial again"
        )
    folder.rewrite_journal(records)
    return _about_journal(folder, len(records))


def _about_journal(folder: TrialFolder, epochs: int) -> list[str]:
    return [
        f"{folder.path / 'journal.jsonl'}: was not whole; has its {epochs} epochs from the checkpoint again"
    ]


def _readable(path: Path, device: str) -> dict[str, Any] | None:
    try:
        state = load_tensors(path, device)
    except RequestError:
        return None
    return state if isinstance(state, dict) and {"epoch", "finished"} <= state.keys() else None


def _records_of(state: dict[str, Any], folder: TrialFolder) -> list[dict[str, Any]] | None:
    """The records of all epochs of a state. Those of earlier versions hold only the last one: the journal has the others."""
    records: list[dict[str, Any]] = state.get("records", [])
    if "record" in state:
        records = [*folder.journal()[: state["epoch"] - 1], state["record"]]
    return records if [record["epoch"] for record in records] == list(range(state["epoch"])) else None


def _names(records: Iterable[dict[str, Any]], *, finished: bool) -> set[str]:
    """Weights that these epochs kept. `last` comes with the last epoch, and another trial's is not taken over."""
    names = {name for record in records for name in record.get("kept", ())}
    return {name for name in names if finished or not name.startswith("last")}
