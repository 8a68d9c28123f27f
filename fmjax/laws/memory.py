r"""Power-law memory in a schedule's own time S, as a mixture of exponential memories.

$(1 + a x)^{-\beta} = \frac{1}{\Gamma(\beta) a^\beta} \int_0^\infty r^{\beta - 1} e^{-r / a} e^{-r x} dr$: on a fixed
logarithmic grid of rates r each rate is one decaying state, where the double sum over all pairs of updates would take
a state for every update. Where what is remembered depends on the law's exponents, it is kept at fixed levels of the
rate (or of S) and weighed when it is read, so that effects do not depend on exponents and fits run no recursion.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._types import Array, Dtype, Real, Reals
from fmjax.effects import recursions
from fmjax.effects.updates import Fading, Remembered, Sum, Update, plus
from fmjax.effects.weighted import WeightedUpdates
from fmjax.laws.base import Law, Row, safe_log

SPACING = 0.75
"""Distance of the logarithms of two rates; the trapezoid rule is then off by 2 exp(-pi^2 / SPACING) = 4e-6."""

LOG_RATES = np.log(1e-5) + SPACING * np.arange(46)
"""Logarithms of the rates, per unit of the sum of learning rates; from 1e-5 to 5e9."""

MEMORY_RATES = np.concatenate([[0.0], np.exp(LOG_RATES)])
"""Rates of the memories; at 0 what is remembered for ever stands for all rates below the grid."""

BOUNDED = 36
"""How many of ``MEMORY_RATES``, up to 1.2e6, kernels need that are bounded at x = 0."""

_NEAR = 1 / np.expm1(2 * SPACING)
_INVERSE = SPACING * MEMORY_RATES[1] * np.array([1 / np.expm1(SPACING) - _NEAR, 1 + _NEAR])
INVERSE = np.concatenate([_INVERSE, SPACING * MEMORY_RATES[2:]])
"""Weights of all ``MEMORY_RATES`` that make 1 / x, the limit of a / (1 + a x); see ``mixture``."""

CHUNK = 64
"""Updates between two stored memories."""


def _below(beta: Real) -> jax.Array:
    """sum_{j < 0} exp(beta SPACING j)."""
    return 1 / jnp.expm1(beta * SPACING)


def mixture(log_a: Real, beta: Real) -> jax.Array:
    """``[rates, ...]`` weights w such that sum_j w_j exp(-r_j x) is (1 + a x)^-beta, for ``log_a[...]``."""
    log_a = jnp.asarray(log_a)
    log_rates = jnp.asarray(LOG_RATES[: BOUNDED - 1], log_a.dtype).reshape(-1, *(1,) * log_a.ndim)
    log_ra = log_rates - log_a[None]  # log (r / a)
    gone = jnp.exp(-jnp.exp(log_ra))
    inside = jnp.exp(beta * log_ra) * gone
    # the terms of the trapezoid rule below the grid, to first order in the rate: geometric series
    least = jnp.exp(beta * log_ra[0])
    below, near = _below(beta) * least, _below(beta + 1) * least
    inside = jnp.concatenate([(below - near)[None], inside[:1] + near[None] * gone[:1], inside[1:]])
    return SPACING * jnp.exp(-jax.scipy.special.gammaln(beta)) * inside


def forgotten(log_a: Real, beta: Real) -> jax.Array:
    """``[rates, ...]`` weights of 1 - (1 + a x)^-beta."""
    weights = -mixture(log_a, beta)
    return weights.at[0].add(1)


def remember(memory: Sum, lr: Real, before: Real = 0.0, after: Real = 0.0) -> Sum:
    """``[rates, ...]`` memories after an update: adds ``before``, forgets over the update's rate, adds ``after``."""
    count, *rest = memory.total.shape
    rates = jnp.asarray(MEMORY_RATES[:count], memory.total.dtype).reshape(-1, *(1,) * len(rest))
    before, after = (jnp.broadcast_to(added, memory.total.shape) for added in (before, after))
    return plus(memory, jnp.expm1(-rates * lr) * (memory.total + before) + before + after)


def empty(dtype: Dtype, *shape: int) -> Sum:
    """Memories ``[rates, ...]`` of nothing."""
    return Sum(*(jnp.zeros(shape, dtype) for _ in Sum._fields))


# Levels. What an update adds to a memory often depends on an exponent that is fitted: in the Multi-Power law on gamma,
# through a_k = C lr_k^-gamma. A memory that adds it up would have to be followed anew for each value of the exponent
# that a fit tries. But for a given exponent it is a smooth function f of x = log lr. A smooth function is nearly the
# sum of its values at fixed levels x_l, times weights w_l(x) that depend on x alone. So
#
#     sum_k fading_k f(x_k)  =  sum_l f(x_l) M_l,    M_l = sum_k fading_k w_l(x_k).
#
# The memories keep M_l, a column for each level. The exponent comes in only when they are read, by the factors f(x_l).
# So each run is followed once, and a step of a fit multiplies small matrices.


def spread_over_levels(x: Real, levels: np.ndarray) -> jax.Array:
    """``[levels]`` weights that a value at ``x`` has at evenly spaced levels: Lagrange's on the six nearest.

    A smooth function's value at x is its values at the levels, so weighed, up to 0.005 times the sixth power of the
    spacing and its sixth derivative. Beyond the third level from either end x is clipped.
    """
    x = jnp.asarray(x)
    inside = jnp.clip(x, *(float(end) for end in levels[[2, -3]]))
    d = jnp.abs(inside - jnp.asarray(levels, x.dtype)) / float(levels[1] - levels[0])
    inner = (1 - d**2) * (4 - d**2) * (3 - d) / 12
    middle = (d + 1) * (d - 1) * (d - 2) * (d - 3) * (d - 4) / 24
    outer = -(d - 1) * (d - 2) * (d - 3) * (d - 4) * (d - 5) / 120
    return jnp.where(d < 1, inner, jnp.where(d < 2, middle, jnp.where(d < 3, outer, 0.0)))


class RememberingState(NamedTuple):
    """S so far, and ``[rates, columns]`` what is remembered of each column of ``remembered``."""

    forward: Sum
    memory: Sum


class Remembering(Law):
    """A law of S and of what each update adds to memories that are forgotten over S."""

    columns: ClassVar[int]
    """How many numbers an update adds."""
    fading: ClassVar[Fading]
    """Whether an update's own rate forgets what it adds."""

    def remembered(self, lr: Real, drop: Real, forward: Real) -> jax.Array:
        """``[columns]`` what an update adds, from its rate, the rate's drop and S after it."""
        raise NotImplementedError

    def init(self, dtype: Dtype) -> RememberingState:
        return RememberingState(Sum.zero(dtype), empty(dtype, BOUNDED, self.columns))

    def step(self, state: RememberingState, update: Update) -> RememberingState:
        forward = recursions.forward_step(state.forward, update)
        rates = jnp.asarray(MEMORY_RATES[:BOUNDED], state.memory.total.dtype)
        memory = update.remember(state.memory, rates, self.remembered, forward.total, fading=self.fading)
        return RememberingState(forward, memory)

    def observe(self, state: RememberingState) -> Row:
        return {"log_S": safe_log(state.forward.total), "memory": state.memory.total}

    def effects(self, lrs: jax.Array, at: jax.Array, warmup_steps: Real = 0) -> Row:
        """As ``Law.effects``, without storing every state."""
        return self.row_effects(WeightedUpdates.every(*self.counted(lrs, warmup_steps)), at)

    def row_effects(self, updates: WeightedUpdates, at: Array) -> Row:
        memory = memories(updates, at, MEMORY_RATES[:BOUNDED], self.remembered, fading=self.fading)
        return {"log_S": safe_log(updates.forward[at]), "memory": memory}


class _Chunk(NamedTuple):
    """Some updates in a row, and S before them."""

    updates: WeightedUpdates
    begin: jax.Array


def memories(updates: WeightedUpdates, at: Array, rates: Reals, remembered: Remembered, *, fading: Fading) -> jax.Array:
    """Memories ``[rows, rates, columns]`` after the updates ``at[rows]`` of one schedule.

    By matrix products over chunks of updates; memories are stored at the start of each chunk only.

    Args:
      updates: updates that stand for all.
      at: the rows' places among them.
      rates: rates of forgetting, per unit of S.
      remembered: what an update adds, ``[columns]``, from its rate, the rate's drop and S after it.
      fading: over which rates that is forgotten.
    """
    if updates.left is not None:
        return _at_the_end(updates, rates, remembered, fading=fading)[None]
    count = -(-updates.lr.size // CHUNK)
    padded = jax.tree.map(lambda x: jnp.pad(jnp.asarray(x), (0, count * CHUNK - x.size), mode="edge"), updates)
    ends = padded.forward.reshape(count, CHUNK)[:, -1]
    cut = jax.tree.map(lambda x: x.reshape(count, CHUNK), padded)
    chunks = _Chunk(cut, jnp.concatenate([jnp.zeros_like(ends[:1]), ends[:-1]]))
    rates = jnp.asarray(rates, ends.dtype)[:, None]

    def until(memory: jax.Array, chunk: _Chunk, last: jax.Array | int) -> jax.Array:
        """Memories after the update ``last`` of a chunk that begins with ``memory``."""
        seen, end = chunk.updates, chunk.updates.forward[last]
        kept = _kept(seen, jnp.maximum(end - seen.forward, 0.0), rates, fading)
        added = seen.weight[:, None] * jax.vmap(remembered)(seen.lr, seen.drop, seen.forward)
        added = jnp.where((jnp.arange(CHUNK) <= last)[:, None], added, 0.0)
        return jnp.exp(-rates * (end - chunk.begin)) * memory + kept @ added

    def advance(memory: jax.Array, chunk: _Chunk) -> tuple[jax.Array, jax.Array]:
        return until(memory, chunk, CHUNK - 1), memory

    columns = jax.eval_shape(remembered, *(jax.ShapeDtypeStruct((), ends.dtype),) * 3).size
    starts = jax.lax.scan(advance, jnp.zeros((rates.size, columns), ends.dtype), chunks)[1]

    def row(at: jax.Array) -> jax.Array:
        return until(starts[at // CHUNK], jax.tree.map(lambda x: x[at // CHUNK], chunks), at % CHUNK)

    return jax.lax.map(row, at)


def _kept(updates: WeightedUpdates, since: Array, rates: jax.Array, fading: Fading) -> jax.Array:
    """``[rates, updates]`` share that is left of what each update adds, from what S grew by since."""
    kept = jnp.exp(-rates * (since + (updates.lr if fading is Fading.OWN else 0.0))[None, :])
    return -kept * jnp.expm1(-rates * updates.lr[None, :]) if fading is Fading.AVERAGE else kept


def _at_the_end(updates: WeightedUpdates, rates: Reals, remembered: Remembered, *, fading: Fading) -> jax.Array:
    """Memories ``[rates, columns]`` after the last update, as one sum."""
    assert updates.left is not None
    kept = _kept(updates, updates.left.forward, jnp.asarray(rates, updates.lr.dtype)[:, None], fading)
    added = jnp.asarray(updates.weight)[:, None] * jax.vmap(remembered)(updates.lr, updates.drop, updates.forward)
    if added.shape[1] == 1:  # one loop in place of a table that is stored and read again: half the time
        return jnp.sum(kept * added.T, axis=1, keepdims=True)
    return jnp.matmul(kept, added, precision="highest")
