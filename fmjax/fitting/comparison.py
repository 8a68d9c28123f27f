"""``compare``: laws fitted on the same runs, ranked by how well they predict the others."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fmjax._checks import require
from fmjax._json import Record, plain
from fmjax.curves.loss_curve import LossCurve
from fmjax.fitting.fits import evaluate, predict
from fmjax.fitting.options import ONE_FIT, FitOptions, fitting_verb
from fmjax.fitting.records import Evaluation, FitResult, RunMetrics
from fmjax.laws import LAWS, Law


class Entry(NamedTuple):
    """One law of a comparison."""

    evaluation: Evaluation
    parameters: int
    """Parameters fitted; terms of a mixture that came out as zero do not count."""
    information: float
    """Information criterion, lower is better; NaN where the fit failed. See ``compare``."""
    seconds: float

    @property
    def worst_percent(self) -> float:
        """Largest error of a row of an unseen run, or of any run where all were fitted."""
        return max((run.worst_percent for run in self._judged), default=math.nan)

    @property
    def final_loss_percent(self) -> float:
        """Mean error of the final loss over the same runs."""
        errors = [100 * abs(run.final_loss_predicted / run.final_loss - 1) for run in self._judged]
        return float(np.mean(errors)) if errors else math.nan

    @property
    def _judged(self) -> list[RunMetrics]:
        runs, trained = self.evaluation.runs, self.evaluation.trained
        return [run for run in runs if run.name not in trained] or list(runs)


@dataclass(frozen=True)
class Comparison(Record):
    """Laws compared: the best first, by paired error on unseen runs where there are any, else by the criterion."""

    entries: tuple[Entry, ...]

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """The evaluation of each law, the best first."""
        return tuple(entry.evaluation for entry in self.entries)

    def to_dict(self) -> dict[str, object]:
        """The comparison as plain values for JSON: evaluations, each with what the table shows beside."""
        extra = ("parameters", "information", "seconds", "worst_percent", "final_loss_percent")
        return plain(
            {"laws": [{**e.evaluation.to_dict(), **{name: getattr(e, name) for name in extra}} for e in self.entries]}
        )


@fitting_verb
def compare(
    curves: Sequence[LossCurve],
    *,
    train: Sequence[LossCurve],
    laws: Sequence[Law | str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    options: FitOptions = ONE_FIT,
) -> Comparison:
    r"""Fits laws on the runs ``train`` and compares their predictions of all ``curves``.

    Error on unseen runs ranks, without the noise that fitted runs had at the same steps
    (``fmjax.fitting.shared_noise``), which is no law's doing. Where every run is fitted, the information criterion
    $n_e \log(2 J / n) + k \log n_e$ does, with J the objective of the n fitted rows, k the parameters fitted, and
    $n_e = n (1 - \phi)/(1 + \phi)$ the rows that are worth as much when residuals of successive rows correlate as
    $\phi$. The correlation is that of the law that fits best, the same for all. It is BIC for independent normal
    residuals.

    Args:
      curves: the runs to report on.
      train: the runs to fit, among ``curves``.
      laws: laws or their names; by default all, with their default options.
      progress: called with (laws done, laws in all).
      options: of the fits.

    Raises:
      ValueError: as for ``evaluate``; no law.

    >>> import fmjax
    >>> curves = fmjax.datasets.demo_runs()
    >>> train = [curve for curve in curves if curve.split == "train"]
    >>> found = compare(curves, train=train, laws=["lr-annealing", "forward-only"])
    >>> [entry.evaluation.fit.law.name for entry in found.entries]
    ['lr-annealing', 'forward-only']
    """
    laws = list(LAWS) if laws is None else laws
    require(laws, "expected at least one law to compare, found none")
    found = []
    for i, law in enumerate(laws):
        begin = time.perf_counter()
        found.append((evaluate(law, curves, train=train, options=options), time.perf_counter() - begin))
        if progress is not None:
            progress(i + 1, len(laws))
    fitted = [evaluation.fit for evaluation, _ in found if np.isfinite(evaluation.fit.objective)]
    best = min(fitted, key=lambda fit: fit.objective, default=None)
    share = 1.0 if best is None else _independent_share(best, train)
    entries = [_entry(evaluation, seconds, share) for evaluation, seconds in found]
    return Comparison(tuple(sorted(entries, key=_rank)))


def _entry(evaluation: Evaluation, seconds: float, share: float) -> Entry:
    fit = evaluation.fit
    mixed = {coefficient.name for coefficient in fit.law.coefficients if coefficient.mixture}
    count = sum(name not in mixed or value != 0 for name, value in fit.params.items())
    rows = max(share * fit.rows, 2.0)
    spread = 2 * fit.objective / fit.rows
    good = fit.status != "non-finite" and spread > 0
    information = rows * math.log(spread) + count * math.log(rows) if good else math.nan
    return Entry(evaluation, count, information, seconds)


def _independent_share(fit: FitResult, train: Sequence[LossCurve]) -> float:
    """(1 - phi)/(1 + phi), with phi the correlation of residuals of successive rows after warmup."""
    products = squares = 0.0
    for curve, predicted in zip(train, predict(fit, train), strict=True):
        error = (np.log(predicted) - np.log(curve.loss))[curve.step >= curve.schedule.warmup_steps]
        error = np.clip(error, -fit.delta, fit.delta)  # as the Huber loss sees it
        products += float(error[1:] @ error[:-1])
        squares += float(error[1:] @ error[1:])
    phi = products / squares if squares > 0 else 0.0
    return (1 - phi) / (1 + phi) if 0 < phi < 1 else 1.0


def _rank(entry: Entry) -> tuple[float, float]:
    """Failed fits last."""
    keys = (entry.evaluation.test_paired_mape_percent, entry.information)
    some_unseen = len(entry.evaluation.runs) > len(entry.evaluation.trained)
    first = keys[0] if some_unseen else 0.0
    return (math.inf if math.isnan(first) else first, math.inf if math.isnan(keys[1]) else keys[1])
