"""How every figure looks, and how it becomes a file: the same bytes for the same numbers.

Colours are those of Okabe and Ito (2008), told apart by all common kinds of colour vision; markers, hatches and line styles
repeat the distinction for readers of grey prints. Heat maps use a scale whose lightness only falls.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

INK, GRID, MUTED, PAPER = (
    "#1c1e21",
    "#d7dade",
    "#6b7075",
    "#fefefe",
)  # the page replaces them by its own, light or dark
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#8c6d1f", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "----", "++", "oo")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (8, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
)
PERCENT = 100.0
COLUMN, PAGE = 3.35, 7.0  # inches: one column of a two-column paper, and both
SEQUENTIAL = ("#f7f4e9", "#c9dcc3", "#86bcb0", "#4a93a5", "#2a6690", "#1d3c6b", "#0f1b3d")  # light to dark
LEGEND_COLUMNS = 4
WIDE_LEGEND = 6  # columns, of short names
PIXELS_PER_INCH = 160  # of what is drawn as pixels in an SVG
LEGEND_SIZE = 8.0  # points
NUMBER = r"-?[\d.]+"
CURVE = rf"C(?: {NUMBER}){{6}} \n"
CIRCLE = re.compile(  # eight curves; the fourth ends opposite of the start
    rf"M ({NUMBER}) ({NUMBER}) \n(?:{CURVE}){{3}}C(?: {NUMBER}){{5}} ({NUMBER}) \n(?:{CURVE}){{4}}z"
)
LONG_NUMBER = re.compile(r"(?<!scale\()-?\b\d+\.\d{3,}\b")


@dataclass(frozen=True)
class Style:
    """How one method is drawn, everywhere alike."""

    color: str
    marker: str
    hatch: str
    dash: Any


def turns(count: int) -> list[Style]:
    """The first styles. Where there are more lines than colours a colour comes again with another marker and hatch."""
    return [
        Style(
            PALETTE[index % len(PALETTE)],
            MARKERS[(index + index // len(PALETTE)) % len(MARKERS)],
            HATCHES[(index + index // len(PALETTE)) % len(HATCHES)],
            DASHES[index % len(DASHES)],
        )
        for index in range(count)
    ]


def context() -> Any:
    """matplotlib's settings for the time of a drawing."""
    import matplotlib

    return matplotlib.rc_context(
        {
            "font.family": "DejaVu Sans",
            "font.size": 8.5,
            "axes.titlesize": 9,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 8.5,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.linewidth": 0.7,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "grid.color": GRID,
            "grid.linewidth": 0.6,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "xtick.major.size": 2.5,
            "ytick.major.size": 2.5,
            "legend.frameon": False,
            "legend.fontsize": LEGEND_SIZE,
            "lines.linewidth": 1.5,
            "hatch.linewidth": 0.6,
            "svg.hashsalt": "ham-sweeps",
            "svg.fonttype": "path",
            "pdf.fonttype": 42,
            "figure.dpi": 100,
        }
    )


def new_figure() -> Figure:
    """An empty figure whose parts make room for each other."""
    from matplotlib.figure import Figure

    return Figure(layout="constrained")


def saved(figure: Figure, form: str) -> bytes:
    """Bytes without date or version, so that equal numbers give equal files."""
    stream = io.BytesIO()
    options: dict[str, Any] = {
        "svg": {"metadata": {"Date": None, "Creator": None}, "transparent": True, "dpi": PIXELS_PER_INCH},
        "pdf": {
            "metadata": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
            "transparent": True,
        },
        "png": {"metadata": {"Software": None}, "dpi": 200, "facecolor": "white"},
    }[form]
    figure.savefig(stream, format=form, **options)
    return smaller(stream.getvalue()) if form == "svg" else stream.getvalue()


def smaller(svg: bytes) -> bytes:
    """The same picture to a hundredth of a point; circles as two arcs, not eight curves, as a dotted hatch has hundreds."""

    def circle(found: re.Match[str]) -> str:
        x, start, opposite = (float(number) for number in found.groups())
        r, across = abs(opposite - start) / 2, opposite - start
        return f"M {x:.2f} {start:.2f} a {r:.2f} {r:.2f} 0 1 0 0 {across:.2f} {r:.2f} {r:.2f} 0 1 0 0 {-across:.2f} z"

    text = CIRCLE.sub(circle, svg.decode())
    return LONG_NUMBER.sub(
        lambda found: f"{float(found[0]):.{2 if abs(float(found[0])) >= 1 else 4}f}", text
    ).encode()


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], most: int = LEGEND_COLUMNS) -> None:
    """One legend above all panels, in as many columns as the width of the figure has room for, but `most`."""
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=_columns(labels, figure.get_size_inches()[0] * 72, most),
        handlelength=2.4,
        columnspacing=1.6,
    )


def _columns(labels: Sequence[str], room: float, most: int = LEGEND_COLUMNS) -> int:
    """The most columns that stay within `room` points."""
    widths = [text_width(label) for label in labels]
    for columns in range(min(len(labels), most), 1, -1):
        rows, longer = divmod(len(labels), columns)  # the first columns have one more
        sizes = [rows + (index < longer) for index in range(columns)]
        ends = list(accumulate(sizes))
        widest = [max(widths[end - size : end]) for size, end in zip(sizes, ends, strict=True)]
        # beside each label: its line (2.4 em), the gap to it (0.8 em) and to the next column (1.6 em)
        if sum(widest) + columns * 4.8 * LEGEND_SIZE <= room:
            return columns
    return 1


def without_title(names: Sequence[str]) -> list[str]:
    """`AT, margin=1` -> `margin=1` where all names begin with the same title."""
    title = names[0].split(", ", 1)[0] if names else ""
    alike = len(names) > 1 and all(name.startswith(f"{title}, ") for name in names)
    return [name.removeprefix(f"{title}, ") if alike else name for name in names]


def text_width(text: str, size: float = LEGEND_SIZE) -> float:
    """Width of a line of text in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    width, _, _ = TextToPath().get_text_width_height_descent(text, FontProperties(size=size), False)
    return float(width)


def sequential() -> Colormap:
    """Light to dark, so that a grey print keeps the order."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("ham", list(SEQUENTIAL))


def ink_on(color: Sequence[float]) -> str:
    """Black or white, whichever is read better on this colour (red, green, blue in 0..1)."""
    red, green, blue = (float(part) for part in color[:3])
    return "#111111" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "#ffffff"


def spread(
    places: Sequence[float], gap: float, low: float = -math.inf, high: float = math.inf
) -> list[float]:
    """The places moved apart as little as needed for neighbours to be `gap` apart, their order kept, within low and high where
    there is room."""
    order = sorted(range(len(places)), key=lambda index: (places[index], index))
    blocks: list[tuple[float, int]] = []  # (middle, members), each block as tight as allowed
    for index in order:
        blocks.append((places[index], 1))
        while len(blocks) > 1:
            (before, few), (middle, more) = blocks[-2:]
            if before + (few - 1) / 2 * gap + gap <= middle - (more - 1) / 2 * gap:
                break
            blocks[-2:] = [((before * few + middle * more) / (few + more), few + more)]
    tight = [
        middle + (step - (members - 1) / 2) * gap for middle, members in blocks for step in range(members)
    ]
    tight = [max(place, low + step * gap) for step, place in enumerate(tight)]
    tight = [min(place, high - (len(tight) - 1 - step) * gap) for step, place in enumerate(tight)]
    moved = dict(zip(order, tight, strict=True))
    return [moved[index] for index in range(len(places))]


def end_labels(axes: Axes, ends: Sequence[tuple[float, float, str, str]], size: float = 7.0) -> None:
    """Name lines at their right ends: (x, y in data, text, colour), moved apart where they would touch."""
    if not ends:
        return
    low, high = axes.get_ylim()
    height = axes.figure.get_size_inches()[1] * 72 * 0.7  # points, about what is left to the axes
    point = (high - low) / height
    gap = min(size * 1.15, height / len(ends)) * point
    moved = spread([y for _, y, _, _ in ends], gap, low, high)
    for (x, y, text, color), place in zip(ends, moved, strict=True):
        axes.annotate(
            text,
            (x, y),
            (10, (place - y) / point),
            textcoords="offset points",
            va="center",
            fontsize=size,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2},
            annotation_clip=False,
        )
