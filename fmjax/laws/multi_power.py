"""``multi-power``: each change of the rate, remembered with a power law in the schedule's own time."""

from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._types import Real
from fmjax.effects.updates import Fading
from fmjax.laws.base import Ahead, Row, register, safe_log, stack
from fmjax.laws.memory import Remembering, forgotten, spread_over_levels
from fmjax.laws.terms import Coefficient, Exponent

LOG_DROP_LEVELS = np.log(1e-7) + 0.4 * np.arange(42)
"""Logarithms of the rates at which drops are kept, from 1e-7 to 1.3."""


@register
@dataclass(frozen=True)
class MultiPower(Remembering):
    r"""$L = L_0 + A S_t^{-\alpha} - B \sum_{k \le t} (\eta_{k-1} - \eta_k) (1 - (1 + a_k (S_t - S_{k-1}))^{-\beta})$.

    With $a_k = C \eta_k^{-\gamma}$. Where model sizes differ, $+ D N^{-\delta}$ (our addition).

    Followed as a mixture of exponential memories on a fixed grid: the loss agrees with the double sum to 1e-6.

    Reference: arXiv 2503.12811, eq. 3.
    """

    name: ClassVar[str] = "multi-power"
    columns: ClassVar[int] = LOG_DROP_LEVELS.size
    fading: ClassVar[Fading] = Fading.OWN
    size_term: ClassVar[tuple[str, str]] = ("D", "delta")
    warmup: str = field(default="without-rise", kw_only=True, metadata={"static": True})

    @property
    def coefficients(self) -> tuple[Coefficient, ...]:
        return (*super().coefficients, Coefficient("B", 0.0))

    @property
    def exponents(self) -> tuple[Exponent, ...]:
        return (
            *super().exponents,
            Exponent("C", 1e-4, 1e4, (0.1, 0.5, 2.0, 8.0, 32.0)),
            Exponent("beta", 0.05, 5.0, (0.3, 0.6, 1.0)),
            Exponent("gamma", -1.0, 2.0, (0.0, 0.3, 0.6, 0.9)),
        )

    def remembered(self, lr: Real, drop: Real, forward: Real) -> jax.Array:
        return spread_over_levels(safe_log(lr), LOG_DROP_LEVELS) * drop

    def basis(self, row: Row, exponents: jax.Array) -> jax.Array:
        scale, beta, gamma = exponents[-3:]
        weights = forgotten(jnp.log(scale) - gamma * jnp.asarray(LOG_DROP_LEVELS, exponents.dtype), beta)
        return stack(*self.powers(row, row["log_S"], exponents), -jnp.vdot(weights, row["memory"]))

    def final_basis(
        self, lrs: jax.Array, last: jax.Array, log_n: jax.Array, exponents: jax.Array, warmup_steps: Real = 0
    ) -> jax.Array:
        (scale, beta, gamma), seen = exponents[-3:], Ahead.of(self.counted(lrs, warmup_steps), last)
        log_lr = jnp.clip(safe_log(seen.lr), *(float(end) for end in LOG_DROP_LEVELS[[2, -3]]))
        grown = jnp.log1p(scale * jnp.exp(-gamma * log_lr) * (seen.since + seen.lr))
        annealed = jnp.vdot(seen.drop, jnp.expm1(-beta * grown))
        return stack(*self.powers({"log_N": log_n}, safe_log(seen.forward[-1]), exponents), annealed)
