"""Rates of a schedule with concrete fields in float64, without a program to compile."""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.schedules.anneals import DECAYS, ramp
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule, Step, Tabulated, Warmed


def has_formula(schedule: Schedule) -> bool:
    """Whether the rate has a formula known here, smooth between kinks; a table has none, nor has a kind of a user."""
    return type(schedule) in (Constant, Cosine, Step, WSD)


def host_rates(schedule: Schedule, count: np.ndarray) -> np.ndarray:
    """Learning rate at each count, which may lie between two updates.

    Args:
      schedule: an fmjax schedule with concrete fields.
      count: counts, of any shape; past the end of a table its last rate holds.

    >>> from fmjax.schedules.kinds import Constant
    >>> host_rates(Constant(peak_lr=0.5, total_steps=10, warmup_steps=4), np.array([0, 1.5, 7])).tolist()
    [0.0, 0.1875, 0.5]
    """
    count = np.asarray(count, float)
    if isinstance(schedule, Tabulated):
        return np.asarray(schedule.lrs, float)[np.clip(count, 0, schedule.total_steps - 1).astype(int)]
    if not has_formula(schedule):
        with jax.enable_x64(True):
            return np.broadcast_to(np.asarray(schedule(jnp.asarray(count)), float), count.shape)
    warmed = cast(Warmed, schedule)
    rate = np.asarray(ramp(count, warmed.warmup_steps, float(warmed.init_lr), float(warmed.peak_lr)))
    if isinstance(schedule, Step):
        for boundary, lr in zip(schedule.boundaries, schedule.lrs, strict=True):
            rate = np.where(count < boundary, rate, lr)
    return np.minimum(rate, _annealed(schedule, count)) if isinstance(schedule, Cosine | WSD) else rate


def _annealed(schedule: Cosine | WSD, count: np.ndarray) -> np.ndarray:
    """The anneal by itself: the peak rate until it begins."""
    total, peak, final = int(schedule.total_steps), float(schedule.peak_lr), float(schedule.final_lr)
    if isinstance(schedule, WSD):
        decay, length = schedule.decay, float(schedule.anneal_ratio) * total
    else:
        decay, length = "cosine", float(total - schedule.warmup_steps)
    done = np.clip((count - (total - length)) / (length if length > 0 else 1.0), 0.0, 1.0)
    return np.asarray(DECAYS[decay].rate(done, peak, final))
