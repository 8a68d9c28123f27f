"""Descent: the best of all schedules that never rise after warmup, by gradient through a law, many targets at once.

A schedule is straight pieces between knots. Its drops at the end of warmup and from knot to knot, and what stays above
the lowest rate allowed, are squares divided by their sum: so no rate rises or leaves its bounds whatever the descent
does, and drops of nothing, which are the most frequent, are not at infinity as under a softmax.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fmjax._types import Array, Real
from fmjax.laws import Law
from fmjax.schedules.anneals import ramp

GAIN, PATIENCE = 1e-8, 8
"""A descent has settled when so many steps running each lower the loss by less than this share of it."""

LINE_SEARCH = 20
"""Lengths tried for a step."""

FLOOR = 1e-3
"""Share that a start spreads over all drops: a root of zero would have no slope."""


class Ground(NamedTuple):
    """What all targets share."""

    law: Law
    vector: np.ndarray
    """``[parameters]``."""
    log_n: float
    warmup_steps: int
    init_lr: float
    final_lr: float

    def loss(self, last: jax.Array, lrs: jax.Array) -> jax.Array:
        """Predicted loss after the update ``last`` of ``lrs[T]``."""
        coefficients, exponents = jnp.split(jnp.asarray(self.vector), [len(self.law.coefficients)])
        return self.law.final_basis(lrs, last, jnp.asarray(self.log_n), exponents, self.warmup_steps) @ coefficients


class Start(NamedTuple):
    """Knots after warmup to begin from."""

    last: int
    """The last update, T - 1."""
    peak_lr: float
    steps: np.ndarray
    rates: np.ndarray


class _Lane(NamedTuple):
    """What a descent holds fixed."""

    last: Array
    peak_lr: Array
    steps: Array
    """``[knots]`` where knots are if they do not move."""


class _Shape(NamedTuple):
    """Roots of the shares that make a schedule."""

    drops: Array
    """``[knots + 1]`` drop at the end of warmup, from each knot to the next, and what stays above the lowest rate."""
    gaps: Array
    """``[knots - 1]`` updates from each knot to the next but for the one that must be; ``[0]`` if knots do not move."""


def _shape(ground: Ground, start: Start, *, move: bool) -> _Shape:
    span = start.peak_lr - ground.final_lr
    left = np.clip((start.rates - ground.final_lr) / (span or 1.0), 0.0, 1.0)
    gaps = np.diff(start.steps) - 1 if move else np.empty(0)
    return _Shape(_roots(-np.diff(left, prepend=1.0, append=0.0)), _roots(gaps))


def _roots(amounts: np.ndarray) -> np.ndarray:
    """Roots of shares of a sum, of which ``FLOOR`` is spread evenly."""
    amounts = np.maximum(amounts, 0.0)
    total = amounts.sum()
    shares = amounts / total if total > 0 else np.zeros_like(amounts)
    return np.sqrt(shares + FLOOR / max(1, amounts.size))


def _knots(ground: Ground, lane: _Lane, shape: _Shape) -> tuple[jax.Array, jax.Array]:
    """Update counts and rates of a shape's knots."""
    drops = shape.drops**2 / jnp.sum(shape.drops**2)
    rates = ground.final_lr + (lane.peak_lr - ground.final_lr) * jnp.cumsum(drops[::-1])[::-1][1:]
    if not shape.gaps.size:
        return jnp.asarray(lane.steps), jnp.asarray(rates)
    spare = lane.last - ground.warmup_steps - shape.gaps.size
    gaps = 1 + spare * shape.gaps**2 / jnp.sum(shape.gaps**2)
    return jnp.append(0.0, jnp.cumsum(gaps)) + ground.warmup_steps, jnp.asarray(rates)


def _places(steps: Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The knot before each update, and the share of the way to the next."""
    knot = jnp.clip(jnp.searchsorted(steps, count, side="right") - 1, 0, steps.size - 2)
    return knot, jnp.clip((count - steps[knot]) / (steps[knot + 1] - steps[knot]), 0.0, 1.0)


def _shape_loss(
    ground: Ground, lane: _Lane, count: jax.Array, places: tuple[jax.Array, ...], shape: _Shape
) -> jax.Array:
    """Predicted loss of a shape; ``places`` are those of the updates if knots do not move."""
    steps, rates = _knots(ground, lane, shape)
    knot, share = places or _places(steps, count)
    warm = ramp(count, ground.warmup_steps, ground.init_lr, lane.peak_lr)
    fallen = rates[knot] + share * (rates[knot + 1] - rates[knot])
    return ground.loss(jnp.asarray(lane.last, jnp.int32), jnp.where(count < ground.warmup_steps, warm, fallen))


class _Descent(NamedTuple):
    """One lane between two steps of L-BFGS."""

    shape: _Shape
    state: chex.ArrayTree
    value: jax.Array
    slope: _Shape
    best: _Shape
    least: jax.Array
    """Loss of ``best``."""
    quiet: jax.Array
    """Steps running that gained little."""
    iterations: jax.Array


class Descent(NamedTuple):
    """Knots after warmup as a descent left them."""

    steps: Array
    rates: Array
    loss: Real
    iterations: Real
    settled: Real


@partial(jax.jit, static_argnames=("longest",))
def _descend_lanes(ground: Ground, lanes: _Lane, shapes: _Shape, limit: Real, *, longest: int) -> Descent:
    """The best of each lane's descent; past a lane's end rates go on to the longest one's, and do not count."""
    search = optax.scale_by_backtracking_linesearch(LINE_SEARCH, store_grad=True)  # dearer ones take as many steps
    solver, count = optax.lbfgs(linesearch=search), jnp.arange(longest, dtype=float)

    def one(lane: _Lane, shape: _Shape) -> Descent:
        places = () if shape.gaps.size else _places(lane.steps, count)
        loss = partial(_shape_loss, ground, lane, count, places)

        def advance(now: _Descent) -> _Descent:
            value, slope = now.value, now.slope
            updates, state = solver.update(slope, now.state, now.shape, value=value, grad=slope, value_fn=loss)
            shape = optax.apply_updates(now.shape, updates)
            value, slope = (optax.tree_utils.tree_get(state, name) for name in ("value", "grad"))
            quiet = jnp.where(value < now.least * (1 - GAIN), 0, now.quiet + 1)
            best = jax.tree.map(partial(jnp.where, value < now.least), shape, now.best)
            least = jnp.fmin(value, now.least)
            return _Descent(shape, state, value, slope, best, least, quiet, now.iterations + 1)

        def goes_on(now: _Descent) -> jax.Array:
            return (now.quiet < PATIENCE) & (now.iterations < limit)

        value, slope = jax.value_and_grad(loss)(shape)
        sloped = jnp.any(jnp.concatenate(jax.tree.leaves(slope)) != 0)
        zero = jnp.zeros((), int)
        begin = _Descent(shape, solver.init(shape), value, slope, shape, value, jnp.where(sloped, 0, PATIENCE), zero)
        end = jax.lax.while_loop(goes_on, advance, begin)
        return Descent(*_knots(ground, lane, end.best), end.least, end.iterations, end.quiet >= PATIENCE)

    return jax.vmap(one)(lanes, shapes)


def descend(
    ground: Ground, starts: Sequence[Start], size: int, limit: int, longest: int, *, move: bool
) -> list[Descent]:
    """What the descent from each start leads to, in a call of ``size`` lanes; knots that move do so first."""
    padded = [starts[i % len(starts)] for i in range(size)]
    lanes = _Lane(*map(np.array, zip(*((float(s.last), s.peak_lr, s.steps) for s in padded), strict=True)))
    shapes = _Shape(*map(np.stack, zip(*(_shape(ground, start, move=move) for start in padded), strict=True)))
    found = jax.tree.map(np.asarray, _descend_lanes(ground, lanes, shapes, np.int32(limit), longest=longest))
    each = [Descent(*(field[i] for field in found)) for i in range(len(starts))]
    if not move:
        return each
    rounded = [
        s._replace(steps=np.floor(e.steps + 0.5), rates=np.asarray(e.rates)) for s, e in zip(starts, each, strict=True)
    ]
    ends = descend(ground, rounded, size, limit, longest, move=False)
    return [end._replace(iterations=e.iterations + end.iterations) for e, end in zip(each, ends, strict=True)]
