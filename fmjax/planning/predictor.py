"""Predictors: fits of the runs at hand, with bootstrap samples and a correction by measured final losses."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from fmjax._names import PREFERRED_LAWS
from fmjax.curves.loss_curve import LossCurve
from fmjax.fitting.fits import fit_groups, measure, with_measured_runs
from fmjax.fitting.options import FitOptions, precision
from fmjax.fitting.problem import Problem, prepare
from fmjax.fitting.records import SAME_PEAK, FitResult, RunMetrics
from fmjax.fitting.resampling import bootstrap_groups, held_out, leave_one_out_groups
from fmjax.fitting.selection import rank
from fmjax.laws import Law, make_law
from fmjax.planning.correction import COMMON_OFFSET, FINAL_LOSS_NOISES, Correction, CorrectionPrior, Points, correctable
from fmjax.searching.results import Cell
from fmjax.searching.sweeps import search

HOLDS = {False: 0.9, True: 0.8}
"""How far a law is trusted to err alike at all ratios: less where coefficients of its effects were chosen on the runs,
which bootstrap samples take as given."""


MOST_DRIFT = 1e-2
"""Relative error of a law per e-fold of updates beyond the longest fitted run, at the most and where none can be
measured: that of the shipped runs, whose loss flattens sooner than a power law would; on public runs of 25M to 124M
parameters it was a fifth of that."""

LEAST_DRIFT = 1e-3
"""The same, at the least."""


class Prediction(NamedTuple):
    """What a predictor says of one cell."""

    cell: Cell
    """Best ratio, predicted final loss and their intervals, corrected by measured final losses."""
    losses: np.ndarray
    """``[ratios]`` predicted final loss, corrected."""
    law_ratio: float
    """The ratio that the law alone would choose."""
    regret: float
    """Expected excess of the final loss over that of the best ratio, over bootstrap samples; NaN without them."""
    model_size: float | None
    """Number of parameters it is for."""


@dataclass(frozen=True)
class Predictor:
    """A fit that predicts one peak rate, or any."""

    peak_lr: float | None
    """Peak rate of the runs fitted, None for a fit of all."""
    fit: FitResult
    curves: tuple[LossCurve, ...]
    """The runs fitted."""
    held_out: tuple[RunMetrics, ...]
    """Each fitted run as predicted from a fit of the others."""
    samples: np.ndarray | None
    """``[samples, parameters]`` of bootstrap samples."""
    runs: Points
    """The fitted runs whose measured final losses correct the law."""
    residuals: np.ndarray
    """``[1 + samples, runs]`` log of measured over predicted final loss, of the fit and of each sample."""
    prior: CorrectionPrior
    """What is held of the residuals beforehand."""
    drift: float
    """Relative error of the law per e-fold of updates beyond the longest fitted run."""

    def knows(self, peak_lr: float) -> bool:
        """Whether any fitted run was trained at this peak rate."""
        return any(abs(curve.peak_lr / peak_lr - 1) < SAME_PEAK for curve in self.curves)

    def predict(self, *, peak_lr: float, anneal_ratio: np.ndarray, seed: int = 0, **grid: Any) -> list[Prediction]:
        """Searches the ratios for one peak rate; one prediction for each cell of the grid, as for ``search``."""
        found = search(
            self.fit, peak_lr=peak_lr, anneal_ratio=anneal_ratio, samples=self.samples, keep_losses=True, **grid
        )
        assert found.losses is not None
        assert found.sample_losses is not None
        size = grid.get("model_size") or self.curves[0].model_size  # of several sizes, the search has asked for one
        losses = np.concatenate([found.losses[None], found.sample_losses])
        tokens = grid.get("tokens_per_step") if self.fit.law.spans_batches else None
        cells = [(Points.of_cell(found.anneal_ratio, cell, size, tokens), cell) for cell in found.cells]
        return [self._corrected(*cell, found.anneal_ratio, losses[:, i], size, seed) for i, cell in enumerate(cells)]

    def _corrected(
        self, targets: Points, cell: Cell, ratios: np.ndarray, losses: np.ndarray, model_size: float | None, seed: int
    ) -> Prediction:
        """The prediction of a cell, from the law's losses ``[1 + samples, ratios]``."""
        law_ratio, rng = float(ratios[np.argmin(losses[0])]), np.random.default_rng(seed)
        if self.runs.decay:
            correction = Correction.of(self.runs, self.residuals[0], targets, self.prior)
            mean, draws = correction.mean(self.residuals[0]), correction.draw(self.residuals[1:], rng)
            losses = losses * np.exp(np.vstack([mean, draws]))
        far = 0.0 if self.fit.reach is None else np.log(max(cell.total_steps / self.fit.reach.total_steps[1], 1.0))
        drifts = np.append(0.0, self.drift * far * rng.standard_normal(len(losses) - 1))
        losses = losses * np.exp(drifts)[:, None]  # the same at all ratios, so no choice depends on it
        axes, cell = tuple(name for name in cell.outside if name != "loss"), cell.under(ratios, losses)
        cell = cell._replace(outside=axes + (("loss",) if self.fit.doubts(cell.loss, cell.total_steps) else ()))
        best = int(np.argmin(losses[0]))
        excess = losses[1:, best] - losses[1:].min(axis=1)
        return Prediction(cell, losses[0], law_ratio, float(excess.mean()) if excess.size else float("nan"), model_size)


def predictors(
    law: Law | str | None,
    curves: Sequence[LossCurve],
    peak_lrs: Sequence[float],
    *,
    options: FitOptions,
    samples: int,
    seed: int,
    progress: Callable[[str], None],
) -> dict[float, Predictor]:
    """A predictor for each peak rate: of its own runs, where there are two and they determine the law, else of all.

    Args:
      law: a law, taken as it is; the name of one, whose effect coefficients are then chosen on the runs; or None for
        whichever of ``PREFERRED_LAWS`` predicts runs left out of its fit best.
      curves: the runs at hand.
      peak_lrs: peak rates to predict.
      options: of the fits.
      samples: bootstrap samples; 0 for none.
      seed: seed of the samples.
      progress: called with a few words before each stage.

    Raises:
      ValueError: as for ``fit``; or no fit can predict a peak rate.
    """
    laws = PREFERRED_LAWS if law is None else (law,)
    at, wanted = np.array([curve.peak_lr for curve in curves]), list(dict.fromkeys(peak_lrs))
    groups = {peak: np.abs(at / peak - 1) < SAME_PEAK for peak in wanted}
    own = {peak: group for peak, group in groups.items() if 1 < group.sum() < len(curves)}
    fits = _fits(laws, curves, own, options, progress)
    best = {peak: min(_usable(found), key=_error, default=None) for peak, found in fits.items()}
    chosen = {peak: fit for peak, fit in best.items() if fit is not None}
    if len(chosen) < len(wanted):
        everything = _fits(laws, curves, {None: np.ones(len(curves), bool)}, options, progress)[None]
        joint = min(_usable(everything), key=_error, default=None)
        if joint is None:
            peak = next(peak for peak in wanted if peak not in chosen)
            raise ValueError(f"no fit can predict peak_lr {peak:g}: {everything[-1].result.message}")
        chosen = {peak: chosen.get(peak, joint) for peak in wanted}
    distinct = {one.peak_lr: one for one in chosen.values()}  # all rates without a fit of their own share that of all
    made = {rate: _predictor(one, options, samples, seed, progress) for rate, one in distinct.items()}
    return {peak: made[one.peak_lr] for peak, one in chosen.items()}


class _Fit(NamedTuple):
    """A law fitted to a group of a problem's runs."""

    problem: Problem
    chosen: bool
    """Whether the coefficients of the law's effects were chosen on the runs."""
    peak_lr: float | None
    group: np.ndarray
    result: FitResult
    held_out: tuple[RunMetrics, ...]
    drift: float


def _usable(fits: Sequence[_Fit]) -> list[_Fit]:
    """The fits that can predict; of runs of several batch sizes those with the batch size in them, if there are any."""
    usable = [fit for fit in fits if fit.result.ok]
    return [fit for fit in usable if fit.result.law.spans_batches] or usable


def _error(fit: _Fit) -> float:
    """Mean error over runs left out; infinite where none could be."""
    errors = np.array([run.mape_percent for run in fit.held_out])
    return float(np.mean(errors)) if errors.size and np.isfinite(errors).all() else float("inf")


def _fits(
    laws: Sequence[Law | str],
    curves: Sequence[LossCurve],
    groups: Mapping[Any, np.ndarray],
    options: FitOptions,
    progress: Callable[[str], None],
) -> dict[Any, list[_Fit]]:
    """Fits of every law to each group of runs ``[runs]``, by peak rate, or None for a group of several."""
    if not groups:
        return {}
    used = np.any(list(groups.values()), axis=0)
    curves = [curve for curve, is_used in zip(curves, used, strict=True) if is_used]
    masks = {peak: group[used] for peak, group in groups.items()}
    found: dict[Any, list[_Fit]] = {peak: [] for peak in groups}
    for law in laws:
        with precision(options):
            problem = _problem(law, curves, masks, options, progress)
            for peak, group in masks.items():
                progress(f"fitting {problem.law.name} to {group.sum()} runs{_where(peak)}, and again without each")
                found[peak].append(_fit(problem, _chooses(law), peak, group, options))
    return found


def _where(peak_lr: float | None) -> str:
    return "" if peak_lr is None else f" at peak rate {peak_lr:g}"


def _fit(problem: Problem, chosen: bool, peak_lr: float | None, group: np.ndarray, options: FitOptions) -> _Fit:
    without = leave_one_out_groups(group) if group.sum() > 1 else group[None][:0]
    lengths = problem.batch.at[:, -1] + 1
    shorter = group & (lengths < lengths[group].max())
    groups = np.concatenate([group[None], without, shorter[None][: int(shorter.any())]])
    fit, *others = fit_groups(problem, groups, options)
    errors = held_out(problem, group, others[: len(without)]) if len(without) else ()
    drift = _drift(problem, group, shorter, others[-1]) if shorter.any() else MOST_DRIFT
    return _Fit(problem, chosen, peak_lr, group, with_measured_runs(problem, fit, group), errors, drift)


def _drift(problem: Problem, group: np.ndarray, shorter: np.ndarray, fit: FitResult) -> float:
    """Relative error per e-fold of updates of a fit of the shorter runs at the ends of the longest.

    At most ``MOST_DRIFT``: fits of few short rows miss more than those of all runs will.
    """
    if not fit.ok:
        return MOST_DRIFT
    runs, lengths = measure(problem, fit.vector, usable=group), problem.batch.at[:, -1] + 1
    ended = np.array([curve.is_finished for curve in problem.curves])
    error = np.array([np.log(run.final_loss / run.final_loss_predicted) for run in runs])
    before, after = ended & shorter, ended & group & ~shorter
    if not (before.any() and after.any()):
        return MOST_DRIFT
    far = np.log(lengths[after].max() / lengths[shorter].max())
    missed = np.sqrt(np.mean((error[after] - error[before].mean()) ** 2)) / far
    return float(np.clip(missed, LEAST_DRIFT, MOST_DRIFT))


def _chooses(law: Law | str) -> bool:
    """Whether the coefficients of a law's effects are to be chosen on the runs."""
    return isinstance(law, str) and bool(make_law(law).choices)


def _problem(
    law: Law | str,
    curves: Sequence[LossCurve],
    groups: Mapping[Any, np.ndarray],
    options: FitOptions,
    progress: Callable[[str], None],
) -> Problem:
    """The runs under the law, suited to groups of one peak rate each, its effects' coefficients chosen if need be."""
    made = make_law(law) if isinstance(law, str) else law
    if None not in groups:
        made = made.suited_to({1.0})
    problem = prepare(made, curves, fitted=[True] * len(curves), options=options)
    if not _chooses(law):
        return problem
    progress(f"choosing the coefficients of {made.name}'s effects")
    best = rank(problem, options, groups=list(groups.values()))[0]
    chosen = dataclasses.replace(problem.law, **best.options)
    return prepare(chosen, curves, fitted=[True] * len(curves), options=options)


def _predictor(fit: _Fit, options: FitOptions, samples: int, seed: int, progress: Callable[[str], None]) -> Predictor:
    """The predictor of a fit: bootstrap samples drawn, final losses compared with those measured."""
    problem, result = fit.problem, fit.result
    with precision(options):
        vectors, drawn = result.vector[None], None
        if samples:
            progress(f"drawing {samples} bootstrap samples{_where(fit.peak_lr)}")
            drawn = bootstrap_groups(problem, fit.group[None], [result], options, samples=samples, seed=seed)[0].params
            vectors = np.vstack([vectors, drawn])
        runs = np.flatnonzero(fit.group & correctable(problem.curves))
        last = {key: value[runs, -1] for key, value in problem.effects.items()}  # stands after the last update
        predicted = np.asarray(_predicted(problem.law, last, vectors))
    chosen = [problem.curves[run] for run in runs]
    apart = any(curve.final_loss is not None for curve in chosen)  # else final losses are rows like the others
    return Predictor(
        peak_lr=fit.peak_lr,
        fit=result,
        curves=tuple(curve for curve, is_in in zip(problem.curves, fit.group, strict=True) if is_in),
        held_out=fit.held_out,
        samples=drawn,
        runs=Points.of(chosen, batches=result.law.spans_batches),
        residuals=np.log([curve.final_loss_measured for curve in chosen]) - np.log(predicted),
        prior=CorrectionPrior(
            COMMON_OFFSET if apart else 0.0, FINAL_LOSS_NOISES if apart else (_row_noise(result),), HOLDS[fit.chosen]
        ),
        drift=fit.drift,
    )


def _row_noise(result: FitResult) -> float:
    """Standard deviation of the rows' log loss about the fit, that of a middling run."""
    return float(np.median([run.relative_error for run in result.runs]))


@jax.jit
def _predicted(law: Law, effects: Any, vectors: jax.Array) -> jax.Array:
    """Losses ``[vectors, rows]``."""
    return jax.vmap(law.predict, in_axes=(None, 0))(effects, vectors)
