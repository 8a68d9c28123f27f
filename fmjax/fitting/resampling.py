"""Many fits of one problem: runs left out, and bootstrap samples for intervals."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from fmjax._checks import choose, require, whole
from fmjax._json import Record, plain
from fmjax.curves.loss_curve import LossCurve
from fmjax.fitting import lanes
from fmjax.fitting.fits import Evidence, fit_groups, measure, with_measured_runs
from fmjax.fitting.metrics import LEVEL, percentile_interval
from fmjax.fitting.objective import Objective, Rows
from fmjax.fitting.options import ONE_FIT, FitOptions, fitting_verb, precision
from fmjax.fitting.problem import Problem, prepare, with_rows
from fmjax.fitting.records import FitResult, RunMetrics
from fmjax.laws import Law

METHODS = ("noise", "blocks", "runs")
"""What a bootstrap sample redraws: the noise around the fit, the weights of blocks of rows, or the runs."""

CORRECTIONS = 2
"""Rounds in which the noise model is corrected for what a fit absorbs of it."""

CORRECTION_SAMPLES = 48
"""Samples of each of those rounds."""


# ---------------------------------------------------------------------------------------------------------------------
# Runs left out
# ---------------------------------------------------------------------------------------------------------------------


def leave_one_out_groups(group: Any) -> np.ndarray:
    """Masks ``[chosen, runs]`` of a group of runs without each of its members in turn.

    >>> leave_one_out_groups([True, False, True]).astype(int).tolist()
    [[0, 0, 1], [1, 0, 0]]
    """
    chosen = np.asarray(group, bool)
    return chosen & ~np.eye(chosen.size, dtype=bool)[chosen]


def held_out(problem: Problem, group: Any, fits: Sequence[FitResult]) -> tuple[RunMetrics, ...]:
    """Metrics of each run of a group under the fit made without it; NaN where the other runs leave a parameter open.

    Args:
      problem: runs under a law.
      group: ``[runs]`` the group.
      fits: one fit for each of ``leave_one_out_groups(group)``.
    """
    runs = []
    for run, result in zip(np.flatnonzero(group), fits, strict=True):
        usable = (np.arange(len(problem.curves)) == run) & result.ok
        runs.append(measure(problem, result.lanes.params[lanes.best(result.lanes)], usable=usable)[run])
    return tuple(runs)


def leave_one_out(problem: Problem, group: Any, options: FitOptions) -> tuple[RunMetrics, ...]:
    """Predicts each run of a group from a fit of the others; all fits are lanes of one batch."""
    return held_out(problem, group, fit_groups(problem, leave_one_out_groups(group), options))


# ---------------------------------------------------------------------------------------------------------------------
# Bootstrap
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bootstrap(Record):
    """A fit and the parameters of its bootstrap samples."""

    fit: FitResult
    params: np.ndarray
    """``[samples, parameters]`` of the samples that could be fitted."""
    failed: int
    """Samples that could not."""
    method: str

    def interval(self, name: str, level: float = LEVEL) -> tuple[float, float]:
        """Percentile interval of a parameter."""
        names = self.fit.law.parameter_names
        return percentile_interval(self.params[:, names.index(choose(name, names, "parameter"))], level)

    def to_dict(self) -> dict[str, Any]:
        """Intervals and correlations of the parameters as plain values for JSON."""
        names = self.fit.law.parameter_names
        intervals = {name: self.interval(name) for name in names}
        record = {"law": self.fit.law.name, "params": self.fit.params, "intervals": intervals, "level": LEVEL}
        record |= {"samples": len(self.params), "failed": self.failed, "method": self.method}
        return plain({**record, "notes": self.fit.notes})


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
      share their stem, share their noise. Intervals cover as they say where the law holds (``benchmarks/coverage.py``).
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
) -> list[Bootstrap]:
    """``bootstrap`` for several groups of a problem's runs at once, ``groups[groups, runs]``, given their fits."""
    choose(method, METHODS, "bootstrap method")
    count = whole(samples, "samples", least=2)
    for fit in fits:
        require(fit.ok, f"the fit has no intervals: {fit.message}")
    draw = {"noise": _noise_samples, "blocks": _block_samples, "runs": _run_samples}[method]
    found = draw(_Setting.of(problem, groups, fits, options, block, progress), count, np.random.default_rng(seed))
    usable = np.isin(found.status, (lanes.CONVERGED, lanes.AT_BOUND)).reshape(len(groups), count)
    params = found.params.reshape(len(groups), count, -1)
    require(usable.sum(axis=1).min() >= 2, f"fewer than two of {count} bootstrap samples could be fitted")
    return [Bootstrap(fit, params[g][usable[g]], int(count - usable[g].sum()), method) for g, fit in enumerate(fits)]


class _Setting(NamedTuple):
    """What all draws work on: the rows of the groups' runs, and the groups' fits."""

    problem: Problem
    used: np.ndarray
    """``[runs]`` runs that any group has."""
    rows: Rows
    run: np.ndarray
    """``[rows]`` run of each row."""
    weights: np.ndarray
    """``[groups, rows]``."""
    start: np.ndarray
    """``[groups, parameters]``."""
    options: FitOptions
    block: int
    progress: Callable[[int, int], None] | None

    @classmethod
    def of(cls, problem: Problem, groups: Any, fits: Any, options: FitOptions, block: int, report: Any) -> "_Setting":
        """The setting of a problem's groups."""
        used: np.ndarray = np.any(groups, axis=0)
        run = problem.run_of_row(used)
        weights = np.asarray(groups)[:, run] * problem.row_weights(used)
        start = np.stack([fit.vector for fit in fits])
        return cls(
            problem, used, problem.rows(used), run, weights, start, options, whole(block, "block", least=1), report
        )

    def minimise(self, rows: Rows, weights: Any, count: int) -> lanes.Lanes:
        """Fits ``count`` lanes a group, each started from the group's fit."""
        total, start = count * len(self.start), np.repeat(self.start, count, axis=0)
        objective = Objective(self.options.delta, self.options.over_weight)
        jobs = lanes.Jobs(np.arange(total), weights, start)
        return lanes.minimise(
            self.problem.law,
            rows,
            jobs,
            objective,
            residual=self.options.residual,
            max_iterations=self.options.max_iterations,
            progress=self.progress,
        )


def _block_samples(setting: _Setting, count: int, rng: np.random.Generator) -> lanes.Lanes:
    """Exponential weights on blocks of successive rows of a run, the cuts drawn anew for each sample."""
    seeds = rng.integers(2**63, size=count * len(setting.start))
    position = np.arange(setting.run.size) - np.searchsorted(setting.run, setting.run)

    def weights(index: np.ndarray) -> np.ndarray:
        return np.stack([draw(seeds[i]) * setting.weights[i // count] for i in index])

    def draw(seed: int) -> np.ndarray:
        own = np.random.default_rng(seed)
        labels = (position + own.integers(setting.block)) // setting.block + setting.run * (position.max() + 2)
        _, labels = np.unique(labels, return_inverse=True)
        return own.exponential(size=labels.max() + 1)[labels]

    return setting.minimise(setting.rows, weights, count)


def _run_samples(setting: _Setting, count: int, rng: np.random.Generator) -> lanes.Lanes:
    """Runs drawn with replacement: a row weighs as often as its run is drawn; draws that leave parameters open fail."""
    multiples = []
    for weights in setting.weights:
        members = np.unique(setting.run[weights > 0])
        require(members.size > 1, "drawing runs with replacement needs at least two runs")
        draws = rng.choice(members, size=(count, members.size))
        multiples.append(np.stack([np.bincount(draw, minlength=setting.run.max() + 1) for draw in draws]))
    drawn = np.concatenate(multiples)

    def weights_of(index: np.ndarray) -> np.ndarray:
        return drawn[index][:, setting.run] * setting.weights[index // count]

    found = setting.minimise(setting.rows, weights_of, count)
    evidence = Evidence.of(setting.problem, setting.used)
    for lane, params in enumerate(found.params):
        if found.status[lane] != lanes.NON_FINITE and evidence.undetermined(params, weights_of(np.array([lane]))[0]):
            found.status[lane] = lanes.UNDETERMINED
    return found


def _noise_samples(setting: _Setting, count: int, rng: np.random.Generator) -> lanes.Lanes:
    """Losses drawn around the fit with autoregressive noise of the residuals' correlation and size."""
    chain = _Chain.of(setting)
    predicted = np.stack([_predicted(setting, start) for start in setting.start])
    observed = chain.noise(np.log(setting.rows.loss) - np.log(predicted), setting.weights)
    noise = observed

    def sample(noise: _Noise, count: int) -> tuple[lanes.Lanes, np.ndarray]:
        repeated = _Noise(*(np.repeat(x, count) for x in noise))
        losses = np.repeat(predicted, count, axis=0) * np.exp(chain.draw(rng, repeated))
        rows = setting.rows._replace(loss=losses)
        return setting.minimise(rows, lambda i: setting.weights[i // count], count), losses

    for _ in range(CORRECTIONS):
        found, losses = sample(noise, CORRECTION_SAMPLES)
        residual = np.log(losses) - np.log(np.stack([_predicted(setting, params) for params in found.params]))
        seen = chain.noise(residual, np.repeat(setting.weights, CORRECTION_SAMPLES, axis=0))
        noise = _corrected(noise, observed, _Noise(*(x.reshape(len(observed.phi), -1).mean(axis=1) for x in seen)))
    return sample(noise, count)[0]


def _predicted(setting: _Setting, params: np.ndarray) -> np.ndarray:
    return np.asarray(_predict(setting.problem.law, setting.rows.of(0).effects, params))


@jax.jit
def _predict(law: Law, effects: Any, params: jax.Array) -> jax.Array:
    return law.predict(effects, params)


class _Noise(NamedTuple):
    """Correlation of successive rows and standard deviation, one of each for every lane."""

    phi: np.ndarray
    sigma: np.ndarray


def _corrected(noise: _Noise, observed: _Noise, seen: _Noise) -> _Noise:
    """Moves the noise by what residuals of its own samples fall short of the observed ones."""
    phi = np.clip(noise.phi + observed.phi - seen.phi, 0.0, 0.99)
    return _Noise(phi, noise.sigma * observed.sigma / np.maximum(seen.sigma, 1e-300))


class _Chain(NamedTuple):
    """How noise runs along rows: each follows the row before it in its run; rows that runs share have one owner."""

    owner: np.ndarray
    """``[rows]`` the first row with the same step and loss under the same rates."""
    starts: np.ndarray
    """``[rows]`` whether a row is the first of its run."""

    @classmethod
    def of(cls, setting: _Setting) -> "_Chain":
        """The chain of a setting's rows."""
        loss = setting.rows.loss[0]
        columns = [np.asarray(value[0]).reshape(loss.size, -1) for value in setting.rows.effects.values()]
        keys = np.concatenate([loss[:, None], *columns], axis=1)
        _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        return cls(first[inverse.ravel()], np.diff(setting.run, prepend=-1) > 0)

    def noise(self, residual: np.ndarray, weights: np.ndarray) -> _Noise:
        """Correlation and size of residuals ``[lanes, rows]`` over rows of positive weight, shared ones once."""
        own = np.stack([self._own(weight > 0) for weight in weights])
        pair = own[:, 1:] & (weights[:, :-1] > 0) & ~self.starts[1:]
        now, before = np.where(pair, residual[:, 1:], 0.0), np.where(pair, residual[:, :-1], 0.0)
        phi = np.sum(now * before, axis=1) / np.maximum(np.sum(before**2, axis=1), 1e-300)
        sigma = np.sqrt(np.sum(np.where(own, residual, 0.0) ** 2, axis=1) / own.sum(axis=1))
        return _Noise(np.clip(phi, 0.0, 0.99), sigma)

    def _own(self, present: np.ndarray) -> np.ndarray:
        """Mask of the present rows, shared ones only where they are first met."""
        index = np.flatnonzero(present)
        mask = np.zeros(present.size, bool)
        mask[index[np.unique(self.owner[index], return_index=True)[1]]] = True
        return mask

    def draw(self, rng: np.random.Generator, noise: _Noise) -> np.ndarray:
        """Noise ``[lanes, rows]``."""
        drawn = rng.standard_normal((self.owner.size, noise.phi.size))
        fresh = np.sqrt(1 - noise.phi**2)
        for row, (owner, starts) in enumerate(zip(self.owner, self.starts, strict=True)):
            if owner != row:
                drawn[row] = drawn[owner]
            elif not starts:
                drawn[row] = noise.phi * drawn[row - 1] + fresh * drawn[row]
        return (drawn * noise.sigma).T
