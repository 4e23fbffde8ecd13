"""Published values: all there, none invented."""

import re

import pytest

from ham_core.errors import RequestError
from reports.published import FOLDER, load_papers, paper

TOTALS = {
    "cfa": 188,
    "cfol": 3,
    "dafa": 72,
    "faal": 110,
    "frl": 8,
    "ham_arxiv": 8,
    "ham_tifs": 0,
    "reference": 82,
    "robustbench": 46,
}


def test_every_paper_holds_as_many_values_as_were_read():
    assert {key: sum(1 for _ in p.values()) for key, p in load_papers().items()} == TOTALS


def test_cfa_tables_hold_88_16_12_and_72_values():
    counts = {t.id: sum(v is not None for row in t.rows for v in row.values) for t in paper("cfa").tables}
    assert counts == {"1": 88, "2": 16, "3": 12, "4": 72}


@pytest.mark.parametrize(
    ("key", "table", "method", "checkpoint", "attack", "stat", "text"),
    [
        ("cfa", "1", "AT", "best", "autoattack", "worst", "20.1 ± 1.3"),
        ("cfa", "1", "TRADES + CFA", "best", "autoattack", "worst", "26.5 ± 0.4"),
        ("cfa", "1", "AT + EMA", "last", "clean", "avg", "84.8 ± 0.1"),
        ("dafa", "main-cifar-10", "TRADES", "not stated in the image", "unstated", "worst", "21.31 ± 1.19"),
        ("frl", "text-blog", "PGD adversarial training", "not stated", "pgd 8/255", "class cat", "82"),
    ],
)
def test_values_are_as_printed(key, table, method, checkpoint, attack, stat, text):
    found = [
        value.text
        for value in paper(key).values()
        if (value.table.id, value.row.method, value.checkpoint) == (table, method, checkpoint)
        and (value.column.attack, value.column.stat) == (attack, stat)
    ]
    assert found == [text]


def test_ham_table_1_is_unresolved_in_quantity_and_attack():
    values = list(paper("ham_arxiv").values())
    assert [value.text for value in values] == [
        "33.0",
        "85.8",
        "31.6",
        "82.8",
        "33.0",
        "85.0",
        "30.4",
        "85.2",
    ]
    assert {value.table.quantity for value in values} == {"unresolved"}
    assert {value.column.attack for value in values} == {"unresolved"}


def test_every_value_has_a_source_others_can_find():
    for p in load_papers().values():
        for value in p.values():
            assert re.search(r"https?://|GitHub |arXiv text ", value.source), value.source


def test_no_file_names_a_private_copy():
    for path in FOLDER.glob("*.yaml"):
        assert not re.search(r"\b\d{3}_[0-9a-f]{12,}", path.read_text(encoding="utf-8")), path.name


def test_class_values_of_a_log_average_to_its_printed_average():
    for value in paper("faal").values():
        classes = value.row.classes.get(value.column.attack)
        if classes and value.column.stat == "avg":
            assert sum(classes) / 10 == pytest.approx(value.number.value, abs=0.011)
        if classes and value.column.stat == "worst":
            assert min(classes) == value.number.value


def test_an_unknown_paper_is_answered_with_the_known_ones():
    with pytest.raises(RequestError, match=r"unknown published source 'cfaa'.*did you mean cfa\?"):
        paper("cfaa")


def test_a_total_that_does_not_fit_is_refused(tmp_path):
    text = (FOLDER / "ham_arxiv.yaml").read_text(encoding="utf-8").replace("total: 8", "total: 9")
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match="holds 8 values where its total says 9"):
        load_papers(tmp_path)
