"""A run's logged losses as a smooth curve of log loss over log updates, with the noise left in it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fmjax._checks import require
from fmjax.curves.loss_curve import LossCurve
from fmjax.curves.row_noise import curve_rows

LEAST_ROWS = 4
"""Rows that a run needs."""

SMOOTHER_WIDTH = 0.3
"""Half-width of the smoother in log updates; wider where that holds fewer than ``NEAREST`` bins."""

NEAREST = 6
"""Bins that the smoother holds at least."""

_BINS, _POINTS = 256, 256  # in which rows are averaged, and at which the curve is kept
_STABLE = 0.05  # share of rows at the peak rate under which a run counts as annealing from the start


class SmoothCurve(NamedTuple):
    """One run after warmup and, where it has a stretch at its peak rate, before its anneal."""

    curve: LossCurve
    anneals: bool
    """Whether the run has no such stretch, so that all rows after warmup count."""
    at: np.ndarray
    """``[points]`` log updates, evenly spaced."""
    loss: np.ndarray
    """``[points]`` log loss."""
    noise: np.ndarray
    """``[points, bins]`` what independent normal noise of the rows, averaged over bins, adds to the log loss."""

    @property
    def batch(self) -> float:
        """Tokens an update, the mean where it changes; NaN where unknown."""
        return float(self.curve.mean_batch or np.nan)

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """``[points, count]`` log losses with the noise of the rows redrawn."""
        return self.loss[:, None] + self.noise @ rng.standard_normal((self.noise.shape[1], count))


def smooth(curve: LossCurve, rates: np.ndarray) -> SmoothCurve:
    """Smooths a run by local quadratics of log loss in log updates, tricube weights, without its spikes.

    Args:
      curve: the run; a row of step s has seen min(s, T - 1) + 1 updates.
      rates: ``[updates]`` rate of each update; more than the run's own do not matter.

    Raises:
      ValueError: naming a run with fewer than ``LEAST_ROWS`` rows after warmup.

    Reference: local regression, Cleveland (1979).

    >>> from fmjax import Constant
    >>> step = np.arange(1000)
    >>> run = LossCurve("a", step, 3.0 * (step + 1.0) ** -0.1, Constant(1e-3, 1000), tokens_per_step=1e5)
    >>> round(float(np.exp(first_reach(smooth(run, np.full(1000, 1e-3)), np.log(2.0)))))
    58
    """
    row, anneals = _rows(curve, rates)
    _require_rows(curve, int(row.sum()))
    row[row] = curve_rows(curve.step[row], curve.loss[row]).kept
    _require_rows(curve, int(row.sum()))
    updates = np.log(np.minimum(curve.step[row], int(curve.schedule.total_steps) - 1) + 1.0)
    x, y, weight = _binned(updates, np.log(curve.loss[row]))
    _require_rows(curve, x.size)
    at = np.linspace(x[min(NEAREST // 2, x.size - LEAST_ROWS + 1)], x[-1], _POINTS)
    own, smoother = _smoother(x, weight, x), _smoother(x, weight, at)
    deviation = _deviation(np.log(curve.loss[row]) - np.interp(updates, x, own @ y), np.trace(own))
    return SmoothCurve(curve, anneals, at, smoother @ y, deviation * smoother / np.sqrt(weight))


def _deviation(residual: np.ndarray, parameters: float) -> float:
    """Standard deviation of independent noise that averages as badly as the residuals, correlated as they are."""
    square = float(residual @ residual)
    phi = min(max(float(residual[1:] @ residual[:-1]) / max(square, 1e-300), 0.0), 0.99)
    return float(np.sqrt(square / max(residual.size - parameters, 1.0) * (1 + phi) / (1 - phi)))


def first_reach(track: SmoothCurve, level: float, losses: np.ndarray | None = None) -> float | np.ndarray:
    """Log updates at which a smooth curve first reaches a log loss; NaN where it never does, or starts below it.

    Args:
      track: the curve.
      level: log loss to reach.
      losses: ``[points, count]`` other losses at the same updates, such as ``draw`` gives.
    """
    loss = track.loss[:, None] if losses is None else losses
    low = loss <= level
    reaches = low.any(axis=0) & ~low[0]
    i, j = np.maximum(np.argmax(low, axis=0), 1), np.arange(loss.shape[1])
    drop = np.where(reaches, loss[i - 1, j] - loss[i, j], 1.0)
    share = (loss[i - 1, j] - level) / drop
    found = np.where(reaches, track.at[i - 1] + share * (track.at[i] - track.at[i - 1]), np.nan)
    return found[0] if losses is None else found


def common_levels(tracks: Sequence[SmoothCurve], count: int) -> np.ndarray:
    """``[count]`` falling log losses that every curve reaches, even in log updates of the curve that ends highest.

    Raises:
      ValueError: naming a curve that ends above the start of another.
    """
    first, last = min(tracks, key=lambda track: track.loss[0]), max(tracks, key=lambda track: track.loss.min())
    falling = np.minimum.accumulate(last.loss)
    ends = f"run {last.curve.name!r} ends at {np.exp(falling[-1]):.4g}"
    starts = f"run {first.curve.name!r} starts at {np.exp(first.loss[0]):.4g}"
    require(falling[-1] < first.loss[0], f"expected losses that every run reaches, but {ends} and {starts}")
    begin, end = last.at[np.argmax(falling <= first.loss[0])], last.at[np.argmin(falling)]
    return np.interp(begin + (end - begin) * np.linspace(0.3, 0.95, count), last.at, falling)


def curve_spread(tracks: Sequence[SmoothCurve], offsets: Sequence[float]) -> float:
    """Mean absolute difference of log loss in percent between curves of different batch sizes, over what all share.

    Args:
      tracks: the curves.
      offsets: what to add to each curve's log updates; the log of its batch size compares at equal tokens.

    Returns:
      The mean over 256 points, even in the logarithm, and all pairs; NaN where the curves share none.
    """
    shifted = [track.at + offset for track, offset in zip(tracks, offsets, strict=True)]
    low, high = max(x[0] for x in shifted), min(x[-1] for x in shifted)
    if low >= high:
        return float("nan")
    at, batch = np.linspace(low, high, _POINTS), np.array([track.batch for track in tracks])
    loss = np.stack([np.interp(at, x, track.loss) for x, track in zip(shifted, tracks, strict=True)])
    i, j = np.nonzero(batch[:, None] < batch)
    return 100 * float(np.mean(np.abs(loss[i] - loss[j])))


def _require_rows(curve: LossCurve, rows: int) -> None:
    require(
        rows >= LEAST_ROWS,
        f"run {curve.name!r}: expected at least {LEAST_ROWS} rows after warmup, well apart, found {rows}",
    )


def _rows(curve: LossCurve, rates: np.ndarray) -> tuple[np.ndarray, bool]:
    """Mask of the rows that count, and whether they include an anneal."""
    total = int(curve.schedule.total_steps)
    at_peak = rates[:total] >= (1 - 1e-6) * rates[:total].max()
    begin = max(int(curve.schedule.warmup_steps), int(np.argmax(at_peak)))
    falls = ~at_peak[begin:]
    end = begin + int(np.argmax(falls)) if falls.any() else total
    update = np.minimum(curve.step, total - 1)
    after = update >= begin
    stable = after & (update < end)
    anneals = bool(stable.sum() < max(LEAST_ROWS, _STABLE * after.sum()))
    return (after, bool(falls.any())) if anneals else (stable, False)


def _binned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of x and y over bins of x that hold rows, and how many each holds."""
    place = np.minimum((x - x[0]) / max(x[-1] - x[0], 1e-300) * _BINS, _BINS - 1).astype(int)
    _, index, weight = np.unique(place, return_inverse=True, return_counts=True)
    return np.bincount(index, x) / weight, np.bincount(index, y) / weight, weight.astype(float)


def _smoother(x: np.ndarray, weight: np.ndarray, at: np.ndarray) -> np.ndarray:
    """``[at, x]`` weights with which local quadratics sum the values at x."""
    gap = x - at[:, None]
    nearest = np.sort(np.abs(gap), axis=1)[:, min(NEAREST, x.size) - 1]
    z = gap / np.maximum(SMOOTHER_WIDTH, 1.1 * nearest)[:, None]
    kernel = weight * np.maximum(1 - np.abs(z) ** 3, 0.0) ** 3
    basis = np.stack([np.ones_like(z), z, z**2], axis=-1)
    weighted = basis * kernel[..., None]
    first = np.linalg.solve(weighted.swapaxes(1, 2) @ basis, np.broadcast_to(np.eye(3)[:, :1], (at.size, 3, 1)))
    return (weighted @ first)[..., 0]
