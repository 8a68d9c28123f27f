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

MOST_CORRELATED = 0.99
"""Correlation of successive rows, and share of noise that is shared, at most."""


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
    """The noise of a row is a part that its run shares with others and a part of its own; one of each for every lane.

    Both are first-order autoregressive, log loss - law = sigma (sqrt(share) z + sqrt(1 - share) w), z and w of unit
    variance.
    """

    phi: np.ndarray
    """Correlation of w from row to row."""
    sigma: np.ndarray
    """Standard deviation of a row."""
    share: np.ndarray
    """Share of its variance that is z; 0 where no runs share noise."""
    shared_phi: np.ndarray
    """Correlation of z from one step at which a run of the group has a row to the next."""

    def corrected(self, observed: "ChainNoise", seen: "ChainNoise") -> "ChainNoise":
        """Moves the noise by what residuals of its own samples fall short of the observed ones."""
        moved = {
            name: np.clip(getattr(self, name) + getattr(observed, name) - getattr(seen, name), 0.0, MOST_CORRELATED)
            for name in ("phi", "share", "shared_phi")
        }
        return ChainNoise(sigma=self.sigma * observed.sigma / np.maximum(seen.sigma, 1e-300), **moved)


class NoiseChain(NamedTuple):
    """How noise runs along rows: each follows the row before it in its run; rows that runs share have one owner."""

    owner: np.ndarray
    """``[rows]`` the first row with the same step and loss under the same rates."""
    starts: np.ndarray
    """``[rows]`` whether a row is the first of its run."""
    occasion: np.ndarray
    """``[rows]`` rows of one are of one step and of runs that share noise; those of an owner are of its own."""
    before: np.ndarray
    """``[occasions]`` the one before in the same group of runs; -1 for the first."""

    @classmethod
    def of(
        cls, rows: Rows, run: np.ndarray, group: np.ndarray | None = None, step: np.ndarray | None = None
    ) -> "NoiseChain":
        """The chain of rows.

        Args:
          rows: one set of rows.
          run: ``[rows]`` run of each.
          group: ``[rows]`` group of runs that share noise at equal steps; none share any without.
          step: ``[rows]`` steps, needed with groups.
        """
        loss = np.asarray(rows.loss[0])
        columns = [np.asarray(value[0]).reshape(loss.size, -1) for value in rows.effects.values()]
        keys = np.concatenate([loss[:, None], *columns], axis=1)
        _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        owner = first[inverse.ravel()]
        each = np.stack([run, np.arange(run.size)] if group is None or step is None else [group, step])
        places, occasion = np.unique(each[:, owner], axis=1, return_inverse=True)
        before = np.where(np.diff(places[0], prepend=-1) == 0, np.arange(places.shape[1]) - 1, -1)
        return cls(owner, np.diff(run, prepend=-1) > 0, occasion.ravel(), before)

    def noise(self, residual: np.ndarray, weights: np.ndarray) -> ChainNoise:
        """Size, correlation and share of residuals ``[lanes, rows]``; rows of positive weight, shared ones once."""
        own = np.stack([self._own(weight > 0) for weight in weights])
        pair = own[:, 1:] & (weights[:, :-1] > 0) & ~self.starts[1:]
        now, before = np.where(pair, residual[:, 1:], 0.0), np.where(pair, residual[:, :-1], 0.0)
        phi = np.sum(now * before, axis=1) / np.maximum(np.sum(before**2, axis=1), 1e-300)
        counted = np.where(own, residual, 0.0)
        variance = np.sum(counted**2, axis=1) / own.sum(axis=1)
        shared, next_shared = self._shared(counted, own, pair, now * before)
        share = np.clip(shared / np.maximum(variance, 1e-300), 0.0, MOST_CORRELATED)
        shared_phi = np.clip(next_shared / np.maximum(shared, 1e-300), 0.0, MOST_CORRELATED) * (share > 0)
        own_phi = (phi - share * shared_phi) / (1 - share)
        return ChainNoise(np.clip(own_phi, 0.0, MOST_CORRELATED), np.sqrt(variance), share, shared_phi)

    def _shared(
        self, residual: np.ndarray, own: np.ndarray, pair: np.ndarray, product: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean products ``[lanes]`` of residuals of different runs at one step, and at successive ones; 0 without any.

        Sums over all pairs are squares of an occasion's sum, or products of two sums. The pairs of a row with itself,
        or with the row that it follows, are taken from them.
        """
        total, count, square = (self._sums(values) for values in (residual, own.astype(float), residual**2))
        same = _ratio(total**2 - square, count * (count - 1))
        follows = np.append(False, self.occasion[self.owner[:-1]] == self.before[self.occasion[1:]])
        linked = np.pad(pair, ((0, 0), (1, 0))) & follows
        later = np.flatnonzero(self.before >= 0)
        pairs = [values[:, later] * values[:, self.before[later]] for values in (total, count)]
        chained = [np.sum(values, axis=1) for values in (np.pad(product, ((0, 0), (1, 0))) * linked, linked)]
        successive = (values.sum(axis=1) - less for values, less in zip(pairs, chained, strict=True))
        return same, _ratio(*(values[:, None] for values in successive))

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """``[lanes, occasions]`` sums of ``[lanes, rows]``."""
        order = np.argsort(self.occasion, kind="stable")
        first = np.searchsorted(self.occasion[order], np.arange(self.before.size))
        return np.add.reduceat(values[:, order], first, axis=1)

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
        if not noise.share.any():
            return (drawn * noise.sigma).T
        shared = np.sqrt(noise.share) * self._drawn_shared(rng, noise.shared_phi)[self.occasion]
        return ((shared + np.sqrt(1 - noise.share) * drawn) * noise.sigma).T

    def _drawn_shared(self, rng: np.random.Generator, phi: np.ndarray) -> np.ndarray:
        """``[occasions, lanes]`` noise of unit variance that the rows of an occasion share."""
        drawn = rng.standard_normal((self.before.size, phi.size))
        fresh = np.sqrt(1 - phi**2)
        for place, before in enumerate(self.before):
            if before >= 0:
                drawn[place] = phi * drawn[before] + fresh * drawn[place]
        return drawn


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Sum of ``[lanes, occasions]`` totals over that of counts; 0 where nothing is counted."""
    return total.sum(axis=1) / np.maximum(count.sum(axis=1), 1.0) * (count.sum(axis=1) > 0)
