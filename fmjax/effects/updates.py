"""One update of a schedule, or a block of them at once: what a recursion over updates is written against.

A recursion sees a ``One`` (a single update) or a ``Block`` (many updates, given by their rates at a few nodes) and
uses five words: ``each`` for a formula per update, ``sum`` for a sum over the updates, ``average`` for an exponential
moving average over them, ``relax`` for one whose clock is the sum of rates, ``remember`` for what each update adds to
memories that fade with that clock. Written once, it can then go update by update, or in blocks wherever the schedule
is smooth.
"""

from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._types import Dtype, Real

NODES = 4
"""Updates of a block that stand for all."""

PerUpdate: TypeAlias = Real | tuple[Real, ...]
"""A value of an update, or of all alike; of a block, one at each node."""


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


FADING_NODES = 6
"""Nodes of a panel of ``_fading``."""

LAST_PANEL = 8
"""Updates at the end of a block that are taken one by one."""


@cache
def _gauss(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for a sum over the updates 0 ... size - 1: exact for polynomials up to degree 11.

    Golub and Welsch for equal weights on whole numbers, whose orthogonal polynomials are those of Chebyshev and Gram.
    """
    n = np.arange(1.0, min(size, FADING_NODES))
    beside = np.sqrt(n**2 * (size**2 - n**2) / (4 * (4 * n**2 - 1)))
    nodes, vectors = np.linalg.eigh(np.diag(beside, 1) + np.diag(beside, -1))
    return nodes + (size - 1) / 2, size * vectors[0] ** 2


@cache
def _fading(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``[panel nodes, nodes]`` rates there, and sums of the rates after them, from those at ``nodes_of``; weights.

    What a block's updates leave in an average fades exponentially from the block's end, at a pace that may be anything
    from an update to the whole run. Panels that halve towards the end suit all paces at once::

        |------------ 128 ------------|----- 64 -----|-- 32 --|-16-|8|8|  end

    A panel is as long as its distance from the end. Where the pace is so fast that a panel's nodes do not resolve it,
    its updates are forgotten by the end. The last updates are taken one by one. A sum of the rates after a node that
    lies between two updates is that of the cubic through the block's nodes, a polynomial in the node's place.
    """
    parts, left = [(size - LAST_PANEL + np.arange(LAST_PANEL, dtype=float), np.ones(LAST_PANEL))], LAST_PANEL
    while left < size:
        nodes, weights = _gauss(left)
        parts.append((size - 2 * left + nodes, weights))
        left *= 2
    at, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    every = np.linspace(-1, 1, size)  # places of the updates
    rates = np.polynomial.polynomial.polyfit(every, _lagrange(size), NODES - 1)
    after = np.flip(np.cumsum(np.flip(_lagrange(size), 0), 0), 0) - _lagrange(size)
    sums = np.polynomial.polynomial.polyfit(every, after, NODES)
    place = 2 * at / (size - 1) - 1
    return *(np.polynomial.polynomial.polyval(place, c).T for c in (rates, sums)), weights  # type: ignore[return-value]


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


class One(NamedTuple):
    """A single update."""

    lr: Real
    """Its learning rate."""
    drop: Real
    """Rate of the update before minus its own; 0 for the first."""

    def each(self, formula: Callable[..., Real], *values: PerUpdate) -> Real:
        """The formula for the update."""
        return formula(*values)

    def sum(self, values: PerUpdate) -> Real:
        """The sum over the one update."""
        return _single(values)

    def average(self, average: Sum, rate: Real, values: PerUpdate) -> tuple[PerUpdate, Sum]:
        """Now, and for the next update: x + rate (value - x), or beta x + (1 - beta) value, less its loss of digits."""
        rate = jnp.asarray(rate, average.total.dtype)
        after = plus(average, rate * (_single(values) - average.total))
        return after.total, after

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


class Block(NamedTuple):
    """``size`` updates over which the rate is smooth; per-update values are tuples, one value at each node."""

    lr: tuple[Real, ...]
    drop: tuple[Real, ...]
    size: int

    def each(self, formula: Callable[..., Real], *values: PerUpdate) -> tuple[Real, ...]:
        """The formula at each node."""
        return tuple(formula(*at) for at in zip(*map(_at_nodes, values), strict=True))

    def sum(self, values: PerUpdate) -> Real:
        """The sum over all updates of the block, by quadrature; exact for cubics, and close for what is smooth."""
        weights = _lagrange(self.size).sum(axis=0).tolist()
        return sum(weight * value for weight, value in zip(weights, _at_nodes(values), strict=True))

    def average(self, average: Sum, rate: Real, values: PerUpdate) -> tuple[PerUpdate, Sum]:
        """The moving average at each node, and after the block; exact where the values are cubic over the block."""
        gone, weights = _memory(rate, self.size, average.total.dtype)
        gains = [
            sum(weights[row, q] * value for q, value in enumerate(_at_nodes(values))) - gone[row] * average.total
            for row in range(NODES + 1)
        ]
        return tuple(average.total + gain for gain in gains[:-1]), plus(average, gains[-1])

    def relax(self, average: Sum, paces: Real, formula: Callable[[Real], jax.Array]) -> Sum:
        """The same after all updates of the block; the formula may be steeper in the rate than a cubic.

        The average gains sum_k (1 - e^(-pace lr_k)) e^(-pace sum_(j>k) lr_j) (formula(lr_k) - average).
        """
        lr, since, weights = self._panels(average.total.dtype)
        shares = -jnp.expm1(-jnp.outer(paces, lr)) * jnp.exp(-jnp.outer(paces, since)) * weights[None]
        levels = jax.vmap(formula)(lr)
        forgets = shares.sum(axis=1).reshape(-1, *(1,) * (levels.ndim - 1)) * average.total
        return plus(average, jnp.tensordot(shares, levels, 1, precision="highest") - forgets)

    def remember(
        self,
        memory: Sum,
        paces: Real,
        formula: Callable[[Real, Real, Real], jax.Array],
        forward: Real,
        *,
        fading: Fading,
    ) -> Sum:
        """The same after all updates of the block; ``forward`` is S after the block."""
        dtype = memory.total.dtype
        lr, since, weights = self._panels(dtype)
        at = jnp.asarray(_fading(self.size)[0], dtype)
        drop = sum(at[:, q] * self.drop[q] for q in range(NODES))
        age = since + lr if fading is Fading.OWN else since
        kept = jnp.exp(-jnp.outer(paces, age)) * weights[None]
        added = jax.vmap(formula)(lr, drop, forward - since)
        gone = jnp.expm1(-paces * self.sum(self.lr))[:, None]
        return plus(memory, gone * memory.total + jnp.matmul(kept, added, precision="highest"))

    def _panels(self, dtype: Dtype) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Rates at the nodes of ``_fading``, sums of the rates after them, and weights."""
        at, after, weights = (jnp.asarray(x, dtype) for x in _fading(self.size))
        lr, since = (jnp.asarray(sum(row[:, q] * self.lr[q] for q in range(NODES))) for row in (at, after))
        return lr, since, weights


Update = One | Block


def _single(value: PerUpdate) -> Real:
    """The value of a single update."""
    assert not isinstance(value, tuple)
    return value


def _at_nodes(values: PerUpdate) -> tuple[Real, ...]:
    """Per-update values as they are; one value for all updates, once for each node."""
    return values if isinstance(values, tuple) else (values,) * NODES


def _memory(rate: Real, size: int, dtype: Dtype) -> tuple[jax.Array, jax.Array]:
    """What an average has forgotten, ``[nodes + 1]``, and how it weighs the nodes' values, ``[nodes + 1, nodes]``.

    Rows are the nodes and the end of the block. After i + 1 updates with values u_0 ... u_i the average is
    beta^(i+1) x + rate sum_j beta^(i-j) u_j; u is the cubic through the nodes.
    """
    log_kept = jnp.maximum(jnp.log1p(-jnp.asarray(rate)), -700.0)
    rows = np.array([*nodes_of(size), size - 1])
    lag = rows[:, None] - np.arange(size)
    kept = jnp.where(lag >= 0, jnp.exp(log_kept * np.maximum(lag, 0)), 0.0)
    weights = jnp.asarray(rate) * jnp.sum(kept[:, :, None] * _lagrange(size)[None], axis=1)
    return (-jnp.expm1(log_kept * (rows + 1.0))).astype(dtype), weights.astype(dtype)
