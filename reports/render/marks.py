"""The marks of a drawing and their values: names and titles inside its SVG, for readers and for the page's script.

`Drawing.data` holds the numbers of series and marks; in the SVG the element `pt-S-I` lies over the I-th mark of series S, and
`sr-S-N` is what is drawn of the series. A mark gets a `<title>`, which browsers show on hover where no script runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

MARK = re.compile(r'<(circle|rect|g|path|use)\b([^>]*?)\bid="pt-(\d+)-(\d+)"([^>]*?)(/?)>')
DRAWN = re.compile(r'\bid="sr-(\d+)-\d+"')


def with_values(svg: str, data: Mapping[str, Any] | None) -> str:
    """The SVG with its marks named and titled; as it was where there are no data."""
    if not data:
        return svg
    titles = dict(titles_of(data))
    names = [str(series["name"]) for series in data["series"]]

    def mark(found: re.Match[str]) -> str:
        tag, before, series, index, after, closed = found.groups()
        lines = titles.get((int(series), int(index)))
        if lines is None:
            return found[0]
        name = escape(names[int(series)])
        own = f'data-mark="{series}-{index}" data-series="{series}" data-name="{name}"'
        title = f"<title>{escape(chr(10).join(lines))}</title>"
        opened = f'<{tag}{before}id="pt-{series}-{index}" {own}{after}>{title}'
        return f"{opened}</{tag}>" if closed else opened

    return DRAWN.sub(lambda found: f'{found[0]} data-series="{found[1]}"', MARK.sub(mark, svg))


def titles_of(data: Mapping[str, Any]) -> Iterator[tuple[tuple[int, int], list[str]]]:
    """((series, index), lines) of each mark: the series, its panel and what the mark is; then the values with their names."""
    names = {axis: str(data.get(axis) or axis) for axis in ("x", "y")}
    for s, series in enumerate(data["series"]):
        name = str(series["name"])
        for index, y in enumerate(series["y"]):
            x, low, high, label = (_at(series.get(key), index) for key in ("x", "low", "high", "label"))
            what = str(label or "").removeprefix(name).lstrip(", :").partition(":")[0]
            parts = [name, series.get("panel"), what if what != number(x) else ""]
            interval = "" if low is None or high is None else f" ({number(low)} to {number(high)})"
            lines = [" · ".join(str(part) for part in parts if part)]
            lines += [f"{names['x']}: {number(x)}"] if x is not None else []
            lines += [f"{names['y']}: {number(y)}{interval}"] if y is not None else []
            yield (s, index), lines


def _at(values: Any, index: int) -> Any:
    known = isinstance(values, Sequence) and not isinstance(values, str) and index < len(values)
    return values[index] if known else None


def number(value: Any) -> str:
    """At most two decimals for a number, else the text."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"
