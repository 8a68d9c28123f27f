"""``transfer``: how the optimal annealing ratio carries over to other peak rates, lengths and model sizes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fmjax._checks import require
from fmjax._json import Record, plain
from fmjax._names import PREFERRED_LAWS
from fmjax.curves.loss_curve import LossCurve
from fmjax.fitting.fitted_runs import of_batches
from fmjax.fitting.options import MANY_FITS, FitOptions, fitting_verb
from fmjax.fitting.problem import with_rows
from fmjax.fitting.records import SAME_PEAK
from fmjax.laws import Law
from fmjax.planning.predictor import Prediction, Predictor, predictors
from fmjax.scaling.batch_size import CriticalBatchSize, critical_batch_size
from fmjax.scaling.one_for_all import Foreseen, OneForAll, one_for_all
from fmjax.scaling.optima import Optimum, Tried, optima, tried
from fmjax.scaling.power_laws import OptimaPowerLaw, power_law
from fmjax.searching.sweeps import SEARCHED_RATIOS

PUBLISHED = {"peak_lr": 0.709, "total_steps": -0.946}
"""Exponents that arXiv 2512.13705 reports: dense models in peak rate, a 1B mixture of experts in steps."""


class Chosen(NamedTuple):
    """A ratio chosen among those tried, without the runs that tried them."""

    ratio: float
    regret: float
    """Excess of the measured final loss over that of the best ratio tried."""
    expected: float = float("nan")
    """The regret that was expected."""


class CellTransfer(NamedTuple):
    """One cell: what was measured there, and what was predicted."""

    tried: Tried
    measured: Optimum | None
    """The optimum of the measured final losses; None for fewer than three ratios."""
    predicted: Prediction | None
    """Prediction from all runs; None where no fit can be used."""
    chosen: Chosen | None
    """What the shorter runs recommend; None without shorter runs at this peak rate."""
    law_alone: Chosen | None
    """What the law fitted on the shorter runs says without correction by measured final losses."""
    copied: Chosen | None
    """The ratio measured best on the longest of the shorter cells alike."""


class Difference(NamedTuple):
    """The optimum of the same cell under another loss or data set."""

    cell: int
    """Index of the cell."""
    other: Optimum
    log_ratio: float
    """Log of the other optimum over the cell's."""
    interval: tuple[float, float]
    """90 % interval of that."""


@dataclass(frozen=True)
class Transfer(Record):
    """Measured and predicted optima, the power laws they follow, and what was recommended for longer runs."""

    cells: tuple[CellTransfer, ...]
    measured: OptimaPowerLaw | None
    """Power law of the measured optima; None for fewer than two cells that bound theirs."""
    predicted: OptimaPowerLaw | None
    """Power law of the predicted optima of the same cells."""
    against: tuple[Difference, ...]
    """Cells compared with those of other runs, where given."""
    batch_size: CriticalBatchSize | None
    """Whether loss follows updates or tokens, where runs of one size have several batch sizes."""
    notes: tuple[str, ...]
    """What to keep in mind: cells left out, runs below the critical batch size."""
    one_for_all: tuple[OneForAll, ...] = ()
    """What one annealing ratio, or one number of annealing updates, for all cells is predicted to cost."""

    def to_dict(self) -> dict[str, object]:
        """The result as plain values for JSON."""
        laws = {name: None if law is None else law.to_dict() for name, law in self._laws().items()}
        against = [{**one._asdict(), "other": one.other._asdict()} for one in self.against]
        batch = None if self.batch_size is None else self.batch_size.to_dict()
        record = {"cells": [_cell_dict(cell) for cell in self.cells], **laws, "published": PUBLISHED}
        kept = [one.to_dict() for one in self.one_for_all]
        return plain({**record, "against": against, "batch_size": batch, "notes": self.notes, "one_for_all": kept})

    def _laws(self) -> dict[str, OptimaPowerLaw | None]:
        return {"measured": self.measured, "predicted": self.predicted}


def _cell_dict(cell: CellTransfer) -> dict[str, object]:
    schedule = cell.tried.schedule
    parts = {name: getattr(cell, name) for name in ("measured", "chosen", "law_alone", "copied")}
    return {
        **{name: getattr(schedule, name) for name in ("total_steps", "peak_lr", "decay", "final_lr")},
        "model_size": cell.tried.model_size,
        "ratios": cell.tried.ratios,
        "losses": cell.tried.losses,
        "predicted": None if cell.predicted is None else _prediction_dict(cell.predicted),
        **{name: None if part is None else part._asdict() for name, part in parts.items()},
    }


def _prediction_dict(found: Prediction) -> dict[str, object]:
    cell = {**found.cell._asdict(), "anneal_steps": found.cell.anneal_steps}
    return {**cell, "law_ratio": found.law_ratio, "regret": found.regret}


Predicting = Callable[[Sequence[LossCurve], Sequence[float]], dict[float, Predictor]]
"""Runs and peak rates in, a predictor for each rate out."""


@fitting_verb
def transfer(
    curves: Sequence[LossCurve],
    *,
    law: Law | str | None = None,
    against: Sequence[LossCurve] = (),
    samples: int = 200,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    options: FitOptions = MANY_FITS,
) -> Transfer:
    r"""Measures how the optimal annealing ratio changes with peak rate, length of run and model size.

    Runs that differ in nothing but their ratio make a cell. Each cell's measured optimum (``optima.optima``) stands
    beside the one predicted from all runs (``recommend``) and beside what the shorter runs alone would have chosen: by
    recommendation, by the law without correction, and by copying the best ratio of the longest shorter cell. Optima
    follow $R_{opt} \propto \prod_j x_j^{e_j}$ over the variables that differ (``power_laws.power_law``). Predicted too
    is what one ratio, or one number of annealing updates, would cost where all cells keep it (``one_for_all``).

    Args:
      curves: the runs at hand.
      law: as for ``recommend``.
      against: runs of the same cells under another loss (training for validation, say) or on other data, whose measured
        optima are compared cell by cell.
      samples: bootstrap samples behind the intervals of predicted optima.
      seed: seed of the samples.
      progress: called with a few words before each stage.
      options: as for ``recommend``.

    Raises:
      ValueError: no two runs differ in nothing but their ratio; as for ``recommend``.

    Reference: arXiv 2512.13705, section 5.

    >>> import fmjax
    >>> found = transfer(fmjax.datasets.demo_runs(), law=fmjax.LRAnnealing(), samples=0)
    >>> [(cell.tried.schedule.decay, cell.tried.distinct.size) for cell in found.cells]
    [('1-sqrt', 2), ('linear', 6)]
    """
    curves, left_out = with_rows(curves, options)
    names = sorted({curve.family for curve in curves if curve.family is not None})
    require(len(names) < 2, f"expected runs of one family, found {', '.join(names)}; choose some of the runs")
    groups, say = tried(curves), progress or (lambda stage: None)
    require(groups, "expected runs that differ in nothing but their annealing ratio, found none")
    laws = PREFERRED_LAWS if law is None else (law,)
    by = partial(predictors, laws, options=options, samples=samples, seed=seed, progress=say)
    say(f"predicting {len(groups)} cells")
    predicted = _predicted(by, curves, groups)
    ahead = foretell(groups, curves, by, say)
    measured = optima(groups, seed=seed)
    parts = zip(groups, measured, predicted, ahead, strict=True)
    cells = tuple(CellTransfer(group, one, found, *rest) for group, one, found, rest in parts)
    batch, failure = _batch_size(curves, seed)
    batches = of_batches([curve.tokens_per_step for curve in curves])
    notes = (*left_out, *batches, *_notes(cells), *failure, *(batch.notes if batch else ()))
    compared = _against(cells, against, seed)
    return Transfer(cells, _measured_law(cells), _predicted_law(cells), compared, batch, notes, _one_for_all(cells))


def _one_for_all(cells: Sequence[CellTransfer]) -> tuple[OneForAll, ...]:
    foreseen = [
        Foreseen(i, cell.tried.schedule.decay, cell.tried.total_steps, cell.predicted.losses)
        for i, cell in enumerate(cells)
        if cell.predicted is not None
    ]
    return one_for_all(foreseen, np.array(SEARCHED_RATIOS))


def _batch_size(curves: Sequence[LossCurve], seed: int) -> tuple[CriticalBatchSize | None, tuple[str, ...]]:
    """The critical batch size where only batch sizes differ, not model sizes; or why it cannot be told."""
    batches, sizes = ({getattr(curve, name) for curve in curves} for name in ("tokens_per_step", "model_size"))
    if not len(batches) > 1 == len(sizes) or None in batches:
        return None, ()
    try:
        return critical_batch_size(curves, seed=seed), ()
    except ValueError as error:
        return None, (f"no critical batch size: {error}",)


def _notes(cells: Sequence[CellTransfer]) -> tuple[str, ...]:
    notes = []
    few, edge = (sum(map(test, cells)) for test in (lambda c: c.measured is None, _at_edge))
    if few:
        notes.append(f"{few} cells have fewer than three ratios, so no measured optimum")
    if edge:
        notes.append(f"{edge} cells have their optimum at the end of the ratios tried; power laws leave them out")
    return tuple(notes)


def _at_edge(cell: CellTransfer) -> bool:
    return cell.measured is not None and cell.measured.at_edge


def _predicted(by: Predicting, curves: Sequence[LossCurve], groups: Sequence[Tried]) -> list[Prediction | None]:
    """The best ratio of each cell, predicted from all runs."""
    fits = by(curves, [group.peak_lr for group in groups])
    return [_foreseen(group, fits[group.peak_lr], np.array(SEARCHED_RATIOS)) for group in groups]


def _foreseen(group: Tried, by: Predictor, ratios: np.ndarray) -> Prediction:
    """What a predictor says of a cell; its batch size counts where the law has it."""
    batch: dict[str, Any] = {"tokens_per_step": group.tokens_per_step} if by.fit.law.spans_batches else {}
    return by.predict(anneal_ratio=ratios, **group.target, **batch)[0]


def foretell(
    groups: Sequence[Tried], curves: Sequence[LossCurve], by: Predicting, progress: Callable[[str], None]
) -> list[tuple[Chosen | None, Chosen | None, Chosen | None]]:
    """For each cell the ratio that shorter runs recommend among those tried, that of the law alone, and the copied one.

    Args:
      groups: the cells, as ``tried`` gives them.
      curves: the runs at hand; for each cell only shorter ones are used.
      by: makes predictors of runs at peak rates, as ``predictors`` does.
      progress: called with a few words before each stage.
    """
    found: list[tuple[Chosen | None, Chosen | None, Chosen | None]] = [(None, None, None)] * len(groups)
    for steps in sorted({group.total_steps for group in groups}):
        shorter = [curve for curve in curves if int(curve.schedule.total_steps) < steps]
        cells = [i for i, group in enumerate(groups) if group.total_steps == steps]
        cells = [i for i in cells if _ran(groups[i], shorter)]
        if not cells:
            continue
        progress(f"choosing for {steps} updates from shorter runs")
        try:
            fits = by(shorter, [groups[i].peak_lr for i in cells])
        except ValueError:  # shorter runs that determine nothing recommend nothing
            fits = {}
        for i in cells:
            found[i] = (*_recommended(groups[i], fits), _copied(groups[i], groups))
    return found


def _ran(group: Tried, curves: Sequence[LossCurve]) -> bool:
    """Whether any of the runs has the cell's peak rate."""
    return any(abs(curve.peak_lr / group.peak_lr - 1) < SAME_PEAK for curve in curves)


def _recommended(group: Tried, fits: Mapping[float, Predictor]) -> tuple[Chosen | None, Chosen | None]:
    if group.peak_lr not in fits:
        return None, None
    found = _foreseen(group, fits[group.peak_lr], group.distinct)
    best = found.cell.best_ratio
    return Chosen(best, group.regret(best), found.regret), Chosen(found.law_ratio, group.regret(found.law_ratio))


def _copied(group: Tried, groups: Sequence[Tried]) -> Chosen | None:
    """The ratio measured best on the longest shorter cell of the same peak rate, decay and size."""
    shorter = [other for other in groups if _alike(other, group)]
    if not shorter:
        return None
    nearest = group.nearest(max(shorter, key=lambda other: other.total_steps).best)
    return Chosen(nearest, group.regret(nearest))


def _alike(other: Tried, group: Tried) -> bool:
    """Whether a cell is shorter and else the same."""
    same = (other.schedule.decay, other.model_size) == (group.schedule.decay, group.model_size)
    return same and abs(other.peak_lr / group.peak_lr - 1) < SAME_PEAK and other.total_steps < group.total_steps


def _variables(group: Tried) -> dict[str, float | None]:
    return {"peak_lr": group.peak_lr, "total_steps": group.total_steps, "model_size": group.model_size}


def _measured_law(cells: Sequence[CellTransfer]) -> OptimaPowerLaw | None:
    bounded = [(c.tried, c.measured) for c in cells if c.measured is not None and not c.measured.at_edge]
    return power_law([_variables(group) for group, _ in bounded], [(o.ratio, o.interval) for _, o in bounded])


def _predicted_law(cells: Sequence[CellTransfer]) -> OptimaPowerLaw | None:
    found = [(cell.tried, cell.predicted.cell) for cell in cells if cell.predicted is not None]
    found = [(group, cell) for group, cell in found if not cell.at_edge]
    intervals = [(cell.best_ratio, cell.ratio_interval or (np.nan, np.nan)) for _, cell in found]
    return power_law([_variables(group) for group, _ in found], intervals)


def _against(cells: Sequence[CellTransfer], curves: Sequence[LossCurve], seed: int) -> tuple[Difference, ...]:
    """The cells whose schedule and size occur among other runs, beside the optimum there."""
    if not curves:
        return ()
    others = tried(curves)
    there = {
        (group.schedule, group.model_size): one for group, one in zip(others, optima(others, seed=seed), strict=True)
    }
    found = []
    for i, cell in enumerate(cells):
        other = there.get((cell.tried.schedule, cell.tried.model_size))
        if cell.measured is not None and other is not None:
            found.append(_difference(i, cell.measured, other))
    require(found, "against: expected runs of the same cells, found none with three ratios")
    return tuple(found)


def _difference(cell: int, here: Optimum, there: Optimum) -> Difference:
    """Log of the ratio of two optima; distances to the ends of their intervals add in squares."""
    log_ratio = float(np.log(there.ratio / here.ratio))
    low = np.hypot(
        *(np.log(a / b) for a, b in ((there.ratio, there.interval[0] or np.nan), (here.interval[1], here.ratio)))
    )
    high = np.hypot(
        *(np.log(a / b) for a, b in ((there.interval[1], there.ratio), (here.ratio, here.interval[0] or np.nan)))
    )
    return Difference(cell, there, log_ratio, (log_ratio - float(low), log_ratio + float(high)))
