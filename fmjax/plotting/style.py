"""The look of all pictures, and the file that a picture is written to; Matplotlib is imported when one is drawn."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of Okabe and Ito, which colour-blind readers can tell apart."""

LINE_STYLES = ("-", "--", "-.", ":")
"""Styles of lines beyond as many as there are colours."""

STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "font.size": 9,
}

Path = str | PathLike[str]
Item = TypeVar("Item")


def pyplot() -> ModuleType:
    """Matplotlib's pyplot.

    Raises:
      ValueError: Matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError:
        raise ValueError("drawing needs matplotlib: pip install 'fmjax[plots]'") from None
    return pyplot


def axes_or_new(ax: "Axes | None") -> "Axes":
    """These axes; for None those of a new figure in the house's style."""
    return new_axes()[0, 0] if ax is None else ax


def new_axes(rows: int = 1, columns: int = 1, size: tuple[float, float] = (5.5, 4)) -> np.ndarray:
    """``[rows, columns]`` axes of a new figure in the house's style."""
    drawing = pyplot()
    figure = drawing.figure(figsize=size, layout="constrained")  # what it sets for notebooks is to outlast the context
    with drawing.rc_context(STYLE):
        return figure.subplots(rows, columns, squeeze=False)


@contextmanager
def picture(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """A new figure in the house's style, written to ``path`` once it is drawn, and closed whatever happens."""
    drawing = pyplot()
    with drawing.rc_context(STYLE):
        figure = drawing.figure(figsize=(width, height), layout="constrained")
        try:
            yield figure
            figure.savefig(path, dpi=150)
        finally:
            drawing.close(figure)


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many items, evenly spread from the first to the last.

    >>> evenly("abcde", 3)
    ['a', 'c', 'e']
    """
    index = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[i] for i in np.unique(index)]


def color_of(index: int) -> str:
    """Colour of a series."""
    return COLORS[index % len(COLORS)]


def look_of(index: int) -> dict[str, Any]:
    """Colour and style of a line; the style changes where the colours begin anew."""
    return {"color": color_of(index), "ls": LINE_STYLES[index // len(COLORS) % len(LINE_STYLES)]}


def title(ax: "Axes", text: str, size: float = 9) -> None:
    """A title at the left."""
    ax.set_title(text, loc="left", fontsize=size)


def legend(ax: "Axes", **options: Any) -> None:
    """A small legend without a frame, where anything has a label; a long one stands beside the axes."""
    count = len(ax.get_legend_handles_labels()[1])
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if count > len(COLORS) else {}
    if count:
        ax.legend(**{"fontsize": 7, "frameon": False, **beside, **options})


def legend_below(figure: "Figure", panels: Sequence["Axes"]) -> None:
    """One legend below the figure in place of those of panels that show the same series."""
    handles, labels = panels[0].get_legend_handles_labels()
    for ax in panels:
        if (own := ax.get_legend()) is not None:
            own.remove()
    if labels:
        across = int(figure.get_figwidth() / (0.7 + 0.07 * max(map(len, labels))))
        columns = max(1, min(across, len(labels)))
        figure.legend(handles, labels, fontsize=7, frameon=False, loc="outside lower center", ncols=columns)


def log_ticks(axis: "Axis", values: ArrayLike = ()) -> None:
    """Ticks of a log axis as plain numbers: at a few given values, else at round ones."""
    from matplotlib import ticker

    low, high = axis.get_view_interval()
    narrow, at = high < 15 * low, np.unique(np.asarray(values, float))
    subs = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0) if narrow else (1.0, 2.0, 5.0)
    few = 0 < at.size <= 6 and np.all(at[1:] > 1.15 * at[:-1])
    axis.set_major_locator(ticker.FixedLocator(at.tolist()) if few else ticker.LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(ticker.NullLocator())
