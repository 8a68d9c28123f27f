"""The closed loop: plan from small and short runs, then look at what training gave.

    python -m benchmarks.closed_loop [MANIFEST] [--law NAME] [--samples 200]

Without a manifest: the shipped curves of the first seed, one set after the other. Runs that differ in nothing but their
annealing ratio make a cell. Each cell of the longest runs of its model size, peak rate and batch size is planned in up
to three ways, where there are runs to plan from at its peak rate:

- longer: from the shorter runs of its own model and batch size;
- larger: from the shorter runs of smaller models alone, where there are the three sizes that a power law takes;
- other batch: from runs of its own model size and length in other batches, of which there are three at least.

``fmjax.recommend`` chooses among the ratios that were tried and predicts the final loss there. Beside it, "copied"
takes the ratio that was best in the cell of most parameters and updates it may know, or of the nearest batch; "20 %"
takes the ratio nearest to 0.2.
Regret is the measured final loss of a choice over that of the best ratio, less 1, in percent.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fmjax
from benchmarks.effects_choice import table
from benchmarks.transfer import RULE
from fmjax.scaling.optima import Tried, tried

LEAST_SIZES = 3
"""Model sizes from which a term in the model size can be told."""

LEAST_BATCHES = 3
"""Batch sizes from which those in the batch size can."""

OTHER_SEED = re.compile(r"-s\d+-")
"""In names of runs of another seed. They end lower or higher by more than plans miss, and have one length."""

HEADER = ["plan", "cell", "best", "recommended", "regret %", "expected %", "copied", "regret %", "20 %: regret %"]
HEADER += ["predicted loss", "measured", "error %", "in interval"]


class Loop(NamedTuple):
    """One cell planned from runs that are smaller or shorter, and what training gave."""

    kind: str
    cell: Tried
    ratio: float
    expected: float
    predicted: float
    interval: tuple[float, float]
    copied: float

    @property
    def measured(self) -> float:
        """Measured final loss at the ratio recommended."""
        return self.cell.loss(self.ratio)

    @property
    def inside(self) -> bool:
        """Whether that lies in the predicted interval."""
        return self.interval[0] <= self.measured <= self.interval[1]

    def regret(self, ratio: float) -> float:
        """Regret of a ratio, in percent."""
        return 100 * self.cell.regret(ratio) / float(self.cell.means.min())

    def line(self) -> list[str]:
        """The loop as a line of the table."""
        cell, error = self.cell, 100 * (self.predicted / self.measured - 1)
        name = f"N {cell.model_size:g}, B {cell.tokens_per_step:g}, T {cell.total_steps}, peak {cell.peak_lr:g}"
        low, high = self.interval
        chosen = [f"{self.ratio:g}", f"{self.regret(self.ratio):.3f}", f"{100 * self.expected / self.predicted:.3f}"]
        others = [f"{self.copied:g}", f"{self.regret(self.copied):.3f}", f"{self.regret(RULE):.3f}"]
        losses = [f"{self.predicted:.4f} ({low:.4f} ... {high:.4f})", f"{self.measured:.4f}", f"{error:+.2f}"]
        return [self.kind, name, f"{cell.best:g}", *chosen, *others, *losses, "yes" if self.inside else "no"]


def loops(curves: Sequence[fmjax.LossCurve], law: str | None, samples: int) -> Iterator[Loop]:
    """Every cell of the longest runs, planned from what is smaller, shorter or of another batch."""
    cells = [cell for cell in tried(curves) if cell.schedule.decay == "linear"]
    longest: dict[object, int] = defaultdict(int)
    for cell in cells:
        longest[_setup(cell)] = max(longest[_setup(cell)], cell.total_steps)
    for cell in cells:
        if cell.total_steps < longest[_setup(cell)]:
            continue
        at_peak = [curve for curve in curves if np.isclose(curve.peak_lr, cell.peak_lr)]
        shorter = [curve for curve in at_peak if _has_batch(curve, cell) and _updates(curve) < cell.total_steps]
        for kind, known, least in (
            ("longer", [curve for curve in shorter if curve.model_size == cell.model_size], 1),
            ("larger", [curve for curve in shorter if curve.model_size < (cell.model_size or 0)], LEAST_SIZES),
            ("other batch", [curve for curve in at_peak if _is_beside(curve, cell)], LEAST_BATCHES),
        ):
            source, setups = _source(known, cell), {(curve.model_size, curve.tokens_per_step) for curve in known}
            if source is not None and len(setups) >= least:
                yield _loop(kind, cell, known, source, law, samples)


def _setup(cell: Tried) -> tuple[object, ...]:
    """What runs of a cell have in common with longer and shorter ones."""
    return cell.model_size, cell.tokens_per_step, cell.peak_lr


def _updates(curve: fmjax.LossCurve) -> int:
    return int(curve.schedule.total_steps)


def _has_batch(curve: fmjax.LossCurve, cell: Tried) -> bool:
    return curve.tokens_per_step == cell.tokens_per_step


def _is_beside(curve: fmjax.LossCurve, cell: Tried) -> bool:
    alike = curve.model_size == cell.model_size and _updates(curve) == cell.total_steps
    return alike and not _has_batch(curve, cell)


def _source(known: Sequence[fmjax.LossCurve], cell: Tried) -> Tried | None:
    """The cell to copy from: that of most parameters, then updates, then of the nearest batch."""
    cells = [other for other in tried(known) if other.schedule.decay == cell.schedule.decay]

    def likeness(other: Tried) -> tuple[float, float, float]:
        apart = np.log((other.tokens_per_step or 1) / (cell.tokens_per_step or 1))
        return other.model_size or 0, other.total_steps, -abs(apart)

    return max(cells, key=likeness, default=None)


def _loop(
    kind: str, cell: Tried, known: Sequence[fmjax.LossCurve], source: Tried, law: str | None, samples: int
) -> Loop:
    batch = {"tokens_per_step": cell.tokens_per_step} if kind == "other batch" else {}
    plan = fmjax.recommend(known, anneal_ratio=cell.distinct, law=law, samples=samples, **cell.target, **batch).best
    assert plan.cell.loss_interval is not None
    copied, chosen = cell.nearest(source.best), plan.cell
    return Loop(kind, cell, chosen.best_ratio, plan.regret, chosen.loss, plan.cell.loss_interval, copied)


def main() -> None:
    """Prints the table and what it amounts to."""
    arguments = _parser().parse_args()
    sets = [arguments.manifest] if arguments.manifest else fmjax.datasets.SETS.values()
    chosen = [[curve for curve in fmjax.load_runs(one) if not OTHER_SEED.search(curve.name)] for one in sets]
    found = [loop for curves in chosen for loop in loops(curves, arguments.law, arguments.samples)]
    print(table([HEADER, *(loop.line() for loop in found)]))
    for kind in dict.fromkeys(loop.kind for loop in found):
        print(summary(kind, [loop for loop in found if loop.kind == kind]))


def summary(kind: str, found: Sequence[Loop]) -> str:
    """Regrets and errors of one kind of plan, in a sentence."""
    ways = {"recommended": [loop.ratio for loop in found], "copied": [loop.copied for loop in found]}
    ways["20 %"] = [RULE] * len(found)
    regrets = {way: [loop.regret(x) for loop, x in zip(found, ratios, strict=True)] for way, ratios in ways.items()}
    shown = ", ".join(f"{way} {np.mean(values):.3f} / {max(values):.3f}" for way, values in regrets.items())
    error = np.median([abs(loop.predicted / loop.measured - 1) for loop in found])
    inside = f"{sum(loop.inside for loop in found)} of {len(found)}"
    return f"{kind}: regret % (mean / worst) {shown}; median error of the loss {error:.2%}, {inside} in their intervals"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", nargs="?", type=Path, metavar="MANIFEST")
    parser.add_argument("--law", metavar="NAME", help="law (default: the one that predicts runs left out best)")
    parser.add_argument("--samples", type=int, default=200, help="bootstrap samples (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main()
