"""Pictures of a recommendation: predicted final loss against annealing ratio, for each peak rate and decay shape."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fmjax.curves.loss_curve import LossCurve
from fmjax.planning.recommendation import Choice, Recommendation
from fmjax.plotting.fits import curves_and_fits
from fmjax.plotting.maps import losses_by_rate_and_ratio
from fmjax.plotting.regions import save_regions
from fmjax.plotting.style import Path, axes_or_new, color_of, legend, legend_below, look_of, picture, title
from fmjax.searching.results import NEAR

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DECADES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ticks of an axis of excess loss."""


def loss_against_ratio(found: Recommendation, ax: "Axes | None" = None) -> "Axes":
    """Predicted final loss against annealing ratio, best ratio with its interval marked and near-optimal one shaded."""
    ax = axes_or_new(ax)
    for i, choice in enumerate(found.choices):
        color, cell = color_of(i), choice.cell
        ax.plot(found.anneal_ratio, choice.losses, **look_of(i), label=_label(choice))
        near = (found.anneal_ratio >= cell.interval[0]) & (found.anneal_ratio <= cell.interval[1])
        ax.fill_between(found.anneal_ratio[near], choice.losses[near], cell.loss + NEAR, color=color, alpha=0.25, lw=0)
        ax.plot(cell.best_ratio, cell.loss, "o", color=color, zorder=3)
        _interval(choice, cell.loss, color, ax)
    best = min(choice.cell.loss for choice in found.choices)
    worst = max(best + NEAR, *(float(np.median(choice.losses)) for choice in found.choices))
    ax.set(xlabel="annealing ratio", ylabel="predicted final loss", ylim=(best - 0.05 * (worst - best), worst))
    title(ax, f"{found.total_steps} updates; shaded: within {NEAR:g} of the best")
    legend(ax)
    return ax


def excess_against_ratio(found: Recommendation, ax: "Axes | None" = None) -> "Axes":
    """Predicted final loss above the best of its peak rate and decay against annealing ratio.

    The axis is linear around zero and log far above. A dashed line marks the near-optimal excess, dots the best ratios,
    and the bars below zero their bootstrap intervals.
    """
    ax = axes_or_new(ax)
    for i, choice in enumerate(found.choices):
        ax.plot(found.anneal_ratio, choice.losses - choice.cell.loss, **look_of(i), label=_label(choice))
        ax.plot(choice.cell.best_ratio, 0.0, "o", color=color_of(i), zorder=3)
        _interval(choice, -(i + 1) * 0.12 * NEAR, color_of(i), ax)
    ax.axhline(NEAR, color="0.4", lw=0.8, ls="--")
    ax.set_yscale("asinh", linear_width=NEAR / 2)
    ax.set(xlabel="annealing ratio", ylabel="predicted final loss above the best")
    ax.set_ylim(-(len(found.choices) + 1) * 0.12 * NEAR, None)
    ax.set_yticks([0.0, *(tick for tick in DECADES if tick < ax.get_ylim()[1])], minor=False)
    ax.set_yticks([], minor=True)
    ax.yaxis.set_major_formatter("{x:g}")
    title(ax, f"excess; dashed: {NEAR:g}; bars: best ratio")
    legend(ax)
    return ax


def _label(choice: Choice) -> str:
    return f"peak {choice.cell.peak_lr:.3g}, {choice.cell.decay}"


def _interval(choice: Choice, height: float, color: str, ax: "Axes") -> None:
    """The bootstrap interval of the best ratio as a bar, where there is one."""
    if choice.cell.ratio_interval is not None:
        ax.plot(choice.cell.ratio_interval, (height, height), "|-", ms=6, mew=1.2, lw=1.2, color=color, zorder=3)


def save_recommendation(found: Recommendation, curves: Sequence[LossCurve], path: Path) -> None:
    """Draws curves with fits beside loss and excess against ratio, and writes the picture to ``path``.

    For three peak rates and more also the map of losses over peak rate and ratio. Of a plan over batches, sizes or
    lengths it draws what ``plotting.regions`` has instead.
    """
    if found.regions:
        save_regions(found, path)
        return
    mapped = len({choice.cell.peak_lr for choice in found.choices}) > 2 and found.anneal_ratio.size > 1
    fitted = {run.name for run in found.best.fit.runs}
    with picture(path, 10 if mapped else 14, 7.5 if mapped else 4) as figure:
        panels = figure.subplots(2, 2).ravel() if mapped else figure.subplots(1, 3)
        curves_and_fits(found.best.fit, [curve for curve in curves if curve.name in fitted], panels[0])
        loss_against_ratio(found, panels[1])
        excess_against_ratio(found, panels[2])
        legend_below(figure, panels[1:3])
        if mapped:
            losses_by_rate_and_ratio(found, panels[3])
