"""``functional``: drops of the rate, weighed by when they come, remembered with a power law (FSL)."""

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

LOG_S_LEVELS = np.log(1e-7) + 0.65 * np.arange(40)
"""Logarithms of S at which drops are kept, from 1e-7 to 1e4."""


@register
@dataclass(frozen=True)
class Functional(Remembering):
    r"""$L = L_0 + A S_t^{-\alpha} - \sum_{i \le t} (\eta_{i-1} - \eta_i) (B + C S_i^{-\alpha}) (1 - (1 + \kappa (S_t - S_i))^{-\gamma})$.

    Published as $c_1 = A$, $s = \alpha$, $c_2 = C$, $c_2 c_3 = B$, $c_4 = \kappa$. Where model sizes differ,
    $+ D N^{-\delta}$ (our addition).

    Followed as a mixture of exponential memories on a fixed grid: the loss agrees with the double sum to 1e-6.

    Reference: arXiv 2509.19189, the functional scaling law.
    """  # noqa: E501 - one formula

    name: ClassVar[str] = "functional"
    columns: ClassVar[int] = 1 + LOG_S_LEVELS.size
    fading: ClassVar[Fading] = Fading.LATER
    size_term: ClassVar[tuple[str, str]] = ("D", "delta")
    warmup: str = field(default="without-rise", kw_only=True, metadata={"static": True})

    @property
    def coefficients(self) -> tuple[Coefficient, ...]:
        return (*super().coefficients, Coefficient("B", 0.0), Coefficient("C", 0.0))

    @property
    def exponents(self) -> tuple[Exponent, ...]:
        return (
            *super().exponents,
            Exponent("kappa", 1e-3, 1e5, (1.0, 10.0, 100.0, 1000.0)),
            Exponent("gamma", 0.05, 5.0, (0.3, 0.6, 1.0, 2.0)),
        )

    def remembered(self, lr: Real, drop: Real, forward: Real) -> jax.Array:
        log_s = jnp.clip(safe_log(forward), *(float(end) for end in LOG_S_LEVELS[[2, -3]]))
        # S^-1/2 is taken out, so that what is left to interpolate is flatter
        early = jnp.exp(-0.5 * log_s) * spread_over_levels(log_s, LOG_S_LEVELS)
        return jnp.concatenate([jnp.ones_like(log_s)[None], early]) * drop

    def basis(self, row: Row, exponents: jax.Array) -> jax.Array:
        alpha, (kappa, gamma) = exponents[0], exponents[-2:]
        levels = jnp.asarray(LOG_S_LEVELS, exponents.dtype)
        drops = forgotten(jnp.log(kappa), gamma) @ row["memory"]
        early = jnp.exp((0.5 - alpha) * levels) @ drops[1:]
        return stack(*self.powers(row, row["log_S"], exponents), -drops[0], -early)

    def final_basis(
        self, lrs: jax.Array, last: jax.Array, log_n: jax.Array, exponents: jax.Array, warmup_steps: Real = 0
    ) -> jax.Array:
        alpha, (kappa, gamma), seen = exponents[0], exponents[-2:], Ahead.of(self.counted(lrs, warmup_steps), last)
        log_s = jnp.clip(safe_log(seen.forward), *(float(end) for end in LOG_S_LEVELS[[2, -3]]))
        annealed = seen.drop * jnp.expm1(-gamma * jnp.log1p(kappa * seen.since))
        early = jnp.vdot(annealed, jnp.exp(-alpha * log_s))
        return stack(*self.powers({"log_N": log_n}, safe_log(seen.forward[-1]), exponents), annealed.sum(), early)
