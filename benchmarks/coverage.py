"""Measures how often 90 % bootstrap intervals hold the truth, on runs simulated from a known law.

    python benchmarks/coverage.py [--simulations 200] [--samples 200] [--law lr-annealing] [--phis 0,0.7,0.9]
    python benchmarks/coverage.py --law two-memories --methods recommend-named,recommend-any --phis 0,0.7
    python benchmarks/coverage.py --shared 0,0.5,0.9 --methods noise --phis 0.5 --simulations 40

Each simulation is five runs (constant, cosine, WSD with linear anneals over 10, 20 and 40 %) with first-order
autoregressive noise of correlation phi between logged rows; a share of its variance, ``--shared``, is the same noise in
all runs. Counted are the intervals of every parameter, of the best
annealing ratio of a run twice as long, and of its loss: the interval at the ratio that the fit chose, against the true
law's loss at that ratio. The method "recommend" gives the intervals of ``fmjax.recommend``, whose predictions are
corrected by the final losses of the runs; "recommend-named" has it choose the coefficients of the law's effects, and
"recommend-any" the law itself. Runs of the truth "two-memories" are fitted by lr-annealing, which has one: it errs by
0.02 % on their rows, by 0.014 in the best ratio and by 0.16 % in the loss of the longer run.
"""

import argparse
import dataclasses
import itertools
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

import fmjax
from fmjax import laws, schedules
from fmjax.fitting import resampling
from fmjax.searching.results import Cell, continuous_best

ANNEALING = {"L0": 2.5, "A": 0.4, "C": 4.0, "alpha": 0.45}
TRUTHS: dict[str, tuple[tuple[laws.Law, ...], dict[str, float]]] = {
    "lr-annealing": ((fmjax.LRAnnealing(decay=0.99),), ANNEALING),
    "forward-momentum": ((fmjax.ForwardMomentum(beta1=0.99, eps=1e-6),), {**ANNEALING, "C": 0.2}),
    "two-memories": ((fmjax.LRAnnealing(decay=0.98), fmjax.LRAnnealing(decay=0.995)), ANNEALING),
}
"""Laws whose mean is simulated, with the parameters that are true; the first is fitted."""

PEAK_LR = 1e-3
UPDATES = 2400
INTERVAL = 40
"""Updates between logged rows."""

SIGMA = 0.003
"""Standard deviation of the log loss."""

RATIOS = np.arange(0.02, 1.0, 0.02).round(2)
FINE = np.arange(0.02, 0.981, 0.002).round(3)
"""Ratios searched, and those that the true optimum is looked for among."""

TOTAL_STEPS = 2 * UPDATES
"""Length of the run that is predicted."""


class Truth(NamedTuple):
    """What the intervals should hold."""

    law: laws.Law
    """The law that is fitted."""
    curves: tuple[fmjax.LossCurve, ...]
    """Runs without noise."""
    params: dict[str, float]
    """Its parameters; none where it is not true."""
    ratio: float
    losses: np.ndarray
    """``[RATIOS]`` final loss of the longer run."""


class Outcome(NamedTuple):
    """Whether an interval held the truth, and its width."""

    held: bool
    width: float


# ---------------------------------------------------------------------------------------------------------------------
# Simulation
# ---------------------------------------------------------------------------------------------------------------------


def make_truth(name: str) -> Truth:
    """Noiseless runs of a law and what it says of the longer run."""
    mixed, params = TRUTHS[name]
    parts = [[_clean(law, params, *item) for item in _schedules().items()] for law in mixed]
    curves = tuple(
        dataclasses.replace(each[0], loss=np.mean([one.loss for one in each], axis=0))
        for each in zip(*parts, strict=True)
    )
    fits = [dataclasses.replace(fmjax.fit(law, curves), params=params, status="converged") for law in mixed]
    search = {"total_steps": TOTAL_STEPS, "peak_lr": PEAK_LR, "keep_losses": True}
    fine, losses = (
        np.mean([fmjax.search(fit, anneal_ratio=ratios, **search).losses for fit in fits], axis=0)
        for ratios in (FINE, RATIOS)
    )
    known = params if len(mixed) == 1 else {}
    return Truth(mixed[0], curves, known, float(continuous_best(FINE, fine)[0]), losses[0])


def _schedules() -> dict[str, schedules.Schedule]:
    common = {"peak_lr": PEAK_LR, "total_steps": UPDATES}
    wsds = {f"wsd-{ratio}": fmjax.WSD(**common, anneal_ratio=ratio) for ratio in (0.1, 0.2, 0.4)}
    return {"constant": fmjax.Constant(**common), "cosine": fmjax.Cosine(**common), **wsds}


def _clean(law: laws.Law, params: dict[str, float], name: str, schedule: schedules.Schedule) -> fmjax.LossCurve:
    step = np.arange(INTERVAL, UPDATES + 1, INTERVAL)
    with jax.enable_x64(True):
        effects = law.effects(schedules.lrs(schedule), np.minimum(step, UPDATES - 1), schedule.warmup_steps)
        loss = law.predict(effects, np.array([params[key] for key in law.parameter_names]))
    return fmjax.LossCurve(name, step, np.asarray(loss), schedule)


def simulate(truth: Truth, phi: float, shared: float, rng: np.random.Generator) -> list[fmjax.LossCurve]:
    """The runs with stationary noise, a share of its variance common to all."""
    common = _noise(truth.curves[0].loss.size, phi, rng) if shared else 0.0

    def noise(rows: int) -> np.ndarray:
        return np.sqrt(shared) * common + np.sqrt(1 - shared) * _noise(rows, phi, rng)

    return [dataclasses.replace(c, loss=c.loss * np.exp(noise(c.loss.size))) for c in truth.curves]


def _noise(rows: int, phi: float, rng: np.random.Generator) -> np.ndarray:
    drawn = rng.standard_normal(rows)
    for row in range(1, rows):
        drawn[row] = phi * drawn[row - 1] + np.sqrt(1 - phi**2) * drawn[row]
    return SIGMA * drawn


# ---------------------------------------------------------------------------------------------------------------------
# Intervals
# ---------------------------------------------------------------------------------------------------------------------


def outcomes(
    truth: Truth, curves: Sequence[fmjax.LossCurve], method: str, samples: int, seed: int
) -> dict[str, Outcome]:
    """Each interval of one simulation against the truth; simulations share no bootstrap draws."""
    if method.startswith("recommend"):
        plan = fmjax.recommend(
            curves,
            law={"recommend": truth.law, "recommend-named": truth.law.name, "recommend-any": None}[method],
            total_steps=TOTAL_STEPS,
            peak_lr=PEAK_LR,
            anneal_ratio=RATIOS,
            samples=samples,
            seed=seed,
        )
        return _of_cell(truth, plan.best.cell)
    boot = fmjax.bootstrap(truth.law, curves, samples=samples, method=method, seed=seed)
    found = fmjax.search(
        boot.fit, total_steps=TOTAL_STEPS, peak_lr=PEAK_LR, anneal_ratio=RATIOS, samples=boot.params
    ).cells[0]
    return {**_of_cell(truth, found), **{name: _outcome(boot.interval(name), x) for name, x in truth.params.items()}}


def _of_cell(truth: Truth, cell: Cell) -> dict[str, Outcome]:
    at_chosen = truth.losses[np.argmin(np.abs(RATIOS - cell.best_ratio))]
    return {
        "final loss": _outcome(cell.loss_interval, at_chosen),
        "best ratio": _outcome(cell.ratio_interval, truth.ratio),
    }


def _outcome(interval: tuple[float, float] | None, value: float) -> Outcome:
    low, high = interval or (float("nan"), float("nan"))
    return Outcome(bool(low <= value <= high), high - low)


def cover(
    truth: Truth, phi: float, shared: float, method: str, simulations: int, samples: int
) -> tuple[list[dict[str, Outcome]], int, float]:
    """Outcomes of the simulations that could be fitted, how many could not, and seconds for each."""
    rng, found, failed, begin = np.random.default_rng(0), [], 0, time.perf_counter()
    for i in range(simulations):
        try:
            found.append(outcomes(truth, simulate(truth, phi, shared, rng), method, samples, i))
        except ValueError:  # a fit that failed has no intervals
            failed += 1
        print(
            f"\rphi {phi:g}, shared {shared:g}, {method}: {i + 1}/{simulations} ", end="", file=sys.stderr, flush=True
        )
    print(file=sys.stderr)
    return found, failed, (time.perf_counter() - begin) / simulations


# ---------------------------------------------------------------------------------------------------------------------
# Printing
# ---------------------------------------------------------------------------------------------------------------------


def line(
    phi: float,
    shared: float,
    method: str,
    columns: Sequence[str],
    found: Sequence[dict[str, Outcome]],
    failed: int,
    seconds: float,
) -> list[str]:
    """Coverage in percent with its binomial standard error, and the median width, of each quantity."""
    cells = []
    for name in columns:
        if name not in found[0]:
            cells.append("-")
            continue
        share = np.mean([outcome[name].held for outcome in found])
        error = np.sqrt(share * (1 - share) / len(found))
        width = np.median([outcome[name].width for outcome in found])
        cells.append(f"{100 * share:.0f} +- {100 * error:.0f} ({width:.2g})")
    return [f"{phi:g}", f"{shared:g}", method, *cells, str(failed), f"{seconds:.2f}"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned text."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, row, widths)) for row in (header, *rows))


def main() -> None:
    """Runs the simulations and prints one line for each phi and method."""
    arguments = _parser().parse_args()
    truth = make_truth(arguments.law)
    print(
        f"{arguments.law} {TRUTHS[arguments.law][1]}: best ratio {truth.ratio:.3f} at {TOTAL_STEPS} updates, loss "
        f"{truth.losses.min():.4f}; {arguments.simulations} simulations of {arguments.samples} samples\n"
        f"coverage in % of {100 * resampling.LEVEL:.0f} % intervals +- standard error (median width)\n"
    )
    rows, columns = [], ["final loss", "best ratio", *truth.params]
    kinds = (map(float, arguments.phis.split(",")), map(float, arguments.shared.split(",")))
    for phi, shared, method in itertools.product(*kinds, arguments.methods.split(",")):
        found, failed, seconds = cover(truth, phi, shared, method, arguments.simulations, arguments.samples)
        if found:
            rows.append(line(phi, shared, method, columns, found, failed, seconds))
    print(table(["phi", "shared", "method", *columns, "failed", "s each"], rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=200, help="simulations for each phi (default: 200)")
    parser.add_argument("--samples", type=int, default=200, help="bootstrap samples of each (default: 200)")
    parser.add_argument("--law", choices=TRUTHS, default="lr-annealing", help="law simulated and fitted")
    parser.add_argument("--phis", default="0,0.7,0.9", help="correlations of the noise (default: 0,0.7,0.9)")
    parser.add_argument("--shared", default="0", help="shares of its variance that all runs share (default: 0)")
    parser.add_argument(
        "--methods", default="noise,blocks,recommend", help="bootstrap methods, and recommend (default: all but runs)"
    )
    return parser


if __name__ == "__main__":
    main()
