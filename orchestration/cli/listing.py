"""methods, bench: what there is to choose from, and how fast it is."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ham_core.errors import RequestError, known
from orchestration.cli.shared import DONE, JsonFlag, command, emit, grid


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    command(app, "methods", "ham methods --json")(methods)
    command(app, "bench", "ham bench list  ·  ham bench startup -- --repeats 5")(bench)


def methods(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One preset or part, in full.")] = None,
    as_json: JsonFlag = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print docs/methods.md and nothing else on stdout.")
    ] = False,
) -> None:
    """List presets and the parts that methods are made of, with parameters, costs and needs."""
    from ham_core import catalogue

    answer = catalogue.catalogue()
    if name is not None:
        answer = catalogue.named(answer, name)
    if as_json:
        emit(answer)
    elif as_markdown:
        print(catalogue.markdown(answer), end="")
    elif name is not None:
        _print_in_full(answer)
    else:
        _print_index(answer)


def _print_index(answer: dict[str, Any]) -> None:
    """Every preset, every part, and every parameter, a line each."""
    from ham_core.catalogue import UNITS
    from ham_core.parts import KINDS

    grid(
        ("preset", "title", "parts", "epochs", "other trials", "source"),
        [
            (
                *(one[key] for key in ("name", "title", "parts", "epochs")),
                "; ".join(one["starts"]),
                _short(one["source"]),
            )
            for one in answer["presets"]
        ],
        "presets: method: NAME in a YAML file",
    )
    for kind in KINDS:
        parts = [part for part in answer["parts"] if part["kind"] == kind]
        print()
        grid(
            (kind, "cost per step", "needs", "source"),
            [(one["name"], one["cost"], ", ".join(one["needs"]), one["source"]) for one in parts],
        )
        print()
        _print_parameters(parts)
    print(f"\n{textwrap.fill(UNITS, 110)}\n`ham methods NAME` shows one preset or part in full.")


def _short(source: str) -> str:
    """Authors, place and year; `ham methods NAME` has the rest."""
    return "ours" if source.startswith("ours,") else re.split(r"; |, arXiv", source)[0]


def _print_parameters(parts: Sequence[dict[str, Any]]) -> None:
    from ham_core.catalogue import default_in_words, range_in_words

    rows: list[tuple[str, ...]] = []
    for part in parts:
        name = part["name"]
        for key, one in part["parameters"].items():
            rows.append((name, key, default_in_words(one), range_in_words(one), one["meaning"]))
            name = ""
    grid(("part", "parameter", "default", "allowed", "meaning"), rows)


def _print_in_full(answer: dict[str, Any]) -> None:
    """Presets and parts with everything that is known of them."""
    from ham_core.catalogue import settings_in_words

    for one in answer["presets"]:
        print(f"preset {one['name']}: {one['title']}")
        told = {
            "is": one["summary"],
            "source": one["source"],
            "builds on": one["base"],
            "parts": one["parts"],
            "other trials": "; ".join(one["starts"]),
            "code and paper": one["differs"],
        }
        grid(("", ""), [(key, text) for key, text in told.items() if text])
        print()
        grid(("setting", "value"), list(settings_in_words(one).items()))
        print()
    for one in answer["parts"]:
        print(f"{one['kind']} {one['name']}: {one['summary']}\n")
        print(textwrap.indent(one["formula"], "    "))
        print()
        told = {"source": one["source"], "cost per step": one["cost"], "needs": ", ".join(one["needs"])}
        grid(("", ""), [(key, text) for key, text in told.items() if text])
        print()
        if one["parameters"]:
            _print_parameters([one])
            print()


def bench(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME] [-- OPTION...]",
            help="A benchmark, or list; options after -- are passed on. [default: steps]",
        ),
    ] = None,
) -> int:
    """Measure what we claim about speed, for example seconds per training step (in a checkout of the repository)."""
    root = Path(__file__).resolve().parents[2]
    scripts = _benchmarks(root / "benchmarks")
    if not scripts:
        raise RequestError(
            "ham bench: the benchmarks are part of the repository, not of the package; run it in a checkout"
        )
    words = list(arguments or ())
    name = words.pop(0) if words and not words[0].startswith("-") else "steps"
    if name == "list":
        grid(("name", "measures"), list(scripts.items()))
        return DONE
    if name not in scripts:
        raise RequestError(f"ham bench: unknown benchmark '{name}'; {known(name, ('list', *scripts))}")
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    command_line = [sys.executable, "-m", f"benchmarks.{name}", *words]
    return subprocess.run(command_line, env=os.environ | {"PYTHONPATH": path}, check=False).returncode


def _benchmarks(folder: Path) -> dict[str, str]:
    """name -> first sentence of what it says of itself, of every file there that is a command."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    return {
        name: (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        for name, text in texts.items()
        if '__name__ == "__main__"' in text
    }
