"""Pictures of a plan over batches and model sizes: loss over rate and batch, and what batches and sizes cost."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fmjax._checks import require
from fmjax._names import LEVEL
from fmjax.planning.recommendation import Recommendation
from fmjax.planning.regions import AS_GOOD, Region, Tradeoff
from fmjax.plotting.style import Path, axes_or_new, color_of, legend, log_ticks, picture, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BATCH_LABEL, RATE_LABEL, SIZE_LABEL = "tokens an update", "peak learning rate", "parameters"


def loss_over_rate_and_batch(region: Region, ax: "Axes | None" = None) -> "Axes":
    """Predicted loss above the best as colour over peak rate and batch, each at its best ratio and, of several, size.

    Near-optimal choices are outlined, and a star marks the best. Colours end at the median excess.

    Raises:
      ValueError: fewer than two peak rates or two batches.
    """
    found = region.over_rate_and_batch
    require(found.is_map, "a map needs at least two peak rates and two batches")
    rates, batches, excess, near = found
    ax = axes_or_new(ax)
    top = max(float(np.nanmedian(excess)), 5 * AS_GOOD)
    x, y = _edges(rates), _edges(batches)
    mesh = ax.pcolormesh(x, y, 100 * excess, cmap="cividis", vmin=0, vmax=100 * top, rasterized=True)
    _outline(x, y, near, ax)
    best = region.points[region.best].cell
    ax.plot(
        [best.peak_lr],
        [best.mean_batch or np.nan],
        marker="*",
        ms=14,
        mfc="#E69F00",
        mec="white",
        ls="",
        label="best",
    )
    ax.plot([], [], color="white", lw=2, label="near-optimal")
    ax.figure.colorbar(mesh, ax=ax, label="loss above the best, %", extend="max")
    ax.set(xscale="log", yscale="log", xlabel=RATE_LABEL, ylabel=BATCH_LABEL)
    for axis, values in ((ax.xaxis, rates), (ax.yaxis, batches)):
        log_ticks(axis, values)
        axis.set_major_formatter("{x:.3g}")
    title(ax, f"outlined: within {100 * AS_GOOD:g} % of the best or its error")
    ax.grid(visible=False)
    legend(ax, labelcolor="white", frameon=True, facecolor="black", framealpha=0.6)
    return ax


def _edges(centres: np.ndarray) -> np.ndarray:
    """Edges half way between centres on a log axis, and as far beyond the first and last."""
    logs = np.log(centres)
    between = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([[2 * logs[0] - between[0]], between, [2 * logs[-1] - between[-1]]]))


def _outline(x: np.ndarray, y: np.ndarray, near: np.ndarray, ax: "Axes") -> None:
    """A line around the marked tiles: every side of a tile whose neighbour is not marked."""
    padded = np.pad(near, 1)
    for row, column in zip(*np.nonzero(padded[:-1] != padded[1:]), strict=True):
        ax.plot(x[[column - 1, column]], [y[row], y[row]], color="white", lw=2)
    for row, column in zip(*np.nonzero(padded[:, :-1] != padded[:, 1:]), strict=True):
        ax.plot([x[column], x[column]], y[[row - 1, row]], color="white", lw=2)


def loss_against_batch(region: Region, ax: "Axes | None" = None) -> "Axes":
    """What the best of each batch costs at equal tokens, against the batch, with the updates it needs on top."""
    ax = _excess(region.batches, "tokens_per_step", axes_or_new(ax))
    ax.set(xlabel=BATCH_LABEL)
    batches = [step.cell.mean_batch or np.nan for step in region.batches]
    log_ticks(ax.xaxis, batches)
    ax.xaxis.set_major_formatter("{x:.3g}")
    upper = ax.secondary_xaxis("top")
    upper.set_xticks(batches, [f"{step.cell.total_steps}" for step in region.batches], fontsize=6, rotation=45)
    upper.set_xticks([], minor=True)
    upper.set_xlabel("updates", fontsize=7)
    return ax


def loss_against_size(regions: Sequence[Region], ax: "Axes | None" = None) -> "Axes":
    """Predicted loss of each model size at its best rate and batch, one line for each amount of compute."""
    ax = axes_or_new(ax)
    for i, region in enumerate(regions):
        sizes, losses = zip(*((step.cell.model_size or np.nan, step.cell.loss) for step in region.sizes), strict=True)
        ax.plot(sizes, losses, "o-", ms=3, lw=1.2, color=color_of(i), label=f"{region.budget.flops:.2g} operations")
        best = region.points[region.best].cell
        ax.plot([best.model_size or np.nan], [best.loss], marker="*", ms=12, color=color_of(i), ls="")
        if (ends := region.intervals.get("model_size")) is not None:
            ax.plot(ends, (best.loss, best.loss), "|-", color=color_of(i), lw=1.2, ms=8)
    ax.set(xscale="log", xlabel=SIZE_LABEL, ylabel="predicted final loss")
    title(ax, f"equal compute; stars: best, with {100 * LEVEL:g} % interval")
    legend(ax)
    return ax


def _excess(steps: Sequence[Tradeoff], axis: str, ax: "Axes") -> "Axes":
    x, y = np.array([(getattr(step.cell, axis), step.excess) for step in steps], float).T
    ends = np.array([step.excess_interval for step in steps])
    if np.isfinite(ends).all():
        ax.fill_between(x, *(100 * ends.T), color=color_of(0), alpha=0.2, lw=0, label=f"{100 * LEVEL:g} % interval")
    ax.plot(x, 100 * y, "o-", ms=4, lw=1.2, color=color_of(0))
    ax.axhline(0.0, color="0.4", lw=0.8)
    ax.set(xscale="log", ylabel="loss above the best, %")
    legend(ax)
    return ax


def best_against_size(regions: Sequence[Region], axis: str, ax: "Axes | None" = None) -> "Axes":
    """The best peak rate or batch of each budget with its interval, against model size or length."""
    ax = axes_or_new(ax)
    bests = [region.points[region.best].cell for region in regions]
    along = "model_size" if len({cell.model_size for cell in bests}) > 1 else "total_steps"
    x = np.array([getattr(cell, along) for cell in bests], float)
    ax.plot(x, [getattr(cell, axis) for cell in bests], "o", color=color_of(0))
    for at, region in zip(x, regions, strict=True):
        ax.plot((at, at), region.span(axis), "-", lw=5, alpha=0.3, color=color_of(0))
        if (ends := region.intervals.get(axis)) is not None:
            ax.plot((at, at), ends, "_-", lw=1.2, color=color_of(0))
    names = {"peak_lr": RATE_LABEL, "tokens_per_step": BATCH_LABEL, "model_size": SIZE_LABEL, "total_steps": "updates"}
    ax.set(xscale="log", yscale="log", xlabel=names[along], ylabel=names[axis])
    title(ax, f"best of each; thick: near-optimal; thin: {100 * LEVEL:g} %")
    return ax


def save_regions(found: Recommendation, path: Path) -> None:
    """Draws the map of the best region, and what else its plan has: batches, compute, several budgets."""
    of_best = found.best_region
    batches = {point.cell.tokens_per_step for point in of_best.points}
    rates = {point.cell.peak_lr for point in of_best.points}
    sized, several = [region for region in found.regions if region.sizes], len(found.regions) > 1
    over: list[tuple[bool, Callable[[Axes], Axes]]] = [
        (min(len(batches), len(rates)) > 1, partial(loss_over_rate_and_batch, of_best)),
        (len(of_best.batches) > 1, partial(loss_against_batch, of_best)),
        (len(sized) > 0, partial(loss_against_size, sized)),
        (several and len(rates) > 1, partial(best_against_size, found.regions, "peak_lr")),
        (several and len(batches) > 1, partial(best_against_size, found.regions, "tokens_per_step")),
    ]
    panels = [draw for is_there, draw in over if is_there]
    require(panels, "nothing to draw: one peak rate and one batch")
    with picture(path, 5 * len(panels), 4) as figure:
        for ax, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            draw(ax)
