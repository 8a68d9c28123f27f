"""Schedules recognised in logged learning rates: the family, its parameters, and how far it is off."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fmjax._checks import positive, require, whole
from fmjax.schedules.families import RateLog, distance, ended_log, match_of_any_offset
from fmjax.schedules.formulas import as_schedule, as_table
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule, Step, Tabulated
from fmjax.schedules.matching import find

_MOST_UPDATES = 10**8
_FEW = 5
"""Rows of an anneal below which its shape is a guess, where they do not agree with a formula to their last digit."""

_EXACT = 1e-5
"""Of the peak: an error that is none."""


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


def recognise(step: ArrayLike, lr: ArrayLike, *, total_steps: int | None = None, tolerance: float = 1e-2) -> Recognised:
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
    - where a curve is a little off, a formula that gives every row with T an interval later, or at the last step;
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
    log = ended_log(steps, rates, None if total_steps is None else whole(total_steps, "total_steps", least=1))
    require(log.rate.any(), f"expected a rate above zero before update {log.total}, found none")
    schedule, error, offset, told = _by_formula(log) or _of_unknown_length(log, _by_shape(log, tolerance))
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


def _may_hide_warmup(schedule: Schedule, log: RateLog, offset: int) -> bool:
    """Whether the rates are flat from the first row on, and that is not the first update."""
    flat = isinstance(schedule, Constant | Step) or (isinstance(schedule, WSD) and schedule.anneal_ratio < 1)
    soon = log.step[0] + offset > 1 and log.step[0] <= log.interval
    return bool(flat and soon and log.first == 0 and schedule.warmup_steps == 0)


class _Answer(NamedTuple):
    """A schedule of the rows."""

    schedule: Schedule
    error: float
    offset: int
    notes: tuple[str, ...]


def _by_formula(log: RateLog, *, extended: bool = False) -> _Answer | None:
    """The schedule of a trainer's formula that gives every row to its last digit."""
    if log.reach and not extended:
        return None  # the number of updates is not known
    found = find(log.step, log.rate, log.total, extended=extended)
    if found is None:
        return None
    named = as_schedule(found.formula, log.total)
    require(named is not None or log.total <= _MOST_UPDATES, _too_many(log.total))
    schedule = as_table(found.formula, log.total) if named is None else named
    other = " or ".join(map(str, found.others[:2]))
    notes = {
        f"the rate of each update is that of a formula: {found.formula}": named is None,
        f"the rates before the first falling row are extrapolated: {found.formula}": found.hidden,
        f"another schedule gives the same rows: {other}": bool(found.others),
    }
    shifted = log.shifted(found.offset)
    if named is None:
        error = float(np.abs(found.formula(shifted.step) - log.rate).max()) / log.peak
    else:
        error = distance(named, shifted)
    return _Answer(schedule, error, found.offset, tuple(note for note, is_true in notes.items() if is_true))


def _of_unknown_length(log: RateLog, nearest: _Answer) -> _Answer:
    """The nearest schedule, or where that is a curve that is a little off, a formula of another length without error.

    The fall may end with the last row, an interval after it, or at it. Straight lines do not show where they end.
    """
    curved = getattr(nearest.schedule, "decay", "cosine") != "linear" and hasattr(nearest.schedule, "final_lr")
    if not log.reach or not curved or nearest.error < _EXACT:
        return nearest
    for total in (int(log.step[-1] + log.interval), log.total, int(log.step[-1])):
        answer = _by_formula(replace(log, total=total, reach=None).ended())
        if answer is not None and isinstance(answer.schedule, Cosine | WSD):
            return answer
    return nearest


def _by_shape(log: RateLog, tolerance: float) -> _Answer:
    """The nearest schedule of any family, or else a formula that ends elsewhere, or else a table."""
    match, offset = match_of_any_offset(log, tolerance)
    error = distance(match.schedule, log.shifted(offset))
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


def _guesses(schedule: Schedule, log: RateLog) -> Iterator[str]:
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


def _rows(step: ArrayLike, lr: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
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


def _tabulated(log: RateLog) -> Tabulated:
    require(log.total <= _MOST_UPDATES, _too_many(log.total))
    return Tabulated(np.interp(np.arange(log.total), log.step, log.rate))
