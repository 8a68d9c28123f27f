"""The work of a search: its parts, and what is kept of each."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from fmjax._checks import require
from fmjax.searching.grid import Grid, Part
from fmjax.searching.kernels import Kernel
from fmjax.searching.results import COLUMNS, NO_BEST, TOP, best_columns, ratio_intervals


class Reduced(NamedTuple):
    """What a search keeps of a part."""

    columns: np.ndarray
    """``[rows]`` best ratio of each cell, and what goes with it."""
    top: np.ndarray
    """``[top]`` index in the grid and loss of the part's best candidates."""
    intervals: np.ndarray
    """``[rows, 4]`` bootstrap intervals of the best ratio and of the loss; no rows without samples."""

    def is_of(self, rows: int, *, samples: bool) -> bool:
        """Whether it can be what is kept of a part of so many rows."""
        kinds = self.columns.dtype == COLUMNS and self.top.dtype == TOP and self.top.ndim == 1
        return kinds and self.columns.shape == (rows,) and self.intervals.shape == (rows if samples else 0, 4)


class Computed(NamedTuple):
    """A part as whoever computed it hands it on."""

    reduced: Reduced
    losses: np.ndarray
    """``[vectors, rows, ratios]`` losses under the first parameter vectors, as many as the search asks for."""
    is_new: bool = True
    """Whether it was computed now, and not found in a folder."""


class Sweep(NamedTuple):
    """All that is needed to compute any part of a search."""

    kernel: Kernel
    limits: dict[int, tuple[float, float]]
    """Least and greatest loss that can be right, by total steps."""
    top: int
    handed_on: int
    """Number of parameter vectors whose losses are handed on: none, the fit, or the fit and all samples."""

    @property
    def parts(self) -> int:
        """Number of parts."""
        return self.kernel.grid.count_parts(self.kernel.layout.rows)

    def count_rows(self, number: int) -> int:
        """Number of cells of a part."""
        return self.kernel.grid.count_rows(number, self.kernel.layout.rows)

    def part(self, number: int) -> Part:
        """The cells of a part."""
        return self.kernel.grid.part(number, self.kernel.layout.rows)

    def results(self, numbers: Iterable[int]) -> Iterator[Computed]:
        """Computes parts in the given order, on all devices of this process."""
        for part, losses in self.kernel.losses(map(self.part, numbers)):
            reduced = _reduced(part, losses, self.kernel.grid, self.limits[part.total_steps], self.top)
            whole = self.handed_on == len(losses)
            yield Computed(reduced, losses if whole else losses[: self.handed_on].copy())

    def stored(self, reduced: Reduced) -> Computed:
        """A part of which no losses are at hand."""
        return Computed(reduced, np.empty((0, len(reduced.columns), self.kernel.grid.anneal_ratio.size)), is_new=False)

    def is_of(self, number: int, reduced: Reduced) -> bool:
        """Whether this can be what is kept of the part of that number."""
        return reduced.is_of(self.count_rows(number), samples=len(self.kernel.vectors) > 1)


def _reduced(part: Part, losses: np.ndarray, grid: Grid, limits: tuple[float, float], top: int) -> Reduced:
    """The best of a part, from its losses ``[vectors, rows, ratios]`` under the fit and its samples.

    A cell with a loss below the limits has no best: where the law goes below its own floor at one ratio, the ratio
    beside it, just above the floor, is no better. Nor has a cell whose least loss lies above them.
    """
    fitted, ratios = losses[0], grid.anneal_ratio
    bad = ~np.isfinite(fitted).all(axis=1)
    require(not bad.any(), f"the fit predicts a loss that is not finite for peak_lr {part.peak_lr[np.argmax(bad)]:g}")
    columns, least = best_columns(ratios, fitted), fitted.min(axis=1)
    each = enumerate(columns["best"]) if len(losses) > 1 else ()
    intervals = np.array([ratio_intervals(ratios, losses[1:, i], best) for i, best in each])
    refused = (least < limits[0]) | (least > limits[1])
    offered = np.where(refused[:, None] | (fitted > limits[1]), np.inf, fitted)
    columns[refused] = (NO_BEST, NO_BEST, NO_BEST, False, np.nan)
    return Reduced(columns, _top(part, offered, top), intervals.reshape(-1, 4))


def _top(part: Part, fitted: np.ndarray, top: int) -> np.ndarray:
    """Index in the grid and loss of the best candidates of a part."""
    flat = fitted.ravel()
    cut = np.partition(flat, top - 1)[top - 1] if 0 < top < flat.size else np.inf
    best = np.concatenate([np.flatnonzero(flat < cut), np.flatnonzero(flat == cut)])[:top]  # of equals, the first
    best = best[np.isfinite(flat[best])]
    row, ratio = np.divmod(best, fitted.shape[1])
    found = np.empty(best.size, TOP)
    found["candidate"], found["loss"] = part.cells[row] * fitted.shape[1] + ratio, flat[best]
    return found


class Gathered:
    """What is kept of all parts, in the order of the grid whatever the order they come in."""

    def __init__(self, sweep: Sweep, *, losses: bool) -> None:
        kernel, cells = sweep.kernel, sweep.kernel.grid.cells
        vectors, ratios = len(kernel.vectors), kernel.grid.anneal_ratio.size
        self.columns, self.intervals = np.empty(cells, COLUMNS), np.empty((cells if vectors > 1 else 0, 4))
        self.losses = np.empty((vectors, cells, ratios)) if losses else None
        self._tops, self._top = [np.empty(0, TOP)], sweep.top

    def add(self, part: Part, computed: Computed) -> None:
        """Puts a part in its place."""
        reduced = computed.reduced
        self.columns[part.cells] = reduced.columns
        if len(self.intervals):
            self.intervals[part.cells] = reduced.intervals
        if self.losses is not None:
            self.losses[:, part.cells] = computed.losses
        self._tops.append(reduced.top)
        if sum(map(len, self._tops)) > 2 * self._top + 4096:
            self._tops = [self.top]

    @property
    def top(self) -> np.ndarray:
        """``[top]`` the best candidates of all so far, the first of equals before the others."""
        tops = np.concatenate(self._tops)
        return tops[np.lexsort((tops["candidate"], tops["loss"]))][: self._top]
