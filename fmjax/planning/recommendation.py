"""``recommend``: the main job in one call, from runs and a target to a schedule."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fmjax._checks import finite, positive, require
from fmjax._json import Record, plain
from fmjax._names import PREFERRED_LAWS
from fmjax._types import HostNumbers
from fmjax.curves.loss_curve import LossCurve
from fmjax.exporters.snippets import optax_snippet
from fmjax.fitting.fitted_runs import FittedRuns, PlanShape
from fmjax.fitting.options import MANY_FITS, FitOptions, fitting_verb
from fmjax.fitting.problem import with_rows
from fmjax.fitting.records import FitResult, RunMetrics
from fmjax.laws import Law, make_law
from fmjax.planning.predictor import Prediction, Predictor, predictors
from fmjax.planning.regions import Region, region_of
from fmjax.planning.second_run import to_run_next
from fmjax.planning.targets import Target, Targets
from fmjax.schedules.kinds import WSD
from fmjax.searching.results import Cell
from fmjax.searching.sweeps import SEARCHED_RATIOS

OUTSIDE = frozenset(("peak_lr", "tokens_per_step"))
"""What a choice over rates and batches keeps within the fitted runs, if it can."""


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
    """Whether any fitted run was trained at this peak rate; of a plan over several batches or sizes, whether rate and
    batch lie within those of the fitted runs."""
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
    """Schedules recommended for a target: one ``Choice`` for each peak rate and decay shape.

    Of a plan over several batches, sizes or lengths also one for each of these, and a ``Region`` for each budget.
    """

    total_steps: int
    """Number of updates, of the best choice where they differ."""
    anneal_ratio: np.ndarray
    """``[ratios]`` ratios searched."""
    choices: tuple[Choice, ...]
    taken: dict[str, float] = field(default_factory=dict)
    """Warmup, initial and final rate that were taken from the runs; the final rate as a share of the peak."""
    notes: tuple[str, ...] = ()
    """What holds of every choice: runs left out, and what was taken from the runs."""
    regions: tuple[Region, ...] = ()
    """Of a plan over several batches, sizes or lengths: what to choose for each budget."""

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

    @property
    def best_region(self) -> Region:
        """The region that the best choice belongs to, of a plan that has regions."""
        return next(one for one in self.regions if self.choices[one.points[one.best].choice] is self.best)

    def to_dict(self) -> dict[str, object]:
        """The recommendation as plain values for JSON."""
        best = next(i for i, choice in enumerate(self.choices) if choice is self.best)
        choices = [
            {**_choice_dict(choice), **({} if self.regions and i != best else _evidence_dict(choice))}
            for i, choice in enumerate(self.choices)
        ]
        record = {"law": self.law.name, "options": self.law.options(), "best": best, "choices": choices}
        record |= {"regions": [region.to_dict() for region in self.regions]} if self.regions else {}
        return plain({**record, "taken_from_fitted_runs": self.taken, "notes": self.notes})


def _choice_dict(choice: Choice) -> dict[str, object]:
    found = choice.fit
    return {
        **choice.cell._asdict(),
        "anneal_steps": choice.schedule.anneal_steps,
        "law": found.law.name,
        "law_ratio": choice.law_ratio,
        "regret": choice.regret,
        "warmup_steps": choice.schedule.warmup_steps,
        "init_lr": choice.schedule.init_lr,
        "per_rate": choice.per_rate,
        "known_rate": choice.known_rate,
        "samples": choice.samples,
        "status": found.status,
        "held_out_mape_percent": choice.held_out_mape_percent,
        "notes": choice.notes,
    }


def _evidence_dict(choice: Choice) -> dict[str, object]:
    """The schedule as code and the fit; of a plan over batches or sizes, all choices share one fit."""
    return {
        "optax": optax_snippet(choice.schedule),
        "params": choice.fit.params,
        "held_out": [run._asdict() for run in choice.held_out],
        "fitted": [run._asdict() for run in choice.fit.runs],
    }


@fitting_verb
def recommend(
    curves: Sequence[LossCurve],
    *,
    total_steps: HostNumbers | None = None,
    peak_lr: HostNumbers,
    law: Law | str | None = None,
    anneal_ratio: HostNumbers = SEARCHED_RATIOS,
    decay: str | Sequence[str] = "linear",
    final_lr: float | None = None,
    warmup_steps: int | None = None,
    init_lr: float | None = None,
    model_size: HostNumbers | None = None,
    tokens_per_step: HostNumbers | None = None,
    total_tokens: HostNumbers | None = None,
    flops: HostNumbers | None = None,
    family: str | None = None,
    samples: int = 200,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    options: FitOptions = MANY_FITS,
) -> Recommendation:
    """Recommends an annealing ratio for each target peak rate, with the final loss it is predicted to reach.

    A peak rate at which at least two runs were trained, and whose runs determine the law, is predicted by a fit of
    those runs; every other one by a fit of all runs, as are runs of several families. Each
    fit is checked by leaving out its runs one at a time, and bootstrapped for intervals of the best ratio and of the
    loss there. What the fit leaves over of the final losses
    measured at other ratios, lengths and peak rates corrects its predictions; see ``correction.Settings``. Beyond the
    longest run the interval of the loss also grows by what a fit of the shorter runs misses at the ends of the longest
    ones, per e-fold of updates; where all have one length, by what the first half of their rows misses at their ends;
    by at least 0.2 and at most 1 percent (``planning/drift.py``).

    Over several batches, model sizes or lengths, one fit of all runs predicts all, by a law that has them as its terms,
    and final losses of cosines correct it as well. ``regions`` then has for each budget (a length at a model size, or
    an amount of compute) the best rate and batch, all that are near-optimal, the regret to expect, and what each batch
    or size costs at equal tokens or compute. The best has a rate and a batch within those of the runs, if any has.

    Args:
      curves: the runs at hand.
      total_steps: number of updates T of the target, one or many.
      peak_lr: its peak rates, one or many.
      law: by default whichever of "intrinsic-momentum" and "lr-annealing" predicts runs left out of its fit best; the
        name of a law, whose effect coefficients are then chosen on the runs (``select`` by objective, without
        refinement); or a law, taken as it is.
      anneal_ratio: ratios to search.
      decay: shapes of the anneal, one or many.
      final_lr: rate the anneal ends at; by default the median of the runs' shares of the peak rate.
      warmup_steps: updates of warmup; by default the median of the runs'.
      init_lr: rate of update 0; by default the median of the runs'.
      model_size: number of parameters of the target, one or many, for runs of several sizes.
      tokens_per_step: tokens an update of the target, one or many, for runs of several batch sizes, which only a law
        with the batch size in it can then predict. By default that of the runs, where they have one.
      total_tokens: tokens of the target, one or many, in place of ``total_steps``, which follow from the batch.
      flops: operations of its training, one or many, in place of both: C = 6 N D. Sizes N are then chosen among those
        of ``model_size``, by default from half the smallest fitted to four times the largest; D follows.
      family: family of models of the target, for runs that name several, which "intrinsic-momentum" tells apart by a
        level and a noise factor of each. Where a family has one size, that is the model size by default.
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
    peaks = [positive(lr, "peak_lr") for lr in np.atleast_1d(np.asarray(peak_lr)).tolist()]
    require(peaks, "expected at least one peak_lr, found none")
    say = progress or (lambda stage: None)
    curves, left_out = with_rows(curves, options)
    final = None if final_lr is None else finite(final_lr, "final_lr")
    told: dict[str, Any] = {"warmup_steps": warmup_steps, "init_lr": init_lr, "final_lr": final}
    runs = FittedRuns.of(curves)
    family = runs.family_told(family)
    if len(runs.families) > 1 and model_size is None:
        model_size = runs.only_size(family)
    lengths: dict[str, Any] = {"total_steps": total_steps, "total_tokens": total_tokens, "flops": flops}
    targets = Targets.of(runs, **lengths, model_size=model_size, tokens_per_step=tokens_per_step)
    shortest = min(target.total_steps for target in targets.each)
    shape = PlanShape.of(runs, longest_warmup=shortest, peak_lr=peaks, **told)
    laws = (law,) if law is not None else _preferred_laws(targets, runs)
    together = targets.joint or len(runs.families) > 1  # a family may lack runs at a rate where others have some
    fits = predictors(laws, curves, peaks, options=options, samples=samples, seed=seed, progress=say, joint=together)
    ratios = np.atleast_1d(np.asarray(anneal_ratio, float))
    plan: dict[str, Any] = {"anneal_ratio": ratios, "decay": decay, "seed": seed}
    plan |= {"warmup_steps": shape.warmup_steps, "init_lr": shape.init_lr}
    found: list[tuple[Target, Predictor, Prediction]] = []
    for target in targets.each:
        of = {name: value for name, value in target._asdict().items() if name != "budget"} | {"family": family}
        for some in [peaks] if targets.joint else [[peak] for peak in peaks]:
            at = f"peak rate {some[0]:g}" if len(some) == 1 else f"each of {len(some)} peak rates"
            say(f"searching {ratios.size} ratios at {at}{_where(target, targets)}")
            by = fits[some[0]]
            ends = None if targets.joint and shape.final_is_share else shape.final_at(some[0])
            predicted = by.predict(peak_lr=some, final_lr=ends, **of, **plan)
            found += [(target, by, one) for one in predicted]
    choices = tuple(_choice(one, by, shape, family, joint=targets.joint) for _, by, one in found)
    doubts = [choice.fit.doubts(choice.cell.loss, choice.cell.total_steps) for choice in choices]
    require(not all(doubts), f"no schedule can be recommended: {''.join(doubts[0])}; plan nearer to the runs")
    plans = Recommendation(shortest, ratios, choices, shape.taken, (*left_out, *shape.notes))
    if not targets.joint:
        return plans
    regions = tuple(_regions(targets, found, choices, seed))
    return dataclasses.replace(plans, total_steps=plans.best.cell.total_steps, regions=regions)


def _preferred_laws(targets: Targets, runs: FittedRuns) -> tuple[str, ...]:
    """Laws to compare; where batches are chosen among, those that have the batch size in them; families likewise."""
    batches, families = len({target.tokens_per_step for target in targets.each}) > 1, len(runs.families) > 1
    told = runs.model_size, runs.tokens_per_step, runs.family
    made = {name: make_law(name).spanning(*told) for name in PREFERRED_LAWS}
    fitting = {name: law for name, law in made.items() if law.spans_batches or not batches}
    return tuple(name for name, law in fitting.items() if law.families or not families)


def _where(target: Target, targets: Targets) -> str:
    """What else a search is for, where it differs."""
    if not targets.joint:
        return ""
    told = ((target.model_size, "parameters"), (target.tokens_per_step, "tokens an update"))
    return "".join(f", {value:.3g} {what}" for value, what in told if value is not None)


def _regions(
    targets: Targets,
    found: Sequence[tuple[Target, Predictor, Prediction]],
    choices: Sequence[Choice],
    seed: int,
) -> Iterator[Region]:
    """The region of each budget, among rates and batches within those of the runs, or all where there are none.

    A budget for which no loss can be right has none.
    """
    for place, budget in enumerate(targets.budgets):
        own = [i for i, (target, *_) in enumerate(found) if target.budget == place and choices[i].cell.is_offered]
        every, own = len(own), [i for i in own if choices[i].known_rate] or own
        if own:
            cells, by = [found[i][2].samples for i in own], found[0][1]
            slack = np.stack([cell.slack for cell in cells], axis=1)[: None if by.is_checked else 0]
            drawn = by.together(cells, seed) if by.is_checked else slack
            left = every - len(own)
            yield region_of(budget, own, [choices[i].cell for i in own], drawn, slack, not_compared=left)


def _choice(found: Prediction, by: Predictor, shape: PlanShape, family: str | None, *, joint: bool) -> Choice:
    fit = by.fit.for_family(family)
    return Choice(
        cell=found.cell,
        losses=found.losses,
        law_ratio=found.law_ratio,
        regret=found.regret,
        schedule=found.cell.schedule(shape.warmup_steps, shape.init_lr),
        fit=fit,
        per_rate=by.peak_lr is not None,
        known_rate=OUTSIDE.isdisjoint(found.cell.outside) if joint else by.knows(found.cell.peak_lr),
        held_out=by.held_out,
        samples=by.sampled,
        notes=(*_notes(found, by, fit), *(_notes_on_reach(found, by) if joint else _notes_on_rates(found, by))),
    )


def _unchecked(by: Predictor) -> str:
    """Why there are no intervals, and what would give them."""
    if len(by.curves) > 1:
        return "no intervals: no run could be predicted from the others, so nothing checks the law; add a run"
    alone = f"no intervals: run {by.curves[0].name!r} is alone, so nothing checks the law"
    return f"{alone}; {to_run_next(by.fit.law, by.fit.vector, by.curves[0])}"


def _notes(found: Prediction, by: Predictor, fit: FitResult) -> tuple[str, ...]:
    cell, reach = found.cell, by.fit.reach
    notes = [*fit.doubts(cell.loss, cell.total_steps), *fit.notes, *by.notes]
    models = [[] if told is None else [told] for told in (found.model_size, cell.tokens_per_step)]
    if fit.trained_with is not None:
        notes += fit.trained_with.family_notes(fit.law.family, cell.total_steps, [cell.peak_lr], *models)
    notes += [] if reach is None else [*reach.longer(cell.total_steps)]
    notes += [] if by.is_checked else [_unchecked(by)]
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


def _notes_on_rates(found: Prediction, by: Predictor) -> Iterator[str]:
    """Where the peak rate lies among those of the runs."""
    peaks = sorted({curve.peak_lr for curve in by.curves})
    if not by.knows(found.cell.peak_lr):
        yield f"no run has this peak rate; fitted on {peaks[0]:g} ... {peaks[-1]:g}"
    elif len(peaks) > 1:
        yield f"fitted jointly over peak rates {peaks[0]:g} ... {peaks[-1]:g}"


def _notes_on_reach(found: Prediction, by: Predictor) -> Iterator[str]:
    """Where rate, size and batch lie outside those of the runs."""
    cell, reach = found.cell, by.fit.reach
    if reach is None:
        return
    if not reach.has_peak(cell.peak_lr):
        low, high = reach.peak_lr
        yield f"peak rate {cell.peak_lr:.4g} lies outside those fitted, {low:.4g} ... {high:.4g}"
    smaller = cell.model_size is not None and reach.model_size is not None and cell.model_size < reach.model_size[0]
    told = cell.model_size if smaller else None, cell.tokens_per_step  # of larger sizes there is a note of its own
    yield from reach.other_models(*(None if value is None else np.array([value]) for value in told))
