"""What the rows of a run in progress say of a law's error on it, and so of the losses that are to come."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, cast

import jax
import numpy as np

from fmjax._checks import require
from fmjax.curves.loss_curve import LossCurve, pad
from fmjax.curves.row_noise import RowNoise, without_far
from fmjax.fitting.fits import evaluate
from fmjax.fitting.options import FitOptions
from fmjax.fitting.records import FitResult
from fmjax.fitting.resampling import Bootstrap, bootstrap
from fmjax.fitting.row_effects import batch_effects
from fmjax.laws import Law, Row
from fmjax.planning.control_runs import Control, RowsAboutLaw
from fmjax.planning.gaussian import conditioned, probabilities, roots
from fmjax.schedules.host_rates import has_formula, host_rates
from fmjax.schedules.kinds import Constant, Schedule, Step, Tabulated, Warmed

BINS = 128
"""Averages that the rows of a curve are made into, evenly spaced in the logarithm of the update."""

RUN_OFFSET = 0.1
"""Standard deviation, before a row is seen, of the relative error that a law makes all along a run."""

DRIFTS = (1e-3, 2e-3, 5e-3, 1e-2, 3e-2)
"""Standard deviations tried for the relative error that changes along a run."""

ERROR_REACH = (1.0, 0.3)
"""Distances over which that error changes: in log S, and in the rate relative to the highest so far."""

WANDERINGS = (0.0, 1e-3, 2e-3, 5e-3)
"""Standard deviations tried for a part of it that changes faster, as the state of a run wanders with its batches."""

WANDERING_REACH = (0.05, 0.3)
"""Distances over which that part changes."""

GAIN_REACH = 0.3
"""Share of the gain over which its error changes: that at the start of an anneal says little of the end."""

NOISE_FACTORS = (1.0, 2.0, 4.0)
"""Factors tried on the noise of rows: rows near to each other err alike."""

LEAST_ERROR = 2e-3
"""Relative error of what a law says annealing gains by the end of a run, at the least; of the final loss."""

UNKNOWN_ERROR = 1e-2
"""The same where no earlier run was fitted."""

BEYOND_FITTED = 0.21
"""Relative error of what a law says the loss at the peak rate falls by after the longest run that it was fitted to.

The root mean square over 18 groups of shipped and public runs of 0.025M to 152M parameters, 1.3 to 3 times as long.
"""

FORECAST_DRAWS = 2000
"""Draws that intervals are taken from."""

LEAST_NOISE = 1e-5
"""Relative noise of a row, at the least; smaller ones would make the covariance of the rows singular in float64."""

WORTH = 10
"""RowsAboutLaw that the noise of the fitted runs is worth, beside those of the run itself."""

GAIN_ERROR = 0.25
"""Share of what annealing gains by the law within which a row is no spike, however steep the anneal."""


class ForecastPrior(NamedTuple):
    """What the law holds before the rows of the run correct it."""

    fit: FitResult
    samples: np.ndarray
    """``[samples, parameters]``, none where they were not drawn."""
    error: float
    """Standard deviation of the relative error of what annealing gains by the end, of the final loss."""
    noise: float
    """Relative error of a row of the fitted runs, that of a middling run; 0 where none was fitted."""
    longest: float
    """Updates that the law was fitted on; it extrapolates beyond."""
    has_seen: bool
    """Whether the law was fitted to the run itself."""

    @classmethod
    def of(cls, prior: FitResult | Bootstrap) -> "ForecastPrior":
        """A law fitted to earlier runs."""
        found, samples = (prior.fit, prior.params) if isinstance(prior, Bootstrap) else (prior, prior.vector[None][:0])
        require(found.ok, f"the prior cannot be used: {found.message}")
        errors = np.array([np.log(run.final_loss / run.final_loss_predicted) for run in found.runs])
        errors = without_far(errors[np.isfinite(errors)])
        error = np.std(errors, ddof=1) if errors.size > 1 else UNKNOWN_ERROR
        noises = np.array([run.relative_error for run in found.runs])
        noise = float(np.median(noises[np.isfinite(noises)])) if np.isfinite(noises).any() else 0.0
        longest = np.inf if found.reach is None else found.reach.total_steps[1]
        return cls(found, samples, max(float(error), LEAST_ERROR), noise, longest, has_seen=False)

    @classmethod
    def of_the_run(cls, law: Law | str, curve: LossCurve, options: FitOptions) -> "ForecastPrior":
        """The law fitted to the run itself, and bootstrapped if that worked."""
        found = evaluate(law, [curve], train=[curve], options=options).fit
        samples = bootstrap(found.law, [curve], options=options).params if found.ok else found.vector[None][:0]
        return cls(found, samples, UNKNOWN_ERROR, 0.0, curve.step[-1] + 1, has_seen=True)


class Bins(NamedTuple):
    """RowsAboutLaw after warmup, put into bins even in the logarithm of the update."""

    curve: LossCurve
    """The rows after warmup."""
    label: np.ndarray
    """``[rows]`` bin of each row."""
    step: np.ndarray
    """``[bins]`` mean step of the rows of a bin."""

    @classmethod
    def of(cls, curve: LossCurve) -> "Bins":
        """The bins of a run."""
        after = after_warmup(curve)
        count = 0 if after is None else after.step.size
        if after is None or count < 2:
            raise ValueError(f"run {curve.name!r}: expected rows after warmup, found {count}")
        step = after.step
        place = np.log(step + 1.0)
        edges = np.linspace(place[0], place[-1], BINS + 1)[1:-1]
        _, label, rows = np.unique(np.digitize(place, edges), return_inverse=True, return_counts=True)
        means = (np.bincount(label, step) / rows).astype(int)
        return cls(after, label, means)


def after_warmup(curve: LossCurve) -> LossCurve | None:
    """The run's rows after warmup; None where there is none."""
    after = curve.step >= int(curve.schedule.warmup_steps)
    return replace(curve, step=curve.step[after], loss=curve.loss[after], final_loss=None) if after.any() else None


class Averages(NamedTuple):
    """Averages of what the law leaves over of the rows, ``[bins]`` each; of bins in which a row can be trusted."""

    used: np.ndarray
    """``[all bins]`` which bins these are."""
    residual: np.ndarray
    """Log loss less that of the law."""
    variance: np.ndarray
    """Of ``residual``, if measurements err independently."""
    noise: RowNoise
    control: Control
    """What earlier runs say of the noise."""

    @classmethod
    def of(cls, bins: Bins, prior: ForecastPrior, earlier: Sequence[LossCurve] = ()) -> "Averages":
        """The averages of a run about its prior's law, without the noise that earlier runs had at the same steps.

        Of the noise of a row, that of the runs that the prior was fitted to tells too.

        Rows of equal loss, one after the other, count as one measurement: rounding errs alike on all of them, and so
        does a measurement that is logged again.
        """
        law = View.of(prior._replace(samples=prior.samples[:0]), [bins.curve, *earlier])
        own, *others = _rows_of([bins.curve, *earlier], law)
        law, place = law.at(np.arange(own.step.size)), np.log(own.step + 1.0)
        control = Control.of(own, [other for other in others if np.isfinite(other.residual).all()])
        shared, known = control.at(own.step, own.rate)
        expected = law.log_loss[0] + shared
        found = RowNoise.of(place, bins.curve.loss, expected, GAIN_ERROR * np.abs(law.gain))
        rows = found.kept.sum()
        usual = prior.noise**2 * (1 - control.noise.share * known.mean())
        variance = (rows * found.deviation**2 + WORTH * usual) / (rows + WORTH)
        found = found._replace(deviation=max(float(np.sqrt(variance)), found.rounding, LEAST_NOISE))
        plateau = np.cumsum(found.fresh) - 1
        worth = np.where(found.kept, 1.0 / np.bincount(plateau, found.kept)[plateau].clip(1.0), 0.0)
        rows, counts = (np.bincount(bins.label, weights) for weights in (found.kept, worth))
        used = rows > 0
        residual = np.bincount(bins.label, np.where(found.kept, np.log(bins.curve.loss) - expected, 0.0))
        return cls(used, residual[used] / rows[used], found.deviation**2 / counts[used], found, control)

    def last_row(self, step: np.ndarray, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is known of the noise of rows to come, and the standard deviation of the rest ``[rows]``.

        Rounding does not fall with the rate.
        """
        noise, known = self.control.at(step, rate)
        own = np.sqrt(max(self.noise.deviation**2 - self.noise.rounding**2, 0.0))
        return noise, np.hypot(self.control.deviation(own, rate, known), self.noise.rounding)


def _rows_of(curves: Sequence[LossCurve], law: "View") -> list[RowsAboutLaw]:
    """The rows of each curve about the law, as ``View.of`` sees them."""
    ends = np.cumsum([curve.step.size for curve in curves])[:-1]
    parts = zip(curves, np.split(law.log_loss[0], ends), np.split(law.rate, ends), strict=True)
    return [
        RowsAboutLaw(curve.step, curve.loss, np.log(curve.loss) - log_loss, rate, curve.data_order)
        for curve, log_loss, rate in parts
    ]


class View(NamedTuple):
    """RowsAboutLaw, or ends of schedules, as the law sees them, ``[points]`` each."""

    log_s: np.ndarray
    """Logarithm of the sum of learning rates."""
    rate: np.ndarray
    """Learning rate relative to the highest so far."""
    gain: np.ndarray
    """Relative gain of annealing: log of the loss had the rate never fallen, less that of the loss."""
    beyond: np.ndarray
    """What the log loss at the highest rate falls by, by the law, after the updates that it was fitted on."""
    log_loss: np.ndarray
    """``[1 + samples, points]`` by the law."""

    @classmethod
    def of(cls, prior: ForecastPrior, curves: Sequence[LossCurve]) -> "View":
        """The rows of several curves, one curve's after the other's."""
        twins = [replace(curve, schedule=_never_falling(curve.schedule)) for curve in curves]
        starts = [_at_the_last_fitted(twin, prior.longest) for twin in twins]
        batch = pad([*curves, *twins, *starts])
        effects = batch_effects(prior.fit.law, batch)
        vectors = np.vstack([prior.fit.vector, prior.samples])
        log_loss = np.log(np.asarray(_predicted(prior.fit.law, effects, vectors)))
        real, own = batch.valid[: len(curves)], log_loss[:, : len(curves)]
        total, rate = batch.at_rows("forward"), batch.at_rows("lr")
        at_rate, start = np.split(log_loss[0, len(curves) :], 2)
        relative = rate[: len(curves)] / rate[len(curves) : 2 * len(curves)]
        gain, beyond = at_rate - own[0], np.maximum(start[:, :1] - at_rate, 0.0)
        log_s = np.log(total[: len(curves)][real])
        return cls(log_s, relative[real], gain[real], beyond[real], own[:, real])

    def at(self, used: np.ndarray) -> "View":
        """The points marked in ``used[points]``."""
        return View(*(values[..., used] for values in self))


@jax.jit
def _predicted(law: Law, effects: Row, vectors: jax.Array) -> jax.Array:
    """Losses ``[vectors, runs, rows]``."""
    return jax.vmap(jax.vmap(law.predict, in_axes=(0, None)), in_axes=(None, 0))(effects, vectors)


def _never_falling(schedule: Schedule) -> Schedule:
    kinks = schedule.kinks if has_formula(schedule) and not isinstance(schedule, Step) else ()
    if kinks and min(float(kink) for kink in kinks) >= schedule.warmup_steps:  # the peak rate is reached, and held
        warmed = cast(Warmed, schedule)
        return Constant(warmed.peak_lr, schedule.total_steps, schedule.warmup_steps, warmed.init_lr)
    every = host_rates(schedule, np.arange(int(schedule.total_steps)))
    return Tabulated(np.maximum.accumulate(every), schedule.warmup_steps)


def _at_the_last_fitted(twin: LossCurve, longest: float) -> LossCurve:
    """A run logged once, after as many updates as the longest that the law was fitted to, if it has so many."""
    return replace(twin, step=[int(min(longest, twin.schedule.total_steps)) - 1], loss=[1.0])


def posterior(
    prior: ForecastPrior, rows: Averages, here: View, there: View, last: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mean ``[targets]`` and draws ``[draws, targets]`` of the log loss at the last steps ``last[targets]``."""
    seen = here.log_s.size
    log_s, rate, gain, beyond = (np.concatenate(pair) for pair in zip(here[:4], there[:4], strict=True))
    place = np.stack([log_s, rate], axis=1)
    gained = gain[:, None] / max(float(np.abs(there.gain).max()), 1e-12)
    common = (
        RUN_OFFSET**2
        + prior.error**2 * gained * gained.T * _correlation(gained / GAIN_REACH)
        + BEYOND_FITTED**2 * np.outer(beyond, beyond)
    )
    common = common + _open(prior, here, there)
    settings = np.stack(np.meshgrid(DRIFTS, WANDERINGS, NOISE_FACTORS), axis=-1).reshape(-1, 3, 1, 1)
    drift, wandering, factor = np.moveaxis(settings**2, 1, 0)
    covariance = common + drift * _correlation(place / ERROR_REACH) + wandering * _correlation(place / WANDERING_REACH)
    noise = factor * np.diag(rows.variance)
    of_rows = covariance[:, :seen, :seen] + noise
    odds = probabilities(of_rows, rows.residual)
    gains, left = conditioned(of_rows, covariance[:, seen:, :seen], covariance[:, seen:, seen:])
    noise_there, deviation = rows.last_row(last, there.rate)
    means = there.log_loss[0] + noise_there + gains @ rows.residual
    which = rng.choice(odds.size, size=FORECAST_DRAWS, p=odds)
    left = left + np.diag(deviation**2)
    spread = np.einsum("dtu,du->dt", roots(left)[which], rng.standard_normal((FORECAST_DRAWS, there.log_s.size)))
    return odds @ means, means[which] + spread


def _correlation(place: np.ndarray) -> np.ndarray:
    """Squared-exponential correlation ``[points, points]`` of points ``[points, axes]``, in units of its reach."""
    return np.asarray(np.exp(-0.5 * np.sum((place[:, None] - place) ** 2, axis=-1)))


def _open(prior: ForecastPrior, here: View, there: View) -> np.ndarray:
    """Covariance of what the law's parameters leave open, of rows and targets."""
    points = here.log_s.size + there.log_s.size
    if len(prior.samples) < 2:
        return np.zeros((points, points))
    samples = np.concatenate([here.log_loss[1:], there.log_loss[1:]], axis=1)
    off = samples - np.concatenate([here.log_loss[0], there.log_loss[0]])
    found = off.T @ off / len(off)
    if prior.has_seen:  # the rows have narrowed the parameters already
        found[: here.log_s.size] = found[:, : here.log_s.size] = 0.0
    return found
