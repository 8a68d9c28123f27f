"""A choice of a law's options on runs: finer values near the best one, and what the rows leave open of it."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from fmjax._checks import require
from fmjax.fitting.objective import Rows
from fmjax.fitting.options import FitOptions
from fmjax.fitting.problem import Problem, predict_rows
from fmjax.fitting.selection import fit_candidates, option_grid
from fmjax.laws import Law, Option, Row

MOST_FINER = 64
"""Choices tried at once near the best one, at most."""

FINER_ROUNDS = 2
"""Rounds of finer values."""

SPREAD = 2.5
"""Standard deviations to each side of the best value that finer values are tried within."""


class OptionChoice(NamedTuple):
    """Options chosen on runs, and others that are about as likely."""

    options: tuple[dict[str, Any], ...]
    """Choices tried last, at even steps in each option's own scale."""
    params: np.ndarray
    """``[choices, groups, parameters]`` of the fits under each."""
    effects: Row
    """Effects at the rows of all runs, ``[choices, rows]`` each."""
    log_likelihood: np.ndarray
    """``[choices]`` up to a constant."""

    @property
    def best(self) -> dict[str, Any]:
        """The likeliest options."""
        return self.options[int(np.argmax(self.log_likelihood))]

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """``[count]`` choices drawn by their likelihood, evenly: each as often as it should, to within one."""
        share = np.exp(self.log_likelihood - self.log_likelihood.max())
        places = (np.arange(count) + rng.uniform()) / count
        return np.searchsorted(np.cumsum(share / share.sum()), places).clip(max=share.size - 1)


def choose_options(problem: Problem, options: FitOptions, groups: np.ndarray) -> OptionChoice:
    r"""Chooses a law's options on the runs by the objective, summed over groups of them, ``groups[groups, runs]``.

    First the values that the law declares are tried, then finer ones about the best. How far about it the rows say: a
    rise of the objective by $\Delta J$ counts as a fall of the log likelihood by
    $\Delta J\,\overline{\psi'}/\overline{\psi^2}\,(1 - \phi)/(1 + \phi)$, with $\psi$ the derivative of the Huber loss
    of a residual and $\phi$ the correlation of successive ones.

    Raises:
      ValueError: no choice lets the law be fitted.

    Reference: tests by M-estimators, Ronchetti (1982); weighted likelihood of correlated rows, Newey and West (1987).
    """
    law, everything = problem.law, np.ones(len(problem.curves), bool)
    weights = groups[:, problem.run_of_row(everything)] * problem.row_weights(everything)
    axes = {name: np.array(sorted(values), float) for name, values in law.choices.items()}
    for round_ in range(FINER_ROUNDS + 1):
        combinations = option_grid(law, {name: values.tolist() for name, values in axes.items()})
        found = fit_candidates(problem, law.warmup, combinations, weights, options)
        scores = found.objective.sum(axis=1)
        require(np.isfinite(scores).any(), f"no choice of options lets {law.name} be fitted to these runs")
        best = int(np.argmin(scores))
        tried = problem._replace(law=dataclasses.replace(law, **combinations[best]))
        scale = _likelihood_scale(tried, found.rows.of(best), found.params[best], weights, options.delta)
        if round_ < FINER_ROUNDS:
            table = scores.reshape([len(values) for values in axes.values()])
            axes = _finer(law, axes, table, scale, first=round_ == 0)
    return OptionChoice(tuple(combinations), found.params, found.rows.effects, -scale * scores)


def _likelihood_scale(problem: Problem, rows: Rows, params: np.ndarray, weights: np.ndarray, delta: float) -> float:
    """Log likelihood per unit of the objective, from the residuals of the best fits of the groups.

    Fits bring some rows within delta: about one for each parameter, as they would fit as many exactly if the Huber loss
    were linear throughout. They also lower the correlation of what they leave over. An estimated mean does so by
    (1 + 3 phi) / rows (Kendall, 1954), each parameter here by about half as much (measured on simulated runs).
    """
    run = problem.run_of_row(np.ones(len(problem.curves), bool))
    near, squares, products, before, count = 0.0, 0.0, 0.0, 0.0, 0
    for vector, weight in zip(params, weights, strict=True):
        error = np.log(predict_rows(problem.law, rows.effects, vector)) - np.log(np.asarray(rows.loss))
        force, used = np.clip(error, -delta, delta), weight > 0
        pair = used[1:] & used[:-1] & (run[1:] == run[:-1])
        near, squares = near + np.sum(np.abs(error[used]) < delta), squares + np.sum(force[used] ** 2)
        products, before = products + np.sum((force[1:] * force[:-1])[pair]), before + np.sum(force[:-1][pair] ** 2)
        count += int(used.sum())
    phi = products / max(before, 1e-300)
    phi = float(np.clip(phi + (1 + 3 * phi) * params.size / (2 * count), 0.0, 0.95))
    stiffness = max(near - params.size, 1.0)
    return float(stiffness / max(squares, 1e-300) * (1 - phi) / (1 + phi))


def _finer(
    law: Law, axes: dict[str, np.ndarray], scores: np.ndarray, scale: float, *, first: bool
) -> dict[str, np.ndarray]:
    """Values of each option near the best ones, as many in all as were tried, and no more than ``MOST_FINER``."""
    best, count = np.unravel_index(np.argmin(scores), scores.shape), scores.size
    each = max(3, int(MOST_FINER ** (1 / len(axes))))
    finer = {}
    for axis, (name, values) in enumerate(axes.items()):
        profile = scores[tuple(slice(None) if other == axis else best[other] for other in range(len(axes)))]
        size = values.size if count <= MOST_FINER else min(values.size, each)
        finer[name] = _near(law.option(name), values, profile, scale, size, first=first)
    return finer


def _near(
    option: Option, values: np.ndarray, profile: np.ndarray, scale: float, size: int, *, first: bool
) -> np.ndarray:
    """Values about the least of a profile of the objective: between its neighbours, or as far as is likely."""
    place = np.array([option.scale.place(value) for value in values])
    order = np.argsort(place)
    place, profile = place[order], profile[order]
    if place.size < 3 or np.ptp(place) == 0:
        return values
    k = int(np.clip(np.argmin(profile), 1, place.size - 2))
    middle, deviation = _vertex(place[k - 1 : k + 2], profile[k - 1 : k + 2], scale)
    reach = max(SPREAD * deviation, 0.0 if first else float(np.diff(place)[k - 1 : k + 1].max()))
    low, high = middle - reach, middle + reach
    if first:
        low, high = min(low, place[k - 1]), max(high, place[k + 1])
    ends = sorted(option.scale.place(value) for value in (option.lower, option.upper))
    found = np.linspace(max(low, ends[0]), min(high, ends[1]), size)
    return np.array([float(option.scale.value(place)) for place in found])


def _vertex(place: np.ndarray, profile: np.ndarray, scale: float) -> tuple[float, float]:
    """Place of the least value of the parabola through three points, and its standard deviation by the likelihood."""
    before, after = np.diff(place)
    if not np.isfinite(profile).all():
        return float(place[np.argmin(profile)]), float(max(before, after))
    fall, rise = np.diff(profile) / (before, after)
    bend = 2 * (rise - fall) / (before + after)
    if bend <= 0:
        return float(place[np.argmin(profile)]), float(np.ptp(place))
    slope = (fall * after + rise * before) / (before + after)
    middle = float(np.clip(place[1] - slope / bend, place[0], place[2]))
    return middle, float(1 / np.sqrt(max(scale * bend, 1e-300)))
