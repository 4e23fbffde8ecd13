"""What ships, that it runs outside the checkout, and that the files around the code agree with each other."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("ham_core", "orchestration", "reports", "sweeps")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

YAMLS = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.yaml"))
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# ------------------------------------------------------------------ the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this tree, built from a copy, so that a `build` folder left behind cannot slip into it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", *ROOMS, "tests", "benchmarks", "docs"):
        if (ROOT / name).exists():
            copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = out.glob("ham_sweeps-*.whl")
    return zipfile.ZipFile(path)


def copy(source: Path, target: Path) -> None:
    if source.is_file():
        target.write_bytes(source.read_bytes())
    elif source.name != "__pycache__":
        target.mkdir()
        for child in source.iterdir():
            copy(child, target / child.name)


def test_every_folder_with_modules_is_a_package() -> None:
    """Without its `__init__.py` a folder works in the checkout and is missing from the wheel."""
    folders = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert [relative(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_wheel_holds_every_module_and_data_file_of_the_rooms(wheel: zipfile.ZipFile) -> None:
    kinds = {".py", ".yaml", ".j2", ".css", ".js", ".typed"}
    wanted = {
        relative(path)
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.suffix in kinds or path.name == "py.typed"
    }
    assert wanted <= set(wheel.namelist())


@pytest.mark.parametrize(
    "pattern",
    [
        r"sweeps/digits\.yaml",
        r"sweeps/cifar10\.yaml",
        r"ham_core/presets/[\w-]+\.yaml",
        r"reports/specs/[\w-]+\.yaml",
        r"reports/published/[\w-]+\.yaml",
        r"reports/.*\.j2",
        r"ham_sweeps-[\w.]+\.dist-info/licenses/LICENSE",
    ],
)
def test_wheel_ships(wheel: zipfile.ZipFile, pattern: str) -> None:
    assert any(re.fullmatch(pattern, name) for name in wheel.namelist())


def test_wheel_ships_nothing_but_the_rooms(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(ROOMS)


def test_wheel_declares_the_console_script(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "ham = orchestration.cli:main" in wheel.read(name).decode()


@pytest.mark.parametrize(
    "arguments",
    [("plan", "digits", "--json"), ("plan", "sweeps/digits.yaml", "--json"), ("methods", "--json")],
    ids=" ".join,
)
def test_wheel_works_outside_the_checkout(
    wheel: zipfile.ZipFile, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    wheel.extractall(site)
    # As the entry point does it. PYTHONPATH stands before an editable install of this checkout.
    code = f"import sys; from orchestration.cli import main; sys.argv = {['ham', *arguments]!r}; sys.exit(main())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 0, run.stderr
    assert str(ROOT) not in run.stdout
    answer = json.loads(run.stdout)
    if arguments[0] == "plan":
        assert {"fingerprint", "status", "why"} <= set(answer["trials"][0])
        assert {trial["status"] for trial in answer["trials"]} == {"missing"}


# ------------------------------------------------------------------ the YAML files


@pytest.mark.parametrize("path", YAMLS, ids=relative)
def test_yaml_loads(path: Path) -> None:
    from ham_core import yamlfile

    assert yaml.safe_load(path.read_text(encoding="utf-8"))
    assert yamlfile.load(path).value  # refuses duplicate keys


@pytest.mark.parametrize("path", SWEEPS, ids=relative)
def test_sweep_expands_with_and_without_each_profile(path: Path, tmp_path: Path) -> None:
    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    profiles = ["smoke", *(sweep.get("profiles") or {})]
    for profile in (None, *dict.fromkeys(profiles)):
        arguments = ["plan", str(path), "--json", "--store", str(tmp_path)]
        arguments += ["--profile", profile] if profile else []
        run = subprocess.run(
            [sys.executable, "-m", "orchestration.cli", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == 0, run.stderr
        prints = [trial["fingerprint"] for trial in json.loads(run.stdout)["trials"]]
        assert prints or "search" in sweep, "a search proposes its trials when it runs"
        assert len(prints) == len(set(prints))


@pytest.mark.parametrize("path", SWEEPS, ids=relative)
def test_sweep_opens_with_its_question_and_its_command(path: Path) -> None:
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert head.startswith("# ")
    assert f"ham sweep sweeps/{path.name}" in head


# ------------------------------------------------------------------ Makefile, lock, CI

TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", MAKEFILE, re.M))


def test_make_has_the_promised_targets() -> None:
    promised = "help demo test lint sweep-digits sweep-cifar10 plan report tables ui bench lock clean"
    assert set(promised.split()) <= TARGETS


def test_make_help_lists_every_target_and_is_the_default_goal() -> None:
    for goal in ([], ["help"]):
        run = subprocess.run(["make", *goal], cwd=ROOT, capture_output=True, text=True, timeout=30)
        assert run.returncode == 0, run.stderr
        assert set(re.findall(r"^  make ([\w-]+)", run.stdout, re.M)) == TARGETS


def test_every_target_is_phony() -> None:
    """A folder named `tables` or `report` must not stop `make tables`."""
    declared = re.search(r"^\.PHONY:(.*)$", MAKEFILE, re.M)
    assert declared
    assert set(declared.group(1).split()) >= TARGETS


def recipe(*arguments: str) -> list[str]:
    """The shell lines of the goal itself, as `make -n` prints them; `-o` keeps the set-up out."""
    command = ["make", "-n", "-o", ".venv/.complete", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert run.returncode == 0, run.stderr
    return [line for line in run.stdout.splitlines() if line.startswith(".venv/bin/ham ")]


def words(line: str) -> list[str]:
    """The words the shell makes of a recipe line."""
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    run = subprocess.run(
        ["sh", "-c", line.replace(".venv/bin/ham", f"'{sys.executable}' -c '{code}'", 1)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return list(json.loads(run.stdout))


def test_demo_is_the_digits_sweep_and_its_report() -> None:
    sweep, report = (words(line) for line in recipe("demo"))
    assert sweep == ["sweep", "sweeps/digits.yaml", "--store", "outputs"]
    assert report == ["report", "--store", "outputs"]


def test_sweep_cifar10_hands_on_profile_data_and_store_even_with_spaces_and_quotes() -> None:
    data, store = "/a b/it's", "my results"
    sweep, report = recipe(
        "sweep-cifar10", "PROFILE=smoke", f"DATA={data}", f"STORE={store}", "ARGS=--set seeds=0"
    )
    assert words(sweep) == [
        *("sweep", "sweeps/cifar10.yaml", "--profile", "smoke", "--set", f"data={data}"),
        *("--store", store, "--set", "seeds=0"),
    ]
    assert words(report) == ["report", "--store", store]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> Iterator[tuple[str, str]]:
    """(name, version) of every line of the lock; a package may stand there once per Python version."""
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if line and not line.lstrip().startswith("#"):
            match = re.match(r"([A-Za-z0-9._-]+)(?:\[[\w,-]+\])?==([^\s;]+)", line)
            assert match, f"not an exact version: {line}"
            yield canonical(match[1]), match[2]


def requirements() -> list[str]:
    project = PYPROJECT["project"]
    return [
        *project["dependencies"],
        *project["optional-dependencies"]["dev"],
        *PYPROJECT["build-system"]["requires"],
    ]


@pytest.mark.parametrize("requirement", sorted(set(requirements())))
def test_lock_covers(requirement: str) -> None:
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    versions = [version for name, version in locked() if name == canonical(wanted.name)]
    assert versions
    assert all(wanted.specifier.contains(version) for version in versions)


def test_every_import_of_the_rooms_is_a_declared_dependency() -> None:
    from tests.test_imports import imported

    distributions = {"yaml": "pyyaml", "sklearn": "scikit-learn", "PIL": "pillow"}
    declared = {canonical(re.split(r"[\[<>=~!; ]", line)[0]) for line in PYPROJECT["project"]["dependencies"]}
    declared |= {"pydantic-core"}  # pydantic's own half
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        package = ".".join(path.relative_to(ROOT).parent.parts)
        for line, module in imported(path.read_text(encoding="utf-8"), package):
            top = module.partition(".")[0]
            if top not in sys.stdlib_module_names and top not in ROOMS:
                assert canonical(distributions.get(top, top)) in declared, (
                    f"{relative(path)}:{line} imports {top}"
                )


def test_ci_runs_lint_and_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert {"make lint", "make test"} <= set(script.read_text(encoding="utf-8").splitlines())


# ------------------------------------------------------------------ nothing of one machine


def tracked() -> list[Path]:
    """The text files of the repository: what git tracks, or would on `git add`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    if run.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in run.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8000]]


# Split strings, so that this file passes its own test.
REGISTRY = re.compile(
    "pypi" + r"\.org|files\.python" + "hosted|--(extra-)?" + "index-url|" + "--find" + "-links", re.I
)
MACHINE = re.compile(r"(?<![\w./-])/(home|Users|root|work|mnt|scratch" + r")/[\w.-]+")


def test_no_file_names_a_registry_host_or_a_path_of_one_machine() -> None:
    found = [
        f"{relative(path)}:{number}: {line.strip()[:120]}"
        for path in tracked()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if REGISTRY.search(line) or MACHINE.search(line)
    ]
    assert not found
