"""``chinchilla``: a power law in the number of updates, blind to the schedule. Baseline."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from fmjax._types import Array, Dtype, Real
from fmjax.effects.updates import Sum, Update, plus
from fmjax.effects.weighted import WeightedUpdates
from fmjax.laws.base import Law, Row, register, stack


@register
@dataclass(frozen=True)
class Chinchilla(Law):
    r"""$L = L_0 + A t^{-\alpha} + B N^{-\beta}$ after t updates, whatever their rates.

    Reference: arXiv 2203.15556, with updates for tokens.
    """

    name: ClassVar[str] = "chinchilla"

    def init(self, dtype: Dtype) -> Sum:
        return Sum.zero(dtype)

    def step(self, state: Sum, update: Update) -> Sum:
        return plus(state, 1.0)

    def observe(self, state: Sum) -> Row:
        return {"log_t": jnp.log(state.total)}

    def row_effects(self, updates: WeightedUpdates, at: Array) -> Row:
        return {"log_t": jnp.log(updates.update[at] + 1)}

    def scaled(self, row: Row, factor: Real) -> Row:
        return row

    def basis(self, row: Row, exponents: jax.Array) -> jax.Array:
        return stack(*self.powers(row, row["log_t"], exponents))
