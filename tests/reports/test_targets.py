"""`table:NAME`: the trials and evaluations of a table, no more and no fewer, as one would list them by hand."""

from itertools import product

import pytest

from ham_core.errors import RequestError
from orchestration.sweep import parse_sweep
from reports.spec import chosen, load_specs
from reports.targets import document, is_target

CIFAR = ("cfa-1", "cfa-2", "cfa-3")
DRAWN = [name for name, spec in load_specs().items() if spec.trials.sweep is not None and spec.figure]
TRAINED = [name for name, spec in load_specs().items() if spec.trials.sweep is not None and spec.is_table]


def sweep(target: str, profile: str | None = None, sets: tuple[str, ...] = ()):
    return parse_sweep(document(target, profile), target, profile=profile, sets=sets)


def test_cfas_table_1_is_its_eleven_rows_by_five_seeds_with_the_averages_on_shared_trainings():
    found = sweep("table:cfa-1")
    planned = [one for one in found.trials if one.grids]
    bases = ("cfa-at-none", "cfa-at", "cfa-trades-none", "cfa-trades", "cfa-fat-none", "cfa-fat", "cfa-frl")
    assert {(one.label, one.seed) for one in planned} == set(product(bases, range(5)))
    assert len(planned) == 35
    spec = load_specs()["cfa-1"]
    rows = [(entry.of, entry.average or "") for entry in spec.rows.entries or ()]
    assert len(rows) == 11 and {label for label, _ in rows} == set(bases)
    for one in planned:
        kept = {""} | {average.key for average in one.trial.method.averaging}
        assert {average for label, average in rows if label == one.label} <= kept
        asked = {evaluation.name for evaluation in one.evaluations}
        assert {
            f"best_sum{'_' + a if a else ''}/autoattack" for label, a in rows if label == one.label
        } <= asked
    # FRL is a fine-tuning: the TRADES models it starts from are trained before it and are no rows.
    assert {one.label for one in found.trials if not one.grids} == {"cfa-trades-none"}


@pytest.mark.parametrize("name", CIFAR)
def test_the_setting_is_the_papers(name: str):
    for one in sweep(f"table:{name}").trials:
        trial = one.trial
        assert (trial.model.name, trial.data.label, trial.epsilon) == ("preact_resnet18", "cifar10", 8 / 255)
        assert trial.epochs == (40 if one.label == "cfa-frl" else 200)


@pytest.mark.parametrize("name", TRAINED)
def test_every_table_can_be_planned_and_filled_from_nothing_on_digits(name: str):
    spec = load_specs()[name]
    for profile in (None, "smoke"):
        found = sweep(f"table:{name}", profile)
        assert found.name == (name if profile is None else f"{name}-smoke")
        planned = [one for one in found.trials if one.grids]
        assert planned and {grid for one in planned for grid in one.grids} == {spec.trials.grid}
        labels = {one.label for one in planned}
        assert {entry.of for entry in spec.rows.entries or ()} <= labels
        asked = {evaluation.name for one in planned for evaluation in one.evaluations}
        averages = [entry.average for entry in spec.rows.entries or ()] or [None]
        shown = [column.of_average(average) for column in spec.columns for average in averages]
        wanted = {metric.rsplit("/", 1)[0] for column in shown if column.accuracy for metric in column.metric}
        assert wanted <= asked and (asked == wanted or not wanted)
    assert {one.trial.data.name for one in planned} == {"digits"}


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_can_be_planned_and_filled_from_nothing_on_digits(name: str):
    spec = load_specs()[name]
    for profile in (None, "smoke"):
        found = sweep(f"figure:{name}", profile)
        assert found.name == (name if profile is None else f"{name}-smoke")
        assert spec.trials.grid in {grid for one in found.trials for grid in one.grids}
    assert {one.trial.data.name for one in found.trials} == {"digits"}


def test_a_figure_of_several_grids_brings_them_all():
    grids = {grid for one in sweep("figure:ham-surfaces").trials for grid in one.grids}
    assert grids == {"ham_surface_step_weight", "ham_surface_step_drop", "ham_surface_weight_drop"}


def test_other_images_and_settings_can_be_set_over_the_smoke_profile():
    found = sweep("table:cfa-2", "smoke", ("seeds=[1,2]", "data=cifar10", "epochs=2"))
    assert found.seeds == (1, 2)
    assert {one.trial.data.label for one in found.trials} == {"cifar10"}
    assert {one.trial.epochs for one in found.trials} == {2}


def test_what_is_no_table_is_refused_with_what_is():
    with pytest.raises(RequestError, match=r"table:cfa-11: unknown table 'cfa-11'.*did you mean cfa-1"):
        document("table:cfa-11")
    with pytest.raises(RequestError, match="unknown figure 'cfa-1'"):
        document("figure:cfa-1")
    assert is_target("table:x") and is_target("figure:x") and not is_target("sweeps/table.yaml")


def test_a_report_takes_the_name_of_a_target():
    assert [spec.name for spec in chosen(("table:cfa-1", "figure:pareto"), load_specs())] == [
        "cfa-1",
        "pareto",
    ]
