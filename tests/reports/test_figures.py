"""Every kind of figure: what it draws is what was recorded, and what it lacks it says."""

import hashlib
import re
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from ham_core.errors import RequestError
from ham_core.folder import TrialFolder
from ham_core.metrics import SIZE_BINS, metric_name, size_edges, summarize
from ham_core.protocol import Evaluation, EvaluationAttack
from ham_core.run import run_trial
from reports.builder import write
from reports.figures import Drawing, Lacking, draw, drawn
from reports.figures.base import extremes
from reports.figures.class_curves import window
from reports.figures.kinds import PAINTERS, name_of
from reports.figures.style import SEQUENTIAL, _columns, smaller, spread, turns, without_title
from reports.figures.toy import Toy, accuracy
from reports.predictions import Predictions, stored_predictions
from reports.spec import Spec, load_specs
from tests.builders import trial

CLASSES = ("cat", "dog", "ship")
KEYS = ("00_cat", "01_dog", "02_ship")


def spec(name: str, **figure: object) -> Spec:
    """A shipped spec; with settings of its figure changed."""
    found = load_specs()[name]
    return found.model_copy(update={"figure": found.figure.model_copy(update=figure)}) if figure else found


def numbers(drawing: Drawing, name: str, panel: str | None = None) -> dict[object, float]:
    """{x: y} of one series."""
    (found,) = (
        one for one in drawing.data["series"] if one["name"] == name and panel in (None, one["panel"])
    )
    return dict(zip(found["x"], found["y"], strict=True))


def shapes(drawing: Drawing) -> dict[str, dict[str, str]]:
    """The elements of the SVG that answer to the mouse, by their id."""
    root = ElementTree.fromstring(drawing.files["svg"])
    return {e.attrib["id"]: e.attrib for e in root.iter() if e.attrib.get("id", "").startswith("pt-")}


def images(
    label, clean, prediction, before=None, after=None, *, top_before=None, top_after=None
) -> Predictions:
    n = len(label)
    arrays = [np.array(one) for one in (label, clean, prediction)]
    confidences = [np.full(n, 0.5) if one is None else np.array(one) for one in (before, after)]
    tops = [None if one is None else np.array(one) for one in (top_before, top_after)]
    return Predictions(CLASSES, *arrays, *confidences, *tops)


@pytest.fixture
def judged(store, metrics):
    """AT with two seeds and HAM with one, each with four images per seed."""
    first = images(
        [0, 0, 1, 2],
        [0, 0, 1, 0],  # the last is wrong when clean
        [0, 1, 1, 0],
        [0.9, 0.8, 0.7, 0.2],
        [0.6, 0.3, 0.5, 0.2],
        top_before=[0.9, 0.8, 0.7, 0.6],
        top_after=[0.6, 0.9, 0.5, 0.6],
    )
    second = images(
        [0, 0, 1, 2],
        [0, 0, 1, 2],
        [1, 1, 1, 0],
        [0.9, 0.8, 0.7, 0.6],
        [0.1, 0.2, 0.6, 0.1],
        top_before=[0.9, 0.8, 0.7, 0.6],
        top_after=[0.95, 0.7, 0.6, 0.7],
    )
    for label, seed, one in (("at", 0, first), ("at", 1, second), ("ham-official", 0, first)):
        run = store.add(label, seed, metrics((0.9, 0.8, 0.7), (0.6, 0.5, 0.4)), title=label.upper())
        store.keep(run, one)
    return store


# ------------------------------------------------------------------ all kinds


def test_every_kind_has_a_shipped_spec():
    shipped = {load.figure.kind for load in load_specs().values() if load.figure is not None}
    assert shipped == {name_of(part) for part in PAINTERS}


def test_the_numbers_of_a_drawing_lie_over_what_is_drawn(digits):
    """Bars begin at zero, so that their heights are to each other as their values are; points have one scale per panel."""
    bars = drawn(spec("class-bars"), digits.material(), ("svg",))
    places = shapes(bars)
    values = {f"pt-{s}-{i}": y for s, one in enumerate(bars.data["series"]) for i, y in enumerate(one["y"])}
    assert set(places) == set(values)
    ratios = [float(places[name]["height"]) / y for name, y in values.items()]
    assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=2e-3)

    points = drawn(spec("pareto"), digits.material(), ("svg",))
    places = shapes(points)
    panels = {one["panel"] for one in points.data["series"]}
    assert panels == {"PGD-20", "CW-20"}
    for panel, (axis, centre) in product(panels, (("x", "cx"), ("y", "cy"))):
        pairs = [
            (value, float(places[f"pt-{s}-{i}"][centre]))
            for s, one in enumerate(points.data["series"])
            for i, value in enumerate(one[axis])
            if one["panel"] == panel
        ]
        slope, offset = np.polyfit(*zip(*pairs, strict=True), 1)
        assert max(abs(slope * value + offset - place) for value, place in pairs) < 0.05
        assert (slope > 0) == (axis == "x")
    root = ElementTree.fromstring(points.files["svg"])
    (group,) = (e for e in root.iter() if e.attrib.get("id") == "sr-0-0")  # the small marks of AT
    drawn_at = [(float(e.attrib["x"]), float(e.attrib["y"])) for e in group.iter() if e.tag.endswith("}use")]
    for index, (x, y) in enumerate(drawn_at):
        circle = places[f"pt-0-{index}"]
        assert (float(circle["cx"]), float(circle["cy"])) == pytest.approx((x, y), abs=0.02)
    assert len(drawn_at) == 3


def test_what_is_drawn_of_a_series_carries_its_number(digits):
    drawing = drawn(spec("worst-over-epochs"), digits.material(), ("svg",))
    svg = drawing.files["svg"].decode()
    assert [one["name"] for one in drawing.data["series"]] == ["AT", "HAM (official)"]
    assert set(re.findall(r'id="(sr-\d+)-\d+"', svg)) == {"sr-0", "sr-1"}


def test_equal_numbers_give_equal_bytes_and_one_other_number_other_bytes(judged):
    for name in ("confusion", "ham-fig2", "class-heat", "cfa-fig1"):
        first, again = (drawn(spec(name), judged.material()).files for _ in range(2))
        assert {form: hashlib.sha256(one).hexdigest() for form, one in first.items()} == {
            form: hashlib.sha256(one).hexdigest() for form, one in again.items()
        }
    before = drawn(spec("confusion"), judged.material()).files
    key, one = next(iter(judged.images.items()))
    judged.images[key] = replace(one, prediction=np.array([0, 2, 1, 0]))
    after = drawn(spec("confusion"), judged.material()).files
    assert all(before[form] != after[form] for form in before)


def test_a_pdf_brings_its_fonts(digits):
    content = drawn(spec("class-heat"), digits.material(), ("pdf",)).files["pdf"]
    assert b"/FontFile2" in content
    assert b"/Type3" not in content


def test_what_no_sweep_has_to_offer_is_said(digits, store, metrics):
    waiting = {
        "confusion": "the trial store (--store)",
        "ham-fig2": "the trial store (--store)",
        "ham-fig3": "the trial store (--store)",
    }
    for name, sentence in waiting.items():
        with pytest.raises(Lacking, match=re.escape(sentence)):
            drawn(spec(name), digits.material())
        assert draw(spec(name), digits.material()) is None
    store.images = {}
    with pytest.raises(Lacking, match="predictions of the best weights under pgd20"):
        drawn(spec("confusion"), digits.material())
    for grid, name, sentence in (
        ("weight_parameter", "ham-fig4", "a finished trial that weighs by step sizes"),
        ("cfa_lambda1", "cfa-fig5b", "records train/class_margin, method.calibration.margin = 0.5"),
        ("cfa_fawa", "cfa-fig4", r"val/pgd10, val_fawa/pgd10"),
        ("cfa_plain", "cfa-fig6", "cfa-at-ema or cfa-at-none with best_sum_epochema/pgd20"),
        ("search", "search-surface", "no finished trial with what it draws yet"),
    ):
        store.add("cfa-at-fawa", 7, metrics((0.9,) * 3, (0.5,) * 3), grids=(grid,), values={"made.for": grid})
        with pytest.raises(Lacking, match=sentence):
            drawn(spec(name), store.material())


def test_a_build_lists_what_its_figures_wait_for_and_draws_computed_ones_once(digits, tmp_path):
    other = replace(digits, name="other")
    wanted = [spec("confusion"), spec("cfa-fig1")]
    built = write([digits.material(), other.material()], wanted, tmp_path, formats=("html",))
    assert [s for s in built.waiting if "confusion" in s] == [
        f"{name}/figures/confusion: the trial store (--store), which holds the predictions of single images"
        for name in ("digits", "other")
    ]
    drawings = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.svg"))
    assert drawings == ["digits/figures/cfa-fig1.svg"]


# ------------------------------------------------------------------ predictions of single images


def test_confidence_counts_the_attacked_images_above_the_diagonal(judged):
    """AT: 3 + 4 attacked images; by p_y none rises, by the largest p three do: 0.8 -> 0.9, 0.9 -> 0.95 and 0.6 -> 0.7."""
    drawing = drawn(spec("ham-fig2"), judged.material(), ("svg",))
    assert "AT, true class: 0.0 % of 7 attacked images over-confident." in drawing.alt
    assert "AT, predicted class: 42.9 % of 7 attacked images over-confident." in drawing.alt
    (x,) = numbers(drawing, "AT", "true class")
    assert x == pytest.approx((0.9 + 0.8 + 0.7 + 0.9 + 0.8 + 0.7 + 0.6) / 7, abs=1e-4)


def test_confidence_by_class_has_a_panel_for_each(judged):
    drawing = drawn(spec("ham-fig2-classes"), judged.material(), ("svg",))
    assert [one["name"] for one in drawing.data["series"]] == list(CLASSES)
    assert "cat, predicted class: 50.0 % of 4 attacked images" in drawing.alt


def test_evaluations_of_earlier_versions_have_one_reading_only(judged):
    judged.images = {key: replace(one, top=None, clean_top=None) for key, one in judged.images.items()}
    drawing = drawn(spec("ham-fig2"), judged.material(), ("svg",))
    assert {one["panel"] for one in drawing.data["series"]} == {"true class"}
    with pytest.raises(Lacking, match="store the confidence in the predicted class"):
        drawn(spec("ham-fig3"), judged.material())


def test_over_confident_shares_stand_above_robust_accuracies_the_hardest_class_first(judged):
    """AT, cat: of 2 + 2 attacked images one each is over-confident; robust are 1 of 2 and 0 of 2. Of the ships, which are
    never robust, one is attacked, in one seed, and over-confident."""
    drawing = drawn(spec("ham-fig3"), judged.material(), ("svg",))
    over, robust = (
        numbers(drawing, "AT", panel)
        for panel in ("Over-confident, of the attacked images", "Robust, PGD-20")
    )
    assert list(robust.items()) == [("ship", 0.0), ("cat", 25.0), ("dog", 100.0)]
    assert over == {"ship": 100.0, "cat": 50.0, "dog": 0.0}


def test_confusion_is_the_share_of_the_true_class_over_all_seeds(judged):
    """AT, cats: one right, three taken for dogs; ships: both taken for cats."""
    drawing = drawn(spec("confusion"), judged.material(), ("svg",))
    assert numbers(drawing, "AT, cat") == {"cat": 25.0, "dog": 75.0, "ship": 0.0}
    assert numbers(drawing, "AT, ship") == {"cat": 100.0, "dog": 0.0, "ship": 0.0}
    assert "AT: 100 % of ship is taken for cat." in drawing.alt


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A trial in a store, trained and attacked."""
    store = tmp_path_factory.mktemp("store")
    one = trial("at", epochs=1)
    folder = TrialFolder.of(store, one)
    attack = EvaluationAttack.model_validate("pgd5")
    for _ in run_trial(one, folder, [Evaluation(weights="last", attack=attack)], device="cpu"):
        pass
    return store, folder


def of_store(store, folder, average):
    """The trial as reports know it, with that average."""
    from orchestration.tracking import Run
    from reports.collect import Trial

    run = Run("r", "1", "s", folder.path.name, "FINISHED", {}, {}, {"last/pgd5/avg": average})
    return Trial(folder.path.name, "at", "AT", 0, ("methods",), {}, run)


def test_stored_predictions_are_those_behind_the_recorded_numbers(stored):
    store, folder = stored
    (record,) = folder.evaluations()
    average = record["metrics"]["last/pgd5/avg"]
    found = stored_predictions(store, of_store(store, folder, average), "last", "pgd5")
    statistics = summarize(found.label, found.prediction == found.label, found.classes)
    assert {metric_name("last", "pgd5", name): value for name, value in statistics.items()} == record[
        "metrics"
    ]
    attacked = found.clean == found.label
    assert (found.top[attacked] >= found.confidence[attacked] - 1e-6).all()
    assert stored_predictions(store, of_store(store, folder, average + 0.01), "last", "pgd5") is None
    assert stored_predictions(store, of_store(store, folder, average), "best", "pgd5") is None
    assert stored_predictions(store / "elsewhere", of_store(store, folder, average), "last", "pgd5") is None


def test_damaged_predictions_are_told_with_what_to_do(stored, judged):
    store, folder = stored
    (record,) = folder.evaluations()
    path = folder.path / "evaluations" / f"{record['fingerprint']}.npz"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        one = of_store(store, folder, record["metrics"]["last/pgd5/avg"])
        with pytest.raises(RequestError, match="is damaged"):
            stored_predictions(store, one, "last", "pgd5")
        torn = replace(
            judged.material(), predictions=lambda *_: stored_predictions(store, one, "last", "pgd5")
        )
        with pytest.raises(Lacking, match="is damaged or gone; delete"):
            drawn(spec("confusion"), torn)
    finally:
        path.write_bytes(content)


# ------------------------------------------------------------------ classes, epochs, settings


def test_class_heat_has_the_numbers_of_the_table(digits):
    drawing = drawn(spec("class-heat"), digits.material(), ("svg",))
    assert numbers(drawing, "AT") == pytest.approx(
        {"cat": 60, "dog": 50, "ship": 43, "average": (60 + 50 + 43) / 3, "worst class": 43}, abs=1e-3
    )


def test_cost_counts_all_passes_per_image(digits):
    """(1100 + 1000 + 100) passes of 100 images in each epoch."""
    drawing = drawn(spec("cost-fairness"), digits.material(), ("svg",))
    (at,) = (one for one in drawing.data["series"] if one["name"] == "AT")
    assert set(at["x"]) == {22.0}
    assert at["y"] == [40.0, 46.0, 43.0, 43.0]


def test_step_sizes_show_the_last_epoch_mean_over_seeds(store, metrics):
    """Bin 2 has 1 and 0.5 of the two seeds; bin 3 has nothing in one of them, which is no weight of zero."""
    for seed, (share2, share3) in enumerate(((1.0, None), (0.5, 0.5))):
        series = {
            "train/step_size/share_02": [0.1, share2],
            "train/step_size/weight_02": [9.0, 1.0 + seed],
            "train/step_size/share_03": [0.9] if share3 is None else [0.9, share3],
            "train/step_size/weight_03": [9.0] if share3 is None else [9.0, 0.8],
        }
        store.add(
            "ham-paper",
            seed,
            metrics((0.9,) * 3, (0.5,) * 3),
            title="HAM",
            grids=("weight_parameter",),
            values={"method.mining.weight.parameter": -1},
            series=series,
        )
    drawing = drawn(spec("ham-fig4"), store.material(), ("svg",))
    middles = [(low + high) / 2 for low, high in pairwise(size_edges())]
    shares, weights = (numbers(drawing, "HAM", panel) for panel in ("share of hard examples", "weight"))
    assert shares == pytest.approx({round(middles[2], 4): 75.0, round(middles[3], 4): 25.0})
    assert weights == pytest.approx({round(middles[2], 4): 1.5, round(middles[3], 4): 0.8})
    assert len(size_edges()) == SIZE_BINS + 1


def test_a_window_is_the_same_part_of_every_training():
    assert window((0.5, 0.6), 200) == (100, 120)  # the paper's epochs 101 to 120
    assert window((0.9, 1.0), 200) == (180, 200)
    assert window((0.5, 0.6), 5) == (2, 3)
    assert window((0.9, 1.0), 5) == (4, 5)
    assert window((0.5, 0.6), 1) == (0, 1)


def test_class_curves_show_the_mean_over_a_window_of_epochs(store, metrics):
    """Ten epochs with accuracy 0.01 t: epoch 6 of 10 (t = 5), and epoch 10 (t = 9); a margin adds itself."""
    for margin in (0.5, 1.0):
        series = {
            f"val/pgd10/{key}": [0.01 * epoch + margin / 10 for epoch in range(10)] for key in (*KEYS, "avg")
        }
        store.add(
            "cfa-at-none",
            0,
            metrics((0.9,) * 3, (0.5,) * 3),
            grids=("cfa_margin",),
            values={"method.calibration.margin": margin},
            params={"epochs": "10"},
            series=series,
        )
    drawing = drawn(spec("cfa-fig2bc"), store.material(), ("svg",))
    first, second = (one for one in drawing.data["series"] if one["name"] == "cat")
    assert (first["x"], first["y"]) == ([0.5, 1.0], pytest.approx([10.0, 15.0]))
    assert second["y"] == pytest.approx([14.0, 19.0])
    assert {one["name"] for one in drawing.data["series"]} == {"average", *CLASSES}


def test_class_curves_show_final_results(store, metrics):
    for beta in (1, 8):
        found = metrics((0.9, 0.8, 0.7), (0.6, 0.5, beta / 10))
        found = {key.replace("best/", "best_sum/"): value for key, value in found.items()}
        store.add("cfa-trades-none", 0, found, grids=("cfa_beta",), values={"method.objective.beta": beta})
    drawing = drawn(spec("cfa-fig3"), store.material(), ("svg",))
    assert numbers(drawing, "ship", "Robust (PGD-20)") == {1: 10.0, 8: 80.0}
    assert numbers(drawing, "dog", "Clean") == {1: 80.0, 8: 80.0}


def test_fluctuation_is_the_mean_of_each_trainings_own_changes(store, metrics):
    """Worst class 0.2, 0.3, 0.2 and 0.3, 0.2, 0.3: no change of their mean, and one of 10 points in each."""
    for seed, worst in enumerate(([0.2, 0.3, 0.2], [0.3, 0.2, 0.3])):
        series = {
            "val/pgd10/worst": worst,
            "val/pgd10/avg": [0.5] * 3,
            "val_fawa/pgd10/worst": [0.25] * 3,
            "val_fawa/pgd10/avg": [0.5] * 3,
        }
        store.add("cfa-at-fawa", seed, metrics((0.9,) * 3, (0.5,) * 3), grids=("cfa_fawa",), series=series)
    drawing = drawn(spec("cfa-fig4"), store.material(), ("svg",))
    assert numbers(drawing, "worst class", "AT") == {0: 25.0, 1: 25.0, 2: 25.0}
    assert numbers(drawing, "change of the worst class", "AT") == pytest.approx({1: 10.0, 2: 10.0})
    assert numbers(drawing, "change of the worst class", "AT with FAWA") == {1: 0.0, 2: 0.0}
    assert "AT: mean change of the worst class 10.0 points" in drawing.alt


def test_class_margins_are_those_of_the_setting_that_is_asked_for(store, metrics):
    for margin in (0.3, 0.5):
        for seed in (0, 1):
            series = {f"train/class_margin/{key}": [margin, margin + 0.1 * seed] for key in KEYS}
            store.add(
                "cfa-at-ccm",
                seed,
                metrics((0.9,) * 3, (0.5,) * 3),
                grids=("cfa_lambda1",),
                values={"method.calibration.margin": margin},
                series=series,
            )
    drawing = drawn(spec("cfa-fig5b"), store.material(), ("svg",))
    assert numbers(drawing, "dog") == {0: 0.5, 1: 0.55}
    assert [one["name"] for one in drawing.data["series"]] == list(CLASSES)


def test_averages_of_one_training_are_told_apart_by_their_weights(store, metrics):
    ema = {
        k.replace("best/", "best_sum_epochema/"): v for k, v in metrics((0.9,) * 3, (0.6, 0.5, 0.2)).items()
    }
    fawa = {k.replace("best/", "best_sum_fawa/"): v for k, v in metrics((0.9,) * 3, (0.5, 0.5, 0.4)).items()}
    store.add("cfa-at-none", 0, ema, grids=("cfa_plain",))
    store.add("cfa-at", 0, fawa, grids=("cfa_plain",))
    drawing = drawn(spec("cfa-fig6"), store.material(), ("svg",))
    assert numbers(drawing, "AT + EMA") == {"cat": 60.0, "dog": 50.0, "ship": 20.0}
    assert numbers(drawing, "CFA") == {"cat": 50.0, "dog": 50.0, "ship": 40.0}
    assert "CFA (std 4.7)" in drawing.alt  # of 50, 50, 40
    high = [float(shapes(drawing)[f"pt-0-{index}"]["cy"]) for index in range(3)]
    assert high == sorted(high)  # the first class on top


def test_a_trial_that_another_grid_names_otherwise_is_a_point_of_the_line(store, metrics):
    """cfa-at is what cfa-at-ccm is at λ1 = 0.5, so one trial, under the name of the grid that stands first."""
    found = {k.replace("best/", "best_sum/"): v for k, v in metrics((0.9,) * 3, (0.6, 0.5, 0.2)).items()}
    for label, value in (("cfa-at-ccm", 0.3), ("cfa-at", 0.5), ("cfa-at-ccm", 0.7)):
        values = {"method.calibration.margin": value}
        store.add(label, 0, found, grids=("cfa_lambda1",), values=values)
    drawing = drawn(spec("cfa-fig5a"), store.material(), ("svg",))
    assert numbers(drawing, "cfa-at-ccm", "PGD-20, worst class") == {0.3: 20.0, 0.5: 20.0, 0.7: 20.0}


def test_of_very_many_classes_the_lowest_and_the_highest_are_drawn():
    scores = {f"{index:02d}_c": (index * 7) % 30 for index in range(30)}
    shown = extremes(scores)
    assert sorted(scores[name] for name in shown) == [0, 1, 2, 3, 4, 25, 26, 27, 28, 29]
    assert shown == sorted(shown)
    assert extremes(dict(list(scores.items())[:20])) == list(scores)[:20]


def surface(store, metrics, cells, **fixed):
    for (step, weight), worst in cells.items():
        for seed, shift in ((0, 0.0), (1, 0.02)):
            found = metrics((0.9,) * 3, (0.6, 0.6, worst + shift))
            values = {"method.mining.early_drop_step": step, "method.mining.weight.parameter": weight} | fixed
            store.add("ham-paper", seed, found, grids=("search",), values=values)


def test_a_surface_of_a_grid_has_a_cell_per_pair_and_names_the_best(store, metrics):
    surface(store, metrics, {(1, -1): 0.1, (3, -1): 0.2, (1, 3): 0.4, (3, 3): 0.3})
    drawing = drawn(spec("search-surface"), store.material(), ("svg",))
    assert numbers(drawing, "weight parameter Λ -1") == pytest.approx({"1": 11.0, "3": 21.0})
    assert numbers(drawing, "weight parameter Λ 3") == pytest.approx({"1": 41.0, "3": 31.0})
    assert "best 41.0 at early-drop step m 1, weight parameter Λ 3" in drawing.alt
    assert {one.get("width") for one in shapes(drawing).values()} != {None}


def test_the_points_of_a_search_are_drawn_where_they_are(store, metrics):
    surface(store, metrics, {(1, -1.5): 0.1, (3, 0.5): 0.2, (2, 2.5): 0.4})
    drawing = drawn(spec("search-surface"), store.material(), ("svg",))
    (one,) = drawing.data["series"]
    assert sorted(zip(one["x"], one["y"], strict=True)) == [("1", 11.0), ("2", 41.0), ("3", 21.0)]
    assert all("cx" in place for place in shapes(drawing).values())


def test_a_surface_leaves_out_trials_with_another_third_setting(store, metrics):
    surface(store, metrics, {(1, -1): 0.1, (3, -1): 0.2}, **{"method.mining.drop_rate": 0.0})
    surface(store, metrics, {(1, -1): 0.5}, **{"method.mining.drop_rate": 0.3})
    (pair,) = load_specs()["search-surface"].figure.pairs
    only = pair.model_copy(update={"where": {"method.mining.drop_rate": 0.0}})
    drawing = drawn(spec("search-surface", pairs=(only,)), store.material(), ("svg",))
    assert numbers(drawing, "weight parameter Λ -1") == pytest.approx({"1": 11.0, "3": 21.0})


# ------------------------------------------------------------------ the toy model


def test_the_toy_model_s_formula_is_what_a_simulation_finds():
    """40,000 draws, the worst perturbation of a linear classifier being -ε y in each feature."""
    part = Toy(kind="toy")
    draws = np.random.default_rng(3)
    n, d, w = 40_000, part.dimensions, 3.0
    for sign, p in ((1, part.easy), (-1, part.hard)):
        first = sign * np.where(draws.random(n) < p, 1, -1)
        rest = draws.normal(sign * part.eta, 1, (n, d))
        for epsilon in (0.0, part.epsilon):
            score = (first - epsilon * sign) + (rest - epsilon * sign).sum(1) / w
            assert accuracy(part, sign, w, epsilon) == pytest.approx(
                float((score * sign > 0).mean()), abs=0.01
            )


def test_the_hard_class_of_the_toy_model_wants_less_of_the_robust_feature():
    part = Toy(kind="toy")
    grid = [index / 10 for index in range(121)]
    for epsilon in (0.0, part.epsilon):
        easy, hard = (max(grid, key=lambda w, s=s: accuracy(part, s, w, epsilon)) for s in (1, -1))
        assert hard < easy
    assert accuracy(part, -1, 1e6, 0.0) == pytest.approx(part.hard)


# ------------------------------------------------------------------ looks


def test_twenty_methods_look_different_in_colour_and_in_grey():
    styles = turns(20)
    assert len({(one.color, one.marker) for one in styles}) == 20
    assert len({(one.color, one.hatch) for one in styles}) == 20


def test_heat_maps_only_darken():
    def lightness(color: str) -> float:
        red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    assert all(before - after > 15 for before, after in pairwise(map(lightness, SEQUENTIAL)))


def test_more_methods_than_bars_have_room_for_are_dots(store, metrics):
    for index in range(7):
        store.add(f"m{index}", 0, metrics((0.9, 0.8, 0.7), (0.6, 0.5, 0.4)))
    svg = drawn(spec("class-bars"), store.material(), ("svg",)).files["svg"]
    assert b"<pattern" not in svg
    few = store.without(store.runs[-1].fingerprint)
    assert b"<pattern" in drawn(spec("class-bars"), few.material(), ("svg",)).files["svg"]


def test_a_legend_stays_within_the_figure():
    """Four labels of 36 points and 4.8 em each: two fit 240 points, three do not."""
    labels = ["parameter=-3", "parameter=-1", "parameter=1", "parameter=3"]
    assert _columns(labels, 240) == 2
    assert _columns(labels, 1000) == 4
    assert _columns(["a label as long as a line, a label as long as a line"] * 3, 240) == 1


def test_labels_at_the_ends_of_lines_move_apart_and_keep_their_order():
    assert spread([1.0, 5.0, 9.0], 2.0) == [1.0, 5.0, 9.0]
    moved = spread([5.0, 5.1, 4.9, 0.0], 1.0)
    assert moved == pytest.approx([5.0, 6.0, 4.0, 0.0])
    assert spread([0.0, 0.0, 0.0], 1.0, 0.0, 9.0) == [0.0, 1.0, 2.0]
    assert spread([9.0, 9.0, 9.0], 1.0, 0.0, 9.0) == [7.0, 8.0, 9.0]


def test_what_all_names_share_is_left_out():
    assert without_title(["AT, m=1", "AT, m=2"]) == ["m=1", "m=2"]
    assert without_title(["AT, m=1", "TRADES"]) == ["AT, m=1", "TRADES"]
    assert without_title(["AT, m=1"]) == ["AT, m=1"]


def test_a_smaller_svg_has_the_same_circles():
    """The circle around (3, 72) of radius 0.3, as matplotlib writes it."""
    before = (
        b'<path d="M 3 72.3 \nC 3.079561 72.3 3.155874 72.26839 3.212132 72.212132 \n'
        b"C 3.26839 72.155874 3.3 72.079561 3.3 72 \nC 3.3 71.920439 3.26839 71.844126 3.212132 71.787868 \n"
        b"C 3.155874 71.73161 3.079561 71.7 3 71.7 \nC 2.920439 71.7 2.844126 71.73161 2.787868 71.787868 \n"
        b"C 2.73161 71.844126 2.7 71.920439 2.7 72 \nC 2.7 72.079561 2.73161 72.155874 2.787868 72.212132 \n"
        b'C 2.844126 72.26839 2.920439 72.3 3 72.3 \nz\n"/><g transform="scale(0.015625)" x="12.34567"/>'
    )
    after = smaller(before).decode()
    assert "M 3.00 72.30 a 0.30 0.30 0 1 0 0 -0.60 0.30 0.30 0 1 0 0 0.60 z" in after
    assert "scale(0.015625)" in after
    assert 'x="12.35"' in after


def test_methods_of_a_swept_setting_stand_by_rising_value(store, metrics):
    for value in (3, -1, 1):
        series = {"val/pgd10/avg": [0.1, 0.2]}
        values = {"method.calibration.margin": value}
        store.add(
            "at", 0, metrics((0.9,) * 3, (0.5,) * 3), grids=("cfa_margin",), values=values, series=series
        )
    drawing = drawn(spec("cfa-fig2a"), store.material(), ("svg",))
    assert [one["name"] for one in drawing.data["series"]] == [
        "at, margin=-1",
        "at, margin=1",
        "at, margin=3",
    ]


def test_the_shipped_sweep_has_every_grid_that_figures_need(tmp_path: Path):
    from orchestration.sweep import load_sweep

    planned = {
        grid
        for name in ("figures", "cifar10", "digits_search", "all_methods")
        for one in load_sweep(name).trials
        for grid in one.grids
    }
    needed = {one.trials.grid for one in load_specs().values() if one.figure is not None and one.needs_runs}
    needed |= {
        pair.grid for one in load_specs().values() for pair in getattr(one.figure, "pairs", ()) if pair.grid
    }
    assert needed - {"search"} <= planned
