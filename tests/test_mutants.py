"""The mutation runner: what it changes, what it leaves alone, and that it tells killed mutants from survivors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import ACCEPTED, accepted, all_mutants, chosen, mirrored
from tests.mutation import mutants_of

ROOT = Path(__file__).resolve().parent.parent


def turned(source: str) -> set[str]:
    """What a one-line source may turn into."""
    return {mutant.source for mutant in mutants_of("one.py", source)}


@pytest.mark.parametrize(
    ("source", "others"),
    [
        ("z = x + y", {"z = x - y", "z = x", "z = y"}),
        ("z = x - y", {"z = x + y", "z = x", "z = -y"}),
        ("z = x * y", {"z = x / y", "z = x", "z = y"}),
        ("z = x / y", {"z = x * y", "z = x"}),
        ("z = x < y", {"z = x <= y", "z = x >= y"}),
        ("z = x >= y", {"z = x > y", "z = x < y"}),
        ("z = -x", {"z = x"}),
        ("z = 2", {"z = 3"}),
        ("z = 0.5", {"z = 1.0"}),
        ("z = 0.0", {"z = 1.0"}),
        ("z = x.argmax(y)", {"z = x.argmin(y)"}),
        ("z = min(x, y)", {"z = max(x, y)"}),
        ("z = kl(x, y)", {"z = kl(y, x)"}),
        ("z = weighted(x, y)", {"z = x"}),
        ("z = x if y else w", {"z = x if not y else w"}),
        ("z = x if y == w else w", {"z = x if y != w else w"}),
        ("z = x and y", {"z = x or y"}),
        ("z = x.sort(descending=True)", {"z = x.sort(descending=False)"}),
    ],
)
def test_each_operator_and_term_is_changed(source, others):
    assert turned(source) == others


@pytest.mark.parametrize(
    "source",
    [
        '"""1 + 1."""',
        "def f(x: int = y) -> tuple[int, 3]:\n    'x + 1'\n    return x",
        "class A:\n    beta: float = Field(6.0, ge=0, description='1 + β')\n    base: Other = 1",
        "if TYPE_CHECKING:\n    x = 1 + y",
        "raise ValueError(f'{x + 1}')",
        "assert x == 1",
        "z = f'{x + 1}'",
        "z = True",
    ],
)
def test_texts_annotations_field_defaults_and_messages_are_left_alone(source):
    assert not turned(source)


def test_a_mutant_knows_its_line_and_what_was_changed():
    source = "import math\n\n\ndef f(α, b):\n    '''Text.'''\n    return α - 2 * b  # a reason\n"
    found = {(one.number, one.line, one.before, one.after) for one in mutants_of("one.py", source)}
    assert (6, "return α - 2 * b  # a reason", "α - 2 * b", "α + 2 * b") in found
    assert (6, "return α - 2 * b  # a reason", "2", "3") in found


def test_the_choice_is_repeatable_and_spread_over_the_files():
    every = {
        name: mutants_of(name, "z = " + " + ".join("abcdefghij"[:terms]))
        for name, terms in (("one", 10), ("two", 2))
    }
    assert chosen(every, 4, 0) == chosen(every, 4, 0)
    assert {one.file for one in chosen(every, 4, 0)} == {"one", "two"}
    assert len({tuple(chosen(every, 4, seed)) for seed in range(5)}) > 1
    assert len(chosen(every, 1000, 0)) == sum(map(len, every.values()))


def test_every_file_of_the_four_rooms_has_mirrored_tests():
    files = all_mutants(ROOT)
    assert {"ham_core/mining/ham.py", "ham_core/objectives/base.py", "ham_core/averaging/ema.py"} <= set(
        files
    )
    assert not [file for file in files if mirrored(ROOT, file) is None]


def test_every_accepted_mutant_exists_and_has_a_reason():
    keys = {mutant.key for own in all_mutants(ROOT).values() for mutant in own}
    known = accepted((ROOT / ACCEPTED).read_text("utf-8"))
    assert not [key for key in known if key not in keys]
    assert all(len(reason) > 10 for reason in known.values())


SOURCE = "def worth(a, b):\n    return 2 * a - b\n"
WEAK = "from ham_core.mining.thing import worth\n\n\ndef test_worth():\n    assert worth(3, 0) == 6\n"


def run(tree: Path, **tests: str) -> subprocess.CompletedProcess[str]:
    """The runner on a tree whose files `thing`, `other`, ... all hold the function above, with these tests of them."""
    files = {
        "pyproject.toml": "[tool.pytest.ini_options]\npythonpath = ['.']\naddopts = ['--import-mode=importlib']\n",
        "ham_core/__init__.py": "",
        "ham_core/mining/__init__.py": "",
    }
    for name, text in tests.items():
        files |= {f"ham_core/mining/{name}.py": SOURCE, f"tests/ham_core/mining/test_{name}.py": text}
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text, "utf-8")
    script = (
        f"import sys; from tests.mutants import main; sys.exit(main(['--tree', {str(tree)!r}], modules=()))"
    )
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=150, check=False
    )


def test_survivors_are_told_from_the_killed_and_can_be_accepted_with_a_reason(tmp_path):
    """The strong tests see that -b was dropped or turned; the weak ones, with b = 0, do not."""
    strong = WEAK.replace("thing", "other") + "    assert worth(3, 1) == 5\n"
    found = run(tmp_path, thing=WEAK, other=strong)
    assert (found.returncode, found.stderr) == (1, "")
    assert found.stdout.endswith("14 of 14 mutants: 12 killed (0 by the clock), 0 accepted, 2 survive\n")
    printed = found.stdout.rpartition("\n\n")[0]
    assert {key[0] for key in accepted(printed)} == {"ham_core/mining/thing.py"}
    assert "before: 2 * a - b\n    after: 2 * a + b\n" in printed
    assert (tmp_path / "ham_core/mining/thing.py").read_text("utf-8") == SOURCE
    (tmp_path / ACCEPTED).write_text(printed.replace("because:", "because: b is zero here"), "utf-8")
    again = run(tmp_path, thing=WEAK)
    assert again.returncode == 0
    assert again.stdout == "14 of 14 mutants: 12 killed (0 by the clock), 2 accepted, 0 survive\n"


def test_tests_that_fail_without_a_mutant_are_told(tmp_path):
    found = run(tmp_path, thing=WEAK.replace("6", "7"))
    assert found.returncode == 2
    assert found.stdout == "tests/ham_core/mining/test_thing.py: fails without any mutant\n"
