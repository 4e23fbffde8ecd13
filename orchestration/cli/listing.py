"""methods, data, bench: what there is to choose from, and how fast it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ham_core.errors import RequestError
from ham_core.parts import Frozen
from orchestration.cli.shared import JsonFlag, command, emit, grid

WAYS = ("list", "fetch", "check")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "methods", "ham methods --json")(methods)
    command(app, "data", "ham data fetch cifar10")(data)
    command(app, "bench", "ham bench -- --repeats 5")(bench)


def methods(as_json: JsonFlag = False) -> None:
    """List presets and the parts that methods are made of, with their parameters."""
    answer = catalogue()
    if as_json:
        emit(answer)
        return
    grid(
        ("preset", "title", "source"),
        [(one["name"], one["title"], one["source"]) for one in answer["presets"]],
        "presets",
    )
    for kind in dict.fromkeys(part["kind"] for part in answer["parts"]):
        print()
        parts = [part for part in answer["parts"] if part["kind"] == kind]
        rows: list[tuple[str, ...]] = []
        for part in parts:
            rows.append((part["name"], "", "", "", part["source"]))
            rows += [
                ("", key, _default(one), _range(one), one["meaning"])
                for key, one in part["parameters"].items()
            ]
        grid((kind, "parameter", "default", "allowed", "source / meaning"), rows)


def _default(parameter: dict[str, Any]) -> str:
    return "follows" if parameter["required"] else str(parameter["default"])


def _range(parameter: dict[str, Any]) -> str:
    """`0 <= x <= 1`, the allowed words, or the type."""
    allowed = parameter["allowed"]
    if "enum" in allowed:
        return " | ".join(map(str, allowed["enum"]))
    below = [f"{allowed[key]:g} {sign} " for key, sign in _LOWER.items() if key in allowed]
    above = [f" {sign} {allowed[key]:g}" for key, sign in _UPPER.items() if key in allowed]
    if below or above:
        return f"{''.join(below)}x{''.join(above)}"
    return str(parameter["type"])


_LOWER = {"minimum": "<=", "exclusiveMinimum": "<"}
_UPPER = {"maximum": "<=", "exclusiveMaximum": "<"}


def catalogue() -> dict[str, Any]:
    """{"presets": [{name, title, source, method, recipe}], "parts": [{kind, name, source, parameters}]}."""
    from ham_core import presets
    from ham_core.parts import KINDS, find, index

    keys = ("name", "title", "source", "method", "recipe")
    return {
        "presets": [
            {key: getattr(presets.load_preset(name), key) for key in keys} for name in presets.names()
        ],
        "parts": [
            {"kind": kind, "name": name, "source": part.source, "parameters": parameters(part)}
            for kind in KINDS
            for name in sorted(index(kind))
            for part in [find(kind, name)]
        ],
    }


def parameters(part: type[Frozen], prefix: str = "") -> dict[str, Any]:
    """dotted key -> {type, default, required, allowed, meaning} of every setting of a part."""
    properties = part.model_json_schema(mode="validation")["properties"]
    found: dict[str, Any] = {}
    for name, entry in part.model_fields.items():
        if isinstance(entry.annotation, type) and issubclass(entry.annotation, Frozen):
            found |= parameters(entry.annotation, f"{prefix}{name}.")
            continue
        described = properties[name]
        found[f"{prefix}{name}"] = {
            "type": _type(described),
            "default": None if entry.is_required() else entry.get_default(call_default_factory=True),
            "required": entry.is_required(),
            "allowed": _allowed(described),
            "meaning": entry.description or "",
        }
    return found


def _type(described: dict[str, Any]) -> str:
    if "enum" in described:
        return "word"
    if "anyOf" in described:
        return " or ".join(dict.fromkeys(_type(one) for one in described["anyOf"]))
    return str(described.get("type", "mapping"))


def _allowed(described: dict[str, Any]) -> dict[str, Any]:
    """The limits of a value, for example {"minimum": 0}, or its words."""
    limits = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum", "pattern"}
    return {key: value for key, value in described.items() if key in limits}


def data(
    way: Annotated[str, typer.Argument(metavar="[list|fetch|check]", help="What to do.")] = "list",
    which: Annotated[str | None, typer.Argument(metavar="[NAME|FOLDER]", help="Which images.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List data sets, fetch or convert one, or check a folder of class folders before using it."""
    from ham_core import data as room
    from ham_core.config import data_settings
    from ham_core.errors import known

    if way not in WAYS:
        raise RequestError(f"ham data: unknown word '{way}'; {known(way, WAYS)}")
    if way == "list":
        _print_sets(room.describe(), as_json)
        return
    if which is None:
        raise RequestError(f"ham data {way}: which one? {known('', room.names())}; or a folder by its path")
    chosen = {"folder": which} if Path(which).is_dir() and which not in room.names() else data_settings(which)
    source = room.find(chosen.get("name"), chosen.get("folder"))
    if way == "fetch" or chosen.get("folder"):  # a folder is checked by decoding all its pictures
        source.ensure(progress_lines())
    _print_facts(source.facts(), source.present(), as_json)


def _print_sets(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        emit(rows)
        return
    columns = ("name", "classes", "shape", "images", "present", "place")
    shown = [
        (
            row["name"],
            len(row["classes"]),
            "x".join(map(str, row["shape"])),
            row["images"],
            row["present"],
            row["place"],
        )
        for row in rows
    ]
    grid(columns, shown)


def _print_facts(facts: Any, present: bool, as_json: bool) -> None:
    answer = {
        "name": facts.name,
        "label": facts.label,
        "classes": list(facts.classes),
        "shape": list(facts.shape),
        "images": list(facts.images),
        "train_digest": facts.train_digest,
        "test_digest": facts.test_digest,
        "present": present,
        "place": facts.source,
    }
    if as_json:
        emit(answer)
        return
    for key, value in answer.items():
        print(f"{key + ':':<14}{', '.join(map(str, value)) if isinstance(value, list) else value}")


def progress_lines() -> Any:
    """A progress function that writes a line to stderr every tenth."""
    told: dict[str, int] = {}

    def progress(what: str, done: int, total: int) -> None:
        tenth = 10 * done // total if total else 0
        if told.get(what, -1) < tenth:
            told[what] = tenth
            print(f"{what}: {10 * tenth} %", file=sys.stderr, flush=True)

    return progress


def bench(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTION...]", help="Passed on, after --.")
    ] = None,
) -> int:
    """Measure seconds per training step against a textbook loop (in a checkout of the repository)."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "steps.py"
    if not script.exists():
        raise RequestError(
            "ham bench: the benchmarks are part of the repository, not of the package; run it in a checkout"
        )
    return subprocess.run([sys.executable, str(script), *(arguments or [])], check=False).returncode
