"""What one annealing ratio, or one number of annealing updates, would cost where it is kept for every cell."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

KEPT = ("ratio", "updates")
"""What all cells can keep alike of an anneal."""

UPDATES_TRIED = 200
"""Numbers of annealing updates tried, between the least and the most that is best for a cell."""


class Foreseen(NamedTuple):
    """The final losses that are predicted for a cell."""

    cell: int
    """Index of the cell."""
    decay: str
    total_steps: int
    losses: np.ndarray
    """``[ratios]``."""


class OneForAll(NamedTuple):
    """The ratio, or the number of updates, that costs cells least when all of them keep it."""

    kept: str
    """One of ``KEPT``: "ratio" or "updates"."""
    decay: str
    """Decay shape of the cells."""
    value: float
    """The ratio, or the number of annealing updates."""
    regrets: tuple[float, ...]
    """Excess of each cell's predicted final loss over that of its own best ratio."""
    cells: tuple[int, ...]
    """Index of each of these cells."""

    @property
    def mean(self) -> float:
        """Mean of ``regrets``."""
        return float(np.mean(self.regrets))

    @property
    def worst(self) -> float:
        """The largest of ``regrets``."""
        return max(self.regrets)

    @property
    def worst_cell(self) -> int:
        """Index of the cell that it costs most."""
        return self.cells[int(np.argmax(self.regrets))]

    def to_dict(self) -> dict[str, object]:
        """The choice and what it costs, as plain values for JSON."""
        return {**self._asdict(), "mean": self.mean, "worst": self.worst, "worst_cell": self.worst_cell}


def one_for_all(cells: Sequence[Foreseen], ratios: np.ndarray) -> tuple[OneForAll, ...]:
    r"""For each decay shape of at least two cells: the ratio R, and the updates $a = R T$, of least mean regret.

    The regret of a cell c of $T_c$ updates is $L_c(R) - \min_{R'} L_c(R')$ with $R$ for all, or $R = a / T_c$ with a
    for all, as far as the ratios reach. In between those searched losses are interpolated.

    Args:
      cells: predicted final losses.
      ratios: ``[ratios]`` at which, rising.

    >>> ratios = np.linspace(0.1, 0.9, 9)
    >>> cells = [Foreseen(i, "linear", steps, (ratios - 400 / steps) ** 2) for i, steps in enumerate((1000, 2000))]
    >>> ratio, updates = one_for_all(cells, ratios)
    >>> round(ratio.value, 3), round(updates.value), round(updates.worst, 6)
    (0.3, 400, 0.0)
    """
    found = []
    for decay in dict.fromkeys(cell.decay for cell in cells):
        alike = [cell for cell in cells if cell.decay == decay]
        if len(alike) > 1:
            found += [_least(kept, alike, ratios) for kept in KEPT]
    return tuple(found)


def _least(kept: str, cells: Sequence[Foreseen], ratios: np.ndarray) -> OneForAll:
    steps, losses = np.array([cell.total_steps for cell in cells]), np.array([cell.losses for cell in cells])
    values = ratios if kept == "ratio" else _updates(steps * ratios[np.argmin(losses, axis=1)])
    asked = np.broadcast_to(values, (len(cells), values.size)) / (1 if kept == "ratio" else steps[:, None])
    at = np.array([np.interp(own, ratios, loss) for own, loss in zip(asked, losses, strict=True)])
    regrets = np.maximum(at - losses.min(axis=1, keepdims=True), 0.0)
    best = int(np.argmin(regrets.mean(axis=0)))
    own = tuple(float(regret) for regret in regrets[:, best])
    return OneForAll(kept, cells[0].decay, float(values[best]), own, tuple(cell.cell for cell in cells))


def _updates(best: np.ndarray) -> np.ndarray:
    return np.unique(np.round(np.geomspace(best.min(), best.max(), UPDATES_TRIED)))
