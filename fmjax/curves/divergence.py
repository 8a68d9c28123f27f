"""Diverged runs of sweeps, known by their final losses alone."""

from collections.abc import Sequence

import numpy as np

from fmjax.curves.loss_curve import LossCurve

DIVERGED = 0.06
"""Log of a final loss over the least of its cell from which a run of one row counts as diverged."""

SAME_TOKENS = 0.02
"""Relative difference up to which two runs were trained on as many tokens: batches divide them with a rest."""


def cells_of(curves: Sequence[LossCurve]) -> list[int]:
    """Number of each run's cell: runs of one model size and family, one kind of schedule, and as many tokens.

    Where no batch size is known, as many updates. Anneals of other ratios are schedules of another kind.
    """
    tokens = [int(curve.schedule.total_steps) * (curve.mean_batch or 1.0) for curve in curves]
    place = [
        (curve.tokens_per_step is None, curve.model_size or 0.0, curve.family or "", *_kind(curve), seen)
        for curve, seen in zip(curves, tokens, strict=True)
    ]
    cells, cell = [0] * len(curves), 0
    order = sorted(range(len(curves)), key=place.__getitem__)
    for last, run in zip([*order[:1], *order[:-1]], order, strict=True):
        near = place[run][-1] <= place[last][-1] * (1 + SAME_TOKENS)
        cell += place[run][:-1] != place[last][:-1] or not near
        cells[run] = cell
    return cells


def _kind(curve: LossCurve) -> tuple[str, float]:
    return type(curve.schedule).__name__, round(float(getattr(curve.schedule, "anneal_ratio", 1.0)), 3)


def without_diverged(curves: Sequence[LossCurve]) -> tuple[list[LossCurve], tuple[str, ...]]:
    """The runs that did not diverge, and a note that counts those that did.

    A run of one row, at its end, diverged where its final loss lies more than ``DIVERGED`` above the least of its cell.
    A law that is smooth in the rate and the batch cannot describe it. Runs with more rows show by these what became of
    them, and are kept.

    >>> from fmjax import Cosine
    >>> runs = [LossCurve(str(i), [99], [loss], Cosine(1e-3, 100)) for i, loss in enumerate((2.5, 2.6, 4.0))]
    >>> kept, notes = without_diverged(runs)
    >>> [run.name for run in kept], notes[0][:39]
    (['0', '1'], '1 of 3 runs left out as diverged: final')
    """
    ended = [curve.step.size == 1 and curve.is_finished for curve in curves]
    if not any(ended):
        return list(curves), ()
    losses = np.array([curve.final_loss_measured for curve in curves])
    cells = np.where([curve.is_finished for curve in curves], cells_of(curves), -1)
    best = {cell: losses[cells == cell].min() for cell in set(cells.tolist())}
    off = np.log(losses / np.array([best[cell] for cell in cells.tolist()]))
    diverged = (off > DIVERGED) & np.array(ended)
    kept = [curve for curve, is_off in zip(curves, diverged, strict=True) if not is_off]
    said = f"{diverged.sum()} of {len(curves)} runs left out as diverged"
    rule = f"final losses more than {100 * DIVERGED:g} % above the least at their size and tokens"
    return kept, (f"{said}: {rule}",) if diverged.any() else ()
