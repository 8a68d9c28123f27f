"""The trade between updates and tokens: fits of what runs at several batch sizes need to reach a loss."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fmjax._checks import require
from fmjax._names import LEVEL
from fmjax.fitting.metrics import percentile_interval
from fmjax.scaling.smoothing import SmoothCurve, first_reach

OPEN = 0.1
"""Share of the updates, where it counts most, under which S_min or E_min / B is too small to be told from zero."""

TRADE_STATUS = {
    "determined": "S_min, E_min and the critical batch size are determined",
    "above-critical": "the batch sizes lie far above the critical one: loss follows updates, and E_min stays open",
    "below-critical": "the batch sizes lie far below the critical one: loss follows tokens, and S_min stays open",
    "undetermined": "too few batch sizes, or too close for the noise: S_min and E_min stay open",
}
"""What the status of a level means."""

_EDGES = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


class Trades(NamedTuple):
    """S = S_min + E_min / B at several levels of loss, for the runs and for bootstrap samples of them."""

    reached: np.ndarray
    """``[runs, levels]`` log updates at which a run reaches a level; NaN where it does not."""
    sizes: np.ndarray
    """``[sizes]`` tokens an update B, rising."""
    centre: np.ndarray
    """``[levels, sizes]`` mean of ``reached`` over the runs of a batch size."""
    fitted: np.ndarray
    """``[levels, 2]`` S_min and E_min."""
    samples: np.ndarray
    """``[samples, levels, 2]`` the same of the samples; NaN where one leaves fewer than two batch sizes."""
    method: str
    """What a sample redraws: "runs", "rows", or "runs and rows"."""

    @property
    def error(self) -> np.ndarray:
        """``[levels]`` root mean square of the relative error in updates."""
        return np.sqrt(mean(np.expm1(_miss(self.sizes, self.centre, self.fitted)) ** 2, 1))

    def status(self, level: int) -> str:
        """What of S_min and E_min can be told from zero: "determined" where both can, at the batches they matter most.

        What cannot has a share below ``OPEN`` of the updates there, in the fit or in ``(1 - LEVEL)/2`` of the samples.
        The batch sizes lie far to one side where all but ``(1 - LEVEL)/2`` of the samples put the other share ahead.
        """
        used = self.sizes[np.isfinite(self.centre[level])]
        updates, tokens = np.concatenate([self.fitted[None, level], self.samples[:, level]]).T
        serial, parallel = updates / (updates + tokens / used[-1]), tokens / (used[0] * updates + tokens)
        if not _small(serial) and not _small(parallel):
            return "determined"
        if _small(parallel) and np.mean(parallel < 0.5) > _EDGES[1]:
            return "above-critical"
        return "below-critical" if _small(serial) and np.mean(serial < 0.5) > _EDGES[1] else "undetermined"

    @property
    def drawn(self) -> np.ndarray:
        """``samples`` for intervals: NaN at levels that fewer than three batch sizes reach."""
        enough = np.isfinite(self.centre).sum(axis=1) > 2
        return np.where(enough[:, None], self.samples, np.nan)

    def critical(self) -> tuple[np.ndarray, np.ndarray]:
        """``[levels]`` and ``[samples, levels]`` E_min / S_min, NaN where either is zero."""
        fitted, samples = (np.where(x > 0, x, np.nan) for x in (self.fitted, self.drawn))
        return fitted[:, 1] / fitted[:, 0], samples[..., 1] / samples[..., 0]


def fit_trades(tracks: Sequence[SmoothCurve], levels: np.ndarray, *, samples: int, rng: np.random.Generator) -> Trades:
    """Fits the trade at every level, each batch size counting once.

    A sample redraws n - 1 of the n runs of a batch size, or the noise of the rows of an only run, and adds what the law
    misses beyond that noise: one normal shift of log updates for each batch size, alike at all levels.

    Args:
      tracks: the smoothed runs.
      levels: ``[levels]`` log losses.
      samples: number of bootstrap samples.
      rng: source of the draws.

    Raises:
      ValueError: a level that fewer than two batch sizes reach.

    Reference: McCandlish et al., arXiv 1812.06162, eq. 2.11; n - 1 of n, Rao & Wu (1988).
    """
    reached = np.array([[first_reach(track, level) for level in levels] for track in tracks])
    sizes, group = np.unique([track.batch for track in tracks], return_inverse=True)
    members = [np.flatnonzero(group == k).tolist() for k in range(sizes.size)]
    centre = np.stack([mean(reached[own], 0) for own in members], axis=-1)
    _check_reached(levels, sizes, np.isfinite(centre))
    fitted = _trade(sizes, np.exp(centre))
    drawn = [_shifts([tracks[i] for i in own], reached[own], levels, samples, rng) for own in members]
    shifts = np.stack(drawn, axis=-1)
    beyond = _excess(_miss(sizes, centre, fitted), shifts) * rng.standard_normal((samples, 1, sizes.size))
    found = _trade(sizes, np.exp(centre + shifts + beyond))
    kinds = sorted({"runs" if len(own) > 1 else "rows" for own in members}, reverse=True)
    return Trades(reached, sizes, centre, fitted, found, " and ".join(kinds))


def _check_reached(levels: np.ndarray, sizes: np.ndarray, reaches: np.ndarray) -> None:
    for level, own in zip(levels, reaches, strict=True):
        found, known = (", ".join(f"{size:.12g}" for size in x) or "none" for x in (sizes[own], sizes))
        least = f"loss {np.exp(level):.4g}: expected at least two batch sizes to reach it"
        require(own.sum() > 1, f"{least}, found {found} (of {known} tokens an update)")


def _miss(sizes: np.ndarray, centre: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """``[levels, sizes]`` log of fitted over found updates."""
    return np.log(fitted[:, :1] + fitted[:, 1:] / sizes) - centre


def _trade(sizes: np.ndarray, updates: np.ndarray) -> np.ndarray:
    """``[..., 2]`` S_min and E_min of least squared relative error over ``updates[..., sizes]``, none below zero."""
    u = np.nan_to_num(1 / updates)
    v = u * sizes[0] / sizes
    uu, uv, vv, u1, v1 = (np.sum(x, axis=-1) for x in (u * u, u * v, v * v, u, v))
    with np.errstate(divide="ignore", invalid="ignore"):
        det = uu * vv - uv**2
        first, second = (vv * u1 - uv * v1) / det, (uu * v1 - uv * u1) / det
        free = np.stack([np.where(second < 0, u1 / uu, first), np.where(first < 0, v1 / vv, second)], axis=-1)
    enough = np.isfinite(updates).sum(axis=-1, keepdims=True) > 1
    return np.where(enough, np.maximum(free, 0.0) * [1.0, sizes[0]], np.nan)


def _shifts(
    tracks: Sequence[SmoothCurve], reached: np.ndarray, log_losses: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """``[count, levels]`` what redrawing moves the mean log updates of one batch size by."""
    if len(tracks) > 1:
        drawn = rng.integers(len(tracks), size=(count, len(tracks) - 1))
        return mean(reached[drawn], 1) - mean(reached, 0)
    losses = tracks[0].draw(count, rng)
    return np.stack([first_reach(tracks[0], level, losses) for level in log_losses], axis=-1) - reached[0]


def _excess(miss: np.ndarray, shifts: np.ndarray) -> float:
    """Standard deviation of ``miss[levels, sizes]`` beyond that of the shifts, pooled over levels with free runs."""
    free = np.isfinite(miss).sum(axis=1) - 2
    judged = free > 0
    total = np.nansum(miss[judged] ** 2) / max(free[judged].sum(), 1)
    noise = np.nansum(shifts[:, judged] ** 2) / max(np.isfinite(shifts[:, judged]).sum(), 1)
    return math.sqrt(max(float(total - noise), 0.0))


def _small(share: np.ndarray) -> bool:
    """Whether the first share, or too many of the others, are below ``OPEN``."""
    return bool(share[0] < OPEN or np.mean(share[1:] < OPEN) > _EDGES[0])


def line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``[..., 2]`` value at x = 0 and fall of least-squares lines through the finite points of ``y[..., points]``."""
    weight = np.isfinite(y).astype(float)
    total, y = weight.sum(axis=-1, keepdims=True), np.where(weight > 0, y, 0.0)
    with np.errstate(invalid="ignore"):
        x0, y0 = ((weight * z).sum(axis=-1, keepdims=True) / total for z in (x, y))
        fall = -np.sum(weight * (x - x0) * (y - y0), axis=-1) / np.sum(weight * (x - x0) ** 2, axis=-1)
    return np.stack([y0[..., 0] + fall * x0[..., 0], fall], axis=-1)


def mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of the values that are not NaN; NaN where there are none."""
    count = np.isfinite(values).sum(axis=axis)
    return np.where(count > 0, np.nansum(values, axis=axis) / np.maximum(count, 1), np.nan)


def trade_interval(values: np.ndarray) -> tuple[float, float]:
    """Percentile interval of the finite values; NaN for fewer than two."""
    return percentile_interval(values[np.isfinite(values)])
