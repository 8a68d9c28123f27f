"""Predictors: fits of the runs at hand, with bootstrap samples and a correction by measured final losses."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fmjax._types import HostNumbers
from fmjax.curves.loss_curve import LossCurve
from fmjax.fitting.options import FitOptions, precision
from fmjax.fitting.problem import predict_each
from fmjax.fitting.records import SAME_PEAK, FitResult, RunMetrics
from fmjax.fitting.resampling import bootstrap_groups
from fmjax.fitting.row_effects import RowUpdates
from fmjax.laws import Law
from fmjax.planning.correction import CorrectionPrior, Points, Settings, correctable
from fmjax.planning.law_fits import LawFit, Weighed, at_peak, law_fits, weigh
from fmjax.planning.second_run import to_run_next
from fmjax.planning.unseen import Unseen
from fmjax.schedules.batch_stages import mean_batch
from fmjax.searching.results import Cell, SearchResult
from fmjax.searching.sweeps import search

HOLDS = {False: 0.9, True: 0.5}
"""How far a law is trusted to err alike at all ratios: less where its options were chosen on the runs, which it then
fits better than others (``benchmarks/coverage.py``, with a law that is slightly wrong)."""

CHOICES_DRAWN = 20
"""Choices of a law's options that bootstrap samples are shared out among."""


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
    samples: "CellSamples"
    """The cell under each bootstrap sample."""


class CellSamples(NamedTuple):
    """A cell at its best ratio, under each bootstrap sample."""

    place: Points
    """Where the cell lies at that ratio: one point."""
    losses: np.ndarray
    """``[samples]`` predicted final loss, not corrected."""
    slack: np.ndarray
    """``[samples]`` corrected loss of the sample's own best ratio over that of the cell's."""
    drift: float
    """Standard deviation of the relative error beyond the longest run."""


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
    samples: tuple["LawSamples", ...]
    """Bootstrap samples, of each law that may predict best and of each choice of its options; the fit's own first."""
    runs: Points
    """The fitted runs whose measured final losses correct the law."""
    drift: float
    """Relative error of the law per e-fold of updates beyond the longest fitted run."""
    unseen: tuple[Unseen | None, ...]
    """The same at model sizes, and at batch sizes, that no fitted run has."""
    notes: tuple[str, ...] = ()
    """On the laws compared."""

    @property
    def is_checked(self) -> bool:
        """Whether any run was predicted from a fit of the others; without, no interval can be trusted."""
        return any(np.isfinite(run.mape_percent) for run in self.held_out)

    @property
    def sampled(self) -> int:
        """Number of bootstrap samples."""
        return sum(part.drawn for part in self.samples)

    def knows(self, peak_lr: float) -> bool:
        """Whether any fitted run was trained at this peak rate."""
        return any(abs(curve.peak_lr / peak_lr - 1) < SAME_PEAK for curve in self.curves)

    def predict(
        self, *, peak_lr: HostNumbers, anneal_ratio: np.ndarray, seed: int = 0, **grid: Any
    ) -> list[Prediction]:
        """Searches the ratios for peak rates; one prediction for each cell of the grid, as for ``search``."""
        axes: dict[str, Any] = {"peak_lr": peak_lr, "anneal_ratio": anneal_ratio, "keep_losses": True, **grid}
        found = [search(part.fit, samples=part.padded if len(part.padded) else None, **axes) for part in self.samples]
        first, size = found[0], grid.get("model_size") or self.curves[0].model_size  # of several sizes, it is asked for
        tokens = grid.get("tokens_per_step") if self.fit.law.spans_batches else None
        place = partial(Points.of_cell, first.anneal_ratio)
        cells = [(place(cell, size, tokens, grid.get("family")), cell) for cell in first.cells]
        drifts = [self._drift(cell.total_steps, size, mean_batch(tokens, cell.total_steps)) for cell in first.cells]
        return [
            self._corrected(*cell, first.anneal_ratio, [_losses(one, i) for one in found], size, drifts[i], seed)
            for i, cell in enumerate(cells)
        ]

    def _corrected(
        self,
        targets: Points,
        cell: Cell,
        ratios: np.ndarray,
        found: Sequence[np.ndarray],
        model_size: float | None,
        drift: float,
        seed: int,
    ) -> Prediction:
        """The prediction of a cell, from the losses ``[1 + samples, ratios]`` of each part of the samples."""
        law_ratio, rng = float(ratios[np.argmin(found[0][0])]), np.random.default_rng(seed)
        losses: list[np.ndarray] = []
        correction = None
        for part, own in zip(self.samples, found, strict=True):
            correction = part.settings.at(targets) if part.settings is not None else correction
            drawn = own[1 : 1 + part.drawn]
            if correction is not None:
                drawn = drawn * np.exp(correction.draw(part.residuals[1:], rng))
            if not losses:
                mean = 0.0 if correction is None else correction.mean(part.residuals[0])
                losses.append((own[0] * np.exp(mean))[None])
            losses.append(drawn)
        of_law = np.concatenate([own[1 : 1 + part.drawn] for part, own in zip(self.samples, found, strict=True)])
        corrected = np.concatenate(losses)
        best = int(np.argmin(corrected[0]))
        slack = corrected[1:].min(axis=1) / corrected[1:, best]
        samples = CellSamples(targets.take([best]), of_law[:, best], slack, drift)
        return self._prediction(cell, ratios, corrected, law_ratio, model_size, samples, rng)

    def _drift(self, total_steps: int, *sizes: float | None) -> float:
        """Standard deviation of the relative error of a run unlike the fitted ones.

        It has more updates than the longest, or another model size or batch size (``sizes``) than any.
        """
        far = 0.0 if self.fit.reach is None else np.log(max(total_steps / self.fit.reach.total_steps[1], 1.0))
        pairs = zip(self.unseen, sizes, strict=True)
        others = [axis.error(size) for axis, size in pairs if axis is not None and size is not None]
        return float(np.linalg.norm([self.drift * far, *others]))

    def together(self, cells: Sequence[CellSamples], seed: int) -> np.ndarray:
        """``[samples, cells]`` corrected losses of cells, drawn jointly; what cells have in common errs alike."""
        rng, places = np.random.default_rng(seed), Points.joined([cell.place for cell in cells])
        losses = np.stack([cell.losses for cell in cells], axis=1)
        drawn: list[np.ndarray] = [np.empty((0, len(cells)))]
        correction = None
        for part in self.samples:
            correction = part.settings.at(places) if part.settings is not None else correction
            none = np.zeros((part.drawn, len(cells)))
            drawn.append(none if correction is None else correction.draw(part.residuals[1:], rng))
        drifts = np.outer(rng.standard_normal(len(losses)), [cell.drift for cell in cells])
        return losses * np.exp(np.concatenate(drawn) + drifts)

    def _prediction(
        self,
        cell: Cell,
        ratios: np.ndarray,
        losses: np.ndarray,
        law_ratio: float,
        model_size: float | None,
        samples: CellSamples,
        rng: np.random.Generator,
    ) -> Prediction:
        """The prediction of a cell, from its corrected losses ``[1 + samples, ratios]``."""
        drifts = np.append(0.0, samples.drift * rng.standard_normal(len(losses) - 1))
        losses = losses * np.exp(drifts)[:, None]  # the same at all ratios, so no choice depends on it
        axes, cell = tuple(name for name in cell.outside if name != "loss"), cell.under(ratios, losses)
        cell = cell._replace(outside=axes + (("loss",) if self.fit.doubts(cell.loss, cell.total_steps) else ()))
        best = int(np.argmin(losses[0]))
        excess = losses[1:, best] - losses[1:].min(axis=1)
        if not self.is_checked and excess.size:
            nothing = (float("nan"), float("nan"))
            cell, excess = cell._replace(ratio_interval=nothing, loss_interval=nothing), excess[:0]
        regret = float(excess.mean()) if excess.size else float("nan")
        return Prediction(cell, losses[0], law_ratio, regret, model_size, samples)


def predictors(
    laws: Sequence[Law | str],
    curves: Sequence[LossCurve],
    peak_lrs: Sequence[float],
    *,
    options: FitOptions,
    samples: int,
    seed: int,
    progress: Callable[[str], None],
    joint: bool = False,
) -> dict[float, Predictor]:
    """A predictor for each peak rate: of its own runs, where there are two and they determine the law, else of all.

    Args:
      laws: of these, the one that predicts runs left out of its fit best; a law is taken as it is, of the name of one
        the effect coefficients are chosen on the runs.
      curves: the runs at hand.
      peak_lrs: peak rates to predict.
      options: of the fits.
      samples: bootstrap samples; 0 for none.
      seed: seed of the samples.
      progress: called with a few words before each stage.
      joint: whether all peak rates are predicted by the fit of all runs.

    Raises:
      ValueError: as for ``fit``; or no fit can predict a peak rate.
    """
    at, wanted = np.array([curve.peak_lr for curve in curves]), list(dict.fromkeys(peak_lrs))
    groups = {peak: np.abs(at / peak - 1) < SAME_PEAK for peak in wanted}
    own = {peak: group for peak, group in groups.items() if not joint and 1 < group.sum() < len(curves)}
    weighed = partial(weigh, rng=np.random.default_rng(seed))
    found = {peak: weighed(fits) for peak, fits in law_fits(laws, curves, own, options, progress).items()}
    chosen = {peak: one for peak, one in found.items() if one.fits}
    if len(chosen) < len(wanted):
        everything = law_fits(laws, curves, {None: np.ones(len(curves), bool)}, options, progress)[None]
        of_all = weighed(everything)
        if not of_all.fits:
            peak = next(peak for peak in wanted if peak not in chosen)
            raise ValueError(
                f"no fit can predict peak_lr {peak:g}: {everything[-1].result.message}{_way_out(everything)}"
            )
        chosen = {peak: chosen.get(peak, of_all) for peak in wanted}
    distinct = {one.fits[0].peak_lr: one for one in chosen.values()}  # rates without a fit of their own share one
    made = {rate: _predictor(one, options, samples, seed, progress) for rate, one in distinct.items()}
    return {peak: made[one.fits[0].peak_lr] for peak, one in chosen.items()}


def _way_out(fits: Sequence[LawFit]) -> str:
    """What to do where one run is all there is, and no law is determined by it."""
    fit = fits[-1]
    if len(fit.problem.curves) > 1 or fit.result.status != "undetermined":
        return ""
    return f"; {to_run_next(fit.problem.law, fit.result.lanes.best_params, fit.problem.curves[0])}"


class LawSamples(NamedTuple):
    """Bootstrap samples of one law under one choice of its options."""

    fit: FitResult
    """The law's fit under that choice."""
    padded: np.ndarray
    """``[size, parameters]`` the samples, then copies of the fit, so that all parts of a law take one program."""
    drawn: int
    """Samples among them."""
    residuals: np.ndarray
    """``[1 + samples, runs]`` log of measured over predicted final loss, of the fit and of each sample."""
    settings: Settings | None
    """Of the first part of a law: what corrects all of them, made from its residuals. None without measured losses."""


def _losses(found: SearchResult, cell: int) -> np.ndarray:
    """``[1 + samples, ratios]`` of one cell."""
    assert found.losses is not None
    assert found.sample_losses is not None
    return np.concatenate([found.losses[None, cell], found.sample_losses[:, cell]])


def _predictor(
    weighed: Weighed, options: FitOptions, samples: int, seed: int, progress: Callable[[str], None]
) -> Predictor:
    """The predictor of the laws that may be best: bootstrap samples drawn, final losses compared with those measured.

    Each law draws as many samples as are wanted and gives its share of them, so that all have one shape.
    """
    fit = weighed.fits[0]
    parts: list[LawSamples] = []
    for one, share in zip(weighed.fits, weighed.shares, strict=True):
        with precision(options):
            parts += _law_samples(one, share, options, samples, seed, progress)
    runs = [fit.problem.curves[run] for run in np.flatnonzero(_measured(fit))]
    return Predictor(
        peak_lr=fit.peak_lr,
        fit=fit.result,
        curves=tuple(curve for curve, is_in in zip(fit.problem.curves, fit.group, strict=True) if is_in),
        held_out=fit.held_out,
        samples=tuple(parts),
        runs=Points.of(runs, batches=fit.result.law.spans_batches),
        drift=fit.drift,
        unseen=fit.unseen,
        notes=(*weighed.notes, *_shared(weighed)),
    )


def _shared(weighed: Weighed) -> tuple[str, ...]:
    """A note that the runs left out do not tell which law is best."""
    if len(weighed.fits) < 2:
        return ()
    each = zip(weighed.fits, weighed.shares, strict=True)
    said = ", ".join(f"{fit.result.law.name} {share:.0%}" for fit, share in each)
    return (f"runs left out do not decide which law predicts best ({said}); intervals are over all of them",)


def _measured(fit: LawFit) -> np.ndarray:
    """``[runs]`` whose measured final losses correct the law."""
    return fit.group & correctable(fit.problem.curves, batches=fit.result.law.spans_batches)


def _law_samples(
    fit: LawFit, share: float, options: FitOptions, samples: int, seed: int, progress: Callable[[str], None]
) -> Iterator[LawSamples]:
    """The samples of a law, one part for each choice of its options; the first is of the fit itself."""
    if not samples:
        yield _part(fit, fit.problem.law, fit.result.vector, fit.result.vector[None][:0], 0)
        return
    progress(f"drawing {samples} bootstrap samples{at_peak(fit.peak_lr)}")
    choices = fit.choices(min(CHOICES_DRAWN, samples), np.random.default_rng(seed))
    (boot,) = bootstrap_groups(
        fit.problem, fit.group[None], [fit.result], options, samples=samples, seed=seed, choices=choices
    )
    kept = np.unique(np.linspace(0, len(boot.params) - 1, max(1, round(share * samples))).astype(int))
    if choices is None or boot.choice is None:
        yield _part(fit, fit.problem.law, fit.result.vector, boot.params[kept], samples)
        return
    size = -(-samples // len(choices.laws))
    yield _part(fit, fit.problem.law, fit.result.vector, boot.params[:0], size)
    updates = RowUpdates.of(fit.problem.law, fit.problem.batch, fit.problem.law.warmup)
    for k in np.unique(boot.choice[kept]):
        own, law = boot.params[kept[boot.choice[kept] == k]], choices.laws[k]
        effects = fit.problem.effects | updates.effects(law)
        yield _part(fit, law, choices.vectors[k, 0], own, size, effects=effects)


def _part(
    fit: LawFit,
    law: Law,
    vector: np.ndarray,
    drawn: np.ndarray,
    size: int,
    *,
    effects: dict[str, np.ndarray] | None = None,
) -> LawSamples:
    """Samples with what they leave over of the measured final losses; the first part has the effects of the fit."""
    problem, runs = fit.problem, np.flatnonzero(_measured(fit))
    padded = np.concatenate([drawn, np.repeat(vector[None], size - len(drawn), axis=0)])
    leads = effects is None
    last = {key: value[runs, -1] for key, value in (effects or problem.effects).items()}  # stands after the last update
    predicted = predict_each(law, last, np.concatenate([vector[None], drawn]))
    chosen = [problem.curves[run] for run in runs]
    residuals = np.log([curve.final_loss_measured for curve in chosen]) - np.log(predicted)
    params = dict(zip(law.parameter_names, vector.tolist(), strict=True))
    return LawSamples(
        fit=dataclasses.replace(fit.result, law=law, params=params),
        padded=padded,
        drawn=len(drawn),
        residuals=residuals,
        settings=_settings(fit, chosen, residuals[0]) if leads and chosen else None,
    )


def _settings(fit: LawFit, runs: Sequence[LossCurve], residual: np.ndarray) -> Settings:
    """What the measured final losses of runs show of how the law errs."""
    prior = CorrectionPrior.of(runs, _row_noise(fit.result), HOLDS[fit.choice is not None])
    return Settings.of(Points.of(runs, batches=fit.result.law.spans_batches), residual, prior)


def _row_noise(result: FitResult) -> float:
    """Standard deviation of the rows' log loss about the fit, that of a middling run."""
    return float(np.median([run.relative_error for run in result.runs]))
