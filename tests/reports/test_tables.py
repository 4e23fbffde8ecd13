"""Cells: the mean over seeds and nothing else, marked when short, empty when not run, never across protocols."""

import math
from dataclasses import replace

import pytest
from pydantic import ValidationError
from scipy import stats

from ham_core.errors import RequestError
from ham_core.protocol import PROTOCOLS
from reports.collect import protocol_of, tidy
from reports.comparison import compared
from reports.spec import Column, load_specs
from reports.statistics import wilson
from reports.tables import Table, over_images, tables_of, value_of

T2 = 4.302652729911275  # t(2, 0.975)


def main(store) -> Table:
    (table,) = tables_of(load_specs()["ham-main"], store.material())
    return table


def cell(table: Table, row: str, column: str):
    r = [line.key for line in table.rows].index(row)
    c = [head.full for head in table.columns].index(column)
    return table.cells[r][c]


def test_a_cell_is_the_mean_over_seeds_with_its_t_interval(digits):
    """0.40, 0.46, 0.43: mean 0.43, s = 0.03, half = t s / √3."""
    found = cell(main(digits), "at", "PGD-20 worst")
    half = 100 * T2 * 0.03 / math.sqrt(3)
    assert found.mean == pytest.approx(43.0, abs=1e-9)
    assert (found.high - found.low) / 2 == pytest.approx(half, abs=1e-9)
    assert found.text == f"43.0 ± {half:.1f}" == "43.0 ± 7.5"
    assert (found.n, found.expected, found.marks) == (3, 3, ())
    assert [(value.seed, value.value) for value in found.values] == [(0, 40.0), (1, 46.0), (2, 43.0)]


def test_fewer_seeds_than_planned_are_marked_with_their_n(digits):
    table = main(digits)
    found = cell(table, "ham-official", "PGD-20 worst")
    assert (found.n, found.expected, found.marks) == (2, 3, ("†",))
    assert ("†", "2 of 3 seeds.") in table.footnotes
    assert found.waits == "HAM (official): waits for seed 0 (not run)"


def test_a_cell_that_has_not_run_is_empty_and_says_what_it_waits_for(digits):
    table = main(digits)
    found = cell(table, "ham-paper", "Clean average")
    assert (found.text, found.mean, found.n) == ("", None, 0)
    assert dict(table.footnotes)[found.marks[0]] == "HAM (paper): waits for seeds 0, 1, 2 (not run)."
    assert "ham-paper seed 1" in table.missing


def test_a_run_that_has_not_finished_gives_no_number(store, metrics):
    store.add("at", 0, metrics((0.9,) * 3, (0.5,) * 3), status="RUNNING")
    found = cell(main(store), "at", "Clean average")
    assert (found.text, found.waits) == ("", "at: waits for seed 0 (running)")


def test_a_missing_evaluation_is_named(store, metrics):
    kept = {name: value for name, value in metrics((0.9,) * 3, (0.5,) * 3).items() if "/cw20/" not in name}
    store.add("at", 0, kept)
    assert cell(main(store), "at", "CW-20 worst").waits == "at: waits for the evaluation cw20 of seed 0"
    assert cell(main(store), "at", "PGD-20 worst").text


def test_one_seed_gets_an_interval_over_its_images_and_is_marked_as_such(store, metrics):
    """Three classes of 100 images each; under attack 60, 26 and 50 are right."""
    from statsmodels.stats.proportion import proportion_confint

    store.add("at", 0, metrics((0.9, 0.8, 0.7), (0.6, 0.26, 0.5)))
    table = main(store)
    average = cell(table, "at", "PGD-20 average")
    low, high = proportion_confint(136, 300, alpha=0.05, method="wilson")
    assert (average.low, average.high) == (pytest.approx(100 * low), pytest.approx(100 * high))
    assert average.kind == "wilson" and "Wilson" in dict(table.footnotes)[average.marks[0]]
    worst = cell(table, "at", "PGD-20 worst")
    low = proportion_confint(26, 100, alpha=0.05, method="beta")[0]
    high = proportion_confint(26, 100, alpha=2 * (1 - 0.975 ** (1 / 3)), method="beta")[1]
    assert (worst.low, worst.high) == (pytest.approx(100 * low), pytest.approx(100 * high))
    assert (worst.kind, worst.text) == ("worst", f"26.0 [{100 * low:.1f}, {100 * high:.1f}]")
    assert "simultaneous" in dict(table.footnotes)[worst.marks[0]]
    assert cell(table, "at", "PGD-20 std").kind == "none"


def test_the_images_behind_an_accuracy_are_all_or_those_of_its_class():
    """Wilson's interval depends on how many images there are, so it tells which were counted."""
    metrics = {"test/images/00_a": 10, "test/images/01_b": 20, "best/clean/00_a": 0.9, "best/clean/01_b": 0.5}
    for name, value, images in (("avg", 19 / 30, 30), ("00_a", 0.9, 10), ("01_b", 0.5, 20)):
        found = over_images(Column(title="t", metric=f"best/clean/{name}"), value, metrics)
        assert found == wilson(value, images)


def test_best_is_highest_for_accuracy_and_lowest_for_spread(store, metrics):
    for seed in (0, 1):
        store.add("at", seed, metrics((0.9, 0.9, 0.6), (0.5, 0.5, 0.2)))
        store.add("trades", seed, metrics((0.8, 0.8, 0.8), (0.4, 0.4, 0.4)))
    table = main(store)
    assert [cell(table, row, "PGD-20 worst").rank for row in ("at", "trades")] == [2, 1]
    assert [cell(table, row, "PGD-20 std").rank for row in ("at", "trades")] == [2, 1]


def test_numbers_that_print_alike_rank_alike(store, metrics):
    store.add("at", 0, metrics((0.9, 0.9, 0.6001), (0.5,) * 3))
    store.add("trades", 0, metrics((0.9, 0.9, 0.6002), (0.5,) * 3))
    assert [cell(main(store), row, "Clean worst").rank for row in ("at", "trades")] == [0, 0]


def test_protocols_never_share_a_column(store, metrics):
    """Two radii of the same method: two tables, each with its own number."""
    for seed in (0, 1):
        store.add("at", seed, metrics((0.9,) * 3, (0.5,) * 3))
        store.add("trades", seed, metrics((0.9,) * 3, (0.3,) * 3), params={"epsilon": "0.1"})
    first, second = tables_of(load_specs()["ham-main"], store.material())
    assert {first.protocol, second.protocol} == {
        f"digits, small_cnn, ε = {epsilon}, 12 epochs, selected on the validation split, by PGD-10"
        for epsilon in ("0.1", "0.2")
    }
    assert [[row.key for row in table.rows] for table in (first, second)] == [["trades"], ["at"]]
    assert (first.part, second.part) == (1, 2)


@pytest.mark.parametrize(
    "key", ["epsilon", "epochs", "selection.on", "data.label", "model.name", "precision"]
)
def test_every_condition_of_comparison_is_part_of_the_protocol(key):
    base = {"epsilon": "0.2", "epochs": "12", "selection.on": "validation", "data.label": "digits"}
    assert protocol_of(base | {key: "1"}) != protocol_of(base)


def test_the_swept_setting_is_no_difference_of_protocol(store, metrics):
    from reports.tables import by_protocol

    for epochs in (10, 20):
        store.add(
            "at",
            0,
            metrics((0.9,) * 3, (0.5,) * 3),
            values={"epochs": epochs},
            params={"epochs": str(epochs)},
        )
    trials = store.material().trials
    assert len(by_protocol(trials, "epochs")) == 1
    assert len(by_protocol(trials)) == 2


def test_selection_on_the_test_set_is_noted(store, metrics):
    store.add("at", 0, metrics((0.9,) * 3, (0.5,) * 3), params={"selection.on": "test"})
    table = main(store)
    assert "selected on the test split" in table.protocol
    assert any("selected on the test set" in note for note in table.notes)


def test_rows_by_a_swept_setting_rise_and_find_their_published_values(store, metrics):
    for rate in (0.3, 0.0, 0.1):
        store.add(
            "at",
            0,
            metrics((0.9,) * 3, (0.5,) * 3),
            grids=("drop_rate_at",),
            values={"method.mining.drop_rate": rate},
        )
    (table,) = tables_of(load_specs()["ham-table1"], store.material())
    assert [row.key for row in table.rows] == ["0", "0.1", "0.3"]
    found = compared(load_specs()["ham-table1"], table)
    assert [one.value.text for one in found] == ["33.0", "31.6", "30.4", "85.8", "82.8", "85.2"]
    assert {one.verdict for one in found} == {"not comparable"}
    assert all("unresolved what they measure" in one.reasons[0] for one in found)


def test_two_methods_at_one_value_are_two_rows(store, metrics):
    for label in ("ham-paper", "ham-official"):
        store.add(
            label,
            0,
            metrics((0.9,) * 3, (0.5,) * 3),
            grids=("drop_rate",),
            values={"method.mining.drop_rate": 0.1},
        )
    (table,) = tables_of(load_specs()["sensitivity-drop-rate"], store.material())
    assert [row.title for row in table.rows] == ["ham-paper, 0.1", "ham-official, 0.1"]


def test_published_values_stand_only_beside_their_own_data(digits):
    assert not compared(load_specs()["ham-main"], main(digits))


def test_a_series_is_reduced_over_epochs_and_divided(digits):
    """3 epochs of 100 images: 1100 + 1000 + 100 passes each -> 22 per image and epoch."""
    (table,) = tables_of(load_specs()["passes"], digits.material())
    assert table.cells[0][-1].text == "22.00 ± 0.00"
    column = Column(title="s", metric="time/train_s", reduce="sum")
    assert value_of(column, digits.material().trials[0], digits.material()) == 6.5


def test_a_paired_difference_is_taken_seed_by_seed_and_has_the_interval_of_a_paired_test(store, metrics):
    """Worst class of AT 0.30, 0.40, 0.50, of HAM 0.36, 0.44, 0.58: differences 6, 4 and 8 points."""
    ours, theirs = (0.36, 0.44, 0.58), (0.3, 0.4, 0.5)
    for seed in (0, 1, 2):
        store.add("at", seed, metrics((0.9,) * 3, (0.7, 0.7, theirs[seed])))
        store.add("ham-official", seed, metrics((0.9,) * 3, (0.7, 0.7, ours[seed])))
    (table,) = tables_of(load_specs()["ham-differences"], store.material())
    found = cell(table, "ham-official", "PGD-20 worst")
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((100 * low, 100 * high))
    assert found.text == f"+6.0 ± {50 * (high - low):.1f}"
    assert [value.value for value in found.values] == pytest.approx([6, 4, 8])
    assert all(one.text == "" and not one.waits for one in table.cells[0]), "AT itself"

    store = store.without(store.runs[0].fingerprint)  # AT of seed 0
    (table,) = tables_of(load_specs()["ham-differences"], store.material())
    found = cell(table, "ham-official", "PGD-20 worst")
    assert [value.seed for value in found.values] == [1, 2], "a pair that lacks one side is none"


def test_a_paired_difference_is_of_numbers_under_the_same_protocol(store, metrics):
    """Under the sweep's own radius 0.3 - 0.2, under ham-paper's 0.40 - 0.25: never one of each."""
    own = {"epsilon": str(8 / 255), "model.normalize": "true"}
    for label, worst, judged in (("at", 0.2, 0.25), ("trades", 0.3, 0.4)):
        found = metrics((0.9,) * 3, (0.5, 0.5, worst)) | {"best/pgd20_eps0_031/worst": judged}
        store.add(label, 0, found, params=own)
    source = replace(store.material(), judged=(PROTOCOLS["standard"], PROTOCOLS["ham-paper"]))
    tables = tables_of(load_specs()["ham-differences"], source)
    assert [cell(table, "trades", "PGD-20 worst").mean for table in tables] == pytest.approx([10, 15])


def test_a_column_divides_or_subtracts():
    with pytest.raises(ValidationError, match="'relative_to' divides and 'minus' subtracts"):
        Column(title="s", metric="best/clean/avg", relative_to="at", minus="at")


def test_deleting_a_run_empties_exactly_its_cells(store, metrics):
    store.add("at", 0, metrics((0.9, 0.8, 0.7), (0.6, 0.5, 0.4)))
    gone = store.add("trades", 0, metrics((0.9, 0.8, 0.7), (0.6, 0.5, 0.4)))
    before, after = main(store), main(store.without(gone))
    assert [c.text for c in before.cells[0]] == [c.text for c in after.cells[0]]
    assert all(c.text for c in before.cells[1])
    assert not any(c.text for c in after.cells[1])


def test_a_sweep_without_the_grid_is_refused_with_the_grids_it_plans(digits):
    with pytest.raises(
        RequestError, match="needs grid 'drop_rate', which sweep 'digits' does not plan; known: methods"
    ):
        tables_of(load_specs()["sensitivity-drop-rate"], digits.material())


def test_the_tidy_frame_has_one_line_per_trial_and_metric_and_no_seconds(digits):
    frame = tidy(digits.material().trials)
    assert list(frame.columns) == ["label", "title", "seed", "setting", "protocol", "metric", "value"]
    assert not frame.metric.str.startswith("time/").any()
    line = frame[(frame.label == "at") & (frame.seed == 1) & (frame.metric == "best/pgd20/worst")]
    assert line.value.tolist() == [0.46]


def test_what_a_grid_varies_besides_the_method_is_never_averaged_away(store, metrics):
    """Two learning rates of one method are two rows, in tables and in figures; a setting only named is none."""
    from reports.figures.drawing import by_title

    for seed in (0, 1):
        for rate, right in ((0.1, 0.9), (0.01, 0.5)):
            store.add("at", seed, metrics((right,) * 3, (right,) * 3), values={"optimizer.lr": rate})
        store.add("ham", seed, metrics((0.7,) * 3, (0.7,) * 3), values={"method.mining.early_drop_step": 3})
    table = main(store)
    assert [row.title for row in table.rows] == ["at, lr=0.1", "at, lr=0.01", "ham"]
    assert [line[0].mean for line in table.cells] == pytest.approx([90, 50, 70])
    assert [line[0].n for line in table.cells] == [2, 2, 2]
    groups = by_title(store.material().of_grid("methods"))
    assert {title: len(trials) for title, trials in groups.items()} == {
        "at, lr=0.1": 2,
        "at, lr=0.01": 2,
        "ham": 2,
    }


def test_the_same_trials_have_a_table_per_protocol_and_what_some_rows_deviate_in_is_marked_there(
    store, metrics
):
    """`best` is the rule's, pgd20 is at the protocol's radius; the spread of 8/255 trials has no share in it."""
    own = {"epsilon": str(8 / 255), "model.normalize": "true"}
    for label, worst, normalize in (("at", 0.2, "true"), ("trades", 0.3, "false")):
        found = metrics((0.9,) * 3, (0.5, 0.5, worst))
        found |= {
            f"best_sum/{name.partition('/')[2]}": value - 0.1
            for name, value in found.items()
            if name[:4] == "best"
        }
        found |= {"best/pgd20_eps0_031/worst": worst + 0.05}
        store.add(label, 0, found, params=own | {"model.normalize": normalize})
    judged = tuple(PROTOCOLS[name] for name in ("standard", "ham-paper", "cfa-paper"))
    source = replace(store.material(), judged=judged)
    tables = tables_of(load_specs()["ham-main"], source)
    assert [table.judge.name for table in tables] == ["standard", "ham-paper", "cfa-paper"]
    assert [cell(table, "at", "PGD-20 worst").mean for table in tables] == pytest.approx([20, 25, 10])
    assert [table.columns[4].metric for table in tables] == [
        "best/pgd20/worst",
        "best/pgd20_eps0_031/worst",
        "best_sum/pgd20/worst",
    ]
    assert (
        cell(tables[1], "at", "CW-20 worst").waits == "at: waits for the evaluation cw20_eps0_031 of seed 0"
    )
    cfa = tables[2]
    network = next(mark for mark, text in cfa.footnotes if text.startswith("The network takes pixels"))
    assert network in cell(cfa, "trades", "PGD-20 worst").marks
    assert network not in cell(cfa, "at", "PGD-20 worst").marks
    shared = next(mark for mark, text in cfa.footnotes if text.startswith("Selected on held-out images"))
    assert cfa.protocol.endswith(shared)
    assert tables[0].protocol.startswith(
        "digits, small_cnn, trained at ε = 8/255, 12 epochs, selected on the validation"
    )


def test_a_series_is_judged_under_no_protocol(digits):
    source = replace(digits.material(), judged=tuple(PROTOCOLS.values()))
    (table,) = tables_of(load_specs()["passes"], source)
    assert table.judge is None


def test_best_avg_in_a_spec_is_best():
    column = Column(title="t", metric=["best_avg/pgd20/worst", "best_avg_ema/clean/avg"])
    assert column.metric == ("best/pgd20/worst", "best_ema/clean/avg")


def test_a_trial_of_several_sweeps_has_the_protocol_of_the_one_that_is_reported(store, metrics):
    from dataclasses import replace

    from orchestration.tracking import Sweep
    from reports.collect import trials_of

    store.add("at", 0, metrics((0.9,) * 3, (0.5,) * 3))
    runs = [replace(run, tags={"protocol": "of another"}) for run in store.runs]
    (one,) = trials_of(Sweep("digits", "0", ("1",), tuple(store.planned), "mine"), runs)
    assert one.protocol.get("protocol") == "mine"
    (old,) = trials_of(Sweep("digits", "0", ("1",), tuple(store.planned)), runs)
    assert old.protocol.get("protocol") == "of another"
