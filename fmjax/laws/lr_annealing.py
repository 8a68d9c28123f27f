"""``lr-annealing``: forward area and annealing area (the "Tissue" law)."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from fmjax import effects
from fmjax.laws.base import ALPHA, BETA, RHOS, Coefficient, Exponent, Law, Row, safe_log, stack


class LRAnnealingState(NamedTuple):
    """S and S2 so far."""

    forward: effects.ForwardState
    area: effects.AreaState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LRAnnealing(Law):
    r"""$L = L_0 + A S^{-\alpha} + B N^{-\beta} - C S_2 N^{\gamma}$.

    Args:
      decay: lambda, decay of S2's memory per update.
      rho: exponent on the rate in S; None is the plain sum, as published.

    Reference: arXiv 2408.11029, eq. 1, and its extension to model sizes.
    """

    name: ClassVar[str] = "lr-annealing"
    choices: ClassVar[dict[str, tuple[float, ...]]] = {
        "decay": (0.9, 0.95, 0.98, 0.99, 0.995, 0.997, 0.998, 0.9985, 0.999, 0.9993, 0.9997),
        "rho": RHOS,
    }
    decay: Any = 0.999
    rho: Any = None

    @property
    def coefficients(self) -> tuple[Coefficient, ...]:
        size = (Coefficient("B", 0.0),) if self.sizes else ()
        return (Coefficient("L0", 0.0), Coefficient("A", 0.0), *size, Coefficient("C"))

    @property
    def exponents(self) -> tuple[Exponent, ...]:
        return (ALPHA, BETA, Exponent("gamma", -1.0, 1.0, (0.0, 0.2))) if self.sizes else (ALPHA,)

    def init(self, dtype: Any) -> LRAnnealingState:
        return LRAnnealingState(effects.forward_init(dtype), effects.area_init(dtype))

    def step(self, state: LRAnnealingState, lr: Any) -> LRAnnealingState:
        return LRAnnealingState(
            effects.forward_step(state.forward, lr, rho=self.rho),
            effects.area_step(state.area, lr, rate=1 - self.decay),
        )

    def observe(self, state: LRAnnealingState) -> Row:
        return {"log_S": safe_log(state.forward.total), "S2": effects.area_total(state.area, rate=1 - self.decay)}

    def basis(self, row: Row, exponents: jax.Array) -> jax.Array:
        power = jnp.exp(-exponents[0] * row["log_S"])
        if not self.sizes:
            return stack(1.0, power, -row["S2"])
        size = jnp.exp(-exponents[1] * row["log_N"])
        return stack(1.0, power, size, -row["S2"] * jnp.exp(exponents[2] * row["log_N"]))
