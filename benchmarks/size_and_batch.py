"""Measures the law over size, batch and peak rate: how closely it fits, and what it says of runs it has not seen.

    python benchmarks/size_and_batch.py ladder MANIFEST ... [--drop-before 2000]
    python benchmarks/size_and_batch.py sweep TABLE.csv

``ladder``: runs of several model sizes in one fit, by each law: the objective, and the error of the final losses of
each size under a fit of the others. ``sweep``: one final loss a run, at many peak rates and batch sizes; each cell (a
model size and a number of tokens) is predicted from the others: the mean error of its final losses, and the regret of
the rate and batch of least predicted loss among those tried; by the law alone, and corrected by the measured final
losses of the other cells as ``recommend`` corrects. Batch sizes above the median are then predicted from those
at most half as large.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import fmjax
from fmjax.curves.divergence import cells_of, without_diverged
from fmjax.fitting.fits import fit_groups, measure
from fmjax.fitting.priors import Priors
from fmjax.fitting.problem import Problem, prepare
from fmjax.importers import load_sweep
from fmjax.laws import Law, make_law
from fmjax.planning.correction import CorrectionPrior, Points, Settings
from fmjax.planning.predictor import HOLDS

SUM_ONLY = dict.fromkeys(("gamma", "q", "kappa", "phi"), (0.0, 0.0))
"""A prior that takes size and batch out of all terms but C n^-beta."""

FORMS: dict[str, tuple[str, dict[str, Any], Priors]] = {
    "intrinsic-momentum": ("intrinsic-momentum", {}, "default"),
    "  without priors": ("intrinsic-momentum", {}, None),
    "  size as a sum only": ("intrinsic-momentum", {}, SUM_ONLY),
    "lr-annealing": ("lr-annealing", {}, "default"),
    "multi-power": ("multi-power", {}, "default"),
    "chinchilla": ("chinchilla", {}, "default"),
}

SCHEDULE = "kind = 'cosine', warmup_steps = 2000, final_lr = 1e-5"
"""That of all runs of a sweep."""

LEAST_UPDATES = 6000
"""Runs of a sweep with fewer are mostly warmup."""


def solved(
    law: Law, curves: Sequence[fmjax.LossCurve], groups: np.ndarray, options: fmjax.FitOptions
) -> tuple[Problem, list[fmjax.FitResult]]:
    """A fit of each group of runs ``[groups, runs]``."""
    problem = prepare(law, curves, fitted=[True] * len(curves), options=options)
    return problem, fit_groups(problem, groups, options)


def final_errors(problem: Problem, fit: fmjax.FitResult, tested: np.ndarray) -> np.ndarray:
    """Relative errors of the last rows of the runs marked in ``tested``; NaN where the fit leaves something open.

    Not of ``final_loss``, which some runs measure on other data than their rows.
    """
    if not fit.ok:
        return np.full(int(tested.sum()), np.nan)
    ends = np.array([run.final_loss_predicted for run in measure(problem, fit.vector, usable=tested)])
    return ends[tested] / np.array([curve.loss[-1] for curve in problem.curves])[tested] - 1


def corrections(curves: Sequence[fmjax.LossCurve], errors: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Mean correction of log loss for runs not ``fitted``, by relative ``errors`` of the law on those that are.

    It is that of ``recommend``: see ``fmjax.planning.correction``.
    """
    known, left = ([curve for curve, is_in in zip(curves, mask, strict=True) if is_in] for mask in (fitted, ~fitted))
    residual = -np.log1p(errors[fitted])
    prior = CorrectionPrior.of(known, float(np.sqrt(np.mean(residual**2))), HOLDS[False])
    settings = Settings.of(Points.of(known, batches=True), residual, prior)
    return settings.at(Points.of(left, batches=True)).mean(residual)


def without_each(labels: Sequence[Any]) -> tuple[list[Any], np.ndarray]:
    """The distinct labels, and a group of all runs but those of each."""
    distinct = sorted(set(labels))
    return distinct, np.array([[label != out for label in labels] for out in distinct])


def print_exponents(fit: fmjax.FitResult) -> None:
    """Prints the prior of each exponent and what the data made of it."""
    for learned in fit.prior:
        print(
            f"    {learned.name:6s} prior {learned.mean:.2f} +- {learned.sd:.2f}, "
            f"found {learned.estimate:.3f} +- {learned.estimate_sd:.3f}, told by the data {learned.told:.0%}"
        )


def ladder(paths: Sequence[str], drop_before: int, forms: Sequence[str]) -> None:
    """Prints objective and errors of left-out sizes for each form of law."""
    curves = [
        dataclasses.replace(curve, name=f"{path}:{curve.name}") for path in paths for curve in fmjax.load_runs(path)
    ]
    sizes, groups = without_each([curve.model_size for curve in curves])
    said = "  ".join(f"{size / 1e6:.0f}M" for size in sizes)
    print(f"{len(curves)} runs; drop_before {drop_before}")
    print(f"{'law':24s} objective  |final error| % of each size left out: {said}")
    for name in forms:
        law, held, prior = FORMS[name]
        options = fmjax.FitOptions(drop_before=drop_before, prior=prior, starts=3)
        every = np.concatenate([np.ones((1, len(curves)), bool), groups])
        problem, (fit, *others) = solved(make_law(law, **held), curves, every, options)
        errors = [final_errors(problem, one, ~group) for one, group in zip(others, groups, strict=True)]
        each = "  ".join(f"{100 * np.mean(np.abs(error)):.2f}" for error in errors)
        print(f"{name:24s} {1e4 * fit.objective:6.2f}e-4  {each}   {fit.message}", flush=True)
        if name == "intrinsic-momentum":
            print_exponents(fit)


def judged(error: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, float]:
    """Absolute errors of predictions of a cell, and the regret of the run of least predicted loss."""
    return np.abs(error), measured[np.argmin(measured * (1 + error))] / measured.min() - 1


def said_of(cells: Sequence[tuple[np.ndarray, float]]) -> str:
    """Mean error over all runs, mean and worst regret over cells, in percent."""
    errors, regrets = zip(*cells, strict=True)
    error, mean, worst = (100 * x for x in (np.mean(np.concatenate(errors)), np.mean(regrets), np.max(regrets)))
    return f"{error:.3f}   {mean:.3f}, {worst:.3f}"


def sweep(path: str, forms: Sequence[str]) -> None:
    """Prints errors and regrets of cells predicted from the others."""
    read = load_sweep(path, schedule=SCHEDULE)
    curves = [curve for curve in read if curve.schedule.total_steps >= LEAST_UPDATES]
    curves, notes = without_diverged(curves)
    print(*notes, sep="\n")
    cells, groups = without_each(cells_of(curves))
    losses = np.array([curve.final_loss_measured for curve in curves])
    batches = np.array([curve.tokens_per_step for curve in curves])
    half = np.median(batches) / 2
    doubled = batches > 2 * half * (1 - 1e-6)
    every = np.concatenate([np.ones((1, len(curves)), bool), groups, batches[None] <= half * (1 + 1e-6)])
    print(f"{len(curves)} runs, {len(cells)} cells")
    print(f"{'law':24s} fitted %  other cells %  regret %: mean, worst  larger batches %")
    everything = np.ones(len(curves), bool)
    for name in forms:
        law, held, prior = FORMS[name]
        options = fmjax.FitOptions(drop_warmup=False, prior=prior, starts=2)
        problem, (fit, *others, small) = solved(make_law(law, **held), curves, every, options)
        fitted = np.mean(np.abs(final_errors(problem, fit, everything)))
        alone: list[tuple[np.ndarray, float]] = []
        corrected: list[tuple[np.ndarray, float]] = []
        for one, group in zip(others, groups, strict=True):
            error, own = final_errors(problem, one, everything), losses[~group]
            alone.append(judged(error[~group], own))
            if one.law.spans_batches:
                moved = np.exp(corrections(curves, error, group))
                corrected.append(judged((1 + error[~group]) * moved - 1, own))
        larger = np.mean(np.abs(final_errors(problem, small, doubled)))
        print(f"{name:24s} {100 * fitted:.3f}   {said_of(alone)}   {100 * larger:.3f}   {fit.message}", flush=True)
        if corrected:
            print(f"{'  corrected':24s} -       {said_of(corrected)}", flush=True)
        if name == "intrinsic-momentum":
            print_exponents(fit)


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ladder", "sweep"))
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--drop-before", type=int, default=0)
    parser.add_argument("--form", action="append", choices=list(FORMS))
    arguments = parser.parse_args()
    forms = arguments.form or list(FORMS)
    with jax.enable_x64(True):
        if arguments.what == "ladder":
            ladder(arguments.paths, arguments.drop_before, forms)
        else:
            sweep(arguments.paths[0], forms)


if __name__ == "__main__":
    main()
