r"""Weighted updates: a few updates that stand for all of a schedule wherever effects are sums over updates.

Away from kinks the rate is smooth, and a sum over a panel of updates is a weighted sum over a few of them (``gauss``).
What updates leave in a memory fades backwards from the row that reads it, at a pace that may be anything from an update
to the whole run. So panels shrink towards each row. They grow from each kink on, since powers of a rate that starts
from zero, or falls as a square root, are steep there::

    rate        _____________________
               /                     \
              /                        \
            |||16| 32 |32|16|||||||16|32|16|||
            kink              kink         row

The updates next to kinks and rows are taken one by one, so that each row has an update of its own. Sizes of panels are
powers of two, so that few panels have to be known. Rates given as a table have no smooth pieces: every update counts.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._types import Array, Real
from fmjax.schedules.batch_stages import BatchStages
from fmjax.schedules.host_rates import has_formula, host_rates
from fmjax.schedules.kinds import Schedule

PANEL_NODES = 10
"""Updates that stand for a panel; sums are exact where they are polynomials up to degree 19."""

SMALLEST_PANEL = 16
"""Updates of the smallest panel."""

PANELS_A_PIECE = 8
"""A panel is at most this part of a smooth piece."""

AVERAGED = 3
"""Where updates are averaged, a panel is at most this part of its distance from a kink."""

SPAN = 1024
"""Updates of a long schedule at which ``rate_span`` looks, beside those at its kinks."""


class Left(NamedTuple):
    """What comes after each of some updates until the last, ``[updates]`` each."""

    updates: Array
    forward: Array
    """What S grows by."""


class Within(NamedTuple):
    """Sums over a panel's updates until each of its nodes, where updates lie side by side in panels of so many nodes.

    Nodes that fill up a panel of fewer updates repeat its last one, with weight 0.
    """

    kind: Array
    """``[panels]`` which of the kinds a panel is."""
    until: Array
    """``[kinds, nodes, nodes]`` weights of the sums; those of a kind have an inverse."""


class WeightedUpdates(NamedTuple):
    """Updates of one schedule, ``[updates]`` each, or of several, ``[runs, updates]``."""

    update: Array
    """Which update of the schedule it is; one that stands for a panel may lie between two."""
    lr: Array
    drop: Array
    """Rate of the update before minus its own; 0 for the first."""
    forward: Array
    """S after it."""
    weight: Array
    """How many updates it stands for."""
    left: Left | None = None
    """Where effects are read after the last update alone: what is left to it, which as a difference loses digits."""
    within: Within | None = None
    """For averages over updates, of which no sums are taken but those of their functions."""
    stage: Array | None = None
    """``[stages, updates]`` share of each that lies in each stage of a batch that changes, 0 or 1."""

    @classmethod
    def every(cls, lr: Real, drop: Real) -> "WeightedUpdates":
        """All updates of a schedule, each standing for itself."""
        lr, drop = jnp.asarray(lr), jnp.asarray(drop)
        return cls(jnp.arange(lr.size, dtype=lr.dtype), lr, drop, jnp.cumsum(lr), jnp.ones_like(lr))

    def total(self, values: Real, at: Array) -> jax.Array:
        """Sums of the values of all updates until those at the places ``at[rows]``, which stand for themselves."""
        if self.left is not None:
            return jnp.vdot(self.weight, values, precision="highest")[None]
        return jnp.cumsum(self.weight * values)[at]

    @property
    def clock(self) -> "WeightedUpdates":
        """The same with the number of updates in place of S: for what is forgotten from update to update."""
        left = None if self.left is None else self.left._replace(forward=self.left.updates)
        return self._replace(lr=jnp.ones_like(self.lr), forward=self.update + 1, left=left)

    @property
    def alone(self) -> "WeightedUpdates":
        """The same without what fills panels up."""
        real = self.weight > 0
        update, lr, drop, forward, weight = (field[real] for field in self[:5])
        return WeightedUpdates(update, lr, drop, forward, weight)

    def in_stages(self, stages: BatchStages | None) -> "WeightedUpdates":
        """The same with the stage of the batch that each lies in; None of a batch that does not change."""
        return self if stages is None else self._replace(stage=stages.shares(self.update))

    def without_rise(self, warmup_steps: int) -> "WeightedUpdates":
        """The same with drops counted from the end of warmup on."""
        return self._replace(drop=np.where(self.update > warmup_steps, self.drop, 0.0))

    def held(self, warmup_steps: int) -> "WeightedUpdates":
        """The same with warmup counted as if at the rate of the warmup's end, which must be among the updates."""
        end = min(warmup_steps, float(self.update[-1]))
        place = int(np.searchsorted(self.update, end))
        peak, before = self.lr[place], self.forward[place] - self.lr[place]
        rising = self.update < end
        forward = np.where(rising, (self.update + 1) * peak, self.forward + (end * peak - before))
        lr, drop = np.where(rising, peak, self.lr), np.where(self.update > end, self.drop, 0.0)
        return self._replace(lr=lr, drop=drop, forward=forward)


def weighted_updates(
    schedule: Schedule, rows: Sequence[int] | np.ndarray, changes: Sequence[int] = ()
) -> WeightedUpdates:
    """Updates that stand for all of a schedule with concrete fields until the last row; each row's is among them.

    Args:
      schedule: the schedule.
      rows: ``[rows]`` updates after which effects are read, rising.
      changes: updates at which what they are weighed by changes: none stands for others on both sides.

    >>> from fmjax.schedules.kinds import WSD
    >>> updates = weighted_updates(WSD(peak_lr=1e-3, total_steps=100_000), [999, 99_999])
    >>> updates.lr.size < 1000, round(float(updates.weight.sum()), 6), 999.0 in updates.update
    (True, 100000.0, True)
    """
    return _in_panels(schedule, rows, 1, changes).alone


def panelled_updates(schedule: Schedule, rows: Sequence[int] | np.ndarray) -> WeightedUpdates:
    """The same side by side in panels, ``within`` them, for averages over updates.

    What an average adds may turn fast a while after a kink, at any pace, when what the kink left has faded. So panels
    grow more slowly.
    """
    return _in_panels(schedule, rows, AVERAGED)


def _in_panels(
    schedule: Schedule, rows: Sequence[int] | np.ndarray, parts: int, changes: Sequence[int] = ()
) -> WeightedUpdates:
    """Panels of at most so many parts of their distance from a kink; updates taken one by one fill panels up."""
    rows = np.asarray(rows, int)
    size = _filled(
        _panels(schedule, rows, parts, changes) if has_formula(schedule) else np.ones(int(rows[-1]) + 1, int)
    )
    at, weights, until = _tables()
    slot, few = np.arange(PANEL_NODES), size[:, None] <= PANEL_NODES
    kind = np.where(few[:, 0], 0, np.log2(size).astype(int) - SMALLEST_PANEL.bit_length() + 2)
    node = (np.cumsum(size) - size)[:, None] + np.where(few, np.minimum(slot, size[:, None] - 1), at[kind])
    lr = host_rates(schedule, node)
    drop = np.where(node > 0, host_rates(schedule, np.maximum(node - 1, 0)) - lr, 0.0)
    weight = np.where(few, slot < size[:, None], weights[kind])
    whole = np.sum(weight * lr, axis=1)
    forward = (np.cumsum(whole) - whole)[:, None] + np.einsum("pmn,pn->pm", until[kind], lr)
    flat = WeightedUpdates(node.ravel(), lr.ravel(), drop.ravel(), forward.ravel(), weight.ravel())
    return flat._replace(within=Within(kind, until))


def _filled(size: np.ndarray) -> np.ndarray:
    """Sizes of panels in which updates that lie one by one fill up panels."""
    alone, place = size == 1, np.arange(size.size)
    since = place - np.maximum.accumulate(np.where(alone, 0, place + 1))  # updates since the last panel
    return np.add.reduceat(size, np.flatnonzero(~alone | (since % PANEL_NODES == 0)))


@cache
def _tables() -> tuple[np.ndarray, ...]:
    """Offsets, weights and sums of each kind of panel: updates one by one, then every power of two."""
    first = np.arange(float(PANEL_NODES)), np.ones(PANEL_NODES), np.tri(PANEL_NODES)
    powers = (gauss(1 << power) for power in range(SMALLEST_PANEL.bit_length() - 1, 31))
    return tuple(map(np.stack, zip(first, *powers, strict=True)))


def every_update(schedule: Schedule, count: int) -> WeightedUpdates:
    """The first updates of a schedule with concrete fields, each standing for itself."""
    lrs = host_rates(schedule, np.arange(count))
    drops = np.concatenate([lrs[:1], lrs[:-1]]) - lrs
    return WeightedUpdates(np.arange(float(count)), lrs, drops, np.cumsum(lrs), np.ones(count))


def rate_span(schedule: Schedule, begin: int, end: int) -> tuple[float, float]:
    """Largest drop of the rate over one of the updates ``begin + 1 ... end``, and lowest rate from ``begin`` on."""
    at = np.arange(begin, end + 1)
    if at.size > SPAN and has_formula(schedule):
        beside = _breaks(schedule)[:, None] + np.arange(-1, 3)
        at = np.append(np.linspace(begin, end, SPAN).astype(int), beside[(beside >= begin) & (beside <= end)])
    rates, before = host_rates(schedule, at), host_rates(schedule, np.maximum(at - 1, begin))
    return float(np.max(before - rates)), float(rates.min())


def _panels(schedule: Schedule, rows: np.ndarray, parts: int, changes: Sequence[int]) -> np.ndarray:
    """Size of each panel, which end at kinks, at changes and after rows; a single update has size 1."""
    stop, kinks = int(rows[-1]) + 1, _breaks(schedule)
    ends = np.unique([*(rows + 1), *kinks[kinks < stop], *(at for at in changes if at < stop)]).astype(int)
    begins = np.concatenate([[0], ends[:-1]])
    piece = np.searchsorted(kinks, begins, side="right") - 1
    lengths = np.append(kinks[1:], int(schedule.total_steps)) - kinks
    most = np.maximum(lengths[piece] // PANELS_A_PIECE, 1)
    since = np.minimum(begins - kinks[piece], ends - begins)
    stretches = zip(*(x.tolist() for x in (ends - begins, since, most)), strict=True)
    return np.concatenate([_sizes(*stretch, parts) for stretch in stretches])


def _breaks(schedule: Schedule) -> np.ndarray:
    """Updates at which smooth pieces begin, 0 among them."""
    floors = [0, *(int(np.floor(np.asarray(kink, float))) for kink in schedule.kinks or ())]
    return np.unique([at for at in floors if 0 <= at < int(schedule.total_steps)])


@lru_cache(maxsize=100_000)
def _sizes(length: int, since: int, most: int, parts: int) -> np.ndarray:
    """Sizes of the panels of a stretch that begins ``since`` updates after a kink and ends after a row."""
    found, at = [], 0
    while at < length:
        room = min((since + at) // parts, (length - at) // 2, most)
        size = 1 << (room.bit_length() - 1) if room >= SMALLEST_PANEL else 1
        found.append(size)
        at += size
    return np.array(found)


@cache
def gauss(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes and weights for a sum over the updates 0 ... size - 1, and ``[nodes, nodes]`` for sums up to each node.

    Golub and Welsch for equal weights on whole numbers, whose orthogonal polynomials are those of Chebyshev and Gram.
    A sum up to a node is that of the polynomial through the nodes. It is the polynomial Q with Q(k) - Q(k-1) = f(k)
    and Q(-1) = 0, which has a value between two updates as well.
    """
    n = np.arange(1.0, PANEL_NODES)
    beside = np.sqrt(n**2 * (size**2 - n**2) / (4 * (4 * n**2 - 1)))
    away, vectors = np.linalg.eigh(np.diag(beside, 1) + np.diag(beside, -1))
    place, gap = 2 * away / size, 2 / size  # updates lie in (-1, 1)
    power, order = np.arange(PANEL_NODES + 1), np.arange(1, PANEL_NODES + 1)
    difference = np.stack([_difference(int(p), gap) for p in order], axis=1)
    values = np.linalg.inv(np.vander(place, PANEL_NODES, increasing=True))  # values at nodes -> powers of the place
    totals = place[:, None] ** power - (-1 - gap / 2) ** power
    return away + (size - 1) / 2, size * vectors[0] ** 2, totals[:, 1:] @ np.linalg.solve(difference, values)


def _difference(power: int, gap: float) -> np.ndarray:
    """``[nodes]`` coefficients of x^power - (x - gap)^power."""
    one = np.polynomial.polynomial.polypow([-gap, 1.0], power)
    return np.pad(-one[:power], (0, PANEL_NODES - power))
