"""Pictures of laws compared on the same runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fmjax.curves.loss_curve import LossCurve
from fmjax.fitting.fits import predict
from fmjax.fitting.records import Evaluation
from fmjax.fitting.shared_noise import with_common_noise
from fmjax.plotting.fits import around_zero, errors_after_warmup
from fmjax.plotting.style import COLORS, Path, axes_or_new, color_of, legend, log_ticks, look_of, picture, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def errors_by_run(evaluations: Sequence[Evaluation], ax: "Axes | None" = None) -> "Axes":
    """Mean error of each run under each law as dots; fitted runs below, unseen ones above the line."""
    ax, first = axes_or_new(ax), evaluations[0]
    trained = [run.name in first.trained for run in first.runs]
    order = np.argsort([not is_fitted for is_fitted in trained], kind="stable")
    for k, evaluation in enumerate(evaluations):
        errors = np.array([run.mape_percent for run in evaluation.runs])[order]
        marker = "os^Dv<>"[k // len(COLORS) % 7]
        label = evaluation.fit.law.name
        ax.plot(errors, np.arange(order.size), marker, color=color_of(k), ms=4, alpha=0.8, label=label)
    if any(trained) and not all(trained):
        ax.axhline(sum(trained) - 0.5, color="0.5", lw=0.8)
    labels = [f"{first.runs[i].name}{' (fitted)' if trained[i] else ''}" for i in order]
    ax.set_yticks(np.arange(order.size), labels, fontsize=max(3.0, min(8.0, 240 / order.size)))
    ax.set(xscale="log", xlabel="mean error, %")
    log_ticks(ax.xaxis)
    title(ax, "Mean error of each run")
    legend(ax, loc="upper center", bbox_to_anchor=(0.3, 0.0), borderaxespad=5, ncols=3)
    return ax


def residuals(evaluation: Evaluation, curves: Sequence[LossCurve], ax: "Axes | None" = None) -> "Axes":
    """(predicted - measured)/measured in percent against the share of the run done; unseen runs in colour.

    Noise that runs share at equal steps is drawn once, as a dotted line, and is not in their residuals.
    """
    ax, fit, drawn, late = axes_or_new(ax), evaluation.fit, 0, [0.0]
    noise, explained = with_common_noise(curves, predict(fit, curves))
    for curve, predicted in zip(curves, explained, strict=True):
        step, error = errors_after_warmup(curve, predicted)
        unseen = curve.name not in evaluation.trained
        look = look_of(drawn) if unseen else {"color": "0.7"}
        share, label = step / curve.schedule.total_steps, curve.name if unseen else None
        ax.plot(share, error, lw=0.8, zorder=2 + unseen, label=label, **look)
        drawn += unseen
        late.extend(np.abs(error[share > 0.1]))
    if noise is not None:
        longest = max(int(curve.schedule.total_steps) for curve in curves)
        ax.plot(noise.step / longest, -100 * noise.value, ":k", lw=1.2, zorder=4, label="shared noise")
    around_zero(ax, float(np.nanpercentile(late, 99)))
    ax.set(xlabel="share of the run", ylabel="residual, %")
    title(ax, f"{fit.law.name}: {evaluation.test_mape_percent:.3f} %")
    return ax


def save_evaluations(evaluations: Sequence[Evaluation], curves: Sequence[LossCurve], path: Path) -> None:
    """Draws the error of each run beside each law's residuals, and writes the picture to ``path``."""
    columns = min(3, len(evaluations))
    rows = -(-len(evaluations) // columns)
    with picture(path, 5 + 3 * columns, max(4.5, 2.6 * rows, 0.12 * len(curves))) as figure:
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(5, 3 * columns))[0]
        errors_by_run(evaluations, left.subplots())
        panels = np.atleast_1d(right.subplots(rows, columns)).ravel()
        for panel, evaluation in zip(panels, evaluations, strict=False):
            residuals(evaluation, curves, panel)
        for panel in panels[: len(evaluations) - columns]:
            panel.set_xlabel("")
        for panel in panels[len(evaluations) :]:
            panel.set_axis_off()
        _name_unseen(figure, panels[0], *panels[len(evaluations) : len(evaluations) + 1])


def _name_unseen(figure: "Figure", drawn: "Axes", spare: "Axes | None" = None) -> None:
    """Names the unseen runs of a panel, unless they are too many: in an empty panel, or else below the figure."""
    handles, labels = drawn.get_legend_handles_labels()
    if len(labels) > 2 * len(COLORS):
        return
    if spare is None:
        figure.legend(handles, labels, fontsize=7, loc="outside lower right", ncols=4)
    else:
        spare.legend(handles, labels, fontsize=7, loc="center")
