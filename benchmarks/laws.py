"""Compares laws on runs of one or more manifests: error on unseen runs, and what the ratio they choose would cost.

    python -m benchmarks.laws MANIFEST [MANIFEST ...] [--runs GLOBS] [--train split:train] [--law NAME ...]

Runs of several manifests are called FOLDER/RUN. Among unseen runs that differ in nothing but their annealing ratio, the
regret of a law is how much worse the measured final loss is of the ratio that its predictions choose than that of the
best one; shown is the greatest.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import fmjax
from benchmarks.effects_choice import table
from fmjax import laws
from fmjax.curves import manifest
from fmjax.fitting.comparison import Entry

HEADER = ("law", "unseen %", "worst %", "final loss %", "worst regret", "fitted %", "parameters", "seconds", "status")


def load(manifests: Sequence[Path]) -> list[fmjax.LossCurve]:
    """The runs of all manifests, under names of their own."""
    if len(manifests) == 1:
        return list(fmjax.load_runs(manifests[0]))
    folders = [path if path.is_dir() else path.parent for path in manifests]
    return [replace(run, name=f"{folder.name}/{run.name}") for folder in folders for run in fmjax.load_runs(folder)]


def regret(entry: Entry, curves: Sequence[fmjax.LossCurve]) -> float | None:
    """The greatest regret of a cell, None without a cell of several ratios."""
    evaluation, cells = entry.evaluation, defaultdict(list)
    for run, curve in zip(evaluation.runs, curves, strict=True):
        if isinstance(curve.schedule, fmjax.WSD) and run.name not in evaluation.trained:
            cell = replace(curve.schedule, anneal_ratio=0.5)
            cells[cell, curve.model_size].append((run.final_loss_predicted, run.final_loss))
    return max((_cost(cell) for cell in cells.values() if len(cell) > 1), default=None)


def _cost(cell: Sequence[tuple[float, float]]) -> float:
    """Regret of the best predicted of (predicted, measured) losses; of equally good ones, of the worst."""
    best = min(predicted for predicted, _ in cell)
    chosen = max(measured for predicted, measured in cell if predicted <= best * (1 + 1e-9))
    return chosen - min(measured for _, measured in cell)


def line(entry: Entry, curves: Sequence[fmjax.LossCurve]) -> list[str]:
    """A law's figures."""
    found, cost = entry.evaluation, regret(entry, curves)
    errors = (found.test_mape_percent, entry.worst_percent, entry.final_loss_percent)
    shown = [f"{error:.3f}" for error in errors] + ["-" if cost is None else f"{cost:.4f}"]
    rest = [f"{found.train_mape_percent:.3f}", f"{entry.parameters}", f"{entry.seconds:.1f}", found.fit.message]
    return [found.fit.law.name, *shown, *rest]


def main() -> None:
    """Prints the table."""
    arguments = _parser().parse_args()
    curves = list(manifest.select_runs(load(arguments.manifests), arguments.runs))
    train = manifest.select_runs(curves, arguments.train)
    found = fmjax.compare(curves, train=train, laws=arguments.law)
    print(f"{len(train)} runs fitted, {len(curves) - len(train)} unseen")
    print(table([HEADER, *(line(entry, curves) for entry in found.entries)]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shipped = [Path(fmjax.datasets.DEMO_RUNS)]
    parser.add_argument("manifests", nargs="*", type=Path, default=shipped, metavar="MANIFEST", help="default: shipped")
    parser.add_argument("--runs", default="*", help="runs to look at (default: all)")
    parser.add_argument("--train", default="split:train", help="runs to fit, among them (default: split:train)")
    parser.add_argument("--law", nargs="+", default=list(laws.LAWS), metavar="NAME", help="laws (default: all)")
    return parser


if __name__ == "__main__":
    main()
