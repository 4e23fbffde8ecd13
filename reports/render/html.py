"""Tables and drawings -> one self-contained page: inline style, script and SVG, no network. Opens from disk.

The tables and figures are in the page as they are; its script (templates/page.js) sorts and filters them, and opens for each
cell what stands behind it. The page's own policy lets no other script run and nothing be fetched.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from reports.comparison import Compared
from reports.figures import GRID, INK, MUTED, PAPER, Drawing
from reports.render.behind import FORMS, Behind
from reports.render.csv import number
from reports.render.marks import with_values
from reports.tables import Cell, Head, Table

TEMPLATES = Path(__file__).parent / "templates"
SCREEN = 1.5  # pixels of the page per point of a drawing
MLFLOW = "http://127.0.0.1:5000"  # where `ham ui` shows the runs


@dataclass
class Item:
    """One spec of one sweep: its tables (one per protocol) and its drawing."""

    name: str
    title: str
    question: str
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    files: Sequence[tuple[str, str]] = ()  # (shown, link)
    beside: Sequence[Compared] = ()  # published values beside the tables' cells


@dataclass
class Section:
    """One sweep."""

    sweep: str
    summary: str
    items: list[Item] = field(default_factory=list)


def render(
    sections: Sequence[Section],
    *,
    title: str,
    lede: str,
    footer: str,
    waiting: Sequence[str] = (),
    mlflow: str | None = None,
) -> str:
    """The page. `mlflow`: address of the MLflow UI, to which the runs behind a cell are linked; None: `ham ui`'s."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    behind = Behind(mlflow or MLFLOW)
    theme, script = (_template(name) for name in ("theme.js", "page.js"))
    page = environment.get_template("page.html.j2")
    return page.render(
        title=title,
        lede=lede,
        footer=footer,
        css=_template("page.css"),
        theme=theme,
        script=script,
        policy=_policy(theme, script),
        sections=[_section(section, behind) for section in sections],
        waiting=list(waiting),
        data=behind.text,
    )


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """No network, and no script but these."""
    hashes = " ".join(
        f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _section(section: Section, behind: Behind) -> dict[str, Any]:
    return {
        "id": _id(section.sweep),
        "sweep": section.sweep,
        "summary": section.summary,
        "items": [_item(section, item, behind) for item in section.items],
    }


def _item(section: Section, item: Item, behind: Behind) -> dict[str, Any]:
    anchor = _id(section.sweep, item.name)
    anchors = _distinct([f"{anchor}--table{f'-{table.part}' if table.part else ''}" for table in item.tables])
    return {
        "id": anchor,
        "title": item.title,
        "question": item.question,
        "tables": [
            _table(table, name, behind, item.beside) for table, name in zip(item.tables, anchors, strict=True)
        ],
        "drawings": [
            {
                "svg": inline_svg(with_values(drawing.files["svg"].decode(), drawing.data), anchor),
                "alt": drawing.alt,
                "caption": drawing.caption,
                "protocol": drawing.protocol,
            }
            for drawing in item.drawings
            if "svg" in drawing.files
        ],
        "files": list(item.files),
    }


def _table(table: Table, anchor: str, behind: Behind, beside: Sequence[Compared]) -> dict[str, Any]:
    groups: list[dict[str, Any]] = []
    starts: set[int] = set()  # the columns with which a group begins
    for (title, published), members in groupby(table.columns, key=lambda head: (head.group, head.published)):
        starts.add(sum(group["width"] for group in groups))
        groups.append({"title": title, "published": published, "width": len(list(members))})
    ids = cell_ids(table, anchor)
    behind.add(table, anchor, ids, beside)
    headings = [row.group for row in table.rows]
    return {
        "id": anchor,
        "name": table.name,
        "part": table.part,
        "full_title": table.full_title,
        "caption": table.caption,
        "protocol": table.protocol,
        "row_title": table.row_title,
        "headed": any(head.group for head in table.columns),
        "groups": groups,
        "forms": list(FORMS),
        "columns": [
            {
                "title": head.title,
                "marks": "".join(head.marks),
                "metric": head.metric,
                "better": head.better,
                "published": head.published,
                "first": "ascending" if head.better == "lower" else "descending",  # the best comes first
                "starts": index in starts,
            }
            for index, head in enumerate(table.columns)
        ],
        "footnotes": table.footnotes,
        "notes": table.notes,
        "rows": [
            {
                "title": row.short or row.title,
                "marks": "".join(row.marks),
                "group": heading,
                "opens": bool(heading) and (r == 0 or headings[r - 1] != heading),
                "cells": [
                    _cell(cell, head, name, index in starts)
                    for index, (cell, head, name) in enumerate(zip(cells, table.columns, names, strict=True))
                ],
            }
            for r, (row, heading, cells, names) in enumerate(
                zip(table.rows, headings, table.cells, ids, strict=True)
            )
        ],
    }


def cell_ids(table: Table, anchor: str) -> list[list[str]]:
    """[row][column] -> the cell's name in the page, made of row and column so that a link to it outlives new rows."""
    columns = _distinct([_id(head.full) for head in table.columns])
    rows = _distinct([_id(row.title) for row in table.rows])
    return [[f"{anchor}--{row}--{column}" for column in columns] for row in rows]


def _distinct(names: Sequence[str]) -> list[str]:
    """Equal names get a number."""
    found: list[str] = []
    for name in names:
        beginning, count = name or "x", 1
        name = beginning
        while name in found:
            count += 1
            name = f"{beginning}-{count}"
        found.append(name)
    return found


def _cell(cell: Cell, head: Head, anchor: str, starts: bool) -> dict[str, Any]:
    rank = {0: "", 1: "best", 2: "second"}[cell.rank]
    kinds = ["published" if head.published else "", "waits" if cell.waits else "", "starts" if starts else ""]
    classes = [rank, *kinds, "open" if cell.text or cell.waits else ""]
    if cell.kind == "published":
        hint = cell.source
    elif cell.n:
        hint = f"n = {cell.n} of {cell.expected} seeds"
    else:
        hint = cell.waits
    return {
        "id": anchor,
        "text": cell.text,
        "value": number(cell.mean),
        "marks": "".join(cell.marks),
        "classes": " ".join(name for name in classes if name),
        "hint": hint,
    }


def inline_svg(text: str, prefix: str) -> str:
    """An SVG file as part of a page: own names for its ids, the page's colours for ink, grid and paper, width by the page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"\n\s*", "\n", text)
    text = re.sub(r'(<svg\b[^>]*?)\swidth="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?)\sheight="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    for color, name in ((INK, "ink"), (GRID, "grid"), (MUTED, "muted"), (PAPER, "paper")):
        text = text.replace(color, f"var(--{name})")
    box = re.search(r'viewBox="0 0 ([\d.]+)', text)
    width = round(float(box[1]) * SCREEN) if box else 800
    return text.replace("<svg", f'<svg aria-hidden="true" focusable="false" style="max-width: {width}px"', 1)


def _id(*parts: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", "--".join(parts).lower().replace("_", "-")).strip("-")
