"""The objective of one lane: weighted Huber losses of a law's residuals, their slopes, and exact starts."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fmjax._types import Array, Real
from fmjax.fitting.newton import Curvature, bounded_step, solve
from fmjax.laws import Law, Row


class Rows(NamedTuple):
    """What the objective needs of the data, flat; a lane works on one of the sets.

    Sets differ in the runs behind them or in the coefficients of the effects; all have the same number of rows.
    """

    effects: Row
    """Effects by name, ``[sets, rows]`` each, or ``[1, rows]`` where all sets share them."""
    loss: Any
    """``[sets, rows]`` measured losses, or ``[1, rows]``."""

    def of(self, index: Real) -> "Rows":
        """The rows ``[rows]`` of one set."""
        return jax.tree.map(lambda x: x[0] if len(x) == 1 else x[index], self)


class PriorPull(NamedTuple):
    """Parabolas that hold exponents near what is believed of them, in units of the objective."""

    centre: Array
    """``[exponents]``, or ``[lanes, exponents]`` where lanes differ."""
    stiffness: Any
    """Second derivatives, likewise; 0 for an exponent without a prior."""

    def cost(self, exponents: Array) -> Array:
        """What the parabolas add to the objective."""
        return 0.5 * (self.stiffness * (exponents - self.centre) ** 2).sum(axis=-1)

    def each(self, lanes: int) -> "PriorPull":
        """One of each lane."""
        return PriorPull(*(np.broadcast_to(x, (lanes, np.shape(x)[-1])) for x in self))


class Objective(NamedTuple):
    """Options of the objective that may differ from lane to lane."""

    delta: Real = 1e-3
    """Residual at which the Huber loss turns from quadratic to linear."""
    over_weight: Real = 1.0
    """Weight of rows that the law over-estimates, relative to the others."""
    prior: PriorPull | None = None
    """Pull of the priors on exponents."""

    def prior_cost(self, exponents: Array) -> Real:
        """What the priors add to the objective."""
        return 0.0 if self.prior is None else self.prior.cost(exponents)


def linearise(law: Law, effects: Row, params: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Predicted losses ``[rows]`` and their derivatives ``[parameters, rows]``."""
    split = len(law.coefficients)
    phi, slopes = _basis(law, effects, params[split:])
    return _tangent(phi, slopes, params[:split])


def _basis(law: Law, effects: Row, exponents: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The basis ``[coefficients, rows]`` and its derivatives ``[coefficients, rows, exponents]``."""

    def basis(exponents: jax.Array) -> tuple[jax.Array, jax.Array]:
        phi = jax.vmap(law.basis, in_axes=(0, None), out_axes=-1)(effects, exponents)
        return phi, phi

    slopes, phi = jax.jacfwd(basis, has_aux=True)(exponents)
    return phi, slopes


def _tangent(phi: jax.Array, slopes: jax.Array, coefficients: jax.Array) -> tuple[jax.Array, jax.Array]:
    return coefficients @ phi, jnp.concatenate([phi, jnp.einsum("jrk,j->kr", slopes, coefficients)])


def value(law: Law, residual: str, rows: Rows, weights: jax.Array, options: Objective, params: jax.Array) -> jax.Array:
    """Sum of weighted Huber losses and of the priors' pull, differentiable in everything."""
    predicted = law.predict(rows.effects, params)
    error = jnp.log(predicted) - jnp.log(rows.loss) if residual == "log" else predicted - rows.loss
    weights = weights * jnp.where(error > 0, options.over_weight, 1.0)
    exponents = params[len(law.coefficients) :]
    return weights @ optax.losses.huber_loss(error, delta=options.delta) + options.prior_cost(exponents)


class _Pull(NamedTuple):
    """The weighted Huber losses of the rows, ``[rows]``, and what they do to a step."""

    loss: jax.Array
    force: jax.Array
    """Derivative by the residual."""
    stiffness: jax.Array
    """Second derivative."""
    safe: jax.Array
    """Second derivative of the parabola that touches the Huber loss and lies nowhere below it."""
    per_loss: jax.Array
    """Derivative of the residual by the predicted loss."""


def _pull(residual: str, loss: jax.Array, predicted: jax.Array, weights: jax.Array, options: Objective) -> _Pull:
    # what weighs nothing may not turn the sums into NaN
    loss, predicted = (jnp.where(weights > 0, x, 1.0) for x in (loss, predicted))
    if residual == "log":
        error = jnp.log(predicted) - jnp.log(loss)  # NaN where predicted <= 0: never accepted
        per_loss = 1 / predicted
    else:
        error, per_loss = predicted - loss, jnp.ones_like(loss)
    weights = weights * jnp.where(error > 0, options.over_weight, 1.0)
    size, delta = jnp.abs(error), options.delta
    quadratic = size <= delta
    # Huber: error^2/2 within delta, delta (|error| - delta/2) beyond
    huber = jnp.where(quadratic, 0.5 * error**2, delta * (size - 0.5 * delta))
    safe = jnp.where(quadratic, 1.0, delta / jnp.maximum(size, delta))
    force = jnp.clip(error, -delta, delta)
    return _Pull(weights * huber, weights * force, weights * quadratic, weights * safe, per_loss)


def model(
    law: Law, residual: str, rows: Rows, weights: jax.Array, options: Objective, params: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, Curvature]:
    """Parameters with the objective there, its gradient and curvatures.

    The exponents are as given. The coefficients are refitted to them where that lowers the objective, so that steps
    follow valleys that bend with the exponents.
    """
    split = len(law.coefficients)
    phi, slopes = _basis(law, rows.effects, params[split:])
    coefficients, pull = _refitted(law, residual, rows, weights, options, phi, params[:split])
    _, slopes = _tangent(phi, slopes, coefficients)
    slopes = slopes * pull.per_loss[None, :]
    value, grad = jnp.sum(pull.loss), slopes @ pull.force
    # both curvatures in one product, which takes four fifths of the time of two
    stiff = jnp.concatenate([slopes * stiffness[None, :] for stiffness in (pull.stiffness, pull.safe)])
    newton, majorizer = jnp.split(stiff @ slopes.T, 2)
    if options.prior is not None:
        centre, stiffness = options.prior
        value += options.prior_cost(params[split:])
        grad = grad.at[split:].add(stiffness * (params[split:] - centre))
        own = jnp.diag(jnp.concatenate([jnp.zeros_like(coefficients), stiffness]))
        newton, majorizer = newton + own, majorizer + own
    return jnp.concatenate([coefficients, params[split:]]), value, grad, Curvature(newton, majorizer)


def _refitted(
    law: Law,
    residual: str,
    rows: Rows,
    weights: jax.Array,
    options: Objective,
    phi: jax.Array,
    coefficients: jax.Array,
) -> tuple[jax.Array, _Pull]:
    """The coefficients where the parabolas above the Huber losses are least, or as given where the objective is less.

    With them what their residuals pull.

    Reference: variable projection, Golub and Pereyra (1973).
    """
    lower, upper = (jnp.asarray(b[: coefficients.size], coefficients.dtype) for b in bounds(law))
    given = _pull(residual, rows.loss, coefficients @ phi, weights, options)
    slopes = phi * given.per_loss[None, :]
    matrix = (slopes * given.safe[None, :]) @ slopes.T
    refitted = coefficients + bounded_step(matrix, slopes @ given.force, coefficients, lower, upper)
    after = _pull(residual, rows.loss, refitted @ phi, weights, options)
    better = jnp.sum(after.loss) < jnp.sum(given.loss)  # false for NaN
    chosen: tuple[jax.Array, _Pull] = jax.tree.map(
        lambda new, old: jnp.where(better, new, old), (refitted, after), (coefficients, given)
    )
    return chosen


# ---------------------------------------------------------------------------------------------------------------------
# Starts: for given exponents the best coefficients of the relative error are linear least squares
# ---------------------------------------------------------------------------------------------------------------------


def bounds(law: Law) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds ``[parameters]``."""
    return np.array([p.lower for p in law.parameters]), np.array([p.upper for p in law.parameters])


def exponent_grid(law: Law) -> np.ndarray:
    """Every combination of the exponents' starts, ``[starts, exponents]``."""
    every = list(itertools.product(*(exponent.starts for exponent in law.exponents)))
    return np.array(every, float).reshape(len(every), len(law.exponents))


def _closed_form(law: Law, rows: Rows, weights: jax.Array, exponents: jax.Array) -> jax.Array:
    """Parameter vector with the least-squares coefficients, within bounds, of predicted/loss - 1."""
    phi = jax.vmap(law.basis, in_axes=(0, None), out_axes=-1)(rows.effects, exponents)
    phi = phi / jnp.where(weights > 0, rows.loss, 1.0)[None, :]
    scale = jnp.sqrt(jnp.maximum(phi**2 @ weights, jnp.finfo(phi.dtype).tiny))
    phi = phi / scale[:, None]
    gram = (phi * weights[None, :]) @ phi.T + 1e-10 * jnp.eye(phi.shape[0], dtype=phi.dtype)
    lower, upper = (jnp.asarray(b[: scale.size], phi.dtype) * scale for b in bounds(law))
    if not any(coefficient.mixture for coefficient in law.coefficients):
        free = solve(gram, phi @ weights)  # near enough, and faster
        return jnp.concatenate([jnp.clip(free, lower, upper) / scale, exponents])
    near = jnp.clip(jnp.zeros_like(scale), lower, upper)
    step = bounded_step(gram, gram @ near - phi @ weights, near, lower, upper)
    return jnp.concatenate([(near + step) / scale, exponents])


def starts_of_one(
    law: Law, rows: Rows, weights: jax.Array, objective: Objective, exponents: jax.Array, *, residual: str
) -> jax.Array:
    """Closed-form starts ``[grid, parameters]`` of one problem, of rows ``[rows]`` with weights, best first."""

    def start(exponents: jax.Array) -> tuple[jax.Array, jax.Array]:
        params = _closed_form(law, rows, weights, exponents)
        predicted = law.predict(rows.effects, params)
        pull = _pull(residual, rows.loss, predicted, weights, objective)
        return params, jnp.sum(pull.loss) + objective.prior_cost(exponents)

    params, values = jax.vmap(start)(exponents)
    return params[jnp.argsort(jnp.where(jnp.isfinite(values), values, jnp.inf))]
