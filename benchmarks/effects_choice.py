"""Measures what choosing a law's effect options on the fitted runs does to its error on unseen runs.

    python benchmarks/effects_choice.py [MANIFEST ...] [--law NAME ...] [--train split:train]

For each manifest and law: the law with its default options, then with those that ``fmjax.select`` chose by training
objective. Only the runs of ``--train`` are looked at to choose and to fit; all others are unseen.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import fmjax
from fmjax import laws
from fmjax.curves import manifest

HEADER = ("law", "options", "objective", "train %", "unseen %", "status", "seconds")


def compare(name: str, curves: Sequence[fmjax.LossCurve], train: Sequence[fmjax.LossCurve]) -> list[list[str]]:
    """The law's default and chosen options: one line each."""
    begin = time.perf_counter()
    default = line(laws.make_law(name), curves, train, begin)
    begin = time.perf_counter()
    return [default, line(fmjax.select(name, train).law, curves, train, begin)]


def line(law: laws.Law, curves: Sequence[fmjax.LossCurve], train: Sequence[fmjax.LossCurve], begin: float) -> list[str]:
    """Training objective and mean errors of a law, with the seconds since ``begin``."""
    found = fmjax.evaluate(law, curves, train=train)
    errors = [f"{found.train_mape_percent:.3f}", f"{found.test_mape_percent:.3f}"]
    seconds = f"{time.perf_counter() - begin:.1f}"
    return [law.name, _options(law), f"{found.fit.objective:.4e}", *errors, found.fit.status, seconds]


def _options(law: laws.Law) -> str:
    return " ".join(f"{name}={_short(getattr(law, name))}" for name in law.choices)


def _short(value: Any) -> str:
    if value is None:
        return "none"
    # decays near one by their distance from it
    return f"1-{1 - value:.3g}" if 0.9 <= value < 1 else f"{value:.3g}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Aligned text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def main() -> None:
    """Prints one table for each manifest."""
    arguments = _parser().parse_args()
    for path in arguments.manifests or [fmjax.datasets.DEMO_RUNS]:
        curves = fmjax.load_runs(path)
        train = manifest.select_runs(curves, arguments.train)
        rows = [row for name in arguments.law for row in compare(name, curves, train)]
        print(f"{path}: {len(train)} runs fitted, {len(curves) - len(train)} unseen\n{table([HEADER, *rows])}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="*", metavar="MANIFEST", help="manifests with splits (default: shipped)")
    names = ["forward-momentum", "lr-annealing"]
    parser.add_argument("--law", nargs="+", default=names, metavar="NAME", help=f"laws (default: {' '.join(names)})")
    parser.add_argument("--train", default="split:train", help="runs to choose on and fit (default: split:train)")
    return parser


if __name__ == "__main__":
    main()
