"""``chinchilla``: a power law in the number of updates, blind to the schedule. Baseline."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from fmjax.laws.base import ALPHA, BETA, Coefficient, Exponent, Law, Row, stack


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Chinchilla(Law):
    r"""$L = L_0 + A t^{-\alpha} + B N^{-\beta}$ after t updates, whatever their rates.

    Reference: arXiv 2203.15556, with updates for tokens.
    """

    name: ClassVar[str] = "chinchilla"

    @property
    def coefficients(self) -> tuple[Coefficient, ...]:
        size = (Coefficient("B", 0.0),) if self.sizes else ()
        return (Coefficient("L0", 0.0), Coefficient("A", 0.0), *size)

    @property
    def exponents(self) -> tuple[Exponent, ...]:
        return (ALPHA, BETA) if self.sizes else (ALPHA,)

    def init(self, dtype: Any) -> jax.Array:
        return jnp.zeros((), dtype)

    def step(self, state: jax.Array, lr: Any) -> jax.Array:
        return state + 1

    def observe(self, state: jax.Array) -> Row:
        return {"log_t": jnp.log(state)}

    def basis(self, row: Row, exponents: jax.Array) -> jax.Array:
        size = (jnp.exp(-exponents[1] * row["log_N"]),) if self.sizes else ()
        return stack(1.0, jnp.exp(-exponents[0] * row["log_t"]), *size)
