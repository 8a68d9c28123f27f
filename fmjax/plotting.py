"""Pictures of fits and searches; each takes and returns Matplotlib axes."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np

from fmjax.curves import LossCurve
from fmjax.fitting import predict
from fmjax.recommendation import Recommendation
from fmjax.records import FitResult
from fmjax.sweep import NEAR

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""The palette of Okabe and Ito, which colour-blind readers can tell apart."""

_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "font.size": 9,
}


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError:
        raise ValueError("drawing needs matplotlib: pip install 'fmjax[plots]'") from None
    return pyplot


def curves_and_fits(result: FitResult, curves: Sequence[LossCurve], ax: Any, *, most: int = 6) -> Any:
    """Measured losses as dots and predicted ones as lines, for at most ``most`` runs; axis limits leave out warmup."""
    shown = _spread(curves, most)
    lows, highs = [], []
    for i, (curve, predicted) in enumerate(zip(shown, predict(result, shown), strict=True)):
        color = COLORS[i % len(COLORS)]
        after = curve.step >= curve.schedule.warmup_steps
        ax.plot(curve.step[after], curve.loss[after], ".", ms=3, alpha=0.5, color=color)
        ax.plot(curve.step[after], predicted[after], "-", lw=1.2, color=color, label=curve.name)
        late = curve.step >= 0.08 * curve.step[-1]
        lows.append(curve.loss[late].min())
        highs.append(curve.loss[late].max())
    margin = 0.05 * (max(highs) - min(lows))
    ax.set(xlabel="update", ylabel="loss", ylim=(min(lows) - margin, max(highs) + margin))
    ax.set_title(f"{result.law.name}: measured (dots), fitted (lines)", loc="left")
    ax.legend(fontsize=7)
    return ax


def _spread(curves: Sequence[LossCurve], most: int) -> list[LossCurve]:
    """At most ``most`` of the curves, evenly spread by final loss."""
    ranked = sorted(curves, key=lambda curve: curve.final_loss_measured)
    index = np.unique(np.linspace(0, len(ranked) - 1, min(most, len(ranked))).round().astype(int))
    return [ranked[i] for i in index]


def loss_against_ratio(found: Recommendation, ax: Any) -> Any:
    """Predicted final loss against annealing ratio, best ratio marked and near-optimal interval shaded."""
    for i, choice in enumerate(found.choices):
        color, cell = COLORS[i % len(COLORS)], choice.cell
        ax.plot(found.anneal_ratio, choice.losses, color=color, label=f"peak {cell.peak_lr:.3g}, {cell.decay}")
        near = (found.anneal_ratio >= cell.interval[0]) & (found.anneal_ratio <= cell.interval[1])
        ax.fill_between(found.anneal_ratio[near], choice.losses[near], cell.loss + NEAR, color=color, alpha=0.25, lw=0)
        ax.plot(cell.best_ratio, cell.loss, "o", color=color)
    best = min(choice.cell.loss for choice in found.choices)
    worst = max(float(np.median(choice.losses)) for choice in found.choices)
    ax.set(xlabel="annealing ratio", ylabel="predicted final loss", ylim=(best - 0.05 * (worst - best), worst))
    ax.set_title(f"{found.total_steps} updates; shaded: within {NEAR:g} of the best", loc="left")
    ax.legend(fontsize=7)
    return ax


def save_recommendation(found: Recommendation, curves: Sequence[LossCurve], path: str | PathLike[str]) -> None:
    """Draws curves with fits beside loss against ratio, and writes the picture to ``path``."""
    pyplot = _pyplot()
    with pyplot.rc_context(_STYLE):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
        fitted = {run.name for run in found.best.fit.runs}
        curves_and_fits(found.best.fit, [curve for curve in curves if curve.name in fitted], left)
        loss_against_ratio(found, right)
        figure.savefig(path, dpi=150)
        pyplot.close(figure)
