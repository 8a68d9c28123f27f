"""Options that verbs share, and how results are written."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from fmjax._checks import require, within
from fmjax._files import write_whole, writing
from fmjax.cli.parameters import LAW_OPTION, NUMBERS, PEAK_RATES, Known, Names
from fmjax.fitting.objective import RESIDUALS
from fmjax.fitting.options import FitOptions
from fmjax.fitting.records import FitResult
from fmjax.laws import LAWS, Law, make_law
from fmjax.planning.predictor import PREFERRED_LAWS
from fmjax.schedules.anneals import DECAYS
from fmjax.searching import hosts
from fmjax.searching.sweeps import SEARCHED_RATIOS


def writable(ctx: click.Context, param: click.Parameter, target: Path | None) -> Path | None:
    """Refuses a file that could not be written, before any work is done."""
    if target is not None and not (target.parent.is_dir() and os.access(target.parent, os.W_OK)):
        raise click.BadParameter(f"{target}: cannot be written, no writable folder {target.parent}")
    return target


def write_file(target: Path, write: Callable[[Path], None]) -> None:
    """Writes a file whole or not at all; what goes wrong names the file."""
    with writing(target):
        try:
            write_whole(target, write)
        except ValueError as error:
            raise ValueError(f"{target}: {error}") from None


def write_text(path: Path, text: str) -> None:
    """Writes text and a last newline."""
    path.write_text(text + "\n", encoding="utf-8")


def deliver(
    result: Any,
    *,
    as_json: bool,
    target: Path | None,
    show: Callable[[Any], None],
    plot: Path | None = None,
    draw: Callable[[Path], None] | None = None,
) -> None:
    """Draws a result, writes it to its file, and prints it as JSON or as a table.

    Args:
      result: what was found.
      as_json: whether to print JSON.
      target: file to write the JSON to.
      show: prints the table.
      plot: file to draw to.
      draw: draws.
    """
    if plot is not None and draw is not None:
        write_file(plot, draw)
    if as_json or target is not None:
        text = result.to_json()
        if target is not None:
            write_file(target, lambda part: write_text(part, text))
        if as_json:
            click.echo(text)
            return
    show(result)


def candidates(grid: Mapping[str, Any]) -> int:
    """Number of schedules that the options of a search ask for."""
    axes = ("total_steps", "peak_lr", "decay", "final_lr", "anneal_ratio")
    return math.prod(np.size(grid[axis]) for axis in axes)  # no final rate told is one


def chosen_law(name: str, options: Sequence[tuple[str, Any]]) -> Law:
    """The law of --law and --law-option."""
    chosen = dict(options)
    require("sizes" not in chosen, "the option sizes is set by the fit, from the runs")
    return make_law(name, **chosen)


def planning_law(name: str | None, options: Sequence[tuple[str, Any]]) -> Law | str | None:
    """The law of --law and --law-option for verbs that can choose it, or its effects' coefficients, on the runs."""
    require(name is not None or not options, "--law-option: needs --law")
    return chosen_law(name, options) if name is not None and options else name


def with_fits(given: Mapping[str, Any], usual: FitOptions) -> dict[str, Any]:
    """Options of a verb, those of its fits made into one; what is not given is as usual."""
    names = {field.name for field in dataclasses.fields(FitOptions)} & given.keys()
    rest = {name: value for name, value in given.items() if name not in names}
    return {**rest, "options": dataclasses.replace(usual, **{name: given[name] for name in names})}


def read_fit(path: Path) -> FitResult:
    """The fit in a file."""
    with within(path):
        return FitResult.from_json(path.read_text(encoding="utf-8"))


def together(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """One decorator for several, in the order the help lists them."""
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


def PLOT(what: str) -> Callable[..., Any]:
    """The option that draws."""
    said = f"File to draw {what} to, in the format of its ending, such as .png, .pdf or .svg."
    return click.option("--plot", type=FILE, callback=writable, help=said)


def law_option(what: str = "Law to fit", also: Sequence[str] = (), **default: Any) -> Callable[..., Any]:
    """The option that names a law."""
    shown = {"default": "lr-annealing", "show_default": True, **default}
    names = (*LAWS, *also)
    return click.option("--law", "law_name", type=Known(names), help=f"{what}: {' | '.join(names)}.", **shown)


FILE = click.Path(dir_okay=False, path_type=Path)
RUNS = click.argument("runs", type=click.Path(path_type=Path))
FIT_FILE = click.argument("fit_file", type=click.Path(path_type=Path))
LAW = law_option()
PLAN_LAW = law_option(default=None, show_default=f"the best of {', '.join(PREFERRED_LAWS)} on runs left out")
LAW_OPTIONS = click.option(
    "--law-option",
    "law_options",
    type=LAW_OPTION,
    multiple=True,
    help="Option of the law, such as decay=0.995 or warmup=as-peak; may be repeated.",
)
TRAIN = click.option(
    "--train", default="*", show_default=True, help="Runs to fit: split:LABEL, names and globs, separated by commas."
)
RESIDUAL = click.option(
    "--residual",
    type=Known(RESIDUALS),
    default="log",
    show_default=True,
    help=f"Residual of the fit: {' | '.join(RESIDUALS)}.",
)
DROP_BEFORE = click.option(
    "--drop-before", type=int, default=0, show_default=True, help="Update before which rows do not count."
)
END_WEIGHT = click.option(
    "--end-weight", type=float, default=1.0, show_default=True, help="Weight of rows in the last tenth of a run."
)
OVER_WEIGHT = click.option(
    "--over-weight", type=float, default=1.0, show_default=True, help="Weight of over-estimated rows."
)
FITTING = (LAW_OPTIONS, TRAIN, RESIDUAL, DROP_BEFORE, END_WEIGHT, OVER_WEIGHT)
fit_options = together(RUNS, LAW, *FITTING)
"""The options of every verb that fits."""
plan_options = together(RUNS, PLAN_LAW, *FITTING)
"""The same, where the runs choose the law by default."""
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
OUTPUT = click.option("-o", "--output", "target", type=FILE, callback=writable, help="File to write the JSON to.")
STEPS = click.option(
    "--total-steps", type=NUMBERS, required=True, help="Lengths of the run in updates; a range is linear."
)
PEAK = click.option("--peak-lr", type=PEAK_RATES, required=True, help="Peak rates; a range is geometric.")
RATIO = click.option(
    "--anneal-ratio",
    type=NUMBERS,
    default=SEARCHED_RATIOS,
    show_default="0.01:0.99:99",
    help="Shares of the run spent annealing; a range is linear.",
)
DECAY = click.option(
    "--decay",
    type=Names(DECAYS),
    default="linear",
    show_default=True,
    help=f"Shapes of the anneal: {', '.join(DECAYS)}.",
)
FROM_RUNS = "that of the fitted runs"
WARMUP = click.option("--warmup-steps", type=int, show_default=FROM_RUNS, help="Updates of linear warmup.")
INIT = click.option("--init-lr", type=float, show_default=FROM_RUNS, help="Rate of update 0, under a warmup.")
FINAL = click.option("--final-lr", type=float, show_default=FROM_RUNS, help="Rate the anneal ends at.")
FINALS = click.option("--final-lr", type=NUMBERS, show_default=FROM_RUNS, help="Rates the anneal ends at.")
SIZE = click.option("--model-size", type=float, help="Parameters of the target, for fits over several sizes.")
SEED = click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")


def host_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that make processes on many hosts one search, as ``cluster``."""

    @functools.wraps(command)
    def with_cluster(
        *, distributed: bool, coordinator: str | None, processes: int | None, process: int | None, **rest: Any
    ) -> None:
        cluster = hosts.Cluster(coordinator, processes, process)
        given = [f"--{name}" for name, value in cluster._asdict().items() if value is not None]
        require(distributed or not given, f"{', '.join(given)}: needs --distributed")
        command(cluster=cluster if distributed else None, **rest)

    return together(
        click.option("--distributed", is_flag=True, help="Share the work with the processes of a cluster."),
        click.option("--coordinator", metavar="HOST:PORT", help="Address of process 0."),
        click.option("--processes", type=int, help="Number of processes."),
        click.option("--process", type=int, help="Number of this process, from 0."),
    )(with_cluster)
