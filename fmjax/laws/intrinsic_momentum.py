"""``intrinsic-momentum``: the noise of the rate, remembered in the schedule's own time S."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from fmjax import effects
from fmjax.laws.base import Coefficient, Law, Row, safe_log, stack
from fmjax.updates import One, Sum, Update, plus

RATES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Rates r at which the noise is forgotten, per unit of the sum of learning rates."""


class IntrinsicMomentumState(NamedTuple):
    """S and the noise E remembered at each of ``RATES`` so far."""

    forward: Sum
    noise: tuple[Sum, ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IntrinsicMomentum(Law):
    r"""$L = L_0 + A S^{-\alpha} + B N^{-\beta} + \sum_j (c_j + d_j S^{-\alpha}) E_j$, with $c, d \ge 0$.

    $E_j \leftarrow E_j + (1 - e^{-r_j \eta})(\eta^\xi - E_j)$ with $E_j = 0$ before the first update, for rates $r_j$
    of ``RATES``, and $S = 10^{-3} \sum (\eta / 10^{-3})^\rho$. At a constant rate every $E_j$ tends to $\eta^\xi$, the
    noise floor of that rate; when the rate falls, each falls with it over $1/r_j$ of the sum of rates.

    Args:
      rho: exponent on the rate in S.
      xi: exponent on the rate in E.
    """

    name: ClassVar[str] = "intrinsic-momentum"
    choices: ClassVar[dict[str, tuple[float, ...]]] = {
        "rho": (0.6, 0.7, 0.8, 0.9, 1.0),
        "xi": (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0),
    }
    rho: Any = 0.8
    xi: Any = 0.625

    @property
    def coefficients(self) -> tuple[Coefficient, ...]:
        names = [f"{kind}{rate:g}" for kind in "cd" for rate in RATES]
        return (*super().coefficients, *(Coefficient(name, 0.0, mixture=True) for name in names))

    def init(self, dtype: Any) -> IntrinsicMomentumState:
        return IntrinsicMomentumState(Sum.zero(dtype), tuple(Sum.zero(dtype) for _ in RATES))

    def step(self, state: IntrinsicMomentumState, update: Update) -> IntrinsicMomentumState:
        assert isinstance(update, One)  # ``blocks`` is not set
        lr = update.lr
        safe = jnp.where(lr > 0, lr, 1.0)
        level = jnp.where(lr > 0, jnp.exp(self.xi * jnp.log(safe)), 0.0)
        noise = tuple(
            plus(noise, -jnp.expm1(-rate * lr) * (level - noise.total))
            for rate, noise in zip(RATES, state.noise, strict=True)
        )
        return IntrinsicMomentumState(effects.forward_step(state.forward, update, rho=self.rho), noise)

    def observe(self, state: IntrinsicMomentumState) -> Row:
        noise = {f"E{rate:g}": noise.total for rate, noise in zip(RATES, state.noise, strict=True)}
        return {"log_S": safe_log(state.forward.total), **noise}

    def basis(self, row: Row, exponents: jax.Array) -> jax.Array:
        powers = self.powers(row, row["log_S"], exponents)
        noise = [row[f"E{rate:g}"] for rate in RATES]
        return stack(*powers, *noise, *(powers[1] * level for level in noise))
