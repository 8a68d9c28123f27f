"""``fit`` and ``evaluate``: from runs to a fitted law, what can be said of it, and its predictions."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from numpy.typing import ArrayLike

from fmjax._checks import choose, known_options, positive, require, whole
from fmjax._devices import beside
from fmjax._names import RESIDUALS
from fmjax.curves.loss_curve import LossCurve, pad
from fmjax.curves.row_noise import robust_size
from fmjax.effects.weighted import rate_span
from fmjax.fitting import lanes, metrics
from fmjax.fitting.anneal_reach import FORESEEN, anneal_spread
from fmjax.fitting.evidence import Evidence
from fmjax.fitting.fitted_runs import FittedRuns
from fmjax.fitting.objective import Objective, PriorPull, bounds, exponent_grid
from fmjax.fitting.options import ONE_FIT, FitOptions, fitting_verb, precision
from fmjax.fitting.priors import LawPrior, Priors, found_scale, least_scale
from fmjax.fitting.problem import Problem, predict_batch, predict_each, prepare, with_rows
from fmjax.fitting.records import Evaluation, FitResult, FittedRange, RunMetrics
from fmjax.fitting.row_effects import batch_effects
from fmjax.fitting.shared_noise import Residuals, WithoutShared, each_without_shared
from fmjax.fitting.starts import closed_form_starts
from fmjax.laws import Law
from fmjax.schedules.batch_stages import batch_sizes

RESCALED = 1.1
"""How much larger the scale of an objective must be than taken for the fit to be made again."""
# ---------------------------------------------------------------------------------------------------------------------
# Fit
# ---------------------------------------------------------------------------------------------------------------------


@known_options("fit")
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
    prior: Priors = "default",
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
      prior: what is held of exponents before the data: "default" for the law's own, on fits of several model sizes or
        batch sizes, and where the runs alone leave the law open; None for nothing; a mean and a standard deviation (0
        to hold it) by exponent; or what ``learn_prior`` found.

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
        residual=residual,
        delta=delta,
        over_weight=over_weight,
        drop_warmup=drop_warmup,
        drop_before=drop_before,
        end_weight=end_weight,
        starts=starts,
        max_iterations=max_iterations,
        dtype=dtype,
        prior=prior,
    )
    return evaluate(law, curves, train=curves, options=options).fit


def fit_groups(problem: Problem, groups: ArrayLike, options: FitOptions) -> list[FitResult]:
    """Fits each group of a problem's runs, ``groups[groups, runs]``, in one batch; their ``runs`` are left empty.

    Groups whose runs leave the law open are fitted again with the law's own prior, unless told another or none. What is
    then determined is so through the prior, and says so. So it is with a fit that does not settle.
    """
    groups = np.asarray(groups, bool)
    found = _fit_under(problem, groups, options, LawPrior.of(problem.law, options.prior))
    prior = LawPrior.of_open(problem.law, options.prior)
    left = [place for place, one in enumerate(found) if one.status in ("undetermined", "iteration-limit")]
    if prior and left:
        again = _fit_under(problem, groups[left], options, prior)
        for place, result in zip(left, again, strict=True):
            usable = result if result.ok else _foreseeing(problem, groups[place], result)
            if usable is not None:
                found[place] = dataclasses.replace(usable, open_without_prior=_open_names(found[place], prior))
    return found


def _open_names(fit: FitResult, prior: LawPrior) -> tuple[str, ...]:
    """Parameters that the runs leave open; of a fit that does not settle, the exponents that have a prior."""
    if fit.status != "iteration-limit":
        return fit.undetermined
    return tuple(e.name for e, known in zip(fit.law.exponents, prior.known, strict=True) if known)


def _foreseeing(problem: Problem, group: np.ndarray, fit: FitResult) -> FitResult | None:
    """A fit under a prior whose single parameters are open, as one to predict with, where it foresees anneals."""
    if fit.status != "undetermined" or not anneal_spread(problem, group, fit) < FORESEEN:
        return None
    names, vector = problem.law.parameter_names, fit.lanes.best_params
    params = {name: float(x) for name, x in zip(names, vector, strict=True)}
    status = "at-bound" if fit.at_bound else "converged"
    return dataclasses.replace(fit, params=params, status=status, undetermined=(), left_open=fit.undetermined)


def _fit_under(problem: Problem, groups: np.ndarray, options: FitOptions, prior: LawPrior) -> list[FitResult]:
    law, residual = problem.law, choose(options.residual, RESIDUALS, "residual")
    limit = whole(options.max_iterations, "max_iterations", least=1)
    used: np.ndarray = np.any(groups, axis=0)
    rows, weights = problem.rows(used), groups[:, problem.run_of_row(used)] * problem.row_weights(used)
    for group in groups[weights.sum(axis=1) == 0]:
        names = [curve.name for curve, chosen in zip(problem.curves, group, strict=True) if chosen]
        raise ValueError(
            f"no row is left to fit of {names}: every row was logged before the end of warmup or drop_before"
        )
    objective = Objective(positive(options.delta, "delta"), positive(options.over_weight, "over_weight"))
    run = problem.run_of_row(used)
    keep = whole(options.starts, "starts", least=1)
    grid = exponent_grid(law)
    scale, each = least_scale(weights, run), min(keep, len(grid))
    shape = len(groups) * each, len(law.parameters)
    jobs = lanes.Jobs(np.zeros(shape[0], int), lambda i: weights[i // each], np.zeros(shape, rows.loss.dtype))

    def pulled(scale: np.ndarray) -> Objective:
        return objective._replace(prior=prior.pull(scale))

    # XLA compiles the fits, and what tells which parameters are open, beside the starts.
    fits_ready = beside(lambda: lanes.compile_fits(law, rows, jobs, pulled(np.repeat(scale, each)), residual=residual))
    evidence = beside(lambda: Evidence.of(problem, used).compiled())
    starts = closed_form_starts(
        law, rows, np.zeros(len(groups), int), weights, pulled(scale), grid, residual=residual, keep=keep
    )
    jobs = jobs._replace(start=starts.reshape(shape))
    fits_ready.result()

    def minimised(jobs: lanes.Jobs, scale: np.ndarray) -> lanes.Lanes:
        own = pulled(np.repeat(scale, each))
        return lanes.minimise(law, rows, jobs, own, residual=residual, max_iterations=limit, client=options.client)

    found = minimised(jobs, scale)
    if prior:
        best = _by_group(found, len(groups))
        predicted = predict_each(law, rows.of(0).effects, np.stack([own.best_params for own in best]))
        shown = found_scale(np.asarray(rows.loss[0]), predicted, weights, run, objective, residual)
        if np.any(shown > RESCALED * scale):
            scale = np.maximum(scale, shown)
            found = minimised(jobs._replace(start=found.params), scale)
    each_group, known = _by_group(found, len(groups)), evidence.result()
    return [
        _summarise(law, options, own, known, weights[g], prior, float(scale[g])) for g, own in enumerate(each_group)
    ]


def _by_group(found: lanes.Lanes, groups: int) -> list[lanes.Lanes]:
    """The lanes of each group."""
    return [lanes.Lanes(*own) for own in zip(*(np.split(values, groups) for values in found), strict=True)]


def _summarise(
    law: Law,
    options: FitOptions,
    found: lanes.Lanes,
    evidence: Evidence,
    weights: np.ndarray,
    prior: LawPrior,
    scale: float,
) -> FitResult:
    best = lanes.best(found)
    names, (lower, upper), vector = law.parameter_names, bounds(law), found.params[best]
    status = list(lanes.FIT_STATUS)[int(found.status[best])]
    failed = status == "non-finite"
    pull = prior.pull(np.array([scale]))
    evidence = evidence._replace(stiffness=None if pull is None else pull.stiffness[0])
    open_ = () if failed else evidence.undetermined(vector, weights)
    learned = () if failed or pull is None else evidence.learned(prior, vector, weights, scale)
    single = {p.name for p in law.exponents} | {p.name for p in law.coefficients if not p.mixture}
    beyond = zip(names, lower, vector, upper, strict=True)
    at_bound = [n for n, low, x, high in beyond if n in single and not low < x < high]
    if status == "at-bound" and not at_bound:
        status = "converged"  # terms of a mixture may well be zero
    unusable = names if failed else open_
    return FitResult(
        law=law,
        params={n: float("nan") if n in unusable else float(x) for n, x in zip(names, vector, strict=True)},
        objective=float(found.objective[best]) - _cost(pull, vector[len(law.coefficients) :]),
        rows=int(np.count_nonzero(weights)),
        status="undetermined" if open_ else status,
        undetermined=open_,
        at_bound=() if failed else tuple(at_bound),
        residual=options.residual,
        delta=float(options.delta),
        runs=(),
        lanes=found,
        prior=learned,
        scale=scale if learned else float("nan"),
    )


def _cost(pull: PriorPull | None, exponents: np.ndarray) -> float:
    return 0.0 if pull is None else float(pull.cost(exponents)[0])


# ---------------------------------------------------------------------------------------------------------------------
# Predict and evaluate
# ---------------------------------------------------------------------------------------------------------------------


def measure(problem: Problem, vector: np.ndarray, *, usable: ArrayLike) -> tuple[RunMetrics, ...]:
    """Metrics of each run under a parameter vector; NaN for runs it cannot be used for."""
    return _metrics(problem, _predicted(problem, vector, usable))


def _predicted(problem: Problem, vector: np.ndarray, usable: ArrayLike) -> np.ndarray:
    """Losses ``[runs, rows]``; NaN for runs that the vector cannot be used for."""
    predicted, runs = np.full(problem.batch.loss.shape, np.nan), np.flatnonzero(usable)
    if runs.size:
        effects = {key: value[runs] for key, value in problem.effects.items()}
        predicted[runs] = predict_batch(problem.law, effects, vector)
    return predicted


def _metrics(problem: Problem, predicted: np.ndarray) -> tuple[RunMetrics, ...]:
    parts = zip(problem.curves, predicted, problem.batch.loss, problem.keep, strict=True)
    return tuple(_run_metrics(*part) for part in parts)


def _run_metrics(curve: LossCurve, predicted: np.ndarray, loss: np.ndarray, keep: np.ndarray) -> RunMetrics:
    final = float(predicted[-1])  # the padded last row stands after the last update
    names = ("mape_percent", "worst_percent", "rmse", "r2")
    usable = keep.any() and not np.isnan(predicted).all()
    values = [getattr(metrics, name)(predicted[keep], loss[keep]) if usable else float("nan") for name in names]
    errors = dict(zip(names, values, strict=True))
    return RunMetrics(
        name=curve.name,
        split=curve.split,
        **errors,
        final_loss_predicted=final,
        final_loss=curve.final_loss_measured,
        row_error=_row_error(predicted[keep], loss[keep]),
    )


def _paired_metrics(problem: Problem, predicted: np.ndarray, fitted: Sequence[bool]) -> tuple[RunMetrics, ...]:
    """Metrics of each run with its error once the noise of the fitted runs is taken out; its own does not count."""
    runs = _metrics(problem, predicted)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.log(problem.batch.loss) - np.log(predicted)
    parts = zip(problem.curves, problem.batch.at, error, problem.keep, strict=True)
    rows = [Residuals(at[keep], own[keep], curve.data_order) for curve, at, own, keep in parts]
    usable = np.isfinite([run.mape_percent for run in runs])
    left = each_without_shared(rows, usable, usable & np.asarray(fitted))
    return tuple(run if one is None else _with_pairing(run, one) for run, one in zip(runs, left, strict=True))


def _with_pairing(run: RunMetrics, left: WithoutShared) -> RunMetrics:
    loss = np.exp(left.value)  # of a prediction of 1
    return run._replace(paired_mape_percent=metrics.mape_percent(1.0, loss), shared_noise=left.share)


def _row_error(predicted: np.ndarray, loss: np.ndarray) -> float:
    known = predicted > 0  # false for NaN
    return robust_size(np.log(predicted[known] / loss[known])) if known.any() else float("nan")


def with_measured_runs(problem: Problem, result: FitResult, group: np.ndarray) -> FitResult:
    """The fit with metrics of the runs of its group ``[runs]``."""
    vector = result.lanes.best_params
    runs = measure(problem, vector, usable=np.asarray(group) & (result.status != "non-finite"))
    of_fit = [run for run, is_fitted in zip(runs, group, strict=True) if is_fitted]
    return result.with_runs(of_fit, _reach(problem, group), _trained_with(problem, group))


def _reach(problem: Problem, group: Sequence[bool] | np.ndarray) -> FittedRange:
    """What the schedules of a group ``[runs]`` cover."""
    batch, chosen = problem.batch, np.flatnonzero(group)
    batches = [problem.curves[run].tokens_per_step for run in chosen]
    ends, peaks = batch.at[chosen, -1], np.array([problem.curves[run].peak_lr for run in chosen])
    begins = np.minimum(batch.warmup_steps[chosen], ends)
    each = zip(chosen, begins, ends, peaks, strict=True)
    spans = [(*rate_span(batch.schedules[run], int(begin), int(end)), peak) for run, begin, end, peak in each]
    return FittedRange(
        total_steps=(int(ends.min()) + 1, int(ends.max()) + 1),
        peak_lr=(float(peaks.min()), float(peaks.max())),
        steepest=max(drop / peak for drop, _, peak in spans),
        lowest=min(lowest / peak for _, lowest, peak in spans),
        model_size=_ends([problem.curves[run].model_size for run in chosen]),
        tokens_per_step=None if None in batches else _ends(batch_sizes(batches)),
    )


def _ends(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Least and greatest of values that are all there."""
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if len(known) == len(values) else None


def _trained_with(problem: Problem, group: Sequence[bool] | np.ndarray) -> FittedRuns:
    """What the runs of a group ``[runs]`` were trained with."""
    return FittedRuns.of([curve for curve, is_in in zip(problem.curves, group, strict=True) if is_in])


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
        found = predict_batch(result.law, batch_effects(result.law, batch), result.vector)
    return tuple(row[: curve.step.size] for row, curve in zip(found, curves, strict=True))


@fitting_verb
def evaluate(
    law: Law | str, curves: Sequence[LossCurve], *, train: Sequence[LossCurve], options: FitOptions = ONE_FIT
) -> Evaluation:
    """Fits a law on the runs ``train`` and predicts all of ``curves``.

    Args:
      law: a law, or its name.
      curves: the runs to report on.
      train: the runs to fit, among ``curves`` (see ``fmjax.curves.manifest.select``).
      options: of the fit.

    Raises:
      ValueError: as for ``fit``; or an unseen run of another model size under a fit of one size.

    >>> import fmjax
    >>> curves = fmjax.datasets.demo_runs()
    >>> train = [curve for curve in curves if curve.split == "train"]
    >>> errors = [evaluate(law, curves, train=train).test_mape_percent for law in ("lr-annealing", "chinchilla")]
    >>> errors[0] < errors[1]
    True
    """
    train, left_out = with_rows(train, options) if train else (train, ())
    names, trained = [curve.name for curve in curves], tuple(curve.name for curve in train)
    for name in names:
        require(names.count(name) == 1, f"expected one name a run, found {name!r} {names.count(name)} times")
    for name in trained:
        choose(name, names, "run to fit")
    fitted = [name in trained for name in names]
    require(any(fitted), "expected at least one run to fit, found none")
    with precision(options):
        problem = prepare(law, curves, fitted=fitted, options=options)
        found = fit_groups(problem, [fitted], options)[0]
        vector = found.lanes.best_params
        usable = [found.ok or (is_fitted and found.status != "non-finite") for is_fitted in fitted]
        runs = _paired_metrics(problem, _predicted(problem, vector, usable), fitted)
        reach, trained_with = _reach(problem, fitted), _trained_with(problem, fitted)
    of_fit = tuple(run for run, is_fitted in zip(runs, fitted, strict=True) if is_fitted)
    found = dataclasses.replace(found.with_runs(of_fit, reach, trained_with), left_out=left_out)
    return Evaluation(found, runs, trained)
