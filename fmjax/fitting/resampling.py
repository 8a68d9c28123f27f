"""Many fits of one problem: runs left out, and bootstrap samples for intervals."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fmjax._checks import choose, require, whole
from fmjax._json import Record, plain
from fmjax._names import LEVEL, METHODS
from fmjax.curves.loss_curve import LossCurve
from fmjax.fitting import lanes
from fmjax.fitting.anneal_reach import spread_coefficients
from fmjax.fitting.fits import fit_groups, measure, with_measured_runs
from fmjax.fitting.metrics import percentile_interval
from fmjax.fitting.objective import bounds
from fmjax.fitting.options import ONE_FIT, FitOptions, fitting_verb, precision
from fmjax.fitting.problem import Problem, prepare, with_rows
from fmjax.fitting.records import FitResult, RunMetrics
from fmjax.fitting.sampling import DRAWS, Choices, Setting, noise_samples
from fmjax.laws import Law

# ---------------------------------------------------------------------------------------------------------------------
# Runs left out
# ---------------------------------------------------------------------------------------------------------------------


MOST_LEFT_OUT = 64
"""Fits of a group without some of its runs: of more runs than that, several are left out at once."""


def leave_out_groups(group: ArrayLike) -> np.ndarray:
    """Masks ``[fits, runs]`` of a group of runs without each of its members, in at most ``MOST_LEFT_OUT`` fits.

    >>> leave_out_groups(np.ones(100)).shape
    (64, 100)
    """
    chosen = np.asarray(group, bool)
    fit_without = np.cumsum(chosen) % MOST_LEFT_OUT
    return np.array([chosen & (fit_without != k) for k in np.unique(fit_without[chosen])]).reshape(-1, chosen.size)


def leave_one_out_groups(group: ArrayLike) -> np.ndarray:
    """Masks ``[chosen, runs]`` of a group of runs without each of its members in turn.

    >>> leave_one_out_groups([True, False, True]).astype(int).tolist()
    [[0, 0, 1], [1, 0, 0]]
    """
    chosen = np.asarray(group, bool)
    return chosen & ~np.eye(chosen.size, dtype=bool)[chosen]


def held_out(
    problem: Problem, group: np.ndarray, fits: Sequence[FitResult], without: np.ndarray
) -> tuple[RunMetrics, ...]:
    """Metrics of each run of a group under a fit made without it; NaN where the other runs leave a parameter open.

    Args:
      problem: runs under a law.
      group: ``[runs]`` the group.
      fits: the fits.
      without: ``[fits, runs]`` masks of the runs of each; every run of the group is missing in one.
    """
    found: dict[int, RunMetrics] = {}
    for mask, result in zip(without, fits, strict=True):
        left = group & ~mask
        measured = measure(problem, result.lanes.best_params, usable=left & result.ok)
        found |= {run: measured[run] for run in np.flatnonzero(left).tolist()}
    return tuple(found[run] for run in np.flatnonzero(group).tolist())


def leave_one_out(problem: Problem, group: np.ndarray, options: FitOptions) -> tuple[RunMetrics, ...]:
    """Predicts each run of a group from a fit of the others; all fits are lanes of one batch."""
    without = leave_one_out_groups(group)
    return held_out(problem, group, fit_groups(problem, without, options), without)


# ---------------------------------------------------------------------------------------------------------------------
# Bootstrap
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bootstrap(Record):
    """A fit and the parameters of its bootstrap samples."""

    fit: FitResult
    params: np.ndarray
    """``[samples, parameters]`` of the samples that could be fitted.

    Where the runs alone leave the fit open (``open_without_prior``), coefficients are to predict with, all together:
    one may lie beyond its bounds where its sum with others does not.
    """
    failed: int
    """Samples that could not."""
    method: str
    outliers: int = 0
    """Rows far off their neighbours, or repeats of the row before, that the noise was measured without."""
    choice: np.ndarray | None = None
    """``[samples]`` which of the choices of options that were given a sample is drawn and fitted under."""
    shared_noise: float = 0.0
    """Share of the noise's variance that runs were found to have in common at equal steps; by "noise" alone."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What to say of the runs and of the samples."""
        left = f"{self.outliers} of {self.fit.rows} rows lie far off their neighbours or repeat the row before"
        return self.fit.notes + ((f"{left}; the noise was measured without them",) if self.outliers else ())

    def interval(self, name: str, level: float = LEVEL) -> tuple[float, float]:
        """Percentile interval of a parameter, within its bounds; NaN where the fit leaves it open."""
        names = self.fit.law.parameter_names
        place = names.index(choose(name, names, "parameter"))
        if name in self.fit.left_open:
            return float("nan"), float("nan")
        low, high = (float(bound[place]) for bound in bounds(self.fit.law))
        return percentile_interval(np.clip(self.params[:, place], low, high), level)

    def to_dict(self) -> dict[str, object]:
        """Intervals and correlations of the parameters as plain values for JSON."""
        names = self.fit.law.parameter_names
        intervals = {name: self.interval(name) for name in names}
        record = {"law": self.fit.law.name, "params": self.fit.params, "intervals": intervals, "level": LEVEL}
        record |= {"samples": len(self.params), "failed": self.failed, "method": self.method}
        return plain({**record, "outliers": self.outliers, "shared_noise": self.shared_noise, "notes": self.notes})


@fitting_verb
def bootstrap(
    law: Law | str,
    curves: Sequence[LossCurve],
    *,
    samples: int = 200,
    method: str = "noise",
    block: int = 10,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    options: FitOptions = ONE_FIT,
) -> Bootstrap:
    r"""Fits a law to runs and to bootstrap samples of them, all as lanes of one batch.

    - "noise" (default): new losses $\hat L\,e^{\epsilon}$, $\epsilon$ first-order autoregressive along each run, its
      correlation and size those of the residuals, corrected for what a fit absorbs. Rows that runs share, as branches
      share their stem, share their noise. Runs of one data order share a part of it at equal steps, as large as their
      residuals show. Intervals cover as they say where the law holds (``benchmarks/coverage.py``).
    - "blocks": exponential weights on blocks of ``block`` successive rows; assumes no noise model, but is too narrow
      where there are few blocks.
    - "runs": runs drawn with replacement; for many runs, says what other runs might have shown.

    Args:
      law: a law, or its name.
      curves: the runs to fit.
      samples: number of bootstrap samples.
      method: one of ``METHODS``.
      block: rows of a block.
      seed: seed of the draws; the same seed gives the same samples.
      progress: called with (lanes done, lanes in all).
      options: of the fits.

    Raises:
      ValueError: as for ``fit``; or the fit itself failed.

    Reference: sieve bootstrap, Buehlmann (1997); weighted bootstrap, Rubin (1981); block bootstrap, Kuensch (1989).

    >>> import fmjax
    >>> found = bootstrap("lr-annealing", fmjax.datasets.demo_runs(), samples=50)
    >>> low, high = found.interval("alpha")
    >>> low < found.fit.params["alpha"] < high
    True
    """
    curves, left_out = with_rows(curves, options)
    everything = np.ones((1, len(curves)), bool)
    with precision(options):
        problem = prepare(law, curves, fitted=everything[0].tolist(), options=options)
        fits = [
            dataclasses.replace(with_measured_runs(problem, result, everything[0]), left_out=left_out)
            for result in fit_groups(problem, everything, options)
        ]
        return bootstrap_groups(
            problem,
            everything,
            fits,
            options,
            samples=samples,
            method=method,
            block=block,
            seed=seed,
            progress=progress,
        )[0]


def bootstrap_groups(
    problem: Problem,
    groups: np.ndarray,
    fits: Sequence[FitResult],
    options: FitOptions,
    *,
    samples: int,
    method: str = "noise",
    block: int = 10,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    choices: Choices | None = None,
) -> list[Bootstrap]:
    """``bootstrap`` for several groups of a problem's runs at once, ``groups[groups, runs]``, given their fits.

    Samples of the noise may be shared out among ``choices`` of the law's options, drawn by what the runs leave open of
    them. So intervals hold that as well.
    """
    choose(method, METHODS, "bootstrap method")
    count = whole(samples, "samples", least=2)
    for fit in fits:
        require(fit.ok, f"the fit has no intervals: {fit.message}")
    setting = Setting.of(problem, groups, fits, options, block, progress)
    rng = np.random.default_rng(seed)
    drawn = DRAWS[method](setting, count, rng) if choices is None else noise_samples(setting, count, rng, choices)
    found, choice = drawn.lanes, None if choices is None else choices.of_samples(count)
    usable = np.isin(found.status, (lanes.CONVERGED, lanes.AT_BOUND)).reshape(len(groups), count)
    params = found.params.reshape(len(groups), count, -1)
    require(usable.sum(axis=1).min() >= 2, f"fewer than two of {count} bootstrap samples could be fitted")
    for g, fit in enumerate(fits):
        if fit.open_without_prior:
            params[g] = spread_coefficients(problem, groups[g], fit, params[g], rng)
    outliers, shared = (np.broadcast_to(x, len(groups)) for x in (drawn.outliers, drawn.shared))
    return [
        Bootstrap(
            fit,
            params[g][usable[g]],
            int(count - usable[g].sum()),
            method,
            int(outliers[g]),
            None if choice is None else choice[usable[g]],
            float(shared[g]),
        )
        for g, fit in enumerate(fits)
    ]
