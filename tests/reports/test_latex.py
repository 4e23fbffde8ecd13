"""The LaTeX tables in a two-column paper: a real TeX compiles them without a warning, and twelve columns fit the page."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reports.comparison import published_tables
from reports.render import latex
from reports.spec import Column, Spec, Trials, load_specs
from reports.tables import tables_of
from tests.reports.conftest import results
from tests.reports.test_render import from_latex, texts

PAPER = r"""\documentclass[10pt,twocolumn,letterpaper]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{lmodern}
\usepackage[margin=0.75in]{geometry}
\usepackage{booktabs}
\begin{document}
Tables~\ref{LABEL}.
BODY
\end{document}
"""
NAMES = ("clean", "pgd20", "cw20", "autoattack")


def twelve(store, seeds: int):
    """Four attacks, three statistics each, three methods."""
    for seed in range(seeds):
        for place, label in enumerate(("at", "trades", "ham-official")):
            shares = dict.fromkeys(NAMES, (0.9 - place / 20, 0.5 + seed / 50, 0.1234))
            store.add(label, seed, results(shares), title=f"A method called {label}")
    columns = tuple(
        Column(title=title, group=name, metric=f"best/{name}/{statistic}")
        for name in NAMES
        for title, statistic in (("average", "avg"), ("worst", "worst"), ("worst 20 %", "worst20"))
    )
    spec = Spec(
        title="Twelve columns: 100 % & more_of_it",
        caption="A caption with a_b, 5 % and ε.",
        trials=Trials(grid="methods"),
        columns=columns,
        name="twelve",
        question="Does it fit?",
        min_seeds=3,
    )
    return tables_of(spec, store.material())


def shipped(store):
    """CFA's table of averages, and the published values beside it."""
    params = {"data.label": "cifar10", "epochs": "200", "epsilon": str(8 / 255), "selection.on": "test"}
    for seed in range(5):
        for label in ("cfa-at-none", "cfa-trades", "cfa-frl"):
            found = {
                name.replace("best/", "best_sum/"): value
                for name, value in results(dict.fromkeys(NAMES, (0.8, 0.5, 0.2 + seed / 50))).items()
            }
            own = params | ({"epochs": "40"} if label == "cfa-frl" else {})
            store.add(label, seed, found, grids=("table1",), params=own, title=label)
    spec = load_specs()["cfa-1"]
    tables = tables_of(spec, store.material())
    return [*tables, *published_tables(spec, tables)]


def waiting(store):
    """Nothing has run: every cell is empty and says what it waits for."""
    store.add("at", 0, None, title="AT")
    return tables_of(load_specs()["ham-main"], store.material())


MADE = {
    "one seed": lambda store: twelve(store, 1),
    "three seeds": lambda store: twelve(store, 3),
    "published": shipped,
    "waiting": waiting,
}


@pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="no TeX: install the system's packages texlive-latex-recommended and lmodern",
)
@pytest.mark.parametrize("which", MADE)
def test_a_two_column_paper_compiles_without_a_warning(which: str, store, tmp_path: Path):
    tables = MADE[which](store)
    label = f"{tables[0].label}{'-1' if tables[0].part else ''}"
    text = PAPER.replace("LABEL", label).replace("BODY", latex.render(tables))
    (tmp_path / "paper.tex").write_text(text, encoding="utf-8")
    for _ in range(2):  # the second run knows the labels
        run = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
        )
    assert run.returncode == 0, run.stdout[-2000:]
    complaints = [
        line for line in run.stdout.splitlines() if re.search(r"Warning|Overfull|Underfull|^!", line)
    ]
    assert not complaints, complaints


@pytest.mark.parametrize("which", ["one seed", "three seeds"])
def test_twelve_columns_carry_the_same_numbers_as_the_table(which: str, store):
    (table,) = MADE[which](store)
    assert from_latex(latex.render([table])) == texts(table)
    assert r"{\tiny " in latex.render([table])


def test_groups_of_rows_are_apart_and_named_where_their_names_are_needed(store):
    main, *beside = shipped(store)
    assert latex.render([main]).count(r"\midrule") == 4  # below the head, and between AT, TRADES, FAT and FRL
    assert r"\emph{Best, AutoAttack worst}" in latex.render(beside)
