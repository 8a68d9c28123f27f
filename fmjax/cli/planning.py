"""What the verbs do that plan a run or follow it: recommend, transfer, optimize, forecast, demo."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fmjax
from fmjax import plotting
from fmjax._checks import require
from fmjax._devices import beside
from fmjax._names import PREFERRED_LAWS
from fmjax.cli import output, plans, regions
from fmjax.cli.answers import Answer, write_file, write_text
from fmjax.cli.fits import print_evaluation
from fmjax.cli.inputs import can_trade, fits_on, planning_law, read_fit
from fmjax.cli.parameters import Assigned
from fmjax.curves.loss_curve import LossCurve
from fmjax.curves.manifest import load_runs, select_runs
from fmjax.exporters.snippets import csv_text
from fmjax.fitting.options import MANY_FITS
from fmjax.planning.recommendation import Recommendation


def recommend(
    runs: Path,
    law_name: str | None,
    law_options: Sequence[Assigned],
    train: str,
    scheduler: str | None,
    trade: bool,
    **options: object,
) -> Answer:
    """An annealing ratio for a planned run, from cheaper ones; or rate, batch and ratio together."""
    require(not trade or can_trade(options), "--trade: needs --total-tokens, and several --tokens-per-step")
    law, curves = planning_law(law_name, law_options), select_runs(load_runs(runs), train)
    return _recommended(curves, scheduler, trade=trade, law=law, **options)


def transfer(
    runs: Path,
    law_name: str | None,
    law_options: Sequence[Assigned],
    train: str,
    against: Path | None,
    scheduler: str | None,
    **options: object,
) -> Answer:
    """How the best annealing ratio carries over to other runs."""
    law, curves = planning_law(law_name, law_options), select_runs(load_runs(runs), train)
    others = () if against is None else load_runs(against)
    with fits_on(scheduler, options, MANY_FITS) as fits, output.stages("reading") as stage:
        found = fmjax.transfer(curves, law=law, against=others, progress=stage, **fits)
    return Answer(found, lambda: plans.print_transfer(found), lambda part: plotting.save_transfer(found, part))


def optimize(fit_file: Path, csv: Path | None, **options: Any) -> Answer:
    """The best of all schedules that never rise after warmup."""
    result = read_fit(fit_file)
    with output.progress("optimising schedules") as report:
        found = fmjax.optimize(result, progress=report, **options)
    if csv is not None:
        write_file(csv, lambda part: write_text(part, csv_text(found.best.schedule).rstrip()))
    return Answer(found, lambda: plans.print_designs(found), lambda part: plotting.save_designs(found, part))


def forecast(runs: Path, name: str, prior: Path | None, law_name: str, train: str, level: float) -> Answer:
    """The final loss of a run in progress."""
    curves = load_runs(runs)
    run, *more = select_runs(curves, name)
    require(not more, f"--run: expected one run, found {len(more) + 1} that match {name!r}")
    with output.stages("forecasting"):
        others = [] if prior else [curve for curve in select_runs(curves, train) if curve is not run]
        law = read_fit(prior) if prior else fmjax.fit(law_name, others, starts=MANY_FITS.starts)
        found = fmjax.forecast(run, prior=law, earlier=others, level=level)
    return Answer(found, lambda: plans.print_forecast(found), lambda part: plotting.save_forecast(found, run, part))


def demo(as_json: bool) -> Answer:
    """The main job on the curves that ship with fmjax."""
    curves = fmjax.datasets.demo_runs()
    train, steps = select_runs(curves, "split:train"), 2 * max(int(curve.schedule.total_steps) for curve in curves)
    plan: dict[str, Any] = {"total_steps": steps, "peak_lr": train[0].peak_lr}
    if as_json:
        return _recommended(curves, None, **plan)
    planned = beside(partial(fmjax.recommend, curves, options=MANY_FITS, **plan))  # XLA compiles for both at once
    out = output.console()
    out.out(f"1. Fit {', '.join(curve.name for curve in train)}; predict the other runs.\n")
    print_evaluation(fmjax.evaluate(PREFERRED_LAWS[0], curves, train=train))
    out.out(f"\n2. Plan a run of {steps} updates from all {len(curves)} runs of {steps // 2}.\n")
    with output.stages("planning"):
        return _plan(planned.result(), curves)


def _recommended(
    curves: Sequence[LossCurve], scheduler: str | None, *, trade: bool = False, **options: object
) -> Answer:
    with fits_on(scheduler, options, MANY_FITS) as fits, output.stages("reading") as stage:
        found = fmjax.recommend(curves, progress=stage, trade=trade, **fits)
    return _plan(found, curves, trade=trade)


def _plan(found: Recommendation, curves: Sequence[LossCurve], *, trade: bool = False) -> Answer:
    return Answer(
        found,
        lambda: regions.print_regions(found, trade=trade) if found.regions else plans.print_recommendation(found),
        lambda part: plotting.save_recommendation(found, curves, part),
    )
