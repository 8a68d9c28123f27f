"""Pictures of fits and searches; each takes and returns Matplotlib axes."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np

from fmjax.curves import LossCurve
from fmjax.fitting import predict
from fmjax.recommendation import Recommendation
from fmjax.records import Evaluation, FitResult
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


def errors_by_run(evaluations: Sequence[Evaluation], ax: Any) -> Any:
    """Mean error of each run under each law as dots; fitted runs below, unseen ones above the line."""
    first = evaluations[0]
    trained = [run.name in first.trained for run in first.runs]
    order = np.argsort([not is_fitted for is_fitted in trained], kind="stable")
    for k, evaluation in enumerate(evaluations):
        errors = np.array([run.mape_percent for run in evaluation.runs])[order]
        marker = "os^Dv<>"[k // len(COLORS) % 7]
        color = COLORS[k % len(COLORS)]
        ax.plot(errors, np.arange(order.size), marker, color=color, ms=4, alpha=0.8, label=evaluation.fit.law.name)
    if any(trained) and not all(trained):
        ax.axhline(sum(trained) - 0.5, color="0.5", lw=0.8)
    labels = [f"{first.runs[i].name}{' (fitted)' if trained[i] else ''}" for i in order]
    ax.set_yticks(np.arange(order.size), labels, fontsize=max(3.0, min(8.0, 240 / order.size)))
    ax.set(xscale="log", xlabel="mean error, %")
    low, high = ax.get_xlim()
    ticks = [tick for tick in (m * 10.0**k for k in range(-6, 4) for m in (1, 2, 5)) if low <= tick <= high]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_xticks([], minor=True)
    ax.set_title("Mean error of each run", loc="left")
    ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.3, -0.09), ncols=3)
    return ax


def residuals(evaluation: Evaluation, curves: Sequence[LossCurve], ax: Any) -> Any:
    """(predicted - measured)/measured in percent against the share of the run done; unseen runs in colour."""
    fit, drawn, late = evaluation.fit, 0, [0.0]
    for curve, predicted in zip(curves, predict(fit, curves), strict=True):
        after = curve.step >= curve.schedule.warmup_steps
        error = 100 * (predicted[after] / curve.loss[after] - 1)
        unseen = curve.name not in evaluation.trained
        color = COLORS[drawn % len(COLORS)] if unseen else "0.7"
        share, label = curve.step[after] / curve.schedule.total_steps, curve.name if unseen else None
        ax.plot(share, error, lw=0.8, color=color, zorder=2 + unseen, label=label)
        drawn += unseen
        late.extend(np.abs(error[share > 0.1]))
    worst = np.nanpercentile(late, 99)
    ax.axhline(0, color="0.3", lw=0.6)
    ax.set(xlabel="share of the run", ylabel="residual, %", ylim=(-worst, worst) if worst > 0 else None)
    ax.set_title(f"{fit.law.name}: {evaluation.test_mape_percent:.3f} %", loc="left", fontsize=9)
    return ax


def save_evaluations(evaluations: Sequence[Evaluation], curves: Sequence[LossCurve], path: str | PathLike[str]) -> None:
    """Draws the error of each run beside each law's residuals, and writes the picture to ``path``."""
    pyplot = _pyplot()
    columns = min(3, len(evaluations))
    rows = -(-len(evaluations) // columns)
    with pyplot.rc_context(_STYLE):
        size = (5 + 3 * columns, max(4.5, 2.6 * rows, 0.12 * len(curves)))
        figure = pyplot.figure(figsize=size, layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(5, 3 * columns))
        errors_by_run(evaluations, left.subplots())
        panels = np.atleast_1d(right.subplots(rows, columns, sharex=True)).ravel()
        for panel, evaluation in zip(panels, evaluations, strict=False):
            residuals(evaluation, curves, panel)
        if len(curves) - len(evaluations[0].trained) <= len(COLORS):
            figure.legend(*panels[0].get_legend_handles_labels(), fontsize=7, loc="outside lower right", ncols=4)
        for panel in panels[len(evaluations) :]:
            panel.set_axis_off()
        figure.savefig(path, dpi=150)
        pyplot.close(figure)


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
