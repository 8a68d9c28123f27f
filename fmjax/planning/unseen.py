"""How far a law errs on runs of a model size, or a batch size, that none of the fitted runs has."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fmjax.curves.loss_curve import LossCurve
from fmjax.fitting.fits import measure
from fmjax.fitting.priors import LEVEL_ERROR
from fmjax.fitting.problem import Problem
from fmjax.fitting.records import FitResult
from fmjax.laws.base import ONE_BATCH

LEAST_LEVELS = 3
"""Sizes, or batches, from which fits without one of them say how far the law errs on others."""

SIZE_AND_BATCH: tuple[Callable[[LossCurve], float | None], ...] = (
    lambda curve: curve.model_size,
    lambda curve: curve.mean_batch,
)
"""What a run has of model size and of batch size."""


class Unseen(NamedTuple):
    """How far a law errs at values of one axis that it was not fitted to."""

    logs: np.ndarray
    """``[values]`` logarithms of the sizes, or batches, of the fitted runs, rising."""
    between: float
    """Standard deviation of the relative error at another value."""
    beyond: float
    """The same per e-fold beyond the least or the greatest, which adds to it in squares."""

    def error(self, value: float) -> float:
        """Standard deviation of the relative error at a value; 0 at one of those fitted."""
        at = np.log(value)
        if np.min(np.abs(self.logs - at)) <= ONE_BATCH:
            return 0.0
        far = max(self.logs[0] - at, at - self.logs[-1], 0.0)
        return float(np.hypot(self.between, self.beyond * far))


class Splits(NamedTuple):
    """The fitted runs without those of one size, or of one batch, for every one of them."""

    logs: tuple[np.ndarray, ...]
    """Logarithms of the distinct values of each of ``SIZE_AND_BATCH``; none where the law does not have it."""
    without: np.ndarray
    """``[fits, runs]`` masks of the runs to fit, axis by axis, of axes with ``LEAST_LEVELS`` at least."""

    @classmethod
    def of(cls, problem: Problem, group: np.ndarray) -> "Splits":
        """The splits of a group ``[runs]`` of a problem's runs."""
        logs, masks = [], [np.empty((0, group.size), bool)]
        for axis, is_in in zip(SIZE_AND_BATCH, (problem.law.sizes, problem.law.spans_batches), strict=True):
            own = np.log([axis(curve) or 1.0 for curve in problem.curves])
            levels = np.unique(np.round(own[group] / ONE_BATCH)) * ONE_BATCH if is_in else np.empty(0)
            logs.append(levels)
            if levels.size >= LEAST_LEVELS:
                masks.append(group & (np.abs(own - levels[:, None]) > ONE_BATCH))
        return cls(tuple(logs), np.concatenate(masks))

    def errors(self, problem: Problem, group: np.ndarray, fits: Sequence[FitResult]) -> tuple[Unseen | None, ...]:
        """How far the law errs at other values of each axis; None of an axis that it does not have.

        The fit without a value misses the final losses of the runs that have it by e in the mean. ``between`` is the
        root mean square of e over the values between others, at least ``LEVEL_ERROR``. ``beyond`` is that of e over the
        distance to the next value, at both ends. Of fewer than ``LEAST_LEVELS`` values there is ``LEVEL_ERROR`` alone.

        Args:
          problem: the runs under the law.
          group: ``[runs]`` those fitted.
          fits: one for each of ``without``.
        """
        each = [_mean_error(problem, group & ~mask, fit) for mask, fit in zip(self.without, fits, strict=True)]
        found: list[Unseen | None] = []
        for logs in self.logs:
            count = logs.size if logs.size >= LEAST_LEVELS else 0
            found.append(_unseen(logs, np.array(each[:count])) if logs.size else None)
            each = each[count:]
        return tuple(found)


def _mean_error(problem: Problem, left_out: np.ndarray, fit: FitResult) -> float:
    """Mean log of measured over predicted final loss of runs left out; NaN where the fit cannot be used."""
    runs = measure(problem, fit.lanes.best_params, usable=left_out & fit.ok)
    errors = np.array([np.log(run.final_loss / run.final_loss_predicted) for run in runs])
    return float(errors[left_out].mean())


def _unseen(logs: np.ndarray, errors: np.ndarray) -> Unseen:
    ends = errors[[0, -1]] / np.diff(logs)[[0, -1]] if errors.size else errors
    return Unseen(logs, max(_root_mean_square(errors[1:-1]), LEVEL_ERROR), _root_mean_square(ends))


def _root_mean_square(values: np.ndarray) -> float:
    """Of those that are finite; 0 without any."""
    kept = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(kept**2))) if kept.size else 0.0
