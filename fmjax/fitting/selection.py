"""``select``: the coefficients of a law's effects, chosen on the fitted runs alone."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from fmjax._checks import choose, require
from fmjax._devices import Pool, beside
from fmjax._json import Record, plain
from fmjax._names import CRITERIA
from fmjax.curves.loss_curve import LossCurve, bucket
from fmjax.fitting import lanes
from fmjax.fitting.fits import evaluate
from fmjax.fitting.objective import Objective, Rows, exponent_grid, value
from fmjax.fitting.options import ONE_FIT, FitOptions, fitting_verb, precision
from fmjax.fitting.problem import Problem, prepare, with_rows
from fmjax.fitting.records import FitResult
from fmjax.fitting.resampling import leave_one_out_groups
from fmjax.fitting.row_effects import LikeRuns, RowUpdates, as_counted, effects_of, in_batch_order, of_runs
from fmjax.fitting.starts import closed_form_starts
from fmjax.laws import Law, Option, Row, check_options

ROLLOUT = 0.6
"""Share of each run's updates that "rollout" fits."""

FLAT = 0.02
"""Candidates within this share of the best score count as equally good."""

STARTS_EACH = 3
"""Closed-form starts tried for each candidate."""

REFINE_STEPS = 30
"""L-BFGS iterations of the refinement."""


OptionValue: TypeAlias = float | str
"""A number, or how warmup counts."""

OptionValues: TypeAlias = dict[str, Any]
"""An ``OptionValue`` for each of some options of a law, by name."""


class TriedOptions(NamedTuple):
    """One choice of options and its score, lower is better."""

    options: OptionValues
    score: float


@dataclass(frozen=True)
class Selection(Record):
    """The law with the options chosen, its fit, and what else was tried."""

    fit: FitResult
    by: str
    score: float
    """Score of the chosen options, comparable with the candidates' where ``by`` is "objective"."""
    candidates: tuple[TriedOptions, ...]
    """Every candidate of the grid, best first."""
    flat: dict[str, tuple[OptionValue, OptionValue]]
    """Least and greatest value of each option among candidates within ``FLAT`` of the best."""

    @property
    def law(self) -> Law:
        """The law with the chosen options."""
        return self.fit.law

    def to_dict(self) -> dict[str, object]:
        """The selection as plain values for JSON, with the twenty best candidates."""
        best = [candidate._asdict() for candidate in self.candidates[:20]]
        found = {"by": self.by, "score": self.score, "flat": self.flat, "candidates": best}
        return plain({"law": self.law.name, "options": self.law.options(), **found, "fit": self.fit.to_dict()})


@fitting_verb
def select(
    law: Law | str,
    curves: Sequence[LossCurve],
    *,
    grid: Mapping[str, Sequence[OptionValue | None]] | None = None,
    by: str = "objective",
    refine: bool = True,
    progress: Callable[[int, int], None] | None = None,
    options: FitOptions = ONE_FIT,
) -> Selection:
    """Chooses the coefficients of a law's effects (such as beta1, beta2, eps, lambda, rho) on the runs to be fitted.

    Fits the law for every combination of the grid, all as lanes of one batch, and compares them by the objective of the
    fit, by runs left out one at a time (mean error), or by rollout: the rest of each run as predicted from its first
    part. The best combination is then refined by L-BFGS on the objective's profile, with gradients through the scan.

    Args:
      law: a law, or its name; its own options are the defaults of what the grid does not name.
      curves: the runs to fit; no other run is looked at.
      grid: values to try by option; by default the law's ``choices``. May name "warmup".
      by: one of ``CRITERIA``.
      refine: whether to refine the best combination; only for "objective".
      progress: called with (lanes done, lanes in all).
      options: of the fits.

    Raises:
      ValueError: as for ``fit``; an unknown option or criterion; no candidate that can be fitted.

    >>> import fmjax
    >>> found = select("lr-annealing", fmjax.datasets.demo_runs(), grid={"decay": (0.98, 0.99, 0.999)}, refine=False)
    >>> found.law.decay < 0.999
    True
    """
    fitted, _ = with_rows(curves, options)
    with precision(options):
        problem = prepare(law, fitted, fitted=[True] * len(fitted), options=options)
        ranked = rank(problem, options, grid=grid, by=by, progress=progress)
        best = dict(ranked[0].options)
        tried = [best]
        if refine and by == "objective" and best:
            tried.append(best | _refine(problem, best, options))
    laws = [dataclasses.replace(problem.law, **changes) for changes in tried]
    results = [evaluate(law, curves, train=curves, options=options).fit for law in laws]
    result = min(results, key=lambda result: result.objective)
    score = result.objective if by == "objective" else ranked[0].score
    return Selection(result, by, score, ranked, _flat(ranked))


def rank(
    problem: Problem,
    options: FitOptions,
    *,
    groups: ArrayLike | None = None,
    grid: Mapping[str, Sequence[OptionValue | None]] | None = None,
    by: str = "objective",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[TriedOptions, ...]:
    """Every combination of options with its score, best first; see ``select``.

    With ``groups[groups, runs]``, each group of runs is fitted by itself and the objectives are summed.
    """
    law = problem.law
    choose(by, CRITERIA, "criterion")
    combinations = option_grid(law, law.choices if grid is None else grid)
    groups = np.ones((1, len(problem.curves)), bool) if groups is None else np.asarray(groups, bool)
    parts = _by_warmup(law, combinations)
    scores = np.concatenate([_scores(problem, mode, part, groups, by, options, progress) for mode, part in parts])
    require(np.isfinite(scores).any(), f"no choice of options lets {law.name} be fitted to these runs")
    return tuple(TriedOptions(combinations[i], float(scores[i])) for i in np.argsort(scores, kind="stable"))


def option_grid(law: Law, grid: Mapping[str, Sequence[OptionValue | None]]) -> list[OptionValues]:
    """Every combination of the grid, those of one warmup mode together."""
    known = [option.name for option in law.tunable] + ["warmup"]
    for name, values in grid.items():
        choose(name, known, f"option of {law.name}")
        require(len(values) > 0, f"expected at least one value of {name} to try, found none")
    axes = {name: _axis(law, name, grid[name]) for name in sorted(grid, key=lambda name: name != "warmup")}
    combinations: list[OptionValues] = [
        dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())
    ]
    for options in combinations:
        check_options(dataclasses.replace(law, **options))
    return combinations


def _axis(law: Law, name: str, values: Sequence[OptionValue | None]) -> Sequence[OptionValue | None]:
    """Values of an option as numbers, warmup modes as they are."""
    if name == "warmup":
        return values
    none, said = law.option(name).none, f"{law.name}: {name}: expected numbers to try, got None"
    require(none is not None or None not in values, said)
    return [none if value is None else value for value in values]


def _by_warmup(law: Law, combinations: Sequence[OptionValues]) -> list[tuple[str, list[OptionValues]]]:
    grouped = itertools.groupby(combinations, key=lambda options: options.get("warmup", law.warmup))
    return [(mode, list(part)) for mode, part in grouped]


def _flat(ranked: Sequence[TriedOptions]) -> dict[str, tuple[OptionValue, OptionValue]]:
    near = [candidate.options for candidate in ranked if candidate.score <= ranked[0].score * (1 + FLAT)]
    return {name: (min(o[name] for o in near), max(o[name] for o in near)) for name in ranked[0].options}


# ---------------------------------------------------------------------------------------------------------------------
# Candidates as lanes
# ---------------------------------------------------------------------------------------------------------------------


class CandidateFits(NamedTuple):
    """The fits of each choice of options to each group of rows."""

    rows: Rows
    """One set for each choice."""
    objective: np.ndarray
    """``[choices, groups]``; infinite where a fit fails."""
    params: np.ndarray
    """``[choices, groups, parameters]``."""


def fit_candidates(
    problem: Problem,
    warmup: str,
    combinations: Sequence[OptionValues],
    weights: np.ndarray,
    options: FitOptions,
    progress: Callable[[int, int], None] | None = None,
) -> CandidateFits:
    """Fits every choice of options to rows of weights ``[groups, rows]``, all as lanes of one batch."""
    rows = _rows_of_candidates(problem, warmup, combinations)
    objective = Objective(options.delta, options.over_weight)
    law, count = _with(problem.law, combinations[0]), len(combinations)  # of the structure of all of them
    fitted, sets, own = _of_groups(rows, weights)
    tiled = np.tile(own, (count, 1))
    keep, grid = min(STARTS_EACH, options.starts), exponent_grid(law)
    each = min(keep, len(grid))
    shape = len(sets) * each, len(law.parameters)
    jobs = lanes.Jobs(np.repeat(sets, each), lambda i: tiled[i // each], np.zeros(shape, rows.loss.dtype))
    ready = beside(lambda: lanes.compile_fits(law, fitted, jobs, objective, residual=options.residual))
    starts = closed_form_starts(law, fitted, sets, tiled, objective, grid, residual=options.residual, keep=keep)
    jobs = jobs._replace(start=starts.reshape(shape))
    ready.result()
    told: dict[str, Any] = {"residual": options.residual, "progress": progress, "client": options.client}
    found = lanes.minimise(law, fitted, jobs, objective, **told)
    values = np.where(found.status == lanes.NON_FINITE, np.inf, found.objective).reshape(-1, each)
    best, shape = values.argmin(axis=1), (count, len(weights))
    params = found.params.reshape(len(sets), each, -1)[np.arange(len(sets)), best]
    return CandidateFits(rows, values.min(axis=1).reshape(shape), params.reshape(*shape, -1))


def _of_groups(rows: Rows, weights: np.ndarray) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Sets of rows for each choice and each group of ``weights[groups, rows]``, which they are, and their weights.

    Where no row is of two groups, each group has its own rows alone; else all groups share those of a choice.
    """
    choices, used = len(rows.loss), weights > 0
    if len(weights) == 1 or used.sum(axis=0).max() > 1:
        return rows, np.repeat(np.arange(choices), len(weights)), weights
    own = [np.flatnonzero(one) for one in used]
    width = bucket(max(index.size for index in own))
    index = np.stack([np.pad(one, (0, width - one.size), mode="edge") for one in own])
    real = np.arange(width) < np.array([[one.size] for one in own])
    cut = jax.tree.map(lambda x: x[:, index].reshape(-1, width, *x.shape[2:]), rows)
    return cut, np.arange(choices * len(weights)), np.where(real, np.take_along_axis(weights, index, axis=1), 0.0)


def _scores(
    problem: Problem,
    warmup: str,
    combinations: Sequence[OptionValues],
    groups: np.ndarray,
    by: str,
    options: FitOptions,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """Score of each combination; infinite where a fit fails."""
    weights, tested = _weights(problem, groups, by)
    found = fit_candidates(problem, warmup, combinations, weights, options, progress)
    if by == "objective":
        return found.objective.sum(axis=1)
    sets, params = np.repeat(np.arange(len(combinations)), len(weights)), found.params
    errors = np.asarray(_relative_errors(problem.law, found.rows, sets, params.reshape(len(sets), -1)))
    run = problem.run_of_row(np.ones(len(problem.curves), bool))
    held_out = [_mean_by_run(error, run, tested[k % len(weights)]) for k, error in enumerate(errors)]
    return np.mean(np.reshape(held_out, (len(combinations), len(weights))), axis=1)


def _weights(problem: Problem, groups: np.ndarray, by: str) -> tuple[np.ndarray, np.ndarray]:
    """Row weights of each fit a criterion needs, ``[fits, rows]``, and the rows it is tested on."""
    everything = np.ones(len(problem.curves), bool)
    run = problem.run_of_row(everything)
    if by == "objective":
        return groups[:, run] * problem.row_weights(everything), groups[:, run]
    if by == "leave-one-out":
        require(len(problem.curves) > 1, "leaving one run out needs at least two runs")
        fitted = leave_one_out_groups(everything)[:, run]
    else:
        ends = problem.batch.at[:, -1:]
        fitted = (problem.batch.at < ROLLOUT * ends)[problem.row_index(everything)][None]
    weights = problem.row_weights(everything)
    return fitted * weights, ~fitted & (weights > 0)


def _mean_by_run(errors: np.ndarray, run: np.ndarray, tested: np.ndarray) -> float:
    """100 x the mean over runs of the mean relative error of their tested rows."""
    counts = np.bincount(run[tested])
    sums = np.bincount(run[tested], weights=errors[tested])
    return float(100 * np.mean(sums[counts > 0] / counts[counts > 0]))


@jax.jit
def _relative_errors(law: Law, rows: Rows, sets: jax.Array, params: jax.Array) -> jax.Array:
    def errors(lane: tuple[jax.Array, jax.Array]) -> jax.Array:
        of_lane = rows.of(lane[0])
        return jnp.abs(law.predict(of_lane.effects, lane[1]) / of_lane.loss - 1)

    return jax.lax.map(errors, (sets, params))


def _rows_of_candidates(problem: Problem, warmup: str, combinations: Sequence[OptionValues]) -> Rows:
    """One set of rows for each combination of options."""
    index = problem.row_index(np.ones(len(problem.curves), bool))
    updates, laws = RowUpdates.of(problem.law, problem.batch, warmup), [_with(problem.law, o) for o in combinations]

    def effects_under(law: Law) -> dict[str, np.ndarray]:
        return {key: value[index] for key, value in updates.effects(law).items()}

    with Pool(x64=jnp.result_type(float) == jnp.float64) as pool:
        waiting = [pool.submit(partial(effects_under, law)) for law in laws]
        found = [one.result() for one in waiting]
    effects = {key: np.stack([each[key] for each in found]) for key in found[0]}
    kept = {key: np.tile(x[index], (len(laws), 1)) for key, x in of_runs(problem.law, problem.batch).items()}
    return Rows(effects | kept, np.tile(problem.batch.loss[index], (len(laws), 1)))


def _with(law: Law, options: OptionValues) -> Law:
    return dataclasses.replace(law, **{name: value for name, value in options.items() if name != "warmup"})


# ---------------------------------------------------------------------------------------------------------------------
# Refinement: L-BFGS on the profile of the objective
# ---------------------------------------------------------------------------------------------------------------------


def _refine(problem: Problem, best: OptionValues, options: FitOptions) -> dict[str, float]:
    """Options that lower the objective's profile further, started from the best of the grid."""
    names = [name for name in best if name != "warmup"]
    law = dataclasses.replace(problem.law, **best)
    parts, places = RowUpdates.of(law, problem.batch, law.warmup)
    start = np.array([law.option(name).scale.place(best[name]) for name in names])
    objective = Objective(options.delta, options.over_weight)
    keep = problem.keep
    sizes = {key: value[keep] for key, value in of_runs(problem.law, problem.batch).items()}
    data = (problem.batch.loss[keep], problem.weight[keep], places[keep], sizes)
    z = _descend(start, as_counted(law), parts, *data, objective, tuple(names), options.residual)
    return {name: float(_value(law.option(name), place)) for name, place in zip(names, np.asarray(z), strict=True)}


def _value(option: Option, place: jax.Array) -> jax.Array:
    """The value of an option at a place of its line, kept within its range."""
    return jnp.clip(option.scale.value(place), option.lower, option.upper)


@partial(jax.jit, static_argnames=("names", "residual"))
def _descend(
    start: jax.Array,
    law: Law,
    parts: tuple[LikeRuns, ...],
    loss: jax.Array,
    weights: jax.Array,
    places: jax.Array,
    sizes: Row,
    objective: Objective,
    names: tuple[str, ...],
    residual: str,
) -> jax.Array:
    """Minimises log min_params objective(params, options) over free options by L-BFGS."""

    def rows_at(z: jax.Array) -> Rows:
        here = _with(law, {name: _value(law.option(name), z[i]) for i, name in enumerate(names)})
        effects = in_batch_order([effects_of(here, part) for part in parts], places)
        return Rows({**effects, **sizes}, loss)

    def profile(z: jax.Array) -> jax.Array:
        rows = rows_at(z)
        params = lanes.solve_one(law, jax.lax.stop_gradient(rows), weights, objective, residual=residual)
        return jnp.log(value(law, residual, rows, weights, objective, jax.lax.stop_gradient(params)))

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(profile)

    def step(carry: Any, _: Any) -> tuple[Any, None]:
        z, state = carry
        value, grad = value_and_grad(z, state=state)
        updates, state = solver.update(grad, state, z, value=value, grad=grad, value_fn=profile)
        after = optax.apply_updates(z, updates)
        return (jnp.where(jnp.all(jnp.isfinite(after)), after, z), state), None

    return jax.lax.scan(step, (start, solver.init(start)), length=REFINE_STEPS)[0][0]
