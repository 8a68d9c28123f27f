"""Search: the predicted final loss of every schedule in a grid, chunk by chunk."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._checks import choose, finite, positive, require, whole
from fmjax.effects import UNROLL
from fmjax.laws import Law, Row
from fmjax.records import FitResult, plain
from fmjax.resampling import percentile_interval
from fmjax.schedules import DECAYS, WSD

CHUNK = 65_536
"""Candidates computed at once; memory grows with this, not with the grid."""

NEAR = 1e-3
"""Excess loss up to which a ratio counts as near-optimal."""

RATIOS = tuple(np.linspace(0.01, 0.99, 99).round(2).tolist())
"""Annealing ratios searched by default."""


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

    def schedule(self, warmup_steps: int = 0, init_lr: float = 0.0) -> WSD:
        """The best schedule of the cell."""
        return WSD(
            peak_lr=self.peak_lr,
            total_steps=self.total_steps,
            anneal_ratio=self.best_ratio,
            decay=self.decay,
            final_lr=self.final_lr,
            warmup_steps=warmup_steps,
            init_lr=init_lr,
        )


@dataclass(frozen=True)
class SearchResult:
    """Predicted final losses over a grid: ``cells`` and, for each, the loss at every ratio."""

    cells: tuple[Cell, ...]
    anneal_ratio: np.ndarray
    """``[ratios]`` ratios searched."""
    losses: np.ndarray
    """``[cells, ratios]`` predicted loss after the last update."""

    @property
    def candidates(self) -> int:
        """Number of schedules searched."""
        return int(self.losses.size)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values for JSON, without the loss of every candidate."""
        return plain({"candidates": self.candidates, "cells": [cell._asdict() for cell in self.cells]})

    def to_json(self) -> str:
        """The result as JSON text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)


@partial(jax.jit, static_argnames=("decay", "as_peak"))
def final_effects(
    law: Law,
    total_steps: jax.Array,
    candidates: dict[str, jax.Array],
    warmup_steps: Any,
    init_lr: Any,
    log_n: Any,
    *,
    decay: str,
    as_peak: bool,
) -> Row:
    """Effects after the last update of each candidate, ``[candidates]``; rates are never stored.

    Args:
      law: the law.
      total_steps: T, shared by the candidates.
      candidates: ``peak_lr``, ``anneal_ratio`` and ``final_lr``, ``[candidates]`` each.
      warmup_steps: updates of warmup, shared.
      init_lr: rate of update 0, shared.
      log_n: log of the model size.
      decay: shape of the anneal.
      as_peak: whether the law counts warmup as if at the peak.
    """
    dtype = candidates["peak_lr"].dtype

    def one(candidate: dict[str, jax.Array]) -> Row:
        schedule = WSD(**candidate, total_steps=total_steps, warmup_steps=warmup_steps, init_lr=init_lr, decay=decay)

        def update(count: Any, state: Any) -> Any:
            counted = jnp.clip(count, warmup_steps, total_steps - 1) if as_peak else count
            return law.step(state, schedule(counted))

        def block(i: Any, state: Any) -> Any:
            for k in range(UNROLL):
                state = update((i * UNROLL + k).astype(dtype), state)
            return state

        blocks = total_steps // UNROLL
        state = jax.lax.fori_loop(0, blocks, block, law.init(dtype))
        state = jax.lax.fori_loop(blocks * UNROLL, total_steps, lambda i, s: update(i.astype(dtype), s), state)
        return {**law.observe(state), "log_N": jnp.asarray(log_n, dtype)}

    return jax.vmap(one)(candidates)


@jax.jit
def _predict(law: Law, effects: Row, vectors: jax.Array) -> jax.Array:
    """Losses ``[vectors, candidates]``."""
    return jax.vmap(law.predict, in_axes=(None, 0))(effects, vectors)


def search(
    result: FitResult,
    *,
    total_steps: Any,
    peak_lr: Any,
    anneal_ratio: Any = RATIOS,
    decay: str | Sequence[str] = "linear",
    final_lr: Any = 0.0,
    warmup_steps: int = 0,
    init_lr: float = 0.0,
    model_size: float | None = None,
    samples: np.ndarray | None = None,
    chunk: int = CHUNK,
    progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """Predicts the final loss of every WSD schedule in a grid, and picks the best annealing ratio of each cell.

    The grid is total_steps x peak_lr x decay x final_lr (the cells) x anneal_ratio. Computed in float64, ``chunk``
    candidates at a time.

    Args:
      result: a fit that converged.
      total_steps: numbers of updates, one or many.
      peak_lr: peak rates, one or many.
      anneal_ratio: ratios R in (0, 1] to search.
      decay: shapes of the anneal, one or many of ``DECAYS``.
      final_lr: rates the anneal ends at, one or many.
      warmup_steps: updates of linear warmup.
      init_lr: rate of update 0.
      model_size: number of parameters, for laws fitted over several sizes.
      samples: ``[samples, parameters]`` bootstrap samples (``Bootstrap.params``), for intervals.
      chunk: candidates computed at once.
      progress: called with (candidates done, candidates in all) after each chunk.

    Returns:
      The cells with best ratio, loss and near-optimal interval, and the loss of every candidate.

    Raises:
      ValueError: a fit that cannot predict, a grid value out of range, an unknown decay.

    >>> import fmjax
    >>> result = fmjax.fit("lr-annealing", fmjax.datasets.proxy_runs())
    >>> found = search(result, total_steps=4000, peak_lr=[1e-3, 2e-3], warmup_steps=100)
    >>> len(found.cells), found.candidates
    (2, 198)
    """
    require(result.ok, f"the fit cannot predict: {result.message}")
    grid = _Grid(
        total_steps=tuple(whole(t, "total_steps", least=1) for t in _many(total_steps)),
        peak_lr=tuple(positive(lr, "peak_lr") for lr in _many(peak_lr)),
        decay=tuple(choose(name, DECAYS, "decay") for name in _many(decay)),
        final_lr=tuple(finite(lr, "final_lr") for lr in _many(final_lr)),
        anneal_ratio=tuple(finite(ratio, "anneal_ratio") for ratio in _many(anneal_ratio)),
        warmup_steps=whole(warmup_steps, "warmup_steps"),
        init_lr=finite(init_lr, "init_lr"),
        log_n=_log_size(result, model_size),
    )
    _check(grid)
    vectors = result.vector[None] if samples is None else np.concatenate([result.vector[None], samples])
    losses = np.empty((len(vectors), len(grid.cells()), len(grid.anneal_ratio)))
    with jax.enable_x64(True):
        for done in _fill(losses, result.law, vectors, grid, whole(chunk, "chunk", least=1)):
            if progress is not None:
                progress(done, losses[0].size)
    ratios = np.asarray(grid.anneal_ratio)
    cells = tuple(_best(cell, ratios, losses[:, i]) for i, cell in enumerate(grid.cells()))
    return SearchResult(cells, ratios, losses[0])


class _Grid(NamedTuple):
    total_steps: tuple[int, ...]
    peak_lr: tuple[float, ...]
    decay: tuple[str, ...]
    final_lr: tuple[float, ...]
    anneal_ratio: tuple[float, ...]
    warmup_steps: int
    init_lr: float
    log_n: float

    def cells(self) -> list[tuple[int, float, str, float]]:
        """(total_steps, peak_lr, decay, final_lr) of each cell."""
        return [(t, p, d, f) for t in self.total_steps for p in self.peak_lr for d in self.decay for f in self.final_lr]


def _many(values: Any) -> list[Any]:
    found = [values] if np.ndim(values) == 0 else list(values)
    require(found, "expected at least one value on every axis of the grid, found none")
    return found


def _log_size(result: FitResult, model_size: float | None) -> float:
    needed = getattr(result.law, "sizes", False)
    require(not needed or model_size is not None, "the fit spans several model sizes, so model_size is needed")
    return float(np.log(positive(model_size, "model_size"))) if model_size is not None else 0.0


def _check(grid: _Grid) -> None:
    for ratio in grid.anneal_ratio:
        require(0 < ratio <= 1, f"anneal_ratio must lie in (0, 1], got {ratio:g}")
    for total in grid.total_steps:
        require(grid.warmup_steps <= total, f"warmup of {grid.warmup_steps} steps is longer than the run of {total}")
    lowest = min(grid.peak_lr)
    require(0 <= grid.init_lr <= lowest, f"init_lr: expected a rate in [0, {lowest:g}], got {grid.init_lr:g}")
    for final in grid.final_lr:
        require(0 <= final <= lowest, f"final_lr: expected a rate in [0, {lowest:g}], got {final:g}")
        ends = final > 0 or "exponential" not in grid.decay
        require(ends, f"exponential decay needs a final_lr above zero, got {final:g}")


def _fill(losses: np.ndarray, law: Law, vectors: np.ndarray, grid: _Grid, chunk: int) -> Iterator[int]:
    """Fills ``losses[vectors, cells, ratios]`` and yields the number of candidates done after each chunk."""
    done, cells, ratios = 0, grid.cells(), np.asarray(grid.anneal_ratio)
    for total, decay in dict.fromkeys((cell[0], cell[2]) for cell in cells):
        group = np.array([i for i, cell in enumerate(cells) if (cell[0], cell[2]) == (total, decay)])
        count = group.size * ratios.size
        size = min(chunk, count)
        for start in range(0, count, size):
            rows, columns = np.divmod(np.minimum(np.arange(start, start + size), count - 1), ratios.size)
            chosen = [cells[i] for i in group[rows]]
            candidates = {
                "peak_lr": np.array([cell[1] for cell in chosen]),
                "final_lr": np.array([cell[3] for cell in chosen]),
                "anneal_ratio": ratios[columns],
            }
            shared = (grid.warmup_steps, grid.init_lr, grid.log_n)
            effects = final_effects(law, total, candidates, *shared, decay=decay, as_peak=law.warmup == "as-peak")
            losses[:, group[rows], columns] = np.asarray(_predict(law, effects, vectors))
            done += min(size, count - start)
            yield done


def _best(cell: tuple[int, float, str, float], ratios: np.ndarray, losses: np.ndarray) -> Cell:
    """The best ratio of a cell, from its losses ``[vectors, ratios]`` under the fit and its samples."""
    fitted, samples = losses[0], losses[1:]
    require(np.isfinite(fitted).all(), f"the fit predicts a loss that is not finite for peak_lr {cell[1]:g}")
    best = int(np.argmin(fitted))
    near = ratios[fitted <= fitted[best] + NEAR]
    at_edge = ratios.size > 1 and ratios[best] in (ratios.min(), ratios.max())
    found = Cell(*cell, float(ratios[best]), float(fitted[best]), (float(near.min()), float(near.max())), bool(at_edge))
    if not len(samples):
        return found
    return found._replace(
        ratio_interval=percentile_interval(continuous_best(ratios, samples)),
        loss_interval=percentile_interval(samples[:, best]),
    )


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
