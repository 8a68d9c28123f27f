"""What can be trusted of logged rows: measurements told from repeats, spikes and rounding, and the noise of a row."""

from typing import NamedTuple

import numpy as np

TREND_GROUPS = 128
"""Groups of successive rows, at most, whose medians a trend is drawn through."""

TREND_WINDOW = 0.15
"""Share of the rows that a trend looks at: a burst of 5 % is a third of them, wherever it is."""

LEAST_GROUPS = 7
"""Groups that a trend looks at, at the least."""

SPIKE_LIMIT = 6.0
"""Standard deviations off the trend of its neighbours from which a row is a spike."""

LEAST_SPIKE = 2e-3
"""Relative deviation up to which no row is a spike, however little its neighbours scatter."""

TO_DEVIATION = 1.4826
"""Standard deviation of a normal over its median absolute deviation."""

LEAST_LAST = 12
"""Rows of a run among which its last one can be told for a spike."""

FAR_OFF = 2e-2
"""Relative deviation from a power law in updates up to which no row of a curve is a spike, without another law."""

EARLY_SLACK = 5.0
"""What that is multiplied by in the first e-fold of updates, where curves bend more than a power law."""

POWERS = np.linspace(0.1, 1.5, 15)
"""Exponents of that power law that are tried."""

ROUNDING_STEPS = (*(10.0**-digits for digits in range(7)), *(2.0**-bits for bits in range(4, 13)))
"""Steps that losses may be rounded to: decimals, and the fractions of half precision."""

BETWEEN = 4.0
"""Steps of rounding that successive measurements differ by, in the middle, where equal ones are told to be repeats."""


class RowNoise(NamedTuple):
    """What the rows of a run are worth, ``[rows]`` where not said otherwise."""

    kept: np.ndarray
    """Whether a row is a measurement of its own and no spike."""
    fresh: np.ndarray
    """Whether its loss differs from that of the row before; equal ones, rounded or repeated, err alike."""
    trend: np.ndarray
    """Robust trend of the residuals."""
    deviation: float
    """Standard deviation of the log loss of a row about the trend, the rounding included."""
    rounding: float
    """The part of it that rounding makes; 0 where no rounding can be seen."""
    repeats: int
    """Rows that repeat a measurement."""
    spikes: int
    """Rows that lie off the trend of their neighbours."""

    @classmethod
    def of(
        cls, place: np.ndarray, loss: np.ndarray, expected: np.ndarray | float = 0.0, slack: np.ndarray | float = 0.0
    ) -> "RowNoise":
        r"""The noise of rows about what was expected of them.

        A trend, a line through the medians of neighbouring rows (``lines``), is taken from the residuals
        $\log L - \log \hat L$. A row further off than ``SPIKE_LIMIT`` standard deviations of its neighbours,
        ``LEAST_SPIKE`` and its slack is a spike. The standard deviation is that of the median absolute deviation, and
        at least what rounding alone makes of it, a step over $\sqrt{12}$: losses logged with few digits often differ by
        nothing.

        Args:
          place: ``[rows]`` where a row stands, rising, such as the log of its update.
          loss: ``[rows]`` losses.
          expected: log loss expected of each row, of which only the trend need be wrong.
          slack: ``[rows]`` how far off the expected log loss may be by itself.

        Reference: repeated medians, Siegel (1982).
        """
        step = rounding_step(loss)
        fresh = np.append(True, np.diff(loss) != 0)
        measured = ~_repeats(loss, step)
        rounding = step / (np.median(loss) * np.sqrt(12))
        residual = np.log(loss) - expected
        trend, scale = _about(place[measured], residual[measured])
        trend, scale = (np.interp(place, place[measured], values) for values in (trend, scale))
        off = np.abs(residual - trend)
        spikes = measured & (off > np.maximum(SPIKE_LIMIT * np.hypot(scale, rounding), LEAST_SPIKE + slack))
        kept = measured & ~spikes
        deviation = max(_deviation(off[kept], min(kept.sum(), LEAST_GROUPS)), rounding)
        return cls(kept, fresh, trend, deviation, rounding, int(np.sum(~measured)), int(spikes.sum()))


def rounding_step(values: np.ndarray) -> float:
    """The coarsest of ``ROUNDING_STEPS`` that all values are multiples of, 0 for none.

    >>> rounding_step(np.array([2.43, 2.41, 2.4]))
    0.01
    """
    return max(
        (step for step in ROUNDING_STEPS if np.all(np.abs(np.round(values / step) * step - values) < 1e-9)), default=0.0
    )


def far_values(values: np.ndarray, least: float = LEAST_SPIKE) -> np.ndarray:
    """Mask of the values too far from their median: beyond ``SPIKE_LIMIT`` standard deviations and ``least``.

    >>> far_values(np.array([1.0, 1.1, 0.9, 5.0])).tolist()
    [False, False, False, True]
    """
    off = np.abs(values - np.median(values))
    return off > max(SPIKE_LIMIT * TO_DEVIATION * float(np.median(off)), least)


def ends_in_spike(step: np.ndarray, loss: np.ndarray) -> bool:
    """Whether the last of the losses is a spike upwards, off the trend of the rows around it.

    A sudden fall at the end of an anneal is none.

    >>> ends_in_spike(np.arange(20), np.append(np.linspace(2.2, 2.1, 19), 4.0))
    True
    """
    if loss.size < LEAST_LAST:
        return False
    found = RowNoise.of(np.log(step + 1.0), loss)
    return bool(not found.kept[-1] and np.log(loss[-1]) > found.trend[-1] + FAR_OFF)


def curve_rows(step: np.ndarray, loss: np.ndarray) -> RowNoise:
    """The noise of the rows of a curve about a power law in updates, the one that is nearest in the middle."""
    place = np.log(step + 1.0)
    points = np.unique(np.linspace(0, loss.size - 1, min(loss.size, TREND_GROUPS)).astype(int))
    found = []
    for power in POWERS:
        x = np.exp(-power * (place - place[0]))
        level, slope = lines(x[None, points], loss[None, points], np.zeros(1))
        expected = np.maximum(level + slope * x, 0.5 * loss.min())
        found.append((float(np.median(np.abs(np.log(loss / expected)))), expected))
    expected = min(found, key=lambda one: one[0])[1]
    slack = np.where(place < place[0] + 1, EARLY_SLACK, 1.0) * FAR_OFF
    return RowNoise.of(place, loss, np.log(expected), slack)


def without_far(values: np.ndarray, least: float = LEAST_SPIKE) -> np.ndarray:
    """The values but ``far_values``."""
    return values[~far_values(values, least)]


def robust_size(residual: np.ndarray) -> float:
    """Root mean square of residuals, those beyond three of the standard deviation that their median tells pulled in.

    >>> residual = np.append(np.resize([1e-3, -1e-3], 98), [0.5, 0.5])
    >>> round(robust_size(residual), 4)
    0.0012
    """
    off = np.abs(residual)
    if off.size < 3:
        return float(np.sqrt(np.mean(off**2))) if off.size else float("nan")
    return float(np.sqrt(np.mean(np.minimum(off, 3 * TO_DEVIATION * np.median(off)) ** 2)))


def _repeats(loss: np.ndarray, step: float) -> np.ndarray:
    """Mask of rows that log the measurement before them again, as filled gaps do.

    Equal losses of successive rows can also come of rounding. They do not where measurements that differ do so by
    several steps of it: then few of them would be equal by chance.
    """
    change = np.diff(loss, prepend=np.inf)
    moved = np.abs(change[1:][change[1:] != 0])
    filled = moved.size > 0 and np.median(moved) > BETWEEN * step
    return filled & (change == 0)


def _about(place: np.ndarray, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Robust trend ``[rows]`` of the residuals, and the standard deviation ``[rows]`` about it.

    Rows are put in groups of equal size. Each group has a line of its own: the repeated-median line through the medians
    of the groups around it, which half of them can be wrong about. Windows at the ends are shifted, not cut, so that a
    burst there is no greater part of its window than elsewhere.
    """
    rows = place.size
    groups = min(rows, TREND_GROUPS)
    label = np.arange(rows) * groups // max(rows, 1)
    edges = np.searchsorted(label, np.arange(groups + 1))
    x, y = (_Spans.of(values, edges[:-1], edges[1:]).medians() for values in (place, residual))
    width = min(groups, max(LEAST_GROUPS, int(np.ceil(TREND_WINDOW * groups))))
    first = np.clip(np.arange(groups) - width // 2, 0, groups - width)
    window = first[:, None] + np.arange(width)
    level, slope = lines(x[window], y[window], x)
    trend = level[label] + slope[label] * (place - x[label])
    off = np.abs(residual - trend)
    near = _Spans.of(off, edges[first], edges[first + width]).deviations(width)
    return trend, np.maximum(near, _deviation(off, width))[label]


class _Spans(NamedTuple):
    """Spans of successive values side by side; what pads a span is infinite."""

    values: np.ndarray
    """``[spans, longest]`` rising."""
    size: np.ndarray
    """``[spans]`` values of each."""

    @classmethod
    def of(cls, values: np.ndarray, begin: np.ndarray, end: np.ndarray) -> "_Spans":
        place = begin[:, None] + np.arange(max((end - begin).max(initial=0), 1))
        inside = place < end[:, None]
        return cls(np.sort(np.where(inside, values[np.where(inside, place, 0)], np.inf), axis=1), end - begin)

    def medians(self) -> np.ndarray:
        """The median of each span; there is a value in each."""
        span = np.arange(len(self.size))
        return (self.values[span, (self.size - 1) // 2] + self.values[span, self.size // 2]) / 2

    def deviations(self, points: float) -> np.ndarray:
        """``_deviation`` of each span of absolute deviations."""
        most = 3 * TO_DEVIATION * self.medians()[:, None]
        pulled_in = np.where(np.isfinite(self.values), np.minimum(self.values, most), 0.0)
        deviation = np.sqrt(np.sum(pulled_in**2, axis=1) / self.size * points / max(points - 2, 1))
        return np.where(self.size < 3, 0.0, deviation)


def lines(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values at ``at[lines]`` and slopes of repeated-median lines through points ``[lines, points]``."""
    if x.shape[1] < 2:
        return y[:, 0], np.zeros(len(y))
    off = ~np.eye(x.shape[1], dtype=bool)
    run, rise = (values[:, None, :] - values[:, :, None] for values in (x, y))
    slopes = np.divide(rise, run, out=np.zeros_like(rise), where=run != 0)
    each = slopes[:, off].reshape(*x.shape, x.shape[1] - 1)
    slope = np.median(np.median(each, axis=-1), axis=-1)
    return np.median(y - slope[:, None] * (x - at[:, None]), axis=-1), slope


def _deviation(off: np.ndarray, points: float) -> float:
    """Standard deviation from absolute deviations about lines through so many points.

    Root mean square, with deviations beyond three of the standard deviation that the median tells pulled in to it.
    """
    if off.size < 3:
        return 0.0
    return float(robust_size(off) * np.sqrt(points / max(points - 2, 1)))
