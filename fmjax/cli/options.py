"""Options that verbs share. Nothing here imports JAX, see ``fmjax.cli.verbs``."""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import click

from fmjax._names import DECAY_NAMES, LAW_NAMES, PREFERRED_LAWS, RESIDUALS
from fmjax.cli.parameters import BATCH_SIZES, GEOMETRIC, LAW_OPTION, NUMBERS, ONE_BATCH_SIZE, Known, Names

Adds: TypeAlias = Callable[[Callable[..., None]], Callable[..., None]]
"""A decorator that adds an option to a verb."""


def writable(ctx: click.Context, param: click.Parameter, target: Path | None) -> Path | None:
    """Refuses a file that could not be written, before any work is done."""
    if target is not None and not (target.parent.is_dir() and os.access(target.parent, os.W_OK)):
        raise click.BadParameter(f"{target}: cannot be written, no writable folder {target.parent}")
    return target


def together(*options: Adds) -> Adds:
    """One decorator for several, in the order the help lists them."""
    return lambda command: functools.reduce(lambda made, option: option(made), reversed(options), command)


def PLOT(what: str) -> Adds:
    """The option that draws."""
    said = f"File to draw {what} to, in the format of its ending, such as .png, .pdf or .svg."
    return click.option("--plot", type=FILE, callback=writable, help=said)


def one_of(name: str, names: Sequence[str], what: str) -> Adds:
    """The option that takes one of some names, by default the first."""
    said = f"{what}: {' | '.join(names)}."
    return click.option(name, type=Known(names), default=names[0], show_default=True, help=said)


def law_option(what: str = "Law to fit", also: Sequence[str] = (), default: str | None = "lr-annealing") -> Adds:
    """The option that names a law; with no default the best of several on the runs."""
    names = (*LAW_NAMES, *also)
    shown = True if default else f"the best of {', '.join(PREFERRED_LAWS)} on runs left out"
    said = f"{what}: {' | '.join(names)}."
    return click.option("--law", "law_name", type=Known(names), help=said, default=default, show_default=shown)


FILE = click.Path(dir_okay=False, path_type=Path)
RUNS = click.argument("runs", type=click.Path(path_type=Path))
FIT_FILE = click.argument("fit_file", type=click.Path(path_type=Path))
LAW = law_option()
PLAN_LAW = law_option(default=None)
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
RESIDUAL = one_of("--residual", RESIDUALS, "Residual of the fit")
DROP_BEFORE = click.option(
    "--drop-before", type=int, default=0, show_default=True, help="Update before which rows do not count."
)
END_WEIGHT = click.option(
    "--end-weight", type=float, default=1.0, show_default=True, help="Weight of rows in the last tenth of a run."
)
OVER_WEIGHT = click.option(
    "--over-weight", type=float, default=1.0, show_default=True, help="Weight of over-estimated rows."
)
PRIOR = click.option(
    "--prior",
    metavar="FILE|none",
    show_default="the law's own, for runs of several sizes or batches, and where runs alone leave it open",
    help="Prior on the law's exponents: what fmjax prior -o wrote, or none.",
)
ROWS = (RESIDUAL, DROP_BEFORE, END_WEIGHT, OVER_WEIGHT)
"""What rows count."""
FITTING = (LAW_OPTIONS, TRAIN, *ROWS, PRIOR)
"""How to fit, beside the law."""
PLAN_FITTING = (RUNS, PLAN_LAW, *FITTING)
"""What verbs take that fit in order to plan: the runs choose the law by default."""
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
STEPS = click.option(
    "--total-steps", type=NUMBERS, required=True, help="Lengths of the run in updates; a range is linear."
)
STEPS_OR_TOKENS = (
    click.option("--total-steps", type=NUMBERS, help="Lengths of the run in updates; a range is linear."),
    click.option(
        "--total-tokens",
        type=GEOMETRIC,
        help="Lengths in tokens, in place of updates, which then follow from the batch; a range is geometric.",
    ),
)
PEAK = click.option("--peak-lr", type=GEOMETRIC, required=True, help="Peak rates; a range is geometric.")
RATIO = click.option(
    "--anneal-ratio",
    type=NUMBERS,
    default="0.01:0.99:99",
    show_default="0.01:0.99:99",
    help="Shares of the run spent annealing; a range is linear.",
)
DECAY = click.option(
    "--decay",
    type=Names(DECAY_NAMES),
    default="linear",
    show_default=True,
    help=f"Shapes of the anneal: {', '.join(DECAY_NAMES)}.",
)
FLOPS = click.option(
    "--flops",
    type=GEOMETRIC,
    help="Operations of training, C = 6 N D, in place of a length: model size N and tokens D are chosen too.",
)
FROM_RUNS = "that of the fitted runs"
WARMUP = click.option("--warmup-steps", type=int, show_default=FROM_RUNS, help="Updates of linear warmup.")
INIT = click.option("--init-lr", type=float, show_default=FROM_RUNS, help="Rate of update 0, under a warmup.")
FINAL = click.option("--final-lr", type=float, show_default=FROM_RUNS, help="Rate the anneal ends at.")
FINALS = click.option("--final-lr", type=NUMBERS, show_default=FROM_RUNS, help="Rates the anneal ends at.")
SIZE = click.option("--model-size", type=float, help="Parameters of the target, for fits over several sizes.")
BATCH = click.option(
    "--tokens-per-step",
    type=ONE_BATCH_SIZE,
    help="Tokens an update, for fits over several batches, or 65536@0,131072@2000 where it changes.",
)
FAMILY = click.option("--family", help="Family of models of the target, for fits over several; see runs.toml.")
TARGET = (WARMUP, INIT, SIZE, BATCH, FAMILY)
"""What a plan is for, beside its length and peak rate."""
SIZES = click.option(
    "--model-size", type=GEOMETRIC, help="Parameters of the target, for fits over several sizes; a range is geometric."
)
BATCHES = click.option(
    "--tokens-per-step",
    type=BATCH_SIZES,
    help="Tokens an update, for fits over several batches: a geometric range, or 65536@0,131072@2000 where it changes.",
)
TARGETS = (WARMUP, INIT, SIZES, BATCHES, FAMILY)
"""The same, where several sizes and batches can be asked for at once."""
GRID = (*STEPS_OR_TOKENS, PEAK, RATIO, DECAY, FINALS, *TARGETS)
"""A grid of schedules."""
SEED = click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
OUTPUT = click.option("-o", "--output", "target", type=FILE, callback=writable, help="File to write the JSON to.")
SCHEDULER = click.option(
    "--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers compute, such as tcp://HOST:8786; see search."
)
SHARE_OF = click.option("--share", metavar="I/N", help="Compute only share I of N into the folder, and end.")
