"""Search: the predicted final loss of every schedule in a grid, part by part, on any number of devices."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fmjax._checks import choose, require, whole
from fmjax._json import plain
from fmjax._names import DTYPES
from fmjax._types import HostNumbers
from fmjax.fitting.fitted_runs import PlanShape
from fmjax.fitting.records import FitResult, FittedRange
from fmjax.searching import hosts
from fmjax.searching.grid import Grid, Part, axis_of
from fmjax.searching.kernels import Kernel, Layout
from fmjax.searching.parts_folder import Folder, Reduced
from fmjax.searching.results import (
    COLUMNS,
    NO_BEST,
    TOP,
    Candidate,
    Cells,
    SearchResult,
    best_columns,
    ratio_intervals,
)

SEARCHED_RATIOS = tuple(np.linspace(0.01, 0.99, 99).round(2).tolist())
"""Annealing ratios searched by default."""


def search(
    result: FitResult,
    *,
    total_steps: HostNumbers,
    peak_lr: HostNumbers,
    anneal_ratio: HostNumbers = SEARCHED_RATIOS,
    decay: str | Sequence[str] = "linear",
    final_lr: HostNumbers | None = None,
    warmup_steps: int | None = None,
    init_lr: float | None = None,
    model_size: float | None = None,
    tokens_per_step: float | None = None,
    samples: np.ndarray | None = None,
    top: int = 10,
    keep_losses: bool = False,
    dtype: str = "float64",
    folder: str | Path | None = None,
    table: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """Predicts the final loss of every WSD schedule in a grid, and picks the best annealing ratio of each cell.

    The grid is total_steps x peak_lr x decay x final_lr (the cells) x anneal_ratio. Its parts run on all local devices
    (all cores of a CPU) and are reduced as they come, so that memory does not grow with the number of candidates: 21
    bytes a cell stay. Where ``jax.distributed`` is initialised, every process computes its share of the parts and all
    return the whole result. The answer is the same to the bit whatever the number of devices and processes.

    Args:
      result: a fit that converged.
      total_steps: numbers of updates, one or many.
      peak_lr: peak rates, one or many.
      anneal_ratio: ratios R in (0, 1] to search.
      decay: shapes of the anneal, one or many of ``DECAYS``.
      final_lr: rates the anneal ends at, one or many; by default the fitted runs' share of the peak rate.
      warmup_steps: updates of linear warmup; by default as many as the fitted runs had.
      init_lr: rate of update 0; by default the fitted runs'.
      model_size: number of parameters, for laws fitted over several sizes.
      tokens_per_step: tokens an update, for laws fitted over several batch sizes.
      samples: ``[samples, parameters]`` bootstrap samples (``Bootstrap.params``), for intervals.
      top: how many of the best candidates to return.
      keep_losses: whether to return the loss of every candidate, also under each sample; takes 8 bytes each.
      dtype: "float64", or "float32" with compensated sums, whose losses are right to about 1e-6.
      folder: folder that keeps finished parts; a search that was interrupted goes on from there.
      table: whether to write every candidate and its loss to Parquet files in the folder.
      progress: called with (candidates done, candidates in all) after each part.

    Returns:
      The cells with best ratio, loss and near-optimal interval, and the best candidates. ``notes`` have what was taken
      from the fitted runs and where the grid lies outside them. A cell whose predicted loss is below the fitted L0, or
      above the first rows of the fitted runs, has no best ratio.

    Raises:
      ValueError: a fit that cannot predict, a grid value out of range or a grid too large to index, an unknown decay, a
        folder of another search or one that cannot be written.

    >>> import fmjax
    >>> result = fmjax.fit("lr-annealing", fmjax.datasets.demo_runs())
    >>> found = search(result, total_steps=4000, peak_lr=[1e-3, 2e-3], warmup_steps=100)
    >>> len(found.cells), found.candidates
    (2, 198)
    """
    require(result.ok, f"the fit cannot predict: {result.message}")
    axes: dict[str, Any] = {
        "total_steps": total_steps,
        "peak_lr": peak_lr,
        "decay": decay,
        "anneal_ratio": anneal_ratio,
    }
    grid, shape = planned_grid(result, axes, final_lr=final_lr, warmup_steps=warmup_steps, init_lr=init_lr)
    choose(dtype, DTYPES, "dtype")
    require(dtype == "float64" or grid.total_steps.max() <= 2**24, "runs of more than 2^24 updates need float64")
    require(folder is not None or not table, "a table of every candidate needs a folder to write it to")
    law = result.law_for(tokens_per_step)
    if samples is None:
        law, vector = law.settled(result.vector)
        vectors = vector[None]
    else:
        vectors = np.concatenate([result.vector[None], samples])
    layout = Layout.of(grid, len(vectors), jax.local_devices()[0].platform)
    log_n = result.log_size(model_size)
    kernel = Kernel(law, vectors, grid, log_n, dtype, layout, share_stem=True)
    wanted = whole(top, "top")
    require(folder is None or not keep_losses, "a search with a folder does not keep losses; its table has them")
    store = None
    if folder is not None:
        limits = list(map(str, result.loss_limits(int(grid.total_steps.max()))))
        described = {**_described(kernel), "top": wanted, "table": table, "loss_limits": limits}
        store = Folder.open(folder, described, table=table)
    mine = _Found.of(_parts(kernel, result, wanted, store, keep_losses, progress), _nothing(kernel))
    found = _result(hosts.gather(mine), grid, layout, wanted, result.reach)
    notes = (*shape.notes, *result.notes, *_outside(result, grid), *_not_offered(result, found))
    return dataclasses.replace(found, taken=shape.taken, notes=notes)


def planned_grid(
    result: FitResult,
    axes: Mapping[str, Any],
    *,
    final_lr: HostNumbers | None,
    warmup_steps: int | None,
    init_lr: float | None,
) -> tuple[Grid, PlanShape]:
    """The grid of these axes, with the warmup and the rates of the fitted runs where none are told."""
    steps, peaks = (axis_of(axes[name], name) for name in ("total_steps", "peak_lr"))
    finals = None if final_lr is None else axis_of(final_lr, "final_lr")
    told: dict[str, Any] = {"warmup_steps": warmup_steps, "init_lr": init_lr, "final_lr": finals}
    shape = PlanShape.of(result.trained_with, longest_warmup=int(steps.min()), peak_lr=peaks, **told)
    final: dict[str, Any] = {"final_lr": shape.final_lr, "final_is_share": shape.final_is_share}
    return Grid.of(**axes, **final, warmup_steps=shape.warmup_steps, init_lr=shape.init_lr), shape


def _outside(result: FitResult, grid: Grid) -> Iterator[str]:
    """Where a grid lies outside the fitted runs, one note an axis."""
    if result.reach is None:
        return
    yield from result.reach.longer(int(grid.total_steps.max()))
    low, high = result.reach.peak_lr
    others = [f"{lr:.4g}" for lr in grid.peak_lr if not result.reach.has_peak(lr)]
    if others:
        named = (
            others[0] if len(others) == 1 else f"{others[0]} ... {others[-1]} ({len(others)} of {grid.peak_lr.size})"
        )
        yield f"peak rate {named} lies outside those fitted, {low:.4g} ... {high:.4g}"


def _not_offered(result: FitResult, found: SearchResult) -> tuple[str, ...]:
    missing = found.without_best
    if not missing:
        return ()
    low, high = result.loss_limits(int(found.cells[0].total_steps))
    bounds = f"below what the law can reach ({low:.4g})" + (
        f" or above the first rows ({high:.4g})" if np.isfinite(high) else ""
    )
    have = "has" if missing == 1 else "have"
    return (f"{missing} of {len(found.cells)} cells {have} no best ratio: the loss predicted there lies {bounds}",)


def _described(kernel: Kernel) -> dict[str, object]:
    """What tells one search from another."""
    law = kernel.law
    params = hashlib.sha256(np.ascontiguousarray(kernel.vectors).tobytes()).hexdigest()
    return plain(
        {
            "law": law.name,
            "options": law.options(),
            "params": dict(zip(law.parameter_names, kernel.vectors[0], strict=True)),
            "vectors": {"count": len(kernel.vectors), "sha256": params},
            "grid": kernel.grid.to_dict(),
            "log_n": kernel.log_n,
            "dtype": kernel.dtype,
            "layout": kernel.layout._asdict(),
        }
    )


class _Found(NamedTuple):
    """What a process found, in the order of its parts."""

    columns: np.ndarray
    """``[cells]``."""
    top: np.ndarray
    """``[...]`` index of a candidate in the grid, and its loss."""
    intervals: np.ndarray
    """``[cells, 4]``, or nothing without samples."""
    losses: np.ndarray
    """``[cells, 1 + samples, ratios]``, or nothing where they are not kept."""

    @classmethod
    def of(cls, parts: Iterator[tuple[Reduced, np.ndarray]], nothing: np.ndarray) -> "_Found":
        """Joins what is kept of each part."""
        columns, top, intervals, losses = [], [], [], []
        for reduced, kept in parts:
            columns.append(reduced.columns)
            top.append(reduced.top)
            intervals.append(reduced.intervals)
            losses.append(kept)
        empty = np.empty(0, COLUMNS), np.empty(0, TOP), np.empty((0, 4)), nothing
        found = zip(empty, (columns, top, intervals, losses), strict=True)
        return cls(*(np.concatenate(arrays) if arrays else none for none, arrays in found))


def _nothing(kernel: Kernel) -> np.ndarray:
    """Losses of no cells."""
    return np.empty((0, len(kernel.vectors), kernel.grid.anneal_ratio.size))


def _parts(
    kernel: Kernel,
    result: FitResult,
    top: int,
    store: Folder | None,
    keep_losses: bool,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[Reduced, np.ndarray]]:
    """What is kept of each part of this process, from the folder or computed; losses only if they are to be kept."""
    grid, done = kernel.grid, 0

    def mine() -> Iterator[Part]:
        return hosts.share(grid.parts(kernel.layout.rows))

    total = sum(part.cells.size for part in mine()) * grid.anneal_ratio.size
    found_there = {} if store is None else {part.number: store.load(part.number) for part in mine()}
    stored = {number: reduced for number, reduced in found_there.items() if reduced is not None}
    fresh = kernel.losses(part for part in mine() if part.number not in stored)
    for part in mine():
        reduced, losses = stored.get(part.number), _nothing(kernel)
        if reduced is None:
            _, found = next(fresh)
            reduced = _reduced(part, found, grid, result.loss_limits(part.total_steps), top)
            if store is not None:
                store.save(part, reduced, found[0], grid)
            losses = found.swapaxes(0, 1) if keep_losses else losses
        done += part.cells.size * grid.anneal_ratio.size
        if progress is not None:
            progress(done, total)
        yield reduced, losses


def _reduced(part: Part, losses: np.ndarray, grid: Grid, limits: tuple[float, float], top: int) -> Reduced:
    """The best of a part, from its losses ``[vectors, rows, ratios]`` under the fit and its samples.

    A cell with a loss below the limits has no best: where the law goes below its own floor at one ratio, the ratio
    beside it, just above the floor, is no better. Nor has a cell whose least loss lies above them.
    """
    fitted, ratios = losses[0], grid.anneal_ratio
    bad = ~np.isfinite(fitted).all(axis=1)
    require(not bad.any(), f"the fit predicts a loss that is not finite for peak_lr {part.peak_lr[np.argmax(bad)]:g}")
    columns, least = best_columns(ratios, fitted), fitted.min(axis=1)
    each = enumerate(columns["best"])
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


def _result(found: Sequence[_Found], grid: Grid, layout: Layout, top: int, reach: FittedRange | None) -> SearchResult:
    """What the processes found, in the order of the grid."""
    owners = [hosts.share(grid.parts(layout.rows), process, len(found)) for process in range(len(found))]
    cells = np.concatenate([part.cells for parts in owners for part in parts])
    columns = _in_order(cells, [one.columns for one in found])
    intervals = _in_order(cells, [one.intervals for one in found])
    losses = _in_order(cells, [one.losses for one in found])
    tops = np.concatenate([one.top for one in found])
    tops = tops[np.lexsort((tops["candidate"], tops["loss"]))][:top]
    best = tuple(_candidate(grid, one) for one in tops)
    warmup, init = grid.warmup_steps, grid.init_lr
    result = SearchResult(
        Cells(grid, columns, intervals, reach), grid.anneal_ratio, best, warmup_steps=warmup, init_lr=init
    )
    if not len(losses):
        return result
    return dataclasses.replace(result, losses=losses[:, 0], sample_losses=losses[:, 1:].swapaxes(0, 1))


def _in_order(cells: np.ndarray, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The processes' arrays joined and sorted by cell; nothing stays nothing."""
    joined = np.concatenate(arrays)
    return joined[np.argsort(cells)] if len(joined) else joined


def _candidate(grid: Grid, top: np.ndarray) -> Candidate:
    cell, ratio = divmod(int(top["candidate"]), grid.anneal_ratio.size)
    return Candidate(*grid.cell(cell), float(grid.anneal_ratio[ratio]), float(top["loss"]))
