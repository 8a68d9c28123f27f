"""Ramps and anneals: the shapes a rate can rise and fall along, for arrays of JAX or of NumPy."""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._types import Real


def _of(array: Real) -> ModuleType:
    """The namespace of an array: NumPy for its own, so that host-side work stays in float64, else JAX."""
    return np if isinstance(array, np.ndarray | np.generic) else jnp


def ramp(count: Real, warmup_steps: Real, init_lr: Real, peak_lr: Real) -> Real:
    """Linear warmup: init_lr + (peak_lr - init_lr) t / w for t < w, then peak_lr."""
    xp = _of(count)
    warming = count < warmup_steps
    fraction = count / xp.where(warming, warmup_steps, 1)
    return xp.where(warming, init_lr + (peak_lr - init_lr) * fraction, peak_lr)


class Decay(NamedTuple):
    """Shape of an anneal."""

    rate: Callable[[Real, Real, Real], Real]
    """(fraction x of the anneal done, peak rate, final rate) -> rate."""
    drop: Callable[[Real, Real, Real, Real, Real], Real]
    """(x, dx, x - dx, peak rate, final rate) -> rate(x - dx) - rate(x), without the cancellation of nearly equal rates.

    x - dx is given: compiled, the difference of two quotients may be other than zero in the first update, and its root
    is steep there.
    """


def _linear(x: Real, peak: Real, final: Real) -> Real:
    return final + (peak - final) * (1 - x)


def _linear_drop(x: Real, dx: Real, before: Real, peak: Real, final: Real) -> Real:
    return (peak - final) * dx


def _cosine(x: Real, peak: Real, final: Real) -> Real:
    return final + (peak - final) * (1 + _of(x).cos(np.pi * x)) / 2


def _cosine_drop(x: Real, dx: Real, before: Real, peak: Real, final: Real) -> Real:
    return (peak - final) * jnp.sin(jnp.pi * (x - dx / 2)) * jnp.sin(jnp.pi * dx / 2)


def _root(x: Real) -> Real:
    # sqrt has no finite slope at 0: the inner where keeps NaN out of the gradient
    xp = _of(x)
    return xp.where(x > 0, xp.sqrt(xp.where(x > 0, x, 1.0)), 0.0)


def _one_minus_sqrt(x: Real, peak: Real, final: Real) -> Real:
    return final + (peak - final) * (1 - _root(x))


def _one_minus_sqrt_drop(x: Real, dx: Real, before: Real, peak: Real, final: Real) -> Real:
    roots = _root(x) + _root(before)
    return (peak - final) * dx / jnp.where(roots > 0, roots, 1.0)


def _exponential(x: Real, peak: Real, final: Real) -> Real:
    return peak * (final / peak) ** x


def _exponential_drop(x: Real, dx: Real, before: Real, peak: Real, final: Real) -> Real:
    return _exponential(x, peak, final) * jnp.expm1(-dx * jnp.log(final / peak))


DECAYS = {
    "linear": Decay(_linear, _linear_drop),
    "cosine": Decay(_cosine, _cosine_drop),
    "1-sqrt": Decay(_one_minus_sqrt, _one_minus_sqrt_drop),
    "exponential": Decay(_exponential, _exponential_drop),
}
"""Decay shapes by name."""


class Anneal(NamedTuple):
    """An anneal by itself: the peak rate until ``start``, then the decay over ``length`` updates, then the final rate.

    ``start`` may lie between two updates; its whole part and the rest are kept apart, so that float32 loses neither.
    """

    decay: Decay
    peak_lr: Real
    final_lr: Real
    start: Real
    """Whole part of the start."""
    fraction: Real
    """The rest of it, in [0, 1)."""
    length: Real

    def _since(self, count: Real) -> Real:
        return (count - self.start) - self.fraction

    def __call__(self, count: Real) -> jax.Array:
        """Learning rate of update ``count``."""
        done = jnp.clip(self._since(count) / self._span(), 0.0, 1.0)
        return jnp.asarray(self.decay.rate(done, self.peak_lr, self.final_lr))

    def drop(self, count: Real) -> jax.Array:
        """Rate of the update before minus that of update ``count``."""
        since, span = self._since(count), self._span()
        # the part of the update that lies in the anneal: 1 exactly but for the first and the last
        step = jnp.clip(jnp.minimum(since, 1.0) - jnp.maximum(since - span, 0.0), 0.0, 1.0)
        end = jnp.minimum(since, span)
        done, before = (jnp.clip(updates / span, 0.0, 1.0) for updates in (end, end - step))
        fallen = self.decay.drop(done, step / span, before, self.peak_lr, self.final_lr)
        return jnp.asarray(fallen)

    def _span(self) -> Real:
        return jnp.where(self.length > 0, self.length, 1)


class Stem(Protocol):
    """A warmup, then the peak rate."""

    @property
    def warmup_steps(self) -> Real:
        """Updates of warmup."""

    def __call__(self, count: Real) -> jax.Array:
        """Learning rate of update ``count``."""

    def drop(self, count: Real) -> jax.Array:
        """Rate of the update before minus that of update ``count``."""


class Joined(NamedTuple):
    """A warmup and an anneal: the smaller of the two rates where they overlap."""

    stem: Stem
    anneal: Anneal

    @property
    def kinks(self) -> tuple[Real, ...]:
        """End of warmup, start of the anneal, and where their rates cross if they overlap."""
        warmup, start = self.stem.warmup_steps, self.anneal.start
        if not isinstance(warmup, jax.Array) and not isinstance(start, jax.Array) and np.all(start >= warmup):
            return warmup, start, warmup
        return warmup, start, _crossing(self.anneal.decay, self.stem, *self.anneal[1:])

    def __call__(self, count: Real, annealing: Real | None = None) -> jax.Array:
        """Learning rate of update ``count``.

        ``annealing`` is the same count as the anneal counts, where its own start is counted from elsewhere.
        """
        return jnp.minimum(self.stem(count), self.anneal(count if annealing is None else annealing))

    def drop(self, count: Real, annealing: Real | None = None) -> jax.Array:
        """Rate of the update before minus that of update ``count``."""
        at = count if annealing is None else annealing
        fallen = (at > self.anneal.start + self.anneal.fraction) & (self.anneal(at) <= self.stem(count))
        rose = (count <= self.stem.warmup_steps) & (self.stem(count - 1) < self.anneal(at - 1))
        crossed = self(count - 1, at - 1) - self(count, at)  # not nearly equal rates
        return jnp.where(fallen, jnp.where(rose, crossed, self.anneal.drop(at)), self.stem.drop(count))


@partial(jax.jit, static_argnums=0)  # by itself one would compile its loop at every call
def _crossing(decay: Decay, stem: Stem, *anneal: Real) -> jax.Array:
    """Where the rates of a warmup and an anneal cross; the end of warmup where they do not overlap."""
    falling = Anneal(decay, *anneal)
    warmup, start = stem.warmup_steps, falling.start

    def halve(_: jax.Array, bracket: tuple[Real, Real]) -> tuple[Real, Real]:
        middle = (bracket[0] + bracket[1]) / 2
        above = falling(middle) > stem(middle)
        return jnp.where(above, middle, bracket[0]), jnp.where(above, bracket[1], middle)

    found = jax.lax.fori_loop(0, 40, halve, (jnp.asarray(start, float), jnp.asarray(warmup, float)))[1]
    return jnp.where(start < warmup, found, warmup)
