"""Effects at the rows of many runs: runs of like length go side by side, and few updates stand for all."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._checks import choose
from fmjax._devices import once_compiled
from fmjax._types import Array
from fmjax.curves.loss_curve import CurveBatch, bucket
from fmjax.effects.weighted import PANEL_NODES, WeightedUpdates, Within
from fmjax.laws import Law, Row
from fmjax.schedules.batch_stages import stage_shares

LIKE = 4
"""Runs are alike in length within this factor, and padded to the longest of them."""


class LikeRuns(NamedTuple):
    """Runs of like length as a law counts their updates."""

    updates: WeightedUpdates
    """``[runs, updates]``."""
    at: Array
    """``[runs, rows]`` place among them of each row's update."""


class RowUpdates(NamedTuple):
    """What effects at all rows of a batch follow from."""

    parts: tuple[LikeRuns, ...]
    places: np.ndarray
    """``[runs, rows]`` where each row of the batch stands among the rows of all parts, in their order."""

    @classmethod
    def of(cls, law: Law, batch: CurveBatch, warmup: str) -> "RowUpdates":
        """The updates of a batch with warmup counted in a given way."""
        runs = [_counted(*run, warmup) for run in zip(_seen(law, batch), batch.warmup_steps.tolist(), strict=True)]
        sizes = np.array([run.lr.size for run in runs])
        parts, places, begin = [], np.zeros(batch.at.shape, int), 0
        for alike in _alike(sizes):
            width = batch.rows_of(alike)
            at = [np.searchsorted(runs[i].update, batch.at[i, :width]) for i in alike]
            chosen = np.resize(alike, bucket(alike.size))  # further runs repeat the first ones
            updates = _in_stages(_padded([runs[i] for i in chosen]), law, batch, chosen)
            parts.append(LikeRuns(updates, np.resize(at, (chosen.size, width))))
            row = np.minimum(np.arange(batch.at.shape[1]), width - 1)  # rows that pad are the last
            places[alike] = begin + np.arange(alike.size)[:, None] * width + row
            begin += chosen.size * width
        return cls(tuple(parts), places)

    def effects(self, law: Law) -> dict[str, np.ndarray]:
        """The law's effects at every row of the batch, ``[runs, rows]`` each."""
        parts = [jax.tree.map(np.asarray, once_compiled(_effects, as_counted(law), part)) for part in self.parts]
        flat = {key: np.concatenate([_flat(part[key]) for part in parts]) for key in parts[0]}
        return {key: values[self.places] for key, values in flat.items()}


def _seen(law: Law, batch: CurveBatch) -> Sequence[WeightedUpdates]:
    if not law.weighted:
        return batch.every
    return batch.weighted if law.squares_rate is None else batch.panelled


def _counted(updates: WeightedUpdates, warmup_steps: int, warmup: str) -> WeightedUpdates:
    if warmup == "as-peak":
        return updates.held(warmup_steps)
    return updates.without_rise(warmup_steps) if warmup == "without-rise" else updates


def _alike(sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of runs of like length, the short ones first."""
    left = np.argsort(sizes, kind="stable")
    while left.size:
        count = int(np.sum(sizes[left] > sizes[left[-1]] // LIKE))
        yield np.sort(left[-count:])
        left = left[:-count]


def _padded(runs: Sequence[WeightedUpdates]) -> WeightedUpdates:
    """Runs side by side; updates that pad stand for none, and have the last one's rate."""
    unit = 1 if runs[0].within is None else PANEL_NODES
    width = unit * bucket(max(run.lr.size for run in runs) // unit)
    ends = [np.minimum(np.arange(width), run.lr.size - 1) for run in runs]
    fields = zip(*([field[end] for field in run[:5]] for run, end in zip(runs, ends, strict=True)), strict=True)
    found = WeightedUpdates(*map(np.stack, fields))  # type: ignore[arg-type]  # nothing is ``left`` for many rows
    real = np.arange(width) < np.array([run.lr.size for run in runs])[:, None]
    within = [_widened(run.within, width // unit) for run in runs if run.within is not None]
    stacked = jax.tree.map(lambda *parts: np.stack(parts), *within) if within else None
    return found._replace(weight=np.where(real, found.weight, 0.0), within=stacked)


def _in_stages(updates: WeightedUpdates, law: Law, batch: CurveBatch, runs: np.ndarray) -> WeightedUpdates:
    """The updates of some runs with the stage of the batch that each lies in, where the law has the batch in it."""
    if not (law.spans_batches and batch.stages.change):
        return updates
    return updates._replace(stage=np.asarray(stage_shares(batch.stages.starts[runs], np.asarray(updates.update))))


def _widened(within: Within, panels: int) -> Within:
    return within._replace(kind=np.pad(within.kind, (0, panels - len(within.kind))))


def in_batch_order(parts: Sequence[Row], places: Array) -> Row:
    """Effects of all parts ``[runs, rows]``, each row's at its place."""
    return {key: jnp.concatenate([_flat(jnp.asarray(part[key])) for part in parts])[places] for key in parts[0]}


def _flat(values: Array) -> Array:
    return values.reshape(-1, *values.shape[2:])


def effects_of(law: Law, runs: LikeRuns) -> Row:
    """Effects ``[runs, rows]``, under ``jit``; warmup has been counted."""
    return jax.vmap(law.row_effects)(runs.updates, runs.at)


_effects = jax.jit(effects_of)


def batch_effects(law: Law, batch: CurveBatch, *, warmup: str | None = None) -> dict[str, np.ndarray]:
    """Effects at every row, ``[runs, rows]`` each, with ``log_N`` and, where the law has them, ``log_B`` and family.

    Where the batch of any run changes, effects of a law that needs it have an axis of its stages after the rows.
    Warmup counts as the law says, unless told.
    """
    return RowUpdates.of(law, batch, warmup or law.warmup).effects(law) | of_runs(law, batch)


def of_runs(law: Law, batch: CurveBatch) -> dict[str, np.ndarray]:
    """What the law needs beside effects, the same at every row of a run, ``[runs, rows]`` each."""
    log_n = np.log(np.where(np.isnan(batch.model_size), 1.0, batch.model_size))
    log_b = np.log(batch.stages.tokens)
    sizes = {"log_N": log_n} | ({"log_B": log_b if batch.stages.change else log_b[:, 0]} if law.spans_batches else {})
    sizes |= {"family": _family_places(law, batch.family)} if law.families else {}
    return {key: _of_each_row(value, batch) for key, value in sizes.items()}


def _of_each_row(of_run: np.ndarray, batch: CurveBatch) -> np.ndarray:
    """``[runs, rows, ...]`` what holds of each run, ``[runs, ...]``."""
    return np.broadcast_to(of_run[:, None], (*batch.at.shape, *of_run.shape[1:]))


def _family_places(law: Law, names: Sequence[str | None]) -> np.ndarray:
    """``[runs]`` place of each run's family among those of the law."""
    known = [choose(str(name), law.families, "family") for name in names]
    return np.array([law.families.index(name) for name in known], float)


def as_counted(law: Law) -> Law:
    """The law for updates that have been counted as it says: one program for all ways to count warmup."""
    return dataclasses.replace(law, warmup="as-scheduled")
