"""Measures what a prior learned from earlier sets of runs is worth for few runs of another set.

    python benchmarks/priors.py NAME=MANIFEST[,MANIFEST...] NAME=TABLE.csv ... [--drop-before 2000]

Each set in turn is the new one. A prior is learned on all others; some runs of the new set are drawn at random, a few
times, and fitted with the learned prior, with the one that ships, and with none. Printed are the mean error of the
final losses of all other runs of the set, and how many of the draws determined the law.
"""

import argparse
import dataclasses

import jax
import numpy as np
from size_and_batch import LEAST_UPDATES, final_errors, read_sweep, solved

import fmjax
from fmjax.curves.divergence import without_diverged
from fmjax.fitting.priors import Priors
from fmjax.scaling.prior_learning import LearnedPrior


def read_set(paths: str) -> list[fmjax.LossCurve]:
    """The runs of a set, each named by its file."""
    found = []
    for path in paths.split(","):
        if path.endswith(".csv"):
            long = [curve for curve in read_sweep(path) if curve.schedule.total_steps >= LEAST_UPDATES]
            found += without_diverged(long)[0]
        else:
            found += [dataclasses.replace(curve, name=f"{path}:{curve.name}") for curve in fmjax.load_runs(path)]
    return found


def drawn_groups(curves: list[fmjax.LossCurve], runs: int, draws: int) -> np.ndarray:
    """``[draws, runs]`` groups of so many runs, of two sizes at least where there are any."""
    rng, sizes = np.random.default_rng(0), np.array([curve.model_size for curve in curves])
    groups: list[np.ndarray] = []
    while len(groups) < draws:
        group = np.isin(np.arange(len(curves)), rng.choice(len(curves), runs, replace=False))
        if len(set(sizes[group])) >= min(2, len(set(sizes))):
            groups.append(group)
    return np.array(groups)


def held_out_errors(
    curves: list[fmjax.LossCurve], groups: np.ndarray, prior: Priors, drop_before: int
) -> list[np.ndarray]:
    """For each group the errors of final losses of the runs outside; NaN where it leaves the law open."""
    options = fmjax.FitOptions(drop_before=drop_before, prior=prior, starts=3)
    problem, fits = solved(fmjax.IntrinsicMomentum(rho=1.0), curves, groups, options)
    return [final_errors(problem, fit, ~group) for fit, group in zip(fits, groups, strict=True)]


def show_prior(found: LearnedPrior) -> None:
    """Prints the exponents and what each set said of them."""
    for one in found.exponents:
        said = ", ".join(f"{of.name} {of.estimate:.2f} +- {of.sd:.2f} ({of.moved:+.2f})" for of in one.sets)
        print(
            f"    {one.name:6s} {one.mean:.3f} +- {one.sd:.3f} (ships {one.shipped.mean} +- {one.shipped.sd}): {said}"
        )
    for note in found.notes:
        print(f"    {note}")


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=PATH[,PATH...]")
    parser.add_argument("--drop-before", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--only", action="append", help="names of sets to take as the new one; by default each in turn")
    arguments = parser.parse_args()
    sets = {name: read_set(paths) for name, _, paths in (one.partition("=") for one in arguments.sets)}
    options = fmjax.FitOptions(drop_before=arguments.drop_before, starts=3)
    with jax.enable_x64(True):
        for new in arguments.only or sets:
            curves = sets[new]
            learned = fmjax.learn_prior({name: runs for name, runs in sets.items() if name != new}, options=options)
            runs = max(4, round(len(curves) / 25))
            groups = drawn_groups(curves, runs, arguments.draws)
            print(f"{new}: {runs} of {len(curves)} runs fitted, {arguments.draws} draws", flush=True)
            show_prior(learned)
            for name, prior in {"learned": learned.prior, "shipped": "default", "none": None}.items():
                errors = held_out_errors(curves, groups, prior, arguments.drop_before)
                known = [np.abs(error) for error in errors if np.isfinite(error).all()]
                mean = 100 * np.mean(np.concatenate(known)) if known else np.nan
                print(f"  {name:8s} {mean:.3f} %   determined in {len(known)} of {len(errors)}", flush=True)


if __name__ == "__main__":
    main()
