r"""Panels: where a few updates lie that stand for all of a run, from its counts alone, to read effects at its end.

As in ``effects.weighted``, a panel is ten updates that stand for many. Here only the last update reads what all before
it left. So panels shrink towards the end of the run, and towards nothing else. They grow from where powers of the rate
are steep: the rise from zero, and the start of an anneal that falls as a square root. While the rate is constant one
panel may reach half of the way to the end::

    rate          ______________________________
                /                               \
              /                                    \
             ||2 |  8 |   12   |       1200       |||  150  |  150  | 64 |32|16|||
             rise         plateau                 anneal                      end

Updates next to a kink and the last ones are taken one by one, up to ten of them in place of a panel. Panels depend on
counts of updates, not on rates, except where the anneal begins in the warmup: there rate and anneal cross.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from fmjax._types import Array
from fmjax.effects.weighted import PANEL_NODES, gauss
from fmjax.schedules.anneals import DECAYS, ramp

STEEP = ("1-sqrt",)
"""Anneals whose rate is steep at their start."""

STRIDE = 3
"""A panel is at most so many times as long as its distance from where powers of the rate are steep."""

SMALLEST = 12
"""Updates of the smallest panel."""

LEAD = 4
"""Updates after a kink that are taken one by one."""

ANNEAL_PARTS = 8
"""A panel is at most this part of an anneal, and less where the rate falls by orders of magnitude."""

PANELS_A_CHANGE = 4
"""Panels at most that a change of the batch adds: ends that are cut short on either side of it."""

BITS = 4
"""Leading bits of a panel's size, so that few sizes have to be known."""

RESOLVED, FADED = 5.0, 50.0
"""Times that an average takes to forget: at most so many in a panel, and so many until a kink is forgotten."""

NEIGHBOURS = 6
"""Crossings of warmup and anneal within so many updates share panels."""


class Moments(NamedTuple):
    """Averages of the rate's drops and of their squares: each kink of the rate sets them off anew."""

    rate: float
    """Share that the average of squares forgets at each update."""
    rises: bool
    """Whether the rise of warmup counts as a drop."""

    def most(self, since: int) -> int | None:
        """Updates of the largest panel so many updates after a kink; None once that has been forgotten.

        Its root may turn as fast as the average forgets, from what the kink left in it to what comes after.
        """
        return max(1, int(RESOLVED / self.rate)) if since * self.rate < FADED else None

    def panels(self, total_steps: int) -> int:
        """How many panels a run has at most beside those of other laws."""
        most = math.ceil(min(FADED, total_steps * self.rate) / RESOLVED) + 2
        return 3 * most + total_steps.bit_length() // 2 if self.rises else most


class Counts(NamedTuple):
    """What the panels of a run follow from."""

    total_steps: int
    warmup_steps: int
    start: float
    """Update after which the anneal begins, T - R T."""
    steep: bool = False
    """Whether the anneal is steep at its start."""
    falls: int = 0
    """How often the anneal divides the rate by e, of an exponential one; what is left of S then falls as fast."""
    crossing: tuple[int, int] | None = None
    """Range of the last updates of warmup before an anneal that begins in it, where that is of interest."""
    moments: Moments | None = None
    """For a law that averages the rate's drops over updates."""
    changes: tuple[int, ...] = ()
    """Updates at which a batch changes, by which they are weighed: no panel lies on both sides."""


class Panels(NamedTuple):
    """Panels of one run or, with an axis before, of several; ``nodes`` is ``PANEL_NODES``."""

    first: Array
    """``[panels]`` first update of each."""
    offset: Array
    """``[panels, nodes]`` updates from the first to each that stands for the panel; it may lie between two."""
    weight: Array
    """``[panels, nodes]`` how many updates it stands for."""
    until: Array
    """``[panels, nodes, nodes]`` weights of a sum over the panel's updates until each one."""

    @classmethod
    def of(cls, runs: Sequence[np.ndarray], width: int, count: int) -> "Panels":
        """The panels of runs from the sizes of each one's; filled up to ``width`` panels and ``count`` runs."""
        sizes = np.zeros((len(runs), width), int)
        for row, run in zip(sizes, runs, strict=True):
            row[width - run.size :] = run  # empty panels come first, so that the last update is always the last node
        known, kind = np.unique(sizes, return_inverse=True)
        tables = [np.stack(table) for table in zip(*(_table(int(size)) for size in known), strict=True)]
        first = (np.cumsum(sizes, axis=1) - sizes).astype(np.int32)
        fields = first, *(table[kind.reshape(sizes.shape)] for table in tables)
        return cls(*(np.pad(x, [(0, count - len(x)), *[(0, 0)] * (x.ndim - 1)]) for x in fields))


@cache
def _table(size: int) -> tuple[np.ndarray, ...]:
    """Offsets, weights and sums of a panel; up to ``PANEL_NODES`` updates are taken one by one."""
    if size > PANEL_NODES:
        at, weight, until = gauss(size)
    else:
        slot = np.arange(PANEL_NODES)
        at, weight = np.minimum(slot, max(size - 1, 0)).astype(float), (slot < size).astype(float)
        until = np.tri(PANEL_NODES) * weight
    return at, weight, until


def most_panels(total_steps: int, falls: int, moments: Moments | None = None, changes: int = 0) -> int:
    """Number of panels that no run of so many updates exceeds; runs of like length have the same."""
    further = (moments.panels(total_steps) if moments else 0) + PANELS_A_CHANGE * changes
    return 2 * (total_steps.bit_length() // 2 * 2 + 2) + 5 * falls // 4 + further


@lru_cache(maxsize=10_000)
def panel_sizes(counts: Counts) -> np.ndarray:
    """Sizes of the panels of a run, from its first update to its last."""
    pieces = list(_parted(list(_pieces(counts)), counts.changes))
    ends = [*(piece.begin for piece in pieces[1:]), counts.total_steps]
    found: list[int] = []
    for piece, end in zip(pieces, ends, strict=True):
        stable = max(int(counts.start) - end, 0)
        annealing = (counts.total_steps - end - stable) // max(1, counts.falls)
        left = stable + annealing  # of S, in updates at the rate there
        for size in _sizes(piece, end - piece.begin, left):
            if size == 1 and found and found[-1] < PANEL_NODES:
                found[-1] += 1
            else:
                found.append(size)
    return np.array(found)


class _Piece(NamedTuple):
    """A smooth piece of a schedule."""

    begin: int
    since: int
    """Updates since the rate was steep, or S zero."""
    most: int
    """Updates of its largest panel."""
    lead: int
    """Updates at its begin that are taken one by one."""
    moments: Moments | None = None
    """Averages that its kink sets off."""

    def moved(self, moments: Moments | None, late: int = 0) -> "_Piece":
        """The piece where its kink, which may come so much later, sets off averages."""
        return self._replace(since=-late, lead=late + LEAD, moments=moments) if moments else self


def _pieces(counts: Counts) -> Iterator[_Piece]:
    """The pieces of a run, each from the update after a kink to the next kink."""
    total, warmup, start = counts.total_steps, counts.warmup_steps, int(counts.start)
    most = max(1, (total - start) // (ANNEAL_PARTS + counts.falls))
    begin, lead = warmup + (warmup > 0), 0
    rising = counts.moments if counts.moments and counts.moments.rises else None
    if warmup > 0:
        yield _Piece(0, 0, total, LEAD).moved(rising)
    if start < warmup and counts.crossing is not None and counts.crossing[0] < total:
        low, high = counts.crossing
        late = high - low
        yield _Piece(low, low - start if counts.steep else low, most, late + LEAD).moved(rising, late)
    if begin <= start:
        yield _Piece(begin, total, total, 0).moved(rising)
        begin, lead = start + 1, 1
    if begin < total:
        yield _Piece(begin, begin - start if counts.steep else begin, most, lead).moved(counts.moments)


def _parted(pieces: Sequence[_Piece], changes: Sequence[int]) -> Iterator[_Piece]:
    """The pieces cut in two where a change lies in them; the latter part is as smooth as it was."""
    begins = [piece.begin for piece in pieces]
    for piece, end in zip(pieces, [*begins[1:], math.inf], strict=True):
        yield piece
        for at in changes:
            if piece.begin < at < end:
                past = at - piece.begin
                yield piece._replace(begin=at, since=piece.since + past, lead=max(piece.lead - past, 0))


def _sizes(piece: _Piece, length: int, left: int) -> Iterator[int]:
    """Sizes of the panels of a piece of so many updates, with so many left after it."""
    at = 0
    while at < length:
        rest = length - at
        room = min(STRIDE * (piece.since + at), (rest + left) // 2, piece.most)
        room = min(room, (piece.moments and piece.moments.most(piece.since + at)) or room)
        size = rest if rest <= room else _rounded(room)
        size = rest // 2 if size < rest < size + SMALLEST else size
        size = size if at >= piece.lead and size >= SMALLEST else 1
        yield size
        at += size


def _rounded(size: int) -> int:
    """The size with its leading bits alone."""
    less = max(size.bit_length() - BITS, 0)
    return size >> less << less


def crossings(
    decay: str, peak_lr: np.ndarray, final_lr: np.ndarray, *, init_lr: float, warmup_steps: int, start: float, stop: int
) -> np.ndarray:
    """Last update of warmup at which its rate is not above that of an anneal that has begun; one each row."""
    length = stop - start
    low, high = np.full(peak_lr.shape, int(start)), np.full(peak_lr.shape, warmup_steps)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        fallen = DECAYS[decay].rate(np.clip((middle - start) / length, 0.0, 1.0), peak_lr, final_lr)
        above = ramp(middle, warmup_steps, init_lr, peak_lr) > fallen
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return low
