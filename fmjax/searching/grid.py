"""The grid of a search: cells (total steps x peak rate x decay x final rate), and the annealing ratios of each."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fmjax._checks import choose, finite, positive, require, whole
from fmjax._types import HostNumbers
from fmjax.schedules.anneals import DECAYS

MOST_CELLS = 2**27
"""Cells that a search can index and hold the best ratios of."""

MOST_RATIOS = 2**24
"""Ratios of a cell."""


class Part(NamedTuple):
    """Cells that are computed together: same total steps and decay, a run of (peak rate, final rate) pairs."""

    number: int
    total_steps: int
    decay: str
    peak_lr: np.ndarray
    """``[rows]``."""
    final_lr: np.ndarray
    """``[rows]``."""
    cells: np.ndarray
    """``[rows]`` index of each cell in the grid."""


class Grid(NamedTuple):
    """Checked axes of a search."""

    total_steps: np.ndarray
    peak_lr: np.ndarray
    decay: tuple[str, ...]
    final_lr: np.ndarray
    anneal_ratio: np.ndarray
    warmup_steps: int
    init_lr: float
    final_is_share: bool = False
    """Whether ``final_lr`` holds shares of the peak rate instead of rates."""

    @classmethod
    def of(
        cls,
        *,
        total_steps: HostNumbers,
        peak_lr: HostNumbers,
        decay: str | Sequence[str],
        final_lr: HostNumbers,
        anneal_ratio: HostNumbers,
        warmup_steps: int,
        init_lr: float,
        final_is_share: bool = False,
    ) -> "Grid":
        """The grid of these axes, one value or many on each.

        Raises:
          ValueError: naming the axis, what was expected and what was found.
        """
        grid = cls(
            total_steps=axis_of(total_steps, "total_steps"),
            peak_lr=axis_of(peak_lr, "peak_lr"),
            decay=tuple(choose(name, DECAYS, "decay") for name in ([decay] if isinstance(decay, str) else decay)),
            final_lr=axis_of(final_lr, "final_lr"),
            anneal_ratio=axis_of(anneal_ratio, "anneal_ratio"),
            warmup_steps=whole(warmup_steps, "warmup_steps"),
            init_lr=finite(init_lr, "init_lr"),
            final_is_share=final_is_share,
        )
        grid._check()
        return grid._replace(total_steps=grid.total_steps.astype(np.int64))

    def _check(self) -> None:
        require(self.decay, "expected at least one value on every axis of the grid, found none")
        _every(self.peak_lr, self.peak_lr > 0, positive, "peak_lr")
        whole_steps = (self.total_steps >= 1) & (self.total_steps == np.floor(self.total_steps))
        _every(self.total_steps, whole_steps, lambda value, what: whole(value, what, least=1), "total_steps")
        shortest, longest = int(self.total_steps.min()), int(self.total_steps.max())
        require(longest < 2**31, f"total_steps: expected fewer than 2^31 updates, got {longest}")
        for ratio in self.anneal_ratio[(self.anneal_ratio <= 0) | (self.anneal_ratio > 1)]:
            require(False, f"anneal_ratio must lie in (0, 1], got {ratio:g}")
        warmup, lowest = self.warmup_steps, float(self.peak_lr.min())
        require(warmup <= shortest, f"warmup of {warmup} steps is longer than the run of {shortest}")
        require(0 <= self.init_lr <= lowest, f"init_lr: expected a rate in [0, {lowest:g}], got {self.init_lr:g}")
        most = 1.0 if self.final_is_share else lowest
        for final in self.final_lr[(self.final_lr < 0) | (self.final_lr > most)]:
            require(False, f"final_lr: expected a rate in [0, {most:g}], got {final:g}")
        final = float(self.final_lr.min())
        ends = final > 0 or "exponential" not in self.decay
        require(ends, f"exponential decay needs a final_lr above zero, got {final:g}")
        cells, ratios = self.cells, self.anneal_ratio.size
        require(
            cells <= MOST_CELLS,
            f"a grid of {cells} cells is too large to index: at most {MOST_CELLS}; search parts of it",
        )
        require(ratios <= MOST_RATIOS, f"{ratios} annealing ratios are too many for a cell: at most {MOST_RATIOS}")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Lengths of the axes of cells."""
        return self.total_steps.size, self.peak_lr.size, len(self.decay), self.final_lr.size

    @property
    def cells(self) -> int:
        """Number of cells."""
        t, p, d, f = self.shape
        return t * p * d * f

    @property
    def candidates(self) -> int:
        """Number of schedules."""
        return self.cells * self.anneal_ratio.size

    def cell(self, index: int) -> tuple[int, float, str, float]:
        """(total_steps, peak_lr, decay, final_lr) of a cell."""
        t, p, d, f = np.unravel_index(index, self.shape)
        return int(self.total_steps[t]), float(self.peak_lr[p]), self.decay[d], float(self._final(p, f))

    def _final(self, peak: np.ndarray | np.integer, final: np.ndarray | np.integer) -> np.ndarray:
        """Final rates of pairs of places on the axes of peak and final rates."""
        return self.final_lr[final] * (self.peak_lr[peak] if self.final_is_share else 1.0)

    @property
    def scales(self) -> bool:
        """Whether schedules that differ in their peak rate alone are multiples of each other."""
        ends = self.final_lr.size == 1 and (self.final_is_share or not self.final_lr.any())
        return ends and (self.init_lr == 0 or self.warmup_steps == 0)

    def unit(self, part: Part) -> Part:
        """Of a grid that scales, the one cell whose rates times each peak rate are those of all cells of a part."""
        return part._replace(peak_lr=np.ones(1), final_lr=self.final_lr, cells=part.cells[:1])

    def count_parts(self, rows: int) -> int:
        """Number of parts of at most ``rows`` cells."""
        steps, peaks, decays, finals = self.shape
        return steps * decays * -(-peaks * finals // rows)

    def count_rows(self, number: int, rows: int) -> int:
        """Number of cells of one of these parts."""
        pairs = self.peak_lr.size * self.final_lr.size
        return min(rows, pairs - number % -(-pairs // rows) * rows)

    def part(self, number: int, rows: int) -> Part:
        """One of the parts of at most ``rows`` cells."""
        _, peaks, decays, finals = self.shape
        pairs = peaks * finals
        outer, run = divmod(number, -(-pairs // rows))
        t, d = divmod(outer, decays)
        p, f = np.divmod(np.arange(run * rows, min((run + 1) * rows, pairs)), finals)
        cells = np.ravel_multi_index((np.full_like(p, t), p, np.full_like(p, d), f), self.shape)
        return Part(number, int(self.total_steps[t]), self.decay[d], self.peak_lr[p], self._final(p, f), cells)

    def parts(self, rows: int) -> Iterator[Part]:
        """The grid in parts of at most ``rows`` cells."""
        return (self.part(number, rows) for number in range(self.count_parts(rows)))

    def to_dict(self) -> dict[str, object]:
        """The axes as plain values; long ones as their length, ends and digest."""
        named = {name: _described(value) for name, value in self._asdict().items()}
        return named if self.final_is_share else {name: x for name, x in named.items() if name != "final_is_share"}


def axis_of(values: HostNumbers, name: str) -> np.ndarray:
    """Values of an axis, all finite."""
    found = [values] if isinstance(values, float | int | np.number) or np.ndim(values) == 0 else values
    require(len(found), "expected at least one value on every axis of the grid, found none")
    try:
        axis = np.asarray(found, float)
    except (TypeError, ValueError):
        axis = np.array([finite(value, name) for value in found])
    require(axis.ndim == 1, f"{name}: expected one number or a list of them, got shape {axis.shape}")
    _every(axis, np.isfinite(axis), finite, name)
    return axis


def _every(axis: np.ndarray, good: np.ndarray, check: Callable[[float, str], object], name: str) -> None:
    """Has ``check`` name the first value that is not good."""
    for value in axis[~good][:1]:
        check(value.item(), name)


def _described(value: object) -> object:
    if not isinstance(value, np.ndarray):
        return list(value) if isinstance(value, tuple) else value
    if value.size <= 1000:
        return value.tolist()
    digest = hashlib.sha256(json.dumps(value.tolist()).encode()).hexdigest()
    return {"values": value.size, "first": value[0].item(), "last": value[-1].item(), "sha256": digest}
