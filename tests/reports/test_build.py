"""What a build writes, refuses and repeats; what explain answers."""

import subprocess
import sys
from pathlib import Path

import pytest

from ham_core.errors import RequestError
from reports.builder import write
from reports.figures import draw, front
from reports.provenance import explain_cell, match
from reports.render.html import MLFLOW, inline_svg
from reports.spec import load_specs

ALL = list(load_specs().values())


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_building_twice_gives_the_same_bytes_and_seconds_stay_in_cost_files(digits, tmp_path):
    for name in ("a", "b"):
        built = write([digits.material()], ALL, tmp_path / name)
    first, second = files(tmp_path / "a"), files(tmp_path / "b")
    assert first == second
    assert {
        "index.html",
        "cost.html",
        "digits/ham-main.md",
        "digits/ham-main.tex",
        "digits/ham-main.csv",
    } <= set(first)
    assert {"digits/figures/class-bars.svg", "digits/figures/pareto.png", "digits/trials.csv"} <= set(first)
    for name, content in first.items():
        assert "cost" in name or name == "manifest.json" or b"time/train_s" not in content, name
    assert built.shown.startswith("### Robust fairness of each method, best checkpoint")
    assert any("HAM (paper): waits for seeds 0, 1, 2 (not run)" in sentence for sentence in built.waiting)
    assert any("'ham-table1' waits for grid 'drop_rate_at'" in sentence for sentence in built.waiting)
    page = first["index.html"].decode()
    assert "http://" not in page.replace("http://www.w3.org", "").replace(MLFLOW, "")
    assert "src=" not in page
    assert "<link" not in page


def test_a_table_asked_for_by_name_refuses_missing_cells(digits, tmp_path):
    with pytest.raises(RequestError) as caught:
        write([digits.material()], [load_specs()["ham-main"]], tmp_path, strict=True, named=True)
    (sentence,) = caught.value.problems
    assert "ham-official seed 0" in sentence
    assert "ham-paper seed 2" in sentence
    assert not list(tmp_path.iterdir())


def test_partial_writes_what_exists(digits, tmp_path):
    built = write([digits.material()], [load_specs()["ham-main"]], tmp_path, named=True, formats=("md",))
    assert [path.name for path in built.files] == ["ham-main.md"]


def test_a_drawing_whose_runs_are_gone_goes_too(store, metrics, tmp_path):
    gone = store.add("at", 0, metrics((0.9, 0.8, 0.7), (0.6, 0.5, 0.4)))
    spec = load_specs()["pareto"]
    write([store.material()], [spec], tmp_path, formats=("html",))
    assert (tmp_path / "digits/figures/pareto.svg").exists()
    built = write([store.without(gone).material()], [spec], tmp_path, formats=("html",))
    assert not (tmp_path / "digits/figures/pareto.svg").exists()
    assert "pareto: no finished trial" in built.waiting[0]


def test_the_pareto_front_holds_what_no_other_point_beats():
    points = [(1.0, 5.0), (2.0, 4.0), (1.5, 4.0), (3.0, 1.0), (2.5, 1.0), (0.5, 5.0)]
    assert front(points) == [(1.0, 5.0), (2.0, 4.0), (3.0, 1.0)]


def test_figures_draw_only_one_protocol(store, metrics):
    store.add("at", 0, metrics((0.9,) * 3, (0.5,) * 3))
    store.add("at", 1, metrics((0.9,) * 3, (0.5,) * 3))
    store.add("trades", 0, metrics((0.9,) * 3, (0.3,) * 3), params={"epsilon": "0.1"})
    drawing = draw(load_specs()["pareto"], store.material(), ("svg",))
    assert drawing is not None
    assert "ε = 0.2" in drawing.protocol
    assert drawing.alt.startswith("PGD-20: 2 trials")


def test_inline_drawings_keep_their_ids_apart_and_take_the_colours_of_the_page():
    svg = '<?xml?><svg width="9pt" height="9pt" viewBox="0 0 9 9"><g id="a" style="fill: #1c1e21"/><use href="#a"/></svg>'
    assert inline_svg(svg, "p") == (
        '<svg aria-hidden="true" focusable="false" style="max-width: 14px" viewBox="0 0 9 9">'
        '<g id="p-a" style="fill: var(--ink)"/><use href="#p-a"/></svg>'
    )


def test_explain_names_runs_seeds_checkpoints_formula_and_interval(digits):
    answer = explain_cell(digits.material(), load_specs()["ham-main"], "at", "pgd-20 WORST", Path("outputs"))
    assert (answer["row"], answer["column"], answer["metric"]) == ("AT", "PGD-20 worst", "best/pgd20/worst")
    assert answer["seeds"] == [0, 1, 2]
    assert answer["values"] == [40.0, 46.0, 43.0]
    assert answer["mean"] == pytest.approx(43.0)
    assert answer["interval"]["kind"] == "student-t"
    run = answer["runs"][0]
    assert run["checkpoint"] == f"outputs/trials/{run['fingerprint']}/weights/best.pt"
    assert {run["run_id"] for run in answer["runs"]} <= {run.run_id for run in digits.runs}
    assert "smallest class-wise accuracy" in answer["formula"]
    assert "highest average robust accuracy" in answer["selection"]
    assert answer["published"] == []


def test_explain_shows_the_published_value_with_its_source(store, metrics):
    store.add(
        "at",
        0,
        metrics((0.9,) * 3, (0.5,) * 3),
        grids=("drop_rate_at",),
        values={"method.mining.drop_rate": 0.1},
    )
    answer = explain_cell(store.material(), load_specs()["ham-table1"], "0.1", "Clean worst", Path("outputs"))
    assert [found["value"] for found in answer["published"]] == ["31.6", "82.8"]
    assert {found["quantity"] for found in answer["published"]} == {"unresolved"}
    assert all("arXiv" in found["source"] and not found["comparable"] for found in answer["published"])


def test_explain_gathers_both_misses_with_suggestions(digits):
    with pytest.raises(RequestError) as caught:
        explain_cell(digits.material(), load_specs()["ham-main"], "hom (paper)", "PGD-20 wurst", Path("o"))
    column, row = caught.value.problems
    assert "did you mean 'PGD-20 worst'?" in column
    assert "did you mean 'HAM (paper)'?" in row


def test_a_name_that_fits_several_is_refused():
    with pytest.raises(RequestError, match=r"'ham' fits more than one row: 'HAM \(a\)', 'HAM \(b\)'"):
        match("ham", [("HAM (a)",), ("HAM (b)",)], "row")


def test_importing_reports_loads_neither_pandas_nor_matplotlib_nor_mlflow():
    code = (
        "import sys, reports, reports.spec, reports.published; reports.names(); "
        "sys.exit(any(m in sys.modules for m in ('pandas', 'matplotlib', 'scipy', 'mlflow', 'torch', 'statsmodels')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_table_of_differences_is_made_of_sweeps_that_have_the_method_it_subtracts(digits, tmp_path):
    spec = load_specs()["cfa-differences"]
    built = write([digits.material()], [spec], tmp_path, formats=("md",))
    assert not built.files
    assert built.waiting == [
        "'cfa-differences' waits for grid 'methods' with cfa-at in it, which no recorded sweep plans (recorded: digits); "
        "train it with: ham sweep table:cfa-differences"
    ]
    with pytest.raises(RequestError, match="with cfa-at in it"):
        write([digits.material()], [spec], tmp_path, named=True)


def test_the_pareto_front_leaves_out_an_attack_that_nobody_has_run(store, metrics):
    for seed in range(2):
        found = metrics((0.9,) * 3, (0.5, 0.4, 0.3))
        store.add("at", seed, {key: value for key, value in found.items() if "/cw20/" not in key})
    drawing = draw(load_specs()["pareto"], store.material(), ("svg",))
    assert drawing is not None
    assert {one["panel"] for one in drawing.data["series"]} == {"PGD-20"}
    assert "CW-20" not in drawing.alt
