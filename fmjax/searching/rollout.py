r"""Rollout: the effects of a schedule after its last update, without storing a rate or an effect on the way.

A law's state is followed through the schedule. Where the rate has a kink (the end of warmup, the start of an anneal)
every update is taken by itself. Away from kinks the rate is smooth, and a block of updates is taken at once, from its
rates at a few nodes (``effects.updates.Block``). Blocks grow with the distance from the kink before them, because what
remembers the kink must have faded, and shrink before the next one::

    rate        ___________________________________
               /                                   \
              /                                      \
    updates  |1|1|1| 32 | 32 |   256   |   256   | 32 |1|1| 32 | 32 |1|1|
             kink                                     kink           end

A search tries many annealing ratios for each peak rate. Their schedules are alike until the anneal begins, so that the
warmup and the plateau, the *stem*, are followed once; each *branch* leaves the stem where its anneal begins::

    stem    ----------------+-------+-------+-------+
    branches                 \       \       \      \

Branches are sorted by their start and taken in groups. A group leaves the stem where its first anneal begins, and its
members, side by side under ``vmap``, take the few updates until their own start one by one.
"""

import dataclasses
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

import chex
import jax
import jax.numpy as jnp
import numpy as np

from fmjax._types import Dtype, Real
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

    def __call__(self, count: Real) -> jax.Array:
        """Learning rate of update ``count``."""

    def drop(self, count: Real) -> jax.Array:
        """Rate of the update before minus that of update ``count``."""


def final_effects(law: Law, schedule: Schedule, *, dtype: Dtype = "float64") -> Row:
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
def _final_effects(law: Law, schedule: Schedule, *, dtype: Dtype) -> Row:
    last = jnp.minimum(schedule.warmup_steps, schedule.total_steps - 1)
    rates = counted(law, schedule, last)
    end, kinks = jnp.asarray(schedule.total_steps).astype(jnp.int32), schedule.kinks
    stretch = Stretch(0, end, (0, *(kinks or ())), end, is_smooth=kinks is not None)
    return law.observe(follow(law, law.init(dtype), rates, stretch, dtype))


class Branches(NamedTuple):
    """Anneals of different lengths that leave one stem, sorted by their start, the earliest first."""

    start: Real
    """``[groups, branches]`` whole part of the update after which the anneal begins."""
    fraction: Real
    """``[groups, branches]`` the rest of it."""
    length: Real
    """``[groups, branches]`` updates of the anneal, A = R T."""


def branch_effects(
    law: Law, peak_lr: Real, final_lr: Real, branches: Branches, run: "Run", *, decay: str, dtype: Dtype, share: bool
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

    def reach(carry: Reached, start: jax.Array) -> Reached:
        # held at the rate of the warmup's end, a run that anneals before that end has nothing of the stem
        until = jnp.where(start < warmup, 0, start) if held else start
        until = until if share else jnp.zeros_like(start)
        stretch = Stretch(carry.update, until, (0, flat.warmup_steps), run.total_steps)
        return Reached(until, follow(law, carry.state, stem, stretch, dtype))

    def anneal(left: jax.Array, state: chex.ArrayTree, branch: Branches) -> Row:
        falling = Anneal(DECAYS[decay], peak_lr, final_lr, 0, branch.fraction, branch.length)
        joined = Joined(warm, falling._replace(start=branch.start))
        rates = counted(law, joined, jnp.minimum(warmup, run.total_steps - 1))
        warmed = jnp.clip(warmup + 1, left, run.total_steps)  # the update after warmup still sees a rise
        state = _advance(law, rates, dtype, 1, left, warmed - left, state, unroll=1)
        # from here on counted from the start of the anneal, for float32
        kink, begin, stop = (at - branch.start for at in (warmup, warmed, run.total_steps))
        return law.observe(follow(law, state, falling, Stretch(begin, stop, (kink, 0), stop), dtype))

    def group(carry: Reached, part: Branches) -> tuple[Reached, Row]:
        carry = reach(carry, jnp.asarray(part.start)[0])
        if jnp.size(part.start) > 1:
            return carry, jax.vmap(anneal, in_axes=(None, None, 0))(*carry, part)
        one = jax.tree.map(lambda x: x[0], part)  # what all lanes share stays a scalar
        return carry, jax.tree.map(lambda x: x[None], anneal(*carry, one))

    return jax.lax.scan(group, Reached(jnp.zeros((), jnp.int32), law.init(dtype)), branches)[1]


def counted(law: Law, schedule: Rates, warmup_steps: Real) -> Rates:
    """A schedule as the law counts it, by its ``warmup``; as ``Law.counted`` for rates that are never stored."""
    if law.warmup == "as-peak":
        return Held(schedule, warmup_steps)
    return WithoutRise(schedule, warmup_steps) if law.warmup == "without-rise" else schedule


class WithoutRise(NamedTuple):
    """A schedule whose rise over warmup counts as no drop of the rate."""

    schedule: Rates
    warmup_steps: Real

    def __call__(self, count: Real) -> jax.Array:
        """Learning rate of update ``count``."""
        return self.schedule(count)

    def drop(self, count: Real) -> jax.Array:
        """Rate of the update before minus that of update ``count``, from the end of warmup on."""
        return jnp.where(count > self.warmup_steps, self.schedule.drop(count), 0.0)


class Held(NamedTuple):
    """A schedule with its warmup counted as if at the rate of the warmup's end."""

    schedule: Rates
    warmup_steps: Real

    def __call__(self, count: Real) -> jax.Array:
        """Learning rate of update ``count``."""
        return self.schedule(jnp.maximum(count, self.warmup_steps))

    def drop(self, count: Real) -> jax.Array:
        """Rate of the update before minus that of update ``count``."""
        return jnp.where(count > self.warmup_steps, self.schedule.drop(count), 0.0)


class Run(NamedTuple):
    """What the branches of a stem share."""

    total_steps: Real
    warmup_steps: Real
    init_lr: Real


class Stretch(NamedTuple):
    """A stretch of a schedule, from one update to another."""

    start: Real
    """Its first update."""
    stop: Real
    """The update after its last one; a stretch is empty where this is not after ``start``."""
    kinks: tuple[Real, ...]
    """Updates after which the rate, or what the state remembers of it, is not smooth; 0 among them."""
    end: Real
    """Where the last smooth piece ends, at or after ``stop``."""
    is_smooth: bool = True
    """Whether the rate is smooth between kinks, so that updates can be taken in blocks."""


class Reached(NamedTuple):
    """How far a stem has been followed."""

    update: jax.Array
    """The update that comes next."""
    state: chex.ArrayTree
    """The law's state before it."""


def follow(law: Law, state: chex.ArrayTree, schedule: Rates, stretch: Stretch, dtype: Dtype) -> chex.ArrayTree:
    """The law's state after a stretch of a schedule, from that before it; for use under ``jit``."""
    blocks = law.blocks and stretch.is_smooth
    floors = [jnp.floor(jnp.asarray(kink, float)).astype(jnp.int32) for kink in stretch.kinks]
    kinks = jnp.sort(jnp.stack(floors))
    loops = [partial(_advance, law, schedule, dtype, size) for size in (BLOCK_SIZES if blocks else BLOCK_SIZES[:1])]

    def phase(state: chex.ArrayTree, part: BlockPhases) -> tuple[chex.ArrayTree, None]:
        level, first, count = part
        return jax.lax.switch(level, loops, first, count, state), None

    parts = jax.vmap(block_phases if blocks else _whole, in_axes=(0, 0, None, None))(
        kinks, jnp.append(kinks[1:], stretch.end), stretch.start, stretch.stop
    )
    return jax.lax.scan(phase, state, jax.tree.map(jnp.ravel, parts))[0]


BlockPhases: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]
"""``[phases]`` size of the blocks, as an index into ``BLOCK_SIZES``; first update; number of blocks."""


def block_phases(kink: Real, following: Real, start: Real, stop: Real) -> BlockPhases:
    """The parts of a smooth piece, from a kink to the following one: blocks grow, then shrink again."""
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


def _whole(kink: Real, following: Real, start: Real, stop: Real) -> BlockPhases:
    """The same, update by update."""
    first = jnp.clip(kink, start, stop)
    return jnp.zeros((), jnp.int32), first, jnp.clip(following, start, stop) - first


def _advance(
    law: Law,
    schedule: Rates,
    dtype: Dtype,
    size: int,
    first: jax.Array,
    count: jax.Array,
    state: chex.ArrayTree,
    *,
    unroll: int = ROLLOUT_UNROLL,
) -> chex.ArrayTree:
    """Takes ``count`` blocks of ``size`` updates from update ``first`` on."""
    nodes = nodes_of(size)

    def block(i: jax.Array, state: chex.ArrayTree) -> chex.ArrayTree:
        at = [(first + i * size + node).astype(dtype) for node in nodes]
        rates, drops = tuple(map(schedule, at)), tuple(map(schedule.drop, at))
        return law.step(state, One(rates[0], drops[0]) if size == 1 else Block(rates, drops, size))

    def several(i: jax.Array, state: chex.ArrayTree) -> chex.ArrayTree:
        for k in range(unroll):
            state = block(i * unroll + k, state)
        return state

    if size > 1 or unroll == 1:
        return jax.lax.fori_loop(0, count, block, state)
    state = jax.lax.fori_loop(0, count // unroll, several, state)
    return jax.lax.fori_loop(count // unroll * unroll, count, block, state)
