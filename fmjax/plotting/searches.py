"""Pictures of a search: the best annealing ratio and the loss there, against peak rate or number of updates."""

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from fmjax._names import LEVEL
from fmjax.plotting.maps import losses_by_rate_and_ratio
from fmjax.plotting.style import Path, axes_or_new, evenly, legend, legend_below, log_ticks, look_of, picture, title
from fmjax.searching.results import NEAR, Cell, SearchResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {"peak_lr": "peak learning rate", "total_steps": "updates"}
FORMS = {
    **{"model_size": "{:.3g} parameters", "tokens_per_step": "{:.3g} tokens a step"},
    **{"total_steps": "{} updates", "decay": "{}", "final_lr": "final rate {:g}"},
}
"""How labels name what differs between series."""


def best_ratios(found: SearchResult, ax: "Axes | None" = None, *, most: int = 6) -> "Axes":
    """Best annealing ratio against peak rate, or against updates where there is one peak rate.

    One line for each of what else differs, at most ``most`` of them; near-optimal ratios are shaded, bootstrap
    intervals of the best are bars, and best ratios at the edge of those searched are open circles.
    """
    ax, (against, series) = axes_or_new(ax), _series(found, most)
    for i, (label, cells) in enumerate(series.items()):
        x = _column(cells, against)
        _band(x, _column(cells, "interval"), i, ax)
        _points(x, _column(cells, "best_ratio"), cells, i, label, ax)
        _bars(x, [cell.ratio_interval for cell in cells], i, ax)
    _finish(series, against, ax)
    ax.set(ylabel="best annealing ratio")
    title(ax, f"best ratio{_bars_of(found)}; shaded: within {NEAR:g} of the best loss")
    return ax


def best_losses(found: SearchResult, ax: "Axes | None" = None, *, most: int = 6) -> "Axes":
    """Predicted final loss at the best annealing ratio, against the same and for the same lines as ``best_ratios``."""
    ax, (against, series) = axes_or_new(ax), _series(found, most)
    for i, (label, cells) in enumerate(series.items()):
        x = _column(cells, against)
        _points(x, _column(cells, "loss"), cells, i, label, ax)
        _bars(x, [cell.loss_interval for cell in cells], i, ax)
    _finish(series, against, ax)
    ax.set(ylabel="predicted final loss")
    title(ax, f"loss at the best ratio{_bars_of(found)}")
    return ax


def _series(found: SearchResult, most: int) -> tuple[str, dict[str, list[Cell]]]:
    """What to draw along x, and at most ``most`` series of cells, evenly spread; labels name what differs in them."""
    cells = list(found.cells)
    against = "peak_lr" if len({cell.peak_lr for cell in cells}) > 1 else "total_steps"
    names = [name for name in FORMS if name != against]
    differing = [name for name in names if len({getattr(cell, name) for cell in cells}) > 1]
    series: dict[str, list[Cell]] = defaultdict(list)
    for cell in sorted(cells, key=lambda cell: getattr(cell, against)):
        series[", ".join(FORMS[name].format(getattr(cell, name)) for name in differing)].append(cell)
    return against, {label: series[label] for label in evenly(list(series), most)}


def _column(cells: list[Cell], name: str) -> np.ndarray:
    return np.array([getattr(cell, name) for cell in cells], float)


def _band(x: np.ndarray, ends: np.ndarray, index: int, ax: "Axes") -> None:
    """A shaded interval, wide enough to be seen where there is one point alone."""
    if x.size == 1:
        ax.set_xlim(0.8 * x[0], 1.25 * x[0])
        x, ends = x * np.array([0.97, 1.03]), ends.repeat(2, axis=0)
    ax.fill_between(x, *ends.T, color=look_of(index)["color"], alpha=0.2, lw=0)


def _points(x: np.ndarray, y: np.ndarray, cells: list[Cell], index: int, label: str, ax: "Axes") -> None:
    """A line through the points of a series; open circles where the best ratio is at the edge."""
    edge = np.array([cell.at_edge for cell in cells])
    ax.plot(x, y, marker="o", ms=4, lw=1.2, **look_of(index), label=label or None)
    ax.plot(x[edge], y[edge], "o", ms=4, mfc="white", color=look_of(index)["color"], zorder=3)


def _bars(x: np.ndarray, intervals: list[tuple[float, float] | None], index: int, ax: "Axes") -> None:
    known = [(at, *interval) for at, interval in zip(x, intervals, strict=True) if interval is not None]
    ax.vlines(*np.array(known).reshape(-1, 3).T, color=look_of(index)["color"], lw=1)


def _bars_of(found: SearchResult) -> str:
    return "" if found.cells[0].ratio_interval is None else f", bars: {100 * LEVEL:g} %"


def _finish(series: dict[str, list[Cell]], against: str, ax: "Axes") -> None:
    ax.set(xlabel=NAMES[against], xscale="log")
    log_ticks(ax.xaxis, np.concatenate([_column(cells, against) for cells in series.values()]))
    legend(ax)


def save_search(found: SearchResult, path: Path) -> None:
    """Draws best ratio beside best loss, and writes the picture to ``path``.

    Beside both stands the map of losses, where the search kept them for several peak rates.
    """
    peaks = {cell.peak_lr for cell in found.cells}
    mapped = found.losses is not None and min(len(peaks), found.anneal_ratio.size) > 1
    with picture(path, 15 if mapped else 10, 4) as figure:
        left, middle, *right = figure.subplots(1, 2 + mapped)
        best_ratios(found, left)
        best_losses(found, middle)
        legend_below(figure, (left, middle))
        for ax in right:
            losses_by_rate_and_ratio(found, ax)
