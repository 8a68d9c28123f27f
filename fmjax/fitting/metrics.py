"""How well predicted losses agree with measured ones."""

from collections.abc import Sequence

import numpy as np

from fmjax._names import LEVEL
from fmjax._types import HostNumbers


def mape_percent(predicted: HostNumbers, loss: HostNumbers) -> float:
    """Mean absolute percentage error, 100 mean |predicted/loss - 1|.

    >>> mape_percent([1.1, 0.9], [1.0, 1.0])
    10.0
    """
    return round_off(100 * np.mean(np.abs(np.divide(predicted, loss) - 1)))


def worst_percent(predicted: HostNumbers, loss: HostNumbers) -> float:
    """Largest absolute percentage error, 100 max |predicted/loss - 1|."""
    return round_off(100 * np.max(np.abs(np.divide(predicted, loss) - 1)))


def rmse(predicted: HostNumbers, loss: HostNumbers) -> float:
    """Root mean squared error, in units of the loss."""
    return float(np.sqrt(np.mean(np.square(np.subtract(predicted, loss)))))


def r2(predicted: HostNumbers, loss: HostNumbers) -> float:
    """Coefficient of determination, 1 - residual / total sum of squares; NaN where all losses are equal."""
    total = np.sum(np.square(np.subtract(loss, np.mean(loss))))
    residual = np.sum(np.square(np.subtract(predicted, loss)))
    return float(1 - residual / total) if total > 0 else float("nan")


def round_off(percent: float | np.floating) -> float:
    """Drops digits below 1e-12 of a percentage, which depend on the order of summation."""
    return float(np.round(percent, 12))


def percentile_interval(values: Sequence[float] | np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The central interval that holds ``level`` of the values; NaN for fewer than two.

    >>> percentile_interval(range(5), level=0.5)
    (1.0, 3.0)
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(np.asarray(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
