"""Measures what a prior learned from earlier sets of runs is worth for few runs of another set.

    python benchmarks/priors.py NAME=MANIFEST[,MANIFEST...] NAME=TABLE.csv ... [--drop-before 2000]

Each set in turn is the new one. A prior is learned on all others; some runs of the new set are drawn at random, a few
times, and fitted with the learned prior, with one learned from the other sets alone, with the one that ships, and with
none. Printed are the mean error of the final losses of all other runs of the set, how many of the draws determined the
law, and the mean error over the draws that determine it with every prior and none.

The prior that ships was made from sets like these. Where the new one is among them it has been seen, and so has a part
of the learned prior, which starts from it; only the one learned from the other sets alone has not.
"""

import argparse
import dataclasses

import jax
import numpy as np
from size_and_batch import LEAST_UPDATES, SCHEDULE, final_errors, solved

import fmjax
from fmjax.curves.divergence import without_diverged
from fmjax.fitting.priors import Priors
from fmjax.importers import load_sweep
from fmjax.scaling.prior_learning import LearnedPrior


def read_set(paths: str) -> list[fmjax.LossCurve]:
    """The runs of a set, each named by its file."""
    found = []
    for path in paths.split(","):
        if path.endswith(".csv"):
            long = [
                curve for curve in load_sweep(path, schedule=SCHEDULE) if curve.schedule.total_steps >= LEAST_UPDATES
            ]
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


def mean_size(errors: list[np.ndarray], chosen: np.ndarray) -> float:
    """Mean absolute error in percent over the draws chosen; NaN without any."""
    kept = [np.abs(own) for own, is_in in zip(errors, chosen, strict=True) if is_in]
    return 100 * float(np.mean(np.concatenate(kept))) if kept else float("nan")


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
    alone = dataclasses.replace(options, prior=None)
    with jax.enable_x64(True):
        for new in arguments.only or sets:
            curves = sets[new]
            others = {name: runs for name, runs in sets.items() if name != new}
            learned, unaided = (fmjax.learn_prior(others, options=one) for one in (options, alone))
            runs = max(4, round(len(curves) / 25))
            groups = drawn_groups(curves, runs, arguments.draws)
            print(f"{new}: {runs} of {len(curves)} runs fitted, {arguments.draws} draws", flush=True)
            show_prior(learned)
            told = {"learned": learned.prior, "others alone": unaided.prior, "shipped": "default", "none": None}
            found = {
                name: held_out_errors(curves, groups, prior, arguments.drop_before) for name, prior in told.items()
            }
            known = {name: np.array([np.isfinite(own).all() for own in errors]) for name, errors in found.items()}
            both = np.all(list(known.values()), axis=0)
            for name, errors in found.items():
                means = mean_size(errors, known[name]), mean_size(errors, both)
                count = f"determined in {known[name].sum()} of {len(errors)}"
                print(f"  {name:12s} {means[0]:.3f} %   {count}   {means[1]:.3f} % in the {both.sum()} of all")


if __name__ == "__main__":
    main()
