"""Fits on shorter runs and chooses for longer ones: what the ratio chosen costs, for every law and for copying.

    python -m benchmarks.transfer MANIFEST [MANIFEST ...] [--law NAME ...] [--samples 200]

Runs that differ in nothing but their annealing ratio make a cell. For each cell with shorter runs at its peak rate,
each law is fitted to all shorter runs of that rate and chooses among the ratios that were tried: by itself ("alone"),
and corrected by the final losses measured on the shorter runs, as ``fmjax.recommend`` does. "copied" keeps the ratio
that was best on the longest shorter cell, "20 %" takes the ratio nearest to 0.2. A column of the table is a cell: the
ratio chosen and its regret, the excess of its measured final loss over that of the best ratio.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import fmjax
from benchmarks.effects_choice import table
from benchmarks.laws import load
from fmjax import laws
from fmjax.fitting.options import MANY_FITS
from fmjax.planning.predictor import predictors
from fmjax.scaling.optima import Tried, tried
from fmjax.scaling.transfers import Chosen, Predicting, foretell

RULE = 0.2
"""The ratio of the rule of thumb."""


def rows(curves: Sequence[fmjax.LossCurve], names: Sequence[str], samples: int) -> tuple[list[Tried], list[list[str]]]:
    """The cells that can be chosen for, and a line for each way of choosing."""
    groups = tried(curves)
    found = {name: foretell(groups, curves, _predicting(name, samples), _silent) for name in names}
    first = found[names[0]]
    kept = [i for i, (_, _, copied) in enumerate(first) if copied is not None]
    lines = [_line("copied", [first[i][2] for i in kept])]
    lines.append(_line("20 %", [_rule(groups[i]) for i in kept]))
    for name, cells in found.items():
        lines.append(_line(name if name == "recommend" else f"{name}, corrected", [cells[i][0] for i in kept]))
        lines.append(
            _line(f"{name}, law alone" if name == "recommend" else f"{name}, alone", [cells[i][1] for i in kept])
        )
    return [groups[i] for i in kept], lines


def _silent(stage: str) -> None:
    """Says nothing."""


def _predicting(name: str, samples: int) -> Predicting:
    """Predictors of a law, or of whichever ``recommend`` takes."""
    law = None if name == "recommend" else name
    return partial(predictors, law, options=MANY_FITS, samples=samples, seed=0, progress=_silent)


def _rule(group: Tried) -> Chosen:
    return Chosen(group.nearest(RULE), group.regret(RULE))


def _line(name: str, chosen: Sequence[Chosen | None]) -> list[str]:
    shown = ["-" if one is None else f"{one.ratio:.3g}: {one.regret:.4f}" for one in chosen]
    known = [one for one in chosen if one is not None]
    expected = [f"{one.expected:.4f}" for one in known if one.expected == one.expected]
    worst = f"{max(one.regret for one in known):.4f}" if known else "-"
    return [name, *shown, worst, f"{max(expected)}" if expected else "-"]


def main() -> None:
    """Prints the table."""
    arguments = _parser().parse_args()
    cells, lines = rows(load(arguments.manifests), ["recommend", *arguments.law], arguments.samples)
    names = [f"T {cell.total_steps}, peak {cell.peak_lr:.4g}, {cell.schedule.decay}" for cell in cells]
    best = [f"{cell.best:.3g}" for cell in cells]
    header = ["chosen by", *names, "worst regret", "worst expected"]
    print(table([header, ["best measured", *best, "", ""], *lines]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST")
    parser.add_argument("--law", nargs="*", default=list(laws.LAWS), metavar="NAME", help="laws (default: all)")
    parser.add_argument("--samples", type=int, default=200, help="bootstrap samples behind the regret expected")
    return parser


if __name__ == "__main__":
    main()
