"""``forward-momentum``: forward effect and Adam-style annealing momentum."""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax

from fmjax._types import Array, Dtype, Real
from fmjax.effects import recursions
from fmjax.effects.moments import momentum
from fmjax.effects.updates import Sum, Update
from fmjax.effects.weighted import WeightedUpdates
from fmjax.laws.base import Law, Row, register, safe_log, stack
from fmjax.laws.terms import PER_UPDATE, RATE_EXPONENT, Coefficient, Option


class ForwardMomentumState(NamedTuple):
    """S and M so far."""

    forward: Sum
    momentum: recursions.MomentumState


@register
@dataclass(frozen=True)
class ForwardMomentum(Law):
    r"""$L = L_0 + A S^{-\alpha} + B N^{-\beta} - C M$.

    Args:
      beta1: decay of M's first moment per update.
      beta2: decay of M's second moment per update.
      eps: added inside and outside the root of M's second moment.
      second_moment_scale: scale of M's second moment.
      rho: exponent on the rate in S; None is the plain sum, as published.

    Reference: arXiv 2512.13705.
    """

    name: ClassVar[str] = "forward-momentum"
    tunable: ClassVar[tuple[Option, ...]] = (
        Option("beta1", 0.5, 0.99999, (0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999), PER_UPDATE),
        Option("beta2", 0.5, 0.99999, (0.99, 0.999, 0.9999), PER_UPDATE),
        Option("eps", 1e-12, 1.0, (1e-8, 1e-6, 1e-5, 1e-4, 1e-3)),
        Option("second_moment_scale", 1e-3, 1e12),
        RATE_EXPONENT,
    )
    beta1: Real = 0.9
    beta2: Real = 0.999
    eps: Real = 1e-8
    second_moment_scale: Real = 1e5
    rho: Real | None = None
    warmup: str = field(default="without-rise", kw_only=True, metadata={"static": True})

    @property
    def coefficients(self) -> tuple[Coefficient, ...]:
        return (*super().coefficients, Coefficient("C"))

    def init(self, dtype: Dtype) -> ForwardMomentumState:
        return ForwardMomentumState(Sum.zero(dtype), recursions.momentum_init(dtype))

    def step(self, state: ForwardMomentumState, update: Update) -> ForwardMomentumState:
        return ForwardMomentumState(
            recursions.forward_step(state.forward, update, rho=self.rho),
            recursions.momentum_step(state.momentum, update, **self._options()),
        )

    def _options(self) -> dict[str, Real]:
        return recursions.momentum_options(self.beta1, self.beta2, self.eps, self.second_moment_scale)

    def observe(self, state: ForwardMomentumState) -> Row:
        return {"log_S": safe_log(state.forward.total), "M": state.momentum.total.total}

    @property
    def squares_rate(self) -> Real:
        return 1 - self.beta2

    def row_effects(self, updates: WeightedUpdates, at: Array) -> Row:
        forward = updates.total(recursions.forward_increment(updates.lr, self.rho), at)
        return {"log_S": safe_log(forward), "M": updates.total(momentum(updates, **self._options()), at)}

    def basis(self, row: Row, exponents: jax.Array) -> jax.Array:
        return stack(*self.powers(row, row["log_S"], exponents), -row["M"])
