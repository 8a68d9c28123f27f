"""Families of schedules fitted to logged rates: the nearest of each, and the simplest that is about as near as any."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple, TypeAlias

import numpy as np

from fmjax.schedules.anneals import ramp
from fmjax.schedules.formulas import SHARES, NamedSchedule
from fmjax.schedules.kinds import WSD, Constant, Cosine, Step

_MOST_BOUNDARIES = 8
_LEVEL = 1e-5  # of the peak: rates this close are one level
_TINY = 1e-12  # of the peak: no logarithm is taken of less; also the weight of a rate that is not known at all
_GRID, _FINE_GRID = np.linspace(0, 1, 16), np.linspace(0, 1, 2001)


@dataclass(frozen=True, eq=False)
class RateLog:
    """Rows by step."""

    step: np.ndarray
    rate: np.ndarray
    total: int
    interval: float
    reach: float | None = None  # updates that may follow the last row, where the total is not known

    @cached_property
    def peak(self) -> float:
        """The highest rate."""
        return float(self.rate.max())

    @cached_property
    def first(self) -> int:
        """Index of the first row at the peak; warmup lies before it."""
        return int(np.argmax(self.rate >= (1 - _LEVEL) * self.peak))

    @cached_property
    def last(self) -> int:
        """Index of the last row at the peak; the anneal lies after it."""
        return self.rate.size - 1 - int(np.argmax(self.rate[::-1] >= (1 - _LEVEL) * self.peak))

    @cached_property
    def warm_line(self) -> tuple[float, float] | None:
        """Rate at update 0 and slope of the line through the rows of warmup, from zero through a single one."""
        step, rate = self.step[: self.first], self.rate[: self.first]
        if step.size == 1 and step[0] > 0 < rate[0]:
            return 0.0, float(rate[0] / step[0])
        away = step - step.sum() / max(step.size, 1)
        slope = float(away @ rate / max(away @ away, 0.1))
        return (float(rate.mean() - slope * step.mean()), slope) if slope > 0 else None

    def shifted(self, offset: int) -> "RateLog":
        """The rows at the updates whose rates they hold; a rate logged beyond the ends is that of the end."""
        return replace(self, step=np.clip(self.step + offset, 0, self.total))

    def ended(self) -> "RateLog":
        """The rows before the end of the run."""
        inside = slice(*np.searchsorted(self.step, (0, self.total)))
        return replace(self, step=self.step[inside], rate=self.rate[inside])

    def thinned(self) -> "RateLog":
        """Some 200 rows, of warmup, plateau and anneal."""
        first, last, end = self.first, self.last, self.rate.size - 1
        parts = np.linspace(0, first, 64), np.linspace(first, last, 32), np.linspace(last, end, 96)
        kept = np.unique(np.concatenate(parts).astype(int))
        return replace(self, step=self.step[kept], rate=self.rate[kept])


def ended_log(step: np.ndarray, rate: np.ndarray, total: int | None) -> RateLog:
    """The rows of the run's updates."""
    gaps, following = np.diff(step[-101:]) if step.size > 1 else np.ones(1), int(step[-1]) + 1
    log = RateLog(step, rate, total or following, float(np.median(gaps)))
    to_end = following % log.interval == 0
    if total is None and step.size > 1 and rate[-1] == 0 < rate[-2]:
        warms_before = log.warm_line is not None and abs(log.warm_line[0] / log.warm_line[1] - 1) < 0.25
        log = replace(log, total=following if warms_before or (to_end and log.interval > 1) else following - 1)
    elif total is None:
        log = replace(log, reach=0.0 if to_end or gaps[-1] != log.interval else log.interval)
    return log.ended()


FamilySchedule: TypeAlias = NamedSchedule | Step
"""What a family is made of."""

_Family: TypeAlias = Callable[
    [RateLog, RateLog], Iterator[FamilySchedule]
]  # (all rows, some 200 of them) -> the nearest counts


class _Match(NamedTuple):
    """A family's nearest schedule."""

    error: float
    schedule: FamilySchedule
    family: _Family


def match_of_any_offset(log: RateLog, tolerance: float) -> tuple[_Match, int]:
    """The match of the rows as they are, unless half its error is gone where they are taken an update off."""
    plain = _match(log, _FAMILIES, tolerance)
    families, found = (plain.family,) if plain.error <= tolerance else _FAMILIES, [(plain, 0)]
    for offset in (1, -1) if plain.error > _LEVEL else ():
        if log.shifted(offset).rate.any():
            found.append((_match(log.shifted(offset), families, tolerance), offset))
    return min(found, key=lambda pair: pair[0].error * (2 if pair[1] else 1))


def _match(log: RateLog, families: tuple[_Family, ...], tolerance: float) -> _Match:
    """The first family about as near as the nearest."""
    found, thin = [_Match(np.inf, Constant(log.peak, log.total), families[0])], log.thinned()
    for family in families:
        matches = [_Match(distance(schedule, thin), schedule, family) for schedule in family(log, thin)]
        found.append(min(matches, key=lambda match: match.error, default=found[0]))
        if found[-1].error <= tolerance / 10:
            break
    limit = 1.5 * min(match.error for match in found) + tolerance / 10
    return next(match for match in found if match.error <= limit)


def distance(schedule: FamilySchedule, log: RateLog) -> float:
    """Largest distance of a row's rate from the schedule's, as a share of the peak."""
    return float(np.abs(_rates(schedule, log.step) - log.rate).max()) / log.peak


def _rates(schedule: FamilySchedule, count: np.ndarray) -> np.ndarray:
    """The schedule's rate at each count, in NumPy."""
    peak = schedule.peak_lr
    stem = ramp(count, schedule.warmup_steps, schedule.init_lr, peak)
    if isinstance(schedule, Step):
        passed = np.searchsorted(schedule.boundaries, count, side="right")
        return np.where(passed == 0, stem, np.array([0.0, *schedule.lrs])[passed])
    if isinstance(schedule, Constant):
        return np.asarray(stem)
    decay, length = "cosine", schedule.total_steps - schedule.warmup_steps
    if isinstance(schedule, WSD):
        decay, length = schedule.decay, schedule.anneal_ratio * schedule.total_steps
    share = _SHARE[decay](np.clip(1 - (schedule.total_steps - count) / length, 0, 1))
    if decay == "exponential":
        return np.minimum(stem, schedule.final_lr * np.exp(share * np.log(peak / schedule.final_lr)))
    return np.minimum(stem, schedule.final_lr + (peak - schedule.final_lr) * share)


_SHARE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **{name: SHARES[name] for name in ("linear", "cosine", "1-sqrt")},
    "exponential": SHARES["linear"],  # of the logarithm
}
"""Share of the fall still to come, given the share x of the anneal done."""


def _constants(_: RateLog, log: RateLog) -> Iterator[FamilySchedule]:
    yield Constant(log.peak, log.total, *_warmup(log, log.peak, log.first))


def _steps(log: RateLog, _: RateLog) -> Iterator[FamilySchedule]:
    """Levels of at least two rows each, from the first row at the peak on, or from the first two rows alike."""
    alike = np.abs(np.diff(log.rate)) <= _LEVEL * log.peak
    for begin in {log.first, int(np.argmax(alike)) if alike.any() else 0}:
        level, changes = float(log.rate[begin]), begin + 1 + np.flatnonzero(~alike[begin:])
        rises = level > 0 and (log.rate[:begin] < level).all()
        if rises and 0 < changes.size <= _MOST_BOUNDARIES and np.diff([begin, *changes, log.rate.size]).min() > 1:
            at, lrs = log.step[changes].astype(int).tolist(), log.rate[changes].tolist()
            yield Step(level, log.total, tuple(at), tuple(lrs), *_warmup(log, level, begin))


def _anneals(decay: str, whole_run: bool, _: RateLog, log: RateLog, *, to_zero: bool) -> Iterator[FamilySchedule]:
    """Anneals by least squares, also with their start at a whole update."""
    curved = decay in ("cosine", "1-sqrt")
    unknown = 1 + (not to_zero) + (curved and log.first == log.last) + (log.reach is not None)
    if log.rate.size - 1 - log.last <= unknown or (whole_run and log.step[0] > log.interval + 1):
        return
    for total in _totals(log, decay, to_zero):
        ended = replace(log, total=total)
        for low, high, knows_peak in _brackets(ended, curved, whole_run):
            levels = partial(_levels, ended, decay, to_zero, knows_peak)
            start = _least(levels, low, high)
            for at in {round(start), round(start) if whole_run else start}:
                peak, final = (float(level[0]) for level in levels(np.array([at], float))[:2])
                warmup = _warmup(log, peak, log.first, round(start) if whole_run else None)
                rates = (decay, min(final, peak), *warmup)
                yield Cosine(peak, total, *rates[1:]) if whole_run else WSD(peak, total, (total - at) / total, *rates)


_CURVES = (("linear", False), ("cosine", True), ("cosine", False), ("1-sqrt", False))
_FAMILIES: tuple[_Family, ...] = (  # from simple to complex
    _constants,
    _steps,
    *(partial(_anneals, *curve, to_zero=to_zero) for to_zero in (True, False) for curve in _CURVES),
    partial(_anneals, "exponential", False, to_zero=False),
)


def _totals(log: RateLog, decay: str, to_zero: bool) -> tuple[int, ...]:
    """Numbers of updates to try: as known, or where the anneal reaches zero; a cosine may end at the next row."""
    share, step, end = log.rate[log.last + 1 :] / log.peak, log.step[log.last + 1 :], log.step[-1] + (log.reach or 0)
    falling = (share > 0.02) & (share < 0.98)
    if not log.reach or not to_zero or not falling.any():
        return (log.total, int(end)) if log.reach and decay == "cosine" else (log.total,)
    fall = _SHARE[decay](_FINE_GRID)
    done = np.interp(-share[falling], -fall, _FINE_GRID)
    weight = np.interp(done, _FINE_GRID, np.gradient(fall, _FINE_GRID)) ** 2
    mean = weight @ done / weight.sum()
    length = weight * (done - mean) @ step[falling] / max(weight @ (done - mean) ** 2, _TINY)
    zero = weight @ step[falling] / weight.sum() + length * (1 - mean)
    return (round(zero) if log.total - 0.5 < zero < end + max(1.5, 0.1 * log.reach) else log.total,)


def _brackets(log: RateLog, curved: bool, whole_run: bool) -> Iterator[tuple[float, float, bool]]:
    """Updates between which the anneal may start, and whether its peak is the highest logged rate, not between two."""
    step, first, last, line = log.step, log.first, log.last, log.warm_line
    before, after = step[first - 1] if first else 0.0, step[min(last + 1, step.size - 1)]
    if whole_run:
        warmed = min((log.peak - line[0]) / line[1], log.total - 1) if line else step[first]
        yield from ((before, step[first], True), (warmed, warmed, True))
    else:
        yield max(step[first], 1.5 * step[last] - log.total / 2), after, True
    if first == last and (line or curved):
        yield before, after if line else step[first], False


def _levels(log: RateLog, decay: str, to_zero: bool, knows_peak: bool, start: np.ndarray) -> tuple[np.ndarray, ...]:
    """Peak and final rate by least squares for each start of the anneal, and the squares left."""
    line = None if knows_peak else log.warm_line
    rows = slice(log.first + (line is not None), None)  # a peak between two rows: warmup has the first of them
    rate, weight = log.rate[rows] / log.peak, np.ones(log.rate[rows].size)
    expected = np.ones(1) if line is None else (line[0] + line[1] * start) / log.peak
    if decay == "exponential":
        rate, weight, expected = np.log(np.maximum(rate, _TINY)), rate**2, np.log(np.maximum(expected, _TINY))
    share = _SHARE[decay](np.clip(1 - (log.total - log.step[rows]) / (log.total - start[:, None]), 0, 1))
    rest, sure = 1 - share, 1 / _TINY if knows_peak else 1.0 if line else _TINY
    pp, pf, ff = share**2 @ weight + sure, share * rest @ weight, rest**2 @ weight + _TINY ** (-1 if to_zero else 1)
    py, fy = share @ (weight * rate) + sure * expected, rest @ (weight * rate)
    peak, final = levels = np.array([ff * py - pf * fy, pp * fy - pf * py]) / (pp * ff - pf**2)
    squares = (rate - share * peak[:, None] - rest * final[:, None]) ** 2 @ weight
    squares += 0 if knows_peak else (peak - expected) ** 2 * sure
    peak, final = np.exp(levels.clip(np.log(_TINY), -np.log(_TINY))) if decay == "exponential" else levels.clip(0)
    return (1.0 + 0 * peak if knows_peak else peak) * log.peak, (0 * final if to_zero else final) * log.peak, squares


def _least(levels: Callable[[np.ndarray], tuple[np.ndarray, ...]], low: float, high: float) -> float:
    """The start of least squares between two bounds, by ever finer grids."""
    while True:
        grid = low + max(high - low, 0) * _GRID
        i = int(np.argmin(levels(grid)[2]))
        low, high = grid[max(i - 1, 0)], grid[min(i + 1, grid.size - 1)]
        if high - low < 1e-3:
            return float(grid[i])


def _warmup(log: RateLog, peak: float, first: int, length: int | None = None) -> tuple[int, float]:
    """Updates of warmup and the rate it starts from: a line to the peak through the rows before the first there."""
    step, rate = log.step[:first], log.rate[:first]
    if first == 0:
        return length or 0, 0.0
    if length is None:
        line = log.warm_line if first == log.first else None
        length = round(min(max((peak - line[0]) / line[1], 1), log.total)) if line else int(log.step[first])
    away = np.maximum(length - step, 0)
    slope = float((peak - rate) @ away / max(away @ away, 1))
    from_zero, fitted = (np.abs(peak - rate - by * away).max() for by in (peak / max(length, 1), slope))
    is_zero = slope * length > peak or from_zero <= 1.05 * fitted + 1e-6 * peak
    return length, 0.0 if is_zero else min(peak - slope * length, peak)
