"""Verbs that fit, compare, search and measure."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import jax

import fmjax
from fmjax import benchmarking, hosts, plotting
from fmjax._checks import require
from fmjax.cli import output
from fmjax.cli.app import app
from fmjax.cli.options import (
    DECAY,
    FIT_FILE,
    INIT,
    JSON,
    LAW,
    LAW_OPTIONS,
    OUTPUT,
    PEAK,
    PLOT,
    RATIO,
    RUNS,
    SIZE,
    TRAIN,
    chosen_law,
    deliver,
    fit_options,
    host_options,
    read_fit,
    write_file,
    write_text,
)
from fmjax.cli.parameters import GRID_AXIS, NUMBERS
from fmjax.laws import LAWS
from fmjax.resampling import METHODS
from fmjax.runs import load_runs, select
from fmjax.selection import CRITERIA


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
@JSON
@OUTPUT
def fit(
    runs: Path,
    law_name: str,
    law_options: Sequence[tuple[str, Any]],
    train: str,
    as_json: bool,
    target: Path | None,
    **options: Any,
) -> None:
    """Fit a law to runs.

    \b
    Example:
      fmjax fit runs.toml --law lr-annealing --train 'split:train' -o fit.json
    """
    law, curves = chosen_law(law_name, law_options), select(load_runs(runs), train)
    with output.stages(f"fitting {len(curves)} runs"):
        result = fmjax.fit(law, curves, **options)
    deliver(result, as_json=as_json, target=target, show=output.print_fit)


@app.command()
@fit_options
@PLOT("errors and residuals of each run")
@JSON
@OUTPUT
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
    """Fit a law on some runs and predict the others; with --law all, compare all laws.

    \b
    Example:
      fmjax evaluate runs.toml --law forward-momentum --train split:train
      fmjax evaluate runs.toml --law all --train split:train --plot laws.png
    """
    everything = law_name == "all"
    require(not (everything and law_options), "--law-option: needs one law, found --law all")
    law = None if everything else chosen_law(law_name, law_options)
    curves = load_runs(runs)
    chosen = select(curves, train)
    result: Any
    show: Callable[[Any], None]
    if law is None:
        with output.progress(f"fitting {len(LAWS)} laws") as report:
            found = fmjax.compare(curves, train=chosen, laws=list(LAWS), progress=report, **options)
        result, evaluations, show = found, found.evaluations, output.print_comparison
    else:
        with output.stages(f"fitting, and predicting {len(curves)} runs"):
            evaluation = fmjax.evaluate(law, curves, train=chosen, **options)
        result, evaluations, show = evaluation, (evaluation,), output.print_evaluation
    if plot is not None:
        write_file(plot, lambda part: plotting.save_evaluations(evaluations, curves, part))
    deliver(result, as_json=as_json, target=target, show=show)


@app.command()
@FIT_FILE
@click.option("--total-steps", type=NUMBERS, required=True, help="Numbers of updates; a range is linear.")
@PEAK
@RATIO
@DECAY
@click.option("--final-lr", type=NUMBERS, default=(0.0,), show_default="0", help="Rates the anneal ends at.")
@click.option("--warmup-steps", type=int, default=0, show_default=True, help="Updates of linear warmup.")
@INIT
@SIZE
@click.option("--top", type=int, default=10, show_default=True, help="Best candidates of all to report.")
@click.option("--dtype", default="float64", show_default=True, help="Arithmetic: float64 or float32.")
@click.option("--folder", type=click.Path(path_type=Path), help="Folder to keep finished parts in, and to resume from.")
@click.option("--table", is_flag=True, help="Write every candidate and its loss to Parquet files in the folder.")
@host_options
@JSON
@OUTPUT
def search(
    fit_file: Path, as_json: bool, target: Path | None, folder: Path | None, cluster: hosts.Cluster | None, **grid: Any
) -> None:
    """Predict the final loss of every schedule in a grid, and pick the best annealing ratio of each cell.

    With --folder, a search that was interrupted goes on when the same command is given again. With --distributed, start
    the same command on every host; each computes its share and all end with the whole answer.

    \b
    Example:
      fmjax search fit.json --total-steps 24000 --peak-lr 1e-4:1e-3:16 --anneal-ratio 0.01:0.99:99
    """
    result = read_fit(fit_file)
    with hosts.joined(cluster), _resumable(folder), output.progress("searching") as report:
        found = fmjax.search(result, progress=report, folder=folder, **grid)
    deliver(found, as_json=as_json, target=target, show=output.print_search)


@app.command()
@click.option("--quick", is_flag=True, help="Fewer sizes; below a minute on two cores.")
@JSON
@OUTPUT
def bench(quick: bool, as_json: bool, target: Path | None) -> None:
    """Measure this machine: searches and fits per second, beside the limits of the device.

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
@click.option("--grid", type=GRID_AXIS, multiple=True, metavar="NAME=A,B,...", help="Values to try; may be repeated.")
@click.option("--by", default="objective", show_default=True, help=" | ".join(CRITERIA))
@click.option("--refine/--no-refine", default=True, show_default=True, help="Refine the best of the grid by gradient.")
@TRAIN
@JSON
@OUTPUT
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
    """Choose the coefficients of a law's effects on the runs to fit; report the error on the others.

    -o writes the fit with the chosen coefficients, for search.

    \b
    Example:
      fmjax select runs.toml --law forward-momentum --train split:train -o fit.json
    """
    law, curves = chosen_law(law_name, law_options), load_runs(runs)
    chosen = select(curves, train)
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
@click.option("--method", default="noise", show_default=True, help=" | ".join(METHODS))
@click.option("--block", type=int, default=10, show_default=True, help="Rows of a block.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
@JSON
@OUTPUT
def bootstrap(
    runs: Path,
    law_name: str,
    law_options: Sequence[tuple[str, Any]],
    train: str,
    as_json: bool,
    target: Path | None,
    **options: Any,
) -> None:
    """Fit a law to runs and to bootstrap samples of them, for intervals of its parameters.

    \b
    Example:
      fmjax bootstrap runs.toml --law lr-annealing --law-option decay=0.99 --samples 1000
    """
    law, curves = chosen_law(law_name, law_options), select(load_runs(runs), train)
    with output.progress(f"fitting {options['samples']} samples") as report:
        found = fmjax.bootstrap(law, curves, progress=report, **options)
    deliver(found, as_json=as_json, target=target, show=output.print_bootstrap)
