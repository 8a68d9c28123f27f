"""``recommend``: the main job in one call, from runs and a target to a schedule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fmjax._checks import finite, positive, require, whole
from fmjax._json import Record, plain
from fmjax._types import HostNumbers
from fmjax.curves.loss_curve import LossCurve
from fmjax.exporters.snippets import optax_snippet
from fmjax.fitting.fitted_runs import FittedRuns, PlanShape
from fmjax.fitting.options import MANY_FITS, FitOptions, fitting_verb
from fmjax.fitting.problem import with_rows
from fmjax.fitting.records import FitResult, RunMetrics
from fmjax.laws import Law
from fmjax.planning.predictor import Prediction, Predictor, predictors
from fmjax.planning.second_run import to_run_next
from fmjax.schedules.kinds import WSD
from fmjax.searching.results import Cell
from fmjax.searching.sweeps import SEARCHED_RATIOS


class Choice(NamedTuple):
    """The recommendation for one peak rate and decay shape."""

    cell: Cell
    """Best ratio, predicted final loss and near-optimal interval."""
    losses: np.ndarray
    """``[ratios]`` predicted final loss at every ratio searched."""
    law_ratio: float
    """The ratio that the law alone would choose, not corrected by measured final losses."""
    regret: float
    """How much worse the final loss is expected to be than at the best ratio; NaN without bootstrap samples."""
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
class Recommendation(Record):
    """Schedules recommended for a target: one ``Choice`` for each peak rate and decay shape."""

    total_steps: int
    anneal_ratio: np.ndarray
    """``[ratios]`` ratios searched."""
    choices: tuple[Choice, ...]
    taken: dict[str, float] = field(default_factory=dict)
    """Warmup, initial and final rate that were taken from the runs; the final rate as a share of the peak."""
    notes: tuple[str, ...] = ()
    """What holds of every choice: runs left out, and what was taken from the runs."""

    @property
    def law(self) -> Law:
        """The law that predicts the best choice."""
        return self.best.fit.law

    @property
    def best(self) -> Choice:
        """The choice of least predicted final loss, among peak rates that runs were trained at if there are any.

        A choice whose predicted loss is lower or higher than it can be comes last.
        """
        return min(self.choices, key=lambda one: (not one.cell.is_offered, not one.known_rate, one.cell.loss))

    def to_dict(self) -> dict[str, object]:
        """The recommendation as plain values for JSON."""
        choices = [_choice_dict(choice) for choice in self.choices]
        best = self.choices.index(self.best)
        record = {"law": self.law.name, "options": self.law.options(), "best": best, "choices": choices}
        return plain({**record, "taken_from_fitted_runs": self.taken, "notes": self.notes})


def _choice_dict(choice: Choice) -> dict[str, object]:
    found = choice.fit
    return {
        **choice.cell._asdict(),
        "law": found.law.name,
        "law_ratio": choice.law_ratio,
        "regret": choice.regret,
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


@fitting_verb
def recommend(
    curves: Sequence[LossCurve],
    *,
    total_steps: int,
    peak_lr: HostNumbers,
    law: Law | str | None = None,
    anneal_ratio: HostNumbers = SEARCHED_RATIOS,
    decay: str | Sequence[str] = "linear",
    final_lr: float | None = None,
    warmup_steps: int | None = None,
    init_lr: float | None = None,
    model_size: float | None = None,
    tokens_per_step: float | None = None,
    samples: int = 200,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    options: FitOptions = MANY_FITS,
) -> Recommendation:
    """Recommends an annealing ratio for each target peak rate, with the final loss it is predicted to reach.

    A peak rate at which at least two runs were trained, and whose runs determine the law, is predicted by a fit of
    those runs; every other one by a fit of all runs. Each fit is checked by leaving out its runs one at a time, and
    bootstrapped for intervals of the best ratio and of the loss there. What the fit leaves over of the final losses
    measured at other ratios, lengths and peak rates corrects its predictions; see ``correction.Correction``. Beyond the
    longest run the interval of the loss also grows by what a fit of the shorter runs misses at the ends of the longest
    ones, per e-fold of updates; where all have one length, by what the first half of their rows misses at their ends;
    by at least 0.2 and at most 1 percent (``planning/drift.py``).

    Args:
      curves: the runs at hand.
      total_steps: number of updates T of the target.
      peak_lr: its peak rates, one or many.
      law: by default whichever of "intrinsic-momentum" and "lr-annealing" predicts runs left out of its fit best; the
        name of a law, whose effect coefficients are then chosen on the runs (``select`` by objective, without
        refinement); or a law, taken as it is.
      anneal_ratio: ratios to search.
      decay: shapes of the anneal, one or many.
      final_lr: rate the anneal ends at; by default the median of the runs' shares of the peak rate.
      warmup_steps: updates of warmup; by default the median of the runs'.
      init_lr: rate of update 0; by default the median of the runs'.
      model_size: number of parameters of the target, for runs of several sizes.
      tokens_per_step: tokens an update of the target, for runs of several batch sizes, which only a law with the batch
        size in it can then predict.
      samples: bootstrap samples behind the intervals; 0 for none.
      seed: seed of the samples.
      progress: called with a few words before each stage.
      options: of the fits; to change one, ``dataclasses.replace(MANY_FITS, ...)`` keeps the others.

    Raises:
      ValueError: as for ``fit`` and ``search``; or no fit can predict a target.

    >>> import fmjax
    >>> curves = fmjax.datasets.demo_runs()
    >>> found = recommend(curves, total_steps=6000, peak_lr=2e-3, law=fmjax.LRAnnealing(), samples=0)
    >>> 0 < found.best.cell.best_ratio <= 1
    True
    """
    require(len(curves) > 0, "expected at least one run, found none")
    steps = whole(total_steps, "total_steps", least=1)
    peaks = [positive(lr, "peak_lr") for lr in np.atleast_1d(np.asarray(peak_lr)).tolist()]
    require(peaks, "expected at least one peak_lr, found none")
    say = progress or (lambda stage: None)
    curves, left_out = with_rows(curves, options)
    final = None if final_lr is None else finite(final_lr, "final_lr")
    told: dict[str, Any] = {"warmup_steps": warmup_steps, "init_lr": init_lr, "final_lr": final}
    shape = PlanShape.of(FittedRuns.of(curves), longest_warmup=steps, peak_lr=peaks, **told)
    fits = predictors(law, curves, peaks, options=options, samples=samples, seed=seed, progress=say)
    ratios = np.atleast_1d(np.asarray(anneal_ratio, float))
    target = {"total_steps": steps, "decay": decay, "warmup_steps": shape.warmup_steps}
    target |= {"init_lr": shape.init_lr, "model_size": model_size, "tokens_per_step": tokens_per_step}
    choices: list[Choice] = []
    for peak in peaks:
        say(f"searching {ratios.size} ratios at peak rate {peak:g}")
        ends = shape.final_at(peak)
        found = fits[peak].predict(peak_lr=peak, anneal_ratio=ratios, seed=seed, final_lr=ends, **target)
        choices += [_choice(one, fits[peak], shape) for one in found]
    doubts = [choice.fit.doubts(choice.cell.loss, steps) for choice in choices]
    require(not all(doubts), f"no schedule can be recommended: {''.join(doubts[0])}; plan nearer to the runs")
    return Recommendation(steps, ratios, tuple(choices), shape.taken, (*left_out, *shape.notes))


def _choice(found: Prediction, by: Predictor, shape: PlanShape) -> Choice:
    return Choice(
        cell=found.cell,
        losses=found.losses,
        law_ratio=found.law_ratio,
        regret=found.regret,
        schedule=found.cell.schedule(shape.warmup_steps, shape.init_lr),
        fit=by.fit,
        per_rate=by.peak_lr is not None,
        known_rate=by.knows(found.cell.peak_lr),
        held_out=by.held_out,
        samples=by.sampled,
        notes=_notes(found, by),
    )


def _unchecked(by: Predictor) -> str:
    """Why there are no intervals, and what would give them."""
    if len(by.curves) > 1:
        return "no intervals: no run could be predicted from the others, so nothing checks the law; add a run"
    alone = f"no intervals: run {by.curves[0].name!r} is alone, so nothing checks the law"
    return f"{alone}; {to_run_next(by.fit.law, by.fit.vector, by.curves[0])}"


def _notes(found: Prediction, by: Predictor) -> tuple[str, ...]:
    cell, reach = found.cell, by.fit.reach
    notes = [*by.fit.doubts(cell.loss, cell.total_steps), *by.fit.notes, *by.notes]
    notes += [] if reach is None else [*reach.longer(cell.total_steps)]
    notes += [] if by.is_checked else [_unchecked(by)]
    peaks = sorted({curve.peak_lr for curve in by.curves})
    if not by.knows(cell.peak_lr):
        notes.append(f"no run has this peak rate; fitted on {peaks[0]:g} ... {peaks[-1]:g}")
    elif len(peaks) > 1:
        notes.append(f"fitted jointly over peak rates {peaks[0]:g} ... {peaks[-1]:g}")
    largest, target = max((curve.model_size or 0 for curve in by.curves), default=0), found.model_size or 0
    if target > largest * (1 + 1e-6):
        notes.append(
            f"extrapolates to {target / largest:.3g} x the largest fitted model; its loss interval does not know"
        )
    if abs(cell.best_ratio - found.law_ratio) > 1e-9:
        count = len(by.runs.decay)
        notes.append(f"{by.fit.law.name} alone says {found.law_ratio:.3g}; {count} measured final losses correct it")
    spiked = [repr(curve.name) for curve in by.curves if curve.final_loss is None and curve.ends_in_spike]
    if spiked:
        notes.append(f"the last row of {', '.join(spiked)} is a spike and tells no final loss")
    if cell.at_edge:
        notes.append("the best ratio lies at the edge of those searched")
    if by.fit.status == "at-bound":
        notes.append(by.fit.message)
    return tuple(notes)
