"""``fit`` and ``evaluate``: from runs to a fitted law, what can be said of it, and its predictions."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fmjax import lanes, metrics
from fmjax._checks import choose, positive, require, whole
from fmjax.curves.loss_curve import CurveBatch, LossCurve, bucket, pad
from fmjax.laws import Law, Row, check_options, make_law
from fmjax.objective import RESIDUALS, Objective, Rows, bounds, closed_form_starts, exponent_grid, linearise
from fmjax.records import Evaluation, FitResult, Reach, RunMetrics

DTYPES = ("float64", "float32")
"""Precisions a fit can compute in."""

END_SHARE = 0.1
"""Share of a run, at its end, that ``end_weight`` applies to."""

UNDETERMINED_BELOW = 1e-6
"""Singular value of the scaled Jacobian, relative to the largest, below which a direction counts as undetermined."""


class FitOptions(NamedTuple):
    """Options of a fit; see ``fit``."""

    residual: str = "log"
    delta: float = 1e-3
    over_weight: float = 1.0
    drop_warmup: bool = True
    drop_before: int = 0
    end_weight: float = 1.0
    starts: int = 8
    max_iterations: int = lanes.MAX_ITERATIONS
    dtype: str = "float64"


def precision(options: FitOptions) -> Any:
    """Context in which JAX computes in the options' dtype."""
    return jax.enable_x64(choose(options.dtype, DTYPES, "dtype") == "float64")


# ---------------------------------------------------------------------------------------------------------------------
# Runs as arrays
# ---------------------------------------------------------------------------------------------------------------------


class Problem(NamedTuple):
    """Runs made into arrays under a law: prepared once, then fitted, measured and resampled."""

    law: Law
    curves: tuple[LossCurve, ...]
    batch: CurveBatch
    effects: dict[str, np.ndarray]
    """Effects at every row, ``[runs, rows]`` each, with ``log_N`` beside them."""
    keep: np.ndarray
    """``[runs, rows]`` whether a row counts: real, and not dropped as early."""
    weight: np.ndarray
    """``[runs, rows]`` weight of each row."""

    def rows(self, used: np.ndarray) -> Rows:
        """The counting rows of the runs marked in ``used[runs]``, flat, as one set; padded to a ``bucket``."""
        index = self.row_index(used)
        effects = {key: value[index][None] for key, value in self.effects.items()}
        return Rows(effects, self.batch.loss[index][None])

    def row_weights(self, used: np.ndarray) -> np.ndarray:
        """Weight of each of ``rows(used)``; those that pad weigh nothing."""
        weights, real = self.weight[self.row_index(used)], int(np.sum(self.keep & used[:, None]))
        return np.where(np.arange(weights.size) < real, weights, 0.0)

    def run_of_row(self, used: np.ndarray) -> np.ndarray:
        """Index of the run that each of ``rows(used)`` belongs to."""
        return self.row_index(used)[0]

    def row_index(self, used: np.ndarray) -> tuple[np.ndarray, ...]:
        """Run and row of each of ``rows(used)``."""
        run, row = np.nonzero(self.keep & used[:, None])
        extra = bucket(run.size) - run.size
        return tuple(np.pad(part, (0, extra), mode="edge") for part in (run, row))

    def rates(self, warmup: str) -> np.ndarray:
        """``[runs, updates]`` rates as a law counts them under a warmup mode."""
        return _hold_warmup(self.batch) if warmup == "as-peak" else self.batch.lrs


@jax.jit
def _effects(law: Law, lrs: jax.Array, at: jax.Array) -> Row:
    return jax.vmap(law.effects)(lrs, at)


@jax.jit
def predict_batch(law: Law, effects: Row, vector: jax.Array) -> jax.Array:
    """Losses ``[runs, rows]`` of runs with these effects, for one parameter vector."""
    return jax.vmap(law.predict, in_axes=(0, None))(effects, vector)


@jax.jit
def _relative_slopes(law: Law, effects: Row, vector: jax.Array) -> jax.Array:
    predicted, slopes = linearise(law, effects, vector)
    return slopes / predicted[None, :]


def prepare(law: Law | str, curves: Sequence[LossCurve], *, fitted: Sequence[bool], options: FitOptions) -> Problem:
    """Pads the runs and computes the law's effects at their rows; call inside ``jax.enable_x64(True)``."""
    law = adapt(law, [curve for curve, is_fitted in zip(curves, fitted, strict=True) if is_fitted], curves)
    batch = pad(curves)
    keep = batch.valid & (batch.at >= whole(options.drop_before, "drop_before"))
    if options.drop_warmup:
        keep &= batch.at >= np.minimum(batch.warmup_steps[:, None], batch.at[:, -1:])
    late = batch.at >= (1 - END_SHARE) * batch.at[:, -1:]
    weight = np.where(late, positive(options.end_weight, "end_weight"), 1.0)
    return Problem(law, tuple(curves), batch, batch_effects(law, batch), keep, weight)


def adapt(law: Law | str, fitted: Sequence[LossCurve], curves: Sequence[LossCurve]) -> Law:
    """The law with its model-size terms switched on where the fitted runs' sizes differ."""
    law = make_law(law) if isinstance(law, str) else law
    check_options(law)
    sizes = {curve.model_size for curve in fitted}
    law = dataclasses.replace(law, sizes=len(sizes) > 1).suited_to({curve.peak_lr for curve in fitted})
    for curve in curves:
        require(not law.sizes or curve.model_size, f"run {curve.name!r}: sizes differ, so model_size is needed")
        known = law.sizes or curve.model_size in sizes
        require(known, f"run {curve.name!r}: model size {curve.model_size} differs from the one size fitted")
    return law


def batch_effects(law: Law, batch: CurveBatch, *, warmup: str | None = None) -> dict[str, np.ndarray]:
    """Effects at every row, ``[runs, rows]`` each, with ``log_N``; warmup counts as the law says, unless told."""
    held = (warmup or law.warmup) == "as-peak"
    rates = _hold_warmup(batch) if held else batch.lrs
    found = {key: np.asarray(value) for key, value in _effects(law, rates, batch.at).items()}
    log_n = np.log(np.where(np.isnan(batch.model_size), 1.0, batch.model_size))
    return {**found, "log_N": np.broadcast_to(log_n[:, None], batch.at.shape)}


def _hold_warmup(batch: CurveBatch) -> np.ndarray:
    """Rates with ``effects.hold_warmup`` applied to each run, on the host."""
    held = batch.lrs.copy()
    for rates, steps, last in zip(held, batch.warmup_steps, batch.at[:, -1], strict=True):
        rates[:steps] = rates[min(steps, last)]
    return held


# ---------------------------------------------------------------------------------------------------------------------
# Fit
# ---------------------------------------------------------------------------------------------------------------------


def fit(
    law: Law | str,
    curves: Sequence[LossCurve],
    *,
    residual: str = "log",
    delta: float = 1e-3,
    over_weight: float = 1.0,
    drop_warmup: bool = True,
    drop_before: int = 0,
    end_weight: float = 1.0,
    starts: int = 8,
    max_iterations: int = lanes.MAX_ITERATIONS,
    dtype: str = "float64",
) -> FitResult:
    r"""Fits a law to runs.

    Minimises $\sum_{\text{rows}} w\,\mathrm{Huber}_\delta(\log \hat L - \log L)$ over the law's parameters, from the
    best closed-form starts of a grid of exponents, all at once under ``vmap``.

    Args:
      law: a law, or its name.
      curves: the runs to fit.
      residual: "log", or "raw" for the residual predicted - loss of the published code.
      delta: residual at which the Huber loss turns linear.
      over_weight: weight of rows that are over-estimated, relative to the others.
      drop_warmup: whether to leave out rows logged before the end of warmup.
      drop_before: update before which rows are left out as well.
      end_weight: weight of rows in the last tenth of each run, relative to the others.
      starts: number of starts to minimise from.
      max_iterations: evaluations after which a start is given up.
      dtype: "float64", or "float32" for devices without it: objectives then agree to about 1e-3.

    Returns:
      The fit. Check ``status``: a fit that failed, or whose data leave a parameter open, says so there.

    Raises:
      ValueError: no runs, no rows left, an unknown name, or an option out of range.

    >>> import fmjax
    >>> result = fit(fmjax.LRAnnealing(decay=0.99), fmjax.datasets.demo_runs(), drop_before=300)
    >>> result.status
    'converged'
    """
    options = FitOptions(
        residual, delta, over_weight, drop_warmup, drop_before, end_weight, starts, max_iterations, dtype
    )
    return evaluate(law, curves, train=curves, **options._asdict()).fit


def fit_groups(problem: Problem, groups: Any, options: FitOptions) -> list[FitResult]:
    """Fits each group of a problem's runs, ``groups[groups, runs]``, in one batch; their ``runs`` are left empty."""
    law, residual = problem.law, choose(options.residual, RESIDUALS, "residual")
    objective = Objective(positive(options.delta, "delta"), positive(options.over_weight, "over_weight"))
    groups, limit = np.asarray(groups, bool), whole(options.max_iterations, "max_iterations", least=1)
    used = groups.any(axis=0)
    rows, weights = problem.rows(used), groups[:, problem.run_of_row(used)] * problem.row_weights(used)
    for group in groups[weights.sum(axis=1) == 0]:
        names = [curve.name for curve, chosen in zip(problem.curves, group, strict=True) if chosen]
        raise ValueError(
            f"no row is left to fit of {names}: every row was logged before the end of warmup or drop_before"
        )
    keep = whole(options.starts, "starts", least=1)
    grid = exponent_grid(law)
    padded = np.resize(weights, (bucket(len(weights)), weights.shape[1]))
    starts = closed_form_starts(
        law, rows, np.zeros(len(padded), int), padded, objective, grid, residual=residual, keep=keep
    )
    starts, each = np.asarray(starts)[: len(groups)], starts.shape[1]
    jobs = lanes.Jobs(
        np.zeros(len(groups) * each, int), lambda i: weights[i // each], starts.reshape(-1, starts.shape[2])
    )
    found = lanes.minimise(law, rows, jobs, objective, residual=residual, max_iterations=limit)
    found = jax.tree.map(lambda x: x.reshape(len(groups), each, *x.shape[1:]), found)
    evidence = Evidence.of(problem, used)
    return [
        _summarise(law, options, jax.tree.map(lambda x: x[g], found), evidence, weights[g])  # noqa: B023
        for g in range(len(groups))
    ]


def _summarise(
    law: Law, options: FitOptions, found: lanes.Lanes, evidence: "Evidence", weights: np.ndarray
) -> FitResult:
    best = lanes.best(found)
    names, (lower, upper), vector = law.parameter_names, bounds(law), found.params[best]
    status = list(lanes.STATUS)[int(found.status[best])]
    failed = status == "non-finite"
    open_ = () if failed else evidence.undetermined(vector, weights)
    single = {p.name for p in law.exponents} | {p.name for p in law.coefficients if not p.mixture}
    beyond = zip(names, lower, vector, upper, strict=True)
    at_bound = [n for n, low, x, high in beyond if n in single and not low < x < high]
    if status == "at-bound" and not at_bound:
        status = "converged"  # terms of a mixture may well be zero
    unusable = names if failed else open_
    return FitResult(
        law=law,
        params={n: float("nan") if n in unusable else float(x) for n, x in zip(names, vector, strict=True)},
        objective=float(found.objective[best]),
        rows=int(np.count_nonzero(weights)),
        status="undetermined" if open_ else status,
        undetermined=open_,
        at_bound=() if failed else tuple(at_bound),
        residual=options.residual,
        delta=float(options.delta),
        runs=(),
        lanes=found,
    )


class Evidence(NamedTuple):
    """Rows from which to tell what data determine.

    Warmup is held at the peak for this question: its transient alone would otherwise pass for evidence on annealing.
    """

    law: Law
    effects: Row

    @classmethod
    def of(cls, problem: Problem, used: np.ndarray) -> "Evidence":
        """The rows of the runs marked in ``used[runs]``."""
        held = problem._replace(effects=batch_effects(problem.law, problem.batch, warmup="as-peak"))
        return cls(problem.law, held.rows(used).of(0).effects)

    def undetermined(self, vector: np.ndarray, weights: np.ndarray) -> tuple[str, ...]:
        """Names of parameters that the rows of positive weight leave open at the point ``vector``."""
        slopes = np.asarray(_relative_slopes(self.law, self.effects, vector))[:, weights > 0]
        size = np.sqrt(np.mean(slopes**2, axis=1))
        silent = size * np.maximum(np.abs(vector), 1e-3) < 1e-10
        scaled = np.where(silent, 0.0, 1 / np.where(silent, 1.0, size))[:, None] * slopes
        _, values, directions = np.linalg.svd(scaled @ scaled.T / scaled.shape[1])
        null = directions[values <= UNDETERMINED_BELOW**2 * values[0]]
        loose = silent | np.any(np.abs(null) > 0.1, axis=0)
        mixed = {coefficient.name for coefficient in self.law.coefficients if coefficient.mixture}
        named = zip(self.law.parameter_names, loose, strict=True)
        return tuple(name for name, is_loose in named if is_loose and name not in mixed)


# ---------------------------------------------------------------------------------------------------------------------
# Predict and evaluate
# ---------------------------------------------------------------------------------------------------------------------


def measure(problem: Problem, vector: np.ndarray, *, usable: Any) -> tuple[RunMetrics, ...]:
    """Metrics of each run under a parameter vector; NaN for runs it cannot be used for."""
    predicted = np.asarray(predict_batch(problem.law, problem.effects, vector))
    predicted = np.where(np.asarray(usable)[:, None], predicted, np.nan)
    parts = zip(problem.curves, predicted, problem.batch.loss, problem.keep, strict=True)
    return tuple(_run_metrics(*part) for part in parts)


def _run_metrics(curve: LossCurve, predicted: np.ndarray, loss: np.ndarray, keep: np.ndarray) -> RunMetrics:
    final = float(predicted[-1])  # the padded last row stands after the last update
    names = ("mape_percent", "worst_percent", "rmse", "r2")
    values = [getattr(metrics, name)(predicted[keep], loss[keep]) if keep.any() else float("nan") for name in names]
    errors = dict(zip(names, values, strict=True))
    return RunMetrics(
        name=curve.name,
        split=curve.split,
        **errors,
        final_loss_predicted=final,
        final_loss=curve.final_loss_measured,
    )


def with_measured_runs(problem: Problem, result: FitResult, group: Any) -> FitResult:
    """The fit with metrics of the runs of its group ``[runs]``."""
    vector = result.lanes.params[lanes.best(result.lanes)]
    runs = measure(problem, vector, usable=np.asarray(group) & (result.status != "non-finite"))
    of_fit = [run for run, is_fitted in zip(runs, group, strict=True) if is_fitted]
    return result.with_runs(of_fit, _reach(problem, group))


def _reach(problem: Problem, group: Any) -> Reach:
    """What the schedules of a group ``[runs]`` cover."""
    batch, chosen = problem.batch, np.flatnonzero(group)
    ends, peaks = batch.at[chosen, -1], np.array([problem.curves[run].peak_lr for run in chosen])
    begins = np.minimum(batch.warmup_steps[chosen], ends)
    each = zip(chosen, begins, ends, peaks, strict=True)
    rates = [batch.lrs[run, begin : end + 1] / peak for run, begin, end, peak in each]
    return Reach(
        total_steps=(int(ends.min()) + 1, int(ends.max()) + 1),
        peak_lr=(float(peaks.min()), float(peaks.max())),
        steepest=max(float(np.max(-np.diff(of_run, prepend=of_run[0]))) for of_run in rates),
        lowest=min(float(of_run.min()) for of_run in rates),
    )


def predict(result: FitResult, curves: Sequence[LossCurve]) -> tuple[np.ndarray, ...]:
    """Predicted loss at each logged row of each run.

    Args:
      result: a fit.
      curves: runs; only their steps, schedules and model sizes are read.

    Returns:
      One ``[rows]`` array a run; NaN where the fit leaves a parameter open.

    >>> from fmjax import datasets
    >>> curves = datasets.demo_runs()
    >>> predicted = predict(fit("chinchilla", curves[:3]), curves)
    >>> [rows.size for rows in predicted] == [curve.step.size for curve in curves]
    True
    """
    with jax.enable_x64(True):
        batch = pad(curves)
        found = np.asarray(predict_batch(result.law, batch_effects(result.law, batch), result.vector))
    return tuple(row[: curve.step.size] for row, curve in zip(found, curves, strict=True))


def evaluate(law: Law | str, curves: Sequence[LossCurve], *, train: Sequence[LossCurve], **options: Any) -> Evaluation:
    """Fits a law on the runs ``train`` and predicts all of ``curves``.

    Args:
      law: a law, or its name.
      curves: the runs to report on.
      train: the runs to fit, among ``curves`` (see ``fmjax.curves.manifest.select``).
      **options: as for ``fit``.

    Raises:
      ValueError: as for ``fit``; or an unseen run of another model size under a fit of one size.

    >>> import fmjax
    >>> curves = fmjax.datasets.demo_runs()
    >>> train = [curve for curve in curves if curve.split == "train"]
    >>> errors = [evaluate(law, curves, train=train).test_mape_percent for law in ("lr-annealing", "chinchilla")]
    >>> errors[0] < errors[1]
    True
    """
    names, trained = [curve.name for curve in curves], tuple(curve.name for curve in train)
    for name in names:
        require(names.count(name) == 1, f"expected one name a run, found {name!r} {names.count(name)} times")
    for name in trained:
        choose(name, names, "run to fit")
    fitted = [name in trained for name in names]
    require(any(fitted), "expected at least one run to fit, found none")
    chosen = FitOptions(**options)
    with precision(chosen):
        problem = prepare(law, curves, fitted=fitted, options=chosen)
        found = fit_groups(problem, [fitted], chosen)[0]
        vector = found.lanes.params[lanes.best(found.lanes)]
        usable = [found.ok or (is_fitted and found.status != "non-finite") for is_fitted in fitted]
        runs = measure(problem, vector, usable=usable)
        reach = _reach(problem, fitted)
    of_fit = tuple(run for run, is_fitted in zip(runs, fitted, strict=True) if is_fitted)
    return Evaluation(found.with_runs(of_fit, reach), runs, trained)
