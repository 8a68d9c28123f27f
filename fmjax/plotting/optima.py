"""Pictures of a transfer: optima against what they depend on, and loss above the best around them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fmjax.plotting.style import Path, axes_or_new, color_of, legend, log_ticks, picture, title
from fmjax.scaling.power_laws import OptimaPowerLaw
from fmjax.scaling.transfers import CellTransfer, Transfer
from fmjax.searching.sweeps import SEARCHED_RATIOS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXIS = {"peak_lr": "peak learning rate", "total_steps": "updates", "model_size": "model size, parameters"}
SHORT = {"peak_lr": "peak", "total_steps": "T", "model_size": "N"}


def optima_against(found: Transfer, variable: str, ax: "Axes | None" = None) -> "Axes":
    """Measured optima with intervals against a variable, predicted ones beside, and the power law; both axes log."""
    ax = axes_or_new(ax)
    cells = [cell for cell in found.cells if cell.measured is not None]
    others = [name for name in _differing(found) if name != variable]
    series: dict[tuple[float, ...], list[CellTransfer]] = {}
    for cell in cells:
        series.setdefault(tuple(_variable(cell, name) for name in others), []).append(cell)
    for i, (fixed, members) in enumerate(series.items()):
        x = _optima(members, variable, _label(others, fixed), color_of(i), ax)
        if found.measured is not None and variable in found.measured.exponents:
            _line(found.measured, variable, dict(zip(others, fixed, strict=True)), x, color_of(i), ax)
    ax.set(xlabel=AXIS[variable], ylabel="best annealing ratio", xscale="log", yscale="log")
    title(ax, "measured (dots, 90 %), predicted (crosses), law (lines)")
    log_ticks(ax.xaxis, [_variable(cell, variable) for cell in cells])
    log_ticks(ax.yaxis)
    legend(ax)
    return ax


def _optima(members: Sequence[CellTransfer], variable: str, label: str, color: str, ax: "Axes") -> np.ndarray:
    """Draws measured and predicted optima of one series, and returns where along x they are."""
    x = np.array([_variable(cell, variable) for cell in members], float)
    y = np.array([cell.measured.ratio for cell in members])  # type: ignore[union-attr]
    ends = np.array([cell.measured.interval for cell in members])  # type: ignore[union-attr]
    ends = np.where(np.isfinite(ends) & (ends > 0), ends, np.array([0.01, 1.0]))
    ax.errorbar(x, y, np.abs(ends.T - y), fmt="o", ms=4, lw=1, capsize=2, color=color, label=label or None)
    guessed = [(at, cell.predicted.cell.best_ratio) for at, cell in zip(x, members, strict=True) if cell.predicted]
    ax.plot(*np.array(guessed).reshape(-1, 2).T, "x", ms=5, color=color)
    return x


def _label(names: Sequence[str], values: Sequence[float | str]) -> str:
    return ", ".join(f"{SHORT[name]} {value:g}" for name, value in zip(names, values, strict=True))


def _differing(found: Transfer) -> list[str]:
    """Variables known of all cells that differ."""
    values = {name: {_variable(cell, name) for cell in found.cells} for name in AXIS}
    return [name for name, seen in values.items() if len(seen) > 1 and None not in seen]


def _variable(cell: CellTransfer, name: str) -> Any:
    return cell.tried.model_size if name == "model_size" else getattr(cell.tried.schedule, name)


def _line(law: OptimaPowerLaw, variable: str, fixed: dict[str, float], x: np.ndarray, color: str, ax: "Axes") -> None:
    known = {name: value for name, value in fixed.items() if name in law.exponents}
    at = np.geomspace(x.min(), x.max(), 2)
    ax.plot(at, [law.at(**known, **{variable: value}) for value in at], "-", lw=1, alpha=0.6, color=color)


def regret_against_ratio(cells: Sequence[CellTransfer], ax: "Axes | None" = None) -> "Axes":
    """Final loss above the best against annealing ratio: measured as dots, predicted as lines."""
    ax, sizes = axes_or_new(ax), {cell.tried.model_size for cell in cells}
    for i, cell in enumerate(cells):
        color, schedule = color_of(i), cell.tried.schedule
        label = f"peak {schedule.peak_lr:.3g}, {schedule.total_steps} updates, {schedule.decay}"
        label += f", N {cell.tried.model_size:.3g}" if len(sizes) > 1 and cell.tried.model_size else ""
        ax.plot(cell.tried.distinct, cell.tried.means - cell.tried.means.min(), "o", ms=4, color=color, label=label)
        if cell.predicted is not None:
            ax.plot(SEARCHED_RATIOS, cell.predicted.losses - cell.predicted.losses.min(), "-", lw=1, color=color)
    worst = float(np.median([np.ptp(cell.tried.means) for cell in cells]))
    ax.set(xlabel="annealing ratio", ylabel="final loss above the best", ylim=(-0.03 * worst, 1.5 * worst))
    title(ax, "regret: measured (dots), predicted (lines)")
    legend(ax)
    return ax


def save_transfer(found: Transfer, path: Path) -> None:
    """Draws optima against each variable that differs beside regret against ratio, and writes the picture."""
    variables = _differing(found) if any(cell.measured is not None for cell in found.cells) else []
    with picture(path, 5 * (len(variables) + 1), 4) as figure:
        *panels, last = figure.subplots(1, len(variables) + 1, squeeze=False)[0]
        for variable, ax in zip(variables, panels, strict=True):
            optima_against(found, variable, ax)
        regret_against_ratio(found.cells, last)
