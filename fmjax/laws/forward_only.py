"""``forward-only``: a power law in the forward effect, blind to annealing. Baseline."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from fmjax import effects
from fmjax.laws.base import ALPHA, BETA, RHOS, Coefficient, Exponent, Law, Row, safe_log, stack


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ForwardOnly(Law):
    r"""$L = L_0 + A S^{-\alpha} + B N^{-\beta}$: only the sum of learning rates counts.

    Args:
      rho: exponent on the rate in S; None is the plain sum.

    Reference: the first two terms of arXiv 2408.11029, eq. 1.
    """

    name: ClassVar[str] = "forward-only"
    choices: ClassVar[dict[str, tuple[float, ...]]] = {"rho": RHOS}
    rho: Any = None

    @property
    def coefficients(self) -> tuple[Coefficient, ...]:
        size = (Coefficient("B", 0.0),) if self.sizes else ()
        return (Coefficient("L0", 0.0), Coefficient("A", 0.0), *size)

    @property
    def exponents(self) -> tuple[Exponent, ...]:
        return (ALPHA, BETA) if self.sizes else (ALPHA,)

    def init(self, dtype: Any) -> effects.ForwardState:
        return effects.forward_init(dtype)

    def step(self, state: effects.ForwardState, lr: Any) -> effects.ForwardState:
        return effects.forward_step(state, lr, rho=self.rho)

    def observe(self, state: effects.ForwardState) -> Row:
        return {"log_S": safe_log(state.total)}

    def basis(self, row: Row, exponents: jax.Array) -> jax.Array:
        size = (jnp.exp(-exponents[1] * row["log_N"]),) if self.sizes else ()
        return stack(1.0, jnp.exp(-exponents[0] * row["log_S"]), *size)
