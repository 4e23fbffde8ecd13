"""Methods over data sets: a column per data set, the rank on each, the average rank, and which differences of ranks count.

    r_ij  rank of method j on data set i, 1 = best, ties share their mean;  R_j = (1/N) Σ_i r_ij, N data sets, k methods
    Friedman's test: do the methods differ at all?                        (Friedman, JASA 1937)
    Nemenyi's critical difference: CD = q_α sqrt(k(k + 1) / (6N)),  q_α the studentised range of k and ∞ over √2; methods whose
    average ranks are less than CD apart are not told apart                (Demšar, JMLR 2006)

Only methods that have a number on every data set are ranked; of the others the table says what they wait for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reports.statistics import LEVEL
from reports.tables import (
    Cell,
    Head,
    Table,
    cell_of,
    head_of,
    lines_of,
    rank,
    settings_of,
    tables_of,
    with_marks,
)

if TYPE_CHECKING:
    from reports.collect import Material, Protocol, Trial
    from reports.spec import Spec


@dataclass(frozen=True)
class Ranks:
    """Average ranks of k methods over N data sets. `difference`: how far two must lie apart; None where k or N is below 2."""

    average: tuple[float, ...]
    blocks: int
    difference: float | None
    p: float | None  # Friedman's

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """Largest sets of methods that are not told apart, each at least two: places in the order of `average`, best first."""
        if self.difference is None:
            return []
        order = sorted(range(len(self.average)), key=lambda j: self.average[j])
        found: list[tuple[int, ...]] = []
        for first in range(len(order)):
            group = [
                j
                for j in order[first:]
                if self.average[j] - self.average[order[first]] <= self.difference + 1e-12
            ]
            if len(group) > 1 and not any(set(group) <= set(other) for other in found):
                found.append(tuple(group))
        return found


def ranks_of(values: Sequence[Sequence[float]], level: float = LEVEL) -> Ranks:
    """values [data set][method], larger is better -> average ranks, critical difference and Friedman's p."""
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    blocks, methods = len(values), len(values[0]) if values else 0
    if not methods:
        return Ranks((), blocks, None, None)
    ranks = [rankdata([-value for value in block]) for block in values]
    average = tuple(float(sum(block[j] for block in ranks) / blocks) for j in range(methods))
    if blocks < 2 or methods < 2:
        return Ranks(average, blocks, None, None)
    q = float(studentized_range.ppf(level, methods, math.inf)) / math.sqrt(2)
    difference = q * math.sqrt(methods * (methods + 1) / (6 * blocks))
    p = None
    if methods > 2:
        p = float(friedmanchisquare(*([block[j] for block in values] for j in range(methods))).pvalue)
        p = None if math.isnan(p) else p
    return Ranks(average, blocks, difference, p)


def ranks_in(spec: Spec, material: Material) -> tuple[list[str], Ranks]:
    """Titles of the ranked methods and their ranks, as the spec's table has them."""
    (table,) = tables_of(spec, material)
    complete = [r for r, cells in enumerate(table.cells) if cells[-1].mean is not None]
    blocks = range(len(table.columns) - 1)
    values = [[table.cells[r][block].mean or 0.0 for r in complete] for block in blocks]
    return [table.rows[r].title for r in complete], ranks_of(values)


def ranked(
    spec: Spec, material: Material, groups: Sequence[tuple[Protocol | None, Sequence[Trial]]]
) -> Table:
    """One table over all data sets: each protocol is a column, so no column holds two."""
    assert spec.ranking is not None
    (column,) = spec.shown
    blocks = [(protocol, lines_of(spec, trials)) for protocol, trials in groups]
    first = {line.row.key: line for _, lines in reversed(blocks) for line in lines}
    keys = list(dict.fromkeys(line.row.key for _, lines in blocks for line in lines))
    cells: list[list[Cell]] = [[] for _ in keys]
    for _, lines in blocks:
        by_key = {line.row.key: line for line in lines}
        for place, key in enumerate(keys):
            line = by_key.get(key)
            cells[place].append(
                Cell()
                if line is None
                else cell_of(spec, column.of_average(line.row.average), line, material, {})
            )
    heads = [replace(head_of(column), group=column.title, title=_title(protocol)) for protocol, _ in blocks]
    for index in range(len(heads)):
        rank([mine[index] for mine in cells], column.direction, cells, index)
    complete = [place for place, mine in enumerate(cells) if all(cell.mean is not None for cell in mine)]
    found = ranks_of(
        [[cells[place][block].mean or 0.0 for place in complete] for block in range(len(blocks))]
    )
    ranks = dict(zip(complete, found.average, strict=True))
    for place, mine in enumerate(cells):
        mine.append(_rank_cell(ranks[place], mine) if place in ranks else Cell())
    heads.append(_rank_head(column.metric[0]))
    rank([mine[-1] for mine in cells], "lower", cells, len(heads) - 1)
    rows = [replace(first[key].row, settings=settings_of(first[key].trials)) for key in keys]
    return with_marks(
        Table(
            name=spec.name,
            sweep=material.sweep,
            title=spec.title,
            caption=spec.caption,
            question=spec.question,
            label=spec.label,
            protocol="one column per data set: "
            + "; ".join(p.text if p is not None else "no run yet" for p, _ in blocks),
            row_title=spec.rows.title,
            rows=tuple(rows),
            columns=tuple(heads),
            cells=tuple(tuple(mine) for mine in cells),
            footnotes=(),
            notes=(_verdict(found, len(complete)), *spec.notes),
        )
    )


def _rank_cell(mean: float, behind: Sequence[Cell]) -> Cell:
    values = tuple(value for cell in behind for value in cell.values)
    return Cell(text=f"{mean:.2f}", mean=mean, n=len(values), expected=len(values), values=values)


def _title(protocol: Protocol | None) -> str:
    return (protocol.get("data.label") if protocol is not None else None) or "no run yet"


def _rank_head(metric: str) -> Head:
    formula = f"mean over the data sets of the rank by {metric}, 1 = best, ties share their mean"
    return Head("average rank", "", f"rank:{metric}", "", "lower", formula)


def _verdict(found: Ranks, methods: int) -> str:
    """What the ranks say, and how little a few data sets can tell."""
    start = f"{methods} methods ranked on {found.blocks} data set{'' if found.blocks == 1 else 's'}"
    if found.difference is None:
        return f"{start}: too few to tell methods apart."
    friedman = "" if found.p is None else f" Friedman's test of no difference at all: p = {found.p:.3g}."
    return (
        f"{start}. Average ranks that are less than {found.difference:.2f} apart are not told apart (Nemenyi, {LEVEL:.0%})."
        f"{friedman}"
    )
