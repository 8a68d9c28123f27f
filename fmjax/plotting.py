"""Pictures of fits and searches; each takes and returns Matplotlib axes."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np

from fmjax.curves import LossCurve
from fmjax.design import Design, Designs
from fmjax.fitting import predict
from fmjax.power_laws import PowerLaw
from fmjax.recommendation import Recommendation
from fmjax.records import Evaluation, FitResult
from fmjax.schedules import Cosine, lrs
from fmjax.sweep import NEAR, RATIOS
from fmjax.transfers import CellTransfer, Transfer

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


def optima_against(found: Transfer, variable: str, ax: Any) -> Any:
    """Measured optima with intervals against a variable, predicted ones beside, and the power law; both axes log."""
    cells = [cell for cell in found.cells if cell.measured is not None]
    others = [name for name in _differing(found) if name != variable]
    series: dict[Any, list[CellTransfer]] = {}
    for cell in cells:
        series.setdefault(tuple(_variable(cell, name) for name in others), []).append(cell)
    for i, (fixed, members) in enumerate(series.items()):
        color = COLORS[i % len(COLORS)]
        x = np.array([_variable(cell, variable) for cell in members], float)
        y = np.array([cell.measured.ratio for cell in members])  # type: ignore[union-attr]
        ends = np.array([cell.measured.interval for cell in members])  # type: ignore[union-attr]
        ends = np.where(np.isfinite(ends) & (ends > 0), ends, np.array([0.01, 1.0]))
        label = ", ".join(f"{_SHORT[name]} {value:g}" for name, value in zip(others, fixed, strict=True))
        ax.errorbar(x, y, np.abs(ends.T - y), fmt="o", ms=4, lw=1, capsize=2, color=color, label=label)
        guessed = [(at, cell.predicted.cell.best_ratio) for at, cell in zip(x, members, strict=True) if cell.predicted]
        ax.plot(*np.array(guessed).reshape(-1, 2).T, "x", ms=5, color=color)
        if found.measured is not None and variable in found.measured.exponents:
            _line(found.measured, variable, dict(zip(others, fixed, strict=True)), x, color, ax)
    ax.set(xlabel=_AXIS[variable], ylabel="best annealing ratio", xscale="log", yscale="log")
    ax.set_title("measured (dots, 90 %), predicted (crosses), power law (lines)", loc="left", fontsize=9)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    if others:
        ax.legend(fontsize=7)
    return ax


_AXIS = {"peak_lr": "peak learning rate", "total_steps": "updates", "model_size": "model size"}
_SHORT = {"peak_lr": "peak", "total_steps": "T", "model_size": "N"}


def _differing(found: Transfer) -> list[str]:
    """Variables known of all cells that differ."""
    values = {name: {_variable(cell, name) for cell in found.cells} for name in _AXIS}
    return [name for name, seen in values.items() if len(seen) > 1 and None not in seen]


def _variable(cell: CellTransfer, name: str) -> Any:
    return cell.tried.model_size if name == "model_size" else getattr(cell.tried.schedule, name)


def _line(law: PowerLaw, variable: str, fixed: dict[str, Any], x: np.ndarray, color: str, ax: Any) -> None:
    known = {name: value for name, value in fixed.items() if name in law.exponents}
    at = np.geomspace(x.min(), x.max(), 2)
    ax.plot(at, [law.at(**known, **{variable: value}) for value in at], "-", lw=1, alpha=0.6, color=color)


def regret_against_ratio(cells: Sequence[CellTransfer], ax: Any) -> Any:
    """Final loss above the best against annealing ratio: measured as dots, predicted as lines."""
    for i, cell in enumerate(cells):
        color, schedule = COLORS[i % len(COLORS)], cell.tried.schedule
        label = f"peak {schedule.peak_lr:.3g}, {schedule.total_steps} updates, {schedule.decay}"
        ax.plot(cell.tried.distinct, cell.tried.means - cell.tried.means.min(), "o", ms=4, color=color, label=label)
        if cell.predicted is not None:
            ax.plot(RATIOS, cell.predicted.losses - cell.predicted.losses.min(), "-", lw=1, color=color)
    worst = float(np.median([np.ptp(cell.tried.means) for cell in cells]))
    ax.set(xlabel="annealing ratio", ylabel="final loss above the best", ylim=(-0.03 * worst, 1.5 * worst))
    ax.set_title("regret: measured (dots), predicted (lines)", loc="left")
    ax.legend(fontsize=7)
    return ax


def save_transfer(found: Transfer, path: str | PathLike[str]) -> None:
    """Draws optima against each variable that differs beside regret against ratio, and writes the picture."""
    variables = _differing(found) if any(cell.measured is not None for cell in found.cells) else []
    pyplot = _pyplot()
    with pyplot.rc_context(_STYLE):
        count = len(variables) + 1
        figure, axes = pyplot.subplots(1, count, figsize=(5 * count, 4), layout="constrained", squeeze=False)
        for variable, ax in zip(variables, axes[0], strict=False):
            optima_against(found, variable, ax)
        regret_against_ratio(found.cells, axes[0, -1])
        figure.savefig(path, dpi=150)
        pyplot.close(figure)


def rates_of_design(design: Design, ax: Any) -> Any:
    """A designed schedule beside the best WSD and cosine, with the losses predicted for them."""
    at, last = np.arange(design.total_steps), float(design.rates[-1])
    init = float(design.rates[0]) if design.warmup_steps else 0.0
    cosine = Cosine(design.peak_lr, design.total_steps, design.wsd.final_lr, design.warmup_steps, init)
    ax.plot(at, design.lrs, color=COLORS[0], label=f"designed: {design.loss:.4f}")
    wsd = design.wsd.schedule(design.warmup_steps, init)
    name = f"WSD {design.wsd.decay} {design.wsd.best_ratio:.2g}: {design.wsd.loss:.4f}"
    ax.plot(at, np.asarray(lrs(wsd)), "--", lw=1, color=COLORS[1], label=name)
    ax.plot(at, np.asarray(lrs(cosine)), ":", lw=1, color=COLORS[2], label=f"cosine: {design.cosine_loss:.4f}")
    ax.set(xlabel="update", ylabel="learning rate", ylim=(min(0.0, last), None))
    ax.set_title(f"{design.total_steps} updates from peak {design.peak_lr:.3g}; predicted losses", loc="left")
    ax.legend(fontsize=7)
    return ax


def save_designs(found: Designs, path: str | PathLike[str]) -> None:
    """Draws at most six designs beside WSD and cosine, and writes the picture."""
    shown = found.designs[:6]
    columns = min(3, len(shown))
    pyplot = _pyplot()
    with pyplot.rc_context(_STYLE):
        rows = -(-len(shown) // columns)
        size = (5 * columns, 3.6 * rows)
        figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
        for design, ax in zip(shown, axes.ravel(), strict=False):
            rates_of_design(design, ax)
        for ax in axes.ravel()[len(shown) :]:
            ax.set_axis_off()
        figure.savefig(path, dpi=150)
        pyplot.close(figure)
