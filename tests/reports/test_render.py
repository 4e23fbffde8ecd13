"""All formats carry the same text numbers, and each escapes its own way."""

import csv
import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from reports.builder import write
from reports.render import csv as csv_format
from reports.render import latex, markdown, terminal
from reports.render.marks import with_values
from reports.spec import load_specs
from reports.tables import tables_of


@pytest.fixture
def table(digits):
    (found,) = tables_of(load_specs()["ham-main"], digits.material())
    return found


def texts(table) -> list[list[str]]:
    return [[cell.text for cell in line] for line in table.cells]


def from_markdown(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    cells = [[part.strip() for part in line.strip("|").split("|")][1:] for line in lines]
    return [[re.sub(r"[*†‡§¶‖]", "", cell).strip() for cell in line] for line in cells]


def from_latex(text: str) -> list[list[str]]:
    """The cells of all panels; of a wide table the interval stands on a line of its own below the number."""
    panels = [from_panel(part) for part in text.split(r"\begin{tabular}")[1:]]
    return [[cell for panel in line for cell in panel] for line in zip(*panels, strict=True)]


def from_panel(text: str) -> list[list[str]]:
    body = text[text.index(r"\midrule") + 8 : text.index(r"\bottomrule")]
    rows: list[list[str]] = []
    for line in body.strip().splitlines():
        if " & " not in line:
            continue
        title, *cells = re.sub(r"\\\\(\[.*?\])?$", "", line.removeprefix("   ").rstrip()).split(" & ")
        plain = [
            re.sub(r"\\(?:textbf|underline)\{(.*)\}", r"\1", re.sub(r"\$\^\{.*?\}\$", "", cell))
            for cell in cells
        ]
        plain = [re.sub(r"\{\\tiny (.*)\}", r"\1", cell).replace(r"$\pm$", "±").strip() for cell in plain]
        if title.strip():
            rows.append(plain)
        else:
            rows[-1] = [f"{above} {below}".strip() for above, below in zip(rows[-1], plain, strict=True)]
    return rows


class Cells(HTMLParser):
    """Visible text of each cell of one table."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.rows, self.inside, self.open, self.mark = name, [], False, False, False

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "table":
            self.inside = attributes.get("data-table") == self.name
        if self.inside and tag == "tr":
            self.rows.append([])
        if self.inside and tag == "td" and "data-text" in attributes:
            self.rows[-1].append("")
            self.open = True
        self.mark = tag == "sup" or (self.mark and tag != "td")

    def handle_endtag(self, tag):
        if tag == "td":
            self.open = False
        if tag == "table":
            self.inside = False
        if tag == "sup":
            self.mark = False

    def handle_data(self, data):
        if self.open and not self.mark:
            self.rows[-1][-1] += data


def test_markdown_carries_the_numbers(table):
    assert from_markdown(markdown.render([table])) == texts(table)


def test_latex_carries_the_numbers(table):
    assert from_latex(latex.render([table])) == texts(table)


def test_csv_carries_the_numbers_one_line_per_cell(table):
    lines = list(csv.DictReader(io.StringIO(csv_format.render([table]))))
    assert [line["text"] for line in lines] == [text for row in texts(table) for text in row]
    first = lines[0]
    assert (first["row"], first["column"], first["metric"], first["n"]) == (
        "AT",
        "Clean average",
        "best/clean/avg",
        "3",
    )
    assert float(first["mean"]) == pytest.approx(80.0)


def test_html_carries_the_numbers(digits, table, tmp_path):
    write([digits.material()], [load_specs()["ham-main"]], tmp_path, formats=("html",))
    parser = Cells("ham-main")
    parser.feed((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert [row for row in parser.rows if row] == texts(table)


def test_latex_escapes_what_is_special():
    assert latex.escape(r"50 % of a_b & {c} #1 $x$ ~ ^ \ ") == (
        r"50 \% of a\_b \& \{c\} \#1 \$x\$ \textasciitilde{} \textasciicircum{} \textbackslash{} "
    )
    assert latex.escape("1.0 ± 0.2, ε ≥ Λ†") == r"1.0 $\pm$ 0.2, $\varepsilon$ $\geq$ $\Lambda$$^{\dagger}$"


def test_latex_has_rules_caption_label_and_marks_best_and_second(table):
    text = latex.render([table])
    for part in (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"\caption{Robust",
        r"\label{tab:ham-main}",
        r"\multicolumn{3}{c}{PGD-20}",
    ):
        assert part in text
    best = table.cells[1][4]
    assert best.rank == 1
    assert rf"\textbf{{{best.text.split(' ')[0]}}}" in text
    assert rf"\underline{{{table.cells[0][4].text.split(' ')[0]}}}" in text
    assert text.count("{") == text.count("}")


def test_csv_holds_no_ids_dates_or_paths(digits, table):
    text = csv_format.render([table])
    for run in digits.runs:
        assert run.run_id[:8] not in text
        assert run.fingerprint[:8] not in text
    assert not re.search(r"\d{4}-\d\d-\d\d|/tmp|/root|/home", text)


def test_a_page_links_its_runs_to_the_mlflow_ui_that_is_named(digits, tmp_path):
    spec = load_specs()["ham-main"]
    for address, wanted in ((None, "http://127.0.0.1:5000"), ("https://a.b/mlflow/", "https://a.b/mlflow")):
        write([digits.material()], [spec], tmp_path, formats=("html",), mlflow=address)
        page = (tmp_path / "index.html").read_text(encoding="utf-8")
        assert f'{{"mlflow":"{wanted}",' in page


def test_marks_of_a_drawing_get_the_values_of_its_data():
    svg = '<svg><g id="sr-0-1"/><rect id="pt-0-0" x="1"/><circle id="pt-0-7" r="4"/></svg>'
    series = {
        "name": "A<B",
        "x": ["cat"],
        "y": [43.216],
        "low": [40],
        "high": [46.5],
        "label": ["A<B, cat: 43 %"],
    }
    assert with_values(svg, {"x": "class", "y": "accuracy (%)", "series": [series]}) == (
        '<svg><g id="sr-0-1" data-series="0"/><rect id="pt-0-0" data-mark="0-0" data-series="0" data-name="A&lt;B" x="1">'
        '<title>A&lt;B\nclass: cat\naccuracy (%): 43.22 (40 to 46.5)</title></rect><circle id="pt-0-7" r="4"/></svg>'
    )
    assert with_values(svg, None) == svg


@pytest.mark.parametrize(("width", "lines"), [(200, 1), (110, 2)])
def test_a_terminal_carries_the_numbers_and_its_own_emphasis(table, width, lines):
    """What it shows, in one line per row or with the intervals below; the best number of a column is bold."""
    screen = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="truecolor")
    screen.print(terminal.render([table], screen))
    written = screen.file.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", written).splitlines()
    assert max(map(len, plain)) <= width
    for row, expected in zip(table.rows, texts(table), strict=True):
        place = next(n for n, line in enumerate(plain) if line.strip().startswith(row.title))
        pieces = [re.findall(r"\d+\.\d|± \d+\.\d", line) for line in plain[place : place + lines]]
        found = [" ".join(both) for both in zip(*pieces, strict=True)] if lines == 2 else pieces[0]
        wanted = [text for text in expected if text]
        assert " ".join(found) == " ".join(wanted)
    best = table.cells[1][4]
    assert re.search(rf"\x1b\[1;32m{best.text.split(' ')[0]}", written)


def test_a_terminal_that_is_too_narrow_gets_no_table(table):
    screen = Console(file=io.StringIO(), width=50, force_terminal=True)
    assert terminal.render([table], screen) is None
