"""What to say of a choice: what it extrapolates, what corrects it, and why there are no intervals."""

from collections.abc import Iterator

import numpy as np

from fmjax.fitting.records import FitResult
from fmjax.planning.predictor import Prediction, Predictor
from fmjax.planning.second_run import to_run_next


def choice_notes(found: Prediction, by: Predictor, fit: FitResult, *, joint: bool) -> Iterator[str]:
    """Notes on a choice.

    Args:
      found: what was predicted of it.
      by: what predicted it.
      fit: the fit for its family of models.
      joint: whether it is one of several rates, sizes or batches planned together.
    """
    yield from _notes(found, by, fit)
    yield from _notes_on_reach(found, by) if joint else _notes_on_rates(found, by)


def _unchecked(by: Predictor) -> str:
    """Why there are no intervals, and what would give them."""
    if len(by.curves) > 1:
        return "no intervals: no run could be predicted from the others, so nothing checks the law; add a run"
    alone = f"no intervals: run {by.curves[0].name!r} is alone, so nothing checks the law"
    return f"{alone}; {to_run_next(by.fit.law, by.fit.vector, by.curves[0])}"


def _notes(found: Prediction, by: Predictor, fit: FitResult) -> tuple[str, ...]:
    cell, reach = found.cell, by.fit.reach
    notes = [*fit.doubts(cell.loss, cell.total_steps), *fit.notes, *by.notes]
    sizes = [] if found.model_size is None else [found.model_size]
    batches = [] if cell.tokens_per_step is None else [cell.tokens_per_step]
    if fit.trained_with is not None:
        notes += fit.trained_with.family_notes(fit.law.family, cell.total_steps, [cell.peak_lr], sizes, batches)
    notes += [] if reach is None else [*reach.longer(cell.total_steps)]
    notes += [] if by.is_checked else [_unchecked(by)]
    largest, target = max((curve.model_size or 0 for curve in by.curves), default=0), found.model_size or 0
    if target > largest * (1 + 1e-6):
        notes.append(
            f"extrapolates to {target / largest:.3g} x the largest fitted model; its loss interval does not know"
        )
    if abs(cell.best_ratio - found.law_ratio) > 1e-9:
        count = len(by.runs.decay)
        notes.append(f"{by.fit.law.name} alone says {found.law_ratio:.3g}; {count} measured final losses correct it")
    spiked = [repr(curve.name) for curve in by.curves if curve.final_loss is None and curve.ends_in_spike]
    if spiked:
        notes.append(f"the last row of {', '.join(spiked)} is a spike and tells no final loss")
    if cell.at_edge:
        notes.append("the best ratio lies at the edge of those searched")
    if by.fit.status == "at-bound":
        notes.append(by.fit.message)
    return tuple(notes)


def _notes_on_rates(found: Prediction, by: Predictor) -> Iterator[str]:
    """Where the peak rate lies among those of the runs."""
    peaks = sorted({curve.peak_lr for curve in by.curves})
    if not by.knows(found.cell.peak_lr):
        yield f"no run has this peak rate; fitted on {peaks[0]:g} ... {peaks[-1]:g}"
    elif len(peaks) > 1:
        yield f"fitted jointly over peak rates {peaks[0]:g} ... {peaks[-1]:g}"


def _notes_on_reach(found: Prediction, by: Predictor) -> Iterator[str]:
    """Where rate, size and batch lie outside those of the runs."""
    cell, reach = found.cell, by.fit.reach
    if reach is None:
        return
    if not reach.has_peak(cell.peak_lr):
        low, high = reach.peak_lr
        yield f"peak rate {cell.peak_lr:.4g} lies outside those fitted, {low:.4g} ... {high:.4g}"
    smaller = cell.model_size is not None and reach.model_size is not None and cell.model_size < reach.model_size[0]
    told = cell.model_size if smaller else None, cell.tokens_per_step  # of larger sizes there is a note of its own
    yield from reach.other_models(*(None if value is None else np.array([value]) for value in told))
