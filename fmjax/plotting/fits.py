"""Pictures of a fit: measured losses, predicted ones, and what lies between them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fmjax.curves.loss_curve import LossCurve
from fmjax.fitting.fits import predict
from fmjax.fitting.records import FitResult
from fmjax.plotting.style import Path, axes_or_new, color_of, evenly, legend, picture, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EARLY = 0.08
"""Share of a run whose losses do not count for the limits of an axis."""


def curves_and_fits(
    result: FitResult, curves: Sequence[LossCurve], ax: "Axes | None" = None, *, most: int = 6
) -> "Axes":
    """Measured losses as dots and predicted ones as lines, for at most ``most`` runs; axis limits leave out warmup."""
    ax, shown = axes_or_new(ax), _spread(curves, most)
    for i, (curve, predicted) in enumerate(zip(shown, predict(result, shown), strict=True)):
        after = curve.step >= curve.schedule.warmup_steps
        ax.plot(curve.step[after], curve.loss[after], ".", ms=3, alpha=0.5, color=color_of(i))
        ax.plot(curve.step[after], predicted[after], "-", lw=1.2, color=color_of(i), label=curve.name)
    ax.set(xlabel="update", ylabel="loss", ylim=loss_limits(shown))
    title(ax, f"{result.law.name}: measured (dots), fitted (lines)")
    legend(ax)
    return ax


def residuals_of_fit(
    result: FitResult, curves: Sequence[LossCurve], ax: "Axes | None" = None, *, most: int = 6
) -> "Axes":
    """(predicted - measured)/measured in percent against updates, for the runs that ``curves_and_fits`` shows."""
    ax, shown, late = axes_or_new(ax), _spread(curves, most), [0.0]
    for i, (curve, predicted) in enumerate(zip(shown, predict(result, shown), strict=True)):
        step, error = errors_after_warmup(curve, predicted)
        ax.plot(step, error, lw=0.8, color=color_of(i), label=curve.name)
        late.extend(np.abs(error[step >= EARLY * curve.step[-1]]))
    around_zero(ax, max(late))
    ax.set(xlabel="update", ylabel="residual, %")
    return ax


def errors_after_warmup(curve: LossCurve, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps from the end of warmup on, and (predicted - measured)/measured there in percent."""
    after = curve.step >= curve.schedule.warmup_steps
    return curve.step[after], 100 * (predicted[after] / curve.loss[after] - 1)


def loss_limits(curves: Sequence[LossCurve], *more: float) -> tuple[float, float]:
    """Least and greatest loss of runs after warmup and early rows, and of whatever else is drawn, with a margin."""
    losses = np.concatenate([curve.loss[_late(curve)] for curve in curves])
    low, high = np.nanmin([losses.min(), *more]), np.nanmax([losses.max(), *more])
    margin = max(0.05 * (high - low), 1e-4 * high)
    return low - margin, high + margin


def _late(curve: LossCurve) -> np.ndarray:
    end = curve.step[-1]
    return curve.step >= max(EARLY * end, min(curve.schedule.warmup_steps, end))


def around_zero(ax: "Axes", worst: float) -> None:
    """A line at zero, and limits as far above as below."""
    ax.axhline(0, color="0.3", lw=0.6)
    ax.set_ylim((-1.1 * worst, 1.1 * worst) if worst > 0 else None)


def _spread(curves: Sequence[LossCurve], most: int) -> list[LossCurve]:
    """At most ``most`` of the curves, evenly spread by final loss."""
    return evenly(sorted(curves, key=lambda curve: curve.final_loss_measured), most)


def save_fit(result: FitResult, curves: Sequence[LossCurve], path: Path) -> None:
    """Draws curves with fits above their residuals, and writes the picture to ``path``."""
    with picture(path, 6.5, 5.5) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        curves_and_fits(result, curves, upper).set_xlabel("")
        residuals_of_fit(result, curves, lower)
        figure.align_ylabels()
