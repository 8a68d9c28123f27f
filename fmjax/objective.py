"""The objective of one lane: weighted Huber losses of a law's residuals, their slopes, and exact starts."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fmjax.laws import Law, Row
from fmjax.newton import Curvature

RESIDUALS = ("log", "raw")
"""Residuals by name: log predicted - log loss, or predicted - loss."""


class Rows(NamedTuple):
    """What the objective needs of the data, flat; a lane works on one of the sets.

    Sets differ in the runs behind them or in the coefficients of the effects; all have the same number of rows.
    """

    effects: Row
    """Effects by name, ``[sets, rows]`` each, or ``[1, rows]`` where all sets share them."""
    loss: Any
    """``[sets, rows]`` measured losses, or ``[1, rows]``."""

    def of(self, index: Any) -> "Rows":
        """The rows ``[rows]`` of one set."""
        return jax.tree.map(lambda x: x[0] if len(x) == 1 else x[index], self)


class Objective(NamedTuple):
    """Options of the objective that may differ from lane to lane."""

    delta: Any = 1e-3
    """Residual at which the Huber loss turns from quadratic to linear."""
    over_weight: Any = 1.0
    """Weight of rows that the law over-estimates, relative to the others."""


def linearise(law: Law, effects: Row, params: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Predicted losses ``[rows]`` and their derivatives ``[parameters, rows]``."""
    split = len(law.coefficients)
    coefficients, exponents = params[:split], params[split:]

    def basis(exponents: jax.Array) -> jax.Array:
        return jax.vmap(law.basis, in_axes=(0, None), out_axes=-1)(effects, exponents)

    phi, slopes = basis(exponents), jax.jacfwd(basis)(exponents)
    return coefficients @ phi, jnp.concatenate([phi, jnp.einsum("jrk,j->kr", slopes, coefficients)])


def value(law: Law, residual: str, rows: Rows, weights: jax.Array, options: Objective, params: jax.Array) -> jax.Array:
    """Sum of weighted Huber losses, differentiable in everything."""
    predicted = law.predict(rows.effects, params)
    error = jnp.log(predicted) - jnp.log(rows.loss) if residual == "log" else predicted - rows.loss
    weights = weights * jnp.where(error > 0, options.over_weight, 1.0)
    return weights @ optax.losses.huber_loss(error, delta=options.delta)


def model(
    law: Law, residual: str, rows: Rows, weights: jax.Array, options: Objective, params: jax.Array
) -> tuple[jax.Array, jax.Array, Curvature]:
    """Sum of weighted Huber losses with its gradient and curvatures."""
    predicted, slopes = linearise(law, rows.effects, params)
    # what weighs nothing may not turn the sums into NaN
    loss, predicted = (jnp.where(weights > 0, x, 1.0) for x in (rows.loss, predicted))
    if residual == "log":
        error = jnp.log(predicted) - jnp.log(loss)  # NaN where predicted <= 0: never accepted
        slopes = slopes / predicted[None, :]
    else:
        error = predicted - loss
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
    phi = phi / jnp.where(weights > 0, rows.loss, 1.0)[None, :]
    scale = jnp.sqrt(jnp.maximum(phi**2 @ weights, jnp.finfo(phi.dtype).tiny))
    phi = phi / scale[:, None]
    gram = (phi * weights[None, :]) @ phi.T + 1e-10 * jnp.eye(phi.shape[0], dtype=phi.dtype)
    coefficients = jnp.linalg.solve(gram, phi @ weights) / scale
    return jnp.concatenate([coefficients, exponents])


@partial(jax.jit, static_argnames=("residual", "keep"))
def closed_form_starts(
    law: Law,
    rows: Rows,
    sets: jax.Array,
    weights: jax.Array,
    objective: Objective,
    exponents: jax.Array,
    *,
    residual: str,
    keep: int,
) -> jax.Array:
    """The best closed-form starts over a grid of exponents, for each problem (a set of rows with weights).

    Args:
      law: the law.
      rows: sets of rows.
      sets: ``[problems]`` which set.
      weights: ``[problems, rows]`` weight of each row.
      objective: as for ``minimise``.
      exponents: ``[grid, exponents]``.
      residual: as for ``minimise``.
      keep: starts to return for each problem.

    Returns:
      ``[problems, keep, parameters]``, best first; fewer where the grid is smaller.
    """
    lower, upper = (jnp.asarray(b, rows.loss.dtype) for b in bounds(law))

    def start(rows: Rows, weights: jax.Array, exponents: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = jnp.clip(_closed_form(law, rows, weights, exponents), lower, upper)
        return params, model(law, residual, rows, weights, objective, params)[0]

    def starts(problem: tuple[jax.Array, jax.Array]) -> jax.Array:
        index, weights = problem
        params, values = jax.vmap(partial(start, rows.of(index), weights))(exponents)
        order = jnp.argsort(jnp.where(jnp.isfinite(values), values, jnp.inf))
        return params[order[:keep]]

    return jax.lax.map(starts, (sets, weights))
