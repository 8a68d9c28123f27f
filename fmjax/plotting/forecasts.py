"""Pictures of a forecast: a run in progress, and where it may end under each schedule."""

from typing import TYPE_CHECKING, Any

import numpy as np

from fmjax._checks import require
from fmjax.curves.loss_curve import LossCurve
from fmjax.planning.forecasts import Forecast, Outlook
from fmjax.plotting.fits import loss_limits
from fmjax.plotting.style import COLORS, Path, axes_or_new, legend, picture, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

*OTHERS, PLANNED = COLORS
MARKS = "os^D"
"""Marks of alternatives, one for each round of colours."""

APART = 0.02
"""Distance between bars at the run's end, as a share of the run."""


def forecast_of(found: Forecast, curve: LossCurve, ax: "Axes | None" = None) -> "Axes":
    """Rows of a run in progress, and beside its end the final losses forecast under each schedule, with intervals.

    Rows logged after the forecast was made are pale.
    """
    ax, after = axes_or_new(ax), curve.step >= curve.schedule.warmup_steps
    for rows, color in ((after & (curve.step < found.count), "0.3"), (after & (curve.step >= found.count), "0.8")):
        ax.plot(curve.step[rows], curve.loss[rows], ".", ms=3, color=color)
    end = int(curve.schedule.total_steps)
    ax.axvline(end, color="0.5", lw=0.8, ls=":")
    for i, (outlook, look) in enumerate(_outlooks(found)):
        at = int(outlook.schedule.total_steps) + (i + 1) * APART * end
        ax.plot((at, at), outlook.interval, "_-", ms=5, lw=1.2, color=look["color"])
        ax.plot(at, outlook.loss, ms=4, ls="", label=outlook.name, **look)
    ends = [x for outlook, _ in _outlooks(found) for x in outlook.interval]
    ax.set(xlabel="update", ylabel="loss", ylim=loss_limits([curve], *ends))
    level = f"{100 * found.level:g} % intervals" if found.ok else f"no forecast, the fit is {found.status}"
    title(ax, f"{found.run} after {found.count} updates: {level}")
    legend(ax, loc="upper right", bbox_to_anchor=(1.0, 1.0), ncols=1 + (len(found.alternatives) > 6))
    return ax


def _outlooks(found: Forecast) -> list[tuple[Outlook, dict[str, Any]]]:
    """What is planned, then its alternatives, with their colours and marks; nothing where nothing can be said."""
    if not found.ok:
        return []
    rounds = [divmod(i, len(OTHERS)) for i in range(len(found.alternatives))]
    looks = [{"color": OTHERS[i], "marker": MARKS[k % len(MARKS)]} for k, i in rounds]
    return [(found.planned, {"color": PLANNED, "marker": "o"}), *zip(found.alternatives, looks, strict=True)]


def changes_from_planned(found: Forecast, ax: "Axes | None" = None) -> "Axes":
    """Forecast final loss relative to that under the planned schedule in percent, one row for each alternative.

    Raises:
      ValueError: there is no alternative, or no forecast.
    """
    others = _outlooks(found)[1:]
    require(others, f"expected forecasts of alternatives, found none; the fit is {found.status}")
    ax = axes_or_new(ax)
    for row, (outlook, look) in enumerate(others):
        ax.plot(100 * np.array(outlook.excess_interval), (row, row), "|-", ms=6, lw=1.2, color=look["color"])
        ax.plot(100 * outlook.excess, row, ms=4, ls="", **look)
    ax.axvline(0, color=PLANNED, lw=0.8)
    ax.set_yticks(np.arange(len(others)), [outlook.name for outlook, _ in others])
    ax.set(xlabel="change of the final loss, %", ylim=(len(others) - 0.5, -0.5))
    title(ax, f"change from planned, {100 * found.level:g} % intervals")
    return ax


def save_forecast(found: Forecast, curve: LossCurve, path: Path) -> None:
    """Draws the run and the forecast losses beside changes from the planned one, if any, and writes the picture."""
    compared = len(_outlooks(found)) > 1
    with picture(path, 11 if compared else 6.5, 4.2) as figure:
        left, *right = figure.subplots(1, 1 + compared, squeeze=False, width_ratios=(3, 2)[: 1 + compared])[0]
        forecast_of(found, curve, left)
        for ax in right:
            changes_from_planned(found, ax)
