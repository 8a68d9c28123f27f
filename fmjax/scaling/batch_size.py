"""``critical_batch_size``: whether loss follows updates or tokens, from runs at several batch sizes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from fmjax._checks import positive, require, whole
from fmjax._json import Record, plain
from fmjax.curves.loss_curve import LossCurve
from fmjax.scaling.smoothing import SmoothCurve, common_levels, curve_spread, smooth
from fmjax.scaling.trades import TRADE_STATUS, Trades, fit_trades, line, trade_interval
from fmjax.schedules.batch_stages import BatchStages
from fmjax.schedules.host_rates import host_rates

LOSS_LEVELS = 5
"""Loss levels looked at by default."""

MISFIT = 10.0
"""Error of the updates in percent from which a note says that the law misses the runs."""

_ANNEALS = "it anneals from the start, so its loss at an update depends on its length too"
_ELSE = "the runs may differ in more than their batch size"
_KNOWN = {"determined": (1.0, 1.0), "above-critical": (1.0, math.nan), "below-critical": (math.nan, 1.0)}


class RunReach(NamedTuple):
    """What a run needs to reach a loss."""

    name: str
    tokens_per_step: float
    updates: float
    tokens: float


class Level(NamedTuple):
    """The trade between updates and tokens at one loss; what is left open is NaN."""

    loss: float
    status: str
    min_updates: float
    """S_min: updates needed with very large batches."""
    min_updates_interval: tuple[float, float]
    min_tokens: float
    """E_min: tokens needed with very small batches."""
    min_tokens_interval: tuple[float, float]
    critical: float
    """B_crit = E_min / S_min, tokens an update."""
    critical_interval: tuple[float, float]
    error_percent: float
    """Root mean square of the relative error in updates."""
    runs: tuple[RunReach, ...]
    """The runs that reach it."""

    @property
    def message(self) -> str:
        """The status as a sentence."""
        return TRADE_STATUS[self.status]


class Critical(NamedTuple):
    """The critical batch size at a loss, by the power law."""

    tokens_per_step: float
    interval: tuple[float, float]
    extrapolated: bool
    """Whether the loss lies outside the levels that the power law was fitted to."""


class BatchSizePowerLaw(NamedTuple):
    """log B_crit = log_coefficient - exponent * log L over the levels that are determined; NaN for fewer than two."""

    log_coefficient: float
    """Log of B_crit at loss 1."""
    exponent: float
    """alpha_B."""
    exponent_interval: tuple[float, float]
    losses: tuple[float, float]
    """Lowest and highest of these levels."""
    samples: np.ndarray
    """``[samples, 2]`` log coefficient and exponent of the bootstrap samples."""

    def at(self, loss: float) -> Critical:
        """The critical batch size at a loss."""
        log_loss, (low, high) = math.log(positive(loss, "loss")), self.losses
        lines = np.array([(self.log_coefficient, self.exponent), *self.samples])
        with np.errstate(over="ignore"):
            found = np.exp(lines[:, 0] - lines[:, 1] * log_loss)
        return Critical(float(found[0]), trade_interval(found[1:]), not low <= loss <= high)

    def to_dict(self) -> dict[str, object]:
        """The law as plain values for JSON, without the samples."""
        return plain({name: value for name, value in self._asdict().items() if name != "samples"})


class Judged(NamedTuple):
    """A run and the critical batch size at the loss it ends at, before any anneal."""

    name: str
    tokens_per_step: float
    loss: float
    critical: Critical
    below: bool


@dataclass(frozen=True)
class CriticalBatchSize(Record):
    """The critical batch size at several losses, and what follows for each run."""

    levels: tuple[Level, ...]
    """The highest loss first."""
    power: BatchSizePowerLaw
    runs: tuple[Judged, ...]
    spread_by_updates_percent: float
    """How far curves of different batch sizes lie apart at equal updates; NaN where they share no update."""
    spread_by_tokens_percent: float
    """The same at equal tokens."""
    method: str
    """What the intervals redraw: "runs", "rows", or "runs and rows"."""
    notes: tuple[str, ...]

    @property
    def status(self) -> str:
        """That of most levels, the lower loss deciding a tie."""
        found = [level.status for level in reversed(self.levels)]
        return max(found, key=found.count)

    @property
    def below(self) -> tuple[Judged, ...]:
        """The runs whose batch size lies below the critical one."""
        return tuple(run for run in self.runs if run.below)

    def to_dict(self) -> dict[str, object]:
        """The result as plain values for JSON, without the bootstrap samples."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        levels = [{**level._asdict(), "runs": [run._asdict() for run in level.runs]} for level in self.levels]
        runs = [{**run._asdict(), "critical": run.critical._asdict()} for run in self.runs]
        return plain({"status": self.status, **record, "power": self.power.to_dict(), "levels": levels, "runs": runs})


def critical_batch_size(
    curves: Sequence[LossCurve], *, losses: Sequence[float] | None = None, samples: int = 200, seed: int = 0
) -> CriticalBatchSize:
    r"""Finds the critical batch size from runs of one model on the same data at several batch sizes.

    At a given loss, updates S and tokens E = S B of a run with B tokens an update trade as
    $(S/S_{min} - 1)(E/E_{min} - 1) = 1$, so that $S = S_{min} + E_{min}/B$, a line in 1/B: non-negative least squares
    of the relative error, the same for S and E. $B_{crit} = E_{min}/S_{min}$, and over the levels
    $B_{crit} \propto L^{-\alpha_B}$, least squares in logarithms.

    Runs should be at a constant rate, each at the best rate for its batch size, or at rates scaled by one rule. Rows
    count from the end of warmup to the first fall of the rate: a loss that an anneal reached measures the anneal. A run
    that anneals from the start, as a cosine does, counts whole, with a note. S is where the smoothed curve first
    reaches the loss: log loss by local quadratics in log updates, half-width 0.3, wider where rows are sparse.

    Intervals redraw n - 1 of the n runs where a batch size has several, else the noise of rows, normal and as large and
    correlated as their residuals; both widened by what the law misses beyond that noise. They need three batch sizes;
    with two they are NaN. What the runs leave open is NaN with a status.

    Args:
      curves: the runs, with ``tokens_per_step``; at two batch sizes or more.
      losses: levels of loss; by default five that every run reaches, even in log updates.
      samples: number of bootstrap samples.
      seed: seed of the draws.

    Raises:
      ValueError: a run without ``tokens_per_step`` or with too few rows, runs of different model sizes, fewer than two
        batch sizes in all or at a level, no loss that every run reaches.

    Reference: McCandlish et al., arXiv 1812.06162, eq. 2.11; the power law, Kaplan et al., arXiv 2001.08361, eq. 5.3,
    where alpha_B is the inverse of ours; n - 1 of n runs, Rao & Wu (1988).

    >>> from fmjax import Constant
    >>> step, schedule = np.arange(2000), Constant(peak_lr=1e-3, total_steps=2000)
    >>> loss = {batch: 2 + 5 * ((step + 1) / (1 + 2e5 / batch)) ** -0.3 for batch in (5e4, 2e5, 8e5)}
    >>> runs = [LossCurve(f"{b:g}", step, loss[b], schedule, tokens_per_step=b) for b in loss]
    >>> found = critical_batch_size(runs)
    >>> found.status, round(found.levels[-1].critical, -3)
    ('determined', 200000.0)
    """
    count = whole(samples, "samples", least=2)
    _check_runs(curves)
    tracks = [smooth(curve, host_rates(curve.schedule, np.arange(int(curve.schedule.total_steps)))) for curve in curves]
    log_losses = common_levels(tracks, LOSS_LEVELS) if losses is None else _given_levels(losses)
    found = fit_trades(tracks, log_losses, samples=count, rng=np.random.default_rng(seed))
    levels = tuple(_level(found, i, tracks, log_loss) for i, log_loss in enumerate(log_losses))
    power = _power_law(found, log_losses, levels)
    runs = tuple(_judged(track, power, levels) for track in tracks)
    return CriticalBatchSize(
        levels=levels,
        power=power,
        runs=runs,
        spread_by_updates_percent=curve_spread(tracks, [0.0] * len(tracks)),
        spread_by_tokens_percent=curve_spread(tracks, [math.log(track.batch) for track in tracks]),
        method=found.method,
        notes=tuple(_notes(tracks, levels, runs, power)),
    )


def _check_runs(curves: Sequence[LossCurve]) -> None:
    require(len(curves) > 0, "expected runs at two batch sizes or more, found no run")
    for curve in curves:
        known = curve.tokens_per_step is not None
        require(known, f"run {curve.name!r}: expected tokens_per_step, found none")
        changes = isinstance(curve.tokens_per_step, BatchStages)
        require(not changes, f"run {curve.name!r}: expected one batch size, found {curve.tokens_per_step}")
        same = curve.model_size == curves[0].model_size
        first = f"{curves[0].model_size} as of run {curves[0].name!r}"
        require(same, f"run {curve.name!r}: expected model_size {first}, found {curve.model_size}")
    sizes = {curve.mean_batch or 0.0 for curve in curves}
    only = f"every run has {_number(max(sizes))} tokens an update"
    require(len(sizes) > 1, f"expected runs at two batch sizes or more, but {only}")


def _given_levels(losses: Sequence[float]) -> np.ndarray:
    require(len(losses) > 0, "losses: expected at least one loss, found none")
    return np.log(sorted({positive(loss, "losses") for loss in losses}, reverse=True))


def _level(found: Trades, i: int, tracks: Sequence[SmoothCurve], log_loss: float) -> Level:
    """One level; what is open is NaN."""
    status = found.status(i)
    known = np.array(_KNOWN.get(status, (math.nan, math.nan)))
    (updates, tokens), drawn = (known * found.fitted[i]).tolist(), known * found.drawn[:, i]
    reached = [(track, log) for track, log in zip(tracks, found.reached[:, i], strict=True) if np.isfinite(log)]
    return Level(
        loss=math.exp(log_loss),
        status=status,
        min_updates=updates,
        min_updates_interval=trade_interval(drawn[:, 0]),
        min_tokens=tokens,
        min_tokens_interval=trade_interval(drawn[:, 1]),
        critical=tokens / updates,
        critical_interval=trade_interval(known.prod() * found.critical()[1][:, i]),
        error_percent=100 * float(found.error[i]),
        runs=tuple(RunReach(t.curve.name, t.batch, math.exp(log), math.exp(log) * t.batch) for t, log in reached),
    )


def _power_law(found: Trades, log_losses: np.ndarray, levels: Sequence[Level]) -> BatchSizePowerLaw:
    """The power law over the levels that are determined."""
    use = np.array([level.status == "determined" for level in levels])
    if use.sum() < 2:
        return BatchSizePowerLaw(math.nan, math.nan, (math.nan, math.nan), (math.nan, math.nan), np.empty((0, 2)))
    x, (fitted, samples) = log_losses[use], found.critical()
    (log_coefficient, exponent), drawn = line(x, np.log(fitted[use])).tolist(), line(x, np.log(samples[:, use]))
    losses = math.exp(x.min()), math.exp(x.max())
    return BatchSizePowerLaw(log_coefficient, exponent, trade_interval(drawn[:, 1]), losses, drawn)


def _judged(track: SmoothCurve, power: BatchSizePowerLaw, levels: Sequence[Level]) -> Judged:
    loss = math.exp(track.loss[-1])
    critical = power.at(loss)
    none_above = all(level.status == "below-critical" for level in levels)
    return Judged(track.curve.name, track.batch, loss, critical, none_above or track.batch < critical.tokens_per_step)


def _notes(
    tracks: Sequence[SmoothCurve], levels: Sequence[Level], runs: Sequence[Judged], power: BatchSizePowerLaw
) -> Iterator[str]:
    for track in tracks:
        if track.anneals:
            yield f"run {track.curve.name!r}: {_ANNEALS}"
    for status in list(TRADE_STATUS)[1:]:
        losses = ", ".join(f"{level.loss:.4g}" for level in levels if level.status == status)
        if losses:
            yield f"loss {losses}: {TRADE_STATUS[status]}"
    few = ", ".join(f"{level.loss:.4g}" for level in levels if len({run.tokens_per_step for run in level.runs}) < 3)
    if few:
        yield f"loss {few}: two batch sizes give no intervals"
    for level in levels:
        if level.error_percent > MISFIT:
            yield f"loss {level.loss:.4g}: the law misses the updates by {level.error_percent:.0f} %; {_ELSE}"
    yield from (_below_note(run, power) for run in runs if run.below and math.isfinite(run.critical.tokens_per_step))


def _below_note(run: Judged, power: BatchSizePowerLaw) -> str:
    critical, (low, high) = run.critical, run.critical.interval
    between = f" ({_number(low)} ... {_number(high)})" if math.isfinite(low) else ""
    known = "extrapolated from losses {:.4g} ... {:.4g}".format(*power.losses)
    beyond = f" ({known})" if critical.extrapolated else ""
    return (
        f"run {run.name!r}: {_number(run.tokens_per_step)} tokens an update lie below the critical batch size "
        f"{_number(critical.tokens_per_step)}{between} at its final loss {run.loss:.4g}{beyond}: its loss follows "
        "tokens rather than updates, so a law in updates does not carry over to larger batches"
    )


def _number(value: float) -> str:
    """Whole numbers in full, others to three digits, thousands apart."""
    rounded = value if value == int(value) else float(f"{value:.3g}")
    return f"{rounded:,.0f}".replace(",", " ") if rounded >= 100 else f"{rounded:.3g}"
