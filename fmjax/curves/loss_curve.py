"""Loss curves as users hand them in, and the padded batch that the fitting engine works on."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fmjax._checks import positive, require, within
from fmjax.curves.row_noise import ends_in_spike
from fmjax.effects.weighted import WeightedUpdates, every_update, panelled_updates, weighted_updates
from fmjax.schedules.batch_stages import Batch, StageArrays, batch_of, changes_of, mean_batch, require_within
from fmjax.schedules.checks import check_schedule
from fmjax.schedules.kinds import Schedule


@dataclass(frozen=True, eq=False)
class LossCurve:
    """One run: its logged losses and the schedule it was trained with.

    Args:
      name: the run's name, unique in a batch.
      step: ``[rows]`` logged steps, rising; a row of step s has seen updates 0 ... s. A step that occurs again (a
        resumed run) replaces its earlier row, with a warning.
      loss: ``[rows]`` loss logged at each step, positive and finite.
      schedule: an fmjax schedule with concrete fields.
      model_size: number of parameters N, where known.
      tokens_per_step: tokens per update, where known: a number, or ``BatchStages`` of a batch that changes during the
        run, also as text such as "65536@0,131072@2000".
      final_loss: loss after the last update, where measured better than by the last row.
      split: label by which runs are selected, such as "train" or "test".
      data_order: name of the order of the data. Runs of one order see the same batches, or are evaluated on the same
        ones, at equal steps, and share noise there; runs of different orders share none. None where unknown: then
        their residuals tell.
      family: name of the run's family of models, such as "dense" or "1-in-8", where there are several.

    Raises:
      ValueError: naming the run and the row (counted from 1), what was expected and what was found.

    >>> from fmjax import Constant
    >>> LossCurve("a", [0, 10], [3.0, 2.5], Constant(peak_lr=1e-3, total_steps=11)).final_loss_measured
    2.5
    """

    name: str
    step: Any
    loss: Any
    schedule: Any
    model_size: float | None = None
    tokens_per_step: Batch | None = None
    final_loss: float | None = None
    split: str | None = None
    data_order: str | None = None
    family: str | None = None

    def __post_init__(self) -> None:
        with within(f"run {self.name!r}"):
            check_schedule(self.schedule)
            named = self.family is None or (isinstance(self.family, str) and self.family.strip())
            require(named, f"family: expected a name, got {self.family!r}")
            step, loss = _column(self.step, "step"), _column(self.loss, "loss")
            require(step.shape == loss.shape, f"expected as many losses as steps, got {loss.size} for {step.size}")
            require(step.size > 0, "expected at least one row, found none")
            for field in ("model_size", "final_loss"):
                if getattr(self, field) is not None:
                    object.__setattr__(self, field, positive(getattr(self, field), field))
            if self.tokens_per_step is not None:
                object.__setattr__(self, "tokens_per_step", batch_of(self.tokens_per_step, "tokens_per_step"))
                require_within(self.tokens_per_step, int(self.schedule.total_steps), "tokens_per_step")
        kept = self._check_rows(step, loss)
        object.__setattr__(self, "step", step[kept].astype(np.int64))
        object.__setattr__(self, "loss", loss[kept])

    def _check_rows(self, step: np.ndarray, loss: np.ndarray) -> np.ndarray:
        """Mask of the rows to keep; raises for the first row that cannot be right."""
        end = int(self.schedule.total_steps)
        self._first(~(np.isfinite(loss) & (loss > 0)), loss, "loss must be a positive number")
        self._first(~(np.isfinite(step) & (step >= 0)), step, "step must not be negative")
        self._first(step != np.floor(step), step, "step must be a whole number")
        self._first(step > end, step, f"step lies beyond the schedule's end at {end}")
        kept = _last_of_each(step)
        if not kept.all():
            _warn_repeated(self.name, step, kept)
        falls = np.zeros(step.size, bool)
        falls[kept] = np.diff(step[kept], prepend=-1) <= 0
        self._first(falls, step, "steps must rise, but this one follows a later step")
        return kept

    def _first(self, bad: np.ndarray, values: np.ndarray, message: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(f"run {self.name!r}, row {row + 1}: {message}, got {values[row]:.12g}")

    def until(self, count: int) -> "LossCurve":
        """The run as it stood after ``count`` updates.

        Raises:
          ValueError: no row was logged by then.
        """
        seen = self.step < count
        require(seen.any(), f"run {self.name!r}: expected a row in the first {count} updates, found none")
        return replace(self, step=self.step[seen], loss=self.loss[seen], final_loss=None)

    @property
    def peak_lr(self) -> float:
        """Highest rate of the schedule."""
        rates = (getattr(self.schedule, "peak_lr", ()), getattr(self.schedule, "lrs", ()))
        return float(max(np.max(np.asarray(rate)) for rate in rates if np.size(rate)))

    @property
    def mean_batch(self) -> float | None:
        """Mean tokens an update over the whole run; None where unknown."""
        return mean_batch(self.tokens_per_step, int(self.schedule.total_steps))

    @property
    def final_loss_measured(self) -> float:
        """``final_loss`` if given, else the last row's loss."""
        return float(self.loss[-1]) if self.final_loss is None else self.final_loss

    @property
    def is_finished(self) -> bool:
        """Whether the final loss is known: given, or the last row lies in the last hundredth of the schedule.

        A last row that is a spike does not tell the final loss.
        """
        ended = bool(self.step[-1] >= 0.99 * int(self.schedule.total_steps))
        return self.final_loss is not None or (ended and not self.ends_in_spike)

    @cached_property
    def ends_in_spike(self) -> bool:
        """Whether the last row lies far above the rows before it."""
        return ends_in_spike(self.step, self.loss)


def _column(values: ArrayLike, name: str) -> np.ndarray:
    try:
        column = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected numbers, got {values!r}"[:200]) from None
    require(column.ndim == 1, f"{name}: expected one dimension, got shape {column.shape}")
    return column


def _warn_repeated(name: str, step: np.ndarray, kept: np.ndarray) -> None:
    first = int(np.argmin(kept))
    warnings.warn(
        f"run {name!r}: {np.sum(~kept)} repeated steps (first: row {first + 1}, step {step[first]:.0f}); kept the last "
        "of each, as a resumed run logs them",
        stacklevel=5,
    )


def _last_of_each(step: np.ndarray) -> np.ndarray:
    """Mask of the last occurrence of each step."""
    if (np.diff(step) > 0).all():
        return np.ones(step.size, bool)
    keep = np.zeros(step.size, bool)
    keep[step.size - 1 - np.unique(step[::-1], return_index=True)[1]] = True
    return keep


@dataclass(frozen=True, eq=False)
class CurveBatch:
    """Runs padded into arrays, ``[runs, rows]``, with their schedules."""

    schedules: tuple[Schedule, ...]
    """The schedule of each run."""
    at: np.ndarray
    """``[runs, rows]`` update whose effects a row takes: min(step, T - 1)."""
    loss: np.ndarray
    """``[runs, rows]`` losses, 1 where padded."""
    valid: np.ndarray
    """``[runs, rows]`` whether the row exists."""
    warmup_steps: np.ndarray
    """``[runs]`` updates of warmup."""
    model_size: np.ndarray
    """``[runs]`` number of parameters, NaN where unknown."""
    batches: tuple[Batch | None, ...]
    """Tokens an update of each run, None where unknown."""
    family: tuple[str | None, ...]
    """``[runs]`` name of the family of models, None where there is none."""

    @cached_property
    def stages(self) -> StageArrays:
        """The batches of all runs side by side."""
        return StageArrays.of(self.batches)

    @cached_property
    def weighted(self) -> tuple[WeightedUpdates, ...]:
        """Of each run, updates that stand for all; the update of each row is among them."""
        runs = zip(self.schedules, map(np.unique, self.at), map(changes_of, self.batches), strict=True)
        return tuple(weighted_updates(schedule, rows, changes) for schedule, rows, changes in runs)

    @cached_property
    def panelled(self) -> tuple[WeightedUpdates, ...]:
        """The same for averages over updates, side by side in panels."""
        return tuple(panelled_updates(*run) for run in zip(self.schedules, map(np.unique, self.at), strict=True))

    @cached_property
    def every(self) -> tuple[WeightedUpdates, ...]:
        """Of each run, all updates."""
        return tuple(every_update(schedule, int(schedule.total_steps)) for schedule in self.schedules)

    def rows_of(self, runs: np.ndarray) -> int:
        """Columns that the rows of some runs take, with one more for the last update."""
        return min(bucket(int(self.valid[runs].sum(axis=1).max()) + 1), self.at.shape[1])

    def at_rows(self, field: str) -> np.ndarray:
        """``[runs, rows]`` what a field of ``WeightedUpdates`` is at each row's update."""
        each = zip(self.weighted, self.at, strict=True)
        return np.stack([getattr(run, field)[np.searchsorted(run.update, at)] for run, at in each])


def bucket(count: int) -> int:
    """The next of 1 ... 8, 10, 12, 14, 16, 20, ...: sizes that arrays are padded to, so that few programs are compiled.

    >>> [bucket(count) for count in (0, 3, 9, 100, 1000)]
    [0, 3, 10, 112, 1024]
    """
    unit = 1 << max((count - 1).bit_length() - 3, 0)
    return -(-count // unit) * unit


def pad(curves: Sequence[LossCurve]) -> CurveBatch:
    """Pads the rows of runs into one batch; the last row of each run's ``at`` is its final update."""
    require(len(curves) > 0, "expected at least one run, found none")
    rows = bucket(max(c.step.size for c in curves) + 1)
    runs = len(curves)
    batch = CurveBatch(
        schedules=tuple(curve.schedule for curve in curves),
        at=np.zeros((runs, rows), np.int32),
        loss=np.ones((runs, rows)),
        valid=np.zeros((runs, rows), bool),
        warmup_steps=np.array([int(c.schedule.warmup_steps) for c in curves], np.int32),
        model_size=np.array([np.nan if curve.model_size is None else curve.model_size for curve in curves]),
        batches=tuple(curve.tokens_per_step for curve in curves),
        family=tuple(curve.family for curve in curves),
    )
    for i, curve in enumerate(curves):
        total, n = int(curve.schedule.total_steps), curve.step.size
        batch.at[i, :n] = np.minimum(curve.step, total - 1)
        batch.at[i, n:] = total - 1
        batch.loss[i, :n] = curve.loss
        batch.valid[i, :n] = True
    return batch
