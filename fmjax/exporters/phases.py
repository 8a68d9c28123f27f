"""A schedule as the phases that trainers know: a linear warmup, a stable rate, then one decay to the end."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fmjax._checks import require
from fmjax.schedules.checks import check_schedule
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule, lrs


class Phases(NamedTuple):
    """A schedule in whole updates. Phases that change no rate are left out."""

    peak: float
    final: float
    """Rate the decay ends at, the peak where there is none."""
    init: float
    """Rate of update 0, zero where there is no warmup."""
    total: int
    """Updates of the run."""
    warmup: int
    """Updates of the warmup."""
    anneal: int
    """Updates of the decay, at the end; 0 where the rate does not fall."""
    decay: str
    """Shape of the decay, by the trainer's name for it."""
    remarks: tuple[str, ...]
    """How these rates differ from those of the schedule."""

    @property
    def stable(self) -> int:
        """Updates at the peak rate between warmup and decay."""
        return self.total - self.warmup - self.anneal

    @property
    def final_ratio(self) -> float:
        """Final rate over peak rate."""
        return self.final / self.peak


def phases(schedule: Schedule, trainer: str, decays: Mapping[str, str], *, init_lr: bool = False) -> Phases:
    """The phases of a schedule for a trainer that has only these.

    Args:
      schedule: a Constant, Cosine or WSD.
      trainer: its name, for messages.
      decays: the decays it can do, from the names of ``WSD`` to its own.
      init_lr: whether its warmup may start above zero.

    Raises:
      ValueError: where the trainer cannot express the schedule.

    >>> phases(WSD(1e-3, 1000, 0.2, warmup_steps=50), "torchtitan", {"linear": "linear"}).stable
    750
    >>> phases(WSD(1e-3, 1000, 0.2, "cosine"), "olmo-core", {"linear": "linear"})
    Traceback (most recent call last):
    ValueError: olmo-core: expected decay linear, got cosine
    """
    check_kind(schedule, trainer, (Constant, Cosine, WSD))
    total, warmup, peak = int(schedule.total_steps), int(schedule.warmup_steps), rate(schedule, "peak_lr")
    final, anneal = rate(schedule, "final_lr", peak), anneal_updates(schedule)
    if anneal < 2 or final == peak:  # the first update of a decay still has the peak rate
        final, anneal = peak, 0
    lap = f"{trainer}: expected an anneal that starts after warmup, got {warmup} + {anneal} of {total} updates"
    require(warmup + anneal <= total, lap)
    decay = "cosine" if isinstance(schedule, Cosine) else getattr(schedule, "decay", "")
    require(not anneal or decay in decays, f"{trainer}: expected decay {either(decays)}, got {decay}")
    init = rate(schedule, "init_lr") if warmup else 0.0
    if init == peak:
        init, warmup = 0.0, 0
    require(init_lr or init == 0, f"{trainer}: expected a warmup from init_lr 0, got {init!r}")
    return Phases(peak, final, init, total, warmup, anneal, decays.get(decay, ""), rounding(schedule))


def check_kind(schedule: Schedule, trainer: str, kinds: Sequence[type]) -> None:
    """Checks the fields of a schedule that must be of one of these kinds."""
    names = either([kind.__name__ for kind in kinds])
    require(isinstance(schedule, tuple(kinds)), f"{trainer}: expected {names}, got {type(schedule).__name__}")
    check_schedule(schedule)


def rate(schedule: Schedule, field: str, default: float = 0.0) -> float:
    """A rate among the fields of a schedule as a float."""
    return float(getattr(schedule, field, default))


def anneal_updates(schedule: Schedule) -> int:
    """Updates of the anneal, 0 where there is none.

    >>> anneal_updates(WSD(peak_lr=1.0, total_steps=10, anneal_ratio=0.26))
    3
    """
    if isinstance(schedule, WSD):
        return schedule.anneal_steps
    return int(schedule.total_steps) - int(schedule.warmup_steps) if isinstance(schedule, Cosine) else 0


def rounding(schedule: Schedule) -> tuple[str, ...]:
    """What rounding the anneal to whole updates changes, empty if nothing.

    >>> rounding(WSD(peak_lr=1.0, total_steps=10, anneal_ratio=0.26))
    ('anneal of 2.6 updates rounded to 3: rates off by at most 0.103 of the peak',)
    """
    if not isinstance(schedule, WSD):
        return ()
    length, updates = float(schedule.anneal_ratio) * int(schedule.total_steps), schedule.anneal_steps
    if abs(length - updates) < 1e-3:
        return ()
    share = float(np.max(np.abs(lrs(schedule.in_whole_updates()) - lrs(schedule)))) / rate(schedule, "peak_lr")
    return (f"anneal of {length:.6g} updates rounded to {updates}: {off(share)}",)


def off(share: float) -> str:
    """How a remark ends: the greatest difference of a rate, as a share of the peak."""
    return f"rates off by at most {share:.3g} of the peak"


def fraction(part: int, whole: int) -> float:
    """A fraction f of ``whole`` for trainers that take int(f * whole) updates.

    >>> int(49 * (1 / 49)), int(49 * fraction(1, 49))
    (0, 1)
    """
    share = part / whole
    return share if int(share * whole) == part else math.nextafter(share, 1.0)


def negligible(rates: np.ndarray) -> float:
    """A tolerance for ``thinned`` at which every rate stays within 1e-9 of itself, zero within 1e-9 of the least other.

    >>> negligible(np.array([0.0, 0.25, 0.5]))
    5e-10
    """
    above = rates[rates > 0]
    return float(1e-9 * above.min() / above.max()) if above.size else 0.0


def either(names: Iterable[str]) -> str:
    """Names as "a, b or c".

    >>> either(["linear", "1-sqrt", "cosine"])
    'linear, 1-sqrt or cosine'
    """
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
