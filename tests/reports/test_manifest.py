"""A second build with nothing new writes nothing; every other one writes what a build from nothing would."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from orchestration.sealed_runs import SEAL, seal_of, series_tags
from reports import builder, manifest
from reports.builder import reasons, write
from reports.manifest import NAME
from reports.spec import Spec, load_specs
from tests.commands import ROOT
from tests.reports.conftest import Store, attacks

NAMES = ("ham-main", "passes", "cost", "ham-table1", "pareto", "worst-over-epochs")
SPECS = [load_specs()[name] for name in NAMES]
TEXTS = ("md", "csv")


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of the last change and content of every file."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {name: content for name, (_, content) in state(folder).items()}


def touched(before: Mapping[str, object], after: Mapping[str, object]) -> set[str]:
    """Files that were written between the two."""
    return {name for name in {**before, **after} if before.get(name) != after.get(name)}


def changed(store: Store, place: int, **metrics: float) -> Store:
    """The same store with other metrics in one of its runs."""
    runs = list(store.runs)
    runs[place] = replace(runs[place], metrics={**runs[place].metrics, **metrics})
    return replace(store, runs=runs)


@pytest.fixture
def two_grids(digits: Store) -> Store:
    """`digits`, and a grid of its own for the table of drop rates."""
    for rate in (0.0, 0.1):
        for seed in (0, 1):
            values = {"method.mining.drop_rate": rate}
            metrics = attacks((0.9, 0.8, 0.7), (0.6, 0.5, 0.3 + rate))
            digits.add("drop", seed, metrics, grids=("drop_rate_at",), values=values)
    return digits


def test_a_second_build_with_nothing_new_writes_nothing(two_grids: Store, tmp_path: Path) -> None:
    first = write([two_grids.material()], SPECS, tmp_path)
    assert not first.up_to_date
    assert set(first.written) == set(first.files)
    before = state(tmp_path)
    again = write([two_grids.material()], SPECS, tmp_path)
    assert again.up_to_date
    assert again.written == []
    assert state(tmp_path) == before
    assert (again.files, again.waiting, again.shown) == (first.files, first.waiting, first.shown)


def test_a_file_that_was_deleted_or_edited_is_written_again_and_no_other(
    two_grids: Store, tmp_path: Path
) -> None:
    write([two_grids.material()], SPECS, tmp_path)
    before = state(tmp_path)
    (tmp_path / "digits/ham-main.tex").unlink()
    (tmp_path / "digits/figures/pareto.svg").write_text("<svg/>", encoding="utf-8")
    (tmp_path / "index.html").write_bytes(b"")
    built = write([two_grids.material()], SPECS, tmp_path)
    lost = {"digits/ham-main.tex", "digits/figures/pareto.svg", "index.html"}
    assert {str(path.relative_to(tmp_path)) for path in built.written} == lost
    assert touched(before, state(tmp_path)) == lost
    assert contents(tmp_path) == {name: content for name, (_, content) in before.items()}


def test_tables_alone_draw_nothing_and_leave_figures_and_pages_as_they_were(
    two_grids: Store, tmp_path: Path
) -> None:
    built = write([two_grids.material()], SPECS, tmp_path, formats=("md", "tex", "csv"), figures=False)
    assert {path.suffix for path in built.files} == {".md", ".tex", ".csv"}
    assert not (tmp_path / "digits/figures").exists()
    whole = write([two_grids.material()], SPECS, tmp_path / "whole")
    before = state(tmp_path / "whole")
    other = changed(two_grids, 0, **{"best/pgd20/worst": 0.1})
    write([other.material()], SPECS, tmp_path / "whole", formats=("md",), figures=False)
    written = touched(before, state(tmp_path / "whole"))
    assert "digits/ham-main.md" in written
    assert written <= {
        NAME,
        *(str(path.relative_to(tmp_path / "whole")) for path in whole.files if path.suffix == ".md"),
    }


def test_only_what_a_changed_run_feeds_is_written(two_grids: Store, tmp_path: Path) -> None:
    write([two_grids.material()], SPECS, tmp_path)
    before = state(tmp_path)
    other = changed(two_grids, -1, **{"best/pgd20/worst": 0.35})
    write([other.material()], SPECS, tmp_path)
    written = touched(before, state(tmp_path))
    assert "digits/ham-table1.csv" in written
    assert written <= {
        *(f"digits/ham-table1.{form}" for form in ("md", "tex", "csv")),
        *(f"digits/ham-table1-published.{form}" for form in ("md", "tex", "csv")),
        "digits/trials.csv",
        "index.html",
        NAME,
    }


def test_a_point_of_a_series_counts_whether_a_seal_covers_it_or_not(digits: Store, tmp_path: Path) -> None:
    spec = load_specs()["worst-over-epochs"]
    for name, sealed in (("plain", False), ("sealed", True)):
        store = with_seals(digits) if sealed else digits
        write([store.material()], [spec], tmp_path / name)
        series = {key: dict(found) for key, found in digits.series.items()}
        first = next(iter(series["val/pgd10/worst"]))
        series["val/pgd10/worst"][first] = [(0, 0.1), (1, 0.2), (2, 0.9)]
        other = replace(digits, series=series)
        before = state(tmp_path / name)
        write([(with_seals(other) if sealed else other).material()], [spec], tmp_path / name)
        assert "digits/figures/worst-over-epochs.svg" in touched(before, state(tmp_path / name)), name


def with_seals(store: Store) -> Store:
    """The same with the tags that the tracker puts on a complete run."""
    runs = []
    for run in store.runs:
        journal = [
            {"epoch": epoch, "metrics": {key: value}}
            for key, found in store.series.items()
            for epoch, value in found.get(run.fingerprint, ())
        ]
        seal = {SEAL: seal_of(run.fingerprint, run.metrics, run.params)}
        runs.append(replace(run, tags=run.tags | seal | series_tags(journal, str)))
    return replace(store, runs=runs)


def steps(store: Store) -> list[tuple[Store, list[Spec], tuple[str, ...]]]:
    """A history of a report: runs come and go, numbers change, some builds ask for less."""
    shorter = replace(store, runs=store.runs[:3])
    other = changed(store, 0, **{"best/pgd20/worst": 0.1, "best/clean/avg": 0.5})
    gone = store.without(store.runs[1].fingerprint)
    return [
        (shorter, SPECS, builder.FORMATS),
        (store, SPECS, ("md",)),
        (other, SPECS[:2], builder.FORMATS),
        (gone, SPECS, ("csv", "html")),
        (other, SPECS, builder.FORMATS),
    ]


def test_many_builds_end_in_the_bytes_of_one(two_grids: Store, tmp_path: Path) -> None:
    for number, (store, specs, formats) in enumerate(steps(two_grids)):
        write([store.material()], specs, tmp_path / "many", formats=formats)
        if formats == builder.FORMATS and specs == SPECS:
            write([store.material()], specs, tmp_path / str(number), formats=formats)
            assert contents(tmp_path / "many") == contents(tmp_path / str(number)), number
    assert json.loads((tmp_path / "many" / NAME).read_text())["targets"]["digits/ham-main"].keys() == {
        "md",
        "tex",
        "csv",
        "html",
    }


def test_tables_that_nothing_makes_any_more_go_unless_they_were_edited(
    two_grids: Store, tmp_path: Path
) -> None:
    write([two_grids.material()], SPECS, tmp_path, formats=TEXTS, whole=True)
    edited = tmp_path / "digits/passes.md"
    edited.write_text("my own notes", encoding="utf-8")
    write([two_grids.material()], SPECS[:1], tmp_path, formats=TEXTS, whole=True)
    left = {name for name in contents(tmp_path) if name != NAME}
    assert left == {"digits/ham-main.md", "digits/ham-main.csv", "digits/trials.csv", "digits/passes.md"}


def test_a_companion_table_that_is_no_more_goes_with_what_made_it(two_grids: Store, tmp_path: Path) -> None:
    spec = load_specs()["ham-table1"]
    write([two_grids.material()], [spec], tmp_path, formats=("md",))
    assert (tmp_path / "digits/ham-table1-published.md").exists()
    write([two_grids.material()], [spec.model_copy(update={"published": ()})], tmp_path, formats=("md",))
    assert not (tmp_path / "digits/ham-table1-published.md").exists()


def test_a_manifest_that_cannot_be_read_is_none(two_grids: Store, tmp_path: Path) -> None:
    write([two_grids.material()], SPECS, tmp_path, formats=TEXTS)
    before = state(tmp_path)
    for damage in (b"", b"[1]", b'{"layout": 1}', before[NAME][1][:500]):
        (tmp_path / NAME).write_bytes(damage)
        write([two_grids.material()], SPECS, tmp_path, formats=TEXTS)
        assert contents(tmp_path) == {name: content for name, (_, content) in before.items()}
    assert touched(before, state(tmp_path)) == {NAME}, "what is there already is not written again"


# why -----------------------------------------------------------------------------------------------------------------


def test_why_names_runs_specs_files_and_versions_and_writes_nothing(
    two_grids: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(store: Store, specs: list[Spec] = SPECS) -> dict[str, str]:
        before = state(tmp_path)
        found = reasons([store.material()], specs, tmp_path)
        assert state(tmp_path) == before
        return {name: "; ".join(words) for name, words in found.items()}

    assert asked(two_grids)["digits/passes"] == "not built yet as md; not built yet as tex; " + (
        "not built yet as csv; not built yet as html"
    )
    write([two_grids.material()], SPECS, tmp_path)
    assert set(asked(two_grids).values()) == {""}

    run = two_grids.runs[0].fingerprint
    assert asked(two_grids.without(run))["digits/ham-main"] == "runs removed: at seed 0"
    other = changed(two_grids, 1, **{"best/pgd20/worst": 0.1})
    assert asked(other)["digits/ham-main"] == "runs changed: at seed 1 (other numbers, settings or run)"
    failed = replace(two_grids, runs=[replace(two_grids.runs[0], status="FAILED"), *two_grids.runs[1:]])
    assert asked(failed)["digits/passes"] == "runs changed: at seed 0 (finished -> failed)"
    assert asked(other)["digits/ham-table1"] == "", "another grid"
    assert asked(other)["index.html"].startswith("shown tables and figures changed: digits/ham-main")

    more = replace(two_grids, planned=list(two_grids.planned), runs=list(two_grids.runs))
    more.add("trades", 0, attacks((0.9,) * 3, (0.5,) * 3))
    more.add("trades", 1, None)
    assert asked(more)["digits/ham-main"] == (
        "runs added: trades seed 0; trials planned anew, not run: trades seed 1"
    )

    titled = [SPECS[0].model_copy(update={"title": "Another"}), *SPECS[1:]]
    assert asked(two_grids, titled)["digits/ham-main"] == "its spec changed"
    assert asked(two_grids, titled)["digits/passes"] == ""
    (tmp_path / "digits/ham-main.md").unlink()
    (tmp_path / "digits/ham-main.csv").write_bytes(b"mine")
    assert asked(two_grids)["digits/ham-main"] == (
        "digits/ham-main.md is gone; digits/ham-main.csv is not what was written: it was edited, or a build was killed"
    )
    version = manifest.program() | {"matplotlib": "2.0", "reports": "another"}
    monkeypatch.setattr(manifest, "program", lambda: version)
    assert asked(two_grids)["digits/figures/pareto"].startswith(
        "the program that writes reports is another version; matplotlib "
    )
    assert asked(two_grids)["digits/figures/pareto"].endswith(" -> 2.0")


def test_why_of_a_changed_published_value_names_its_source(
    two_grids: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write([two_grids.material()], SPECS, tmp_path, formats=TEXTS)
    papers = manifest._published() | {"ham_arxiv": "another"}
    monkeypatch.setattr(manifest, "_published", lambda: papers)
    found = reasons([two_grids.material()], SPECS, tmp_path, formats=TEXTS)
    assert found["digits/ham-table1"] == ["published values changed: ham_arxiv"]
    assert found["digits/passes"] == []


# kills ---------------------------------------------------------------------------------------------------------------

# Builds a report and ends itself by SIGKILL at the N-th rename, before it or after it.
KILLED = """
import os, signal, sys
from pathlib import Path
from reports.builder import write
from tests.reports.conftest import Store
from tests.reports.test_manifest import SPECS, example

out, moment, when = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
real, done = os.replace, 0

def replace(source, target):
    global done
    done += 1
    if done == moment and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)
    if done == moment:
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = replace
write([example().material()], SPECS, out)
print(done)
"""


def example() -> Store:
    """A small sweep, the same in every process."""
    store = Store()
    for seed in (0, 1):
        for label, worst in (("at", 0.3), ("trades", 0.4)):
            series = {"val/pgd10/worst": [0.1, worst], "train/images": [10.0, 10.0]}
            store.add(label, seed, attacks((0.9, 0.8, 0.7), (0.6, 0.5, worst + seed / 50)), series=series)
    return store


@pytest.mark.slow
def test_a_build_that_is_killed_at_any_moment_is_completed_by_the_next(tmp_path: Path) -> None:
    whole = write([example().material()], SPECS, tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    last = len(whole.written) + 1  # the manifest
    moments = [(1, "before"), (2, "after"), (last // 2, "before"), (last - 1, "after"), (last, "before")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / f"{moment}-{when}"), str(moment), when], cwd=ROOT
        )
        for moment, when in moments
    ]
    for process, (moment, when) in zip(processes, moments, strict=True):
        assert process.wait(120) == -signal.SIGKILL
        folder = tmp_path / f"{moment}-{when}"
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert not (folder / NAME).exists()
        assert len([path for path in files if path.suffix != ".new"]) == moment - (when == "before")
        assert any(path.suffix == ".new" for path in files) == (when == "before")
        kept = state(folder)
        write([example().material()], SPECS, folder)
        assert contents(folder) == expected
        assert (
            not touched({k: v for k, v in kept.items() if not k.endswith(".new")}, state(folder))
            & kept.keys()
        )
        assert write([example().material()], SPECS, folder).up_to_date


# pages ---------------------------------------------------------------------------------------------------------------


def test_a_page_shows_the_first_rows_of_tables_that_are_too_long_for_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "PAGE_CELLS", 100)
    for number in range(30):
        store.add(f"m{number:02}", 0, attacks((0.9, 0.8, 0.7), (0.6, 0.5, 0.4)))
    write([store.material()], SPECS[:1], tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "The first 11 of 30 rows" in page  # 9 columns
    assert "m10" in page and "m11" not in page
    assert "m29" in (tmp_path / "digits/ham-main.csv").read_text(encoding="utf-8")
