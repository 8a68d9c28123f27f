"""What early rows do to a fit: the same law fitted to fewer of them, and what it then says of runs kept aside.

    python -m benchmarks.early_rows MANIFEST ... [--law intrinsic-momentum]

Of each manifest the runs with ``split = "test"`` are kept aside; without any, those of the largest model, or else the
longest. Rows of the others are left out in several ways, and the law is fitted with alpha free, and under the law's own
prior of it where the sizes have none of theirs. Errors are of the second half of the runs kept aside.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import fmjax
from benchmarks.effects_choice import table
from fmjax.laws.intrinsic_momentum import ALPHA_PRIOR

HEADER = ["rows", "alpha", "alpha is", "error %", "last tenth: error %", "bias %", "status"]

Curves = Sequence[fmjax.LossCurve]


def without_first(share: float) -> Callable[[np.ndarray], np.ndarray]:
    """A mask of the rows after a share of the run; takes the share of the run at each row."""
    return lambda at: at >= share


def with_density(power: float) -> Callable[[np.ndarray], np.ndarray]:
    """A mask of rows whose number about update t goes as t^power, if rows are evenly spaced; all where densest."""

    def kept(at: np.ndarray) -> np.ndarray:
        worth = (at**power) / np.max(at**power)
        return np.diff(np.floor(np.cumsum(worth)), prepend=0.0) > 0

    return kept


WAYS = {
    "all": without_first(0.0),
    "without the first 3 %": without_first(0.03),
    "without the first 10 %": without_first(0.1),
    "without the first 20 %": without_first(0.2),
    "as many in each e-fold": with_density(-1.0),
    "in proportion to the update": with_density(1.0),
}
"""Which rows of a run are fitted."""


def chosen(curve: fmjax.LossCurve, way: Callable[[np.ndarray], np.ndarray]) -> fmjax.LossCurve:
    """The run with some of its rows after warmup."""
    after = curve.step >= int(curve.schedule.warmup_steps)
    step, loss = curve.step[after], curve.loss[after]
    kept = way((step + 1.0) / float(curve.schedule.total_steps))
    return replace(curve, step=step[kept], loss=loss[kept])


def parts(curves: Curves) -> tuple[Curves, Curves]:
    """Runs to fit, and those kept aside."""
    sizes = {curve.model_size for curve in curves}
    lengths = {int(curve.schedule.total_steps) for curve in curves}
    if any(curve.split == "test" for curve in curves):
        aside = [curve.split == "test" for curve in curves]
    elif len(sizes) > 1:
        aside = [curve.model_size == max(sizes) for curve in curves]
    else:
        aside = [curve.schedule.total_steps == max(lengths) for curve in curves]
    pairs = list(zip(curves, aside, strict=True))
    return [curve for curve, is_aside in pairs if not is_aside], [curve for curve, is_aside in pairs if is_aside]


def lines(curves: Curves, law: str) -> Iterator[list[str]]:
    """A line of the table for each way and each prior."""
    fitted, aside = parts(curves)
    one_size = len({curve.model_size for curve in fitted}) == 1
    own = {"alpha": tuple(ALPHA_PRIOR)}
    priors = {"free": None, "under its prior": own} if one_size else {"under its prior": "default"}
    for name, way in WAYS.items():
        for what, prior in priors.items():
            fit = fmjax.fit(law, [chosen(curve, way) for curve in fitted], starts=3, prior=prior)
            errors = [np.log(p / c.loss) for p, c in zip(fmjax.predict(fit, aside), aside, strict=True)]
            late = [np.mean(np.abs(e[e.size // 2 :])) for e in errors]
            ends = np.array([np.mean(e[-max(1, e.size // 10) :]) for e in errors])
            figures = (np.mean(late), np.mean(np.abs(ends)), np.mean(ends))
            shown = [f"{100 * figure:.3f}" for figure in figures]
            yield [name, f"{fit.params['alpha']:.3f}", what, *shown, fit.status]


def main() -> None:
    """Prints a table for each manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST")
    parser.add_argument("--law", default="intrinsic-momentum", metavar="NAME", help="law (default: %(default)s)")
    arguments = parser.parse_args()
    for manifest in arguments.manifests:
        print(manifest)
        print(table([HEADER, *lines(fmjax.load_runs(manifest), arguments.law)]) + "\n", flush=True)


if __name__ == "__main__":
    main()
