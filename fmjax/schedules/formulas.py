"""Schedules by the formulas that trainers use, solved exactly from few logged rates and the number of updates T.

A formula is a linear warmup, perhaps a plateau, and one fall. Trainers differ in small things, and each is a choice
among a few here: warmup counts from 0 or from 1; the fall ends at count T or at the last update T - 1; the rate is
logged before or after the scheduler's step. Peak and final rate enter linearly, so that least squares give both; what
is left (where the fall starts) is one number, found by a search on a line. A formula counts as found where it gives
every row to the last digit that was logged. So few rows suffice, and a formula that is wrong is hardly ever found.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fmjax.schedules.anneals import DECAYS, ramp
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule, Tabulated

_GRID = np.linspace(0, 1, 33)
_LEAST = 1e-30
_NOISE = 2e-6
"""Of the peak: what arithmetic in float32 may change."""

NEARLY = 1e-3
"""Of the peak: how far a schedule with a name may be from the formula at any update, else the formula is tabulated."""

APART = 1e-2
"""Of the peak: how far two formulas that give the same rows must differ somewhere to count as different."""


def _decay_share(name: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.asarray(DECAYS[name].rate(x, 1.0, 0.0))


def _power(power: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: (1 - x) ** power


def _restarts(cycles: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.where(x < 1, (1 + np.cos(np.pi * ((cycles * x) % 1))) / 2, 0.0)


SHARES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **{name: _decay_share(name) for name in ("linear", "cosine", "1-sqrt")},
    **{f"polynomial of power {power:g}": _power(power) for power in (2.0, 3.0, 0.5)},
    **{f"cosine with {cycles} cycles": _restarts(cycles) for cycles in range(2, 9)},
}
"""Share of the fall still to come, given the share x of it done."""


@dataclass(frozen=True)
class Formula:
    """Warmup from ``init`` to ``peak`` over ``warmup`` updates, then the fall from count ``start`` to ``end``."""

    shape: str
    """A key of ``SHARES``, "constant", or "inverse square root" (then ``end`` is its time scale)."""
    peak: float
    final: float = 0.0
    warmup: float = 0.0
    init: float = 0.0
    start: float = 0.0
    end: float = 1.0

    def __call__(self, count: np.ndarray) -> np.ndarray:
        """Rate at each count, in NumPy."""
        count = np.maximum(np.asarray(count, float), 0.0)
        return np.where(count < self.warmup, ramp(count, self.warmup, self.init, self.peak), self._fall(count))

    def _fall(self, count: np.ndarray) -> np.ndarray:
        if self.shape == "constant":
            return np.full(count.shape, self.peak)
        since = count - self.start
        if self.shape == "inverse square root":
            return self.peak / np.sqrt(1 + np.maximum(since, 0) / self.end)
        share = SHARES[self.shape](np.clip(since / (self.end - self.start), 0, 1))
        return self.final + (self.peak - self.final) * share

    def __str__(self) -> str:
        text = f"{self.shape}, peak {self.peak:.6g}, warmup {self.warmup:.6g}"
        if self.shape == "inverse square root":
            return f"{text}, time scale {self.end:.6g}"
        span = f", from update {self.start:.6g} to {self.end:.6g}, final rate {self.final:.6g}"
        return text + span * (self.shape != "constant")


@dataclass(frozen=True)
class Found:
    """A formula that gives every row."""

    formula: Formula
    offset: int
    hidden: bool
    """Whether no row shows where warmup ends or the fall starts, so that the peak is extrapolated."""
    others: tuple[Formula, ...] = ()
    """Formulas as simple that give the rows as well, and are another schedule."""


def find(step: np.ndarray, rate: np.ndarray, total: int, *, extended: bool = False) -> Found | None:
    """The simplest formula that gives every row; None where there is none.

    Args:
      step: ``[rows]`` updates that the rows name, rising.
      rate: ``[rows]`` rates, not all zero.
      total: planned number of updates T.
      extended: whether the fall may also end at another update than T or T - 1.
    """
    shown = _thinned(step, rate)
    within = 1.6 * _quantum(rate) + _NOISE * rate.max()
    for shapes in _tiers(extended):
        matches = [match for shape in shapes for match in _matches(shape, step, rate, within, total, shown)]
        if matches:
            return _with_others(matches, total)
    return None


def _matches(
    shape: "_Shape", step: np.ndarray, rate: np.ndarray, within: np.ndarray, total: int, shown: np.ndarray
) -> Iterator[Found]:
    """Formulas of one shape that give every row, with each offset for which there are any."""
    drift = 4 * float((np.abs(np.diff(rate)) / np.diff(step)).max(initial=0.0))
    found = False
    for offset in (0, 1, -1):
        if found and offset < 0:
            return
        at = np.clip(step + offset, 0, total)
        nearest = math.inf
        for formula, hidden in _formulas(shape, at[shown], rate[shown], within[shown], total):
            if not (formula.peak <= 3 * rate.max() and formula.final <= 0.98 * formula.peak):
                continue  # too far beyond the rows, or a fall that is none
            off = np.abs(formula(at) - rate) - within
            nearest = min(nearest, float(off.max()))
            if nearest <= 0 and (off <= 0).all():
                found = True
                yield Found(formula, offset, hidden)
        if math.isfinite(nearest) and nearest > drift + 2 * float(within.max()):
            return  # an update more or less would not make up for so much


def _thinned(step: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Some 120 rows: all of the first and last, the rest evenly, and both sides of the highest."""
    top, end = int(np.argmax(rate)), rate.size - 1
    parts = np.linspace(0, top, 32), np.linspace(top, end, 80), np.arange(max(top - 2, 0), min(top + 3, end + 1))
    return np.unique(np.concatenate([*parts, np.arange(max(end - 4, 0), end + 1)]).astype(int))


def _quantum(rate: np.ndarray) -> np.ndarray:
    """Half of the last logged digit of each rate: of so many significant digits, or decimals, as any rate has."""
    some = rate[np.unique(np.linspace(0, rate.size - 1, 400).astype(int))]
    texts = [f"{value:.16e}" if float(f"{value:.11e}") != value else f"{value:.11e}" for value in some if value > 0]
    parts = [text.split("e") for text in texts]
    digits = [len(mantissa.replace(".", "").rstrip("0")) for mantissa, _ in parts]
    decimals = max(count - 1 - int(power) for count, (_, power) in zip(digits, parts, strict=True))
    above = np.where(rate > 0, rate, rate[rate > 0].min())
    significant = 10.0 ** (np.floor(np.log10(above)) + 1 - max(digits))
    return np.asarray(np.maximum(significant, 10.0**-decimals) / 2)


@dataclass(frozen=True)
class _Shape:
    """What is asked of the rows."""

    name: str
    free_final: bool
    plateau: bool
    unknowns: int
    ends: str = "total"


def _tiers(extended: bool) -> Iterator[list[_Shape]]:
    """Shapes from simple to complex; those of one tier are as simple as each other."""
    yield [_Shape("constant", False, False, 1)]
    names = ("linear", "cosine", "1-sqrt")
    others = tuple(name for name in SHARES if name not in names)
    ends = ("total", "last")
    for free in (False, True):
        yield [_Shape(name, free, False, 1 + free, end) for end in ends for name in names[:2]]
        if not free:
            yield [_Shape("inverse square root", False, False, 2)]
        yield [_Shape(name, free, True, 2 + free, end) for end in ends for name in names]
        yield [_Shape(name, free, False, 1 + free, end) for end in ends for name in others]
    if extended:
        for free in (False, True):
            yield [_Shape(name, free, False, 2 + free, "free") for name in ("cosine", "linear")]


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


def _formulas(
    shape: _Shape, count: np.ndarray, rate: np.ndarray, within: np.ndarray, total: int
) -> Iterator[tuple[Formula, bool]]:
    """Formulas of a shape that may give the rows, and whether their start is hidden between or before the rows."""
    first = _first_top(rate, within)
    if count.size < 2 or count[0] > 1.5 * float(np.median(np.diff(count))) + 1:
        return  # the beginning is missing
    if first == 1 and rate[0] == 0:  # warms up from zero, and has done so by the second row
        count, rate, within, first = count[1:], rate[1:], within[1:], 0
    rises = bool((rate[:first] > 0).any())
    for risen in (first, first + 1):
        rows = _Rows(count, rate, within, risen)
        hidden = not rises and (risen > 0 or count[0] > 1)
        if rows.rest[0].size < 1 + shape.unknowns or (shape.name == "constant" and risen > first):
            continue
        for line in _lines(rows):
            yield from _of_line(shape, rows, line, total, hidden)


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
    shape: _Shape, rows: _Rows, line: _Line | None, total: int, hidden: bool
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


def _with_plateau(shape: _Shape, rows: _Rows, line: _Line | None, end: float) -> Iterator[Formula]:
    """Falls from a level that at least two rows show."""
    count, rate = rows.rest
    flat = int(np.argmin(np.append(rate >= rate[0] - 2 * rows.within[rows.risen], False)))
    if flat < 2 or rate.size - flat < shape.unknowns:
        return
    peak, low = float(np.median(rate[:flat])), float(count[flat - 1])
    if shape.name == "cosine":  # which leaves its level slowly
        peak, low = float(rate[0]), float(count[0])
    high = min(float(count[min(flat, count.size - 1)]), end - 1e-3)
    start = _least(lambda at: _fits(shape, count, rate, at, end, peak).squares, low, high)
    for at in dict.fromkeys((*_whole_near(start), start)):
        if count[0] <= at < end:
            found = Formula(shape.name, peak, start=at, end=end)
            yield from _warmed(_final_of(found, count, rate, shape.free_final), rows, line)


def _whole_near(start: float) -> tuple[float, ...]:
    middle = float(round(start))
    return middle, middle - 1, middle + 1, middle - 2, middle + 2


class _Fits(NamedTuple):
    """Least squares for many starts at once."""

    peak: np.ndarray
    final: np.ndarray
    squares: np.ndarray


def _fits(shape: _Shape, count: np.ndarray, rate: np.ndarray, start: np.ndarray, end: Any, peak: Any = None) -> _Fits:
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


def _solved(shape: _Shape, count: np.ndarray, rate: np.ndarray, start: float, end: float) -> Formula:
    """Peak and final rate by least squares."""
    share = SHARES[shape.name](np.clip((count - start) / (end - start), 0, 1))
    if shape.free_final:
        (peak, final), *_ = np.linalg.lstsq(np.stack([share, 1 - share], 1), rate, rcond=None)
    else:
        peak, final = share @ rate / max(float(share @ share), 1e-30), 0.0
    return Formula(shape.name, float(peak), float(max(final, 0.0)), start=start, end=end)


def _without_plateau(
    shape: _Shape, rows: _Rows, line: _Line | None, end: float, hidden: bool
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
        start = _least(partial(squares, late=late), rows.before, min(float(count[0]), end - 1e-3))
        for at in _whole_near(start):
            if max(rows.before - 1, late) <= at < end:
                formula = _solved(shape, count, rate, at, end)
                meant = init + slope * (at - late)
                if abs(meant - formula.peak) <= 4 * rows.within.max() + 0.01 * slope + 1e-4 * formula.peak:
                    yield replace(formula, warmup=at - late, init=init), hidden


def _hidden(shape: _Shape, rows: _Rows, end: float) -> Iterator[Formula]:
    """Falls whose warmup ended before the first row.

    A cosine shows by its shape where it starts. A straight line does not: every peak on it up to the first row gives
    the same rows. People choose round peak rates and round warmups, so the roundest pair is taken.
    """
    count, rate = rows.rest
    if shape.name == "cosine":
        high = min(float(count[0]), end - 1e-3)
        start = _least(lambda at: _fits(shape, count, rate, at, end).squares, 0.0, high)
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

    start = _least(apart, rows.before, float(count[0]))
    for begin in _whole_near(start):
        found, near = at(begin), 4 * rows.within.max() + 0.01 * rise
        if rows.before - 1 <= begin and abs(init + rise * begin - found.peak) <= near + 1e-4 * found.peak:
            yield replace(found, init=init)


def _other_ends(shape: _Shape, rows: _Rows, line: _Line | None, total: int) -> Iterator[Formula]:
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
        length = math.exp(_least(partial(squares, start=start), low, high))
        for span in dict.fromkeys((float(round(length)), length)):
            formula = _solved(shape, count, rate, start, start + span)
            yield replace(formula, warmup=start, init=0.0 if line is None else line[0])


def _least(squares: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> float:
    """Where squares are least between two bounds, by ever finer grids."""
    high = max(high, low)
    while True:
        grid = low + (high - low) * _GRID
        i = int(np.argmin(squares(grid)))
        low, high = float(grid[max(i - 1, 0)]), float(grid[min(i + 1, grid.size - 1)])
        if high - low <= 1e-6 * (1 + abs(high)):
            return float(grid[i])


def _with_others(matches: list[Found], total: int) -> Found:
    """The first match, or the first whose peak is shown, with those that differ from it."""
    best = min(matches, key=lambda match: match.hidden)
    kinks = [best.formula.warmup, best.formula.start, best.formula.end]
    near = (np.asarray(kinks)[:, None] + np.arange(-2, 3)).ravel()
    every = np.clip(np.append(np.linspace(0, total - 1, 1001), near), 0, total - 1)
    far = APART * best.formula.peak
    rivals = [match.formula for match in matches if match.hidden == best.hidden]
    shifted = [best.formula(every + shift) for shift in (0, 1, -1)]  # an update early or late is no other schedule
    apart = [rival for rival in rivals if min(np.abs(rival(every) - rates).max() for rates in shifted) > far]
    return replace(best, others=() if best.hidden else tuple(dict.fromkeys(apart)))


def as_schedule(formula: Formula, total: int) -> Schedule | None:
    """The schedule with a name that has the formula's rates, within ``NEARLY`` at every update; None where none has."""
    warmup = round(formula.warmup)
    rest = {"warmup_steps": warmup, "init_lr": formula.init if warmup else 0.0}
    for schedule, own in _named(formula, total, rest):
        every = np.arange(total) if total < 200_000 else np.unique(np.linspace(0, total - 1, 200_000).astype(int))
        if np.abs(own(every) - formula(every)).max() <= NEARLY * formula.peak:
            return schedule
    return None


def _named(formula: Formula, total: int, rest: dict[str, float]) -> Iterator[tuple[Schedule, Formula]]:
    """Schedules that may be the formula's, each with its rates in NumPy."""
    warmup = float(rest["warmup_steps"])
    whole = replace(formula, warmup=warmup, init=float(rest["init_lr"]), end=float(total))
    if formula.shape == "constant":
        yield Constant(formula.peak, total, **rest), replace(formula, warmup=warmup, init=rest["init_lr"])
    if formula.shape not in DECAYS or not 0 <= formula.start < total:
        return
    final = formula.final
    if formula.shape == "linear" and formula.end < total:  # the same line, on to count T
        final -= (formula.peak - final) * (total - formula.end) / (formula.end - formula.start)
    final = min(max(final, 0.0), formula.peak)
    whole = replace(whole, final=final)
    if formula.shape == "cosine" and formula.start == warmup:
        yield Cosine(formula.peak, total, final, **rest), whole
    ratio = (total - formula.start) / total
    yield WSD(formula.peak, total, ratio, formula.shape, final, **rest), whole


def as_table(formula: Formula, total: int) -> Tabulated:
    """The formula's rate at each update."""
    return Tabulated(np.maximum(formula(np.arange(total)), 0.0), round(formula.warmup))
