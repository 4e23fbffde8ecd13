"""What is in a trial's folder, as one object says it, and as a mirror remembers it. Names and numbers; nothing moves here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ham_core.folder import write_atomically

JOURNAL, CHECKPOINT, DONE, LABEL = "journal.jsonl", "checkpoint.pt", "done.json", "stopped.json"
AT_HOME = (
    "lock",
    "checkpoint.previous.pt",
    JOURNAL,
    LABEL,
)  # the journal goes line by line, the label on its own
Stat = tuple[
    int, int
]  # bytes, time of the last change in ns: what tells whether a file of the mirror was touched


@dataclass(frozen=True)
class State:
    """The files of a trial's folder: {name: (object, bytes)}, and the objects that make its journal, in order."""

    name: str = ""
    files: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    journal: tuple[str, ...] = ()

    @classmethod
    def read(cls, name: str, content: bytes) -> State:
        """An object's content. ValueError: it is not whole."""
        try:
            found = json.loads(content)
            files = {key: (str(entry[0]), int(entry[1])) for key, entry in found["files"].items()}
            return cls(name, files, tuple(map(str, found["journal"])))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"{name}: no state of a trial") from error

    def content(self) -> bytes:
        """The object's content."""
        return json.dumps({"files": self.files, "journal": self.journal}).encode()

    @property
    def objects(self) -> set[str]:
        """The names of all objects that belong to it."""
        return {name for name, _ in self.files.values()} | set(self.journal)


@dataclass
class Note:
    """What a mirror holds of a trial: some of the files of a state, {name: (object, *stat)}, and its journal."""

    state: State = State()
    files: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    journal: Stat | None = None  # of the file that holds the state's whole journal

    @classmethod
    def read(cls, path: Path) -> Note:
        """An empty one where there is none, or a damaged one: then everything is brought anew."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, IndexError):
            found = json.loads(path.read_bytes())
            state = State.read(found["name"], json.dumps(found["state"]).encode())
            files = {key: (str(a), int(b), int(c)) for key, (a, b, c) in found["files"].items()}
            journal = found["journal"]
            return cls(state, files, None if journal is None else (int(journal[0]), int(journal[1])))
        return cls()

    def write(self, path: Path) -> None:
        """Keep it."""
        state = json.loads(self.state.content())
        text = json.dumps(
            {"name": self.state.name, "state": state, "files": self.files, "journal": self.journal}
        )
        write_atomically(path, lambda file: file.write(text.encode()))

    def has(self, folder: Path, name: str, target: str) -> bool:
        """Whether the folder's file of this name is what the object `target` is."""
        entry = self.files.get(name)
        return entry is not None and entry == (target, *(stat_of(folder / name) or ()))


def stat_of(path: Path) -> Stat | None:
    """Changes when the file does; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def files_in(folder: Path) -> set[str]:
    """The names of a trial's files that belong to a state, without the journal."""
    found = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/"))
        if not hidden and name not in AT_HOME and not name.endswith(".partial.npz") and path.is_file():
            found.add(name)
    return found


def is_tensors(name: str) -> bool:
    """Whether a file of a trial is large, and read only where it is used."""
    return name == CHECKPOINT or name.startswith("weights/")


def in_order(names: Iterable[str]) -> list[str]:
    """The order in which files appear, so that one who looks on sees nothing that is not true: what counts comes last."""
    ranks = {"trial.json": 0, JOURNAL: 2, DONE: 5}

    def place(name: str) -> tuple[int, str]:
        return 1 if is_tensors(name) else ranks.get(name, 3 if name.endswith(".npz") else 4), name

    return sorted(names, key=place)
