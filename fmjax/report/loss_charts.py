"""Charts of what was searched: loss against ratio, loss over ratio and peak rate, and the schedule found."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fmjax.plotting import COLORS
from fmjax.report.drawing import MOST_ROWS, Chart, axes, label, short, spread_evenly, style
from fmjax.schedules.kinds import WSD
from fmjax.searching.results import NEAR, Cell

MOST_LINES, MOST_RATES, CHARTED_RATIOS = 12, 60, 120
"""Lines of a chart, and rows and columns of a map."""

FEW = 6
"""Lines that a chart shows to their full height."""


class Searched(NamedTuple):
    """What was searched for a page: losses of all ratios in each cell, and which cell is best."""

    cells: tuple[Cell, ...]
    ratios: np.ndarray
    """``[ratios]``, rising."""
    losses: np.ndarray
    """``[cells, ratios]``."""
    best: int


def cell_name(cell: Cell, among: Sequence[Cell]) -> str:
    """What tells a cell from others: its peak rate, and what else differs."""
    parts = [f"peak {cell.peak_lr:.4g}"]
    for name, form in (("decay", "{}"), ("total_steps", "{} updates"), ("final_lr", "to {:.3g}")):
        if len({getattr(other, name) for other in among}) > 1:
            parts.append(form.format(getattr(cell, name)))
    return ", ".join(parts)


def losses_chart(found: Searched) -> Chart:
    """Predicted final loss against annealing ratio; near-optimal ratios drawn thick, the best with its intervals."""
    order = _lines(found)
    shown, best = [found.cells[i] for i in order], found.cells[found.best]
    layout = axes("annealing ratio", "predicted final loss")
    layout["yaxis"]["range"] = _range(best, shown, [float(np.median(found.losses[i])) for i in order])
    layout["shapes"] = [_band(best.interval, style(order.index(found.best))[0])]
    lines = (Line(cell, cell_name(cell, shown), *style(k)) for k, cell in enumerate(shown))
    traces = [line.traces(found.ratios, found.losses[i]) for line, i in zip(lines, order, strict=True)]
    return {"data": [trace for three in traces for trace in three], "layout": layout}


def _lines(found: Searched) -> list[int]:
    """Cells to draw: all if they are few, else those as long as the best that differ in one thing, evenly spread."""
    best, count = found.cells[found.best], len(found.cells)
    near = [i for i, cell in enumerate(found.cells) if count <= MOST_LINES or _is_beside(cell, best)]
    return [near[k] for k in spread_evenly(len(near), MOST_LINES, near.index(found.best))]


def _is_beside(cell: Cell, best: Cell) -> bool:
    return sum(a != b for a, b in zip(_fixed(cell), _fixed(best), strict=True)) < 2 and _of_run(cell) == _of_run(best)


def _fixed(cell: Cell) -> tuple[object, ...]:
    """What is fixed in a cell, the peak rate first."""
    return cell.peak_lr, cell.decay, cell.final_lr, *_of_run(cell)


def _of_run(cell: Cell) -> tuple[object, ...]:
    return cell.total_steps, cell.model_size, cell.tokens_per_step


def _range(best: Cell, shown: Sequence[Cell], tops: list[float]) -> list[float]:
    """Losses shown at first: those of the best cell with its interval, and of most others."""
    known = best.loss_interval is not None and bool(np.isfinite(best.loss_interval).all())
    low, high = best.loss_interval if best.loss_interval and known else (best.loss, best.loss)
    low = min([low, *(cell.loss for cell in shown)])
    high = max(high, float(np.quantile(tops, 1.0 if len(tops) <= FEW else 0.6)))
    margin = 0.05 * (high - low) or 1e-3
    return short([low - margin, high + margin])


def _band(ends: tuple[float, float], color: str) -> Chart:
    fixed = {"type": "rect", "yref": "paper", "y0": 0, "y1": 1, "line": {"width": 0}, "layer": "below"}
    return {**fixed, "x0": ends[0], "x1": ends[1], "fillcolor": color, "opacity": 0.15}


class Line(NamedTuple):
    """A cell as it is drawn."""

    cell: Cell
    name: str
    color: str
    dash: str
    symbol: str

    def traces(self, ratios: np.ndarray, losses: np.ndarray) -> tuple[Chart, ...]:
        """The losses of the cell, the near-optimal ones again, and the best ratio with its intervals."""
        low, high = self.cell.interval
        at = spread_evenly(ratios.size, MOST_ROWS, int(ratios.searchsorted(self.cell.best_ratio)))
        near = at[(ratios[at] >= low) & (ratios[at] <= high)]
        line = {"mode": "lines", "line": {"color": self.color, "dash": self.dash, "width": 2}, **self._hover("ratio")}
        thick = {"mode": "lines", "line": {"color": self.color, "width": 8}, "opacity": 0.35, "hoverinfo": "skip"}
        return (
            {**self._points(ratios[at], losses[at]), **line},
            {**self._points(ratios[near], losses[near]), **thick, "showlegend": False},
            {**self._best(), "showlegend": False},
        )

    def _points(self, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> Chart:
        return {"x": short(x), "y": short(y), "name": label(self.name, 30), "legendgroup": label(self.name)}

    def _hover(self, what: str) -> Chart:
        shown = f"<b>%{{fullData.meta}}</b><br>{what} %{{x:.3g}}<br>loss %{{y:.4f}}<extra></extra>"
        return {"meta": label(self.name), "hovertemplate": shown}

    def _best(self) -> Chart:
        cell, marker = self.cell, {"color": self.color, "symbol": self.symbol, "size": 10}
        bars = {
            "error_x": _bars(cell.best_ratio, cell.ratio_interval),
            "error_y": _bars(cell.loss, cell.loss_interval),
        }
        point = self._points([cell.best_ratio], [cell.loss])
        return {**point, "mode": "markers", "marker": marker, **bars, **self._hover("best ratio")}


def _bars(value: float, ends: tuple[float, float] | None) -> Chart:
    if ends is None or not np.isfinite(ends).all():
        return {"visible": False}
    sides = {"array": short([max(ends[1] - value, 0)]), "arrayminus": short([max(value - ends[0], 0)])}
    return {"type": "data", "symmetric": False, "thickness": 1.5, "width": 4, **sides}


def loss_map(found: Searched) -> Chart | None:
    """Predicted loss over annealing ratio and peak rate, with the ridge of best ratios; None for one peak rate."""
    rows = _rates(found)
    if len(rows) < 2:
        return None
    cells = [found.cells[i] for i in rows]
    height, ticks = np.log10([cell.peak_lr for cell in cells]), spread_evenly(len(cells), 8)
    layout = axes("annealing ratio", "peak learning rate")
    layout["yaxis"] |= {"tickvals": short(height[ticks]), "ticktext": [f"{cells[i].peak_lr:.3g}" for i in ticks]}
    return {"data": [_heat(found, rows, height), *_ridge(found, cells, height)], "layout": layout}


def _heat(found: Searched, rows: list[int], height: np.ndarray) -> Chart:
    at, least = spread_evenly(found.ratios.size, CHARTED_RATIOS), min(found.cells[i].loss for i in rows)
    losses = found.losses[np.ix_(np.array(rows), at)]
    peaks = [f"{found.cells[i].peak_lr:.4g}" for i in rows]
    return {
        "type": "heatmap",
        "x": short(found.ratios[at]),
        "y": short(height),
        "z": [short(row - least) for row in losses],
        "customdata": [[[peak, x] for x in short(row)] for peak, row in zip(peaks, losses, strict=True)],
        "zmin": 0,
        "zmax": max(float(np.quantile(losses - least, 0.7)), 5 * NEAR),
        "colorscale": "Cividis",
        "reversescale": True,
        "colorbar": {"title": {"text": "above<br>the least"}, "thickness": 12},
        "hovertemplate": "peak %{customdata[0]}<br>ratio %{x:.3g}<br>loss %{customdata[1]:.4f}<extra></extra>",
    }


def _rates(found: Searched) -> list[int]:
    """Cells that differ from the best in nothing but the peak rate, at most ``MOST_RATES``, by peak rate."""
    best = found.cells[found.best]
    alike = [i for i, cell in enumerate(found.cells) if _fixed(cell)[1:] == _fixed(best)[1:]]
    alike = sorted(alike, key=lambda i: found.cells[i].peak_lr)
    return [alike[k] for k in spread_evenly(len(alike), MOST_RATES, alike.index(found.best))]


def _ridge(found: Searched, cells: Sequence[Cell], height: np.ndarray) -> tuple[Chart, Chart]:
    best = found.cells[found.best]
    ridge = {
        "x": short([cell.best_ratio for cell in cells]),
        "y": short(height),
        "customdata": [[f"{cell.peak_lr:.4g}", float(f"{cell.loss:.6g}")] for cell in cells],
        "mode": "lines+markers",
        "name": "best ratio",
        "line": {"color": COLORS[1], "width": 2},
        "marker": {"color": COLORS[1], "size": 6},
        "hovertemplate": "peak %{customdata[0]}<br>best ratio %{x:.3g}<br>loss %{customdata[1]:.4f}<extra></extra>",
    }
    star = {
        "x": short([best.best_ratio]),
        "y": short([np.log10(best.peak_lr)]),
        "mode": "markers",
        "name": "answer",
        "marker": {"color": COLORS[1], "size": 16, "symbol": "star", "line": {"color": "#ffffff", "width": 1}},
        "hoverinfo": "skip",
    }
    return ridge, star


def schedule_chart(schedule: WSD) -> Chart:
    """The learning rate of every update, or of as many as are needed to draw it."""
    last = int(schedule.total_steps) - 1
    kinks = [int(kink) for kink in np.clip(np.ceil(np.asarray(schedule.kinks, float)), 0, last)]
    shown = spread_evenly(last + 1, MOST_ROWS, *kinks, last)
    line = {
        "x": shown.tolist(),
        "y": short(schedule(shown)),
        "mode": "lines",
        "line": {"color": COLORS[0], "width": 2},
        "showlegend": False,
        "hovertemplate": "update %{x}<br>rate %{y:.4g}<extra></extra>",
    }
    layout = axes("update", "learning rate")
    layout["yaxis"] |= {"rangemode": "tozero", "exponentformat": "power"}
    return {"data": [line], "layout": layout}
