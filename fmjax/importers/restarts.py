"""The runs in one log, told apart by its steps: where they begin anew, where a run was resumed, where rows are mixed.

Rows are looked at in the order of the file. Where the step falls, the log was started again::

    0 10 20 30 40 | 0 10 20 30          begins anew, with other losses: a second run
    0 10 20 30 40 | 24 34 44 54         falls back: resumed, so the rows 30 and 40 of the first start do not count
    0 10 20 30 40 | 0 10 20 ... 60      the same losses again: a copy, as later checkpoints hold
    0 30 10 40 20                       steps fill each other's gaps: rows in no order, to be sorted
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fmjax._checks import require

_SHORTEST = 3
"""Rows between falls of the step, on average, below which the rows are in no order."""

_HOLE = 1.5
"""Of the usual distance of rows: a wider one lacks rows."""


class RowSpan(NamedTuple):
    """Rows of a table from one start of a log."""

    first: int
    end: int
    """The row after the last."""
    below: float = np.inf
    """The step from which on a later start logs again what these rows hold."""


class RunRows(NamedTuple):
    """Which rows of a table are one run's."""

    spans: tuple[RowSpan, ...]
    notes: tuple[str, ...] = ()

    def mask(self, step: np.ndarray) -> np.ndarray:
        """``[rows]`` whether each row counts."""
        kept = np.zeros(step.size, bool)
        for first, end, below in self.spans:
            kept[first:end] = ~(step[first:end] >= below)
        return kept

    def all_rows(self, count: int) -> np.ndarray:
        """``[rows]`` which rows are of its starts, whether they count or not."""
        found = np.zeros(count, bool)
        for first, end, _ in self.spans:
            found[first:end] = True
        return found

    def ended_by(self, step: float, first: int, end: int, note: str) -> "RunRows":
        """The run as a later start goes on with it from a step."""
        before = (span._replace(below=min(span.below, step)) for span in self.spans)
        return RunRows((*before, RowSpan(first, end)), (*self.notes, note))

    def continued(self, first: int, end: int) -> "RunRows":
        """The run with a start that repeats it, or goes on where it ends."""
        return RunRows((*self.spans, RowSpan(first, end)), self.notes)


def runs_by_steps(step: np.ndarray, value: np.ndarray) -> tuple[RunRows, ...]:
    """The runs in a log.

    Args:
      step: ``[rows]`` steps in the order of the file, NaN where a row has none.
      value: ``[rows]`` losses, NaN where a row has none.

    Raises:
      ValueError: steps that fall where it cannot be told why; the row is named.

    >>> step = np.array([0, 10, 20, 30, 0, 10, 20, 30, 15, 25, 35.0])
    >>> for run in runs_by_steps(step, np.linspace(3, 2, 11)):
    ...     print(step[run.mask(step)], *run.notes)
    [ 0. 10. 20. 30.]
    [ 0. 10. 15. 25. 35.] row 9: steps fall back from 30 to 15: the run was resumed; 2 earlier rows were left out
    """
    rows = np.flatnonzero(np.isfinite(step) & np.isfinite(value))
    falls = 1 + np.flatnonzero(np.diff(step[rows]) < 0)
    whole = RunRows((RowSpan(0, step.size),))
    if falls.size == 0:
        return (whole,)
    if _is_unsorted(step[rows], value[rows], falls, rows):
        return (whole._replace(notes=("rows were in no order of steps: they were sorted",)),)
    starts = [_start(step, rows[fall - 1], rows[fall]) for fall in falls]
    runs = [RunRows((RowSpan(0, starts[0]),))]
    for first, end in pairwise([*starts, step.size]):
        runs[-1:] = _with_start(runs[-1], first, end, step, value)
    return tuple(runs)


def _start(step: np.ndarray, before: int, row: int) -> int:
    """Row at which a start begins whose first loss is in ``row``: rows without a loss may come before."""
    between = step[before : row + 1]
    falls = np.flatnonzero(between[1:] < np.fmax.accumulate(between)[:-1])
    return int(before + 1 + falls[0]) if falls.size else int(row)


def _with_start(run: RunRows, first: int, end: int, step: np.ndarray, value: np.ndarray) -> tuple[RunRows, ...]:
    """The run and what the rows of a later start are to it: more of it, or a run of their own."""
    earlier = _logged(run.mask(step), step, value)
    later = np.zeros(step.size, bool)
    later[first:end] = True
    new = _logged(later, step, value)
    begins = min(new)
    shared = earlier.keys() & new.keys()
    if shared and all(earlier[at] == new[at] for at in shared):
        return (run.continued(first, end),)
    if begins <= min(earlier):
        return run, RunRows((RowSpan(first, end),))
    dropped = sum(at >= begins for at in earlier)
    found = f"row {first + 1}: steps fall back from {max(earlier):.0f} to {begins:.0f}"
    return (run.ended_by(begins, first, end, f"{found}: the run was resumed; {dropped} earlier rows were left out"),)


def _logged(kept: np.ndarray, step: np.ndarray, value: np.ndarray) -> dict[float, float]:
    """Losses by step; of a step that occurs again the later one."""
    kept = kept & np.isfinite(step) & np.isfinite(value)
    return dict(zip(step[kept].tolist(), value[kept].tolist(), strict=True))


def _is_unsorted(step: np.ndarray, value: np.ndarray, falls: np.ndarray, rows: np.ndarray) -> bool:
    """Whether rows are to be sorted; raises where they are in no order, and sorting would mix different losses."""
    disorder = step.size < _SHORTEST * (falls.size + 1)
    fills = disorder or [_fills_holes(step, fall, end) for fall, end in pairwise([*falls, step.size])]
    again, gaps = _differing(step, value), np.diff(np.unique(step))
    where = f"row {rows[falls[0]] + 1}: steps fall from {step[falls[0] - 1]:.0f} to {step[falls[0]]:.0f}"
    sort = "sort the rows, or split them by run"
    if fills is not True and not any(fills):
        even = gaps.size > 1 and gaps.max() < _HOLE * gaps.min()
        resumed = again is not None or not even or np.unique(step).size < step.size
        require(resumed, f"{where}, and it cannot be told whether the run was resumed or rows are unsorted; {sort}")
        return False
    require(again is None, f"{where}, rows are in no order and step {again} has several losses; {sort}")
    require(fills is True or all(fills), f"{where}, neither as a resumed run's nor as unsorted steps do; {sort}")
    return True


def _fills_holes(step: np.ndarray, fall: int, end: int) -> bool:
    """Whether the rows from a fall on and those before it lie in each other's gaps."""
    before, after = np.unique(step[:fall]), np.unique(step[fall:end])
    if np.isin(after, before).any():
        return False
    usual = min(np.median(np.diff(part)) for part in (before, after) if part.size > 1)
    inside = before[(before > after[0]) & (before < after[-1])]
    holes = _gaps(after, inside) if inside.size else _gaps(before, after[(after > before[0]) & (after < before[-1])])
    if holes.size:
        return bool(np.median(holes) >= _HOLE * usual)
    return bool(before[0] - after[-1] <= 2 * usual)  # blocks of rows in the wrong order


def _gaps(steps: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The distance of the two steps between which each lies."""
    place = np.searchsorted(steps, at)
    return np.asarray(steps[place] - steps[place - 1])


def _differing(step: np.ndarray, value: np.ndarray) -> int | None:
    """A step with several values; None where there is none."""
    order = np.lexsort((value, step))
    same = np.diff(step[order]) == 0
    differ = same & (np.diff(value[order]) != 0)
    return int(step[order][1:][differ][0]) if differ.any() else None


def has_rival_rates(step: np.ndarray, rate: np.ndarray) -> bool:
    """Whether more than half of the steps that occur again do so with another rate, as those of several runs."""
    known = np.isfinite(step) & np.isfinite(rate)
    step, rate = step[known], rate[known]
    if (np.diff(step) > 0).all():
        return False
    order = np.lexsort((rate, step))
    step, rate = step[order], rate[order]
    same = np.diff(step) == 0
    return bool(same.sum() > step.size / 4 and (np.diff(rate)[same] > 1e-3 * rate.max()).mean() > 0.5)
