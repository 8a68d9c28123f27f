r"""How well a fit foresees anneals, where its runs and a prior leave single parameters open.

Runs with one short anneal show how much annealing gains there. They hardly show which of the law's terms gains it:
L0 and A against terms of the mixture. Those parameters are open, and yet the loss of another anneal of such a run may
be well determined. Its spread is that of a linear law about the fit,

    var(log loss) = s^T (sum of w s_r s_r^T / scale + P)^-1 s

with slopes s of the anneal, slopes s_r and weights w of rows, and P the precisions of the priors. Coefficients have
one here by their share of the loss: terms of the mixture are 0 give or take ``MIXTURE_SHARE`` of it, others less than
all of it. Bounds at zero are left aside, which widens the spread.
"""

from collections.abc import Sequence

import numpy as np

from fmjax.curves.loss_curve import LossCurve, pad
from fmjax.fitting.evidence import Evidence, slopes_of_log
from fmjax.fitting.priors import LawPrior
from fmjax.fitting.problem import Problem
from fmjax.fitting.records import FitResult
from fmjax.fitting.row_effects import batch_effects
from fmjax.laws import Law
from fmjax.schedules.kinds import WSD, Cosine

MIXTURE_SHARE = 0.03
"""Share of the loss that a term of a mixture is, as a standard deviation: in fits of nine public runs each of 25M and
100M parameters terms were up to 0.024."""

FORESEEN = 0.04
"""Standard deviation of the log loss of an anneal up to which a fit foresees it: runs at constant rates leave 0.06
and more, runs with one short anneal 0.015 to 0.03."""


def anneals_of(curves: Sequence[LossCurve]) -> list[LossCurve]:
    """A linear anneal and a cosine, to zero, of the longest of these runs."""
    longest = max(curves, key=lambda curve: int(curve.schedule.total_steps))
    steps, warmup = int(longest.schedule.total_steps), int(longest.schedule.warmup_steps)
    warmup = min(warmup, steps // 2)
    shapes = {
        "wsd": WSD(longest.peak_lr, steps, 0.2, warmup_steps=warmup),
        "cosine": Cosine(longest.peak_lr, steps, warmup_steps=warmup),
    }
    told = (longest.model_size, longest.tokens_per_step)
    return [LossCurve(name, [steps - 1], [1.0], schedule, *told) for name, schedule in shapes.items()]


def anneal_spread(problem: Problem, group: np.ndarray, fit: FitResult) -> float:
    """Greatest standard deviation of the log final loss of ``anneals_of`` a group of runs ``[runs]``, under its fit."""
    law, vector = problem.law, fit.lanes.best_params
    runs = [curve for curve, is_in in zip(problem.curves, group, strict=True) if is_in]
    ends = {name: values[:, -1] for name, values in batch_effects(law, pad(anneals_of(runs))).items()}
    weights = problem.row_weights(group)
    slopes = slopes_of_log(law, Evidence.of(problem, group).effects, vector)
    stiffness = LawPrior.of_fit(law, fit.prior).pulling(np.ones(1)).stiffness[0]
    root = _root(law, slopes, weights / fit.scale, stiffness)
    return float(np.sqrt(np.sum((slopes_of_log(law, ends, vector).T @ root) ** 2, axis=1).max()))


def spread_coefficients(
    problem: Problem, group: np.ndarray, fit: FitResult, params: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Samples ``[samples, parameters]`` whose coefficients are spread by what runs and prior leave open of them.

    Fits of samples all have their terms at the same bounds, and so hide most of it. Coefficients are drawn about them
    as those of a linear law, given the sample's exponents. They may be below zero, where their sum with others is not.
    """
    law, split = problem.law, len(problem.law.coefficients)
    effects, weights = problem.rows(group).of(0).effects, problem.row_weights(group) / fit.scale
    found = params.copy()
    for own in found:
        slopes = slopes_of_log(law, effects, own)[:split]
        own[:split] += _root(law, slopes, weights) @ rng.standard_normal(split)
    return found


def _root(law: Law, slopes: np.ndarray, weights: np.ndarray, stiffness: np.ndarray | None = None) -> np.ndarray:
    """R with R R^T the covariance of parameters, by slopes ``[parameters, rows]`` and precisions of exponents."""
    slopes, weights = slopes[:, weights > 0], weights[weights > 0]
    share = np.array([MIXTURE_SHARE if one.mixture else 1.0 for one in law.coefficients])
    precision = (np.max(np.abs(slopes[: share.size]), axis=1) / share) ** 2
    precision = precision if stiffness is None else np.concatenate([precision, stiffness])
    told = (slopes * weights) @ slopes.T + np.diag(precision)
    size = np.sqrt(np.maximum(np.diag(told), np.finfo(float).tiny))
    values, directions = np.linalg.eigh(told / np.outer(size, size))
    return directions / np.sqrt(np.maximum(values, 1e-12)) / size[:, None]
