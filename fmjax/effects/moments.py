r"""Moving averages over updates, and sums of what follows from them, from a few updates that stand for all.

An average $x_i = \beta x_{i-1} + r f_i$ with $r = 1 - \beta$ is no sum of which few updates stand for all: it is read
at every update. But over a panel x is as smooth as f is, and so it is nearly the polynomial that obeys the recursion at
the panel's nodes. With $g_i = (x_i - x_{i-1}) / r$, sums until each node ``U`` and x before the panel,

    $x = x_{before} + r U g$,    $f = x + \beta g$,    so that    $(\beta I + r U) g = f - x_{before}$.

That is collocation at the nodes of a Gauss rule for sums. What it leaves over is orthogonal to low powers, so that x
after the panel, and sums over the panel of any smooth function of x, are as good as sums by the rule itself. Where each
node is one update, U is triangular, and g that of the recursion. Across panels x is a chain of linear maps.
"""

import jax
import jax.numpy as jnp

from fmjax._types import Array, Real
from fmjax.effects.weighted import WeightedUpdates, Within


def moving_average(updates: WeightedUpdates, values: Real, rate: Real) -> jax.Array:
    """x_i = x_{i-1} + rate (value_i - x_{i-1}) after each of the updates of one schedule; 0 before the first.

    Args:
      updates: updates in panels, ``within`` them.
      values: ``[updates]`` the values that are averaged.
      rate: share that the average forgets at each update, 1 - beta.
    """
    assert updates.within is not None, "averages need updates that lie in panels"
    nodes, beta = updates.within.until.shape[-1], 1 - rate
    values, weights = (jnp.reshape(x, (-1, nodes)) for x in (jnp.asarray(values), jnp.asarray(updates.weight)))
    steps = _steps(updates.within, beta, rate)[updates.within.kind].astype(values.dtype)
    added = jnp.einsum("pmn,pn->pm", steps, values, precision="highest")
    lost = jnp.sum(steps, axis=-1)
    gained, gone = (rate * jnp.sum(weights * each, axis=-1) for each in (added, lost))

    def advance(before: jax.Array, panel: tuple[Array, Array]) -> tuple[jax.Array, jax.Array]:
        lost, gained = panel
        return before - lost * before + gained, before

    before = jax.lax.scan(advance, jnp.zeros((), values.dtype), (gone, gained))[1]
    return jnp.ravel(values - beta * (added - lost * before[:, None]))


def _steps(within: Within, beta: Real, rate: Real) -> jax.Array:
    """``[kinds, nodes, nodes]`` inverses of beta I + rate U, by elimination in plain array operations."""
    unit = jnp.eye(within.until.shape[-1])

    def exchange(j: jax.Array, system: jax.Array) -> jax.Array:
        row = system[j].at[j].set(1.0) / system[j, j]
        return (system.at[:, j].set(0.0) - jnp.outer(system[:, j], row)).at[j].set(row)

    def inverse(until: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, len(unit), exchange, beta * unit + rate * until)

    return jax.vmap(inverse)(jnp.asarray(within.until, unit.dtype))


def momentum(updates: WeightedUpdates, *, rate1: Real, rate2: Real, eps: Real, second_moment_scale: Real) -> jax.Array:
    """What each of the updates adds to M, from the moments of the rate's drops; as ``recursions.momentum_step``."""
    dtype = jnp.asarray(updates.lr).dtype
    first = moving_average(updates, updates.drop, rate1)
    second = jnp.maximum(moving_average(updates, jnp.square(updates.drop), rate2), 0.0)
    weight1, weight2 = (_corrected(updates.update, rate).astype(dtype) for rate in (rate1, rate2))
    return first / (weight1 * (jnp.sqrt(second * (second_moment_scale / weight2) + eps) + eps))


def _corrected(update: Real, rate: Real) -> jax.Array:
    """1 - beta^(i + 1), the weights of an average that has begun with 0."""
    return -jnp.expm1(jnp.maximum(jnp.log1p(-jnp.asarray(rate)), -700.0) * (update + 1))
