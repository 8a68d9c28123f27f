"""Correction of a law by measured final losses: a Gaussian process on what the law leaves over."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fmjax.curves.loss_curve import LossCurve
from fmjax.planning.gaussian import conditioned, probabilities, roots
from fmjax.schedules.kinds import WSD
from fmjax.searching.results import Cell

CORRECTION_REACH = (0.3, np.log(4.0), np.log(4.0), np.log(4.0), np.log(4.0))
"""Distances over which what is left over stays alike: in sqrt(R), log T, log peak rate, log N and log B."""

CELL_ERRORS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Standard deviations tried for the relative error that all ratios of a cell share."""

SHAPES = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Those of the relative error that changes with the ratio."""

FINAL_LOSS_NOISES = (1e-4, 3e-4, 1e-3, 3e-3)
"""Those of a single final loss."""

UNLIKELY = 1e-3
"""Settings of the three of less probability than this are left out."""

COMMON_OFFSET = 0.1
"""That of an error common to all, where final losses were measured by themselves, such as on more data."""


class CorrectionPrior(NamedTuple):
    """What is held of measured final losses and of the law before they are compared."""

    offset: float
    """Standard deviation of an error common to all; ``COMMON_OFFSET`` or 0."""
    noises: tuple[float, ...]
    """Standard deviations of a single final loss to average over."""
    holds: float
    """Probability that the law errs alike at all ratios."""


class Points(NamedTuple):
    """Where schedules lie, ``[points, 5]`` in the coordinates of ``CORRECTION_REACH``, and their decay shapes."""

    place: np.ndarray
    decay: tuple[str, ...]

    @classmethod
    def of(cls, curves: Sequence[LossCurve], *, batches: bool = False) -> "Points":
        """Points of WSD runs; with ``batches`` those of different batch sizes lie apart."""
        found = [(curve.schedule, curve.model_size, curve.tokens_per_step if batches else None) for curve in curves]
        places = [_place(s.anneal_ratio, s.total_steps, s.peak_lr, *sizes) for s, *sizes in found]
        return cls(np.array(places).reshape(-1, len(CORRECTION_REACH)), tuple(s.decay for s, *_ in found))

    @classmethod
    def of_cell(
        cls, ratios: np.ndarray, cell: Cell, model_size: float | None, tokens_per_step: float | None = None
    ) -> "Points":
        """Points of a cell at each of ``ratios``."""
        places = [_place(ratio, cell.total_steps, cell.peak_lr, model_size, tokens_per_step) for ratio in ratios]
        return cls(np.array(places), (cell.decay,) * len(ratios))


def _place(
    ratio: float, total_steps: float, peak_lr: float, model_size: float | None, tokens_per_step: float | None
) -> tuple[float, ...]:
    sizes = np.log(model_size or 1.0), np.log(tokens_per_step or 1.0)
    return (np.sqrt(ratio), np.log(total_steps), np.log(peak_lr), *sizes)


def correctable(curves: Sequence[LossCurve]) -> np.ndarray:
    """``[runs]`` mask of the runs that tell about ratios: WSD schedules, trained to their end."""
    return np.array([isinstance(curve.schedule, WSD) and curve.is_finished for curve in curves], bool)


@dataclass(frozen=True)
class Correction:
    r"""Posterior of the relative error of a law's final losses at some target schedules.

    $\log L_{measured} - \log \hat L = b + g(T, \eta) + h(R, T, \eta) + \epsilon$ with b common to all (zero where final
    losses are those of the curves), g and h Gaussian processes with squared-exponential kernels over the distances
    ``CORRECTION_REACH`` (h for each decay shape its own), and independent noise. The three standard deviations are
    averaged over ``CELL_ERRORS``, ``SHAPES`` and noises by marginal likelihood, given the ``CorrectionPrior``. So a law
    that fits is left alone, and one that does not is moved towards what was measured, near where it was measured.

    Reference: Rasmussen and Williams, Gaussian Processes for Machine Learning, section 2.7; Kennedy and O'Hagan (2001).
    """

    probability: np.ndarray
    """``[settings]`` posterior probability of each setting of the standard deviations."""
    gain: np.ndarray
    """``[settings, targets, runs]`` what turns the runs' residuals into the mean correction at the targets."""
    spread: np.ndarray
    """``[settings, targets, targets]`` square root of the posterior covariance."""

    @classmethod
    def of(cls, runs: Points, residual: np.ndarray, targets: Points, prior: CorrectionPrior) -> "Correction":
        """The correction at targets.

        Args:
          runs: the runs whose final losses were measured.
          residual: ``[runs]`` log of measured over predicted final loss.
          targets: schedules to correct the prediction of.
          prior: what is held beforehand.
        """
        offset = prior.offset
        settings = np.array(list(itertools.product(CELL_ERRORS, SHAPES, prior.noises)))
        own, cross, there = (_kernels(*pair) for pair in ((runs, runs), (targets, runs), (targets, targets)))
        covariances = _mixed(settings, offset, own) + settings[:, 2, None, None] ** 2 * np.eye(residual.size)
        held = np.where(settings[:, 1] == 0, prior.holds, (1 - prior.holds) / np.count_nonzero(SHAPES))
        found = probabilities(covariances, residual, np.log(held))
        likely = found > UNLIKELY
        far = _mixed(settings[likely], offset, cross)
        gain, left = conditioned(covariances[likely], far, _mixed(settings[likely], offset, there))
        return cls(found[likely] / found[likely].sum(), gain, roots(left))

    def mean(self, residual: np.ndarray) -> np.ndarray:
        """``[targets]`` mean correction of log loss."""
        return np.einsum("s,str,r->t", self.probability, self.gain, residual)

    def draw(self, residuals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """``[samples, targets]`` draws of the correction, one for the residuals ``[samples, runs]`` of each sample."""
        which = rng.choice(self.probability.size, size=len(residuals), p=self.probability)
        noise = rng.standard_normal((len(residuals), self.gain.shape[1]))
        mean = np.einsum("str,sr->st", self.gain[which], residuals)
        return mean + np.einsum("stu,su->st", self.spread[which], noise)


# What two final losses have in common by the model of ``Correction``, log measured - log predicted = b + g + h + noise.
# b is one number for all of them, so its correlation is 1. g is an error of the cell, its length, peak rate and model
# size: cells within a factor of about four err alike, however their ratios differ. h is an error in how the loss
# depends on the ratio. It correlates as g does between cells, and also only between near ratios of one decay shape.
# Only h can move the best ratio. Ratios are compared by their square roots, which spreads the small ones. All kernels
# are squared exponentials. Errors that are independent add, and so do their kernels, each times its variance
# (``_mixed``). A measured loss has the variance of its noise on top, on the diagonal.


def _kernels(a: Points, b: Points) -> np.ndarray:
    """``[3, a, b]`` correlations of offset, level and shape."""
    distance = (a.place[:, None] - b.place[None]) / np.array(CORRECTION_REACH)
    level = np.exp(-0.5 * np.sum(distance[..., 1:] ** 2, axis=-1))
    same = np.array([[x == y for y in b.decay] for x in a.decay], bool).reshape(level.shape)
    return np.stack([np.ones_like(level), level, same * level * np.exp(-0.5 * distance[..., 0] ** 2)])


def _mixed(settings: np.ndarray, offset: float, kernels: np.ndarray) -> np.ndarray:
    """``[settings, a, b]`` covariances without noise, of kernels ``[3, a, b]``."""
    deviations = np.insert(settings[:, :2], 0, offset, axis=1)
    return np.einsum("sk,kab->sab", deviations**2, kernels)
