"""Table -> LaTeX with booktabs. Best in bold, second underlined. Needs the package booktabs and UTF-8 input, nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from reports.tables import Cell, Head, Row, Table

# Letters that fit one column of a two-column page, and both; the space between two columns of a table, in letters; the
# width of a letter of the small type.
COLUMN, PAGE, GAP, TINY = 52, 110, 1.5, 0.72
SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "√": r"$\surd$",
    "⌈": r"$\lceil$",
    "⌉": r"$\rceil$",
    "Σ": r"$\Sigma$",
    "ε": r"$\varepsilon$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "λ": r"$\lambda$",
    "Λ": r"$\Lambda$",
    "ρ": r"$\rho$",
    "…": r"\ldots{}",
    "–": "--",
    "—": "---",
    "“": "``",
    "”": "''",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
    "§": r"$^{\S}$",
    "¶": r"$^{\P}$",
    "‖": r"$^{\|}$",
}


def escape(text: str) -> str:
    """Text for LaTeX: its special characters and the symbols our tables use."""
    return "".join(SPECIAL.get(character, character) for character in text)


def _note(text: str) -> str:
    """Running text: like `escape`, and what has slashes (addresses, metrics) may break after its punctuation."""
    words = []
    for word in text.split(" "):
        plain = escape(word)
        words.append(re.sub(r"([/.-]|\\_)", r"\1\\allowbreak{}", plain) if "/" in word else plain)
    return " ".join(words)


def render(tables: Sequence[Table]) -> str:
    """The parts of one table, one below the other."""
    return "\n".join(_one(table) for table in tables)


def _one(table: Table) -> str:
    everything = range(len(table.columns))
    wide = _width(table, everything) > COLUMN
    stacked = _width(table, everything) > PAGE
    environment = "table*" if wide else "table"
    label = f"{table.label}-{table.part}" if table.part else table.label
    lines = [
        f"% {table.question}  Built by: ham report {table.name}; needs the package booktabs.",
        rf"\begin{{{environment}}}[tb]",
        r"  \centering",
        rf"  \caption{{{escape(f'{table.full_title}. {table.caption} Protocol: {table.protocol}.')}}}",
        rf"  \label{{{label}}}",
        r"  \footnotesize" if wide else r"  \small",
        rf"  \setlength{{\tabcolsep}}{{{'3pt' if wide else '5pt'}}}",
    ]
    for index, panel in enumerate(_panels(table, stacked)):
        lines += [r"  \par\smallskip"] if index else []
        lines += _tabular(table, panel, stacked)
    lines.append(r"  \par\smallskip\begin{minipage}{\linewidth}\scriptsize\raggedright")
    lines += [f"  {escape(mark)}~{_note(text)}\\par" for mark, text in table.footnotes]
    lines += [f"  {_note(note)}\\par" for note in table.notes]
    lines += [r"  \end{minipage}", rf"\end{{{environment}}}", ""]
    return "\n".join(lines)


def _panels(table: Table, stacked: bool) -> list[list[int]]:
    """The columns that stand side by side: all of them, or, where they are wider than a page, panels one below the other."""
    panels: list[list[int]] = [[]]
    for _, members in groupby(range(len(table.columns)), key=lambda c: table.columns[c].group or c):
        group = list(members)
        if panels[-1] and _width(table, [*panels[-1], *group], stacked) > PAGE:
            panels.append([])
        panels[-1] += group
    return panels


def _width(table: Table, columns: Sequence[int], stacked: bool = False) -> float:
    """Letters of the widest line, roughly. `stacked`: intervals stand below the numbers, in small type."""

    def letters(cell: Cell) -> float:
        number, _, interval = cell.text.partition(" ")
        marks = len("".join(cell.marks)) / 2
        return max(len(number) + marks, TINY * len(interval)) if stacked else len(cell.text) + marks

    total = max((len(row.short or row.title) for row in table.rows), default=0)
    return total + sum(
        max([len(_plain_head(table.columns[c])), *(letters(line[c]) for line in table.cells)]) + GAP
        for c in columns
    )


def _plain_head(head: Head) -> str:
    return head.title + "".join(head.marks)


def _tabular(table: Table, columns: Sequence[int], stacked: bool) -> list[str]:
    heads = [table.columns[c] for c in columns]
    lines = [
        rf"  \begin{{tabular}}{{@{{}}l{'r' * len(heads)}@{{}}}}",
        r"    \toprule",
        *_heads(table.row_title, heads),
        r"    \midrule",
    ]
    group = ""
    for index, (row, cells) in enumerate(zip(table.rows, table.cells, strict=True)):
        if row.group != group and (index or row.short):
            lines += [r"    \midrule"] if index else []
            if row.short:
                span = len(heads) + 1
                lines.append(rf"    \multicolumn{{{span}}}{{@{{}}l}}{{\emph{{{escape(row.group)}}}}} \\")
        group = row.group
        lines += _row(row, [cells[c] for c in columns], stacked)
    return [*lines, r"    \bottomrule", r"  \end{tabular}"]


def _row(row: Row, cells: Sequence[Cell], stacked: bool) -> list[str]:
    """One line; of a table that is wider than the page two: the numbers, and below them their intervals in small type."""
    title = escape(" ".join((row.short or row.title, *row.marks)))
    if not stacked:
        return ["    " + " & ".join([title, *(_cell(cell, cell.text) for cell in cells)]) + r" \\"]
    split = [cell.text.partition(" ") for cell in cells]
    numbers = [_cell(cell, number) for cell, (number, _, _) in zip(cells, split, strict=True)]
    below = [rf"{{\tiny {escape(interval)}}}" if interval else "" for _, _, interval in split]
    return [
        "    " + " & ".join([title, *numbers]) + r" \\[-0.6ex]",
        "    " + " & ".join(["", *below]) + r" \\[0.3ex]",
    ]


def _heads(row_title: str, heads: Sequence[Head]) -> list[str]:
    titles = " & ".join([escape(row_title), *(escape(_plain_head(head)) for head in heads)]) + r" \\"
    if not any(head.group for head in heads):
        return [f"    {titles}"]
    groups, rules, start = [], [], 2
    for group, members in groupby(heads, key=lambda head: head.group):
        width = len(list(members))
        groups.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}" if group else " &" * (width - 1))
        if group:
            rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    return [f"    & {' & '.join(groups)} " + r"\\", f"    {''.join(rules)}", f"    {titles}"]


def _cell(cell: Cell, text: str) -> str:
    shown = escape(text)
    if cell.rank == 1:
        shown = rf"\textbf{{{shown}}}"
    elif cell.rank == 2:
        shown = rf"\underline{{{shown}}}"
    return shown + "".join(escape(mark) for mark in cell.marks)
