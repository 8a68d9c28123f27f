"""One update of a schedule, and what recursions over updates are made of: sums, averages, memories.

Sums and averages keep what rounding takes from them, so that a million updates in float32 lose no digits. A memory
forgets over the sum of rates: ``relax`` is an average on that clock, ``remember`` what each update adds to one.
"""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from fmjax._types import Dtype, Real

Remembered: TypeAlias = Callable[[Real, Real, Real], jax.Array]
"""What an update adds to memories, ``[columns]``, from its rate, the rate's drop and S after it."""


class Fading(Enum):
    """Over which rates a memory forgets what an update adds to it."""

    LATER = "those of later updates"
    OWN = "the update's own as well"
    AVERAGE = "those of later updates; the update adds only its share 1 - e^(-pace lr), so the memory is an average"


class Sum(NamedTuple):
    """A running sum; ``lost`` is what rounding took from ``total`` and the next summand gives back."""

    total: jax.Array
    lost: jax.Array

    @classmethod
    def zero(cls, dtype: Dtype) -> "Sum":
        """An empty sum."""
        return cls(jnp.zeros((), dtype), jnp.zeros((), dtype))


def plus(sum_: Sum, x: Real) -> Sum:
    """Adds ``x``: compensated (Kahan) in float32 and below, plainly in float64, which has digits to spare."""
    if sum_.total.dtype == jnp.float64:
        return Sum(sum_.total + x, sum_.lost)
    x = jnp.asarray(x, sum_.total.dtype) - sum_.lost
    total = sum_.total + x
    return Sum(total, (total - sum_.total) - x)


def averaged(average: Sum, rate: Real, value: Real) -> Sum:
    """The average x + rate (value - x), or beta x + (1 - beta) value, less its loss of digits."""
    rate = jnp.asarray(rate, average.total.dtype)
    return plus(average, rate * (value - average.total))


class Update(NamedTuple):
    """A single update."""

    lr: Real
    """Its learning rate."""
    drop: Real
    """Rate of the update before minus its own; 0 for the first."""

    def relax(self, average: Sum, paces: Real, formula: Callable[[Real], jax.Array]) -> Sum:
        """For the next update: average + (1 - e^(-pace lr)) (formula(lr) - average), for ``[paces]`` at once."""
        level = formula(self.lr)
        share = -jnp.expm1(-paces * self.lr).reshape(-1, *(1,) * level.ndim)
        return plus(average, share * (level[None] - average.total))

    def remember(
        self,
        memory: Sum,
        paces: Real,
        formula: Callable[[Real, Real, Real], jax.Array],
        forward: Real,
        *,
        fading: Fading,
    ) -> Sum:
        """For the next update: ``[paces, columns]`` memories forget over the rate, and what the formula adds.

        ``forward`` is S after the update. ``fading`` is LATER or
        OWN: for averages there is ``relax``.
        """
        added = formula(self.lr, self.drop, forward)[None]
        gone = jnp.expm1(-paces * self.lr)[:, None]
        return plus(memory, gone * (memory.total + added if fading is Fading.OWN else memory.total) + added)
