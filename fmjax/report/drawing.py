"""What charts are made of: plain data for Plotly, whose texts are escaped, for it reads tags and links in them."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fmjax.plotting import COLORS
from fmjax.report.markup import shortened

MOST_ROWS = 1000
"""Points of a line."""

LINE_COLORS = COLORS[:-1]
"""Without black, which cannot be seen on a dark page."""

DASHES = ("solid", "dash", "dot")
SYMBOLS = ("circle", "square", "diamond")

Chart = dict[str, Any]


def label(text: str, most: int = 60) -> str:
    """A text of others as a chart may show it: without tags, and without templates that Plotly would fill in.

    >>> label("<b>%{x}")
    '&lt;b&gt;&#37;{x}'
    """
    shown = shortened(text.encode("utf-8", "replace").decode("utf-8"), most)
    return html.escape(shown, quote=False).replace("%", "&#37;")


def short_names(names: Sequence[str]) -> list[str]:
    """Names for a legend, without the words that all begin with.

    >>> short_names(["0.1M-lr0.001-cosine", "0.1M-lr0.001-constant"])
    ['cosine', 'constant']
    """
    first, last = (f"{name} " for name in (min(names), max(names)))
    alike = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    begin = max(first.rfind(mark, 0, alike) for mark in "-_/ ") + 1
    return [label(name[begin:], 24) for name in names]


def spread_evenly(count: int, most: int, *kept: int) -> np.ndarray:
    """At most ``most`` indices below ``count``, evenly spread, with those to be kept among them.

    >>> spread_evenly(10, 4, 5).tolist()
    [0, 4, 5, 9]
    """
    if count <= most:
        return np.arange(count)
    even = np.linspace(0, count - 1, max(most - len(kept), 1)).round().astype(int)
    return np.unique(np.append(even, kept).astype(int))


def short(values: ArrayLike) -> list[float]:
    """Numbers of six digits, which make a page shorter."""
    return [float(f"{x:.6g}") for x in np.asarray(values, float).ravel().tolist()]


def style(i: int) -> tuple[str, str, str]:
    """Colour, dash and symbol of the i-th line of a chart."""
    turn = i // len(LINE_COLORS) % len(DASHES)
    return LINE_COLORS[i % len(LINE_COLORS)], DASHES[turn], SYMBOLS[turn]


def axes(x: str, y: str) -> Chart:
    """A layout with titles of both axes."""
    return {"xaxis": {"title": {"text": x}, "exponentformat": "none"}, "yaxis": {"title": {"text": y}}}
