"""Published values beside ours: the right value, an honest verdict, and every reason why there is none."""

from pathlib import Path

import pytest

from reports.comparison import compared, published_tables
from reports.provenance import explain_cell
from reports.render import csv, latex, markdown
from reports.spec import load_specs
from reports.tables import tables_of

CFA = load_specs()["cfa-1"]
PAPER = {
    "data.label": "cifar10",
    "model.name": "preact_resnet18",
    "model.width": "1.0",
    "epsilon": str(8 / 255),
    "epochs": "200",
    "selection.on": "test",
}


def add(store, label, worst, params=PAPER, average=""):
    """One trial per value: AutoAttack's worst class, with the weights of an average if one is named."""
    for seed, value in enumerate(worst):
        shares = {"00_cat": value, "01_dog": 0.5, "02_ship": 0.6}
        found = {f"test/images/{name}": 1000.0 for name in shares}
        for weights in ("best_sum", *((f"best_sum_{average}",) if average else ())):
            shift = 0.03 if weights != "best_sum" else 0.0
            own = {name: share + shift for name, share in shares.items()}
            found |= {f"{weights}/autoattack/{name}": share for name, share in own.items()}
            found |= {f"{weights}/autoattack/worst": min(own.values())}
        store.add(label, seed, found, grids=("table1",), params=params, title=label)


def of(store, row, column="Best, AutoAttack worst"):
    (table,) = tables_of(CFA, store.material())
    return next(one for one in compared(CFA, table) if (one.row.title, one.column) == (row, column))


def test_means_that_agree_are_inside_and_others_outside_by_welchs_test(store):
    """The paper prints 20.1 ± 1.3 over five runs for AT, and 21.3 ± 0.8 for EMA."""
    add(store, "cfa-at-none", (0.19, 0.20, 0.21, 0.20, 0.215), average="epochema")
    same, other = of(store, "AT"), of(store, "AT + EMA")
    assert (same.value.text, same.verdict, same.reasons) == ("20.1 ± 1.3", "inside", ())
    assert same.difference == pytest.approx(20.3 - 20.1)
    assert (other.value.text, other.verdict) == ("21.3 ± 0.8", "outside")
    assert other.difference == pytest.approx(23.3 - 21.3)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("epsilon", "0.031", "ε = 0.031 instead of ε = 8/255"),
        ("epochs", "120", "120 epochs instead of 200 epochs"),
        (
            "selection.on",
            "validation",
            "selected on the validation split instead of selected on the test split",
        ),
        ("data.label", "cifar10-jpeg", "cifar10-jpeg instead of cifar10"),
        ("model.width", "0.5", "width 0.5 instead of width 1.0"),
    ],
)
def test_a_condition_that_differs_is_no_verdict_and_is_named(store, key, value, reason):
    add(store, "cfa-at-none", (0.2, 0.21), params=PAPER | {key: value})
    found = of(store, "AT")
    assert (found.verdict, found.reasons) == ("not comparable", (reason,))


def test_what_the_paper_does_not_state_is_no_verdict(store):
    add(store, "cfa-frl", (0.25, 0.26), params=PAPER | {"epochs": "40"})
    assert of(store, "FRL").reasons == ("the paper does not state its epochs",)


def test_one_seed_is_compared_by_its_interval_over_the_images(store):
    add(store, "cfa-at-none", (0.201,))
    assert of(store, "AT").verdict == "inside"
    add(store, "cfa-fat-none", (0.40,))
    assert of(store, "FAT").verdict == "outside"


def test_an_empty_cell_keeps_its_published_value_and_says_what_it_waits_for(store):
    add(store, "cfa-at-none", (0.2, 0.21))
    found = of(store, "TRADES + CFA")
    assert (found.value.text, found.verdict, found.difference) == ("26.5 ± 0.4", "", None)
    assert found.ours is not None and "TRADES + CFA" in found.ours.waits


def test_every_value_of_the_papers_table_stands_beside_ours(store):
    add(store, "cfa-at-none", (0.2, 0.21))
    (table,) = tables_of(CFA, store.material())
    assert len(compared(CFA, table)) == 11 * 8
    parts = published_tables(CFA, [table])
    assert sum(len(part.rows) for part in parts) == 88 and all(len(part.rows) <= 42 for part in parts)
    for text in (markdown.render(parts), latex.render(parts), csv.render(parts)):
        assert (
            ("24.4" in text and "openaccess.thecvf.com" in text)
            or "not comparable" in text
            or "inside" in text
        )


def test_a_row_of_an_average_shows_the_average_and_shares_the_trials_of_its_base(store):
    add(store, "cfa-at-none", (0.2, 0.21), average="epochema")
    (table,) = tables_of(CFA, store.material())
    keys = {row.key: index for index, row in enumerate(table.rows)}
    column = next(c for c, head in enumerate(table.columns) if head.full == "Best, AutoAttack worst")
    base, ema = table.cells[keys["cfa-at-none"]][column], table.cells[keys["cfa-at-none+epochema"]][column]
    assert [v.fingerprint for v in base.values] == [v.fingerprint for v in ema.values]
    assert ema.mean == pytest.approx(base.mean + 3)


def test_an_explanation_of_an_averages_row_names_its_own_weights_and_verdict(store):
    add(store, "cfa-at-none", (0.2, 0.21), average="epochema")
    found = explain_cell(store.material(), CFA, "AT + EMA", "Best, AutoAttack worst", Path("o"))
    assert found["metric"] == "best_sum_epochema/autoattack/worst"
    assert found["metric"] in found["formula"] and "'best_sum_epochema' weights" in found["formula"]
    assert Path(found["runs"][0]["checkpoint"]).name == "best_sum_epochema.pt"
    (theirs,) = found["published"]
    assert (theirs["value"], theirs["verdict"]) == ("21.3 ± 0.8", "inside")
    assert theirs["difference"] == pytest.approx(23.5 - 21.3)


def test_a_recipe_that_is_a_rows_own_shares_the_table_and_is_marked(store):
    add(store, "cfa-at-none", (0.2, 0.21))
    add(store, "cfa-frl", (0.25, 0.26), params=PAPER | {"epochs": "40"})
    (table,) = tables_of(CFA, store.material())
    marks = {row.key: row.marks for row in table.rows}
    notes = dict(table.footnotes)
    assert notes[marks["cfa-frl"][0]] == "Its own recipe: 40 epochs."
    assert notes[marks["cfa-at-none"][0]] == "Its own recipe: 200 epochs."


def test_a_share_of_a_baseline_is_that_of_the_same_seed(store):
    spec = load_specs()["efficiency-cost"]
    for seed, (at, ham) in enumerate(((10.0, 5.0), (20.0, 12.0))):
        for label, seconds in (("at", at), ("ham-official", ham)):
            store.add(label, seed, {}, series={"time/train_s": [seconds / 2, seconds / 2]})
    (table,) = tables_of(spec, store.material())
    cells = {row.key: table.cells[r][1] for r, row in enumerate(table.rows)}
    assert [value.value for value in cells["ham-official"].values] == pytest.approx([50.0, 60.0])
    assert cells["at"].text == "100.0 ± 0.0"


def test_what_a_method_does_not_have_is_not_waited_for(store):
    """AT mines nothing, so it has no hard share; HAM that has not run lacks its own."""
    spec = load_specs()["efficiency-cost"]
    store.add("at", 0, {}, series={"time/train_s": [1.0]})
    store.add("ham-official", 0, None)
    (table,) = tables_of(spec, store.material())
    at, ham = (line[-1] for line in table.cells)
    assert (at.text, at.waits) == ("", "")
    assert "waits for seed 0" in ham.waits
