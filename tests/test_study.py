"""The study in docs/study: what its text says is what its recorded trials say, and no number of it is typed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import ham

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "docs" / "study"
TEMPLATE = STUDY / "README.md.j2"
NAMES = ("CIFAR-10", "PGD-20", "CW-20", "95 %")  # of data and attacks, and the level of all intervals
MARKUP = (
    r"{#.*?#}",
    r"{{.*?}}",
    r"{%.*?%}",
    r"```.*?```",
    r"`[^`]*`",
    r"\[[^]]*\]\([^)]*\)",
)  # a template's own, code, links


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's folder anew, from a store that holds its recorded trials and nothing else."""
    folder = tmp_path_factory.mktemp("study")
    shutil.copy(TEMPLATE, folder)
    code, _, err = ham(folder, "import", str(STUDY / "trials.tar.gz"), "--store", "store")
    assert code == 0, err
    report = ("report", "ham-main", "--format", "md", "--sweep", "cifar10_small", "--store", "store")
    code, _, err = ham(folder, *report, "--document", TEMPLATE.name)
    assert code == 0, err
    return folder


def test_the_text_is_what_the_recorded_trials_say(made: Path) -> None:
    texts = [(folder / "README.md").read_text(encoding="utf-8") for folder in (STUDY, made)]
    assert texts[0] == texts[1], "run make study"


def test_its_pictures_show_the_recorded_trials(made: Path) -> None:
    kept, drawn = ({path.name: path for path in (folder / "pictures").iterdir()} for folder in (STUDY, made))
    assert kept.keys() == drawn.keys(), "run make study"
    for name in kept:
        shown, now = (np.asarray(Image.open(paths[name])) for paths in (kept, drawn))
        assert np.array_equal(shown, now), f"{name}: run make study"


def test_a_template_that_is_wrong_stops_the_report_before_it_is_built(made: Path) -> None:
    (made / "wrong.md.j2").write_text('{{ cell("ham-mian", "at", "PGD-20 worst") }}', encoding="utf-8")
    report = ("report", "ham-main", "--store", "store", "--out", "tables", "--document", "wrong.md.j2")
    code, _, err = ham(made, *report)
    assert (code, "wrong.md.j2:1: unknown table or figure 'ham-mian'" in err) == (2, True)
    code, _, err = ham(made, *report, "--why")
    assert (code, "--why builds nothing, so there is no text to write either" in err) == (2, True)
    code, _, err = ham(made, *report, "--protocol", "ham-paper")
    assert (code, "--protocol: no sweep is judged under 'ham-paper'" in err) == (2, True)
    assert not (made / "wrong.md").exists()
    assert not list((made / "tables").glob("**/*.md"))


def test_tables_alone_come_without_the_figures_of_their_rows(made: Path) -> None:
    code, _, err = ham(made, "report", "--tables", "--format", "md", "--store", "store", "--out", "alone")
    assert code == 0, err
    assert (made / "alone" / "cifar10_small" / "sensitivity-drop-rate.md").is_file()  # whose spec draws, too
    assert not list((made / "alone").glob("**/figures/*"))


def test_no_number_of_its_prose_is_typed() -> None:
    prose = TEMPLATE.read_text(encoding="utf-8")
    for pattern in MARKUP:
        prose = re.sub(pattern, " ", prose, flags=re.DOTALL)
    for name in NAMES:
        prose = prose.replace(name, " ")
    typed = [line.strip() for line in prose.splitlines() if re.search(r"[1-9]", line)]
    assert not typed


def test_the_first_picture_of_the_readme_is_the_studys() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (first, *_) = re.findall(r"!\[[^]]*\]\(([^)]*)\)", readme)
    assert first.startswith("docs/study/pictures/")
    assert (ROOT / first).is_file()
