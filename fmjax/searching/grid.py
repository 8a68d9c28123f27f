"""The grid of a search: cells, and the annealing ratios of each.

A cell is a model size, a batch, a length, a peak rate, a decay and a final rate.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fmjax._checks import choose, finite, positive, require, whole
from fmjax._json import plain
from fmjax._types import HostNumbers
from fmjax.schedules.anneals import DECAYS
from fmjax.schedules.batch_stages import Batch, Batches, BatchStages, batch_of, require_within

MOST_CELLS = 2**27
"""Cells that a search can index and hold the best ratios of."""

MOST_RATIOS = 2**24
"""Ratios of a cell."""


class Part(NamedTuple):
    """Cells that are computed together: one size, batch, length and decay, a run of (peak rate, final rate) pairs."""

    number: int
    total_steps: int
    decay: str
    peak_lr: np.ndarray
    """``[rows]``."""
    final_lr: np.ndarray
    """``[rows]``."""
    cells: np.ndarray
    """``[rows]`` index of each cell in the grid."""
    model_size: float | None = None
    tokens_per_step: Batch | None = None


class Grid(NamedTuple):
    """Checked axes of a search."""

    total_steps: np.ndarray
    """``[lengths]``; where ``total_tokens`` are told, the updates that follow, ``[batches * lengths]``."""
    peak_lr: np.ndarray
    decay: tuple[str, ...]
    final_lr: np.ndarray
    anneal_ratio: np.ndarray
    warmup_steps: int
    init_lr: float
    final_is_share: bool = False
    """Whether ``final_lr`` holds shares of the peak rate instead of rates."""
    model_size: np.ndarray | None = None
    tokens_per_step: np.ndarray | None = None
    """``[batches]`` numbers, or objects where any is ``BatchStages``."""
    total_tokens: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        *,
        total_steps: HostNumbers | None = None,
        peak_lr: HostNumbers,
        decay: str | Sequence[str],
        final_lr: HostNumbers,
        anneal_ratio: HostNumbers,
        warmup_steps: int,
        init_lr: float,
        final_is_share: bool = False,
        model_size: HostNumbers | None = None,
        tokens_per_step: Batches | None = None,
        total_tokens: HostNumbers | None = None,
    ) -> "Grid":
        """The grid of these axes, one value or many on each.

        Raises:
          ValueError: naming the axis, what was expected and what was found.
        """
        batches, tokens = batch_axis(tokens_per_step), told_axis(total_tokens, "total_tokens")
        grid = cls(
            total_steps=lengths_of(total_steps, tokens, batches),
            peak_lr=axis_of(peak_lr, "peak_lr"),
            decay=tuple(choose(name, DECAYS, "decay") for name in ([decay] if isinstance(decay, str) else decay)),
            final_lr=axis_of(final_lr, "final_lr"),
            anneal_ratio=axis_of(anneal_ratio, "anneal_ratio"),
            warmup_steps=whole(warmup_steps, "warmup_steps"),
            init_lr=finite(init_lr, "init_lr"),
            final_is_share=final_is_share,
            model_size=told_axis(model_size, "model_size"),
            tokens_per_step=batches,
            total_tokens=tokens,
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
        for place, batch in enumerate(() if self.tokens_per_step is None else self.tokens_per_step):
            if isinstance(batch, BatchStages):
                own = [self._steps(place, length) for length in range(self.shape[2])]
                require_within(batch, min(own), "tokens_per_step")
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
    def shape(self) -> tuple[int, int, int, int, int, int]:
        """Lengths of the axes of cells: sizes, batches, lengths, peak rates, decays, final rates."""
        sizes, batches = (1 if axis is None else axis.size for axis in (self.model_size, self.tokens_per_step))
        lengths = self.total_steps.size if self.total_tokens is None else self.total_tokens.size
        return sizes, batches, lengths, self.peak_lr.size, len(self.decay), self.final_lr.size

    @property
    def cells(self) -> int:
        """Number of cells."""
        return math.prod(self.shape)

    @property
    def candidates(self) -> int:
        """Number of schedules."""
        return self.cells * self.anneal_ratio.size

    def cell(self, index: int) -> tuple[int, float, str, float]:
        """(total_steps, peak_lr, decay, final_lr) of a cell."""
        _, b, t, p, d, f = np.unravel_index(index, self.shape)
        return self._steps(int(b), int(t)), float(self.peak_lr[p]), self.decay[d], float(self._final(p, f))

    def model(self, index: int) -> tuple[float | None, Batch | None]:
        """(model_size, tokens_per_step) of a cell, None where it was not told."""
        n, b, *_ = np.unravel_index(index, self.shape)
        return self._model(int(n), int(b))

    def _model(self, size: int, batch: int) -> tuple[float | None, Batch | None]:
        found = None if self.tokens_per_step is None else self.tokens_per_step[batch]
        told = found if found is None or isinstance(found, BatchStages) else float(found)
        return None if self.model_size is None else float(self.model_size[size]), told

    def _steps(self, batch: int, length: int) -> int:
        """Updates of a length at a batch."""
        return int(self.total_steps[length if self.total_tokens is None else batch * self.total_tokens.size + length])

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
        sizes, batches, lengths, peaks, decays, finals = self.shape
        return sizes * batches * lengths * decays * -(-peaks * finals // rows)

    def count_rows(self, number: int, rows: int) -> int:
        """Number of cells of one of these parts."""
        pairs = self.peak_lr.size * self.final_lr.size
        return min(rows, pairs - number % -(-pairs // rows) * rows)

    def part(self, number: int, rows: int) -> Part:
        """One of the parts of at most ``rows`` cells."""
        *outer_axes, peaks, decays, finals = self.shape
        pairs = peaks * finals
        outer, run = divmod(number, -(-pairs // rows))
        n, b, t, d = (int(at) for at in np.unravel_index(outer, (*outer_axes, decays)))
        p, f = np.divmod(np.arange(run * rows, min((run + 1) * rows, pairs)), finals)
        cells = np.ravel_multi_index((*(np.full_like(p, at) for at in (n, b, t)), p, np.full_like(p, d), f), self.shape)
        rates = self.peak_lr[p], self._final(p, f)
        return Part(number, self._steps(b, t), self.decay[d], *rates, cells, *self._model(n, b))

    def parts(self, rows: int) -> Iterator[Part]:
        """The grid in parts of at most ``rows`` cells."""
        return (self.part(number, rows) for number in range(self.count_parts(rows)))

    def to_dict(self) -> dict[str, object]:
        """The axes as plain values; long ones as their length, ends and digest."""
        told = {name: value for name, value in self._asdict().items() if value is not None and value is not False}
        return {name: _described(value) for name, value in told.items()}


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


def told_axis(values: HostNumbers | None, name: str) -> np.ndarray | None:
    """Values of an axis that need not be told, all above zero."""
    if values is None:
        return None
    axis = axis_of(values, name)
    _every(axis, axis > 0, positive, name)
    return axis


def batch_axis(values: Batches | None) -> np.ndarray | None:
    """Values of an axis of batches: numbers, or objects where any of them is ``BatchStages``."""
    each = [values] if isinstance(values, str | BatchStages) else values
    if not isinstance(each, Sequence | np.ndarray) or not any(isinstance(one, str | BatchStages) for one in each):
        return told_axis(each, "tokens_per_step")  # type: ignore[arg-type]
    axis = np.empty(len(each), object)
    axis[:] = [batch_of(one, "tokens_per_step") for one in each]
    return axis


def lengths_of(steps: HostNumbers | None, tokens: np.ndarray | None, batches: np.ndarray | None) -> np.ndarray:
    """Updates as told; or ``[batches * lengths]``, the whole number nearest to total tokens over tokens an update."""
    require(
        (steps is None) != (tokens is None),
        "expected either total_steps or total_tokens, found " + ("neither" if steps is None else "both"),
    )
    if steps is not None:
        return axis_of(steps, "total_steps")
    if batches is None:
        raise ValueError("total_tokens needs tokens_per_step, as updates follow from both")
    if tokens is not None and batches.dtype == object:
        each = [one.updates(tokens) if isinstance(one, BatchStages) else tokens / one for one in batches]
        return np.maximum(np.rint(each), 1.0).ravel()
    return np.maximum(np.rint(tokens / batches[:, None]), 1.0).ravel()


def _every(axis: np.ndarray, good: np.ndarray, check: Callable[[float, str], object], name: str) -> None:
    """Has ``check`` name the first value that is not good."""
    for value in axis[~good][:1]:
        check(value.item(), name)


def _described(value: object) -> object:
    if not isinstance(value, np.ndarray):
        return list(value) if isinstance(value, tuple) else value
    if value.size <= 1000:
        return value.tolist()
    values = plain(value)
    digest = hashlib.sha256(json.dumps(values).encode()).hexdigest()
    return {"values": value.size, "first": values[0], "last": values[-1], "sha256": digest}
