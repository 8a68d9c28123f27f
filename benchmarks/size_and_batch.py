"""Measures the law over size, batch and peak rate: how closely it fits, and what it says of runs it has not seen.

    python benchmarks/size_and_batch.py ladder MANIFEST ... [--drop-before 2000]
    python benchmarks/size_and_batch.py sweep TABLE.csv
    python benchmarks/size_and_batch.py experts TABLE.csv ... [--most-tokens 4e9]

``ladder``: runs of several model sizes in one fit, by each law: the objective, and the error of the final losses of
each size under a fit of the others. ``sweep``: one final loss a run, at many peak rates and batch sizes; each cell (a
model size and a number of tokens) is predicted from the others: the mean error of its final losses, and the regret of
the rate and batch of least predicted loss among those tried; by the law alone, and corrected by the measured final
losses of the other cells as ``recommend`` corrects. Batch sizes above the median are then predicted from those
at most half as large. Last comes the regret of the rate and batch that the published Step Law gives for the cell,
rounded to the nearest run of the table. ``experts``: tables with a column ``family``, of mixtures of experts and dense
models; runs of
all families up to a number of tokens are fitted, and those beyond predicted, with a level and a noise factor of each
family or all taken for one. Then each family in turn keeps its runs at the fewest tokens alone, and its others up to
that number are predicted, for the most part from the other families. The Step Law stands beside the cells beyond, with
all parameters of a model and with the active ones.
"""

import argparse
import csv
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
    return _errors_at(problem, fit.vector, tested)


def _errors_at(problem: Problem, vector: np.ndarray, tested: np.ndarray) -> np.ndarray:
    ends = np.array([run.final_loss_predicted for run in measure(problem, vector, usable=tested)])
    return ends[tested] / np.array([curve.loss[-1] for curve in problem.curves])[tested] - 1


def errors_of_any(problem: Problem, fit: fmjax.FitResult, tested: np.ndarray) -> np.ndarray:
    """``final_errors`` also of a fit that did not settle, or that leaves parameters open which do not matter here.

    A parameter that is left open is put at two values. The errors are NaN where they depend on which.
    """
    one, other = (
        _errors_at(problem, np.where(np.isnan(fit.vector), value, fit.vector), tested) for value in (0.5, 2.0)
    )
    return np.where(np.isclose(one, other, rtol=0.0, atol=1e-9), one, np.nan)


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
        errors = [errors_of_any(problem, one, ~group) for one, group in zip(others, groups, strict=True)]
        each = "  ".join(f"{100 * np.mean(np.abs(error)):.2f}" for error in errors)
        print(f"{name:24s} {1e4 * fit.objective:6.2f}e-4  {each}   {fit.message}", flush=True)
        if name == "intrinsic-momentum":
            print_exponents(fit)


def judged(error: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, float]:
    """Absolute errors of predictions of a cell, and the regret of the run of least predicted loss.

    A law that is blind to the rate predicts one loss for several runs: its regret is the mean of theirs. A law whose
    fit leaves the losses open chooses nothing.
    """
    predicted = measured * (1 + error)
    if np.isnan(predicted).any():
        return np.abs(error), float("nan")
    chosen = predicted <= predicted.min() * (1 + 1e-12)
    return np.abs(error), measured[chosen].mean() / measured.min() - 1


def step_law(parameters: float, tokens: float) -> tuple[float, float]:
    """Peak rate and tokens an update of the published Step Law: 1.79 N^-0.713 D^0.307 and 0.58 D^0.571.

    N counts all parameters but those of embeddings, D tokens. It is a reference of this benchmark and of nothing else.
    Source: arXiv 2503.04715.

    >>> rate, batch = step_law(1e9, 1e11)
    >>> f"{rate:.3g} {batch:.3g}"
    '0.00164 1.11e+06'
    """
    return 1.79 * parameters**-0.713 * tokens**0.307, 0.58 * tokens**0.571


def step_law_regret(parameters: float, tokens: float, cell: Sequence[fmjax.LossCurve]) -> float:
    """Measured loss of the run nearest to the Step Law's choice, by log rate and log batch, over the least, minus 1.

    The cell has all its runs, those that diverged too: so may the run at a published choice have done.
    """
    tried = np.array([(float(curve.schedule.peak_lr), curve.tokens_per_step) for curve in cell], float)
    nearest = np.argmin(np.sum(np.log(tried / np.array(step_law(parameters, tokens))) ** 2, axis=1))
    measured = np.array([curve.final_loss_measured for curve in cell])
    return float(measured[nearest] / measured.min() - 1)


def print_step_law(name: str, curves: Sequence[fmjax.LossCurve], parameters: np.ndarray, tested: np.ndarray) -> None:
    """Prints mean and worst regret of the Step Law over the cells of the runs marked in ``tested``."""
    cells = np.array(cells_of(curves))
    regrets = []
    for cell in sorted(set(cells[tested].tolist())):
        places = np.flatnonzero(cells == cell)
        own = [curves[place] for place in places]
        tokens = float(np.median([curve.schedule.total_steps * curve.tokens_per_step for curve in own]))
        regrets.append(100 * step_law_regret(parameters[places[0]], tokens, own))
    print(f"{name}   regret %: mean, worst  {np.mean(regrets):.3f}, {np.max(regrets):.3f}   cells {len(regrets)}")


def whole_sizes(path: str, curves: Sequence[fmjax.LossCurve]) -> list[float]:
    """All parameters of each model: ``load_sweep`` takes the active ones. Names of runs end in the number of a row."""
    with open(path, newline="", encoding="utf-8") as file:
        sizes = [float(row["model_size"]) for row in csv.DictReader(file)]
    return [sizes[int(curve.name.rpartition("-")[2]) - 1] for curve in curves]


def said_of(cells: Sequence[tuple[np.ndarray, float]]) -> str:
    """Mean error over all runs, mean and worst regret over cells, in percent."""
    errors, regrets = zip(*cells, strict=True)
    error, mean, worst = (100 * x for x in (np.mean(np.concatenate(errors)), np.mean(regrets), np.max(regrets)))
    return f"{error:.3f}   {mean:.3f}, {worst:.3f}"


def sweep(path: str, forms: Sequence[str]) -> None:
    """Prints errors and regrets of cells predicted from the others."""
    read = load_sweep(path, schedule=SCHEDULE)
    tried = [curve for curve in read if curve.schedule.total_steps >= LEAST_UPDATES]
    curves, notes = without_diverged(tried)
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
        fitted = np.mean(np.abs(errors_of_any(problem, fit, everything)))
        alone: list[tuple[np.ndarray, float]] = []
        corrected: list[tuple[np.ndarray, float]] = []
        for one, group in zip(others, groups, strict=True):
            error, own = errors_of_any(problem, one, everything), losses[~group]
            alone.append(judged(error[~group], own))
            if one.law.spans_batches:
                moved = np.exp(corrections(curves, error, group))
                corrected.append(judged((1 + error[~group]) * moved - 1, own))
        larger = np.mean(np.abs(errors_of_any(problem, small, doubled)))
        print(f"{name:24s} {100 * fitted:.3f}   {said_of(alone)}   {100 * larger:.3f}   {fit.message}", flush=True)
        if corrected:
            print(f"{'  corrected':24s} -       {said_of(corrected)}", flush=True)
        if name == "intrinsic-momentum":
            print_exponents(fit)
    print_step_law("published Step Law", tried, np.array(whole_sizes(path, tried)), np.ones(len(tried), bool))


def beyond(name: str, curves: Sequence[fmjax.LossCurve], fitted: np.ndarray, tested: np.ndarray) -> None:
    """Prints errors and regrets of cells beyond those fitted, by the law alone and corrected."""
    options = fmjax.FitOptions(drop_warmup=False, starts=2)
    problem = prepare(make_law("intrinsic-momentum"), curves, fitted=fitted, options=options)
    fit = fit_groups(problem, fitted[None], options)[0]
    error = final_errors(problem, fit, np.ones(len(curves), bool))
    moved = np.zeros(len(curves))
    moved[~fitted] = corrections(curves, error, fitted)
    losses, cells = np.array([curve.final_loss_measured for curve in curves]), np.array(cells_of(curves))
    groups = [(cells == cell) & tested for cell in sorted(set(cells[tested].tolist()))]
    alone = said_of([judged(error[group], losses[group]) for group in groups])
    corrected = said_of([judged((1 + error[group]) * np.exp(moved[group]) - 1, losses[group]) for group in groups])
    print(f"{name:28s} {100 * np.mean(np.abs(error[fitted])):.3f}   {alone}   {corrected}   {fit.message}", flush=True)


def experts(paths: Sequence[str], most_tokens: float) -> None:
    """Prints errors and regrets of families predicted at more tokens."""
    tried: list[fmjax.LossCurve] = []
    sizes: list[float] = []
    for path in paths:
        long = [run for run in load_sweep(path, schedule=SCHEDULE) if run.schedule.total_steps >= LEAST_UPDATES]
        tried += [dataclasses.replace(curve, name=f"{path}:{curve.name}") for curve in long]
        sizes += whole_sizes(path, long)
    curves, notes = without_diverged(tried)
    print(*notes, sep="\n", end="\n" * bool(notes))
    tokens = np.array([curve.schedule.total_steps * curve.tokens_per_step for curve in curves])
    family = np.array([curve.family for curve in curves])
    fitted = tokens <= most_tokens * 1.01
    names = sorted(set(family.tolist()))
    print(f"{fitted.sum()} runs fitted, {np.sum(~fitted)} predicted; {', '.join(names)}")
    print(f"{'':28s} fitted %  error %, regret %: mean, worst  corrected")
    one = [dataclasses.replace(curve, family=None) for curve in curves]
    for name, runs in (("families", curves), ("families taken for one", one)):
        beyond(name, runs, fitted, ~fitted)
        for own in names if runs is curves else ():
            beyond(f"  {own}", runs, fitted, ~fitted & (family == own)) if np.any(~fitted & (family == own)) else None
    active = np.array([curve.model_size for curve in tried], float)
    later = np.array([run.schedule.total_steps * run.tokens_per_step for run in tried]) > most_tokens * 1.01
    for of, parameters in (("all", np.array(sizes)), ("active", active)):
        print_step_law(f"published Step Law, {of} parameters", tried, parameters, later)
    kept = [curve for curve, is_in in zip(curves, fitted, strict=True) if is_in]
    family, tokens = family[fitted], tokens[fitted]
    for own in names:
        few = (family != own) | (tokens <= tokens[family == own].min() * 1.01)
        if not few.all():
            beyond(f"{own} from the others", kept, few, ~few)


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ladder", "sweep", "experts"))
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--drop-before", type=int, default=0)
    parser.add_argument("--most-tokens", type=float, default=4e9)
    parser.add_argument("--form", action="append", choices=list(FORMS))
    arguments = parser.parse_args()
    forms = arguments.form or list(FORMS)
    with jax.enable_x64(True):
        if arguments.what == "ladder":
            ladder(arguments.paths, arguments.drop_before, forms)
        elif arguments.what == "sweep":
            sweep(arguments.paths[0], forms)
        else:
            experts(arguments.paths, arguments.most_tokens)


if __name__ == "__main__":
    main()
