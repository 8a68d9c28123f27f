"""``forecast``: from the curve of a run in progress to its final loss, under the planned schedule and others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypedDict, Unpack

import jax
import numpy as np

from fmjax._checks import positive, require, whole, within
from fmjax._json import Record, plain
from fmjax._names import LEVEL
from fmjax.curves.loss_curve import LossCurve
from fmjax.fitting.fitted_runs import FittedRuns, of_batches
from fmjax.fitting.metrics import percentile_interval
from fmjax.fitting.options import ONE_FIT, FitOptions, fitting_verb
from fmjax.fitting.records import FitResult
from fmjax.fitting.resampling import Bootstrap
from fmjax.laws import Law
from fmjax.laws.base import NEEDS_BATCH
from fmjax.planning.run_error import Averages, Bins, ForecastPrior, View, after_warmup, posterior
from fmjax.schedules.batch_stages import Batch, batch_sizes
from fmjax.schedules.checks import check_schedule
from fmjax.schedules.host_rates import host_rates
from fmjax.schedules.kinds import WSD, Constant, Schedule, Tabulated
from fmjax.schedules.tables import schedule_table

ALTERNATIVE_RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Annealing ratios of the alternatives to a run at its peak rate."""


class Outlook(NamedTuple):
    """What a schedule is forecast to end at."""

    name: str
    schedule: Schedule
    loss: float
    """Final loss."""
    interval: tuple[float, float]
    """Of the final loss."""
    excess: float
    """Final loss relative to that under the planned schedule, less 1."""
    excess_interval: tuple[float, float]
    """Of the excess; narrower than what two intervals of losses suggest, as most of their error is common."""


@dataclass(frozen=True)
class Forecast(Record):
    """Final losses forecast for a run in progress; NaN where ``status`` says that nothing can be said."""

    run: str
    count: int
    """Updates made when the forecast was."""
    fit: FitResult
    """The law that the forecast goes by."""
    planned: Outlook
    alternatives: tuple[Outlook, ...]
    level: float
    """Probability that the intervals aim to cover."""
    notes: tuple[str, ...]
    """What to keep in mind."""
    final_lr: float = 0.0
    """Rate that alternatives anneal to where the planned schedule does not say."""

    @property
    def status(self) -> str:
        """Status of the law's fit."""
        return self.fit.status

    @property
    def ok(self) -> bool:
        """Whether there are numbers."""
        return self.fit.ok

    @property
    def best(self) -> Outlook:
        """The schedule of least final loss, the planned one among them."""
        return min((self.planned, *self.alternatives), key=lambda outlook: outlook.loss)

    def to_dict(self) -> dict[str, object]:
        """The forecast as plain values for JSON."""
        record = {"run": self.run, "count": self.count, "law": self.fit.law.name, "status": self.status}
        everything = [outlook._asdict() for outlook in (self.planned, *self.alternatives)]
        planned, *others = [{key: x for key, x in one.items() if key != "schedule"} for one in everything]
        record |= {"message": self.fit.message, "planned": planned, "alternatives": others}
        record |= {"level": self.level, "notes": self.notes, "schedule": schedule_table(self.planned.schedule)}
        record |= {"final_lr": self.final_lr}
        return plain(record)


@fitting_verb
def forecast(
    curve: LossCurve,
    *,
    prior: FitResult | Bootstrap | None = None,
    earlier: Sequence[LossCurve] = (),
    alternatives: Mapping[str, Schedule] | None = None,
    law: Law | str = "lr-annealing",
    level: float = LEVEL,
    seed: int = 0,
    options: FitOptions = ONE_FIT,
) -> Forecast:
    r"""Forecasts the final loss of a run in progress, under its planned schedule and under alternatives.

    A law $\hat L$ fitted to earlier runs says how the loss goes on; the run's own rows say how the law errs on this
    run: $\log L = \log \hat L + b + g + k\,a + q\,x + \epsilon$.

    - b is common to all rows; g is a sum of two Gaussian processes over $\log S$ and the rate relative to its highest,
      as what the law misses at the peak rate says little about the end of an anneal. One changes along the whole run,
      the other (``WANDERING_REACH``) as the state of a run wanders with its batches.
    - a is the relative gain of annealing by the law (its loss, had the rate never fallen, over its loss), and k the
      error of that gain: by the end as large as the law's errors at the ends of the runs it was fitted to. It is a
      Gaussian process over a.
    - x is what the law says the log loss at the peak rate falls by after the longest fitted run, and q a share of it
      (``BEYOND_FITTED``).
    - samples of a bootstrapped prior add what its parameters leave open.

    All is conditioned on averages of the rows after warmup; the sizes of both parts of g and of the noise are averaged
    by marginal likelihood. Intervals are of the row logged last, whose noise is taken to fall with the rate.

    Without a prior, the law is fitted and bootstrapped on the run itself: enough once the rate has fallen for a while.
    Before that ``status`` is "undetermined" and all losses are NaN.

    Args:
      curve: the run: its planned schedule and the rows logged so far.
      prior: a law fitted to earlier runs, by ``fit`` or, for parameters few runs leave uncertain, ``bootstrap``.
      earlier: runs of the same data order, if there are any, as control variates: the noise that they share with the
        run, row by row, is taken out of it. Where one has a row at the last step, the noise there is known too.
      alternatives: schedules by name, which make the updates made so far at the rates they were made at; by default
        other ratios and "anneal now" while the run is at its peak rate, else those of ``alternatives_to``.
      law: law to fit to the run itself where there is no prior.
      level: probability that intervals are to cover.
      seed: seed of the draws.
      options: of that fit.

    Raises:
      ValueError: no row after warmup, a prior that failed, or an alternative that differs from the updates made.

    Reference: Kennedy and O'Hagan (2001), for the law's error as a Gaussian process.

    >>> import fmjax
    >>> run, *earlier = fmjax.datasets.demo_runs()[1:]
    >>> half = run.until(run.schedule.total_steps // 2)
    >>> found = forecast(half, prior=fmjax.fit(fmjax.LRAnnealing(decay=0.99), earlier))
    >>> found.planned.interval[0] < run.final_loss_measured < found.planned.interval[1]
    True
    """
    require(0 < level < 1, f"level: expected a number between 0 and 1, got {level:g}")
    seen = int(min(curve.step[-1] + 1, curve.schedule.total_steps))
    fitted = prior.fit if isinstance(prior, Bootstrap) else prior
    usual = 0.0 if fitted is None or fitted.trained_with is None else fitted.trained_with.usual_final_share
    final = usual * curve.peak_lr
    chosen = alternatives_to(curve.schedule, seen, final) if alternatives is None else alternatives
    targets = {"planned": curve.schedule, **chosen}
    _check_made(curve, chosen, seen)
    bins = Bins.of(curve)
    by = ForecastPrior.of_the_run(law, curve, options) if prior is None else ForecastPrior.of(prior)
    if by.fit.law.families:
        by = by._replace(fit=by.fit.for_family(curve.family))
    by.fit.log_size(curve.model_size)
    require(not by.fit.law.spans_batches or curve.tokens_per_step, f"run {curve.name!r}: {NEEDS_BATCH}")
    if by.fit.ok:
        with jax.enable_x64(True):
            rows, mean, draws = _log_losses(by, bins, earlier, list(targets.values()), np.random.default_rng(seed))
    else:
        rows = None
        mean, draws = np.full(len(targets), np.nan), np.full((2, len(targets)), np.nan)
    excess, excesses = np.expm1(mean - mean[0]), np.expm1(draws - draws[:, :1])
    planned, *others = [
        Outlook(
            name,
            schedule,
            float(np.exp(mean[i])),
            percentile_interval(np.exp(draws[:, i]), level),
            float(excess[i]),
            percentile_interval(excesses[:, i], level),
        )
        for i, (name, schedule) in enumerate(targets.items())
    ]
    return Forecast(curve.name, seen, by.fit, planned, tuple(others), level, _notes(curve, by, rows), final)


def _log_losses(
    prior: ForecastPrior,
    bins: Bins,
    earlier: Sequence[LossCurve],
    targets: Sequence[Schedule],
    rng: np.random.Generator,
) -> tuple[Averages, np.ndarray, np.ndarray]:
    """The run's averages; mean ``[targets]`` and draws ``[draws, targets]`` of the log final loss."""
    last = [int(schedule.total_steps) - 1 for schedule in targets]
    seen = replace(bins.curve, step=bins.step, loss=np.ones(bins.step.size))
    ends = [replace(seen, step=[end], loss=[1.0], schedule=to) for end, to in zip(last, targets, strict=True)]
    here, there = View.of(prior, [seen]), View.of(prior, ends)
    known = all(np.isfinite(view.log_loss).all() and np.isfinite(view.gain).all() for view in (here, there))
    name = bins.curve.name
    require(known, f"run {name!r}: the law predicts losses that are not above zero; give a prior of runs like it")
    rows = Averages.of(bins, prior, [after for run in earlier if (after := after_warmup(run)) is not None])
    return rows, *posterior(prior, rows, here.at(rows.used), there, np.array(last), rng)


# ---------------------------------------------------------------------------------------------------------------------
# Schedules
# ---------------------------------------------------------------------------------------------------------------------


def alternatives_to(schedule: Schedule, count: int, final_lr: float = 0.0) -> dict[str, Schedule]:
    """Other ways to go on after ``count`` updates, by name.

    While the rate is at its peak: to anneal now or later, as WSD schedules of the planned length with the planned decay
    and final rate (by default linear, to ``final_lr``). Otherwise: to fall linearly from the present rate to the last
    planned one, now or over the second half of what remains.

    >>> from fmjax import Constant
    >>> list(alternatives_to(Constant(peak_lr=1e-3, total_steps=1000), 600))
    ['anneal now (R = 0.4)', 'R = 0.05', 'R = 0.1', 'R = 0.2', 'R = 0.3']
    """
    total = whole(schedule.total_steps, "total_steps", least=1)
    rates, left = host_rates(schedule, np.arange(total)), total - count
    if left < 1:
        return {}
    if isinstance(schedule, WSD | Constant) and np.isclose(rates[count - 1], schedule.peak_lr, rtol=1e-5):
        decay, final = getattr(schedule, "decay", "linear"), getattr(schedule, "final_lr", final_lr)
        planned = getattr(schedule, "anneal_ratio", None)
        ratios = {f"anneal now (R = {left / total:.3g})": left / total}
        ratios |= {f"R = {ratio:g}": ratio for ratio in ALTERNATIVE_RATIOS if ratio < left / total * (1 - 1e-6)}
        shape = (schedule.warmup_steps, schedule.init_lr)
        return {
            name: WSD(schedule.peak_lr, total, ratio, decay, final, *shape)
            for name, ratio in ratios.items()
            if ratio != planned
        }
    waits = {"fall to the end from now on": 0, "hold, then fall over half of what is left": left // 2}
    return {name: _falling(schedule, rates, count + wait, count) for name, wait in waits.items()}


def _falling(schedule: Schedule, rates: np.ndarray, start: int, count: int) -> Tabulated:
    """The rates until ``count``, then held until ``start``, then on a line towards the last one."""
    after = np.maximum(np.arange(rates.size) - start + 1, 0) / (rates.size - start)
    line = rates[count - 1] + (rates[-1] - rates[count - 1]) * np.minimum(after, 1.0)
    return Tabulated(np.where(np.arange(rates.size) < count, rates, line), schedule.warmup_steps)


def _check_made(curve: LossCurve, alternatives: Mapping[str, Schedule], seen: int) -> None:
    """Checks that alternatives go through the updates that were made."""
    made = host_rates(curve.schedule, np.arange(seen))
    for name, schedule in alternatives.items():
        with within(f"alternative {name!r}"):
            check_schedule(schedule)
            total = int(schedule.total_steps)
            require(total >= seen, f"ends after {total} updates, when run {curve.name!r} has made {seen}")
            rates = host_rates(schedule, np.arange(seen))
            differ = ~np.isclose(rates, made, rtol=1e-4, atol=1e-6 * made.max())
            if differ.any():
                at = int(np.argmax(differ))
                raise ValueError(f"its rate of update {at} is {rates[at]:g}, but the run made it at {made[at]:g}")


def _notes(curve: LossCurve, prior: ForecastPrior, rows: Averages | None) -> tuple[str, ...]:
    said = (*prior.fit.notes, *_of_run(curve, prior.fit.trained_with))
    notes = () if rows is None else _rows_notes(rows)
    if prior.has_seen:
        return (*notes, "fitted to this run alone: give a prior") if prior.fit.ok else ()
    reach = prior.fit.reach
    if reach is None:
        return (*notes, *said)
    low, high = reach.peak_lr
    other = (f"the prior was fitted at peak rates {low:g} ... {high:g}, not {curve.peak_lr:g}",)
    longer = reach.longer(int(curve.schedule.total_steps))
    return (*longer, *(() if reach.has_peak(curve.peak_lr) else other), *notes, *said)


def _of_run(curve: LossCurve, runs: FittedRuns | None) -> tuple[str, ...]:
    """Where the run was trained otherwise than the runs that the prior was fitted to."""
    if runs is None:
        return ()
    (low, high), warmup, notes = runs.warmups, int(curve.schedule.warmup_steps), []
    if not low <= warmup <= high:
        had = f"{low}" if low == high else f"{low} ... {high}"
        notes.append(f"the run has {warmup} updates of warmup; the fitted runs had {had}")
    if runs.families and curve.family not in (None, *runs.families):
        notes.append(f"the run is of family {curve.family!r}, the fitted runs of {', '.join(runs.families)}")
    known, own = batch_sizes(runs.tokens_per_step), curve.tokens_per_step
    if known and own is not None and not of_batches(known) and of_batches([*known, own]):
        fitted = min(known)
        notes.append(
            f"the run has {own:g} tokens a step, the fitted runs {fitted:g}; the law does not have the batch size in it"
        )
    return tuple(notes)


def _rows_notes(rows: Averages) -> tuple[str, ...]:
    """What was left out of the rows."""
    noise, share = rows.noise, rows.control.noise.share
    shared = f"{share:.0%} of the variance of its rows' noise is that of earlier runs and was taken out"
    spiked = f"{noise.spikes} of {noise.kept.size} rows lie far off their neighbours and were left out"
    repeated = f"{noise.repeats} of {noise.kept.size} rows repeat the loss before them and were left out"
    said = ((shared, share), (spiked, noise.spikes), (repeated, noise.repeats))
    return tuple(text for text, size in said if size)


# ---------------------------------------------------------------------------------------------------------------------
# In a training loop
# ---------------------------------------------------------------------------------------------------------------------


class ForecastOptions(TypedDict, total=False):
    """Options of ``forecast`` that a ``Forecaster`` hands on."""

    prior: FitResult | Bootstrap | None
    earlier: Sequence[LossCurve]
    alternatives: Mapping[str, Schedule] | None
    law: Law | str
    level: float
    seed: int
    options: FitOptions


class Forecaster:
    """Collects the rows of a run as they are logged, and forecasts from them.

    Args:
      schedule: the planned schedule.
      name: name of the run.
      model_size: number of parameters, where the prior spans several sizes.
      tokens_per_step: tokens an update, where it spans several batch sizes; a batch that changes as for ``LossCurve``.
      **options: ``prior`` and the other options of ``forecast``.

    >>> import fmjax
    >>> forecaster = Forecaster(fmjax.Cosine(peak_lr=1e-3, total_steps=1000))
    >>> forecaster.log(99, 3.2)
    >>> forecaster.log(199, 3.0)
    >>> forecaster.curve.loss.tolist()
    [3.2, 3.0]
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        name: str = "run",
        model_size: float | None = None,
        tokens_per_step: Batch | None = None,
        **options: Unpack[ForecastOptions],
    ) -> None:
        check_schedule(schedule)
        self._schedule, self._name = schedule, name
        self._sizes = model_size, tokens_per_step
        self._options = options
        self._rows: dict[int, float] = {}

    def log(self, step: int, loss: float) -> None:
        """Adds the loss after the updates 0 ... ``step``; that of a step logged before is replaced."""
        self._rows[whole(step, "step")] = positive(loss, "loss")

    @property
    def curve(self) -> LossCurve:
        """The rows so far."""
        steps = sorted(self._rows)
        losses = [self._rows[step] for step in steps]
        return LossCurve(self._name, steps, losses, self._schedule, *self._sizes)

    def forecast(self, **options: Unpack[ForecastOptions]) -> Forecast:
        """``forecast`` from the rows so far; options as there."""
        given: ForecastOptions = {**self._options, **options}
        return forecast(self.curve, **given)
