"""Rollout: the effects of a schedule after its last update, without storing a rate or an effect on the way.

Next to a kink of the schedule a law's recursion runs update by update; away from kinks it runs in blocks.
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.effects.updates import Block, One, nodes_of
from fmjax.laws import Law, Row
from fmjax.schedules.anneals import DECAYS, Anneal, Joined
from fmjax.schedules.kinds import Constant, Schedule

BLOCK_SIZES = (1, 32, 256)
"""Updates taken at once."""

MARGIN = 4
"""A block keeps this many times its size away from the kink before it, while what remembers the kink fades."""

LEAST_PIECES = (1, 1024, 4096)
"""Updates that a piece between kinks must have for blocks of each size; a shorter one is too curved for them."""

TAIL = 16
"""Updates before a kink or the end that run one by one: powers of rates near zero are steep."""

ROLLOUT_UNROLL = 4
"""Updates per iteration of the compiled loops."""


class Rates(Protocol):
    """What a rollout needs of a schedule."""

    def __call__(self, count: Any) -> jax.Array:
        """Learning rate of update ``count``."""

    def drop(self, count: Any) -> jax.Array:
        """Rate of the update before minus that of update ``count``."""


def final_effects(law: Law, schedule: Schedule, *, dtype: Any = "float64") -> Row:
    """Effects of a schedule after its last update, as scalars.

    Exact next to kinks and for schedules without known kinks (``Tabulated``); elsewhere blocks of updates are summed
    by quadrature, in float64 to about 1e-8 of S, 5e-8 of E and 1e-6 of M, S2 and of the loss's
    terms that are read from memories. In float32 sums are compensated and drops of the rate computed without
    cancellation: 1e-5 of S, E, M and S2 also after 1e6 updates.

    Args:
      law: the law; its effects are computed, not its loss.
      schedule: the schedule.
      dtype: "float64" or "float32".

    >>> from fmjax import WSD, ForwardMomentum
    >>> effects = final_effects(ForwardMomentum(), WSD(peak_lr=1e-3, total_steps=1000))
    >>> round(float(np.exp(effects["log_S"])), 4)
    0.9005
    """
    with jax.enable_x64(True):
        return {key: np.asarray(value) for key, value in _final_effects(law, schedule, dtype=dtype).items()}


@partial(jax.jit, static_argnames=("dtype",))
def _final_effects(law: Law, schedule: Schedule, *, dtype: Any) -> Row:
    last = jnp.minimum(schedule.warmup_steps, schedule.total_steps - 1)
    rates = counted(law, schedule, last)
    end, kinks = jnp.asarray(schedule.total_steps).astype(jnp.int32), schedule.kinks
    blocks = law.blocks and kinks is not None
    return law.observe(follow(law, law.init(dtype), rates, 0, end, (0, *(kinks or ())), dtype, end=end, blocks=blocks))


class Branches(NamedTuple):
    """Anneals of different lengths that leave one stem, sorted by their start, the earliest first."""

    start: Any
    """``[groups, branches]`` whole part of the update after which the anneal begins."""
    fraction: Any
    """``[groups, branches]`` the rest of it."""
    length: Any
    """``[groups, branches]`` updates of the anneal, A = R T."""


def branch_effects(
    law: Law, peak_lr: Any, final_lr: Any, branches: Branches, run: "Run", *, decay: str, dtype: Any, share: bool
) -> Row:
    """Effects after the last update of every branch of one peak rate, each ``[groups, branches]``; under ``jit``.

    The stem (warmup, then the peak rate) is followed once; each group of branches leaves it where its first anneal
    begins.

    Args:
      law: the law.
      peak_lr: peak rate.
      final_lr: rate the anneals end at.
      branches: the anneals; where one overlaps the warmup, the smaller rate holds.
      run: what all share.
      decay: shape of the anneals, one of ``DECAYS``.
      dtype: dtype of rates and states.
      share: False follows the stem anew for every branch.
    """
    held, warmup = law.warmup == "as-peak", jnp.asarray(run.warmup_steps).astype(jnp.int32)
    warm = Constant(peak_lr, run.total_steps, run.warmup_steps, run.init_lr)
    flat = dataclasses.replace(warm, warmup_steps=0) if held else warm
    stem = flat if held else counted(law, warm, warmup)

    def reach(carry: tuple[Any, Any], start: Any) -> tuple[Any, Any]:
        # held at the rate of the warmup's end, a run that anneals before that end has nothing of the stem
        until = jnp.where(start < warmup, 0, start) if held else start
        until = until if share else jnp.zeros_like(start)
        kinks, end = (0, flat.warmup_steps), run.total_steps
        return until, follow(law, carry[1], stem, carry[0], until, kinks, dtype, end=end, blocks=law.blocks)

    def anneal(state: Any, left: Any, branch: Branches) -> Row:
        falling = Anneal(DECAYS[decay], peak_lr, final_lr, 0, branch.fraction, branch.length)
        joined = Joined(warm, falling._replace(start=branch.start))
        rates = counted(law, joined, jnp.minimum(warmup, run.total_steps - 1))
        warmed = jnp.clip(warmup + 1, left, run.total_steps)  # the update after warmup still sees a rise
        state = _advance(law, rates, dtype, 1, left, warmed - left, state, unroll=1)
        # from here on counted from the start of the anneal, for float32
        kink, begin, stop = (at - branch.start for at in (warmup, warmed, run.total_steps))
        state = follow(law, state, falling, begin, stop, (kink, 0), dtype, end=stop, blocks=law.blocks)
        return law.observe(state)

    def group(carry: tuple[Any, Any], part: Branches) -> tuple[tuple[Any, Any], Row]:
        left, state = carry = reach(carry, part.start[0])
        if part.start.size > 1:
            return carry, jax.vmap(anneal, in_axes=(None, None, 0))(state, left, part)
        one = jax.tree.map(lambda x: x[0], part)  # what all lanes share stays a scalar
        return carry, jax.tree.map(lambda x: x[None], anneal(state, left, one))

    return jax.lax.scan(group, (jnp.zeros((), jnp.int32), law.init(dtype)), branches)[1]


def counted(law: Law, schedule: Rates, warmup_steps: Any) -> Rates:
    """A schedule as the law counts it, by its ``warmup``; as ``Law.counted`` for rates that are never stored."""
    if law.warmup == "as-peak":
        return Held(schedule, warmup_steps)
    return WithoutRise(schedule, warmup_steps) if law.warmup == "without-rise" else schedule


class WithoutRise(NamedTuple):
    """A schedule whose rise over warmup counts as no drop of the rate."""

    schedule: Rates
    warmup_steps: Any

    def __call__(self, count: Any) -> jax.Array:
        """Learning rate of update ``count``."""
        return self.schedule(count)

    def drop(self, count: Any) -> jax.Array:
        """Rate of the update before minus that of update ``count``, from the end of warmup on."""
        return jnp.where(count > self.warmup_steps, self.schedule.drop(count), 0.0)


class Held(NamedTuple):
    """A schedule with its warmup counted as if at the rate of the warmup's end."""

    schedule: Rates
    warmup_steps: Any

    def __call__(self, count: Any) -> jax.Array:
        """Learning rate of update ``count``."""
        return self.schedule(jnp.maximum(count, self.warmup_steps))

    def drop(self, count: Any) -> jax.Array:
        """Rate of the update before minus that of update ``count``."""
        return jnp.where(count > self.warmup_steps, self.schedule.drop(count), 0.0)


class Run(NamedTuple):
    """What the branches of a stem share."""

    total_steps: Any
    warmup_steps: Any
    init_lr: Any


def follow(
    law: Law,
    state: Any,
    schedule: Rates,
    start: Any,
    stop: Any,
    kinks: tuple[Any, ...],
    dtype: Any,
    *,
    end: Any,
    blocks: bool,
) -> Any:
    """State after the updates ``start ... stop - 1``, for use under ``jit``.

    Args:
      law: the law.
      state: its state before ``start``.
      schedule: the rates.
      start: first update.
      stop: update after the last one; nothing happens where it is not after ``start``.
      kinks: updates after which the rate, or what the state remembers of it, is not smooth; 0 among them.
      end: where the last smooth piece ends, at or after ``stop``.
      dtype: dtype of rates and state.
      blocks: whether to run blocks away from kinks.
    """
    kinks_ = jnp.sort(jnp.stack([jnp.floor(jnp.asarray(kink, float)).astype(jnp.int32) for kink in kinks]))
    loops = [partial(_advance, law, schedule, dtype, size) for size in (BLOCK_SIZES if blocks else BLOCK_SIZES[:1])]

    def phase(state: Any, part: Any) -> tuple[Any, None]:
        level, first, count = part
        return jax.lax.switch(level, loops, first, count, state), None

    parts = jax.vmap(block_phases if blocks else _whole, in_axes=(0, 0, None, None))(
        kinks_, jnp.append(kinks_[1:], end), start, stop
    )
    return jax.lax.scan(phase, state, jax.tree.map(jnp.ravel, parts))[0]


def block_phases(kink: Any, following: Any, start: Any, stop: Any) -> tuple[Any, Any, Any]:
    """(level, first update, number of blocks) of the parts of a smooth piece: blocks grow, then shrink again."""
    at, last, length = jnp.clip(kink, start, stop), jnp.clip(following, start, stop), following - kink
    levels, reaches = [], []
    for level, until in (
        (0, kink + MARGIN * BLOCK_SIZES[1]),
        (1, kink + MARGIN * BLOCK_SIZES[2]),
        (2, following - BLOCK_SIZES[2]),
        (1, following - TAIL),
        (0, last),
    ):
        count = jnp.where(
            length >= LEAST_PIECES[level], jnp.maximum(jnp.minimum(until, last) - at, 0) // BLOCK_SIZES[level], 0
        )
        levels.append(level)
        reaches.append((at, count))
        at = at + count * BLOCK_SIZES[level]
    firsts, counts = zip(*reaches, strict=True)
    return jnp.array(levels, jnp.int32), jnp.stack(firsts), jnp.stack(counts)


def _whole(kink: Any, following: Any, start: Any, stop: Any) -> tuple[Any, Any, Any]:
    """The same, update by update."""
    first = jnp.clip(kink, start, stop)
    return jnp.zeros((), jnp.int32), first, jnp.clip(following, start, stop) - first


def _advance(
    law: Law,
    schedule: Rates,
    dtype: Any,
    size: int,
    first: Any,
    count: Any,
    state: Any,
    *,
    unroll: int = ROLLOUT_UNROLL,
) -> Any:
    """Takes ``count`` blocks of ``size`` updates from update ``first`` on."""
    nodes = nodes_of(size)

    def block(i: Any, state: Any) -> Any:
        at = [(first + i * size + node).astype(dtype) for node in nodes]
        rates, drops = tuple(map(schedule, at)), tuple(map(schedule.drop, at))
        return law.step(state, One(rates[0], drops[0]) if size == 1 else Block(rates, drops, size))

    def several(i: Any, state: Any) -> Any:
        for k in range(unroll):
            state = block(i * unroll + k, state)
        return state

    if size > 1 or unroll == 1:
        return jax.lax.fori_loop(0, count, block, state)
    state = jax.lax.fori_loop(0, count // unroll, several, state)
    return jax.lax.fori_loop(count // unroll * unroll, count, block, state)
