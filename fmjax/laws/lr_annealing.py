"""``lr-annealing``: forward area and annealing area (the "Tissue" law)."""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from fmjax._types import Array, Dtype, Real
from fmjax.effects import recursions
from fmjax.effects.updates import Fading, Sum, Update
from fmjax.effects.weighted import WeightedUpdates
from fmjax.laws.base import Law, Row, register, safe_log, scaled_log, stack
from fmjax.laws.memory import memories
from fmjax.laws.terms import PER_UPDATE, RATE_EXPONENT, Coefficient, Exponent, Option

DECAYS_TRIED = (0.9, 0.95, 0.98, 0.99, 0.995, 0.997, 0.998, 0.9985, 0.999, 0.9993, 0.9997)
"""Values of lambda that ``select`` tries."""

GAMMA = Exponent("gamma", -1.0, 1.0, (0.0, 0.2))


class LRAnnealingState(NamedTuple):
    """S and S2 so far."""

    forward: Sum
    area: recursions.AreaState


@register
@dataclass(frozen=True)
class LRAnnealing(Law):
    r"""$L = L_0 + A S^{-\alpha} + B N^{-\beta} - C S_2 N^{\gamma}$.

    Args:
      decay: lambda, decay of S2's memory per update.
      rho: exponent on the rate in S; None is the plain sum, as published.

    Reference: arXiv 2408.11029, eq. 1, and its extension to model sizes.
    """

    name: ClassVar[str] = "lr-annealing"
    tunable: ClassVar[tuple[Option, ...]] = (
        Option("decay", 0.5, 0.99999, DECAYS_TRIED, PER_UPDATE),
        RATE_EXPONENT,
    )
    decay: Real = 0.999
    rho: Real | None = None
    warmup: str = field(default="without-rise", kw_only=True, metadata={"static": True})

    @property
    def coefficients(self) -> tuple[Coefficient, ...]:
        return (*super().coefficients, Coefficient("C"))

    @property
    def exponents(self) -> tuple[Exponent, ...]:
        return (*super().exponents, GAMMA) if self.sizes else super().exponents

    def init(self, dtype: Dtype) -> LRAnnealingState:
        return LRAnnealingState(Sum.zero(dtype), recursions.area_init(dtype))

    def step(self, state: LRAnnealingState, update: Update) -> LRAnnealingState:
        return LRAnnealingState(
            recursions.forward_step(state.forward, update, rho=self.rho),
            recursions.area_step(state.area, update, rate=1 - self.decay),
        )

    def observe(self, state: LRAnnealingState) -> Row:
        return {"log_S": safe_log(state.forward.total), "S2": recursions.area_total(state.area, rate=1 - self.decay)}

    def row_effects(self, updates: WeightedUpdates, at: Array) -> Row:
        rate = jnp.asarray(1 - self.decay, updates.lr.dtype)
        # S2 is the sum of (1 - lambda^(n + 1)) / (1 - lambda) drop over updates, n updates after each
        pace = -jnp.maximum(jnp.log1p(-rate), -700.0)[None]
        if updates.left is None:
            forgotten = memories(updates.clock, at, pace, lambda _, drop, *__: drop[None], fading=Fading.OWN)[:, 0, 0]
            area = updates.total(updates.drop, at) - forgotten
        else:
            area = updates.total(-jnp.expm1(-pace * (updates.left.updates + 1)) * updates.drop, at)
        forward = updates.total(recursions.forward_increment(updates.lr, self.rho), at)
        return {"log_S": safe_log(forward), "S2": area / rate}

    def scaled(self, row: Row, factor: Real) -> Row:
        return {"log_S": scaled_log(row["log_S"], factor, self.rho), "S2": row["S2"] * factor}

    def basis(self, row: Row, exponents: jax.Array) -> jax.Array:
        scale = jnp.exp(exponents[2] * row["log_N"]) if self.sizes else 1.0
        return stack(*self.powers(row, row["log_S"], exponents), -row["S2"] * scale)
