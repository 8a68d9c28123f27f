"""Correction of a law by measured final losses: a Gaussian process on what the law leaves over."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fmjax.curves.loss_curve import LossCurve
from fmjax.planning.gaussian import probabilities, roots
from fmjax.schedules.batch_stages import Batch, mean_batch
from fmjax.schedules.kinds import WSD, Cosine
from fmjax.searching.results import Cell

CORRECTION_REACH = (0.3, np.log(4.0), np.log(4.0), np.log(4.0), np.log(4.0))
"""Distances over which what is left over stays alike: in sqrt(R), log T, log peak rate, log N and log B."""

FAMILIES_ALIKE = 0.75
"""Correlation of what is left over of runs that differ in nothing but their family of models.

Chosen among 0, 0.25, 0.5, 0.75 and 1 on public runs of three families of mixtures of experts, one of which kept few
runs: corrected errors of 0.34, 0.30, 0.27, 0.24 and 0.33 %. No other runs were at hand to check it on."""

CELL_ERRORS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Standard deviations tried for the relative error that all ratios of a cell share."""

SHAPES = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""Those of the relative error that changes with the ratio."""

FINAL_LOSS_NOISES = (1e-4, 3e-4, 1e-3, 3e-3)
"""Those of a single final loss."""

MOST_JUDGED = 400
"""Runs that the settings are weighed by; of more, as many evenly spread ones. All of them correct."""

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

    @classmethod
    def of(cls, runs: Sequence[LossCurve], row_noise: float, holds: float) -> "CorrectionPrior":
        """What is held of the final losses of runs.

        Final losses that are rows like others have their noise. Those measured by themselves have one of their own, and
        may lie off the rows. Of runs with one row each the noise is unknown: what a fit leaves over is its own error.
        """
        apart = any(curve.final_loss is not None for curve in runs)
        unknown = apart or all(curve.step.size == 1 for curve in runs)
        return cls(COMMON_OFFSET if apart else 0.0, FINAL_LOSS_NOISES if unknown else (row_noise,), holds)


class Points(NamedTuple):
    """Where schedules lie, ``[points, 5]`` in the coordinates of ``CORRECTION_REACH``; decay shapes and families."""

    place: np.ndarray
    decay: tuple[str, ...]
    family: tuple[str | None, ...] = ()
    """Of each the family of models, None where there is none; empty where none have one."""

    @classmethod
    def of(cls, curves: Sequence[LossCurve], *, batches: bool = False) -> "Points":
        """Points of WSD and cosine runs; with ``batches`` those of different (mean) batch sizes lie apart."""
        shapes = [_anneal_of(curve) for curve in curves]
        found = [(curve.schedule, curve.model_size, curve.mean_batch if batches else None) for curve in curves]
        places = [
            _place(ratio, s.total_steps, s.peak_lr, *sizes)
            for (ratio, _), (s, *sizes) in zip(shapes, found, strict=True)
        ]
        names = tuple(curve.family for curve in curves)
        return cls(np.array(places).reshape(-1, len(CORRECTION_REACH)), tuple(decay for _, decay in shapes), names)

    def take(self, places: Sequence[int] | np.ndarray) -> "Points":
        """Some of the points."""
        family = tuple(self.family[place] for place in places) if self.family else ()
        return Points(self.place[places], tuple(self.decay[place] for place in places), family)

    @classmethod
    def joined(cls, parts: Sequence["Points"]) -> "Points":
        """All points of several."""
        decay = tuple(d for part in parts for d in part.decay)
        family = tuple(name for part in parts for name in part.family)
        return cls(np.concatenate([part.place for part in parts]), decay, family)

    @classmethod
    def of_cell(
        cls,
        ratios: np.ndarray,
        cell: Cell,
        model_size: float | None,
        tokens_per_step: Batch | None = None,
        family: str | None = None,
    ) -> "Points":
        """Points of a cell at each of ``ratios``; a batch that changes lies at its mean."""
        batch = mean_batch(tokens_per_step, cell.total_steps)
        places = [_place(ratio, cell.total_steps, cell.peak_lr, model_size, batch) for ratio in ratios]
        return cls(np.array(places), (cell.decay,) * len(ratios), (family,) * len(ratios))


def _anneal_of(curve: LossCurve) -> tuple[float, str]:
    """Ratio and decay shape of a run; a cosine anneals from the end of its warmup."""
    schedule = curve.schedule
    if isinstance(schedule, Cosine):
        return 1 - int(schedule.warmup_steps) / int(schedule.total_steps), "cosine"
    assert isinstance(schedule, WSD)
    return float(schedule.anneal_ratio), schedule.decay


def _place(
    ratio: float, total_steps: float, peak_lr: float, model_size: float | None, tokens_per_step: float | None
) -> tuple[float, ...]:
    sizes = np.log(model_size or 1.0), np.log(tokens_per_step or 1.0)
    return (np.sqrt(ratio), np.log(total_steps), np.log(peak_lr), *sizes)


def correctable(curves: Sequence[LossCurve], *, batches: bool = False) -> np.ndarray:
    """``[runs]`` mask of the runs that correct: WSD schedules, trained to their end.

    With ``batches``, where rate and batch are chosen as well, cosines too: they show nothing of ratios, and as much as
    others of the rest.
    """
    kinds = (WSD, Cosine) if batches else WSD
    return np.array([isinstance(curve.schedule, kinds) and curve.is_finished for curve in curves], bool)


class Settings(NamedTuple):
    r"""What runs show of how the law errs: settings of the process, those that are likely.

    $\log L_{measured} - \log \hat L = b + g(T, \eta, N, B) + h(R, T, \eta, N, B) + \epsilon$ with b common to all (zero
    where final losses are those of the curves), g and h Gaussian processes with squared-exponential kernels over the
    distances ``CORRECTION_REACH`` (h for each decay shape its own), and independent noise. The three standard
    deviations are averaged over ``CELL_ERRORS``, ``SHAPES`` and noises by marginal likelihood, given the
    ``CorrectionPrior``. So a law that fits is left alone, and one that does not is moved towards what was measured,
    near where it was measured.

    Reference: Rasmussen and Williams, Gaussian Processes for Machine Learning, section 2.7; Kennedy and O'Hagan (2001).
    """

    runs: Points
    prior: "CorrectionPrior"
    settings: np.ndarray
    """``[settings, 3]`` standard deviations of a cell's error, of that of its shape, and of a measured loss."""
    probability: np.ndarray
    """``[settings]`` their posterior probability."""
    inverse: np.ndarray
    """``[settings, runs, runs]`` inverse covariance of the residuals."""

    @classmethod
    def of(cls, runs: Points, residual: np.ndarray, prior: CorrectionPrior) -> "Settings":
        """The settings that are likely by the ``residual[runs]``, log of measured over predicted final loss."""
        settings = np.array(list(itertools.product(CELL_ERRORS, SHAPES, prior.noises)))
        some = np.unique(np.linspace(0, residual.size - 1, min(MOST_JUDGED, residual.size)).astype(int))
        held = np.where(settings[:, 1] == 0, prior.holds, (1 - prior.holds) / np.count_nonzero(SHAPES))
        judged = runs.take(some)
        each = _covariances(settings, prior.offset, judged)
        found = probabilities(each, residual[some], np.log(held))
        likely = found > UNLIKELY
        inverse = np.array([np.linalg.inv(one) for one in _covariances(settings[likely], prior.offset, runs)])
        return cls(runs, prior, settings[likely], found[likely] / found[likely].sum(), inverse)

    def at(self, targets: Points) -> "Correction":
        """The correction at targets."""
        cross, there = _kernels(targets, self.runs), _kernels(targets, targets)
        far = _mixed(self.settings, self.prior.offset, cross)
        gain = far @ self.inverse  # as in ``gaussian.conditioned``, with one inverse for all targets
        left = _mixed(self.settings, self.prior.offset, there) - gain @ far.swapaxes(1, 2)
        return Correction(self.probability, gain, roots(left))


@dataclass(frozen=True)
class Correction:
    """A Gaussian process on log measured - log predicted final loss, averaged over its settings, at some targets."""

    probability: np.ndarray
    """``[settings]`` posterior probability of the settings."""
    gain: np.ndarray
    """``[settings, targets, runs]`` what turns the runs' residuals into the mean correction at the targets."""
    spread: np.ndarray
    """``[settings, targets, targets]`` square root of the posterior covariance."""

    def mean(self, residual: np.ndarray) -> np.ndarray:
        """``[targets]`` mean correction of log loss."""
        return np.einsum("s,str,r->t", self.probability, self.gain, residual, optimize=True)

    def draw(self, residuals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """``[samples, targets]`` draws of the correction, one for the residuals ``[samples, runs]`` of each sample."""
        which = rng.choice(self.probability.size, size=len(residuals), p=self.probability)
        noise = rng.standard_normal((len(residuals), self.gain.shape[1]))
        drawn = np.empty_like(noise)
        for setting in np.unique(which):
            of = which == setting
            drawn[of] = residuals[of] @ self.gain[setting].T + noise[of] @ self.spread[setting].T
        return drawn


# What two final losses have in common by the model of ``Settings``, log measured - log predicted = b + g + h + noise.
# b is one number for all of them, so its correlation is 1. g is an error of the cell, its length, peak rate and model
# size: cells within a factor of about four err alike, however their ratios differ, and cells of two families of models
# by ``FAMILIES_ALIKE`` (an error that all share, and one that each has of its own). h is an error in how the loss
# depends on the ratio. It correlates as g does between cells, and also only between near ratios of one decay shape.
# Only h can move the best ratio. Ratios are compared by their square roots, which spreads the small ones. All kernels
# are squared exponentials. Errors that are independent add, and so do their kernels, each times its variance
# (``_mixed``). A measured loss has the variance of its noise on top, on the diagonal.


def _kernels(a: Points, b: Points) -> np.ndarray:
    """``[3, a, b]`` correlations of offset, level and shape."""
    distance = (a.place[:, None] - b.place[None]) / np.array(CORRECTION_REACH)
    level = np.exp(-0.5 * np.sum(distance[..., 1:] ** 2, axis=-1))
    if a.family and b.family:
        alike = np.array([[x == y for y in b.family] for x in a.family], bool)
        level = np.where(alike, 1.0, FAMILIES_ALIKE) * level
    same = np.array([[x == y for y in b.decay] for x in a.decay], bool).reshape(level.shape)
    return np.stack([np.ones_like(level), level, same * level * np.exp(-0.5 * distance[..., 0] ** 2)])


def _covariances(settings: np.ndarray, offset: float, runs: Points) -> Iterator[np.ndarray]:
    """``[runs, runs]`` covariance of measured final losses under each of ``settings[settings, 3]``."""
    kernels = _kernels(runs, runs)
    for one in settings:
        yield _mixed(one[None], offset, kernels)[0] + one[2] ** 2 * np.eye(len(runs.decay))


def _mixed(settings: np.ndarray, offset: float, kernels: np.ndarray) -> np.ndarray:
    """``[settings, a, b]`` covariances without noise, of kernels ``[3, a, b]``."""
    deviations = np.insert(settings[:, :2], 0, offset, axis=1)
    return np.einsum("sk,kab->sab", deviations**2, kernels)
