"""Effects: what a loss-curve law sees of a learning-rate schedule.

Written for one schedule, ``lrs[T] -> [T]``, with no batch axis: batch with ``jax.vmap``. Every recursion is a state, an
``init`` and a ``step`` for one update, so that laws can run it over rates that are never stored. All follow the dtype
of their input.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from fmjax._types import Dtype, Real
from fmjax.effects.updates import Sum, Update, averaged, plus

S = TypeVar("S")
"""State of a recursion."""

UNROLL = 8
"""Updates per iteration of the compiled loops."""


def forward_step(total: Sum, update: Update, *, rho: Real | None = None) -> Sum:
    """S_t = S_{t-1} + 1e-3 (lr_t / 1e-3)^rho."""
    return plus(total, forward_increment(update.lr, rho))


def forward_increment(lr: Real, rho: Real | None) -> Real:
    """1e-3 (lr / 1e-3)^rho, with zero value and slope at lr = 0."""
    if rho is None:
        return lr
    safe = jnp.where(lr > 0, lr, 1.0)
    return jnp.where(lr > 0, 1e-3 * jnp.exp(rho * jnp.log(safe / 1e-3)), 0.0)  # vectorised, unlike a power


class MomentumState(NamedTuple):
    """State of the annealing momentum; ``weight1`` is 1 - beta1^(i+1), the bias correction of ``first``."""

    first: Sum
    second: Sum
    weight1: Sum
    weight2: Sum
    total: Sum


def momentum_init(dtype: Dtype) -> MomentumState:
    """M before the first update."""
    return MomentumState(*(Sum.zero(dtype) for _ in MomentumState._fields))


def momentum_step(
    state: MomentumState, update: Update, *, rate1: Real, rate2: Real, eps: Real, second_moment_scale: Real
) -> MomentumState:
    """The recursion of arXiv 2512.13705, ``rate`` for 1 - beta; the first update has no drop and adds nothing."""
    first = averaged(state.first, rate1, update.drop)
    second = averaged(state.second, rate2, jnp.square(update.drop))
    weight1, weight2 = averaged(state.weight1, rate1, 1.0), averaged(state.weight2, rate2, 1.0)
    root = jnp.sqrt(second.total * (second_moment_scale / weight2.total) + eps)
    total = plus(state.total, first.total / (weight1.total * (root + eps)))
    return MomentumState(first, second, weight1, weight2, total)


def momentum_options(beta1: Real, beta2: Real, eps: Real, second_moment_scale: Real) -> dict[str, Real]:
    """Options of ``momentum_step``, from those of ``annealing_momentum``; 1 - beta is taken in their own precision."""
    return {"rate1": 1 - beta1, "rate2": 1 - beta2, "eps": eps, "second_moment_scale": second_moment_scale}


class AreaState(NamedTuple):
    """State of the annealing area: (1 - lambda) m, an average of the rate's drops, and the sum of these averages."""

    average: Sum
    total: Sum


def area_init(dtype: Dtype) -> AreaState:
    """S2 before the first update."""
    return AreaState(Sum.zero(dtype), Sum.zero(dtype))


def area_step(state: AreaState, update: Update, *, rate: Real) -> AreaState:
    """m_i = lambda m_{i-1} + (lr_{i-1} - lr_i), ``rate`` for 1 - lambda, with m_0 = 0."""
    average = averaged(state.average, rate, update.drop)
    return AreaState(average, plus(state.total, average.total))


def area_total(state: AreaState, *, rate: Real) -> jax.Array:
    """S2, the sum of all m so far."""
    return state.total.total / rate


def drops(lrs: jax.Array) -> jax.Array:
    """``[T]`` the rate before each update minus its own; 0 for the first."""
    return jnp.concatenate([lrs[:1], lrs[:-1]]) - lrs


def _scan(step: Callable[[S, Update], S], total: Callable[[S], jax.Array], state: S, lrs: jax.Array) -> jax.Array:
    def advance(state: S, update: Update) -> tuple[S, jax.Array]:
        state = step(state, update)
        return state, total(state)

    return jax.lax.scan(advance, state, Update(lrs, drops(lrs)), unroll=UNROLL)[1]


def _as_rates(lrs: Real) -> jax.Array:
    lrs = jnp.asarray(lrs)
    return lrs if jnp.issubdtype(lrs.dtype, jnp.floating) else lrs.astype(jnp.result_type(float))


def forward_effect(lrs: Real, *, rho: Real | None = None) -> jax.Array:
    r"""Forward effect, the sum of learning rates so far.

    $S_t = \sum_{i \le t} \eta_i$, and with an exponent $S_t = 10^{-3} \sum_{i \le t} (\eta_i / 10^{-3})^\rho$.

    Args:
      lrs: ``[T]`` learning rate of each update.
      rho: exponent on the rate; None is 1, the published effect. Below 1 it brings curves of different peak rates
        together.

    Returns:
      ``[T]`` S after each update, in units of a learning rate, in the dtype of ``lrs``.

    Reference: arXiv 2512.13705 and arXiv 2408.11029 (S1).

    >>> forward_effect(jnp.array([0.5, 0.5, 0.25])).tolist()
    [0.5, 1.0, 1.25]
    """
    lrs = _as_rates(lrs)
    return jnp.cumsum(forward_increment(lrs, None if rho is None else jnp.asarray(rho, lrs.dtype)))


def annealing_momentum(
    lrs: Real, *, beta1: Real = 0.9, beta2: Real = 0.999, eps: Real = 1e-8, second_moment_scale: Real = 1e5
) -> jax.Array:
    r"""Annealing momentum: the rate's decrease seen through Adam's moments, summed over updates.

    With $\delta_i = \eta_{i-1} - \eta_i$ ($\delta_0 = 0$): $m_i = \beta_1 m_{i-1} + (1-\beta_1)\delta_i$,
    $v_i = \beta_2 v_{i-1} + (1-\beta_2)\delta_i^2$, $\hat m = m_i/(1-\beta_1^{i+1})$,
    $\hat v = c\,v_i/(1-\beta_2^{i+1})$, and $M_i = M_{i-1} + \hat m/(\sqrt{\hat v + \epsilon} + \epsilon)$.

    Args:
      lrs: ``[T]`` learning rate of each update (not of each logged row: see ``rowwise_effects``).
      beta1: decay of the first moment per update.
      beta2: decay of the second moment per update.
      eps: added inside and outside the root. As it grows, M tends to ``annealing_area`` with lambda = beta1, times
        (1 - beta1)/(sqrt(eps) + eps) and up to bias correction.
      second_moment_scale: c, scale of the second moment.

    Returns:
      ``[T]`` M after each update, in the dtype of ``lrs``; positive when the rate falls.

    Reference: arXiv 2512.13705, annealing momentum.

    >>> float(jnp.abs(annealing_momentum(jnp.full(4, 1e-3))).max())
    0.0
    """
    lrs = _as_rates(lrs)
    options = momentum_options(beta1, beta2, eps, second_moment_scale)
    return _momentum(lrs, {name: jnp.asarray(option, lrs.dtype) for name, option in options.items()})


@jax.jit
def _momentum(lrs: jax.Array, options: dict[str, jax.Array]) -> jax.Array:
    def step(state: MomentumState, update: Update) -> MomentumState:
        return momentum_step(state, update, **options)

    return _scan(step, lambda state: state.total.total, momentum_init(lrs.dtype), lrs)


def annealing_area(lrs: Real, *, decay: Real = 0.999) -> jax.Array:
    r"""Annealing area: each decrease of the rate, remembered with decay $\lambda$ per update, summed.

    $m_i = \lambda m_{i-1} + (\eta_{i-1} - \eta_i)$, $S_{2,i} = \sum_{k \le i} m_k$, with $m_0 = 0$.

    Args:
      lrs: ``[T]`` learning rate of each update.
      decay: lambda, decay per update, below 1.

    Returns:
      ``[T]`` S2 after each update, in units of a learning rate, in the dtype of ``lrs``.

    Reference: arXiv 2408.11029 (S2).

    >>> annealing_area(jnp.array([1.0, 0.5, 0.5]), decay=0.5).tolist()
    [0.0, 0.5, 0.75]
    """
    lrs = _as_rates(lrs)
    return _area(lrs, jnp.asarray(1 - decay, lrs.dtype))


@jax.jit
def _area(lrs: jax.Array, rate: Real) -> jax.Array:
    return _scan(partial(area_step, rate=rate), partial(area_total, rate=rate), area_init(lrs.dtype), lrs)


def convex_bound(lrs: Real, *, distance: Real = 1.0, gradient_norm: Real = 1.0) -> jax.Array:
    r"""Bound on the last iterate's suboptimality in convex optimisation, in linear time.

    $\frac{D^2}{2 S_T} + \frac{G^2}{2 S_T} \sum_t \eta_t^2 + \frac12 \sum_{k < T} \frac{\eta_k}{\sum_{t > k} \eta_t}
    \frac{\sum_{t \ge k} \eta_t^2 G^2}{\sum_{t \ge k} \eta_t}$, which, summed by parts, is
    $\frac{D^2}{2 S_T} + \frac{G^2}{2} (\eta_T + \sum_{k < T} \frac{\eta_k^2}{S_T - S_k})$.

    Args:
      lrs: ``[T]`` learning rate of each update, the last above zero: the bound is infinite where it is zero.
      distance: D, distance of the first iterate from the optimum.
      gradient_norm: G, bound on the norm of the gradients.

    Returns:
      The bound, a scalar in the dtype of ``lrs``.

    Reference: arXiv 2501.18965, theorem 3.1.

    >>> float(convex_bound(jnp.array([1.0, 1.0])))  # 1/4 + 1/2 (1 + 1/1)
    1.25
    """
    lrs = _as_rates(lrs)
    after = jnp.cumsum(lrs[::-1])[::-1]  # S_T - S_{k-1}
    noise = lrs[-1] + jnp.sum(lrs[:-1] ** 2 / after[1:])
    return jnp.asarray(distance**2 / (2 * after[0]) + gradient_norm**2 / 2 * noise)


def hold_warmup(lrs: Real, warmup_steps: Real) -> jax.Array:
    """Rates with the warmup counted as peak: updates before ``warmup_steps`` get the rate of update ``warmup_steps``.

    Args:
      lrs: ``[T]`` learning rate of each update.
      warmup_steps: updates w of warmup.

    Returns:
      ``[T]`` rates without the warmup, as arXiv 2408.11029 counts them.

    >>> hold_warmup(jnp.array([0.0, 0.5, 1.0, 0.5]), 2).tolist()
    [1.0, 1.0, 1.0, 0.5]
    """
    lrs = _as_rates(lrs)
    end = jnp.clip(warmup_steps, 0, lrs.shape[0] - 1)
    return jnp.where(jnp.arange(lrs.shape[0]) < end, lrs[end], lrs)


def rising_start(lrs: Real) -> jax.Array:
    """Updates before a rate that rises from update 0 on reaches its peak; 0 where it does not, or takes half the run.

    Args:
      lrs: ``[T]`` learning rate of each update.

    >>> int(rising_start(jnp.array([0.0, 0.5, 1.0, 1.0, 0.5, 0.0])))
    2
    """
    lrs = _as_rates(lrs)
    peak = jnp.argmax(lrs >= (1 - 1e-3) * jnp.max(lrs))
    falls = jnp.diff(lrs, prepend=lrs[:1]) < 0
    rises = ~jnp.any(falls & (jnp.arange(lrs.size) <= peak))
    return jnp.where(rises & (peak <= lrs.size // 2), peak, 0)


class RowEffects(NamedTuple):
    """Effects at logged rows, ``[rows]`` each."""

    S: jax.Array
    M: jax.Array


def rowwise_effects(step: Real, lrs: Real, **momentum: Real) -> RowEffects:
    """S and M as the published code of arXiv 2512.13705 computes them: one recursion step per logged row.

    With g the steps since the row before (for the first row, since step 0): S adds lr_row g, and M runs over rows with
    delta = g (lr_previous row - lr_row). Its M depends on the logging interval, which is why fmjax's own effects run
    per update; this mode exists only to compare with it.

    Args:
      step: ``[rows]`` logged steps.
      lrs: ``[rows]`` learning rate logged in each row.
      **momentum: coefficients of ``annealing_momentum``.

    >>> rowwise_effects(jnp.array([1, 3]), jnp.array([0.5, 0.25])).S.tolist()
    [0.5, 1.0]
    """
    lrs = _as_rates(lrs)
    gaps = jnp.diff(jnp.asarray(step), prepend=0).astype(lrs.dtype)
    stretched = jnp.cumsum(gaps * jnp.diff(lrs, prepend=lrs[:1]))
    return RowEffects(jnp.cumsum(lrs * gaps), annealing_momentum(stretched, **momentum))
