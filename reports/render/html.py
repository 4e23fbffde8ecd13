"""Tables and drawings -> one self-contained page: inline style, inline SVG, no script, no network. Opens from disk.

A number is a button; what stands behind it (runs, seeds, formula, interval) opens beside it by the browser's own popover, so
mouse and keyboard work alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from reports.figures import GRID, INK, MUTED, PAPER, Drawing
from reports.statistics import LEVEL
from reports.tables import Cell, Head, Table

TEMPLATES = Path(__file__).parent / "templates"
SCREEN = 1.5  # pixels of the page per point of a drawing
INTERVALS = {
    "t": f"Student-t interval of the mean over seeds, {LEVEL:.0%}",
    "wilson": f"Wilson interval over the test images of one model, {LEVEL:.0%}",
    "worst": f"Simultaneous interval for the true worst class, over the test images of one model, {LEVEL:.0%}",
}


@dataclass
class Item:
    """One spec of one sweep: its tables (one per protocol) and its drawing."""

    name: str
    title: str
    question: str
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    files: Sequence[tuple[str, str]] = ()  # (shown, link)


@dataclass
class Section:
    """One sweep."""

    sweep: str
    summary: str
    items: list[Item] = field(default_factory=list)


def render(
    sections: Sequence[Section], *, title: str, lede: str, footer: str, waiting: Sequence[str] = ()
) -> str:
    """The page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html.j2")
    return page.render(
        title=title,
        lede=lede,
        footer=footer,
        css=(TEMPLATES / "page.css").read_text(encoding="utf-8"),
        sections=[_section(section) for section in sections],
        waiting=list(waiting),
    )


def _section(section: Section) -> dict[str, Any]:
    return {
        "id": _id(section.sweep),
        "sweep": section.sweep,
        "summary": section.summary,
        "items": [_item(section, item) for item in section.items],
    }


def _item(section: Section, item: Item) -> dict[str, Any]:
    anchor = _id(section.sweep, item.name)
    return {
        "id": anchor,
        "title": item.title,
        "question": item.question,
        "tables": [_table(table, f"{anchor}-{table.part}") for table in item.tables],
        "drawings": [
            {
                "svg": inline_svg(drawing.files["svg"].decode(), anchor),
                "alt": drawing.alt,
                "caption": drawing.caption,
                "protocol": drawing.protocol,
            }
            for drawing in item.drawings
            if "svg" in drawing.files
        ],
        "files": list(item.files),
    }


def _table(table: Table, anchor: str) -> dict[str, Any]:
    groups = []
    for (title, published), members in groupby(table.columns, key=lambda head: (head.group, head.published)):
        groups.append({"title": title, "published": published, "width": len(list(members))})
    return {
        "name": table.name,
        "part": table.part,
        "full_title": table.full_title,
        "caption": table.caption,
        "protocol": table.protocol,
        "row_title": table.row_title,
        "grouped": any(head.group for head in table.columns),
        "groups": groups,
        "columns": table.columns,
        "footnotes": table.footnotes,
        "notes": table.notes,
        "rows": [
            {
                "title": row.title,
                "cells": [
                    _cell(cell, head, f"{anchor}-r{r}c{c}")
                    for c, (cell, head) in enumerate(zip(cells, table.columns, strict=True))
                ],
            }
            for r, (row, cells) in enumerate(zip(table.rows, table.cells, strict=True))
        ],
    }


def _cell(cell: Cell, head: Head, anchor: str) -> dict[str, Any]:
    rank = {0: "", 1: "best", 2: "second"}[cell.rank]
    classes = [rank, "published" if head.published else "", "waits" if cell.waits else ""]
    if cell.kind == "published":
        hint = cell.source
    elif cell.n:
        hint = f"n = {cell.n} of {cell.expected} seeds; click for runs and formula"
    else:
        hint = cell.waits
    interval = ""
    if cell.low is not None and cell.high is not None and cell.kind in INTERVALS:
        interval = f"{INTERVALS[cell.kind]}: {cell.low:.2f} to {cell.high:.2f}{head.unit}; n = {cell.n}."
    elif cell.n:
        interval = f"No interval; n = {cell.n}."
    weights = head.metric.split("/", 1)[0]
    return {
        "id": anchor,
        "text": cell.text,
        "marks": "".join(cell.marks),
        "classes": " ".join(name for name in classes if name),
        "popover": bool(cell.values),
        "hint": hint,
        "column": head.full,
        "unit": f" {head.unit}".rstrip(),
        "formula": head.formula[:1].upper() + head.formula[1:],
        "interval": interval,
        "weights": weights if head.unit else "",
        "seeds": [
            {
                "seed": "–" if value.file else value.seed,
                "text": f"{value.value:.2f}",
                "run": value.run_id[:12],
                "trial": value.fingerprint[:12],
            }
            for value in cell.values
        ],
    }


def inline_svg(text: str, prefix: str) -> str:
    """An SVG file as part of a page: own names for its ids, the page's colours for ink, grid and paper, width by the page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
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
