"""Heat maps of predicted final loss over peak rate and annealing ratio."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fmjax._checks import require
from fmjax.planning.recommendation import Recommendation
from fmjax.plotting.style import axes_or_new, legend, log_ticks, title
from fmjax.searching.results import NEAR, Cell, SearchResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def heat_map(peak_lrs: ArrayLike, ratios: ArrayLike, losses: ArrayLike, ax: "Axes | None" = None) -> "Axes":
    """Loss above the least as colour over peak rate (log axis) and annealing ratio.

    A line joins the best ratio of each peak rate, a star marks the best of all, and a dashed line bounds what is
    near-optimal. Colours end at the excess that half of the candidates stay below.

    Args:
      peak_lrs: ``[peaks]`` peak rates, at least two, rising.
      ratios: ``[ratios]`` annealing ratios, at least two, rising.
      losses: ``[peaks, ratios]`` final losses.
      ax: axes to draw on; by default those of a new figure.
    """
    peaks, ratios, losses = (np.asarray(values, float) for values in (peak_lrs, ratios, losses))
    require(min(losses.shape) > 1, f"a map needs two peak rates and two ratios, got losses of shape {losses.shape}")
    ax, excess = axes_or_new(ax), losses - losses.min()
    top = max(float(np.median(excess)), 2 * NEAR)
    edges = np.exp(_edges(np.log(peaks))), _edges(ratios)
    mesh = ax.pcolormesh(*edges, excess.T, cmap="cividis", vmin=0, vmax=top, rasterized=True)
    ax.set_xscale("log")
    ax.contour(peaks, ratios, excess.T, [NEAR], colors="white", linewidths=0.8, linestyles="--")
    _ridge(peaks, ratios[np.argmin(losses, axis=1)], ax)
    best = np.unravel_index(np.argmin(losses), losses.shape)
    at = peaks[best[0]], ratios[best[1]]
    ax.plot(*at, marker="*", ms=13, mfc="#E69F00", mec="white", ls="", label="best of all")
    ax.figure.colorbar(mesh, ax=ax, label="loss above the best", extend="max")
    ax.set(xlabel="peak learning rate", ylabel="annealing ratio", ylim=edges[1][[0, -1]])
    log_ticks(ax.xaxis, peaks)
    title(ax, f"predicted final loss; dashed: within {NEAR:g} of the best")
    ax.grid(visible=False)
    legend(ax, labelcolor="white", frameon=True, facecolor="black", framealpha=0.6)
    return ax


def _edges(centres: np.ndarray) -> np.ndarray:
    """Edges half way between centres, and as far beyond the first and last."""
    between = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - between[0]], between, [2 * centres[-1] - between[-1]]])


def _ridge(peaks: np.ndarray, best: np.ndarray, ax: "Axes") -> None:
    """White on black, to be seen on every colour."""
    ax.plot(peaks, best, "-", lw=3.5, color="black")
    ax.plot(peaks, best, "o-", lw=1.5, ms=3, color="white", label="best at each peak rate")


def losses_by_rate_and_ratio(found: Recommendation | SearchResult, ax: "Axes | None" = None) -> "Axes":
    """``heat_map`` of a recommendation for several peak rates, or of a search that kept its losses.

    Where there are several model sizes, batches, numbers of updates, decays or final rates, those of the least loss
    are shown.

    Raises:
      ValueError: fewer than two peak rates or ratios, or a search that did not keep its losses.
    """
    cells = _cells(found)
    best = min((cell for cell, _ in cells), key=lambda cell: cell.loss)
    alike = {cell.peak_lr: losses for cell, losses in cells if _fixed(cell) == _fixed(best)}
    peaks, order = sorted(alike), np.argsort(found.anneal_ratio)
    ax = heat_map(peaks, found.anneal_ratio[order], np.array([alike[peak][order] for peak in peaks]), ax)
    title(ax, f"{best.total_steps} updates, {best.decay}; dashed: within {NEAR:g} of the best")
    return ax


def _cells(found: Recommendation | SearchResult) -> list[tuple[Cell, np.ndarray]]:
    """Each cell with its losses at every ratio."""
    if isinstance(found, Recommendation):
        return [(choice.cell, choice.losses) for choice in found.choices]
    if found.losses is None:
        raise ValueError("the search did not keep its losses: give it keep_losses=True")
    return list(zip(found.cells, found.losses, strict=True))


def _fixed(cell: Cell) -> tuple[object, ...]:
    return cell.model_size, cell.tokens_per_step, cell.total_steps, cell.decay, cell.final_lr
