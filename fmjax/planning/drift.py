"""How far a law errs beyond the longest run that it was fitted to, per e-fold of updates."""

import numpy as np

from fmjax.fitting.evidence import slopes_of_log
from fmjax.fitting.fits import measure
from fmjax.fitting.noise_model import measured_rows
from fmjax.fitting.problem import END_SHARE, Problem, predict_rows
from fmjax.fitting.records import FitResult
from fmjax.laws import Law, Row

MOST_DRIFT = 1e-2
"""Relative error of a law per e-fold of updates beyond the longest fitted run, at the most and where none can be
measured: that of the shipped runs, whose loss flattens sooner than a power law would; on public runs of 25M to 124M
parameters it was a fifth of that."""

LEAST_DRIFT = 2e-3
"""The same, at the least: that of public runs, as no law is exact. What the runs show adds to it in squares."""

EARLY_SHARE = 0.5
"""Share of the longest run up to which rows predict its end, where there are no shorter runs."""


def drift_from_shorter(problem: Problem, group: np.ndarray, shorter: np.ndarray, fit: FitResult) -> float | None:
    """The drift of a fit of the shorter runs at the ends of the longest; None where none of them ended.

    At most ``MOST_DRIFT``: fits of few short rows miss more than those of all runs will.

    Args:
      problem: the runs under the law.
      group: ``[runs]`` those fitted.
      shorter: ``[runs]`` those of them that are shorter than the longest.
      fit: of the shorter ones.
    """
    if not fit.ok:
        return None
    runs, lengths = measure(problem, fit.vector, usable=group), problem.batch.at[:, -1] + 1
    ended = np.array([curve.is_finished for curve in problem.curves])
    error = np.array([np.log(run.final_loss / run.final_loss_predicted) for run in runs])
    before, after = ended & shorter, ended & group & ~shorter
    if not (before.any() and after.any()):
        return None
    far = np.log(lengths[after].max() / lengths[shorter].max())
    return _bounded(np.sqrt(np.mean((error[after] - error[before].mean()) ** 2)) / far)


def drift_from_early_rows(problem: Problem, group: np.ndarray, fit: FitResult) -> float | None:
    r"""The drift by which the first half of the rows misses the last tenth; None where there are too few rows.

    Laws have a term $A S^{-\alpha}$ (of some, S counts updates; of one without, only levels are regressed). The
    residuals r of the log loss about the fit of all rows are regressed on the slopes of $\log \hat L$ in A and
    $\alpha$, and on one level for each peak rate, size and batch, over the rows of the first half of the longest run.
    What annealing gains stays as fitted. That regression misses the mean of r over the rows of the last tenth by m. The
    drift is $|m|$ over the distance in log updates. Noise is a part of it: what noise makes of m, a drift of that size
    could make too.

    Args:
      problem: the runs under the law.
      group: ``[runs]`` those fitted.
      fit: of all of them.
    """
    rows, run, weights = problem.rows(group), problem.run_of_row(group), problem.row_weights(group)
    at, loss, real = problem.batch.at[problem.row_index(group)], np.asarray(rows.loss[0]), weights > 0
    effects = rows.of(0).effects
    predicted = predict_rows(problem.law, effects, fit.vector)
    kept = real.copy()
    kept[real] = measured_rows(np.log(at[real] + 1.0), loss[real], predicted[real], run[real])
    longest = at[real].max() + 1
    early, late = kept & (at < EARLY_SHARE * longest), kept & (at >= (1 - END_SHARE) * longest)
    levels = _levels(problem, run)
    late &= levels[:, levels[early].any(axis=0)].any(axis=1)
    slopes = np.hstack([levels / predicted[:, None], _power_slopes(problem.law, effects, fit.vector)])
    if early.sum() <= 2 * slopes.shape[1] or not late.any():
        return None
    residual = np.log(loss) - np.log(predicted)
    found = np.linalg.lstsq(slopes[early], residual[early], rcond=None)[0]
    missed = abs(np.mean(residual[late] - slopes[late] @ found))
    far = np.log(at[late].mean() / (EARLY_SHARE * longest))
    return _bounded(missed / far)


def _levels(problem: Problem, run: np.ndarray) -> np.ndarray:
    """``[rows, levels]`` which of the peak rates, sizes and batches a row's run has."""
    kinds = [(curve.peak_lr, curve.model_size, curve.tokens_per_step) for curve in problem.curves]
    own = np.array([kinds.index(kind) for kind in kinds])[run]
    return np.equal.outer(own, np.unique(own)).astype(float)


def _bounded(missed: float) -> float:
    """The drift by what was missed per e-fold of updates."""
    return float(min(np.hypot(missed, LEAST_DRIFT), MOST_DRIFT))


def _power_slopes(law: Law, effects: Row, vector: np.ndarray) -> np.ndarray:
    """``[rows, 2]`` slopes of the log loss in A and alpha; ``[rows, 0]`` of a law without."""
    which = [i for i, name in enumerate(law.parameter_names) if name in ("A", "alpha")]
    return slopes_of_log(law, effects, vector)[which].T
