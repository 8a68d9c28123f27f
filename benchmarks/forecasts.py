"""Forecasts of runs in progress: how far from the end that was reached, and how often within the interval.

    python -m benchmarks.forecasts [MANIFEST ...] [--law NAME] [--shares 0.25,0.5,0.75]
    python -m benchmarks.forecasts --simulations 100

Without a manifest: the shipped curves. Runs are grouped by model size, peak rate and batch size. Each of the longest
runs of a group is forecast from its first 25, 50 and 75 % with two priors: the law fitted to the other runs of the
group, or only to shorter ones. Beside it: the same law without the run's rows ("law alone"), and the last loss logged
("no change"). Errors are of the last logged loss, in percent.

A third table has the first prior and the other runs as control variates, which take out the noise they share.

A last table, of the first prior: the same with the rows of the run rounded to two decimals, with a spike that it has
recovered from (the losses of 5 % of the rows four higher, the last ones normal again), and with every fourth row kept.

``--simulations`` forecasts raw runs at half their length instead: rows with noise of 1 % that does not fall with the
rate, of which an earlier run has a share of the variance at the same steps. Beside it, with one that shares none.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fmjax
from benchmarks.effects_choice import table
from benchmarks.laws import load

HEADER = ["seen", "median error %", "worst %", "in 90 % interval", "width %", "law alone %", "no change %"]


class Score(NamedTuple):
    """One forecast."""

    rows: str
    """What was done to the rows seen, one of ``SPOILT``."""
    share: float
    forecast: float
    alone: float
    no_change: float
    inside: bool
    width: float


def rounded(run: fmjax.LossCurve) -> fmjax.LossCurve:
    """The run with two decimals."""
    return replace(run, loss=np.round(run.loss, 2))


def with_spike(run: fmjax.LossCurve) -> fmjax.LossCurve:
    """The run with a spike that it has recovered from."""
    loss, rows = run.loss.copy(), run.loss.size
    width, after = max(1, rows // 20), max(1, rows // 50)
    loss[rows - after - width : rows - after] += 4
    return replace(run, loss=loss)


def thinned(run: fmjax.LossCurve) -> fmjax.LossCurve:
    """Every fourth row of the run, the last one among them."""
    return replace(run, step=run.step[::-1][::4][::-1], loss=run.loss[::-1][::4][::-1])


SPOILT: dict[str, Callable[[fmjax.LossCurve], fmjax.LossCurve]] = {
    "as logged": lambda run: run,
    "two decimals": rounded,
    "a spike": with_spike,
    "every fourth row": thinned,
}
"""What is done to the rows of a run that are seen."""


def scores(
    curves: Sequence[fmjax.LossCurve],
    law: str,
    shares: Sequence[float],
    *,
    others: bool,
    spoilt: Iterable[str] = ("as logged",),
    controlled: bool = False,
) -> Iterator[Score]:
    """A score for each of the longest runs of each group, each share of it, and each way to spoil its rows.

    Args:
      curves: the runs.
      law: name of the law.
      shares: parts of a run that are seen.
      others: whether the prior is fitted to all other runs of the group, or only to the shorter ones.
      spoilt: keys of ``SPOILT``.
      controlled: whether the other runs of the group are control variates.
    """
    for group in _groups(curves):
        longest = max(int(curve.schedule.total_steps) for curve in group)
        shorter = [curve for curve in group if curve.schedule.total_steps < longest]
        runs = [curve for curve in group if curve.schedule.total_steps == longest and curve.is_finished]
        prior = fmjax.fit(law, shorter, starts=3) if len(shorter) > 1 else None
        for run in runs if prior is not None else ():
            rest = [curve for curve in group if curve is not run]
            if others:
                prior = fmjax.fit(law, rest, starts=3)
            if prior.ok:
                earlier = rest if controlled else []
                yield from (_score(run, prior, earlier, share, rows) for rows in spoilt for share in shares)


def _groups(curves: Sequence[fmjax.LossCurve]) -> list[list[fmjax.LossCurve]]:
    groups: dict[Any, list[fmjax.LossCurve]] = defaultdict(list)
    for curve in curves:
        groups[curve.model_size, f"{curve.peak_lr:.3g}", curve.tokens_per_step].append(curve)
    return list(groups.values())


def _score(
    run: fmjax.LossCurve, prior: fmjax.FitResult, earlier: Sequence[fmjax.LossCurve], share: float, rows: str
) -> Score:
    end = float(run.loss[-1])
    seen = SPOILT[rows](run.until(int(share * int(run.schedule.total_steps))))
    found = fmjax.forecast(seen, prior=prior, earlier=earlier, alternatives={}).planned
    guesses = (found.loss, float(fmjax.predict(prior, [run])[0][-1]), float(seen.loss[-1]))
    errors = [100 * (guess / end - 1) for guess in guesses]
    low, high = found.interval
    return Score(rows, share, *errors, low <= end <= high, 100 * (high - low) / end)


def simulated(share: float, simulations: int) -> list[str]:
    """How wide forecasts of raw runs are beside those with a stranger, and how often they hold the last row."""
    law, total = fmjax.LRAnnealing(decay=0.99), 3000
    schedules = (
        fmjax.WSD(1e-3, total, 0.3, final_lr=1e-4, warmup_steps=50),
        fmjax.Cosine(1e-3, total, final_lr=1e-4, warmup_steps=50),
    )
    step = np.arange(51, total, 2)
    truth = fmjax.fit(law, fmjax.datasets.demo_runs())
    blank = [fmjax.LossCurve(str(i), step, np.ones(step.size), schedule) for i, schedule in enumerate(schedules)]
    clean = [replace(run, loss=loss) for run, loss in zip(blank, fmjax.predict(truth, blank), strict=True)]
    prior, rng, found = fmjax.fit(law, clean), np.random.default_rng(0), []
    for _ in range(simulations):
        common, *own = rng.standard_normal((4, step.size))
        noises = [np.sqrt(share) * common + np.sqrt(1 - share) * own[0], np.sqrt(share) * common, own[2]]
        noises[1] = noises[1] + np.sqrt(1 - share) * own[1]
        pairs = zip((clean[0], clean[1], clean[1]), noises, strict=True)
        run, earlier, stranger = [replace(curve, loss=curve.loss * np.exp(0.01 * noise)) for curve, noise in pairs]
        for other in (earlier, stranger):
            forecast = fmjax.forecast(run.until(total // 2), prior=prior, earlier=[other], alternatives={}).planned
            low, high = forecast.interval
            found.append((np.log(high / low), low <= run.loss[-1] <= high))
    widths, inside = np.array(found).reshape(simulations, 2, 2).transpose(2, 1, 0)
    width, alone = np.median(widths, axis=1)
    held, held_alone = (f"{each.mean():.0%}" for each in inside)
    return [f"{share:.0%}", f"{100 * width:.2f}", held, f"{100 * alone:.2f}", held_alone, f"{alone / width:.1f}"]


def main() -> None:
    """Prints the tables."""
    arguments = _parser().parse_args()
    if arguments.simulations:
        header = ["shared", "width %", "in 90 % interval", "with a stranger: width %", "in", "narrower by"]
        rows = [simulated(share, arguments.simulations) for share in (0.0, 0.5, 0.9, 0.98)]
        print(table([header, *rows]))
        return
    curves = load(arguments.manifests) if arguments.manifests else fmjax.datasets.proxy_runs()
    shares = [float(share) for share in arguments.shares.split(",")]
    first = list(scores(curves, arguments.law, shares, others=True, spoilt=SPOILT))
    second = list(scores(curves, arguments.law, shares, others=False))
    third = list(scores(curves, arguments.law, shares, others=True, controlled=True))
    of = ("the other runs", "the shorter runs", "the other runs, which are control variates too,")
    for found, runs in zip((first, second, third), of, strict=True):
        print(f"{arguments.law} fitted to {runs} of each group")
        print(table([HEADER, *lines(found, shares, "as logged")]) + "\n")
    print("the rows of the run spoilt, with the first prior: median error %, and in 90 % interval")
    spoilt = [[rows, *(f"{one[1]}, {one[3]}" for one in lines(first, shares, rows))] for rows in SPOILT]
    print(table([["rows", *(f"{share:.0%} seen" for share in shares)], *spoilt]))


def lines(found: Sequence[Score], shares: Sequence[float], rows: str) -> list[list[str]]:
    """The figures of rows of one kind, a line each share."""
    return [line([score for score in found if (score.share, score.rows) == (share, rows)]) for share in shares]


def line(found: Sequence[Score]) -> list[str]:
    """The figures of one share."""
    medians = {name: np.median(np.abs([getattr(s, name) for s in found])) for name in Score._fields[1:]}
    inside, worst = sum(score.inside for score in found), max(abs(score.forecast) for score in found)
    errors = [f"{medians['forecast']:.3f}", f"{worst:.3f}", f"{inside} of {len(found)}", f"{medians['width']:.2f}"]
    return [f"{found[0].share:.0%}", *errors, f"{medians['alone']:.3f}", f"{medians['no_change']:.3f}"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="*", type=Path, metavar="MANIFEST")
    parser.add_argument("--law", default="intrinsic-momentum", metavar="NAME", help="law (default: %(default)s)")
    parser.add_argument("--simulations", type=int, default=0, help="forecast so many simulated raw runs instead")
    parser.add_argument("--shares", default="0.25,0.5,0.75", help="parts of a run that are seen (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main()
