"""The batch engine: the Huber objective of one lane, its closed-form starts, and the Optax loop over many lanes."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.laws import Law, Row
from fmjax.newton import Curvature, damped_newton

RESIDUALS = ("log", "raw")
MAX_ITERATIONS = 200
TOLERANCE = 1e-13
"""A lane has converged when an undamped step promises less than this share of the objective."""

STATUS = {
    "converged": "converged",
    "iteration-limit": "stopped at the iteration limit before the objective settled",
    "non-finite": "no start gave a finite objective: the data or options are outside what the law can describe",
    "undetermined": "the data do not determine every parameter",
    "at-bound": "a parameter lies at its bound",
}
"""What can be said of a fit, by status; lanes carry the index."""

CONVERGED, ITERATION_LIMIT, NON_FINITE, UNDETERMINED, AT_BOUND = range(5)


class Rows(NamedTuple):
    """All fitted rows of all runs, flat: what the objective needs of the data."""

    effects: Row
    """Effects by name, ``[rows]`` each."""
    loss: Any
    """``[rows]`` measured losses."""


class Objective(NamedTuple):
    """Options of the objective that may differ from lane to lane."""

    delta: Any = 1e-3
    """Residual at which the Huber loss turns from quadratic to linear."""
    over_weight: Any = 1.0
    """Weight of rows that the law over-estimates, relative to the others."""


class Lanes(NamedTuple):
    """What came of each lane (start) of a batch of minimisations."""

    params: Any
    """``[lanes, parameters]``."""
    objective: Any
    """``[lanes]``; infinite where no finite value was found."""
    status: Any
    """``[lanes]`` index into ``STATUS``."""
    iterations: Any
    """``[lanes]`` evaluations spent."""


# ---------------------------------------------------------------------------------------------------------------------
# Objective: one lane
# ---------------------------------------------------------------------------------------------------------------------


def linearise(law: Law, effects: Row, params: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Predicted losses ``[rows]`` and their derivatives ``[parameters, rows]``."""
    split = len(law.coefficients)
    coefficients, exponents = params[:split], params[split:]

    def basis(exponents: jax.Array) -> jax.Array:
        return jax.vmap(law.basis, in_axes=(0, None), out_axes=-1)(effects, exponents)

    phi, slopes = basis(exponents), jax.jacfwd(basis)(exponents)
    return coefficients @ phi, jnp.concatenate([phi, jnp.einsum("jrk,j->kr", slopes, coefficients)])


def _objective(
    law: Law, residual: str, rows: Rows, weights: jax.Array, options: Objective, params: jax.Array
) -> tuple[jax.Array, jax.Array, Curvature]:
    """Sum of weighted Huber losses with its gradient and curvatures."""
    predicted, slopes = linearise(law, rows.effects, params)
    predicted = jnp.where(weights > 0, predicted, rows.loss)  # what weighs nothing may not turn the sums into NaN
    if residual == "log":
        error = jnp.log(predicted) - jnp.log(rows.loss)  # NaN where predicted <= 0: never accepted
        slopes = slopes / predicted[None, :]
    else:
        error = predicted - rows.loss
    weights = weights * jnp.where(error > 0, options.over_weight, 1.0)
    size, delta = jnp.abs(error), options.delta
    quadratic = size <= delta
    # Huber: error^2/2 within delta, delta (|error| - delta/2) beyond
    huber = jnp.where(quadratic, 0.5 * error**2, delta * (size - 0.5 * delta))
    grad = slopes @ (weights * jnp.clip(error, -delta, delta))
    newton = (slopes * (weights * quadratic)[None, :]) @ slopes.T
    safe = jnp.where(quadratic, 1.0, delta / jnp.maximum(size, delta))
    majorizer = (slopes * (weights * safe)[None, :]) @ slopes.T
    return weights @ huber, grad, Curvature(newton, majorizer)


# ---------------------------------------------------------------------------------------------------------------------
# Starts: for given exponents the best coefficients of the relative error are linear least squares
# ---------------------------------------------------------------------------------------------------------------------


def bounds(law: Law) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds ``[parameters]``."""
    return np.array([p.lower for p in law.parameters]), np.array([p.upper for p in law.parameters])


def exponent_grid(law: Law) -> np.ndarray:
    """Every combination of the exponents' starts, ``[starts, exponents]``."""
    axes = np.meshgrid(*(e.starts for e in law.exponents), indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=-1)


def _closed_form(law: Law, rows: Rows, weights: jax.Array, exponents: jax.Array) -> jax.Array:
    """Parameter vector with the least-squares coefficients of predicted/loss - 1 for given exponents."""
    phi = jax.vmap(law.basis, in_axes=(0, None), out_axes=-1)(rows.effects, exponents)
    phi = phi / rows.loss[None, :]
    scale = jnp.sqrt(jnp.maximum(phi**2 @ weights, jnp.finfo(phi.dtype).tiny))
    phi = phi / scale[:, None]
    gram = (phi * weights[None, :]) @ phi.T + 1e-10 * jnp.eye(phi.shape[0], dtype=phi.dtype)
    coefficients = jnp.linalg.solve(gram, phi @ weights) / scale
    return jnp.concatenate([coefficients, exponents])


@partial(jax.jit, static_argnames=("residual", "keep"))
def closed_form_starts(
    law: Law, rows: Rows, weights: jax.Array, options: Objective, exponents: jax.Array, *, residual: str, keep: int
) -> jax.Array:
    """The best closed-form starts over a grid of exponents, for each set of row weights.

    Args:
      law: the law.
      rows: rows shared by all sets.
      weights: ``[sets, rows]`` weight of each row.
      options: as for ``minimise``.
      exponents: ``[grid, exponents]``.
      residual: as for ``minimise``.
      keep: starts to return for each set.

    Returns:
      ``[sets, keep, parameters]``, best first; fewer where the grid is smaller.
    """
    lower, upper = (jnp.asarray(b, rows.loss.dtype) for b in bounds(law))

    def start(weights: jax.Array, exponents: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = jnp.clip(_closed_form(law, rows, weights, exponents), lower, upper)
        return params, _objective(law, residual, rows, weights, options, params)[0]

    def starts(weights: jax.Array) -> jax.Array:
        params, values = jax.vmap(partial(start, weights))(exponents)
        order = jnp.argsort(jnp.where(jnp.isfinite(values), values, jnp.inf))
        return params[order[:keep]]

    return jax.lax.map(starts, weights)


# ---------------------------------------------------------------------------------------------------------------------
# The Optax loop over lanes
# ---------------------------------------------------------------------------------------------------------------------


BLOCK_ELEMENTS = 32_768
"""Lanes x rows worked on at once, so that a block stays in the cache."""


@partial(jax.jit, static_argnames=("residual", "max_iterations"))
def minimise(
    law: Law,
    rows: Rows,
    weights: jax.Array,
    starts: jax.Array,
    options: Objective = Objective(),  # noqa: B008 - an immutable record
    *,
    residual: str = "log",
    max_iterations: int = MAX_ITERATIONS,
) -> Lanes:
    """Minimises the objective from many starts at once; a lane that fails changes no other.

    Args:
      law: the law.
      rows: rows shared by all lanes.
      weights: ``[lanes, rows]`` weight of each row.
      starts: ``[lanes, parameters]``.
      options: Huber delta and over-estimate weight, shared by all lanes.
      residual: "log" for log predicted - log loss, "raw" for predicted - loss.
      max_iterations: evaluations after which a lane is given up.
    """
    lanes = starts.shape[0]
    size = max(1, min(lanes, BLOCK_ELEMENTS // weights.shape[1]))
    index = jnp.minimum(jnp.arange(-(-lanes // size) * size), lanes - 1).reshape(-1, size)
    solve = partial(_minimise_block, law, rows, options, residual, max_iterations)
    found = jax.lax.map(lambda i: solve(weights[i], starts[i]), index)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:lanes], found)


def _minimise_block(
    law: Law,
    rows: Rows,
    options: Objective,
    residual: str,
    max_iterations: int,
    weights: jax.Array,
    starts: jax.Array,
) -> Lanes:
    lower, upper = (jnp.asarray(b, starts.dtype) for b in bounds(law))
    tolerance = max(TOLERANCE, float(jnp.finfo(starts.dtype).eps) * 1e-1)
    newton = damped_newton(lower, upper)

    def advance(params: jax.Array, weights: jax.Array, state: Any, running: jax.Array) -> tuple[Any, Any, jax.Array]:
        value, grad, curvature = _objective(law, residual, rows, weights, options, params)
        step, after = newton.update(grad, state, params, value=value, curvature=curvature)
        state = jax.tree.map(lambda new, old: jnp.where(running, new, old), after, state)
        go_on = running & jnp.isfinite(state.value) & ~(state.decrement <= tolerance) & (state.damping < 1e12)
        return jnp.where(running, params + step, params), state, go_on

    def body(carry: Any) -> Any:
        params, state, running, iterations, count = carry
        iterations = iterations + running
        params, state, running = jax.vmap(advance)(params, weights, state, running)
        return params, state, running, iterations, count + 1

    lanes = starts.shape[0]
    first = (starts, jax.vmap(newton.init)(starts), jnp.ones(lanes, bool), jnp.zeros(lanes, jnp.int32), 0)
    _, state, running, iterations, _ = jax.lax.while_loop(
        lambda carry: jnp.any(carry[2]) & (carry[4] < max_iterations), body, first
    )
    status = jnp.where(running, ITERATION_LIMIT, CONVERGED)
    status = jnp.where(jnp.any((state.point <= lower[None]) | (state.point >= upper[None]), axis=-1), AT_BOUND, status)
    status = jnp.where(jnp.isfinite(state.value), status, NON_FINITE)
    return Lanes(state.point, state.value, status, iterations)


def best(found: Lanes) -> int:
    """Index of the lane of least objective."""
    return int(jnp.argmin(jnp.where(jnp.isnan(found.objective), jnp.inf, found.objective)))
