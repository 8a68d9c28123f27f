r"""Noise that runs share, as they see the same batches at the same steps, and errors of a law without it.

Runs of one data order train on the same batch at the same step, and evaluations use the same held-out text. So much of
what a law leaves over of one run is the noise of the others as well. With the law's log loss taken away, row s of run i
has the residual

    u_i(s) = e_i(s) + z(s) + w_i(s)

with the law's error e_i, which is smooth, the noise z that runs share, and noise w_i of its own. The runs that share z
with run i are those whose residuals move with its own from row to row: differences of successive rows hardly see e. The
mean m of these runs' residuals, less its trend, is z and a part of noise. Then b m is taken from u_i, with b of least
squares between the differences of both.

Where the orders of the data are named, runs of one order share z, and runs of different orders do not.

The law's own error is thus neither hidden nor counted twice: only what changes from row to row is taken out.

Rows of equal step and equal residual, as branches of one stem have them, are one measurement. They show no sharing.

Reference: control variates, and generalised least squares for a common factor; Hausman and Taylor (1981).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from fmjax.curves.loss_curve import LossCurve
from fmjax.curves.row_noise import TO_DEVIATION, RowNoise

LEAST_SHARED = 30
"""Rows at equal steps below which two runs show no shared noise."""

LEAST_CORRELATION = 0.2
"""Correlation of the differences of two runs' residuals from which they share noise; at least 4 standard errors."""

PULLED_IN = 4.0
"""Standard deviations to which differences are pulled in, so that a spike decides nothing."""


@dataclass(frozen=True, eq=False)
class Residuals:
    """What a law leaves over of a run."""

    step: np.ndarray
    """``[rows]`` steps, rising."""
    value: np.ndarray
    """``[rows]`` log of measured over predicted loss."""
    data_order: str | None = None
    """Name of the order of the run's data, where known."""

    @cached_property
    def noise(self) -> "Residuals":
        """The residuals less their trend, of the rows that are no spikes."""
        found = RowNoise.of(np.log(self.step + 1.0), np.exp(self.value))
        return Residuals(self.step[found.kept], (self.value - found.trend)[found.kept], self.data_order)


class SharedNoise(NamedTuple):
    """The noise that other runs say a run has."""

    step: np.ndarray
    """``[steps]`` steps at which any of them has a row, rising."""
    value: np.ndarray
    """``[steps]`` the noise of the run's log loss."""
    share: float
    """Share of the variance of its rows' noise that was shared; 0 where no run shares any."""

    def at(self, step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``[rows]`` the noise at steps, 0 where it is not known, and whether it is."""
        found = np.searchsorted(self.step, step).clip(max=self.step.size - 1)
        known = self.step[found] == step
        return np.where(known, self.value[found], 0.0), known


NO_SHARED_NOISE = SharedNoise(np.array([-1]), np.zeros(1), 0.0)
"""Where no run shares any: a step that no run has."""


class WithoutShared(NamedTuple):
    """The residuals of a run without the noise that it shares."""

    value: np.ndarray
    """``[rows]`` the residuals left."""
    share: float
    """Share of the variance of its rows' noise that was shared; 0 where no run shares any."""


def without_shared(run: Residuals, others: Sequence[Residuals]) -> WithoutShared:
    """Takes out of a run's residuals the noise that other runs had at the same steps.

    >>> rng = np.random.default_rng(0)
    >>> step, shared = np.arange(400), rng.normal(size=400)
    >>> one, other = (Residuals(step, 0.01 * (shared + 0.3 * rng.normal(size=400))) for _ in range(2))
    >>> found = without_shared(one, [other])
    >>> bool(np.std(found.value) < 0.5 * np.std(one.value)), 0.7 < found.share < 1
    (True, True)
    """
    found = noise_shared_by(run, others)
    return WithoutShared(run.value - found.at(run.step)[0], found.share)


def noise_shared_by(run: Residuals, others: Sequence[Residuals]) -> SharedNoise:
    """The noise of a run that others had at the same steps, also at steps that only they have come to."""
    noises = [other.noise for other in others if _move_together(run, other)]
    if not noises:
        return NO_SHARED_NOISE
    mean = _mean_noise(noises)
    theirs, known = mean.at(run.step)
    own, change = _differences(run.value[known]), _differences(theirs[known])
    slope = float(np.clip(own @ change / max(change @ change, 1e-300), 0.0, 1.0))
    left = _differences((run.value - slope * theirs)[known])
    share = float(np.clip(1 - (left @ left) / max(own @ own, 1e-300), 0.0, 1.0))
    return SharedNoise(mean.step, slope * mean.value, share)


def _mean_noise(noises: Sequence[Residuals]) -> SharedNoise:
    """The mean of several runs' noise at each step that one of them has."""
    step = np.unique(np.concatenate([noise.step for noise in noises]))
    total, count = np.zeros(step.size), np.zeros(step.size)
    for noise in noises:
        at = np.searchsorted(step, noise.step)
        total[at] += noise.value
        count[at] += 1
    return SharedNoise(step, total / count, 0.0)


def each_without_shared(
    runs: Sequence[Residuals], usable: np.ndarray, fitted: np.ndarray
) -> list[WithoutShared | None]:
    """The residuals of each usable run without the noise that the fitted runs beside it had; None of the others."""
    long = [run for run, is_in in zip(runs, fitted, strict=True) if is_in and run.step.size >= LEAST_SHARED]
    return [
        without_shared(run, [other for other in long if other is not run]) if is_usable else None
        for run, is_usable in zip(runs, usable, strict=True)
    ]


def common_noise(runs: Sequence[Residuals]) -> tuple[SharedNoise | None, list[np.ndarray]]:
    """The mean noise of the runs that share any, None without any, and what is left of each run's residuals without it.

    >>> rng = np.random.default_rng(0)
    >>> step, shared = np.arange(400), 0.01 * rng.normal(size=400)
    >>> noise, left = common_noise([Residuals(step, shared + 0.001 * rng.normal(size=400)) for _ in range(3)])
    >>> bool(np.corrcoef(noise.value, shared)[0, 1] > 0.98), all(np.std(own) < 0.004 for own in left)
    (True, True)
    """
    everyone = np.ones(len(runs), bool)
    found = [one for one in each_without_shared(runs, everyone, everyone) if one is not None]
    noises = [run.noise for run, one in zip(runs, found, strict=True) if one.share > 0]
    return _mean_noise(noises) if noises else None, [one.value for one in found]


def with_common_noise(
    curves: Sequence[LossCurve], predicted: Sequence[np.ndarray]
) -> tuple[SharedNoise | None, list[np.ndarray]]:
    """The noise of the log loss that runs share, None without any, and predictions with each run's part of it.

    Args:
      curves: the runs.
      predicted: ``[rows]`` predicted losses of each; NaN where the law cannot be used.
    """
    usable = [i for i, values in enumerate(predicted) if np.isfinite(values).all() and (values > 0).all()]
    rows = [Residuals(curves[i].step, np.log(curves[i].loss / predicted[i]), curves[i].data_order) for i in usable]
    noise, left = common_noise(rows)
    found = list(predicted)
    for i, run, rest in zip(usable, rows, left, strict=True):
        found[i] = predicted[i] * np.exp(run.value - rest)
    return noise, found


def sharing_groups(runs: Sequence[Residuals]) -> np.ndarray:
    """``[runs]`` the group of runs that each shares its noise with, by one of their places; its own where with none.

    Runs are of one group if their noise moves together, or each moves with that of a third. A branch with too few rows
    of its own to show it is of the group of the runs that have rows of its stem.

    >>> rng = np.random.default_rng(0)
    >>> step, shared = np.arange(80), rng.normal(size=80)
    >>> runs = [Residuals(step, 0.01 * rng.normal(size=80) + size * shared) for size in (0, 0.01, 0.01)]
    >>> sharing_groups(runs).tolist()
    [0, 1, 1]
    """
    group = np.arange(len(runs))
    if sum(run.step.size >= LEAST_SHARED for run in runs) < 2:
        return group
    pairs = list(itertools.combinations(range(len(runs)), 2))
    for one, other in pairs:
        if group[one] != group[other] and _move_together(_apart(runs[one], runs[other]), runs[other]):
            group[group == group[other]] = group[one]
    alone = np.bincount(group, minlength=group.size)[group] == 1
    for one, other in pairs:
        if alone[one] != alone[other] and _apart(runs[one], runs[other]) is not runs[one]:
            joins, there = (one, other) if alone[one] else (other, one)
            group[joins] = group[there]
    return group


def _apart(run: Residuals, other: Residuals) -> Residuals:
    """The rows of a run but those that are the same measurement as a row of the other."""
    at = np.searchsorted(other.step, run.step).clip(max=other.step.size - 1)
    own = (other.step[at] != run.step) | (other.value[at] != run.value)
    return run if own.all() else Residuals(run.step[own], run.value[own], run.data_order)


def _move_together(run: Residuals, other: Residuals) -> bool:
    """Whether the residuals of two runs rise and fall together from row to row, or are said to."""
    if min(run.step.size, other.step.size) < LEAST_SHARED:
        return False
    _, mine, theirs = np.intersect1d(run.step, other.step, return_indices=True)
    if mine.size < LEAST_SHARED:
        return False
    if run.data_order is not None and other.data_order is not None:
        return run.data_order == other.data_order
    a, b = _differences(run.value[mine]), _differences(other.value[theirs])
    size = float(np.sqrt((a @ a) * (b @ b)))
    return size > 0 and float(a @ b) / size > max(LEAST_CORRELATION, 4 / np.sqrt(mine.size))


def _differences(values: np.ndarray) -> np.ndarray:
    """Differences of successive values, those far off pulled in."""
    change = np.diff(values)
    most = PULLED_IN * TO_DEVIATION * float(np.median(np.abs(change)))
    return np.clip(change, -most, most)
