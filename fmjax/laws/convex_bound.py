"""``convex-bound``: the bound of convex optimisation on the last iterate's suboptimality."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from fmjax._types import Array, Dtype, Real
from fmjax.effects import recursions
from fmjax.effects.updates import Fading, Sum, Update
from fmjax.effects.weighted import WeightedUpdates
from fmjax.laws.base import Ahead, Law, Row, register, safe_log, stack
from fmjax.laws.memory import INVERSE, MEMORY_RATES, empty, memories, remember
from fmjax.laws.terms import Coefficient, Exponent


class ConvexBoundState(NamedTuple):
    """S, the squares of all rates but the last remembered at each rate of forgetting, and the last rate."""

    forward: Sum
    memory: Sum
    lr: jax.Array


@register
@dataclass(frozen=True)
class ConvexBound(Law):
    r"""$L = L_0 + \frac{D^2}{2 S_t} + \frac{G^2}{2} (\eta_t + \sum_{k < t} \frac{\eta_k^2}{S_t - S_k}) + B N^{-\beta}$.

    The bound of ``effects.recursions.convex_bound`` with an offset, fitted by its coefficients D2 and G2; the size term
    is our addition. The kernel 1/x is followed as a mixture of exponential memories.

    Reference: arXiv 2501.18965, theorem 3.1.
    """

    name: ClassVar[str] = "convex-bound"

    @property
    def coefficients(self) -> tuple[Coefficient, ...]:
        offset, _, *size = super().coefficients
        return (offset, *size, Coefficient("D2", 0.0), Coefficient("G2", 0.0))

    @property
    def exponents(self) -> tuple[Exponent, ...]:
        return super().exponents[1:]

    def init(self, dtype: Dtype) -> ConvexBoundState:
        return ConvexBoundState(Sum.zero(dtype), empty(dtype, MEMORY_RATES.size), jnp.zeros((), dtype))

    def step(self, state: ConvexBoundState, update: Update) -> ConvexBoundState:
        memory = remember(state.memory, update.lr, before=state.lr**2)
        return ConvexBoundState(recursions.forward_step(state.forward, update), memory, jnp.asarray(update.lr))

    def observe(self, state: ConvexBoundState) -> Row:
        noise = state.lr + jnp.asarray(INVERSE, state.lr.dtype) @ state.memory.total
        return {"log_S": safe_log(state.forward.total), "noise": noise}

    def row_effects(self, updates: WeightedUpdates, at: Array) -> Row:
        own = updates.lr[at]
        removed = jnp.asarray(own)[:, None] ** 2  # a row's own rate is not among the rates before it
        if updates.left is not None:
            # The row is the last update. Left out by its weight, it leaves no slope either: that of e^(-r x) at x = 0
            # is -r, up to 5e9, and would leave its rounding where it cancels.
            updates = updates._replace(weight=jnp.where(updates.left.updates > 0, updates.weight, 0.0))
            removed = jnp.zeros_like(removed)
        squares = memories(updates, at, MEMORY_RATES, lambda lr, *_: (lr**2)[None], fading=Fading.LATER)[..., 0]
        before = squares - removed
        noise = own + before @ jnp.asarray(INVERSE, before.dtype)
        return {"log_S": safe_log(updates.forward[at]), "noise": noise}

    def basis(self, row: Row, exponents: jax.Array) -> jax.Array:
        size = (jnp.exp(-exponents[0] * row["log_N"]),) if self.sizes else ()
        return stack(1.0, *size, 0.5 * jnp.exp(-row["log_S"]), 0.5 * row["noise"])

    def final_basis(
        self, lrs: jax.Array, last: jax.Array, log_n: jax.Array, exponents: jax.Array, warmup_steps: Real = 0
    ) -> jax.Array:
        seen = Ahead.of(self.counted(lrs, warmup_steps), last)
        before = jnp.arange(lrs.size) < last
        # as the mixture does, it stays finite where the last rates are zero
        shares = jnp.where(before, seen.lr**2, 0.0) / jnp.where(
            before, jnp.maximum(seen.since, 1 / MEMORY_RATES[-1]), 1.0
        )
        row = {"log_S": safe_log(seen.forward[-1]), "noise": seen.lr[last] + shares.sum(), "log_N": log_n}
        return self.basis(row, exponents)
