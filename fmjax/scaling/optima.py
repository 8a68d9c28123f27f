"""Measured optima: the annealing ratio of least final loss among runs that differ in nothing else, with an interval."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fmjax.curves.loss_curve import LossCurve
from fmjax.fitting.metrics import percentile_interval
from fmjax.schedules.batch_stages import Batch
from fmjax.schedules.kinds import WSD

WINDOW, LEAST = 2, 4
"""Ratios on each side of the best one that the local quadratic is fitted to, and ratios in all, where there are."""

VERTEX_DRAWS = 2000
"""Draws behind an interval."""


class Tried(NamedTuple):
    """Runs that differ in nothing but their annealing ratio."""

    schedule: WSD
    """Their schedule; its own ratio means nothing."""
    model_size: float | None
    tokens_per_step: Batch | None
    ratios: np.ndarray
    """``[runs]``, rising; a ratio occurs again where it was run with several seeds."""
    losses: np.ndarray
    """``[runs]`` measured final losses."""

    @property
    def total_steps(self) -> int:
        """Number of updates."""
        return int(self.schedule.total_steps)

    @property
    def peak_lr(self) -> float:
        """Peak rate."""
        return float(self.schedule.peak_lr)

    @property
    def distinct(self) -> np.ndarray:
        """The ratios without repetition."""
        return np.unique(self.ratios)

    @property
    def means(self) -> np.ndarray:
        """Mean final loss at each of ``distinct``."""
        return np.array([self.losses[self.ratios == ratio].mean() for ratio in self.distinct])

    @property
    def best(self) -> float:
        """The ratio of least mean final loss among those tried."""
        return float(self.distinct[np.argmin(self.means)])

    @property
    def target(self) -> dict[str, Any]:
        """The run at any ratio, in the words of ``recommend`` and ``search``."""
        names = ("decay", "final_lr", "warmup_steps", "init_lr")
        fixed = {"total_steps": self.total_steps, "peak_lr": self.peak_lr, "model_size": self.model_size}
        return {**fixed, **{name: getattr(self.schedule, name) for name in names}}

    def nearest(self, ratio: float) -> float:
        """The ratio tried that is nearest to this one."""
        return float(self.distinct[np.argmin(np.abs(self.distinct - ratio))])

    def loss(self, ratio: float) -> float:
        """Mean final loss at the ratio tried nearest to this one."""
        return float(self.means[self.distinct == self.nearest(ratio)][0])

    def regret(self, ratio: float) -> float:
        """Excess of the final loss at the ratio tried nearest to this one over the least."""
        return self.loss(ratio) - float(self.means.min())


class Optimum(NamedTuple):
    """The ratio of least measured final loss."""

    ratio: float
    interval: tuple[float, float]
    """90 % interval; it reaches to 0 or 1 where the ratios tried do not bound it. NaN where no noise can be told."""
    at_edge: bool
    """Whether the optimum lies at the end of the ratios tried, or beyond it."""


def tried(curves: Sequence[LossCurve]) -> list[Tried]:
    """Groups the WSD runs that differ in nothing but their ratio, where there are at least two ratios.

    Sorted by model size, decay shape, total steps and peak rate. Runs that end before their schedule does are left out.
    """
    groups: dict[tuple[WSD, float | None, Batch | None], list[tuple[float, float]]] = defaultdict(list)
    for curve in curves:
        if isinstance(curve.schedule, WSD) and curve.is_finished:
            alike = dataclasses.replace(curve.schedule, anneal_ratio=0.5)
            key = (alike, curve.model_size, curve.tokens_per_step)
            groups[key].append((float(curve.schedule.anneal_ratio), curve.final_loss_measured))
    found = [Tried(*key, *np.array(sorted(pairs)).T) for key, pairs in groups.items()]
    return sorted((group for group in found if group.distinct.size > 1), key=_order)


def _order(group: Tried) -> tuple[Any, ...]:
    schedule = group.schedule
    return (group.model_size or 0, schedule.decay, schedule.total_steps, schedule.peak_lr, schedule.final_lr)


def optima(groups: Sequence[Tried], *, seed: int = 0) -> list[Optimum | None]:
    r"""The best ratio of each group by a local quadratic in $\sqrt R$, with an interval; None for under three ratios.

    The quadratic goes through the best ratio and two on either side, at an end of those tried through the last four.
    Of a ratio run with several seeds it takes the mean. A seed moves the losses of all ratios together, which says
    nothing of the best one, so only ratios with as many seeds as any are taken, where there are enough of them.

    The noise of a final loss is what such quadratics leave over, taken over all groups: with the means of k seeds
    $\sigma^2 = \sum k (L - q)^2 / \sum (n - 3)$. Intervals are those of the vertex when normal noise of variance
    $\sigma^2 / k$ is drawn around each quadratic.

    Args:
      groups: runs at several ratios.
      seed: seed of the draws.

    >>> group = Tried(WSD(1e-3, 1000), None, None, np.array([0.1, 0.3, 0.5, 0.7]), np.array([3.2, 3.05, 3.0, 3.04]))
    >>> [optimum] = optima([group])
    >>> 0.4 < optimum.ratio < 0.6
    True
    """
    parts = [_local(group) if group.distinct.size > 2 else None for group in groups]
    left = [part.losses - part.powers @ _quadratic(*part[:2]) for part in parts if part is not None]
    seeds = [part.seeds for part in parts if part is not None]
    spare = sum(residual.size - 3 for residual in left)
    square = sum(k * residual @ residual for k, residual in zip(seeds, left, strict=True))
    noise = np.sqrt(square / spare) if spare else np.nan
    rng = np.random.default_rng(seed)
    return [None if part is None else _optimum(*part[:2], noise / np.sqrt(part.seeds), rng) for part in parts]


class _Local(NamedTuple):
    """The ratios next to the best one."""

    powers: np.ndarray
    """``[ratios, 3]`` of sqrt(R)."""
    losses: np.ndarray
    """``[ratios]`` mean final losses."""
    seeds: float
    """Runs behind a mean, on average."""


def _local(group: Tried) -> _Local:
    seeds = np.array([np.sum(group.ratios == ratio) for ratio in group.distinct])
    most = seeds == seeds.max()
    kept = most if most.sum() >= LEAST else np.ones(seeds.size, bool)
    ratios, means, seeds = group.distinct[kept], group.means[kept], seeds[kept]
    best, count = int(np.argmin(means)), ratios.size
    near = slice(max(min(best - WINDOW, count - LEAST), 0), max(best + WINDOW, LEAST - 1) + 1)
    return _Local(np.vander(np.sqrt(ratios[near]), 3), means[near], float(seeds[near].mean()))


def _quadratic(powers: np.ndarray, losses: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(powers, losses.T, rcond=None)[0]


def _optimum(powers: np.ndarray, losses: np.ndarray, noise: float, rng: np.random.Generator) -> Optimum:
    fitted, span = _quadratic(powers, losses), (powers[:, 1].min(), powers[:, 1].max())
    ratio = float(_vertex(fitted[:, None], span)[0])
    edges = [edge**2 for edge in span]
    if not np.isfinite(noise):
        return Optimum(
            ratio, (0.0 if ratio == edges[0] else np.nan, 1.0 if ratio == edges[1] else np.nan), ratio in edges
        )
    drawn = powers @ fitted + noise * rng.standard_normal((VERTEX_DRAWS, losses.size))
    ratios = _vertex(_quadratic(powers, drawn), span)
    low, high = percentile_interval(ratios)
    low, high = (0.0 if low <= edges[0] else low), (1.0 if high >= edges[1] else high)
    return Optimum(ratio, (low, high), ratio in edges)


def _vertex(quadratics: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    """Ratio of the least value of quadratics ``[3, draws]`` in sqrt(R) over a span."""
    bend, slope, _ = quadratics
    ends = np.where(bend * (span[0] + span[1]) + slope >= 0, *span)
    inside = np.clip(-slope / np.where(bend > 0, 2 * bend, 1.0), *span)
    return np.where(bend > 0, inside, ends) ** 2
