"""One update of a schedule, or a block of them at once: what a recursion over updates is written against.

A recursion sees a ``One`` (a single update) or a ``Block`` (many updates, given by their rates at a few nodes) and
uses three words: ``each`` for a formula per update, ``sum`` for a sum over the updates, ``average`` for an exponential
moving average over them. Written once, it can then go update by update, or in blocks wherever the schedule is smooth.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

NODES = 4
"""Updates of a block that stand for all."""


@cache
def nodes_of(size: int) -> tuple[int, ...]:
    """Updates of a block, counted from 0: whole numbers next to the nodes of Gauss and Legendre."""
    if size == 1:
        return (0,)
    middle, gauss = (size - 1) / 2, np.polynomial.legendre.leggauss(NODES)[0]
    return tuple(np.rint(middle + size / 2 * gauss).astype(int).tolist())


@cache
def _lagrange(size: int) -> np.ndarray:
    """``[size, nodes]`` values at every update of the polynomials that are 1 at one node and 0 at the others."""
    every, nodes = np.arange(size)[:, None], np.array(nodes_of(size))
    others = [np.delete(nodes, q) for q in range(NODES)]
    return np.stack([np.prod((every - o) / (n - o), axis=1) for n, o in zip(nodes, others, strict=True)], axis=1)


class Sum(NamedTuple):
    """A running sum; ``lost`` is what rounding took from ``total`` and the next summand gives back."""

    total: jax.Array
    lost: jax.Array

    @classmethod
    def zero(cls, dtype: Any) -> "Sum":
        """An empty sum."""
        return cls(jnp.zeros((), dtype), jnp.zeros((), dtype))


def plus(sum_: Sum, x: Any) -> Sum:
    """Adds ``x``: compensated (Kahan) in float32 and below, plainly in float64, which has digits to spare."""
    if sum_.total.dtype == jnp.float64:
        return Sum(sum_.total + x, sum_.lost)
    x = jnp.asarray(x, sum_.total.dtype) - sum_.lost
    total = sum_.total + x
    return Sum(total, (total - sum_.total) - x)


class One(NamedTuple):
    """A single update."""

    lr: Any
    """Its learning rate."""
    drop: Any
    """Rate of the update before minus its own; 0 for the first."""

    def each(self, formula: Callable[..., Any], *values: Any) -> Any:
        """The formula for the update."""
        return formula(*values)

    def sum(self, values: Any) -> Any:
        """The sum over the one update."""
        return values

    def average(self, average: Sum, rate: Any, values: Any) -> tuple[Any, Sum]:
        """Now, and for the next update: x + rate (value - x), or beta x + (1 - beta) value, less its loss of digits."""
        rate = jnp.asarray(rate, average.total.dtype)
        after = plus(average, rate * (values - average.total))
        return after.total, after


class Block(NamedTuple):
    """``size`` updates over which the rate is smooth; per-update values are tuples, one value at each node."""

    lr: tuple[Any, ...]
    drop: tuple[Any, ...]
    size: int

    def each(self, formula: Callable[..., Any], *values: Any) -> tuple[Any, ...]:
        """The formula at each node."""
        return tuple(formula(*at) for at in zip(*map(_at_nodes, values), strict=True))

    def sum(self, values: Any) -> Any:
        """The sum over all updates of the block, by quadrature; exact for cubics, and close for what is smooth."""
        weights = _lagrange(self.size).sum(axis=0).tolist()
        return sum(weight * value for weight, value in zip(weights, _at_nodes(values), strict=True))

    def average(self, average: Sum, rate: Any, values: Any) -> tuple[tuple[Any, ...], Sum]:
        """The moving average at each node, and after the block; exact where the values are cubic over the block."""
        gone, weights = _memory(rate, self.size, average.total.dtype)
        gains = [
            sum(weights[row, q] * value for q, value in enumerate(_at_nodes(values))) - gone[row] * average.total
            for row in range(NODES + 1)
        ]
        return tuple(average.total + gain for gain in gains[:-1]), plus(average, gains[-1])


Update = One | Block


def _at_nodes(values: Any) -> tuple[Any, ...]:
    """Per-update values as they are; one value for all updates, once for each node."""
    return values if isinstance(values, tuple) else (values,) * NODES


def _memory(rate: Any, size: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """What an average has forgotten, ``[nodes + 1]``, and how it weighs the nodes' values, ``[nodes + 1, nodes]``.

    Rows are the nodes and the end of the block. After i + 1 updates with values u_0 ... u_i the average is
    beta^(i+1) x + rate sum_j beta^(i-j) u_j; u is the cubic through the nodes.
    """
    log_kept = jnp.maximum(jnp.log1p(-jnp.asarray(rate)), -700.0)
    rows = np.array([*nodes_of(size), size - 1])
    lag = rows[:, None] - np.arange(size)
    kept = jnp.where(lag >= 0, jnp.exp(log_kept * np.maximum(lag, 0)), 0.0)
    weights = rate * jnp.sum(kept[:, :, None] * _lagrange(size)[None], axis=1)
    return (-jnp.expm1(log_kept * (rows + 1.0))).astype(dtype), weights.astype(dtype)
