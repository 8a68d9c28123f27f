"""A damped Newton method for many small box-bounded problems, as an Optax gradient transformation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Curvature(NamedTuple):
    """Two models of an objective's curvature at a point, ``[p, p]`` each."""

    newton: jax.Array
    """The curvature itself, or close to it; fast near the optimum."""
    majorizer: jax.Array
    """A curvature at least as large everywhere; its steps are safe far from the optimum."""


class DampedNewtonState(NamedTuple):
    """The best point so far, the objective's model there, and the damping."""

    point: jax.Array
    value: jax.Array
    grad: jax.Array
    curvature: Curvature
    damping: jax.Array
    failed: jax.Array
    """Whether the step before was rejected."""
    decrement: jax.Array
    """Decrease of the objective that an undamped step from ``point`` promises; infinite at first."""


def damped_newton(
    lower: jax.Array,
    upper: jax.Array,
    *,
    start_damping: float = 1.0,
    shrink: float = 0.1,
    grow: float = 8.0,
) -> optax.GradientTransformationExtraArgs:
    """Newton steps damped by a majorizer: (newton + damping majorizer) step = -grad, within bounds.

    The update proposes a point; if the objective there (``value`` of the next call) is not lower, or not finite, the
    next update goes back to the best point and proposes a shorter step. One evaluation an iteration, no inner loop, so
    that a ``vmap`` over lanes wastes nothing.

    Args:
      lower: ``[p]`` lower bounds; a parameter at its bound moves only inwards.
      upper: ``[p]`` upper bounds.
      start_damping: damping of the first step.
      shrink: factor on the damping after two steps in turn that lowered the objective.
      grow: factor on it after one that did not.

    Returns:
      A transformation whose ``update`` takes, beside the gradient, ``value`` and ``curvature`` (``Curvature``) at
      ``params``.

    Reference: Levenberg-Marquardt with gain-free damping; Nocedal and Wright, Numerical Optimization, ch. 10; bounds by
    the projected Newton method of Bertsekas (1982).
    """

    def init(params: jax.Array) -> DampedNewtonState:
        square = jnp.zeros((params.size, params.size), params.dtype)
        infinite = jnp.full((), jnp.inf, params.dtype)
        damping = jnp.full((), start_damping / shrink, params.dtype)
        return DampedNewtonState(
            params, infinite, jnp.zeros_like(params), Curvature(square, square), damping, jnp.array(False), infinite
        )

    def update(
        grads: jax.Array,
        state: DampedNewtonState,
        params: Any = None,
        *,
        value: jax.Array,
        curvature: Curvature,
        **_: object,
    ) -> tuple[jax.Array, DampedNewtonState]:
        better = value < state.value  # false for NaN
        damping = state.damping * jnp.where(state.failed, 1.0, shrink)
        best = DampedNewtonState(params, value, grads, curvature, damping, ~better, state.decrement)
        last = state._replace(damping=state.damping * grow, failed=~better)
        state = jax.tree.map(lambda new, old: jnp.where(better, new, old), best, last)
        step, decrement = _step(state, lower, upper)
        return state.point + step - params, state._replace(decrement=decrement)

    return optax.GradientTransformationExtraArgs(init, update)


def _step(state: DampedNewtonState, lower: jax.Array, upper: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The damped step inside the bounds, and the decrease an undamped one promises."""
    point, grad, (newton, majorizer) = state.point, state.grad, state.curvature
    last = _active_set(newton + state.damping * majorizer, grad, point, lower, upper)
    staying = last.fixed & ((point <= lower) | (point >= upper))
    undamped = _solve_free(newton + 1e-9 * majorizer, grad, staying)
    return jnp.clip(point + last.step, lower, upper) - point, -0.5 * grad @ undamped


def _outward(grad: jax.Array, point: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """Parameters at a bound that the gradient would carry across it."""
    return jnp.where(grad > 0, point <= lower, point >= upper)


class _Pass(NamedTuple):
    """A pass of the active-set method."""

    step: jax.Array
    fixed: jax.Array
    settling: jax.Array
    """Whether only parameters that cross their bounds have been fixed so far, and none was let go."""
    done: jax.Array
    passes: jax.Array


def bounded_step(matrix: jax.Array, grad: jax.Array, point: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """The step that minimises grad . step + step . matrix step / 2 with point + step inside the bounds."""
    return jnp.clip(point + _active_set(matrix, grad, point, lower, upper).step, lower, upper) - point


def _active_set(matrix: jax.Array, grad: jax.Array, point: jax.Array, lower: jax.Array, upper: jax.Array) -> _Pass:
    """The last pass towards ``bounded_step``, the minimum of q(s) = grad . s + s . matrix s / 2 within bounds.

    At that minimum a parameter is either free, and its slope of q is zero, or it is fixed at a bound, and its slope
    points outwards. If we knew which are fixed, one linear system would give the others. Each pass guesses the fixed
    ones, and moves the free ones to their minimum given those. If none of them crosses a bound on the way, the fixed
    ones are checked: those whose slope points inwards are let go, and if there are none the step is the minimum.

    At first ("settling") every parameter that crosses a bound is stopped there at once; this mostly guesses right in a
    pass or two. Once one has been let go that could go round in circles. From then on the move ends where the first
    parameter meets its bound and only that one is fixed, so that q falls at every pass.

    Reference: the primal active-set method; Nocedal and Wright, Numerical Optimization, algorithm 16.3.
    """

    def again(last: _Pass) -> _Pass:
        move = _solve_free(matrix, grad + matrix @ last.step, last.fixed)
        room = jnp.where(move > 0, upper, lower) - (point + last.step)
        crosses = jnp.abs(move) > jnp.abs(room)
        share = jnp.where(crosses, room / jnp.where(move == 0, 1.0, move), 1.0)
        first = jnp.min(share)
        stops = crosses & (last.settling | (share <= first))
        to_bound = jnp.where(move > 0, upper, lower) - point
        step = jnp.where(stops, to_bound, last.step + jnp.where(last.settling, 1.0, first) * move)
        fixed = last.fixed | stops
        whole = first >= 1
        # the others are at their best: which of the fixed ones would move inwards?
        slope, at = grad + matrix @ step, point + step
        inwards = last.fixed & whole & jnp.where(at - lower < upper - at, slope < 0, slope > 0)
        return _Pass(step, fixed & ~inwards, last.settling & ~whole, whole & ~jnp.any(inwards), last.passes + 1)

    yes = jnp.array(True)
    start = _Pass(jnp.zeros_like(point), _outward(grad, point, lower, upper), yes, ~yes, jnp.array(0))
    most = 4 * point.size
    return jax.lax.while_loop(lambda last: ~last.done & (last.passes < most), again, start)


def _solve_free(matrix: jax.Array, grad: jax.Array, fixed: jax.Array) -> jax.Array:
    """The Newton step of the parameters that are not fixed, zero for those that are."""
    return -solve(_restrict(matrix, fixed), jnp.where(fixed, 0.0, grad))


def _restrict(matrix: jax.Array, fixed: jax.Array) -> jax.Array:
    """The matrix with the rows and columns of fixed parameters replaced by the identity's."""
    free = jnp.where(fixed, 0.0, 1.0)
    return matrix * free[:, None] * free[None, :] + jnp.diag(1.0 - free)


def solve(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """Solves a symmetric positive definite system after scaling its diagonal to one, so that units do not matter.

    Eliminates without exchanging rows, which such a system does not need; NaN where a pivot is not above zero.
    """
    # Guard: do not call jnp.linalg or jax.scipy.linalg here. Under ``vmap`` they become batches of LAPACK's routines.
    # On a CPU such a batch is cut into tasks for XLA's pool of threads, and the thread that asked for them waits. That
    # thread belongs to the same pool. Fits run one program a core, so as many programs as the pool has threads can ask
    # at once. Then every thread waits for tasks that no thread is left to do, and the fits hang for ever (jaxlib
    # 0.10.2). Plain array operations start no such tasks.
    diagonal = jnp.diagonal(matrix)
    scale = jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1.0))
    ridge = 4 * jnp.finfo(matrix.dtype).eps * jnp.eye(vector.size, dtype=matrix.dtype)
    scaled = matrix * scale[:, None] * scale[None, :] + ridge + jnp.diag(jnp.where(diagonal > 0, 0.0, 1.0))
    system = jnp.column_stack([scaled, scale * vector])
    return scale * jax.lax.fori_loop(0, vector.size, _eliminate, system)[:, -1]


def _eliminate(j: jax.Array, system: jax.Array) -> jax.Array:
    """The system ``[n, n + 1]`` with row ``j`` solved for its unknown, which leaves the other rows."""
    pivot = system[j, j]
    row = system[j] / jnp.where(pivot > 0, pivot, jnp.nan)
    return (system - jnp.outer(system[:, j], row)).at[j].set(row)
