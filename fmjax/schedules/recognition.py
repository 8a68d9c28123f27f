"""Schedules recognised in logged learning rates: the family, its parameters, and how far it is off."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fmjax._checks import positive, require, whole
from fmjax.schedules.anneals import ramp
from fmjax.schedules.formulas import SHARES, as_schedule, as_table, find
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule, Step, Tabulated

_MOST_UPDATES, _MOST_BOUNDARIES = 10**8, 8
_FEW = 5
"""Rows of an anneal below which its shape is a guess, where they do not agree with a formula to their last digit."""

_LEVEL = 1e-5  # of the peak: rates this close are one level
_TINY = 1e-12  # of the peak: no logarithm is taken of less; also the weight of a rate that is not known at all
_GRID, _FINE_GRID = np.linspace(0, 1, 16), np.linspace(0, 1, 2001)


class Recognised(NamedTuple):
    """The schedule that logged rates tell of."""

    schedule: Schedule
    """``Constant``, ``Cosine``, ``WSD`` or ``Step``; ``Tabulated`` if none of them fits."""
    error: float
    """Largest distance of a logged rate from the schedule's, as a share of the peak; 0 where tabulated."""
    offset: int
    """The row of step s holds the rate of update s + offset: 0, 1 (logged after the scheduler's step) or -1."""
    notes: tuple[str, ...]
    """What was found in the rows, a sentence each."""


def recognise(step: Any, lr: Any, *, total_steps: int | None = None, tolerance: float = 1e-2) -> Recognised:
    """Finds the schedule in the learning rates of a training log.

    First the formulas of trainers are tried (``formulas.find``), which must give every row to its last logged digit;
    four rows and T suffice for them. Rates between the rows are then those of the formula. One that has no name here
    (polynomial, inverse square root, cosine with restarts, a fall that ends at T - 1) is tabulated with a note. The
    rest of this text is about rows that fit no formula.

    Rows may be coarse, unordered, repeated (the last of each step counts), rounded, an update off, and may start late,
    as those of a cooldown that branches off another run. Families go from simple to complex: constant, step, anneals
    to zero (linear, cosine from the end of warmup on, cosine, 1-sqrt), to any final rate (the same, exponential). The
    first is taken whose error is at most 1.5 times the least one plus a tenth of the tolerance.

    The number of updates T, where not given, is the last step + 1, except:

    - a single zero rate in the last row is that of count T, one after the last update: T is its step, unless steps are
      one less than the updates done (the last + 1 is a multiple of the interval, or warmup starts from zero at -1);
    - an anneal that reaches zero about an interval after the last row or sooner ends there, and a cosine may end an
      interval after it, unless the last row is off the interval or its step + 1 is a multiple of it.

    A boundary of ``Step`` lies between two rows, and the later one's step is taken; a linear or exponential anneal
    under way at the first row is taken to start there; where rows start late, earlier rates are taken to be the peak,
    and a cosine is ``WSD``.

    Args:
      step: ``[rows]`` logged steps, whole numbers.
      lr: ``[rows]`` logged rates.
      total_steps: number of updates T, where known; rows from step T on are left out.
      tolerance: largest error of a schedule, as a share of the peak; beyond it the rates are tabulated, interpolated
        linearly to every update from 0 to T - 1.

    Raises:
      ValueError: rows that differ in number, none, only zeros, or (by row, counted from 1) a wrong step or rate.

    >>> step = range(0, 1000, 10)
    >>> lr = [1e-3 * min(1, (1000 - s) / 200) for s in step]
    >>> recognise(step, lr).schedule
    WSD(peak_lr=0.001, total_steps=1000, anneal_ratio=0.2, decay='linear', final_lr=0.0, warmup_steps=0, init_lr=0.0)
    """
    tolerance = positive(tolerance, "tolerance")
    steps, rates = _rows(step, lr)
    log = _ended(steps, rates, None if total_steps is None else whole(total_steps, "total_steps", least=1))
    require(log.rate.any(), f"expected a rate above zero before update {log.total}, found none")
    schedule, error, offset, told = _by_formula(log) or _by_shape(log, tolerance)
    notes = {
        **dict.fromkeys(told, True),
        "repeated steps: the last row of each was kept": steps.size < np.size(step),
        f"rows from step {log.total} on, after the last update, were left out": log.step.size < steps.size,
        f"rows start at step {steps[0]:.0f}: the rates before are not known": steps[0] > log.interval,
        f"the warmup, if there is one, ended before the first row, at step {steps[0]:.0f}": _may_hide_warmup(
            schedule, log, offset
        ),
        "rates peak at 1: they may be multipliers of the peak rate": log.peak == 1,
        f"rates are those of the {'next update' if offset > 0 else 'update before'}": offset,
        f"the run ends after its last row, at {schedule.total_steps} updates": schedule.total_steps > log.total,
        "boundaries lie between two rows: the later was taken": isinstance(schedule, Step) and log.interval > 1,
    }
    return Recognised(schedule, error, offset, tuple(note for note, is_true in notes.items() if is_true))


def _may_hide_warmup(schedule: Any, log: "_Log", offset: int) -> bool:
    """Whether the rates are flat from the first row on, and that is not the first update."""
    flat = isinstance(schedule, Constant | Step) or (isinstance(schedule, WSD) and schedule.anneal_ratio < 1)
    soon = log.step[0] + offset > 1 and log.step[0] <= log.interval
    return bool(flat and soon and log.first == 0 and schedule.warmup_steps == 0)


class _Answer(NamedTuple):
    """A schedule of the rows."""

    schedule: Any
    error: float
    offset: int
    notes: tuple[str, ...]


def _by_formula(log: "_Log", *, extended: bool = False) -> _Answer | None:
    """The schedule of a trainer's formula that gives every row to its last digit."""
    if log.reach and not extended:
        return None  # the number of updates is not known
    found = find(log.step, log.rate, log.total, extended=extended)
    if found is None:
        return None
    named = as_schedule(found.formula, log.total)
    require(named is not None or log.total <= _MOST_UPDATES, _too_many(log.total))
    schedule = as_table(found.formula, log.total) if named is None else named
    error = float(np.abs(found.formula(log.shifted(found.offset).step) - log.rate).max()) / log.peak
    other = " or ".join(map(str, found.others[:2]))
    notes = {
        f"the rate of each update is that of a formula: {found.formula}": named is None,
        f"the rates before the first falling row are extrapolated: {found.formula}": found.hidden,
        f"another schedule gives the same rows: {other}": bool(found.others),
    }
    if named is not None:
        error = _distance(named, log.shifted(found.offset))
    return _Answer(schedule, error, found.offset, tuple(note for note, is_true in notes.items() if is_true))


def _by_shape(log: "_Log", tolerance: float) -> _Answer:
    """The nearest schedule of any family, or else a formula that ends elsewhere, or else a table."""
    match, offset = _match_of_any_offset(log, tolerance)
    error = _distance(match.schedule, log.shifted(offset))
    if error <= tolerance:
        return _Answer(match.schedule, error, offset, tuple(_guesses(match.schedule, log)))
    answer = _by_formula(log, extended=True)
    if answer is not None:
        return answer
    notes = [f"no schedule fits: the nearest, {type(match.schedule).__name__}, is off by {error:.2g} of the peak"]
    last = int(log.step[-1])
    if last + 1 + 2 * log.interval < log.total:
        log = replace(log, total=last + 1)
        notes.append(f"the rates after step {last} are not known: the table ends there")
    return _Answer(_tabulated(log), 0.0, 0, tuple(notes))


def _guesses(schedule: Any, log: "_Log") -> Iterator[str]:
    """What rows that fit no formula to their last digit leave open."""
    few = log.rate.size - 1 - log.last
    if hasattr(schedule, "final_lr") and few < _FEW:
        yield f"only {few} rows show the anneal: where it starts and how it falls between them is a guess"
    elif getattr(schedule, "decay", "") == "1-sqrt" and log.interval > 1 and log.step[0] <= log.interval:
        yield "a 1-sqrt anneal falls steeply at first, and its start is known to about an update"
    zero = log.rate[0] == 0 and log.first == 1
    if (0 < log.step[0] <= log.interval and log.first == 0 and hasattr(schedule, "final_lr")) or zero:
        yield f"no row shows the warmup: the rates before step {log.step[log.first]:.0f} are a guess"


def _too_many(total: int) -> str:
    return f"expected at most {_MOST_UPDATES} updates to tabulate, got {total}"


def _rows(step: Any, lr: Any) -> tuple[np.ndarray, np.ndarray]:
    """Steps, rising, and the last rate logged at each."""
    steps, rates = np.asarray(step, np.float64), np.asarray(lr, np.float64)
    require(steps.ndim == 1, f"step: expected one dimension, got shape {steps.shape}")
    require(steps.shape == rates.shape, f"expected a rate for each of {steps.size} steps, got shape {rates.shape}")
    require(steps.size, "expected at least one row, found none")
    _check_each(np.isfinite(steps) & (steps >= 0) & (steps == np.floor(steps)), steps, "step must be a whole number")
    _check_each(np.isfinite(rates) & (rates >= 0), rates, "lr must be a number")
    if (np.diff(steps) > 0).all():
        return steps, rates
    unique, back = np.unique(steps[::-1], return_index=True)
    return unique, rates[steps.size - 1 - back]


def _check_each(good: np.ndarray, values: np.ndarray, message: str) -> None:
    row = int(np.argmin(good))
    require(good[row], f"row {row + 1}: {message} of at least 0, got {values[row]:g}")


@dataclass(frozen=True, eq=False)
class _Log:
    """Rows by step."""

    step: np.ndarray
    rate: np.ndarray
    total: int
    interval: float
    reach: float | None = None  # updates that may follow the last row, where the total is not known

    @cached_property
    def peak(self) -> float:
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

    def shifted(self, offset: int) -> "_Log":
        """The rows at the updates whose rates they hold; a rate logged beyond the ends is that of the end."""
        return replace(self, step=np.clip(self.step + offset, 0, self.total))

    def ended(self) -> "_Log":
        """The rows before the end of the run."""
        inside = slice(*np.searchsorted(self.step, (0, self.total)))
        return replace(self, step=self.step[inside], rate=self.rate[inside])

    def thinned(self) -> "_Log":
        """Some 200 rows, of warmup, plateau and anneal."""
        first, last, end = self.first, self.last, self.rate.size - 1
        parts = np.linspace(0, first, 64), np.linspace(first, last, 32), np.linspace(last, end, 96)
        kept = np.unique(np.concatenate(parts).astype(int))
        return replace(self, step=self.step[kept], rate=self.rate[kept])


def _ended(step: np.ndarray, rate: np.ndarray, total: int | None) -> _Log:
    """The rows of the run's updates."""
    gaps, following = np.diff(step[-101:]) if step.size > 1 else np.ones(1), int(step[-1]) + 1
    log = _Log(step, rate, total or following, float(np.median(gaps)))
    to_end = following % log.interval == 0
    if total is None and step.size > 1 and rate[-1] == 0 < rate[-2]:
        warms_before = log.warm_line is not None and abs(log.warm_line[0] / log.warm_line[1] - 1) < 0.25
        log = replace(log, total=following if warms_before or (to_end and log.interval > 1) else following - 1)
    elif total is None:
        log = replace(log, reach=0.0 if to_end or gaps[-1] != log.interval else log.interval)
    return log.ended()


_Family: TypeAlias = Callable[[_Log, _Log], Iterator[Schedule]]  # (all rows, some 200 of them) -> the nearest counts


class _Match(NamedTuple):
    """A family's nearest schedule."""

    error: float
    schedule: Any
    family: _Family


def _match_of_any_offset(log: _Log, tolerance: float) -> tuple[_Match, int]:
    """The match of the rows as they are, unless half its error is gone where they are taken an update off."""
    plain = _match(log, _FAMILIES, tolerance)
    families, found = (plain.family,) if plain.error <= tolerance else _FAMILIES, [(plain, 0)]
    for offset in (1, -1) if plain.error > _LEVEL else ():
        if log.shifted(offset).rate.any():
            found.append((_match(log.shifted(offset), families, tolerance), offset))
    return min(found, key=lambda pair: pair[0].error * (2 if pair[1] else 1))


def _match(log: _Log, families: tuple[_Family, ...], tolerance: float) -> _Match:
    """The first family about as near as the nearest."""
    found, thin = [_Match(np.inf, None, families[0])], log.thinned()
    for family in families:
        matches = [_Match(_distance(schedule, thin), schedule, family) for schedule in family(log, thin)]
        found.append(min(matches, key=lambda match: match.error, default=found[0]))
        if found[-1].error <= tolerance / 10:
            break
    limit = 1.5 * min(match.error for match in found) + tolerance / 10
    return next(match for match in found if match.error <= limit)


def _distance(schedule: Any, log: _Log) -> float:
    return float(np.abs(_rates(schedule, log.step) - log.rate).max()) / log.peak


def _rates(schedule: Any, count: np.ndarray) -> np.ndarray:
    """The schedule's rate at each count, in NumPy."""
    peak = schedule.peak_lr
    stem = ramp(count, schedule.warmup_steps, schedule.init_lr, peak)
    if isinstance(schedule, Step):
        passed = np.searchsorted(schedule.boundaries, count, side="right")
        return np.where(passed == 0, stem, np.array([0.0, *schedule.lrs])[passed])
    if isinstance(schedule, Constant):
        return stem
    decay, length = "cosine", schedule.total_steps - schedule.warmup_steps
    if isinstance(schedule, WSD):
        decay, length = schedule.decay, schedule.anneal_ratio * schedule.total_steps
    share = _SHARE[decay](np.clip(1 - (schedule.total_steps - count) / length, 0, 1))
    if decay == "exponential":
        return np.minimum(stem, schedule.final_lr * np.exp(share * np.log(peak / schedule.final_lr)))
    return np.minimum(stem, schedule.final_lr + (peak - schedule.final_lr) * share)


_SHARE: dict[str, Callable[[Any], Any]] = {
    **{name: SHARES[name] for name in ("linear", "cosine", "1-sqrt")},
    "exponential": SHARES["linear"],  # of the logarithm
}
"""Share of the fall still to come, given the share x of the anneal done."""


def _constants(_: _Log, log: _Log) -> Iterator[Schedule]:
    yield Constant(log.peak, log.total, *_warmup(log, log.peak, log.first))


def _steps(log: _Log, _: _Log) -> Iterator[Schedule]:
    """Levels of at least two rows each, from the first row at the peak on, or from the first two rows alike."""
    alike = np.abs(np.diff(log.rate)) <= _LEVEL * log.peak
    for begin in {log.first, int(np.argmax(alike)) if alike.any() else 0}:
        level, changes = float(log.rate[begin]), begin + 1 + np.flatnonzero(~alike[begin:])
        rises = level > 0 and (log.rate[:begin] < level).all()
        if rises and 0 < changes.size <= _MOST_BOUNDARIES and np.diff([begin, *changes, log.rate.size]).min() > 1:
            at, lrs = log.step[changes].astype(int).tolist(), log.rate[changes].tolist()
            yield Step(level, log.total, tuple(at), tuple(lrs), *_warmup(log, level, begin))


def _anneals(decay: str, whole_run: bool, _: _Log, log: _Log, *, to_zero: bool) -> Iterator[Schedule]:
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


def _totals(log: _Log, decay: str, to_zero: bool) -> tuple[int, ...]:
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


def _brackets(log: _Log, curved: bool, whole_run: bool) -> Iterator[tuple[float, float, bool]]:
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


def _levels(log: _Log, decay: str, to_zero: bool, knows_peak: bool, start: np.ndarray) -> tuple[np.ndarray, ...]:
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


def _warmup(log: _Log, peak: float, first: int, length: int | None = None) -> tuple[int, float]:
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


def _tabulated(log: _Log) -> Tabulated:
    require(log.total <= _MOST_UPDATES, _too_many(log.total))
    return Tabulated(np.interp(np.arange(log.total), log.step, log.rate))
