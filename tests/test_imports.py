"""Who may import whom, and how little a light command loads."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from benchmarks.startup import commands, once

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("ham_core", "orchestration", "reports")
HEAVY = ("torch", "torchvision", "ray", "mlflow", "sklearn", "pandas")

# What the code of `reports` may take from the other rooms.
REPORTS_MAY_IMPORT = {
    "ham_core.metrics",
    "ham_core.statistics",
    "ham_core.config",
    "ham_core.errors",
    "ham_core.folder",
    "ham_core.yamlfile",
    "ham_core.protocol",  # what protocols are, and what a trial deviates in: data and words
    "ham_core.judging",
    "orchestration.tracking",
    "orchestration.sweep",
}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, module) of every import in the text, inside functions and under TYPE_CHECKING too.

    `from a import b` gives a.b, because b may be a module. `package` resolves the relative ones.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def offences(path: Path, forbidden: Iterable[str], allowed: Iterable[str] = ()) -> list[str]:
    """`file:line imports module` for every forbidden import that is not allowed."""
    package = ".".join(path.relative_to(ROOT).parent.parts)
    return [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for line, module in imported(path.read_text(encoding="utf-8"), package)
        if any(within(module, name) for name in forbidden)
        and not any(within(module, name) for name in allowed)
    ]


def test_the_reader_of_imports_sees_every_form() -> None:
    source = "import a.b\ndef f():\n    from c import d\nfrom . import e\nfrom ..g import h\n"
    assert [module for _, module in imported(source, "p.q")] == ["a.b", "p.q.e", "p.g.h", "c.d"]


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_code(room: str) -> None:
    assert files(room)


@pytest.mark.parametrize("path", files("ham_core"), ids=lambda path: str(path.relative_to(ROOT)))
def test_ham_core_imports_neither_ray_nor_mlflow_nor_the_other_rooms(path: Path) -> None:
    assert not offences(path, ("ray", "mlflow", "pandas", "orchestration", "reports"))


@pytest.mark.parametrize("path", files("orchestration"), ids=lambda path: str(path.relative_to(ROOT)))
def test_orchestration_imports_reports_only_in_the_command_line(path: Path) -> None:
    if ROOT / "orchestration" / "cli" not in path.parents:
        assert not offences(path, ("reports",))


@pytest.mark.parametrize("path", files("reports"), ids=lambda path: str(path.relative_to(ROOT)))
def test_reports_read_and_never_train(path: Path) -> None:
    assert not offences(path, ("ham_core", "orchestration"), REPORTS_MAY_IMPORT)
    assert not offences(path, ("torch", "torchvision", "ray"))


# ------------------------------------------------------------------ light start

HARNESS = """
import json, sys
sys.argv = ["ham", *json.loads(sys.argv[1])]
code = 0
try:
    from orchestration.cli import main
    code = main()
except SystemExit as exit:
    code = exit.code
modules = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"code": code or 0, "modules": modules}), file=sys.stderr)
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100
    )


def loaded_by(*arguments: str) -> set[str]:
    """Top-level modules that `ham ARGUMENTS` has imported when it ends, which it must do with exit code 0."""
    run = python("-c", HARNESS, json.dumps(arguments))
    assert run.returncode == 0, run.stderr
    outcome = json.loads(run.stderr.splitlines()[-1])
    assert outcome["code"] == 0, run.stderr
    return set(outcome["modules"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("sweep", "--help"),
        ("report", "--help"),
        ("plan", "sweeps/digits.yaml", "--json"),
        ("methods", "--json"),
        ("status",),
    ],
    ids=" ".join,
)
def test_light_commands_import_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "store")) if arguments[0] in ("plan", "status") else ()
    if "--help" in arguments:
        store = ()
    assert not loaded_by(*arguments, *store) & set(HEAVY)


def test_help_answers_at_once() -> None:
    seconds = []
    for _ in range(3):  # the best of three: other work on the machine is not our cost
        start = time.perf_counter()
        assert python("-m", "orchestration.cli", "--help").returncode == 0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2.0, seconds


def test_help_loads_no_settings() -> None:
    assert not loaded_by("--help") & {"pydantic", "yaml", "numpy", "rich"}


def test_a_plan_and_the_first_step_of_a_training_load_what_they_need_and_come_soon(tmp_path: Path) -> None:
    """The commands of benchmarks/startup.py, which has the real limits; here they are generous to a busy machine."""
    for command in commands(tmp_path):
        found = once(command)
        assert found["loaded"] == [], command.name
        assert found["seconds"] < (60 if "torch" in command.name or command.torch else 10), command.name


@pytest.mark.parametrize(
    "module", ["ham_core.config", "ham_core.metrics", "ham_core.errors", "orchestration.sweep"]
)
def test_importing_the_configuration_imports_nothing_heavy(module: str) -> None:
    run = python("-c", f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})")
    assert run.returncode == 0, run.stderr
    assert not set(run.stdout.split()) & set(HEAVY)


def test_ham_core_imports_where_only_torch_numpy_pydantic_and_pyyaml_are_installed() -> None:
    """Every module of ham_core in one process in which the other dependencies cannot be imported."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in files("ham_core")
        if path.name != "__main__.py"
    ]
    absent = [
        *(set(HEAVY) - {"torch"}),
        "scipy",
        "statsmodels",
        "PIL",
        "matplotlib",
        "typer",
        "rich",
        "jinja2",
    ]
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({absent!r}))  # None: importing it raises ImportError
for name in {names!r}:
    importlib.import_module(name)
"""
    run = python("-c", code)
    assert run.returncode == 0, run.stderr
