"""The page in a real headless Chromium: sorted, filtered, asked what stands behind a cell, by mouse and by keyboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestration.tracking import COMMIT
from reports.builder import write
from reports.comparison import compared, published_tables
from reports.render import csv, html, latex, markdown
from reports.spec import load_specs
from reports.tables import Row, Table, tables_of
from tests.browser import chromium, prefer, resize, why_not
from tests.reports.conftest import results

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]

CHECKS = Path(__file__).with_name("page_checks.js").read_text(encoding="utf-8").partition("\n")[2].strip()
HASH = "0123456789abcdef0123456789abcdef01234567"
WORST = "digits-ham-main--table--at--pgd-20-worst"
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "Space": "\ue00d", "End": "\ue010"}
KEYS |= {
    f"Arrow{side}": code
    for side, code in zip(("Left", "Up", "Right", "Down"), "\ue012\ue013\ue014\ue015", strict=True)
}

# Two series as painters draw them: what is seen (sr-), the marks without ink over it (pt-), and matplotlib's legend.
SVG = """<?xml version="1.0"?>
<svg width="200pt" height="120pt" viewBox="0 0 200 120">
<g id="sr-0-0"><path d="M 20 60 L 80 40" style="stroke: #0072b2"/></g>
<g id="sr-1-0"><path d="M 20 90 L 80 95" style="stroke: #e69f00"/></g>
<g id="legend_1">
<g id="patch_1"><path d="M 120 20 h 10 v 5 h -10 z"/></g>
<g id="text_1"><!-- AT --><path d="M 135 20 h 20 v 5 h -20 z"/></g>
<g id="patch_2"><path d="M 120 40 h 10 v 5 h -10 z"/></g>
<g id="text_2"><!-- HAM --><path d="M 135 40 h 20 v 5 h -20 z"/></g>
</g>
<g id="marks" fill="none" stroke="none" pointer-events="all">
<circle id="pt-0-0" cx="20" cy="60" r="4"/><circle id="pt-0-1" cx="80" cy="40" r="4"/>
<circle id="pt-1-0" cx="20" cy="90" r="4"/><circle id="pt-1-1" cx="80" cy="95" r="4"/>
</g></svg>"""
NUMBERS = {
    "kind": "points",
    "title": "A figure",
    "x": "average (%)",
    "y": "worst (%)",
    "series": [
        {"name": "AT", "panel": "", "x": [70.0, 71.0], "y": [40.0, 46.0], "low": [38.0, None], "high": [42.0, None],
         "label": ["AT, seed 0: 70 %", "AT, seed 1: 71 %"]},
        {"name": "HAM", "panel": "", "x": [69.0, 68.0], "y": [50.0, 51.0], "low": [None, None], "high": [None, None],
         "label": ["HAM, seed 0: 69 %", "HAM, seed 1: 68 %"]},
    ],
}  # fmt: skip
DRAWING = SimpleNamespace(
    files={"svg": SVG.encode()}, alt="Two methods.", caption="A caption.", protocol="digits", data=NUMBERS
)


@dataclass(frozen=True)
class Grouped(Row):
    """A row below a heading."""

    group: str = ""


class Page:
    """The open page, in words."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, fragment: str = "") -> None:
        """Afresh, also where only the part behind # differs."""
        self.driver.get("about:blank")
        self.driver.get(path.as_uri() + fragment)

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"return {code}", *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(KEYS.get(key, key)).perform()

    def hover(self, element: Any) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).scroll_to_element(element).move_to_element(element).perform()

    def wait(self, condition: Callable[[], Any]) -> None:
        """Until it holds, for at most five seconds."""
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, 5, poll_frequency=0.02).until(lambda _: condition())

    @property
    def rows(self) -> list[str]:
        """Titles of the visible rows of the first table, from top to bottom."""
        return [
            row.text for row in self.all("table[role=grid] tr.row:not([hidden]) th") if row.is_displayed()
        ]

    @property
    def focused(self) -> str:
        """The id of the element with the focus, else its text."""
        return self.js("document.activeElement.id || document.activeElement.textContent.trim()")

    @property
    def panel(self) -> str:
        """What the panel says; empty while it is closed."""
        return self.find("#panel").text

    @property
    def tip(self) -> str:
        return self.find("#tip").text

    @property
    def paper(self) -> str:
        return self.js("getComputedStyle(document.body).backgroundColor")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("selenium", reason="no selenium; pip install -e '.[dev]' brings it")
    with chromium(tmp_path_factory.mktemp("browser") / "profile") as found:
        yield found


@pytest.fixture
def page(driver: Any) -> Iterator[Page]:
    """1280 x 800, light, nothing remembered; afterwards the browser must have had nothing to complain of."""
    resize(driver, 1280, 800)
    prefer(driver, "light")
    driver.get_log("browser")
    yield Page(driver)
    if driver.current_url.startswith("file:"):
        driver.execute_script("localStorage.clear()")
    assert driver.get_log("browser") == []


@pytest.fixture
def table(digits: Any) -> Table:
    digits.runs = [replace(run, tags={**run.tags, COMMIT: HASH}) for run in digits.runs]
    (found,) = tables_of(load_specs()["ham-main"], digits.material())
    return found


def written(folder: Path, *tables: Table, drawings: tuple[Any, ...] = (), beside: Any = ()) -> Path:
    """A page of one sweep whose only entry has these tables and drawings, and published values beside its cells."""
    item = html.Item("ham-main", "Robust fairness", "What does it do?", tables, drawings, beside=beside)
    section = html.Section("digits", "All of it.", [item])
    path = folder / "index.html"
    text = html.render([section], title="A: report", lede="Numbers.", footer="End.", waiting=["at: waits"])
    path.write_text(text, encoding="utf-8")
    return path


def head(page: Page, title: str, nth: int = 0) -> Any:
    return [one for one in page.all(".titles .sort") if one.text.strip(" ↑↓▲▼") == title][nth]


def test_a_click_on_a_heading_sorts_best_first_then_backwards_then_as_it_was(page, table, tmp_path):
    page.open(written(tmp_path, table))
    original = ["AT", "HAM (official)", "HAM (paper)"]
    assert page.rows == original
    seen = []
    for _ in range(3):
        head(page, "worst", 1).click()  # PGD-20: AT 43, HAM (official) 49.5, HAM (paper) none
        seen.append(
            (page.js("document.querySelectorAll('.titles th')[5].getAttribute('aria-sort')"), page.rows)
        )
    assert seen == [
        ("descending", ["HAM (official)", "AT", "HAM (paper)"]),
        ("ascending", ["AT", "HAM (official)", "HAM (paper)"]),  # without a number it stays last
        ("none", original),
    ]
    head(page, "std", 0).click()  # lower is better; AT 8.16, HAM 6.53
    assert page.rows[:2] == ["HAM (official)", "AT"]
    assert page.js("document.querySelectorAll('[aria-sort]:not([aria-sort=none])').length") == 1


def test_sorting_is_by_number_and_keeps_equal_ones_in_their_order(page, table, tmp_path):
    numbers = (None, 9.0, 100.0, 9.0, 10.0)
    cell = table.cells[0][0]
    many = replace(
        table,
        columns=table.columns[:1],
        rows=tuple(Row(name, name, name) for name in "ebadc"),
        cells=tuple(
            (replace(cell, text=f"{number} ± 0.6" if number else "", mean=number),) for number in numbers
        ),
    )
    page.open(written(tmp_path, many))
    head(page, "average").click()
    assert page.rows == ["a", "c", "b", "d", "e"]
    head(page, "average").click()
    assert page.rows == ["b", "d", "c", "a", "e"]
    head(page, "average").click()
    assert page.rows == ["e", "b", "a", "d", "c"]
    head(page, "Method").click()
    assert page.rows == ["a", "b", "c", "d", "e"]


def test_groups_of_rows_dissolve_while_a_column_sorts(page, table, tmp_path):
    rows = tuple(
        Grouped(row.key, row.title, row.label, name) for row, name in zip(table.rows, "XXY", strict=True)
    )
    page.open(written(tmp_path, replace(table, rows=rows)))
    assert [one.text for one in page.all("tr.group")] == ["X", "Y"]
    find = "document.querySelector('tr.row th')"
    head(page, "worst", 1).click()
    assert not any(one.is_displayed() for one in page.all("tr.group"))
    assert (
        page.js(f"{find}.textContent + getComputedStyle({find}, '::after').content") == 'HAM (official)" · X"'
    )
    head(page, "worst", 1).click()
    head(page, "worst", 1).click()
    order = page.js("[...document.querySelectorAll('tbody tr')].map((row) => row.cells[0].textContent)")
    assert order == ["X", "AT", "HAM (official)", "Y", "HAM (paper)"]
    page.find(".filter").send_keys("official")
    assert [one.text for one in page.all("tr.group") if one.is_displayed()] == ["X"]


def test_a_filter_keeps_the_rows_that_hold_all_its_words(page, table, tmp_path):
    page.open(written(tmp_path, table))
    page.find(".filter").send_keys("ham OFFICIAL")
    assert page.rows == ["HAM (official)"]
    assert page.find(".count").text == "1 of 3 rows"
    page.press("Escape")
    assert len(page.rows) == 3
    page.find(".filter").send_keys("43.0")  # what a cell says counts too
    assert page.rows == ["AT"]


def test_the_search_goes_through_all_tables_and_figures(page, table, tmp_path):
    item = html.Item("a", "First", "About apples?", (table,))
    other = html.Item("b", "Second", "About pears?", (), (DRAWING,))
    path = tmp_path / "index.html"
    path.write_text(
        html.render([html.Section("digits", "", [item, other])], title="A: b", lede="", footer=""),
        encoding="utf-8",
    )
    page.open(path)

    def shown() -> list[str]:
        return [one.text for one in page.all("h3") if one.is_displayed()]

    page.press("/", "paper")
    assert page.js("document.activeElement.id") == "search"
    assert (shown(), page.rows, page.find("#found").text) == (["First"], ["HAM (paper)"], "1 entry, 1 row")
    page.press("Escape", "apples")
    assert (shown(), len(page.rows)) == (["First"], 3)
    page.press("Escape", "caption")
    assert (shown(), page.rows) == (["Second"], [])
    page.press("Escape", "nowhere")
    assert shown() == []
    assert page.find("#nothing").is_displayed()


def test_a_click_on_a_cell_shows_all_that_stands_behind_it(page, table, tmp_path):
    page.open(written(tmp_path, table))
    page.find(f"#{WORST}").click()
    said = page.panel
    value = table.cells[0][4]
    for part in (
        "AT",
        "PGD-20 worst",
        f"{value.text} %",
        f"Student-t interval of the mean over seeds, 95%: {value.low:.2f} to {value.high:.2f} %; n = 3 of 3 seeds.",
        "smallest class-wise accuracy under pgd20",
        "the epoch with the highest average robust accuracy",
        "digits, small_cnn, ε = 0.2, 12 epochs",
        "best/pgd20/worst",
        HASH,
        "ham explain ham-main AT 'PGD-20 worst' --sweep digits",
    ):
        assert part in said
    lines = [line.text.split()[:2] for line in page.all(".runs tbody tr")]
    assert lines == [["0", "40.00"], ["1", "46.00"], ["2", "43.00"]]
    links = [one.get_attribute("href") for one in page.all(".runs a")]
    wanted = [
        f"http://127.0.0.1:5000/#/experiments/{one.experiment_id}/runs/{one.run_id}" for one in value.values
    ]
    assert links == wanted
    page.find("#panel summary").click()
    for one in value.values:
        assert f"trials/{one.fingerprint}/weights/best.pt" in page.panel
    assert page.driver.current_url.endswith(f"#{WORST}")
    page.press("Escape")
    assert (page.panel, page.focused) == ("", WORST)
    assert "#" not in page.driver.current_url


def test_a_cell_without_a_number_says_what_it_waits_for(page, table, tmp_path):
    page.open(written(tmp_path, table))
    page.find("#digits-ham-main--table--ham-paper--clean-worst").click()
    assert "No number yet." in page.panel
    assert "waits for seeds 0, 1, 2 (not run)" in page.panel
    assert "Missing: ham-paper seed 0, ham-paper seed 1, ham-paper seed 2" in page.panel


def test_a_published_cell_shows_its_source_and_ours_what_is_published_and_whether_it_agrees(
    page, store, tmp_path
):
    """CFA prints 20.1 ± 1.3 for AT's worst class under AutoAttack; ours is another network, so there is no verdict."""
    shares = {"clean": (0.9,) * 3, "autoattack": (0.5, 0.4, 0.21)}
    own = {name.replace("best/", "best_sum/"): value for name, value in results(shares).items()}
    store.add("cfa-at-none", 0, own, grids=("table1",), title="AT")
    spec = load_specs()["cfa-1"]
    (found,) = tables_of(spec, store.material())
    page.open(written(tmp_path, found, *published_tables(spec, [found]), beside=compared(spec, found)))
    printed = next(one for one in page.all("td.published") if one.text)
    text = printed.text
    printed.click()
    assert f"{text} %" in page.panel
    assert "openaccess.thecvf.com" in page.panel and "As printed in" in page.panel
    assert "digits, small_cnn" not in page.panel  # that is our protocol
    page.press("Escape")
    cell = page.find("#digits-ham-main--table--at--best-autoattack-worst")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", cell)
    cell.click()
    for words in ("20.1 ± 1.3 %", "ours minus theirs: +0.9", "not comparable", "digits instead of cifar10"):
        assert words in page.panel
    assert "Simultaneous interval for the true worst class" in page.panel


def test_the_keyboard_alone_sorts_opens_moves_and_comes_back(page, table, tmp_path):
    page.open(written(tmp_path, table))
    for _ in range(30):
        page.press("Tab")
        if page.focused == "Method":
            break
    assert page.focused == "Method"
    page.press(*["ArrowRight"] * 5)
    assert page.focused.startswith("worst")
    page.press("Enter")
    assert page.rows[0] == "HAM (official)"
    page.press("ArrowDown", "ArrowDown")
    assert page.focused == WORST
    page.press("Enter")
    assert page.find("#panel h2").text == "AT\nPGD-20 worst"
    page.press("ArrowUp")
    assert page.find("#panel h2").text == "HAM (official)\nPGD-20 worst"
    page.press("ArrowLeft")
    assert page.find("#panel h2").text == "HAM (official)\nPGD-20 average"
    page.press("ArrowUp")  # no cell there
    assert page.focused == "panel"
    page.driver.execute_script("arguments[0].focus()", page.find("td.current"))
    page.press("ArrowDown")  # from the table too, while the panel is open
    assert page.find("#panel h2").text == "AT\nPGD-20 average"
    page.press("ArrowUp")
    page.press("Escape")
    assert page.focused == "digits-ham-main--table--ham-official--pgd-20-average"
    page.press("End")
    assert page.focused == "digits-ham-main--table--ham-official--cw-20-std"
    page.press("Tab")
    assert page.js("document.activeElement.closest('table')") is None  # a table is one stop


def test_a_link_to_a_cell_opens_it_and_outlives_new_rows(page, table, tmp_path):
    more = replace(
        table,
        rows=(Row("new", "New", "new"), *table.rows),
        cells=(table.cells[2], *table.cells),
    )
    page.open(written(tmp_path, more), f"#{WORST}")
    page.wait(lambda: page.panel)
    assert page.find("#panel h2").text == "AT\nPGD-20 worst"
    assert page.focused == "panel"
    box = page.find(f"#{WORST}").rect
    top = page.js("scrollY")
    assert top < box["y"] < top + 800
    page.press("Escape")
    page.find("#search").send_keys("paper")
    page.driver.execute_script(f"location.hash = '{WORST}'")
    page.wait(lambda: page.panel)
    assert page.find("#panel h2").text == "AT\nPGD-20 worst"
    assert page.find(f"#{WORST}").is_displayed()


def test_the_colours_follow_the_system_until_they_are_chosen_and_the_choice_stays(page, table, tmp_path):
    path = written(tmp_path, table)
    page.open(path)
    light = page.paper
    prefer(page.driver, "dark")
    dark = page.paper
    assert light != dark
    page.find("#theme").click()
    assert page.paper == light
    assert page.find("#theme").get_attribute("aria-pressed") == "false"
    page.open(path)
    assert page.paper == light
    page.find("#theme").click()
    assert page.paper == dark
    assert page.find("#theme").get_attribute("aria-pressed") == "true"


def test_a_mark_of_a_figure_tells_its_values_to_mouse_and_keyboard(page, table, tmp_path):
    page.open(written(tmp_path, table, drawings=(DRAWING,)))
    assert page.all("[data-mark] title") == []  # or the browser would show its own tip as well
    first = "AT · seed 0\naverage (%): 70\nworst (%): 40 (38 to 42)"
    page.hover(page.find("[data-mark='0-0']"))
    assert page.tip == first
    page.hover(page.find("h1"))
    assert page.tip == ""
    page.driver.execute_script("document.querySelector('.files, footer').scrollIntoView()")
    page.find(".copies button:last-child").send_keys("")
    while page.js("document.activeElement.className") != "plate":
        page.press("Tab")
    assert page.tip == first
    page.press("ArrowRight")
    assert page.tip.startswith("AT · seed 1\n")
    page.press("ArrowDown")
    assert page.tip.startswith("HAM · seed 1\n")
    page.press("Escape")
    assert page.tip == ""


def test_a_legend_switches_its_series_off_and_on(page, table, tmp_path):
    page.open(written(tmp_path, table, drawings=(DRAWING,)))
    switch = page.find(".switch[aria-label=AT]")

    def drawn() -> list[bool]:
        return [page.find(f"[id$='-sr-{series}-0']").is_displayed() for series in (0, 1)]

    assert drawn() == [True, True]
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", switch)
    switch.click()
    assert (drawn(), switch.get_attribute("aria-pressed")) == ([False, True], "false")
    page.find(".plate").send_keys(KEYS["ArrowRight"])
    assert page.tip.startswith("HAM")
    page.driver.execute_script("arguments[0].focus()", switch)
    page.press("Enter")
    assert (drawn(), switch.get_attribute("aria-pressed")) == ([True, True], "true")


@pytest.mark.parametrize(
    ("form", "render"), [("LaTeX", latex.render), ("Markdown", markdown.render), ("CSV", csv.render)]
)
def test_a_table_is_copied_as_the_other_renderers_write_it(page, table, tmp_path, form, render):
    page.open(written(tmp_path, table))
    permission = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", permission)
    page.find(f"[data-copy={form}]").click()
    page.wait(lambda: page.find(f"[data-copy={form}]").text == "Copied")
    read = "navigator.clipboard.readText().then(arguments[0])"
    assert page.driver.execute_async_script(read) == render([table])


def test_nothing_of_a_table_can_end_its_data_or_become_markup(page, table, tmp_path):
    evil = "</script><script>document.title = 'taken'</script><b id=taken>"
    rows = (replace(table.rows[0], title=evil), *table.rows[1:])
    page.open(written(tmp_path, replace(table, rows=rows)))
    page.all("td.open")[0].click()
    assert page.driver.title == "A: report"
    assert page.all("#taken") == []
    assert evil in page.panel


def test_the_page_asks_for_nothing_and_is_not_allowed_to(page, table, tmp_path):
    page.open(written(tmp_path, table))
    page.find(f"#{WORST}").click()
    assert page.js("performance.getEntriesByType('resource').map((one) => one.name)") == []
    tried = page.driver.execute_async_script(
        "const done = arguments[0]; fetch('data:,x').then(() => done('fetched'), () => done('refused'))"
    )
    assert tried == "refused"
    page.driver.execute_script(
        "const one = document.createElement('script'); one.textContent = 'window.ran = 1'; document.head.append(one)"
    )
    assert page.js("window.ran") is None
    complaints = page.driver.get_log("browser")
    assert len(complaints) >= 2 and all("Content Security Policy" in one["message"] for one in complaints)


def test_without_scripts_the_tables_stand_there_and_nothing_useless_does(page, table, tmp_path):
    page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.open(written(tmp_path, table, drawings=(DRAWING,)))
        text = page.find("body").text
        titles = page.all("[data-mark] title")
    finally:
        page.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert table.cells[0][4].text in text
    assert "ham explain TABLE ROW COLUMN" in text
    assert "Copy as" not in text
    assert len(titles) == 4  # the browser's own tips


@pytest.mark.parametrize("width", [380, 1280])
def test_nothing_is_wider_than_the_page(page, digits, tmp_path, width):
    built = write([digits.material()], list(load_specs().values()), tmp_path, formats=("html",))
    resize(page.driver, width, 800)
    page.open(built.html)
    assert page.js(f"{CHECKS}.wider()") == []
    page.driver.execute_script(f"document.getElementById('{WORST}').scrollIntoView()")
    page.driver.execute_script(f"document.getElementById('{WORST}').click()")
    assert page.js(f"{CHECKS}.wider()") == []
    box, panel = page.find(f"#{WORST}").rect, page.find("#panel").rect
    shown = page.js("({top: scrollY, left: 0})")
    covered = (box["x"] + box["width"] > panel["x"]) and (box["y"] + box["height"] > panel["y"])
    assert not covered, "the panel lies over the cell that it is about"
    assert box["y"] > shown["top"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_a_contrast_of_at_least_four_and_a_half(page, store, metrics, table, tmp_path, scheme):
    name = "method.mining.drop_rate"
    store.add("at", 0, metrics((0.9,) * 3, (0.5,) * 3), grids=("drop_rate_at",), values={name: 0.1})
    published = tables_of(load_specs()["ham-table1"], store.material())
    prefer(page.driver, scheme)
    page.open(written(tmp_path, table, *published))
    head(page, "worst", 1).click()
    page.find(f"#{WORST}").click()
    ratios = page.js(f"{CHECKS}.contrast()")
    assert len(ratios) > 25  # of the panel, the tables, the bar
    assert [found for found in ratios if found[1] < 4.5] == []


def test_two_thousand_cells_open_sort_and_filter_within_a_second(page, table, tmp_path):
    rows = tuple(Row(f"m{index}", f"Method {index}", "m") for index in range(230))
    many = replace(table, rows=rows, cells=tuple(table.cells[index % 2] for index in range(230)))
    assert len(rows) * len(many.columns) > 2000
    path = written(tmp_path, many)
    assert path.stat().st_size < 2_200_000
    page.open(path)
    timing = page.js("performance.getEntriesByType('navigation')[0].toJSON()")
    assert timing["domComplete"] < 3000  # all of it, parsing and layout included, on a slow machine

    def seconds(code: str) -> float:
        return page.js(f"(() => {{ const start = performance.now(); {code}; document.body.offsetHeight; "
                       "return (performance.now() - start) / 1000; })()")  # fmt: skip

    assert seconds("document.querySelectorAll('.sort')[5].click()") < 1
    assert seconds("document.querySelector('td.open').click()") < 1
    field = "const field = document.querySelector('#search'); field.value = 'method 229'"
    assert seconds(f"{field}; field.dispatchEvent(new Event('input'))") < 1
    assert page.find("#found").text == "1 entry, 1 row"


def test_a_real_report_of_every_spec_opens_without_a_complaint(page, digits, tmp_path):
    built = write([digits.material()], list(load_specs().values()), tmp_path)
    for path in (built.html, tmp_path / "cost.html"):
        page.open(path)
        assert len(page.all("table[role=grid]")) > 0
        page.all("td.open")[0].click()
        assert page.panel
        assert page.js("performance.getEntriesByType('resource').length") == 0
