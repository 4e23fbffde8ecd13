"""Table -> LaTeX with booktabs. Best in bold, second underlined. Needs the package booktabs and UTF-8 input, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from reports.tables import Cell, Table

WIDE = 7  # columns from which a table spans both columns of a page
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
    """Running text: like `escape`, and addresses may break after a slash or a dash."""
    words = []
    for word in text.split(" "):
        plain = escape(word)
        words.append(
            plain.replace("/", "/\\allowbreak{}").replace("-", "-\\allowbreak{}") if "://" in word else plain
        )
    return " ".join(words)


def render(tables: Sequence[Table]) -> str:
    """The parts of one table, one below the other."""
    return "\n".join(_one(table) for table in tables)


def _one(table: Table) -> str:
    wide = len(table.columns) >= WIDE
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
        rf"  \begin{{tabular}}{{@{{}}l{'r' * len(table.columns)}@{{}}}}",
        r"    \toprule",
        *_heads(table),
        r"    \midrule",
    ]
    for index, (row, cells) in enumerate(zip(table.rows, table.cells, strict=True)):
        if index and row.group != table.rows[index - 1].group:
            lines.append(r"    \midrule")
        title = escape(row.title + "".join(row.marks))
        lines.append("    " + " & ".join([title, *(_cell(cell) for cell in cells)]) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    lines.append(r"  \par\smallskip\begin{minipage}{\linewidth}\scriptsize")
    lines += [f"  {escape(mark)}~{escape(text)}\\par" for mark, text in table.footnotes]
    lines += [f"  {_note(note)}\\par" for note in table.notes]
    lines += [r"  \end{minipage}", rf"\end{{{environment}}}", ""]
    return "\n".join(lines)


def _heads(table: Table) -> list[str]:
    titles = " & ".join([escape(table.row_title), *(escape(head.title) for head in table.columns)]) + r" \\"
    if not any(head.group for head in table.columns):
        return [f"    {titles}"]
    groups, rules, start = [], [], 2
    for group, members in groupby(table.columns, key=lambda head: head.group):
        width = len(list(members))
        groups.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}" if group else " &" * (width - 1))
        if group:
            rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    return [f"    & {' & '.join(groups)} " + r"\\", f"    {''.join(rules)}", f"    {titles}"]


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.rank == 1:
        text = rf"\textbf{{{text}}}"
    elif cell.rank == 2:
        text = rf"\underline{{{text}}}"
    return text + "".join(escape(mark) for mark in cell.marks)
