"""Gaussian conditioning: what several runs and a law's errors have in common, and how likely settings of them are."""

from collections.abc import Iterable

import numpy as np


def _log_evidence(covariance: np.ndarray, residual: np.ndarray) -> float:
    """Log density of ``residual[n]`` under a normal of covariance ``[n, n]``, up to a constant."""
    fit = residual @ np.linalg.solve(covariance, residual)
    return float(-0.5 * (fit + np.linalg.slogdet(covariance)[1]))


def probabilities(
    covariances: Iterable[np.ndarray], residual: np.ndarray, log_prior: np.ndarray | float = 0.0
) -> np.ndarray:
    """``[settings]`` posterior probability of each of ``covariances``, ``[n, n]`` all, given ``residual[n]``."""
    odds = np.array([_log_evidence(covariance, residual) for covariance in covariances]) + log_prior
    odds = np.exp(odds - odds.max())
    return odds / odds.sum()


def conditioned(seen: np.ndarray, cross: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gain and posterior covariance at targets, given what was seen; each for a batch of settings.

    Args:
      seen: ``[settings, n, n]`` covariance of what was seen, noise included.
      cross: ``[settings, targets, n]`` covariance of the targets with it.
      there: ``[settings, targets, targets]`` covariance of the targets.

    Returns:
      ``[settings, targets, n]`` what turns residuals into the mean at the targets, and their covariance
      ``[settings, targets, targets]``.

    Reference: Rasmussen and Williams, Gaussian Processes for Machine Learning, equations 2.23 and 2.24.
    """
    gain = np.linalg.solve(seen, cross.swapaxes(1, 2)).swapaxes(1, 2)
    return gain, there - gain @ cross.swapaxes(1, 2)


def roots(covariances: np.ndarray) -> np.ndarray:
    """Symmetric square roots ``[..., n, n]``, rounding aside."""
    values, vectors = np.linalg.eigh(covariances)
    return (vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]) @ vectors.swapaxes(-1, -2)
