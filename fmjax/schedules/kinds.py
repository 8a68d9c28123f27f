"""Learning-rate schedules as JAX pytrees that are Optax schedules.

Each schedule is a callable ``count -> learning rate`` with ``count = 0 ... total_steps - 1``, so any Optax optimiser
takes it. Every field except a decay's name is a leaf, and the rate is written without Python branches: peak rate,
annealing ratio, warmup, final rate and total steps may all be traced, batched with ``jax.vmap`` and differentiated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._checks import choose, require
from fmjax._types import Real, Reals
from fmjax.schedules.anneals import DECAYS, Anneal, Joined, ramp

Scalar: TypeAlias = Real
"""A field of a schedule: a number, or an array of them under ``vmap``."""


@runtime_checkable
class Warmed(Protocol):
    """A schedule that begins with a linear warmup."""

    @property
    def peak_lr(self) -> Real:
        """Rate after warmup."""

    @property
    def warmup_steps(self) -> Real:
        """Updates of warmup."""

    @property
    def init_lr(self) -> Real:
        """Rate of update 0 when there is a warmup."""


def _warmup(schedule: Warmed, count: Real) -> jax.Array:
    """init_lr + (peak_lr - init_lr) t / w for t < w, then peak_lr."""
    return jnp.asarray(ramp(jnp.asarray(count), schedule.warmup_steps, schedule.init_lr, schedule.peak_lr))


def _warmup_drop(schedule: Warmed, count: Real) -> jax.Array:
    """-(peak_lr - init_lr)/w for 0 < t <= w, then 0."""
    rising = (count > 0) & (count <= schedule.warmup_steps)
    slope = (schedule.peak_lr - schedule.init_lr) / jnp.where(rising, schedule.warmup_steps, 1)
    return jnp.where(rising, -slope, 0.0)


class Schedule(Protocol):
    """What every schedule offers; all fields but the decay's name may be traced."""

    @property
    def total_steps(self) -> Real:
        """Number of updates T."""

    @property
    def warmup_steps(self) -> Real:
        """Updates of warmup."""

    @property
    def kinks(self) -> tuple[Real, ...] | None:
        """Updates after which the rate is no longer smooth, in any order; None where it is nowhere smooth."""

    def __call__(self, count: Real) -> jax.Array:
        """Learning rate of update ``count``."""

    def drop(self, count: Real) -> jax.Array:
        """Rate of the update before minus that of update ``count``, without cancellation; 0 for update 0."""


def lrs(schedule: Callable[[Real], Real], total_steps: int | None = None) -> jax.Array:
    """Learning rate of every update, ``[total_steps]``.

    Args:
      schedule: an fmjax schedule, or any Optax schedule; of these, each count is asked by itself.
      total_steps: number of updates; by default the schedule's own (which then must not be traced).

    >>> lrs(WSD(peak_lr=1.0, total_steps=5, anneal_ratio=0.4)).tolist()
    [1.0, 1.0, 1.0, 1.0, 0.5]
    """
    length = schedule.total_steps if total_steps is None else total_steps  # type: ignore[attr-defined]
    own = isinstance(schedule, Constant | Cosine | WSD | Step | Tabulated)
    rates = schedule(jnp.arange(length)) if own else _count_by_count(schedule, length)
    return jnp.broadcast_to(rates, (length,))


def _count_by_count(schedule: Callable[[Real], Real], length: int) -> jax.Array:
    """Rates of a foreign schedule, each asked for its own count.

    Some schedules of Optax crash for an array of counts, or take it for something else. ``vmap`` asks for one count at
    a time; a schedule that cannot be traced is asked with numbers.
    """
    try:
        rates = jnp.asarray(jax.vmap(schedule)(jnp.arange(length)))
    except (TypeError, ValueError, IndexError, AttributeError):
        rates = jnp.asarray([jnp.asarray(schedule(count)) for count in range(length)])
    shapes = (), (length,)
    require(jnp.shape(rates) in shapes, f"expected one rate a count, got shape {jnp.shape(rates)} for {length} counts")
    return jnp.asarray(rates)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Constant:
    """Constant rate after linear warmup: lr(t) = peak_lr for t >= warmup_steps.

    Args:
      peak_lr: peak learning rate.
      total_steps: number of updates T.
      warmup_steps: updates w of linear warmup, lr(t) = init_lr + (peak_lr - init_lr) t / w for t < w.
      init_lr: rate of update 0 when there is a warmup.

    >>> float(Constant(peak_lr=0.5, total_steps=10, warmup_steps=4)(2))
    0.25
    """

    peak_lr: Scalar
    total_steps: Scalar
    warmup_steps: Scalar = 0
    init_lr: Scalar = 0.0

    @property
    def kinks(self) -> tuple[Real, ...]:
        """Updates after which the rate is no longer smooth."""
        return (self.warmup_steps,)

    def __call__(self, count: Real) -> jax.Array:
        """Learning rate of update ``count``."""
        return _warmup(self, count)

    def drop(self, count: Real) -> jax.Array:
        """Rate of the update before minus that of update ``count``; 0 for update 0."""
        return _warmup_drop(self, count)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cosine:
    """Cosine decay from the end of warmup to the end of the run.

    lr(t) = final_lr + (peak_lr - final_lr)(1 + cos pi x)/2 with x = (t - w)/(T - w) for t >= w.

    Args:
      peak_lr: peak learning rate.
      total_steps: number of updates T.
      final_lr: rate the decay ends at (reached at count T, one after the last update).
      warmup_steps: updates w of linear warmup from init_lr.
      init_lr: rate of update 0 when there is a warmup.

    >>> round(float(Cosine(peak_lr=1.0, total_steps=10)(5)), 6)
    0.5
    """

    peak_lr: Scalar
    total_steps: Scalar
    final_lr: Scalar = 0.0
    warmup_steps: Scalar = 0
    init_lr: Scalar = 0.0

    @property
    def kinks(self) -> tuple[Real, ...]:
        """Updates after which the rate is no longer smooth."""
        return (self.warmup_steps,)

    def __call__(self, count: Real) -> jax.Array:
        """Learning rate of update ``count``."""
        return jnp.minimum(_warmup(self, count), self._anneal()(count))

    def drop(self, count: Real) -> jax.Array:
        """Rate of the update before minus that of update ``count``; 0 for update 0."""
        annealing = count > self.warmup_steps
        return jnp.where(annealing, self._anneal().drop(count), _warmup_drop(self, count))

    def _anneal(self) -> Anneal:
        length = self.total_steps - self.warmup_steps
        return Anneal(DECAYS["cosine"], self.peak_lr, self.final_lr, self.warmup_steps, 0, length)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WSD:
    """Warmup, stable, decay: the rate holds at its peak, then anneals over the last A = R T updates.

    With x = (t - (T - A))/A for t >= T - A, and the smaller rate where warmup and anneal overlap:

    - linear: final_lr + (peak_lr - final_lr)(1 - x)
    - cosine: final_lr + (peak_lr - final_lr)(1 + cos pi x)/2
    - 1-sqrt: final_lr + (peak_lr - final_lr)(1 - sqrt x)
    - exponential: peak_lr (final_lr/peak_lr)^x

    Args:
      peak_lr: peak learning rate.
      total_steps: number of updates T.
      anneal_ratio: annealing ratio R, the share of all updates spent annealing.
      decay: shape of the anneal, one of ``DECAYS``; static under ``jit``.
      final_lr: rate the anneal ends at (reached at count T, one after the last update).
      warmup_steps: updates w of linear warmup from init_lr.
      init_lr: rate of update 0 when there is a warmup.

    Raises:
      ValueError: at the first call, for an unknown ``decay``.

    Reference: the WSD schedule of arXiv 2404.06395; decay shapes of arXiv 2405.18392.

    >>> schedule = WSD(peak_lr=1e-3, total_steps=1000, anneal_ratio=0.2)
    >>> import optax
    >>> optimizer = optax.adamw(schedule)
    >>> round(float(schedule(900)), 6)
    0.0005
    """

    peak_lr: Scalar
    total_steps: Scalar
    anneal_ratio: Scalar = 0.2
    decay: str = field(default="linear", metadata={"static": True})
    final_lr: Scalar = 0.0
    warmup_steps: Scalar = 0
    init_lr: Scalar = 0.0

    @property
    def kinks(self) -> tuple[Real, ...]:
        """Updates after which the rate is no longer smooth."""
        return self._joined().kinks

    def __call__(self, count: Real) -> jax.Array:
        """Learning rate of update ``count``."""
        return self._joined()(count)

    def drop(self, count: Real) -> jax.Array:
        """Rate of the update before minus that of update ``count``; 0 for update 0."""
        return self._joined().drop(count)

    @property
    def anneal_steps(self) -> int:
        """Updates of the anneal of a schedule with concrete fields, to the nearest whole number but at least one.

        >>> WSD(peak_lr=1e-3, total_steps=10, anneal_ratio=0.26).anneal_steps
        3
        """
        return max(1, round(float(self.anneal_ratio) * int(self.total_steps)))

    def in_whole_updates(self) -> "WSD":
        """The schedule with an anneal of ``anneal_steps`` updates, as trainers take it.

        >>> WSD(peak_lr=1e-3, total_steps=10, anneal_ratio=0.26).in_whole_updates().anneal_ratio
        0.3
        """
        return replace(self, anneal_ratio=self.anneal_steps / int(self.total_steps))

    def _joined(self) -> Joined:
        stem = Constant(self.peak_lr, self.total_steps, self.warmup_steps, self.init_lr)
        decay = DECAYS[choose(self.decay, DECAYS, "decay")]
        # % splits the start in the precision of the fields: float64 where they are plain numbers
        length = self.anneal_ratio * self.total_steps
        start = self.total_steps - length
        return Joined(stem, Anneal(decay, self.peak_lr, self.final_lr, start - start % 1, start % 1, length))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Step:
    """Piecewise constant rates after linear warmup.

    lr(t) = peak_lr for w <= t < boundaries[0], lrs[k] for boundaries[k] <= t < boundaries[k + 1].

    Args:
      peak_lr: rate between warmup and the first boundary.
      total_steps: number of updates T.
      boundaries: ``[k]`` update counts, rising, at which the rate changes.
      lrs: ``[k]`` rate from each boundary on; may rise again (re-warming).
      warmup_steps: updates w of linear warmup from init_lr.
      init_lr: rate of update 0 when there is a warmup.

    >>> Step(peak_lr=1.0, total_steps=6, boundaries=(2, 4), lrs=(0.5, 0.25))(jnp.arange(6)).tolist()
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """

    peak_lr: Scalar
    total_steps: Scalar
    boundaries: Reals = ()
    lrs: Reals = ()
    warmup_steps: Scalar = 0
    init_lr: Scalar = 0.0

    @property
    def kinks(self) -> tuple[Real, ...]:
        """Updates after which the rate is no longer smooth."""
        return (self.warmup_steps, *self.boundaries)

    def __call__(self, count: Real) -> jax.Array:
        """Learning rate of update ``count``."""
        rate = _warmup(self, count)
        for boundary, lr in zip(self.boundaries, self.lrs, strict=True):
            rate = jnp.where(count < boundary, rate, lr)
        return rate

    def drop(self, count: Real) -> jax.Array:
        """Rate of the update before minus that of update ``count``; 0 for update 0."""
        drop, jump = _warmup_drop(self, count), self(count - 1) - self(count)
        for boundary in self.boundaries:
            drop = jnp.where(count < boundary, drop, jump)
        return jnp.where(count > 0, drop, 0.0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tabulated:
    """The rate of every update, given as an array.

    lr(t) = lrs[t]; counts past the end keep the last rate.

    Args:
      lrs: ``[T]`` learning rate of each update.
      warmup_steps: updates to regard as warmup; they do not change the rates.

    >>> float(Tabulated(jnp.array([0.5, 1.0, 0.25]))(2))
    0.25
    """

    lrs: Reals
    warmup_steps: Scalar = 0

    def __post_init__(self) -> None:
        # JAX would take a list apart into one leaf a rate
        if isinstance(self.lrs, list | tuple):
            object.__setattr__(self, "lrs", _as_array(self.lrs))

    @classmethod
    def from_schedule(cls, schedule: Callable[[Real], Real], total_steps: int, warmup_steps: int = 0) -> "Tabulated":
        """Tabulates any Optax schedule over ``total_steps`` updates."""
        return cls(lrs(schedule, total_steps), warmup_steps)

    @property
    def total_steps(self) -> int:
        """Number of updates T."""
        return int(np.shape(self.lrs)[-1])

    @property
    def kinks(self) -> None:
        """None: nothing is known of a table's smoothness."""
        return None

    def __call__(self, count: Real) -> jax.Array:
        """Learning rate of update ``count``."""
        return jnp.asarray(self.lrs)[jnp.clip(count, 0, self.total_steps - 1).astype(int)]

    def drop(self, count: Real) -> jax.Array:
        """Rate of the update before minus that of update ``count``; 0 for update 0."""
        return self(count - 1) - self(count)


def _as_array(rates: Sequence[Scalar]) -> jax.Array | np.ndarray:
    """A list of rates as an array, of NumPy unless some are traced."""
    if any(isinstance(rate, jax.Array) for rate in rates):
        return jnp.stack([jnp.asarray(rate) for rate in rates])
    try:
        return np.array(rates, float)
    except (TypeError, ValueError):
        raise ValueError(f"lrs: expected a list of rates, got {rates!r:.80}") from None
