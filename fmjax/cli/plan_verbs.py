"""Options and help of the verbs that plan a run or follow it; their work is in ``fmjax/cli/planning.py``."""

from pathlib import Path

import click

from fmjax._names import LEVEL, PREFERRED_LAWS
from fmjax.cli.options import (
    DECAY,
    FILE,
    FINAL,
    FIT_FILE,
    FLOPS,
    FROM_RUNS,
    PEAK,
    PLAN_FITTING,
    RATIO,
    RUNS,
    SCHEDULER,
    SEED,
    STEPS,
    STEPS_OR_TOKENS,
    TARGET,
    TARGETS,
    law_option,
    writable,
)
from fmjax.cli.verbs import verb


@verb(
    "planning",
    *PLAN_FITTING,
    *STEPS_OR_TOKENS,
    FLOPS,
    PEAK,
    RATIO,
    DECAY,
    FINAL,
    *TARGETS,
    click.option(
        "--trade",
        is_flag=True,
        help="Print what each batch costs at equal tokens, and a growing one; with --total-tokens.",
    ),
    SCHEDULER,
    plot="curves, fits and loss against ratio; over batches and sizes, loss over rate and batch",
)
def recommend() -> None:
    """Recommend an annealing ratio for a planned run, from cheaper ones.

    Prints the schedule first, then for each peak rate the best ratio and the loss it is predicted to reach, both with
    90 % intervals, what to keep in mind, and the schedule as code. export writes it as a trainer's config.

    Given several batches, model sizes or lengths, or an amount of compute, it chooses peak rate, batch and ratio
    together for each size and length, and lists all choices that are as good. --trade adds what larger batches cost at
    equal tokens and the updates they save, and what a batch that doubles in place of an anneal, or beside it, costs and
    saves; --flops chooses model size and tokens as well, C = 6 N D, with an interval of both and a note where that
    reaches the end of the sizes compared. The runs must then differ in what is chosen. Such plans take minutes.

    \b
    Example:
      fmjax recommend runs.toml --total-steps 50000 --peak-lr 5e-4,1e-3,2e-3 --plot plan.png
      fmjax recommend runs.toml --total-steps 50000 --peak-lr 1e-3 --decay linear,1-sqrt -o plan.json
      fmjax recommend runs.toml --total-tokens 2e10 --tokens-per-step 2.5e5:4e6:9 --peak-lr 2e-4:4e-3:13 --trade
      fmjax recommend runs.toml --flops 1e20,1e21 --tokens-per-step 2.5e5:4e6:5 --peak-lr 2e-4:4e-3:9
    """


@verb(
    "planning",
    *PLAN_FITTING,
    click.option(
        "--against", type=click.Path(path_type=Path), help="Runs of the same cells under another loss or data."
    ),
    click.option("--samples", type=int, default=200, show_default=True, help="Bootstrap samples behind intervals."),
    SEED,
    SCHEDULER,
    plot="optima, their power laws, and regret against ratio",
)
def transfer() -> None:
    """Measure how the best annealing ratio carries over to other runs.

    To other peak rates, lengths and sizes, that is. Runs that differ in nothing but their ratio make a cell. Each
    cell's measured optimum stands beside the predicted one and beside what shorter runs alone would have chosen;
    exponents of the power laws of optima come with intervals.

    \b
    Example:
      fmjax transfer runs.toml --plot transfer.png
    """


@verb(
    "planning",
    FIT_FILE,
    STEPS,
    PEAK,
    click.option("--knots", type=int, help="Points in which straight pieces meet; by default any schedule."),
    click.option("--final-lr", type=float, show_default=FROM_RUNS, help="Lowest rate allowed."),
    *TARGET,
    click.option("--csv", type=FILE, callback=writable, help="File to write the best schedule to: step,lr."),
    plot="the schedules beside WSD and cosine",
)
def optimize() -> None:
    """Find the best of all schedules that never rise after warmup.

    The best is that of least predicted final loss. Prints its loss beside those of the best WSD, cosine and constant
    schedules, and the schedule as code.

    \b
    Example:
      fmjax optimize fit.json --total-steps 24000 --peak-lr 3e-4 --csv schedule.csv
    """


@verb(
    "planning",
    RUNS,
    click.option("--run", "name", required=True, help="The run in progress; its schedule is the planned one."),
    click.option("--prior", type=FILE, help="What fmjax fit -o wrote; by default --law is fitted to the other runs."),
    law_option("Law to fit to the other runs", default=PREFERRED_LAWS[0]),
    click.option("--train", default="*", show_default=True, help="Other runs to fit: split:LABEL, names and globs."),
    click.option(
        "--level", type=float, default=LEVEL, show_default=True, help="Probability that intervals are to cover."
    ),
    plot="the curve and the forecast losses",
)
def forecast() -> None:
    """Forecast the final loss of a run in progress.

    Prints the loss forecast for the planned schedule, then those of others that go on from here, such as to anneal now,
    all with intervals. A law fitted to earlier runs says how the loss goes on; the rows so far correct it. Noise that
    the run has in common with the runs fitted, as they saw the same batches, is taken out.

    \b
    Example:
      fmjax forecast runs.toml --run big --prior fit.json
    """


@verb("planning", plot="curves, fits and loss against ratio")
def demo() -> None:
    """Run the main job on the curves that ship with fmjax.

    Fits some of them and predicts the others, then recommends a schedule for a run twice as long, as recommend does.

    \b
    Example:
      fmjax demo --plot demo.png
    """
