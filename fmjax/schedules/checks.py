"""Checks of a schedule whose fields are concrete."""

import numpy as np

from fmjax._checks import choose, finite, positive, require, whole
from fmjax._types import Reals
from fmjax.schedules.anneals import DECAYS
from fmjax.schedules.kinds import WSD, Schedule, Step, Tabulated, Warmed


def check_schedule(schedule: Schedule) -> None:
    """Checks a schedule whose fields are concrete.

    Raises:
      ValueError: naming the field, what was expected and what was found.
    """
    if isinstance(schedule, Tabulated):
        _check_rates(schedule.lrs, "lrs")
        require(
            np.size(schedule.lrs) == 0 or np.any(np.asarray(schedule.lrs) > 0),
            "lrs: expected a rate above zero, found only zeros",
        )
    made = "an Optax schedule becomes one by Tabulated.from_schedule"
    require(hasattr(schedule, "total_steps"), f"expected an fmjax schedule, got {type(schedule).__name__}; {made}")
    total, warmup = whole(schedule.total_steps, "total_steps", least=1), whole(schedule.warmup_steps, "warmup_steps")
    require(warmup <= total, f"warmup of {warmup} steps is longer than the run of {total}")
    if isinstance(schedule, Tabulated):
        return
    if not isinstance(schedule, Warmed):
        raise ValueError(f"expected peak_lr, warmup_steps and init_lr, found none in {type(schedule).__name__}")
    peak, init = positive(schedule.peak_lr, "peak_lr"), finite(schedule.init_lr, "init_lr")
    require(0 <= init <= peak, f"init_lr: expected a rate in [0, peak_lr = {peak:g}], got {init:g}")
    if hasattr(schedule, "final_lr"):
        final = finite(schedule.final_lr, "final_lr")
        require(0 <= final <= peak, f"final_lr: expected a rate in [0, peak_lr = {peak:g}], got {final:g}")
    if isinstance(schedule, WSD):
        _check_anneal(schedule)
    if isinstance(schedule, Step):
        _check_steps(schedule)


def _check_anneal(schedule: WSD) -> None:
    ratio = finite(schedule.anneal_ratio, "anneal_ratio")
    require(0 < ratio <= 1, f"anneal_ratio must lie in (0, 1], got {ratio:g}")
    choose(schedule.decay, DECAYS, "decay")
    ends = schedule.decay != "exponential" or float(schedule.final_lr) > 0
    require(ends, f"exponential decay needs a final_lr above zero, got {schedule.final_lr}")


def _check_steps(schedule: Step) -> None:
    at = [finite(boundary, "boundaries") for boundary in schedule.boundaries]
    rates = len(schedule.lrs)
    require(len(at) == rates, f"expected one of lrs for each boundary, got {rates} for {len(at)}")
    rise = all(a < b for a, b in zip((-1, *at), at, strict=False)) and min(at, default=0) >= 0
    require(rise, f"boundaries must rise and not be negative, got {at}")
    _check_rates(schedule.lrs, "lrs")


def _check_rates(rates: Reals, what: str) -> None:
    require(np.ndim(rates) == 1, f"{what}: expected one dimension, got shape {np.shape(rates)}")
    for i, rate in enumerate(np.asarray(rates, float)):
        require(np.isfinite(rate) and rate >= 0, f"{what} must not be negative, got {rate:g} at index {i}")
