"""Verbs that fit, compare, search and measure."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import jax

import fmjax
from fmjax import benchmarking, plotting
from fmjax._checks import require
from fmjax.cli import output
from fmjax.cli.app import app
from fmjax.cli.options import (
    DECAY,
    FILE,
    FINALS,
    FIT_FILE,
    FITTING,
    INIT,
    JSON,
    LAW,
    LAW_OPTIONS,
    OUTPUT,
    PEAK,
    PLOT,
    RATIO,
    RUNS,
    SEED,
    SIZE,
    STEPS,
    TRAIN,
    WARMUP,
    candidates,
    chosen_law,
    deliver,
    fit_options,
    host_options,
    law_option,
    read_fit,
    together,
    with_fits,
    writable,
    write_file,
    write_text,
)
from fmjax.cli.parameters import GRID_AXIS, Known
from fmjax.curves.manifest import load_runs, select_runs
from fmjax.fitting.options import ONE_FIT
from fmjax.fitting.resampling import METHODS
from fmjax.fitting.selection import CRITERIA
from fmjax.laws import LAWS
from fmjax.searching import hosts

MOST_DRAWN = 10**6
"""Candidates of a search up to which each is drawn."""


class _Interrupted(click.ClickException):
    """Ctrl-C, with something to say."""

    code = 130


@contextmanager
def _resumable(folder: Path | None) -> Iterator[None]:
    """Says how to go on after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        kept = "nothing was kept" if folder is None else f"the same command goes on from {folder}"
        raise _Interrupted(f"interrupted; {kept}") from None


@app.command()
@fit_options
@PLOT("curves, fits and residuals")
@OUTPUT
@JSON
def fit(
    runs: Path,
    law_name: str,
    law_options: Sequence[tuple[str, Any]],
    train: str,
    plot: Path | None,
    as_json: bool,
    target: Path | None,
    **options: Any,
) -> None:
    """Fit a law to runs.

    Prints the parameters, whether the data determine them, and how far off each run's fitted curve is. -o writes the
    fit, which search, optimize and forecast --prior read.

    \b
    Example:
      fmjax fit runs.toml --law lr-annealing --train 'split:train' -o fit.json
    """
    law, curves = chosen_law(law_name, law_options), select_runs(load_runs(runs), train)
    with output.stages(f"fitting {len(curves)} runs"):
        result = fmjax.fit(law, curves, **options)
    deliver(
        result,
        as_json=as_json,
        target=target,
        show=output.print_fit,
        plot=plot,
        draw=lambda part: plotting.save_fit(result, curves, part),
    )


@app.command()
@RUNS
@law_option("Law to fit, or all to compare them", ("all",))
@together(*FITTING)
@PLOT("errors and residuals of each run")
@OUTPUT
@JSON
def evaluate(
    runs: Path,
    law_name: str,
    law_options: Sequence[tuple[str, Any]],
    train: str,
    plot: Path | None,
    as_json: bool,
    target: Path | None,
    **options: Any,
) -> None:
    """Fit a law, or every law, on some runs and predict the others.

    Prints the error of each run in percent of its loss, fitted and unseen runs apart; with --law all, a line for each
    law, the best on unseen runs first. Runs that --train does not take are unseen; without it there are none.

    \b
    Example:
      fmjax evaluate runs.toml --law forward-momentum --train split:train
      fmjax evaluate runs.toml --law all --train split:train --plot laws.png
    """
    everything = law_name == "all"
    require(not (everything and law_options), "--law-option: needs one law, found --law all")
    law = None if everything else chosen_law(law_name, law_options)
    curves = load_runs(runs)
    chosen = select_runs(curves, train)
    result: Any
    show: Callable[[Any], None]
    if law is None:
        with output.progress(f"fitting {len(LAWS)} laws") as report:
            found = fmjax.compare(curves, train=chosen, laws=list(LAWS), progress=report, **with_fits(options, ONE_FIT))
        result, evaluations, show = found, found.evaluations, output.print_comparison
    else:
        with output.stages(f"fitting, and predicting {len(curves)} runs"):
            evaluation = fmjax.evaluate(law, curves, train=chosen, **with_fits(options, ONE_FIT))
        result, evaluations, show = evaluation, (evaluation,), output.print_evaluation
    deliver(
        result,
        as_json=as_json,
        target=target,
        show=show,
        plot=plot,
        draw=lambda part: plotting.save_evaluations(evaluations, curves, part),
    )


@app.command()
@FIT_FILE
@STEPS
@PEAK
@RATIO
@DECAY
@FINALS
@WARMUP
@INIT
@SIZE
@click.option("--top", type=int, default=10, show_default=True, help="Best candidates of all to report.")
@click.option(
    "--dtype",
    type=Known(("float64", "float32")),
    default="float64",
    show_default=True,
    help="Arithmetic: float64 or float32.",
)
@click.option("--folder", type=click.Path(path_type=Path), help="Folder to keep finished parts in, and to resume from.")
@click.option("--table", is_flag=True, help="Write every candidate and its loss to Parquet files in the folder.")
@host_options
@PLOT("loss against annealing ratio and peak rate")
@OUTPUT
@JSON
def search(
    fit_file: Path,
    plot: Path | None,
    as_json: bool,
    target: Path | None,
    folder: Path | None,
    cluster: hosts.Cluster | None,
    **grid: Any,
) -> None:
    """Predict the final loss of every schedule in a grid.

    A cell of the grid is a length, a peak rate, a decay and a final rate. Prints the best annealing ratio of each, the
    ratios within 0.001 of its loss, and the best candidate of all; export writes it as a trainer's config.

    With --folder, a search that was interrupted goes on when the same command is given again. With --distributed, start
    the same command on every host; each computes its share and all end with the whole answer.

    \b
    Example:
      fmjax search fit.json --total-steps 24000 --peak-lr 1e-4:1e-3:16 --anneal-ratio 0.01:0.99:99
    """
    result = read_fit(fit_file)
    keep = plot is not None and folder is None and candidates(grid) <= MOST_DRAWN
    with hosts.joined(cluster), _resumable(folder), output.progress("searching") as report:
        found = fmjax.search(result, progress=report, folder=folder, keep_losses=keep, **grid)
    deliver(
        found,
        as_json=as_json,
        target=target,
        show=output.print_search,
        plot=plot,
        draw=lambda part: plotting.save_search(found, part),
    )


@app.command()
@click.option("--quick", is_flag=True, help="Fewer sizes; below a minute on two cores.")
@OUTPUT
@JSON
def bench(quick: bool, as_json: bool, target: Path | None) -> None:
    """Measure how fast this machine searches and fits.

    Prints searches and fits per second, beside the limits of the device, and how long larger searches would take. Takes
    some minutes, and compiles everything anew.

    \b
    Example:
      fmjax bench --quick
    """
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    with output.stages("measuring") as stage:
        found = benchmarking.benchmark(quick=quick, progress=stage)
    deliver(found, as_json=as_json, target=target, show=output.print_benchmark)


@app.command(name="select")
@RUNS
@LAW
@LAW_OPTIONS
@TRAIN
@click.option("--grid", type=GRID_AXIS, multiple=True, help="Values of an option to try; may be repeated.")
@click.option(
    "--by",
    type=Known(CRITERIA),
    default="objective",
    show_default=True,
    help=f"What to choose by: {' | '.join(CRITERIA)}.",
)
@click.option("--refine/--no-refine", default=True, show_default=True, help="Refine the best of the grid by gradient.")
@click.option("-o", "--output", "target", type=FILE, callback=writable, help="File to write the chosen fit to.")
@JSON
def select_(
    runs: Path,
    law_name: str,
    law_options: Sequence[tuple[str, Any]],
    grid: Sequence[tuple[str, Any]],
    by: str,
    refine: bool,
    train: str,
    as_json: bool,
    target: Path | None,
) -> None:
    """Choose a law's options, such as decay or beta1, on the runs to fit.

    These are the coefficients of its effects, which a fit takes as they are. Prints the chosen ones, how far each can
    move at no cost, and the errors on fitted and unseen runs. -o writes the fit, which search and optimize read.

    \b
    Example:
      fmjax select runs.toml --law forward-momentum --train split:train -o fit.json
      fmjax select runs.toml --law lr-annealing --grid decay=0.99,0.995,0.999 --no-refine
    """
    law, curves = chosen_law(law_name, law_options), load_runs(runs)
    chosen = select_runs(curves, train)
    with output.progress(f"choosing on {len(chosen)} runs") as report:
        found = fmjax.select(law, chosen, grid=dict(grid) or None, by=by, refine=refine, progress=report)
    evaluation = fmjax.evaluate(found.law, curves, train=chosen)
    if target is not None:
        write_file(target, lambda part: write_text(part, found.fit.to_json()))
    deliver(found, as_json=as_json, target=None, show=lambda _: output.print_selection(found, evaluation))


@app.command()
@RUNS
@LAW
@LAW_OPTIONS
@TRAIN
@click.option("--samples", type=int, default=200, show_default=True, help="Bootstrap samples.")
@click.option(
    "--method",
    type=Known(METHODS),
    default="noise",
    show_default=True,
    help=f"What a sample redraws: {' | '.join(METHODS)}.",
)
@click.option("--block", type=int, default=10, show_default=True, help="Rows of a block.")
@SEED
@PLOT("the samples of each parameter")
@OUTPUT
@JSON
def bootstrap(
    runs: Path,
    law_name: str,
    law_options: Sequence[tuple[str, Any]],
    train: str,
    plot: Path | None,
    as_json: bool,
    target: Path | None,
    **options: Any,
) -> None:
    """Find intervals of a law's parameters, by bootstrap.

    Fits the law to the runs and to samples of them; prints each parameter with its 90 % interval. Samples redraw the
    noise around the fit, the weights of blocks of rows, or the runs.

    \b
    Example:
      fmjax bootstrap runs.toml --law lr-annealing --law-option decay=0.99 --samples 1000
    """
    law, curves = chosen_law(law_name, law_options), select_runs(load_runs(runs), train)
    with output.progress(f"fitting {options['samples']} samples") as report:
        found = fmjax.bootstrap(law, curves, progress=report, **options)
    deliver(
        found,
        as_json=as_json,
        target=target,
        show=output.print_bootstrap,
        plot=plot,
        draw=lambda part: plotting.save_bootstrap(found, part),
    )
