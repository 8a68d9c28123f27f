"""Schedules by the formulas that trainers use, solved exactly from few logged rates and the number of updates T.

A formula is a linear warmup, perhaps a plateau, and one fall. Trainers differ in small things, and each is a choice
among a few here: warmup counts from 0 or from 1; the fall ends at count T or at the last update T - 1; the rate is
logged before or after the scheduler's step. Peak and final rate enter linearly, so that least squares give both; what
is left (where the fall starts) is one number, found by a search on a line. A formula counts as found where it gives
every row to the last digit that was logged. So few rows suffice, and a formula that is wrong is hardly ever found.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import numpy as np

from fmjax.schedules.formulas import SHARES, Formula, updates_near
from fmjax.schedules.solving import FormulaShape, Reading, formulas, readings

_NOISE = 2e-6
"""Of the peak: what arithmetic in float32 may change."""

_APART = 1e-2
"""Of the peak: how far two formulas that give the same rows must differ somewhere to count as different."""


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
    within = 1.6 * _quantum(rate) + _NOISE * rate.max()
    steepest = float((np.abs(np.diff(rate)) / np.diff(step)).max(initial=0.0))
    shown, far = _thinned(rate, within), 4 * steepest + 2 * float(within.max())
    ats = [(offset, np.clip(step[shown] + offset, 0, total)) for offset in (0, 1, -1)]
    views = [_View(offset, at, readings(at, rate[shown], within[shown])) for offset, at in ats]
    rows = _Rates(step, rate, within, shown, float(rate.max()), far, views)
    every_update = step.size >= total - 1
    for shapes in _tiers(extended):
        matches = []
        for match in chain.from_iterable(_matches(shape, rows, total) for shape in shapes):
            matches.append(match)
            if every_update and not match.hidden:
                break  # rows of every update leave no room for another schedule
        if matches:
            return _with_others(matches, total)
    return None


class _View(NamedTuple):
    """The rows that are looked at first, taken to be some updates off."""

    offset: int
    at: np.ndarray
    """The update of each."""
    read: Sequence[Reading]


class _Rates(NamedTuple):
    """Logged rates, and what every formula is held against."""

    step: np.ndarray
    rate: np.ndarray
    within: np.ndarray
    """How far a formula may be from each rate."""
    shown: np.ndarray
    """Indices of the rows that are looked at first."""
    peak: float
    far: float
    """Error that an update more or less does not make up for."""
    views: Sequence[_View]


def _matches(shape: FormulaShape, rows: _Rates, total: int) -> Iterator[Found]:
    """Formulas of one shape that give every row, with each offset for which there are any."""
    rate, within = rows.rate[rows.shown], rows.within[rows.shown]
    found = False
    for offset, at, read in rows.views:
        if found and offset < 0:
            return
        nearest = math.inf
        for formula, hidden in formulas(shape, read, total):
            if not (formula.peak <= 3 * rows.peak and formula.final <= 0.98 * formula.peak):
                continue  # too far beyond the rows, or a fall that is none
            off = float((np.abs(formula(at) - rate) - within).max())
            if off <= 0:  # then it is worth the while to look at every row
                every = np.clip(rows.step + offset, 0, total)
                off = float((np.abs(formula(every) - rows.rate) - rows.within).max())
            nearest = min(nearest, off)
            if off <= 0:
                found = True
                yield Found(formula, offset, hidden)
        if math.isfinite(nearest) and nearest > rows.far:
            return


def _thinned(rate: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Some 80 rows: evenly, and those about the first of the highest, about where rates leave it, and at the end."""
    top, end = int(np.argmax(rate)), rate.size - 1
    leaves = top + int(np.argmax(rate[top:] < rate[top] - 2 * within[top]))
    near = [np.arange(max(at - 2, 0), min(at + 3, end + 1)) for at in (top, leaves, end)]
    return np.unique(np.concatenate([np.linspace(0, top, 24), np.linspace(top, end, 48), *near]).astype(int))


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


def _tiers(extended: bool) -> Iterator[list[FormulaShape]]:
    """Shapes from simple to complex; those of one tier are as simple as each other."""
    yield [FormulaShape("constant", False, False, 1)]
    names = ("linear", "cosine", "1-sqrt")
    others = tuple(name for name in SHARES if name not in names)
    ends = ("total", "last")
    for free in (False, True):
        yield [FormulaShape(name, free, False, 1 + free, end) for end in ends for name in names[:2]]
        if not free:
            yield [FormulaShape("inverse square root", False, False, 2)]
        yield [FormulaShape(name, free, True, 2 + free, end) for end in ends for name in names]
        yield [FormulaShape(name, free, False, 1 + free, end) for end in ends for name in others]
    if extended:
        for free in (False, True):
            yield [FormulaShape(name, free, False, 2 + free, "free") for name in ("cosine", "linear")]


def _with_others(matches: list[Found], total: int) -> Found:
    """The first match, or the first whose peak is shown, with those that differ from it."""
    best = min(matches, key=lambda match: match.hidden)
    every = updates_near(best.formula, total)
    far = _APART * best.formula.peak
    rivals = [match.formula for match in matches if match.hidden == best.hidden]
    shifted = [best.formula(every + shift) for shift in (0, 1, -1)]  # an update early or late is no other schedule
    apart = [rival for rival in rivals if min(np.abs(rival(every) - rates).max() for rates in shifted) > far]
    return replace(best, others=() if best.hidden else tuple(dict.fromkeys(apart)))
