"""The noise of a bootstrap: how large it is, how it runs along the rows of a run, and which rows say nothing of it."""

from typing import NamedTuple

import numpy as np

from fmjax.curves.row_noise import RowNoise, far_values
from fmjax.fitting.objective import Rows

MOST_SPIKES = 0.3
"""Share of a run's rows that spikes can be: where more lie far off, the law misses them."""

FAR = 2e-2
"""Relative error up to which no row is far off the law by itself; one in a long burst has no neighbours to show it."""

FEWEST_ROWS = 6
"""Rows of a run among which a spike can be told."""


def measured_rows(place: np.ndarray, loss: np.ndarray, predicted: np.ndarray, run: np.ndarray) -> np.ndarray:
    """``[rows]`` mask of the rows that measure the noise: no spikes of their run, and no repeats of a row before.

    A spike lies far off the trend of its neighbours (``RowNoise``), or as far off the run's median error and ``FAR``.

    Args:
      place: ``[rows]`` where a row stands, rising in each run, such as the log of its update.
      loss: ``[rows]`` losses.
      predicted: ``[rows]`` what the law says of them.
      run: ``[rows]`` run of each row.
    """
    kept = np.ones(run.size, bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = np.log(predicted)
    for own in (np.flatnonzero(run == one) for one in np.unique(run)):
        if own.size >= FEWEST_ROWS and np.isfinite(expected[own]).all():
            residual = np.log(loss[own]) - expected[own]
            found, near = RowNoise.of(place[own], loss[own], expected[own]), ~far_values(residual, FAR)
            spikes = own.size - near.sum() + np.sum(near & ~found.kept) - found.repeats
            missed = spikes > max(1, MOST_SPIKES * own.size)
            kept[own] = True if missed else found.kept & near
    return kept


class ChainNoise(NamedTuple):
    """Correlation of successive rows and standard deviation, one of each for every lane."""

    phi: np.ndarray
    sigma: np.ndarray

    def corrected(self, observed: "ChainNoise", seen: "ChainNoise") -> "ChainNoise":
        """Moves the noise by what residuals of its own samples fall short of the observed ones."""
        phi = np.clip(self.phi + observed.phi - seen.phi, 0.0, 0.99)
        return ChainNoise(phi, self.sigma * observed.sigma / np.maximum(seen.sigma, 1e-300))


class NoiseChain(NamedTuple):
    """How noise runs along rows: each follows the row before it in its run; rows that runs share have one owner."""

    owner: np.ndarray
    """``[rows]`` the first row with the same step and loss under the same rates."""
    starts: np.ndarray
    """``[rows]`` whether a row is the first of its run."""

    @classmethod
    def of(cls, rows: Rows, run: np.ndarray) -> "NoiseChain":
        """The chain of rows that belong to ``run[rows]``."""
        loss = np.asarray(rows.loss[0])
        columns = [np.asarray(value[0]).reshape(loss.size, -1) for value in rows.effects.values()]
        keys = np.concatenate([loss[:, None], *columns], axis=1)
        _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        return cls(first[inverse.ravel()], np.diff(run, prepend=-1) > 0)

    def noise(self, residual: np.ndarray, weights: np.ndarray) -> ChainNoise:
        """Correlation and size of residuals ``[lanes, rows]`` over rows of positive weight, shared ones once."""
        own = np.stack([self._own(weight > 0) for weight in weights])
        pair = own[:, 1:] & (weights[:, :-1] > 0) & ~self.starts[1:]
        now, before = np.where(pair, residual[:, 1:], 0.0), np.where(pair, residual[:, :-1], 0.0)
        phi = np.sum(now * before, axis=1) / np.maximum(np.sum(before**2, axis=1), 1e-300)
        sigma = np.sqrt(np.sum(np.where(own, residual, 0.0) ** 2, axis=1) / own.sum(axis=1))
        return ChainNoise(np.clip(phi, 0.0, 0.99), sigma)

    def _own(self, present: np.ndarray) -> np.ndarray:
        """Mask of the present rows, shared ones only where they are first met."""
        index = np.flatnonzero(present)
        mask = np.zeros(present.size, bool)
        mask[index[np.unique(self.owner[index], return_index=True)[1]]] = True
        return mask

    def draw(self, rng: np.random.Generator, noise: ChainNoise) -> np.ndarray:
        """Noise ``[lanes, rows]``."""
        drawn = rng.standard_normal((self.owner.size, noise.phi.size))
        fresh = np.sqrt(1 - noise.phi**2)
        for row, (owner, starts) in enumerate(zip(self.owner, self.starts, strict=True)):
            if owner != row:
                drawn[row] = drawn[owner]
            elif not starts:
                drawn[row] = noise.phi * drawn[row - 1] + fresh * drawn[row]
        return (drawn * noise.sigma).T
