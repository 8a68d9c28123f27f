"""Tracking of S and M inside a training loop: an Optax transformation that changes no update."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fmjax._checks import require
from fmjax._types import Real
from fmjax.effects.recursions import (
    MomentumState,
    annealing_momentum,
    forward_step,
    momentum_init,
    momentum_options,
    momentum_step,
)
from fmjax.effects.updates import Sum, Update
from fmjax.schedules.kinds import Scalar, Schedule

SAME_RATE = 1e-5
"""Relative difference up to which the schedule is taken to be the one that the update before was made with."""


class TrackAnnealingState(NamedTuple):
    """State of ``track_annealing``: scalars, in float32 unless JAX is set to wider numbers."""

    count: jax.Array  # type: ignore[assignment]  # a tuple has such a method; the name is that of Optax
    """Updates made."""
    lr: jax.Array
    """Learning rate of the latest update."""
    S: jax.Array
    """Forward effect after it, in units of a learning rate."""
    M: jax.Array
    """Annealing momentum after it."""
    lost: jax.Array
    """What rounding took from S."""
    moments: MomentumState
    """What M goes on from."""


def track_annealing(
    learning_rate: Scalar | Schedule,
    *,
    beta1: float | None = None,
    beta2: float | None = None,
    eps: float | None = None,
    second_moment_scale: float | None = None,
) -> optax.GradientTransformation:
    r"""Leaves updates as they are and keeps count, rate, S and M of the schedule in the optimiser's state.

    $S_t = \sum_{i \le t} \eta_i$ and M by the recursion of ``annealing_momentum``, one step for each update that is
    made: chained inside ``optax.MultiSteps`` or ``optax.apply_if_finite``, for each update that these let through.
    Sums are compensated, and drops of an fmjax schedule's rate come from its formula, so float32 loses no digits. If
    the schedule changes in the middle of a run, the next drop is the one from the rate before to the new one.

    Args:
      learning_rate: what the optimiser takes: a schedule, a number, or the array that ``optax.inject_hyperparams``
        gives.
      beta1: decay of the first moment per update; None, here and below, is the default of ``annealing_momentum``
        (and, unlike a number, nothing that ``optax.inject_hyperparams`` would round to float32).
      beta2: decay of the second moment per update.
      eps: added inside and outside the root.
      second_moment_scale: scale of the second moment.

    Returns:
      An Optax transformation, to be chained to the optimiser; ``annealing_state`` reads what it keeps.

    Reference: arXiv 2512.13705.

    >>> from fmjax import WSD
    >>> schedule = WSD(peak_lr=0.1, total_steps=10, anneal_ratio=0.5)
    >>> optimizer = optax.chain(optax.adamw(schedule), track_annealing(schedule))
    >>> state = optimizer.init(jnp.ones(3))
    >>> for _ in range(10):
    ...     _, state = optimizer.update(jnp.ones(3), state, jnp.ones(3))
    >>> found = annealing_state(state)
    >>> int(found.count), round(float(found.S), 6), round(float(found.lr), 6)
    (10, 0.8, 0.02)
    """
    given = {"beta1": beta1, "beta2": beta2, "eps": eps, "second_moment_scale": second_moment_scale}
    chosen = {name: value for name, value in given.items() if value is not None}
    options = momentum_options(**{**(annealing_momentum.__kwdefaults__ or {}), **chosen})

    def init(params: optax.Params) -> TrackAnnealingState:
        zero = jnp.zeros((), float)
        return TrackAnnealingState(jnp.zeros((), jnp.int32), zero, zero, zero, zero, momentum_init(zero.dtype))

    def update(
        updates: optax.Updates, state: TrackAnnealingState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, TrackAnnealingState]:
        made = _update(learning_rate, state.count, state.lr)
        forward = forward_step(Sum(state.S, state.lost), made)
        moments = momentum_step(state.moments, made, **options)
        count = optax.safe_increment(state.count)
        return updates, TrackAnnealingState(
            count, jnp.asarray(made.lr), forward.total, moments.total.total, forward.lost, moments
        )

    return optax.GradientTransformation(init, update)


def _update(learning_rate: Scalar | Schedule, count: jax.Array, before: jax.Array) -> Update:
    """Rate and drop of update ``count``, when the update before was made at the rate ``before``."""
    if not callable(learning_rate):
        lr = jnp.asarray(learning_rate, before.dtype)
        return Update(lr, jnp.where(count > 0, before - lr, 0.0))
    lr = jnp.asarray(learning_rate(count), before.dtype)
    drop = jnp.where(count > 0, before - lr, 0.0)
    if hasattr(learning_rate, "drop"):
        expected = jnp.asarray(learning_rate(count - 1), before.dtype)
        exact = jnp.asarray(learning_rate.drop(count), before.dtype)
        drop = jnp.where(jnp.abs(expected - before) <= SAME_RATE * before, exact, drop)
    return Update(lr, drop)


def annealing_state(state: Real) -> TrackAnnealingState:
    """What ``track_annealing`` keeps, found in an optimiser's state however deep; for logging, also under ``jit``.

    Args:
      state: state of an optimiser, or anything that holds one, such as a train state.

    Raises:
      ValueError: there is no ``track_annealing`` in it, or more than one.
    """
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, TrackAnnealingState))
    found = [leaf for leaf in leaves if isinstance(leaf, TrackAnnealingState)]
    require(len(found) == 1, f"expected one track_annealing in the optimiser's state, found {len(found)}")
    return found[0]
