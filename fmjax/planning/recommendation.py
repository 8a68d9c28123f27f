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
from fmjax.planning.batch_growth import Growth, compare_growth
from fmjax.planning.choice_notes import choice_notes
from fmjax.planning.predictor import Prediction, Predictor, predictors
from fmjax.planning.regions import Region, region_of
from fmjax.planning.targets import Target, Targets
from fmjax.schedules.batch_stages import Batches, BatchStages
from fmjax.schedules.kinds import WSD
from fmjax.searching.results import Cell
from fmjax.searching.sweeps import SEARCHED_RATIOS

OUTSIDE = frozenset(("peak_lr", "tokens_per_step"))
"""What a choice over rates and batches keeps within the fitted runs, if it can."""


MOVED = "growing batches: ratios and excess are those of the law alone, losses moved to that of the best choice"
"""Note on how ``Recommendation.growths`` follow from the choices."""


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
    growths: tuple[Growth, ...] = ()
    """Where asked for, the best choice of each region beside runs of as many tokens whose batch grows."""

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
        record |= {"growths": [growth.to_dict() for growth in self.growths]} if self.growths else {}
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
    tokens_per_step: Batches | None = None,
    total_tokens: HostNumbers | None = None,
    flops: HostNumbers | None = None,
    trade: bool = False,
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
    by at least 0.2 and at most 1 percent (``planning/drift.py``). At a model size or batch size that no run has, it
    grows by what fits without the runs of one size, or batch, miss of those (``planning/unseen.py``).

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
        with the batch size in it can then predict. By default that of the runs, where they have one. Of a single target
        also ``BatchStages``, or such text as "65536@0,131072@2000".
      total_tokens: tokens of the target, one or many, in place of ``total_steps``, which follow from the batch.
      flops: operations of its training, one or many, in place of both: C = 6 N D. Sizes N are then chosen among those
        of ``model_size``, by default from half the smallest fitted to four times the largest; D follows.
      trade: whether to compare the best choice of each region with runs of as many tokens whose batch grows; see
        ``batch_growth.compare_growth``.
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
    plans = dataclasses.replace(plans, total_steps=plans.best.cell.total_steps, regions=regions)
    return _with_growths(plans, found[0][1], family, say) if trade else plans


def _preferred_laws(targets: Targets, runs: FittedRuns) -> tuple[str, ...]:
    """Laws to compare; where batches are chosen among, those that have the batch size in them; families likewise."""
    batches, families = {target.tokens_per_step for target in targets.each}, len(runs.families) > 1
    chosen = len(batches) > 1 or any(isinstance(batch, BatchStages) for batch in batches)
    told = runs.model_size, runs.tokens_per_step, runs.family
    made = {name: make_law(name).spanning(*told) for name in PREFERRED_LAWS}
    able = {name: law for name, law in made.items() if law.spans_batches or not chosen}
    require(able, "tokens_per_step: to plan for a batch that changes the runs need several, or one that changes")
    return tuple(name for name, law in able.items() if law.families or not families)


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


def _with_growths(
    plans: Recommendation, by: Predictor, family: str | None, say: Callable[[str], None]
) -> Recommendation:
    """The plan with the best choice of each region beside runs whose batch grows, or notes why there are none."""
    growths, notes, (part, *_) = [], [], by.samples
    for region in plans.regions:
        choice = plans.choices[region.points[region.best].choice]
        cell, shape = choice.cell, choice.schedule
        if not isinstance(cell.tokens_per_step, float):
            continue
        say(f"comparing a falling rate with a growing batch, {region.budget.named}")
        plan: dict[str, Any] = {name: getattr(cell, name) for name in ("tokens_per_step", "peak_lr", "model_size")}
        plan |= {"decay": cell.decay, "final_lr": cell.final_lr, "anneal_ratio": plans.anneal_ratio}
        plan |= {"warmup_steps": shape.warmup_steps, "init_lr": shape.init_lr, "family": family}
        drawn = part.padded[: part.drawn] if by.is_checked and len(part.padded) else None
        try:
            found = compare_growth(
                part.fit, total_tokens=cell.tokens_per_step * cell.total_steps, samples=drawn, **plan
            )
            growths.append(found.moved(cell.loss))
            notes.append(MOVED)
        except ValueError as error:
            notes.append(f"{region.budget.named}: no growing batch is compared: {error}")
    return dataclasses.replace(plans, growths=tuple(growths), notes=(*plans.notes, *dict.fromkeys(notes)))


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
        notes=tuple(choice_notes(found, by, fit, joint=joint)),
    )
