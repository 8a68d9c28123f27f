"""The observations on the optimal annealing ratio of arXiv 2512.13705, measured anew on the shipped curves.

    python -m benchmarks.observations [--plot FILE]

For dense models and mixtures of experts: how the ratio of least final loss changes with the peak rate, the number of
updates, the model size and the batch size, as exponents of one power law; and how that of the training loss and of the
loss on another domain differ from that of the validation loss. For dense models: whether loss follows updates or bytes.
There is a change where the 90 % interval leaves zero out and the p-value is below 0.1, and none where the interval lies
within 0.1 of zero, that is where a doubling, or the other loss, changes the ratio by less than a tenth. An observation
holds where what it says is found, does not hold where the opposite is, and is open in between.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

import fmjax
from benchmarks.effects_choice import table
from fmjax.datasets import SETS
from fmjax.fitting.metrics import percentile_interval
from fmjax.plotting.style import color_of, legend, log_ticks, picture, title
from fmjax.scaling.batch_size import critical_batch_size
from fmjax.scaling.optima import Optimum, Tried, optima, tried
from fmjax.scaling.power_laws import power_law
from fmjax.scaling.transfers import PUBLISHED

STABLE = 0.1
"""An exponent, or a log of a ratio of two optima, is none if its interval lies within this distance of zero."""

UNLIKELY = 0.1
"""A p-value from which on a change may be chance."""

BEGIN = 5
"""Row from which on the smoothed curve of a run exists."""

DRAWS = 4000
"""Draws behind the interval and the p-value of a paired difference."""

LEAST_CELLS = 3
"""Cells from which a paired difference has an interval."""

CLAIMS = {
    "peak_lr": f"power law ({PUBLISHED['peak_lr']:+g} for dense models)",
    "total_steps": f"power law ({PUBLISHED['total_steps']:+g} for experts)",
    "model_size": "stable across sizes",
    "tokens_per_step": "",
}
"""What the paper says of the exponent of each variable; nothing of the last."""

HEADER = ["models", "observation", "measured", "90 % interval", "p of zero", "cells", "the paper", "here"]


class Observation(NamedTuple):
    """A measured exponent or difference beside what the paper says of it."""

    name: str
    value: float
    interval: tuple[float, float]
    p_value: float
    cells: int
    claim: str
    sign: int
    """Sign that the paper says; 0 if it says that there is no change."""

    @property
    def verdict(self) -> str:
        """Whether the paper's observation holds."""
        low, high = self.interval
        if not self.claim:
            return ""
        changes = (low > 0 or high < 0) and self.p_value < UNLIKELY
        if self.sign and changes:
            return "holds" if np.sign(self.value) == self.sign else "does not hold"
        none = max(-low, high) < STABLE
        if self.sign == 0 and (none or changes):
            return "holds" if none else "does not hold"
        return "open"

    def line(self, kind: str) -> list[str]:
        """The observation as a line of the table."""
        interval = "{:+.3f} ... {:+.3f}".format(*self.interval)
        return [kind, self.name, f"{self.value:+.3f}", interval, f"{self.p_value:.3f}", str(self.cells)] + [
            self.claim,
            self.verdict,
        ]


class Cell(NamedTuple):
    """Runs that differ in nothing but their ratio, and the best one."""

    tried: Tried
    best: Optimum

    @property
    def variables(self) -> dict[str, float | None]:
        """What the best ratio may depend on."""
        group = self.tried
        known = {"peak_lr": group.peak_lr, "total_steps": group.total_steps, "model_size": group.model_size}
        return {**known, "tokens_per_step": group.tokens_per_step}

    @property
    def key(self) -> tuple[float | None, ...]:
        """The same of the cell under any loss."""
        return tuple(self.variables.values())


def cells_of(curves: Sequence[fmjax.LossCurve]) -> list[Cell]:
    """Cells of linear anneals with their optima, where at least three ratios were tried."""
    groups = [group for group in tried(curves) if group.schedule.decay == "linear"]
    return [Cell(group, best) for group, best in zip(groups, optima(groups), strict=True) if best is not None]


def exponents(cells: Sequence[Cell]) -> Iterator[Observation]:
    """Exponents of the optimal ratio in all that differs among the cells that bound theirs."""
    bounded = [cell for cell in cells if not cell.best.at_edge]
    law = power_law([cell.variables for cell in bounded], [(cell.best.ratio, cell.best.interval) for cell in bounded])
    for name, one in (law.exponents if law else {}).items():
        sign = int(np.sign(PUBLISHED.get(name, 0)))
        yield Observation(f"best R ~ {name}^e", one.value, one.interval, one.p_value, len(bounded), CLAIMS[name], sign)


def difference(cells: Sequence[Cell], others: Sequence[Cell], name: str) -> Iterator[Observation]:
    """Mean log of the other loss's optimal ratio over that of the validation loss, paired by cell.

    Its interval redraws cells, and its p-value flips the signs of the cells' differences.
    """
    there = {cell.key: cell.best for cell in others if not cell.best.at_edge}
    pairs = [(there[cell.key], cell.best) for cell in cells if cell.key in there and not cell.best.at_edge]
    logs = np.log([other.ratio / best.ratio for other, best in pairs])
    if logs.size < LEAST_CELLS:
        return
    rng = np.random.default_rng(0)
    redrawn = rng.choice(logs, (DRAWS, logs.size)).mean(axis=1)
    p_value = np.mean(np.abs(_flipped(logs, rng)) >= abs(logs.mean()) * (1 - 1e-9))
    low, high = percentile_interval(redrawn)
    claim = "the same" if name == "training" else ""
    title = f"log of best R, {name} over validation"
    yield Observation(title, float(logs.mean()), (low, high), float(p_value), logs.size, claim, 0)


def _flipped(logs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means under all ways to flip signs, or some of them where there are many."""
    if logs.size <= 12:
        signs = np.array(list(itertools.product((-1, 1), repeat=logs.size)))
    else:
        signs = rng.choice((-1, 1), (DRAWS, logs.size))
    return (signs * logs).mean(axis=1)


def under(column: str, kind: str) -> list[fmjax.LossCurve]:
    """The runs of a set with another of their losses as the curve's loss."""
    folder, curves = SETS[kind].parent, fmjax.datasets.proxy_runs(kind)
    files = [np.genfromtxt(folder / f"{curve.name}.csv", delimiter=",", names=True) for curve in curves]
    return [dataclasses.replace(c, loss=file[column], final_loss=None) for c, file in zip(curves, files, strict=True)]


def dense_cells() -> list[Cell]:
    """The cells of dense models; of those that are in both sets, the one with more ratios."""
    wide, more = (cells_of(fmjax.datasets.proxy_runs(kind)) for kind in ("dense", "batches"))
    found = {cell.key: cell for cell in wide}
    for cell in more:
        if cell.key not in found or cell.tried.distinct.size > found[cell.key].tried.distinct.size:
            found[cell.key] = cell
    return list(found.values())


def observed(kind: str, cells: Sequence[Cell], probed: str) -> list[list[str]]:
    """Lines of the table for one kind of model; ``probed`` is its set of runs with three losses."""
    validation = cells_of(fmjax.datasets.proxy_runs(probed))
    found = [*exponents(cells)]
    for column, name in (("train_loss", "training"), ("headers_loss", "other domain")):
        found.extend(difference(validation, cells_of(under(column, probed)), name))
    return [one.line(kind) for one in found]


def regret_of_training(probed: str) -> str:
    """What it costs to choose the ratio by the training loss, in a sentence."""
    there = {cell.key: cell.tried.best for cell in cells_of(under("train_loss", probed))}
    cells = cells_of(fmjax.datasets.proxy_runs(probed))
    costs = [100 * cell.tried.regret(there[cell.key]) / cell.tried.means.min() for cell in cells]
    same = sum(cost == 0 for cost in costs)
    return (
        f"{probed}: the ratio best by training loss is best by validation loss in {same} of {len(costs)} cells; "
        f"it costs {np.mean(costs):.3f} % of the loss on average, at most {max(costs):.3f} %"
    )


def cell_lines(kind: str, cells: Sequence[Cell]) -> Iterator[list[str]]:
    """The optimum of each cell."""
    for group, best in cells:
        interval = "{:.3f} ... {:.3f}".format(*best.interval)
        edge = "at the edge" if best.at_edge else ""
        where = [f"{group.model_size:g}", f"{group.tokens_per_step:g}", f"{group.peak_lr:g}", str(group.total_steps)]
        yield [kind, *where, f"{best.ratio:.3f}", interval, f"{group.means.min():.4f}", edge]


def stems_of(peak: float) -> list[fmjax.LossCurve]:
    """The runs of one seed at a constant rate, by rising batch size."""
    stems = [
        curve
        for curve in fmjax.datasets.proxy_runs("batches")
        if isinstance(curve.schedule, fmjax.Constant) and np.isclose(curve.peak_lr, peak) and "-s" not in curve.name
    ]
    return sorted(stems, key=lambda curve: curve.tokens_per_step or 0)


def shared_loss(pair: Sequence[fmjax.LossCurve]) -> float:
    """A loss that both runs pass, halfway between the first and the last of them; NaN where there is none."""
    high, low = min(curve.loss[BEGIN] for curve in pair), max(curve.loss[-1] for curve in pair)
    return float(np.sqrt(low * high)) if low < high else float("nan")


def batch_lines(stems: Sequence[fmjax.LossCurve]) -> Iterator[list[str]]:
    """For each two batch sizes next to each other, what they need to reach a loss, and the critical batch size there.

    The critical batch size is that of all runs that reach the loss.
    """
    for pair in itertools.pairwise(stems):
        if np.isfinite(loss := shared_loss(pair)):
            both, all_runs = (critical_batch_size(runs, losses=[loss]) for runs in (pair, stems))
            level, (one, two) = all_runs.levels[0], both.levels[0].runs
            spreads = [both.spread_by_updates_percent, both.spread_by_tokens_percent]
            needs = [f"{one.updates:.0f}, {two.updates:.0f}", f"{one.tokens:.3g}, {two.tokens:.3g}"]
            apart = [f"{spread:.2f}" for spread in spreads]
            critical = [f"{level.critical:.0f}", "{:.0f} ... {:.0f}".format(*level.critical_interval), level.status]
            yield [f"{one.tokens_per_step:g}, {two.tokens_per_step:g}", f"{loss:.3f}", *needs, *apart, *critical]


BATCH_HEADER = ["bytes an update", "loss", "updates to it", "bytes to it", "apart by updates %", "apart by bytes %"]
BATCH_HEADER += ["critical batch", "90 % interval", "status"]


AXES = {"peak_lr": "peak learning rate", "total_steps": "updates", "tokens_per_step": "bytes an update"}
"""Variables that a panel of the picture shows the optimum against."""


def draw(path: str, dense: Sequence[Cell], mixtures: Sequence[Cell]) -> None:
    """A panel for each variable, the others as in most cells; the last compares training and validation loss."""
    with picture(path, 4 * (len(AXES) + 1), 3.5) as figure:
        *panels, last = figure.subplots(1, len(AXES) + 1)
        for (name, label), ax in zip(AXES.items(), panels, strict=True):
            usual = {"peak_lr": 0.0025, "total_steps": 2000, "tokens_per_step": 1024.0}
            fixed = {other: value for other, value in usual.items() if other != name}
            for i, (kind, cells) in enumerate((("dense", dense), ("experts", mixtures))):
                if usual_cells := [cell for cell in cells if _is_usual(cell, fixed)]:
                    _series(ax, name, usual_cells, kind, color_of(i))
            ax.set(xlabel=label, xscale="log", yscale="log")
            title(ax, ", ".join(f"{value:g} {AXES[other]}" for other, value in fixed.items()), size=8)
            log_ticks(ax.xaxis)
            log_ticks(ax.yaxis)
            legend(ax)
        panels[0].set_ylabel("best annealing ratio (90 % interval)")
        _training_against_validation(last)


def _is_usual(cell: Cell, fixed: dict[str, float]) -> bool:
    small = 9e4 < (cell.tried.model_size or 0) < 1.1e5
    return small and all(np.isclose(cell.variables[name] or np.nan, value) for name, value in fixed.items())


def _series(ax: Any, name: str, cells: Sequence[Cell], kind: str, color: str) -> None:
    cells = sorted(cells, key=lambda cell: cell.variables[name] or 0)
    x = [cell.variables[name] for cell in cells]
    y = np.array([cell.best.ratio for cell in cells])
    ends = np.clip([cell.best.interval for cell in cells], 0.02, 1).reshape(-1, 2)
    ax.errorbar(x, y, np.abs(ends.T - y), fmt="o-", ms=4, lw=1, capsize=2, color=color, label=f"{kind}, 0.1M")


def _training_against_validation(ax: Any) -> None:
    for i, probed in enumerate(("batches", "moe")):
        there = {cell.key: cell.best.ratio for cell in cells_of(under("train_loss", probed))}
        cells = cells_of(fmjax.datasets.proxy_runs(probed))
        label = {"batches": "dense", "moe": "experts"}[probed]
        found = [(cell.best.ratio, there[cell.key]) for cell in cells]
        ax.plot(*np.array(found).T, "o", ms=4, color=color_of(i), label=label)
    ax.axline((0.2, 0.2), slope=1, lw=0.8, color="gray")
    ax.set(xlabel="best ratio by validation loss", ylabel="best ratio by training loss")
    title(ax, "training against validation, all cells", size=8)
    legend(ax)


def main() -> None:
    """Prints the observations, the optima behind them, and what batches change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", metavar="FILE", help="picture of the optima")
    arguments = parser.parse_args()
    dense, mixtures = dense_cells(), cells_of(fmjax.datasets.proxy_runs("moe"))
    print(table([HEADER, *observed("dense", dense, "batches"), *observed("experts", mixtures, "moe")]))
    print("", regret_of_training("batches"), regret_of_training("moe"), "", sep="\n")
    for peak in sorted({curve.peak_lr for curve in fmjax.datasets.proxy_runs("batches")}):
        if lines := list(batch_lines(stems_of(peak))):
            print(f"Constant rate {peak:g}, 0.1M", table([BATCH_HEADER, *lines]), sep="\n", end="\n\n")
    header = ["models", "size", "bytes an update", "peak rate", "updates", "best R", "90 % interval", "loss", ""]
    print(table([header, *cell_lines("dense", dense), *cell_lines("experts", mixtures)]))
    if arguments.plot:
        draw(arguments.plot, dense, mixtures)


if __name__ == "__main__":
    main()
