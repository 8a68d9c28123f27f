"""``recommend``: the main job in one call, from runs and a target to a schedule."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from fmjax._checks import positive, require, whole
from fmjax.curves import LossCurve
from fmjax.export import optax_snippet
from fmjax.fitting import FitOptions, fit_groups, measure, prepare
from fmjax.laws import Law
from fmjax.records import FitResult, RunMetrics, plain
from fmjax.resampling import held_out, leave_one_out_groups
from fmjax.schedules import WSD
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
    held_out: tuple[RunMetrics, ...]
    """Each fitted run as predicted from a fit of the others."""
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
        """The choice of least predicted final loss."""
        return min(self.choices, key=lambda choice: choice.cell.loss)

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
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Recommendation:
    """Recommends an annealing ratio for each target peak rate, with the final loss it is predicted to reach.

    A peak rate at which at least two runs were trained, and whose runs determine the law, is predicted by a fit of
    those runs; every other one by a fit of all runs. Each fit is checked by leaving out its runs one at a time.

    Args:
      curves: the runs at hand.
      total_steps: number of updates T of the target.
      peak_lr: its peak rates, one or many.
      law: a law, or its name.
      anneal_ratio: ratios to search.
      decay: shapes of the anneal, one or many.
      final_lr: rate the anneal ends at.
      warmup_steps: updates of warmup; by default the median of the runs'.
      init_lr: rate of update 0.
      model_size: number of parameters of the target, for runs of several sizes.
      progress: called with a few words before each stage.
      **options: as for ``fit``.

    Raises:
      ValueError: as for ``fit`` and ``search``; or no fit can predict a target.

    >>> import fmjax
    >>> found = recommend(fmjax.datasets.proxy_runs(), total_steps=6000, peak_lr=2e-3)
    >>> 0 < found.best.cell.best_ratio <= 1
    True
    """
    steps = whole(total_steps, "total_steps", least=1)
    peaks = [positive(lr, "peak_lr") for lr in ([peak_lr] if np.ndim(peak_lr) == 0 else peak_lr)]
    require(peaks, "expected at least one peak_lr, found none")
    say = progress or (lambda stage: None)
    if warmup_steps is None:
        warmup_steps = min(steps, int(np.median([curve.schedule.warmup_steps for curve in curves])))
    say(f"fitting {len(curves)} runs, and again without each")
    fits = _fits(law, curves, peaks, FitOptions(**{"starts": 3, **options}))
    choices: list[Choice] = []
    ratios = np.atleast_1d(np.asarray(anneal_ratio, float))
    for peak in peaks:
        say(f"searching {ratios.size} ratios at peak rate {peak:g}")
        found, per_rate, left_out = _usable(fits, peak)
        result = search(
            found,
            total_steps=steps,
            peak_lr=peak,
            anneal_ratio=ratios,
            decay=decay,
            final_lr=final_lr,
            warmup_steps=warmup_steps,
            init_lr=init_lr,
            model_size=model_size,
        )
        fitted = [curve for curve in curves if curve.name in {run.name for run in found.runs}]
        for cell, losses in zip(result.cells, result.losses, strict=True):
            notes = _notes(cell, found, fitted, per_rate)
            schedule = cell.schedule(warmup_steps, init_lr)
            choices.append(Choice(cell, losses, schedule, found, per_rate, left_out, notes))
    return Recommendation(found.law, steps, ratios, tuple(choices))


class _Fit(NamedTuple):
    peak_lr: float | None
    result: FitResult
    held_out: tuple[RunMetrics, ...]


def _fits(law: Law | str, curves: Sequence[LossCurve], peaks: Sequence[float], options: FitOptions) -> list[_Fit]:
    """One fit of each target peak rate's own runs, where there are two, then one of all; all in one batch."""
    everything = np.ones(len(curves), bool)
    with jax.enable_x64(True):
        problem = prepare(law, curves, fitted=everything.tolist(), drop_warmup=options.drop_warmup)
        at = np.array([curve.peak_lr for curve in curves])
        own: dict[float, Any] = {peak: np.abs(at / peak - 1) < SAME_PEAK for peak in peaks}
        bases: list[tuple[float | None, Any]] = [
            (peak, group) for peak, group in own.items() if 1 < group.sum() < len(curves)
        ] + [(None, everything)]
        without = [leave_one_out_groups(group) if group.sum() > 1 else group[None][:0] for _, group in bases]
        groups = np.concatenate([[group for _, group in bases], *without])
        results = fit_groups(problem, groups, options)
        rest, fits = iter(results[len(bases) :]), []
        for (peak, group), left_out, result in zip(bases, without, results, strict=False):
            runs = measure(problem, result.vector, usable=group)
            kept = tuple(run for run, chosen in zip(runs, group, strict=True) if chosen)
            errors = held_out(problem, group, [next(rest) for _ in left_out]) if len(left_out) else ()
            fits.append(_Fit(peak, result.with_runs(kept), errors))
        return fits


def _usable(fits: Sequence[_Fit], peak: float) -> tuple[FitResult, bool, tuple[RunMetrics, ...]]:
    """The fit to predict a peak rate with: of its own runs if that fit is usable, else of all runs."""
    for fit in fits:
        if fit.peak_lr in (peak, None) and fit.result.ok:
            return fit.result, fit.peak_lr == peak, fit.held_out
    raise ValueError(f"no fit can predict peak_lr {peak:g}: {fits[-1].result.message}")


def _notes(cell: Cell, result: FitResult, fitted: Sequence[LossCurve], per_rate: bool) -> tuple[str, ...]:
    notes = []
    longest = max(int(curve.schedule.total_steps) for curve in fitted)
    if cell.total_steps > longest:
        notes.append(f"extrapolates to {cell.total_steps / longest:.3g} x the longest fitted run ({longest} updates)")
    peaks = sorted({curve.peak_lr for curve in fitted})
    if not per_rate and not any(abs(peak / cell.peak_lr - 1) < SAME_PEAK for peak in peaks):
        notes.append(f"no run has this peak rate; fitted on {peaks[0]:g} ... {peaks[-1]:g}")
    elif len(peaks) > 1:
        notes.append(f"fitted jointly over peak rates {peaks[0]:g} ... {peaks[-1]:g}")
    if cell.at_edge:
        notes.append("the best ratio lies at the edge of those searched")
    if result.status == "at-bound":
        notes.append(result.message)
    return tuple(notes)
