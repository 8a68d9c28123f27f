"""Verbs that plan a run or follow it: recommend, transfer, optimize, forecast, demo."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import fmjax
from fmjax import plotting
from fmjax._checks import require
from fmjax.cli import output, plans
from fmjax.cli.app import app
from fmjax.cli.options import (
    DECAY,
    FILE,
    FINAL,
    FIT_FILE,
    FROM_RUNS,
    INIT,
    JSON,
    OUTPUT,
    PEAK,
    PLOT,
    RATIO,
    RUNS,
    SEED,
    SIZE,
    STEPS,
    WARMUP,
    deliver,
    law_option,
    plan_options,
    planning_law,
    read_fit,
    with_fits,
    writable,
    write_file,
    write_text,
)
from fmjax.curves.loss_curve import LossCurve
from fmjax.curves.manifest import load_runs, select_runs
from fmjax.exporters.snippets import csv_text
from fmjax.fitting.metrics import LEVEL
from fmjax.fitting.options import MANY_FITS
from fmjax.planning.predictor import PREFERRED_LAWS


@app.command()
@plan_options
@click.option("--total-steps", type=int, required=True, help="Length of the run to plan, in updates.")
@PEAK
@RATIO
@DECAY
@FINAL
@WARMUP
@INIT
@SIZE
@PLOT("curves, fits and loss against ratio")
@OUTPUT
@JSON
def recommend(
    runs: Path,
    law_name: str | None,
    law_options: Sequence[tuple[str, Any]],
    train: str,
    plot: Path | None,
    as_json: bool,
    target: Path | None,
    **options: Any,
) -> None:
    """Recommend an annealing ratio for a planned run, from cheaper ones.

    Prints the schedule first, then for each peak rate the best ratio and the loss it is predicted to reach, both with
    90 % intervals, what to keep in mind, and the schedule as code. export writes it as a trainer's config.

    \b
    Example:
      fmjax recommend runs.toml --total-steps 50000 --peak-lr 5e-4,1e-3,2e-3 --plot plan.png
      fmjax recommend runs.toml --total-steps 50000 --peak-lr 1e-3 --decay linear,1-sqrt -o plan.json
    """
    law, curves = planning_law(law_name, law_options), select_runs(load_runs(runs), train)
    _recommend(curves, plot, as_json, target, law=law, **options)


@app.command()
@plan_options
@click.option("--against", type=click.Path(path_type=Path), help="Runs of the same cells under another loss or data.")
@click.option("--samples", type=int, default=200, show_default=True, help="Bootstrap samples behind intervals.")
@SEED
@PLOT("optima, their power laws, and regret against ratio")
@OUTPUT
@JSON
def transfer(
    runs: Path,
    law_name: str | None,
    law_options: Sequence[tuple[str, Any]],
    train: str,
    against: Path | None,
    plot: Path | None,
    as_json: bool,
    target: Path | None,
    **options: Any,
) -> None:
    """Measure how the best annealing ratio carries over to other runs.

    To other peak rates, lengths and sizes, that is. Runs that differ in nothing but their ratio make a cell. Each
    cell's measured optimum stands beside the predicted one and beside what shorter runs alone would have chosen;
    exponents of the power laws of optima come with intervals.

    \b
    Example:
      fmjax transfer runs.toml --plot transfer.png
    """
    law, curves = planning_law(law_name, law_options), select_runs(load_runs(runs), train)
    others = () if against is None else load_runs(against)
    with output.stages("reading") as stage:
        found = fmjax.transfer(curves, law=law, against=others, progress=stage, **with_fits(options, MANY_FITS))
    deliver(
        found,
        as_json=as_json,
        target=target,
        show=plans.print_transfer,
        plot=plot,
        draw=lambda part: plotting.save_transfer(found, part),
    )


@app.command()
@FIT_FILE
@STEPS
@PEAK
@click.option("--knots", type=int, help="Points in which straight pieces meet; by default any schedule.")
@click.option("--final-lr", type=float, show_default=FROM_RUNS, help="Lowest rate allowed.")
@WARMUP
@INIT
@SIZE
@click.option("--csv", type=FILE, callback=writable, help="File to write the best schedule to: step,lr.")
@PLOT("the schedules beside WSD and cosine")
@OUTPUT
@JSON
def optimize(
    fit_file: Path, csv: Path | None, plot: Path | None, as_json: bool, target: Path | None, **options: Any
) -> None:
    """Find the best of all schedules that never rise after warmup.

    The best is that of least predicted final loss. Prints its loss beside those of the best WSD, cosine and constant
    schedules, and the schedule as code.

    \b
    Example:
      fmjax optimize fit.json --total-steps 24000 --peak-lr 3e-4 --csv schedule.csv
    """
    result = read_fit(fit_file)
    with output.progress("optimising schedules") as report:
        found = fmjax.optimize(result, progress=report, **options)
    if csv is not None:
        write_file(csv, lambda part: write_text(part, csv_text(found.best.schedule).rstrip()))
    deliver(
        found,
        as_json=as_json,
        target=target,
        show=plans.print_designs,
        plot=plot,
        draw=lambda part: plotting.save_designs(found, part),
    )


@app.command()
@RUNS
@click.option("--run", "name", required=True, help="The run in progress; its schedule is the planned one.")
@click.option("--prior", type=FILE, help="What fmjax fit -o wrote; by default --law is fitted to the other runs.")
@law_option("Law to fit to the other runs", default=PREFERRED_LAWS[0])
@click.option("--train", default="*", show_default=True, help="Other runs to fit: split:LABEL, names and globs.")
@click.option("--level", type=float, default=LEVEL, show_default=True, help="Probability that intervals are to cover.")
@PLOT("the curve and the forecast losses")
@OUTPUT
@JSON
def forecast(
    runs: Path,
    name: str,
    prior: Path | None,
    law_name: str,
    train: str,
    level: float,
    plot: Path | None,
    as_json: bool,
    target: Path | None,
) -> None:
    """Forecast the final loss of a run in progress.

    Prints the loss forecast for the planned schedule, then those of others that go on from here, such as to anneal now,
    all with intervals. A law fitted to earlier runs says how the loss goes on; the rows so far correct it.

    \b
    Example:
      fmjax forecast runs.toml --run big --prior fit.json
    """
    curves = load_runs(runs)
    run, *more = select_runs(curves, name)
    require(not more, f"--run: expected one run, found {len(more) + 1} that match {name!r}")
    with output.stages("forecasting"):
        others = [] if prior else [curve for curve in select_runs(curves, train) if curve is not run]
        law = read_fit(prior) if prior else fmjax.fit(law_name, others, starts=MANY_FITS.starts)
        found = fmjax.forecast(run, prior=law, level=level)
    deliver(
        found,
        as_json=as_json,
        target=target,
        show=plans.print_forecast,
        plot=plot,
        draw=lambda part: plotting.save_forecast(found, run, part),
    )


@app.command()
@PLOT("curves, fits and loss against ratio")
@OUTPUT
@JSON
def demo(plot: Path | None, as_json: bool, target: Path | None) -> None:
    """Run the main job on the curves that ship with fmjax.

    Fits some of them and predicts the others, then recommends a schedule for a run twice as long, as recommend does.

    \b
    Example:
      fmjax demo --plot demo.png
    """
    curves = fmjax.datasets.demo_runs()
    train, steps = select_runs(curves, "split:train"), 2 * max(int(curve.schedule.total_steps) for curve in curves)
    if not as_json:
        out = output.console()
        out.out(f"1. Fit {', '.join(curve.name for curve in train)}; predict the other runs.\n")
        output.print_evaluation(fmjax.evaluate(PREFERRED_LAWS[0], curves, train=train))
        out.out(f"\n2. Plan a run of {steps} updates from all {len(curves)} runs of {steps // 2}.\n")
    _recommend(curves, plot, as_json, target, total_steps=steps, peak_lr=train[0].peak_lr)


def _recommend(
    curves: Sequence[LossCurve], plot: Path | None, as_json: bool, target: Path | None, **options: Any
) -> None:
    with output.stages("reading") as stage:
        found = fmjax.recommend(curves, progress=stage, **with_fits(options, MANY_FITS))
    deliver(
        found,
        as_json=as_json,
        target=target,
        show=plans.print_recommendation,
        plot=plot,
        draw=lambda part: plotting.save_recommendation(found, curves, part),
    )
