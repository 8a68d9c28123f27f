"""Closed-form starts of many problems, some at a time."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from fmjax._devices import Pool, once_compiled
from fmjax._types import Array
from fmjax.fitting.chunk_rows import are_narrow, cut_by_set, handed, widened, widened_weights
from fmjax.fitting.objective import Objective, Rows, starts_of_one
from fmjax.laws import Law

PROBLEMS = 16
"""Problems whose starts are found in one call, at most."""


@partial(jax.jit, static_argnames="residual")
def _starts_of_some(
    law: Law,
    rows: Rows,
    weights: jax.Array,
    objective: Objective,
    exponents: jax.Array,
    count: jax.Array,
    *,
    residual: str,
) -> jax.Array:
    """``[problems, grid, parameters]`` of the first ``count`` problems."""

    def add(problem: jax.Array, found: jax.Array) -> jax.Array:
        own = objective._replace(prior=jax.tree.map(lambda x: x[problem], objective.prior))
        starts = starts_of_one(law, rows.of(problem), weights[problem], own, exponents, residual=residual)
        return found.at[problem].set(starts)

    shape = len(weights), len(exponents), len(law.parameters)
    return jax.lax.fori_loop(0, count, add, jnp.zeros(shape, weights.dtype))


def closed_form_starts(
    law: Law,
    rows: Rows,
    sets: ArrayLike,
    weights: Array,
    objective: Objective,
    exponents: np.ndarray,
    *,
    residual: str,
    keep: int,
) -> np.ndarray:
    """The best closed-form starts over a grid of exponents, for each problem (a set of rows with weights).

    Problems are computed some at a time, on all cores, so that their number and that of the sets are in no shape: one
    program for all fits of a law.

    Args:
      law: the law.
      rows: sets of rows.
      sets: ``[problems]`` which set.
      weights: ``[problems, rows]`` weight of each row.
      objective: as for ``minimise``; a prior has one centre and stiffness a problem.
      exponents: ``[grid, exponents]``.
      residual: as for ``minimise``.
      keep: starts to return for each problem.

    Returns:
      ``[problems, keep, parameters]``, best first; fewer where the grid is smaller.
    """
    rows, weights, sets, each = widened(rows), widened_weights(weights), np.asarray(sets), are_narrow(rows)

    def starts(problems: np.ndarray) -> np.ndarray:
        padded = np.resize(problems, PROBLEMS)
        own = objective._replace(prior=jax.tree.map(lambda x: x[padded], objective.prior))
        given = handed(rows, sets[padded], sets[padded], each=each), np.asarray(weights)[padded], own, exponents
        found = once_compiled(_starts_of_some, law, *given, np.int32(problems.size), residual=residual)
        return np.asarray(found)[: problems.size]

    with Pool(x64=jnp.result_type(float) == jnp.float64) as pool:
        most = min(PROBLEMS, -(-len(weights) // pool.size))
        parts = cut_by_set(np.arange(len(weights)), np.zeros_like(sets) if each else sets, most)
        waiting = [pool.submit(partial(starts, problems)) for problems in parts]
        found = np.concatenate([one.result() for one in waiting])
    return found[np.argsort(np.concatenate(parts)), :keep]
