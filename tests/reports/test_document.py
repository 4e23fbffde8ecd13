"""A text whose numbers come from the report: what a template may ask for, how answers are worded, what is refused."""

from pathlib import Path

import pytest
from scipy import stats

from ham_core.errors import RequestError
from reports.document import Difference, rendered, target_of
from reports.render import markdown
from reports.spec import load_specs
from reports.statistics import paired_p, student_t
from reports.tables import Cell, Head, Value, tables_of


def text_of(source, template: str, folder: Path) -> str:
    path = folder / "text.md.j2"
    path.write_text(template, encoding="utf-8")
    return rendered(path, source.material()).text


def problems_of(source, template: str, folder: Path) -> list[str]:
    with pytest.raises(RequestError) as caught:
        text_of(source, template, folder)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


def difference(*values: float, n: int | None = None, unit: str = "%") -> Difference:
    """The words for these differences, in points."""
    estimate = student_t(values)
    shown = tuple(Value(seed, value, "", "", "") for seed, value in enumerate(values))
    cell = Cell("", estimate.mean, estimate.low, estimate.high, "t", len(values), n or len(values), shown)
    return Difference(cell, Head("worst", "PGD-20", "best/pgd20/worst", unit, "higher", ""))


def test_numbers_tables_and_counts_are_those_of_the_report(digits, tmp_path):
    template = (
        '{{ cell("ham-main", "at", "PGD-20 worst") }} / {{ cell("ham-main", "HAM (official)", "PGD-20 worst") }} / '
        '{{ setting("epochs") }} / {{ total("time/train_s") }} {{ largest("val/pgd10/worst") }} '
        '{{ largest("val/pgd10/worst", "ham-official") }} / '
        '{{ count("trials") }} {{ count("seeds") }} {{ count("methods") }}\n{{ table("ham-main") }}\n'
    )
    first, _, rest = text_of(digits, template, tmp_path).partition("\n")
    at, ham, epochs, seconds, counts = first.split(" / ")
    mean = student_t([40.0, 46.0, 43.0])
    assert at == f"{mean.mean:.1f} ± {mean.half:.1f} %"
    assert (
        ham == "49.5 ± 19.1 % (2 of 3 seeds)"
    )  # one of three has not run: the number says so wherever it stands
    assert (epochs, seconds, counts) == ("12", f"{5 * 6.5} {0.3 + 0.02} {0.3 + 0.02}", "5 3 2")
    own = markdown.render(tables_of(load_specs()["ham-main"], digits.material()))
    assert rest == own


def test_a_picture_is_that_of_the_report_and_says_what_it_shows(digits, tmp_path):
    path = tmp_path / "text.md.j2"
    path.write_text('{{ figure("pareto") }}\n', encoding="utf-8")
    made = rendered(path, digits.material())
    assert made.text.startswith("![Average against worst-class robustness. PGD-20: 5 trials;")
    assert made.text.endswith("](pictures/pareto.png)\n")
    (picture,) = made.pictures.values()
    assert picture.startswith(b"\x89PNG")


def test_a_difference_is_worded_by_its_interval():
    assert str(difference(3.0, 5.0, 4.0)).startswith(
        "higher by 4.0 points (95 % interval +1.5 to +6.5, paired over 3 seeds, p = 0.0"
    )
    assert str(difference(3.0, 5.0, 4.0, unit="")).startswith("higher by 4.0 (95 % interval")
    assert difference(3.0, 5.0, 4.0).short == "**+4.0** [+1.5, +6.5]"
    assert difference(-3.0, 5.0, 4.0).short == "+2.0 [-8.8, +12.8]"
    assert difference(4.0).short == "+4.0"
    assert difference(-3.0, -5.0, -4.0).verdict == "lower"
    unsure = difference(-3.0, 5.0, 4.0)
    assert unsure.verdict == "not shown"
    assert str(unsure).startswith("not shown to differ: +2.0 points (95 % interval -8.8 to +12.8")
    assert str(difference(4.0)) == "+4.0 points, of one seed, so nothing is shown"
    assert "of 4 seeds" in str(difference(3.0, 5.0, 4.0, n=4))


@pytest.mark.parametrize("values", [(3.0, 5.0, 4.0), (-3.0, 5.0, 4.0), (0.1, 0.2, 2.9, 0.3), (1.0, 1.0)])
def test_p_is_below_five_percent_exactly_where_the_interval_leaves_nothing_out(values):
    estimate = student_t(values)
    assert (paired_p(values) < 0.05) == (not estimate.low <= 0 <= estimate.high)
    if len(set(values)) > 1:
        assert paired_p(values) == pytest.approx(stats.ttest_rel(values, [0.0] * len(values)).pvalue)
    assert paired_p([0.0, 0.0]) == 1.0


def test_differences_come_from_tables_that_subtract(digits, tmp_path):
    words = text_of(digits, '{{ difference("ham-differences", "HAM (official)", "PGD-20 worst") }}', tmp_path)
    assert words.startswith("higher by 5.0 points (95 % interval +5.0 to +5.0, paired over 2 of 3 seeds")


def test_the_largest_value_is_that_of_the_method_that_is_named(store, metrics, tmp_path):
    for label, series in (("at", [0.1, 0.5]), ("trades", [0.3, 0.2])):
        store.add(label, 0, metrics((0.9,) * 3, (0.5,) * 3), series={"val/pgd10/worst": series})
    template = '{{ largest("val/pgd10/worst") }} {{ largest("val/pgd10/worst", "trades") }}'
    assert text_of(store, template, tmp_path) == "0.5 0.3"


def test_a_column_that_subtracts_nothing_is_no_difference_whatever_its_neighbours_do(digits, tmp_path):
    asked = '{{ difference("efficiency-cost", "HAM (official)", "Seconds training") }}'
    (problem,) = problems_of(digits, asked, tmp_path)
    assert "column 'Seconds training' of table 'efficiency-cost' subtracts no method" in problem


def test_the_sources_of_all_numbers_are_listed(digits, tmp_path):
    template = '{{ cell("ham-main", "at", "PGD-20 worst") }}\n{{ sources() }}\n'
    line = "| 43.0 ± 7.5 | `ham explain ham-main AT 'PGD-20 worst'` |"
    assert line in text_of(digits, template, tmp_path)


def test_everything_that_is_asked_for_and_not_there_is_named_with_its_line(digits, tmp_path):
    template = (
        '{{ cell("ham-mian", "at", "x") }}\n'
        '{{ cell("ham-main", "att", "PGD-20 worst") }} {{ table("pareto") }}\n'
        '{{ setting("seed") }} {{ setting("epoch") }}\n'
        '{{ difference("ham-main", "at", "PGD-20 worst") }}\n'
        '{{ total("time/trian_s") }} {{ count("runs") }} {{ largest("val/pgd10/worst", "ham") }}\n'
        '{{ cell("ham-main", "ham-paper", "PGD-20 worst") }}\n'
        '{{ figure("ham-fig4") }} {{ count() }}\n'
    )
    found = problems_of(digits, template, tmp_path)
    for line, words in (
        (1, "unknown table or figure 'ham-mian'"),
        (2, "unknown row of table 'ham-main': 'att'"),
        (2, "'pareto' is a figure; write figure(\"pareto\")"),
        (3, "no trial has a setting 'seed'"),
        (3, "no trial has a setting 'epoch'"),
        (4, "column 'PGD-20 worst' of table 'ham-main' subtracts no method; tables that do: ham-differences"),
        (5, "no trial has a series 'time/trian_s'"),
        (5, "cannot count 'runs'"),
        (5, "the sweep has no method 'ham'"),
        (6, "waits for seeds 0, 1, 2 (not run)"),
        (7, "ham-fig4"),
        (7, "count: missing a required argument: 'what'"),
    ):
        assert any(f"text.md.j2:{line}: " in problem and words in problem for problem in found), (
            line,
            words,
            found,
        )


def test_a_setting_in_which_trials_differ_is_no_setting_of_the_sweep(store, metrics, tmp_path):
    for seed, epochs in ((0, "12"), (1, "24")):
        store.add("at", seed, metrics((0.9, 0.8, 0.7), (0.6, 0.5, 0.4)), params={"epochs": epochs})
    (problem,) = problems_of(store, '{{ setting("epochs") }}', tmp_path)
    assert (
        problem
        == "text.md.j2:1: trials differ in 'epochs' (12: at; 24: at), so the sweep has no one value of it"
    )


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("a\n{% if %}", "text.md.j2:2: Expected an expression, got 'end of statement block'"),
        (
            "a\n\n{{ nothing }}",
            "text.md.j2:3: 'nothing' is undefined; a template may ask for cell, difference",
        ),
        ('{{ total("time/train_s").foo + 1 }}', "text.md.j2:1: 'float object' has no attribute 'foo'"),
        ('{{ total("time/trian_s") / 60 }}', "text.md.j2:1: no trial has a series 'time/trian_s'"),
    ],
)
def test_a_template_that_is_wrong_in_itself_is_told_where(digits, tmp_path, template, problem):
    (found,) = problems_of(digits, template, tmp_path)
    assert found.startswith(problem)


@pytest.mark.parametrize("name", ["text.md", "text.html.j2", "absent.md.j2"])
def test_what_is_no_template_is_refused(tmp_path, name):
    if not name.startswith("absent"):
        (tmp_path / name).write_text("", encoding="utf-8")
    with pytest.raises(RequestError, match="--document: "):
        target_of(tmp_path / name)


def test_a_template_that_is_no_text_is_refused(digits, tmp_path):
    (tmp_path / "text.md.j2").write_bytes(b"a \xff")
    with pytest.raises(RequestError, match=r"is no text in UTF-8 \(byte 2\)"):
        rendered(tmp_path / "text.md.j2", digits.material())
