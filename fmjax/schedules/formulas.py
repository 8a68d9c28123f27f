"""Formulas that trainers compute rates by, and the schedules that have their rates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from fmjax.schedules.anneals import DECAYS, ramp
from fmjax.schedules.kinds import WSD, Constant, Cosine, Tabulated

NamedSchedule: TypeAlias = Constant | Cosine | WSD
"""What a formula can be."""

NEARLY = 1e-3
"""Of the peak: how far a schedule with a name may be from the formula at any update, else the formula is tabulated."""


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
        """Rate at each count of an array, in NumPy."""
        count = np.maximum(np.asarray(count, float), 0.0)
        rate, warming = self._fall(count), count < self.warmup
        rate[warming] = ramp(count[warming], self.warmup, self.init, self.peak)
        return rate

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


def as_schedule(formula: Formula, total: int) -> NamedSchedule | None:
    """The schedule with a name that has the formula's rates, within ``NEARLY`` at every update; None where none has."""
    warmup = round(formula.warmup)
    rest = {"warmup_steps": warmup, "init_lr": formula.init if warmup else 0.0}
    for schedule, own in _named(formula, total, rest):
        every = updates_near(formula, total)
        if np.abs(own(every) - formula(every)).max() <= NEARLY * formula.peak:
            return schedule
    return None


def updates_near(formula: Formula, total: int) -> np.ndarray:
    """Updates that show whether another formula has the rates of this one: 1001, and those about its kinks."""
    kinks = np.asarray([formula.warmup, formula.start, formula.end])
    near = (kinks[:, None] + np.arange(-2, 3)).ravel()
    return np.clip(np.append(np.linspace(0, total - 1, 1001), near), 0, total - 1)


def _named(formula: Formula, total: int, rest: dict[str, float]) -> Iterator[tuple[NamedSchedule, Formula]]:
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
