"""What a search finds: the best ratio of each cell, the best candidates of all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload

import numpy as np

from fmjax._json import Record, plain
from fmjax.fitting.metrics import percentile_interval
from fmjax.fitting.records import FittedRange
from fmjax.schedules.batch_stages import Batch, mean_batch
from fmjax.schedules.kinds import WSD
from fmjax.searching.grid import Grid

NEAR = 1e-3
"""Excess loss up to which a ratio counts as near-optimal."""


class Cell(NamedTuple):
    """What a search fixes while it varies the annealing ratio, and the best it found."""

    total_steps: int
    peak_lr: float
    decay: str
    final_lr: float
    best_ratio: float
    loss: float
    interval: tuple[float, float]
    """Least and greatest ratio within ``NEAR`` of the best loss."""
    at_edge: bool
    """Whether the best ratio is the first or last one searched, so that a better one may lie outside."""
    ratio_interval: tuple[float, float] | None = None
    """Bootstrap interval of the best ratio, where samples were given."""
    loss_interval: tuple[float, float] | None = None
    """Bootstrap interval of the predicted loss at the best ratio, likewise."""
    outside: tuple[str, ...] = ()
    """In what the cell lies outside the fitted runs: "total_steps", "peak_lr", "model_size", "tokens_per_step"; "loss"
    where no ratio is offered as the best, as the loss predicted for it is lower or higher than it can be."""
    model_size: float | None = None
    """Number of parameters, where one was told."""
    tokens_per_step: Batch | None = None
    """Tokens an update, likewise."""

    def shown(self, axis: str, form: str = ".3g") -> str:
        """A field as text, with a star where it lies outside the fitted runs; a dash where there is none."""
        value = getattr(self, axis)
        return "-" if value is None else f"{value:{form}}{'*' if axis in self.outside else ''}"

    @property
    def mean_batch(self) -> float | None:
        """Mean tokens an update over the run."""
        return mean_batch(self.tokens_per_step, self.total_steps)

    @property
    def anneal_steps(self) -> int | None:
        """Updates of the best ratio's anneal, as its schedule has them; None where there is none."""
        return self.schedule().anneal_steps if self.is_offered else None

    @property
    def is_offered(self) -> bool:
        """Whether the cell has a best ratio."""
        return "loss" not in self.outside

    @classmethod
    def of(cls, axes: tuple[int, float, str, float], ratios: np.ndarray, losses: np.ndarray) -> "Cell":
        """The cell at (total_steps, peak_lr, decay, final_lr), by its losses ``[1 + samples, ratios]``."""
        column = best_columns(ratios, losses[:1])[0]
        return _cell(axes, ratios, column, ratio_intervals(ratios, losses[1:], int(column["best"])))

    def under(self, ratios: np.ndarray, losses: np.ndarray) -> "Cell":
        """The cell with its best chosen anew, by losses ``[1 + samples, ratios]`` of a prediction and its samples."""
        found = Cell.of(self[:4], ratios, losses)
        return found._replace(outside=self.outside, model_size=self.model_size, tokens_per_step=self.tokens_per_step)

    def schedule(self, warmup_steps: int = 0, init_lr: float = 0.0) -> WSD:
        """The best schedule of the cell, with an anneal of a whole number of updates."""
        return WSD(
            peak_lr=self.peak_lr,
            total_steps=self.total_steps,
            anneal_ratio=self.best_ratio,
            decay=self.decay,
            final_lr=self.final_lr,
            warmup_steps=warmup_steps,
            init_lr=init_lr,
        ).in_whole_updates()


class Cells(Sequence[Cell]):
    """The cells of a search, held as columns: one array for each field, so that millions of them fit."""

    def __init__(
        self, grid: Grid, columns: np.ndarray, intervals: np.ndarray, reach: FittedRange | None = None
    ) -> None:
        self._grid, self._columns, self._intervals, self._reach = grid, columns, intervals, reach

    def __len__(self) -> int:
        return self._grid.cells

    @property
    def without_best(self) -> int:
        """Number of cells that have no best ratio."""
        return int(np.sum(self._columns["best"] == NO_BEST))

    @overload
    def __getitem__(self, index: int) -> Cell: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Cell]: ...
    def __getitem__(self, index: int | slice) -> Cell | Sequence[Cell]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        intervals = self._intervals[i].tolist() if len(self._intervals) else ()
        found, model = (
            _cell(self._grid.cell(i), self._grid.anneal_ratio, self._columns[i], intervals),
            self._grid.model(i),
        )
        outside = () if self._reach is None else self._reach.outside(found.total_steps, found.peak_lr, *model)
        return found._replace(outside=(*outside, *found.outside), model_size=model[0], tokens_per_step=model[1])


def _cell(
    fixed: tuple[int, float, str, float], ratios: np.ndarray, column: np.ndarray, intervals: Sequence[float]
) -> Cell:
    """A cell from what is fixed in it, its columns and its four ends of intervals, if any."""
    nan = float("nan")
    if column["best"] == NO_BEST:
        return Cell(*fixed, nan, nan, (nan, nan), at_edge=False, outside=("loss",))
    best, low, high = (float(ratios[k]) for k in column[["best", "low", "high"]].tolist())
    found = Cell(*fixed, best, float(column["loss"]), (low, high), bool(column["at_edge"]))
    if not len(intervals):
        return found
    a, b, c, d = intervals
    return found._replace(ratio_interval=(a, b), loss_interval=(c, d))


class Candidate(NamedTuple):
    """One schedule of a grid and its predicted final loss."""

    total_steps: int
    peak_lr: float
    decay: str
    final_lr: float
    anneal_ratio: float
    loss: float
    model_size: float | None = None
    tokens_per_step: Batch | None = None


@dataclass(frozen=True)
class SearchResult(Record):
    """Predicted final losses over a grid, reduced to the best ratio of each cell and the best candidates of all."""

    cells: Sequence[Cell]
    anneal_ratio: np.ndarray
    """``[ratios]`` ratios searched."""
    top: tuple[Candidate, ...]
    """The candidates of least loss, the best first."""
    losses: np.ndarray | None = None
    """``[cells, ratios]`` predicted loss after the last update, where they were to be kept."""
    sample_losses: np.ndarray | None = None
    """``[samples, cells, ratios]`` the same under each bootstrap sample."""
    warmup_steps: int = 0
    init_lr: float = 0.0
    taken: dict[str, float] = field(default_factory=dict)
    """Warmup, initial and final rate that were taken from the fitted runs; the final rate as a share of the peak."""
    notes: tuple[str, ...] = ()
    """What to keep in mind: what was taken from the fitted runs, and where the grid lies outside them."""

    @property
    def without_best(self) -> int:
        """Number of cells that have no best ratio."""
        if isinstance(self.cells, Cells):
            return self.cells.without_best
        return sum(not cell.is_offered for cell in self.cells)

    @property
    def candidates(self) -> int:
        """Number of schedules searched."""
        return len(self.cells) * self.anneal_ratio.size

    def to_dict(self) -> dict[str, object]:
        """The result as plain values for JSON, without the loss of every candidate."""
        cells = [{**cell._asdict(), "anneal_steps": cell.anneal_steps} for cell in self.cells]
        top = [item._asdict() for item in self.top]
        warmup = {"warmup_steps": self.warmup_steps, "init_lr": self.init_lr}
        said = {"taken_from_fitted_runs": self.taken, "notes": self.notes}
        return plain({"candidates": self.candidates, **warmup, "cells": cells, "top": top, **said})


COLUMNS = np.dtype([("best", "i4"), ("low", "i4"), ("high", "i4"), ("at_edge", "?"), ("loss", "f8")])
"""What a search keeps of a cell: indices into the ratios, and the loss."""

NO_BEST = -1
"""The index where no ratio is offered as the best."""


TOP = np.dtype([("candidate", "i8"), ("loss", "f8")])
"""What it keeps of a candidate among the best."""


def best_columns(ratios: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """``[rows]`` columns of the best of ``losses[rows, ratios]``."""
    columns = np.empty(len(losses), COLUMNS)
    columns["best"] = best = np.argmin(losses, axis=1)
    columns["loss"] = least = losses[np.arange(len(losses)), best]
    rising = np.argsort(ratios, kind="stable")
    near = losses[:, rising] <= least[:, None] + NEAR
    columns["low"], columns["high"] = rising[np.argmax(near, axis=1)], rising[::-1][np.argmax(near[:, ::-1], axis=1)]
    columns["at_edge"] = (ratios.size > 1) & np.isin(ratios[best], (ratios.min(), ratios.max()))
    return columns


def ratio_intervals(ratios: np.ndarray, samples: np.ndarray, best: int) -> tuple[float, ...]:
    """Bootstrap intervals of the best ratio and of the loss at ``best``, from losses ``[samples, ratios]``, if any."""
    if not len(samples):
        return ()
    return (*percentile_interval(continuous_best(ratios, samples)), *percentile_interval(samples[:, best]))


def continuous_best(ratios: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Ratio of least loss for each row of ``losses[samples, ratios]``, between the grid's points by a parabola."""
    order = np.argsort(ratios)
    x, y = ratios[order], losses[:, order]
    best = np.argmin(y, axis=1)
    if x.size < 3:
        return x[best]
    i, each = np.clip(best, 1, x.size - 2), np.arange(len(y))
    before, after = x[i] - x[i - 1], x[i + 1] - x[i]
    fall, rise = (y[each, i] - y[each, i - 1]) / before, (y[each, i + 1] - y[each, i]) / after
    bend = rise - fall
    vertex = x[i] - (fall * after + rise * before) / np.where(bend > 0, 2 * bend, 1.0)
    inside = (best == i) & (bend > 0)
    return np.where(inside, np.clip(vertex, x[i - 1], x[i + 1]), x[best])
