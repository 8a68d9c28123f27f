"""The first section of a page: the answer in a sentence and a table."""

from collections.abc import Sequence

from fmjax.fitting.records import FitResult
from fmjax.planning.recommendation import Choice, Recommendation
from fmjax.planning.regions import Region
from fmjax.report.markup import NONE, Html, element, interval_text, number_text, pairs, section, table
from fmjax.report.regions import SHARE, region_tables
from fmjax.schedules.kinds import WSD
from fmjax.searching.results import NEAR, Cell, SearchResult

CELLS_ON_PAGE = 200
"""Cells of a search that its table shows."""

_FALLS = {"linear": "in a straight line", "1-sqrt": "as one minus a square root", "cosine": "as a cosine"}


def in_words(schedule: WSD) -> str:
    """A schedule in a sentence.

    >>> in_words(WSD(peak_lr=1e-3, total_steps=1000, anneal_ratio=0.2, warmup_steps=50))
    'rises from 0 over 50 updates, stays at 0.001 until update 800, then falls in a straight line to 0 over 200 updates'
    """
    total, warmup = int(schedule.total_steps), int(schedule.warmup_steps)
    anneal = schedule.anneal_steps
    rise = f"rises from {float(schedule.init_lr):.4g} over {warmup} updates" if warmup else ""
    stay = f"stays at {float(schedule.peak_lr):.4g} until update {total - anneal}" if total - anneal > warmup else ""
    fall = (
        f"falls {_FALLS.get(schedule.decay, 'exponentially')} to {float(schedule.final_lr):.4g} over {anneal} updates"
    )
    before = [part for part in (rise, stay) if part]
    return ", ".join([*before, f"then {fall}" if before else fall])


def _ends(ends: Sequence[float] | None, form: str) -> str:
    shown = interval_text(ends, form)
    return "" if shown == NONE else f" ({SHARE} {shown})"


def lead(cell: Cell, what: str) -> Html:
    """The answer in one sentence."""
    share = element("strong", f"Anneal over the last {100 * cell.best_ratio:.3g} %")
    return element(
        "p",
        share,
        f" of {cell.total_steps} updates, from peak rate {cell.peak_lr:.4g}: the final loss {what} is ",
        element("strong", f"{cell.loss:.4f}"),
        f"{_ends(cell.loss_interval, '.4f')}.",
        class_="lead",
    )


def cell_rows(cell: Cell, schedule: WSD) -> list[tuple[str, object]]:
    """Names and values of what was found."""
    edge = "; at the edge of those searched" if cell.at_edge else ""
    told = (("parameters", cell.model_size), ("tokens an update", cell.tokens_per_step))
    return [
        *((name, f"{value:.4g}") for name, value in told if value is not None),
        ("annealing ratio", f"{cell.best_ratio:.3g}{_ends(cell.ratio_interval, '.2f')}{edge}"),
        (f"ratios within {NEAR:g} of the best loss", interval_text(cell.interval)),
        ("predicted final loss", f"{cell.loss:.4f}{_ends(cell.loss_interval, '.4f')}"),
        ("peak rate", f"{cell.peak_lr:.4g}"),
        ("updates", f"{cell.total_steps}"),
        ("learning rate", in_words(schedule)),
    ]


def regret(value: float) -> str:
    """A regret as text."""
    return "under 0.0001" if 0 <= value < 5e-5 else number_text(value)


def recommended(found: Recommendation) -> Html:
    """The answer of a recommendation, with its other peak rates and decay shapes."""
    best = found.best
    rows = cell_rows(best.cell, best.schedule)
    rows.insert(3, ("expected regret", regret(best.regret)))
    rows.append(("predicted by", f"{best.fit.law.name}, fitted to {_fitted_on(best)}"))
    rows.append(("mean error on runs left out", f"{number_text(best.held_out_mape_percent, '.3f')} %"))
    if found.regions and found.best_region.budget.flops is not None:
        rows[:1] = _chosen_for_compute(found.best_region)
    others = region_tables(found) if found.regions else _choices(found) if len(found.choices) > 1 else []
    return section("answer", "Recommendation", lead(best.cell, "predicted for this"), pairs(rows), *others)


def _chosen_for_compute(region: Region) -> list[tuple[str, object]]:
    """Model size and tokens with their intervals."""
    chosen = (
        ("parameters", region.points[region.best].cell.model_size, "model_size"),
        ("tokens", region.tokens, "total_tokens"),
    )
    return [(name, f"{value:.4g}{_ends(region.intervals.get(axis), '.3g')}") for name, value, axis in chosen if value]


def _fitted_on(choice: Choice) -> str:
    return f"{len(choice.fit.runs)} runs{' at this peak rate' if choice.per_rate else ''}"


CHOICES = (
    *("peak rate", "decay", "ratio", SHARE, "near-optimal", "regret", "loss", SHARE),
    *("left-out error %", "fitted runs"),
)


def _choices(found: Recommendation) -> list[Html]:
    rows = [_choice(choice, choice is found.best) for choice in found.choices]
    bold = "In bold: the answer, of least loss among the peak rates that runs were trained at, if there are any."
    heading = element("h3", "All peak rates and decay shapes")
    return [heading, table(CHOICES, rows, text=0), element("p", bold, class_="dim")]


def _choice(choice: Choice, is_best: bool) -> list[object]:
    cell = choice.cell
    peak = element("strong", f"{cell.peak_lr:.4g}") if is_best else f"{cell.peak_lr:.4g}"
    ratio = (f"{cell.best_ratio:.3g}", interval_text(cell.ratio_interval, ".2f"), interval_text(cell.interval))
    loss = (regret(choice.regret), f"{cell.loss:.4f}", interval_text(cell.loss_interval, ".4f"))
    by = (
        number_text(choice.held_out_mape_percent, ".3f"),
        f"{len(choice.fit.runs)}{' at this rate' if choice.per_rate else ''}",
    )
    return [peak, cell.decay, *ratio, *loss, *by]


def searched(result: SearchResult, best: Cell, schedule: WSD, fit: FitResult) -> Html:
    """The answer of a search, with its cells."""
    rows = cell_rows(best, schedule)
    rows.append(("predicted by", f"{fit.law.name}, fitted to {len(fit.runs)} runs; of {result.candidates} schedules"))
    columns = ("updates", "peak rate", "decay", "final rate", "ratio", "near-optimal", "predicted loss")
    several = len(result.cells) > 1
    others = [element("h3", "All cells searched"), table(columns, map(_cell, result.cells[:CELLS_ON_PAGE]), text=0)]
    if len(result.cells) > CELLS_ON_PAGE:
        others.append(element("p", f"The first {CELLS_ON_PAGE} of {len(result.cells)} cells.", class_="dim"))
    return section("answer", "Best schedule", lead(best, "predicted for it"), pairs(rows), *(others if several else ()))


def _cell(cell: Cell) -> list[str]:
    target = [f"{cell.total_steps}", f"{cell.peak_lr:.4g}", cell.decay, f"{cell.final_lr:.3g}"]
    return [
        *target,
        f"{number_text(cell.best_ratio, '.3g')}{' (edge)' if cell.at_edge else ''}",
        interval_text(cell.interval),
        number_text(cell.loss, ".5f"),
    ]
