"""``intrinsic-momentum``: the noise of the rate, remembered in the schedule's own time S."""

import dataclasses
import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax.effects.updates import Sum, Update, plus
from fmjax.laws.base import Ahead, Coefficient, Exponent, Law, Option, Row, register, safe_log, stack
from fmjax.laws.memory import empty, memories, spread_over_levels

FORGETTING_RATES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Rates r at which the noise is forgotten, per unit of the sum of learning rates."""

LOG_RATE_LEVELS = np.log(1e-7) + 0.4 * np.arange(42)
"""Logarithms of the learning rates at which effects are kept while rho or xi is open, from 1e-7 to 1.3."""

RHO = Exponent("rho", 0.2, 1.0, (0.5, 0.7, 0.9))
"""At most 1: an update does not get further than in proportion to its rate."""

XI = Exponent("xi", 0.1, 1.5, (0.4, 0.6, 0.8))
ALPHA_STARTS = (0.2, 0.3, 0.4, 0.5, 0.65, 0.8)

REFERENCE = {"rho": 0.8, "xi": 0.625}
"""Exponents for which the levels are exact."""


class IntrinsicMomentumState(NamedTuple):
    """Sum of the rate's powers, and the noise remembered at each of ``FORGETTING_RATES``.

    Both have a column for each of ``LOG_RATE_LEVELS`` where the powers are open.
    """

    forward: Sum
    noise: Sum


@register
@dataclass(frozen=True)
class IntrinsicMomentum(Law):
    r"""$L = L_0 + A S^{-\alpha} + B N^{-\beta} + \sum_j (c_j + d_j S^{-\alpha}) E_j$, with $c, d \ge 0$.

    $E_j \leftarrow E_j + (1 - e^{-r_j \eta})(\eta^\xi - E_j)$ with $E_j = 0$ before the first update, for rates $r_j$
    of ``FORGETTING_RATES``, and $S = 10^{-3} \sum (\eta / 10^{-3})^\rho$. The exponents rho and xi are fitted as alpha
    is.

    At its limits: at a constant rate every $E_j$ tends to $\eta^\xi$, so the loss of a very long run tends to the noise
    floor $L_0 + \sum_j c_j \eta^\xi$ of its rate; when the rate falls, $E_j$ falls with it over $1/r_j$ of the sum of
    rates; at a rate of zero S and every $E_j$ stand still, and so does the loss.

    What it takes: two curves with a long anneal, or a stepwise one, among them. A constant rate and one short anneal
    leave it open, which the fit's status says. Runs of one peak rate cannot tell rho; rho stays at most 1.

    What is whose: the sum of rates as a clock and a power law in it are of arXiv 2408.11029, memory of the rate in that
    clock is of arXiv 2503.12811 and 2509.19189. Ours are noise floors $\eta^\xi$ in place of drops of the rate, the
    non-negative mixture of memories, the term that fades with S, and the exponent rho.

    Args:
      rho: exponent on the rate in S; None fits it, or with one peak rate, from which it cannot be told, takes 1.
      xi: exponent on the rate in E; None fits it.
    """

    name: ClassVar[str] = "intrinsic-momentum"
    tunable: ClassVar[tuple[Option, ...]] = (Option("rho", 0.3, 1.5), Option("xi", 0.1, 1.5))
    rho: Any = None
    xi: Any = None

    def suited_to(self, peak_lrs: Set[float]) -> "IntrinsicMomentum":
        one = len(peak_lrs) == 1 and self.rho is None
        return dataclasses.replace(self, rho=1.0) if one else self

    def settled(self, vector: np.ndarray) -> tuple["IntrinsicMomentum", np.ndarray]:
        values: dict[str, Any] = {
            name: float(x) for name, x in zip(self.parameter_names, vector, strict=True) if name in REFERENCE
        }
        kept = [name not in values for name in self.parameter_names]
        return dataclasses.replace(self, **values), vector[np.array(kept)]

    @property
    def blocks(self) -> bool:  # type: ignore[override]
        """Levels of an open exponent have kinks of their own, so blocks are for closed exponents."""
        return self.rho is not None and self.xi is not None

    @property
    def coefficients(self) -> tuple[Coefficient, ...]:
        names = [f"{kind}{rate:g}" for kind in "cd" for rate in FORGETTING_RATES]
        return (*super().coefficients, *(Coefficient(name, 0.0, mixture=True) for name in names))

    @property
    def exponents(self) -> tuple[Exponent, ...]:
        alpha, *size = super().exponents
        open_ = [exponent for exponent, value in ((RHO, self.rho), (XI, self.xi)) if value is None]
        return (alpha._replace(starts=ALPHA_STARTS) if open_ else alpha, *size, *open_)

    def init(self, dtype: Any) -> IntrinsicMomentumState:
        shapes = [() if exponent is not None else LOG_RATE_LEVELS.shape for exponent in (self.rho, self.xi)]
        return IntrinsicMomentumState(empty(dtype, *shapes[0]), empty(dtype, len(FORGETTING_RATES), *shapes[1]))

    def step(self, state: IntrinsicMomentumState, update: Update) -> IntrinsicMomentumState:
        forward = plus(state.forward, update.sum(update.each(self._forward, update.lr)))
        rates = jnp.asarray(FORGETTING_RATES, state.noise.total.dtype)
        return IntrinsicMomentumState(forward, update.relax(state.noise, rates, self._noise))

    def _forward(self, lr: Any) -> jax.Array:
        """What an update adds to S."""
        return 1e-3 * _power(lr, 1e-3, "rho", self.rho)

    def _noise(self, lr: Any) -> jax.Array:
        """The noise floor of a rate."""
        return _power(lr, 1.0, "xi", self.xi)

    def observe(self, state: IntrinsicMomentumState) -> Row:
        return {"S": state.forward.total, "E": state.noise.total}

    def effects(self, lrs: jax.Array, at: jax.Array, warmup_steps: Any = 0) -> Row:
        if self.rho is not None and self.xi is not None:
            return super().effects(lrs, at, warmup_steps)
        updates = self.counted(lrs, warmup_steps)
        forward = memories(updates, at, (0.0,), lambda lr, *_: jnp.atleast_1d(self._forward(lr)), kernel="after")
        noise = memories(updates, at, FORGETTING_RATES, lambda lr, *_: jnp.atleast_1d(self._noise(lr)), kernel="level")
        return {
            "S": forward[:, 0] if self.rho is None else forward[:, 0, 0],
            "E": noise if self.xi is None else noise[..., 0],
        }

    def final_basis(
        self, lrs: jax.Array, last: jax.Array, log_n: jax.Array, exponents: jax.Array, warmup_steps: Any = 0
    ) -> jax.Array:
        if self.rho is None or self.xi is None:
            return super().final_basis(lrs, last, log_n, exponents, warmup_steps)
        seen, rates = Ahead.of(self.counted(lrs, warmup_steps), last), jnp.asarray(FORGETTING_RATES, lrs.dtype)[:, None]
        kept = -jnp.exp(-rates * seen.since[None, :]) * jnp.expm1(-rates * seen.lr[None, :])
        row = {"S": jnp.sum(self._forward(seen.lr)), "E": kept @ self._noise(seen.lr), "log_N": log_n}
        return self.basis(row, exponents)

    def basis(self, row: Row, exponents: jax.Array) -> jax.Array:
        open_ = dict(zip((exponent.name for exponent in self.exponents), exponents, strict=True))
        forward = _read(row["S"], 1e-3, "rho", open_)
        noise = _read(row["E"], 1.0, "xi", open_)
        powers = self.powers(row, safe_log(forward), exponents)
        return stack(*powers, *noise, *(powers[1] * noise))


def _power(lr: Any, unit: float, name: str, exponent: Any) -> jax.Array:
    """(lr / unit)^exponent, zero at lr = 0; of an open exponent, its share of each of ``LOG_RATE_LEVELS``."""
    log_lr = jnp.log(jnp.where(lr > 0, lr, 1.0))
    known = REFERENCE[name] if exponent is None else exponent
    power = jnp.where(lr > 0, jnp.exp(known * (log_lr - math.log(unit))), 0.0)
    return power * spread_over_levels(log_lr, LOG_RATE_LEVELS) if exponent is None else power


def _read(effect: jax.Array, unit: float, name: str, open_: dict[str, Any]) -> jax.Array:
    """The effect of an open exponent, kept by levels, for its value."""
    if name not in open_:
        return effect
    levels = jnp.asarray(LOG_RATE_LEVELS - math.log(unit), effect.dtype)
    return effect @ jnp.exp((open_[name] - REFERENCE[name]) * levels)
