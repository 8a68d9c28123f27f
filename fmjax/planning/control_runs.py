"""Earlier runs as control variates of a run in progress: the noise of its rows, also of those to come.

Runs of one data order train on the same batch at the same step. So what a law leaves over of an earlier run is, row for
row, much of what it leaves over of the run in progress (``fitting.shared_noise``). It is taken out of the rows seen.
Where the earlier run has a row at the last step, the noise of the last row is known as well.

The noise of a row falls with the learning rate as a power p of it: where held-out text is evaluated, noise is that of
the parameters, and p is near 1; where the loss of the batch is logged, p is near 0. Earlier runs tell p. Noise is
compared in units of that at the highest rate.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fmjax.curves.row_noise import robust_size
from fmjax.fitting.shared_noise import NO_SHARED_NOISE, Residuals, SharedNoise, noise_shared_by

HIGH_RATE, LOW_RATE = 0.7, 0.4
"""Rates relative to the highest from which, and up to which, rows tell how noise falls with the rate."""

LEAST_PER_RATE = 12
"""Rows at high and at low rates that this takes."""

LEAST_RATE = 0.1
"""Relative rate below which noise is taken to fall no further."""

MOST_SHARED = 0.999
"""Share of the variance of noise that other runs can explain, at most."""


class RowsAboutLaw(NamedTuple):
    """Rows of a run, and what a law leaves over of them, ``[rows]`` each."""

    step: np.ndarray
    loss: np.ndarray
    residual: np.ndarray
    """Log of measured over predicted loss."""
    rate: np.ndarray
    """Learning rate relative to the highest so far."""
    data_order: str | None = None
    """Name of the order of the data, where known."""

    def apart_from(self, other: "RowsAboutLaw") -> "RowsAboutLaw":
        """The rows but those that are rows of the other run, as branches of one stem have them."""
        at = np.searchsorted(other.step, self.step).clip(max=other.step.size - 1)
        own = (other.step[at] != self.step) | (other.loss[at] != self.loss)
        step, loss, residual, rate = (values[own] for values in self[:4])
        return RowsAboutLaw(step, loss, residual, rate, self.data_order)


class Control(NamedTuple):
    """What earlier runs say of the noise of rows."""

    noise: SharedNoise = NO_SHARED_NOISE
    """The noise shared, in units of that at the highest rate."""
    power: float = 1.0
    """Power of the relative rate that noise falls with."""

    @classmethod
    def of(cls, run: RowsAboutLaw, earlier: Sequence[RowsAboutLaw]) -> "Control":
        """What earlier runs say of a run."""
        others = [other.apart_from(run) for other in earlier]
        powers = [power for other in others if (power := _power(other)) is not None]
        control = cls(power=float(np.median(powers)) if powers else 1.0)
        scaled = [
            Residuals(rows.step, rows.residual / control.fallen(rows.rate), rows.data_order) for rows in (run, *others)
        ]
        return control._replace(noise=noise_shared_by(scaled[0], scaled[1:]))

    def fallen(self, rate: np.ndarray) -> np.ndarray:
        """Noise at relative rates, in units of that at the highest."""
        return np.asarray(np.maximum(rate, LEAST_RATE) ** self.power)

    def at(self, step: np.ndarray, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``[rows]`` the noise of rows that other runs had, 0 where none tells, and whether one does."""
        noise, known = self.noise.at(step)
        return noise * self.fallen(rate), known

    def deviation(self, own: float, rate: np.ndarray, known: np.ndarray) -> np.ndarray:
        """Standard deviation of rows about what is known of their noise.

        Args:
          own: standard deviation of rows seen, at high rates, without what is shared.
          rate: ``[rows]`` relative rates.
          known: ``[rows]`` whether the shared noise of a row is known.
        """
        share = min(self.noise.share, MOST_SHARED)
        whole = own / np.sqrt(1 - share)
        # without other runs noise is taken to fall to nothing with the rate
        fallen = self.fallen(rate) if self.noise.share else rate**self.power
        return np.asarray(np.where(known, own, whole) * fallen)


def _power(rows: RowsAboutLaw) -> float | None:
    """How the noise of a run falls with its rate; None where it cannot be told."""
    if rows.step.size < 2 * LEAST_PER_RATE:
        return None
    noise = Residuals(rows.step, rows.residual).noise
    rate, late = rows.rate[np.searchsorted(rows.step, noise.step)], noise.step > rows.step[-1] / 10
    high, low = late & (rate >= HIGH_RATE), late & (rate <= LOW_RATE) & (rate >= LEAST_RATE)
    if min(high.sum(), low.sum()) < LEAST_PER_RATE:
        return None
    change = np.log(max(robust_size(noise.value[low]), 1e-12) / max(robust_size(noise.value[high]), 1e-12))
    return float(np.clip(change / np.log(np.median(rate[low]) / np.median(rate[high])), 0.0, 1.0))
