"""The section on what was assumed: notes of the answer, how intervals were made and what they do not know."""

from collections.abc import Sequence

from fmjax._names import LEVEL
from fmjax.fitting.records import FitResult
from fmjax.planning.drift import LEAST_DRIFT, MOST_DRIFT
from fmjax.planning.recommendation import Recommendation
from fmjax.report.markup import Html, element, listed, section
from fmjax.searching.results import NEAR, Cell


def assumed(found: Recommendation) -> Html:
    """Notes of all choices and regions, and what intervals know."""
    notes = dict.fromkeys(note for choice in found.choices for note in choice.notes)
    of_regions = (note for region in found.regions for note in region.notes)
    said = [*(_note(found, note) for note in notes), *of_regions, *found.notes]
    samples = max(choice.samples for choice in found.choices)
    return _assumptions(said, _INTERVALS.format(samples=samples) if samples else _NONE, *_RECOMMENDED)


def _note(found: Recommendation, note: str) -> str:
    of = [f"{choice.cell.peak_lr:.4g}" for choice in found.choices if note in choice.notes]
    return note if len(of) == len(found.choices) else f"peak rate {', '.join(dict.fromkeys(of))}: {note}"


def assumed_of_search(fit: FitResult, best: Cell, notes: Sequence[str] = ()) -> Html:
    """What a search extrapolates to, and what it took from the fitted runs."""
    said = list(dict.fromkeys((*fit.plan_notes(best.total_steps, best.peak_lr), *notes)))
    said += ["the best ratio lies at the edge of those searched"] if best.at_edge else []
    said += [fit.message] if fit.status == "at-bound" else []
    given = best.loss_interval is not None
    return _assumptions(said, _SAMPLED if given else _NONE, _UNCORRECTED)


def _assumptions(notes: Sequence[str], *standing: str) -> Html:
    warned = [element("div", element("h3", "Of this answer"), listed(notes), class_="notes")] if notes else []
    return section(
        "assumptions", "Assumptions and warnings", *warned, element("h3", "Always"), listed((*standing, *_ALWAYS))
    )


_NONE = "No bootstrap samples were drawn, so there are no intervals."
_SAMPLED = f"Intervals hold {100 * LEVEL:g} % of the bootstrap samples that the search was given."
_INTERVALS = (
    f"Intervals hold {100 * LEVEL:g} % of {{samples}} bootstrap samples: the law fitted again to losses with noise "
    "drawn anew. Where the law or its options were chosen on the same runs, samples are shared out among them by how "
    "likely the runs make each. They cover what they say where the law holds. They do not know of a law that is wrong."
)
_RECOMMENDED = (
    "What the fit leaves over of the measured final losses of other ratios, lengths and peak rates corrects its "
    "predictions.",
    "Beyond the longest run the interval of the loss grows by what a fit of the shorter runs misses at the ends of the "
    "longest ones, per e-fold of updates; where all have one length, by what the first half of their rows misses; by "
    f"at least {100 * LEAST_DRIFT:g} and at most {100 * MOST_DRIFT:g} %. At a model size or batch size that no run "
    "has, it grows by what fits without the runs of one size, or batch, miss of those.",
    "The expected regret is the mean over samples of how much worse the recommended ratio is than the best one of the "
    "sample.",
)
_UNCORRECTED = "The losses are those of the law alone; no measured final losses correct them."
_ALWAYS = (
    f"Ratios count as near-optimal up to a predicted loss {NEAR:g} above the least.",
    "The model, data, batch size and optimiser of the planned run are taken to be those of the runs fitted.",
)
