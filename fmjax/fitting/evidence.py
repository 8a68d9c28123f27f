"""What rows determine of a law's parameters, by themselves and together with a prior."""

from typing import NamedTuple

import jax
import numpy as np

from fmjax._devices import once_compiled
from fmjax.curves.loss_curve import bucket
from fmjax.fitting.chunk_rows import PADDED_ROWS
from fmjax.fitting.objective import bounds, linearise
from fmjax.fitting.priors import LawPrior, LearnedExponent
from fmjax.fitting.problem import Problem
from fmjax.laws import Law, Row

UNDETERMINED_BELOW = 1e-6
"""Singular value of the scaled Jacobian, relative to the largest, below which a direction counts as undetermined."""


@jax.jit
def _relative_slopes(law: Law, effects: Row, vector: jax.Array) -> jax.Array:
    predicted, slopes = linearise(law, effects, vector)
    return slopes / predicted[None, :]


def slopes_of_log(law: Law, effects: Row, vector: np.ndarray) -> np.ndarray:
    """Derivatives ``[parameters, rows]`` of the log of predicted losses at rows with effects ``[rows]``."""
    count = len(effects["log_N"])
    row = np.minimum(np.arange(max(bucket(count), PADDED_ROWS)), count - 1)
    here = {key: np.asarray(x)[row] for key, x in effects.items()}
    return np.asarray(once_compiled(_relative_slopes, law, here, vector))[:, :count]


class Evidence(NamedTuple):
    """Rows from which to tell what data determine.

    A law that counts warmup as scheduled is asked with warmup held at the peak: the transient of warmup alone would
    otherwise pass for evidence on annealing.
    """

    law: Law
    effects: Row
    stiffness: np.ndarray | None = None
    """``[exponents]`` of the prior; None without one."""

    @classmethod
    def of(cls, problem: Problem, used: np.ndarray) -> "Evidence":
        """The rows of the runs marked in ``used[runs]``."""
        return cls(problem.law, problem._replace(effects=problem.held).rows(used).of(0).effects)

    def compiled(self) -> "Evidence":
        """The same, once the program that gives slopes is there."""
        slopes_of_log(self.law, self.effects, np.ones(len(self.law.parameters)))
        return self

    def undetermined(self, vector: np.ndarray, weights: np.ndarray) -> tuple[str, ...]:
        """Names of parameters that the rows of positive weight leave open at the point ``vector``."""
        slopes = np.concatenate([self._slopes(vector, weights), self._of_prior(vector.size)], axis=1)
        size = np.sqrt(np.mean(slopes**2, axis=1))
        silent = size * np.maximum(np.abs(vector), 1e-3) < 1e-10
        scaled = np.where(silent, 0.0, 1 / np.where(silent, 1.0, size))[:, None] * slopes
        _, values, directions = np.linalg.svd(scaled @ scaled.T / scaled.shape[1])
        null = directions[values <= UNDETERMINED_BELOW**2 * values[0]]
        loose = silent | np.any(np.abs(null) > 0.1, axis=0)
        mixed = {coefficient.name for coefficient in self.law.coefficients if coefficient.mixture}
        named = zip(self.law.parameter_names, loose, strict=True)
        return tuple(name for name, is_loose in named if is_loose and name not in mixed)

    def learned(
        self, prior: LawPrior, vector: np.ndarray, weights: np.ndarray, scale: float
    ) -> tuple[LearnedExponent, ...]:
        """What the rows and the prior together say of exponents with a prior; terms at their bounds stay there."""
        free = (vector > bounds(self.law)[0]) & (vector < bounds(self.law)[1])
        slopes = self._slopes(vector, weights) * np.sqrt(weights[weights > 0])
        slopes = np.concatenate([slopes, self._of_prior(vector.size)], axis=1)[free]
        size = np.sqrt(np.sum(slopes**2, axis=1))
        slopes = slopes / np.where(size > 0, size, 1.0)[:, None]
        spread = np.full(vector.size, np.nan)
        spread[free] = np.sqrt(scale * np.diag(np.linalg.pinv(slopes @ slopes.T, hermitian=True))) / size
        each = zip(
            self.law.exponents, prior.known, vector[-len(prior.known) :], spread[-len(prior.known) :], strict=True
        )
        return tuple(LearnedExponent(e.name, *known, float(x), float(sd)) for e, known, x, sd in each if known)

    def _slopes(self, vector: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """``[parameters, rows]`` derivatives of the log loss of rows of positive weight."""
        return slopes_of_log(self.law, self.effects, vector)[:, weights > 0]

    def _of_prior(self, size: int) -> np.ndarray:
        """``[parameters, exponents]`` derivatives of the residuals that a prior adds."""
        if self.stiffness is None:
            return np.zeros((size, 0))
        columns = np.diag(np.sqrt(self.stiffness))
        return np.concatenate([np.zeros((size - len(columns), len(columns))), columns])
