"""Rates as a few knots with straight lines between them."""

import numpy as np
from numpy.typing import ArrayLike

WITHIN = 1e-3
"""Share of the peak rate by which a schedule of fewer knots may be off."""


def thinned(steps: ArrayLike, rates: ArrayLike, *, within: float = WITHIN) -> tuple[np.ndarray, np.ndarray]:
    """The knots of a piecewise-linear schedule without those that change no rate by more than a share of the peak.

    By Ramer, Douglas and Peucker: between two knots that stay, the one that is furthest off the line stays if it is too
    far off.

    Args:
      steps: ``[knots]`` update counts, rising.
      rates: ``[knots]`` learning rates there.
      within: how far off a rate may come to be, as a share of the greatest rate.

    >>> [array.tolist() for array in thinned([0, 1, 2, 4], [1.0, 1.0, 1.0, 0.5])]
    [[0, 2, 4], [1.0, 1.0, 0.5]]
    """
    steps, rates = np.asarray(steps), np.asarray(rates, float)
    kept, waiting = {0, steps.size - 1}, [(0, steps.size - 1)]
    while waiting:
        first, last = waiting.pop()
        inside = slice(first, last + 1)
        off = np.abs(rates[inside] - np.interp(steps[inside], steps[[first, last]], rates[[first, last]]))
        worst = first + int(np.argmax(off))
        if off.max() > within * rates.max() and first < worst < last:
            kept.add(worst)
            waiting += [(first, worst), (worst, last)]
    index = np.array(sorted(kept))
    return steps[index], rates[index]
