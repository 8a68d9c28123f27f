"""Measures what few runs of one size say of the others, where only the law's prior determines the fit.

    python benchmarks/few_runs.py MANIFEST ... [--samples 60]

Fits two runs, or one family of schedules, and predicts the final losses of all other runs: the mean absolute error of
the rows of each, and whether the 90 % interval of the bootstrap covers the last row.
"""

import argparse
import dataclasses
from collections.abc import Sequence

import numpy as np

import fmjax
from fmjax.schedules.kinds import Constant, Cosine


def groups_of(curves: Sequence[fmjax.LossCurve]) -> dict[str, list[str]]:
    """Runs to fit, by what they are: a pair of a constant and an annealed run, all that anneal late, all cosines."""
    cosines = [curve.name for curve in curves if isinstance(curve.schedule, Cosine)]
    constant = [curve for curve in curves if isinstance(curve.schedule, Constant)]
    late = [curve.name for curve in curves if curve.name.startswith(("wsd_", "wsdld_"))]
    shortest = min(constant, key=lambda curve: int(curve.schedule.total_steps)).name
    pairs = {f"constant and {name}": [shortest, name] for name in late}
    return {**pairs, "late anneals": late, "cosines": cosines}


def show(curves: Sequence[fmjax.LossCurve], what: str, names: Sequence[str], samples: int) -> None:
    """Prints error and coverage of each other run."""
    train = [curve for curve in curves if curve.name in names]
    options = fmjax.FitOptions(starts=3)
    found = fmjax.evaluate("intrinsic-momentum", curves, train=train, options=options)
    print(f"{what}: {found.fit.message}; {'; '.join(found.fit.notes)}")
    if not found.fit.ok:
        return
    drawn = fmjax.bootstrap("intrinsic-momentum", train, samples=samples, options=options)
    for run, curve in zip(found.runs, curves, strict=True):
        if curve.name in names:
            continue
        params = [dict(zip(drawn.fit.law.parameter_names, own.tolist(), strict=True)) for own in drawn.params]
        ends = [fmjax.predict(dataclasses.replace(drawn.fit, params=own), [curve])[0][-1] for own in params]
        low, high = np.quantile(ends, [0.05, 0.95])
        covers = "covers" if low <= curve.loss[-1] <= high else "misses"
        print(f"    {curve.name:20s} {run.mape_percent:.3f} %   {low:.4f} ... {high:.4f} {covers} {curve.loss[-1]:.4f}")


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+")
    parser.add_argument("--samples", type=int, default=60)
    arguments = parser.parse_args()
    for manifest in arguments.manifests:
        curves = fmjax.load_runs(manifest)
        for what, names in groups_of(curves).items():
            show(curves, f"{manifest}, {what}", names, arguments.samples)


if __name__ == "__main__":
    main()
