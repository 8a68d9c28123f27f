"""Formulas solved for logged rates: the peak and the final rate by least squares, where the fall starts by a search."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from fmjax.schedules.formulas import SHARES, Formula

_GRID = np.linspace(0, 1, 33)
_LEAST = 1e-30
_HOPELESS = 4.0
"""Times the squares that rows to their last digit can leave: a start that leaves more is not the rows'."""


@dataclass(frozen=True)
class FormulaShape:
    """What is asked of the rows."""

    name: str
    free_final: bool
    plateau: bool
    unknowns: int
    ends: str = "total"


@dataclass(frozen=True)
class _Rows:
    """Rows of a warmup, and those after it."""

    count: np.ndarray
    rate: np.ndarray
    within: np.ndarray
    risen: int
    """Number of rows of the warmup."""

    @property
    def warm(self) -> tuple[np.ndarray, np.ndarray]:
        return self.count[: self.risen], self.rate[: self.risen]

    @property
    def rest(self) -> tuple[np.ndarray, np.ndarray]:
        return self.count[self.risen :], self.rate[self.risen :]

    @property
    def before(self) -> float:
        """The update of the last row of the warmup."""
        return float(self.count[self.risen - 1]) if self.risen else 0.0


_Line = tuple[float, float]  # init and slope of a warmup, a rate against the update


class Reading(NamedTuple):
    """One way to read rows, whatever the shape of the fall: which of them are of the warmup, and along which line."""

    rows: _Rows
    line: _Line | None
    """None where no row is of the warmup."""
    hidden: bool
    """Whether no row shows where the warmup ends."""
    least: bool
    """Whether no row but those that rise is taken to be of the warmup."""


def readings(count: np.ndarray, rate: np.ndarray, within: np.ndarray) -> list[Reading]:
    """Ways to read rows; none where the beginning is missing."""
    first = _first_top(rate, within)
    if count.size < 2 or count[0] > 1.5 * float(np.median(np.diff(count))) + 1:
        return []
    if first == 1 and rate[0] == 0:  # warms up from zero, and has done so by the second row
        count, rate, within, first = count[1:], rate[1:], within[1:], 0
    rises = bool((rate[:first] > 0).any())
    found = []
    for risen in (first, first + 1):
        rows = _Rows(count, rate, within, risen)
        hidden = not rises and (risen > 0 or count[0] > 1)
        found += [Reading(rows, line, hidden, risen == first) for line in _lines(rows)]
    return found


def formulas(shape: FormulaShape, read: Sequence[Reading], total: int) -> Iterator[tuple[Formula, bool]]:
    """Formulas of a shape that may give the rows, and whether their start is hidden between or before the rows."""
    for one in read:
        enough = one.rows.rest[0].size >= 1 + shape.unknowns
        if enough and (one.least or shape.name != "constant"):
            yield from _of_line(shape, one.rows, one.line, total, one.hidden)


def _first_top(rate: np.ndarray, within: np.ndarray) -> int:
    """Index of the row where rates cease to rise."""
    rises = np.diff(rate) > (within[1:] + within[:-1])
    return int(np.argmin(rises)) if not rises.all() and rises.size else 0


def _lines(rows: _Rows) -> Iterator[_Line | None]:
    """Warmups: from zero at count 0, from zero one update earlier, from anywhere; None where no row is of it."""
    count, rate = rows.warm
    if rows.risen == 0:
        yield None
        return
    near, found = 1.5 * rows.within[: rows.risen], False
    for ahead in (0.0, 1.0):
        at = count + ahead
        slope = float(at @ rate / max(at @ at, _LEAST))
        if slope > 0 and (np.abs(slope * at - rate) <= near).all():
            found = True
            yield slope * ahead, slope
    if rows.risen >= 3 and not found:
        slope, init = np.polyfit(count, rate, 1)
        if init >= 0 and slope > 0 and (np.abs(init + slope * count - rate) <= 1.5 * near).all():
            yield float(init), float(slope)


def _of_line(
    shape: FormulaShape, rows: _Rows, line: _Line | None, total: int, hidden: bool
) -> Iterator[tuple[Formula, bool]]:
    end = float(total - 1 if shape.ends == "last" else total)
    if shape.name == "constant":
        yield from (
            (formula, hidden) for formula in _warmed(Formula("constant", float(np.median(rows.rest[1]))), rows, line)
        )
    elif shape.name == "inverse square root":
        yield from ((formula, hidden) for formula in _inverse_root(rows, line))
    elif shape.ends == "free":
        yield from ((formula, hidden) for formula in _other_ends(shape, rows, line, total))
    elif shape.plateau:
        yield from ((formula, hidden) for formula in _with_plateau(shape, rows, line, end))
    else:
        yield from _without_plateau(shape, rows, line, end, hidden)


def _warmed(formula: Formula, rows: _Rows, line: _Line | None) -> Iterator[Formula]:
    """The formula after a warmup along a line, if that is of whole updates."""
    if line is None:
        yield formula
        return
    init, slope = line
    length = (formula.peak - init) / slope
    relative = float((rows.within[: rows.risen] / np.maximum(rows.rate[: rows.risen], _LEAST)).min())
    if abs(length - round(length)) <= 0.02 + 2 * relative * length and round(length) >= 0:
        yield replace(formula, warmup=float(round(length)), init=min(init, formula.peak))


def _with_plateau(shape: FormulaShape, rows: _Rows, line: _Line | None, end: float) -> Iterator[Formula]:
    """Falls from a level that at least two rows show."""
    count, rate = rows.rest
    flat = int(np.argmin(np.append(rate >= rate[0] - 2 * rows.within[rows.risen], False)))
    if flat < 2 or rate.size - flat < shape.unknowns:
        return
    peak, low = float(np.median(rate[:flat])), float(count[flat - 1])
    if shape.name == "cosine":  # which leaves its level slowly
        peak, low = float(rate[0]), float(count[0])
    high = min(float(count[min(flat, count.size - 1)]), end - 1e-3)
    start, squares = _least(lambda at: _fits(shape, count, rate, at, end, peak).squares, low, high)
    for at in dict.fromkeys((*_starts_near(start, squares, rows), start)):
        if count[0] <= at < end:
            found = Formula(shape.name, peak, start=at, end=end)
            yield from _warmed(_final_of(found, count, rate, shape.free_final), rows, line)


def _starts_near(start: float, squares: float, rows: _Rows) -> tuple[float, ...]:
    """Whole numbers near the best start; one alone where even the best misses the rows by far."""
    within = rows.within[rows.risen :]
    return _whole_near(start) if squares <= _HOPELESS * float(within @ within) else (float(round(start)),)


def _whole_near(start: float) -> tuple[float, ...]:
    middle = float(round(start))
    return middle, middle - 1, middle + 1, middle - 2, middle + 2


class _Fits(NamedTuple):
    """Least squares for many starts at once."""

    peak: np.ndarray
    final: np.ndarray
    squares: np.ndarray


def _fits(
    shape: FormulaShape,
    count: np.ndarray,
    rate: np.ndarray,
    start: np.ndarray,
    end: float | np.ndarray,
    peak: float | np.ndarray | None = None,
) -> _Fits:
    """Peak and final rate for each start, or the final rate alone where the peak is given, and the squares left."""
    done = (count - start[:, None]) / np.broadcast_to(end - start, start.shape)[:, None]
    share = SHARES[shape.name](np.clip(done, 0, 1))
    rest = 1 - share
    pp, pf, ff = (share**2).sum(1) + _LEAST, (share * rest).sum(1), (rest**2).sum(1) + _LEAST
    py, fy = share @ rate, rest @ rate
    if peak is None:
        one = py / pp
        both = (ff * py - pf * fy) / np.maximum(pp * ff - pf**2, _LEAST)
        peak = both if shape.free_final else one
    peak = np.broadcast_to(peak, start.shape)
    final = np.maximum((fy - pf * peak) / ff, 0.0) if shape.free_final else np.zeros(start.shape)
    left = rate - share * peak[:, None] - rest * final[:, None]
    return _Fits(peak, final, (left**2).sum(1))


def _final_of(formula: Formula, count: np.ndarray, rate: np.ndarray, free: bool) -> Formula:
    """The formula with the final rate of least squares."""
    if not free:
        return formula
    share = SHARES[formula.shape](np.clip((count - formula.start) / (formula.end - formula.start), 0, 1))
    rest = 1 - share
    final = float(rest @ (rate - formula.peak * share) / max(float(rest @ rest), 1e-30))
    return replace(formula, final=min(max(final, 0.0), formula.peak))


def _solved(shape: FormulaShape, count: np.ndarray, rate: np.ndarray, start: float, end: float) -> Formula:
    """Peak and final rate by least squares."""
    share = SHARES[shape.name](np.clip((count - start) / (end - start), 0, 1))
    if shape.free_final:
        (peak, final), *_ = np.linalg.lstsq(np.stack([share, 1 - share], 1), rate, rcond=None)
    else:
        peak, final = share @ rate / max(float(share @ share), 1e-30), 0.0
    return Formula(shape.name, float(peak), float(max(final, 0.0)), start=start, end=end)


def _without_plateau(
    shape: FormulaShape, rows: _Rows, line: _Line | None, end: float, hidden: bool
) -> Iterator[tuple[Formula, bool]]:
    """Falls from the end of warmup on."""
    count, rate = rows.rest
    if line is None:
        if hidden and shape.name in ("linear", "cosine"):
            yield from ((formula, formula.warmup > 0) for formula in _hidden(shape, rows, end))
        yield _solved(shape, count, rate, 0.0, end), hidden and shape.name != "cosine"
        return
    init, slope = line

    def squares(start: np.ndarray, late: float) -> np.ndarray:
        return _fits(shape, count, rate, start, end, init + slope * (start - late)).squares

    for late in (0.0, 1.0):  # the fall starts with the last update of warmup, or after it
        start, left = _least(partial(squares, late=late), rows.before, min(float(count[0]), end - 1e-3))
        for at in _starts_near(start, left, rows):
            if max(rows.before - 1, late) <= at < end:
                formula = _solved(shape, count, rate, at, end)
                meant = init + slope * (at - late)
                if abs(meant - formula.peak) <= 4 * rows.within.max() + 0.01 * slope + 1e-4 * formula.peak:
                    yield replace(formula, warmup=at - late, init=init), hidden


def _hidden(shape: FormulaShape, rows: _Rows, end: float) -> Iterator[Formula]:
    """Falls whose warmup ended before the first row.

    A cosine shows by its shape where it starts. A straight line does not: every peak on it up to the first row gives
    the same rows. People choose round peak rates and round warmups, so the roundest pair is taken.
    """
    count, rate = rows.rest
    if shape.name == "cosine":
        high = min(float(count[0]), end - 1e-3)
        start, _ = _least(lambda at: _fits(shape, count, rate, at, end).squares, 0.0, high)
        formula = _solved(shape, count, rate, float(round(start)), end)
        yield replace(formula, warmup=float(round(start)))
        return
    straight = _solved(shape, count, rate, 0.0, end)
    within = float(rows.within.max())
    slope = (straight.peak - straight.final) / end
    loose = within / max(slope, 1e-300) + 0.02
    scored = []
    for start in range(0, int(count[0]) + 1):
        peak = straight.peak - slope * start
        digits = next((d for d in range(1, 5) if abs(float(f"{peak:.{d - 1}e}") - peak) <= slope * loose), None)
        if digits is not None and abs(float(f"{peak:.{digits - 1}e}") - peak) <= 2 * within:
            scored.append((2 * digits + _digits(start, end), start, float(f"{peak:.{digits - 1}e}")))
    for _, start, peak in sorted(scored)[:3]:
        formula = Formula("linear", peak, warmup=float(start), start=float(start), end=end)
        yield _final_of(formula, count, rate, shape.free_final)


def _digits(warmup: int, total: float) -> int:
    """Digits of a warmup, one where it is a round share of the run."""
    shares = (0.01, 0.02, 0.03, 0.05, 0.06, 0.1)
    return 1 if any(warmup == math.ceil(share * total) for share in shares) else len(str(warmup).rstrip("0"))


def _inverse_root(rows: _Rows, line: _Line | None) -> Iterator[Formula]:
    """1 / rate^2 rises linearly: by least squares, with its start where warmup meets it."""
    count, rate = rows.rest
    if count.size < 3 or not (rate > 0).all():
        return
    weight = rate**3 / rate.max() ** 3  # the error of 1 / rate^2 is that of the rate over rate^3
    slope, base = np.polyfit(count, 1 / rate**2, 1, w=weight)
    if not (slope > 0 and rate.max() > 1.02 * rate.min()):
        return

    def at(start: float) -> Formula:
        peak = float(1 / np.sqrt(max(base + slope * start, 1e-60)))
        return Formula("inverse square root", peak, warmup=start, start=start, end=1 / (slope * peak**2))

    if line is None:
        yield replace(at(0.0), warmup=0.0)
        return
    init, rise = line

    def apart(start: np.ndarray) -> np.ndarray:
        return (1 / np.sqrt(np.maximum(base + slope * start, 1e-300)) - init - rise * start) ** 2

    start, _ = _least(apart, rows.before, float(count[0]))
    for begin in _whole_near(start):
        found, near = at(begin), 4 * rows.within.max() + 0.01 * rise
        if rows.before - 1 <= begin and abs(init + rise * begin - found.peak) <= near + 1e-4 * found.peak:
            yield replace(found, init=init)


def _other_ends(shape: FormulaShape, rows: _Rows, line: _Line | None, total: int) -> Iterator[Formula]:
    """Falls that end elsewhere, as of a run cut short or a decay of its own length."""
    count, rate = rows.rest
    if rate.size < 8:
        return
    starts = (0.0,) if line is None else tuple(float(u) for u in range(int(rows.before), int(count[0]) + 1)[-50:])

    def squares(log_length: np.ndarray, start: float) -> np.ndarray:
        starts = np.full(log_length.shape, start)
        return _fits(shape, count, rate, starts, start + np.exp(log_length)).squares

    low, high = math.log(max(float(count[-1] - count[0]) / 4, 2.0)), math.log(20.0 * total)
    for start in starts:
        if line is not None and abs(line[0] + line[1] * start - rate[0]) > 0.05 * rate[0]:
            continue
        length = math.exp(_least(partial(squares, start=start), low, high)[0])
        for span in dict.fromkeys((float(round(length)), length)):
            formula = _solved(shape, count, rate, start, start + span)
            yield replace(formula, warmup=start, init=0.0 if line is None else line[0])


def _least(squares: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> tuple[float, float]:
    """Where squares are least between two bounds, by ever finer grids, and how small they are there."""
    high = max(high, low)
    while True:
        grid = low + (high - low) * _GRID
        values = squares(grid)
        i = int(np.argmin(values))
        low, high = float(grid[max(i - 1, 0)]), float(grid[min(i + 1, grid.size - 1)])
        if high - low <= 1e-6 * (1 + abs(high)):
            return float(grid[i]), float(values[i])
