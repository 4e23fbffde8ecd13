"""Remarks on cells -> footnotes, each said once and at the widest place where it holds: table, column, row or cell.

What holds for every number of a table is a note below it; what holds for every number of a column is marked at its head; only
the rest is marked at the cell. A cell keeps all of its remarks, so whoever asks about it gets them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MARKS = "†‡§¶‖"

Texts = Sequence[str]


@dataclass(frozen=True)
class Marked:
    """The marks of heads, rows and cells, the footnotes behind them, and what holds everywhere."""

    heading: tuple[str, ...]
    heads: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[str, ...], ...]
    cells: tuple[tuple[tuple[str, ...], ...], ...]
    footnotes: tuple[tuple[str, str], ...]  # (mark, text), in the order in which a reader meets them
    notes: tuple[str, ...]


@dataclass
class _Footnotes:
    marks: dict[str, str] = field(default_factory=dict)  # text -> mark

    def of(self, texts: Texts) -> tuple[str, ...]:
        """The marks of some texts; a new text gets the next one: †, ‡, ..., ††, ..."""
        for text in texts:
            place = len(self.marks)
            self.marks.setdefault(text, MARKS[place % len(MARKS)] * (place // len(MARKS) + 1))
        return tuple(self.marks[text] for text in texts)


def marked(
    cells: Sequence[Sequence[Texts]],
    shown: Sequence[Sequence[bool]],
    rows: Sequence[Texts],
    heading: Texts = (),
) -> Marked:
    """Where each remark is marked.

    cells [row][column]: the remarks of each; shown: whether the cell prints a number, since an empty one holds no remark back;
    rows: the remarks on whole rows; heading: those on what the table as a whole is.
    """
    width = len(cells[0]) if cells else 0
    columns = [[line[c] for line, seen in zip(cells, shown, strict=True) if seen[c]] for c in range(width)]
    everywhere = _common([texts for column in columns for texts in column])
    of_column = [[text for text in _common(column) if text not in everywhere] for column in columns]
    footnotes = _Footnotes()
    above = footnotes.of(heading)
    heads = tuple(footnotes.of(texts) for texts in of_column)
    row_marks, cell_marks = [], []
    for texts, line, seen in zip(rows, cells, shown, strict=True):
        row_marks.append(footnotes.of(texts))
        hoisted = [{*everywhere, *of_column[c]} if seen[c] else set() for c in range(width)]
        cell_marks.append(
            tuple(
                footnotes.of([text for text in own if text not in said])
                for own, said in zip(line, hoisted, strict=True)
            )
        )
    return Marked(
        above,
        heads,
        tuple(row_marks),
        tuple(cell_marks),
        tuple((mark, text) for text, mark in footnotes.marks.items()),
        tuple(f"Every number: {text[:1].lower()}{text[1:]}" for text in everywhere),
    )


def _common(remarks: Sequence[Texts]) -> list[str]:
    """The texts that all of several cells have; one cell alone keeps its own."""
    if len(remarks) < 2:
        return []
    return [text for text in remarks[0] if all(text in other for other in remarks[1:])]
