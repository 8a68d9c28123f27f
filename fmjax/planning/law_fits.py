"""Laws fitted to groups of runs and again without each, and how they compare on the runs left out."""

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from fmjax._checks import require
from fmjax._devices import beside
from fmjax.curves.loss_curve import LossCurve
from fmjax.fitting.fits import fit_groups, with_measured_runs
from fmjax.fitting.option_choice import OptionChoice, choose_options
from fmjax.fitting.options import FitOptions, precision
from fmjax.fitting.problem import Problem, arrange
from fmjax.fitting.records import FitResult, RunMetrics
from fmjax.fitting.resampling import held_out, leave_out_groups
from fmjax.fitting.sampling import Choices
from fmjax.laws import Law, make_law
from fmjax.planning.drift import MOST_DRIFT, drift_from_early_rows, drift_from_shorter
from fmjax.planning.unseen import Splits, Unseen

Peak = TypeVar("Peak", bound=float | None)
"""The peak rate of a group of runs; None where they have several."""

RUN_DRAWS = 2000
"""Draws of weights of the runs left out, by which laws are compared."""

LEAST_SHARE = 0.02
"""Share of the draws from which on a law has a part in the intervals."""


class LawFit(NamedTuple):
    """A law fitted to a group of a problem's runs."""

    problem: Problem
    choice: OptionChoice | None
    """The law's options, where they were chosen on the runs."""
    place: int
    """Which of the groups that were fitted together this is."""
    peak_lr: float | None
    group: np.ndarray
    result: FitResult
    held_out: tuple[RunMetrics, ...]
    drift: float
    unseen: tuple[Unseen | None, ...]
    """How far it errs at other model sizes and at other batch sizes than those fitted."""

    @property
    def errors(self) -> np.ndarray:
        """``[runs]`` error of each run left out, in percent; NaN where the others leave a parameter open."""
        return np.array([run.mape_percent for run in self.held_out], float)

    def choices(self, count: int, rng: np.random.Generator) -> Choices | None:
        """Options drawn by how likely they are, for bootstrap samples to be shared out among."""
        if self.choice is None:
            return None
        drawn, law = self.choice.draw(count, rng), self.problem.law
        laws = tuple(dataclasses.replace(law, **self.choice.options[k]) for k in drawn)
        position = np.zeros(self.problem.keep.shape, int)
        every = self.problem.row_index(np.ones(len(self.problem.curves), bool))
        position[every] = np.arange(every[0].size)
        own = position[self.problem.row_index(self.group)]
        effects = {key: value[np.ix_(drawn, own)] for key, value in self.choice.effects.items()}
        return Choices(laws, effects, self.choice.params[drawn, self.place][:, None])


class Weighed(NamedTuple):
    """The laws that may predict a group of runs best."""

    fits: tuple[LawFit, ...]
    """The best first; none where no fit can be used."""
    shares: tuple[float, ...]
    """How likely each predicts best, by the runs left out."""
    notes: tuple[str, ...]


def weigh(fits: Sequence[LawFit], rng: np.random.Generator) -> Weighed:
    """The share of draws in which each law predicts the runs left out best.

    A draw weighs the runs anew, by exponential weights. A law that could not predict some runs is compared with the
    others on those that all could predict. A law that could predict none comes last. Of runs of several batch sizes
    only laws with the batch size in them are compared, if there are any; of several families likewise.

    Reference: the Bayesian bootstrap, Rubin (1981).
    """
    usable = [fit for fit in fits if fit.result.ok]
    usable = [fit for fit in usable if fit.result.law.families] or usable
    usable = [fit for fit in usable if fit.result.law.spans_batches] or usable
    left = [fit for fit in fits if not fit.result.ok]
    notes = [f"{fit.result.law.name} was not used: {fit.result.message}" for fit in left] if usable else []
    judged = [fit for fit in usable if np.isfinite(fit.errors).any()] or usable
    if len(judged) < 2:
        return Weighed(tuple(judged), (1.0,) * len(judged), tuple(notes))
    errors = np.stack([fit.errors for fit in judged])
    both = np.isfinite(errors).all(axis=0)
    if not both.any():
        order = np.argsort([-np.isfinite(own).sum() for own in errors], kind="stable")
        said = "no run could be left out of the fits of all laws, so the law that predicts most of them is used"
        return Weighed((judged[order[0]],), (1.0,), (*notes, said))
    for fit, own in zip(judged, np.isfinite(errors), strict=True):
        if not own.all():
            name, count = fit.result.law.name, int(np.sum(~own))
            notes.append(f"without {count} of {own.size} runs {name} is not determined; laws were compared on the rest")
    draws = rng.exponential(size=(RUN_DRAWS, int(both.sum()))) @ errors[:, both].T
    shares = np.bincount(np.argmin(draws, axis=1), minlength=len(judged)) / RUN_DRAWS
    order = np.argsort(errors[:, both].mean(axis=1), kind="stable")
    kept = [i for i in order if i == order[0] or shares[i] >= LEAST_SHARE]
    total = sum(shares[i] for i in kept) or 1.0
    return Weighed(tuple(judged[i] for i in kept), tuple(float(shares[i] / total) for i in kept), tuple(notes))


# ---------------------------------------------------------------------------------------------------------------------
# Fits
# ---------------------------------------------------------------------------------------------------------------------


def law_fits(
    laws: Sequence[Law | str],
    curves: Sequence[LossCurve],
    groups: Mapping[Peak, np.ndarray],
    options: FitOptions,
    progress: Callable[[str], None],
) -> dict[Peak, list[LawFit]]:
    """Fits of every law to each group of runs ``[runs]``, by peak rate, or None for a group of several."""
    if not groups:
        return {}
    used = np.any(list(groups.values()), axis=0)
    curves = [curve for curve, is_used in zip(curves, used, strict=True) if is_used]
    masks = {peak: group[used] for peak, group in groups.items()}
    fits_of = partial(_fits_of, curves=curves, groups=masks, options=options)
    if options.client is None:
        each = _beside_each_other(fits_of, laws, progress)
    else:
        each = [fits_of(law, progress=progress) for law in laws]
    return {peak: [of_law[place] for of_law in each] for place, peak in enumerate(masks)}


def _beside_each_other(
    fits_of: Callable[..., list[LawFit]], laws: Sequence[Law | str], progress: Callable[[str], None]
) -> list[list[LawFit]]:
    """The fits of each law: XLA compiles what one needs while another is traced or fitted.

    Where one fails, or Ctrl-C is pressed, the others end at their next stage.
    """
    ended = threading.Event()

    def told(stage: str) -> None:
        require(not ended.is_set(), "the fits of another law have failed")
        progress(stage)

    others = [beside(partial(fits_of, law, progress=told)) for law in laws[1:]]
    try:
        return [fits_of(laws[0], progress=progress), *(other.result() for other in others)]
    finally:
        ended.set()


def _fits_of(
    law: Law | str,
    curves: Sequence[LossCurve],
    groups: Mapping[Peak, np.ndarray],
    options: FitOptions,
    progress: Callable[[str], None],
) -> list[LawFit]:
    """The fits of one law to each group."""
    found = []
    with precision(options):
        problem, choice = _problem(law, curves, groups, options, progress)
        for place, (peak, group) in enumerate(groups.items()):
            progress(f"fitting {problem.law.name} to {group.sum()} runs{at_peak(peak)}, and again without each")
            found.append(_fit(problem, choice, place, peak, group, options))
    return found


def at_peak(peak_lr: float | None) -> str:
    """Where a predictor is for, as words to add to a sentence."""
    return "" if peak_lr is None else f" at peak rate {peak_lr:g}"


def _fit(
    problem: Problem,
    choice: OptionChoice | None,
    place: int,
    peak_lr: float | None,
    group: np.ndarray,
    options: FitOptions,
) -> LawFit:
    without = leave_out_groups(group) if group.sum() > 1 else group[None][:0]
    lengths = problem.batch.at[:, -1] + 1
    shorter = group & (lengths < lengths[group].max())
    splits, any_shorter = Splits.of(problem, group), int(shorter.any())
    groups = np.concatenate([group[None], without, splits.without, shorter[None][:any_shorter]])
    fit, *others = fit_groups(problem, groups, options)
    errors = held_out(problem, group, others[: len(without)], without) if len(without) else ()
    drift = _drift(problem, group, fit, shorter, others[-1] if any_shorter else None)
    unseen = splits.errors(problem, group, others[len(without) : len(others) - any_shorter])
    measured = with_measured_runs(problem, fit, group)
    return LawFit(problem, choice, place, peak_lr, group, measured, errors, drift, unseen)


def _drift(problem: Problem, group: np.ndarray, fit: FitResult, shorter: np.ndarray, others: FitResult | None) -> float:
    """By what the runs can tell it best: a fit of the shorter ones, else the rows of their first half."""
    found = None if others is None else drift_from_shorter(problem, group, shorter, others)
    if found is None and fit.ok:
        found = drift_from_early_rows(problem, group, fit)
    return MOST_DRIFT if found is None else found


def _problem(
    law: Law | str,
    curves: Sequence[LossCurve],
    groups: Mapping[Peak, np.ndarray],
    options: FitOptions,
    progress: Callable[[str], None],
) -> tuple[Problem, OptionChoice | None]:
    """The runs under the law, suited to groups of one peak rate each, its effects' coefficients chosen if need be."""
    made = make_law(law) if isinstance(law, str) else law
    if None not in groups:
        made = made.suited_to({1.0})
    problem = arrange(made, curves, fitted=[True] * len(curves), options=options)
    if not (isinstance(law, str) and made.choices):
        return problem.under(problem.law), None
    progress(f"choosing the coefficients of {made.name}'s effects")
    choice = choose_options(problem, options, np.stack(list(groups.values())))
    return problem.under(dataclasses.replace(problem.law, **choice.best)), choice
