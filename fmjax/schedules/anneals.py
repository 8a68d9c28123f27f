"""Ramps and anneals: the shapes a rate can rise and fall along, for arrays of JAX or of NumPy."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def _of(array: Any) -> Any:
    """The namespace of an array: NumPy for its own, so that host-side work stays in float64, else JAX."""
    return np if isinstance(array, np.ndarray | np.generic) else jnp


def ramp(count: Any, warmup_steps: Any, init_lr: Any, peak_lr: Any) -> Any:
    """Linear warmup: init_lr + (peak_lr - init_lr) t / w for t < w, then peak_lr."""
    xp = _of(count)
    warming = count < warmup_steps
    fraction = count / xp.where(warming, warmup_steps, 1)
    return xp.where(warming, init_lr + (peak_lr - init_lr) * fraction, peak_lr)


class Decay(NamedTuple):
    """Shape of an anneal."""

    rate: Callable[[Any, Any, Any], Any]
    """(fraction x of the anneal done, peak rate, final rate) -> rate."""
    drop: Callable[[Any, Any, Any, Any], Any]
    """(x, dx, peak rate, final rate) -> rate(x - dx) - rate(x), without the cancellation of nearly equal rates."""


def _linear(x: Any, peak: Any, final: Any) -> Any:
    return final + (peak - final) * (1 - x)


def _linear_drop(x: Any, dx: Any, peak: Any, final: Any) -> Any:
    return (peak - final) * dx


def _cosine(x: Any, peak: Any, final: Any) -> Any:
    return final + (peak - final) * (1 + _of(x).cos(np.pi * x)) / 2


def _cosine_drop(x: Any, dx: Any, peak: Any, final: Any) -> Any:
    return (peak - final) * jnp.sin(jnp.pi * (x - dx / 2)) * jnp.sin(jnp.pi * dx / 2)


def _root(x: Any) -> Any:
    # sqrt has no finite slope at 0: the inner where keeps NaN out of the gradient
    xp = _of(x)
    return xp.where(x > 0, xp.sqrt(xp.where(x > 0, x, 1.0)), 0.0)


def _one_minus_sqrt(x: Any, peak: Any, final: Any) -> Any:
    return final + (peak - final) * (1 - _root(x))


def _one_minus_sqrt_drop(x: Any, dx: Any, peak: Any, final: Any) -> Any:
    roots = _root(x) + _root(x - dx)
    return (peak - final) * dx / jnp.where(roots > 0, roots, 1.0)


def _exponential(x: Any, peak: Any, final: Any) -> Any:
    return peak * (final / peak) ** x


def _exponential_drop(x: Any, dx: Any, peak: Any, final: Any) -> Any:
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
    peak_lr: Any
    final_lr: Any
    start: Any
    """Whole part of the start."""
    fraction: Any
    """The rest of it, in [0, 1)."""
    length: Any

    def _since(self, count: Any) -> Any:
        return (count - self.start) - self.fraction

    def __call__(self, count: Any) -> jax.Array:
        """Learning rate of update ``count``."""
        done = jnp.clip(self._since(count) / self._span(), 0.0, 1.0)
        return self.decay.rate(done, self.peak_lr, self.final_lr)

    def drop(self, count: Any) -> jax.Array:
        """Rate of the update before minus that of update ``count``."""
        since, span = self._since(count), self._span()
        step = jnp.clip(jnp.minimum(since, span) - jnp.maximum(since - 1, 0.0), 0.0, 1.0)
        return self.decay.drop(jnp.clip(since / span, 0.0, 1.0), step / span, self.peak_lr, self.final_lr)

    def _span(self) -> Any:
        return jnp.where(self.length > 0, self.length, 1)


class Joined(NamedTuple):
    """A warmup and an anneal: the smaller of the two rates where they overlap."""

    stem: Any
    """Warmup, then the peak rate."""
    anneal: Anneal

    @property
    def kinks(self) -> tuple[Any, ...]:
        """End of warmup, start of the anneal, and where their rates cross if they overlap."""
        warmup, start = self.stem.warmup_steps, self.anneal.start

        def halve(_: Any, bracket: tuple[Any, Any]) -> tuple[Any, Any]:
            middle = (bracket[0] + bracket[1]) / 2
            above = self.anneal(middle) > self.stem(middle)
            return jnp.where(above, middle, bracket[0]), jnp.where(above, bracket[1], middle)

        crossing = jax.lax.fori_loop(0, 40, halve, (jnp.asarray(start, float), jnp.asarray(warmup, float)))[1]
        return warmup, start, jnp.where(start < warmup, crossing, warmup)

    def __call__(self, count: Any) -> jax.Array:
        """Learning rate of update ``count``."""
        return jnp.minimum(self.stem(count), self.anneal(count))

    def drop(self, count: Any) -> jax.Array:
        """Rate of the update before minus that of update ``count``."""
        fallen = (count > self.anneal.start + self.anneal.fraction) & (self.anneal(count) <= self.stem(count))
        rose = (count <= self.stem.warmup_steps) & (self.stem(count - 1) < self.anneal(count - 1))
        crossed = self(count - 1) - self(count)  # not nearly equal rates
        return jnp.where(fallen, jnp.where(rose, crossed, self.anneal.drop(count)), self.stem.drop(count))
