"""What stands behind each cell, as data for the page's script: runs, seeds, weights, formula, protocol, interval, source.

Each trial is written once, however many cells it stands behind; what is empty is left out.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reports.comparison import Compared
from reports.render import csv, latex, markdown
from reports.selection import rule_of
from reports.statistics import LEVEL
from reports.tables import Cell, Head, Table

INTERVALS = {
    "t": f"Student-t interval of the mean over seeds, {LEVEL:.0%}",
    "wilson": f"Wilson interval over the test images of one model, {LEVEL:.0%}",
    "worst": f"Simultaneous interval for the true worst class, over the test images of one model, {LEVEL:.0%}",
}
FORMS = {"LaTeX": latex.render, "Markdown": markdown.render, "CSV": csv.render}  # button -> what it copies


@dataclass
class Behind:
    """Filled table by table; `text` is the page's data block."""

    mlflow: str
    trials: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, table: Table, anchor: str, ids: list[list[str]], beside: Sequence[Compared] = ()) -> None:
        """One table; `ids`: the name of each of its cells in the page; `beside`: published values beside its cells."""
        said = list(
            dict.fromkeys(
                text
                for row, cells in zip(table.rows, table.cells, strict=True)
                for text in (*row.remarks, *(text for cell in cells for text in cell.remarks))
            )
        )
        self.tables[anchor] = {
            "title": table.full_title,
            "sweep": table.sweep,
            "protocol": table.protocol,
            "rows": [row.title for row in table.rows],
            "rowTitle": table.row_title,
            "columns": [_column(head) for head in table.columns],
            "remarks": said,
            "texts": {name: render([table]) for name, render in FORMS.items()},
        }
        for r, (names, cells) in enumerate(zip(ids, table.cells, strict=True)):
            for c, (name, cell) in enumerate(zip(names, cells, strict=True)):
                theirs = [
                    _published(one)
                    for one in beside
                    if one.row is table.rows[r] and one.beside == table.columns[c].metric
                ]
                remarks = [said.index(text) for text in (*cell.remarks, *table.rows[r].remarks)]
                about = {"table": anchor, "r": r, "c": c, "published": theirs, "remarks": remarks}
                self.cells[name] = _without_empty(about | self._cell(cell, table, r, c))

    def _cell(self, cell: Cell, table: Table, r: int, c: int) -> dict[str, Any]:
        head = table.columns[c]
        command = ["ham", "explain", table.name, table.rows[r].title, head.full, "--sweep", table.sweep]
        bounds = cell.low is not None and cell.high is not None and cell.kind != "published"
        return {
            "text": cell.text,
            "mean": cell.mean,
            "low": cell.low if bounds else None,
            "high": cell.high if bounds else None,
            "interval": INTERVALS.get(cell.kind, f"interval, {LEVEL:.0%}") if bounds else "",
            "n": cell.n,
            "expected": cell.expected,
            "rank": cell.rank,
            "waits": cell.waits,
            "missing": list(cell.missing),
            "source": cell.source,
            "values": [
                [self._trial(value.fingerprint, value.run_id, value), round(value.value, 6)]
                for value in cell.values
            ],
            "command": "" if head.published else shlex.join(command),
        }

    def _trial(self, fingerprint: str, run_id: str, value: Any) -> int:
        """Its place in the list of trials."""
        known = self.trials.setdefault(
            (fingerprint, run_id),
            _without_empty(
                {
                    "at": len(self.trials),
                    "trial": fingerprint,
                    "run": run_id,
                    "experiment": value.experiment_id,
                    "seed": value.file or value.seed,
                    "commit": value.commit,
                }
            ),
        )
        return int(known["at"])

    @property
    def text(self) -> str:
        """JSON that cannot end the script element it stands in."""
        data = {
            "mlflow": self.mlflow.rstrip("/"),
            "trials": list(self.trials.values()),
            "tables": self.tables,
            "cells": self.cells,
        }
        return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _published(one: Compared) -> dict[str, Any]:
    return _without_empty(
        {
            "text": one.value.text,
            "paper": f"{one.value.paper.short}, {one.value.table.where}",
            "source": one.value.source,
            "difference": "" if one.difference is None else f"{one.difference:+.1f}",
            "verdict": one.verdict,
            "reasons": "; ".join(one.reasons),
        }
    )


def _column(head: Head) -> dict[str, Any]:
    weights = head.metric.split("/", 1)[0]
    rule = rule_of(weights)
    return _without_empty(
        {
            "name": head.full,
            "metric": "" if head.published else head.metric,
            "unit": head.unit,
            "formula": head.formula[:1].upper() + head.formula[1:],
            "published": head.published,
            "weights": weights if rule else "",
            "rule": rule,
        }
    )


def _without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None, empty or False; numbers stay, 0 among them."""
    return {key: value for key, value in values.items() if value or (value == 0 and value is not False)}
