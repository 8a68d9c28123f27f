"""What a page shows of a plan over batches, model sizes or lengths: a map, and tables of choices and what they cost."""

from collections.abc import Sequence

import numpy as np

from fmjax._names import LEVEL
from fmjax.planning.batch_growth import GROWTH_COLUMNS
from fmjax.planning.recommendation import Recommendation
from fmjax.planning.regions import AS_GOOD, NEAR_COLUMNS, Region, Tradeoff
from fmjax.plotting.style import COLORS
from fmjax.report.drawing import Chart, axes
from fmjax.report.markup import Html, element, interval_text, number_text, table
from fmjax.searching.results import Cell

NEAR_ON_PAGE = 60
"""Near-optimal choices that a page lists."""

SHARE = f"{100 * LEVEL:g} % interval"


def region_map(region: Region) -> Chart | None:
    """Excess over peak rate and batch, each at its best ratio; None for one peak rate or one batch."""
    found = region.over_rate_and_batch
    if not found.is_map:
        return None
    excess = 100 * found.excess
    heat = {
        "type": "heatmap",
        "x": [f"{rate:.3g}" for rate in found.rates],
        "y": [f"{batch:.4g}" for batch in found.batches],
        "z": [[None if np.isnan(x) else float(f"{x:.4g}") for x in row] for row in excess],
        "zmin": 0,
        "zmax": max(float(np.nanmedian(excess)), 500 * AS_GOOD),
        "colorscale": "Cividis",
        "colorbar": {"title": {"text": "above<br>the best, %"}, "thickness": 12},
        "hovertemplate": "peak %{x}<br>%{y} tokens an update<br>%{z:.2f} % above the best<extra></extra>",
    }
    best = region.points[region.best].cell
    near = _marks([point.cell for point in region.near], "near-optimal", {"color": "#ffffff", "size": 7})
    star = _marks([best], "best", {"color": COLORS[1], "size": 16, "symbol": "star"})
    layout = axes("peak learning rate", "tokens an update")
    layout["xaxis"] |= {"type": "category"}
    layout["yaxis"] |= {"type": "category"}
    return {"data": [heat, near, star], "layout": layout}


def _marks(cells: Sequence[Cell], name: str, marker: dict[str, object]) -> Chart:
    places = {"x": [f"{cell.peak_lr:.3g}" for cell in cells], "y": [f"{cell.tokens_per_step:.4g}" for cell in cells]}
    return {**places, "mode": "markers", "name": name, "marker": marker, "hoverinfo": "skip"}


def region_tables(found: Recommendation) -> list[Html]:
    """Tables of the best choice for each budget, of those near-optimal, and of what batches and sizes cost."""
    parts = [
        element("h3", "Best choice"),
        table(_headings(found.regions), [_budget(one) for one in found.regions], text=1),
    ]
    near, region = found.best_region.near, found.best_region
    parts += [
        element("h3", f"{region.budget.named}: {len(near)} of {len(region.points)} choices are near-optimal"),
        table(("tokens an update", *NEAR_COLUMNS), [point.row for point in near[:NEAR_ON_PAGE]], text=0),
        element("p", f"Within {100 * AS_GOOD:g} % of the best, or within the expected error.", class_="dim"),
    ]
    for one in found.regions:
        for what, steps in (
            ("a batch costs at equal tokens", one.batches),
            ("a size costs at equal compute", one.sizes),
        ):
            if steps:
                rows = [_tradeoff(step) for step in steps]
                parts += [element("h3", f"{one.budget.named}: what {what}"), table(TRADE_HEADINGS, rows, text=0)]
    for growth in found.growths:
        parts += [element("h3", growth.title), table(GROWTH_COLUMNS, [way.row for way in growth.ways], text=1)]
        parts += [element("p", f"{'; '.join(growth.notes)}.", class_="dim")] if growth.notes else []
    return parts


def _by_compute(regions: Sequence[Region]) -> bool:
    """Whether sizes and tokens are chosen, each for an amount of compute."""
    return any(region.budget.flops is not None for region in regions)


def _headings(regions: Sequence[Region]) -> tuple[str, ...]:
    chosen = ("parameters", SHARE, "tokens", SHARE) if _by_compute(regions) else ("parameters",)
    return ("for", *chosen, "tokens an update", SHARE, "updates", "peak rate", SHARE, "loss", SHARE, "regret %")


def _budget(region: Region) -> list[str]:
    cell = region.points[region.best].cell
    size = [cell.shown("model_size")]
    if _by_compute([region]):
        size += [interval_text(region.intervals.get("model_size"))]
        size += [number_text(region.tokens or float("nan"), ".3g"), interval_text(region.intervals.get("total_tokens"))]
    batch = (cell.shown("tokens_per_step", ".4g"), interval_text(region.intervals.get("tokens_per_step")))
    rate = (cell.shown("peak_lr"), interval_text(region.intervals.get("peak_lr"), ".2g"))
    loss = (f"{cell.loss:.4f}", interval_text(cell.loss_interval, ".4f"), number_text(100 * region.regret, ".2f"))
    return [region.budget.named, *size, *batch, cell.shown("total_steps", ""), *rate, *loss]


TRADE_HEADINGS = (
    "parameters",
    "tokens an update",
    "updates",
    "saved",
    "peak rate",
    "ratio",
    "anneal",
    "loss",
    "excess %",
)


def _tradeoff(step: Tradeoff) -> list[str]:
    cell = step.cell
    run = [cell.shown("model_size"), cell.shown("tokens_per_step", ".4g"), cell.shown("total_steps", "")]
    rate = [cell.shown("peak_lr"), f"{cell.best_ratio:.2g}", f"{cell.anneal_steps}"]
    return [*run, f"{step.updates_saved:+d}", *rate, f"{cell.loss:.4f}", f"{100 * step.excess:+.2f}"]
