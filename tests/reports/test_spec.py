"""Specs load, and say what is wrong with them."""

from pathlib import Path

import pytest

from ham_core.errors import RequestError
from reports import published
from reports.spec import FOLDER, chosen, load_spec, load_specs

GOOD = """# Does it hold?
# ham report mine
title: Mine
caption: A table.
trials: {grid: methods}
columns:
  - {title: worst, metric: best/pgd20/worst}
"""


def write(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(RequestError) as caught:
        load_spec(path)
    return caught.value.problems


def test_every_shipped_spec_loads_and_says_its_question():
    specs = load_specs()
    assert set(specs) == {path.stem for path in FOLDER.glob("*.yaml")}
    assert all(spec.question.endswith("?") for spec in specs.values())


def test_the_first_specs_are_there():
    wanted = {
        "ham-main",
        "ham-main-last",
        "ham-table1",
        "passes",
        "cost",
        "class-bars",
        "pareto",
        "worst-over-epochs",
    }
    sensitivities = {f"sensitivity-{name}" for name in ("early-drop-step", "weight-parameter", "drop-rate")}
    assert wanted | sensitivities <= set(load_specs())


def test_every_reference_of_a_shipped_spec_exists_in_its_paper():
    for spec in load_specs().values():
        for reference in spec.published:
            table = published.paper(reference.paper).table(reference.table)
            assert {row.method for row in reference.rows.values()} <= {row.method for row in table.rows}
            for wanted in reference.columns:
                assert any(
                    (column.attack, column.stat) == (wanted.attack, wanted.stat)
                    and wanted.checkpoint in (None, column.checkpoint)
                    and wanted.printed in (None, column.printed)
                    for column in table.columns
                )


def test_a_good_spec_has_its_question_and_defaults(tmp_path):
    spec = load_spec(write(tmp_path, GOOD))
    assert (spec.name, spec.question, spec.columns[0].direction) == ("mine", "Does it hold?", "higher")


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_known(tmp_path):
    path = write(tmp_path, GOOD.replace("caption:", "captoin:"))
    found = problems(path)
    assert (
        f"{path}:4: unknown key 'captoin'; known: " in found[-1]
        or f"{path}:4: unknown key 'captoin'" in found[0]
    )
    assert any("did you mean caption?" in sentence for sentence in found)
    assert any("'caption' is missing" in sentence for sentence in found)


def test_all_problems_of_a_file_come_at_once(tmp_path):
    text = GOOD.replace("best/pgd20/worst", "best/pgd20/wurst").replace("grid: methods", "gird: methods")
    found = " ".join(problems(write(tmp_path, text + 'cell: "{meen:.1f}"\n')))
    assert "'best/pgd20/wurst' is no metric name" in found
    assert "unknown key 'trials.gird'" in found
    assert "'{meen:.1f}' is no cell format" in found


def test_the_first_lines_must_say_the_command(tmp_path):
    assert "ham report mine" in problems(write(tmp_path, GOOD.replace("# ham report mine\n", "")))[0]


def test_a_table_of_seconds_must_be_named_cost(tmp_path):
    text = GOOD.replace("metric: best/pgd20/worst", "metric: time/train_s, reduce: sum") + "machine: true\n"
    assert "has 'cost' in its name" in problems(write(tmp_path, text))[0]


def test_seconds_must_be_declared(tmp_path):
    text = GOOD.replace("metric: best/pgd20/worst", "metric: time/train_s, reduce: sum").replace(
        "mine", "cost-x"
    )
    assert "'machine: true' belongs to tables of time/*" in problems(write(tmp_path, text, "cost-x"))[0]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(
        RequestError, match=r"unknown table or figure 'ham-mian'; known: .*did you mean ham-main\?"
    ):
        chosen(("ham-mian",), load_specs())
