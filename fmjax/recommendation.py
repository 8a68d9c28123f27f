"""``recommend``: the main job in one call, from runs and a target to a schedule."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fmjax._checks import positive, require, whole
from fmjax.curves import LossCurve
from fmjax.export import optax_snippet
from fmjax.fitting import FitOptions, Problem, fit_groups, precision, prepare, with_measured_runs
from fmjax.laws import Law
from fmjax.records import FitResult, RunMetrics, plain
from fmjax.resampling import bootstrap_groups, held_out, leave_one_out_groups
from fmjax.schedules import WSD
from fmjax.selection import rank
from fmjax.sweep import RATIOS, Cell, search

SAME_PEAK = 1e-3
"""Relative difference up to which a run counts as trained at a target's peak rate."""


class Choice(NamedTuple):
    """The recommendation for one peak rate and decay shape."""

    cell: Cell
    """Best ratio, predicted final loss and near-optimal interval."""
    losses: np.ndarray
    """``[ratios]`` predicted final loss at every ratio searched."""
    schedule: WSD
    """The recommended schedule."""
    fit: FitResult
    """The fit that predicts."""
    per_rate: bool
    """Whether the fit is of this peak rate's runs alone, or of all runs."""
    known_rate: bool
    """Whether any fitted run was trained at this peak rate."""
    held_out: tuple[RunMetrics, ...]
    """Each fitted run as predicted from a fit of the others."""
    samples: int
    """Bootstrap samples behind the intervals of ``cell``."""
    notes: tuple[str, ...]
    """What to keep in mind: extrapolation, an optimum at the edge, parameters at bounds."""

    @property
    def held_out_mape_percent(self) -> float:
        """Mean error over runs left out of the fit, one at a time; NaN if none could be predicted."""
        values = np.array([run.mape_percent for run in self.held_out])
        return float(np.mean(values[np.isfinite(values)])) if np.isfinite(values).any() else float("nan")


@dataclass(frozen=True)
class Recommendation:
    """Schedules recommended for a target: one ``Choice`` for each peak rate and decay shape."""

    law: Law
    total_steps: int
    anneal_ratio: np.ndarray
    """``[ratios]`` ratios searched."""
    choices: tuple[Choice, ...]

    @property
    def best(self) -> Choice:
        """The choice of least predicted final loss, among peak rates that runs were trained at if there are any."""
        return min(self.choices, key=lambda choice: (not choice.known_rate, choice.cell.loss))

    def to_dict(self) -> dict[str, Any]:
        """The recommendation as plain values for JSON."""
        choices = [_choice_dict(choice) for choice in self.choices]
        best = self.choices.index(self.best)
        return plain({"law": self.law.name, "options": self.law.options(), "best": best, "choices": choices})

    def to_json(self) -> str:
        """The recommendation as JSON text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)


def _choice_dict(choice: Choice) -> dict[str, Any]:
    found = choice.fit
    return {
        **choice.cell._asdict(),
        "warmup_steps": choice.schedule.warmup_steps,
        "init_lr": choice.schedule.init_lr,
        "optax": optax_snippet(choice.schedule),
        "per_rate": choice.per_rate,
        "known_rate": choice.known_rate,
        "samples": choice.samples,
        "params": found.params,
        "status": found.status,
        "held_out_mape_percent": choice.held_out_mape_percent,
        "held_out": [run._asdict() for run in choice.held_out],
        "fitted": [run._asdict() for run in found.runs],
        "notes": choice.notes,
    }


def recommend(
    curves: Sequence[LossCurve],
    *,
    total_steps: int,
    peak_lr: Any,
    law: Law | str = "lr-annealing",
    anneal_ratio: Any = RATIOS,
    decay: str | Sequence[str] = "linear",
    final_lr: float = 0.0,
    warmup_steps: int | None = None,
    init_lr: float = 0.0,
    model_size: float | None = None,
    samples: int = 200,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Recommendation:
    """Recommends an annealing ratio for each target peak rate, with the final loss it is predicted to reach.

    A peak rate at which at least two runs were trained, and whose runs determine the law, is predicted by a fit of
    those runs; every other one by a fit of all runs. Each fit is checked by leaving out its runs one at a time, and
    bootstrapped for intervals of the best ratio and of the loss there.

    Args:
      curves: the runs at hand.
      total_steps: number of updates T of the target.
      peak_lr: its peak rates, one or many.
      law: the name of a law, whose effect coefficients are then chosen on the runs (``select`` by objective, without
        refinement); or a law, taken as it is.
      anneal_ratio: ratios to search.
      decay: shapes of the anneal, one or many.
      final_lr: rate the anneal ends at.
      warmup_steps: updates of warmup; by default the median of the runs'.
      init_lr: rate of update 0.
      model_size: number of parameters of the target, for runs of several sizes.
      samples: bootstrap samples behind the intervals; 0 for none.
      seed: seed of the samples.
      progress: called with a few words before each stage.
      **options: as for ``fit``.

    Raises:
      ValueError: as for ``fit`` and ``search``; or no fit can predict a target.

    >>> import fmjax
    >>> found = recommend(fmjax.datasets.proxy_runs(), total_steps=6000, peak_lr=2e-3)
    >>> 0 < found.best.cell.best_ratio <= 1
    True
    """
    require(len(curves) > 0, "expected at least one run, found none")
    steps = whole(total_steps, "total_steps", least=1)
    peaks = [positive(lr, "peak_lr") for lr in ([peak_lr] if np.ndim(peak_lr) == 0 else peak_lr)]
    require(peaks, "expected at least one peak_lr, found none")
    say = progress or (lambda stage: None)
    if warmup_steps is None:
        warmup_steps = min(steps, int(np.median([curve.schedule.warmup_steps for curve in curves])))
    fits = _fits(law, curves, peaks, FitOptions(**{"starts": 3, **options}), samples, seed, say)
    choices: list[Choice] = []
    ratios = np.atleast_1d(np.asarray(anneal_ratio, float))
    for peak in peaks:
        say(f"searching {ratios.size} ratios at peak rate {peak:g}")
        found = _usable(fits, peak)
        result = search(
            found.result,
            total_steps=steps,
            peak_lr=peak,
            anneal_ratio=ratios,
            decay=decay,
            final_lr=final_lr,
            warmup_steps=warmup_steps,
            init_lr=init_lr,
            model_size=model_size,
            samples=found.samples,
            keep_losses=True,
        )
        fitted = [curve for curve in curves if curve.name in {run.name for run in found.result.runs}]
        known = any(abs(curve.peak_lr / peak - 1) < SAME_PEAK for curve in fitted)
        assert result.losses is not None
        for cell, losses in zip(result.cells, result.losses, strict=True):
            notes = _notes(cell, found, fitted)
            schedule, count = cell.schedule(warmup_steps, init_lr), 0 if found.samples is None else len(found.samples)
            per_rate = found.peak_lr is not None
            choices.append(Choice(cell, losses, schedule, found.result, per_rate, known, found.held_out, count, notes))
    return Recommendation(fits[-1].result.law, steps, ratios, tuple(choices))


class _Fit(NamedTuple):
    peak_lr: float | None
    """Peak rate of the runs fitted, None for the fit of all."""
    result: FitResult
    held_out: tuple[RunMetrics, ...]
    samples: np.ndarray | None


def _fits(
    law: Law | str,
    curves: Sequence[LossCurve],
    peaks: Sequence[float],
    options: FitOptions,
    samples: int,
    seed: int,
    say: Callable[[str], None],
) -> list[_Fit]:
    """One fit of each target peak rate's own runs, where there are two, then one of all; all in one batch."""
    at, everything = np.array([curve.peak_lr for curve in curves]), np.ones(len(curves), bool)
    own = {peak: np.abs(at / peak - 1) < SAME_PEAK for peak in dict.fromkeys(peaks)}
    own = {peak: group for peak, group in own.items() if 1 < group.sum() < len(curves)}
    bases = np.array([*own.values(), everything])
    with precision(options):
        problem = prepare(law, curves, fitted=everything.tolist(), options=options)
        if isinstance(law, str) and problem.law.choices:
            say("choosing the effects' coefficients")
            best = rank(problem, options, groups=bases[: len(own) or 1])[0]
            chosen = dataclasses.replace(problem.law, **best.options)
            problem = prepare(chosen, curves, fitted=everything.tolist(), options=options)
        say(f"fitting {len(curves)} runs, and again without each")
        without = [leave_one_out_groups(base) if base.sum() > 1 else base[None][:0] for base in bases]
        results = fit_groups(problem, np.concatenate([bases, *without]), options)
        fits = [with_measured_runs(problem, result, base) for result, base in zip(results, bases, strict=False)]
        rest = iter(results[len(bases) :])
        errors = [
            held_out(problem, base, [next(rest) for _ in groups]) if len(groups) else ()
            for base, groups in zip(bases, without, strict=True)
        ]
        draws = _samples(problem, bases, fits, options, samples, seed, say)
    found = zip([*own, None], fits, errors, draws, strict=True)
    return [_Fit(*parts) for parts in found]


def _samples(
    problem: Problem,
    bases: np.ndarray,
    fits: Sequence[FitResult],
    options: FitOptions,
    samples: int,
    seed: int,
    say: Callable[[str], None],
) -> list[np.ndarray | None]:
    """Bootstrap samples of each fit that can be used."""
    usable = [k for k, fit in enumerate(fits) if fit.ok]
    draws: list[np.ndarray | None] = [None] * len(fits)
    if samples and usable:
        say(f"drawing {samples} bootstrap samples")
        found = bootstrap_groups(problem, bases[usable], [fits[k] for k in usable], options, samples=samples, seed=seed)
        for k, drawn in zip(usable, found, strict=True):
            draws[k] = drawn.params
    return draws


def _usable(fits: Sequence[_Fit], peak: float) -> _Fit:
    """The fit to predict a peak rate with: of its own runs if that fit is usable, else of all runs."""
    for fit in fits:
        if fit.peak_lr in (peak, None) and fit.result.ok:
            return fit
    raise ValueError(f"no fit can predict peak_lr {peak:g}: {fits[-1].result.message}")


def _notes(cell: Cell, found: _Fit, fitted: Sequence[LossCurve]) -> tuple[str, ...]:
    notes = []
    longest = max(int(curve.schedule.total_steps) for curve in fitted)
    if cell.total_steps > longest:
        notes.append(f"extrapolates to {cell.total_steps / longest:.3g} x the longest fitted run ({longest} updates)")
    peaks = sorted({curve.peak_lr for curve in fitted})
    if not any(abs(peak / cell.peak_lr - 1) < SAME_PEAK for peak in peaks):
        notes.append(f"no run has this peak rate; fitted on {peaks[0]:g} ... {peaks[-1]:g}")
    elif len(peaks) > 1:
        notes.append(f"fitted jointly over peak rates {peaks[0]:g} ... {peaks[-1]:g}")
    if cell.at_edge:
        notes.append("the best ratio lies at the edge of those searched")
    if found.result.status == "at-bound":
        notes.append(found.result.message)
    return tuple(notes)
