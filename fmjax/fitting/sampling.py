"""What a bootstrap sample redraws: the noise around the fit, the weights of blocks of rows, or the runs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fmjax._checks import require, whole
from fmjax.fitting import lanes
from fmjax.fitting.evidence import Evidence
from fmjax.fitting.noise_model import ChainNoise, NoiseChain, measured_rows
from fmjax.fitting.objective import Objective, PriorPull, Rows
from fmjax.fitting.options import FitOptions
from fmjax.fitting.priors import LEVEL_ERROR, LawPrior
from fmjax.fitting.problem import Problem, predict_pairs, predict_rows
from fmjax.fitting.records import FitResult
from fmjax.fitting.shared_noise import Residuals, sharing_groups
from fmjax.laws import Law, Row

CORRECTIONS = 2
"""Rounds in which the noise model is corrected for what a fit absorbs of it."""

CORRECTION_SAMPLES = 48
"""Samples of each of those rounds."""


class Choices(NamedTuple):
    """Options of a law that samples are shared out among, with the fits of the groups under each."""

    laws: tuple[Law, ...]
    """``[choices]`` the law with each."""
    effects: Row
    """Effects at the rows of the groups' runs, ``[choices, rows]`` each."""
    vectors: np.ndarray
    """``[choices, groups, parameters]``."""

    def of_samples(self, count: int) -> np.ndarray:
        """``[samples]`` which choice each has: the first ones the first, and so on, in equal parts."""
        return np.arange(count) * len(self.laws) // count


class Setting(NamedTuple):
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
    priors: tuple[LawPrior, ...]
    """``[groups]``."""
    scale: np.ndarray
    """``[groups]`` scale of the objective beside the prior, if there is one."""
    options: FitOptions
    block: int
    progress: Callable[[int, int], None] | None

    @classmethod
    def of(
        cls,
        problem: Problem,
        groups: ArrayLike,
        fits: Sequence[FitResult],
        options: FitOptions,
        block: int,
        report: Callable[[int, int], None] | None,
    ) -> "Setting":
        """The setting of a problem's groups."""
        used: np.ndarray = np.any(groups, axis=0)
        run = problem.run_of_row(used)
        weights = np.asarray(groups)[:, run] * problem.row_weights(used)
        start, scale = np.stack([fit.vector for fit in fits]), np.array([fit.scale for fit in fits])
        return cls(
            problem,
            used,
            problem.rows(used),
            run,
            weights,
            start,
            tuple(LawPrior.of_fit(problem.law, fit.prior) for fit in fits),
            scale,
            options,
            whole(block, "block", least=1),
            report,
        )

    def _pull(self, count: int, rng: np.random.Generator) -> PriorPull | None:
        """The pull of ``count`` lanes a group; none where no group has a prior."""
        if not any(self.priors):
            return None
        scale = np.nan_to_num(self.scale)  # groups without a prior have none
        each = [prior.pulling(np.full(count, own)) for prior, own in zip(self.priors, scale, strict=True)]
        centre, stiffness = (np.concatenate(parts) for parts in zip(*each, strict=True))
        sds = np.repeat([prior.sds for prior in self.priors], count, axis=0)
        return PriorPull(centre + sds * rng.standard_normal(centre.shape), stiffness)

    def levels(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """``[count, rows]`` errors in the log loss that all runs of a model size make alike; none without a prior."""
        if not (any(self.priors) and self.problem.law.sizes):
            return np.zeros((count, self.run.size))
        _, size = np.unique(np.asarray(self.rows.effects["log_N"][0]), return_inverse=True)
        return LEVEL_ERROR * rng.standard_normal((count, size.max() + 1))[:, size]

    def repeated(self, count: int) -> Callable[[np.ndarray], np.ndarray]:
        """Weights of lanes, ``count`` a group."""
        return lambda lane: self.weights[lane // count]

    @property
    def step(self) -> np.ndarray:
        """``[rows]`` step of each row, the last update at most."""
        return np.asarray(self.problem.batch.at[self.problem.row_index(self.used)])

    def sharing(self, residual: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``[rows]`` the group of runs that each row's run shares its noise with, and the step of each row.

        Args:
          residual: ``[groups, rows]`` log of measured over predicted loss.
          weights: ``[groups, rows]``; rows that weigh nothing show nothing.
        """
        step, group = self.step, np.arange(len(self.problem.curves))
        for own, weight in zip(residual, weights, strict=True):
            there = weight > 0
            runs = np.unique(self.run[there])
            rows = [np.flatnonzero(there & (self.run == run)) for run in runs]
            orders = [self.problem.curves[run].data_order for run in runs]
            each = [Residuals(step[at], own[at], order) for at, order in zip(rows, orders, strict=True)]
            for run, with_ in zip(runs, runs[sharing_groups(each)], strict=True):
                group[group == group[run]] = group[with_]
        return group[self.run], step

    def measured(self, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """``[rows]`` which of the weighed rows measure the noise about what is predicted ``[rows]``."""
        there = np.flatnonzero(weights > 0)
        place = np.log(self.step[there] + 1.0)
        found = np.ones(weights.size, bool)
        found[there] = measured_rows(place, self.rows.loss[0][there], predicted[there], self.run[there])
        return found

    def minimise(
        self,
        rows: Rows,
        weights: lanes.Weights,
        count: int,
        rng: np.random.Generator,
        start: np.ndarray | None = None,
        effects_set: np.ndarray | None = None,
    ) -> lanes.Lanes:
        """Fits ``count`` lanes a group, each started from the group's fit if from nowhere else ``[lanes, ...]``.

        Priors are drawn anew too: a lane's prior has a mean drawn from the prior. Where the rows say nothing of an
        exponent its samples are then spread as the prior is.
        """
        total, start = count * len(self.start), np.repeat(self.start, count, axis=0) if start is None else start
        objective = Objective(self.options.delta, self.options.over_weight, self._pull(count, rng))
        jobs = lanes.Jobs(np.arange(total), weights, start, effects_set)
        return lanes.minimise(
            self.problem.law,
            rows,
            jobs,
            objective,
            residual=self.options.residual,
            max_iterations=self.options.max_iterations,
            progress=self.progress,
            client=self.options.client,
        )


class Samples(NamedTuple):
    """What a draw gives, by group and sample."""

    lanes: lanes.Lanes
    outliers: np.ndarray | int = 0
    """``[groups]`` rows that the noise was measured without."""
    shared: np.ndarray | float = 0.0
    """``[groups]`` share of the noise's variance that runs had in common."""


def block_samples(setting: Setting, count: int, rng: np.random.Generator) -> Samples:
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

    return Samples(setting.minimise(setting.rows, weights, count, rng))


def run_samples(setting: Setting, count: int, rng: np.random.Generator) -> Samples:
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

    found = setting.minimise(setting.rows, weights_of, count, rng)
    evidence = Evidence.of(setting.problem, setting.used)
    for lane, params in enumerate(found.params):
        if found.status[lane] != lanes.NON_FINITE and evidence.undetermined(params, weights_of(np.array([lane]))[0]):
            found.status[lane] = lanes.UNDETERMINED
    return Samples(found)


def noise_samples(setting: Setting, count: int, rng: np.random.Generator, choices: Choices | None = None) -> Samples:
    """Losses drawn around the fit with autoregressive noise, as correlated, as large and as shared as the residuals.

    Given choices of options, samples are drawn around the fits under each, and fitted under it.
    """
    predicted = np.stack([_predicted(setting, start) for start in setting.start])
    measured = np.stack([setting.measured(own, weight) for own, weight in zip(predicted, setting.weights, strict=True)])
    trusted = np.where(measured, setting.weights, 0.0)
    residual = np.log(setting.rows.loss[0]) - np.log(predicted)
    chain = NoiseChain.of(setting.rows, setting.run, *setting.sharing(residual, trusted))
    noise = observed = chain.noise(residual, trusted)

    def drawn(around: np.ndarray, noise: ChainNoise, count: int) -> np.ndarray:
        repeated = ChainNoise(*(np.repeat(x, count) for x in noise))
        return around * np.exp(chain.draw(rng, repeated) + setting.levels(len(around), rng))

    def sample(noise: ChainNoise, count: int) -> tuple[lanes.Lanes, np.ndarray]:
        losses = drawn(np.repeat(predicted, count, axis=0), noise, count)
        return setting.minimise(setting.rows._replace(loss=losses), setting.repeated(count), count, rng), losses

    for _ in range(CORRECTIONS):
        found, losses = sample(noise, CORRECTION_SAMPLES)
        residual = np.log(losses) - np.log(np.stack([_predicted(setting, params) for params in found.params]))
        seen = chain.noise(residual, np.repeat(trusted, CORRECTION_SAMPLES, axis=0))
        seen = ChainNoise(*(x.reshape(len(observed.phi), -1).mean(axis=1) for x in seen))
        noise = noise.corrected(observed, seen)
    outliers = np.sum((setting.weights > 0) & ~measured, axis=1)
    if choices is None:
        return Samples(sample(noise, count)[0], outliers, noise.share)
    which, group = np.tile(choices.of_samples(count), len(predicted)), np.repeat(np.arange(len(predicted)), count)
    start, law = choices.vectors[which, group], setting.problem.law
    losses = drawn(_predict_sets(law, choices.effects, which, start), noise, count)
    rows = Rows(choices.effects, losses)
    found = setting.minimise(rows, setting.repeated(count), count, rng, start, effects_set=which)
    return Samples(found, outliers, noise.share)


def _predicted(setting: Setting, params: np.ndarray) -> np.ndarray:
    return predict_rows(setting.problem.law, setting.rows.of(0).effects, params)


def _predict_sets(law: Law, effects: Row, which: np.ndarray, params: np.ndarray) -> np.ndarray:
    """Losses ``[lanes, rows]``, each lane of one set of effects and of its own parameters."""
    sets, rows = np.shape(effects["log_N"])
    flat = {key: value.reshape(sets * rows, *value.shape[2:]) for key, value in effects.items()}
    lane, row = (place.ravel() for place in np.indices((which.size, rows)))
    return predict_pairs(law, flat, params, which[lane] * rows + row, lane).reshape(which.size, rows)


DRAWS = {"noise": noise_samples, "blocks": block_samples, "runs": run_samples}
"""The draws by method."""
