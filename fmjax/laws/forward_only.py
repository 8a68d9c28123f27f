"""``forward-only``: a power law in the forward effect, blind to annealing. Baseline."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from fmjax._types import Array, Dtype, Real
from fmjax.effects import recursions
from fmjax.effects.updates import Sum, Update
from fmjax.effects.weighted import WeightedUpdates
from fmjax.laws.base import Law, Row, register, safe_log, scaled_log, stack
from fmjax.laws.terms import RATE_EXPONENT, Option


@register
@dataclass(frozen=True)
class ForwardOnly(Law):
    r"""$L = L_0 + A S^{-\alpha} + B N^{-\beta}$: only the sum of learning rates counts.

    Args:
      rho: exponent on the rate in S; None is the plain sum.

    Reference: the first two terms of arXiv 2408.11029, eq. 1.
    """

    name: ClassVar[str] = "forward-only"
    tunable: ClassVar[tuple[Option, ...]] = (RATE_EXPONENT,)
    rho: Real | None = None

    def init(self, dtype: Dtype) -> Sum:
        return Sum.zero(dtype)

    def step(self, state: Sum, update: Update) -> Sum:
        return recursions.forward_step(state, update, rho=self.rho)

    def observe(self, state: Sum) -> Row:
        return {"log_S": safe_log(state.total)}

    def row_effects(self, updates: WeightedUpdates, at: Array) -> Row:
        return {"log_S": safe_log(updates.total(recursions.forward_increment(updates.lr, self.rho), at))}

    def scaled(self, row: Row, factor: Real) -> Row:
        return {"log_S": scaled_log(row["log_S"], factor, self.rho)}

    def basis(self, row: Row, exponents: jax.Array) -> jax.Array:
        return stack(*self.powers(row, row["log_S"], exponents))
