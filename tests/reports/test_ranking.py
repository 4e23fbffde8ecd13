"""Ranks against hand computation and scipy; a ranking's table holds one data set per column."""

import math
from pathlib import Path

import pytest
from scipy.stats import friedmanchisquare

from reports.figures import Lacking, drawn
from reports.provenance import explain_cell
from reports.ranking import ranks_of
from reports.render import csv, latex, markdown
from reports.spec import load_specs
from reports.tables import tables_of
from tests.reports.conftest import results

SPEC = load_specs()["ranking"]


def test_average_ranks_by_hand_with_ties():
    """Data set 1: b, a, c. Data set 2: a and b tie for the first two places."""
    found = ranks_of([[0.5, 0.6, 0.1], [0.4, 0.4, 0.2]])
    assert found.average == (1.75, 1.25, 3.0)


def test_the_critical_difference_is_demsars():
    """Demšar 2006, Table 5(a): q at 5 % is 2.343 for three methods and 2.569 for four; CD = q sqrt(k(k+1)/(6N))."""
    three = ranks_of([[3.0, 2.0, 1.0]] * 10)
    assert three.difference == pytest.approx(2.343 * math.sqrt(12 / 60), abs=1e-3)
    four = ranks_of([[4.0, 3.0, 2.0, 1.0]] * 14)
    assert four.difference == pytest.approx(2.569 * math.sqrt(20 / 84), abs=1e-3)


def test_friedmans_test_is_scipys():
    values = [[0.5, 0.6, 0.1], [0.4, 0.45, 0.2], [0.3, 0.5, 0.4], [0.2, 0.3, 0.1]]
    assert ranks_of(values).p == pytest.approx(friedmanchisquare(*zip(*values, strict=True)).pvalue)


def test_methods_that_are_not_told_apart_form_the_largest_groups():
    found = ranks_of([[4.0, 3.0, 2.0, 1.0]] * 14)  # ranks 1 to 4, 1.25 apart needed
    assert [tuple(group) for group in found.groups] == [(0, 1), (1, 2), (2, 3)]
    assert ranks_of([[2.0, 1.0]]).difference is None and ranks_of([[2.0, 1.0]]).groups == []
    assert ranks_of([]).average == ()


def add(store, label, data, worst, seeds=3):
    found = results({"clean": (0.9, 0.8, 0.7), "pgd20": (0.6, 0.5, worst)})
    for seed in range(seeds):
        params = {"data.label": data, "epochs": "120" if label != "frl" else "40"}
        values = {"data": data}
        store.add(label, seed, found, grids=("all_methods",), params=params, values=values, title=label)


def test_each_data_set_is_a_column_and_only_complete_methods_are_ranked(store):
    for data, numbers in (("cifar10", (0.1, 0.2, 0.3)), ("svhn", (0.3, 0.2, 0.4))):
        for label, worst in zip(("at", "trades", "frl"), numbers, strict=True):
            add(store, label, data, worst)
    add(store, "mart", "cifar10", 0.5)
    (table,) = tables_of(SPEC, store.material())
    assert [head.full for head in table.columns] == [
        "PGD-20 worst cifar10",
        "PGD-20 worst svhn",
        "average rank",
    ]
    cells = {row.key: [cell.text for cell in line] for row, line in zip(table.rows, table.cells, strict=True)}
    assert cells["at"] == ["10.0 ± 0.0", "30.0 ± 0.0", "2.50"]
    assert cells["frl"] == ["30.0 ± 0.0", "40.0 ± 0.0", "1.00"]
    assert cells["mart"] == ["50.0 ± 0.0", "", ""]
    assert table.notes[0].startswith("3 methods ranked on 2 data sets.")
    assert {row.group for row in table.rows} == {"plain", "by example", "by class", "HAM"}
    for render in (markdown.render, latex.render, csv.render):
        assert "2.50" in render([table])
    answer = explain_cell(store.material(), SPEC, "at", "average rank", Path("outputs"))
    assert answer["n"] == 6 and "rank by best/pgd20/worst" in answer["formula"]


def test_the_axis_of_ranks_shows_every_method_that_is_ranked(store):
    labels = [entry.of for entry in SPEC.rows.entries or () if not entry.average]
    for data in ("cifar10", "svhn", "cifar100", "imagenette32"):
        for place, label in enumerate(labels):
            add(store, label, data, 0.1 + ((place * 7 + len(data)) % len(labels)) / 100)
    figure = drawn(SPEC, store.material(), ("svg", "png"))
    assert figure.alt.startswith(f"{len(labels)} methods on 4 data sets")
    (table,) = tables_of(SPEC, store.material())
    ranks = sorted(line[-1].mean for line in table.cells if line[-1].mean is not None)
    assert sorted(figure.data["series"][0]["x"]) == pytest.approx(ranks, abs=1e-3)


def test_one_method_makes_no_axis(store):
    add(store, "at", "cifar10", 0.2)
    with pytest.raises(Lacking, match="two methods"):
        drawn(SPEC, store.material())
