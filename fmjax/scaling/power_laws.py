"""Power laws: how a quantity changes with others, with intervals of the exponents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fmjax._json import plain
from fmjax._names import LEVEL
from fmjax.fitting.metrics import percentile_interval

HALF_WIDTH = 1.645
"""Half the width of a 90 % interval of a normal quantity, in standard deviations."""

EXPONENT_DRAWS = 20_000
"""Draws of Student's t behind an interval."""


class PowerExponent(NamedTuple):
    """An exponent and what is known of it."""

    value: float
    interval: tuple[float, float]
    """90 % interval."""
    p_value: float
    """Probability of an exponent at least as far from zero, if it were zero: small where transfer changes the ratio."""


@dataclass(frozen=True)
class OptimaPowerLaw:
    r"""$y = c \prod_j x_j^{e_j}$."""

    exponents: dict[str, PowerExponent]
    log_factor: float
    """log c."""
    points: int
    """Points fitted."""
    scatter: float
    """Standard deviation of log y about the law, beyond what the intervals of the points explain."""

    def at(self, **variables: float) -> float:
        """Y for given variables.

        >>> points = [(3.0, (2.9, 3.1)), (6.0, (5.8, 6.2)), (12.0, (11.6, 12.4))]
        >>> law = power_law([{"x": 1.0}, {"x": 2.0}, {"x": 4.0}], points)
        >>> round(law.at(x=8.0), 6)
        24.0
        """
        logs = (one.value * np.log(variables[name]) for name, one in self.exponents.items())
        return float(np.exp(self.log_factor + sum(logs)))

    def to_dict(self) -> dict[str, object]:
        """The law as plain values for JSON."""
        exponents = {name: one._asdict() for name, one in self.exponents.items()}
        rest = {"log_factor": self.log_factor, "points": self.points, "scatter": self.scatter, "level": LEVEL}
        return plain({"exponents": exponents, **rest})


def power_law(
    variables: Sequence[Mapping[str, float | None]], points: Sequence[tuple[float, tuple[float, float]]]
) -> OptimaPowerLaw | None:
    r"""Fits $\log y = \log c + \sum_j e_j \log x_j$ by weighted least squares.

    A point weighs as $1/(s^2 + \tau^2)$: s is its own standard deviation, the width of its 90 % interval in log y, and
    $\tau$ the scatter about the law that makes the weighted squares of its residuals sum to their degrees of freedom
    (zero where they sum to less). Intervals are those of Student's t with as many degrees of freedom.

    Args:
      variables: for each point the value of each variable; those that are unknown or do not differ are left out.
      points: y and its 90 % interval.

    Returns:
      The law; None where fewer than two points or no variable differs, or variables cannot be told apart.

    Reference: DerSimonian and Laird (1986), random effects.
    """
    names = [name for name in (variables[0] if variables else ()) if _differs([point[name] for point in variables])]
    if not names or len(points) < len(names) + 1:
        return None
    x = np.array([[1.0, *(np.log(float(point[name] or np.nan)) for name in names)] for point in variables])
    y = np.log([value for value, _ in points])
    x[:, 1:] -= (center := x[:, 1:].mean(axis=0))
    if np.linalg.matrix_rank(x) < x.shape[1]:
        return None
    own = np.array([_deviation(*point) for point in points])
    known = np.isfinite(own)
    own = np.where(known, own, own[known].max() if known.any() else 0.0)
    scatter, values, covariance = random_effects(x, y, own)
    spare, deviations = len(y) - len(values), np.sqrt(np.diag(covariance))
    exponents = {
        name: _exponent(values[j], deviations[j], spare, bool(known.any())) for j, name in enumerate(names, start=1)
    }
    return OptimaPowerLaw(exponents, float(values[0] - center @ values[1:]), len(y), scatter)


def _differs(values: Sequence[float | None]) -> bool:
    return None not in values and len(set(values)) > 1


def _deviation(value: float, interval: tuple[float, float]) -> float:
    """Standard deviation of log y; an end that is open or unknown leaves it to the other."""
    ends = [abs(np.log(end / value)) for end in interval if np.isfinite(end) and 0 < end != value]
    return float(np.mean(ends)) / HALF_WIDTH if ends else float("nan")


def random_effects(x: np.ndarray, y: np.ndarray, own: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scatter tau, coefficients and their covariance: points ``y`` with deviations ``own`` about ``x[points, k]``."""

    def fitted(scatter: float) -> tuple[np.ndarray, np.ndarray, float]:
        weight = 1 / np.maximum(own**2 + scatter**2, 1e-12)
        covariance = np.linalg.inv((x.T * weight) @ x)
        values = covariance @ (x.T * weight) @ y
        return values, covariance, float(weight @ (y - x @ values) ** 2)

    low, high, spare = 0.0, 10.0, y.size - x.shape[1]
    if spare and fitted(0.0)[2] > spare:
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if fitted(middle)[2] > spare else (low, middle)
    values, covariance, _ = fitted(low)
    return low, values, covariance


def _exponent(value: float, deviation: float, spare: int, known: bool) -> PowerExponent:
    rng = np.random.default_rng(0)
    if not (spare or known):
        return PowerExponent(float(value), (np.nan, np.nan), np.nan)
    drawn = rng.standard_t(spare, EXPONENT_DRAWS) if spare else rng.standard_normal(EXPONENT_DRAWS)
    low, high = percentile_interval(value + deviation * drawn)
    p_value = np.mean(np.abs(drawn) >= abs(value) / deviation) if deviation > 0 else float(value == 0)
    return PowerExponent(float(value), (low, high), float(p_value))
