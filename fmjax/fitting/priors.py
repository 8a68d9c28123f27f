r"""Priors: what other runs have shown of a law's exponents, weighed against the rows of the runs at hand.

A prior on an exponent is a Gaussian. It enters a fit as one more residual, (exponent - mean) / sd. Rows and priors are
weighed by what the rows are worth, not by their number. The minimum of a sum of losses rho(e) of rows that err alike
has the covariance B / A^2 per unit of slopes, where

    A = sum of rho''(e) over rows,    B = sum over runs of (sum of rho'(e) over the run's rows)^2.

So the objective divided by B / A, its *scale*, is a log likelihood as far as its curvature goes. Rows that err
independently make B / A the variance of a row. Rows of a run that all err alike make it that variance times their
number. A fit with few runs follows their errors, so that their residuals look better than they are: the scale is taken
to be at least that of runs which err by ``LEVEL_ERROR`` all along.

Reference: Huber (1967), the behavior of maximum likelihood estimates under nonstandard conditions, for B / A^2; Liang
and Zeger (1986) for the sum over runs.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fmjax._checks import choose, finite, require
from fmjax.fitting.objective import Objective, PriorPull
from fmjax.laws import LAWS, Law
from fmjax.laws.terms import Gaussian


class KnownExponents(NamedTuple):
    """Priors of one law's exponents; fits of other laws have their own."""

    law: str
    values: dict[str, tuple[float, float]]
    """Mean and standard deviation by exponent."""

    @classmethod
    def from_json(cls, text: str) -> "KnownExponents":
        """Reads a prior that was written to a file.

        Raises:
          ValueError: not such a file, or an unknown law or exponent.
        """
        expected = "expected a prior, as fmjax prior -o writes it"
        try:
            record = json.loads(text)
            require(isinstance(record, dict) and {"law", "exponents"} <= record.keys(), f"{expected}, found other JSON")
            pairs = {one["name"]: (one["mean"], one["sd"]) for one in record["exponents"]}
        except json.JSONDecodeError as error:
            raise ValueError(f"{expected}; found invalid JSON ({error})") from None
        except (KeyError, TypeError) as error:
            raise ValueError(f"{expected}; damaged: {type(error).__name__} {error}") from None
        choose(record["law"], LAWS, "law")
        for name in pairs:
            choose(name, KNOWN_EXPONENTS, "exponent")
        return cls(record["law"], {name: tuple(_gaussian(name, pair)) for name, pair in pairs.items()})  # type: ignore[misc]


Priors = str | Mapping[str, tuple[float, float]] | KnownExponents | None
"""What a fit can be told: "default", a mean and a standard deviation by exponent, those that were learned, or None."""

LEVEL_ERROR = 1.5e-3
"""Relative error that a run makes all along, by its seed and its tuning: repeats of public runs differ by so much."""

HELD = 1e-5
"""Standard deviation that stands for 0."""


KNOWN_EXPONENTS = sorted({e.name for law in LAWS.values() for e in law(sizes=True).spanning((1, 2), (1, 2)).exponents})
"""Exponents of all laws: a prior may name those that a fit does not have."""


class LearnedExponent(NamedTuple):
    """An exponent with a prior, and what the data made of it."""

    name: str
    mean: float
    sd: float
    """Mean and standard deviation of the prior."""
    estimate: float
    estimate_sd: float
    """Standard deviation left by prior and data together."""

    @property
    def moved(self) -> float:
        """How far the data moved the exponent, in standard deviations of the prior."""
        return (self.estimate - self.mean) / self.sd if self.sd else 0.0

    @property
    def told(self) -> float:
        """Share of the precision that the data gave: 0 where all is prior, 1 where all is data."""
        return max(0.0, 1 - (self.estimate_sd / self.sd) ** 2) if self.sd else 0.0

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "LearnedExponent":
        """Reads what JSON made of one."""
        number = {name: float("nan") if record[name] is None else float(record[name]) for name in cls._fields[1:]}
        return cls(record["name"], **number)

    def to_dict(self) -> dict[str, object]:
        """As plain values."""
        return {**self._asdict(), "moved": self.moved, "told": self.told}


class LawPrior(NamedTuple):
    """The prior of a fit's exponents."""

    known: tuple[Gaussian | None, ...]
    """One an exponent of the law."""

    @classmethod
    def shipped(cls, law: Law) -> "LawPrior":
        """What the law says of its exponents."""
        return cls(tuple(exponent.prior for exponent in law.exponents))

    @classmethod
    def of(cls, law: Law, told: Priors) -> "LawPrior":
        """The prior that a fit is told of.

        Raises:
          ValueError: an unknown exponent, or a mean and a standard deviation that are none.
        """
        if isinstance(told, KnownExponents):
            # families are those of the runs at hand, so that nothing was learned of their factors
            own = {e.name: e.prior for e in law.exponents if e.prior is not None and e.name not in KNOWN_EXPONENTS}
            told = {**own, **told.values} if told.law == law.name else "default"
        if isinstance(told, str):
            choose(told, ("default",), "prior")
            spans = law.sizes or law.spans_batches or law.families
            return cls.shipped(law) if spans else cls((None,) * len(law.exponents))
        for name in told or {}:
            choose(name, (*KNOWN_EXPONENTS, *(exponent.name for exponent in law.exponents)), "exponent")
        given = {name: _gaussian(name, value) for name, value in (told or {}).items()}
        return cls(tuple(given.get(exponent.name) for exponent in law.exponents))

    @classmethod
    def of_fit(cls, law: Law, learned: Sequence[LearnedExponent]) -> "LawPrior":
        """The prior that a fit was made with."""
        return cls.of(law, {one.name: (one.mean, one.sd) for one in learned})

    @classmethod
    def of_open(cls, law: Law, told: Priors) -> "LawPrior":
        """The prior of a second fit, of runs that alone leave the law open: its own, unless told another."""
        own = told == "default" or (isinstance(told, KnownExponents) and told.law != law.name)
        return cls.shipped(law) if own and not cls.of(law, told) else cls((None,) * len(law.exponents))

    def __bool__(self) -> bool:
        """Whether any exponent has a prior."""
        return any(self.known)

    def pull(self, scale: np.ndarray) -> PriorPull | None:
        """The pull of each of several objectives of these scales ``[lanes]``; none without a prior."""
        return self.pulling(scale) if self else None

    def pulling(self, scale: np.ndarray) -> PriorPull:
        """The same, of no stiffness without a prior."""
        centre = np.array([0.0 if known is None else known.mean for known in self.known])
        free = np.array([known is None for known in self.known])
        stiffness = np.where(free, 0.0, 1 / np.square(np.maximum(self.sds, HELD)))
        return PriorPull(np.tile(centre, (len(scale), 1)), scale[:, None] * stiffness)

    @property
    def sds(self) -> np.ndarray:
        """``[exponents]`` standard deviations, 0 without a prior."""
        return np.array([0.0 if known is None else known.sd for known in self.known])


def _gaussian(name: str, value: Any) -> Gaussian:
    what = f"prior of {name}"
    require(isinstance(value, tuple | list) and len(value) == 2, f"{what}: expected (mean, sd), got {value!r}")
    mean, sd = finite(value[0], what), finite(value[1], what)
    require(sd >= 0, f"{what}: expected a standard deviation of at least 0, got {sd:g}")
    return Gaussian(mean, sd)


def least_scale(weights: np.ndarray, run: np.ndarray, error: float = LEVEL_ERROR) -> np.ndarray:
    """``[groups]`` scale of objectives with row weights ``[groups, rows]`` whose runs err all along by ``error``."""
    total = _of_runs(weights, run)
    return error**2 * np.sum(total**2, axis=1) / np.sum(total, axis=1)


def found_scale(
    loss: np.ndarray, predicted: np.ndarray, weights: np.ndarray, run: np.ndarray, objective: Objective, residual: str
) -> np.ndarray:
    """``[groups]`` scale that the residuals of fits ``predicted[groups, rows]`` show."""
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.log(predicted) - np.log(loss) if residual == "log" else predicted - loss
    weights = np.where(np.isfinite(error), weights, 0.0) * np.where(error > 0, objective.over_weight, 1.0)
    force = np.clip(np.nan_to_num(error), -objective.delta, objective.delta)
    stiffness = np.sum(weights * (np.abs(error) <= objective.delta), axis=1)
    worth = np.sum(_of_runs(weights * force, run) ** 2, axis=1)
    return worth / np.maximum(stiffness, 0.05 * np.sum(weights, axis=1))


def _of_runs(values: np.ndarray, run: np.ndarray) -> np.ndarray:
    """``[groups, runs]`` sums of values ``[groups, rows]`` over the rows of each run."""
    return np.stack([np.bincount(run, own) for own in values])
